/* Values that hold others: objects and arrays of JSON schemas. */
#include <string.h>

#include "base/limits.h"
#include "text/guide_schema.h"

/* ---- any value, and what stands between values ---- */

static const spey_guide_expr *mark(spey_schema *s, int32_t *rule, const char *text)
{
    if (*rule < 0) {
        *rule = spey_guide_rule_declare(s->b, text, 1);
        const spey_guide_expr *space = spey_guide_optional(s->b, spey_guide_text(s->b, " "));
        if (*rule >= 0)
            spey_guide_rule_define(s->b, *rule,
                                   spey_guide_seq2(s->b, spey_guide_text(s->b, text), space));
    }
    return spey_guide_rule_ref(s->b, *rule);
}

const spey_guide_expr *spey_schema_comma(spey_schema *s)
{
    return mark(s, &s->comma_rule, ",");
}

const spey_guide_expr *spey_schema_colon(spey_schema *s)
{
    return mark(s, &s->colon_rule, ":");
}

/* `open` items between commas `close`; `max` SPEY_GUIDE_UNBOUNDED: any number. */
static const spey_guide_expr *enclosed(spey_schema *s, const char *open,
                                       const spey_guide_expr *inside, const char *close)
{
    return spey_guide_seq2(s->b, spey_guide_text(s->b, open),
                           spey_guide_seq2(s->b, inside, spey_guide_text(s->b, close)));
}

/* Items between commas, at least one. */
static const spey_guide_expr *listed(spey_schema *s, const spey_guide_expr *item)
{
    const spey_guide_expr *more = spey_guide_seq2(s->b, spey_schema_comma(s), item);
    return spey_guide_seq2(s->b, item, spey_guide_repeat(s->b, more, 0, SPEY_GUIDE_UNBOUNDED));
}

static const spey_guide_expr *pair(spey_schema *s, const spey_guide_expr *key,
                                   const spey_guide_expr *value)
{
    return spey_guide_seq2(s->b, key, spey_guide_seq2(s->b, spey_schema_colon(s), value));
}

const spey_guide_expr *spey_schema_any_value(spey_schema *s)
{
    spey_guide_builder *b = s->b;
    if (s->value_rule >= 0) return spey_guide_rule_ref(b, s->value_rule);
    s->value_rule = spey_guide_rule_declare(b, "value", 5);
    if (s->value_rule < 0) return spey_guide_fail(b, b->status);
    const spey_guide_expr *value = spey_guide_rule_ref(b, s->value_rule);
    const spey_guide_expr *member = pair(s, spey_schema_any_string(s), value);
    spey_guide_list list = { 0 };
    spey_guide_list_push(b, &list,
                         enclosed(s, "{", spey_guide_optional(b, listed(s, member)), "}"));
    spey_guide_list_push(b, &list, enclosed(s, "[", spey_guide_optional(b, listed(s, value)), "]"));
    spey_guide_list_push(b, &list, spey_schema_any_string(s));
    spey_guide_list_push(b, &list, spey_schema_number(s, NULL, true));
    spey_guide_list_push(b, &list, spey_guide_text(b, "true"));
    spey_guide_list_push(b, &list, spey_guide_text(b, "false"));
    spey_guide_list_push(b, &list, spey_guide_text(b, "null"));
    spey_guide_rule_define(b, s->value_rule, spey_guide_alt(b, list));
    return value;
}

/* ---- objects ---- */

typedef struct property {
    const spey_guide_expr *pair;
    bool required;
} property;

typedef struct object {
    spey_schema *s;
    property *properties;
    size_t n;
    const spey_guide_expr *extra; /* one more pair, NULL: none */
} object;

static bool is_required(const json_t *schema, const char *key)
{
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && !strcmp(name, key)) return true;
    }
    return false;
}

static void add_property(object *o, const char *key, const json_t *schema, bool required)
{
    spey_schema *s = o->s;
    json_t *name = json_string(key);
    size_t before = spey_schema_enter(s, key);
    const spey_guide_expr *value = spey_schema_read(s, schema);
    spey_schema_leave(s, before);
    if (name)
        o->properties[o->n++] =
            (property){ pair(s, spey_schema_constant(s, name), value), required };
    else
        spey_guide_fail(s->b, SPEY_FAIL(SPEY_NOMEM, "out of memory while reading a JSON schema"));
    json_decref(name);
}

