#include "engine/engine_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/map.h"
#include "engine/engine_format.h"

/* A section in memory: inside the mapping, or owned text of a virtual engine. */
typedef struct section {
    char name[SPEY_ENGINE_SECTION_NAME_BYTES];
    const uint8_t *data;
    uint64_t offset, bytes, checksum;
} section;

struct spey_engine_file {
    char *path;
    spey_file_map map; /* empty in a virtual engine */
    spey_model_info info;
    section *sections;
    int n_sections;
    spey_engine_tensor *tensors;
    int n_tensors;
    spey_map index;   /* tensor name → position */
    spey_arena arena; /* what a virtual engine owns */
};

/* ---- header and section table ---- */

static spey_status fail_foreign(const char *path, const spey_file_map *map)
{
    static const struct {
        const char *bytes, *what;
    } kinds[] = {
        { "GGUF", "a GGUF file" },
        { "PK\x03\x04", "a ZIP archive (pytorch_model.bin?)" },
        { "\x1f\x8b", "a gzip archive" },
        { "{", "JSON" },
        { "version https://git-lfs", "a Git LFS pointer, not the file itself" },
    };
    if (map->size == 0) return SPEY_FAIL(SPEY_FORMAT, "%s: is empty, expected an engine", path);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t len = strlen(kinds[i].bytes);
        if (map->size >= len && !memcmp(map->data, kinds[i].bytes, len))
            return SPEY_FAIL(SPEY_FORMAT, "%s: is %s, expected an engine", path, kinds[i].what);
    }
    if (map->size > 9 && map->data[8] == '{')
        return SPEY_FAIL(
            SPEY_FORMAT,
            "%s: is a safetensors file, expected an engine (build one from its folder)", path);
    return SPEY_FAIL(SPEY_FORMAT, "%s: is not a Spey engine", path);
}

/* Copy the header out when it is right. The magic and the version come first, whatever the version. */
static spey_status read_header(const char *path, const spey_file_map *map, spey_engine_header *out)
{
    size_t n = map->size < SPEY_ENGINE_MAGIC_BYTES ? map->size : SPEY_ENGINE_MAGIC_BYTES;
    if (n == 0 || memcmp(map->data, SPEY_ENGINE_MAGIC, n)) return fail_foreign(path, map);
    if (map->size < sizeof *out)
        return SPEY_FAIL(SPEY_FORMAT, "%s: truncated: %zu bytes, an engine has more than %zu", path,
                         map->size, sizeof *out);
    spey_engine_header header;
    memcpy(&header, map->data, sizeof header);
    if (header.version > SPEY_ENGINE_VERSION)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "%s: made by a newer Spey (engine format %" PRIu32
                         ", this one reads up to %d): update Spey or build the engine again",
                         path, header.version, SPEY_ENGINE_VERSION);
    if (header.version == 0 || header.header_bytes != sizeof header ||
        header.checksum != spey_xxh3(&header, offsetof(spey_engine_header, checksum)))
        return SPEY_FAIL(SPEY_FORMAT, "%s: damaged: the header's checksum does not match", path);
    if (header.file_bytes != map->size)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s: the file has %zu bytes, its header says %" PRIu64,
                         path, map->size < header.file_bytes ? "truncated" : "damaged", map->size,
                         header.file_bytes);
    if (header.n_sections > SPEY_ENGINE_SECTIONS_MAX ||
        header.section_bytes != sizeof(spey_engine_section_entry) ||
        header.table_offset % SPEY_ENGINE_ALIGN || header.table_offset > header.file_bytes ||
        header.file_bytes - header.table_offset !=
            header.n_sections * sizeof(spey_engine_section_entry))
        return SPEY_FAIL(SPEY_FORMAT, "%s: damaged: the section table does not fit the file", path);
    *out = header;
    return SPEY_OK;
}

static spey_status check_section_name(const spey_engine_file *file,
                                      const spey_engine_section_entry *entry, int i)
{
    size_t len = strnlen(entry->name, sizeof entry->name);
    if (len == 0 || len == sizeof entry->name)
        return SPEY_FAIL(SPEY_FORMAT, "%s: section %d has no name", file->path, i);
    for (int j = 0; j < i; j++)
        if (!strcmp(file->sections[j].name, entry->name))
            return SPEY_FAIL(SPEY_FORMAT, "%s: two sections \"%s\"", file->path, entry->name);
    return SPEY_OK;
}

