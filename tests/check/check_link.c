#include "check.h"
#include "kernels/link/link.h"

static bool make(check *c, int index, void *args)
{
    static const int64_t rows[] = { 0, 1, 7, 128, 129, 1000 };
    if (index >= (int)(sizeof rows / sizeof rows[0]) || check_part(c)) return false;
    spey_link_args *a = args;
    const int64_t n = a->rows = rows[index];
    check_buffer *places = check_buffer_new(c, "places", SPEY_I32, n);
    check_buffer *numbers = check_buffer_new(c, "numbers", SPEY_I32, n);
    check_buffer *found = check_buffer_new(c, "found", SPEY_I32, n + 3);
    check_buffer *ids = check_buffer_new(c, "ids", SPEY_I32, 3 * n + 5);
    for (int64_t i = 0; i < n; i++) {
        const int64_t place = 3 * (n - i) + 1;
        check_set(places, i, (double)place);
        check_set(numbers, i, (double)(i % 5 == 2 ? n + 2 : 2 + i));
        check_output(c, ids, place, 1, 1, 1);
    }
    for (int64_t i = 2; i < n + 3; i++)
        check_set(found, i, i % 4 == 3 ? -1 : (double)(1000000 + i));
    check_bind(c, &a->places, places, 0);
    check_bind(c, &a->numbers, numbers, 0);
    check_bind(c, &a->found, found, 0);
    check_bind(c, &a->ids, ids, 0);
    check_name(c, "%lld", (long long)n);
    return true;
}

const check_op check_link = { sizeof(spey_link_args), make, NULL, NULL };
