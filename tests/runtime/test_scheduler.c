/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/alloc.h"
#include "runtime/scheduler.h"

/* The simulator (test_simulator.c) looks for what breaks; here is what is meant. */

enum { BLOCK = 4, TICKETS_MAX = 1100, SEQUENCES_MAX = 64 };

typedef struct world {
    spey_scheduler_limits limits;
    spey_scheduler *scheduler;
    spey_kv_cache *kv;
    spey_schedule plan;
    int32_t known[TICKETS_MAX], most[TICKETS_MAX]; /* tokens, by ticket */
    const int32_t *ids[TICKETS_MAX];
    uint64_t now;
} world;

static const spey_scheduler_limits ordinary = {
    .policy = SPEY_GUARANTEED_NO_EVICT,
    .sequences_max = 4,
    .queue_max = 8,
    .step_tokens_max = 16,
    .step_outputs_max = 8,
    .kv = { .sequences_max = 4,
            .sequence_tokens_max = 64,
            .step_tokens_max = 16,
            .block_tokens = BLOCK,
            .n_groups = 1,
            .groups = { { .kind = SPEY_KV_TOKENS, .n_blocks = 64 } } },
};

static void open_world(world *w, const spey_scheduler_limits *limits)
{
    *w = (world){ .limits = *limits, .now = 1 };
    assert_int_equal(spey_kv_cache_new(&limits->kv, &w->kv), SPEY_OK);
    assert_int_equal(spey_scheduler_new(limits, &w->scheduler), SPEY_OK);
    assert_int_equal(spey_schedule_init(&w->plan, limits), SPEY_OK);
}

static void close_world(world *w)
{
    spey_schedule_deinit(&w->plan);
    spey_scheduler_free(w->scheduler);
    spey_kv_cache_free(w->kv);
}

static spey_status try_submit(world *w, const spey_job *job, spey_ticket *ticket)
{
    static const int32_t ids[64];
    spey_job with_ids = *job;
    if (!job->ids) with_ids.ids = ids;
    if (!with_ids.width) with_ids.width = 1;
    spey_status status = spey_scheduler_submit(w->scheduler, &with_ids, ticket);
    if (status) return status;
    w->ids[*ticket] = with_ids.ids;
    w->known[*ticket] = (int32_t)job->n_prompt;
    w->most[*ticket] = (int32_t)job->n_max;
    return SPEY_OK;
}

static spey_ticket submit(world *w, int32_t n_prompt, int32_t n_output)
{
    spey_ticket ticket;
    spey_job job = { .n_prompt = n_prompt, .n_max = n_prompt + n_output };
    assert_int_equal(try_submit(w, &job, &ticket), SPEY_OK);
    return ticket;
}

/* Plan, commit and launch. */
static void begin(world *w)
{
    spey_scheduler_plan(w->scheduler, w->kv, w->now, &w->plan);
    for (int32_t i = 0; i < w->plan.n_expired; i++)
        spey_scheduler_end(w->scheduler, w->kv, w->plan.expired[i]);
    assert_int_equal(spey_scheduler_commit(w->scheduler, w->kv, &w->plan), SPEY_OK);
    spey_scheduler_launch(w->scheduler, &w->plan);
}

/* Take the step as if each sequence of one-sequence requests got its token. */
static void finish(world *w)
{
    spey_growth growths[SEQUENCES_MAX];
    int32_t n = 0;
    for (int32_t i = 0; i < w->plan.n_items; i++) {
        const spey_schedule_item *item = &w->plan.items[i];
        spey_kv_advance(w->kv, item->seq, w->ids[item->ticket] + item->from, item->n_tokens);
        if (item->n_outputs && item->from + item->n_tokens == w->known[item->ticket])
            growths[n++] = (spey_growth){ item->ticket, 0, 0,
                                          ++w->known[item->ticket] >= w->most[item->ticket] };
    }
    spey_kv_copies_done(w->kv);
    spey_scheduler_take(w->scheduler, w->kv, &w->plan, growths, n);
    for (int32_t i = 0; i < n; i++)
        if (growths[i].ended) spey_scheduler_end(w->scheduler, w->kv, growths[i].ticket);
    assert_int_equal(spey_scheduler_check(w->scheduler, w->kv), SPEY_OK);
    assert_int_equal(spey_kv_check(w->kv), SPEY_OK);
}

