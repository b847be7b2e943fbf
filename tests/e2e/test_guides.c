/* On the demo model: what a guided request writes does not depend on what runs beside it, on reuse of prefixes, on pauses, or on
 * tables that its guide had to lend to others: several sequences, best_of, beams and stop strings.
 *
 *   test_guides [PATTERN] [--device cuda]
 *
 * On a device one request may go astray (runtime/recorder.h says why). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine_fixture.h"
#include "runtime/context.h"

enum { REQUESTS = 15, PROMPT = 40, OUTPUT_MAX = 14, WIDTH = 3, TEXT_MAX = 256 };

typedef struct record {
    int32_t ids[WIDTH][OUTPUT_MAX];
    int n[WIDTH];
    char text[WIDTH][TEXT_MAX];
    spey_finish finish[WIDTH];
    int n_ends;
} record;

static const struct {
    spey_guide_format format;
    const char *text;
} guides[] = {
    { SPEY_GUIDE_REGEX, "[a-z]+( [a-z]+)*\\." },
    { SPEY_GUIDE_GRAMMAR, "root ::= \"(\" (root | [a-z]{1,3}){0,2} \")\"" },
    { SPEY_GUIDE_JSON_SCHEMA,
      "{\"type\": \"array\", \"items\": {\"type\": \"string\", \"maxLength\": 9}}" },
    { SPEY_GUIDE_JSON_SCHEMA,
      "{\"properties\": {\"name\": {\"type\": \"string\"}}, \"required\": [\"name\"]}" },
    { SPEY_GUIDE_REGEX, "\\d{2,}-[A-Z]*" },
};
enum { GUIDES = sizeof guides / sizeof *guides };

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    int s = event->sequence;
    if (event->error) print_error("%s\n", event->error);
    if (event->token >= 0) r->ids[s][r->n[s]++] = event->token;
    size_t have = strlen(r->text[s]);
    assert_true(have + event->text_bytes < TEXT_MAX);
    if (event->text_bytes) memcpy(r->text[s] + have, event->text, event->text_bytes);
    r->finish[s] = event->finish;
    r->n_ends += event->last;
    return 0;
}

static void submit(spey_context *context, int number, record *r)
{
    static const char *const stops[] = { "e" };
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = 100 + i + (i == PROMPT - 1 ? number % 4 : 0);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = OUTPUT_MAX;
    s.temperature = 1.5;
    s.seed = (uint64_t)number;
    s.guide = guides[number % GUIDES].format;
    s.guide_text = guides[number % GUIDES].text;
    if (number % 4 == 1) s.n = WIDTH;
    if (number % 4 == 2) s.best_of = WIDTH;
    if (number % 4 == 3) {
        s.temperature = 0;
        s.n = 2;
        s.beams = WIDTH;
    }
    if (number % 4 == 0 && number % 3 == 0) {
        s.stop = stops;
        s.n_stop = 1;
    }
    e2e_ok(spey_context_submit(context, prompt, PROMPT, &s, on_output, r, NULL), "submit");
}

static void run(const spey_context_options *options, int first, int end, record *records)
{
    spey_context *context;
    e2e_ok(spey_context_new(e2e_demo, options, &context), "context");
    for (int i = first; i < end; i++)
        submit(context, i, &records[i]);
    e2e_ok(spey_context_run(context), "run");
    spey_context_free(context);
}

static void ordinary(spey_context_options *options)
{
    spey_context_options_init(options);
    options->threads = 1;
    options->sequences_max = 12;
    options->kv_block_tokens = 16;
    options->sequence_tokens_max = PROMPT + OUTPUT_MAX;
    options->batch_invariant = !e2e_device;
    options->device = e2e_device;
}

static const record *alone(void)
{
    static record records[REQUESTS];
    spey_context_options options;
    ordinary(&options);
    options.no_kv_reuse = true;
    for (int i = 0; i < REQUESTS && !records[REQUESTS - 1].n_ends; i++)
        run(&options, i, i + 1, records);
    return records;
}

static void check(const spey_context_options *options)
{
    static record crowd[REQUESTS];
    memset(crowd, 0, sizeof crowd);
    const record *wanted = alone();
    int n_astray = 0;
    run(options, 0, REQUESTS, crowd);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(crowd[i].n_ends, 1);
        assert_int_not_equal(crowd[i].finish[0], SPEY_FINISH_ERROR);
        assert_true(crowd[i].n[0] > 0);
        if (!memcmp(&crowd[i], &wanted[i], sizeof crowd[i])) continue;
        print_message("request %d: \"%s\", alone \"%s\"\n", i, crowd[i].text[0], wanted[i].text[0]);
        n_astray++;
    }
    assert_in_range(n_astray, 0, e2e_device ? 1 : 0);
}

static void guides_beside_guides_over_shared_prefixes(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    check(&options);
}

static void guides_that_take_each_others_tables(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    options.guide_bytes = 2 << 20; /* less than one's */
    check(&options);
}

static void guides_of_requests_that_pause(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    spey_context *context;
    e2e_ok(spey_context_new(e2e_demo, &options, &context), "context");
    options.kv_bytes = 13 * spey_runner_get_plan(spey_context_runner(context))->kv_block_bytes;
    spey_context_free(context);
    options.policy = SPEY_MAX_UTILIZATION;
    check(&options);
}

static void a_bad_guide_is_refused_at_submit(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    spey_context *context;
    spey_sampling s;
    const int32_t prompt = 100;
    record r = { .n_ends = 0 };
    e2e_ok(spey_context_new(e2e_demo, &options, &context), "context");
    spey_sampling_init(&s);
    s.guide = SPEY_GUIDE_REGEX;
    s.guide_text = "(a";
    assert_int_equal(spey_context_submit(context, &prompt, 1, &s, on_output, &r, NULL),
                     SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "a ) is missing"));
    spey_context_free(context);
    assert_int_equal(r.n_ends, 0);
}

int main(int argc, char **argv)
{
    if (!e2e_read_arguments(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guides_beside_guides_over_shared_prefixes),
        cmocka_unit_test(guides_that_take_each_others_tables),
        cmocka_unit_test(guides_of_requests_that_pause),
        cmocka_unit_test(a_bad_guide_is_refused_at_submit),
    };
    return cmocka_run_group_tests_name("guides", tests, e2e_open_demo, e2e_close_demo);
}
