#include "text/guide_schema.h"

#include <string.h>

#include "base/limits.h"
#include "text/guide_read.h"

/* Keywords that say nothing about which values are valid, or nothing that is read where they stand. */
static const char *const annotations[] = {
    "$schema",     "$id",     "$comment", "$defs",      "definitions", "title",
    "description", "default", "examples", "deprecated", "readOnly",    "writeOnly"
};
static const char *const keywords[] = {
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "enum",
    "const",
    "type",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "required",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "additionalProperties",
};

/* ---- failures and paths ---- */

const spey_guide_expr *spey_schema_fail(spey_schema *s, spey_status status, const char *what)
{
    if (s->b->status) return spey_guide_fail(s->b, s->b->status);
    const char *path = s->path.len ? s->path.data : "/";
    return spey_guide_fail(s->b, SPEY_FAIL(status, "JSON schema: %.300s: %s", path, what));
}

bool spey_schema_spend(spey_schema *s, size_t work)
{
    s->work += (int64_t)work;
    if (s->work > SPEY_SCHEMA_WORK_MAX && !s->b->status)
        spey_schema_fail(s, SPEY_LIMIT, "the schema is too large");
    return !s->b->status;
}

size_t spey_schema_enter(spey_schema *s, const char *key)
{
    size_t before = s->path.len;
    spey_strbuf_putc(&s->path, '/');
    for (; *key; key++) {
        if (*key == '~' || *key == '/')
            spey_strbuf_puts(&s->path, *key == '~' ? "~0" : "~1");
        else
            spey_strbuf_putc(&s->path, *key);
    }
    return before;
}

size_t spey_schema_enter_index(spey_schema *s, size_t index)
{
    size_t before = s->path.len;
    spey_strbuf_printf(&s->path, "/%zu", index);
    return before;
}

void spey_schema_leave(spey_schema *s, size_t length)
{
    if (!s->path.data) return;
    s->path.len = length;
    s->path.data[length] = 0;
}

static const spey_guide_expr *fail_at(spey_schema *s, const char *key, spey_status status,
                                      const char *what)
{
    size_t before = spey_schema_enter(s, key);
    const spey_guide_expr *e = spey_schema_fail(s, status, what);
    spey_schema_leave(s, before);
    return e;
}

int32_t spey_schema_count(spey_schema *s, const json_t *schema, const char *key, int32_t missing)
{
    const json_t *value = json_object_get(schema, key);
    if (!value) return missing;
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        fail_at(s, key, SPEY_FORMAT, "a count is expected");
        return 0;
    }
    if (json_integer_value(value) > SPEY_GUIDE_REPEAT_MAX) {
        fail_at(s, key, SPEY_LIMIT, "the count is too large");
        return 0;
    }
    return (int32_t)json_integer_value(value);
}

/* ---- keywords ---- */

static bool is_one_of(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, list[i])) return true;
    return false;
}

static bool is_annotation(const char *key)
{
    return !strncmp(key, "x-", 2) ||
           is_one_of(key, annotations, sizeof annotations / sizeof *annotations);
}

/* Keywords that are harmless as this schema has them. */
static bool is_satisfied(const json_t *schema, const char *key, const json_t *value)
{
    if (!strcmp(key, "uniqueItems")) return json_is_false(value);
    if (!strcmp(key, "multipleOf")) return json_is_integer(value) && json_integer_value(value) == 1;
    if (!strcmp(key, "minProperties"))
        return json_is_integer(value) &&
               json_integer_value(value) <=
                   (json_int_t)json_array_size(json_object_get(schema, "required"));
    return false;
}

static void check_keywords(spey_schema *s, const json_t *schema)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        if (is_annotation(key) || is_one_of(key, keywords, sizeof keywords / sizeof *keywords) ||
            is_satisfied(schema, key, value))
            continue;
        fail_at(s, key, SPEY_UNSUPPORTED, "this keyword is not supported");
        return;
    }
}

/* Does it constrain values by anything but `key`? */
static bool has_others(const json_t *schema, const char *key)
{
    const char *other;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, other, value)
    {
        (void)value;
        if (strcmp(other, key) != 0 && !is_annotation(other)) return true;
    }
    return false;
}

/* The schema without one keyword and the annotations. */
static const json_t *without(spey_schema *s, const json_t *schema, const char *key)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)schema);
    if (!copy || json_array_append_new(s->owned, copy)) {
        spey_guide_fail(s->b, SPEY_FAIL(SPEY_NOMEM, "out of memory while reading a JSON schema"));
        return NULL;
    }
    json_object_del(copy, key);
    return copy;
}

/* ---- references ---- */

