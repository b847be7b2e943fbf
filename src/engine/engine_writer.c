#include "engine/engine_writer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "engine/engine_format.h"

struct spey_engine_writer {
    spey_file_writer *file;
    spey_engine_section_entry sections[SPEY_ENGINE_SECTIONS_MAX];
    int n_sections;
    /* The weights: how long each tensor is, and how far we are. */
    uint64_t *tensor_bytes;
    int n_tensors, tensor; /* `tensor` is the one being written */
    uint64_t tensor_done;  /* bytes of it */
    spey_xxh3_state *hash; /* of the weights so far; NULL outside of them */
};

bool spey_engine_tensor_bytes(uint32_t dtype, uint32_t n_dims, const int64_t *dims, uint64_t *bytes)
{
    if (dtype >= SPEY_DTYPE_COUNT || n_dims < 1 || n_dims > SPEY_DIMS_MAX) return false;
    size_t product = spey_dtype_bytes((spey_dtype)dtype);
    for (uint32_t i = 0; i < n_dims; i++)
        if (dims[i] < 1 || !spey_mul_size(product, (size_t)dims[i], &product)) return false;
    *bytes = product;
    return true;
}

spey_status spey_engine_writer_open(const char *path, spey_engine_writer **out)
{
    *out = NULL;
    spey_engine_writer *writer = spey_new(SPEY_PURPOSE_ENGINE, spey_engine_writer);
    if (!writer) return SPEY_NOMEM;
    spey_status status = spey_file_writer_open(path, &writer->file);
    /* Room for the header, which is known at the end. */
    const uint8_t zeros[SPEY_ENGINE_HEADER_BYTES] = { 0 };
    if (!status) status = spey_file_writer_append(writer->file, zeros, sizeof zeros);
    if (status) {
        spey_engine_writer_abort(writer);
        return status;
    }
    *out = writer;
    return SPEY_OK;
}

static spey_status pad(spey_engine_writer *writer, uint64_t bytes)
{
    static const uint8_t zeros[SPEY_ENGINE_PAGE];
    SPEY_ASSERT(bytes < sizeof zeros);
    if (writer->hash) spey_xxh3_update(writer->hash, zeros, (size_t)bytes);
    return spey_file_writer_append(writer->file, zeros, (size_t)bytes);
}

/* The entry of the weights is the last one while they are written. */
static spey_engine_section_entry *weights_entry(spey_engine_writer *writer)
{
    SPEY_ASSERT(writer->hash);
    return &writer->sections[writer->n_sections - 1];
}

static void end_weights(spey_engine_writer *writer)
{
    if (!writer->hash) return;
    SPEY_ASSERT(writer->tensor == writer->n_tensors);
    spey_engine_section_entry *entry = weights_entry(writer);
    entry->bytes = spey_file_writer_offset(writer->file) - entry->offset;
    entry->checksum = spey_xxh3_digest(writer->hash);
    spey_xxh3_free(writer->hash);
    writer->hash = NULL;
}

static spey_status begin_section(spey_engine_writer *writer, const char *name, uint64_t align,
                                 spey_engine_section_entry **out)
{
    end_weights(writer);
    if (writer->n_sections == SPEY_ENGINE_SECTIONS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "an engine has at most %d sections", SPEY_ENGINE_SECTIONS_MAX);
    size_t len = strlen(name);
    if (len == 0 || len >= SPEY_ENGINE_SECTION_NAME_BYTES)
        return SPEY_FAIL(SPEY_INVALID, "section name \"%.100s\" has %zu bytes, expected 1 to %d",
                         name, len, SPEY_ENGINE_SECTION_NAME_BYTES - 1);
    for (int i = 0; i < writer->n_sections; i++)
        if (!strcmp(writer->sections[i].name, name))
            return SPEY_FAIL(SPEY_INVALID, "section \"%s\" is there already", name);
    uint64_t offset = spey_file_writer_offset(writer->file);
    SPEY_TRY(pad(writer, spey_engine_align_up(offset, align) - offset));
    spey_engine_section_entry *entry = &writer->sections[writer->n_sections++];
    memcpy(entry->name, name, len + 1);
    entry->offset = spey_file_writer_offset(writer->file);
    *out = entry;
    return SPEY_OK;
}

spey_status spey_engine_writer_section(spey_engine_writer *writer, const char *name,
                                       const void *bytes, size_t n)
{
    spey_engine_section_entry *entry;
    SPEY_TRY(begin_section(writer, name, SPEY_ENGINE_ALIGN, &entry));
    entry->bytes = n;
    entry->checksum = spey_xxh3(bytes, n);
    return spey_file_writer_append(writer->file, bytes, n);
}

spey_status spey_engine_writer_info(spey_engine_writer *writer, const spey_model_info *info)
{
    spey_strbuf text = { 0 };
    spey_status status = spey_model_info_write(info, &text);
    if (!status) status = spey_engine_writer_section(writer, "info", text.data, text.len);
    spey_strbuf_deinit(&text);
    return status;
}

