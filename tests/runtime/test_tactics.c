/* Records of tactics: driven against a device whose knowledge is a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "runtime/tactics.h"
#include "tiny_engine.h"

struct spey_device {
    uint64_t known; /* 0: nothing */
    const char *name;
    int n_tuned;
};

static spey_status fake_tune(spey_device *d, const spey_step *steps, int n_steps)
{
    (void)steps;
    assert_int_equal(n_steps, 3);
    d->n_tuned++;
    if (!d->known) d->known = 42;
    return SPEY_OK;
}

static size_t fake_read(spey_device *d, void *out, size_t capacity)
{
    if (capacity >= sizeof d->known) memcpy(out, &d->known, sizeof d->known);
    return sizeof d->known;
}

static bool fake_write(spey_device *d, const void *bytes, size_t n)
{
    uint64_t known;
    if (n != sizeof known) return false;
    memcpy(&known, bytes, n);
    if (known > 1000) return false;
    d->known = known;
    return true;
}

static void fake_subject(const spey_device *d, char out[SPEY_TACTICS_SUBJECT_BYTES])
{
    snprintf(out, SPEY_TACTICS_SUBJECT_BYTES, "%s", d->name);
}

static const spey_backend fake = { .tune = fake_tune,
                                   .tactics_read = fake_read,
                                   .tactics_write = fake_write,
                                   .tactics_subject = fake_subject };

/* ---- files ---- */

static void damaged_and_foreign_records_are_refused(void **state)
{
    (void)state;
    const char payload[] = "eight of algorithms";
    const void *got;
    size_t n;
    spey_strbuf file = { 0 };
    spey_tactics_wrap("card A", payload, sizeof payload, &file);
    assert_int_equal(spey_tactics_unwrap("card A", file.data, file.len, &got, &n), SPEY_OK);
    assert_int_equal(n, sizeof payload);
    assert_memory_equal(got, payload, n);
    assert_int_equal(spey_tactics_unwrap("card B", file.data, file.len, &got, &n),
                     SPEY_UNSUPPORTED);
    assert_non_null(strstr(spey_last_error(), "card A"));
    for (size_t cut = 0; cut < file.len; cut++)
        assert_int_equal(spey_tactics_unwrap("card A", file.data, cut, &got, &n), SPEY_FORMAT);
    for (size_t i = 0; i < file.len; i++) {
        file.data[i] ^= 0x10;
        assert_true(spey_tactics_unwrap("card A", file.data, file.len, &got, &n) != SPEY_OK);
        file.data[i] ^= 0x10;
    }
    spey_strbuf_deinit(&file);
}

/* ---- places ---- */

static char folder[64], cache[128];

static int enter_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/spey-tactics-XXXXXX");
    if (!mkdtemp(folder) || chdir(folder)) return -1;
    snprintf(cache, sizeof cache, "%s/cache", folder);
    setenv("XDG_CACHE_HOME", cache, 1);
    spey_log_set_level(SPEY_LOG_QUIET);
    return 0;
}

static int leave_folder(void **state)
{
    (void)state;
    char command[160];
    if (chdir("/")) return -1;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

typedef struct fixture {
    spey_engine_file *engine;
    spey_device device;
    spey_program program;
    spey_binding binding;
} fixture;

static void fixture_init(fixture *f, bool has_file)
{
    *f = (fixture){ .device = { .name = "card A" }, .binding.sizes.n_steps = 3 };
    assert_int_equal(tiny_engine_new(&tiny_default, &f->engine), SPEY_OK);
    f->program = (spey_program){ .engine = f->engine,
                                 .backend = &fake,
                                 .device = &f->device,
                                 .has_virtual_weights = !has_file };
}

/* What a device knows that has just been opened. */
static uint64_t known_to(const fixture *f, const char *name)
{
    spey_device device = { .name = name };
    spey_program program = f->program;
    program.device = &device;
    spey_tactics_load(&program);
    return device.known;
}

static void what_was_found_is_known_the_next_time(void **state)
{
    (void)state;
    for (int has_file = 0; has_file < 2; has_file++) {
        fixture f;
        fixture_init(&f, has_file);
        char beside[SPEY_PATH_BYTES_MAX];
        snprintf(beside, sizeof beside, "%s.tactics", spey_engine_file_path(f.engine));
        assert_int_equal(known_to(&f, "card A"), has_file ? 42 : 0); /* the cache has it by then */
        assert_int_equal(spey_tactics_tune(&f.program, &f.binding), SPEY_OK);
        assert_int_equal(f.device.n_tuned, 1);
        assert_int_equal(spey_file_exists(beside), has_file);
        assert_int_equal(known_to(&f, "card A"), 42);
        assert_int_equal(known_to(&f, "card B"), 0);
        if (has_file) { /* damaged: the one in the cache is good */
            assert_int_equal(truncate(beside, 100), 0);
            assert_int_equal(known_to(&f, "card A"), 42);
            unlink(beside);
        }
        spey_engine_file_close(f.engine);
    }
}

static void records_that_make_no_sense_are_not_used(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, true);
    f.device.known = 1001;
    assert_int_equal(spey_tactics_tune(&f.program, &f.binding), SPEY_OK);
    char beside[SPEY_PATH_BYTES_MAX];
    snprintf(beside, sizeof beside, "%s.tactics", spey_engine_file_path(f.engine));
    assert_true(spey_file_exists(beside));
    f.program.has_virtual_weights = false;
    assert_true(known_to(&f, "card A") != 1001);
    unlink(beside);
    spey_engine_file_close(f.engine);
}

static void devices_without_tactics_are_left_alone(void **state)
{
    (void)state;
    static const spey_backend plain = { .name = "plain" };
    fixture f;
    fixture_init(&f, true);
    f.program.backend = &plain;
    spey_tactics_load(&f.program);
    assert_int_equal(spey_tactics_tune(&f.program, &f.binding), SPEY_OK);
    spey_engine_file_close(f.engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_and_foreign_records_are_refused),
        cmocka_unit_test(what_was_found_is_known_the_next_time),
        cmocka_unit_test(records_that_make_no_sense_are_not_used),
        cmocka_unit_test(devices_without_tactics_are_left_alone),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
