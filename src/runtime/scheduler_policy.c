/* Whether a waiting request may begin.
 *
 * GUARANTEED_NO_EVICT: nobody who runs is ever stopped for want of blocks. A request is admitted when what all need at
 * their longest fits; else when the peak over future time of what all hold together does. Those that decode get one token
 * a step until their limits, so their lengths at each coming step are known; those that still compute their prompts are
 * counted at their longest throughout.
 *
 * Requests that begin together also grow together, and then the pool fits few of them. So when more come than it holds,
 * admissions beyond half of it are paced, at 0.9 of the rate at which a pool of evenly spread lengths frees itself.
 *
 * MAX_UTILIZATION: what is known of a request must fit what is free now. STATIC_BATCH: a batch begins when the last one has
 * ended. */
#include <string.h>

#include "runtime/scheduler_impl.h"

/* Groups that keep every token: what a sequence holds of them grows until its end. */
static bool grows(const spey_kv_group_limits *group)
{
    return group->kind == SPEY_KV_TOKENS && !group->window;
}

/* The smallest pool of those, or -1. */
static int tightest(const spey_kv_limits *kv)
{
    int found = -1;
    for (int g = 0; g < kv->n_groups; g++)
        if (grows(&kv->groups[g]) &&
            (found < 0 || kv->groups[g].n_blocks < kv->groups[found].n_blocks))
            found = g;
    return found;
}

static bool longest_fits(const spey_planning *p, const spey_job *job, bool growing_too)
{
    const spey_kv_limits *kv = &p->s->limits.kv;
    for (int g = 0; g < kv->n_groups; g++)
        if (growing_too || !grows(&kv->groups[g]))
            if (p->claimed[g] + spey_scheduler_blocks(p->s, job, g, job->n_max) >
                kv->groups[g].n_blocks)
                return false;
    return true;
}

/* ---- the future peak ---- */

static spey_demand demand_of(const spey_scheduler *s, const spey_entry *e, int g)
{
    int64_t block = s->limits.kv.block_tokens;
    if (!spey_scheduler_decodes(s, e))
        return (spey_demand){ UINT32_MAX, 0,
                              spey_scheduler_blocks(s, &e->job, g, e->job.n_max) * block };
    int64_t known = s->sequences[e->first].n_known, shared = e->job.n_prompt / block * block;
    /* The last block of each may be almost empty. */
    return (spey_demand){ (uint32_t)(e->job.n_max - known), e->n_live,
                          e->n_live * (known + block - 1) - (e->n_live - 1) * shared };
}

/* By `left`, ascending: a radix sort, as this runs between steps. The result is in `a`. */
static void sort_demands(spey_demand *a, spey_demand *b, int32_t n)
{
    for (int shift = 0; shift < 32; shift += 8) {
        int32_t starts[257] = { 0 };
        for (int32_t i = 0; i < n; i++)
            starts[1 + (a[i].left >> shift & 255)]++;
        for (int i = 0; i < 256; i++)
            starts[i + 1] += starts[i];
        for (int32_t i = 0; i < n; i++)
            b[starts[a[i].left >> shift & 255]++] = a[i];
        memcpy(a, b, (size_t)n * sizeof *a);
    }
}

/* Tokens that the requests which stay hold at most at one time. */
static int64_t future_peak(const spey_planning *p, int g)
{
    struct spey_schedule_scratch *scratch = p->out->scratch;
    const spey_scheduler *s = p->s;
    for (int32_t i = 0; i < p->n_kept; i++)
        scratch->demands[i] = demand_of(s, &s->entries[s->running[i]], g);
    sort_demands(scratch->demands, scratch->sorted, p->n_kept);
    int64_t peak = 0, base = 0, growth = 0;
    for (int32_t i = p->n_kept - 1; i >= 0; i--) {
        const spey_demand *d = &scratch->demands[i];
        base += d->base;
        growth += d->growth;
        /* Just before those with this many steps left end. */
        int64_t then = base + (growth ? growth * (int64_t)d->left : 0);
        peak = then > peak ? then : peak;
    }
    return peak;
}

