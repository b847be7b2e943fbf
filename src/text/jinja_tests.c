/* The tests behind `is`. */
#include <string.h>

#include "text/jinja_ops.h"
#include "text/jinja_text.h"

#define TEST(name)                                                                                 \
    static spey_status test_##name(jinja_render *render, jinja_value self, const jinja_args *args, \
                                   jinja_value *out)

static spey_status answer(bool holds, jinja_value *out)
{
    *out = spey_jinja_bool(holds);
    return SPEY_OK;
}

/* Tests of the kind alone. */
#define KIND_TEST(name, holds)     \
    TEST(name)                     \
    {                              \
        (void)render;              \
        (void)args;                \
        return answer(holds, out); \
    }

KIND_TEST(defined, self.kind != JINJA_UNDEFINED)
KIND_TEST(undefined, self.kind == JINJA_UNDEFINED)
KIND_TEST(none, self.kind == JINJA_NONE)
KIND_TEST(boolean, self.kind == JINJA_BOOL)
KIND_TEST(is_true, self.kind == JINJA_BOOL && self.boolean)
KIND_TEST(is_false, self.kind == JINJA_BOOL && !self.boolean)
KIND_TEST(integer, self.kind == JINJA_INT)
KIND_TEST(float, self.kind == JINJA_FLOAT)
KIND_TEST(number, self.kind == JINJA_INT || self.kind == JINJA_FLOAT || self.kind == JINJA_BOOL)
KIND_TEST(string, self.kind == JINJA_STRING)
KIND_TEST(mapping, self.kind == JINJA_DICT)
KIND_TEST(iterable, spey_jinja_is_iterable(self) || self.kind == JINJA_LOOP)
KIND_TEST(escaped, false && self.kind)

TEST(sequence)
{
    (void)args;
    bool has;
    size_t n;
    SPEY_TRY(spey_jinja_length(render, self, &has, &n));
    return answer(has && self.kind != JINJA_VIEW && self.kind != JINJA_LOOP, out);
}

TEST(callable)
{
    (void)render;
    (void)args;
    switch (self.kind) {
    case JINJA_UNDEFINED:
    case JINJA_MACRO:
    case JINJA_FUNCTION:
    case JINJA_METHOD:
    case JINJA_LOOP:
    case JINJA_JOINER: return answer(true, out);
    default: return answer(false, out);
    }
}

static spey_status compare(jinja_render *render, jinja_op op, jinja_value a, jinja_value b,
                           jinja_value *out)
{
    bool holds;
    SPEY_TRY(spey_jinja_compare(render, op, a, b, &holds));
    return answer(holds, out);
}

#define COMPARE_TEST(name, op)                                            \
    TEST(name)                                                            \
    {                                                                     \
        return compare(render, JINJA_OP_##op, self, args->items[0], out); \
    }

COMPARE_TEST(eq, EQ)
COMPARE_TEST(ne, NE)
COMPARE_TEST(lt, LT)
COMPARE_TEST(le, LE)
COMPARE_TEST(gt, GT)
COMPARE_TEST(ge, GE)
COMPARE_TEST(in, IN)

/* x % d == rest */
static spey_status remainder_is(jinja_render *render, jinja_value x, jinja_value d, int64_t rest,
                                jinja_value *out)
{
    jinja_value remainder;
    bool equal;
    SPEY_TRY(spey_jinja_binary(render, JINJA_OP_MOD, x, d, &remainder));
    SPEY_TRY(spey_jinja_equal(render, remainder, spey_jinja_int(rest), &equal));
    return answer(equal, out);
}

TEST(odd)
{
    (void)args;
    return remainder_is(render, self, spey_jinja_int(2), 1, out);
}

TEST(even)
{
    (void)args;
    return remainder_is(render, self, spey_jinja_int(2), 0, out);
}

TEST(divisibleby)
{
    return remainder_is(render, self, args->items[0], 0, out);
}

TEST(sameas)
{
    jinja_value other = args->items[0];
    if (self.kind != other.kind) return answer(false, out);
    if (self.kind <= JINJA_STRING) return compare(render, JINJA_OP_EQ, self, other, out);
    return answer(self.list == other.list, out);
}

/* Python's islower and isupper of str(self). */
static spey_status all_cased(jinja_render *render, jinja_value self, jinja_case wanted,
                             jinja_value *out)
{
    jinja_value text;
    bool any = false, holds = true;
    SPEY_TRY(spey_jinja_to_str(render, self, &text));
    spey_strbuf one = spey_jinja_buffer();
    for (size_t i = 0; i < text.len && holds;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(text.text + i, &size);
        if (spey_jinja_has_case(code)) {
            any = true;
            spey_strbuf_reset(&one);
            spey_jinja_put_case(&one, code, wanted);
            if (spey_strbuf_status(&one)) break;
            holds = one.len == size && memcmp(one.data, text.text + i, size) == 0;
        }
        i += size;
    }
    spey_status status = spey_strbuf_status(&one);
    spey_strbuf_deinit(&one);
    return status ? status : answer(any && holds, out);
}

TEST(lower)
{
    (void)args;
    return all_cased(render, self, JINJA_LOWER, out);
}

TEST(upper)
{
    (void)args;
    return all_cased(render, self, JINJA_UPPER, out);
}

TEST(filter)
{
    (void)render;
    (void)args;
    return answer(self.kind == JINJA_STRING && spey_jinja_find_filter(self.text, self.len), out);
}

TEST(test)
{
    (void)render;
    (void)args;
    return answer(self.kind == JINJA_STRING && spey_jinja_find_test(self.text, self.len), out);
}

static const jinja_builtin tests[] = {
    { "defined", test_defined, "", 0 },    { "undefined", test_undefined, "", 0 },
    { "none", test_none, "", 0 },          { "boolean", test_boolean, "", 0 },
    { "true", test_is_true, "", 0 },       { "false", test_is_false, "", 0 },
    { "integer", test_integer, "", 0 },    { "float", test_float, "", 0 },
    { "number", test_number, "", 0 },      { "string", test_string, "", 0 },
    { "mapping", test_mapping, "", 0 },    { "iterable", test_iterable, "", 0 },
    { "sequence", test_sequence, "", 0 },  { "callable", test_callable, "", 0 },
    { "escaped", test_escaped, "", 0 },    { "in", test_in, "seq", 1 },
    { "eq", test_eq, "other", 1 },         { "equalto", test_eq, "other", 1 },
    { "==", test_eq, "other", 1 },         { "ne", test_ne, "other", 1 },
    { "!=", test_ne, "other", 1 },         { "lt", test_lt, "other", 1 },
    { "lessthan", test_lt, "other", 1 },   { "<", test_lt, "other", 1 },
    { "le", test_le, "other", 1 },         { "<=", test_le, "other", 1 },
    { "gt", test_gt, "other", 1 },         { "greaterthan", test_gt, "other", 1 },
    { ">", test_gt, "other", 1 },          { "ge", test_ge, "other", 1 },
    { ">=", test_ge, "other", 1 },         { "odd", test_odd, "", 0 },
    { "even", test_even, "", 0 },          { "divisibleby", test_divisibleby, "num", 1 },
    { "sameas", test_sameas, "other", 1 }, { "lower", test_lower, "", 0 },
    { "upper", test_upper, "", 0 },        { "filter", test_filter, "", 0 },
    { "test", test_test, "", 0 },
};

const jinja_builtin *spey_jinja_find_test(const char *name, size_t len)
{
    return spey_jinja_find_builtin(tests, sizeof tests / sizeof *tests, name, len);
}
