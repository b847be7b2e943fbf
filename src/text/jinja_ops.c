#include "text/jinja_ops.h"

#include <math.h>
#include <string.h>

#include "text/jinja_text.h"

static const char *const op_names[] = { "+",  "-", "*",  "/", "//", "%",  "**",    "==",
                                        "!=", "<", "<=", ">", ">=", "in", "not in" };

static spey_status unsupported(jinja_op op, jinja_value a, jinja_value b)
{
    if (a.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(a);
    if (b.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(b);
    if (op == JINJA_OP_ADD && a.kind == JINJA_STRING)
        return SPEY_FAIL(SPEY_INVALID, "can only concatenate str (not \"%s\") to str",
                         spey_jinja_type(b));
    return SPEY_FAIL(SPEY_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'",
                     op_names[op], spey_jinja_type(a), spey_jinja_type(b));
}

/* ---- numbers ---- */

static spey_status overflow(void)
{
    return SPEY_FAIL(SPEY_LIMIT, "integer beyond 64 bits");
}

static spey_status int_power(int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    while (exponent > 0) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) return overflow();
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) return overflow();
    }
    *out = result;
    return SPEY_OK;
}

/* Python rounds towards minus infinity. */
static spey_status int_divide(jinja_op op, int64_t a, int64_t b, int64_t *out)
{
    if (b == 0) return SPEY_FAIL(SPEY_INVALID, "integer division or modulo by zero");
    if (b == -1) {
        *out = 0;
        if (op == JINJA_OP_MOD) return SPEY_OK;
        return __builtin_sub_overflow(0, a, out) ? overflow() : SPEY_OK;
    }
    int64_t quotient = a / b, rest = a % b;
    bool adjust = rest != 0 && (rest < 0) != (b < 0);
    *out = op == JINJA_OP_MOD ? rest + (adjust ? b : 0) : quotient - adjust;
    return SPEY_OK;
}

/* Python's divmod of floats: the quotient is made from the remainder, so 1 // 0.1 is 9. */
static double float_divide(jinja_op op, double a, double b)
{
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        rest += b;
        quotient -= 1;
    }
    if (op == JINJA_OP_MOD) return rest != 0 ? rest : copysign(0, b);
    if (quotient == 0) return copysign(0, a / b);
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

static spey_status float_binary(jinja_op op, double a, double b, jinja_value *out)
{
    double result = 0;
    bool divides = op == JINJA_OP_DIV || op == JINJA_OP_FLOOR_DIV || op == JINJA_OP_MOD;
    if (b == 0 && divides) return SPEY_FAIL(SPEY_INVALID, "division by zero");
    switch (op) {
    case JINJA_OP_ADD: result = a + b; break;
    case JINJA_OP_SUB: result = a - b; break;
    case JINJA_OP_MUL: result = a * b; break;
    case JINJA_OP_DIV: result = a / b; break;
    case JINJA_OP_POW: result = pow(a, b); break;
    default: result = float_divide(op, a, b); break;
    }
    if (op == JINJA_OP_POW && isnan(result) && !isnan(a) && !isnan(b))
        return SPEY_FAIL(SPEY_UNSUPPORTED, "complex numbers are not supported");
    if (op == JINJA_OP_POW && isinf(result) && isfinite(a) && isfinite(b))
        return SPEY_FAIL(SPEY_INVALID, "result too large or division by zero in **");
    *out = spey_jinja_float(result);
    return SPEY_OK;
}

static spey_status int_binary(jinja_op op, int64_t a, int64_t b, jinja_value *out)
{
    int64_t result = 0;
    bool failed = false;
    switch (op) {
    case JINJA_OP_ADD: failed = __builtin_add_overflow(a, b, &result); break;
    case JINJA_OP_SUB: failed = __builtin_sub_overflow(a, b, &result); break;
    case JINJA_OP_MUL: failed = __builtin_mul_overflow(a, b, &result); break;
    case JINJA_OP_FLOOR_DIV:
    case JINJA_OP_MOD: SPEY_TRY(int_divide(op, a, b, &result)); break;
    case JINJA_OP_POW:
        if (b < 0) return float_binary(op, (double)a, (double)b, out);
        SPEY_TRY(int_power(a, b, &result));
        break;
    default: return float_binary(op, (double)a, (double)b, out);
    }
    if (failed) return overflow();
    *out = spey_jinja_int(result);
    return SPEY_OK;
}