static void step(world *w)
{
    begin(w);
    finish(w);
}

static const spey_schedule_item *item_of(const world *w, spey_ticket ticket)
{
    for (int32_t i = 0; i < w->plan.n_items; i++)
        if (w->plan.items[i].ticket == ticket) return &w->plan.items[i];
    return NULL;
}

/* ---- steps ---- */

static void short_prompts_share_a_step_and_a_long_one_is_cut_at_a_block(void **state)
{
    (void)state;
    world w;
    open_world(&w, &ordinary);
    spey_ticket a = submit(&w, 5, 3), b = submit(&w, 3, 3), c = submit(&w, 20, 3);
    begin(&w);
    assert_int_equal(w.plan.n_items, 3);
    assert_int_equal(item_of(&w, a)->n_tokens, 5);
    assert_int_equal(item_of(&w, a)->n_outputs, 1);
    assert_int_equal(item_of(&w, b)->n_tokens, 3);
    assert_int_equal(item_of(&w, c)->n_tokens, 8); /* there is room for 5 + 3 + 8 */
    assert_int_equal(item_of(&w, c)->n_outputs, 0);
    finish(&w);
    begin(&w); /* two decodes, and of the 14 that are left 12, which end a block */
    assert_int_equal(item_of(&w, a)->n_tokens, 1);
    assert_int_equal(item_of(&w, b)->n_tokens, 1);
    assert_int_equal(item_of(&w, c)->from, 8);
    assert_int_equal(item_of(&w, c)->n_tokens, 12);
    assert_int_equal(item_of(&w, c)->n_outputs, 1);
    finish(&w);
    close_world(&w);
}

static void latency_mode_bounds_the_prompt_tokens_beside_decodes(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.step_prefill_max = 4;
    open_world(&w, &limits);
    spey_ticket a = submit(&w, 12, 20);
    begin(&w);
    assert_int_equal(item_of(&w, a)->n_tokens, 12); /* nobody waits */
    finish(&w);
    spey_ticket b = submit(&w, 16, 3);
    for (int i = 0; i < 4; i++) {
        begin(&w);
        assert_int_equal(item_of(&w, a)->n_tokens, 1);
        assert_int_equal(item_of(&w, b)->n_tokens, 4);
        finish(&w);
    }
    close_world(&w);
}

static void rows_of_a_whole_prompt_come_as_fast_as_there_is_room_for_them(void **state)
{
    (void)state;
    world w;
    open_world(&w, &ordinary);
    spey_ticket a;
    spey_job job = { .n_prompt = 14, .n_max = 16, .all_rows = true };
    assert_int_equal(try_submit(&w, &job, &a), SPEY_OK);
    begin(&w);
    assert_int_equal(item_of(&w, a)->n_tokens, 8);
    assert_int_equal(item_of(&w, a)->n_outputs, 8);
    finish(&w);
    begin(&w);
    assert_int_equal(item_of(&w, a)->n_outputs, 6);
    finish(&w);
    close_world(&w);
}

/* ---- policies ---- */

/* Steps until nothing is left; returns how many ran at once at most. */
static int32_t run(world *w, int32_t *n_steps)
{
    int32_t most = 0;
    spey_scheduler_counts counts;
    for (*n_steps = 0; *n_steps < 10000; ++*n_steps) {
        step(w);
        counts = spey_scheduler_count(w->scheduler);
        most = counts.running > most ? counts.running : most;
        if (!(counts.running + counts.queued + counts.paused)) return most;
    }
    fail_msg("the requests do not end");
    return 0;
}

