#include "check.h"
#include "kernels/patch/patch.h"

static bool make(check *c, int index, void *args)
{
    static const int64_t rows[] = { 0, 1, 7, 256, 257, 5000 };
    if (index >= (int)(sizeof rows / sizeof rows[0]) || check_part(c)) return false;
    spey_patch_args *a = args;
    const int64_t n = a->rows = rows[index];
    check_buffer *patches = check_buffer_new(c, "patches", SPEY_I32, 2 * n);
    check_buffer *words = check_buffer_new(c, "words", SPEY_I32, 3 * n + 5);
    for (int64_t i = 0; i < n; i++) {
        const int64_t place = 3 * (n - i) + 1;
        check_set(patches, 2 * i, (double)place);
        check_set(patches, 2 * i + 1, (double)(i % 3 ? 1000000 + i : -1 - i));
        check_output(c, words, place, 1, 1, 1);
    }
    check_bind(c, &a->patches, patches, 0);
    check_bind(c, &a->words, words, 0);
    check_name(c, "%lld", (long long)n);
    return true;
}

const check_op check_patch = { sizeof(spey_patch_args), make, NULL, NULL };
