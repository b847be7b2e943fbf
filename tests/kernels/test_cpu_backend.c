#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/registry.h"

static const spey_backend *cpu;
static spey_device *device;

static int open_device(void **state)
{
    (void)state;
    cpu = spey_cpu_backend();
    return cpu->device_open(0, &(spey_device_options){ .threads = 2 }, &device) != SPEY_OK;
}

static int close_device(void **state)
{
    (void)state;
    cpu->device_close(device);
    return 0;
}

static void there_is_one_cpu(void **state)
{
    (void)state;
    spey_device *other;
    assert_int_equal(cpu->abi, SPEY_BACKEND_ABI);
    assert_int_equal(cpu->device_count(), 1);
    assert_int_equal(cpu->device_open(1, NULL, &other), SPEY_NOT_FOUND);
    assert_null(other);
}

static void info_tells_threads_and_memory(void **state)
{
    (void)state;
    spey_device_info info;
    cpu->device_info(device, &info);
    assert_int_equal(info.compute_units, 2);
    assert_true(info.host_memory);
    assert_true(info.memory_bytes > 0);
    assert_in_range(info.memory_free_bytes, 1, info.memory_bytes);
}

static void memory_is_aligned_zeroed_and_keeps_bytes(void **state)
{
    (void)state;
    static const size_t sizes[] = { 0, 1, 4096, 4097, (2 << 20) - 1, 2 << 20, (5 << 20) + 3 };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *memory;
        assert_int_equal(cpu->memory_new(device, sizes[i], &memory), SPEY_OK);
        assert_int_equal((uintptr_t)memory % 256, 0);
        const uint8_t *bytes = memory;
        for (size_t at = 0; at < sizes[i]; at += 997)
            assert_int_equal(bytes[at], 0);
        if (sizes[i] >= 4) {
            char back[4] = "";
            uint8_t *end = (uint8_t *)memory + sizes[i] - 4;
            assert_int_equal(cpu->upload(device, end, "abcd", 4), SPEY_OK);
            assert_int_equal(cpu->download(device, back, end, 4), SPEY_OK);
            assert_memory_equal(back, "abcd", 4);
        }
        cpu->memory_free(device, memory, sizes[i]);
    }
    void *none;
    assert_int_equal(cpu->memory_new(device, SIZE_MAX - 5, &none), SPEY_NOMEM);
    assert_int_equal(cpu->memory_new(device, (size_t)1 << 60, &none), SPEY_NOMEM);
    assert_null(none);
}

static void a_copy_moves_bytes_within_memory(void **state)
{
    (void)state;
    void *memory;
    char back[8] = "";
    assert_int_equal(cpu->memory_new(device, 64, &memory), SPEY_OK);
    uint8_t *bytes = memory;
    assert_int_equal(cpu->upload(device, bytes, "abcdefg", 8), SPEY_OK);
    assert_int_equal(cpu->copy(device, bytes + 33, bytes + 2, 3), SPEY_OK);
    assert_int_equal(cpu->copy(device, bytes + 32, bytes, 0), SPEY_OK);
    assert_int_equal(cpu->download(device, back, bytes + 32, 5), SPEY_OK);
    assert_memory_equal(back, "\0cde\0", 5);
    cpu->memory_free(device, memory, 64);
}

static void steps_run_and_are_timed(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float a[N], b[N];
    for (int i = 0; i < N; i++)
        a[i] = b[i] = (float)i;
    spey_add_args args = { .rows = 1, .cols = N, .scale = 2, .a = a, .b = b, .out = a };
    const spey_kernel *add;
    assert_int_equal(spey_kernel_choose(cpu, "add", &args, &add), SPEY_OK);
    const spey_step steps[] = { { add, &args }, { add, &args } };
    void *begin, *end;
    uint64_t ns;
    assert_int_equal(cpu->event_new(device, &begin), SPEY_OK);
    assert_int_equal(cpu->event_new(device, &end), SPEY_OK);
    assert_int_equal(cpu->event_record(device, begin), SPEY_OK);
    spey_alloc_seal(true);
    assert_int_equal(cpu->run(device, steps, 2), SPEY_OK);
    assert_int_equal(cpu->sync(device), SPEY_OK);
    spey_alloc_seal(false);
    assert_int_equal(cpu->event_record(device, end), SPEY_OK);
    assert_int_equal(cpu->event_elapsed_ns(device, begin, end, &ns), SPEY_OK);
    assert_true(ns > 0);
    for (int i = 0; i < N; i++)
        assert_true(a[i] == (float)(5 * i));
    cpu->event_free(device, begin);
    cpu->event_free(device, end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_one_cpu),
        cmocka_unit_test(info_tells_threads_and_memory),
        cmocka_unit_test(memory_is_aligned_zeroed_and_keeps_bytes),
        cmocka_unit_test(a_copy_moves_bytes_within_memory),
        cmocka_unit_test(steps_run_and_are_timed),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