static void no_evict_admits_what_fits_at_the_peak_to_come(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.kv.groups[0].n_blocks = 16; /* 64 tokens */
    open_world(&w, &limits);
    spey_ticket a = submit(&w, 2, 38); /* 10 blocks at its end */
    for (int i = 0; i < 28; i++)
        step(&w);
    /* 8 blocks at its end: 10 + 8 are too many. */
    spey_ticket b = submit(&w, 4, 28);
    begin(&w);
    assert_null(item_of(&w, b));
    finish(&w);
    spey_scheduler_end(w.scheduler, w.kv, b);
    /* 6 blocks fit beside 10. */
    b = submit(&w, 4, 20);
    begin(&w);
    assert_non_null(item_of(&w, b));
    finish(&w);
    for (int i = 0; i < 4; i++) /* until pacing allows another one */
        step(&w);
    assert_int_equal(w.known[a], 36);
    /* One more fits only because the first will have gone before the second is long. */
    spey_ticket c = submit(&w, 1, 3);
    begin(&w);
    assert_non_null(item_of(&w, c));
    finish(&w);
    int32_t n_steps;
    run(&w, &n_steps);
    assert_int_equal(spey_scheduler_count(w.scheduler).pauses, 0);
    close_world(&w);
}

static void admissions_are_paced_when_more_come_than_the_pool_holds(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.sequences_max = limits.kv.sequences_max = 32;
    limits.step_tokens_max = 512;
    limits.step_outputs_max = 32;
    limits.queue_max = 64;
    limits.kv.groups[0].n_blocks = 160; /* 10 requests at their longest */
    open_world(&w, &limits);
    for (int i = 0; i < 64; i++)
        submit(&w, 4, 60);
    begin(&w);
    assert_in_range(w.plan.n_admits, 5, 7); /* half of the pool at once */
    finish(&w);
    int32_t n_steps, most = run(&w, &n_steps);
    assert_true(most > 10);
    assert_true(n_steps < 64 * 60 / 10); /* what full reservations take */
    assert_int_equal(spey_scheduler_count(w.scheduler).pauses, 0);
    close_world(&w);
}

/* Two requests that fit the pool one after the other. With host memory the second is swapped out; without, what it had is
 * lost to the first one's growth. */
static void what_is_paused_comes_back_from_host_memory(void **state)
{
    (void)state;
    static int32_t ids[2][64];
    spey_scheduler_counts counts[2];
    int32_t steps[2];
    for (int32_t i = 0; i < 64; i++)
        ids[0][i] = ids[1][i] + 1000;
    for (int host = 0; host < 2; host++) {
        world w;
        spey_ticket ticket;
        spey_scheduler_limits limits = ordinary;
        limits.policy = SPEY_MAX_UTILIZATION;
        limits.step_tokens_max = 4;
        limits.kv.reuse = true;
        limits.kv.groups[0].n_blocks = 12;
        limits.kv.host_blocks = host ? 12 : 0;
        open_world(&w, &limits);
        for (int i = 0; i < 2; i++) {
            spey_job job = { .ids = ids[i], .n_prompt = 4, .n_max = 44 };
            assert_int_equal(try_submit(&w, &job, &ticket), SPEY_OK);
        }
        run(&w, &steps[host]);
        counts[host] = spey_scheduler_count(w.scheduler);
        close_world(&w);
    }
    assert_int_equal(counts[0].pauses, 1);
    assert_int_equal(counts[1].pauses, 1);
    assert_true(counts[0].repeated_tokens >= 4 * BLOCK);
    assert_true(counts[1].repeated_tokens < BLOCK); /* of the last block, which was not full */
    assert_int_equal(counts[0].kept_tokens + counts[0].repeated_tokens,
                     counts[1].kept_tokens + counts[1].repeated_tokens);
    /* A step computes four tokens. */
    assert_true(steps[0] - steps[1] >= (int32_t)(counts[0].repeated_tokens / 4) - 1);
}