/* Sections lie in the order of the table, aligned, apart, between the header and the table. */
static spey_status read_sections(spey_engine_file *file, const spey_engine_header *header)
{
    const uint8_t *table = file->map.data + header->table_offset;
    if (spey_xxh3(table, header->n_sections * sizeof(spey_engine_section_entry)) !=
        header->table_checksum)
        return SPEY_FAIL(SPEY_FORMAT, "%s: damaged: the section table's checksum does not match",
                         file->path);
    file->sections = spey_new_array(SPEY_PURPOSE_ENGINE, section, header->n_sections);
    if (!file->sections) return SPEY_NOMEM;
    uint64_t end = SPEY_ENGINE_HEADER_BYTES;
    for (int i = 0; i < (int)header->n_sections; i++) {
        spey_engine_section_entry entry;
        memcpy(&entry, table + (size_t)i * sizeof entry, sizeof entry);
        SPEY_TRY(check_section_name(file, &entry, i));
        if (entry.offset % SPEY_ENGINE_ALIGN || entry.offset < end ||
            entry.offset > header->table_offset ||
            entry.bytes > header->table_offset - entry.offset)
            return SPEY_FAIL(SPEY_FORMAT,
                             "%s: section \"%s\" lies at %" PRIu64 ", %" PRIu64
                             " bytes long: outside of its place",
                             file->path, entry.name, entry.offset, entry.bytes);
        end = entry.offset + entry.bytes;
        section *s = &file->sections[i];
        memcpy(s->name, entry.name, sizeof s->name);
        s->data = file->map.data + entry.offset;
        s->offset = entry.offset;
        s->bytes = entry.bytes;
        s->checksum = entry.checksum;
        file->n_sections++;
    }
    return SPEY_OK;
}

static const section *find_section(const spey_engine_file *file, const char *name)
{
    for (int i = 0; i < file->n_sections; i++)
        if (!strcmp(file->sections[i].name, name)) return &file->sections[i];
    return NULL;
}

static spey_status need_section(const spey_engine_file *file, const char *name, const section **out)
{
    *out = find_section(file, name);
    if (!*out) return SPEY_FAIL(SPEY_FORMAT, "%s: has no section \"%s\"", file->path, name);
    return SPEY_OK;
}

static spey_status verify_sections(const spey_engine_file *file, bool verify_weights)
{
    for (int i = 0; i < file->n_sections; i++) {
        const section *s = &file->sections[i];
        if (!strcmp(s->name, "weights") && !verify_weights &&
            s->bytes > SPEY_ENGINE_VERIFY_BYTES_MAX)
            continue;
        if (spey_xxh3(s->data, (size_t)s->bytes) != s->checksum)
            return SPEY_FAIL(SPEY_FORMAT,
                             "%s: damaged: the checksum of section \"%s\" does not match",
                             file->path, s->name);
    }
    return SPEY_OK;
}

/* ---- tensor table ---- */

typedef struct tensor_table {
    spey_engine_tensors_header header;
    const uint8_t *entries;
    const char *names;
    const section *weights;
} tensor_table;

static spey_status open_table(const spey_engine_file *file, tensor_table *out)
{
    const section *table;
    SPEY_TRY(need_section(file, "tensors", &table));
    SPEY_TRY(need_section(file, "weights", &out->weights));
    spey_engine_tensors_header *header = &out->header;
    if (table->bytes < sizeof *header)
        return SPEY_FAIL(SPEY_FORMAT, "%s: the tensor table has %" PRIu64 " bytes", file->path,
                         table->bytes);
    memcpy(header, table->data, sizeof *header);
    uint64_t left = table->bytes - sizeof *header;
    uint64_t entries_bytes = (uint64_t)header->n_tensors * sizeof(spey_engine_tensor_entry);
    if (header->n_tensors > SPEY_ENGINE_TENSORS_MAX ||
        header->entry_bytes != sizeof(spey_engine_tensor_entry) || entries_bytes > left ||
        header->names_bytes != left - entries_bytes)
        return SPEY_FAIL(SPEY_FORMAT,
                         "%s: the tensor table says %" PRIu32 " tensors in %" PRIu64 " bytes",
                         file->path, header->n_tensors, table->bytes);
    out->entries = table->data + sizeof *header;
    out->names = (const char *)out->entries + entries_bytes;
    if (header->names_bytes && out->names[header->names_bytes - 1])
        return SPEY_FAIL(SPEY_FORMAT, "%s: the last tensor name has no end", file->path);
    if (out->weights->offset % SPEY_ENGINE_PAGE)
        return SPEY_FAIL(SPEY_FORMAT, "%s: the weights are not page-aligned", file->path);
    return SPEY_OK;
}

