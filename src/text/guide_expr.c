#include "text/guide_expr.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

enum { CHAR_MAX_CODE = 0x10ffff };

static const spey_guide_expr nothing = { .kind = SPEY_GUIDE_ALT };
static const spey_guide_expr empty = { .kind = SPEY_GUIDE_LITERAL, .text = "" };

void spey_guide_builder_init(spey_guide_builder *b)
{
    *b = (spey_guide_builder){ 0 };
    spey_arena_init(&b->arena, SPEY_PURPOSE_TEXT);
}

void spey_guide_builder_deinit(spey_guide_builder *b)
{
    spey_free(b->rules);
    spey_arena_deinit(&b->arena);
    *b = (spey_guide_builder){ 0 };
}

const spey_guide_expr *spey_guide_fail(spey_guide_builder *b, spey_status status)
{
    if (!b->status) b->status = status;
    return &nothing;
}

static spey_guide_expr *new_expr(spey_guide_builder *b, spey_guide_expr_kind kind)
{
    if (b->status) return NULL;
    if (++b->n_exprs > SPEY_GUIDE_EXPRS_MAX) {
        spey_guide_fail(
            b, SPEY_FAIL(SPEY_LIMIT, "the guide has more than %d parts", SPEY_GUIDE_EXPRS_MAX));
        return NULL;
    }
    spey_guide_expr *e = spey_arena_alloc(&b->arena, sizeof *e);
    if (!e)
        spey_guide_fail(b, SPEY_NOMEM);
    else
        e->kind = kind;
    return e;
}

/* ---- lists ---- */

/* Room for one more of n items of item_bytes; false after a failure. */
static bool grow(spey_guide_builder *b, void **items, size_t n, size_t *cap, size_t item_bytes)
{
    if (b->status) return false;
    if (n < *cap) return true;
    size_t wanted = *cap ? 2 * *cap : 8;
    void *larger = spey_arena_array(&b->arena, wanted, item_bytes);
    if (!larger) {
        spey_guide_fail(b, SPEY_NOMEM);
        return false;
    }
    if (n) memcpy(larger, *items, n * item_bytes);
    *items = larger;
    *cap = wanted;
    return true;
}

void spey_guide_list_push(spey_guide_builder *b, spey_guide_list *list, const spey_guide_expr *expr)
{
    void *items = list->items;
    bool room = grow(b, &items, list->n, &list->cap, sizeof *list->items);
    list->items = items;
    if (room) list->items[list->n++] = expr;
}

static const spey_guide_expr *with_children(spey_guide_builder *b, spey_guide_expr_kind kind,
                                            spey_guide_list list)
{
    if (list.n == 1 && !b->status) return list.items[0];
    spey_guide_expr *e = new_expr(b, kind);
    if (!e) return &nothing;
    e->children = list.items;
    e->n = list.n;
    return e;
}

/* ---- expressions ---- */

const spey_guide_expr *spey_guide_empty(void)
{
    return &empty;
}

const spey_guide_expr *spey_guide_literal(spey_guide_builder *b, const char *text, size_t n)
{
    spey_guide_expr *e = new_expr(b, SPEY_GUIDE_LITERAL);
    if (!e) return &nothing;
    e->text = spey_arena_strndup(&b->arena, text, n);
    e->n = n;
    return e->text ? e : spey_guide_fail(b, SPEY_NOMEM);
}

const spey_guide_expr *spey_guide_text(spey_guide_builder *b, const char *text)
{
    return spey_guide_literal(b, text, strlen(text));
}

const spey_guide_expr *spey_guide_seq(spey_guide_builder *b, spey_guide_list list)
{
    return list.n ? with_children(b, SPEY_GUIDE_SEQ, list) : &empty;
}

const spey_guide_expr *spey_guide_alt(spey_guide_builder *b, spey_guide_list list)
{
    return with_children(b, SPEY_GUIDE_ALT, list);
}

static spey_guide_list pair(spey_guide_builder *b, const spey_guide_expr *first,
                            const spey_guide_expr *second)
{
    spey_guide_list list = { 0 };
    spey_guide_list_push(b, &list, first);
    spey_guide_list_push(b, &list, second);
    return list;
}