static bool peak_fits(spey_planning *p, const spey_job *job)
{
    const spey_kv_limits *kv = &p->s->limits.kv;
    int g = tightest(kv);
    if (g < 0) return true;
    if (p->peak < 0) /* those that this plan has admitted count in full */
        p->peak = future_peak(p, g) + (p->claimed[g] - p->s->claimed[g]) * kv->block_tokens;
    int64_t more = spey_scheduler_blocks(p->s, job, g, job->n_max) * kv->block_tokens;
    return p->peak + more <= (int64_t)kv->groups[g].n_blocks * kv->block_tokens;
}

/* ---- pacing ---- */

/* As many requests as may run, of the average size, do not fit. */
static bool is_contended(const spey_scheduler *s, int g)
{
    int64_t at_once =
        s->load.sequences < s->limits.sequences_max ? s->load.sequences : s->limits.sequences_max;
    return s->load.blocks[g] * at_once > s->limits.kv.groups[g].n_blocks * s->load.sequences;
}

double spey_policy_credit(const spey_scheduler *s)
{
    int g = tightest(&s->limits.kv);
    if (g < 0 || !s->load.tickets || s->load.output_tokens <= 0) return 1;
    double n = (double)s->load.tickets, output = (double)s->load.output_tokens / n;
    double pool = (double)s->limits.kv.groups[g].n_blocks * s->limits.kv.block_tokens;
    double steps = output * n / (double)s->load.sequences; /* that one request takes */
    double pace = 0.9 * pool / ((double)s->load.prompt_tokens / n + output / 2) / steps;
    return s->credit + pace < 1 + pace ? s->credit + pace : 1 + pace;
}

static bool is_too_soon(const spey_planning *p)
{
    int g = tightest(&p->s->limits.kv);
    return g >= 0 && p->out->scratch->credit < 1 && is_contended(p->s, g) &&
           p->claimed[g] * 2 > p->s->limits.kv.groups[g].n_blocks;
}

/* ---- the policies ---- */

/* Two steps of everybody's growth stay free, so that who is admitted is not paused at once. */
static bool fits_now(const spey_planning *p, const spey_job *job, int64_t n_tokens)
{
    const spey_kv_limits *kv = &p->s->limits.kv;
    int64_t spare = p->sequences ? 1 + (int64_t)p->sequences * 2 / kv->block_tokens : 0;
    for (int g = 0; g < kv->n_groups; g++)
        if (spey_scheduler_blocks(p->s, job, g, n_tokens + 1) + p->owed[g] +
                (grows(&kv->groups[g]) ? spare : 0) >
            p->room[g])
            return false;
    return true;
}

bool spey_policy_admits(spey_planning *p, const spey_job *job, int64_t n_tokens)
{
    if (!p->sequences) return true; /* submit saw to it that it fits alone */
    switch (p->s->limits.policy) {
    case SPEY_STATIC_BATCH: return p->n_kept == 0 && longest_fits(p, job, true);
    case SPEY_MAX_UTILIZATION: return fits_now(p, job, n_tokens);
    case SPEY_GUARANTEED_NO_EVICT: break;
    }
    if (is_too_soon(p)) return false;
    return longest_fits(p, job, true) || (longest_fits(p, job, false) && peak_fits(p, job));
}

void spey_policy_admitted(spey_planning *p, const spey_job *job, int64_t n_tokens)
{
    const spey_kv_limits *kv = &p->s->limits.kv;
    int tight = tightest(kv);
    for (int g = 0; g < kv->n_groups; g++) {
        p->claimed[g] += spey_scheduler_blocks(p->s, job, g, job->n_max);
        p->owed[g] += spey_scheduler_blocks(p->s, job, g, n_tokens + 1);
    }
    if (p->peak >= 0)
        p->peak += spey_scheduler_blocks(p->s, job, tight, job->n_max) * kv->block_tokens;
    p->sequences += job->width;
    double *credit = &p->out->scratch->credit;
    if (tight >= 0 && is_contended(p->s, tight)) *credit = *credit >= 1 ? *credit - 1 : 0;
}