/* The rule of what `reference` points at; its schema is read later. */
static const spey_guide_expr *read_reference(spey_schema *s, const char *reference)
{
    int64_t known;
    size_t n = strlen(reference);
    if (spey_map_get(&s->rules, reference, n, &known))
        return spey_guide_rule_ref(s->b, (int32_t)known);
    const json_t *schema = spey_schema_resolve(s, reference);
    if (!schema) return spey_schema_fail(s, SPEY_FORMAT, "a $ref leads nowhere");
    int32_t rule = spey_guide_rule_declare(s->b, reference, n);
    if (rule < 0) return spey_guide_fail(s->b, s->b->status);
    spey_status status = spey_map_put(&s->rules, reference, n, rule);
    if (status) return spey_guide_fail(s->b, status);
    if (s->n_pending == s->pending_cap) {
        size_t cap = s->pending_cap ? 2 * s->pending_cap : 16;
        void *larger = spey_arena_array(&s->b->arena, cap, sizeof *s->pending);
        if (!larger) return spey_guide_fail(s->b, SPEY_NOMEM);
        if (s->n_pending) memcpy(larger, s->pending, s->n_pending * sizeof *s->pending);
        s->pending = larger;
        s->pending_cap = cap;
    }
    s->pending[s->n_pending++] =
        (struct spey_schema_pending){ schema, s->b->rules[rule].name, rule };
    return spey_guide_rule_ref(s->b, rule);
}

/* ---- one schema ---- */

static const spey_guide_expr *read_merged(spey_schema *s, const json_t *a, const json_t *c)
{
    const json_t *merged = a && c ? spey_schema_merge(s, a, c) : NULL;
    return merged ? spey_schema_read(s, merged)
                  : spey_schema_fail(s, SPEY_UNSUPPORTED, "these schemas cannot be combined");
}

static const spey_guide_expr *read_all(spey_schema *s, const json_t *schema, const json_t *list)
{
    size_t before = spey_schema_enter(s, "allOf");
    const json_t *merged = without(s, schema, "allOf");
    if (!json_is_array(list) || json_array_size(list) == 0)
        spey_schema_fail(s, SPEY_FORMAT, "a list of schemas is expected");
    for (size_t i = 0; i < json_array_size(list) && !s->b->status; i++)
        merged = spey_schema_merge(s, merged, json_array_get(list, i));
    const spey_guide_expr *e =
        s->b->status ? spey_guide_fail(s->b, s->b->status) : spey_schema_read(s, merged);
    spey_schema_leave(s, before);
    return e;
}

static void check_apart(spey_schema *s, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list) && !s->b->status; i++)
        for (size_t k = 0; k < i && !s->b->status; k++)
            if (!spey_schema_disjoint(s, json_array_get(list, k), json_array_get(list, i), 0))
                spey_schema_fail(s, SPEY_UNSUPPORTED,
                                 "two of these may allow the same value, which oneOf forbids: use "
                                 "anyOf, or tell them apart by type, const or a required property");
}

static const spey_guide_expr *read_any(spey_schema *s, const json_t *schema, const char *key)
{
    size_t before = spey_schema_enter(s, key);
    const json_t *list = json_object_get(schema, key);
    spey_guide_list branches = { 0 };
    const json_t *rest = has_others(schema, key) ? without(s, schema, key) : NULL;
    if (!json_is_array(list) || json_array_size(list) == 0)
        spey_schema_fail(s, SPEY_FORMAT, "a list of schemas is expected");
    if (!strcmp(key, "oneOf")) check_apart(s, list);
    for (size_t i = 0; i < json_array_size(list) && !s->b->status; i++) {
        size_t inner = spey_schema_enter_index(s, i);
        const json_t *branch = json_array_get(list, i);
        spey_guide_list_push(s->b, &branches,
                             rest ? read_merged(s, rest, branch) : spey_schema_read(s, branch));
        spey_schema_leave(s, inner);
    }
    spey_schema_leave(s, before);
    return spey_guide_alt(s->b, branches);
}

/* The values of enum or const that have an allowed type. */
static const spey_guide_expr *read_values(spey_schema *s, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "enum"), *only = json_object_get(schema, "const");
    unsigned types = spey_schema_types(s, schema);
    spey_guide_list values = { 0 };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        if (strcmp(key, "enum") && strcmp(key, "const") && strcmp(key, "type") &&
            !is_annotation(key))
            return fail_at(s, key, SPEY_UNSUPPORTED,
                           "this keyword beside enum or const is not supported");
    }
    if (list && !json_is_array(list)) return fail_at(s, "enum", SPEY_FORMAT, "a list is expected");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        if ((spey_schema_type_of(item) & types) && (!only || json_equal(item, only)))
            spey_guide_list_push(s->b, &values, spey_schema_constant(s, item));
    }
    if (!list && (spey_schema_type_of(only) & types))
        spey_guide_list_push(s->b, &values, spey_schema_constant(s, only));
    return spey_guide_alt(s->b, values);
}