spey_status spey_jinja_negate(jinja_render *render, jinja_value v, bool minus, jinja_value *out)
{
    (void)render;
    int64_t whole;
    if (v.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(v);
    if (spey_jinja_whole(v, &whole)) {
        if (minus && __builtin_sub_overflow(0, whole, &whole)) return overflow();
        *out = spey_jinja_int(whole);
        return SPEY_OK;
    }
    if (v.kind != JINJA_FLOAT)
        return SPEY_FAIL(SPEY_INVALID, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                         spey_jinja_type(v));
    *out = spey_jinja_float(minus ? -v.real : v.real);
    return SPEY_OK;
}

/* ---- sequences ---- */

static spey_status join_texts(jinja_render *render, jinja_value a, jinja_value b, jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    spey_strbuf_append(&buf, a.text, a.len);
    spey_strbuf_append(&buf, b.text, b.len);
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

static spey_status join_lists(jinja_render *render, jinja_value a, jinja_value b, jinja_value *out)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, a.list->n + b.list->n, &list));
    for (size_t i = 0; i < a.list->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, list, a.list->items[i]));
    for (size_t i = 0; i < b.list->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, list, b.list->items[i]));
    *out = spey_jinja_of_list(a.kind, list);
    return SPEY_OK;
}

static spey_status repeat(jinja_render *render, jinja_value v, int64_t times, jinja_value *out)
{
    if (times < 0) times = 0;
    if (v.kind == JINJA_STRING) {
        spey_strbuf buf = spey_jinja_buffer();
        for (int64_t i = 0; i < times && v.len && !spey_strbuf_status(&buf); i++)
            spey_strbuf_append(&buf, v.text, v.len);
        return spey_jinja_take_text(render, SPEY_OK, &buf, out);
    }
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    for (int64_t i = 0; i < times && v.list->n; i++)
        for (size_t j = 0; j < v.list->n; j++)
            SPEY_TRY(spey_jinja_list_push(render, list, v.list->items[j]));
    *out = spey_jinja_of_list(v.kind, list);
    return SPEY_OK;
}

static bool is_sequence(jinja_value v)
{
    return v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE;
}

spey_status spey_jinja_binary(jinja_render *render, jinja_op op, jinja_value a, jinja_value b,
                              jinja_value *out)
{
    int64_t i = 0, j = 0;
    double x = 0, y = 0;
    bool a_whole = spey_jinja_whole(a, &i), b_whole = spey_jinja_whole(b, &j);
    if (a_whole && b_whole) return int_binary(op, i, j, out);
    if (spey_jinja_number(a, &x) && spey_jinja_number(b, &y)) return float_binary(op, x, y, out);
    if (op == JINJA_OP_ADD && a.kind == b.kind && is_sequence(a))
        return a.kind == JINJA_STRING ? join_texts(render, a, b, out)
                                      : join_lists(render, a, b, out);
    if (op == JINJA_OP_MUL && is_sequence(a) && b_whole) return repeat(render, a, j, out);
    if (op == JINJA_OP_MUL && is_sequence(b) && a_whole) return repeat(render, b, i, out);
    if (op == JINJA_OP_MOD && a.kind == JINJA_STRING) return spey_jinja_percent(render, a, b, out);
    return unsupported(op, a, b);
}

spey_status spey_jinja_compare(jinja_render *render, jinja_op op, jinja_value a, jinja_value b,
                               bool *out)
{
    int order;
    switch (op) {
    case JINJA_OP_EQ: return spey_jinja_equal(render, a, b, out);
    case JINJA_OP_IN: return spey_jinja_contains(render, a, b, out);
    case JINJA_OP_NE: SPEY_TRY(spey_jinja_equal(render, a, b, out)); break;
    case JINJA_OP_NOT_IN: SPEY_TRY(spey_jinja_contains(render, a, b, out)); break;
    default:
        SPEY_TRY(spey_jinja_order(render, op_names[op], a, b, &order));
        *out = op == JINJA_OP_LT   ? order == -1
               : op == JINJA_OP_GT ? order == 1
               : op == JINJA_OP_LE ? order == -1 || order == 0
                                   : order == 1 || order == 0;
        return SPEY_OK;
    }
    *out = !*out;
    return SPEY_OK;
}

/* ---- attributes and items ---- */

static jinja_value loop_neighbour(const jinja_loop *loop, bool next)
{
    if (next && loop->index0 + 1 < loop->items->n) return loop->items->items[loop->index0 + 1];
    if (!next && loop->index0 > 0) return loop->items->items[loop->index0 - 1];
    const char *text = next ? "there is no next item" : "there is no previous item";
    return spey_jinja_undefined(JINJA_WHY_TEXT, JINJA_LOOP, text, strlen(text));
}

