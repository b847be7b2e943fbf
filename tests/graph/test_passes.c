/* Passes: every case of passes/NAME.txt, text in and text out; and any subset of passes keeps a graph's meaning. */
#include "graph_test.h"

#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/rng.h"
#include "graph/passes.h"
#include "interpreter.h"
#include "random_graph.h"

/* ---- text in, text out ---- */

/* From `mark` at the start of a line on; NULL when it is not there. */
static const char *find_line(const char *text, const char *mark)
{
    for (const char *at = text; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
        if (strncmp(at, mark, strlen(mark)) == 0) return at;
    return NULL;
}

static const char *next_line(const char *text)
{
    const char *end = strchr(text, '\n');
    return end ? end + 1 : text + strlen(text);
}

/* The graph of a section, which ends before the next "---" or "===", without blank lines. */
static char *section(const char *text)
{
    spey_strbuf out = { 0 };
    char *copy;
    for (const char *at = text; *at && strncmp(at, "---", 3) && strncmp(at, "===", 3);
         at = next_line(at))
        if (*at != '\n') spey_strbuf_append(&out, at, (size_t)(next_line(at) - at));
    must(spey_strbuf_take(&out, &copy, NULL));
    return copy;
}

static void check_case(const spey_pass *pass, const char *title)
{
    const char *before_at = find_line(title, "--- before"),
               *after_at = find_line(title, "--- after");
    assert_non_null(before_at);
    assert_non_null(after_at);
    char *before = section(next_line(before_at)), *after = section(next_line(after_at));
    bool unchanged = strcmp(after, "same\n") == 0;
    int n_changes = 0;
    spey_graph *graph = graph_of(before);
    must(pass->run(graph, &n_changes));
    must(spey_graph_check(graph));
    char *got = text_of(graph);
    if (strcmp(got, unchanged ? before : after) != 0)
        fail_msg("%s: %.*s\n%s", pass->name, (int)(next_line(title) - title), title, got);
    assert_int_equal(n_changes == 0, unchanged);

    must(pass->run(graph, &n_changes)); /* what a pass leaves behind it leaves alone */
    char *again = text_of(graph);
    assert_string_equal(got, again);
    spey_free(again);
    spey_free(got);
    spey_free(before);
    spey_free(after);
    spey_graph_free(graph);
}

static void each_pass_does_what_its_cases_say(void **state)
{
    (void)state;
    int n;
    const spey_pass *passes = spey_passes(&n);
    for (int p = 0; p < n; p++) {
        char path[256];
        spey_strbuf text = { 0 };
        int n_cases = 0;
        snprintf(path, sizeof path, "tests/graph/passes/%s.txt", passes[p].name);
        must(spey_file_read(path, 1 << 20, &text));
        for (const char *at = find_line(text.data, "==="); at;
             at = find_line(next_line(at), "==="), n_cases++)
            check_case(&passes[p], at);
        assert_true(n_cases >= 3);
        spey_strbuf_deinit(&text);
    }
}

/* ---- any subset ---- */

static void disable(unsigned subset, spey_strbuf *list)
{
    int n;
    const spey_pass *passes = spey_passes(&n);
    for (int p = 0; p < n; p++)
        if (!(subset >> p & 1))
            spey_strbuf_printf(list, "%s%s", list->len ? "," : "", passes[p].name);
    if (!list->data) spey_strbuf_puts(list, "");
}

/* Three sequences, a prompt and two more tokens; free with spey_free. */
static double *logits_of(const spey_graph *graph)
{
    static const int64_t ids[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2 };
    static const int seqs[] = { 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2 }, rows[] = { 3, 5, 11 };
    interpreter_options options = { .read = read_random_weight, .n_seqs = 3, .tokens_max = 16 };
    interpreter *in = interpreter_new(graph, &options);
    int64_t cols = graph->values[graph->output].cols;
    double *logits = spey_new_array(SPEY_PURPOSE_GENERAL, double, 6 * cols);
    interpreter_step(in, &(interpreter_step_args){ 12, ids, seqs, 3, rows, logits, false });
    interpreter_step(in, &(interpreter_step_args){ 3, (int64_t[]){ 5, 6, 7 }, (int[]){ 0, 1, 2 }, 3,
                                                   (int[]){ 0, 1, 2 }, logits + 3 * cols, false });
    interpreter_free(in);
    return logits;
}

static void check_subset(const char *text, unsigned subset, const double *expected)
{
    spey_graph *graph = graph_of(text);
    spey_strbuf disabled = { 0 };
    disable(subset, &disabled);
    must(spey_passes_run(graph, disabled.data));
    double *logits = logits_of(graph);
    for (int64_t i = 0; i < 6 * graph->values[graph->output].cols; i++)
        if (!(fabs(logits[i] - expected[i]) <= 1e-9 * (1 + fabs(expected[i]))))
            fail_msg("without %s logit %lld is %g, expected %g in\n%s", disabled.data, (long long)i,
                     logits[i], expected[i], text);
    spey_free(logits);
    spey_strbuf_deinit(&disabled);
    spey_graph_free(graph);
}

static void any_subset_of_passes_keeps_the_meaning(void **state)
{
    (void)state;
    int n;
    spey_passes(&n);
    for (uint64_t seed = 1; seed <= 60; seed++) {
        spey_graph *graph = random_graph(seed);
        char *text = text_of(graph);
        double *expected = logits_of(graph);
        spey_rng rng = { .seed = seed };
        for (int i = 0; i < 8; i++)
            check_subset(text, i ? (unsigned)spey_rng_below(&rng, (uint64_t)1 << n) : ~0u,
                         expected);
        spey_free(expected);
        spey_free(text);
        spey_graph_free(graph);
    }
}

/* ---- names ---- */

static const char tiny[] =
    "spey-graph 1\nweight e f32 [2,2]\n%0 = embed() e : tokens 2\n"
    "%1 = slice(%0) : tokens 2 {begin=0 cols=2}\n%2 = gather(%1) : outputs 2\n"
    "output %2\n";

static void passes_are_switched_off_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *disabled;
        int n_nodes;
    } cases[] = { { NULL, 2 },
                  { "", 2 },
                  { "all", 3 },
                  { "simplify_slices", 3 },
                  { "fold_qkv,simplify_slices", 3 },
                  { "fold_qkv", 2 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_graph *graph = graph_of(tiny);
        must(spey_passes_run(graph, cases[i].disabled));
        assert_int_equal(graph->n_nodes, cases[i].n_nodes);
        spey_graph_free(graph);
    }
}

static void an_unknown_pass_lists_the_known_ones(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(tiny);
    must_fail(spey_passes_run(graph, "fold_qvk"), SPEY_INVALID,
              "unknown pass \"fold_qvk\"; known are all, hoist_gather, fold_qkv");
    must_fail(spey_passes_run(graph, "fold_qkv,,all"), SPEY_INVALID, "unknown pass \"\"");
    assert_int_equal(graph->n_nodes, 3);
    spey_graph_free(graph);
}

static void passes_survive_every_failed_allocation(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_graph *drawn = random_graph(3);
    char *text = text_of(drawn);
    spey_graph_free(drawn);
    for (uint64_t n = 1;; n++) {
        spey_graph *graph = graph_of(text);
        spey_alloc_fail_nth(n);
        spey_status status = spey_passes_run(graph, NULL);
        spey_alloc_fail_nth(0);
        spey_graph_free(graph);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
    }
    spey_free(text);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_pass_does_what_its_cases_say),
        cmocka_unit_test(any_subset_of_passes_keeps_the_meaning),
        cmocka_unit_test(passes_are_switched_off_by_name),
        cmocka_unit_test(an_unknown_pass_lists_the_known_ones),
        cmocka_unit_test(passes_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
