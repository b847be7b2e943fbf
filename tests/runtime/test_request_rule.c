/* What a device draws by a request's rule is what the host draws from the same logits. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "device/pool.h"
#include "kernels/rows.h"
#include "runtime/request.h"

enum { VOCAB = 60, PROMPT = 6, OUTPUT = 16, PAGE = 400, LISTED = 4, TOPS = 7 };

static const spey_eos eos = { (const int32_t[]){ 55, 56 }, 2 };

typedef struct event {
    int32_t token;
    float logprob;
    int32_t n_top;
    spey_token_logprob top[TOPS];
} event;

static int on_output(void *user, const spey_output *output)
{
    event *e = user;
    *e = (event){ output->token, output->logprob, output->n_top, { { 0 } } };
    if (output->n_top) memcpy(e->top, output->top, (size_t)output->n_top * sizeof *e->top);
    return 0;
}

static int32_t below(spey_rng *rng, uint64_t n)
{
    return (int32_t)spey_rng_below(rng, n);
}

/* Few ids come again and again. */
static bool is_repetitive(int number)
{
    return number % 5 == 2 || number % 7 == 0;
}

/* The lists of a request's settings; their ids differ within a list, but for those of words. */
typedef struct lists {
    int32_t ids[4][LISTED];
    int32_t word_ids[LISTED][3];
    spey_id_list words[LISTED];
    spey_logit_bias bias[LISTED];
} lists;

static void draw_lists(spey_rng *rng, int number, lists *l, spey_sampling *s)
{
    for (int i = 0; i < LISTED; i++) {
        for (int k = 0; k < 4; k++)
            l->ids[k][i] = i * (VOCAB / LISTED) + below(rng, VOCAB / LISTED);
        for (int k = 0; k < 3; k++)
            l->word_ids[i][k] = below(rng, i ? 3 : VOCAB);
        l->words[i] = (spey_id_list){ l->word_ids[i], 1 + (size_t)i % 4 };
        l->bias[i] = (spey_logit_bias){ l->ids[0][i], (float)spey_rng_range(rng, -3, 3) };
    }
    s->logit_bias = l->bias;
    s->n_logit_bias = number % 3 == 0 ? LISTED : 0;
    s->suppress_ids = l->ids[1];
    s->n_suppress_ids = number % 4 == 0 ? LISTED : 0;
    s->begin_suppress_ids = l->ids[2];
    s->n_begin_suppress_ids = number % 5 == 0 ? LISTED : 0;
    s->stop_ids = l->ids[2];
    s->n_stop_ids = LISTED;
    s->bad_words = l->words;
    s->n_bad_words = number % 7 == 0 ? LISTED - 1 : 0;
    s->no_repeat_ngram = number % 5 == 2 ? 2 + number % 3 : 0;
    s->forced_eos_id = number % 11 == 3 ? number % VOCAB : -1;
}

static void draw_settings(spey_rng *rng, int number, lists *l, spey_sampling *s)
{
    spey_sampling_init(s);
    s->max_tokens = OUTPUT;
    s->temperature = number % 6 ? spey_rng_range(rng, 0.3, 3) : 0;
    s->seed = spey_rng_next(rng);
    s->top_k = number % 2 ? below(rng, VOCAB) : 0;
    s->top_p = number % 3 ? spey_rng_range(rng, 0, 1) : 1;
    s->min_p = number % 4 == 1 ? 0.1 : 0;
    s->repetition_penalty = number % 2 ? 1 : spey_rng_range(rng, 0.5, 2);
    s->presence_penalty = number % 3 ? 0 : spey_rng_range(rng, -1, 1);
    s->frequency_penalty = number % 5 ? 0 : spey_rng_range(rng, -1, 1);
    s->min_tokens = number % 3 == 1 ? 5 : 0;
    s->logprobs = number % 2 ? (number % 5 ? number % 5 + 3 : 0) : -1;
    s->ignore_eos = true;
    draw_lists(rng, number, l, s);
}

static spey_request *new_request(const spey_sampling *sampling, const int32_t *prompt,
                                 spey_request_options *options)
{
    options->prompt = prompt;
    options->n_prompt = PROMPT;
    const spey_request_setup setup = { .options = options,
                                       .sampling = sampling,
                                       .sequence_tokens_max = PROMPT + OUTPUT,
                                       .vocab_size = VOCAB,
                                       .eos = eos };
    spey_request *r;
    assert_int_equal(spey_request_new(&setup, &r), SPEY_OK);
    return r;
}

