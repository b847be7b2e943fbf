#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/runner.h"
#include "tiny_engine.h"

/* Sequences of these tests: fixed ids, any vocabulary from 50 on. */
enum { VOCAB = 50, LONGEST = 40 };

static void make_ids(uint64_t seed, int32_t ids[LONGEST])
{
    spey_rng rng = { .seed = seed };
    for (int i = 0; i < LONGEST; i++)
        ids[i] = (int32_t)spey_rng_below(&rng, VOCAB);
}

typedef struct fixture {
    spey_engine_file *file;
    spey_runner *runner;
} fixture;

static fixture open_runner(const tiny_shape *shape, spey_limits_plan limits)
{
    fixture f = { 0 };
    if (!limits.threads) limits.threads = 2;
    assert_int_equal(tiny_engine_new(shape, &f.file), SPEY_OK);
    spey_status status = spey_runner_new(f.file, &limits, &f.runner);
    if (status != SPEY_OK) print_error("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    return f;
}

static void close_runner(fixture *f)
{
    spey_runner_free(f->runner);
    spey_engine_file_close(f->file);
}

/* All steps of these tests run sealed: an allocation aborts. */
static spey_status step(fixture *f, const spey_step_seq *seqs, int n, float **logits)
{
    spey_alloc_seal(true);
    spey_status status = spey_runner_step(f->runner, seqs, n, logits);
    spey_alloc_seal(false);
    return status;
}

static spey_seq_id open_sequence(fixture *f)
{
    spey_seq_id seq;
    assert_int_equal(spey_kv_open(spey_runner_kv(f->runner), &seq), SPEY_OK);
    return seq;
}

/* Logits of all n ids of one new sequence, fed `chunk` at a time, into out[n][VOCAB]. */
static void run_alone(fixture *f, const int32_t *ids, int32_t n, int32_t chunk, float *out)
{
    spey_seq_id seq = open_sequence(f);
    for (int32_t at = 0; at < n; at += chunk) {
        int32_t n_ids = n - at < chunk ? n - at : chunk;
        const spey_step_seq s = { .seq = seq, .ids = ids + at, .n_ids = n_ids, .n_outputs = n_ids };
        float *logits;
        spey_status status = step(f, &s, 1, &logits);
        if (status != SPEY_OK) print_error("%s\n", spey_last_error());
        assert_int_equal(status, SPEY_OK);
        memcpy(out + (int64_t)at * VOCAB, logits, (size_t)n_ids * VOCAB * sizeof(float));
    }
    assert_int_equal(spey_kv_length(spey_runner_kv(f->runner), seq), n);
    assert_int_equal(spey_kv_check(spey_runner_kv(f->runner)), SPEY_OK);
    spey_kv_close(spey_runner_kv(f->runner), seq);
}

static const spey_limits_plan wide = { .sequences_max = 3, .outputs_max = LONGEST };

static void logits_are_finite_and_not_all_the_same(void **state)
{
    (void)state;
    fixture f = open_runner(&tiny_default, wide);
    int32_t ids[LONGEST];
    static float logits[LONGEST][VOCAB];
    make_ids(1, ids);
    run_alone(&f, ids, LONGEST, LONGEST, logits[0]);
    for (int i = 0; i < LONGEST; i++)
        for (int j = 0; j < VOCAB; j++)
            assert_true(logits[i][j] > -100 && logits[i][j] < 100);
    assert_memory_not_equal(logits[0], logits[1], sizeof(logits[0]));
    close_runner(&f);
}

static void chunks_give_the_same_bits(void **state)
{
    (void)state;
    static float whole[LONGEST][VOCAB], parts[LONGEST][VOCAB];
    static const spey_dtype dtypes[] = { SPEY_F32, SPEY_BF16, SPEY_F16 };
    int32_t ids[LONGEST];
    make_ids(2, ids);
    for (int d = 0; d < 3; d++) {
        tiny_shape shape = tiny_default;
        shape.dtype = dtypes[d];
        shape.two_groups = d == 1;
        fixture f = open_runner(&shape, wide);
        run_alone(&f, ids, LONGEST, LONGEST, whole[0]);
        for (int32_t chunk = 1; chunk < LONGEST; chunk += 6) {
            run_alone(&f, ids, LONGEST, chunk, parts[0]);
            assert_memory_equal(whole, parts, sizeof(whole));
        }
        close_runner(&f);
    }
}

static void the_number_of_threads_changes_no_bit(void **state)
{
    (void)state;
    static float one[LONGEST][VOCAB], more[LONGEST][VOCAB];
    int32_t ids[LONGEST];
    make_ids(3, ids);
    for (int threads = 1; threads <= 3; threads++) {
        spey_limits_plan limits = wide;
        limits.threads = threads;
        fixture f = open_runner(&tiny_default, limits);
        run_alone(&f, ids, LONGEST, 7, threads == 1 ? one[0] : more[0]);
        if (threads > 1) assert_memory_equal(one, more, sizeof(one));
        close_runner(&f);
    }
}

static void block_size_and_in_place_change_no_bit(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB], got[LONGEST][VOCAB];
    static const int32_t blocks[] = { 32, 1, 7, 16, 64, 32 };
    int32_t ids[LONGEST];
    make_ids(4, ids);
    for (int i = 0; i < 6; i++) {
        spey_limits_plan limits = wide;
        limits.kv_block_tokens = blocks[i];
        limits.no_in_place = i == 5;
        fixture f = open_runner(&tiny_default, limits);
        run_alone(&f, ids, LONGEST, 9, i ? got[0] : wanted[0]);
        if (i) assert_memory_equal(wanted, got, sizeof(wanted));
        close_runner(&f);
    }
}