static void max_utilization_pauses_the_newest_and_resumes_it(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.policy = SPEY_MAX_UTILIZATION;
    limits.kv.groups[0].n_blocks = 10;
    open_world(&w, &limits);
    spey_ticket a = submit(&w, 4, 28), b = submit(&w, 4, 20);
    step(&w);
    step(&w);
    assert_int_equal(spey_scheduler_count(w.scheduler).running, 2); /* 8 + 6 blocks to come */
    while (!spey_scheduler_count(w.scheduler).pauses)
        step(&w);
    assert_int_equal(spey_scheduler_count(w.scheduler).running, 1);
    begin(&w);
    assert_non_null(item_of(&w, a));
    assert_null(item_of(&w, b));
    finish(&w);
    spey_ticket c = submit(&w, 1, 1);
    while (spey_scheduler_count(w.scheduler).paused) {
        assert_null(item_of(&w, c)); /* who has begun goes first */
        begin(&w);
        if (item_of(&w, b)) assert_int_equal(item_of(&w, b)->from, 0);
        finish(&w);
    }
    int32_t n_steps;
    run(&w, &n_steps);
    assert_int_equal(w.known[a], 32);
    assert_int_equal(w.known[b], 24);
    close_world(&w);
}

static void a_static_batch_waits_for_its_longest(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.policy = SPEY_STATIC_BATCH;
    open_world(&w, &limits);
    submit(&w, 2, 2);
    submit(&w, 2, 9);
    step(&w);
    spey_ticket c = submit(&w, 2, 2);
    for (int i = 0; i < 8; i++) {
        begin(&w);
        assert_null(item_of(&w, c));
        finish(&w);
    }
    begin(&w);
    assert_non_null(item_of(&w, c));
    finish(&w);
    close_world(&w);
}

/* ---- who goes first ---- */

static void one_tenants_thousand_requests_do_not_starve_anothers_one(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.queue_max = 1001;
    limits.sequences_max = limits.kv.sequences_max = 1;
    open_world(&w, &limits);
    spey_ticket other, t;
    spey_job job = { .n_prompt = 4, .n_max = 8, .tenant = 1 };
    for (int i = 0; i < 1000; i++)
        assert_int_equal(try_submit(&w, &job, &t), SPEY_OK);
    for (int i = 0; i < 10; i++)
        step(&w);
    uint64_t before = spey_scheduler_count(w.scheduler).admissions;
    job.tenant = 2;
    assert_int_equal(try_submit(&w, &job, &other), SPEY_OK);
    do
        begin(&w), finish(&w);
    while (!item_of(&w, other));
    assert_in_range(spey_scheduler_count(w.scheduler).admissions - before, 1, 3);
    close_world(&w);
}

static void tenants_share_by_tokens_not_by_requests(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.queue_max = 200;
    limits.sequences_max = limits.kv.sequences_max = 1;
    open_world(&w, &limits);
    int64_t tokens[3] = { 0 };
    for (int i = 0; i < 50; i++)
        for (int big = 0; big < 2; big++) {
            spey_ticket t;
            spey_job job = { .n_prompt = big ? 16 : 4,
                             .n_max = big ? 32 : 8,
                             .tenant = 1 + (uint64_t)big };
            job.owner = &tokens[1 + big];
            assert_int_equal(try_submit(&w, &job, &t), SPEY_OK);
        }
    for (int i = 0; i < 300; i++) {
        begin(&w);
        for (int32_t k = 0; k < w.plan.n_items; k++)
            *(int64_t *)w.plan.items[k].owner += w.plan.items[k].n_tokens;
        finish(&w);
    }
    assert_true(tokens[1] > 0 && tokens[2] < 2 * tokens[1] && tokens[1] < 2 * tokens[2]);
    close_world(&w);
}

