/* Guides behind a pipe, for tests/text/test_guide.py, and their cost, for bench/guide.py.
 *
 *     guide_main match < requests > replies
 *         {"format": "regex" | "grammar" | "schema", "guide": TEXT, "texts": [TEXT, …], "walks": N, "seed": N}
 *         {"matches": [BOOL, …], "walks": [TEXT, …], "ns": compiling} or {"error": TEXT, "ns": compiling}
 *       A walk takes bytes at random, each among those that the guide allows, until the text may end.
 *     guide_main bench VOCABULARY < requests > replies
 *         {"format": …, "guide": …, "texts": [TEXT, …], "walks": N, "seed": N}
 *         {"ns": compiling, "cold_ns": [per token, …], "warm_ns": […], "apply_ns": […], "masks": hash of all} or {"error": …}
 *       VOCABULARY: for each id a uint32 length and the bytes; the last is the end. A text is cut into the longest tokens; a walk takes allowed
 *       ones at random. Each is taken twice with a matcher of its own, cold and again, and that three times: other programs
 *       take the processor away, so the least time of each token counts. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/rng.h"
#include "text/guide.h"

enum { LINE_BYTES = 4 << 20, WALK_BYTES = 4000 };

static spey_guide_format format_of(const char *name)
{
    if (name && !strcmp(name, "regex")) return SPEY_GUIDE_REGEX;
    return name && !strcmp(name, "grammar") ? SPEY_GUIDE_GRAMMAR : SPEY_GUIDE_JSON_SCHEMA;
}

static void print(json_t *reply)
{
    spey_strbuf out = { 0 };
    if (!spey_json_write(reply, JSON_COMPACT, &out)) puts(out.data);
    fflush(stdout);
    spey_strbuf_deinit(&out);
    json_decref(reply);
}

static void print_error(uint64_t ns)
{
    print(json_pack("{s:s, s:I}", "error", spey_last_error(), "ns", (json_int_t)ns));
}

static spey_status byte_vocab(spey_guide_vocab **out)
{
    static char bytes[257];
    const char *each[257];
    uint32_t lengths[257];
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        each[i] = bytes + i;
        lengths[i] = 1;
    }
    each[256] = NULL; /* the end */
    lengths[256] = 0;
    return spey_guide_vocab_from_bytes(each, lengths, 257, out);
}

/* One random text. Ends as soon as it may with probability 1/4, and takes quotes and brackets more often than others, so that it
 * comes to an end. */
static spey_status walk(spey_guide_matcher *m, spey_rng *rng, spey_strbuf *out)
{
    spey_guide_state state = spey_guide_matcher_start(m);
    spey_status status = SPEY_OK;
    while (!status && out->len < WALK_BYTES) {
        const uint64_t *mask;
        status = spey_guide_matcher_mask(m, state, &mask);
        if (status) break;
        int32_t allowed[512], n = 0;
        for (int32_t i = 0; i < 256; i++)
            if (mask[i >> 6] >> (i & 63) & 1) {
                allowed[n++] = i;
                if (strchr("\"]},0", i) && i) allowed[n++] = i;
            }
        bool can_end = mask[4] & 1;
        if (can_end && (n == 0 || spey_rng_below(rng, 4) == 0)) break;
        if (n == 0) {
            status = SPEY_FAIL(SPEY_INTERNAL, "a state allows nothing");
            break;
        }
        bool close = mask['"' >> 6] >> ('"' & 63) & 1 && spey_rng_below(rng, 8) == 0;
        int32_t byte = close ? '"' : allowed[spey_rng_below(rng, (uint64_t)n)];
        spey_strbuf_putc(out, (char)byte);
        status = spey_guide_matcher_advance(m, &state, byte);
    }
    spey_guide_matcher_drop(m, state);
    return status;
}

static bool matches(spey_guide_matcher *m, const char *text, size_t n)
{
    spey_guide_state state = spey_guide_matcher_start(m);
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = spey_guide_matcher_advance(m, &state, (unsigned char)text[i]);
    bool yes = !status && spey_guide_matcher_can_end(m, state);
    spey_guide_matcher_drop(m, state);
    return yes;
}

static spey_status use(const spey_guide *guide, const json_t *request, json_t *answers,
                       json_t *list)
{
    int64_t n, seed;
    const json_t *texts = json_object_get(request, "texts");
    SPEY_TRY(spey_json_int(request, "request", "walks", 0, 100000, 0, &n));
    SPEY_TRY(spey_json_int(request, "request", "seed", 0, INT32_MAX, 1, &seed));
    spey_guide_vocab *vocab;
    spey_guide_matcher *m = NULL;
    const int32_t eos = 256;
    spey_rng rng = { .seed = (uint64_t)seed };
    SPEY_TRY(byte_vocab(&vocab));
    spey_status status = spey_guide_matcher_new(guide, vocab, &eos, 1, &m);
    for (size_t i = 0; i < json_array_size(texts) && !status; i++) {
        const json_t *one = json_array_get(texts, i);
        bool yes = matches(m, json_string_value(one), json_string_length(one));
        json_array_append_new(answers, json_boolean(yes));
    }
    for (int64_t i = 0; i < n && !status; i++) {
        spey_strbuf text = { 0 };
        status = walk(m, &rng, &text);
        if (!status && text.len < WALK_BYTES)
            json_array_append_new(list, json_stringn(text.data ? text.data : "", text.len));
        spey_strbuf_deinit(&text);
    }
    spey_guide_matcher_free(m);
    spey_guide_vocab_free(vocab);
    return status;
}

