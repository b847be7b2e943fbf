/* Filters on sequences and mappings. */
#include <string.h>

#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

#define FILTER(name)                                                         \
    static spey_status filter_##name(jinja_render *render, jinja_value self, \
                                     const jinja_args *args, jinja_value *out)

static bool given(jinja_value v)
{
    return v.kind != JINJA_MISSING && v.kind != JINJA_NONE;
}

static bool flag(jinja_value v)
{
    return v.kind != JINJA_MISSING && spey_jinja_truth(v);
}

static jinja_value generator(jinja_list *list)
{
    list->next = 0;
    return spey_jinja_of_list(JINJA_GENERATOR, list);
}

/* A list of its own with the same items, which may then be reordered. */
static spey_status copy_items(jinja_render *render, jinja_value v, jinja_list **out)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_iterate(render, v, &list));
    SPEY_TRY(spey_jinja_list_new(render, list->n, out));
    for (size_t i = 0; i < list->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, *out, list->items[i]));
    return SPEY_OK;
}

/* ---- attributes by path ---- */

/* One part of "a.b.0": digits are an index. */
static jinja_value path_part(const char *text, size_t len)
{
    int64_t index = 0;
    bool digits = len > 0 && len < 10;
    for (size_t i = 0; i < len && digits; i++) {
        digits = text[i] >= '0' && text[i] <= '9';
        index = index * 10 + (text[i] - '0');
    }
    return digits ? spey_jinja_int(index) : spey_jinja_text(text, len);
}

/* item.path, `missing` (if given) in place of what is undefined. MISSING path: the item itself. */
static spey_status follow(jinja_render *render, jinja_value item, jinja_value path,
                          jinja_value missing, jinja_value *out)
{
    *out = item;
    if (!given(path)) return SPEY_OK;
    if (path.kind != JINJA_STRING) {
        SPEY_TRY(spey_jinja_item(render, item, path, out));
    } else {
        for (size_t i = 0; i <= path.len;) {
            const char *dot = memchr(path.text + i, '.', path.len - i);
            size_t len = dot ? (size_t)(dot - path.text) - i : path.len - i;
            SPEY_TRY(spey_jinja_item(render, *out, path_part(path.text + i, len), out));
            if (out->kind == JINJA_UNDEFINED && missing.kind != JINJA_MISSING) *out = missing;
            i += len + 1;
        }
    }
    if (out->kind == JINJA_UNDEFINED && missing.kind != JINJA_MISSING) *out = missing;
    return SPEY_OK;
}

/* What Jinja compares when case does not matter. */
static spey_status fold(jinja_render *render, bool case_sensitive, jinja_value v, jinja_value *out)
{
    *out = v;
    if (case_sensitive || v.kind != JINJA_STRING) return SPEY_OK;
    return spey_jinja_str_case(render, v, JINJA_LOWER, out);
}

/* ---- one item or number ---- */

FILTER(length)
{
    (void)args;
    bool has;
    size_t n;
    SPEY_TRY(spey_jinja_length(render, self, &has, &n));
    if (!has)
        return SPEY_FAIL(SPEY_INVALID, "object of type '%s' has no len()", spey_jinja_type(self));
    *out = spey_jinja_int((int64_t)n);
    return SPEY_OK;
}

static jinja_value no_item(const char *message)
{
    return spey_jinja_undefined(JINJA_WHY_TEXT, JINJA_NONE, message, strlen(message));
}

FILTER(first)
{
    (void)args;
    jinja_list *list;
    *out = no_item("No first item, sequence was empty.");
    if (self.kind == JINJA_GENERATOR) {
        if (self.list->next < self.list->n) *out = self.list->items[self.list->next++];
        return SPEY_OK;
    }
    if (self.kind == JINJA_STRING) self.len = spey_jinja_utf8_offset(self.text, self.len, 1);
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    if (list->n) *out = list->items[0];
    return SPEY_OK;
}

FILTER(last)
{
    (void)args;
    jinja_list *list;
    if (self.kind == JINJA_GENERATOR)
        return SPEY_FAIL(SPEY_INVALID, "'generator' object is not reversible");
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    *out = list->n ? list->items[list->n - 1] : no_item("No last item, sequence was empty.");
    return SPEY_OK;
}

