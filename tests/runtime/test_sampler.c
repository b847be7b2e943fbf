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
#include "kernels/sample/sample_weight.h"
#include "runtime/sampler.h"

enum { VOCAB = 50 };

typedef struct fixture {
    spey_sampler *sampler;
    spey_sampling sampling;
    float logits[VOCAB];
} fixture;

static int set_up(void **state)
{
    static fixture f;
    spey_sampling_init(&f.sampling);
    spey_rng rng = { .seed = 3 };
    for (int i = 0; i < VOCAB; i++)
        f.logits[i] = (float)(2 * spey_rng_normal(&rng));
    *state = &f;
    return spey_sampler_new(VOCAB, &f.sampler) ? -1 : 0;
}

static int tear_down(void **state)
{
    spey_sampler_free(((fixture *)*state)->sampler);
    return 0;
}

static int32_t draw(fixture *f, uint64_t index)
{
    int32_t id = -1;
    assert_int_equal(spey_sampler_draw(f->sampler, &f->sampling, f->logits, index, &id), SPEY_OK);
    return id;
}

static int32_t argmax(const fixture *f)
{
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        best = f->logits[i] > f->logits[best] ? i : best;
    return best;
}

/* How many of the tokens are at least as likely as `id`. */
static int rank_of(const fixture *f, int32_t id)
{
    int rank = 0;
    for (int i = 0; i < VOCAB; i++)
        rank += f->logits[i] >= f->logits[id];
    return rank;
}

static void greedy_takes_the_likeliest_and_the_lowest_id_of_a_tie(void **state)
{
    fixture *f = *state;
    int32_t best = argmax(f);
    assert_int_equal(draw(f, 0), best);
    f->logits[VOCAB - 1] = f->logits[7] = 100;
    assert_int_equal(draw(f, 0), 7);
}

static void a_draw_depends_on_seed_and_index_alone(void **state)
{
    fixture *f = *state;
    f->sampling.temperature = 1.5;
    f->sampling.seed = 11;
    int32_t first[20];
    for (uint64_t i = 0; i < 20; i++)
        first[i] = draw(f, i);
    int differences = 0;
    for (uint64_t i = 20; i-- > 0;)
        assert_int_equal(draw(f, i), first[i]);
    f->sampling.seed = 12;
    for (uint64_t i = 0; i < 20; i++)
        differences += draw(f, i) != first[i];
    assert_true(differences > 5);
}

static void frequencies_follow_the_softmax_at_the_temperature(void **state)
{
    fixture *f = *state;
    enum { DRAWS = 40000 };
    f->sampling.temperature = 0.7;
    int counts[VOCAB] = { 0 };
    for (uint64_t i = 0; i < DRAWS; i++)
        counts[draw(f, i)]++;
    double total = 0, chi = 0;
    for (int i = 0; i < VOCAB; i++)
        total += exp((double)f->logits[i] / 0.7);
    int bins = 0;
    for (int i = 0; i < VOCAB; i++) {
        double expected = exp((double)f->logits[i] / 0.7) / total * DRAWS;
        if (expected < 5) continue;
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        bins++;
    }
    /* The draws are fixed by the seed: this is no flaky bound. 99.9 % quantile of chi² with < 50 degrees. */
    assert_true(bins > 10);
    assert_true(chi < 86.7);
}

static void top_k_never_leaves_the_k_likeliest(void **state)
{
    fixture *f = *state;
    f->sampling.temperature = 3;
    f->sampling.top_k = 4;
    int seen[VOCAB + 1] = { 0 };
    for (uint64_t i = 0; i < 500; i++)
        seen[rank_of(f, draw(f, i))]++;
    for (int r = 1; r <= VOCAB; r++)
        assert_true(r <= 4 ? seen[r] > 0 : seen[r] == 0);
}

static double probability(const fixture *f, int32_t id, double temperature)
{
    double total = 0;
    for (int i = 0; i < VOCAB; i++)
        total += exp((double)f->logits[i] / temperature);
    return exp((double)f->logits[id] / temperature) / total;
}

