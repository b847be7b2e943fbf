#include "tensor/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/edit_distance.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/map.h"

enum { LENGTH_BYTES = 8 };

typedef struct source_file {
    char *name;
    spey_file_map map;
    bool borrowed; /* the caller's memory, not a mapping */
} source_file;

struct spey_safetensors {
    spey_arena arena; /* names */
    spey_map index;   /* name → position in tensors */
    spey_safetensor *tensors;
    size_t n_tensors, cap_tensors;
    source_file *files;
    int n_files;
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *spey_shape_text(char *out, int n_dims, const int64_t *dims)
{
    size_t used = 1;
    out[0] = '[';
    for (int i = 0; i < n_dims; i++) {
        char number[32];
        int n = snprintf(number, sizeof number, "%s%" PRId64, i ? "," : "", dims[i]);
        if (used + (size_t)n + sizeof "…]" > SPEY_SHAPE_TEXT_BYTES) {
            memcpy(out + used, "…", sizeof "…");
            used += sizeof "…" - 1;
            break;
        }
        memcpy(out + used, number, (size_t)n);
        used += (size_t)n;
    }
    memcpy(out + used, "]", 2);
    return out;
}

/* ---- one file ---- */

/* Where a tensor's description stands, for messages. */
typedef struct entry_place {
    const char *where; /* the file */
    const char *name;
} entry_place;

static spey_status parse_shape(entry_place at, const json_t *shape, spey_safetensor *tensor,
                               size_t *bytes)
{
    size_t n_dims = json_array_size(shape);
    if (!json_is_array(shape))
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: \"shape\" is not a list", at.where,
                         at.name);
    if (n_dims > SPEY_SAFETENSOR_DIMS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: tensor %.200s has %zu dimensions, at most %d expected",
                         at.where, at.name, n_dims, SPEY_SAFETENSOR_DIMS_MAX);
    *bytes = spey_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return SPEY_FAIL(SPEY_FORMAT,
                             "%s: tensor %.200s: dimension %zu is not a number of elements",
                             at.where, at.name, i);
        tensor->dims[i] = json_integer_value(dim);
        if (!spey_mul_size(*bytes, (size_t)tensor->dims[i], bytes))
            return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: its shape overflows", at.where,
                             at.name);
    }
    tensor->n_dims = (int)n_dims;
    return SPEY_OK;
}

static spey_status parse_offsets(entry_place at, const json_t *offsets, size_t data_bytes,
                                 size_t out[2])
{
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: \"data_offsets\" is not a pair", at.where,
                         at.name);
    for (size_t i = 0; i < 2; i++) {
        const json_t *offset = json_array_get(offsets, i);
        if (!json_is_integer(offset) || json_integer_value(offset) < 0)
            return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: a data offset is not a number",
                             at.where, at.name);
        out[i] = (size_t)json_integer_value(offset);
    }
    if (out[0] > out[1] || out[1] > data_bytes)
        return SPEY_FAIL(SPEY_FORMAT,
                         "%s: tensor %.200s lies at bytes %zu to %zu, but the file holds %zu bytes "
                         "of data",
                         at.where, at.name, out[0], out[1], data_bytes);
    return SPEY_OK;
}

static spey_status parse_entry(entry_place at, const json_t *entry, spey_file_map data,
                               spey_safetensor *tensor)
{
    if (!json_is_object(entry))
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: its entry is not an object", at.where,
                         at.name);
    const json_t *dtype = json_object_get(entry, "dtype");
    if (!json_is_string(dtype))
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s: \"dtype\" is not a string", at.where,
                         at.name);
    if (!spey_dtype_from_name(json_string_value(dtype), json_string_length(dtype), &tensor->dtype))
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: tensor %.200s has the unknown dtype \"%.32s\"",
                         at.where, at.name, json_string_value(dtype));
    size_t expected, offsets[2];
    SPEY_TRY(parse_shape(at, json_object_get(entry, "shape"), tensor, &expected));
    SPEY_TRY(parse_offsets(at, json_object_get(entry, "data_offsets"), data.size, offsets));
    if (offsets[1] - offsets[0] != expected) {
        char shape[SPEY_SHAPE_TEXT_BYTES];
        return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s is %s of %s, %zu bytes, but has %zu bytes",
                         at.where, at.name, spey_shape_text(shape, tensor->n_dims, tensor->dims),
                         spey_dtype_name(tensor->dtype), expected, offsets[1] - offsets[0]);
    }
    tensor->data = data.data + offsets[0];
    tensor->bytes = expected;
    return SPEY_OK;
}