static void a_batch_gives_each_sequence_its_own_bits(void **state)
{
    (void)state;
    static float alone[3][LONGEST][VOCAB];
    int32_t ids[3][LONGEST], at[3] = { 0 };
    const int32_t lengths[3] = { 40, 23, 31 };
    fixture f = open_runner(&tiny_default, wide);
    spey_seq_id seqs[3];
    for (int s = 0; s < 3; s++) {
        make_ids(10 + (uint64_t)s, ids[s]);
        run_alone(&f, ids[s], lengths[s], LONGEST, alone[s][0]);
    }
    for (int s = 0; s < 3; s++)
        seqs[s] = open_sequence(&f);
    /* Rounds of unequal pieces, in changing order; the last outputs only. */
    spey_rng rng = { .seed = 5 };
    for (;;) {
        spey_step_seq batch[3];
        int order = (int)spey_rng_below(&rng, 3), n = 0, rows = 0;
        for (int i = 0; i < 3; i++) {
            int s = (order + i) % 3;
            int32_t left = lengths[s] - at[s];
            int32_t n_ids = (int32_t)spey_rng_below(&rng, 9);
            if (n_ids > left) n_ids = left;
            if (!n_ids) continue;
            int32_t n_outputs = (int32_t)spey_rng_below(&rng, (uint64_t)n_ids + 1);
            batch[n++] = (spey_step_seq){
                .seq = seqs[s], .ids = ids[s] + at[s], .n_ids = n_ids, .n_outputs = n_outputs
            };
        }
        if (at[0] + at[1] + at[2] == lengths[0] + lengths[1] + lengths[2]) break;
        if (!n) continue;
        float *logits;
        assert_int_equal(step(&f, batch, n, &logits), SPEY_OK);
        for (int i = 0; i < n; i++) {
            int s = 0;
            while (seqs[s] != batch[i].seq)
                s++;
            at[s] += batch[i].n_ids;
            for (int32_t k = 0; k < batch[i].n_outputs; k++, rows++)
                assert_memory_equal(alone[s][at[s] - batch[i].n_outputs + k],
                                    logits + (int64_t)rows * VOCAB, sizeof(alone[0][0]));
        }
        assert_int_equal(spey_kv_check(spey_runner_kv(f.runner)), SPEY_OK);
    }
    close_runner(&f);
}

static void truncated_tokens_leave_no_trace(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB];
    int32_t ids[LONGEST], other[LONGEST];
    make_ids(6, ids);
    make_ids(7, other);
    fixture f = open_runner(&tiny_default, wide);
    run_alone(&f, ids, LONGEST, LONGEST, wanted[0]);
    spey_seq_id seq = open_sequence(&f);
    float *logits;
    const spey_step_seq first = { seq, ids, 10, 0, NULL }, wrong = { seq, other, 25, 1, NULL },
                        rest = { seq, ids + 10, 30, 30, NULL };
    assert_int_equal(step(&f, &first, 1, &logits), SPEY_OK);
    assert_int_equal(step(&f, &wrong, 1, &logits), SPEY_OK);
    assert_int_equal(spey_kv_truncate(spey_runner_kv(f.runner), seq, 10), SPEY_OK);
    assert_int_equal(step(&f, &rest, 1, &logits), SPEY_OK);
    assert_memory_equal(logits, wanted[10], 30 * sizeof(wanted[0]));
    close_runner(&f);
}

/* Blocks of a window group are used over and over, by a sequence much longer than they are. */
static void windows_give_the_same_bits_in_a_small_pool(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB], got[LONGEST][VOCAB];
    int32_t ids[LONGEST];
    make_ids(14, ids);
    tiny_shape shape = tiny_default;
    shape.two_groups = true;
    shape.window = 3;
    fixture f = open_runner(&shape, wide);
    run_alone(&f, ids, LONGEST, LONGEST, wanted[0]);
    close_runner(&f);
    spey_limits_plan limits = { .step_tokens_max = 4, .outputs_max = 4, .kv_block_tokens = 1 };
    f = open_runner(&shape, limits);
    assert_int_equal(spey_runner_get_plan(f.runner)->kv_groups[1].n_blocks, 3 + 16 + 2 + 4);
    for (int32_t chunk = 1; chunk <= 4; chunk++) {
        run_alone(&f, ids, LONGEST, chunk, got[0]);
        assert_memory_equal(wanted, got, sizeof(wanted));
    }
    close_runner(&f);
}

/* A sequence is cut in two: both go on from the same tokens, with other ones. */
static void forks_go_their_own_ways(void **state)
{
    (void)state;
    static float wanted[2][LONGEST][VOCAB];
    int32_t ids[2][LONGEST];
    enum { COMMON = 21 };
    for (int s = 0; s < 2; s++)
        make_ids(20 + (uint64_t)s, ids[s]);
    memcpy(ids[1], ids[0], COMMON * sizeof(int32_t));
    for (int kind = 0; kind < 4; kind++) {
        tiny_shape shape = tiny_default;
        shape.two_groups = kind == 1;
        shape.window = 6;
        shape.scans = kind == 2;
        spey_limits_plan limits = wide;
        limits.kv_block_tokens = 8;
        limits.device = kind == 3 ? "fake:0" : NULL;
        fixture f = open_runner(&shape, limits);
        spey_kv_cache *kv = spey_runner_kv(f.runner);
        for (int s = 0; s < 2; s++)
            run_alone(&f, ids[s], LONGEST, LONGEST, wanted[s][0]);
        spey_seq_id seqs[2] = { open_sequence(&f), -1 };
        float *logits;
        const spey_step_seq common = { seqs[0], ids[0], COMMON, 0, NULL };
        assert_int_equal(step(&f, &common, 1, &logits), SPEY_OK);
        assert_int_equal(spey_kv_fork(kv, seqs[0], &seqs[1]), SPEY_OK);
        for (int i = COMMON; i < LONGEST; i++) {
            const spey_step_seq next[2] = { { seqs[0], &ids[0][i], 1, 1, NULL },
                                            { seqs[1], &ids[1][i], 1, 1, NULL } };
            assert_int_equal(step(&f, next, 2, &logits), SPEY_OK);
            for (int s = 0; s < 2; s++)
                assert_memory_equal(logits + s * VOCAB, wanted[s][i], sizeof(wanted[s][i]));
            assert_int_equal(spey_kv_check(kv), SPEY_OK);
        }
        close_runner(&f);
    }
}

/* Sequences that push each other's blocks out of the pools, and come back; there is room for one in them. */
static void blocks_come_back_from_host_memory(void **state)
{
    (void)state;
    enum { SEQS = 4 };
    static float wanted[SEQS][LONGEST][VOCAB];
    int32_t ids[SEQS][LONGEST];
    for (int s = 0; s < SEQS; s++)
        make_ids(30 + (uint64_t)s, ids[s]);
    for (int kind = 0; kind < 3; kind++) {
        tiny_shape shape = tiny_default;
        shape.two_groups = kind > 0;
        shape.window = 6;
        spey_limits_plan limits = { .outputs_max = LONGEST,
                                    .kv_block_tokens = 4,
                                    .kv_host_bytes = 1 << 20,
                                    .device = kind == 2 ? "fake:0" : NULL };
        fixture f = open_runner(&shape, limits);
        spey_kv_cache *kv = spey_runner_kv(f.runner);
        for (int turn = 0; turn < 3 * SEQS; turn++) {
            int s = turn % SEQS;
            const spey_kv_key key = { .ids = ids[s], .n = LONGEST };
            int64_t n;
            float *logits;
            if (turn < SEQS) run_alone(&f, ids[s], LONGEST, LONGEST, wanted[s][0]);
            spey_seq_id seq = open_sequence(&f);
            assert_int_equal(spey_kv_match(kv, seq, &key, &n), SPEY_OK);
            assert_int_equal(n > 0, turn >= SEQS);
            const spey_step_seq all = { seq, ids[s] + n, (int32_t)(LONGEST - n),
                                        (int32_t)(LONGEST - n), NULL };
            assert_int_equal(step(&f, &all, 1, &logits), SPEY_OK);
            assert_memory_equal(logits, wanted[s][n], (size_t)(LONGEST - n) * sizeof(wanted[0][0]));
            assert_int_equal(spey_kv_check(kv), SPEY_OK);
            spey_kv_close(kv, seq);
        }
        spey_kv_stats stats;
        spey_kv_read_stats(kv, &stats);
        assert_true(stats.restored_blocks >= 2 * 8);
        close_runner(&f);
    }
}

