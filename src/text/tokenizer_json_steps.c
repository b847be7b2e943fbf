#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

enum { STEPS_DEPTH_MAX = 16 };

typedef struct step_reader {
    spey_tok_source *source;
    const char *part; /* "normalizer" … */
    int depth;
} step_reader;

typedef spey_status (*step_parser)(step_reader *r, const json_t *object, spey_tok_op *op);

typedef struct step_type {
    const char *name;
    uint32_t kind;
    step_parser parse; /* NULL: no operands */
} step_type;

/* ---- operands ---- */

spey_status spey_tok_json_text(const spey_tok_source *source, const json_t *object, const char *key,
                               const char **text, size_t *n)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is missing or no string", source->where, key);
    *text = json_string_value(value);
    *n = json_string_length(value);
    return SPEY_OK;
}

static spey_status keep_text(step_reader *r, const json_t *object, const char *key, uint32_t *at,
                             uint32_t *len)
{
    const char *text;
    size_t n;
    SPEY_TRY(spey_tok_json_text(r->source, object, key, &text, &n));
    return spey_tok_source_string(r->source, text, n, at, len);
}

static spey_status keep_char(step_reader *r, const json_t *object, const char *key, spey_tok_op *op)
{
    const char *text;
    size_t n;
    SPEY_TRY(spey_tok_json_text(r->source, object, key, &text, &n));
    if (n == 0 || spey_utf8_lead_length(text[0]) != n)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s: \"%s\" is \"%.32s\", expected one character",
                         r->source->where, r->part, key, text);
    return spey_tok_source_string(r->source, text, n, &op->a, &op->a_len);
}

static spey_status read_flag(step_reader *r, const json_t *object, const char *key, bool missing,
                             uint32_t bit, uint32_t *bits)
{
    bool value;
    SPEY_TRY(spey_json_bool(object, r->source->where, key, missing, &value));
    if (value) *bits |= bit;
    return SPEY_OK;
}

/* {"String": …} or {"Regex": …}; *regex says which. */
static spey_status read_pattern(step_reader *r, const json_t *object, spey_tok_op *op, bool *regex)
{
    const json_t *pattern = json_object_get(object, "pattern");
    *regex = json_object_get(pattern, "Regex") != NULL;
    if (!json_is_object(pattern) || (!*regex && !json_object_get(pattern, "String")))
        return SPEY_FAIL(
            SPEY_FORMAT,
            "%s: %s: \"pattern\" is missing, expected {\"String\": …} or {\"Regex\": …}",
            r->source->where, r->part);
    return keep_text(r, pattern, *regex ? "Regex" : "String", &op->a, &op->a_len);
}

static spey_status read_behavior(step_reader *r, const json_t *object, const char *missing,
                                 uint32_t *behavior)
{
    static const char *const names[SPEY_TOK_BEHAVIOR_COUNT] = {
        [SPEY_TOK_REMOVED] = "Removed",
        [SPEY_TOK_ISOLATED] = "Isolated",
        [SPEY_TOK_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPEY_TOK_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPEY_TOK_CONTIGUOUS] = "Contiguous",
    };
    const char *name;
    SPEY_TRY(spey_json_string(object, r->source->where, "behavior", missing, &name));
    for (uint32_t i = 0; name && i < SPEY_TOK_BEHAVIOR_COUNT; i++) {
        if (strcmp(name, names[i])) continue;
        *behavior = i;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: %s: behavior \"%s\"", r->source->where, r->part,
                     name ? name : "(none)");
}

/* ---- normalizers ---- */

static spey_status parse_strip(step_reader *r, const json_t *object, spey_tok_op *op)
{
    SPEY_TRY(read_flag(r, object, "strip_left", false, 1, &op->x));
    return read_flag(r, object, "strip_right", false, 2, &op->x);
}

static spey_status parse_replace(step_reader *r, const json_t *object, spey_tok_op *op)
{
    bool regex;
    SPEY_TRY(read_pattern(r, object, op, &regex));
    if (regex)
        op->kind = op->kind == SPEY_TOK_NORM_REPLACE ? SPEY_TOK_NORM_REPLACE_REGEX
                                                     : SPEY_TOK_DEC_REPLACE_REGEX;
    return keep_text(r, object, "content", &op->b, &op->b_len);
}