static spey_status reserve(spey_safetensors *tensors, const char *where, size_t n)
{
    size_t need = tensors->n_tensors + n;
    if (need > SPEY_TENSORS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: more than %d tensors", where, SPEY_TENSORS_MAX);
    if (need <= tensors->cap_tensors) return SPEY_OK;
    size_t cap = need > 2 * tensors->cap_tensors ? need : 2 * tensors->cap_tensors;
    void *bigger =
        spey_realloc(SPEY_PURPOSE_GENERAL, tensors->tensors, cap * sizeof(spey_safetensor));
    if (!bigger) return SPEY_NOMEM;
    tensors->tensors = bigger;
    tensors->cap_tensors = cap;
    return SPEY_OK;
}

static spey_status parse_header(spey_safetensors *tensors, const char *where, json_t *header,
                                spey_file_map data)
{
    SPEY_TRY(reserve(tensors, where, json_object_size(header)));
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
    {
        if (!strcmp(name, "__metadata__")) {
            if (!json_is_object(entry))
                return SPEY_FAIL(SPEY_FORMAT, "%s: __metadata__ is not an object", where);
            continue;
        }
        size_t len = strlen(name);
        if (len == 0 || len >= SPEY_NAME_BYTES_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "%s: a tensor name has %zu bytes, expected 1 to %d", where,
                             len, SPEY_NAME_BYTES_MAX - 1);
        spey_safetensor tensor = { .file = tensors->n_files - 1 };
        SPEY_TRY(parse_entry((entry_place){ where, name }, entry, data, &tensor));
        tensor.name = spey_arena_strndup(&tensors->arena, name, len);
        if (!tensor.name) return SPEY_NOMEM;
        tensors->tensors[tensors->n_tensors++] = tensor;
    }
    return SPEY_OK;
}

static int by_position(const void *a, const void *b)
{
    const spey_safetensor *x = a, *y = b;
    if (x->data != y->data) return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

/* The tensors from `first` on tile the data: no gap, no overlap, nothing left. */
static spey_status check_tiling(spey_safetensors *tensors, const char *where, size_t first,
                                spey_file_map data)
{
    size_t n = tensors->n_tensors - first, end = 0;
    spey_safetensor *begin = n ? tensors->tensors + first : NULL;
    if (n) qsort(begin, n, sizeof *begin, by_position);
    for (size_t i = 0; i < n; i++) {
        size_t offset = (size_t)((const uint8_t *)begin[i].data - data.data);
        if (offset < end)
            return SPEY_FAIL(SPEY_FORMAT, "%s: tensors %.200s and %.200s overlap", where,
                             begin[i - 1].name, begin[i].name);
        if (offset > end)
            return SPEY_FAIL(SPEY_FORMAT, "%s: %zu bytes before tensor %.200s belong to no tensor",
                             where, offset - end, begin[i].name);
        end += begin[i].bytes;
    }
    if (end != data.size)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %zu bytes at the end belong to no tensor", where,
                         data.size - end);
    return SPEY_OK;
}

static spey_status index_names(spey_safetensors *tensors, const char *where, size_t first)
{
    for (size_t i = first; i < tensors->n_tensors; i++) {
        const char *name = tensors->tensors[i].name;
        int64_t other;
        if (spey_map_get(&tensors->index, name, strlen(name), &other))
            return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s is also in %s", where, name,
                             tensors->files[tensors->tensors[other].file].name);
        SPEY_TRY(spey_map_put(&tensors->index, name, strlen(name), (int64_t)i));
    }
    return SPEY_OK;
}