/* Wait for what the file has of a key. */
static void fetch(fixture *f, const spey_kv_key *key)
{
    if (!spey_kv_fetch(spey_runner_kv(f->runner), key)) return;
    while (spey_kv_is_fetching(spey_runner_kv(f->runner)))
        assert_int_equal(spey_runner_await_kv(f->runner), SPEY_OK);
}

static void blocks_from_a_file_give_the_same_bits(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB];
    char path[64];
    int32_t ids[LONGEST];
    make_ids(40, ids);
    snprintf(path, sizeof(path), "/tmp/spey-test-runner-%d", (int)getpid());
    for (int kind = 0; kind < 2; kind++) {
        tiny_shape shape = tiny_default;
        shape.two_groups = true;
        shape.window = 6;
        spey_limits_plan limits = { .outputs_max = LONGEST,
                                    .kv_block_tokens = 4,
                                    .kv_file_bytes = 1 << 20,
                                    .device = kind ? "fake:0" : NULL };
        for (int run = 0; run < 2; run++) {
            fixture f = open_runner(&shape, limits);
            spey_kv_cache *kv = spey_runner_kv(f.runner);
            const spey_kv_key key = { .ids = ids, .n = LONGEST };
            int64_t n;
            float *logits;
            assert_int_equal(spey_runner_open_kv_file(f.runner, path, 1 << 20), SPEY_OK);
            fetch(&f, &key);
            spey_seq_id seq = open_sequence(&f);
            assert_int_equal(spey_kv_match(kv, seq, &key, &n), SPEY_OK);
            assert_in_range(n, run ? LONGEST - 4 : 0, run ? LONGEST - 1 : 0);
            const spey_step_seq rest = { seq, ids + n, (int32_t)(LONGEST - n),
                                         (int32_t)(LONGEST - n), NULL };
            assert_int_equal(step(&f, &rest, 1, &logits), SPEY_OK);
            if (!run) memcpy(wanted, logits, sizeof(wanted));
            assert_memory_equal(logits, wanted[n], (size_t)(LONGEST - n) * sizeof(wanted[0]));
            assert_int_equal(spey_kv_check(kv), SPEY_OK);
            assert_int_equal(spey_runner_close_kv_file(f.runner), SPEY_OK);
            close_runner(&f);
        }
        limits.kv_block_tokens = 8; /* other blocks: not these */
        fixture f = open_runner(&shape, limits);
        assert_int_equal(spey_runner_open_kv_file(f.runner, path, 1 << 20), SPEY_INVALID);
        close_runner(&f);
        assert_int_equal(unlink(path), 0);
    }
}

static void a_state_begins_as_nothing_and_cannot_go_back(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB];
    int32_t ids[LONGEST], other[LONGEST];
    make_ids(6, ids);
    make_ids(7, other);
    tiny_shape shape = tiny_default;
    shape.scans = true;
    fixture f = open_runner(&shape, wide);
    run_alone(&f, ids, LONGEST, LONGEST, wanted[0]);
    spey_kv_cache *kv = spey_runner_kv(f.runner);
    spey_seq_id seq = open_sequence(&f);
    float *logits;
    const spey_step_seq wrong = { seq, other, 25, 1, NULL },
                        all = { seq, ids, LONGEST, LONGEST, NULL };
    assert_int_equal(step(&f, &wrong, 1, &logits), SPEY_OK);
    assert_int_equal(spey_kv_truncate(kv, seq, 10), SPEY_UNSUPPORTED);
    assert_non_null(strstr(spey_last_error(), "cannot go back from 25 tokens to 10"));
    assert_int_equal(spey_kv_truncate(kv, seq, 0), SPEY_OK);
    assert_int_equal(step(&f, &all, 1, &logits), SPEY_OK);
    assert_memory_equal(logits, wanted, sizeof(wanted));
    close_runner(&f);
}