/* Required names that "properties" does not have take what additionalProperties says. */
static void add_undeclared(object *o, const json_t *schema, const json_t *properties)
{
    spey_schema *s = o->s;
    const json_t *required = json_object_get(schema, "required");
    const json_t *extra = json_object_get(schema, "additionalProperties");
    if (required && !json_is_array(required))
        spey_schema_fail(s, SPEY_FORMAT, "\"required\" must be a list of names");
    for (size_t i = 0; i < json_array_size(required) && !s->b->status; i++) {
        const char *key = json_string_value(json_array_get(required, i));
        if (!key) spey_schema_fail(s, SPEY_FORMAT, "\"required\" must be a list of names");
        if (!key || json_object_get(properties, key)) continue;
        bool again = false;
        for (size_t k = 0; k < i && !again; k++) {
            const char *earlier = json_string_value(json_array_get(required, k));
            again = earlier && !strcmp(earlier, key);
        }
        json_t *any = json_true();
        if (!again) add_property(o, key, extra ? extra : any, true);
    }
}

/* Rules for what may follow property i: one where a pair came before, so that a comma is due, and one where none did. Built
 * from the last to the first, so that all properties share what follows. */
static const spey_guide_expr *members(object *o)
{
    spey_schema *s = o->s;
    spey_guide_builder *b = s->b;
    const spey_guide_expr *due = spey_guide_empty(), *first = spey_guide_empty();
    if (o->extra) {
        const spey_guide_expr *more = spey_guide_seq2(b, spey_schema_comma(s), o->extra);
        due = spey_guide_repeat(b, more, 0, SPEY_GUIDE_UNBOUNDED);
        first = spey_guide_optional(b, listed(s, o->extra));
    }
    for (size_t i = o->n; i-- > 0 && !b->status;) {
        const property *p = &o->properties[i];
        int32_t after = spey_guide_rule_declare(b, "members", 7);
        if (after < 0) break;
        spey_guide_rule_define(b, after, due);
        const spey_guide_expr *taken = spey_guide_seq2(b, p->pair, spey_guide_rule_ref(b, after));
        const spey_guide_expr *with_comma = spey_guide_seq2(b, spey_schema_comma(s), taken);
        if (p->required) {
            first = taken;
            due = with_comma;
            continue;
        }
        int32_t skipped = spey_guide_rule_declare(b, "members", 7);
        if (skipped < 0) break;
        spey_guide_rule_define(b, skipped, first);
        first = spey_guide_alt2(b, taken, spey_guide_rule_ref(b, skipped));
        due = spey_guide_alt2(b, with_comma, spey_guide_rule_ref(b, after));
    }
    return first;
}

const spey_guide_expr *spey_schema_object(spey_schema *s, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *extra = json_object_get(schema, "additionalProperties");
    size_t n_max =
        json_object_size(properties) + json_array_size(json_object_get(schema, "required"));
    object o = { .s = s };
    o.properties = spey_arena_array(&s->b->arena, n_max, sizeof *o.properties);
    if (!o.properties) return spey_guide_fail(s->b, SPEY_NOMEM);
    if (!spey_schema_spend(s, n_max * json_array_size(json_object_get(schema, "required"))))
        return spey_guide_fail(s->b, s->b->status);
    if (properties && !json_is_object(properties))
        return spey_schema_fail(s, SPEY_FORMAT, "\"properties\" must be an object");
    size_t before = spey_schema_enter(s, "properties");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)properties, key, value)
    {
        if (!json_is_false(value) || is_required(schema, key))
            add_property(&o, key, value, is_required(schema, key));
    }
    spey_schema_leave(s, before);
    add_undeclared(&o, schema, properties);
    bool open = extra ? !json_is_false(extra) : !properties && !o.n;
    if (open) {
        before = spey_schema_enter(s, "additionalProperties");
        const spey_guide_expr *any = extra ? spey_schema_read(s, extra) : spey_schema_any_value(s);
        o.extra = pair(s, spey_schema_other_key(s, properties), any);
        spey_schema_leave(s, before);
    }
    return enclosed(s, "{", members(&o), "}");
}

/* ---- arrays ---- */

typedef struct array {
    spey_schema *s;
    const json_t *prefix;
    const spey_guide_expr *item; /* beyond the prefix; NULL: none */
    int32_t min, max;
} array;

