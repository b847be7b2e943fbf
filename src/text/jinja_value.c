#include "text/jinja_value.h"

#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "text/jinja_text.h"

/* ---- resources ---- */

void *spey_jinja_alloc(jinja_render *render, size_t n, size_t item_bytes)
{
    size_t bytes;
    if (!spey_mul_size(n, item_bytes, &bytes) ||
        bytes > SPEY_TEMPLATE_MEMORY_MAX - render->arena_bytes) {
        render->alloc_status =
            SPEY_FAIL(SPEY_LIMIT, "the chat template needs more than %d bytes of memory",
                      SPEY_TEMPLATE_MEMORY_MAX);
        return NULL;
    }
    void *p = spey_arena_alloc(&render->arena, bytes);
    if (!p) render->alloc_status = SPEY_NOMEM;
    render->arena_bytes += bytes;
    return p;
}

spey_status spey_jinja_work(jinja_render *render, size_t units)
{
    render->work += units;
    if (render->work <= (uint64_t)SPEY_TEMPLATE_STEPS_MAX * JINJA_STEP) return SPEY_OK;
    return SPEY_FAIL(SPEY_LIMIT, "the chat template takes more than %d steps",
                     SPEY_TEMPLATE_STEPS_MAX);
}

spey_status spey_jinja_enter(jinja_render *render)
{
    if (render->depth++ < SPEY_TEMPLATE_DEPTH_MAX) return SPEY_OK;
    return SPEY_FAIL(SPEY_LIMIT, "nested deeper than %d levels", SPEY_TEMPLATE_DEPTH_MAX);
}

void spey_jinja_leave(jinja_render *render)
{
    render->depth--;
}

spey_strbuf spey_jinja_buffer(void)
{
    return (spey_strbuf){ .max = SPEY_TEMPLATE_OUTPUT_MAX };
}

spey_status spey_jinja_take_text(jinja_render *render, spey_status status, spey_strbuf *buf,
                                 jinja_value *out)
{
    if (!status) status = spey_strbuf_status(buf);
    if (!status) status = spey_jinja_copy_text(render, buf->data, buf->len, out);
    spey_strbuf_deinit(buf);
    return status;
}

/* ---- making values ---- */

jinja_value spey_jinja_none(void)
{
    return (jinja_value){ .kind = JINJA_NONE };
}

jinja_value spey_jinja_bool(bool b)
{
    return (jinja_value){ .kind = JINJA_BOOL, .boolean = b };
}

jinja_value spey_jinja_int(int64_t i)
{
    return (jinja_value){ .kind = JINJA_INT, .integer = i };
}

jinja_value spey_jinja_float(double d)
{
    return (jinja_value){ .kind = JINJA_FLOAT, .real = d };
}

jinja_value spey_jinja_text(const char *text, size_t len)
{
    return (jinja_value){ .kind = JINJA_STRING, .text = text, .len = len };
}

jinja_value spey_jinja_literal(const char *text)
{
    return spey_jinja_text(text, strlen(text));
}

jinja_value spey_jinja_undefined(jinja_why why, jinja_kind owner, const char *text, size_t len)
{
    return (jinja_value){ .kind = JINJA_UNDEFINED,
                          .why = (uint8_t)why,
                          .owner = (uint8_t)owner,
                          .text = text,
                          .len = len };
}

jinja_value spey_jinja_of_list(jinja_kind kind, jinja_list *list)
{
    return (jinja_value){ .kind = kind, .list = list };
}

spey_status spey_jinja_copy_text(jinja_render *render, const char *text, size_t len,
                                 jinja_value *out)
{
    SPEY_TRY(spey_jinja_work(render, len / JINJA_BYTES_PER_WORK));
    char *copy = spey_jinja_alloc(render, len + 1, 1);
    if (!copy) return spey_jinja_no_memory(render);
    if (len) memcpy(copy, text, len);
    *out = spey_jinja_text(copy, len);
    return SPEY_OK;
}