static void faulty_steps_change_nothing(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB];
    int32_t ids[LONGEST], bad[3] = { 1, VOCAB, 2 }, negative[1] = { -1 };
    make_ids(8, ids);
    fixture f = open_runner(&tiny_default, (spey_limits_plan){ .sequences_max = 2,
                                                               .step_tokens_max = 45,
                                                               .outputs_max = LONGEST,
                                                               .kv_block_tokens = 16,
                                                               .kv_bytes = 5 * 8192 });
    spey_kv_cache *kv = spey_runner_kv(f.runner);
    assert_int_equal(spey_runner_get_plan(f.runner)->kv_blocks, 5);
    run_alone(&f, ids, LONGEST, LONGEST, wanted[0]);
    spey_seq_id a = open_sequence(&f), b = open_sequence(&f);
    float *logits;
    const spey_step_seq begin = { a, ids, 20, 0, NULL };
    assert_int_equal(step(&f, &begin, 1, &logits), SPEY_OK);
    const struct {
        spey_step_seq seqs[3];
        int n;
        spey_status status;
    } cases[] = {
        { { { a, bad, 3, 1, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, 1, 1, NULL }, { b, negative, 1, 1, NULL } }, 2, SPEY_INVALID },
        { { { a, ids, 1, 1, NULL }, { a, ids, 1, 1, NULL } }, 2, SPEY_INVALID },
        { { { a, ids, 1, 1, NULL }, { 2, ids, 1, 1, NULL } }, 2, SPEY_INVALID },
        { { { -1, ids, 1, 1, NULL } }, 1, SPEY_INVALID },
        { { { 77, ids, 1, 1, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, 0, 0, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, -1, 0, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, 2, 3, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, 2, -1, NULL } }, 1, SPEY_INVALID },
        { { { a, ids, 1, 1, NULL }, { b, ids, 1, 1, NULL }, { 1, ids, 1, 1, NULL } },
          3,
          SPEY_INVALID },
        { { { a, ids, 1, 1, NULL } }, 0, SPEY_INVALID },
        { { { a, ids, 20, 0, NULL }, { b, ids, 26, 0, NULL } },
          2,
          SPEY_INVALID }, /* tokens of a step */
        { { { a, ids, 20, 20, NULL }, { b, ids, 21, 21, NULL } }, 2, SPEY_INVALID }, /* outputs */
        { { { a, ids, 5, 0, NULL }, { b, ids, 40, 0, NULL } }, 2, SPEY_OK }, /* 2 + 3 blocks: all */
        { { { a, ids, 13, 0, NULL } }, 1, SPEY_LIMIT },                      /* none is left */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t a_before = spey_kv_length(kv, a), b_before = spey_kv_length(kv, b);
        int32_t free_before = spey_kv_free_blocks(kv);
        assert_int_equal(step(&f, cases[i].seqs, cases[i].n, &logits), cases[i].status);
        if (cases[i].status == SPEY_OK) {
            spey_kv_truncate(kv, b, 0);
            spey_kv_truncate(kv, a, 20);
            const spey_step_seq again = { b, ids, 40, 0, NULL };
            assert_int_equal(step(&f, &again, 1, &logits), SPEY_OK);
            continue;
        }
        assert_null(logits);
        assert_int_equal(spey_kv_length(kv, a), a_before);
        assert_int_equal(spey_kv_length(kv, b), b_before);
        if (i + 1 < sizeof(cases) / sizeof(cases[0]))
            assert_int_equal(spey_kv_free_blocks(kv), free_before);
        assert_int_equal(spey_kv_check(kv), SPEY_OK);
    }
    spey_kv_close(kv, b);
    const spey_step_seq rest = { a, ids + 20, 20, 20, NULL };
    assert_int_equal(step(&f, &rest, 1, &logits), SPEY_OK);
    assert_memory_equal(logits, wanted[20], 20 * sizeof(wanted[0]));
    close_runner(&f);
}

static spey_status encode(fixture *f, const spey_step_seq *seqs, int n)
{
    spey_alloc_seal(true);
    spey_status status = spey_runner_encode(f->runner, seqs, n);
    spey_alloc_seal(false);
    return status;
}

static fixture open_encoder(spey_limits_plan limits)
{
    tiny_shape shape = tiny_default;
    shape.encodes = true;
    return open_runner(&shape, limits);
}

static void what_was_encoded_is_each_sequences_own(void **state)
{
    (void)state;
    static float alone[2][LONGEST][VOCAB];
    int32_t ids[LONGEST], source[LONGEST];
    make_ids(21, ids);
    make_ids(22, source);
    fixture f = open_encoder(
        (spey_limits_plan){ .sequences_max = 3, .outputs_max = LONGEST, .kv_block_tokens = 8 });
    const int32_t lengths[2] = { 17, 3 };
    float *logits;
    for (int s = 0; s < 2; s++) {
        spey_step_seq one = { open_sequence(&f), source + s, lengths[s], 0, NULL };
        assert_int_equal(encode(&f, &one, 1), SPEY_OK);
        one = (spey_step_seq){ one.seq, ids, 9, 9, NULL };
        assert_int_equal(step(&f, &one, 1, &logits), SPEY_OK);
        memcpy(alone[s], logits, 9 * sizeof(alone[0][0]));
        spey_kv_close(spey_runner_kv(f.runner), one.seq);
    }
    assert_memory_not_equal(alone[0], alone[1], 9 * sizeof(alone[0][0]));
    spey_step_seq both[2];
    for (int s = 0; s < 2; s++)
        both[s] = (spey_step_seq){ open_sequence(&f), source + s, lengths[s], 0, NULL };
    assert_int_equal(encode(&f, both, 2), SPEY_OK);
    for (int s = 0; s < 2; s++)
        both[s] = (spey_step_seq){ both[s].seq, ids, 9, 9, NULL };
    assert_int_equal(step(&f, both, 2, &logits), SPEY_OK);
    assert_memory_equal(logits, alone[0], 9 * sizeof(alone[0][0]));
    assert_memory_equal(logits + 9 * VOCAB, alone[1], 9 * sizeof(alone[0][0]));
    /* A fork attends to what its parent does. */
    spey_seq_id child;
    assert_int_equal(spey_kv_truncate(spey_runner_kv(f.runner), both[0].seq, 0), SPEY_OK);
    assert_int_equal(spey_kv_fork(spey_runner_kv(f.runner), both[0].seq, &child), SPEY_OK);
    const spey_step_seq forked = { child, ids, 9, 9, NULL };
    assert_int_equal(step(&f, &forked, 1, &logits), SPEY_OK);
    assert_memory_equal(logits, alone[0], 9 * sizeof(alone[0][0]));
    assert_int_equal(spey_kv_check(spey_runner_kv(f.runner)), SPEY_OK);
    close_runner(&f);
}

static void encoding_comes_once_and_first(void **state)
{
    (void)state;
    int32_t ids[LONGEST], bad[2] = { 1, VOCAB };
    make_ids(23, ids);
    fixture f = open_encoder((spey_limits_plan){ .sequences_max = 2, .step_tokens_max = 20 });
    assert_int_equal(spey_runner_get_plan(f.runner)->source_tokens_max, 20);
    spey_seq_id a = open_sequence(&f), b = open_sequence(&f);
    float *logits;
    const spey_step_seq early = { a, ids, 2, 1, NULL };
    assert_int_equal(step(&f, &early, 1, &logits), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "its input was not encoded"));
    const struct {
        spey_step_seq seqs[3];
        int n;
        spey_status status;
        const char *error;
    } cases[] = {
        { { { a, ids, 21, 0, NULL } }, 1, SPEY_LIMIT, "has 21 tokens, 20 are the most" },
        { { { a, ids, 0, 0, NULL } }, 1, SPEY_INVALID, "the encoder's input is empty" },
        { { { a, bad, 2, 0, NULL } }, 1, SPEY_INVALID, "id 50 is not in the vocabulary" },
        { { { a, ids, 2, 0, NULL }, { a, ids, 2, 0, NULL } },
          2,
          SPEY_INVALID,
          "was encoded before" },
        { { { a, ids, 11, 0, NULL }, { b, ids, 10, 0, NULL } },
          2,
          SPEY_INVALID,
          "a step of 21 tokens" },
        { { { a, ids, 1, 0, NULL }, { b, ids, 1, 0, NULL }, { 2, ids, 1, 0, NULL } },
          3,
          SPEY_INVALID,
          "3 sequences" },
        { { { a, ids, 1, 0, NULL } }, 0, SPEY_INVALID, "0 sequences" },
        { { { -1, ids, 1, 0, NULL } }, 1, SPEY_INVALID, "is not open" },
        { { { a, ids, 20, 0, NULL } }, 1, SPEY_OK, NULL },
        { { { a, ids, 2, 0, NULL } }, 1, SPEY_INVALID, "was encoded before" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(encode(&f, cases[i].seqs, cases[i].n), cases[i].status);
        if (cases[i].error) assert_non_null(strstr(spey_last_error(), cases[i].error));
        assert_int_equal(spey_kv_check(spey_runner_kv(f.runner)), SPEY_OK);
    }
    assert_int_equal(step(&f, &early, 1, &logits), SPEY_OK);
    close_runner(&f);
    f = open_runner(&tiny_default, (spey_limits_plan){ 0 });
    const spey_step_seq none = { open_sequence(&f), ids, 2, 0, NULL };
    assert_int_equal(encode(&f, &none, 1), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "the model has no encoder"));
    close_runner(&f);
}

