/* SentencePiece models: the few fields of ModelProto that decide about ids, read from the wire format ("Protocol
 * Buffers: Encoding"). Unknown fields are skipped; every length is checked against what is left. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/map.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

#define SPACE_SYMBOL "\xe2\x96\x81"

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

typedef struct wire {
    const uint8_t *p;
    size_t n;
} wire;

typedef struct wire_field {
    uint32_t number, type;
    uint64_t value; /* numbers */
    wire bytes;
} wire_field;

typedef struct sp_reader {
    spey_tok_source source;
    uint64_t model_type;
    bool byte_fallback, has_trainer;
    bool dummy_prefix, remove_extra, escape, suffix;
    wire charsmap, unk_surface;
    bool byte_seen[256];
    spey_map ids;      /* normal, user-defined and unused pieces; later characters of pieces too */
    spey_map reserved; /* the others */
    double min, max;
} sp_reader;

/* ---- wire format ---- */

static bool read_varint(wire *in, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && in->n > 0; shift += 7) {
        uint8_t byte = *in->p++;
        in->n--;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool read_fixed(wire *in, size_t bytes, uint64_t *value)
{
    if (in->n < bytes) return false;
    *value = 0;
    memcpy(value, in->p, bytes);
    in->p += bytes;
    in->n -= bytes;
    return true;
}

/* The next field; false when the bytes are broken. */
static bool read_field(wire *in, wire_field *field)
{
    uint64_t tag, len;
    *field = (wire_field){ 0 };
    if (!read_varint(in, &tag) || tag > UINT32_MAX) return false;
    field->number = (uint32_t)(tag >> 3);
    field->type = tag & 7;
    switch (field->type) {
    case WIRE_VARINT: return read_varint(in, &field->value);
    case WIRE_FIXED64: return read_fixed(in, 8, &field->value);
    case WIRE_FIXED32: return read_fixed(in, 4, &field->value);
    case WIRE_BYTES:
        if (!read_varint(in, &len) || len > in->n) return false;
        field->bytes = (wire){ in->p, (size_t)len };
        in->p += len;
        in->n -= (size_t)len;
        return true;
    default: return false;
    }
}

static spey_status broken(const sp_reader *r)
{
    return SPEY_FAIL(SPEY_FORMAT, "%s: not a SentencePiece model (broken protobuf)",
                     r->source.where);
}

static bool is(const wire_field *field, uint32_t number, uint32_t type)
{
    return field->number == number && field->type == type;
}

/* ---- pieces ---- */

static uint8_t kind_of(uint64_t type)
{
    switch (type) {
    case TYPE_NORMAL: return SPEY_TOK_PRESENT;
    case TYPE_UNKNOWN: return SPEY_TOK_PRESENT | SPEY_TOK_UNKNOWN;
    case TYPE_CONTROL: return SPEY_TOK_PRESENT | SPEY_TOK_CONTROL | SPEY_TOK_SKIPPED;
    case TYPE_USER: return SPEY_TOK_PRESENT | SPEY_TOK_USER;
    case TYPE_UNUSED: return SPEY_TOK_PRESENT | SPEY_TOK_UNUSED;
    case TYPE_BYTE: return SPEY_TOK_PRESENT | SPEY_TOK_BYTE;
    default: return 0;
    }
}

static int byte_of_piece(const char *text, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>' || !text[3] || !text[4]) return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

static spey_status note_piece(sp_reader *r, uint32_t id, const char *text, size_t n, uint8_t kind)
{
    const char *where = r->source.where;
    bool normal = !(kind & (SPEY_TOK_UNKNOWN | SPEY_TOK_CONTROL | SPEY_TOK_BYTE));
    spey_map *map = normal ? &r->ids : &r->reserved;
    int64_t other;
    if (n == 0) return SPEY_FAIL(SPEY_FORMAT, "%s: piece %u is empty", where, id);
    if (spey_map_get(map, text, n, &other))
        return SPEY_FAIL(SPEY_FORMAT, "%s: piece \"%.*s\" is defined twice", where,
                         (int)(n < 64 ? n : 64), text);
    SPEY_TRY(spey_map_put(map, text, n, id));
    if (kind & SPEY_TOK_UNKNOWN) {
        if (r->source.meta.unk_id >= 0)
            return SPEY_FAIL(SPEY_FORMAT, "%s: more than one unknown piece", where);
        r->source.meta.unk_id = (int32_t)id;
    }
    if (kind & SPEY_TOK_BYTE) {
        int byte = byte_of_piece(text, n);
        if (byte < 0)
            return SPEY_FAIL(SPEY_FORMAT, "%s: byte piece \"%.*s\" is no <0xXX>", where,
                             (int)(n < 64 ? n : 64), text);
        r->byte_seen[byte] = true;
    }
    if (kind & SPEY_TOK_UNUSED) r->source.meta.flags |= SPEY_TOK_HAS_UNUSED;
    return SPEY_OK;
}

static spey_status read_piece(sp_reader *r, wire in)
{
    wire text = { NULL, 0 };
    float score = 0;
    uint64_t type = TYPE_NORMAL;
    uint32_t id = (uint32_t)r->source.n_pieces;
    while (in.n) {
        wire_field field;
        if (!read_field(&in, &field)) return broken(r);
        uint32_t bits = (uint32_t)field.value;
        if (is(&field, 1, WIRE_BYTES)) text = field.bytes;
        if (is(&field, 2, WIRE_FIXED32)) memcpy(&score, &bits, 4);
        if (is(&field, 3, WIRE_VARINT)) type = field.value;
    }
    uint8_t kind = kind_of(type);
    if (!kind)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: piece %u has type %llu", r->source.where, id,
                         (unsigned long long)type);
    if (!(score > -FLT_MAX && score < FLT_MAX))
        return SPEY_FAIL(SPEY_FORMAT, "%s: piece %u has no finite score", r->source.where, id);
    if (id >= SPEY_VOCAB_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: more than %d pieces", r->source.where, SPEY_VOCAB_MAX);
    const char *p = text.p ? (const char *)text.p : "";
    SPEY_TRY(spey_tok_source_piece_put(&r->source, id, p, text.n, kind));
    r->source.pieces[id].score = (double)score;
    if (type == TYPE_NORMAL) {
        if ((double)score < r->min) r->min = (double)score;
        if ((double)score > r->max) r->max = (double)score;
    }
    return note_piece(r, id, p, text.n, kind);
}

/* ---- the other messages ---- */

static spey_status read_trainer(sp_reader *r, wire in)
{
    while (in.n) {
        wire_field field;
        if (!read_field(&in, &field)) return broken(r);
        if (is(&field, 3, WIRE_VARINT)) r->model_type = field.value;
        if (is(&field, 24, WIRE_VARINT)) r->suffix = field.value;
        if (is(&field, 35, WIRE_VARINT)) r->byte_fallback = field.value;
        if (is(&field, 44, WIRE_BYTES)) r->unk_surface = field.bytes;
    }
    return SPEY_OK;
}

static spey_status read_normalizer(sp_reader *r, wire in)
{
    while (in.n) {
        wire_field field;
        if (!read_field(&in, &field)) return broken(r);
        if (is(&field, 2, WIRE_BYTES)) r->charsmap = field.bytes;
        if (is(&field, 3, WIRE_VARINT)) r->dummy_prefix = field.value;
        if (is(&field, 4, WIRE_VARINT)) r->remove_extra = field.value;
        if (is(&field, 5, WIRE_VARINT)) r->escape = field.value;
    }
    return spey_tok_charsmap_check(r->source.where, (const char *)r->charsmap.p, r->charsmap.n);
}

static spey_status read_denormalizer(const sp_reader *r, wire in)
{
    while (in.n) {
        wire_field field;
        if (!read_field(&in, &field)) return broken(r);
        if (is(&field, 2, WIRE_BYTES) && field.bytes.n)
            return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: denormalization rules are not supported",
                             r->source.where);
    }
    return SPEY_OK;
}

static spey_status read_model(sp_reader *r, wire in)
{
    while (in.n) {
        wire_field field;
        if (!read_field(&in, &field)) return broken(r);
        if (field.type != WIRE_BYTES) continue;
        switch (field.number) {
        case 1: SPEY_TRY(read_piece(r, field.bytes)); break;
        case 2: SPEY_TRY(read_trainer(r, field.bytes)); break;
        case 3: SPEY_TRY(read_normalizer(r, field.bytes)); break;
        case 5: SPEY_TRY(read_denormalizer(r, field.bytes)); break;
        default: break;
        }
    }
    return SPEY_OK;
}

static spey_status check_model(sp_reader *r)
{
    const char *where = r->source.where;
    if (r->source.n_pieces == 0) return SPEY_FAIL(SPEY_FORMAT, "%s: no pieces", where);
    if (r->source.meta.unk_id < 0) return SPEY_FAIL(SPEY_FORMAT, "%s: no unknown piece", where);
    if (r->model_type != MODEL_UNIGRAM && r->model_type != MODEL_BPE)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "%s: SentencePiece model type %llu, expected unigram or BPE", where,
                         (unsigned long long)r->model_type);
    for (int b = 0; b < 256 && r->byte_fallback; b++)
        if (!r->byte_seen[b])
            return SPEY_FAIL(SPEY_FORMAT, "%s: byte_fallback without piece <0x%02X>", where,
                             (unsigned)b);
    return SPEY_OK;
}

