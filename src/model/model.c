#include "model/model.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/edit_distance.h"
#include "base/json.h"
#include "model/arch.h"

struct spey_model {
    const spey_arch *arch;
    spey_arch_config config;
    spey_model_info info;
};

static const spey_arch *const archs[] = {
#define SPEY_ARCH(name) &spey_arch_##name,
#include "model/archs.def"
#undef SPEY_ARCH
};

enum { N_ARCHS = sizeof archs / sizeof *archs };

/* ---- finding the architecture ---- */

/* All names that are supported, nearest to `name` first. */
static spey_status fail_unknown(const char *where, const char *name)
{
    enum { NAMES_MAX = 128 };
    const char *names[NAMES_MAX];
    int n = 0;
    for (int a = 0; a < N_ARCHS; a++)
        for (const char *const *hf = archs[a]->hf_names; *hf && n < NAMES_MAX; hf++) {
            int at = n++;
            for (;
                 at > 0 && spey_edit_distance(name, names[at - 1]) > spey_edit_distance(name, *hf);
                 at--)
                names[at] = names[at - 1];
            names[at] = *hf;
        }
    char list[SPEY_ERROR_BYTES_MAX] = "";
    size_t used = 0;
    for (int i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    return SPEY_FAIL(SPEY_UNSUPPORTED,
                     "%s: architecture \"%.64s\" is not supported; supported are %s", where, name,
                     list);
}

static spey_status find_arch(const char *where, const json_t *config, spey_model *model)
{
    const json_t *list = json_object_get(config, "architectures");
    if (!json_is_array(list) || json_array_size(list) != 1)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"architectures\" is not a list of one name", where);
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name) return SPEY_FAIL(SPEY_FORMAT, "%s: \"architectures\"[0] is not a string", where);
    for (int a = 0; a < N_ARCHS; a++)
        for (const char *const *hf = archs[a]->hf_names; *hf; hf++)
            if (strcmp(*hf, name) == 0) {
                model->arch = archs[a];
                model->config.hf_name = *hf;
                return SPEY_OK;
            }
    return fail_unknown(where, name);
}

/* ---- what config.json says apart from the architecture ---- */

static void read_dtype(spey_config *config, spey_model_info *info)
{
    const char *name = spey_config_text(config, "dtype|torch_dtype", "float32");
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    static const struct {
        const char *name;
        spey_dtype dtype;
    } known[] = { { "float32", SPEY_F32 }, { "float16", SPEY_F16 }, { "bfloat16", SPEY_BF16 } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            info->dtype = known[i].dtype;
            return;
        }
    spey_config_demand(config, false, "dtype is \"%.32s\", expected float32, float16 or bfloat16",
                       name);
}

/* One id or a list of them. */
static void read_eos(spey_config *config, spey_model_info *info)
{
    const json_t *eos = json_object_get(config->json, "eos_token_id");
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    spey_config_demand(config, n <= SPEY_EOS_IDS_MAX, "eos_token_id has %zu ids, expected up to %d",
                       n, SPEY_EOS_IDS_MAX);
    if (!eos || json_is_null(eos) || config->status) return;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        json_int_t value = json_integer_value(id);
        bool valid = json_is_integer(id) && value >= -1 && value < SPEY_VOCAB_MAX;
        spey_config_demand(config, valid, "eos_token_id is not an id or a list of ids");
        if (valid && value >= 0) info->eos_ids[info->n_eos++] = (int32_t)value;
    }
}

static int32_t read_id(spey_config *config, const char *key)
{
    int64_t id = spey_config_int(config, key, -1, SPEY_VOCAB_MAX - 1, -1);
    return (int32_t)id;
}

/* What a decoder begins with when it has an encoder, as generate() finds it; T5 was trained with the padding. */
static void read_start(spey_config *config, bool encodes, spey_model_info *info)
{
    info->decoder_start_id = info->forced_bos_id = -1;
    if (!encodes) return;
    info->decoder_start_id = read_id(config, "decoder_start_token_id");
    if (info->decoder_start_id < 0) info->decoder_start_id = info->bos_id;
    if (info->decoder_start_id < 0) info->decoder_start_id = info->pad_id;
    spey_config_demand(config, info->decoder_start_id >= 0, "decoder_start_token_id is missing");
    info->forced_bos_id = read_id(config, "forced_bos_token_id");
}

/* Dynamic and yarn multiply the positions that they begin from; a checkpoint whose max_position_embeddings is still that
 * number reaches as far as its factor says. */