static bool loop_attribute(const jinja_loop *loop, jinja_value name, jinja_value *out)
{
    int64_t index0 = (int64_t)loop->index0, n = (int64_t)loop->items->n;
    if (spey_jinja_is_text(name, "index"))
        *out = spey_jinja_int(index0 + 1);
    else if (spey_jinja_is_text(name, "index0"))
        *out = spey_jinja_int(index0);
    else if (spey_jinja_is_text(name, "first"))
        *out = spey_jinja_bool(index0 == 0);
    else if (spey_jinja_is_text(name, "last"))
        *out = spey_jinja_bool(index0 + 1 == n);
    else if (spey_jinja_is_text(name, "length"))
        *out = spey_jinja_int(n);
    else if (spey_jinja_is_text(name, "revindex"))
        *out = spey_jinja_int(n - index0);
    else if (spey_jinja_is_text(name, "revindex0"))
        *out = spey_jinja_int(n - index0 - 1);
    else if (spey_jinja_is_text(name, "depth"))
        *out = spey_jinja_int(loop->depth0 + 1);
    else if (spey_jinja_is_text(name, "depth0"))
        *out = spey_jinja_int(loop->depth0);
    else if (spey_jinja_is_text(name, "previtem"))
        *out = loop_neighbour(loop, false);
    else if (spey_jinja_is_text(name, "nextitem"))
        *out = loop_neighbour(loop, true);
    else
        return false;
    return true;
}

/* Attributes that Python finds with getattr(): methods, and the fields of Jinja's own objects. */
static spey_status find_attribute(jinja_render *render, jinja_value object, jinja_value name,
                                  bool *found, jinja_value *out)
{
    *found = true;
    if (object.kind == JINJA_NAMESPACE) {
        jinja_value *value = spey_jinja_dict_find_text(object.dict, name.text, name.len);
        if (value) *out = *value;
        *found = value != NULL;
        return spey_jinja_work(render, object.dict->n / JINJA_ITEMS_PER_WORK);
    }
    if (object.kind == JINJA_LOOP && loop_attribute(object.loop, name, out)) return SPEY_OK;
    if (object.kind == JINJA_MACRO && spey_jinja_is_text(name, "name")) {
        *out = spey_jinja_text(object.macro->node->text, object.macro->node->len);
        return SPEY_OK;
    }
    bool is_unsafe = name.len > 4 && memcmp(name.text, "__", 2) == 0 &&
                     memcmp(name.text + name.len - 2, "__", 2) == 0;
    const jinja_builtin *builtin =
        is_unsafe ? NULL : spey_jinja_find_method(object.kind, name.text, name.len, &is_unsafe);
    if (is_unsafe) {
        *out = spey_jinja_undefined(JINJA_WHY_UNSAFE, object.kind, name.text, name.len);
        return SPEY_OK;
    }
    *found = builtin != NULL;
    if (!builtin) return SPEY_OK;
    jinja_method *method = spey_jinja_alloc(render, 1, sizeof *method);
    if (!method) return spey_jinja_no_memory(render);
    *method = (jinja_method){ .self = object, .builtin = builtin };
    *out = (jinja_value){ .kind = JINJA_METHOD, .method = method };
    return SPEY_OK;
}

/* A character or element by Python's index. */
static spey_status element_at(jinja_render *render, jinja_value object, int64_t index, bool *found,
                              jinja_value *out)
{
    bool has;
    size_t n;
    *found = false;
    SPEY_TRY(spey_jinja_length(render, object, &has, &n));
    if (index < 0) index += (int64_t)n;
    if (index < 0 || (uint64_t)index >= n) return SPEY_OK;
    *found = true;
    if (object.kind == JINJA_STRING) {
        size_t begin = spey_jinja_utf8_offset(object.text, object.len, (size_t)index), size;
        spey_jinja_utf8_decode(object.text + begin, &size);
        *out = spey_jinja_text(object.text + begin, size);
    } else {
        *out = object.list->items[index];
    }
    return SPEY_OK;
}

/* object[index] as Python does it; what raises there is not found here. */
static spey_status subscribe(jinja_render *render, jinja_value object, jinja_value index,
                             bool *found, jinja_value *out)
{
    int64_t whole;
    jinja_value *value;
    *found = false;
    switch (object.kind) {
    case JINJA_DICT:
        if (index.kind == JINJA_LIST || index.kind == JINJA_DICT) return SPEY_OK;
        SPEY_TRY(spey_jinja_dict_find(render, object.dict, index, &value));
        *found = value != NULL;
        if (value) *out = *value;
        return SPEY_OK;
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
        if (!spey_jinja_whole(index, &whole)) return SPEY_OK;
        return element_at(render, object, whole, found, out);
    default: return SPEY_OK;
    }
}