const spey_guide_expr *spey_guide_seq2(spey_guide_builder *b, const spey_guide_expr *first,
                                       const spey_guide_expr *second)
{
    return with_children(b, SPEY_GUIDE_SEQ, pair(b, first, second));
}

const spey_guide_expr *spey_guide_alt2(spey_guide_builder *b, const spey_guide_expr *first,
                                       const spey_guide_expr *second)
{
    return with_children(b, SPEY_GUIDE_ALT, pair(b, first, second));
}

static size_t class_size(const spey_guide_class *set)
{
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++)
        n += set->ranges[i].last - set->ranges[i].first + 1;
    return n;
}

static bool same_class(const spey_guide_class *a, const spey_guide_class *b)
{
    return a->n == b->n && !memcmp(a->ranges, b->ranges, a->n * sizeof *a->ranges);
}

static void note_class(spey_guide_classes *classes, const spey_guide_class *set)
{
    enum { LARGE = 24 };
    if (class_size(set) < LARGE) return;
    for (int32_t i = 0; i < classes->n; i++)
        if (same_class(classes->sets[i], set)) return;
    if (classes->n < SPEY_GUIDE_LARGE_MAX) classes->sets[classes->n++] = set;
}

/* Add the characters of which `e` may be one; it may be other things, too. */
static void add_chars(spey_guide_builder *b, const spey_guide_expr *e, spey_guide_class *out,
                      int depth)
{
    enum { DEPTH_MAX = 3, CHOICES_MAX = 3 };
    for (size_t i = 0; e->chars && i < e->chars->n; i++)
        spey_guide_class_add(b, out, e->chars->ranges[i].first, e->chars->ranges[i].last);
    if (e->chars || b->status || depth == DEPTH_MAX) return;
    if (e->kind == SPEY_GUIDE_RULE && b->rules[e->rule].body)
        add_chars(b, b->rules[e->rule].body, out, depth + 1);
    for (size_t i = 0; e->kind == SPEY_GUIDE_ALT && i < e->n && i < CHOICES_MAX; i++)
        add_chars(b, e->children[i], out, depth + 1);
}

static void note_repeated(spey_guide_builder *b, const spey_guide_expr *e)
{
    spey_guide_class all = { 0 };
    add_chars(b, e, &all, 0);
    if (b->status || all.n == 0) return;
    spey_guide_class_normalize(&all);
    spey_guide_class *set = spey_arena_alloc(&b->arena, sizeof *set);
    if (!set) {
        spey_guide_fail(b, SPEY_NOMEM);
        return;
    }
    *set = all;
    note_class(&b->repeated, set);
}

const spey_guide_expr *spey_guide_repeat(spey_guide_builder *b, const spey_guide_expr *child,
                                         int32_t min, int32_t max)
{
    if (min > SPEY_GUIDE_REPEAT_MAX || max > SPEY_GUIDE_REPEAT_MAX)
        return spey_guide_fail(b, SPEY_FAIL(SPEY_LIMIT, "a part repeats %d times, at most %d",
                                            max > min ? max : min, SPEY_GUIDE_REPEAT_MAX));
    spey_guide_list list = { 0 };
    spey_guide_list_push(b, &list, child);
    spey_guide_expr *e = new_expr(b, SPEY_GUIDE_REPEAT);
    if (!e) return &nothing;
    e->children = list.items;
    e->n = 1;
    e->min = min;
    e->max = max;
    note_repeated(b, child);
    return e;
}

const spey_guide_expr *spey_guide_optional(spey_guide_builder *b, const spey_guide_expr *child)
{
    return spey_guide_alt2(b, child, &empty);
}

/* ---- rules ---- */

