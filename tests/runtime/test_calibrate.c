#include "runtime/calibrate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/runner.h"
#include "tiny_engine.h"

enum { N = 40 };

static int32_t ids[N];

static int make_ids(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++)
        ids[i] = (i * 7 + 3) % 50;
    return 0;
}

static spey_calibrator *calibrator_of(const spey_engine_file *engine)
{
    spey_calibrator *c;
    if (spey_calibrator_new(engine, N, 1, &c)) fail_msg("%s", spey_last_error());
    return c;
}

static float range_of(const spey_calibrator *c, const char *weight)
{
    float largest;
    const char *name;
    for (int i = 0; (name = spey_calibrator_range(c, i, &largest)); i++)
        if (!strcmp(name, weight)) return largest;
    fail_msg("nothing was seen before %s", weight);
    return 0;
}

static void every_linear_has_a_range(void **state)
{
    (void)state;
    spey_engine_file *engine;
    assert_int_equal(tiny_engine_new(&tiny_default, &engine), SPEY_OK);
    spey_calibrator *c = calibrator_of(engine);
    float largest;
    int n = 0;
    while (spey_calibrator_range(c, n, &largest)) {
        assert_true(largest == 0); /* nothing ran */
        n++;
    }
    assert_true(n >= 2 * 4);
    assert_int_equal(spey_calibrator_run(c, ids, N), SPEY_OK);
    for (int i = 0; i < n; i++) {
        assert_non_null(spey_calibrator_range(c, i, &largest));
        assert_true(largest > 0);
    }
    /* Q, K and V of a layer read the same rows. */
    assert_true(range_of(c, "layer.0.q") == range_of(c, "layer.0.k"));
    assert_true(range_of(c, "layer.0.q") != range_of(c, "layer.1.q"));
    spey_calibrator_free(c);
    spey_engine_file_close(engine);
}

/* The range of a text is the largest of its tokens'. */
static void ranges_grow_with_the_text(void **state)
{
    (void)state;
    spey_engine_file *engine;
    assert_int_equal(tiny_engine_new(&tiny_default, &engine), SPEY_OK);
    spey_calibrator *all = calibrator_of(engine), *each = calibrator_of(engine);
    assert_int_equal(spey_calibrator_run(all, ids, N), SPEY_OK);
    float before = 0;
    for (int i = 0; i < N; i++) {
        assert_int_equal(spey_calibrator_run(each, ids + i, 1), SPEY_OK);
        float now = range_of(each, "layer.0.q");
        assert_true(now >= before);
        before = now;
    }
    /* What enters the first layer depends on the token alone. */
    assert_true(range_of(all, "layer.0.q") == before);
    spey_calibrator_free(each);
    spey_calibrator_free(all);
    spey_engine_file_close(engine);
}

/* A rotation keeps what is furthest from zero within √2, and V as it is: what its linear gives. */
static void the_cache_has_ranges_of_every_head(void **state)
{
    (void)state;
    spey_engine_file *engine;
    tiny_shape shape = tiny_default;
    shape.two_groups = shape.scans = true;
    assert_int_equal(tiny_engine_new(&shape, &engine), SPEY_OK);
    spey_calibrator *all = calibrator_of(engine), *first = calibrator_of(engine);
    assert_null(spey_calibrator_cache(all, 2)); /* a state */
    assert_null(spey_calibrator_cache(all, 3));
    assert_int_equal(spey_calibrator_run(all, ids, N), SPEY_OK);
    assert_int_equal(spey_calibrator_run(first, ids, 1), SPEY_OK);
    for (int group = 0; group < 2; group++) {
        const float *a = spey_calibrator_cache(all, group),
                    *b = spey_calibrator_cache(first, group);
        for (int i = 0; i < 2 * (group ? 4 : 2); i++) { /* a layer each, of K and V */
            assert_true(a[i] > 0 && b[i] > 0 && a[i] >= b[i]);
            for (int k = 0; k < i; k++)
                assert_true(a[i] != a[k]);
        }
    }
    spey_calibrator_free(first);
    spey_calibrator_free(all);
    spey_engine_file_close(engine);
}

static void bad_ids_and_too_many_are_refused(void **state)
{
    (void)state;
    spey_engine_file *engine;
    const int32_t bad[] = { 1, 50 };
    assert_int_equal(tiny_engine_new(&tiny_default, &engine), SPEY_OK);
    spey_calibrator *c = calibrator_of(engine);
    int32_t many[N + 1] = { 0 };
    assert_int_equal(spey_calibrator_run(c, bad, 2), SPEY_INVALID);
    assert_int_not_equal(spey_calibrator_run(c, many, N + 1), SPEY_OK);
    assert_int_equal(spey_calibrator_run(c, ids, N), SPEY_OK); /* no sequence was left open */
    spey_calibrator_free(c);
    spey_engine_file_close(engine);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    spey_engine_file *engine;
    assert_int_equal(tiny_engine_new(&tiny_default, &engine), SPEY_OK);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_calibrator *c;
        spey_alloc_fail_nth(n);
        status = spey_calibrator_new(engine, N, 1, &c);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        spey_calibrator_free(c);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    spey_engine_file_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_linear_has_a_range),
        cmocka_unit_test(ranges_grow_with_the_text),
        cmocka_unit_test(the_cache_has_ranges_of_every_head),
        cmocka_unit_test(bad_ids_and_too_many_are_refused),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_ids, NULL);
}