static void top_p_keeps_a_token_while_the_mass_before_it_is_below_p(void **state)
{
    fixture *f = *state;
    f->sampling.temperature = 1;
    f->sampling.top_p = 0.6;
    for (uint64_t i = 0; i < 500; i++) {
        int32_t id = draw(f, i);
        double before = 0;
        for (int32_t j = 0; j < VOCAB; j++)
            before += f->logits[j] > f->logits[id] ? probability(f, j, 1) : 0;
        assert_true(before < 0.6);
    }
    f->sampling.top_p = 0; /* the likeliest always survives */
    assert_int_equal(draw(f, 3), argmax(f));
}

static void top_p_after_top_k_counts_the_mass_of_the_k(void **state)
{
    fixture *f = *state;
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = 0; /* 50 equal tokens */
    f->sampling.temperature = 1;
    f->sampling.top_k = 10;
    f->sampling.top_p = 0.5; /* half of ten */
    for (uint64_t i = 0; i < 300; i++)
        assert_in_range(draw(f, i), 0, 4);
}

static void min_p_drops_tokens_far_below_the_likeliest(void **state)
{
    fixture *f = *state;
    f->sampling.temperature = 1;
    f->sampling.min_p = 0.3;
    double best = probability(f, argmax(f), 1);
    int others = 0;
    for (uint64_t i = 0; i < 500; i++) {
        int32_t id = draw(f, i);
        assert_true(probability(f, id, 1) >= 0.3 * best * (1 - 1e-6));
        others += id != argmax(f);
    }
    assert_true(others > 0);
}

static void typical_can_drop_even_the_likeliest(void **state)
{
    fixture *f = *state;
    /* One token with 0.5, forty-nine that share the rest: entropy 2.64 nats; the likeliest has a surprise of 0.69, the
     * others 4.58. The typical set begins with the nearer, 4.58 - 2.64 = 1.94 against 1.95. */
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = i == 0 ? (float)log(49.0 * 0.98) : 0;
    f->sampling.temperature = 1;
    f->sampling.typical_p = 0.3;
    double total = 49 + 49 * 0.98, p0 = 49 * 0.98 / total, p1 = 1 / total;
    double entropy = -p0 * log(p0) - 49 * p1 * log(p1);
    int expect_first = fabs(-log(p0) - entropy) < fabs(-log(p1) - entropy);
    int first = 0;
    for (uint64_t i = 0; i < 200; i++)
        first += draw(f, i) == 0;
    assert_int_equal(expect_first ? 200 : 0, first);
}

/* ---- as kernels draw ---- */

enum { WIDE = 3000 };

static int32_t draw_by_kernel(spey_sample_rule *rule, float *logits)
{
    static char workspace[WIDE * 32];
    int32_t id = -7;
    float logprob;
    spey_sample_args args = { .rows = 1,
                              .cols = WIDE,
                              .x = logits,
                              .x_pitch = WIDE,
                              .rules = rule,
                              .out = &id,
                              .logprobs = &logprob,
                              .workspace = workspace };
    int64_t counter = 0;
    spey_lane lane = spey_lane_solo(&counter);
    assert_true(spey_sample_ref.workspace(&args) <= sizeof workspace);
    spey_sample_ref.run(&args, &lane);
    return id;
}

static void draws_are_those_of_the_sample_kernel(void **state)
{
    (void)state;
    static float logits[WIDE];
    spey_sampler *sampler;
    assert_int_equal(spey_sampler_new(WIDE, &sampler), SPEY_OK);
    for (int number = 0; number < 300; number++) {
        spey_rng rng = { .seed = 5000 + (uint64_t)number };
        double spread = spey_rng_range(&rng, 0, 8);
        for (int i = 0; i < WIDE; i++) {
            double x = spread * spey_rng_normal(&rng);
            logits[i] = number % 5 ? (float)x : (float)(int)x; /* many ties */
            if (i % 7 == number % 9) logits[i] = -INFINITY;
        }
        spey_sampling p;
        spey_sampling_init(&p);
        p.temperature = spey_rng_range(&rng, 0.05, 3);
        p.seed = spey_rng_next(&rng);
        if (number % 2) p.top_k = 1 + (int32_t)spey_rng_below(&rng, number % 3 ? 50 : 2 * WIDE);
        if (number % 3) p.top_p = spey_rng_range(&rng, 0, 1);
        if (number % 7 == 3) p.min_p = spey_rng_range(&rng, 0, 0.2);
        spey_sample_rule rule = { .seed = p.seed,
                                  .index = (uint64_t)number,
                                  .top_p = p.top_p,
                                  .min_p = p.min_p,
                                  .repetition = 1,
                                  .slope = spey_sample_slope(p.temperature),
                                  .kind = SPEY_SAMPLE_DRAW,
                                  .top_k = p.top_k,
                                  .mask = -1 };
        int32_t id;
        assert_int_equal(spey_sampler_draw(sampler, &p, logits, (uint64_t)number, &id), SPEY_OK);
        if (id != draw_by_kernel(&rule, logits)) fail_msg("case %d differs", number);
    }
    spey_sampler_free(sampler);
}