static void a_sequence_ends_at_its_limit(void **state)
{
    (void)state;
    int32_t ids[LONGEST];
    make_ids(9, ids);
    fixture f = open_runner(&tiny_default, (spey_limits_plan){ .sequence_tokens_max = 10 });
    spey_seq_id a = open_sequence(&f);
    float *logits;
    const spey_step_seq all = { a, ids, 10, 1, NULL }, one = { a, ids, 1, 1, NULL };
    assert_int_equal(step(&f, &all, 1, &logits), SPEY_OK);
    assert_int_equal(step(&f, &one, 1, &logits), SPEY_LIMIT);
    assert_int_equal(spey_kv_length(spey_runner_kv(f.runner), a), 10);
    close_runner(&f);
}

/* On a device with memory of its own: weights and tables are copied there, logits back; whatever the step. */
static void a_device_with_its_own_memory_gives_the_same_bits(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB], got[LONGEST][VOCAB];
    int32_t ids[LONGEST];
    make_ids(12, ids);
    fixture f = open_runner(&tiny_default, wide);
    run_alone(&f, ids, LONGEST, 9, wanted[0]);
    close_runner(&f);
    spey_limits_plan limits = wide;
    limits.device = "fake:0";
    f = open_runner(&tiny_default, limits);
    run_alone(&f, ids, LONGEST, 9, got[0]);
    assert_memory_equal(wanted, got, sizeof(wanted));
    assert_string_equal(spey_runner_get_plan(f.runner)->limits.device, "fake:0");
    close_runner(&f);
}

