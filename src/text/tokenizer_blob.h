/* The layout of a compiled tokenizer: header, then sections at multiples of 8 bytes. Little-endian. Any change
 * of a struct in tokenizer_impl.h that is stored raises SPEY_TOK_VERSION. */
#ifndef SPEY_TEXT_TOKENIZER_BLOB_H
#define SPEY_TEXT_TOKENIZER_BLOB_H

#include <stdint.h>

#include "text/tokenizer_impl.h"

#define SPEY_TOK_MAGIC "SPEYTOK" /* 8 bytes with the final 0 */
enum { SPEY_TOK_VERSION = 1 };

typedef struct spey_tok_blob_section {
    uint64_t offset, bytes; /* from the blob's start */
} spey_tok_blob_section;

typedef struct spey_tok_blob_header {
    char magic[8];
    uint32_t version, n_sections;
    uint64_t bytes;
    spey_tok_blob_section sections[SPEY_TOK_SEC_COUNT];
} spey_tok_blob_header;

#endif
