#include "simulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/status.h"
#include "runtime/kv_file.h"
#include "runtime/scheduler.h"

enum {
    VOCAB = 64,
    REQUESTS_MAX = 48,
    TOKENS_MAX = 160, /* of a sequence */
    WIDTH_MAX = 5,
    SEQUENCES_MAX = 10,
    QUEUE_MAX = 12,
    STEPS_MAX = 20000,
    COPIES_MAX = 8192,
};

typedef enum sim_end { GOING, BY_EOS, BY_LENGTH, BY_CANCEL, BY_TIMEOUT } sim_end;

typedef struct sim_request {
    int32_t n_prompt, n_max, width;
    bool beams, all_rows;
    int32_t eos_one_in; /* a token is the last one in so many cases; 0: never */
    int32_t priority, cancel_step;
    uint64_t tenant, deadline_ns;
    sim_setting setting;
    spey_kv_retention retention[2];
    int n_retention;
    spey_ticket ticket; /* -1: not in the scheduler */
    int32_t ids[WIDTH_MAX][TOKENS_MAX];
    int32_t n[WIDTH_MAX];
    sim_end end[WIDTH_MAX];
    int32_t n_ends, n_superfluous; /* items that were computed after its end was known */
    bool by_host; /* its tokens are chosen from rows of logits: nobody plans ahead of them */
    bool rows_seen[TOKENS_MAX];
} sim_request;

/* A step under way. */
typedef struct sim_flight {
    spey_schedule schedule;
    spey_kv_copy copies[COPIES_MAX];
    int64_t n_copies;
    sim_tables tables[SEQUENCES_MAX];
    int32_t ids[SEQUENCES_MAX][TOKENS_MAX]; /* by item, from the sequence's first token on */
    int32_t
        from_row[SEQUENCES_MAX];  /* which item of the step before gives the last id; -1: known */
    uint64_t rows[SEQUENCES_MAX]; /* of the last token of each item, once computed */
    bool computed;
} sim_flight;

typedef struct sim_world {
    bool ahead;
    sim_flight flights[2];
    int32_t n_launched, n_taken;
    uint64_t seed;
    spey_rng rng;
    spey_scheduler_limits limits;
    spey_scheduler *scheduler;
    spey_schedule again;
    spey_kv_cache *kv;
    sim_memory memory;
    uint64_t file_bytes; /* of the tier below host memory; 0: none */
    char path[64];
    sim_request requests[REQUESTS_MAX];
    int32_t n_requests, n_arrived, n_done;
    uint64_t now_ns;
    int32_t step, quiet; /* steps without a token */
    spey_growth growths[SEQUENCES_MAX];
    sim_totals *totals;
    char *error;
    int error_bytes;
} sim_world;

static bool fail(sim_world *w, const char *format, ...) SPEY_PRINTF(2, 3);
static bool fail(sim_world *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = snprintf(w->error, (size_t)w->error_bytes, "step %d: ", w->step);
    vsnprintf(w->error + n, (size_t)(w->error_bytes - n), format, args);
    va_end(args);
    return false;
}

static int32_t below(sim_world *w, int32_t n)
{
    return (int32_t)spey_rng_below(&w->rng, (uint64_t)n);
}

static int32_t between(sim_world *w, int32_t low, int32_t high)
{
    return low + below(w, high - low + 1);
}

static bool one_in(sim_world *w, int32_t n)
{
    return below(w, n) == 0;
}

/* ---- what a request puts out ---- */

/* Grow the sequences by one token each, from their rows: an independent one by its index, beams with parents among all. True:
 * the caches change hands. */
static void choose(const sim_request *r, const uint64_t *rows, int32_t i, int32_t *parent,
                   int32_t *token)
{
    *parent = i;
    if (r->beams && r->n[0] > r->n_prompt) {
        uint64_t all = 0;
        for (int32_t k = 0; k < r->width; k++)
            all = sim_hash(all, rows[k]);
        *parent = (int32_t)(sim_hash(all, (uint64_t)i) % (uint64_t)r->width);
    }
    *token = (int32_t)(sim_hash(rows[*parent], (uint64_t)i) % VOCAB);
}

static bool is_last(const sim_request *r, const int32_t *ids, int32_t n)
{
    uint64_t h = sim_hash((uint64_t)ids[n - 1], (uint64_t)(ids[n / 2] + n));
    return r->eos_one_in && h % (uint64_t)r->eos_one_in == 0;
}