/* Split the bytes into header and data. */
static spey_status split(const char *where, const spey_file_map *map, spey_file_map *header,
                         spey_file_map *data)
{
    if (map->size < LENGTH_BYTES)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %zu bytes is too short for a safetensors file", where,
                         map->size);
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)map->data[i] << (8 * i);
    if (length > SPEY_SAFETENSORS_HEADER_MAX)
        return SPEY_FAIL(SPEY_FORMAT,
                         "%s: not a safetensors file (its header would be %" PRIu64 " bytes long)",
                         where, length);
    if (length > map->size - LENGTH_BYTES)
        return SPEY_FAIL(SPEY_FORMAT,
                         "%s: truncated: the header is %" PRIu64 " bytes long, the file %zu", where,
                         length, map->size);
    *header = (spey_file_map){ map->data + LENGTH_BYTES, (size_t)length };
    *data = (spey_file_map){ header->data + length, map->size - LENGTH_BYTES - (size_t)length };
    return SPEY_OK;
}

static spey_status add_file(spey_safetensors *tensors, const char *where)
{
    spey_file_map header = { 0 }, data = { 0 };
    SPEY_TRY(split(where, &tensors->files[tensors->n_files - 1].map, &header, &data));
    json_t *root;
    SPEY_TRY(spey_json_parse(where, (const char *)header.data, header.size, &root));
    size_t first = tensors->n_tensors;
    spey_status status = SPEY_OK;
    if (!json_is_object(root))
        status = SPEY_FAIL(SPEY_FORMAT, "%s: the header is not a JSON object", where);
    if (!status) status = parse_header(tensors, where, root, data);
    json_decref(root);
    if (!status) status = check_tiling(tensors, where, first, data);
    if (!status) status = index_names(tensors, where, first);
    return status;
}

/* ---- sets of files ---- */

static spey_status new_set(int n_files, spey_safetensors **out)
{
    *out = spey_new(SPEY_PURPOSE_GENERAL, spey_safetensors);
    if (!*out) return SPEY_NOMEM;
    spey_arena_init(&(*out)->arena, SPEY_PURPOSE_GENERAL);
    spey_map_init(&(*out)->index, SPEY_PURPOSE_GENERAL);
    (*out)->files = spey_new_array(SPEY_PURPOSE_GENERAL, source_file, n_files);
    if ((*out)->files) return SPEY_OK;
    spey_safetensors_close(*out);
    *out = NULL;
    return SPEY_NOMEM;
}

static spey_status map_file(spey_safetensors *tensors, const char *path)
{
    source_file *file = &tensors->files[tensors->n_files];
    file->name = spey_arena_strdup(&tensors->arena, base_name(path));
    if (!file->name) return SPEY_NOMEM;
    SPEY_TRY(spey_file_map_open(path, &file->map));
    tensors->n_files++;
    return add_file(tensors, path);
}

static spey_status open_single(const char *path, spey_safetensors **out)
{
    SPEY_TRY(new_set(1, out));
    spey_status status = map_file(*out, path);
    if (status) {
        spey_safetensors_close(*out);
        *out = NULL;
    }
    return status;
}

spey_status spey_safetensors_parse(const char *where, const void *bytes, size_t n,
                                   spey_safetensors **out)
{
    SPEY_TRY(new_set(1, out));
    source_file *file = &(*out)->files[0];
    *file = (source_file){ .map = { bytes, n }, .borrowed = true };
    file->name = spey_arena_strdup(&(*out)->arena, base_name(where));
    (*out)->n_files = 1;
    spey_status status = file->name ? add_file(*out, where) : SPEY_NOMEM;
    if (status) {
        spey_safetensors_close(*out);
        *out = NULL;
    }
    return status;
}

