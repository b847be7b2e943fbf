/* Schemas as sets of values: references, intersections, and which sets are certainly apart. */
#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "text/guide_schema.h"

enum { DEPTH_MAX = 16, REFERENCES_MAX = 32 };

static json_t *own(spey_schema *s, json_t *value)
{
    if (value && !json_array_append_new(s->owned, value)) return value;
    spey_guide_fail(s->b, SPEY_FAIL(SPEY_NOMEM, "out of memory while reading a JSON schema"));
    return NULL;
}

/* ---- references ---- */

/* The next part of a pointer, unescaped, into `out`; returns what follows it. */
static const char *next_part(const char *pointer, spey_strbuf *out)
{
    spey_strbuf_reset(out);
    spey_strbuf_puts(out, "");
    for (; *pointer && *pointer != '/'; pointer++) {
        bool tilde = *pointer == '~' && (pointer[1] == '0' || pointer[1] == '1');
        spey_strbuf_putc(out, !tilde ? *pointer : pointer[1] == '0' ? '~' : '/');
        pointer += tilde;
    }
    return pointer;
}

static const json_t *member(const json_t *value, const char *part)
{
    if (json_is_object(value)) return json_object_get(value, part);
    size_t index = 0;
    for (; *part >= '0' && *part <= '9' && index < SPEY_GUIDE_TEXT_MAX; part++)
        index = index * 10 + (size_t)(*part - '0');
    return *part ? NULL : json_array_get(value, index);
}

const json_t *spey_schema_resolve(spey_schema *s, const char *reference)
{
    const json_t *value = s->root;
    spey_strbuf part = { 0 };
    if (*reference != '#') {
        spey_schema_fail(s, SPEY_UNSUPPORTED,
                         "a $ref must begin with #: only this document is read");
        return NULL;
    }
    const char *pointer = reference + 1;
    while (value && *pointer == '/') {
        pointer = next_part(pointer + 1, &part);
        value = part.data ? member(value, part.data) : NULL;
    }
    spey_strbuf_deinit(&part);
    if (!value || *pointer) spey_schema_fail(s, SPEY_FORMAT, "a $ref leads nowhere");
    return *pointer ? NULL : value;
}

/* Follow references that stand alone. */
static const json_t *target(spey_schema *s, const json_t *schema)
{
    for (int i = 0; i < REFERENCES_MAX; i++) {
        const char *reference = json_string_value(json_object_get(schema, "$ref"));
        if (!reference || json_object_size(schema) != 1) return schema;
        schema = spey_schema_resolve(s, reference);
        if (!schema) return NULL;
    }
    spey_schema_fail(s, SPEY_LIMIT, "a $ref leads round in a circle");
    return NULL;
}

/* ---- types ---- */

static unsigned type_named(const char *name)
{
    static const struct {
        const char *name;
        unsigned type;
    } names[] = { { "null", SPEY_SCHEMA_NULL },       { "boolean", SPEY_SCHEMA_BOOLEAN },
                  { "integer", SPEY_SCHEMA_INTEGER }, { "number", SPEY_SCHEMA_NUMBER },
                  { "string", SPEY_SCHEMA_STRING },   { "array", SPEY_SCHEMA_ARRAY },
                  { "object", SPEY_SCHEMA_OBJECT } };
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, name)) return names[i].type;
    return 0;
}

/* Without "type", the types that its other keywords speak of: what they say of no other type is no help to a model. */
static unsigned implied_types(const json_t *schema)
{
    static const struct {
        const char *keyword;
        unsigned type;
    } speak[] = { { "properties", SPEY_SCHEMA_OBJECT },
                  { "required", SPEY_SCHEMA_OBJECT },
                  { "additionalProperties", SPEY_SCHEMA_OBJECT },
                  { "items", SPEY_SCHEMA_ARRAY },
                  { "prefixItems", SPEY_SCHEMA_ARRAY },
                  { "minItems", SPEY_SCHEMA_ARRAY },
                  { "maxItems", SPEY_SCHEMA_ARRAY },
                  { "minLength", SPEY_SCHEMA_STRING },
                  { "maxLength", SPEY_SCHEMA_STRING },
                  { "pattern", SPEY_SCHEMA_STRING },
                  { "format", SPEY_SCHEMA_STRING },
                  { "minimum", SPEY_SCHEMA_NUMBER },
                  { "maximum", SPEY_SCHEMA_NUMBER },
                  { "exclusiveMinimum", SPEY_SCHEMA_NUMBER },
                  { "exclusiveMaximum", SPEY_SCHEMA_NUMBER } };
    unsigned types = 0;
    for (size_t i = 0; i < sizeof speak / sizeof *speak; i++)
        if (json_object_get(schema, speak[i].keyword)) types |= speak[i].type;
    return types ? types : SPEY_SCHEMA_ANY;
}

