/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "runtime/request.h"

/* How requests grow inside a context is test_context's matter; here is a request of which only the largest logit is known. */

typedef struct record {
    int32_t ids[8];
    int n;
    spey_finish finish;
    char error[128];
} record;

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    if (event->token >= 0) r->ids[r->n++] = event->token;
    r->finish = event->finish;
    if (event->error) strncpy(r->error, event->error, sizeof r->error - 1);
    return 0;
}

static spey_request *request_of(record *r)
{
    static const int32_t prompt[] = { 3, 1 };
    spey_sampling sampling;
    spey_sampling_init(&sampling);
    spey_request_options options;
    spey_request_options_init(&options);
    options.prompt = prompt;
    options.n_prompt = 2;
    options.sampling = &sampling;
    options.on_output = on_output;
    options.user = r;
    const spey_request_setup setup = {
        .options = &options, .sampling = &sampling, .sequence_tokens_max = 16, .vocab_size = 50
    };
    spey_request *request;
    assert_int_equal(spey_request_new(&setup, &request), SPEY_OK);
    assert_true(spey_request_takes_best(request));
    return request;
}

static void the_largest_is_taken_until_there_is_none(void **state)
{
    (void)state;
    record r = { 0 };
    spey_request *request = request_of(&r);
    const spey_choosing choosing = { .vocab_size = 50 };
    spey_request_grow(request, &choosing, &(spey_row){ .id = 7, .logprob = NAN });
    spey_request_grow(request, &choosing, &(spey_row){ .id = 0, .logprob = NAN });
    assert_int_equal(r.finish, SPEY_FINISH_NONE);
    assert_int_equal(request->choices[0].n, 4);
    spey_request_grow(request, &choosing, &(spey_row){ .id = SPEY_ROW_NONE, .logprob = NAN });
    assert_int_equal(r.finish, SPEY_FINISH_ERROR);
    assert_non_null(strstr(r.error, "no token can be chosen"));
    assert_int_equal(r.n, 2);
    assert_int_equal(r.ids[0], 7);
    assert_int_equal(r.ids[1], 0);
    assert_true(request->ended);
    spey_request_free(request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_is_taken_until_there_is_none),
    };
    return cmocka_run_group_tests_name("request_grow", tests, NULL, NULL);
}
