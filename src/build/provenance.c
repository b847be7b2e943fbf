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

spey_status spey_provenance_write(const spey_checkpoint *checkpoint, const spey_model_info *info,
                                  const spey_build_options *options, spey_source_digest *digest,
                                  spey_strbuf *out)
{
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
    put_text(out, "],\n \"disabled_passes\": ", spey_build_disabled_passes(options));
    spey_strbuf_puts(out, ",\n \"sources\": [");
    SPEY_TRY(put_sources(checkpoint, digest, out));
    spey_strbuf_puts(out, "\n ]}\n");
    return spey_strbuf_status(out);
}
