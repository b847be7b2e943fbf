/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "runtime/beam.h"
#include "runtime/sampler.h"

enum { VOCAB = 24, IDS_MAX = 64 };

/* ---- the model of tools/reference/make_beams.py ---- */

static uint32_t mix(uint64_t state, int64_t token)
{
    uint64_t x = state + (uint64_t)(token + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((x ^ (x >> 31)) >> 40);
}

static bool is_end(int32_t token, int32_t n_ends)
{
    return token >= 1 && token <= n_ends;
}

static float bonus(int32_t token, int32_t n_ends)
{
    if (token == 0) return -20;
    return is_end(token, n_ends) ? 1.5F : 0;
}

static void model_row(const int32_t *ids, int32_t n, int32_t n_ends, float *row)
{
    uint64_t state = 0xCBF29CE484222325u;
    for (int32_t i = 0; i < n; i++)
        state = (state ^ (uint64_t)(ids[i] + 1)) * 0x100000001B3u;
    for (int32_t t = 0; t < VOCAB; t++)
        row[t] = (float)mix(state, t) / (float)(1 << 22) + bonus(t, n_ends);
    float total = (float)spey_log_sum_exp(row, VOCAB);
    for (int32_t t = 0; t < VOCAB; t++)
        row[t] -= total;
}

typedef struct search {
    spey_beam_options o;
    spey_beam *beam;
    int32_t n; /* ids of each running beam */
    int32_t n_prompt;
    int32_t ids[SPEY_BEAMS_MAX][IDS_MAX];
    float rows[SPEY_BEAMS_MAX][VOCAB];
} search;

static bool ends(void *user, int32_t parent, int32_t token)
{
    const search *s = user;
    int32_t n;
    spey_beam_get_running(s->beam, &n);
    assert_in_range(parent, 0, n - 1);
    return is_end(token, s->o.n_ends);
}

static void step(search *s)
{
    const float *rows[SPEY_BEAMS_MAX];
    int32_t n, before[SPEY_BEAMS_MAX][IDS_MAX];
    spey_beam_get_running(s->beam, &n);
    for (int32_t i = 0; i < n; i++) {
        model_row(s->ids[i], s->n, s->o.n_ends, s->rows[i]);
        rows[i] = s->rows[i];
    }
    memcpy(before, s->ids, sizeof before);
    spey_beam_step(s->beam, rows, ends, s);
    const spey_beam_running *running = spey_beam_get_running(s->beam, &n);
    for (int32_t i = 0; i < n; i++) {
        memcpy(s->ids[i], before[running[i].parent], sizeof before[0]);
        s->ids[i][s->n] = running[i].token;
    }
    s->n++;
}

static void begin(search *s, const int32_t *prompt, int32_t n_prompt)
{
    assert_int_equal(spey_beam_new(&s->o, &s->beam), SPEY_OK);
    s->n = s->n_prompt = n_prompt;
    for (int32_t i = 0; i < SPEY_BEAMS_MAX; i++)
        memcpy(s->ids[i], prompt, (size_t)n_prompt * sizeof *prompt);
}

/* Steps with the allocator sealed until nothing runs. */
static void finish(search *s)
{
    int32_t n;
    spey_alloc_seal(true);
    for (spey_beam_get_running(s->beam, &n); n > 0; spey_beam_get_running(s->beam, &n))
        step(s);
    spey_alloc_seal(false);
}

static spey_beam_options plain(int32_t width)
{
    return (spey_beam_options){ .width = width,
                                .groups = 1,
                                .length_penalty = 1,
                                .n_ends = 1,
                                .steps_max = 12,
                                .vocab_size = VOCAB };
}

/* ---- against transformers ---- */

static spey_early_stopping early_stopping_of(const json_t *value)
{
    if (json_is_string(value)) return SPEY_EARLY_STOPPING_NEVER;
    return json_is_true(value) ? SPEY_EARLY_STOPPING_ON : SPEY_EARLY_STOPPING_OFF;
}

static int32_t read_ids(const json_t *list, int32_t *ids)
{
    int32_t n = (int32_t)json_array_size(list);
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static void read_options(const json_t *test, spey_beam_options *o)
{
    int64_t value;
    *o = (spey_beam_options){ .vocab_size = VOCAB };
    assert_int_equal(spey_json_int(test, "beams", "num_beams", 1, 32, 0, &value), SPEY_OK);
    o->width = (int32_t)value;
    assert_int_equal(spey_json_int(test, "beams", "num_beam_groups", 1, 32, 1, &value), SPEY_OK);
    o->groups = (int32_t)value;
    assert_int_equal(spey_json_int(test, "beams", "max_new_tokens", 1, 50, 0, &value), SPEY_OK);
    o->steps_max = (int32_t)value;
    o->length_penalty = json_number_value(json_object_get(test, "length_penalty"));
    o->diversity_penalty = json_number_value(json_object_get(test, "diversity_penalty"));
    o->early_stopping = early_stopping_of(json_object_get(test, "early_stopping"));
    o->n_ends = (int32_t)json_array_size(json_object_get(test, "ends"));
}

static void run_case(const json_t *test)
{
    search s;
    int32_t prompt[IDS_MAX], wanted[IDS_MAX], ids[IDS_MAX];
    float sums[IDS_MAX];
    read_options(test, &s.o);
    begin(&s, prompt, read_ids(json_object_get(test, "prompt"), prompt));
    finish(&s);
    const json_t *outputs = json_object_get(test, "outputs");
    const json_t *scores = json_object_get(test, "scores");
    spey_beam_hypothesis best[SPEY_BEAMS_MAX];
    int32_t n = spey_beam_best(s.beam, (int32_t)json_array_size(outputs), best);
    assert_int_equal(n, json_array_size(outputs));
    for (int32_t i = 0; i < n; i++) {
        int32_t n_wanted = read_ids(json_array_get(outputs, (size_t)i), wanted);
        assert_int_equal(best[i].n_ids, n_wanted);
        spey_beam_ids(s.beam, &best[i], ids, sums);
        assert_true(sums[n_wanted - 1] == best[i].sum);
        assert_memory_equal(ids, wanted, (size_t)n_wanted * sizeof *ids);
        double score = json_number_value(json_array_get(scores, (size_t)i));
        assert_true(fabs((double)best[i].score - score) < 1e-5 * (1 + fabs(score)));
    }
    spey_beam_free(s.beam);
}

static void sequences_and_scores_equal_those_of_transformers(void **state)
{
    (void)state;
    json_t *cases;
    assert_int_equal(spey_json_read("tests/data/beams.json", &cases), SPEY_OK);
    assert_int_equal(json_array_size(cases), 120);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        print_message("case %zu\n", i);
        run_case(json_array_get(cases, i));
    }
    json_decref(cases);
}

/* ---- what must hold for any model ---- */

static void one_beam_is_greedy(void **state)
{
    (void)state;
    search s = { .o = plain(1) };
    s.o.n_ends = 0;
    begin(&s, (int32_t[]){ 5 }, 1);
    finish(&s);
    spey_beam_hypothesis best;
    assert_int_equal(spey_beam_best(s.beam, 1, &best), 1);
    int32_t found[IDS_MAX], ids[IDS_MAX] = { 5 };
    float sums[IDS_MAX];
    spey_beam_ids(s.beam, &best, found, sums);
    assert_true(sums[11] == best.sum);
    for (int32_t n = 1; n <= 12; n++) {
        float row[VOCAB];
        model_row(ids, n, 0, row);
        for (int32_t t = 1; t < VOCAB; t++)
            ids[n] = row[t] > row[ids[n]] ? t : ids[n];
        assert_int_equal(found[n - 1], ids[n]);
    }
    spey_beam_free(s.beam);
}

static void a_width_of_all_sequences_finds_the_likeliest(void **state)
{
    (void)state;
    search s = { .o = plain(24) };
    s.o.steps_max = 2;
    s.o.n_ends = 0;
    begin(&s, (int32_t[]){ 7 }, 1);
    finish(&s);
    float first[VOCAB], second[VOCAB], best = -INFINITY;
    model_row((int32_t[]){ 7 }, 1, 0, first);
    int32_t wanted[2] = { 0 }, found[2];
    float sums[2];
    for (int32_t a = 0; a < VOCAB; a++) {
        model_row((int32_t[]){ 7, a }, 2, 0, second);
        for (int32_t b = 0; b < VOCAB; b++) {
            if (first[a] + second[b] <= best) continue;
            best = first[a] + second[b];
            wanted[0] = a;
            wanted[1] = b;
        }
    }
    spey_beam_hypothesis h;
    assert_int_equal(spey_beam_best(s.beam, 1, &h), 1);
    spey_beam_ids(s.beam, &h, found, sums);
    assert_true(sums[0] == first[wanted[0]]);
    assert_memory_equal(found, wanted, sizeof wanted);
    assert_true(h.sum == best);
    spey_beam_free(s.beam);
}

static bool never(void *user, int32_t parent, int32_t token)
{
    (void)user, (void)parent, (void)token;
    return false;
}

static void banned_tokens_and_nan_are_never_chosen(void **state)
{
    (void)state;
    spey_beam_options o = plain(4);
    spey_beam *beam;
    assert_int_equal(spey_beam_new(&o, &beam), SPEY_OK);
    float row[VOCAB];
    for (int32_t t = 0; t < VOCAB; t++)
        row[t] = t % 2 ? NAN : -INFINITY;
    row[6] = -1;
    row[8] = -2;
    const float *rows[4] = { row, row, row, row };
    int32_t n;
    spey_beam_step(beam, rows, never, NULL);
    const spey_beam_running *running = spey_beam_get_running(beam, &n);
    assert_int_equal(n, 2);
    assert_int_equal(running[0].token, 6);
    assert_int_equal(running[1].token, 8);
    row[6] = row[8] = -INFINITY;
    spey_beam_step(beam, rows, never, NULL);
    spey_beam_get_running(beam, &n);
    assert_int_equal(n, 0);
    spey_beam_hypothesis best;
    assert_int_equal(spey_beam_best(beam, 1, &best), 0);
    spey_beam_free(beam);
}

static void bad_options_are_refused_by_name(void **state)
{
    (void)state;
    const struct {
        spey_beam_options o;
        const char *name;
    } cases[] = {
        { { .width = 0, .groups = 1 }, "beams" },
        { { .width = SPEY_BEAMS_MAX + 1, .groups = 1 }, "beams" },
        { { .width = 4, .groups = 3 }, "beam_groups" },
        { { .width = 4, .groups = 0 }, "beam_groups" },
        { { .width = 4, .groups = 2, .diversity_penalty = -1 }, "diversity_penalty" },
        { { .width = 4, .groups = 2, .diversity_penalty = (double)NAN }, "diversity_penalty" },
        { { .width = 4, .groups = 1, .length_penalty = (double)INFINITY }, "length_penalty" },
        { { .width = 4, .groups = 1, .early_stopping = 7 }, "early_stopping" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_beam *beam;
        assert_int_equal(spey_beam_new(&cases[i].o, &beam), SPEY_INVALID);
        assert_null(beam);
        assert_non_null(strstr(spey_last_error(), cases[i].name));
    }
}

static void failed_allocations_leak_nothing(void **state)
{
    (void)state;
    spey_beam_options o = plain(8);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_beam *beam;
        spey_alloc_fail_nth(nth);
        status = spey_beam_new(&o, &beam);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_NOMEM ? !beam : !status);
        spey_beam_free(beam);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_and_scores_equal_those_of_transformers),
        cmocka_unit_test(one_beam_is_greedy),
        cmocka_unit_test(a_width_of_all_sequences_finds_the_likeliest),
        cmocka_unit_test(banned_tokens_and_nan_are_never_chosen),
        cmocka_unit_test(bad_options_are_refused_by_name),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
