#include "text/tokenizer_json.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"

typedef struct json_reader {
    spey_tok_source source;
    const json_t *root, *model;
    spey_map ids; /* piece -> id */
    uint32_t vocab_count;
} json_reader;

static spey_status bad_model(const json_reader *r, const char *what)
{
    return SPEY_FAIL(SPEY_FORMAT, "%s: model: %s", r->source.where, what);
}

static spey_status put_piece(json_reader *r, uint32_t id, const char *text, size_t n)
{
    SPEY_TRY(spey_tok_source_piece_put(&r->source, id, text, n, SPEY_TOK_PRESENT));
    r->vocab_count++;
    return spey_map_put(&r->ids, text, n, id);
}

/* {"piece": id, …} */
static spey_status read_vocab_map(json_reader *r)
{
    json_t *vocab = json_object_get(r->model, "vocab");
    if (!json_is_object(vocab)) return bad_model(r, "\"vocab\" is missing or no object");
    const char *piece;
    size_t n;
    json_t *id;
    json_object_keylen_foreach(vocab, piece, n, id)
    {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= SPEY_VOCAB_MAX)
            return SPEY_FAIL(SPEY_FORMAT, "%s: model: token \"%.64s\" has no id in 0…%d",
                             r->source.where, piece, SPEY_VOCAB_MAX - 1);
        SPEY_TRY(put_piece(r, (uint32_t)value, piece, n));
    }
    return SPEY_OK;
}

/* [["piece", score], …] */
static spey_status read_vocab_list(json_reader *r)
{
    const json_t *vocab = json_object_get(r->model, "vocab");
    if (!json_is_array(vocab)) return bad_model(r, "\"vocab\" is missing or no array");
    if (json_array_size(vocab) > SPEY_VOCAB_MAX) return bad_model(r, "\"vocab\" is too long");
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *item = json_array_get(vocab, i), *piece = json_array_get(item, 0);
        const json_t *score = json_array_get(item, 1);
        if (!json_is_string(piece) || !json_is_number(score) || json_array_size(item) != 2)
            return SPEY_FAIL(SPEY_FORMAT, "%s: model: entry %zu of \"vocab\" is not [piece, score]",
                             r->source.where, i);
        SPEY_TRY(put_piece(r, (uint32_t)i, json_string_value(piece), json_string_length(piece)));
        r->source.pieces[i].score = json_number_value(score);
    }
    return SPEY_OK;
}

/* Id of a piece, -1 when it is not in the vocabulary. */
static int64_t find(const json_reader *r, const char *text, size_t n)
{
    int64_t id;
    return spey_map_get(&r->ids, text, n, &id) ? id : -1;
}

static spey_status read_unk_token(json_reader *r, bool required)
{
    const json_t *unk = json_object_get(r->model, "unk_token");
    if (!unk || json_is_null(unk))
        return required ? bad_model(r, "\"unk_token\" is missing") : SPEY_OK;
    if (!json_is_string(unk)) return bad_model(r, "\"unk_token\" is no string");
    /* A name that is no token matters only when it is needed, then encoding says so. */
    r->source.meta.unk_id = (int32_t)find(r, json_string_value(unk), json_string_length(unk));
    return SPEY_OK;
}

static spey_status read_affix(json_reader *r, const char *key, uint32_t *at, uint32_t *len)
{
    const json_t *value = json_object_get(r->model, key);
    if (!value || json_is_null(value)) return SPEY_OK;
    if (!json_is_string(value) || json_string_length(value) > SPEY_TOK_ADDED_BYTES_MAX)
        return SPEY_FAIL(SPEY_FORMAT, "%s: model: \"%s\" is no short string", r->source.where, key);
    return spey_tok_source_string(&r->source, json_string_value(value), json_string_length(value),
                                  at, len);
}

/* ---- BPE ---- */

typedef struct pair {
    const char *left, *right;
    size_t left_len, right_len;
} pair;

