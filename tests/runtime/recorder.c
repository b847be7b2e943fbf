#include "recorder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

int record_output(void *user, const spey_output *event)
{
    record *r = user;
    int s = event->sequence;
    assert_int_equal(r->n_ends, 0);
    if (event->token >= 0) {
        r->ids[s][r->n[s]] = event->token;
        r->logprobs[s][r->n[s]++] = event->logprob;
    }
    r->finish[s] = event->finish;
    r->n_ends += event->last;
    return r->cancel_after && ++r->n_events == r->cancel_after;
}