/* One round for all live sequences; parents[] are filled. */
static void grow(sim_request *r, const uint64_t *rows, int32_t *parents)
{
    int32_t before[WIDTH_MAX][TOKENS_MAX], tokens[WIDTH_MAX];
    memcpy(before, r->ids, sizeof before);
    bool first = r->n[0] == r->n_prompt && r->end[0] == GOING;
    for (int32_t i = 0; i < r->width; i++)
        if (r->end[i] == GOING) choose(r, rows, i, &parents[i], &tokens[i]);
    for (int32_t i = 0; i < r->width; i++) {
        if (r->end[i] != GOING) continue;
        if (r->n[i] == r->n_max) { /* only the prompt was asked for */
            r->end[i] = BY_LENGTH;
            continue;
        }
        memcpy(r->ids[i], before[parents[i]], sizeof before[i]);
        r->ids[i][r->n[i]++] = tokens[i];
        if (first) parents[i] = 0;
        if (r->n[i] == r->n_max) r->end[i] = BY_LENGTH;
        if (!r->beams && is_last(r, r->ids[i], r->n[i])) r->end[i] = BY_EOS;
    }
}

static bool lives(const sim_request *r)
{
    for (int32_t i = 0; i < r->width; i++)
        if (r->end[i] == GOING) return true;
    return false;
}

/* The request alone, without scheduler or cache: `steps` rounds, or to its end. */
static void run_alone(const spey_kv_limits *limits, sim_request *r)
{
    for (int32_t i = 0; i < r->width; i++) {
        r->n[i] = r->n_prompt;
        r->end[i] = GOING;
    }
    while (lives(r)) {
        uint64_t rows[WIDTH_MAX];
        int32_t parents[WIDTH_MAX];
        for (int32_t i = 0; i < r->width; i++)
            if (r->end[i] == GOING) rows[i] = sim_row(limits, &r->setting, r->ids[i], r->n[i] - 1);
        grow(r, rows, parents);
    }
}

/* The outputs are those of the request alone, as far as they go. */
static bool check_output(sim_world *w, const sim_request *r)
{
    static sim_request alone;
    alone = *r;
    run_alone(&w->limits.kv, &alone);
    bool whole = true;
    for (int32_t i = 0; i < r->width; i++)
        whole = whole && (r->end[i] == BY_EOS || r->end[i] == BY_LENGTH);
    for (int32_t i = 0; i < r->width; i++) {
        bool same = r->end[i] == alone.end[i] ? r->n[i] == alone.n[i] : r->n[i] <= alone.n[i];
        if (!same || (whole && r->end[i] != alone.end[i]))
            return fail(w, "request %d, sequence %d: %d tokens and end %d, alone %d and %d",
                        (int)(r - w->requests), i, r->n[i], r->end[i], alone.n[i], alone.end[i]);
        /* Beams that were cut short are elsewhere now than at their ends. */
        if ((!r->beams || whole) &&
            memcmp(r->ids[i], alone.ids[i], sizeof(int32_t) * (size_t)r->n[i]))
            return fail(w, "request %d, sequence %d: other tokens than alone",
                        (int)(r - w->requests), i);
    }
    for (int32_t p = 0; whole && r->all_rows && p < r->n_prompt; p++)
        if (!r->rows_seen[p])
            return fail(w, "request %d: no row for its token %d", (int)(r - w->requests), p);
    return true;
}

/* ---- the world ---- */

static void draw_groups(sim_world *w, spey_kv_limits *kv, int32_t longest)
{
    int64_t bt = kv->block_tokens, blocks = (longest + bt - 1) / bt;
    kv->groups[0] = (spey_kv_group_limits){ .kind = SPEY_KV_TOKENS };
    /* From barely one longest sequence to room for all. */
    int64_t most = one_in(w, 3) ? blocks * SEQUENCES_MAX : blocks * 3;
    kv->groups[0].n_blocks = (int32_t)(blocks + below(w, (int32_t)(most - blocks + 1)));
    kv->n_groups = 1;
    if (one_in(w, 3)) {
        spey_kv_group_limits *window = &kv->groups[kv->n_groups++];
        *window = (spey_kv_group_limits){ .kind = SPEY_KV_TOKENS, .window = between(w, 1, 40) };
        window->n_blocks = (int32_t)spey_kv_window_blocks(kv, window->window, kv->sequences_max);
        if (window->n_blocks > kv->groups[0].n_blocks) window->n_blocks = kv->groups[0].n_blocks;
    }
    if (!kv->reuse && one_in(w, 3)) { /* from room for one input to room for all */
        kv->cross_tokens_max = between(w, 1, 60);
        int32_t one = (int32_t)((kv->cross_tokens_max + bt - 1) / bt);
        kv->groups[kv->n_groups++] =
            (spey_kv_group_limits){ .kind = SPEY_KV_CROSS,
                                    .n_blocks = between(w, one, one * kv->sequences_max) };
    }
    if (one_in(w, 4))
        kv->groups[kv->n_groups++] =
            (spey_kv_group_limits){ .kind = SPEY_KV_STATE, .n_blocks = kv->sequences_max };
}