/* Each input takes two of the five blocks that encoders' inputs have; of the others there are plenty. */
static void inputs_of_an_encoder_are_admitted_as_they_fit(void **state)
{
    (void)state;
    for (int policy = SPEY_GUARANTEED_NO_EVICT; policy <= SPEY_STATIC_BATCH; policy++) {
        world w;
        spey_ticket tickets[5];
        spey_scheduler_limits limits = ordinary;
        limits.policy = (spey_policy)policy;
        limits.kv.cross_tokens_max = 20;
        limits.kv.n_groups = 2;
        limits.kv.groups[1] = (spey_kv_group_limits){ .kind = SPEY_KV_CROSS, .n_blocks = 5 };
        open_world(&w, &limits);
        spey_job job = { .n_prompt = 2, .n_max = 6, .n_source = 5 * BLOCK + 1 };
        assert_int_equal(try_submit(&w, &job, &tickets[0]), SPEY_LIMIT);
        assert_non_null(strstr(spey_last_error(), "needs 6 KV blocks"));
        job.n_source = 2 * BLOCK;
        for (int i = 0; i < 5; i++)
            assert_int_equal(try_submit(&w, &job, &tickets[i]), SPEY_OK);
        int32_t left = 5;
        for (int turn = 0; left > 0 && turn < 100; turn++) {
            begin(&w);
            for (int32_t i = 0; i < w.plan.n_items; i++) {
                spey_seq_id seq = w.plan.items[i].seq;
                if (!spey_kv_cross_length(w.kv, seq))
                    assert_int_equal(spey_kv_reserve_cross(w.kv, seq, 2 * BLOCK), SPEY_OK);
            }
            finish(&w);
            spey_scheduler_counts counts = spey_scheduler_count(w.scheduler);
            left = counts.queued + counts.running + counts.paused;
            assert_true(counts.running <= 2);
            assert_int_equal(counts.pauses, 0);
        }
        assert_int_equal(left, 0);
        close_world(&w);
    }
}

static void priority_goes_first_in_the_queue_and_is_paused_last(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.policy = SPEY_MAX_UTILIZATION;
    limits.sequences_max = limits.kv.sequences_max = 2;
    limits.kv.groups[0].n_blocks = 10;
    open_world(&w, &limits);
    spey_ticket low[2], high;
    spey_job job = { .n_prompt = 4, .n_max = 28, .priority = SPEY_PRIORITY_MIN };
    assert_int_equal(try_submit(&w, &job, &low[0]), SPEY_OK);
    step(&w);
    assert_int_equal(try_submit(&w, &job, &low[1]), SPEY_OK);
    job.priority = SPEY_PRIORITY_MAX;
    assert_int_equal(try_submit(&w, &job, &high), SPEY_OK);
    begin(&w);
    assert_non_null(item_of(&w, high));
    assert_null(item_of(&w, low[1]));
    finish(&w);
    while (!spey_scheduler_count(w.scheduler).pauses)
        step(&w);
    begin(&w);
    assert_non_null(item_of(&w, high));
    assert_null(item_of(&w, low[0])); /* it began earlier, and makes room */
    finish(&w);
    close_world(&w);
}

/* ---- limits ---- */

static void what_does_not_fit_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
    world w;
    open_world(&w, &ordinary);
    spey_ticket t;
    spey_job wide = { .n_prompt = 1, .n_max = 2, .width = 5 };
    assert_int_equal(try_submit(&w, &wide, &t), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "5 sequences wanted, 4"));
    spey_job large = { .n_prompt = 60, .n_max = 300 };
    assert_int_equal(try_submit(&w, &large, &t), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "75 KV blocks"));
    for (int i = 0; i < 8; i++)
        submit(&w, 1, 1);
    spey_job small = { .n_prompt = 1, .n_max = 2 };
    assert_int_equal(try_submit(&w, &small, &t), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "queue is full: 8"));
    assert_int_equal(spey_scheduler_count(w.scheduler).queued, 8);
    int32_t n_steps;
    run(&w, &n_steps);
    assert_int_equal(try_submit(&w, &small, &t), SPEY_OK);
    close_world(&w);

    spey_scheduler_limits bad = ordinary;
    bad.step_tokens_max = 3;
    spey_scheduler *none;
    assert_int_equal(spey_scheduler_new(&bad, &none), SPEY_INVALID);
    assert_null(none);
}