static spey_status from_json_list(jinja_render *render, const json_t *json, jinja_value *out)
{
    jinja_list *list;
    size_t n = json_array_size(json);
    SPEY_TRY(spey_jinja_list_new(render, n, &list));
    for (size_t i = 0; i < n; i++) {
        jinja_value item;
        SPEY_TRY(spey_jinja_from_json(render, json_array_get(json, i), &item));
        SPEY_TRY(spey_jinja_list_push(render, list, item));
    }
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

static spey_status from_json_dict(jinja_render *render, const json_t *json, jinja_value *out)
{
    jinja_dict *dict;
    const char *key;
    size_t key_len;
    json_t *item;
    SPEY_TRY(spey_jinja_dict_new(render, json_object_size(json), &dict));
    json_object_keylen_foreach((json_t *)(uintptr_t)json, key, key_len, item)
    {
        jinja_value value;
        SPEY_TRY(spey_jinja_from_json(render, item, &value));
        SPEY_TRY(spey_jinja_dict_add(render, dict, spey_jinja_text(key, key_len), value));
    }
    *out = (jinja_value){ .kind = JINJA_DICT, .dict = dict };
    return SPEY_OK;
}

spey_status spey_jinja_from_json(jinja_render *render, const json_t *json, jinja_value *out)
{
    SPEY_TRY(spey_jinja_work(render, 1));
    SPEY_TRY(spey_jinja_enter(render));
    spey_status status = SPEY_OK;
    switch (json_typeof(json)) {
    case JSON_OBJECT: status = from_json_dict(render, json, out); break;
    case JSON_ARRAY: status = from_json_list(render, json, out); break;
    case JSON_STRING:
        *out = spey_jinja_text(json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER: *out = spey_jinja_int(json_integer_value(json)); break;
    case JSON_REAL: *out = spey_jinja_float(json_real_value(json)); break;
    case JSON_TRUE: *out = spey_jinja_bool(true); break;
    case JSON_FALSE: *out = spey_jinja_bool(false); break;
    case JSON_NULL: *out = spey_jinja_none(); break;
    }
    spey_jinja_leave(render);
    return status;
}

spey_status spey_jinja_list_new(jinja_render *render, size_t cap, jinja_list **out)
{
    jinja_list *list = spey_jinja_alloc(render, 1, sizeof *list);
    if (!list) return spey_jinja_no_memory(render);
    if (cap) {
        list->items = spey_jinja_alloc(render, cap, sizeof *list->items);
        if (!list->items) return spey_jinja_no_memory(render);
    }
    list->cap = cap;
    *out = list;
    return SPEY_OK;
}

/* `old` with room for twice as many items. */
static void *grow(jinja_render *render, const jinja_value *old, size_t n, size_t cap)
{
    jinja_value *items = spey_jinja_alloc(render, cap, sizeof *items);
    if (items && n) memcpy(items, old, n * sizeof *items);
    return items;
}

spey_status spey_jinja_list_push(jinja_render *render, jinja_list *list, jinja_value value)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 4;
        jinja_value *items = grow(render, list->items, list->n, cap);
        if (!items) return spey_jinja_no_memory(render);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = value;
    return spey_jinja_work(render, list->n % JINJA_ITEMS_PER_WORK == 0);
}

spey_status spey_jinja_dict_new(jinja_render *render, size_t cap, jinja_dict **out)
{
    jinja_dict *dict = spey_jinja_alloc(render, 1, sizeof *dict);
    if (!dict) return spey_jinja_no_memory(render);
    if (cap) {
        dict->keys = spey_jinja_alloc(render, cap, sizeof *dict->keys);
        dict->values = spey_jinja_alloc(render, cap, sizeof *dict->values);
        if (!dict->keys || !dict->values) return spey_jinja_no_memory(render);
    }
    dict->cap = cap;
    *out = dict;
    return SPEY_OK;
}

spey_status spey_jinja_dict_add(jinja_render *render, jinja_dict *dict, jinja_value key,
                                jinja_value value)
{
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? dict->cap * 2 : 4;
        jinja_value *keys = grow(render, dict->keys, dict->n, cap);
        jinja_value *values = grow(render, dict->values, dict->n, cap);
        if (!keys || !values) return spey_jinja_no_memory(render);
        dict->keys = keys;
        dict->values = values;
        dict->cap = cap;
    }
    dict->keys[dict->n] = key;
    dict->values[dict->n++] = value;
    return SPEY_OK;
}

jinja_value *spey_jinja_dict_find_text(const jinja_dict *dict, const char *key, size_t len)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->keys[i].kind == JINJA_STRING && dict->keys[i].len == len &&
            memcmp(dict->keys[i].text, key, len) == 0)
            return &dict->values[i];
    return NULL;
}