static int64_t read_context(const spey_arch_config *config)
{
    const spey_rope_config *rope = &config->rope;
    bool extends = rope->type == SPEY_ROPE_DYNAMIC || rope->type == SPEY_ROPE_YARN;
    if (!extends || rope->original != config->positions || rope->factor < 1)
        return config->positions;
    double extended = floor((double)config->positions * rope->factor);
    return (int64_t)fmin(extended, SPEY_POSITIONS_MAX);
}

static void read_info(spey_config *config, spey_model *model)
{
    spey_model_info *info = &model->info;
    snprintf(info->arch, sizeof info->arch, "%s", model->arch->name);
    info->exact = model->config.exact;
    info->vocab_size = model->config.vocab;
    info->hidden_size = model->config.hidden;
    info->n_layers = model->config.layers;
    info->context_length = read_context(&model->config);
    info->temperature = info->top_p = info->typical_p = info->repetition_penalty = 1;
    info->forced_eos_id = model->config.forced_eos ? model->config.forced_eos : -1;
    info->bos_id = read_id(config, "bos_token_id");
    info->pad_id = read_id(config, "pad_token_id");
    read_start(config, model->config.encoder.layers > 0, info);
    read_dtype(config, info);
    read_eos(config, info);
}

/* ---- the interface ---- */

/* Draw once: sizes that no graph can have are an error now, and the parameters are counted. */
static spey_status count_parameters(spey_model *model)
{
    spey_graph *graph;
    SPEY_TRY(spey_model_draw(model, SPEY_F32, &graph));
    for (int w = 0; w < graph->n_weights; w++) {
        if (!graph->weights[w].source.tensor) continue;
        uint64_t n = 1;
        for (int d = 0; d < graph->weights[w].n_dims; d++)
            n *= (uint64_t)graph->weights[w].dims[d];
        model->info.n_parameters += n;
    }
    spey_graph_free(graph);
    return SPEY_OK;
}

static spey_status read_model(const char *where, const json_t *json, spey_model *model)
{
    if (!json_is_object(json)) return SPEY_FAIL(SPEY_FORMAT, "%s: not a JSON object", where);
    SPEY_TRY(find_arch(where, json, model));
    spey_config config = { .where = where, .json = json };
    model->arch->read(&config, &model->config);
    read_info(&config, model);
    SPEY_TRY(config.status);
    SPEY_TRY_CTX(count_parameters(model), "%s", where);
    return SPEY_OK;
}

spey_status spey_model_new(const char *where, const json_t *config, spey_model **out)
{
    *out = NULL;
    spey_model *model = spey_new(SPEY_PURPOSE_GRAPH, spey_model);
    if (!model) return SPEY_NOMEM;
    spey_status status = read_model(where, config, model);
    if (status)
        spey_free(model);
    else
        *out = model;
    return status;
}

void spey_model_free(spey_model *model)
{
    spey_free(model);
}

void spey_model_get_info(const spey_model *model, spey_model_info *out)
{
    *out = model->info;
}

spey_status spey_model_draw(const spey_model *model, spey_dtype dtype, spey_graph **out)
{
    *out = NULL;
    spey_blocks blocks = { .dtype = dtype };
    SPEY_TRY(spey_graph_new(&blocks.graph));
    model->arch->draw(&blocks, &model->config);
    if (!blocks.status) blocks.status = spey_graph_check(blocks.graph);
    if (blocks.status)
        spey_graph_free(blocks.graph);
    else
        *out = blocks.graph;
    return blocks.status;
}

bool spey_model_ignores_tensor(const spey_model *model, const char *name)
{
    /* A tied head is often saved all the same. */
    if (model->config.tied && strcmp(name, "lm_head.weight") == 0) return true;
    for (const char *const *p = model->arch->ignored; p && *p; p++)
        if (fnmatch(*p, name, 0) == 0) return true;
    return false;
}

bool spey_model_tensor_alias(const char *tensor, int variant, char out[SPEY_NAME_BYTES_MAX])
{
    static const char *const prefixes[] = { "model.", "transformer.", "gpt_neox." };
    if (variant != 0) return false;
    if (strcmp(tensor, "lm_head.weight") == 0) { /* an encoder-decoder model's, tied */
        snprintf(out, SPEY_NAME_BYTES_MAX, "shared.weight");
        return true;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (strncmp(tensor, prefixes[i], n) == 0) {
            snprintf(out, SPEY_NAME_BYTES_MAX, "%s", tensor + n);
            return true;
        }
    }
    return false;
}