static spey_status parse_prepend(step_reader *r, const json_t *object, spey_tok_op *op)
{
    return keep_text(r, object, op->kind == SPEY_TOK_NORM_PREPEND ? "prepend" : "append", &op->a,
                     &op->a_len);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool decode_base64(const char *text, size_t n, spey_strbuf *out)
{
    while (n > 0 && text[n - 1] == '=')
        n--;
    uint32_t bits = 0;
    int count = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) return false;
        bits = bits << 6 | (uint32_t)digit;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        spey_strbuf_putc(out, (char)(bits >> count & 0xff));
    }
    return true;
}

static spey_status parse_precompiled(step_reader *r, const json_t *object, spey_tok_op *op)
{
    const char *text;
    size_t n;
    SPEY_TRY(spey_tok_json_text(r->source, object, "precompiled_charsmap", &text, &n));
    spey_strbuf map = { 0 };
    spey_status status = SPEY_OK;
    if (!decode_base64(text, n, &map))
        status =
            SPEY_FAIL(SPEY_FORMAT, "%s: \"precompiled_charsmap\" is not base64", r->source->where);
    if (!status) status = spey_strbuf_status(&map);
    if (!status) status = spey_tok_charsmap_check(r->source->where, map.data, map.len);
    if (!status) status = spey_tok_source_string(r->source, map.data, map.len, &op->a, &op->a_len);
    spey_strbuf_deinit(&map);
    return status;
}

static spey_status parse_bert(step_reader *r, const json_t *object, spey_tok_op *op)
{
    SPEY_TRY(read_flag(r, object, "clean_text", true, 1, &op->x));
    SPEY_TRY(read_flag(r, object, "handle_chinese_chars", true, 2, &op->x));
    SPEY_TRY(read_flag(r, object, "lowercase", true, 8, &op->x));
    return read_flag(r, object, "strip_accents", op->x & 8, 4, &op->x);
}

static const step_type normalizers[] = {
    { "NFC", SPEY_TOK_NORM_NFC, NULL },
    { "NFD", SPEY_TOK_NORM_NFD, NULL },
    { "NFKC", SPEY_TOK_NORM_NFKC, NULL },
    { "NFKD", SPEY_TOK_NORM_NFKD, NULL },
    { "Lowercase", SPEY_TOK_NORM_LOWERCASE, NULL },
    { "Strip", SPEY_TOK_NORM_STRIP, parse_strip },
    { "StripAccents", SPEY_TOK_NORM_STRIP_ACCENTS, NULL },
    { "Replace", SPEY_TOK_NORM_REPLACE, parse_replace },
    { "Prepend", SPEY_TOK_NORM_PREPEND, parse_prepend },
    { "Append", SPEY_TOK_NORM_APPEND, parse_prepend },
    { "Precompiled", SPEY_TOK_NORM_CHARSMAP, parse_precompiled },
    { "Nmt", SPEY_TOK_NORM_NMT, NULL },
    { "Bert", SPEY_TOK_NORM_BERT, parse_bert },
    { "BertNormalizer", SPEY_TOK_NORM_BERT, parse_bert },
    { "ByteLevel", SPEY_TOK_NORM_BYTE_LEVEL, NULL },
    { NULL, 0, NULL },
};

/* ---- pre-tokenizers ---- */

static spey_status parse_split(step_reader *r, const json_t *object, spey_tok_op *op)
{
    bool regex;
    SPEY_TRY(read_pattern(r, object, op, &regex));
    if (regex) op->kind = SPEY_TOK_PRE_SPLIT_REGEX;
    SPEY_TRY(read_behavior(r, object, NULL, &op->x));
    return read_flag(r, object, "invert", false, 1, &op->y);
}

static spey_status parse_byte_level(step_reader *r, const json_t *object, spey_tok_op *op)
{
    SPEY_TRY(read_flag(r, object, "add_prefix_space", true, 1, &op->x));
    return read_flag(r, object, "use_regex", true, 2, &op->x);
}

