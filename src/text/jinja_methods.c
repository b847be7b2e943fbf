/* Methods of values other than strings, and which ones the sandbox hides. */
#include <string.h>

#include "text/jinja_ops.h"

#define METHOD(name)                                                                        \
    static spey_status name(jinja_render *render, jinja_value self, const jinja_args *args, \
                            jinja_value *out)

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* ---- dict ---- */

METHOD(dict_get)
{
    jinja_value *found;
    SPEY_TRY(spey_jinja_dict_find(render, self.dict, args->items[0], &found));
    *out = found ? *found : args->items[1];
    if (out->kind == JINJA_MISSING) *out = spey_jinja_none();
    return SPEY_OK;
}

/* A list that shows the n values at `items` without copying them. */
static spey_status show(jinja_render *render, jinja_view view, jinja_value *items, size_t n,
                        jinja_value *out)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    list->items = items;
    list->n = list->cap = n;
    *out = spey_jinja_of_list(JINJA_VIEW, list);
    out->why = (uint8_t)view;
    return SPEY_OK;
}

METHOD(dict_keys)
{
    (void)args;
    return show(render, JINJA_VIEW_KEYS, self.dict->keys, self.dict->n, out);
}

METHOD(dict_values)
{
    (void)args;
    return show(render, JINJA_VIEW_VALUES, self.dict->values, self.dict->n, out);
}

METHOD(dict_items)
{
    (void)args;
    jinja_list *list, *pair;
    SPEY_TRY(spey_jinja_list_new(render, self.dict->n, &list));
    for (size_t i = 0; i < self.dict->n; i++) {
        SPEY_TRY(spey_jinja_list_new(render, 2, &pair));
        SPEY_TRY(spey_jinja_list_push(render, pair, self.dict->keys[i]));
        SPEY_TRY(spey_jinja_list_push(render, pair, self.dict->values[i]));
        SPEY_TRY(spey_jinja_list_push(render, list, spey_jinja_of_list(JINJA_TUPLE, pair)));
    }
    *out = spey_jinja_of_list(JINJA_VIEW, list);
    out->why = JINJA_VIEW_ITEMS;
    return SPEY_OK;
}

/* Values do not change, so a copy is the value itself. */
METHOD(copy)
{
    (void)render;
    (void)args;
    *out = self;
    return SPEY_OK;
}

/* ---- list and tuple ---- */

METHOD(list_count)
{
    int64_t n = 0;
    SPEY_TRY(spey_jinja_work(render, self.list->n / JINJA_ITEMS_PER_WORK));
    for (size_t i = 0; i < self.list->n; i++) {
        bool equal;
        SPEY_TRY(spey_jinja_equal(render, self.list->items[i], args->items[0], &equal));
        n += equal;
    }
    *out = spey_jinja_int(n);
    return SPEY_OK;
}

METHOD(list_index)
{
    SPEY_TRY(spey_jinja_work(render, self.list->n / JINJA_ITEMS_PER_WORK));
    for (size_t i = 0; i < self.list->n; i++) {
        bool equal;
        SPEY_TRY(spey_jinja_equal(render, self.list->items[i], args->items[0], &equal));
        if (!equal) continue;
        *out = spey_jinja_int((int64_t)i);
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_INVALID, "the value is not in the %s", spey_jinja_type(self));
}

/* ---- loop and cycler ---- */

METHOD(loop_cycle)
{
    (void)render;
    if (args->n == 0) return SPEY_FAIL(SPEY_INVALID, "no items for cycling given");
    *out = args->items[self.loop->index0 % args->n];
    return SPEY_OK;
}

METHOD(loop_changed)
{
    jinja_list *list;
    bool same = false;
    SPEY_TRY(spey_jinja_list_new(render, args->n, &list));
    for (size_t i = 0; i < args->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, list, args->items[i]));
    jinja_value seen = spey_jinja_of_list(JINJA_TUPLE, list);
    SPEY_TRY(spey_jinja_equal(render, self.loop->seen, seen, &same));
    self.loop->seen = seen;
    *out = spey_jinja_bool(!same);
    return SPEY_OK;
}

METHOD(cycler_next)
{
    (void)render;
    (void)args;
    *out = self.list->items[self.list->next];
    self.list->next = (self.list->next + 1) % self.list->n;
    return SPEY_OK;
}

METHOD(cycler_reset)
{
    (void)render;
    (void)args;
    self.list->next = 0;
    *out = spey_jinja_none();
    return SPEY_OK;
}

static const jinja_builtin dict_methods[] = {
    { "get", dict_get, "key default", 1 },
    { "items", dict_items, "", 0 },
    { "keys", dict_keys, "", 0 },
    { "values", dict_values, "", 0 },
    { "copy", copy, "", 0 },
    { "fromkeys", NULL, NULL, 0 },
};
static const jinja_builtin list_methods[] = {
    { "count", list_count, "value", 1 },
    { "index", list_index, "value", 1 },
    { "copy", copy, "", 0 },
};
static const jinja_builtin loop_methods[] = {
    { "cycle", loop_cycle, NULL, 0 },
    { "changed", loop_changed, NULL, 0 },
};
static const jinja_builtin cycler_methods[] = {
    { "next", cycler_next, "", 0 },
    { "reset", cycler_reset, "", 0 },
};

static bool is_one_of(const char *name, size_t len, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == len && memcmp(*names, name, len) == 0) return true;
    return false;
}

const jinja_builtin *spey_jinja_find_method(jinja_kind kind, const char *name, size_t len,
                                            bool *is_unsafe)
{
    static const char *const dict_changes[] = { "clear",      "pop",    "popitem",
                                                "setdefault", "update", NULL };
    static const char *const list_changes[] = { "append", "clear",  "pop",    "reverse", "insert",
                                                "sort",   "extend", "remove", NULL };
    *is_unsafe = false;
    switch (kind) {
    case JINJA_STRING: return spey_jinja_find_str_method(name, len);
    case JINJA_DICT:
        *is_unsafe = is_one_of(name, len, dict_changes);
        return spey_jinja_find_builtin(dict_methods, COUNT(dict_methods), name, len);
    case JINJA_LIST:
        *is_unsafe = is_one_of(name, len, list_changes);
        return spey_jinja_find_builtin(list_methods, COUNT(list_methods), name, len);
    case JINJA_RANGE:
    case JINJA_TUPLE: return spey_jinja_find_builtin(list_methods, 2, name, len);
    case JINJA_LOOP: return spey_jinja_find_builtin(loop_methods, COUNT(loop_methods), name, len);
    case JINJA_CYCLER:
        return spey_jinja_find_builtin(cycler_methods, COUNT(cycler_methods), name, len);
    default: return NULL;
    }
}
