/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bench_workload.h"

static spey_bench_lengths lengths(const char *text)
{
    spey_bench_lengths out;
    assert_int_equal(spey_bench_lengths_parse("osl", text, &out), SPEY_OK);
    return out;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

enum { DRAWS = 20000 };

static void draw_sorted(const char *text, int64_t *out)
{
    spey_bench_lengths l = lengths(text);
    spey_rng rng = { .seed = 3 };
    for (int i = 0; i < DRAWS; i++)
        out[i] = spey_bench_lengths_draw(&l, &rng);
    qsort(out, DRAWS, sizeof *out, by_size);
}

static void lengths_have_the_distribution_that_is_asked_for(void **state)
{
    (void)state;
    static int64_t draws[DRAWS];
    draw_sorted("77", draws);
    assert_int_equal(draws[0], 77);
    assert_int_equal(draws[DRAWS - 1], 77);
    draw_sorted("normal:1000:100", draws);
    assert_in_range(draws[DRAWS / 2], 990, 1010);
    assert_in_range(draws[DRAWS * 841 / 1000], 1090, 1110); /* one deviation */
    draw_sorted("lognormal:100:10", draws);
    assert_in_range(draws[DRAWS / 2], 97, 103);
    double ratio = (double)draws[DRAWS * 9 / 10] / (double)draws[DRAWS / 10];
    assert_true(ratio > 9.3 && ratio < 10.7);
    draw_sorted("normal:2:1000", draws); /* never below one token */
    assert_int_equal(draws[0], 1);
}

static void bad_lengths_and_arrivals_are_refused(void **state)
{
    (void)state;
    const char *bad[] = {
        "",         "0",           "-3",         "1.5",          "12x",        "normal",
        "normal:5", "normal:5:-1", "normal:5:x", "normal:5:6:7", "lognormal:", "lognormal:5:0.5",
        "nan",      "1e300",       "poisson:3"
    };
    spey_bench_lengths l;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(spey_bench_lengths_parse("isl", bad[i], &l), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "--isl is \"poisson:3\""));
    const char *bad_arrivals[] = { "",           "some",           "poisson:0",
                                   "poisson:-1", "poisson:inf",    "closed:0",
                                   "closed:1.5", "closed:9999999", "all:3" };
    spey_bench_arrival a;
    for (size_t i = 0; i < sizeof bad_arrivals / sizeof *bad_arrivals; i++)
        assert_int_equal(spey_bench_arrival_parse(bad_arrivals[i], &a), SPEY_INVALID);
}

static spey_bench_workload_options options(int64_t n)
{
    spey_bench_workload_options o = {
        .isl = lengths("normal:50:20"), .osl = lengths("lognormal:20:4"), .n = n, .seed = 9
    };
    assert_int_equal(spey_bench_arrival_parse("poisson:50", &o.arrival), SPEY_OK);
    return o;
}

static void poisson_arrivals_come_in_order_at_the_rate(void **state)
{
    (void)state;
    spey_bench_workload_options o = options(5000);
    spey_bench_workload w;
    assert_int_equal(spey_bench_workload_draw(&o, &w), SPEY_OK);
    for (int64_t i = 1; i < w.n; i++)
        assert_true(w.items[i - 1].arrival_ns <= w.items[i].arrival_ns);
    double seconds = (double)w.items[w.n - 1].arrival_ns * 1e-9;
    assert_true(seconds > 94 && seconds < 106); /* 5000 at 50 a second */
    spey_bench_workload_deinit(&w);
}