static spey_status parse_metaspace(step_reader *r, const json_t *object, spey_tok_op *op)
{
    const char *scheme;
    bool prefix;
    SPEY_TRY(keep_char(r, object, "replacement", op));
    SPEY_TRY(read_flag(r, object, "split", true, 1, &op->y));
    SPEY_TRY(spey_json_string(object, r->source->where, "prepend_scheme", "always", &scheme));
    SPEY_TRY(spey_json_bool(object, r->source->where, "add_prefix_space", true, &prefix));
    if (!strcmp(scheme, "always"))
        op->x = SPEY_TOK_SCHEME_ALWAYS;
    else if (!strcmp(scheme, "first"))
        op->x = SPEY_TOK_SCHEME_FIRST;
    else if (!strcmp(scheme, "never"))
        op->x = SPEY_TOK_SCHEME_NEVER;
    else
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: Metaspace: prepend_scheme \"%s\"", r->source->where,
                         scheme);
    if (!prefix && json_object_get(object, "prepend_scheme") && op->x != SPEY_TOK_SCHEME_NEVER)
        return SPEY_FAIL(SPEY_FORMAT, "%s: Metaspace: add_prefix_space contradicts prepend_scheme",
                         r->source->where);
    if (!prefix) op->x = SPEY_TOK_SCHEME_NEVER;
    return SPEY_OK;
}

static spey_status parse_punctuation(step_reader *r, const json_t *object, spey_tok_op *op)
{
    return read_behavior(r, object, "Isolated", &op->x);
}

static spey_status parse_digits(step_reader *r, const json_t *object, spey_tok_op *op)
{
    return read_flag(r, object, "individual_digits", false, 1, &op->x);
}

static spey_status parse_delimiter(step_reader *r, const json_t *object, spey_tok_op *op)
{
    op->x = SPEY_TOK_REMOVED;
    return keep_char(r, object, "delimiter", op);
}

static spey_status parse_fixed_length(step_reader *r, const json_t *object, spey_tok_op *op)
{
    int64_t length;
    SPEY_TRY(spey_json_int(object, r->source->where, "length", 1, INT32_MAX, 5, &length));
    op->x = (uint32_t)length;
    return SPEY_OK;
}

static const step_type pretokenizers[] = {
    { "Split", SPEY_TOK_PRE_SPLIT, parse_split },
    { "ByteLevel", SPEY_TOK_PRE_BYTE_LEVEL, parse_byte_level },
    { "Metaspace", SPEY_TOK_PRE_METASPACE, parse_metaspace },
    { "Punctuation", SPEY_TOK_PRE_PUNCTUATION, parse_punctuation },
    { "Digits", SPEY_TOK_PRE_DIGITS, parse_digits },
    { "Whitespace", SPEY_TOK_PRE_WHITESPACE, NULL },
    { "WhitespaceSplit", SPEY_TOK_PRE_WHITESPACE_SPLIT, NULL },
    { "BertPreTokenizer", SPEY_TOK_PRE_BERT, NULL },
    { "CharDelimiterSplit", SPEY_TOK_PRE_SPLIT, parse_delimiter },
    { "FixedLength", SPEY_TOK_PRE_FIXED_LENGTH, parse_fixed_length },
    { NULL, 0, NULL },
};

/* ---- decoders ---- */

static spey_status parse_decoder_strip(step_reader *r, const json_t *object, spey_tok_op *op)
{
    int64_t start, stop;
    SPEY_TRY(spey_json_int(object, r->source->where, "start", 0, INT32_MAX, 0, &start));
    SPEY_TRY(spey_json_int(object, r->source->where, "stop", 0, INT32_MAX, 0, &stop));
    op->x = (uint32_t)start;
    op->y = (uint32_t)stop;
    return keep_char(r, object, "content", op);
}

static spey_status parse_wordpiece(step_reader *r, const json_t *object, spey_tok_op *op)
{
    SPEY_TRY(read_flag(r, object, "cleanup", true, 1, &op->x));
    return keep_text(r, object, "prefix", &op->a, &op->a_len);
}