static void repetition_penalty_divides_what_is_positive_and_multiplies_the_rest(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 3, 9, 3 };
    const spey_history history = { ids, 2, 3 };
    f->logits[3] = 2;
    f->logits[9] = -2;
    f->logits[4] = 1;
    f->sampling.repetition_penalty = 1.25;
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    assert_true(f->logits[3] == 1.6f);
    assert_true(f->logits[9] == -2.5f);
    assert_true(f->logits[4] == 1);
}

static void presence_and_frequency_count_the_output_only(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 5, 5, 6, 7, 6 }; /* prompt 5 5, output 6 7 6 */
    const spey_history history = { ids, 2, 5 };
    f->logits[5] = f->logits[6] = f->logits[7] = 1;
    f->sampling.presence_penalty = 0.5;
    f->sampling.frequency_penalty = 0.25;
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    assert_true(f->logits[5] == 1);
    assert_true(f->logits[6] == 0);
    assert_true(f->logits[7] == 0.25f);
}

static void an_ngram_never_comes_twice(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 1, 2, 3, 4, 1, 2 };
    const spey_history history = { ids, 6, 6 };
    f->sampling.no_repeat_ngram = 3;
    float before = f->logits[4];
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    assert_true(isinf(f->logits[3]));
    assert_true(f->logits[4] == before);
    f->sampling.no_repeat_ngram = 1; /* no token twice */
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    for (int i = 1; i <= 4; i++)
        assert_true(isinf(f->logits[i]));
}

static void suppressed_ids_are_never_drawn_and_some_not_first(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 1, 2 }, never[] = { 20, 21 }, not_first[] = { 22 };
    f->sampling.suppress_ids = never;
    f->sampling.n_suppress_ids = 2;
    f->sampling.begin_suppress_ids = not_first;
    f->sampling.n_begin_suppress_ids = 1;
    float later = f->logits[22];
    const spey_history second = { ids, 1, 2 }, first = { ids, 2, 2 };
    spey_sampler_penalize(f->sampler, &f->sampling, &second, NULL, 0, f->logits);
    assert_true(isinf(f->logits[20]) && isinf(f->logits[21]));
    assert_true(f->logits[22] == later);
    spey_sampler_penalize(f->sampler, &f->sampling, &first, NULL, 0, f->logits);
    assert_true(isinf(f->logits[22]));
}

static void a_forced_id_is_the_only_choice(void **state)
{
    fixture *f = *state;
    f->logits[7] = -INFINITY;
    spey_sampler_force(f->sampler, 7, f->logits);
    for (int i = 0; i < VOCAB; i++)
        assert_true(i == 7 ? f->logits[i] == 0 : isinf(f->logits[i]));
    assert_int_equal(draw(f, 3), 7);
}

static void rows_of_a_prompt_table_are_passed_over(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { VOCAB + 5, 3, VOCAB, VOCAB + 5, 3 };
    const spey_history history = { ids, 4, 5 };
    f->sampling.repetition_penalty = 2;
    f->sampling.no_repeat_ngram = 2;
    f->logits[3] = 4;
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    assert_true(f->logits[3] == 2); /* 3 was followed by a row, which is no choice */
}

