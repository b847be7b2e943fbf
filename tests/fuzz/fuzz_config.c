/* config.json: whatever it says, it is refused with a message, or its graph can be drawn and optimised. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "graph/passes.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *config;
    spey_model *model;
    spey_graph *graph;
    if (spey_json_parse("fuzz", (const char *)data, size, &config) != SPEY_OK) return 0;
    spey_status status = spey_model_new("fuzz", config, &model);
    json_decref(config);
    if (status != SPEY_OK) {
        SPEY_ASSERT(strncmp(spey_last_error(), "fuzz: ", 6) == 0);
        return 0;
    }
    SPEY_ASSERT(spey_model_draw(model, SPEY_BF16, &graph) == SPEY_OK);
    /* Passes are quadratic in layers: nothing is learnt from a hundred. */
    if (graph->n_nodes < 400) SPEY_ASSERT(spey_passes_run(graph, NULL) == SPEY_OK);
    spey_graph_free(graph);
    spey_model_free(model);
    return 0;
}