/* From two slots to more than all blocks that there will be. */
static void draw_file(sim_world *w)
{
    bool kept = w->limits.kv.host_blocks > 0;
    for (int g = 0; g < w->limits.kv.n_groups; g++)
        kept = kept && w->limits.kv.groups[g].kind == SPEY_KV_TOKENS;
    if (kept && one_in(w, 2))
        w->file_bytes = (uint64_t)between(w, 6000, one_in(w, 2) ? 10000 : 1000000);
}

static void draw_limits(sim_world *w)
{
    static const int32_t block_sizes[] = { 1, 2, 4, 8, 16 };
    int32_t longest = between(w, 8, TOKENS_MAX - 1), sequences = between(w, 1, SEQUENCES_MAX);
    w->limits = (spey_scheduler_limits){ .policy = (spey_policy)below(w, 3),
                                         .sequences_max = sequences,
                                         .queue_max = between(w, 1, QUEUE_MAX),
                                         .step_tokens_max = sequences + below(w, 64),
                                         .step_outputs_max = sequences + below(w, 8),
                                         .step_prefill_max = one_in(w, 3) ? between(w, 1, 16) : 0 };
    w->limits.kv = (spey_kv_limits){ .sequences_max = sequences,
                                     .sequence_tokens_max = longest,
                                     .step_tokens_max = (1 + w->ahead) * w->limits.step_tokens_max,
                                     .block_tokens = block_sizes[below(w, 5)] };
    w->limits.ahead = w->ahead;
    w->limits.kv.reuse = !one_in(w, 3);
    if (w->limits.kv.reuse && one_in(w, 2)) w->limits.kv.host_blocks = between(w, 1, 20);
    draw_groups(w, &w->limits.kv, longest);
    draw_file(w);
}

/* Prompts of a family begin alike, at any length. */
static void draw_request(sim_world *w, sim_request *r)
{
    int32_t longest = (int32_t)w->limits.kv.sequence_tokens_max;
    int32_t family = below(w, 3), shared = one_in(w, 2) ? longest : below(w, longest);
    r->n_prompt = between(w, 1, one_in(w, 2) ? longest : 1 + longest / 4);
    for (int32_t i = 0; i < r->n_prompt; i++)
        r->ids[0][i] = i < shared ? (int32_t)(sim_hash((uint64_t)family, (uint64_t)i) % VOCAB)
                                  : below(w, VOCAB);
    r->n_max = between(w, r->n_prompt, longest);
    if (one_in(w, 2) && r->n_max > r->n_prompt + 10) r->n_max = r->n_prompt + 10;
    int32_t widest = w->limits.sequences_max < WIDTH_MAX ? w->limits.sequences_max : WIDTH_MAX;
    r->width = one_in(w, 4) ? between(w, 1, one_in(w, 20) ? WIDTH_MAX : widest) : 1;
    r->beams = r->width > 1 && r->n_max > r->n_prompt && one_in(w, 2);
    r->all_rows = one_in(w, 8);
    r->eos_one_in = one_in(w, 3) ? between(w, 2, 60) : 0;
    r->priority = one_in(w, 6) ? between(w, SPEY_PRIORITY_MIN, SPEY_PRIORITY_MAX) : 0;
    r->tenant = (uint64_t)below(w, 4);
    r->setting.salt = (uint64_t)one_in(w, 4);
    if (w->limits.kv.cross_tokens_max)
        r->setting.n_source = between(w, 1, (int32_t)w->limits.kv.cross_tokens_max);
    r->cancel_step = one_in(w, 8) ? between(w, 0, 60) : -1;
    r->deadline_ns = one_in(w, 8) ? w->now_ns + (uint64_t)below(w, 200) + 1 : 0;
    r->ticket = -1;
    r->by_host = sim_hash(w->seed, (uint64_t)(r - w->requests)) % 5 == 0;
    for (int32_t i = 0; i < r->width; i++) {
        memcpy(r->ids[i], r->ids[0], sizeof r->ids[0]);
        r->n[i] = r->n_prompt;
    }
}