/* ---- merges ----
 *
 * SentencePiece merges two neighbours when their texts together are a piece, best score first. The neighbours
 * are pieces, or single characters that need not be pieces. So each piece gives one merge per place
 * where it can be cut into two such parts; characters that are no pieces become symbols without id. */

static bool is_character(const char *text, size_t n)
{
    return spey_utf8_lead_length(text[0]) == n;
}

/* The symbol of a part; a character gets one if it has none. */
static spey_status part_symbol(sp_reader *r, const char *text, size_t n, uint32_t *symbol)
{
    int64_t id;
    *symbol = SPEY_TOK_NO_SYMBOL;
    if (spey_map_get(&r->ids, text, n, &id)) {
        *symbol = (uint32_t)id;
        return SPEY_OK;
    }
    if (!is_character(text, n)) return SPEY_OK;
    uint32_t added = (uint32_t)r->source.n_pieces;
    char copy[4];
    memcpy(copy, text, n); /* `text` moves with the source */
    SPEY_TRY(spey_tok_source_piece_put(&r->source, added, copy, n, SPEY_TOK_PRESENT));
    SPEY_TRY(spey_map_put(&r->ids, copy, n, added));
    *symbol = added;
    return SPEY_OK;
}

static spey_status put_splits(sp_reader *r, uint32_t id, uint32_t rank)
{
    const spey_tok_source_piece piece = r->source.pieces[id];
    for (size_t at = 0; at < piece.len;) {
        const char *text = r->source.text.data + piece.text;
        at += spey_utf8_lead_length(text[at]);
        if (at >= piece.len) break;
        uint32_t left, right;
        SPEY_TRY(part_symbol(r, text, at, &left));
        text = r->source.text.data + piece.text;
        SPEY_TRY(part_symbol(r, text + at, piece.len - at, &right));
        if (left == SPEY_TOK_NO_SYMBOL || right == SPEY_TOK_NO_SYMBOL) continue;
        SPEY_TRY(spey_tok_source_merge_put(&r->source,
                                           (spey_tok_source_merge){ left, right, rank, id }));
    }
    return SPEY_OK;
}