static void deadlines_are_found_queued_and_running(void **state)
{
    (void)state;
    world w;
    spey_scheduler_limits limits = ordinary;
    limits.sequences_max = limits.kv.sequences_max = 1;
    open_world(&w, &limits);
    spey_ticket a, b, c;
    spey_job job = { .n_prompt = 2, .n_max = 40, .deadline_ns = 300 };
    assert_int_equal(try_submit(&w, &job, &a), SPEY_OK);
    job.deadline_ns = 200;
    assert_int_equal(try_submit(&w, &job, &b), SPEY_OK);
    job.deadline_ns = 0;
    assert_int_equal(try_submit(&w, &job, &c), SPEY_OK);
    w.now = 199;
    step(&w);
    assert_int_equal(w.plan.n_expired, 0);
    w.now = 200;
    begin(&w);
    assert_int_equal(w.plan.n_expired, 1);
    assert_int_equal(w.plan.expired[0], b);
    finish(&w);
    w.now = 301;
    begin(&w);
    assert_int_equal(w.plan.n_expired, 1);
    assert_int_equal(w.plan.expired[0], a);
    assert_null(item_of(&w, a));
    finish(&w);
    step(&w);
    assert_non_null(item_of(&w, c));
    close_world(&w);
}

/* ---- several sequences ---- */

static void sequences_share_their_prompt_and_beams_change_hands(void **state)
{
    (void)state;
    world w;
    open_world(&w, &ordinary);
    spey_ticket t;
    spey_job job = { .n_prompt = 9, .n_max = 20, .width = 3 };
    assert_int_equal(try_submit(&w, &job, &t), SPEY_OK);
    begin(&w);
    assert_int_equal(w.plan.n_items, 1); /* the trunk */
    assert_int_equal(w.plan.items[0].n_outputs, 1);
    int32_t free_blocks = spey_kv_free_blocks(w.kv);
    spey_kv_advance(w.kv, w.plan.items[0].seq, NULL, 9);
    spey_growth born[] = { { t, 0, 0, false }, { t, 1, 0, false }, { t, 2, 0, false } };
    spey_scheduler_take(w.scheduler, w.kv, &w.plan, born, 3);
    assert_int_equal(spey_kv_free_blocks(w.kv), free_blocks);
    begin(&w);
    assert_int_equal(w.plan.n_items, 3);
    spey_seq_id seqs[3];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(w.plan.items[i].index, i);
        assert_int_equal(w.plan.items[i].from, 9);
        seqs[i] = w.plan.items[i].seq;
        spey_kv_advance(w.kv, seqs[i], NULL, 1);
    }
    assert_int_equal(spey_kv_free_blocks(w.kv), free_blocks - 2); /* the third, half full block */
    spey_kv_copies_done(w.kv);
    /* 1 and 2 go on from 1, 0 from 2. */
    spey_growth beams[] = { { t, 0, 2, false }, { t, 1, 1, false }, { t, 2, 1, false } };
    spey_scheduler_take(w.scheduler, w.kv, &w.plan, beams, 3);
    begin(&w);
    assert_int_equal(w.plan.items[0].seq, seqs[2]);
    assert_int_equal(w.plan.items[1].seq, seqs[1]);
    for (int i = 0; i < 3; i++)
        spey_kv_advance(w.kv, w.plan.items[i].seq, NULL, 1);
    spey_kv_copies_done(w.kv);
    /* The first ends: the others go on, and so does who continues from it. */
    spey_growth ends[] = { { t, 0, 0, true }, { t, 1, 1, false }, { t, 2, 2, false } };
    spey_scheduler_take(w.scheduler, w.kv, &w.plan, ends, 3);
    assert_int_equal(spey_scheduler_count(w.scheduler).sequences, 2);
    begin(&w);
    assert_int_equal(w.plan.n_items, 2);
    assert_int_equal(w.plan.items[0].index, 1);
    spey_scheduler_end(w.scheduler, w.kv, t);
    assert_int_equal(spey_kv_free_blocks(w.kv), 64);
    close_world(&w);
}

/* ---- one step ahead ---- */

/* Plan, commit and launch beside what is under way. */
static void begin_into(world *w, spey_schedule *plan)
{
    spey_schedule mine = w->plan;
    w->plan = *plan;
    begin(w);
    *plan = w->plan;
    w->plan = mine;
}