FILTER(default)
{
    (void)render;
    bool use = self.kind == JINJA_UNDEFINED || (flag(args->items[1]) && !spey_jinja_truth(self));
    *out = !use                                   ? self
           : args->items[0].kind == JINJA_MISSING ? spey_jinja_literal("")
                                                  : args->items[0];
    return SPEY_OK;
}

FILTER(attr)
{
    jinja_value name;
    SPEY_TRY(spey_jinja_to_str(render, args->items[0], &name));
    SPEY_TRY(spey_jinja_attribute(render, self, name.text, name.len, out));
    if (self.kind == JINJA_DICT && out->kind != JINJA_METHOD) /* attributes only, no items */
        *out = spey_jinja_undefined(JINJA_WHY_ATTRIBUTE, self.kind, name.text, name.len);
    return SPEY_OK;
}

FILTER(join)
{
    jinja_list *list;
    jinja_value separator = spey_jinja_literal("");
    if (args->items[0].kind != JINJA_MISSING)
        SPEY_TRY(spey_jinja_to_str(render, args->items[0], &separator));
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    spey_strbuf buf = spey_jinja_buffer();
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < list->n && !status; i++) {
        jinja_value item;
        if (i) spey_strbuf_append(&buf, separator.text, separator.len);
        status = follow(render, list->items[i], args->items[1],
                        (jinja_value){ .kind = JINJA_MISSING }, &item);
        if (!status) status = spey_jinja_put_str(render, item, &buf);
    }
    return spey_jinja_take_text(render, status, &buf, out);
}

FILTER(sum)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    *out = args->items[1].kind == JINJA_MISSING ? spey_jinja_int(0) : args->items[1];
    for (size_t i = 0; i < list->n; i++) {
        jinja_value item;
        SPEY_TRY(follow(render, list->items[i], args->items[0],
                        (jinja_value){ .kind = JINJA_MISSING }, &item));
        SPEY_TRY(spey_jinja_binary(render, JINJA_OP_ADD, *out, item, out));
    }
    return SPEY_OK;
}

static spey_status extreme(jinja_render *render, jinja_value self, const jinja_args *args,
                           int wanted, jinja_value *out)
{
    jinja_list *list;
    jinja_value best = { .kind = JINJA_MISSING }, missing = best;
    *out = no_item("No aggregated item, sequence was empty.");
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    for (size_t i = 0; i < list->n; i++) {
        jinja_value key;
        int order = wanted;
        SPEY_TRY(follow(render, list->items[i], args->items[1], missing, &key));
        SPEY_TRY(fold(render, flag(args->items[0]), key, &key));
        if (i) SPEY_TRY(spey_jinja_order(render, wanted < 0 ? "<" : ">", key, best, &order));
        if (order != wanted) continue;
        best = key;
        *out = list->items[i];
    }
    return SPEY_OK;
}

FILTER(min)
{
    return extreme(render, self, args, -1, out);
}

FILTER(max)
{
    return extreme(render, self, args, 1, out);
}

/* ---- whole sequences ---- */