static void a_seed_decides_everything_and_prompts_share_their_prefix(void **state)
{
    (void)state;
    spey_bench_workload_options o = options(20);
    o.shared_prefix = 8;
    o.isl = lengths("40");
    spey_bench_workload a, b;
    assert_int_equal(spey_bench_workload_draw(&o, &a), SPEY_OK);
    assert_int_equal(spey_bench_workload_draw(&o, &b), SPEY_OK);
    assert_memory_equal(a.items, b.items, (size_t)a.n * sizeof *a.items);
    int32_t x[40], y[40];
    spey_bench_prompt(&a, 3, 1000, x);
    spey_bench_prompt(&b, 3, 1000, y);
    assert_memory_equal(x, y, sizeof x);
    spey_bench_prompt(&a, 4, 1000, y);
    assert_memory_equal(x, y, 8 * sizeof *x);
    assert_memory_not_equal(x + 8, y + 8, 32 * sizeof *x);
    for (int t = 0; t < 40; t++)
        assert_in_range(x[t], 0, 999);
    o.seed = 10;
    spey_bench_workload_deinit(&b);
    assert_int_equal(spey_bench_workload_draw(&o, &b), SPEY_OK);
    assert_memory_not_equal(a.items, b.items, (size_t)a.n * sizeof *a.items);
    spey_bench_workload_deinit(&a);
    spey_bench_workload_deinit(&b);
}

/* ---- traces ---- */

static char path[] = "/tmp/spey-trace-XXXXXX";

static spey_status read_trace(const char *text, int64_t n, spey_bench_workload *out)
{
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    spey_bench_workload_options o = options(n);
    spey_status status = spey_bench_workload_read(path, &o, out);
    unlink(path);
    return status;
}

static void a_trace_gives_lengths_and_times_in_order(void **state)
{
    (void)state;
    spey_bench_workload w;
    assert_int_equal(read_trace("{\"isl\": 5, \"osl\": 6, \"arrival_ms\": 20}\n\n"
                                "{\"isl\": 7, \"osl\": 8, \"arrival_ms\": 1.5}\n",
                                0, &w),
                     SPEY_OK);
    assert_int_equal(w.n, 2);
    assert_int_equal(w.items[0].isl, 7);
    assert_int_equal(w.items[0].arrival_ns, 1500000);
    assert_int_equal(w.items[1].osl, 6);
    assert_int_equal(w.isl_max, 7);
    assert_int_equal(w.total_max, 15);
    assert_int_equal(w.osl_sum, 14);
    spey_bench_workload_deinit(&w);
    /* Without times they come as --arrival says; n cuts it. */
    assert_int_equal(read_trace("{\"isl\":1,\"osl\":2}\n{\"isl\":3,\"osl\":4}", 1, &w), SPEY_OK);
    assert_int_equal(w.n, 1);
    assert_true(w.items[0].arrival_ns > 0);
    spey_bench_workload_deinit(&w);
}

static void a_bad_trace_names_the_line(void **state)
{
    (void)state;
    const char *bad[] = {
        "{\"isl\": 1, \"osl\": 1}\n{\"isl\": 0, \"osl\": 1}\n",
        "{\"isl\": 1, \"osl\": 1}\n{\"isl\": 1}\n", "{\"isl\": 1, \"osl\": 1}\nnonsense\n",
        "{\"isl\": 1, \"osl\": 1}\n{\"isl\": 1, \"osl\": 1, \"arrival_ms\": -1}\n",
        "{\"isl\": 1, \"osl\": 1}\n[1]\n"
    };
    spey_bench_workload w;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_not_equal(read_trace(bad[i], 0, &w), SPEY_OK);
        assert_non_null(strstr(spey_last_error(), ":2"));
        assert_null(w.items);
    }
    assert_int_equal(read_trace("\n", 0, &w), SPEY_FORMAT);
    spey_bench_workload_options o = options(0);
    assert_int_equal(spey_bench_workload_read("/nonexistent/trace", &o, &w), SPEY_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_have_the_distribution_that_is_asked_for),
        cmocka_unit_test(bad_lengths_and_arrivals_are_refused),
        cmocka_unit_test(poisson_arrivals_come_in_order_at_the_rate),
        cmocka_unit_test(a_seed_decides_everything_and_prompts_share_their_prefix),
        cmocka_unit_test(a_trace_gives_lengths_and_times_in_order),
        cmocka_unit_test(a_bad_trace_names_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
