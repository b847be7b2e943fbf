#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planning.h"
#include "runtime/weights.h"

/* A program and its weights in device memory. */
typedef struct fixture {
    spey_engine_file *file;
    spey_program program;
    uint8_t *memory;
    const void *pointers[64];
} fixture;

static void load(fixture *f, spey_dtype dtype, int threads)
{
    tiny_shape shape = tiny_default;
    shape.dtype = dtype;
    const spey_limits_plan limits = { .threads = threads };
    assert_int_equal(tiny_engine_new(&shape, &f->file), SPEY_OK);
    assert_int_equal(spey_program_init(&f->program, f->file, &limits), SPEY_OK);
    void *memory;
    size_t bytes = (size_t)spey_weights_copied_bytes(&f->program);
    const spey_backend *backend = f->program.backend;
    assert_int_equal(backend->memory_new(f->program.device, bytes, &memory), SPEY_OK);
    f->memory = memory;
    assert_in_range(f->program.graph->n_weights, 1, 64);
    assert_int_equal(spey_weights_load(&f->program, memory, f->pointers), SPEY_OK);
}

static void unload(fixture *f)
{
    f->program.backend->memory_free(f->program.device, f->memory,
                                    (size_t)spey_weights_copied_bytes(&f->program));
    spey_program_deinit(&f->program);
    spey_engine_file_close(f->file);
}

static double element(const fixture *f, int weight, size_t i)
{
    float x;
    const spey_engine_tensor *tensor = f->program.tensors[weight];
    const uint8_t *data = f->pointers[weight];
    assert_true(
        spey_convert(&x, SPEY_F32, data + i * spey_dtype_bytes(tensor->dtype), tensor->dtype, 1));
    return (double)x;
}

static void made_up_numbers_are_small_and_norms_are_one(void **state)
{
    (void)state;
    static const spey_dtype dtypes[] = { SPEY_F32, SPEY_F16, SPEY_BF16 };
    for (int d = 0; d < 3; d++) {
        fixture f;
        load(&f, dtypes[d], 2);
        for (int w = 0; w < f.program.graph->n_weights; w++) {
            const spey_engine_tensor *tensor = f.program.tensors[w];
            if (tensor->data) continue;
            size_t n = tensor->bytes / spey_dtype_bytes(tensor->dtype);
            double sum = 0, squares = 0;
            for (size_t i = 0; i < n; i++) {
                double x = element(&f, w, i);
                sum += x;
                squares += x * x;
                if (strstr(tensor->name, "norm")) assert_true(x == 1);
            }
            if (strstr(tensor->name, "norm")) continue;
            double mean = sum / (double)n, variance = squares / (double)n / (0.019 * 0.019);
            assert_true(fabs(mean) < 0.003 && fabs(variance - 1) < 0.2);
        }
        unload(&f);
    }
}

static void made_up_numbers_do_not_depend_on_threads(void **state)
{
    (void)state;
    fixture one, two;
    load(&one, SPEY_BF16, 1);
    load(&two, SPEY_BF16, 2);
    assert_memory_equal(one.memory, two.memory, (size_t)spey_weights_copied_bytes(&one.program));
    unload(&one);
    unload(&two);
}

static void data_of_the_engine_is_used_where_it_lies(void **state)
{
    (void)state;
    fixture f;
    load(&f, SPEY_F32, 1);
    int32_t frequencies = spey_graph_find_weight(f.program.graph, "inv_freq");
    assert_true(frequencies >= 0);
    assert_ptr_equal(f.pointers[frequencies], f.program.tensors[frequencies]->data);
    uint64_t bytes = f.program.tensors[frequencies]->bytes;
    assert_true(spey_weights_copied_bytes(&f.program) >= spey_weights_bytes(&f.program) - bytes);
    unload(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_up_numbers_are_small_and_norms_are_one),
        cmocka_unit_test(made_up_numbers_do_not_depend_on_threads),
        cmocka_unit_test(data_of_the_engine_is_used_where_it_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