static void advance(world *w, const spey_schedule *plan)
{
    for (int32_t i = 0; i < plan->n_items; i++)
        if (spey_scheduler_stores(w->scheduler, &plan->items[i]))
            spey_kv_advance(w->kv, plan->items[i].seq, NULL, plan->items[i].n_tokens);
    spey_kv_copies_done(w->kv);
}

static void a_token_under_way_counts_and_the_last_is_not_followed(void **state)
{
    (void)state;
    world w;
    spey_schedule next;
    open_world(&w, &ordinary);
    assert_int_equal(spey_schedule_init(&next, &ordinary), SPEY_OK);
    spey_ticket a = submit(&w, 5, 2), b = submit(&w, 3, 9);
    begin(&w);
    begin_into(&w, &next); /* both decode what nobody knows yet */
    assert_int_equal(next.n_items, 2);
    assert_int_equal(next.items[0].from, 5);
    assert_int_equal(next.items[0].n_outputs, 1);
    assert_int_equal(next.items[1].from, 3);
    assert_int_equal(next.n_prefill_tokens, 0);
    assert_int_equal(spey_scheduler_check(w.scheduler, w.kv), SPEY_OK);
    assert_int_equal(spey_scheduler_progress(w.scheduler, a).n_done, 0);
    finish(&w);
    assert_int_equal(spey_scheduler_progress(w.scheduler, a).n_done, 5);
    begin(&w); /* a's second token is its last */
    assert_null(item_of(&w, a));
    assert_int_equal(item_of(&w, b)->from, 4);
    advance(&w, &next);
    spey_growth grown[] = { { a, 0, 0, true }, { b, 0, 0, false } };
    spey_scheduler_take(w.scheduler, w.kv, &next, grown, 2);
    spey_scheduler_end(w.scheduler, w.kv, a);
    assert_int_equal(spey_scheduler_check(w.scheduler, w.kv), SPEY_OK);
    spey_schedule_deinit(&next);
    close_world(&w);
}

static void what_ended_is_not_served_even_by_its_ticket(void **state)
{
    (void)state;
    world w;
    spey_schedule next;
    open_world(&w, &ordinary);
    assert_int_equal(spey_schedule_init(&next, &ordinary), SPEY_OK);
    spey_ticket a = submit(&w, 5, 20);
    begin(&w);
    begin_into(&w, &next);
    advance(&w, &w.plan);
    spey_growth end = { a, 0, 0, true };
    spey_scheduler_take(w.scheduler, w.kv, &w.plan, &end, 1);
    spey_scheduler_end(w.scheduler, w.kv, a);
    assert_int_equal(spey_kv_free_blocks(w.kv), 64); /* the token too many has no block */
    assert_int_equal(submit(&w, 7, 20), a);
    begin(&w);
    assert_int_equal(w.plan.items[0].seq, next.items[0].seq); /* even the cache's place */
    assert_false(spey_scheduler_serves(w.scheduler, &next.items[0]));
    assert_false(spey_scheduler_stores(w.scheduler, &next.items[0]));
    spey_scheduler_take(w.scheduler, w.kv, &next, NULL, 0);
    assert_int_equal(spey_scheduler_check(w.scheduler, w.kv), SPEY_OK);
    finish(&w);
    spey_schedule_deinit(&next);
    close_world(&w);
}

static void what_was_paused_hears_what_was_under_way(void **state)
{
    (void)state;
    world w;
    spey_schedule next;
    spey_scheduler_limits limits = ordinary;
    limits.policy = SPEY_MAX_UTILIZATION;
    limits.kv.groups[0].n_blocks = 5;
    open_world(&w, &limits);
    assert_int_equal(spey_schedule_init(&next, &limits), SPEY_OK);
    spey_ticket a = submit(&w, 4, 12), b = submit(&w, 4, 12);
    bool heard = false;
    while (spey_scheduler_count(w.scheduler).paused == 0) {
        begin(&w);
        begin_into(&w, &next);
        bool paused = spey_scheduler_count(w.scheduler).paused;
        const spey_schedule_item *item = item_of(&w, b);
        if (item && paused) {
            assert_true(spey_scheduler_serves(w.scheduler, item));
            assert_false(spey_scheduler_stores(w.scheduler, item));
            heard = true;
        }
        for (int turn = 0; turn < 2; turn++) {
            const spey_schedule *plan = turn ? &next : &w.plan;
            spey_growth grown[2];
            int32_t n = 0;
            advance(&w, plan);
            for (int32_t i = 0; i < plan->n_items; i++)
                if (plan->items[i].counts_token)
                    grown[n++] = (spey_growth){ .ticket = plan->items[i].ticket };
            spey_scheduler_take(w.scheduler, w.kv, plan, grown, n);
            assert_int_equal(spey_scheduler_check(w.scheduler, w.kv), SPEY_OK);
        }
    }
    assert_true(heard);
    assert_true(spey_scheduler_progress(w.scheduler, b).paused);
    assert_false(spey_scheduler_progress(w.scheduler, a).paused);
    spey_schedule_deinit(&next);
    close_world(&w);
}

