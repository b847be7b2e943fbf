#include "recorder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

int record_output(void *user, const spey_output *event)
{
    record *r = user;
    int s = event->sequence;
    assert_int_equal(r->n_ends, 0);
    if (event->token >= 0) {
        r->ids[s][r->n[s]] = event->token;
        r->logprobs[s][r->n[s]++] = event->logprob;
    }
    if (event->n_top)
        r->tops[s] ^=
            spey_xxh3(event->top, (size_t)event->n_top * sizeof *event->top) + (uint64_t)r->n[s];
    r->finish[s] = event->finish;
    r->n_ends += event->last;
    return r->cancel_after && ++r->n_events == r->cancel_after;
}

/* The first token that differs, or where the shorter one ends. */
static int common(const record *a, const record *b, int s)
{
    int n = 0;
    while (n < a->n[s] && n < b->n[s] && a->ids[s][n] == b->ids[s][n])
        n++;
    return n;
}

static bool near(float a, float b)
{
    return fabsf(a - b) < 1e-3F || !memcmp(&a, &b, sizeof a); /* NaN: none was asked for */
}

static bool is_near(const record *got, const record *wanted)
{
    for (int s = 0; s < RECORD_WIDTH; s++)
        for (int i = 0, n = common(got, wanted, s); i < n; i++)
            if (!near(got->logprobs[s][i], wanted->logprobs[s][i])) return false;
    return got->n_ends == wanted->n_ends;
}

static bool goes_astray(const record *got, const record *wanted)
{
    for (int s = 0; s < RECORD_WIDTH; s++) {
        int n = common(got, wanted, s);
        if (n < got->n[s] || n < wanted->n[s] || got->finish[s] != wanted->finish[s]) return true;
    }
    return false;
}

void record_compare(const record *got, const record *wanted, int n, bool exact)
{
    int n_astray = 0;
    for (int i = 0; i < n; i++) {
        bool good =
            exact ? !memcmp(&got[i], &wanted[i], sizeof *got) : is_near(&got[i], &wanted[i]);
        if (!good) fail_msg("request %d differs", i);
        n_astray += goes_astray(&got[i], &wanted[i]);
    }
    if (!exact) print_message("  %d of %d requests went astray\n", n_astray, n);
    assert_in_range(n_astray, 0, n / 16);
}
