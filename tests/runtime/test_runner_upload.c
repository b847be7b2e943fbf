/* What goes up to a device with memory of its own, "fake" (fake_device.c), against a runner that sends everything.
 *
 *   test_runner_upload [SEEDS [FIRST]]     so many random schedules, from that one on */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/runner_body.h"
#include "tiny_engine.h"

enum { VOCAB = 50, HIDDEN = 32, ROWS = 3, CONTEXT = 64, SEQUENCES = 256 };

static long n_seeds = 36, first_seed = 1;

/* ---- a backend that counts, and fails ---- */

static const spey_backend *fake;
static uint64_t n_uploads, n_uploaded, n_patched;
static int fails_in; /* so many uploads and patches from now; 0: never */

static spey_status fail_in_time(void)
{
    if (!fails_in || --fails_in) return SPEY_OK;
    return SPEY_FAIL(SPEY_DEVICE, "this one fails");
}

static spey_status counting_upload(spey_device *device, void *dst, const void *host, size_t bytes)
{
    SPEY_TRY(fail_in_time());
    n_uploads++;
    n_uploaded += bytes;
    return fake->upload(device, dst, host, bytes);
}

static spey_status counting_run(spey_device *device, const spey_step *steps, int n_steps)
{
    if (!strcmp(steps[0].kernel->name, "patch/ref")) {
        SPEY_TRY(fail_in_time());
        n_patched += (uint64_t)((const spey_patch_args *)steps[0].args)->rows;
    }
    return fake->run(device, steps, n_steps);
}

static void count_uploads(spey_runner *runner)
{
    static spey_backend counting;
    fake = runner->program.backend;
    counting = *fake;
    counting.upload = counting_upload;
    counting.run = counting_run;
    runner->program.backend = &counting;
}

/* ---- two runners in step ---- */

typedef struct member {
    spey_seq_id seq;       /* -1: not there */
    int32_t n_flying;      /* submitted and not advanced */
    int32_t row;           /* the last of them has in the newest step; -1: none */
    int64_t length;        /* with them */
    bool waits, has_table; /* it is in the newest step, which is under way */
} member;

typedef struct turn {
    int32_t n[SEQUENCES]; /* tokens of each member */
} turn;

typedef struct world {
    spey_engine_file *file;
    spey_runner *runners[2]; /* the first sends what differs, the other everything */
    spey_rng rng;
    member members[SEQUENCES];
    int32_t order[SEQUENCES]; /* of members in a step */
    turn turns[FLIGHTS_MAX];
    int chunk_max; /* tokens of a prompt in a step */
    bool follows;  /* something may follow what is under way */
    float table_rows[ROWS][HIDDEN];
    spey_prompt_rows table;
} world;

static int below(world *w, int n)
{
    return (int)spey_rng_below(&w->rng, (uint64_t)n);
}

