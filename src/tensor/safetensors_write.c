#include <inttypes.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "tensor/safetensors.h"

/* The spelling of a dtype in the format. */
static const char *dtype_text(spey_dtype dtype)
{
    static const char *const text[SPEY_DTYPE_COUNT] = {
#define DTYPE_TEXT(name, ours, safetensors, bytes) safetensors,
        SPEY_DTYPE_LIST(DTYPE_TEXT)
#undef DTYPE_TEXT
    };
    return text[dtype];
}

static spey_status write_header(const spey_safetensor *tensors, int n, spey_strbuf *out)
{
    uint64_t offset = 0;
    spey_strbuf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        const spey_safetensor *tensor = &tensors[i];
        spey_strbuf_puts(out, ",");
        spey_json_quote(out, tensor->name, strlen(tensor->name));
        spey_strbuf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", dtype_text(tensor->dtype));
        size_t bytes = spey_dtype_bytes(tensor->dtype);
        for (int d = 0; d < tensor->n_dims; d++) {
            spey_strbuf_printf(out, "%s%" PRId64, d ? "," : "", tensor->dims[d]);
            bytes *= (size_t)tensor->dims[d];
        }
        SPEY_ASSERT(bytes == tensor->bytes);
        spey_strbuf_printf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
                           offset + tensor->bytes);
        offset += tensor->bytes;
    }
    spey_strbuf_puts(out, "}");
    /* The data begins at a multiple of 64, so that a mapped file can be used where it lies. */
    while ((out->len + 8) % 64 && !out->status)
        spey_strbuf_putc(out, ' ');
    return spey_strbuf_status(out);
}

static spey_status write_all(spey_file_writer *writer, const spey_strbuf *header,
                             const spey_safetensor *tensors, int n)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
    SPEY_TRY(spey_file_writer_append(writer, length, sizeof length));
    SPEY_TRY(spey_file_writer_append(writer, header->data, header->len));
    for (int i = 0; i < n; i++)
        SPEY_TRY(spey_file_writer_append(writer, tensors[i].data, tensors[i].bytes));
    return SPEY_OK;
}

spey_status spey_safetensors_write(const char *path, const spey_safetensor *tensors, int n)
{
    spey_strbuf header = { .max = SPEY_SAFETENSORS_HEADER_MAX };
    spey_file_writer *writer = NULL;
    spey_status status = write_header(tensors, n, &header);
    if (!status) status = spey_file_writer_open(path, &writer);
    if (!status) {
        status = write_all(writer, &header, tensors, n);
        if (status)
            spey_file_writer_abort(writer);
        else
            status = spey_file_writer_commit(writer);
    }
    spey_strbuf_deinit(&header);
    return status;
}
