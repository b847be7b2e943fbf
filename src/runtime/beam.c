#include "runtime/beam.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"

typedef struct candidate {
    float score;
    int32_t parent, token;
    bool ends;
} candidate;

typedef struct link {
    int32_t parent, token; /* parent: slot in the row of the step before */
    float sum;
} link;

typedef struct group {
    int32_t first, n;                          /* its part of `running` */
    int32_t n_kept;                            /* hypotheses */
    spey_beam_hypothesis kept[SPEY_BEAMS_MAX]; /* best first */
} group;

struct spey_beam {
    spey_beam_options o;
    int32_t group_width;
    int32_t n_candidates_max; /* of one group */
    int32_t n_steps;
    int32_t n_running;
    int32_t n_chosen, chosen[SPEY_BEAMS_MAX]; /* tokens of this step, of all groups so far */
    spey_beam_running running[SPEY_BEAMS_MAX], next[SPEY_BEAMS_MAX];
    candidate *candidates; /* [n_candidates_max], best first */
    link *links;           /* [steps_max][width]: running beams after each step */
    group *groups;
};

/* ---- life ---- */

spey_status spey_beam_check(const spey_beam_options *o)
{
    if (o->width < 1 || o->width > SPEY_BEAMS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "beams is %d, expected 1 to %d", o->width, SPEY_BEAMS_MAX);
    if (o->groups < 1 || o->width % o->groups)
        return SPEY_FAIL(SPEY_INVALID, "beam_groups is %d, expected a divisor of the %d beams",
                         o->groups, o->width);
    if (!(o->diversity_penalty >= 0 && o->diversity_penalty <= 1e6))
        return SPEY_FAIL(SPEY_INVALID, "diversity_penalty is %g, expected 0 to 1e6",
                         o->diversity_penalty);
    if (!(fabs(o->length_penalty) <= 100))
        return SPEY_FAIL(SPEY_INVALID, "length_penalty is %g, expected -100 to 100",
                         o->length_penalty);
    if (o->early_stopping < SPEY_EARLY_STOPPING_OFF ||
        o->early_stopping > SPEY_EARLY_STOPPING_NEVER)
        return SPEY_FAIL(SPEY_INVALID, "early_stopping is %d, expected %d to %d",
                         (int)o->early_stopping, SPEY_EARLY_STOPPING_OFF,
                         SPEY_EARLY_STOPPING_NEVER);
    return SPEY_OK;
}

spey_status spey_beam_new(const spey_beam_options *options, spey_beam **out)
{
    *out = NULL;
    SPEY_TRY(spey_beam_check(options));
    SPEY_ASSERT(options->steps_max >= 1);
    SPEY_ASSERT(options->vocab_size >= 1);
    spey_beam *b = spey_new(SPEY_PURPOSE_RUNTIME, spey_beam);
    if (!b) return SPEY_NOMEM;
    b->o = *options;
    b->group_width = options->width / options->groups;
    /* So many that `group_width` are left when every beam's likeliest tokens all end it. */
    int32_t per_beam = options->n_ends < 1 ? 2 : 1 + options->n_ends;
    b->n_candidates_max =
        (per_beam < SPEY_BEAM_CANDIDATES_MAX ? per_beam : SPEY_BEAM_CANDIDATES_MAX) *
        b->group_width;
    b->candidates = spey_new_array(SPEY_PURPOSE_RUNTIME, candidate, b->n_candidates_max);
    b->links =
        spey_new_array(SPEY_PURPOSE_RUNTIME, link, (int64_t)options->steps_max * options->width);
    b->groups = spey_new_array(SPEY_PURPOSE_RUNTIME, group, options->groups);
    if (!b->candidates || !b->links || !b->groups) {
        spey_beam_free(b);
        return SPEY_NOMEM;
    }
    for (int32_t g = 0; g < options->groups; g++) {
        b->groups[g] = (group){ .first = g, .n = 1 };
        b->running[g] = (spey_beam_running){ -1, -1, 0 };
    }
    b->n_running = options->groups;
    *out = b;
    return SPEY_OK;
}

