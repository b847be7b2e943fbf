/* Time of kernels by marks between them: driven against a device whose clock is ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/gemm/gemm.h"
#include "runtime/profile.h"

enum { MARKS_MAX = 8 };

struct spey_device {
    uint64_t clock_ns, marks[MARKS_MAX];
    int n_marks, n_freed, fail_after; /* events until one cannot be made; 0: never */
    spey_status run_fails;
};

static spey_status fake_event_new(spey_device *d, void **out)
{
    if (d->fail_after && d->n_marks == d->fail_after) return SPEY_FAIL(SPEY_NOMEM, "out of events");
    assert_true(d->n_marks < MARKS_MAX);
    *out = &d->marks[d->n_marks++];
    return SPEY_OK;
}

static void fake_event_free(spey_device *d, void *event)
{
    assert_non_null(event);
    d->n_freed++;
}

static spey_status fake_record(spey_device *d, void *event)
{
    *(uint64_t *)event = d->clock_ns;
    return SPEY_OK;
}

static spey_status fake_elapsed(spey_device *d, void *begin, void *end, uint64_t *out)
{
    (void)d;
    *out = *(const uint64_t *)end - *(const uint64_t *)begin;
    return SPEY_OK;
}

/* A kernel takes 10 ns for every row. */
static spey_status fake_run(spey_device *d, const spey_step *steps, int n_steps)
{
    assert_int_equal(n_steps, 1);
    d->clock_ns += 10 * (uint64_t) * (const int64_t *)steps->args;
    return d->run_fails ? SPEY_FAIL(d->run_fails, "the device is lost") : SPEY_OK;
}

static spey_status fake_sync(spey_device *d)
{
    d->clock_ns += 1000; /* nobody's */
    return SPEY_OK;
}

static const spey_backend fake = { .run = fake_run,
                                   .sync = fake_sync,
                                   .event_new = fake_event_new,
                                   .event_free = fake_event_free,
                                   .event_record = fake_record,
                                   .event_elapsed_ns = fake_elapsed };

static const spey_kernel norm = { .name = "norm/fake" }, gemm = { .name = "gemm/fake" };

typedef struct fixture {
    spey_device device;
    int64_t norm_rows;
    spey_gemm_args up, up_again, down;
    spey_step steps[4];
} fixture;

static void prepare(fixture *f)
{
    *f = (fixture){ .norm_rows = 3,
                    .up = { .rows = 3, .k = 4, .n = 16, .w_dtype = SPEY_BF16 },
                    .up_again = { .rows = 3, .k = 4, .n = 16, .w_dtype = SPEY_BF16 },
                    .down = { .rows = 1, .k = 16, .n = 4, .w_dtype = SPEY_E4M3 } };
    f->steps[0] = (spey_step){ &norm, &f->norm_rows };
    f->steps[1] = (spey_step){ &gemm, &f->up };
    f->steps[2] = (spey_step){ &gemm, &f->up_again };
    f->steps[3] = (spey_step){ &gemm, &f->down };
}

static void products_are_told_apart_by_shape_and_counted(void **state)
{
    (void)state;
    fixture f;
    prepare(&f);
    spey_profile *p;
    spey_profile_line lines[4];
    assert_int_equal(spey_profile_new(&fake, &f.device, f.steps, 4, &p), SPEY_OK);
    assert_int_equal(spey_profile_read(p, lines), 0);
    assert_int_equal(spey_profile_run(p, 0, 4), SPEY_OK);
    f.up.rows = 7; /* of the next step */
    assert_int_equal(spey_profile_run(p, 1, 3), SPEY_OK);
    assert_int_equal(spey_profile_read(p, lines), 3);
    assert_string_equal(lines[0].name, "gemm/fake 4>16");
    assert_int_equal(lines[0].n_runs, 4);
    assert_int_equal(lines[0].ns, 10 * (3 + 3 + 7 + 3));
    assert_true(lines[0].operations == 2.0 * (3 + 3 + 7 + 3) * 4 * 16);
    assert_true(lines[0].weight_bytes == 4.0 * 4 * 16 * 2);
    assert_string_equal(lines[1].name, "norm/fake");
    assert_int_equal(lines[1].ns, 30);
    assert_true(lines[1].operations == 0);
    assert_string_equal(lines[2].name, "gemm/fake 16>4");
    assert_int_equal(lines[2].n_runs, 1);
    assert_true(lines[2].weight_bytes == 16.0 * 4);
    spey_profile_clear(p);
    assert_int_equal(spey_profile_read(p, lines), 0);
    spey_profile_free(p);
    assert_int_equal(f.device.n_freed, 5);
}

static void a_failing_device_is_reported_and_nothing_is_lost(void **state)
{
    (void)state;
    fixture f;
    prepare(&f);
    spey_profile *p;
    f.device.fail_after = 3;
    assert_int_equal(spey_profile_new(&fake, &f.device, f.steps, 4, &p), SPEY_NOMEM);
    assert_null(p);
    assert_int_equal(f.device.n_freed, 3);
    prepare(&f);
    assert_int_equal(spey_profile_new(&fake, &f.device, f.steps, 4, &p), SPEY_OK);
    f.device.run_fails = SPEY_DEVICE;
    assert_int_equal(spey_profile_run(p, 0, 4), SPEY_DEVICE);
    assert_string_equal(spey_last_error(), "the device is lost");
    spey_profile_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_told_apart_by_shape_and_counted),
        cmocka_unit_test(a_failing_device_is_reported_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