static void open_world(world *w, const tiny_shape *shape, const spey_limits_plan *limits)
{
    memset(w, 0, sizeof *w);
    assert_int_equal(tiny_engine_new(shape, &w->file), SPEY_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(spey_runner_new(w->file, limits, &w->runners[i]), SPEY_OK);
    assert_non_null(w->runners[0]->mirror);
    spey_free(w->runners[1]->mirror);
    w->runners[1]->mirror = NULL;
    count_uploads(w->runners[0]);
    w->chunk_max = 12;
    for (int i = 0; i < SEQUENCES; i++) {
        w->members[i].seq = -1;
        w->order[i] = i;
    }
    for (int i = 0; i < ROWS * HIDDEN; i++)
        w->table_rows[i / HIDDEN][i % HIDDEN] = (float)i / 50;
    w->table = (spey_prompt_rows){ w->table_rows, SPEY_F32, ROWS, HIDDEN };
}

static void close_world(world *w)
{
    for (int i = 0; i < 2; i++)
        spey_runner_free(w->runners[i]);
    spey_engine_file_close(w->file);
}

static int under_way(const world *w)
{
    return spey_runner_under_way(w->runners[0]);
}

/* End the oldest step: both found the same. */
static void end_turn(world *w)
{
    spey_step_rows rows[2];
    const uint64_t number = w->runners[0]->n_waited;
    const step_flight *f =
        &w->runners[0]->flights[number % (uint64_t)runner_n_flights(w->runners[0])];
    for (int i = 0; i < 2; i++)
        assert_int_equal(spey_runner_wait(w->runners[i], &rows[i]), SPEY_OK);
    const size_t n = (size_t)f->n_outputs;
    if (rows[0].ids)
        assert_memory_equal(rows[0].ids, rows[1].ids, n * sizeof(int32_t));
    else if (n)
        assert_memory_equal(rows[0].logits, rows[1].logits, n * VOCAB * sizeof(float));
    turn *t = &w->turns[number % FLIGHTS_MAX];
    for (int m = 0; m < SEQUENCES; m++) {
        if (!t->n[m] || w->members[m].seq < 0) continue;
        for (int i = 0; i < 2; i++)
            spey_kv_advance(spey_runner_kv(w->runners[i]), w->members[m].seq, NULL, t->n[m]);
        w->members[m].n_flying -= t->n[m];
        if (!under_way(w)) w->members[m].waits = false;
    }
    memset(t, 0, sizeof *t);
}

static void open_member(world *w, int m)
{
    int32_t ids[5];
    member *of = &w->members[m];
    *of = (member){ .row = -1, .has_table = w->runners[0]->prompt_rows.data && !below(w, 3) };
    while (w->runners[0]->program.has_encoder && under_way(w))
        end_turn(w);
    for (int i = 0; i < 2; i++) {
        spey_seq_id seq;
        assert_int_equal(spey_kv_open(spey_runner_kv(w->runners[i]), &seq), SPEY_OK);
        assert_true(i == 0 || seq == of->seq);
        of->seq = seq;
    }
    if (!w->runners[0]->program.has_encoder) return;
    const spey_step_seq input = { .seq = of->seq, .ids = ids, .n_ids = 1 + below(w, 5) };
    for (int i = 0; i < 5; i++)
        ids[i] = below(w, VOCAB);
    for (int i = 0; i < 2; i++)
        assert_int_equal(spey_runner_encode(w->runners[i], &input, 1), SPEY_OK);
}

/* What is under way of it is dropped. */
static void close_member(world *w, int m)
{
    for (int i = 0; i < 2; i++)
        spey_kv_close(spey_runner_kv(w->runners[i]), w->members[m].seq);
    w->members[m] = (member){ .seq = -1 };
    for (int t = 0; t < FLIGHTS_MAX; t++)
        w->turns[t].n[m] = 0;
}

/* ---- what the devices have ---- */

static void compare(const int32_t *a, const int32_t *b, int64_t n)
{
    assert_memory_equal(a, b, (size_t)n * sizeof(int32_t));
}

static void compare_blocks(const world *w, const spey_step_seq *seqs, int n_seqs)
{
    const spey_ragged *a = &w->runners[0]->batch, *b = &w->runners[1]->batch;
    const spey_kv_cache *kv = w->runners[0]->kv;
    for (int g = 0; g < w->runners[0]->layout.kv.n_groups; g++) {
        const bool cross = w->runners[0]->layout.kv.groups[g].kind == SPEY_KV_CROSS;
        for (int s = 0; s < n_seqs; s++) {
            const int64_t at = s * a->groups[g].pitch,
                          first = spey_kv_first_block(kv, g, seqs[s].seq);
            const int64_t length = cross ? a->source_len[s] : a->kv_len[s];
            const int64_t end = spey_kv_blocks_for(kv, g, length);
            int64_t n;
            const int32_t *blocks = spey_kv_blocks(kv, g, seqs[s].seq, &n);
            assert_true(first < end && end <= n);
            compare(a->groups[g].blocks + at + first, blocks + first, end - first);
            compare(b->groups[g].blocks + at + first, blocks + first, end - first);
        }
    }
}

/* The arrays of the step that was submitted last, as its kernels read them. */
static void compare_devices(const world *w, const spey_step_seq *seqs, int n_seqs)
{
    const spey_runner *r = w->runners[0];
    const spey_ragged *a = &r->batch, *b = &w->runners[1]->batch;
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_seqs, n_seqs);
    compare(a->ids, b->ids, a->n_tokens);
    compare(a->positions, b->positions, a->n_tokens);
    compare(a->token_seq, b->token_seq, a->n_tokens);
    compare(a->seq_start, b->seq_start, n_seqs + 1);
    compare(a->kv_len, b->kv_len, n_seqs);
    if (a->source_len) compare(a->source_len, b->source_len, n_seqs);
    compare(a->output_rows, b->output_rows, a->n_outputs);
    compare_blocks(w, seqs, n_seqs);
    const step_flight *f = &r->flights[(r->n_submitted - 1) % (uint64_t)runner_n_flights(r)];
    if (f->has_rules)
        assert_memory_equal(r->sample.rules, w->runners[1]->sample.rules,
                            (size_t)f->n_outputs * sizeof(spey_sample_rule));
}

/* ---- a step ---- */

typedef struct request {
    spey_step_seq seqs[SEQUENCES];
    spey_step_link links[SEQUENCES];
    int32_t ids[SEQUENCES][CONTEXT];
    int n_seqs, n_outputs, n_tokens;
} request;