/* The bytes of the "tensors" section; fills writer->tensor_bytes. */
static spey_status make_table(spey_engine_writer *writer, const spey_engine_tensor *tensors, int n,
                              spey_strbuf *out)
{
    spey_engine_tensors_header header = { .n_tensors = (uint32_t)n,
                                          .entry_bytes = sizeof(spey_engine_tensor_entry) };
    for (int i = 0; i < n; i++)
        header.names_bytes += strlen(tensors[i].name) + 1;
    spey_strbuf_append(out, &header, sizeof header);
    uint64_t end = 0, name_offset = 0;
    for (int i = 0; i < n; i++) {
        const spey_engine_tensor *tensor = &tensors[i];
        spey_engine_tensor_entry entry = { .name_offset = (uint32_t)name_offset,
                                           .dtype = (uint32_t)tensor->dtype,
                                           .n_dims = (uint32_t)tensor->n_dims };
        if (!spey_engine_tensor_bytes(entry.dtype, entry.n_dims, tensor->dims, &entry.bytes))
            return SPEY_FAIL(SPEY_INVALID, "tensor %s has an impossible shape", tensor->name);
        memcpy(entry.dims, tensor->dims, entry.n_dims * sizeof *entry.dims);
        entry.offset = spey_engine_tensor_offset(end, entry.bytes);
        end = entry.offset + entry.bytes;
        name_offset += strlen(tensor->name) + 1;
        writer->tensor_bytes[i] = entry.bytes;
        spey_strbuf_append(out, &entry, sizeof entry);
    }
    for (int i = 0; i < n; i++)
        spey_strbuf_append(out, tensors[i].name, strlen(tensors[i].name) + 1);
    return spey_strbuf_status(out);
}

spey_status spey_engine_writer_tensors(spey_engine_writer *writer,
                                       const spey_engine_tensor *tensors, int n)
{
    SPEY_ASSERT(n >= 0 && n <= SPEY_ENGINE_TENSORS_MAX && !writer->tensor_bytes);
    writer->tensor_bytes = spey_new_array(SPEY_PURPOSE_ENGINE, uint64_t, n);
    if (!writer->tensor_bytes) return SPEY_NOMEM;
    writer->n_tensors = n;
    spey_strbuf table = { 0 };
    spey_status status = make_table(writer, tensors, n, &table);
    if (!status) status = spey_engine_writer_section(writer, "tensors", table.data, table.len);
    spey_strbuf_deinit(&table);
    SPEY_TRY(status);
    spey_engine_section_entry *entry;
    SPEY_TRY(begin_section(writer, "weights", SPEY_ENGINE_PAGE, &entry));
    SPEY_TRY(spey_xxh3_new(&writer->hash));
    return SPEY_OK;
}

spey_status spey_engine_writer_append(spey_engine_writer *writer, const void *bytes, size_t n)
{
    SPEY_ASSERT(writer->tensor < writer->n_tensors);
    uint64_t tensor_bytes = writer->tensor_bytes[writer->tensor];
    SPEY_ASSERT(n <= tensor_bytes - writer->tensor_done);
    uint64_t start = weights_entry(writer)->offset;
    if (writer->tensor_done == 0) {
        uint64_t end = spey_file_writer_offset(writer->file) - start;
        SPEY_TRY(pad(writer, spey_engine_tensor_offset(end, tensor_bytes) - end));
    }
    spey_xxh3_update(writer->hash, bytes, n);
    SPEY_TRY(spey_file_writer_append(writer->file, bytes, n));
    writer->tensor_done += n;
    if (writer->tensor_done == tensor_bytes) {
        writer->tensor++;
        writer->tensor_done = 0;
    }
    return SPEY_OK;
}

static spey_status finish(spey_engine_writer *writer)
{
    size_t table_bytes = (size_t)writer->n_sections * sizeof *writer->sections;
    uint64_t end = spey_file_writer_offset(writer->file);
    SPEY_TRY(pad(writer, spey_engine_align_up(end, SPEY_ENGINE_ALIGN) - end));
    spey_engine_header header = {
        .version = SPEY_ENGINE_VERSION,
        .header_bytes = SPEY_ENGINE_HEADER_BYTES,
        .table_offset = spey_file_writer_offset(writer->file),
        .table_checksum = spey_xxh3(writer->sections, table_bytes),
        .n_sections = (uint32_t)writer->n_sections,
        .section_bytes = sizeof *writer->sections,
    };
    memcpy(header.magic, SPEY_ENGINE_MAGIC, SPEY_ENGINE_MAGIC_BYTES);
    header.file_bytes = header.table_offset + table_bytes;
    header.checksum = spey_xxh3(&header, offsetof(spey_engine_header, checksum));
    SPEY_TRY(spey_file_writer_append(writer->file, writer->sections, table_bytes));
    return spey_file_writer_patch(writer->file, 0, &header, sizeof header);
}

spey_status spey_engine_writer_commit(spey_engine_writer *writer, uint64_t *file_bytes)
{
    end_weights(writer);
    spey_status status = finish(writer);
    if (!status) {
        uint64_t bytes = spey_file_writer_offset(writer->file);
        status = spey_file_writer_commit(writer->file);
        writer->file = NULL;
        if (!status && file_bytes) *file_bytes = bytes;
    }
    spey_engine_writer_abort(writer);
    return status;
}

void spey_engine_writer_abort(spey_engine_writer *writer)
{
    if (!writer) return;
    spey_file_writer_abort(writer->file);
    spey_xxh3_free(writer->hash);
    spey_free(writer->tensor_bytes);
    spey_free(writer);
}