/* The step has read the sequence's newest token, which the page does not have, nor the request if it is `hidden`. */
static event choose_by_rule(spey_request *r, float *logits, bool hidden)
{
    static int32_t ids[PAGE];
    static char workspace[VOCAB * 32];
    int32_t top_ids[TOPS + 1];
    float top_logprobs[TOPS + 1];
    spey_rule_page page = { .ids = ids,
                            .n_ids = 3,
                            .ids_max = PAGE,
                            .n_tops = 1,
                            .tops_max = TOPS + 1,
                            .vocab_size = VOCAB };
    spey_sample_rule rule;
    spey_choice *c = &r->choices[0];
    const int64_t n = c->n;
    const int32_t newest = c->ids[n - 1], read = newest < VOCAB ? newest : -1;
    if (hidden) c->ids[--c->n] = 0x7fffffff;
    assert_true(spey_request_rule(r, 0, n, eos, &page, &rule));
    c->ids[n - 1] = newest;
    c->n = n;
    const int32_t *bans = ids + rule.ids + rule.n_history + 2 * rule.n_bias;
    for (int i = 0; i < rule.n_banned + 2 * rule.n_pairs; i++)
        if (i < rule.n_banned || (i - rule.n_banned) % 2) assert_in_range(bans[i], 0, VOCAB - 1);
    event e = { .n_top = rule.n_top };
    const int32_t row = 0;
    const spey_ragged batch = { .ids = &read, .output_rows = &row };
    const spey_sample_args args = { .rows = 1,
                                    .cols = VOCAB,
                                    .x = logits,
                                    .x_pitch = VOCAB,
                                    .rules = &rule,
                                    .ids = ids,
                                    .n_ids = page.n_ids,
                                    .batch = &batch,
                                    .out = &e.token,
                                    .logprobs = &e.logprob,
                                    .n_tops = page.n_tops,
                                    .top_ids = top_ids,
                                    .top_logprobs = top_logprobs,
                                    .workspace = workspace };
    int64_t counter = 0;
    spey_lane lane = spey_lane_solo(&counter);
    assert_true(spey_sample_ref.workspace(&args) <= sizeof workspace);
    spey_sample_ref.run(&args, &lane);
    assert_int_equal(page.n_tops, 1 + rule.n_top);
    for (int i = 0; i < rule.n_top; i++)
        e.top[i] = (spey_token_logprob){ top_ids[rule.tops + i], top_logprobs[rule.tops + i] };
    return e;
}

static void a_rule_chooses_what_the_host_does(void **state)
{
    (void)state;
    spey_sampler *sampler;
    assert_int_equal(spey_sampler_new(VOCAB, &sampler), SPEY_OK);
    const spey_choosing choosing = { sampler, VOCAB, eos };
    for (int number = 0; number < 420; number++) {
        spey_rng rng = { .seed = 300 + (uint64_t)number };
        spey_sampling sampling;
        lists l;
        event by_host;
        draw_settings(&rng, number, &l, &sampling);
        int32_t prompt[PROMPT];
        for (int i = 0; i < PROMPT; i++)
            prompt[i] = below(&rng, is_repetitive(number) ? 3 : VOCAB);
        if (number % 13 == 4) prompt[2] = prompt[PROMPT - 1] = VOCAB + 1; /* a table's */
        spey_request_options options;
        spey_request_options_init(&options);
        options.on_output = on_output;
        options.user = &by_host;
        spey_request *r = new_request(&sampling, prompt, &options);
        while (!r->ended) {
            float logits[VOCAB];
            for (int i = 0; i < VOCAB; i++)
                logits[i] = (float)(2 * spey_rng_normal(&rng)) +
                            (is_repetitive(number) && i < 3 ? 8.0F : 0.0F);
            const bool hidden = r->choices[0].n > PROMPT && number % 3;
            event by_rule = choose_by_rule(r, logits, hidden);
            spey_request_grow(r, &choosing, &(spey_row){ .logits = logits });
            if (by_rule.token != by_host.token)
                fail_msg("request %d: %d, not %d", number, by_rule.token, by_host.token);
            assert_memory_equal(&by_rule.logprob, &by_host.logprob, sizeof(float));
            assert_int_equal(by_rule.n_top, by_host.n_top);
            assert_memory_equal(by_rule.top, by_host.top, sizeof by_host.top);
        }
        spey_request_free(r);
    }
    spey_sampler_free(sampler);
}