void spey_beam_free(spey_beam *b)
{
    if (!b) return;
    spey_free(b->candidates);
    spey_free(b->links);
    spey_free(b->groups);
    spey_free(b);
}

const spey_beam_running *spey_beam_get_running(const spey_beam *b, int32_t *n)
{
    *n = b->n_running;
    return b->running;
}

/* ---- candidates ---- */

/* What `token` costs after the choices of earlier groups. */
static float diversity_cost(const spey_beam *b, int32_t token)
{
    int32_t times = 0;
    for (int32_t i = 0; i < b->n_chosen; i++)
        times += b->chosen[i] == token;
    return (float)(b->o.diversity_penalty * times);
}

static int32_t insert_candidate(spey_beam *b, int32_t n, candidate c)
{
    int32_t at = n;
    while (at > 0 && b->candidates[at - 1].score < c.score)
        at--;
    if (n < b->n_candidates_max) n++;
    memmove(&b->candidates[at + 1], &b->candidates[at], (size_t)(n - 1 - at) * sizeof c);
    b->candidates[at] = c;
    return n;
}

/* The best continuations of one group. */
static int32_t find_candidates(spey_beam *b, const group *g, const float *const *rows)
{
    int32_t n = 0;
    for (int32_t i = g->first; i < g->first + g->n; i++) {
        float base = b->running[i].score, worst = -INFINITY;
        for (int32_t token = 0; token < b->o.vocab_size; token++) {
            float score = rows[i][token];
            if (n == b->n_candidates_max) worst = b->candidates[n - 1].score;
            if (!(base + score > worst))
                continue; /* a penalty only lowers it; NaN, too, is banned */
            if (b->o.groups > 1) score -= diversity_cost(b, token);
            score += base;
            if (score > worst) n = insert_candidate(b, n, (candidate){ score, i, token, false });
        }
    }
    return n;
}

/* ---- hypotheses ---- */

static float length_score(const spey_beam *b, float sum, int32_t length)
{
    return sum / (float)pow(length, b->o.length_penalty);
}

static bool is_full(const spey_beam *b, const group *g)
{
    return g->n_kept == b->group_width;
}

static void keep(spey_beam *b, group *g, int32_t parent, int32_t token, float sum)
{
    int32_t n_ids = b->n_steps + 1;
    spey_beam_hypothesis h = { .score = length_score(b, sum, n_ids),
                               .sum = sum,
                               .n_ids = n_ids,
                               .parent = parent,
                               .token = token };
    int32_t at = g->n_kept;
    while (at > 0 && g->kept[at - 1].score < h.score)
        at--;
    if (at == b->group_width) return;
    if (!is_full(b, g)) g->n_kept++;
    memmove(&g->kept[at + 1], &g->kept[at], (size_t)(g->n_kept - 1 - at) * sizeof h);
    g->kept[at] = h;
}

/* Could a running beam still beat the worst hypothesis? `best` is the group's best sum. */
static bool may_improve(const spey_beam *b, const group *g, float best)
{
    if (!is_full(b, g)) return true;
    bool at_the_end = b->o.early_stopping == SPEY_EARLY_STOPPING_NEVER && b->o.length_penalty > 0;
    float hoped = length_score(b, best, at_the_end ? b->o.steps_max : b->n_steps + 1);
    return hoped > g->kept[g->n_kept - 1].score;
}

/* ---- a step ---- */

/* Sort the candidates of a group into hypotheses and beams that run on, from next[n_next]; returns how many run. */
static int32_t choose(spey_beam *b, group *g, int32_t n_candidates, int32_t n_next)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_candidates && n < b->group_width; i++) {
        const candidate *c = &b->candidates[i];
        if (!c->ends)
            b->next[n_next + n++] = (spey_beam_running){ c->parent, c->token, c->score };
        else if (i < b->group_width)
            keep(b, g, c->parent, c->token, c->score);
    }
    return n;
}