unsigned spey_schema_types(spey_schema *s, const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    if (!type) return implied_types(schema);
    unsigned types = type_named(json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++) {
        unsigned one = type_named(json_string_value(json_array_get(type, i)));
        if (!one) types = 0;
        if (!one) break;
        types |= one;
    }
    bool none = json_is_array(type) &&
                json_array_size(type) == 0; /* merged types that have nothing in common */
    if (!types && !none) spey_schema_fail(s, SPEY_FORMAT, "\"type\" is not known");
    return types;
}

unsigned spey_schema_type_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return SPEY_SCHEMA_OBJECT;
    case JSON_ARRAY: return SPEY_SCHEMA_ARRAY;
    case JSON_STRING: return SPEY_SCHEMA_STRING;
    case JSON_INTEGER: return SPEY_SCHEMA_INTEGER;
    case JSON_REAL:
        return floor(json_real_value(value)) == json_real_value(value) ? SPEY_SCHEMA_INTEGER
                                                                       : SPEY_SCHEMA_REAL;
    case JSON_TRUE:
    case JSON_FALSE: return SPEY_SCHEMA_BOOLEAN;
    case JSON_NULL: break;
    }
    return SPEY_SCHEMA_NULL;
}

/* ---- intersection ---- */

static json_t *type_list(unsigned types)
{
    static const char *const names[] = { "null",   "boolean", "integer", NULL,
                                         "string", "array",   "object" };
    json_t *list = json_array();
    if ((types & SPEY_SCHEMA_NUMBER) == SPEY_SCHEMA_NUMBER) {
        types &= ~(unsigned)SPEY_SCHEMA_NUMBER;
        json_array_append_new(list, json_string("number"));
    }
    for (int i = 0; i < 7; i++)
        if (types >> i & 1 && names[i]) json_array_append_new(list, json_string(names[i]));
    return list;
}

/* Both of two subschemas, to be merged when it is read. */
static json_t *both(json_t *a, json_t *c)
{
    return json_equal(a, c) ? json_incref(a) : json_pack("{s:[O,O]}", "allOf", a, c);
}

static json_t *merge_properties(json_t *a, json_t *c)
{
    json_t *out = json_copy(a), *value;
    const char *key;
    json_object_foreach(c, key, value)
    {
        json_t *there = json_object_get(out, key);
        json_object_set_new(out, key, there ? both(there, value) : json_incref(value));
    }
    return out;
}

static json_t *merge_lists(json_t *a, json_t *c, bool all)
{
    json_t *out = all ? json_copy(a) : json_array();
    for (size_t i = 0; i < json_array_size(c); i++) {
        bool found = false;
        for (size_t k = 0; k < json_array_size(a) && !found; k++)
            found = json_equal(json_array_get(a, k), json_array_get(c, i));
        if (found != all) json_array_append(out, json_array_get(c, i));
    }
    return out;
}

static bool is_any_of(const char *key, const char *list)
{
    const char *found = strstr(list, key);
    size_t n = strlen(key);
    return found && (found == list || found[-1] == ' ') && (found[n] == ' ' || !found[n]);
}

/* What two values of one keyword say together; NULL: not known. */
static json_t *merge_keyword(const char *key, json_t *a, json_t *c)
{
    if (json_equal(a, c)) return json_incref(a);
    if (!strcmp(key, "required")) return merge_lists(a, c, true);
    if (!strcmp(key, "enum")) return merge_lists(a, c, false);
    if (!strcmp(key, "properties")) return merge_properties(a, c);
    if (!strcmp(key, "items") || !strcmp(key, "additionalProperties")) return both(a, c);
    bool lower = is_any_of(key, "minimum exclusiveMinimum minLength minItems");
    bool upper = is_any_of(key, "maximum exclusiveMaximum maxLength maxItems");
    if ((lower || upper) && json_is_number(a) && json_is_number(c))
        return json_incref((json_number_value(a) > json_number_value(c)) == lower ? a : c);
    return NULL;
}

/* additionalProperties speaks of the properties beside it, so that merged ones may no longer mean the same. */
static bool closed_over(const json_t *a, const json_t *c)
{
    const json_t *extra = json_object_get(a, "additionalProperties");
    if (!extra || json_is_true(extra)) return true;
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(c, "properties"), key, value)
    {
        (void)value;
        if (!json_object_get(json_object_get(a, "properties"), key)) return false;
    }
    return true;
}