/* Not drawn, so that worlds stay what they were without it. */
static void choose_retention(sim_request *r)
{
    int32_t a = r->ids[0][0], b = r->n_prompt;
    r->n_retention = (a + b) % 3;
    r->retention[0] = (spey_kv_retention){ 0, b / 2, (a * 7 + b) % 101, (uint64_t)(a % 2 * 40) };
    r->retention[1] = (spey_kv_retention){ b, INT64_MAX, (a + b * 5) % 101, (uint64_t)(b % 2) };
}

/* ---- the file ---- */

static bool open_file(sim_world *w)
{
    spey_kv_file_setup setup = { .path = w->path, .bytes = w->file_bytes, .no_thread = true };
    if (!w->file_bytes) return true;
    for (int g = 0; g < w->limits.kv.n_groups; g++) {
        setup.host[g] = (uint8_t *)w->memory.host[g];
        setup.block_bytes[g] = (size_t)w->limits.kv.block_tokens * sizeof(uint64_t);
    }
    return !spey_kv_file_open(w->kv, &setup);
}

static void close_file(sim_world *w)
{
    spey_kv_stats stats;
    spey_kv_read_stats(w->kv, &stats);
    w->totals->stored += (uint64_t)stats.file_stored_blocks;
    w->totals->loaded += (uint64_t)stats.file_loaded_blocks;
    w->totals->discarded += (uint64_t)stats.file_discarded_blocks;
    spey_kv_file_close(w->kv);
}

/* A crash and a bad disk: bytes behind the header change. */
static bool damage_file(sim_world *w)
{
    FILE *file = fopen(w->path, "r+b");
    if (!file || fseek(file, 0, SEEK_END)) return false;
    long size = ftell(file);
    for (int32_t n = below(w, 4); n > 0 && size > 4096; n--) {
        long at = 4096 + below(w, (int32_t)(size - 4096));
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ between(w, 1, 255), file);
    }
    return fclose(file) == 0;
}

/* Some of what the file's thread has to do gets done. Sometimes the file is begun again, or is not what it was. */
static bool serve_file(sim_world *w)
{
    if (!w->file_bytes) return true;
    for (int32_t n = below(w, 6); n > 0; n--)
        spey_kv_file_work(w->kv);
    if (one_in(w, 6) && !damage_file(w)) return fail(w, "the file cannot be changed");
    if (!one_in(w, 60)) return true;
    close_file(w);
    return open_file(w) || fail(w, "open again: %s", spey_last_error());
}

static bool open_world(sim_world *w)
{
    w->rng = (spey_rng){ .seed = w->seed };
    snprintf(w->path, sizeof w->path, "/tmp/spey-test-simulator-%d", (int)getpid());
    draw_limits(w);
    if (w->limits.kv.cross_tokens_max) w->ahead = false; /* encoders run between steps */
    w->n_requests = between(w, 1, w->file_bytes || one_in(w, 4) ? REQUESTS_MAX : 12);
    return !spey_kv_cache_new(&w->limits.kv, &w->kv) &&
           !spey_scheduler_new(&w->limits, &w->scheduler) &&
           !spey_schedule_init(&w->flights[0].schedule, &w->limits) &&
           !spey_schedule_init(&w->flights[1].schedule, &w->limits) &&
           !spey_schedule_init(&w->again, &w->limits) &&
           sim_memory_init(&w->memory, &w->limits.kv) && open_file(w);
}

static void close_world(sim_world *w)
{
    spey_schedule_deinit(&w->flights[0].schedule);
    spey_schedule_deinit(&w->flights[1].schedule);
    spey_schedule_deinit(&w->again);
    spey_scheduler_free(w->scheduler);
    if (w->kv && w->file_bytes) close_file(w);
    unlink(w->path);
    spey_kv_cache_free(w->kv);
    sim_memory_deinit(&w->memory);
}

/* ---- a step ---- */

static bool end_request(sim_world *w, sim_request *r, sim_end end)
{
    for (int32_t i = 0; i < r->width; i++)
        if (r->end[i] == GOING) r->end[i] = end;
    spey_scheduler_end(w->scheduler, w->kv, r->ticket);
    r->ticket = -1;
    w->n_done++;
    if (++r->n_ends != 1) return fail(w, "a request ended twice");
    w->totals->cancels += end == BY_CANCEL;
    w->totals->timeouts += end == BY_TIMEOUT;
    return check_output(w, r);
}