FILTER(list)
{
    (void)args;
    jinja_list *list;
    SPEY_TRY(copy_items(render, self, &list));
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

FILTER(reverse)
{
    (void)args;
    jinja_list *list, *reversed;
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    SPEY_TRY(spey_jinja_list_new(render, list->n, &reversed));
    for (size_t i = list->n; i-- > 0;)
        SPEY_TRY(spey_jinja_list_push(render, reversed, list->items[i]));
    if (self.kind == JINJA_STRING) {
        spey_strbuf buf = spey_jinja_buffer();
        for (size_t i = 0; i < reversed->n; i++)
            spey_strbuf_append(&buf, reversed->items[i].text, reversed->items[i].len);
        return spey_jinja_take_text(render, SPEY_OK, &buf, out);
    }
    *out = self.kind == JINJA_GENERATOR ? spey_jinja_of_list(JINJA_LIST, reversed)
                                        : generator(reversed);
    return SPEY_OK;
}

/* Reorder `items` by `keys`, stably. `keys` and `items` have `n` entries, `scratch` twice as many. */
static spey_status merge_sort(jinja_render *render, jinja_value *keys, jinja_value *items, size_t n,
                              bool descending, jinja_value *scratch)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t middle = begin + width < n ? begin + width : n;
            size_t end = middle + width < n ? middle + width : n;
            for (size_t i = begin, j = middle, k = begin; k < end; k++) {
                bool right = i == middle;
                if (!right && j < end) {
                    int order;
                    SPEY_TRY(spey_jinja_work(render, 1));
                    SPEY_TRY(spey_jinja_order(render, "<", keys[j], keys[i], &order));
                    if (descending)
                        SPEY_TRY(spey_jinja_order(render, "<", keys[i], keys[j], &order));
                    right = order == -1;
                }
                size_t from = right ? j++ : i++;
                scratch[k] = keys[from];
                scratch[n + k] = items[from];
            }
        }
        memcpy(keys, scratch, n * sizeof *keys);
        memcpy(items, scratch + n, n * sizeof *items);
    }
    return SPEY_OK;
}

/* The values at the paths in `path`, which have commas between them; Python compares them as a list. */
static spey_status sort_key(jinja_render *render, jinja_value item, jinja_value path,
                            bool case_sensitive, jinja_value *out)
{
    jinja_value missing = { .kind = JINJA_MISSING }, part;
    jinja_list *parts;
    SPEY_TRY(spey_jinja_list_new(render, 1, &parts));
    *out = spey_jinja_of_list(JINJA_LIST, parts);
    if (path.kind != JINJA_STRING) {
        SPEY_TRY(follow(render, item, path, missing, &part));
        SPEY_TRY(fold(render, case_sensitive, part, &part));
        return spey_jinja_list_push(render, parts, part);
    }
    for (size_t i = 0; i <= path.len;) {
        const char *comma = memchr(path.text + i, ',', path.len - i);
        size_t len = comma ? (size_t)(comma - path.text) - i : path.len - i;
        SPEY_TRY(follow(render, item, spey_jinja_text(path.text + i, len), missing, &part));
        SPEY_TRY(fold(render, case_sensitive, part, &part));
        SPEY_TRY(spey_jinja_list_push(render, parts, part));
        i += len + 1;
    }
    return SPEY_OK;
}

static spey_status sort_items(jinja_render *render, jinja_list *list, jinja_value path,
                              bool case_sensitive, bool descending)
{
    jinja_value *keys = spey_jinja_alloc(render, list->n, sizeof *keys);
    jinja_value *scratch = spey_jinja_alloc(render, list->n, 2 * sizeof *scratch);
    if (!keys || !scratch) return spey_jinja_no_memory(render);
    for (size_t i = 0; i < list->n; i++)
        SPEY_TRY(sort_key(render, list->items[i], path, case_sensitive, &keys[i]));
    return merge_sort(render, keys, list->items, list->n, descending, scratch);
}

FILTER(sort)
{
    jinja_list *list;
    SPEY_TRY(copy_items(render, self, &list));
    SPEY_TRY(sort_items(render, list, args->items[2], flag(args->items[1]), flag(args->items[0])));
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

FILTER(unique)
{
    jinja_list *list, *keys, *kept;
    jinja_value missing = { .kind = JINJA_MISSING };
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    SPEY_TRY(spey_jinja_list_new(render, 0, &keys));
    SPEY_TRY(spey_jinja_list_new(render, 0, &kept));
    for (size_t i = 0; i < list->n; i++) {
        jinja_value key;
        bool seen;
        SPEY_TRY(follow(render, list->items[i], args->items[1], missing, &key));
        SPEY_TRY(fold(render, flag(args->items[0]), key, &key));
        SPEY_TRY(spey_jinja_contains(render, key, spey_jinja_of_list(JINJA_LIST, keys), &seen));
        if (seen) continue;
        SPEY_TRY(spey_jinja_list_push(render, keys, key));
        SPEY_TRY(spey_jinja_list_push(render, kept, list->items[i]));
    }
    *out = generator(kept);
    return SPEY_OK;
}

FILTER(batch)
{
    int64_t size;
    jinja_list *list, *batches, *batch = NULL;
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[0], 0, &size));
    if (size < 1) return SPEY_FAIL(SPEY_INVALID, "batch: size must be positive");
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    SPEY_TRY(spey_jinja_list_new(render, 0, &batches));
    for (size_t i = 0; i < list->n; i++) {
        if (i % (size_t)size == 0) {
            SPEY_TRY(spey_jinja_list_new(render, 0, &batch));
            SPEY_TRY(spey_jinja_list_push(render, batches, spey_jinja_of_list(JINJA_LIST, batch)));
        }
        SPEY_TRY(spey_jinja_list_push(render, batch, list->items[i]));
    }
    while (batch && given(args->items[1]) && batch->n < (size_t)size)
        SPEY_TRY(spey_jinja_list_push(render, batch, args->items[1]));
    *out = generator(batches);
    return SPEY_OK;
}