static int process(void *user, uint64_t request, int32_t sequence, const int32_t *ids, size_t n,
                   float *logits, size_t vocab_size)
{
    (void)user, (void)request, (void)sequence, (void)ids, (void)n, (void)logits, (void)vocab_size;
    return 0;
}

static void on_logits(void *user, const spey_logits_row *row)
{
    (void)user, (void)row;
}

static bool has_rule(const spey_sampling *sampling, spey_request_options *options, int64_t n,
                     int64_t ids_max)
{
    static const int32_t prompt[PROMPT] = { 1, 2, 3, 4, 5, 6 };
    int32_t ids[PAGE];
    spey_rule_page page = { .ids = ids, .ids_max = ids_max, .tops_max = TOPS };
    spey_sample_rule rule;
    spey_request *r = new_request(sampling, prompt, options);
    bool has = spey_request_rule(r, 0, n, eos, &page, &rule);
    assert_true(page.n_ids <= ids_max);
    if (!has) assert_int_equal(page.n_ids + page.n_tops, 0);
    spey_request_free(r);
    return has;
}

static void what_a_rule_cannot_say_is_left_to_the_host(void **state)
{
    (void)state;
    static const spey_logit_bias twice[] = { { 7, 1 }, { 7, 1 } };
    spey_request_options plain, other;
    spey_request_options_init(&plain);
    spey_sampling s[7];
    for (int i = 0; i < 7; i++) {
        spey_sampling_init(&s[i]);
        s[i].temperature = 1;
    }
    assert_true(has_rule(&s[0], &plain, PROMPT, PAGE));
    s[0].typical_p = 0.9;
    s[1].no_repeat_ngram = 1;
    s[2].logprobs = TOPS + 1;
    s[3].logit_bias = twice, s[3].n_logit_bias = 2;
    s[4].temperature = 0, s[4].beams = 2;
    for (int i = 0; i < 5; i++)
        if (has_rule(&s[i], &plain, PROMPT, PAGE)) fail_msg("settings %d", i);
    other = plain;
    other.process_logits = process;
    assert_false(has_rule(&s[5], &other, PROMPT, PAGE));
    other = plain;
    other.on_logits = on_logits;
    other.generation_logits = true;
    assert_false(has_rule(&s[5], &other, PROMPT, PAGE));
    /* Of the prompt's last row the host wants more, or several sequences begin with it. */
    s[5].prompt_logprobs = 0;
    s[6].n = 2;
    for (int i = 5; i < 7; i++) {
        assert_false(has_rule(&s[i], &plain, PROMPT, PAGE));
        assert_true(has_rule(&s[i], &plain, PROMPT + 1, PAGE));
    }
}

static void a_full_page_leaves_the_rest_to_the_host(void **state)
{
    (void)state;
    spey_request_options options;
    spey_request_options_init(&options);
    spey_sampling s;
    spey_sampling_init(&s);
    s.repetition_penalty = 1.5;
    s.min_tokens = 3;
    assert_true(has_rule(&s, &options, PROMPT, PROMPT + 2)); /* two ids end a text */
    for (int64_t max = 0; max < PROMPT + 2; max++)
        assert_false(has_rule(&s, &options, PROMPT, max));
    s.logprobs = TOPS;
    assert_true(has_rule(&s, &options, PROMPT, PROMPT + 2));
    assert_false(has_rule(&s, &options, PROMPT, PROMPT + 1));
    s.logprobs = TOPS + 1;
    assert_false(has_rule(&s, &options, PROMPT, PROMPT + 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rule_chooses_what_the_host_does),
        cmocka_unit_test(what_a_rule_cannot_say_is_left_to_the_host),
        cmocka_unit_test(a_full_page_leaves_the_rest_to_the_host),
    };
    return cmocka_run_group_tests_name("request_rule", tests, NULL, NULL);
}
