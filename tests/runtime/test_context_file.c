/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rng.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "tiny_engine.h"

/* Prompts of three families, which begin alike; the pool holds one request. */
enum { TOKENS_MAX = 64, VOCAB = 50, REQUESTS = 12, BLOCK = 4 };

typedef struct record {
    int32_t ids[TOKENS_MAX];
    int n;
    spey_finish finish;
} record;

static char path[64];
static spey_engine *engine;
static record wanted[REQUESTS];

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    if (event->token >= 0) r->ids[r->n++] = event->token;
    r->finish = event->finish;
    return 0;
}

static spey_status open_context(const char *file, spey_context **out)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.threads = 1;
    options.sequences_max = 2;
    options.kv_block_tokens = BLOCK;
    options.kv_bytes =
        12 * BLOCK * 512; /* a token has 512 bytes: the longest request fits just so */
    options.kv_file = file;
    options.kv_file_bytes = 1 << 20;
    return spey_context_new(engine, &options, out);
}

static void submit(spey_context *context, int i, record *r)
{
    spey_rng rng = { .seed = (uint64_t)i };
    int32_t prompt[40];
    for (int t = 0; t < 40; t++)
        prompt[t] = t < 30 ? (i % 3 * 7 + t) % VOCAB : (int32_t)spey_rng_below(&rng, VOCAB);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 8;
    s.ignore_eos = true;
    *r = (record){ .n = 0 };
    assert_int_equal(spey_context_submit(context, prompt, 40, &s, on_output, r, NULL), SPEY_OK);
}

static void run_all(spey_context *context, record records[REQUESTS])
{
    for (int i = 0; i < REQUESTS; i++)
        submit(context, i, &records[i]);
    assert_int_equal(spey_context_run(context), SPEY_OK);
}

static void check_all(spey_context *context)
{
    record records[REQUESTS];
    run_all(context, records);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(records[i].finish, SPEY_FINISH_LENGTH);
        assert_int_equal(records[i].n, wanted[i].n);
        assert_memory_equal(records[i].ids, wanted[i].ids, sizeof(int32_t) * 8);
    }
}

static spey_kv_stats stats_of(spey_context *context)
{
    spey_kv_stats stats;
    spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &stats);
    return stats;
}

static void requests_begin_with_what_the_file_has(void **state)
{
    (void)state;
    spey_context *context;
    assert_int_equal(open_context(path, &context), SPEY_OK);
    check_all(context);
    spey_context_free(context);
    assert_int_equal(open_context(path, &context), SPEY_OK);
    assert_true(stats_of(context).file_used_num_blocks >= REQUESTS);
    check_all(context);
    spey_kv_stats stats = stats_of(context);
    assert_true(stats.file_loaded_blocks >= 9); /* the first request's blocks at least */
    assert_int_equal(stats.file_discarded_blocks, 0);
    spey_iteration_stats iteration;
    assert_true(spey_context_read_iteration(context, 0, &iteration));
    assert_true(iteration.kv_cache_stats.file_loaded_blocks >= 9);
    assert_int_equal(iteration.kv_cache_stats.file_discarded_blocks, 0);
    spey_context_free(context);
}

/* The child goes on until it is killed; its parent, with the same engine, begins with what is there. */
static void a_killed_process_leaves_nothing_wrong(void **state)
{
    (void)state;
    int64_t loaded = 0;
    for (int round = 0; round < 12; round++) {
        spey_context *context;
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            record records[REQUESTS];
            if (open_context(path, &context)) _exit(1);
            for (;;) {
                run_all(context, records);
                spey_kv_flush(spey_runner_kv(spey_context_runner(context))); /* and write again */
            }
        }
        usleep(2000 + 1711 * (unsigned)round);
        assert_int_equal(kill(child, SIGKILL), 0);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        assert_int_equal(open_context(path, &context), SPEY_OK);
        check_all(context);
        loaded += stats_of(context).file_loaded_blocks;
        spey_context_free(context);
    }
    assert_true(loaded > 0);
}

static void a_file_is_one_contexts_at_a_time(void **state)
{
    (void)state;
    spey_context *first, *second;
    assert_int_equal(open_context(path, &first), SPEY_OK);
    assert_int_equal(open_context(path, &second), SPEY_INVALID);
    assert_null(second);
    assert_non_null(strstr(spey_last_error(), "is in use"));
    spey_context_free(first);
    assert_int_equal(open_context(path, &second), SPEY_OK);
    spey_context_free(second);
}

static void another_engines_file_is_refused(void **state)
{
    (void)state;
    spey_context *context;
    spey_engine *mine = engine;
    spey_engine_file *file;
    tiny_shape shape = tiny_default;
    assert_int_equal(open_context(path, &context), SPEY_OK);
    spey_context_free(context);
    shape.layers = 4;
    assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
    assert_int_equal(spey_engine_from_file(file, &engine), SPEY_OK);
    assert_int_equal(open_context(path, &context), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "of another engine"));
    spey_engine_close(engine);
    engine = mine;
}

/* What the system refuses costs the file alone. */
static void without_a_file_requests_go_on(void **state)
{
    (void)state;
    static const char *const places[] = { "/sys/spey-kv", "/tmp/spey-no-such-directory/kv",
                                          "/tmp" };
    spey_context *context;
    spey_log_set_level(SPEY_LOG_QUIET);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        assert_int_equal(open_context(places[i], &context), SPEY_OK);
        check_all(context);
        spey_context_free(context);
    }
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){ .rlim_cur = 20000, .rlim_max = before.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(open_context(path, &context), SPEY_OK);
    check_all(context);
    check_all(context);
    assert_in_range(stats_of(context).file_stored_blocks, 0, 6); /* what has room */
    spey_context_free(context);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    spey_log_set_level(SPEY_LOG_INFO);
}

static int open_engine(void **state)
{
    (void)state;
    spey_engine_file *file;
    spey_context *context;
    if (tiny_engine_new(&tiny_default, &file)) return -1;
    if (spey_engine_from_file(file, &engine)) return -1;
    if (open_context(NULL, &context)) return -1;
    run_all(context, wanted);
    spey_context_free(context);
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    spey_engine_close(engine);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/spey-test-context-file-%d", (int)getpid());
    unlink(path);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, remove_file, remove_file)
    const struct CMUnitTest tests[] = {
        TEST(requests_begin_with_what_the_file_has), TEST(a_killed_process_leaves_nothing_wrong),
        TEST(a_file_is_one_contexts_at_a_time),      TEST(another_engines_file_is_refused),
        TEST(without_a_file_requests_go_on),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