static spey_status parse_bpe_decoder(step_reader *r, const json_t *object, spey_tok_op *op)
{
    return keep_text(r, object, "suffix", &op->a, &op->a_len);
}

static const step_type decoders[] = {
    { "ByteLevel", SPEY_TOK_DEC_BYTE_LEVEL, NULL },
    { "Metaspace", SPEY_TOK_DEC_METASPACE, parse_metaspace },
    { "ByteFallback", SPEY_TOK_DEC_BYTE_FALLBACK, NULL },
    { "Fuse", SPEY_TOK_DEC_FUSE, NULL },
    { "Strip", SPEY_TOK_DEC_STRIP, parse_decoder_strip },
    { "Replace", SPEY_TOK_DEC_REPLACE, parse_replace },
    { "WordPiece", SPEY_TOK_DEC_WORDPIECE, parse_wordpiece },
    { "BPEDecoder", SPEY_TOK_DEC_BPE, parse_bpe_decoder },
    { NULL, 0, NULL },
};

/* ---- one part ---- */

static spey_status parse_step(step_reader *r, const json_t *object, const step_type *types,
                              const char *list);

static spey_status parse_sequence(step_reader *r, const json_t *object, const step_type *types,
                                  const char *list)
{
    const json_t *items = json_object_get(object, list);
    if (!json_is_array(items))
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s: \"%s\" is missing or no array", r->source->where,
                         r->part, list);
    if (r->depth == STEPS_DEPTH_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: %s: too many nested sequences", r->source->where,
                         r->part);
    r->depth++;
    for (size_t i = 0; i < json_array_size(items); i++)
        SPEY_TRY(parse_step(r, json_array_get(items, i), types, list));
    r->depth--;
    return SPEY_OK;
}

static spey_status parse_step(step_reader *r, const json_t *object, const step_type *types,
                              const char *list)
{
    const char *name = json_string_value(json_object_get(object, "type"));
    if (!name)
        return SPEY_FAIL(SPEY_FORMAT, "%s: a %s without \"type\"", r->source->where, r->part);
    if (!strcmp(name, "Sequence")) return parse_sequence(r, object, types, list);
    for (const step_type *type = types; type->name; type++) {
        if (strcmp(name, type->name)) continue;
        spey_tok_op op = { .kind = type->kind };
        if (type->parse) SPEY_TRY(type->parse(r, object, &op));
        return spey_tok_source_op_put(r->source, op);
    }
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: %s \"%s\" is not supported", r->source->where, r->part,
                     name);
}

static spey_status parse_part(spey_tok_source *source, const json_t *root, const char *part,
                              const step_type *types, const char *list, uint32_t *count)
{
    size_t before = source->n_ops;
    const json_t *object = json_object_get(root, part);
    if (object && !json_is_null(object)) {
        step_reader r = { .source = source, .part = part };
        SPEY_TRY(parse_step(&r, object, types, list));
    }
    *count = (uint32_t)(source->n_ops - before);
    return SPEY_OK;
}

/* ---- post-processors ---- */

static spey_status put_token(spey_tok_source *source, int64_t id)
{
    return spey_tok_source_op_put(source,
                                  (spey_tok_op){ .kind = SPEY_TOK_POST_TOKEN, .x = (uint32_t)id });
}

static spey_status put_text(spey_tok_source *source)
{
    return spey_tok_source_op_put(source, (spey_tok_op){ .kind = SPEY_TOK_POST_TEXT });
}

static spey_status put_special(spey_tok_source *source, const json_t *tokens, const char *name)
{
    const json_t *ids = json_object_get(json_object_get(tokens, name), "ids");
    if (!json_is_array(ids))
        return SPEY_FAIL(SPEY_FORMAT, "%s: post_processor: no special token \"%s\"", source->where,
                         name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= SPEY_VOCAB_MAX)
            return SPEY_FAIL(SPEY_FORMAT, "%s: post_processor: bad id of \"%s\"", source->where,
                             name);
        SPEY_TRY(put_token(source, json_integer_value(id)));
    }
    return SPEY_OK;
}