static void a_bad_word_is_banned_when_its_beginning_stands(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 8, 9 }, one[] = { 20 }, two[] = { 9, 21 }, not_here[] = { 8, 22 },
                  longer[] = { 1, 8, 9, 23 };
    const spey_id_list words[] = { { one, 1 }, { two, 2 }, { not_here, 2 }, { longer, 4 } };
    const spey_history history = { ids, 1, 2 };
    f->sampling.bad_words = words;
    f->sampling.n_bad_words = 4;
    spey_sampler_penalize(f->sampler, &f->sampling, &history, NULL, 0, f->logits);
    assert_true(isinf(f->logits[20]) && isinf(f->logits[21]));
    assert_true(isfinite(f->logits[22]) && isfinite(f->logits[23]));
}

static void end_of_text_waits_for_min_tokens(void **state)
{
    fixture *f = *state;
    const int32_t ids[] = { 1, 2, 3 }, eos[] = { 30, 31 };
    f->sampling.min_tokens = 2;
    spey_sampler_penalize(f->sampler, &f->sampling, &(spey_history){ ids, 1, 3 }, eos, 2,
                          f->logits);
    assert_true(isfinite(f->logits[30]));
    spey_sampler_penalize(f->sampler, &f->sampling, &(spey_history){ ids, 2, 3 }, eos, 2,
                          f->logits);
    assert_true(isinf(f->logits[30]) && isinf(f->logits[31]));
}

static void logit_bias_is_added(void **state)
{
    fixture *f = *state;
    const spey_logit_bias bias[] = { { 12, 100 }, { 13, -1 } };
    float before = f->logits[13];
    f->sampling.logit_bias = bias;
    f->sampling.n_logit_bias = 2;
    spey_sampler_penalize(f->sampler, &f->sampling, &(spey_history){ NULL, 0, 0 }, NULL, 0,
                          f->logits);
    assert_int_equal(draw(f, 0), 12);
    assert_true(f->logits[13] == before - 1);
}

static void a_nan_or_a_total_ban_is_an_error_in_every_mode(void **state)
{
    fixture *f = *state;
    int32_t id = -7;
    for (int mode = 0; mode < 2; mode++) {
        f->sampling.temperature = mode;
        f->logits[17] = NAN;
        assert_int_equal(spey_sampler_draw(f->sampler, &f->sampling, f->logits, 0, &id),
                         SPEY_INVALID);
        assert_non_null(strstr(spey_last_error(), "not a number"));
        float banned[VOCAB];
        for (int i = 0; i < VOCAB; i++)
            banned[i] = -INFINITY;
        assert_int_equal(spey_sampler_draw(f->sampler, &f->sampling, banned, 0, &id), SPEY_INVALID);
        assert_non_null(strstr(spey_last_error(), "banned"));
    }
    assert_int_equal(id, -7);
}

static void top_lists_log_probabilities_likeliest_first(void **state)
{
    fixture *f = *state;
    spey_token_logprob top[5];
    double total = spey_log_sum_exp(f->logits, VOCAB);
    spey_likeliest(f->logits, VOCAB, total, 5, top);
    assert_int_equal(top[0].id, argmax(f));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(rank_of(f, top[i].id), i + 1);
        assert_true(fabs((double)top[i].logprob - log(probability(f, top[i].id, 1))) < 1e-5);
    }
}

static void only_plain_greedy_decoding_takes_the_best(void **state)
{
    (void)state;
    static const spey_logit_bias bias = { .id = 3, .bias = 1 };
    static const int32_t ids[] = { 1 };
    static const spey_id_list words = { ids, 1 };
    spey_sampling plain;
    spey_sampling_init(&plain);
    plain.temperature = 0;
    assert_true(spey_sampling_takes_best(&plain));
    spey_sampling others[12];
    for (int i = 0; i < 12; i++)
        others[i] = plain;
    others[0].temperature = 0.5;
    others[1].repetition_penalty = 1.1;
    others[2].presence_penalty = 0.1;
    others[3].frequency_penalty = -0.1;
    others[4].no_repeat_ngram = 3;
    others[5].min_tokens = 1;
    others[6].logit_bias = &bias, others[6].n_logit_bias = 1;
    others[7].bad_words = &words, others[7].n_bad_words = 1;
    others[8].temperature = 0.5, others[8].top_k = 2;
    others[9].suppress_ids = ids, others[9].n_suppress_ids = 1;
    others[10].begin_suppress_ids = ids, others[10].n_begin_suppress_ids = 1;
    others[11].forced_eos_id = 0;
    for (int i = 0; i < 12; i++)
        assert_false(spey_sampling_takes_best(&others[i]));
    others[8].top_k = 1;
    assert_true(spey_sampling_takes_best(&others[8]));
}