int32_t spey_guide_rule_declare(spey_guide_builder *b, const char *name, size_t n)
{
    if (b->status) return -1;
    if (b->n_rules == SPEY_GUIDE_RULES_MAX) {
        spey_guide_fail(
            b, SPEY_FAIL(SPEY_LIMIT, "the guide has more than %d rules", SPEY_GUIDE_RULES_MAX));
        return -1;
    }
    if (b->n_rules == b->rules_cap) {
        int32_t cap = b->rules_cap ? 2 * b->rules_cap : 16;
        void *rules = spey_realloc(SPEY_PURPOSE_TEXT, b->rules, (size_t)cap * sizeof *b->rules);
        if (!rules) {
            spey_guide_fail(b, SPEY_NOMEM);
            return -1;
        }
        b->rules = rules;
        b->rules_cap = cap;
    }
    const char *copy = spey_arena_strndup(&b->arena, name, n);
    if (!copy) {
        spey_guide_fail(b, SPEY_NOMEM);
        return -1;
    }
    b->rules[b->n_rules] = (spey_guide_rule){ .name = copy };
    return b->n_rules++;
}

void spey_guide_rule_define(spey_guide_builder *b, int32_t rule, const spey_guide_expr *body)
{
    if (!b->status) b->rules[rule].body = body;
}

const spey_guide_expr *spey_guide_rule_ref(spey_guide_builder *b, int32_t rule)
{
    spey_guide_expr *e = new_expr(b, SPEY_GUIDE_RULE);
    if (!e) return &nothing;
    e->rule = rule;
    return e;
}

/* ---- characters ---- */

void spey_guide_class_add(spey_guide_builder *b, spey_guide_class *set, uint32_t first,
                          uint32_t last)
{
    void *ranges = set->ranges;
    bool room = grow(b, &ranges, set->n, &set->cap, sizeof *set->ranges);
    set->ranges = ranges;
    if (room) set->ranges[set->n++] = (spey_guide_range){ first, last };
}

static int compare_ranges(const void *a, const void *b)
{
    const spey_guide_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

void spey_guide_class_normalize(spey_guide_class *set)
{
    if (set->n) qsort(set->ranges, set->n, sizeof *set->ranges, compare_ranges);
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++) {
        spey_guide_range r = set->ranges[i];
        if (n && r.first <= set->ranges[n - 1].last + 1) {
            if (r.last > set->ranges[n - 1].last) set->ranges[n - 1].last = r.last;
        } else {
            set->ranges[n++] = r;
        }
    }
    set->n = n;
}

spey_guide_class spey_guide_class_invert(spey_guide_builder *b, spey_guide_class *set)
{
    spey_guide_class out = { 0 };
    uint32_t next = 0;
    spey_guide_class_normalize(set);
    for (size_t i = 0; i < set->n; i++) {
        if (set->ranges[i].first > next)
            spey_guide_class_add(b, &out, next, set->ranges[i].first - 1);
        next = set->ranges[i].last + 1;
    }
    if (next <= CHAR_MAX_CODE) spey_guide_class_add(b, &out, next, CHAR_MAX_CODE);
    return out;
}

spey_guide_class spey_guide_class_intersect(spey_guide_builder *b, spey_guide_class *a,
                                            spey_guide_class *c)
{
    spey_guide_class out = { 0 };
    spey_guide_class_normalize(a);
    spey_guide_class_normalize(c);
    for (size_t i = 0, k = 0; i < a->n && k < c->n;) {
        spey_guide_range x = a->ranges[i], y = c->ranges[k];
        uint32_t first = x.first > y.first ? x.first : y.first;
        uint32_t last = x.last < y.last ? x.last : y.last;
        if (first <= last) spey_guide_class_add(b, &out, first, last);
        if (x.last < y.last)
            i++;
        else
            k++;
    }
    return out;
}

bool spey_guide_class_has(const spey_guide_class *set, uint32_t c)
{
    for (size_t i = 0; i < set->n; i++)
        if (c >= set->ranges[i].first && c <= set->ranges[i].last) return true;
    return false;
}

static const spey_guide_expr *byte_range(spey_guide_builder *b, unsigned first, unsigned last)
{
    spey_guide_expr *e = new_expr(b, SPEY_GUIDE_BYTES);
    if (!e) return &nothing;
    for (unsigned c = first; c <= last; c++)
        e->set[c >> 6] |= (uint64_t)1 << (c & 63);
    return e;
}