static spey_status parse_template(spey_tok_source *source, const json_t *object)
{
    const json_t *single = json_object_get(object, "single");
    const json_t *tokens = json_object_get(object, "special_tokens");
    if (!json_is_array(single))
        return SPEY_FAIL(SPEY_FORMAT, "%s: TemplateProcessing: \"single\" is missing or no array",
                         source->where);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *name = json_string_value(
            json_object_get(sequence ? sequence : json_object_get(piece, "SpecialToken"), "id"));
        if (!name)
            return SPEY_FAIL(SPEY_FORMAT, "%s: TemplateProcessing: a piece of no known kind",
                             source->where);
        if (sequence && strcmp(name, "A"))
            return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: TemplateProcessing: sequence %s in \"single\"",
                             source->where, name);
        SPEY_TRY(sequence ? put_text(source) : put_special(source, tokens, name));
    }
    return SPEY_OK;
}

/* BertProcessing and RobertaProcessing: ["[SEP]", 102] around the text. */
static spey_status parse_cls_sep(spey_tok_source *source, const json_t *object)
{
    static const char *const keys[2] = { "cls", "sep" };
    for (int i = 0; i < 2; i++) {
        const json_t *id = json_array_get(json_object_get(object, keys[i]), 1);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= SPEY_VOCAB_MAX)
            return SPEY_FAIL(SPEY_FORMAT, "%s: post_processor: bad \"%s\"", source->where, keys[i]);
        if (i == 1) SPEY_TRY(put_text(source));
        SPEY_TRY(put_token(source, json_integer_value(id)));
    }
    return SPEY_OK;
}

static spey_status parse_post(spey_tok_source *source, const json_t *object, int depth)
{
    const char *name = json_string_value(json_object_get(object, "type"));
    if (!name)
        return SPEY_FAIL(SPEY_FORMAT, "%s: a post_processor without \"type\"", source->where);
    if (!strcmp(name, "ByteLevel")) return SPEY_OK; /* offsets only */
    if (!strcmp(name, "Sequence")) {
        const json_t *items = json_object_get(object, "processors");
        if (!json_is_array(items) || depth == STEPS_DEPTH_MAX)
            return SPEY_FAIL(SPEY_FORMAT,
                             "%s: post_processor: \"processors\" is missing or too deep",
                             source->where);
        for (size_t i = 0; i < json_array_size(items); i++)
            SPEY_TRY(parse_post(source, json_array_get(items, i), depth + 1));
        return SPEY_OK;
    }
    bool template = !strcmp(name, "TemplateProcessing");
    if (!template && strcmp(name, "BertProcessing") && strcmp(name, "RobertaProcessing"))
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: post_processor \"%s\" is not supported",
                         source->where, name);
    if (source->n_ops && source->ops[source->n_ops - 1].kind >= SPEY_TOK_POST_TOKEN)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: more than one post_processor that adds tokens",
                         source->where);
    return template ? parse_template(source, object) : parse_cls_sep(source, object);
}

spey_status spey_tok_json_steps(spey_tok_source *source, const json_t *root)
{
    spey_tok_meta *meta = &source->meta;
    SPEY_TRY(
        parse_part(source, root, "normalizer", normalizers, "normalizers", &meta->n_normalizers));
    SPEY_TRY(parse_part(source, root, "pre_tokenizer", pretokenizers, "pretokenizers",
                        &meta->n_pretokenizers));
    size_t before = source->n_ops;
    const json_t *post = json_object_get(root, "post_processor");
    if (post && !json_is_null(post)) SPEY_TRY(parse_post(source, post, 0));
    meta->n_post = (uint32_t)(source->n_ops - before);
    SPEY_TRY(parse_part(source, root, "decoder", decoders, "decoders", &meta->n_decoders));
    const json_t *decoder = json_object_get(root, "decoder");
    if (meta->n_decoders || (decoder && !json_is_null(decoder))) return SPEY_OK;
    meta->n_decoders = 1;
    return spey_tok_source_op_put(source, (spey_tok_op){ .kind = SPEY_TOK_DEC_JOIN });
}