/* "a b" or ["a", "b"]. */
static bool split_merge(const json_t *merge, pair *out)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        size_t n = json_string_length(merge);
        const char *space = memchr(text, ' ', n);
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - text))) return false;
        *out = (pair){ text, space + 1, (size_t)(space - text), n - (size_t)(space + 1 - text) };
        return true;
    }
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return false;
    *out = (pair){ json_string_value(left), json_string_value(right), json_string_length(left),
                   json_string_length(right) };
    return true;
}

static spey_status unknown_in_merge(const json_reader *r, size_t rank, const char *text, size_t n)
{
    return SPEY_FAIL(SPEY_FORMAT,
                     "%s: model: merge %zu names \"%.*s\", which is not in the vocabulary",
                     r->source.where, rank, (int)(n < 64 ? n : 64), text);
}

static spey_status read_merge(json_reader *r, const json_t *merge, size_t rank, spey_strbuf *joined)
{
    pair p;
    if (!split_merge(merge, &p))
        return SPEY_FAIL(SPEY_FORMAT, "%s: model: merge %zu is not two tokens", r->source.where,
                         rank);
    int64_t left = find(r, p.left, p.left_len), right = find(r, p.right, p.right_len);
    if (left < 0) return unknown_in_merge(r, rank, p.left, p.left_len);
    if (right < 0) return unknown_in_merge(r, rank, p.right, p.right_len);
    size_t prefix = r->source.meta.prefix_len;
    if (p.right_len < prefix) prefix = p.right_len;
    spey_strbuf_reset(joined);
    spey_strbuf_append(joined, p.left, p.left_len);
    spey_strbuf_append(joined, p.right + prefix, p.right_len - prefix);
    SPEY_TRY(spey_strbuf_status(joined));
    int64_t result = find(r, joined->data, joined->len);
    if (result < 0) return unknown_in_merge(r, rank, joined->data, joined->len);
    return spey_tok_source_merge_put(&r->source,
                                     (spey_tok_source_merge){ (uint32_t)left, (uint32_t)right,
                                                              (uint32_t)rank, (uint32_t)result });
}

static spey_status read_merges(json_reader *r)
{
    const json_t *merges = json_object_get(r->model, "merges");
    if (!json_is_array(merges)) return bad_model(r, "\"merges\" is missing or no array");
    spey_strbuf joined = { 0 };
    spey_status status = SPEY_OK;
    size_t rank = 0;
    for (size_t i = 0; i < json_array_size(merges) && !status; i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text && !strncmp(text, "#version", 8)) continue;
        status = read_merge(r, merge, rank++, &joined);
    }
    spey_strbuf_deinit(&joined);
    return status;
}

static spey_status read_bpe_flag(json_reader *r, const char *key, uint32_t bit)
{
    bool value;
    SPEY_TRY(spey_json_bool(r->model, r->source.where, key, false, &value));
    if (value) r->source.meta.flags |= bit;
    return SPEY_OK;
}

static spey_status read_bpe(json_reader *r)
{
    spey_tok_meta *meta = &r->source.meta;
    double dropout;
    SPEY_TRY(spey_json_number(r->model, r->source.where, "dropout", 0, 1, 0, &dropout));
    if (dropout > 0)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: model: BPE dropout is not supported",
                         r->source.where);
    SPEY_TRY(read_bpe_flag(r, "fuse_unk", SPEY_TOK_FUSE_UNK));
    SPEY_TRY(read_bpe_flag(r, "byte_fallback", SPEY_TOK_BYTE_FALLBACK));
    SPEY_TRY(read_bpe_flag(r, "ignore_merges", SPEY_TOK_IGNORE_MERGES));
    SPEY_TRY(read_affix(r, "continuing_subword_prefix", &meta->prefix, &meta->prefix_len));
    SPEY_TRY(read_affix(r, "end_of_word_suffix", &meta->suffix, &meta->suffix_len));
    r->source.no_cuts = meta->prefix_len || meta->suffix_len;
    SPEY_TRY(read_vocab_map(r));
    SPEY_TRY(read_unk_token(r, false));
    return read_merges(r);
}

