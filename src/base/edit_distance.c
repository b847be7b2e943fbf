#include "base/edit_distance.h"

#include <stddef.h>
#include <string.h>

#include "base/limits.h"

int spey_edit_distance(const char *a, const char *b)
{
    size_t a_len = strnlen(a, SPEY_NAME_BYTES_MAX - 1), b_len = strnlen(b, SPEY_NAME_BYTES_MAX - 1);
    int row[SPEY_NAME_BYTES_MAX]; /* of the table, the one above in place */
    for (size_t j = 0; j <= b_len; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= a_len; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_len; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]);
            int insert = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replace < insert ? replace : insert;
        }
    }
    return row[b_len];
}