/* `end` is where the tensor before ended. */
static spey_status read_tensor(const spey_engine_file *file, const tensor_table *table, int i,
                               uint64_t *end, spey_engine_tensor *out)
{
    spey_engine_tensor_entry entry;
    memcpy(&entry, table->entries + (size_t)i * sizeof entry, sizeof entry);
    if (entry.name_offset >= table->header.names_bytes)
        return SPEY_FAIL(SPEY_FORMAT, "%s: the name of tensor %d is missing", file->path, i);
    out->name = table->names + entry.name_offset;
    size_t len = strlen(out->name);
    if (len == 0 || len >= SPEY_NAME_BYTES_MAX)
        return SPEY_FAIL(SPEY_FORMAT, "%s: the name of tensor %d has %zu bytes", file->path, i,
                         len);
    uint64_t bytes;
    if (!spey_engine_tensor_bytes(entry.dtype, entry.n_dims, entry.dims, &bytes) ||
        bytes != entry.bytes)
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %s: type, shape and %" PRIu64 " bytes do not fit",
                         file->path, out->name, entry.bytes);
    if (entry.offset % SPEY_ENGINE_ALIGN || entry.offset < *end ||
        entry.offset > table->weights->bytes || bytes > table->weights->bytes - entry.offset)
        return SPEY_FAIL(SPEY_FORMAT,
                         "%s: tensor %s lies at %" PRIu64 ", %" PRIu64
                         " bytes long: outside of its place",
                         file->path, out->name, entry.offset, bytes);
    *end = entry.offset + bytes;
    out->dtype = (spey_dtype)entry.dtype;
    out->n_dims = (int)entry.n_dims;
    memcpy(out->dims, entry.dims, sizeof out->dims);
    out->data = table->weights->data + entry.offset;
    out->bytes = (size_t)bytes;
    return SPEY_OK;
}

static spey_status index_tensor(spey_engine_file *file, int i)
{
    const char *name = file->tensors[i].name;
    int64_t other;
    if (spey_map_get(&file->index, name, strlen(name), &other))
        return SPEY_FAIL(SPEY_FORMAT, "%s: two tensors %s", file->path, name);
    return spey_map_put(&file->index, name, strlen(name), i);
}

static spey_status read_tensors(spey_engine_file *file)
{
    tensor_table table;
    SPEY_TRY(open_table(file, &table));
    file->tensors = spey_new_array(SPEY_PURPOSE_ENGINE, spey_engine_tensor, table.header.n_tensors);
    if (!file->tensors) return SPEY_NOMEM;
    uint64_t end = 0;
    for (int i = 0; i < (int)table.header.n_tensors; i++) {
        SPEY_TRY(read_tensor(file, &table, i, &end, &file->tensors[i]));
        SPEY_TRY(index_tensor(file, i));
        file->n_tensors++;
    }
    return SPEY_OK;
}

/* ---- open and close ---- */

static spey_status new_file(const char *path, spey_engine_file **out)
{
    spey_engine_file *file = spey_new(SPEY_PURPOSE_ENGINE, spey_engine_file);
    if (!file) return SPEY_NOMEM;
    spey_map_init(&file->index, SPEY_PURPOSE_ENGINE);
    spey_arena_init(&file->arena, SPEY_PURPOSE_ENGINE);
    file->path = spey_strdup(SPEY_PURPOSE_ENGINE, path);
    if (!file->path) {
        spey_engine_file_close(file);
        return SPEY_NOMEM;
    }
    *out = file;
    return SPEY_OK;
}

static spey_status read_file(spey_engine_file *file, const spey_engine_open_options *options)
{
    spey_engine_header header = { 0 };
    SPEY_TRY(read_header(file->path, &file->map, &header));
    SPEY_TRY(read_sections(file, &header));
    SPEY_TRY(verify_sections(file, options && options->verify_weights));
    const section *info, *graph;
    SPEY_TRY(need_section(file, "info", &info));
    SPEY_TRY(need_section(file, "graph", &graph));
    SPEY_TRY_CTX(
        spey_model_info_parse("info", (const char *)info->data, (size_t)info->bytes, &file->info),
        "%s", file->path);
    return read_tensors(file);
}

spey_status spey_engine_file_open(const char *path, const spey_engine_open_options *options,
                                  spey_engine_file **out)
{
    *out = NULL;
    spey_engine_file *file = NULL;
    SPEY_TRY(new_file(path, &file));
    spey_status status = spey_file_map_open(path, &file->map);
    if (!status) status = read_file(file, options);
    if (status) {
        spey_engine_file_close(file);
        return status;
    }
    *out = file;
    return SPEY_OK;
}

static spey_status add_text(spey_engine_file *file, const char *name, const char *text, size_t n)
{
    section *s = &file->sections[file->n_sections];
    snprintf(s->name, sizeof s->name, "%s", name);
    s->data = (const uint8_t *)spey_arena_strndup(&file->arena, text, n);
    if (!s->data) return SPEY_NOMEM;
    s->bytes = n;
    s->checksum = spey_xxh3(text, n);
    file->n_sections++;
    return SPEY_OK;
}

