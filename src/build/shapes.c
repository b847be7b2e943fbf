/* Published shapes as virtual engines. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "build/build.h"
#include "build/draw.h"
#include "build/import.h"

static const struct {
    const char *name, *config;
} shapes[] = {
#define SHAPE(name, config) { name, config },
#include "build/shapes.def"
#undef SHAPE
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

const char *const *spey_build_shape_names(void)
{
    static const char *const names[] = {
#define SHAPE(name, config) name,
#include "build/shapes.def"
#undef SHAPE
        NULL,
    };
    return names;
}

static spey_status fail_unknown(const char *name)
{
    char known[SPEY_ERROR_BYTES_MAX] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_SHAPES; i++) {
        int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", shapes[i].name);
        SPEY_ASSERT(n > 0 && (size_t)n < sizeof known - used);
        used += (size_t)n;
    }
    return SPEY_FAIL(SPEY_NOT_FOUND, "no shape \"%.64s\"; known: %s", name, known);
}

static spey_status open_shape(const spey_model *model, const char *name,
                              const spey_build_options *options, spey_engine_file **out)
{
    spey_model_info info;
    spey_model_get_info(model, &info);
    snprintf(info.name, sizeof info.name, "%s", name);
    spey_graph *graph;
    SPEY_TRY(spey_draw(model, options, NULL, &info, &graph));
    spey_strbuf text = { .max = SPEY_GRAPH_TEXT_MAX };
    spey_import_weights weights;
    spey_status status = spey_import_weights_list(graph, &weights);
    info.n_parameters = weights.n_parameters;
    if (!status) status = spey_graph_write(graph, &text);
    if (!status)
        status = spey_engine_file_virtual(&info, text.data, weights.tensors, weights.n, out);
    spey_import_weights_deinit(&weights);
    spey_strbuf_deinit(&text);
    spey_graph_free(graph);
    return status;
}

spey_status spey_build_shape(const char *name, const spey_build_options *options,
                             spey_engine_file **out)
{
    *out = NULL;
    size_t i = 0;
    while (i < N_SHAPES && strcmp(shapes[i].name, name))
        i++;
    if (i == N_SHAPES) return fail_unknown(name);
    json_t *config;
    SPEY_TRY(spey_json_parse(name, shapes[i].config, strlen(shapes[i].config), &config));
    spey_model *model;
    spey_status status = spey_model_new(name, config, &model);
    json_decref(config);
    SPEY_TRY(status);
    status = open_shape(model, name, options, out);
    spey_model_free(model);
    return status;
}