static spey_status check_hashable(jinja_render *render, jinja_value key)
{
    if (key.kind == JINJA_LIST || key.kind == JINJA_DICT)
        return SPEY_FAIL(SPEY_INVALID, "unhashable type: '%s'", spey_jinja_type(key));
    if (key.kind != JINJA_TUPLE) return SPEY_OK;
    spey_status status = spey_jinja_enter(render);
    for (size_t i = 0; i < key.list->n && !status; i++)
        status = check_hashable(render, key.list->items[i]);
    spey_jinja_leave(render);
    return status;
}

spey_status spey_jinja_dict_find(jinja_render *render, const jinja_dict *dict, jinja_value key,
                                 jinja_value **out)
{
    *out = NULL;
    SPEY_TRY(spey_jinja_work(render, dict->n / JINJA_ITEMS_PER_WORK));
    if (key.kind == JINJA_STRING) {
        *out = spey_jinja_dict_find_text(dict, key.text, key.len);
        return SPEY_OK;
    }
    SPEY_TRY(check_hashable(render, key));
    for (size_t i = 0; i < dict->n && !*out; i++) {
        bool equal;
        SPEY_TRY(spey_jinja_equal(render, dict->keys[i], key, &equal));
        if (equal) *out = &dict->values[i];
    }
    return SPEY_OK;
}

spey_status spey_jinja_dict_put(jinja_render *render, jinja_dict *dict, jinja_value key,
                                jinja_value value)
{
    jinja_value *slot;
    SPEY_TRY(spey_jinja_dict_find(render, dict, key, &slot));
    if (!slot) return spey_jinja_dict_add(render, dict, key, value);
    *slot = value;
    return SPEY_OK;
}

/* ---- asking values ---- */

bool spey_jinja_is_text(jinja_value v, const char *text)
{
    return v.kind == JINJA_STRING && v.len == strlen(text) && memcmp(v.text, text, v.len) == 0;
}

bool spey_jinja_truth(jinja_value v)
{
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE: return false;
    case JINJA_BOOL: return v.boolean;
    case JINJA_INT: return v.integer != 0;
    case JINJA_FLOAT: return v.real != 0;
    case JINJA_STRING: return v.len != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_RANGE: return v.list->n != 0;
    case JINJA_DICT: return v.dict->n != 0;
    default: return true;
    }
}

const char *spey_jinja_type(jinja_value v)
{
    static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED: return "Undefined";
    case JINJA_NONE: return "NoneType";
    case JINJA_BOOL: return "bool";
    case JINJA_INT: return "int";
    case JINJA_FLOAT: return "float";
    case JINJA_STRING: return "str";
    case JINJA_LIST: return "list";
    case JINJA_TUPLE: return "tuple";
    case JINJA_DICT: return "dict";
    case JINJA_VIEW: return views[v.why];
    case JINJA_RANGE: return "range";
    case JINJA_GENERATOR: return "generator";
    case JINJA_NAMESPACE: return "Namespace";
    case JINJA_LOOP: return "LoopContext";
    case JINJA_MACRO: return "Macro";
    case JINJA_FUNCTION: return "function";
    case JINJA_METHOD: return "builtin_function_or_method";
    case JINJA_JOINER: return "Joiner";
    case JINJA_CYCLER: return "Cycler";
    }
    return "object";
}

bool spey_jinja_whole(jinja_value v, int64_t *out)
{
    if (v.kind != JINJA_BOOL && v.kind != JINJA_INT) return false;
    *out = v.kind == JINJA_BOOL ? v.boolean : v.integer;
    return true;
}

bool spey_jinja_number(jinja_value v, double *out)
{
    int64_t whole;
    if (spey_jinja_whole(v, &whole))
        *out = (double)whole;
    else if (v.kind == JINJA_FLOAT)
        *out = v.real;
    else
        return false;
    return true;
}

static bool is_number(jinja_value v)
{
    return v.kind == JINJA_BOOL || v.kind == JINJA_INT || v.kind == JINJA_FLOAT;
}

static bool numbers_equal(jinja_value a, jinja_value b)
{
    int64_t i, j;
    double x = 0, y = 0;
    if (spey_jinja_whole(a, &i) && spey_jinja_whole(b, &j)) return i == j;
    spey_jinja_number(a, &x);
    spey_jinja_number(b, &y);
    return x == y;
}