/* A shard is a plain name beside the index: an index must not reach other folders. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < SPEY_NAME_BYTES_MAX;
}

/* The distinct files of the weight map in order of appearance; names are borrowed from `weight_map`. */
static spey_status list_shards(const char *path, const json_t *weight_map, const char **shards,
                               int *n_shards)
{
    spey_map seen;
    spey_map_init(&seen, SPEY_PURPOSE_GENERAL);
    spey_status status = SPEY_OK;
    const char *name;
    json_t *value;
    *n_shards = 0;
    json_object_foreach((json_t *)(uintptr_t)weight_map, name, value)
    {
        const char *shard = json_string_value(value);
        int64_t at;
        if (!shard || !is_plain_name(shard))
            status = SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s is in no valid file (\"%.64s\")",
                               path, name, shard ? shard : "not a string");
        else if (spey_map_get(&seen, shard, strlen(shard), &at))
            continue;
        else if (*n_shards == SPEY_SHARDS_MAX)
            status = SPEY_FAIL(SPEY_LIMIT, "%s: more than %d files", path, SPEY_SHARDS_MAX);
        else
            status = spey_map_put(&seen, shard, strlen(shard), *n_shards);
        if (status) break;
        shards[(*n_shards)++] = shard;
    }
    spey_map_deinit(&seen);
    return status;
}

