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
static void add_same_length(spey_guide_builder *b, spey_guide_list *list, uint32_t first,
                            uint32_t last, int n)
{
    for (int i = 1; i < n; i++) {
        uint32_t low = ((uint32_t)1 << 6 * i) - 1; /* the last i bytes */
        if ((first & ~low) == (last & ~low)) break;
        if (first & low) {
            add_same_length(b, list, first, first | low, n);
            add_same_length(b, list, (first | low) + 1, last, n);
            return;
        }
        if ((last & low) != low) {
            add_same_length(b, list, first, (last & ~low) - 1, n);
            add_same_length(b, list, last & ~low, last, n);
            return;
        }
    }
    unsigned char from[4] = { 0 }, to[4] = { 0 };
    encode(first, from);
    encode(last, to);
    spey_guide_list bytes = { 0 };
    for (int i = 0; i < n; i++)
        spey_guide_list_push(b, &bytes, byte_range(b, from[i], to[i]));
    spey_guide_list_push(b, list, spey_guide_seq(b, bytes));
}

const spey_guide_expr *spey_guide_class_expr(spey_guide_builder *b, spey_guide_class *set)
{
    static const spey_guide_range lengths[] = {
        { 0x80, 0x7ff }, { 0x800, 0xd7ff }, { 0xe000, 0xffff }, { 0x10000, CHAR_MAX_CODE }
    };
    static const int n_bytes[] = { 2, 3, 3, 4 };
    spey_guide_class_normalize(set);
    spey_guide_list list = { 0 };
    spey_guide_expr *ascii = new_expr(b, SPEY_GUIDE_BYTES);
    if (!ascii) return &nothing;
    bool any = false;
    for (uint32_t c = 0; c < 0x80; c++) {
        if (!spey_guide_class_has(set, c)) continue;
        ascii->set[c >> 6] |= (uint64_t)1 << (c & 63);
        any = true;
    }
    if (any) spey_guide_list_push(b, &list, ascii);
    for (size_t i = 0; i < set->n; i++)
        for (int k = 0; k < 4; k++) {
            spey_guide_range r = set->ranges[i];
            if (r.first < lengths[k].first) r.first = lengths[k].first;
            if (r.last > lengths[k].last) r.last = lengths[k].last;
            if (r.first <= r.last) add_same_length(b, &list, r.first, r.last, n_bytes[k]);
        }
    return spey_guide_alt(b, list);
}