static bool arrive(sim_world *w)
{
    spey_scheduler_counts counts = spey_scheduler_count(w->scheduler);
    while (w->n_arrived < w->n_requests && !one_in(w, 3)) {
        if (counts.queued >= w->limits.queue_max && !one_in(w, 20)) return true;
        counts.queued++;
        sim_request *r = &w->requests[w->n_arrived++];
        draw_request(w, r);
        choose_retention(r);
        const spey_kv_key key = { r->setting.salt, r->ids[0], r->n_prompt };
        spey_job job = { .owner = r,
                         .fetch = !r->all_rows && spey_kv_file_has_more(w->kv, &key),
                         .ids = r->ids[0],
                         .salt = r->setting.salt,
                         .n_prompt = r->n_prompt,
                         .n_max = r->n_max,
                         .n_source = r->setting.n_source,
                         .width = r->width,
                         .all_rows = r->all_rows,
                         .priority = r->priority,
                         .tenant = r->tenant,
                         .deadline_ns = r->deadline_ns,
                         .retention = r->retention,
                         .n_retention = r->n_retention };
        spey_status status = spey_scheduler_submit(w->scheduler, &job, &r->ticket);
        if (status && status != SPEY_LIMIT) return fail(w, "submit: %s", spey_last_error());
        if (!status) continue;
        r->ticket = -1; /* refused: too large, or the queue is full */
        w->n_done++;
        w->totals->refusals++;
    }
    return true;
}

static bool cancel_some(sim_world *w)
{
    for (int32_t i = 0; i < w->n_arrived; i++) {
        sim_request *r = &w->requests[i];
        if (r->ticket >= 0 && r->cancel_step >= 0 && r->cancel_step <= w->step)
            if (!end_request(w, r, BY_CANCEL)) return false;
    }
    return true;
}

static bool end_expired(sim_world *w, const spey_schedule *s)
{
    for (int32_t i = 0; i < s->n_expired; i++) {
        sim_request *r = spey_scheduler_owner(w->scheduler, s->expired[i]);
        if (!r->deadline_ns || r->deadline_ns > w->now_ns) return fail(w, "ended too early");
        if (!end_request(w, r, BY_TIMEOUT)) return false;
    }
    return true;
}

static bool plan(sim_world *w, spey_schedule *a)
{
    spey_schedule *b = &w->again;
    spey_kv_set_time(w->kv, w->now_ns);
    spey_scheduler_plan(w->scheduler, w->kv, w->now_ns, a);
    spey_scheduler_plan(w->scheduler, w->kv, w->now_ns, b);
    if (a->n_items != b->n_items || a->n_admits != b->n_admits || a->n_pauses != b->n_pauses ||
        a->n_expired != b->n_expired)
        return fail(w, "two plans of one state differ");
    for (int32_t i = 0; i < a->n_items; i++)
        if (a->items[i].ticket != b->items[i].ticket || a->items[i].index != b->items[i].index ||
            a->items[i].from != b->items[i].from || a->items[i].n_tokens != b->items[i].n_tokens)
            return fail(w, "two plans of one state differ");
    return true;
}

/* One that begins with all but its last token from the cache does not decode yet. */
static bool is_admitted(const spey_schedule *s, spey_ticket ticket)
{
    for (int32_t i = 0; i < s->n_admits; i++)
        if (s->admits[i] == ticket) return true;
    return false;
}

/* What the step under way, if there is one, does for a sequence: tokens that it stores, tokens that it gives. */
static void count_flying(const sim_world *w, const spey_schedule_item *item, int32_t *stored,
                         int32_t *given)
{
    *stored = *given = 0;
    if (w->n_launched == w->n_taken) return;
    const spey_schedule *s = &w->flights[w->n_taken % 2].schedule;
    for (int32_t i = 0; i < s->n_items; i++) {
        if (s->items[i].request != item->request || s->items[i].index != item->index) continue;
        *stored += spey_scheduler_stores(w->scheduler, &s->items[i]) ? s->items[i].n_tokens : 0;
        *given += s->items[i].counts_token;
    }
}