static int encode(uint32_t c, unsigned char out[4])
{
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3f));
    static const unsigned char lead[5] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    out[0] = (unsigned char)(lead[n] | c);
    return n;
}

/* Characters first … last, all of one length in bytes: split until each byte has a range of its own, as in "Regular Expression
 * Matching in the Wild" (Cox, 2010). */
static void split_same_length(spey_guide_range r, int n, spey_guide_bytes_fn each, void *user)
{
    for (int i = 1; i < n; i++) {
        uint32_t low = ((uint32_t)1 << 6 * i) - 1; /* the last i bytes */
        if ((r.first & ~low) == (r.last & ~low)) break;
        uint32_t cut = r.first & low           ? r.first | low
                       : (r.last & low) != low ? (r.last & ~low) - 1
                                               : 0;
        if (!cut) continue;
        split_same_length((spey_guide_range){ r.first, cut }, n, each, user);
        split_same_length((spey_guide_range){ cut + 1, r.last }, n, each, user);
        return;
    }
    spey_guide_bytes bytes = { .n = n };
    encode(r.first, bytes.from);
    encode(r.last, bytes.to);
    each(user, &bytes);
}

void spey_guide_class_split(const spey_guide_class *set, spey_guide_bytes_fn each, void *user)
{
    static const spey_guide_range lengths[] = { { 0, 0x7f },
                                                { 0x80, 0x7ff },
                                                { 0x800, 0xd7ff },
                                                { 0xe000, 0xffff },
                                                { 0x10000, CHAR_MAX_CODE } };
    static const int n_bytes[] = { 1, 2, 3, 3, 4 };
    for (size_t i = 0; i < set->n; i++)
        for (size_t k = 0; k < sizeof n_bytes / sizeof *n_bytes; k++) {
            spey_guide_range r = set->ranges[i];
            if (r.first < lengths[k].first) r.first = lengths[k].first;
            if (r.last > lengths[k].last) r.last = lengths[k].last;
            if (r.first <= r.last) split_same_length(r, n_bytes[k], each, user);
        }
}

typedef struct class_writer {
    spey_guide_builder *b;
    spey_guide_list list;
    uint64_t ascii[4];
} class_writer;

static void write_part(void *user, const spey_guide_bytes *bytes)
{
    class_writer *w = user;
    if (bytes->n == 1) {
        for (unsigned c = bytes->from[0]; c <= bytes->to[0]; c++)
            w->ascii[c >> 6] |= (uint64_t)1 << (c & 63);
        return;
    }
    spey_guide_list parts = { 0 };
    for (int i = 0; i < bytes->n; i++)
        spey_guide_list_push(w->b, &parts, byte_range(w->b, bytes->from[i], bytes->to[i]));
    spey_guide_list_push(w->b, &w->list, spey_guide_seq(w->b, parts));
}

const spey_guide_expr *spey_guide_class_expr(spey_guide_builder *b, spey_guide_class *set)
{
    class_writer w = { .b = b };
    spey_guide_class_normalize(set);
    spey_guide_class_split(set, write_part, &w);
    spey_guide_expr *ascii = new_expr(b, SPEY_GUIDE_BYTES);
    spey_guide_class *chars = b->status ? NULL : spey_arena_alloc(&b->arena, sizeof *chars);
    if (!ascii) return &nothing;
    if (!chars) return spey_guide_fail(b, SPEY_NOMEM);
    *chars = *set;
    memcpy(ascii->set, w.ascii, sizeof w.ascii);
    if (w.ascii[0] || w.ascii[1]) spey_guide_list_push(b, &w.list, ascii);
    spey_guide_expr *e = new_expr(b, SPEY_GUIDE_ALT);
    if (!e) return &nothing;
    *e = w.list.n == 1 ? *w.list.items[0] : *e;
    if (w.list.n != 1) {
        e->children = w.list.items;
        e->n = w.list.n;
    }
    e->chars = chars;
    note_class(&b->large, chars);
    return e;
}