/* Every tensor of the index is in the file that the index says. */
static spey_status check_index(const char *path, const spey_safetensors *tensors,
                               const json_t *weight_map)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)weight_map, name, value)
    {
        const spey_safetensor *tensor = spey_safetensors_find(tensors, name);
        if (!tensor || strcmp(tensors->files[tensor->file].name, json_string_value(value)))
            return SPEY_FAIL(SPEY_FORMAT, "%s: tensor %.200s is not in %s, where the index says",
                             path, name, json_string_value(value));
    }
    return SPEY_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static spey_status open_shards(const char *path, const json_t *weight_map, const char **shards,
                               spey_safetensors **out)
{
    int n_shards;
    SPEY_TRY(list_shards(path, weight_map, shards, &n_shards));
    if (!n_shards) return SPEY_FAIL(SPEY_FORMAT, "%s: the index names no files", path);
    qsort(shards, (size_t)n_shards, sizeof *shards, by_text);
    char folder[SPEY_PATH_BYTES_MAX], shard_path[SPEY_PATH_BYTES_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    SPEY_TRY(new_set(n_shards, out));
    spey_status status = SPEY_OK;
    for (int i = 0; i < n_shards && !status; i++) {
        status = spey_path_join(shard_path, folder, shards[i]);
        if (!status) status = map_file(*out, shard_path);
        if (status == SPEY_NOT_FOUND)
            status = spey_error_context(
                status, "a file of the checkpoint is missing (incomplete download?)");
    }
    if (!status) status = check_index(path, *out, weight_map);
    if (status) {
        spey_safetensors_close(*out);
        *out = NULL;
    }
    return status;
}

static spey_status open_index(const char *path, spey_safetensors **out)
{
    json_t *root;
    SPEY_TRY(spey_json_read(path, &root));
    const json_t *weight_map = json_object_get(root, "weight_map");
    spey_status status = SPEY_OK;
    const char **shards = spey_new_array(SPEY_PURPOSE_GENERAL, const char *, SPEY_SHARDS_MAX);
    if (!shards)
        status = SPEY_NOMEM;
    else if (!json_is_object(weight_map))
        status = SPEY_FAIL(SPEY_FORMAT, "%s: \"weight_map\" is not an object", path);
    else
        status = open_shards(path, weight_map, shards, out);
    spey_free((void *)(uintptr_t)shards);
    json_decref(root);
    return status;
}

static bool folder_has(const char *folder, const char *name)
{
    char path[SPEY_PATH_BYTES_MAX];
    if (spey_path_join(path, folder, name)) return false;
    return spey_file_exists(path);
}

static spey_status open_folder(const char *folder, spey_safetensors **out)
{
    char path[SPEY_PATH_BYTES_MAX];
    if (folder_has(folder, "model.safetensors")) {
        SPEY_TRY(spey_path_join(path, folder, "model.safetensors"));
        return open_single(path, out);
    }
    if (folder_has(folder, "model.safetensors.index.json")) {
        SPEY_TRY(spey_path_join(path, folder, "model.safetensors.index.json"));
        return open_index(path, out);
    }
    if (folder_has(folder, "pytorch_model.bin") ||
        folder_has(folder, "pytorch_model.bin.index.json"))
        return SPEY_FAIL(
            SPEY_UNSUPPORTED,
            "%s: holds pytorch_model.bin, which can run code when it is read; convert it "
            "with transformers: AutoModelForCausalLM (T5, BART: AutoModelForSeq2SeqLM)"
            ".from_pretrained(\"…\").save_pretrained(\"…\", safe_serialization=True)",
            folder);
    return SPEY_FAIL(SPEY_NOT_FOUND,
                     "%s: holds neither model.safetensors nor model.safetensors.index.json",
                     folder);
}

spey_status spey_safetensors_open(const char *path, spey_safetensors **out)
{
    *out = NULL;
    size_t len = strlen(path);
    static const char index_suffix[] = ".index.json";
    if (spey_file_is_dir(path)) return open_folder(path, out);
    if (len > sizeof index_suffix && !strcmp(path + len - (sizeof index_suffix - 1), index_suffix))
        return open_index(path, out);
    return open_single(path, out);
}

void spey_safetensors_close(spey_safetensors *tensors)
{
    if (!tensors) return;
    for (int i = 0; i < tensors->n_files; i++)
        if (!tensors->files[i].borrowed) spey_file_map_close(&tensors->files[i].map);
    spey_free(tensors->files);
    spey_free(tensors->tensors);
    spey_map_deinit(&tensors->index);
    spey_arena_deinit(&tensors->arena);
    spey_free(tensors);
}

/* ---- reading ---- */

int spey_safetensors_count(const spey_safetensors *tensors)
{
    return (int)tensors->n_tensors;
}

const spey_safetensor *spey_safetensors_at(const spey_safetensors *tensors, int i)
{
    SPEY_ASSERT(i >= 0 && (size_t)i < tensors->n_tensors);
    return &tensors->tensors[i];
}

const spey_safetensor *spey_safetensors_find(const spey_safetensors *tensors, const char *name)
{
    int64_t at;
    return spey_map_get(&tensors->index, name, strlen(name), &at) ? &tensors->tensors[at] : NULL;
}

int spey_safetensors_n_files(const spey_safetensors *tensors)
{
    return tensors->n_files;
}

const char *spey_safetensors_file_name(const spey_safetensors *tensors, int file)
{
    SPEY_ASSERT(file >= 0 && file < tensors->n_files);
    return tensors->files[file].name;
}

const spey_file_map *spey_safetensors_file_map(const spey_safetensors *tensors, int file)
{
    SPEY_ASSERT(file >= 0 && file < tensors->n_files);
    return &tensors->files[file].map;
}

const char *spey_safetensors_nearest(const spey_safetensors *tensors, const char *name,
                                     bool (*skip)(const void *context, const char *name),
                                     const void *context)
{
    size_t len = strlen(name);
    if (len >= SPEY_NAME_BYTES_MAX) len = SPEY_NAME_BYTES_MAX - 1;
    /* A hint for a person must not take minutes on a hostile file: some 10⁹ cells at most. */
    size_t cells_left = (size_t)1 << 30;
    const char *best = NULL;
    int best_distance = 0;
    for (size_t i = 0; i < tensors->n_tensors; i++) {
        const char *other = tensors->tensors[i].name;
        size_t other_len = strlen(other), gap = other_len > len ? other_len - len : len - other_len;
        if (best && gap >= (size_t)best_distance) continue;
        if (len * other_len > cells_left) break;
        cells_left -= len * other_len;
        int distance = spey_edit_distance(name, other);
        if (best && distance >= best_distance) continue;
        if (skip && skip(context, other)) continue;
        best = other;
        best_distance = distance;
    }
    return best;
}
