/* The name under which a built engine is cached. */
#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "build/build.h"
#include "build/checkpoint.h"
#include "build/draw.h"
#include "engine/engine_format.h"
#include "spey/spey.h"

enum {
    /* Raise it when the same checkpoint gives another engine than before: cached ones are then built again. */
    BUILDER_REVISION = 5,
    SMALL_BYTES_MAX = 1 << 20, /* files up to this size are part of the key with their contents */
};

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && !strcmp(text + n - m, suffix);
}

/* Files that a build may read. */
static int is_source(const struct dirent *entry)
{
    const char *const *names = spey_checkpoint_file_names();
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], entry->d_name)) return 1;
    return ends_with(entry->d_name, ".safetensors") || ends_with(entry->d_name, ".index.json");
}

static spey_status add_file(const char *folder, const char *name, spey_strbuf *out)
{
    char path[SPEY_PATH_BYTES_MAX];
    SPEY_TRY(spey_path_join(path, folder, name));
    struct stat st;
    if (stat(path, &st)) return SPEY_FAIL(SPEY_IO, "%s: cannot stat", path);
    spey_strbuf_printf(out, "file %s %" PRIu64 " %" PRIu64 ".%ld\n", name, (uint64_t)st.st_size,
                       (uint64_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    if (S_ISREG(st.st_mode) && st.st_size <= SMALL_BYTES_MAX && !ends_with(name, ".safetensors"))
        SPEY_TRY(spey_file_read(path, SMALL_BYTES_MAX, out));
    return SPEY_OK;
}

static spey_status add_folder(const char *folder, spey_strbuf *out)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_source, alphasort);
    if (n < 0) return SPEY_FAIL(SPEY_NOT_FOUND, "%s: cannot list the folder", folder);
    spey_status status = SPEY_OK;
    if (n > SPEY_SHARDS_MAX + SPEY_CHECKPOINT_FILES_MAX)
        status = SPEY_FAIL(SPEY_LIMIT, "%s: holds %d files", folder, n);
    for (int i = 0; i < n; i++) {
        if (!status) status = add_file(folder, entries[i]->d_name, out);
        free(entries[i]); /* scandir's own memory */
    }
    free(entries);
    return status;
}

static spey_status describe(const char *checkpoint, const spey_build_options *options,
                            spey_strbuf *out)
{
    char name[128];
    SPEY_TRY(spey_checkpoint_name(checkpoint, name, sizeof name));
    spey_strbuf_printf(out, "spey %d.%d.%d builder %d format %d\n", SPEY_VERSION_MAJOR,
                       SPEY_VERSION_MINOR, SPEY_VERSION_PATCH, BUILDER_REVISION,
                       SPEY_ENGINE_VERSION);
    spey_strbuf_printf(out, "name %s dtype %s disabled %s\n", name,
                       options && options->dtype ? options->dtype : "auto",
                       spey_build_disabled_passes(options));
    spey_strbuf_printf(out, "quant %s scales %s cache %s\n",
                       options && options->quant ? options->quant : "none",
                       options && options->quant_scales ? options->quant_scales : "channel",
                       options && options->kv_dtype ? options->kv_dtype : "auto");
    for (int i = 0; options && options->calibration && i < options->calibration->n; i++)
        spey_strbuf_printf(out, "range %s %a\n", options->calibration->ranges[i].weight,
                           (double)options->calibration->ranges[i].largest);
    SPEY_TRY(add_folder(checkpoint, out));
    return spey_strbuf_status(out);
}

spey_status spey_build_key(const char *checkpoint, const spey_build_options *options, char out[65])
{
    spey_strbuf text = { 0 };
    spey_sha256 *sha256 = NULL;
    spey_status status = describe(checkpoint, options, &text);
    if (!status) status = spey_sha256_new(&sha256);
    if (!status) {
        spey_sha256_update(sha256, text.data, text.len);
        spey_sha256_hex(sha256, out);
    }
    spey_sha256_free(sha256);
    spey_strbuf_deinit(&text);
    return status;
}