static bool check_schedule(sim_world *w, const spey_schedule *s)
{
    const spey_scheduler_limits *l = &w->limits;
    int64_t tokens = 0, rows = 0, prompts = 0;
    bool seen[SEQUENCES_MAX] = { false }, decodes = false;
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_schedule_item *item = &s->items[i];
        const sim_request *r = item->owner;
        int32_t stored, given;
        count_flying(w, item, &stored, &given);
        tokens += item->n_tokens;
        rows += item->n_outputs;
        int32_t known = r->n[item->index] + given;
        bool decode = item->from + item->n_tokens == known && item->from >= r->n_prompt &&
                      item->n_tokens == 1 && !is_admitted(s, item->ticket);
        decodes = decodes || decode;
        prompts += decode ? 0 : item->n_tokens;
        if (item->n_tokens < 1 || seen[item->seq] || item->from + item->n_tokens > known ||
            (known == r->n_max && given && item->from + item->n_tokens == known) ||
            item->from != spey_kv_length(w->kv, item->seq) + stored)
            return fail(w, "an item of %d tokens from %lld", item->n_tokens, (long long)item->from);
        seen[item->seq] = true;
    }
    if (tokens > l->step_tokens_max || rows > l->step_outputs_max || tokens != s->n_tokens)
        return fail(w, "a step of %lld tokens and %lld rows", (long long)tokens, (long long)rows);
    if (decodes && l->step_prefill_max && prompts > l->step_prefill_max)
        return fail(w, "%lld prompt tokens beside decodes", (long long)prompts);
    spey_scheduler_counts counts = spey_scheduler_count(w->scheduler);
    if (counts.running && !s->n_items && w->n_launched == w->n_taken)
        return fail(w, "requests run and nothing is computed");
    if (l->policy == SPEY_GUARANTEED_NO_EVICT && counts.pauses)
        return fail(w, "a request was paused");
    return true;
}

/* ---- the fake device ---- */

/* The item of the step under way that gives this one's last id, or -1. */
static int32_t find_source(const sim_world *w, const spey_schedule_item *item)
{
    const sim_request *r = item->owner;
    if (item->from + item->n_tokens <= r->n[item->index]) return -1;
    const spey_schedule *before = &w->flights[(w->n_launched + 1) % 2].schedule;
    for (int32_t i = 0; i < before->n_items; i++)
        if (before->items[i].request == item->request) return i;
    return -1;
}

/* Its encoder, before a request's first tokens. */
static bool encode(sim_world *w, const spey_schedule_item *item)
{
    const sim_request *r = item->owner;
    sim_tables tables;
    if (!r->setting.n_source || spey_kv_cross_length(w->kv, item->seq)) return true;
    if (spey_kv_reserve_cross(w->kv, item->seq, r->setting.n_source))
        return fail(w, "no room for an encoder's input: %s", spey_last_error());
    sim_tables_capture(w->kv, item->seq, &tables);
    sim_memory_encode(&w->memory, &tables);
    return true;
}

static bool launch(sim_world *w)
{
    sim_flight *f = &w->flights[w->n_launched % 2];
    const spey_kv_copy *copies = spey_kv_copies(w->kv, &f->n_copies);
    memcpy(f->copies, copies, (size_t)f->n_copies * sizeof *copies);
    spey_kv_copies_done(w->kv);
    for (int32_t i = 0; i < f->schedule.n_items; i++) {
        const spey_schedule_item *item = &f->schedule.items[i];
        const sim_request *r = item->owner;
        if (!encode(w, item)) return false;
        sim_tables_capture(w->kv, item->seq, &f->tables[i]);
        memcpy(f->ids[i], r->ids[item->index], sizeof f->ids[i]);
        f->from_row[i] = find_source(w, item);
    }
    f->computed = false;
    spey_scheduler_launch(w->scheduler, &f->schedule);
    w->totals->ahead += w->n_launched > w->n_taken;
    w->n_launched++;
    return true;
}

/* An item's tokens through the fake model; the owner of one that ended may be anything by now. */
static bool compute_item(sim_world *w, sim_flight *f, int32_t i)
{
    const spey_schedule_item *item = &f->schedule.items[i];
    const sim_flight *before = f == w->flights ? &w->flights[1] : &w->flights[0];
    sim_request *r = item->owner;
    bool matters = spey_scheduler_serves(w->scheduler, item);
    int32_t *ids = f->ids[i];
    if (f->from_row[i] >= 0)
        ids[item->from] = (int32_t)(sim_hash(before->rows[f->from_row[i]], 0) % VOCAB);
    for (int32_t t = 0; t < item->n_tokens; t++) {
        int64_t position = item->from + t;
        sim_memory_store(&w->memory, &f->tables[i], position, r->setting.salt, ids[position]);
        if (t < item->n_tokens - item->n_outputs) continue;
        f->rows[i] = sim_memory_read(&w->memory, &f->tables[i], position);
        if (matters && f->rows[i] != sim_row(&w->limits.kv, &r->setting, ids, position))
            return fail(w,
                        "request %d, sequence %d: what is stored up to token %lld is not its own",
                        (int)(r - w->requests), item->index, (long long)position);
        if (position < r->n_prompt) r->rows_seen[position] = true;
    }
    return true;
}