/* ---- the other models ---- */

static spey_status read_unigram(json_reader *r)
{
    spey_tok_meta *meta = &r->source.meta;
    int64_t unk;
    meta->model = SPEY_TOK_UNIGRAM;
    SPEY_TRY(read_bpe_flag(r, "byte_fallback", SPEY_TOK_BYTE_FALLBACK));
    SPEY_TRY(read_vocab_list(r));
    SPEY_TRY(spey_json_int(r->model, r->source.where, "unk_id", -1, (int64_t)r->vocab_count - 1, -1,
                           &unk));
    meta->unk_id = (int32_t)unk;
    double min = (double)INFINITY;
    for (size_t i = 0; i < r->source.n_pieces; i++)
        if (r->source.pieces[i].score < min) min = r->source.pieces[i].score;
    meta->unk_score = min - 10;
    return SPEY_OK;
}

static spey_status read_words(json_reader *r, spey_tok_model model)
{
    spey_tok_meta *meta = &r->source.meta;
    int64_t chars;
    meta->model = model;
    SPEY_TRY(spey_json_int(r->model, r->source.where, "max_input_chars_per_word", 0, INT32_MAX, 100,
                           &chars));
    meta->word_chars_max = (uint32_t)chars;
    if (model == SPEY_TOK_WORDPIECE)
        SPEY_TRY(read_affix(r, "continuing_subword_prefix", &meta->prefix, &meta->prefix_len));
    SPEY_TRY(read_vocab_map(r));
    return read_unk_token(r, true);
}

static spey_status read_model(json_reader *r)
{
    r->model = json_object_get(r->root, "model");
    if (!json_is_object(r->model))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"model\" is missing or no object", r->source.where);
    const char *type;
    /* Files before "type" was written are BPE when they have merges, Unigram when the vocabulary is a list. */
    bool merges = json_object_get(r->model, "merges") != NULL;
    bool list = json_is_array(json_object_get(r->model, "vocab"));
    SPEY_TRY(spey_json_string(r->model, r->source.where, "type",
                              list     ? "Unigram"
                              : merges ? "BPE"
                                       : "WordPiece",
                              &type));
    if (!strcmp(type, "BPE")) return read_bpe(r);
    if (!strcmp(type, "Unigram")) return read_unigram(r);
    if (!strcmp(type, "WordPiece")) return read_words(r, SPEY_TOK_WORDPIECE);
    if (!strcmp(type, "WordLevel")) return read_words(r, SPEY_TOK_WORDLEVEL);
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: model \"%s\" is not supported", r->source.where, type);
}

/* ---- added tokens ---- */

static spey_status read_added_flag(const json_reader *r, const json_t *object, const char *key,
                                   uint32_t bit, uint32_t *flags)
{
    bool value;
    SPEY_TRY(spey_json_bool(object, r->source.where, key, false, &value));
    if (value) *flags |= bit;
    return SPEY_OK;
}

/* Hugging Face gives a token that the model lacks the next free id, whatever the file says; files that it
 * wrote agree with that. `seen` maps contents, `used` the ids that the file claims. */