/* ---- mappings ---- */

static spey_status items_of(jinja_render *render, jinja_value v, jinja_list **out)
{
    bool is_unsafe;
    jinja_value view;
    const jinja_args none = { 0 };
    const jinja_builtin *items = spey_jinja_find_method(JINJA_DICT, "items", 5, &is_unsafe);
    SPEY_TRY(items->call(render, v, &none, &view));
    *out = view.list;
    return SPEY_OK;
}

FILTER(items)
{
    (void)args;
    jinja_list *list;
    if (self.kind == JINJA_UNDEFINED)
        SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    else if (self.kind == JINJA_DICT)
        SPEY_TRY(items_of(render, self, &list));
    else
        return SPEY_FAIL(SPEY_INVALID, "Can only get item pairs from a mapping.");
    *out = generator(list);
    return SPEY_OK;
}

FILTER(dictsort)
{
    jinja_value by = args->items[1];
    jinja_list *list;
    bool by_value = spey_jinja_is_text(by, "value");
    if (by.kind != JINJA_MISSING && !by_value && !spey_jinja_is_text(by, "key"))
        return SPEY_FAIL(SPEY_INVALID, "You can only sort by either \"key\" or \"value\"");
    if (self.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(self);
    if (self.kind != JINJA_DICT)
        return SPEY_FAIL(SPEY_INVALID, "dictsort: a mapping is required, not %s",
                         spey_jinja_type(self));
    SPEY_TRY(items_of(render, self, &list));
    SPEY_TRY(sort_items(render, list, spey_jinja_int(by_value), flag(args->items[0]),
                        flag(args->items[2])));
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

/* ---- map and select ---- */

static spey_status map_attribute(jinja_render *render, jinja_list *list, const jinja_args *args,
                                 jinja_list *mapped)
{
    jinja_value path = { .kind = JINJA_MISSING }, missing = path;
    for (size_t i = 0; i < args->n_named; i++) {
        const jinja_named *named = &args->named[i];
        if (strcmp(named->name, "attribute") == 0)
            path = named->value;
        else if (strcmp(named->name, "default") == 0)
            missing = named->value;
        else
            return SPEY_FAIL(SPEY_INVALID, "map: unexpected keyword argument '%.100s'",
                             named->name);
    }
    if (path.kind == JINJA_MISSING)
        return SPEY_FAIL(SPEY_INVALID, "map requires a filter argument");
    for (size_t i = 0; i < list->n; i++) {
        jinja_value value;
        SPEY_TRY(follow(render, list->items[i], path, missing, &value));
        SPEY_TRY(spey_jinja_list_push(render, mapped, value));
    }
    return SPEY_OK;
}

FILTER(map)
{
    jinja_list *list, *mapped;
    SPEY_TRY(spey_jinja_list_new(render, 0, &mapped));
    if (!spey_jinja_truth(self)) { /* Jinja does not ask what it is */
        *out = generator(mapped);
        return SPEY_OK;
    }
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    if (args->n == 0) {
        SPEY_TRY(map_attribute(render, list, args, mapped));
    } else {
        jinja_value name = args->items[0];
        const jinja_builtin *filter =
            name.kind == JINJA_STRING ? spey_jinja_find_filter(name.text, name.len) : NULL;
        if (!filter) return SPEY_FAIL(SPEY_UNSUPPORTED, "map: no filter of this name");
        jinja_args rest = *args;
        rest.items++;
        rest.n--;
        for (size_t i = 0; i < list->n; i++) {
            jinja_value value;
            SPEY_TRY(spey_jinja_call_builtin(render, filter, list->items[i], &rest, &value));
            SPEY_TRY(spey_jinja_list_push(render, mapped, value));
        }
    }
    *out = generator(mapped);
    return SPEY_OK;
}

/* Items for which the test in args (from `skip` on; none: truth) gives `wanted`. */
static spey_status select_items(jinja_render *render, jinja_value self, const jinja_args *args,
                                bool by_attribute, bool wanted, jinja_value *out)
{
    jinja_list *list, *kept;
    const jinja_builtin *test = NULL;
    jinja_args rest = *args;
    jinja_value path = { .kind = JINJA_MISSING }, missing = path;
    if (by_attribute) {
        if (args->n == 0) return SPEY_FAIL(SPEY_INVALID, "Missing parameter for attribute name");
        path = args->items[0];
        rest.items++;
        rest.n--;
    }
    if (rest.n) {
        jinja_value name = rest.items[0];
        test = name.kind == JINJA_STRING ? spey_jinja_find_test(name.text, name.len) : NULL;
        if (!test) return SPEY_FAIL(SPEY_UNSUPPORTED, "select: no test of this name");
        rest.items++;
        rest.n--;
    }
    SPEY_TRY(spey_jinja_list_new(render, 0, &kept));
    if (!spey_jinja_truth(self)) {
        *out = generator(kept);
        return SPEY_OK;
    }
    SPEY_TRY(spey_jinja_iterate(render, self, &list));
    for (size_t i = 0; i < list->n; i++) {
        jinja_value value;
        SPEY_TRY(follow(render, list->items[i], path, missing, &value));
        if (test) SPEY_TRY(spey_jinja_call_builtin(render, test, value, &rest, &value));
        if (spey_jinja_truth(value) == wanted)
            SPEY_TRY(spey_jinja_list_push(render, kept, list->items[i]));
    }
    *out = generator(kept);
    return SPEY_OK;
}

FILTER(select)
{
    return select_items(render, self, args, false, true, out);
}

FILTER(reject)
{
    return select_items(render, self, args, false, false, out);
}

FILTER(selectattr)
{
    return select_items(render, self, args, true, true, out);
}

FILTER(rejectattr)
{
    return select_items(render, self, args, true, false, out);
}

static const jinja_builtin filters[] = {
    { "length", filter_length, "", 0 },
    { "count", filter_length, "", 0 },
    { "first", filter_first, "", 0 },
    { "last", filter_last, "", 0 },
    { "default", filter_default, "default_value boolean", 0 },
    { "d", filter_default, "default_value boolean", 0 },
    { "attr", filter_attr, "name", 1 },
    { "join", filter_join, "d attribute", 0 },
    { "sum", filter_sum, "attribute start", 0 },
    { "min", filter_min, "case_sensitive attribute", 0 },
    { "max", filter_max, "case_sensitive attribute", 0 },
    { "list", filter_list, "", 0 },
    { "reverse", filter_reverse, "", 0 },
    { "sort", filter_sort, "reverse case_sensitive attribute", 0 },
    { "unique", filter_unique, "case_sensitive attribute", 0 },
    { "batch", filter_batch, "linecount fill_with", 1 },
    { "items", filter_items, "", 0 },
    { "dictsort", filter_dictsort, "case_sensitive by reverse", 0 },
    { "map", filter_map, NULL, 0 },
    { "select", filter_select, NULL, 0 },
    { "reject", filter_reject, NULL, 0 },
    { "selectattr", filter_selectattr, NULL, 0 },
    { "rejectattr", filter_rejectattr, NULL, 0 },
};

const jinja_builtin *spey_jinja_find_list_filter(const char *name, size_t len)
{
    return spey_jinja_find_builtin(filters, sizeof filters / sizeof *filters, name, len);
}