typedef struct scored {
    double score;
    uint32_t id;
} scored;

static int compare_scored(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Equal scores get equal ranks: the leftmost of them goes first, whatever the piece. */
static spey_status put_merges(sp_reader *r)
{
    size_t n = r->source.meta.n_ids, count = 0;
    scored *order = spey_new_array(SPEY_PURPOSE_TEXT, scored, n);
    if (!order) return SPEY_NOMEM;
    uint8_t reserved = SPEY_TOK_UNKNOWN | SPEY_TOK_CONTROL | SPEY_TOK_BYTE;
    for (size_t i = 0; i < n; i++)
        if (!(r->source.pieces[i].kind & reserved))
            order[count++] = (scored){ r->source.pieces[i].score, (uint32_t)i };
    qsort(order, count, sizeof *order, compare_scored);
    spey_status status = SPEY_OK;
    uint32_t rank = 0;
    for (size_t i = 0; i < count && !status; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        if (r->source.pieces[order[i].id].len > SPEY_TOK_ADDED_BYTES_MAX)
            status = SPEY_FAIL(SPEY_LIMIT, "%s: piece %u is longer than %d bytes", r->source.where,
                               order[i].id, SPEY_TOK_ADDED_BYTES_MAX);
        if (!status) status = put_splits(r, order[i].id, rank);
    }
    spey_free(order);
    return status;
}

/* ---- the whole ---- */

static spey_status put_steps(sp_reader *r)
{
    spey_tok_source *source = &r->source;
    uint32_t bits = (r->dummy_prefix ? SPEY_TOK_SP_DUMMY_PREFIX : 0u) |
                    (r->remove_extra ? SPEY_TOK_SP_REMOVE_EXTRA : 0u) |
                    (r->escape ? SPEY_TOK_SP_ESCAPE : 0u) | (r->suffix ? SPEY_TOK_SP_SUFFIX : 0u);
    spey_tok_op op = { .kind = SPEY_TOK_NORM_SENTENCEPIECE, .x = bits };
    SPEY_TRY(spey_tok_source_string(source, (const char *)r->charsmap.p, r->charsmap.n, &op.a,
                                    &op.a_len));
    SPEY_TRY(spey_tok_source_op_put(source, op));
    static const char default_unk[] = " \xe2\x81\x87 ";
    const char *unk = r->unk_surface.p ? (const char *)r->unk_surface.p : default_unk;
    size_t unk_len = r->unk_surface.p ? r->unk_surface.n : sizeof default_unk - 1;
    if (!spey_utf8_is_valid(unk, unk_len))
        return SPEY_FAIL(SPEY_FORMAT, "%s: unk_surface is not UTF-8", source->where);
    op = (spey_tok_op){ .kind = SPEY_TOK_DEC_SENTENCEPIECE, .x = bits };
    SPEY_TRY(spey_tok_source_string(source, unk, unk_len, &op.a, &op.a_len));
    SPEY_TRY(spey_tok_source_op_put(source, op));
    source->meta.n_normalizers = source->meta.n_decoders = 1;
    return SPEY_OK;
}

static spey_status read_all(sp_reader *r, wire in)
{
    spey_tok_meta *meta = &r->source.meta;
    SPEY_TRY(read_model(r, in));
    SPEY_TRY(check_model(r));
    meta->model = r->model_type == MODEL_BPE ? SPEY_TOK_BPE : SPEY_TOK_UNIGRAM;
    meta->flags |= SPEY_TOK_SENTENCEPIECE;
    if (r->byte_fallback) meta->flags |= SPEY_TOK_BYTE_FALLBACK;
    meta->n_ids = (uint32_t)r->source.n_pieces;
    meta->unk_score = (double)((float)r->min - 10.0f);
    meta->user_bonus = r->max;
    r->source.no_cuts = meta->flags & SPEY_TOK_HAS_UNUSED;
    SPEY_TRY(put_steps(r));
    return r->model_type == MODEL_BPE ? put_merges(r) : SPEY_OK;
}

spey_status spey_tokenizer_from_sentencepiece(const char *where, const void *bytes, size_t n,
                                              spey_tokenizer **out)
{
    *out = NULL;
    sp_reader r = { .model_type = MODEL_UNIGRAM,
                    .dummy_prefix = true,
                    .remove_extra = true,
                    .escape = true,
                    .min = (double)FLT_MAX,
                    .max = (double)FLT_MIN };
    spey_tok_source_init(&r.source, where);
    spey_map_init(&r.ids, SPEY_PURPOSE_TEXT);
    spey_map_init(&r.reserved, SPEY_PURPOSE_TEXT);
    spey_status status = read_all(&r, (wire){ bytes, n });
    spey_map_deinit(&r.ids);
    spey_map_deinit(&r.reserved);
    if (!status) status = spey_tok_open_source(&r.source, out);
    spey_tok_source_deinit(&r.source);
    return status;
}