/* A step's tokens of one member, if it has any. */
static void add_member(world *w, int m, bool steady, request *q)
{
    member *of = &w->members[m];
    const bool linked = of->waits && of->row >= 0;
    const int64_t room = CONTEXT - of->length;
    if (of->seq < 0 || room < 1 || (linked && !w->follows)) return;
    const bool token = linked || steady || (of->length && below(w, 4));
    int32_t n = token ? 1 : 1 + below(w, (int)(room < w->chunk_max ? room : w->chunk_max));
    spey_step_seq *s = &q->seqs[q->n_seqs];
    for (int32_t i = 0; i < n; i++)
        q->ids[q->n_seqs][i] = below(w, VOCAB + (of->has_table ? ROWS : 0));
    *s = (spey_step_seq){ of->seq, linked ? NULL : q->ids[q->n_seqs], n,
                          steady || below(w, 5) ? 1 : 0, of->has_table ? &w->table : NULL };
    q->links[q->n_seqs] = (spey_step_link){ of->n_flying, linked ? of->row : -1 };
    q->n_outputs += s->n_outputs;
    q->n_tokens += n;
    q->n_seqs++;
    of->row = s->n_outputs ? q->n_outputs - 1 : -1;
    of->waits = true;
    of->n_flying += n;
    of->length += n;
    w->turns[w->runners[0]->n_submitted % FLIGHTS_MAX].n[m] = n;
}

/* The same for both. */
static void write_rules(world *w, int n, uint64_t index, spey_rule_page pages[2])
{
    for (int i = 0; i < 2; i++)
        assert_true(spey_runner_rule_page(w->runners[i], &pages[i]));
    for (int r = 0; r < n; r++) {
        const spey_sample_rule rule = { .seed = 7 + (uint64_t)r,
                                        .index = index,
                                        .top_p = 0.9,
                                        .repetition = 1,
                                        .slope = 0.5f,
                                        .kind = SPEY_SAMPLE_DRAW,
                                        .mask = -1,
                                        .ids = (int32_t)pages[0].n_ids,
                                        .n_banned = r % 3 == 0 };
        const int32_t banned = below(w, VOCAB);
        for (int i = 0; i < 2; i++) {
            pages[i].rules[r] = rule;
            if (rule.n_banned) pages[i].ids[pages[i].n_ids++] = banned;
        }
    }
}

typedef enum kind { LOGITS, BEST, RULES } kind; /* what it brings */

static void submit(world *w, const request *q, kind brings)
{
    spey_rule_page pages[2] = { { 0 } };
    if (brings == RULES) write_rules(w, q->n_outputs, w->runners[0]->n_submitted, pages);
    for (int i = 0; i < 2; i++) {
        const spey_submission s = { .seqs = q->seqs,
                                    .links = q->links,
                                    .n_seqs = q->n_seqs,
                                    .best = brings == BEST,
                                    .page = brings == RULES ? &pages[i] : NULL };
        spey_status status = spey_runner_submit(w->runners[i], &s);
        if (status == SPEY_DEVICE && i == 0) status = spey_runner_submit(w->runners[i], &s);
        if (status) print_error("%s\n", spey_last_error());
        assert_int_equal(status, SPEY_OK);
    }
    w->follows = brings != LOGITS;
    compare_devices(w, q->seqs, q->n_seqs);
}

/* Members come, go, and change places; most steps just go on. */
static void random_turn(world *w, int n_members, bool fails)
{
    static request q;
    q.n_seqs = q.n_outputs = q.n_tokens = 0;
    const bool steady = below(w, 3) > 0;
    const kind kinds[] = { LOGITS, BEST, BEST, RULES, RULES, RULES };
    for (int i = 0; !steady && i < 3; i++) {
        const int m = below(w, n_members), k = below(w, n_members);
        const int32_t other = w->order[m];
        if (w->members[m].seq < 0)
            open_member(w, m);
        else if (w->members[m].length == CONTEXT || !below(w, 6))
            close_member(w, m);
        w->order[m] = w->order[k];
        w->order[k] = other;
    }
    const bool waits = !w->follows || under_way(w) == runner_n_flights(w->runners[0]);
    while (under_way(w) && (waits || !below(w, 4)))
        end_turn(w);
    for (int m = 0; m < n_members; m++)
        if (!under_way(w)) w->members[m].waits = false;
    for (int i = 0; i < n_members; i++)
        if (steady || below(w, 4)) add_member(w, w->order[i], steady, &q);
    fails_in = fails && !below(w, 4) ? 1 + below(w, 2) : 0;
    if (q.n_seqs) submit(w, &q, q.n_outputs ? kinds[below(w, 6)] : BEST);
    fails_in = 0;
}