static bool is_note(const char *key)
{
    return is_any_of(key,
                     "$schema $id $comment $defs definitions title description default examples "
                     "deprecated readOnly writeOnly") ||
           !strncmp(key, "x-", 2);
}

const json_t *spey_schema_merge(spey_schema *s, const json_t *a, const json_t *c)
{
    a = a ? target(s, a) : NULL;
    c = c ? target(s, c) : NULL;
    if (!a || !c || s->b->status) return NULL;
    size_t copied = json_object_size(a) + json_object_size(c) +
                    json_object_size(json_object_get(a, "properties")) +
                    json_array_size(json_object_get(a, "required"));
    if (!spey_schema_spend(s, 16 * (1 + copied))) /* each is an allocation */
        return NULL;
    if (json_is_true(a) || json_is_false(c)) return c;
    if (json_is_true(c) || json_is_false(a)) return a;
    if (!closed_over(a, c) || !closed_over(c, a)) {
        spey_schema_fail(s, SPEY_UNSUPPORTED,
                         "additionalProperties of one part forbids properties of another");
        return NULL;
    }
    json_t *out = own(s, json_copy((json_t *)(uintptr_t)a)), *value;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)c, key, value)
    {
        json_t *there = json_object_get(out, key), *merged;
        if (there && is_note(key)) continue;
        if (there && !strcmp(key, "type"))
            merged = type_list(spey_schema_types(s, a) & spey_schema_types(s, c));
        else
            merged = there ? merge_keyword(key, there, value) : json_incref(value);
        if (!merged) {
            size_t before = spey_schema_enter(s, key);
            spey_schema_fail(s, SPEY_UNSUPPORTED, "two of this keyword cannot be combined");
            spey_schema_leave(s, before);
            return NULL;
        }
        json_object_set_new(out, key, merged);
    }
    return out;
}

/* ---- apart ---- */

/* The list of values that a schema names: enum, or const as a list; NULL: none. */
static const json_t *values_of(spey_schema *s, const json_t *schema)
{
    json_t *only = json_object_get(schema, "const");
    return only ? own(s, json_pack("[O]", only)) : json_object_get(schema, "enum");
}

static bool values_apart(spey_schema *s, const json_t *values, const json_t *other)
{
    const json_t *others = values_of(s, other);
    unsigned types = spey_schema_types(s, other);
    if (!spey_schema_spend(s, json_array_size(values) * (1 + json_array_size(others))))
        return false;
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *value = json_array_get(values, i);
        bool inside = (spey_schema_type_of(value) & types) && !others;
        for (size_t k = 0; k < json_array_size(others) && !inside; k++)
            inside = json_equal(value, json_array_get(others, k));
        if (inside) return false;
    }
    return true;
}

static bool is_required(const json_t *schema, const char *key)
{
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && !strcmp(name, key)) return true;
    }
    return false;
}

/* Objects are apart when one must have a property that the other must have differently, or must not have. */
static bool objects_apart(spey_schema *s, const json_t *a, const json_t *c, int depth)
{
    const json_t *list = json_object_get(a, "required");
    const json_t *mine = json_object_get(a, "properties"), *its = json_object_get(c, "properties");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *key = json_string_value(json_array_get(list, i));
        const json_t *there = key ? json_object_get(its, key) : NULL;
        if (key && !there && json_is_false(json_object_get(c, "additionalProperties"))) return true;
        const json_t *here = there ? json_object_get(mine, key) : NULL;
        if (here && is_required(c, key) && spey_schema_disjoint(s, here, there, depth + 1))
            return true;
    }
    return false;
}

bool spey_schema_disjoint(spey_schema *s, const json_t *a, const json_t *c, int depth)
{
    a = target(s, a);
    c = target(s, c);
    if (!a || !c || depth > DEPTH_MAX || !spey_schema_spend(s, 64)) return false;
    if (json_is_false(a) || json_is_false(c)) return true;
    if (!json_is_object(a) || !json_is_object(c)) return false;
    unsigned shared = spey_schema_types(s, a) & spey_schema_types(s, c);
    bool typed = json_object_get(a, "type") && json_object_get(c, "type");
    if (typed && !shared) return true;
    const json_t *values = values_of(s, a), *others = values_of(s, c);
    if (values && values_apart(s, values, c)) return json_object_get(c, "type") || others;
    if (others && values_apart(s, others, a)) return json_object_get(a, "type") || values;
    return typed && shared == SPEY_SCHEMA_OBJECT &&
           (objects_apart(s, a, c, depth) || objects_apart(s, c, a, depth));
}