/* Ids behind the vocabulary read the sequence's own rows, on a device with memory of its own too. */
static void a_table_serves_its_own_sequence(void **state)
{
    (void)state;
    enum { ROWS = 3, HIDDEN = 32 };
    static float tables[2][ROWS][HIDDEN], rows[2][2][LONGEST][VOCAB];
    static const char *const devices[] = { "cpu", "fake:0" };
    int32_t ids[LONGEST];
    make_ids(14, ids);
    for (int i = 0; i < LONGEST; i += 3)
        ids[i] = VOCAB + i % ROWS;
    spey_rng rng = { .seed = 15 };
    for (int i = 0; i < 2 * ROWS * HIDDEN; i++)
        tables[i / HIDDEN / ROWS][i / HIDDEN % ROWS][i % HIDDEN] =
            (float)spey_rng_below(&rng, 2000) * 1e-3f - 1;
    spey_prompt_rows table[2];
    for (int t = 0; t < 2; t++)
        table[t] = (spey_prompt_rows){ tables[t], SPEY_F32, ROWS, HIDDEN };
    for (int d = 0; d < 2; d++) {
        spey_limits_plan limits = wide;
        limits.device = devices[d];
        limits.prompt_table_tokens_max = ROWS;
        limits.outputs_max = limits.step_tokens_max = 2 * LONGEST;
        fixture f = open_runner(&tiny_default, limits);
        spey_step_seq both[2];
        for (int s = 0; s < 2; s++)
            both[s] = (spey_step_seq){ open_sequence(&f), ids, LONGEST, LONGEST, &table[s] };
        float *logits;
        assert_int_equal(step(&f, both, 2, &logits), SPEY_OK);
        memcpy(rows[d], logits, sizeof rows[d]);
        spey_kv_close(spey_runner_kv(f.runner), both[0].seq);
        const spey_step_seq alone = { open_sequence(&f), ids, LONGEST, LONGEST, &table[1] };
        assert_int_equal(step(&f, &alone, 1, &logits), SPEY_OK);
        assert_memory_equal(logits, rows[d][1], sizeof rows[d][1]);
        const int32_t beyond[] = { VOCAB + ROWS }, none[] = { VOCAB };
        const spey_step_seq bad[] = { { alone.seq, beyond, 1, 1, &table[1] },
                                      { alone.seq, none, 1, 1, NULL } };
        for (int i = 0; i < 2; i++)
            assert_int_equal(step(&f, &bad[i], 1, &logits), SPEY_INVALID);
        close_runner(&f);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
    assert_memory_not_equal(rows[0][0], rows[0][1], sizeof rows[0][0]);
}

static void a_table_needs_room_and_the_hidden_size(void **state)
{
    (void)state;
    static const float numbers[64];
    const spey_prompt_rows good = { numbers, SPEY_F32, 2, 32 },
                           narrow = { numbers, SPEY_F32, 2, 31 };
    const int32_t ids[] = { VOCAB };
    float *logits;
    for (int64_t room = 0; room < 2; room++) {
        spey_limits_plan limits = wide;
        limits.prompt_table_tokens_max = room;
        fixture f = open_runner(&tiny_default, limits);
        const spey_step_seq s = { open_sequence(&f), ids, 1, 1, room ? &narrow : &good };
        assert_int_equal(step(&f, &s, 1, &logits), SPEY_INVALID);
        close_runner(&f);
    }
}

static void rows_and_weights_are_counted(void **state)
{
    (void)state;
    fixture f = open_runner(&tiny_default, wide);
    spey_strbuf text = { 0 };
    spey_runner_describe(f.runner, &text);
    assert_non_null(strstr(text.data, "embed/"));
    assert_non_null(strstr(text.data, " 15×")); /* 7 products a layer, and the logits */
    spey_strbuf_deinit(&text);
    /* A tied table counts once, and the one row that embed reads. */
    uint64_t layer = 32 * 64 * 2 + 32 * 32 * 2 + 3 * 32 * 48 + 2 * 32;
    uint64_t rest = 50 * 32 + 32 + 32 + 8;
    assert_int_equal(spey_runner_weight_bytes(f.runner), (2 * layer + rest) * 4);
    close_runner(&f);
}

/* What a plan says is what is taken: the host's allocations, here. */
static void the_best_ids_are_those_of_the_largest_logits(void **state)
{
    (void)state;
    static float wanted[LONGEST][VOCAB];
    int32_t ids[LONGEST];
    make_ids(13, ids);
    for (int device = 0; device < 2; device++) {
        spey_limits_plan limits = wide;
        limits.device = device ? "fake:0" : NULL;
        fixture f = open_runner(&tiny_default, limits);
        run_alone(&f, ids, LONGEST, LONGEST, wanted[0]);
        const spey_step_seq s = { open_sequence(&f), ids, LONGEST, LONGEST, NULL };
        const int32_t *best;
        float *logits;
        spey_alloc_seal(true);
        assert_int_equal(spey_runner_step_best(f.runner, &s, 1, &best), SPEY_OK);
        assert_int_equal(spey_runner_logits(f.runner, &logits), SPEY_OK);
        spey_alloc_seal(false);
        assert_memory_equal(logits, wanted, sizeof(wanted));
        for (int i = 0; i < LONGEST; i++)
            for (int k = 0; k < VOCAB; k++)
                assert_true(k < best[i] ? wanted[i][k] < wanted[i][best[i]]
                                        : wanted[i][k] <= wanted[i][best[i]]);
        const spey_step_seq bad = { s.seq, ids, -1, 0, NULL };
        assert_int_equal(spey_runner_step_best(f.runner, &bad, 1, &best), SPEY_INVALID);
        assert_null(best);
        close_runner(&f);
    }
}

/* Row i of a page: drawn when `seed` is positive, the best one when it is 0, else the row itself. */
static void fill_rule(spey_rule_page *page, int i, int seed)
{
    spey_sample_rule rule = { .seed = (uint64_t)seed,
                              .top_p = 1,
                              .repetition = 1,
                              .slope = 0.5f,
                              .kind = seed < 0   ? SPEY_SAMPLE_NOTHING
                                      : seed > 0 ? SPEY_SAMPLE_DRAW
                                                 : SPEY_SAMPLE_BEST,
                              .mask = -1,
                              .wants_logprob = seed == 0,
                              .ids = (int32_t)page->n_ids,
                              .n_banned = seed == 7 };
    if (seed == 7) page->ids[page->n_ids++] = 3;
    page->rules[i] = rule;
}

static void rules_choose_ids_and_bring_the_rows_that_are_wanted(void **state)
{
    (void)state;
    enum { N = 6 };
    static const int seeds[N] = { 0, -1, 9, 7, -1, -1 };
    static float wanted[LONGEST][VOCAB];
    int32_t ids[LONGEST];
    make_ids(13, ids);
    spey_limits_plan limits = wide;
    limits.device = "fake:0";
    limits.outputs_max = N;
    fixture f = open_runner(&tiny_default, limits);
    run_alone(&f, ids, N, N, wanted[0]);
    const spey_step_seq s = { open_sequence(&f), ids, N, N, NULL };
    spey_rule_page page;
    assert_true(spey_runner_rule_page(f.runner, &page));
    assert_true(page.ids_max > N);
    for (int i = 0; i < N; i++)
        fill_rule(&page, i, seeds[i]);
    spey_step_rows rows;
    spey_alloc_seal(true);
    assert_int_equal(
        spey_runner_submit(f.runner, &(spey_submission){ .seqs = &s, .n_seqs = 1, .page = &page }),
        SPEY_OK);
    assert_int_equal(spey_runner_wait(f.runner, &rows), SPEY_OK);
    spey_alloc_seal(false);
    for (int i = 0; i < N; i++) {
        assert_int_equal(rows.ids[i] == SPEY_ROW_COMES, seeds[i] < 0);
        if (seeds[i] < 0)
            assert_memory_equal(rows.logits + (size_t)i * VOCAB, wanted[i], sizeof wanted[i]);
        else
            assert_in_range(rows.ids[i], 0, VOCAB - 1);
        assert_int_equal(isnan(rows.logprobs[i]) != 0 || seeds[i] < 0, seeds[i] != 0);
    }
    for (int k = 0; k < VOCAB; k++)
        assert_true(wanted[0][k] <= wanted[0][rows.ids[0]]);
    double total = spey_log_sum_exp(wanted[0], VOCAB);
    assert_true(fabs((double)wanted[0][rows.ids[0]] - total - (double)rows.logprobs[0]) < 1e-5);
    assert_int_not_equal(rows.ids[3], 3);
    close_runner(&f);
    limits.device = NULL;
    f = open_runner(&tiny_default, limits);
    assert_false(spey_runner_rule_page(f.runner, &page)); /* logits are in our memory */
    close_runner(&f);
}

static void nothing_links_to_a_row_that_comes(void **state)
{
    (void)state;
    spey_limits_plan limits = wide;
    limits.ahead = SPEY_AHEAD_ON;
    limits.device = "fake:0";
    fixture f = open_runner(&tiny_default, limits);
    int32_t ids[LONGEST];
    make_ids(23, ids);
    spey_step_seq a = { .seq = open_sequence(&f), .ids = ids, .n_ids = 4, .n_outputs = 2 };
    spey_step_link link = { 0, -1 };
    spey_submission s = { .seqs = &a, .links = &link, .n_seqs = 1 };
    for (int comes = 0; comes < 2; comes++) {
        spey_rule_page page;
        spey_step_rows rows;
        assert_true(spey_runner_rule_page(f.runner, &page));
        fill_rule(&page, 0, comes ? -1 : 5);
        fill_rule(&page, 1, 5);
        s.page = &page;
        a.n_ids = 4;
        a.n_outputs = 2;
        link = (spey_step_link){ 0, -1 };
        assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_OK);
        a.n_ids = a.n_outputs = 1;
        link = (spey_step_link){ 4, 0 };
        s.page = NULL;
        s.best = true;
        assert_int_equal(spey_runner_submit(f.runner, &s), comes ? SPEY_INVALID : SPEY_OK);
        s.best = false;
        for (int i = comes; i < 2; i++)
            assert_int_equal(spey_runner_wait(f.runner, &rows), SPEY_OK);
    }
    close_runner(&f);
}