/* Tables that the model computes (RoPE frequencies) have data even here. */
static spey_status copy_data(spey_engine_file *file, const void *data, spey_engine_tensor *tensor)
{
    if (!data) return SPEY_OK;
    uint8_t *copy = spey_arena_alloc(&file->arena, tensor->bytes + SPEY_ENGINE_ALIGN - 1);
    if (!copy) return SPEY_NOMEM;
    copy += (size_t) - (uintptr_t)copy & (SPEY_ENGINE_ALIGN - 1);
    memcpy(copy, data, tensor->bytes);
    tensor->data = copy;
    return SPEY_OK;
}

static spey_status fill_virtual(spey_engine_file *file, const char *graph_text,
                                const spey_engine_tensor *tensors, int n_tensors)
{
    file->sections = spey_new_array(SPEY_PURPOSE_ENGINE, section, 2);
    file->tensors = spey_new_array(SPEY_PURPOSE_ENGINE, spey_engine_tensor, n_tensors);
    if (!file->sections || !file->tensors) return SPEY_NOMEM;
    spey_strbuf info = { 0 };
    spey_status status = spey_model_info_write(&file->info, &info);
    if (!status) status = add_text(file, "info", info.data, info.len);
    spey_strbuf_deinit(&info);
    SPEY_TRY(status);
    SPEY_TRY(add_text(file, "graph", graph_text, strlen(graph_text)));
    for (int i = 0; i < n_tensors; i++) {
        spey_engine_tensor *tensor = &file->tensors[i];
        *tensor = tensors[i];
        tensor->data = NULL;
        tensor->name = spey_arena_strdup(&file->arena, tensors[i].name);
        if (!tensor->name) return SPEY_NOMEM;
        uint64_t bytes;
        if (!spey_engine_tensor_bytes((uint32_t)tensor->dtype, (uint32_t)tensor->n_dims,
                                      tensor->dims, &bytes))
            return SPEY_FAIL(SPEY_INVALID, "tensor %s has an impossible shape", tensor->name);
        tensor->bytes = (size_t)bytes;
        SPEY_TRY(copy_data(file, tensors[i].data, tensor));
        SPEY_TRY(index_tensor(file, i));
        file->n_tensors++;
    }
    return SPEY_OK;
}

spey_status spey_engine_file_virtual(const spey_model_info *info, const char *graph_text,
                                     const spey_engine_tensor *tensors, int n_tensors,
                                     spey_engine_file **out)
{
    *out = NULL;
    spey_engine_file *file = NULL;
    SPEY_TRY(new_file(info->name, &file));
    file->info = *info;
    spey_status status = fill_virtual(file, graph_text, tensors, n_tensors);
    if (status) {
        spey_engine_file_close(file);
        return status;
    }
    *out = file;
    return SPEY_OK;
}

void spey_engine_file_close(spey_engine_file *file)
{
    if (!file) return;
    spey_file_map_close(&file->map);
    spey_map_deinit(&file->index);
    spey_arena_deinit(&file->arena);
    spey_free(file->sections);
    spey_free(file->tensors);
    spey_free(file->path);
    spey_free(file);
}

bool spey_engine_file_probe(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream) return false;
    char magic[SPEY_ENGINE_MAGIC_BYTES];
    bool match = fread(magic, 1, sizeof magic, stream) == sizeof magic &&
                 !memcmp(magic, SPEY_ENGINE_MAGIC, sizeof magic);
    fclose(stream);
    return match;
}

/* ---- reading ---- */

const spey_model_info *spey_engine_file_info(const spey_engine_file *file)
{
    return &file->info;
}

const char *spey_engine_file_path(const spey_engine_file *file)
{
    return file->path;
}

int spey_engine_file_n_tensors(const spey_engine_file *file)
{
    return file->n_tensors;
}

const spey_engine_tensor *spey_engine_file_tensor_at(const spey_engine_file *file, int i)
{
    SPEY_ASSERT(i >= 0 && i < file->n_tensors);
    return &file->tensors[i];
}

const spey_engine_tensor *spey_engine_file_tensor(const spey_engine_file *file, const char *name)
{
    int64_t at;
    return spey_map_get(&file->index, name, strlen(name), &at) ? &file->tensors[at] : NULL;
}

spey_status spey_engine_file_section(const spey_engine_file *file, const char *name,
                                     const void **data, size_t *n)
{
    const section *s = find_section(file, name);
    if (!s) return SPEY_FAIL(SPEY_NOT_FOUND, "%s: has no section \"%s\"", file->path, name);
    *data = s->data;
    *n = (size_t)s->bytes;
    return SPEY_OK;
}

int spey_engine_file_n_sections(const spey_engine_file *file)
{
    return file->n_sections;
}

spey_engine_section spey_engine_file_section_at(const spey_engine_file *file, int i)
{
    SPEY_ASSERT(i >= 0 && i < file->n_sections);
    const section *s = &file->sections[i];
    return (spey_engine_section){ s->name, s->offset, s->bytes, s->checksum };
}