/* Is the search of a group over after a choice of n beams? */
static bool is_over(const spey_beam *b, const group *g, int32_t n_next, int32_t n)
{
    if (n == 0 || (is_full(b, g) && b->o.early_stopping == SPEY_EARLY_STOPPING_ON)) return true;
    /* The scorer of diverse beams asks the best candidate, the other one the best that runs on. */
    float best = b->o.groups > 1 ? b->candidates[0].score : b->next[n_next].score;
    return !may_improve(b, g, best);
}

/* No step follows: what would run on ends here. Of diverse beams, groups that are over take no more. */
static void end_all(spey_beam *b, group *g, int32_t n_next, int32_t n)
{
    if (b->o.groups > 1 && is_over(b, g, n_next, n)) return;
    for (int32_t i = n_next; i < n_next + n; i++)
        keep(b, g, b->next[i].parent, b->next[i].token, b->next[i].score);
}

/* Links of this step, and where the groups' beams lie in `running`. */
static void commit(spey_beam *b, int32_t n_next)
{
    link *row = b->links + (int64_t)b->n_steps * b->o.width;
    for (int32_t i = 0; i < n_next; i++)
        row[i] = (link){ b->next[i].parent, b->next[i].token, b->next[i].score };
    memcpy(b->running, b->next, (size_t)n_next * sizeof *b->next);
    b->n_running = n_next;
    b->n_steps++;
}

void spey_beam_step(spey_beam *b, const float *const *rows, spey_beam_ends_fn ends, void *user)
{
    SPEY_ASSERT(b->n_steps < b->o.steps_max);
    bool last = b->n_steps + 1 == b->o.steps_max;
    int32_t n_next = 0;
    b->n_chosen = 0;
    for (int32_t i = 0; i < b->o.groups; i++) {
        group *g = &b->groups[i];
        if (g->n == 0) continue;
        int32_t n = find_candidates(b, g, rows);
        for (int32_t k = 0; k < n; k++) {
            candidate *c = &b->candidates[k];
            c->ends = ends(user, c->parent, c->token);
        }
        int32_t n_runs = choose(b, g, n, n_next);
        for (int32_t k = n_next; k < n_next + n_runs; k++)
            b->chosen[b->n_chosen++] = b->next[k].token;
        if (last) end_all(b, g, n_next, n_runs);
        g->first = n_next;
        g->n = !last && is_over(b, g, n_next, n_runs) ? 0 : n_runs;
        n_next += g->n;
    }
    commit(b, last ? 0 : n_next);
}

/* ---- results ---- */

int32_t spey_beam_best(const spey_beam *b, int32_t n_max, spey_beam_hypothesis *out)
{
    int32_t n = 0;
    int32_t next[SPEY_BEAMS_MAX] = { 0 }; /* of each group's sorted list */
    while (n < n_max) {
        int32_t best = -1;
        for (int32_t i = 0; i < b->o.groups; i++) {
            const group *g = &b->groups[i];
            if (next[i] == g->n_kept) continue;
            if (best < 0 || g->kept[next[i]].score > b->groups[best].kept[next[best]].score)
                best = i;
        }
        if (best < 0) break;
        out[n++] = b->groups[best].kept[next[best]++];
    }
    return n;
}

void spey_beam_ids(const spey_beam *b, const spey_beam_hypothesis *h, int32_t *ids, float *sums)
{
    int32_t at = h->n_ids - 1, slot = h->parent;
    sums[at] = h->sum;
    ids[at--] = h->token;
    for (int32_t step = h->n_ids - 2; step >= 0; step--) {
        const link *l = &b->links[(int64_t)step * b->o.width + slot];
        sums[at] = l->sum;
        ids[at--] = l->token;
        slot = l->parent;
    }
}
