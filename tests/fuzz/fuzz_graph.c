/* Graph text from an engine file: whatever it says, it is refused, or it is a graph that writes itself, can be planned and
 * survives all passes. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph_text.h"
#include "graph/memplan.h"
#include "graph/passes.h"

static void check_text(const spey_graph *graph)
{
    spey_strbuf once = { 0 }, twice = { 0 };
    spey_graph *again;
    SPEY_ASSERT(spey_graph_write(graph, &once) == SPEY_OK);
    SPEY_ASSERT(spey_graph_parse("again", once.data, once.len, &again) == SPEY_OK);
    SPEY_ASSERT(spey_graph_write(again, &twice) == SPEY_OK);
    SPEY_ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    spey_graph_free(again);
    spey_strbuf_deinit(&once);
    spey_strbuf_deinit(&twice);
}

static void check_plan(const spey_graph *graph)
{
    spey_memplan_limits limits = {
        .tokens_max = 7, .outputs_max = 2, .element_bytes = 4, .in_place = true
    };
    spey_memplan *plan;
    SPEY_ASSERT(spey_memplan_new(graph, &limits, &plan) == SPEY_OK);
    SPEY_ASSERT(spey_memplan_check(graph, &limits, plan) == SPEY_OK);
    spey_memplan_free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    spey_graph *graph;
    if (spey_graph_parse("fuzz", (const char *)data, size, &graph) != SPEY_OK) return 0;
    check_text(graph);
    check_plan(graph);
    SPEY_ASSERT(spey_passes_run(graph, NULL) == SPEY_OK);
    check_text(graph);
    check_plan(graph);
    spey_graph_free(graph);
    return 0;
}
