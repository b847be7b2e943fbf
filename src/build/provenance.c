#include "build/provenance.h"

#include <string.h>

#include "base/json.h"
#include "build/draw.h"
#include "engine/engine_format.h"
#include "graph/passes.h"
#include "spey/spey.h"

static void put_text(spey_strbuf *out, const char *before, const char *text)
{
    spey_strbuf_puts(out, before);
    spey_json_quote(out, text, strlen(text));
}

static void put_source(spey_strbuf *out, bool first, const char *name, size_t bytes,
                       const char *sha256)
{
    put_text(out, first ? "\n  {\"file\": " : ",\n  {\"file\": ", name);
    spey_strbuf_printf(out, ", \"bytes\": %zu, \"sha256\": \"%s\"}", bytes, sha256);
}

static spey_status put_sources(const spey_checkpoint *checkpoint, spey_source_digest *digest,
                               spey_strbuf *out)
{
    bool first = true;
    for (int i = 0; i < checkpoint->n_files; i++) {
        const spey_checkpoint_file *file = &checkpoint->files[i];
        char hex[SPEY_SHA256_HEX_BYTES];
        SPEY_TRY(spey_bytes_digest(file->bytes.data, file->bytes.len, hex));
        put_source(out, first, file->name, file->bytes.len, hex);
        first = false;
    }
    spey_source_digest_wait(digest);
    for (int i = 0; i < spey_safetensors_n_files(checkpoint->tensors); i++)
        put_source(out, false, spey_safetensors_file_name(checkpoint->tensors, i),
                   spey_safetensors_file_map(checkpoint->tensors, i)->size,
                   spey_source_digest_hex(digest, i));
    return SPEY_OK;
}

static void put_calibration(const spey_build_options *options, spey_strbuf *out)
{
    const spey_calibration *calibration = options ? options->calibration : NULL;
    if (!calibration) return;
    put_text(out, ",\n  \"calibration\": {\"text_sha256\": ", calibration->text_sha256);
    spey_strbuf_printf(out, ", \"tokens\": %lld, \"window\": %lld}",
                       (long long)calibration->n_tokens, (long long)calibration->window);
}

/* What is E4M3, and who decided: the builder, or the checkpoint. */
static void put_quantization(const spey_provenance *from, spey_strbuf *out)
{
    const spey_build_options *options = from->options;
    const bool ours = options && options->quant && strcmp(options->quant, "none") != 0;
    int n = 0, n_static = 0;
    for (int i = 0; i < from->graph->n_nodes; i++) {
        const spey_node *node = &from->graph->nodes[i];
        const spey_weight *weight =
            node->n_weights ? &from->graph->weights[node->weights[0]] : NULL;
        n += weight && weight->dtype == SPEY_E4M3;
        n_static += weight && weight->dtype == SPEY_E4M3 && weight->input == SPEY_INPUT_STATIC;
    }
    spey_strbuf_puts(out, ",\n \"quantization\": ");
    if (!n) {
        spey_strbuf_puts(out, "null");
        return;
    }
    put_text(out, "{\"method\": ", ours ? options->quant : "as in the checkpoint");
    spey_strbuf_printf(out, ", \"e4m3_matrices\": %d, \"static_inputs\": %d", n, n_static);
    if (ours)
        put_text(out, ", \"scales\": ", options->quant_scales ? options->quant_scales : "channel");
    put_calibration(options, out);
    spey_strbuf_puts(out, "}");
}

/* How K and V are kept, and where their scales come from. */
static void put_cache(const spey_provenance *from, spey_strbuf *out)
{
    bool scaled = false;
    for (int c = 0; c < from->graph->n_caches; c++)
        scaled = scaled || from->graph->caches[c].scaled;
    spey_strbuf_puts(out, ",\n \"kv_cache\": ");
    if (!from->info->kv_dtype[0]) {
        spey_strbuf_puts(out, "null");
        return;
    }
    const bool calibrated = scaled && from->options && from->options->calibration;
    put_text(out, "{\"dtype\": ", from->info->kv_dtype);
    put_text(out, ", \"scales\": ",
             calibrated ? "calibrated"
             : scaled   ? "as in the checkpoint"
                        : "none");
    if (calibrated) put_calibration(from->options, out);
    spey_strbuf_puts(out, "}");
}

spey_status spey_provenance_write(const spey_provenance *from, spey_strbuf *out)
{
    const spey_model_info *info = from->info;
    spey_strbuf_printf(out, "{\"spey_version\": \"%d.%d.%d\",\n \"engine_format\": %d",
                       SPEY_VERSION_MAJOR, SPEY_VERSION_MINOR, SPEY_VERSION_PATCH,
                       SPEY_ENGINE_VERSION);
    put_text(out, ",\n \"checkpoint\": ", info->name);
    put_text(out, ",\n \"architecture\": ", info->arch);
    put_text(out, ",\n \"dtype\": ", spey_dtype_name(info->dtype));
    spey_strbuf_puts(out, ",\n \"passes\": [");
    int n_passes;
    const spey_pass *passes = spey_passes(&n_passes);
    for (int i = 0; i < n_passes; i++)
        put_text(out, i ? ", " : "", passes[i].name);
    put_text(out, "],\n \"disabled_passes\": ", spey_build_disabled_passes(from->options));
    put_quantization(from, out);
    put_cache(from, out);
    spey_strbuf_puts(out, ",\n \"sources\": [");
    SPEY_TRY(put_sources(from->checkpoint, from->digest, out));
    spey_strbuf_puts(out, "\n ]}\n");
    return spey_strbuf_status(out);
}