static void run_schedule(long seed)
{
    static world w;
    tiny_shape shape = tiny_default;
    shape.two_groups = seed % 2;
    shape.window = seed % 2 ? 6 : 0;
    shape.scans = seed % 3 == 2;
    shape.encodes = seed % 5 == 4;
    if (shape.encodes) shape.scans = shape.two_groups = false;
    const bool ahead = seed % 4 > 0, tables = seed % 3 == 1 && !shape.encodes;
    const int n_members = 1 + (int)(seed % 9);
    const spey_limits_plan limits = { .device = "fake:0",
                                      .threads = 1,
                                      .sequences_max = n_members,
                                      .outputs_max = 12,
                                      .step_tokens_max = 120,
                                      .sequence_tokens_max = CONTEXT,
                                      .kv_block_tokens = 4,
                                      .prompt_table_tokens_max = tables ? ROWS : 0,
                                      .ahead = ahead ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF };
    open_world(&w, &shape, &limits);
    w.rng = (spey_rng){ .seed = (uint64_t)seed };
    for (int i = 0; i < 120; i++)
        random_turn(&w, n_members, !ahead);
    while (under_way(&w))
        end_turn(&w);
    close_world(&w);
}

static void any_schedule_leaves_on_the_device_what_a_whole_upload_does(void **state)
{
    (void)state;
    for (long seed = first_seed; seed < first_seed + n_seeds; seed++) {
        print_message("seed %ld\n", seed);
        run_schedule(seed);
    }
    assert_true(n_patched > 0);
}

/* ---- bytes ---- */

/* All decode, each in its place, one step after the other queued behind it. With rules also the number of the draw
 * changes, and what is banned. */
static void decode_and_count(bool rules)
{
    static world w;
    static request q;
    tiny_shape shape = tiny_default;
    const spey_limits_plan limits = { .device = "fake:0",
                                      .threads = 1,
                                      .sequences_max = SEQUENCES,
                                      .step_tokens_max = 2 * SEQUENCES,
                                      .sequence_tokens_max = CONTEXT,
                                      .kv_block_tokens = 16 };
    open_world(&w, &shape, &limits);
    w.rng = (spey_rng){ .seed = 5 };
    for (int m = 0; m < SEQUENCES; m++)
        open_member(&w, m);
    for (int i = 0; i < 20; i++) {
        q.n_seqs = q.n_outputs = q.n_tokens = 0;
        if (under_way(&w) == FLIGHTS_MAX) end_turn(&w);
        for (int m = 0; m < SEQUENCES; m++)
            add_member(&w, m, true, &q);
        assert_int_equal(q.n_seqs, SEQUENCES);
        n_uploads = n_uploaded = 0;
        w.follows = true;
        submit(&w, &q, rules ? RULES : BEST);
        const uint64_t changed = i % 16 ? 2 : 3; /* a position, a length, a block */
        if (i > 2 && !rules) assert_int_equal(n_uploads, 1);
        if (i > 2 && !rules) assert_int_equal(n_uploaded, changed * SEQUENCES * sizeof(spey_patch));
        if (i > 2)
            assert_in_range(n_uploaded, 1, (changed + 1) * SEQUENCES * sizeof(spey_patch) + 512);
    }
    while (under_way(&w))
        end_turn(&w);
    close_world(&w);
}

static void a_steady_step_of_256_sequences_sends_a_few_kilobytes(void **state)
{
    (void)state;
    decode_and_count(false);
    decode_and_count(true);
}

static void large_steps_go_up_whole(void **state)
{
    (void)state;
    static world w;
    static request q;
    const spey_limits_plan limits = { .device = "fake:0",
                                      .threads = 1,
                                      .sequences_max = SEQUENCES,
                                      .step_tokens_max = CONTEXT * SEQUENCES,
                                      .sequence_tokens_max = CONTEXT,
                                      .kv_block_tokens = 16 };
    open_world(&w, &tiny_default, &limits);
    w.rng = (spey_rng){ .seed = 6 };
    w.chunk_max = 40;
    for (int i = 0; i < 6; i++) {
        q.n_seqs = q.n_outputs = q.n_tokens = 0;
        while (under_way(&w))
            end_turn(&w);
        for (int m = 0; m < SEQUENCES; m++) {
            if (i % 2 == 0 && i) close_member(&w, m);
            if (i % 2 == 0) open_member(&w, m);
            add_member(&w, m, i % 2 > 0, &q);
            w.members[m].waits = false;
        }
        n_patched = 0;
        submit(&w, &q, BEST);
        assert_int_equal(n_patched > 0, i % 2 > 0);
    }
    while (under_way(&w))
        end_turn(&w);
    close_world(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_schedule_leaves_on_the_device_what_a_whole_upload_does),
        cmocka_unit_test(a_steady_step_of_256_sequences_sends_a_few_kilobytes),
        cmocka_unit_test(large_steps_go_up_whole),
    };
    if (argc > 1) n_seeds = strtol(argv[1], NULL, 10);
    if (argc > 2) first_seed = strtol(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