static spey_status lists_equal(jinja_render *render, const jinja_list *a, const jinja_list *b,
                               bool *out)
{
    *out = a->n == b->n;
    SPEY_TRY(spey_jinja_work(render, a->n / JINJA_ITEMS_PER_WORK));
    for (size_t i = 0; i < a->n && *out; i++)
        SPEY_TRY(spey_jinja_equal(render, a->items[i], b->items[i], out));
    return SPEY_OK;
}

static spey_status dicts_equal(jinja_render *render, const jinja_dict *a, const jinja_dict *b,
                               bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        jinja_value *other;
        SPEY_TRY(spey_jinja_dict_find(render, b, a->keys[i], &other));
        *out = other != NULL;
        if (other) SPEY_TRY(spey_jinja_equal(render, a->values[i], *other, out));
    }
    return SPEY_OK;
}

spey_status spey_jinja_equal(jinja_render *render, jinja_value a, jinja_value b, bool *out)
{
    *out = false;
    if (is_number(a) && is_number(b)) {
        *out = numbers_equal(a, b);
        return SPEY_OK;
    }
    if (a.kind != b.kind) return SPEY_OK;
    spey_status status = spey_jinja_enter(render);
    if (!status) status = spey_jinja_work(render, 1);
    if (!status) {
        switch (a.kind) {
        case JINJA_MISSING:
        case JINJA_UNDEFINED:
        case JINJA_NONE: *out = true; break;
        case JINJA_STRING: *out = a.len == b.len && memcmp(a.text, b.text, a.len) == 0; break;
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_RANGE: status = lists_equal(render, a.list, b.list, out); break;
        case JINJA_DICT: status = dicts_equal(render, a.dict, b.dict, out); break;
        default: *out = a.list == b.list; break; /* identity: any of the pointers */
        }
    }
    spey_jinja_leave(render);
    return status;
}

static int sign_of(bool less, bool greater)
{
    return less ? -1 : greater;
}

static spey_status order_lists(jinja_render *render, const char *op, const jinja_list *a,
                               const jinja_list *b, int *out)
{
    SPEY_TRY(spey_jinja_work(render, a->n / JINJA_ITEMS_PER_WORK));
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool equal;
        SPEY_TRY(spey_jinja_equal(render, a->items[i], b->items[i], &equal));
        if (!equal) return spey_jinja_order(render, op, a->items[i], b->items[i], out);
    }
    *out = sign_of(a->n<b->n, a->n> b->n);
    return SPEY_OK;
}

spey_status spey_jinja_order(jinja_render *render, const char *op, jinja_value a, jinja_value b,
                             int *out)
{
    int64_t i, j;
    if (a.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(a);
    if (b.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(b);
    if (spey_jinja_whole(a, &i) && spey_jinja_whole(b, &j)) {
        *out = sign_of(i<j, i> j);
        return SPEY_OK;
    }
    if (is_number(a) && is_number(b)) {
        double x = 0, y = 0;
        spey_jinja_number(a, &x);
        spey_jinja_number(b, &y);
        *out = x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; /* 2: not a number, no order holds */
        return SPEY_OK;
    }
    if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
        size_t n = a.len < b.len ? a.len : b.len;
        int order = n ? memcmp(a.text, b.text, n) : 0;
        *out = order ? sign_of(order<0, order> 0) : sign_of(a.len<b.len, a.len> b.len);
        return spey_jinja_work(render, n / JINJA_BYTES_PER_WORK);
    }
    if (a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE)) {
        spey_status status = spey_jinja_enter(render);
        if (!status) status = order_lists(render, op, a.list, b.list, out);
        spey_jinja_leave(render);
        return status;
    }
    return SPEY_FAIL(SPEY_INVALID, "'%s' not supported between instances of '%s' and '%s'", op,
                     spey_jinja_type(a), spey_jinja_type(b));
}