static const spey_guide_expr *read_types(spey_schema *s, const json_t *schema)
{
    unsigned types = spey_schema_types(s, schema);
    if (types == SPEY_SCHEMA_ANY) return spey_schema_any_value(s);
    spey_guide_list list = { 0 };
    if (types & SPEY_SCHEMA_OBJECT)
        spey_guide_list_push(s->b, &list, spey_schema_object(s, schema));
    if (types & SPEY_SCHEMA_ARRAY) spey_guide_list_push(s->b, &list, spey_schema_array(s, schema));
    if (types & SPEY_SCHEMA_STRING)
        spey_guide_list_push(s->b, &list, spey_schema_string(s, schema));
    if (types & SPEY_SCHEMA_NUMBER)
        spey_guide_list_push(s->b, &list,
                             spey_schema_number(s, schema, (types & SPEY_SCHEMA_REAL) != 0));
    if (types & SPEY_SCHEMA_BOOLEAN) {
        spey_guide_list_push(s->b, &list, spey_guide_text(s->b, "true"));
        spey_guide_list_push(s->b, &list, spey_guide_text(s->b, "false"));
    }
    if (types & SPEY_SCHEMA_NULL) spey_guide_list_push(s->b, &list, spey_guide_text(s->b, "null"));
    return spey_guide_alt(s->b, list);
}

static const spey_guide_expr *read_object_schema(spey_schema *s, const json_t *schema)
{
    check_keywords(s, schema);
    const json_t *reference = json_object_get(schema, "$ref");
    if (reference && !json_is_string(reference))
        return fail_at(s, "$ref", SPEY_FORMAT, "a string is expected");
    if (reference && has_others(schema, "$ref"))
        return read_merged(s, without(s, schema, "$ref"),
                           spey_schema_resolve(s, json_string_value(reference)));
    if (reference) {
        size_t before = spey_schema_enter(s, "$ref");
        const spey_guide_expr *e = read_reference(s, json_string_value(reference));
        spey_schema_leave(s, before);
        return e;
    }
    const json_t *all = json_object_get(schema, "allOf");
    if (all) return read_all(s, schema, all);
    if (json_object_get(schema, "anyOf")) return read_any(s, schema, "anyOf");
    if (json_object_get(schema, "oneOf")) return read_any(s, schema, "oneOf");
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return read_values(s, schema);
    return read_types(s, schema);
}

const spey_guide_expr *spey_schema_read(spey_schema *s, const json_t *schema)
{
    if (s->b->status) return spey_guide_fail(s->b, s->b->status);
    if (json_is_true(schema)) return spey_schema_any_value(s);
    if (json_is_false(schema)) return spey_guide_alt(s->b, (spey_guide_list){ 0 });
    if (!json_is_object(schema))
        return spey_schema_fail(s, SPEY_FORMAT, "a schema is expected: an object, true or false");
    if (s->depth == SPEY_GUIDE_NESTING_MAX)
        return spey_schema_fail(s, SPEY_LIMIT, "schemas are nested too deeply");
    s->depth++;
    const spey_guide_expr *e = read_object_schema(s, schema);
    s->depth--;
    return e;
}

/* ---- the document ---- */

static void read_document(spey_schema *s)
{
    int32_t rule = spey_guide_rule_declare(s->b, "#", 1);
    spey_status status = spey_map_put(&s->rules, "#", 1, 0);
    if (status) spey_guide_fail(s->b, status);
    const spey_guide_expr *e = spey_schema_read(s, s->root);
    spey_guide_rule_define(s->b, rule, e);
    for (size_t i = 0; i < s->n_pending && !s->b->status; i++) {
        const struct spey_schema_pending next = s->pending[i];
        spey_schema_leave(s, 0);
        spey_strbuf_puts(&s->path, next.pointer + 1);
        e = spey_schema_read(s, next.schema);
        spey_guide_rule_define(s->b, next.rule, e);
    }
    status = spey_strbuf_status(&s->path);
    if (status) spey_guide_fail(s->b, status);
}

void spey_guide_read_schema(spey_guide_builder *b, const char *text, size_t n)
{
    json_t *root;
    spey_status status = spey_json_parse("JSON schema", text, n, &root);
    if (status) {
        spey_guide_fail(b, status);
        return;
    }
    spey_schema s = { .b = b,
                      .root = root,
                      .owned = json_array(),
                      .value_rule = -1,
                      .char_rule = -1,
                      .string_rule = -1,
                      .comma_rule = -1,
                      .colon_rule = -1 };
    spey_map_init(&s.rules, SPEY_PURPOSE_TEXT);
    if (s.owned)
        read_document(&s);
    else
        spey_guide_fail(b, SPEY_FAIL(SPEY_NOMEM, "out of memory while reading a JSON schema"));
    spey_map_deinit(&s.rules);
    spey_strbuf_deinit(&s.path);
    json_decref(s.owned);
    json_decref(root);
}