/* Items from number `at` on, with a comma first; from the end to the beginning. */
static const spey_guide_expr *tail(array *a, size_t from)
{
    spey_schema *s = a->s;
    spey_guide_builder *b = s->b;
    int32_t n_prefix = (int32_t)json_array_size(a->prefix);
    int32_t min = a->min > n_prefix ? a->min - n_prefix : 0;
    int32_t max = a->max == SPEY_GUIDE_UNBOUNDED ? a->max : a->max - n_prefix;
    const spey_guide_expr *e = spey_guide_empty();
    if (a->item && (max == SPEY_GUIDE_UNBOUNDED || max > 0))
        e = spey_guide_repeat(b, spey_guide_seq2(b, spey_schema_comma(s), a->item), min, max);
    for (int32_t i = n_prefix; i-- > (int32_t)from && !b->status;) {
        if (a->max != SPEY_GUIDE_UNBOUNDED && i >= a->max) continue;
        size_t before = spey_schema_enter(s, "prefixItems"),
               inner = spey_schema_enter_index(s, (size_t)i);
        const spey_guide_expr *one = spey_schema_read(s, json_array_get(a->prefix, (size_t)i));
        spey_schema_leave(s, inner);
        spey_schema_leave(s, before);
        const spey_guide_expr *comma = i ? spey_schema_comma(s) : spey_guide_empty();
        e = spey_guide_seq2(b, comma, spey_guide_seq2(b, one, e));
        if (i >= a->min) e = spey_guide_optional(b, e);
    }
    return e;
}

/* Items when there is no prefix. */
static const spey_guide_expr *items_alone(array *a)
{
    spey_guide_builder *b = a->s->b;
    if (!a->item || a->max == 0) return spey_guide_empty();
    const spey_guide_expr *more = spey_guide_seq2(b, spey_schema_comma(a->s), a->item);
    int32_t max = a->max == SPEY_GUIDE_UNBOUNDED ? a->max : a->max - 1;
    const spey_guide_expr *e =
        spey_guide_seq2(b, a->item, spey_guide_repeat(b, more, a->min > 0 ? a->min - 1 : 0, max));
    return a->min > 0 ? e : spey_guide_optional(b, e);
}

/* The schema of further items as a rule, since it stands in several places. */
static const spey_guide_expr *read_item(spey_schema *s, const json_t *items)
{
    int32_t rule = spey_guide_rule_declare(s->b, "items", 5);
    size_t before = spey_schema_enter(s, "items");
    const spey_guide_expr *e = items ? spey_schema_read(s, items) : spey_schema_any_value(s);
    spey_schema_leave(s, before);
    if (rule < 0) return spey_guide_fail(s->b, s->b->status);
    spey_guide_rule_define(s->b, rule, e);
    return spey_guide_rule_ref(s->b, rule);
}

const spey_guide_expr *spey_schema_array(spey_schema *s, const json_t *schema)
{
    const json_t *items = json_object_get(schema, "items");
    array a = { .s = s,
                .prefix = json_object_get(schema, "prefixItems"),
                .min = spey_schema_count(s, schema, "minItems", 0),
                .max = spey_schema_count(s, schema, "maxItems", SPEY_GUIDE_UNBOUNDED) };
    int32_t n_prefix = (int32_t)json_array_size(a.prefix);
    if (json_is_array(items))
        return spey_schema_fail(s, SPEY_UNSUPPORTED, "a list of items is now called prefixItems");
    if (a.prefix && !json_is_array(a.prefix))
        return spey_schema_fail(s, SPEY_FORMAT, "\"prefixItems\" must be a list of schemas");
    if (a.max != SPEY_GUIDE_UNBOUNDED && a.max < a.min)
        return spey_schema_fail(s, SPEY_FORMAT, "maxItems is less than minItems");
    /* Items that nothing is said about come only where they must. */
    if (!json_is_false(items) && (items || n_prefix == 0 || a.min > n_prefix))
        a.item = read_item(s, items);
    if (!a.item && a.min > n_prefix)
        return spey_schema_fail(s, SPEY_FORMAT, "minItems is more than there are items");
    return enclosed(s, "[", n_prefix ? tail(&a, 0) : items_alone(&a), "]");
}
