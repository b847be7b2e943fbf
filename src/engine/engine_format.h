/* The bytes of an engine file, as docs/engine-format.md specifies them. All numbers are little-endian. */
#ifndef SPEY_ENGINE_ENGINE_FORMAT_H
#define SPEY_ENGINE_ENGINE_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "engine/engine_file.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "engine files are little-endian and used where they lie"
#endif

/* High bit, line endings and end-of-file character: a copy through a text channel is noticed (as in PNG). */
#define SPEY_ENGINE_MAGIC "\x89SPEY\r\n\x1a"

enum {
    SPEY_ENGINE_VERSION = 1,
    SPEY_ENGINE_MAGIC_BYTES = 8,
    SPEY_ENGINE_HEADER_BYTES = 64,
    SPEY_ENGINE_SECTION_NAME_BYTES = 96, /* with the final 0 */
    SPEY_ENGINE_ALIGN = 64,              /* sections and tensors */
    SPEY_ENGINE_PAGE = 4096,             /* the weights, and tensors of at least … */
    SPEY_ENGINE_PAGE_TENSOR_BYTES = 1 << 20,
    SPEY_ENGINE_VERIFY_BYTES_MAX = 64
                                   << 20, /* more weights than this are checked on request only */
    SPEY_ENGINE_TENSORS_MAX = SPEY_TENSORS_MAX,
};

typedef struct spey_engine_header {
    uint8_t magic[SPEY_ENGINE_MAGIC_BYTES];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t file_bytes;
    uint64_t table_offset;
    uint64_t table_checksum;
    uint32_t n_sections;
    uint32_t section_bytes; /* of one table entry */
    uint64_t reserved;
    uint64_t checksum; /* of the bytes before */
} spey_engine_header;

typedef struct spey_engine_section_entry {
    char name[SPEY_ENGINE_SECTION_NAME_BYTES];
    uint64_t offset, bytes, checksum;
    uint64_t reserved;
} spey_engine_section_entry;

/* The "tensors" section: this, n_tensors entries, then the names, each with a final 0. */
typedef struct spey_engine_tensors_header {
    uint32_t n_tensors;
    uint32_t entry_bytes;
    uint64_t names_bytes;
} spey_engine_tensors_header;

typedef struct spey_engine_tensor_entry {
    uint32_t name_offset; /* into the names */
    uint32_t dtype;       /* spey_dtype */
    uint32_t n_dims;
    uint32_t reserved;
    int64_t dims[4]; /* unused ones are 0 */
    uint64_t offset; /* into the "weights" section */
    uint64_t bytes;
} spey_engine_tensor_entry;

_Static_assert(sizeof(spey_engine_header) == SPEY_ENGINE_HEADER_BYTES, "no padding");
_Static_assert(sizeof(spey_engine_section_entry) == 128, "no padding");
_Static_assert(sizeof(spey_engine_tensors_header) == 16, "no padding");
_Static_assert(sizeof(spey_engine_tensor_entry) == 64, "no padding");
_Static_assert(SPEY_DIMS_MAX == 4, "the table's entries hold four dimensions");

static inline uint64_t spey_engine_align_up(uint64_t offset, uint64_t align)
{
    return (offset + align - 1) / align * align;
}

/* Where the next tensor of `bytes` goes when the ones before end at `end`. */
static inline uint64_t spey_engine_tensor_offset(uint64_t end, uint64_t bytes)
{
    return spey_engine_align_up(end, bytes >= SPEY_ENGINE_PAGE_TENSOR_BYTES ? SPEY_ENGINE_PAGE
                                                                            : SPEY_ENGINE_ALIGN);
}

/* Bytes of a tensor; false when the type, the number of dimensions or a dimension is impossible. */
bool spey_engine_tensor_bytes(uint32_t dtype, uint32_t n_dims, const int64_t *dims,
                              uint64_t *bytes);

/* The "info" section. */
spey_status spey_model_info_write(const spey_model_info *info, spey_strbuf *out);
spey_status spey_model_info_parse(const char *where, const char *text, size_t n,
                                  spey_model_info *out);

#endif
