/* How unlike two names are, for "did you mean". */
#ifndef SPEY_BASE_EDIT_DISTANCE_H
#define SPEY_BASE_EDIT_DISTANCE_H

/* Levenshtein distance of the first SPEY_NAME_BYTES_MAX - 1 bytes of each. */
int spey_edit_distance(const char *a, const char *b);

#endif