static void answer_match(const json_t *request)
{
    const json_t *text = json_object_get(request, "guide");
    spey_guide *guide;
    uint64_t start = spey_clock_ns();
    spey_status status =
        spey_guide_compile(format_of(json_string_value(json_object_get(request, "format"))),
                           json_string_value(text), json_string_length(text), &guide);
    uint64_t ns = spey_clock_ns() - start;
    json_t *answers = json_array(), *walks = json_array();
    if (!status) status = use(guide, request, answers, walks);
    if (status)
        print_error(ns);
    else
        print(
            json_pack("{s:O, s:O, s:I}", "matches", answers, "walks", walks, "ns", (json_int_t)ns));
    json_decref(answers);
    json_decref(walks);
    spey_guide_free(guide);
}

/* ---- cost ---- */

static spey_status read_vocab(const char *path, spey_guide_vocab **out)
{
    spey_file_map file;
    SPEY_TRY(spey_file_map_open(path, &file));
    const char *p = (const char *)file.data, *end = p + file.size;
    int32_t n = 0, cap = 1 << 20;
    const char **bytes = spey_new_array(SPEY_PURPOSE_TEXT, const char *, cap);
    uint32_t *lengths = spey_new_array(SPEY_PURPOSE_TEXT, uint32_t, cap);
    spey_status status = bytes && lengths ? SPEY_OK : SPEY_NOMEM;
    for (; !status && end - p >= 4 && n < cap; n++) {
        memcpy(&lengths[n], p, 4);
        if (lengths[n] > (size_t)(end - p - 4)) status = SPEY_FAIL(SPEY_FORMAT, "vocabulary");
        bytes[n] = p + 4;
        p += 4 + lengths[n];
    }
    if (!status) status = spey_guide_vocab_from_bytes(bytes, lengths, n, out);
    spey_free(bytes);
    spey_free(lengths);
    spey_file_map_close(&file);
    return status;
}

/* The longest token that `text` begins with; -1: none. */
static int32_t longest(const spey_guide_vocab *v, const char *text, size_t n)
{
    int32_t best = -1, i = 1;
    while (i < v->n_nodes) {
        const spey_guide_vocab_node *node = &v->nodes[i];
        bool same = node->depth <= n && node->byte == (uint8_t)text[node->depth - 1];
        if (!same) {
            i = node->end;
            continue;
        }
        if (node->n_own) best = v->ids[node->first];
        i++;
        if (i < v->n_nodes && v->nodes[i].depth <= node->depth) break;
    }
    return best;
}

enum { WALK_TOKENS = 60 };

typedef struct bench {
    const spey_guide_vocab *vocab;
    float *logits;
    json_t *cold_ns, *warm_ns, *apply_ns;
    uint64_t hash;
} bench;

static int32_t draw_token(const spey_guide_vocab *v, const uint64_t *mask, spey_rng *rng)
{
    uint64_t n = 0;
    for (int32_t id = 0; id < v->vocab_size; id++)
        n += v->bytes[id] && mask[id >> 6] >> (id & 63) & 1;
    if (n == 0) return -1;
    uint64_t nth = spey_rng_below(rng, n);
    for (int32_t id = 0;; id++)
        if (v->bytes[id] && mask[id >> 6] >> (id & 63) & 1 && nth-- == 0) return id;
}

/* Along a text, or NULL: at random. */
static spey_status time_one(bench *b, spey_guide_matcher *m, const json_t *text, spey_rng rng,
                            json_t *mask_ns)
{
    const spey_guide_vocab *v = b->vocab;
    const char *p = text ? json_string_value(text) : NULL, *end = p + json_string_length(text);
    spey_guide_state state = spey_guide_matcher_start(m);
    spey_status status = SPEY_OK;
    for (int i = 0; (text ? p < end : i < WALK_TOKENS) && !status; i++) {
        const uint64_t *mask;
        uint64_t start = spey_clock_ns();
        status = spey_guide_matcher_mask(m, state, &mask);
        uint64_t middle = spey_clock_ns();
        if (status) break;
        status = spey_guide_matcher_apply(m, state, b->logits);
        json_array_append_new(b->apply_ns, json_integer((json_int_t)(spey_clock_ns() - middle)));
        json_array_append_new(mask_ns, json_integer((json_int_t)(middle - start)));
        b->hash = spey_hash_bytes(mask, ((size_t)v->vocab_size + 63) / 64 * 8, b->hash);
        int32_t token = text ? longest(v, p, (size_t)(end - p)) : draw_token(v, mask, &rng);
        if (token < 0) break;
        status = spey_guide_matcher_advance(m, &state, token);
        if (text) p += v->lengths[token];
    }
    spey_guide_matcher_drop(m, state);
    return status;
}

