/* Buckets of distances, as T5Attention._relative_position_bucket of transformers gives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/attention/relative.h"

/* The first distance that each bucket of a side has. */
static const struct {
    spey_relative relative;
    bool causal;
    int64_t n, first[32];
} known[] = {
    /* clang-format off */
    { { NULL, 32, 128 }, true, 32,
      { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113 } },
    { { NULL, 32, 128 }, false, 16, { 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91 } },
    { { NULL, 9, 1024 }, true, 9, { 0, 1, 2, 3, 4, 13, 37, 112, 338 } },
    { { NULL, 6, 11 }, false, 3, { 0, 1, 4 } },
    { { NULL, 12, 20 }, false, 6, { 0, 1, 2, 3, 6, 11 } },
    { { NULL, 2, 5 }, true, 2, { 0, 1 } },
    /* clang-format on */
};

static void distances_fall_into_the_buckets_of_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        assert_int_equal(spey_relative_side(&known[i].relative, known[i].causal), known[i].n);
        int64_t bucket = 0;
        for (int64_t d = 0; d < 2 * known[i].relative.max_distance; d++) {
            while (bucket + 1 < known[i].n && d >= known[i].first[bucket + 1])
                bucket++;
            assert_int_equal(spey_relative_bucket(&known[i].relative, known[i].causal, d), bucket);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_fall_into_the_buckets_of_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