/* Greedy: two prompts, then tokens, each step submitted while the last one is under way. wanted[s]: step by step. */
static void run_greedily(fixture *f, bool ahead, const int32_t (*ids)[LONGEST], int32_t *out)
{
    enum { PROMPT = 7, STEPS = 20 };
    spey_kv_cache *kv = spey_runner_kv(f->runner);
    spey_step_seq seqs[2];
    spey_step_link links[2] = { { 0, -1 }, { 0, -1 } };
    int32_t tokens[STEPS + 1][2];
    for (int s = 0; s < 2; s++)
        seqs[s] = (spey_step_seq){
            .seq = open_sequence(f), .ids = ids[s], .n_ids = PROMPT + s, .n_outputs = 1 + s
        };
    const spey_submission submission = { .seqs = seqs, .links = links, .n_seqs = 2, .best = true };
    int32_t lengths[2] = { PROMPT, PROMPT + 1 };
    assert_int_equal(spey_runner_submit(f->runner, &submission), SPEY_OK);
    for (int i = 0; i < STEPS; i++) {
        for (int s = 0; s < 2; s++) {
            links[s] = ahead ? (spey_step_link){ lengths[s], i ? s : 2 * s } /* the last rows */
                             : (spey_step_link){ 0, -1 };
            seqs[s].n_ids = seqs[s].n_outputs = lengths[s] = 1;
            seqs[s].ids = ahead ? NULL : &tokens[i][s];
        }
        spey_step_rows rows;
        if (ahead) assert_int_equal(spey_runner_submit(f->runner, &submission), SPEY_OK);
        assert_int_equal(spey_runner_under_way(f->runner), 1 + ahead);
        assert_int_equal(spey_runner_wait(f->runner, &rows), SPEY_OK);
        assert_null(rows.logits);
        tokens[i][0] = rows.ids[0];
        tokens[i][1] = rows.ids[i ? 1 : 2];
        for (int s = 0; s < 2; s++)
            spey_kv_advance(kv, seqs[s].seq, i ? &tokens[i - 1][s] : ids[s], i ? 1 : PROMPT + s);
        if (!ahead) assert_int_equal(spey_runner_submit(f->runner, &submission), SPEY_OK);
    }
    spey_step_rows rows;
    assert_int_equal(spey_runner_wait(f->runner, &rows), SPEY_OK);
    memcpy(out, tokens, STEPS * sizeof(tokens[0]));
    for (int s = 0; s < 2; s++)
        spey_kv_close(kv, seqs[s].seq);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
}

static void a_step_takes_ids_from_the_one_that_is_under_way(void **state)
{
    (void)state;
    int32_t ids[2][LONGEST], wanted[2 * LONGEST] = { 0 }, got[2 * LONGEST] = { 0 };
    make_ids(21, ids[0]);
    make_ids(22, ids[1]);
    for (int kind = 0; kind < 4; kind++) {
        tiny_shape shape = tiny_default;
        shape.two_groups = shape.scans = kind > 1;
        shape.window = 6;
        spey_limits_plan limits = wide;
        limits.outputs_max = 3;
        limits.kv_block_tokens = 4;
        limits.device = kind % 2 ? "fake:0" : NULL;
        fixture f = open_runner(&shape, limits);
        run_greedily(&f, false, (const int32_t(*)[LONGEST])ids, wanted);
        close_runner(&f);
        limits.ahead = SPEY_AHEAD_ON;
        f = open_runner(&shape, limits);
        uint64_t n = spey_alloc_read_stats().n_allocations;
        for (int turn = 0; turn < 20; turn++) {
            run_greedily(&f, true, (const int32_t(*)[LONGEST])ids, got);
            assert_memory_equal(got, wanted, sizeof(got));
        }
        run_greedily(&f, false, (const int32_t(*)[LONGEST])ids, got); /* nobody has to */
        assert_memory_equal(got, wanted, sizeof(got));
        assert_int_equal(spey_alloc_read_stats().n_allocations, n); /* on no thread */
        assert_true(spey_runner_busy_ns(f.runner) > 0);
        close_runner(&f);
    }
}

static void steps_are_queued_where_the_device_queues_them(void **state)
{
    (void)state;
    static const struct {
        const char *device;
        spey_ahead asked, got;
    } cases[] = { { "cpu", SPEY_AHEAD_QUEUED, SPEY_AHEAD_OFF },
                  { "cpu", SPEY_AHEAD_ON, SPEY_AHEAD_ON },
                  { "fake:0", SPEY_AHEAD_QUEUED, SPEY_AHEAD_ON },
                  { "fake:0", SPEY_AHEAD_OFF, SPEY_AHEAD_OFF } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const spey_limits_plan limits = { .device = cases[i].device, .ahead = cases[i].asked };
        fixture f = open_runner(&tiny_default, limits);
        assert_int_equal(spey_runner_get_plan(f.runner)->limits.ahead, cases[i].got);
        close_runner(&f);
        tiny_shape encodes = tiny_default;
        encodes.encodes = true;
        f = open_runner(&encodes, limits);
        bool wanted = cases[i].asked == SPEY_AHEAD_ON;
        assert_int_equal(spey_runner_get_plan(f.runner)->limits.ahead,
                         wanted ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF);
        close_runner(&f);
    }
}

static void senseless_links_are_refused(void **state)
{
    (void)state;
    spey_limits_plan limits = wide;
    limits.ahead = SPEY_AHEAD_ON;
    fixture f = open_runner(&tiny_default, limits);
    int32_t ids[LONGEST];
    make_ids(23, ids);
    spey_step_seq a = { .seq = open_sequence(&f), .ids = ids, .n_ids = 4, .n_outputs = 2 };
    spey_step_link link = { 0, 0 };
    spey_submission s = { .seqs = &a, .links = &link, .n_seqs = 1, .best = true };
    spey_step_rows rows;
    a.n_ids = a.n_outputs = 1;
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_INVALID); /* nothing is under way */
    a.n_ids = 4;
    a.n_outputs = 2;
    link.row = -1;
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_OK);
    static const spey_step_link bad[] = { { 4, 2 }, { 4, -2 } };
    a.n_ids = a.n_outputs = 1;
    for (int i = 0; i < 2; i++) {
        link = bad[i];
        assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_INVALID);
    }
    link = (spey_step_link){ 4, 1 };
    a.n_ids = 2; /* one id comes, not two */
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_INVALID);
    assert_int_equal(spey_runner_under_way(f.runner), 1);
    assert_int_equal(spey_runner_wait(f.runner, &rows), SPEY_OK);
    spey_kv_advance(spey_runner_kv(f.runner), a.seq, ids, 4);
    /* Rows of logits are in one place: nothing follows a step that brings them. */
    link = (spey_step_link){ 0, -1 };
    s.best = false;
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_OK);
    link = (spey_step_link){ 2, -1 };
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_INVALID);
    assert_int_equal(spey_runner_wait(f.runner, &rows), SPEY_OK);
    assert_null(rows.ids);
    assert_non_null(rows.logits);
    close_runner(&f);
}