/* Steps are computed in their order. */
static bool compute(sim_world *w, int32_t end)
{
    for (int32_t number = w->n_taken; number < end; number++) {
        sim_flight *f = &w->flights[number % 2];
        if (f->computed) continue;
        sim_memory_copy(&w->memory, f->copies, f->n_copies);
        for (int32_t i = 0; i < f->schedule.n_items; i++)
            if (!compute_item(w, f, i)) return false;
        f->computed = true;
    }
    return true;
}

/* ---- results ---- */

/* The growths of the request whose items begin at `begin`; returns their number. */
static int32_t grow_request(sim_world *w, const sim_flight *f, int32_t begin, int32_t end,
                            spey_growth *growths)
{
    const spey_schedule_item *items = f->schedule.items;
    sim_request *r = items[begin].owner;
    uint64_t rows[WIDTH_MAX];
    int32_t parents[WIDTH_MAX], n = 0;
    bool live[WIDTH_MAX], grows = false;
    for (int32_t i = begin; i < end; i++) {
        rows[items[i].index] = f->rows[i];
        grows = grows || (items[i].n_outputs > 0 &&
                          items[i].from + items[i].n_tokens == r->n[items[i].index]);
    }
    if (!grows) return 0;
    bool first = r->n[items[begin].index] == r->n_prompt;
    for (int32_t i = 0; i < r->width; i++) {
        live[i] = r->end[i] == GOING;
        if (first) rows[i] = rows[0];
    }
    grow(r, rows, parents);
    for (int32_t i = 0; i < r->width; i++) {
        if (!live[i]) continue;
        w->totals->tokens++;
        w->totals->forks += first && i > 0;
        w->totals->moves += !first && parents[i] != i;
        growths[n++] = (spey_growth){ items[begin].ticket, i, parents[i], r->end[i] != GOING };
    }
    return n;
}

/* One token of a request whose end was not known when the step began, and none when it was. What has several sequences can
 * only have been cancelled, amid a step. */
static bool note_superfluous(sim_world *w, const spey_schedule_item *item)
{
    sim_request *r = item->owner;
    bool known_before = r->end[0] == BY_LENGTH;
    bool one_token = r->end[0] != BY_EOS || item->n_tokens == 1;
    w->totals->superfluous++;
    if (r->width > 1 || (++r->n_superfluous == 1 && !known_before && one_token)) return true;
    return fail(w, "request %d: computed after its end", (int)(r - w->requests));
}

/* Count as stored what was computed; the ids that the device found are those that were told. */
static bool advance(sim_world *w, const sim_flight *f)
{
    for (int32_t i = 0; i < f->schedule.n_items; i++) {
        const spey_schedule_item *item = &f->schedule.items[i];
        const sim_request *r = item->owner;
        if (!spey_scheduler_serves(w->scheduler, item)) {
            if (!note_superfluous(w, item)) return false;
            continue;
        }
        if (memcmp(f->ids[i], r->ids[item->index],
                   sizeof(int32_t) * (size_t)(item->from + item->n_tokens)))
            return fail(w, "request %d: other ids were computed", (int)(r - w->requests));
        if (spey_scheduler_stores(w->scheduler, item))
            spey_kv_advance(w->kv, item->seq, f->ids[i] + item->from, item->n_tokens);
    }
    return true;
}

static bool deliver(sim_world *w)
{
    const sim_flight *f = &w->flights[w->n_taken % 2];
    const spey_schedule *s = &f->schedule;
    int32_t n = 0;
    if (!compute(w, w->n_taken + 1) || !advance(w, f)) return false;
    for (int32_t i = 0, end; i < s->n_items; i = end) {
        for (end = i + 1; end < s->n_items && s->items[end].request == s->items[i].request;)
            end++;
        if (spey_scheduler_serves(w->scheduler, &s->items[i]))
            n += grow_request(w, f, i, end, w->growths + n);
    }
    spey_scheduler_take(w->scheduler, w->kv, s, w->growths, n);
    w->n_taken++;
    w->totals->steps++;
    for (int32_t i = 0; i < n; i++) {
        sim_request *r = spey_scheduler_owner(w->scheduler, w->growths[i].ticket);
        bool is_last_of_request = i + 1 == n || w->growths[i + 1].ticket != w->growths[i].ticket;
        if (is_last_of_request && !lives(r) && !end_request(w, r, GOING)) return false;
    }
    return true;
}