static spey_status read_added(json_reader *r, const json_t *object, uint32_t *next_id,
                              spey_map *seen, spey_map *used)
{
    const char *text;
    size_t n;
    int64_t id, other;
    spey_tok_added added = { 0 };
    SPEY_TRY(spey_tok_json_text(&r->source, object, "content", &text, &n));
    SPEY_TRY(spey_json_int(object, r->source.where, "id", 0, SPEY_VOCAB_MAX - 1, -1, &id));
    SPEY_TRY(read_added_flag(r, object, "lstrip", SPEY_TOK_ADDED_LSTRIP, &added.flags));
    SPEY_TRY(read_added_flag(r, object, "rstrip", SPEY_TOK_ADDED_RSTRIP, &added.flags));
    SPEY_TRY(read_added_flag(r, object, "single_word", SPEY_TOK_ADDED_SINGLE_WORD, &added.flags));
    SPEY_TRY(read_added_flag(r, object, "normalized", SPEY_TOK_ADDED_NORMALIZED, &added.flags));
    SPEY_TRY(read_added_flag(r, object, "special", SPEY_TOK_ADDED_SPECIAL, &added.flags));
    if (n == 0) return SPEY_OK;
    if (n > SPEY_TOK_ADDED_BYTES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: an added token of %zu bytes, at most %d are allowed",
                         r->source.where, n, SPEY_TOK_ADDED_BYTES_MAX);
    if (spey_map_get(seen, text, n, &other))
        return SPEY_FAIL(SPEY_FORMAT, "%s: added token \"%.64s\" is there twice", r->source.where,
                         text);
    if (spey_map_get(used, (const char *)&id, sizeof id, &other))
        return SPEY_FAIL(SPEY_FORMAT, "%s: added token \"%.64s\" has id %lld, which another has",
                         r->source.where, text, (long long)id);
    SPEY_TRY(spey_map_put(used, (const char *)&id, sizeof id, 1));
    int64_t given = find(r, text, n);
    if (given < 0) given = (*next_id)++;
    if (given != id)
        spey_log(SPEY_LOG_WARNING, "%s: added token \"%.64s\" has id %lld, not %lld as it says",
                 r->source.where, text, (long long)given, (long long)id);
    added.id = (int32_t)given;
    SPEY_TRY(spey_map_put(seen, text, n, given));
    SPEY_TRY(spey_tok_source_string(&r->source, text, n, &added.content, &added.content_len));
    return spey_tok_source_added_put(&r->source, added);
}

static spey_status read_all_added(json_reader *r)
{
    const json_t *list = json_object_get(r->root, "added_tokens");
    if (!list || json_is_null(list)) return SPEY_OK;
    if (!json_is_array(list) || json_array_size(list) > SPEY_VOCAB_MAX)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"added_tokens\" is no array", r->source.where);
    spey_map seen, used;
    spey_map_init(&seen, SPEY_PURPOSE_TEXT);
    spey_map_init(&used, SPEY_PURPOSE_TEXT);
    uint32_t next_id = r->vocab_count;
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < json_array_size(list) && !status; i++)
        status = read_added(r, json_array_get(list, i), &next_id, &seen, &used);
    spey_map_deinit(&seen);
    spey_map_deinit(&used);
    return status;
}

/* ---- the whole ---- */

static spey_status read_all(json_reader *r)
{
    const char *version;
    if (!json_is_object(r->root))
        return SPEY_FAIL(SPEY_FORMAT, "%s: not a JSON object", r->source.where);
    SPEY_TRY(spey_json_string(r->root, r->source.where, "version", "1.0", &version));
    if (strcmp(version, "1.0"))
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: tokenizer version \"%s\"", r->source.where,
                         version);
    SPEY_TRY(read_model(r));
    SPEY_TRY(spey_tok_json_steps(&r->source, r->root));
    return read_all_added(r);
}

spey_status spey_tokenizer_from_json(const char *where, const char *text, size_t n,
                                     spey_tokenizer **out)
{
    *out = NULL;
    json_t *root;
    SPEY_TRY(spey_json_parse(where, text, n, &root));
    json_reader r = { .root = root };
    spey_tok_source_init(&r.source, where);
    spey_map_init(&r.ids, SPEY_PURPOSE_TEXT);
    spey_status status = read_all(&r);
    json_decref(root);
    spey_map_deinit(&r.ids);
    if (!status) status = spey_tok_open_source(&r.source, out);
    spey_tok_source_deinit(&r.source);
    return status;
}