static void a_window_may_need_a_block_for_what_is_under_way(void **state)
{
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        spey_scheduler_limits limits = ordinary;
        limits.ahead = ahead;
        limits.kv.groups[0].window = BLOCK + 1; /* in two blocks; with one more token, in three */
        limits.kv.groups[0].n_blocks = 2;
        world w;
        open_world(&w, &limits);
        spey_ticket ticket;
        spey_job job = { .n_prompt = 1, .n_max = 30 };
        assert_int_equal(try_submit(&w, &job, &ticket), ahead ? SPEY_LIMIT : SPEY_OK);
        for (int i = 0; i < 29 && !ahead; i++)
            step(&w);
        close_world(&w);
    }
}

/* ---- memory ---- */

static void turns_allocate_nothing(void **state)
{
    (void)state;
    world w;
    open_world(&w, &ordinary);
    spey_alloc_seal(true);
    for (int i = 0; i < 8; i++)
        submit(&w, 3 + i, 7);
    int32_t n_steps;
    run(&w, &n_steps);
    spey_alloc_seal(false);
    close_world(&w);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_alloc_fail_nth(nth);
        spey_scheduler *scheduler;
        spey_schedule plan = { 0 };
        status = spey_scheduler_new(&ordinary, &scheduler);
        if (!status) status = spey_schedule_init(&plan, &ordinary);
        spey_alloc_fail_nth(0);
        spey_schedule_deinit(&plan);
        spey_scheduler_free(scheduler);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_true(nth < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_prompts_share_a_step_and_a_long_one_is_cut_at_a_block),
        cmocka_unit_test(latency_mode_bounds_the_prompt_tokens_beside_decodes),
        cmocka_unit_test(rows_of_a_whole_prompt_come_as_fast_as_there_is_room_for_them),
        cmocka_unit_test(no_evict_admits_what_fits_at_the_peak_to_come),
        cmocka_unit_test(admissions_are_paced_when_more_come_than_the_pool_holds),
        cmocka_unit_test(what_is_paused_comes_back_from_host_memory),
        cmocka_unit_test(max_utilization_pauses_the_newest_and_resumes_it),
        cmocka_unit_test(a_static_batch_waits_for_its_longest),
        cmocka_unit_test(one_tenants_thousand_requests_do_not_starve_anothers_one),
        cmocka_unit_test(tenants_share_by_tokens_not_by_requests),
        cmocka_unit_test(inputs_of_an_encoder_are_admitted_as_they_fit),
        cmocka_unit_test(priority_goes_first_in_the_queue_and_is_paused_last),
        cmocka_unit_test(what_does_not_fit_is_refused_and_leaves_nothing),
        cmocka_unit_test(deadlines_are_found_queued_and_running),
        cmocka_unit_test(sequences_share_their_prompt_and_beams_change_hands),
        cmocka_unit_test(a_token_under_way_counts_and_the_last_is_not_followed),
        cmocka_unit_test(what_ended_is_not_served_even_by_its_ticket),
        cmocka_unit_test(what_was_paused_hears_what_was_under_way),
        cmocka_unit_test(a_window_may_need_a_block_for_what_is_under_way),
        cmocka_unit_test(turns_allocate_nothing),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