spey_status spey_jinja_contains(jinja_render *render, jinja_value a, jinja_value b, bool *out)
{
    *out = false;
    if (b.kind == JINJA_STRING) {
        if (a.kind != JINJA_STRING)
            return SPEY_FAIL(SPEY_INVALID, "'in <string>' requires string as left operand, not %s",
                             spey_jinja_type(a));
        *out = memmem(b.text, b.len, a.text, a.len) != NULL;
        return spey_jinja_work(render, b.len / JINJA_BYTES_PER_WORK);
    }
    if (b.kind == JINJA_DICT) {
        jinja_value *found;
        SPEY_TRY(spey_jinja_dict_find(render, b.dict, a, &found));
        *out = found != NULL;
        return SPEY_OK;
    }
    jinja_list *list;
    if (!spey_jinja_is_iterable(b))
        return SPEY_FAIL(SPEY_INVALID, "argument of type '%s' is not iterable", spey_jinja_type(b));
    SPEY_TRY(spey_jinja_iterate(render, b, &list));
    SPEY_TRY(spey_jinja_work(render, list->n / JINJA_ITEMS_PER_WORK));
    SPEY_ASSERT(list->n == 0 || list->items);
    for (size_t i = 0; i < list->n && !*out; i++)
        SPEY_TRY(spey_jinja_equal(render, list->items[i], a, out));
    return SPEY_OK;
}

spey_status spey_jinja_length(jinja_render *render, jinja_value v, bool *has, size_t *out)
{
    *has = true;
    *out = 0;
    switch (v.kind) {
    case JINJA_UNDEFINED: return SPEY_OK;
    case JINJA_STRING:
        *out = spey_jinja_utf8_count(v.text, v.len);
        return spey_jinja_work(render, v.len / JINJA_BYTES_PER_WORK);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_RANGE: *out = v.list->n; return SPEY_OK;
    case JINJA_DICT: *out = v.dict->n; return SPEY_OK;
    case JINJA_LOOP: *out = v.loop->items->n; return SPEY_OK;
    default: *has = false; return SPEY_OK;
    }
}

bool spey_jinja_is_iterable(jinja_value v)
{
    switch (v.kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_VIEW:
    case JINJA_RANGE:
    case JINJA_GENERATOR: return true;
    default: return false;
    }
}

static spey_status iterate_text(jinja_render *render, jinja_value v, jinja_list *list)
{
    for (size_t i = 0; i < v.len;) {
        size_t size;
        spey_jinja_utf8_decode(v.text + i, &size);
        SPEY_TRY(spey_jinja_list_push(render, list, spey_jinja_text(v.text + i, size)));
        i += size;
    }
    return SPEY_OK;
}

spey_status spey_jinja_iterate(jinja_render *render, jinja_value v, jinja_list **out)
{
    switch (v.kind) {
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_RANGE: *out = v.list; return SPEY_OK;
    case JINJA_UNDEFINED: return spey_jinja_list_new(render, 0, out);
    case JINJA_STRING:
        SPEY_TRY(spey_jinja_list_new(render, 0, out));
        return iterate_text(render, v, *out);
    case JINJA_DICT:
    case JINJA_GENERATOR: break;
    default: return SPEY_FAIL(SPEY_INVALID, "'%s' object is not iterable", spey_jinja_type(v));
    }
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    if (v.kind == JINJA_DICT) {
        list->items = v.dict->keys;
        list->n = list->cap = v.dict->n;
    } else {
        list->items = v.list->n ? v.list->items + v.list->next : NULL;
        list->n = list->cap = v.list->n - v.list->next;
        v.list->next = v.list->n;
    }
    *out = list;
    return SPEY_OK;
}

spey_status spey_jinja_fail_undefined(jinja_value v)
{
    jinja_value owner = { .kind = (jinja_kind)v.owner };
    int len = (int)(v.len < 200 ? v.len : 200);
    const char *type = v.owner == JINJA_NONE ? "None" : spey_jinja_type(owner);
    const char *object = v.owner == JINJA_NONE ? "" : " object";
    switch ((jinja_why)v.why) {
    case JINJA_WHY_NAME: return SPEY_FAIL(SPEY_INVALID, "'%.*s' is undefined", len, v.text);
    case JINJA_WHY_ATTRIBUTE:
        return SPEY_FAIL(SPEY_INVALID, "'%s%s' has no attribute '%.*s'", type, object, len, v.text);
    case JINJA_WHY_ELEMENT:
        return SPEY_FAIL(SPEY_INVALID, "%s%s has no such element", type, object);
    case JINJA_WHY_UNSAFE:
        return SPEY_FAIL(SPEY_INVALID, "access to attribute '%.*s' of '%s' object is unsafe", len,
                         v.text, type);
    case JINJA_WHY_TEXT: break;
    }
    return SPEY_FAIL(SPEY_INVALID, "%.*s", len, v.text);
}