static bool check_books(sim_world *w)
{
    if (spey_kv_check(w->kv) || spey_scheduler_check(w->scheduler, w->kv))
        return fail(w, "%s", spey_last_error());
    return true;
}

/* Another step may be planned: none is under way, or one that gives no rows but to requests that need not see them. */
static bool may_plan(const sim_world *w)
{
    if (w->n_launched == w->n_taken) return true;
    if (!w->ahead || w->n_launched == w->n_taken + 2) return false;
    const spey_schedule *s = &w->flights[w->n_taken % 2].schedule;
    for (int32_t i = 0; i < s->n_items; i++) {
        const sim_request *r = s->items[i].owner;
        if (s->items[i].n_outputs && (r->width > 1 || r->by_host)) return false;
    }
    return true;
}

static bool begin(sim_world *w, bool *launched)
{
    spey_schedule *s = &w->flights[w->n_launched % 2].schedule;
    if (!plan(w, s) || !end_expired(w, s)) return false;
    if (spey_scheduler_commit(w->scheduler, w->kv, s))
        return fail(w, "commit: %s", spey_last_error());
    if (!check_books(w) || !check_schedule(w, s)) return false;
    *launched = s->n_items > 0;
    return !*launched || launch(w);
}

/* Copies that a step under way has not carried out yet are behind; when there is none, nobody else does. */
static void turn_file(sim_world *w)
{
    int n_behind = 0;
    int64_t n;
    for (int32_t i = w->n_taken; i < w->n_launched; i++)
        n_behind += !w->flights[i % 2].computed;
    if (w->file_bytes && w->n_taken == w->n_launched) {
        const spey_kv_copy *copies = spey_kv_copies(w->kv, &n);
        sim_memory_copy(&w->memory, copies, n);
        spey_kv_copies_done(w->kv);
    }
    spey_kv_file_turn(w->kv, n_behind);
}

static bool step(sim_world *w)
{
    bool launched = false;
    w->now_ns += (uint64_t)between(w, 1, 5);
    if (!serve_file(w) || !arrive(w) || !cancel_some(w)) return false;
    if (may_plan(w) && !begin(w, &launched)) return false;
    bool under_way = w->n_launched > w->n_taken;
    w->quiet = under_way ? 0 : w->quiet + 1;
    /* The device may be fast or slow. */
    if (sim_hash(w->seed, (uint64_t)w->step) % 2 && !compute(w, w->n_launched)) return false;
    if (under_way && (!launched || !may_plan(w)) && !deliver(w)) return false;
    turn_file(w);
    if (w->quiet > 100 && w->n_arrived == w->n_requests && w->n_done < w->n_requests)
        return fail(w, "nothing moves any more");
    return check_books(w);
}

static bool run_world(sim_world *w)
{
    for (w->step = 0; w->n_done < w->n_requests; w->step++) {
        if (w->step == STEPS_MAX) return fail(w, "the requests do not end");
        if (!step(w)) return false;
    }
    while (w->n_taken < w->n_launched)
        if (!deliver(w)) return false;
    spey_scheduler_counts counts = spey_scheduler_count(w->scheduler);
    spey_kv_stats stats;
    spey_kv_read_stats(w->kv, &stats);
    w->totals->pauses += counts.pauses;
    w->totals->reused += (uint64_t)stats.reused_tokens;
    w->totals->restored += (uint64_t)stats.restored_blocks;
    if (counts.queued + counts.running + counts.paused + counts.sequences)
        return fail(w, "requests are left over");
    for (int g = 0; g < w->limits.kv.n_groups; g++)
        if (spey_kv_group_free_blocks(w->kv, g) != w->limits.kv.groups[g].n_blocks)
            return fail(w, "group %d: blocks are missing at the end", g);
    return true;
}

bool sim_run(uint64_t seed, bool ahead, sim_totals *totals, char *error, int error_bytes)
{
    static sim_world world;
    memset(&world, 0, sizeof world);
    world.seed = seed;
    world.ahead = ahead;
    world.totals = totals;
    world.error = error;
    world.error_bytes = error_bytes;
    bool ok = open_world(&world) ? run_world(&world) : fail(&world, "open: %s", spey_last_error());
    close_world(&world);
    totals->runs++;
    totals->requests += (uint64_t)world.n_requests;
    return ok;
}
