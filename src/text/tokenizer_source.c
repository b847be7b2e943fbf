/* Collecting what a tokenizer file says. */
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

spey_status spey_tok_grow(void **data, size_t *cap, size_t len, size_t item_bytes)
{
    if (len < *cap) return SPEY_OK;
    size_t wanted = *cap ? *cap * 2 : 64, bytes;
    if (!spey_mul_size(wanted, item_bytes, &bytes)) return SPEY_FAIL(SPEY_NOMEM, "out of memory");
    void *grown = spey_realloc(SPEY_PURPOSE_TEXT, *data, bytes);
    if (!grown) return SPEY_NOMEM;
    *data = grown;
    *cap = wanted;
    return SPEY_OK;
}

void spey_tok_source_init(spey_tok_source *source, const char *where)
{
    *source = (spey_tok_source){ .where = where };
    source->meta.unk_id = -1;
    source->text.max = source->strings.max = SPEY_JSON_BYTES_MAX;
}

void spey_tok_source_deinit(spey_tok_source *source)
{
    spey_strbuf_deinit(&source->text);
    spey_strbuf_deinit(&source->strings);
    spey_free(source->pieces);
    spey_free(source->merges);
    spey_free(source->ops);
    spey_free(source->added);
}

static spey_status check_text(const spey_tok_source *source, const char *what, const char *text,
                              size_t n, size_t max)
{
    if (n > max)
        return SPEY_FAIL(SPEY_LIMIT, "%s: %s of %zu bytes, at most %zu are allowed", source->where,
                         what, n, max);
    if (!spey_utf8_is_valid(text, n))
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s is not UTF-8", source->where, what);
    return SPEY_OK;
}

spey_status spey_tok_source_piece_put(spey_tok_source *source, uint32_t id, const char *text,
                                      size_t n, uint8_t kind)
{
    if (id >= 2u * SPEY_VOCAB_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: token \"%.*s\" has id %u, at most %d are allowed",
                         source->where, (int)(n < 64 ? n : 64), text, id, SPEY_VOCAB_MAX);
    SPEY_TRY(check_text(source, "a token", text, n, SPEY_TOK_PIECE_BYTES_MAX));
    while (source->n_pieces <= id) {
        void *data = source->pieces;
        spey_status status =
            spey_tok_grow(&data, &source->pieces_cap, source->n_pieces, sizeof *source->pieces);
        source->pieces = data;
        if (status) return status;
        source->pieces[source->n_pieces++] = (spey_tok_source_piece){ 0 };
    }
    spey_tok_source_piece *piece = &source->pieces[id];
    if (piece->kind)
        return SPEY_FAIL(SPEY_FORMAT, "%s: tokens \"%.*s\" and \"%.*s\" both have id %u",
                         source->where, (int)(piece->len < 64 ? piece->len : 64),
                         source->text.data + piece->text, (int)(n < 64 ? n : 64), text, id);
    *piece = (spey_tok_source_piece){ (uint32_t)source->text.len, (uint32_t)n, 0, kind };
    spey_strbuf_append(&source->text, text, n);
    return spey_strbuf_status(&source->text);
}

spey_status spey_tok_source_merge_put(spey_tok_source *source, spey_tok_source_merge merge)
{
    void *data = source->merges;
    spey_status status = spey_tok_grow(&data, &source->merges_cap, source->n_merges, sizeof merge);
    source->merges = data;
    if (!status) source->merges[source->n_merges++] = merge;
    return status;
}

spey_status spey_tok_source_op_put(spey_tok_source *source, spey_tok_op op)
{
    if (source->n_ops >= SPEY_TOK_OPS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: more than %d processing steps", source->where,
                         SPEY_TOK_OPS_MAX);
    void *data = source->ops;
    spey_status status = spey_tok_grow(&data, &source->ops_cap, source->n_ops, sizeof op);
    source->ops = data;
    if (!status) source->ops[source->n_ops++] = op;
    return status;
}

spey_status spey_tok_source_added_put(spey_tok_source *source, spey_tok_added added)
{
    void *data = source->added;
    spey_status status = spey_tok_grow(&data, &source->added_cap, source->n_added, sizeof added);
    source->added = data;
    if (!status) source->added[source->n_added++] = added;
    return status;
}

spey_status spey_tok_source_string(spey_tok_source *source, const char *text, size_t n,
                                   uint32_t *offset, uint32_t *len)
{
    *offset = (uint32_t)source->strings.len;
    *len = (uint32_t)n;
    spey_strbuf_append(&source->strings, text, n);
    return spey_strbuf_status(&source->strings);
}