static void steps_behind_a_failed_one_fail_too(void **state)
{
    (void)state;
    int32_t ids[LONGEST];
    make_ids(24, ids);
    spey_limits_plan limits = wide;
    limits.ahead = SPEY_AHEAD_ON;
    limits.device = "fake:2"; /* the search for the largest logit */
    limits.kv_file_bytes = 1 << 20;
    char path[64];
    snprintf(path, sizeof(path), "/tmp/spey-test-runner-%d", (int)getpid());
    fixture f = open_runner(&tiny_default, limits);
    assert_int_equal(spey_runner_open_kv_file(f.runner, path, 1 << 20), SPEY_OK);
    spey_step_seq a = { .seq = open_sequence(&f), .ids = ids, .n_ids = 4, .n_outputs = 1 };
    spey_step_link link = { 0, -1 };
    const spey_submission s = { .seqs = &a, .links = &link, .n_seqs = 1, .best = true };
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_OK);
    link = (spey_step_link){ 4, 0 };
    a.n_ids = 1;
    assert_int_equal(spey_runner_submit(f.runner, &s), SPEY_OK);
    for (int i = 0; i < 2; i++) {
        spey_step_rows rows;
        assert_int_equal(spey_runner_wait(f.runner, &rows), SPEY_DEVICE);
        assert_non_null(strstr(spey_last_error(), "run 2 fails"));
        assert_true(!rows.ids && !rows.logits);
    }
    assert_int_equal(spey_kv_check(spey_runner_kv(f.runner)), SPEY_OK);
    assert_int_equal(spey_kv_length(spey_runner_kv(f.runner), a.seq), 0);
    /* What the cache holds is not known: nothing of it is written. */
    assert_int_equal(spey_runner_close_kv_file(f.runner), SPEY_DEVICE);
    assert_int_equal(unlink(path), 0);
    close_runner(&f);
}

static void an_executor_allocates_what_its_plan_says(void **state)
{
    (void)state;
    spey_engine_file *file;
    assert_int_equal(tiny_engine_new(&tiny_default, &file), SPEY_OK);
    for (int ahead = 0; ahead < 2; ahead++) {
        spey_alloc_stats before = spey_alloc_read_stats();
        spey_runner *runner;
        const spey_limits_plan limits = { .threads = 1,
                                          .ahead = ahead ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF };
        assert_int_equal(spey_runner_new(file, &limits, &runner), SPEY_OK);
        spey_alloc_stats after = spey_alloc_read_stats();
        const spey_plan *plan = spey_runner_get_plan(runner);
        uint64_t tables = plan->lines[plan->n_lines - 1].bytes;
        assert_string_equal(plan->lines[plan->n_lines - 1].what, "tables");
        size_t taken = after.bytes[SPEY_PURPOSE_RUNTIME] - before.bytes[SPEY_PURPOSE_RUNTIME];
        assert_true(taken < tables + 16384); /* the runner itself */
        assert_int_equal(after.bytes[SPEY_PURPOSE_GRAPH], before.bytes[SPEY_PURPOSE_GRAPH]);
        spey_runner_free(runner);
    }
    spey_engine_file_close(file);
}

static void fail_every_allocation(spey_engine_file *file, const spey_limits_plan *limits)
{
    uint64_t before = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    int n = 0;
    while (status == SPEY_NOMEM) {
        spey_runner *runner;
        spey_alloc_fail_nth((uint64_t)++n);
        status = spey_runner_new(file, limits, &runner);
        spey_alloc_fail_nth(0);
        assert_true((status == SPEY_OK) == (runner != NULL));
        spey_runner_free(runner);
        assert_int_equal(spey_alloc_read_stats().n_live, before);
    }
    assert_int_equal(status, SPEY_OK);
    assert_true(n > 20);
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    spey_engine_file *file;
    assert_int_equal(tiny_engine_new(&tiny_default, &file), SPEY_OK);
    spey_limits_plan limits = { .threads = 1, .prompt_table_tokens_max = 1 };
    fail_every_allocation(file, &limits);
    limits.ahead = SPEY_AHEAD_ON;
    fail_every_allocation(file, &limits);
    spey_engine_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_finite_and_not_all_the_same),
        cmocka_unit_test(chunks_give_the_same_bits),
        cmocka_unit_test(the_number_of_threads_changes_no_bit),
        cmocka_unit_test(block_size_and_in_place_change_no_bit),
        cmocka_unit_test(a_batch_gives_each_sequence_its_own_bits),
        cmocka_unit_test(a_state_begins_as_nothing_and_cannot_go_back),
        cmocka_unit_test(truncated_tokens_leave_no_trace),
        cmocka_unit_test(windows_give_the_same_bits_in_a_small_pool),
        cmocka_unit_test(forks_go_their_own_ways),
        cmocka_unit_test(blocks_come_back_from_host_memory),
        cmocka_unit_test(blocks_from_a_file_give_the_same_bits),
        cmocka_unit_test(faulty_steps_change_nothing),
        cmocka_unit_test(what_was_encoded_is_each_sequences_own),
        cmocka_unit_test(encoding_comes_once_and_first),
        cmocka_unit_test(a_sequence_ends_at_its_limit),
        cmocka_unit_test(a_device_with_its_own_memory_gives_the_same_bits),
        cmocka_unit_test(a_table_serves_its_own_sequence),
        cmocka_unit_test(a_table_needs_room_and_the_hidden_size),
        cmocka_unit_test(rows_and_weights_are_counted),
        cmocka_unit_test(the_best_ids_are_those_of_the_largest_logits),
        cmocka_unit_test(rules_choose_ids_and_bring_the_rows_that_are_wanted),
        cmocka_unit_test(nothing_links_to_a_row_that_comes),
        cmocka_unit_test(a_step_takes_ids_from_the_one_that_is_under_way),
        cmocka_unit_test(steps_are_queued_where_the_device_queues_them),
        cmocka_unit_test(senseless_links_are_refused),
        cmocka_unit_test(steps_behind_a_failed_one_fail_too),
        cmocka_unit_test(an_executor_allocates_what_its_plan_says),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