static void each_setting_has_a_range_and_its_error_names_it(void **state)
{
    fixture *f = *state;
#define REFUSED(field, value, text)                                       \
    do {                                                                  \
        spey_sampling bad = f->sampling;                                  \
        bad.field = value;                                                \
        assert_int_equal(spey_sampling_check(&bad, VOCAB), SPEY_INVALID); \
        assert_non_null(strstr(spey_last_error(), text));                 \
    } while (0)
    assert_int_equal(spey_sampling_check(&f->sampling, VOCAB), SPEY_OK);
    REFUSED(max_tokens, -2, "max_tokens");
    REFUSED(min_tokens, -1, "min_tokens");
    REFUSED(temperature, -0.1, "temperature");
    REFUSED(temperature, (double)NAN, "temperature");
    REFUSED(top_k, -1, "top_k");
    REFUSED(top_p, 1.1, "top_p");
    REFUSED(min_p, -0.1, "min_p");
    REFUSED(typical_p, 2, "typical_p");
    REFUSED(repetition_penalty, 0, "repetition_penalty");
    REFUSED(presence_penalty, 1e9, "presence_penalty");
    REFUSED(frequency_penalty, (double)INFINITY, "frequency_penalty");
    REFUSED(no_repeat_ngram, -1, "no_repeat_ngram");
    REFUSED(forced_eos_id, -2, "forced_eos_id");
    REFUSED(forced_eos_id, VOCAB, "forced_eos_id");
    static const int32_t beyond[] = { VOCAB };
    spey_sampling lists = f->sampling;
    lists.suppress_ids = beyond, lists.n_suppress_ids = 1;
    assert_int_equal(spey_sampling_check(&lists, VOCAB), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "suppress_ids holds the token id"));
    lists = f->sampling;
    lists.begin_suppress_ids = beyond, lists.n_begin_suppress_ids = 1;
    assert_int_equal(spey_sampling_check(&lists, VOCAB), SPEY_INVALID);
    REFUSED(logprobs, 1000, "logprobs");
    REFUSED(prompt_logprobs, -2, "prompt_logprobs");
    REFUSED(n_stop, 33, "stop strings");
    REFUSED(struct_bytes, 4, "spey_sampling_init");
    const int32_t far[] = { VOCAB };
    spey_sampling bad = f->sampling;
    bad.stop_ids = far;
    bad.n_stop_ids = 1;
    assert_int_equal(spey_sampling_check(&bad, VOCAB), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "stop_ids holds the token id 50, expected 0 to 49"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(greedy_takes_the_likeliest_and_the_lowest_id_of_a_tie),
        TEST(a_draw_depends_on_seed_and_index_alone),
        TEST(frequencies_follow_the_softmax_at_the_temperature),
        TEST(top_k_never_leaves_the_k_likeliest),
        TEST(top_p_keeps_a_token_while_the_mass_before_it_is_below_p),
        TEST(top_p_after_top_k_counts_the_mass_of_the_k),
        TEST(min_p_drops_tokens_far_below_the_likeliest),
        TEST(typical_can_drop_even_the_likeliest),
        cmocka_unit_test(draws_are_those_of_the_sample_kernel),
        TEST(repetition_penalty_divides_what_is_positive_and_multiplies_the_rest),
        TEST(presence_and_frequency_count_the_output_only),
        TEST(an_ngram_never_comes_twice),
        TEST(suppressed_ids_are_never_drawn_and_some_not_first),
        TEST(a_forced_id_is_the_only_choice),
        TEST(rows_of_a_prompt_table_are_passed_over),
        TEST(a_bad_word_is_banned_when_its_beginning_stands),
        TEST(end_of_text_waits_for_min_tokens),
        TEST(logit_bias_is_added),
        TEST(a_nan_or_a_total_ban_is_an_error_in_every_mode),
        TEST(top_lists_log_probabilities_likeliest_first),
        TEST(only_plain_greedy_decoding_takes_the_best),
        TEST(each_setting_has_a_range_and_its_error_names_it),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