spey_status spey_jinja_attribute(jinja_render *render, jinja_value object, const char *name,
                                 size_t len, jinja_value *out)
{
    bool found;
    jinja_value text = spey_jinja_text(name, len);
    if (object.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(object);
    SPEY_TRY(find_attribute(render, object, text, &found, out));
    if (!found) SPEY_TRY(subscribe(render, object, text, &found, out));
    if (!found) *out = spey_jinja_undefined(JINJA_WHY_ATTRIBUTE, object.kind, name, len);
    return SPEY_OK;
}

spey_status spey_jinja_item(jinja_render *render, jinja_value object, jinja_value index,
                            jinja_value *out)
{
    bool found;
    if (object.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(object);
    SPEY_TRY(subscribe(render, object, index, &found, out));
    if (!found && index.kind == JINJA_STRING)
        SPEY_TRY(find_attribute(render, object, index, &found, out));
    if (found) return SPEY_OK;
    *out = index.kind == JINJA_STRING
               ? spey_jinja_undefined(JINJA_WHY_ATTRIBUTE, object.kind, index.text, index.len)
               : spey_jinja_undefined(JINJA_WHY_ELEMENT, object.kind, "", 0);
    return SPEY_OK;
}

/* ---- slices ---- */

/* Python's slice.indices(n). */
static spey_status slice_bounds(const jinja_value parts[3], int64_t n, int64_t bounds[3])
{
    int64_t given[3];
    for (int i = 0; i < 3; i++)
        if (parts[i].kind != JINJA_NONE && !spey_jinja_whole(parts[i], &given[i]))
            return SPEY_FAIL(SPEY_INVALID, "slice indices must be integers or None");
    int64_t step = parts[2].kind == JINJA_NONE ? 1 : given[2];
    if (step == 0) return SPEY_FAIL(SPEY_INVALID, "slice step cannot be zero");
    if (step < -n - 1) step = -n - 1; /* one step leaves the sequence either way */
    if (step > n + 1) step = n + 1;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        if (parts[i].kind == JINJA_NONE) {
            bounds[i] = (i == 0) == (step > 0) ? low : high;
            continue;
        }
        int64_t at = given[i];
        if (at < 0) at = at < -n ? -1 : at + n;
        bounds[i] = at < low ? low : at > high ? high : at;
    }
    bounds[2] = step;
    return SPEY_OK;
}

static spey_status slice_text(jinja_render *render, jinja_value v, const int64_t bounds[3],
                              jinja_value *out)
{
    if (bounds[2] == 1) {
        if (bounds[0] >= bounds[1]) {
            *out = spey_jinja_literal("");
            return SPEY_OK;
        }
        size_t begin = spey_jinja_utf8_offset(v.text, v.len, (size_t)bounds[0]);
        size_t n =
            spey_jinja_utf8_offset(v.text + begin, v.len - begin, (size_t)(bounds[1] - bounds[0]));
        *out = spey_jinja_text(v.text + begin, n);
        return SPEY_OK;
    }
    jinja_list *characters;
    SPEY_TRY(spey_jinja_iterate(render, v, &characters));
    spey_strbuf buf = spey_jinja_buffer();
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1]; i += bounds[2])
        spey_strbuf_append(&buf, characters->items[i].text, characters->items[i].len);
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

static spey_status slice_list(jinja_render *render, jinja_value v, const int64_t bounds[3],
                              jinja_value *out)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1]; i += bounds[2])
        SPEY_TRY(spey_jinja_list_push(render, list, v.list->items[i]));
    if (v.kind == JINJA_RANGE) { /* only for printing, so wrapping is fine */
        uint64_t start = (uint64_t)v.list->range[0], step = (uint64_t)v.list->range[2];
        for (int i = 0; i < 2; i++)
            list->range[i] = (int64_t)(start + (uint64_t)bounds[i] * step);
        list->range[2] = (int64_t)(step * (uint64_t)bounds[2]);
    }
    *out = spey_jinja_of_list(v.kind, list);
    return SPEY_OK;
}

spey_status spey_jinja_slice(jinja_render *render, jinja_value object, const jinja_value parts[3],
                             jinja_value *out)
{
    bool has;
    size_t n;
    int64_t bounds[3];
    switch (object.kind) {
    case JINJA_UNDEFINED: return spey_jinja_fail_undefined(object);
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE: break;
    default:
        return SPEY_FAIL(SPEY_INVALID, "'%s' object cannot be sliced", spey_jinja_type(object));
    }
    SPEY_TRY(spey_jinja_length(render, object, &has, &n));
    SPEY_TRY(slice_bounds(parts, (int64_t)n, bounds));
    return object.kind == JINJA_STRING ? slice_text(render, object, bounds, out)
                                       : slice_list(render, object, bounds, out);
}