/* Append the list to `to`, or when it was taken before, keep the lesser of each. */
static void keep_least(json_t *to, size_t at, json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *ns = json_array_get(list, i);
        if (at + i == json_array_size(to))
            json_array_append(to, ns);
        else if (json_integer_value(ns) < json_integer_value(json_array_get(to, at + i)))
            json_array_set(to, at + i, ns);
    }
    json_array_clear(list);
}

static spey_status time_walk(bench *b, const spey_guide *guide, const json_t *text, spey_rng rng)
{
    const int32_t eos = b->vocab->vocab_size - 1;
    size_t at_cold = json_array_size(b->cold_ns), at_warm = json_array_size(b->warm_ns);
    json_t *ns = json_array();
    spey_status status = SPEY_OK;
    for (int round = 0; round < 3 && !status; round++) {
        spey_guide_matcher *m;
        status = spey_guide_matcher_new(guide, b->vocab, &eos, 1, &m);
        if (!status) status = time_one(b, m, text, rng, ns);
        keep_least(b->cold_ns, at_cold, ns);
        if (!status) status = time_one(b, m, text, rng, ns);
        keep_least(b->warm_ns, at_warm, ns);
        spey_guide_matcher_free(m);
    }
    json_decref(ns);
    return status;
}

static spey_status time_all(bench *b, const spey_guide *guide, const json_t *request)
{
    int64_t n, seed;
    const json_t *texts = json_object_get(request, "texts");
    SPEY_TRY(spey_json_int(request, "request", "walks", 0, 100000, 0, &n));
    SPEY_TRY(spey_json_int(request, "request", "seed", 0, INT32_MAX, 1, &seed));
    spey_rng rng = { .seed = (uint64_t)seed };
    for (size_t i = 0; i < json_array_size(texts); i++)
        SPEY_TRY(time_walk(b, guide, json_array_get(texts, i), rng));
    for (int64_t i = 0; i < n; i++, rng.seed++)
        SPEY_TRY(time_walk(b, guide, NULL, rng));
    return SPEY_OK;
}

static void answer_bench(const json_t *request, const spey_guide_vocab *vocab, float *logits)
{
    const json_t *text = json_object_get(request, "guide");
    spey_guide *guide;
    uint64_t start = spey_clock_ns();
    spey_status status =
        spey_guide_compile(format_of(json_string_value(json_object_get(request, "format"))),
                           json_string_value(text), json_string_length(text), &guide);
    uint64_t ns = spey_clock_ns() - start;
    bench b = { .vocab = vocab,
                .logits = logits,
                .cold_ns = json_array(),
                .warm_ns = json_array(),
                .apply_ns = json_array() };
    if (!status) status = time_all(&b, guide, request);
    if (status)
        print_error(ns);
    else
        print(json_pack("{s:I, s:O, s:O, s:O, s:I}", "ns", (json_int_t)ns, "cold_ns", b.cold_ns,
                        "warm_ns", b.warm_ns, "apply_ns", b.apply_ns, "masks",
                        (json_int_t)(b.hash >> 1)));
    json_decref(b.cold_ns);
    json_decref(b.warm_ns);
    json_decref(b.apply_ns);
    spey_guide_free(guide);
}

int main(int argc, char **argv)
{
    static char line[LINE_BYTES];
    spey_guide_vocab *vocab = NULL;
    float *logits = NULL;
    spey_log_set_level(SPEY_LOG_QUIET);
    if (argc == 3 && !strcmp(argv[1], "bench")) {
        if (read_vocab(argv[2], &vocab)) {
            fprintf(stderr, "guide_main: %s\n", spey_last_error());
            return 1;
        }
        logits = spey_new_array(SPEY_PURPOSE_TEXT, float, vocab->vocab_size);
    } else if (argc != 2 || strcmp(argv[1], "match") != 0) {
        fprintf(stderr, "usage: guide_main match | bench VOCABULARY\n");
        return 2;
    }
    while (fgets(line, sizeof line, stdin)) {
        json_t *request;
        if (spey_json_parse("request", line, strlen(line), &request)) {
            fprintf(stderr, "guide_main: %s\n", spey_last_error());
            return 1;
        }
        if (vocab)
            answer_bench(request, vocab, logits);
        else
            answer_match(request);
        json_decref(request);
    }
    spey_free(logits);
    spey_guide_vocab_free(vocab);
    return 0;
}
