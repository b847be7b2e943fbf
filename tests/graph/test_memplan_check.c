/* The checker of memory plans sees every kind of fault. */
#include "graph_test.h"

#include "graph/memplan.h"
#include "random_graph.h"

static const spey_memplan_limits limits = {
    .tokens_max = 10, .outputs_max = 3, .element_bytes = 4, .in_place = true
};

static spey_memplan *plan_of(const spey_graph *graph, const spey_memplan_limits *with)
{
    spey_memplan *plan;
    must(spey_memplan_new(graph, with, &plan));
    must(spey_memplan_check(graph, with, plan));
    return plan;
}

/* Move each value in turn to the place of another: where the graph's meaning can suffer, the checker must object. That it
 * does not object too much is what the plans above show. */
static void the_checker_sees_faults(void **state)
{
    (void)state;
    int n_faults = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        spey_graph *graph = random_graph(seed);
        spey_memplan_limits apart = limits;
        apart.in_place = false;
        spey_memplan *plan = plan_of(graph, &apart);
        for (int n = 0; n < graph->n_nodes; n++) {
            const spey_node *node = &graph->nodes[n];
            if (node->op != SPEY_GRAPH_LINEAR && node->op != SPEY_GRAPH_ATTENTION) continue;
            spey_placement *place = &plan->values[node->outputs[0]], kept = *place;
            place->offset = plan->values[node->inputs[0]].offset;
            must_fail(spey_memplan_check(graph, &apart, plan), SPEY_INTERNAL, "plan: ");
            *place = kept;
            place->offset = plan->arena_bytes;
            must_fail(spey_memplan_check(graph, &apart, plan), SPEY_INTERNAL, "beyond the arena");
            *place = kept;
            place->pitch = graph->values[node->outputs[0]].cols - 1;
            must_fail(spey_memplan_check(graph, &apart, plan), SPEY_INTERNAL, "pitch");
            *place = kept;
            place->offset += 1;
            must_fail(spey_memplan_check(graph, &apart, plan), SPEY_INTERNAL, "offset");
            *place = kept;
            n_faults += 4;
        }
        must(spey_memplan_check(graph, &apart, plan));
        spey_memplan_free(plan);
        spey_graph_free(graph);
    }
    assert_true(n_faults > 200);
}

/* The aliasing that kernels allow is allowed, and nothing beside it. */
static void faults_of_values_that_share_are_seen(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        "spey-graph 1\nweight e f32 [9,16]\nweight m f32 [16,16]\n"
        "%0 = embed() e : tokens 16\n%1 = linear(%0) m : tokens 16\n"
        "%2, %3 = add_norm(%1, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
        "%4 = slice(%3) : tokens 8 {begin=8 cols=8}\n%5 = slice(%2) : tokens 8 {begin=0 cols=8}\n"
        "%6 = add(%4, %5) : tokens 8\n%7 = gather(%6) : outputs 8\noutput %7\n");
    spey_memplan *plan = plan_of(graph, &limits);
    spey_placement kept = plan->values[3];
    plan->values[3] =
        plan->values[0]; /* the normed rows over the residual: the kernel forbids it */
    must_fail(spey_memplan_check(graph, &limits, plan), SPEY_INTERNAL,
              "writes %3 over its input %0");
    plan->values[3] = kept;
    kept = plan->values[4];
    plan->values[4].offset -= 32; /* the first half of the row, not the second */
    must_fail(spey_memplan_check(graph, &limits, plan), SPEY_INTERNAL,
              "slice %4 is not a view of %3");
    plan->values[4] = kept;
    kept = plan->values[6];
    plan->values[6].offset += 4; /* one element beside its input */
    must_fail(spey_memplan_check(graph, &limits, plan), SPEY_INTERNAL, "over its input");
    plan->values[6] = kept;
    plan->values[6].storage = 99;
    must_fail(spey_memplan_check(graph, &limits, plan), SPEY_INTERNAL, "lies in no storage");
    plan->values[6] = kept;
    must(spey_memplan_check(graph, &limits, plan));
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checker_sees_faults),
        cmocka_unit_test(faults_of_values_that_share_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
