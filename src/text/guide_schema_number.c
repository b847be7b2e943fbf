/* Numbers of JSON schemas: integers of up to 16 digits, others with up to 15 decimals; bounds are checked digit by digit. */
#include <math.h>
#include <string.h>

#include "text/guide_schema.h"

#define DIGITS_MAX 16
#define LARGEST INT64_C(9999999999999999) /* DIGITS_MAX nines */
enum { DECIMALS_MAX = 15 };

/* ---- digits ---- */

static const spey_guide_expr *digits(spey_guide_builder *b, char first, char last, int32_t min,
                                     int32_t max)
{
    spey_guide_class set = { 0 };
    spey_guide_class_add(b, &set, (unsigned char)first, (unsigned char)last);
    const spey_guide_expr *e = spey_guide_class_expr(b, &set);
    return min == 1 && max == 1 ? e : spey_guide_repeat(b, e, min, max);
}

static bool all(const char *text, char c)
{
    for (; *text; text++)
        if (*text != c) return false;
    return true;
}

/* Texts of digits between two of the same length. */
static const spey_guide_expr *between(spey_guide_builder *b, const char *low, const char *high)
{
    int32_t n = (int32_t)strlen(low);
    if (n == 0) return spey_guide_empty();
    if (all(low, '0') && all(high, '9')) return digits(b, '0', '9', n, n);
    if (low[0] == high[0])
        return spey_guide_seq2(b, digits(b, low[0], low[0], 1, 1), between(b, low + 1, high + 1));
    static const char zeros[] = "0000000000000000", nines[] = "9999999999999999";
    spey_guide_list list = { 0 };
    char first = low[0], last = high[0];
    if (!all(low + 1, '0'))
        spey_guide_list_push(b, &list,
                             spey_guide_seq2(b, digits(b, first, first, 1, 1),
                                             between(b, low + 1, nines + DIGITS_MAX - n + 1)));
    if (!all(high + 1, '9'))
        spey_guide_list_push(b, &list,
                             spey_guide_seq2(b, digits(b, last, last, 1, 1),
                                             between(b, zeros + DIGITS_MAX - n + 1, high + 1)));
    first = (char)(first + !all(low + 1, '0'));
    last = (char)(last - !all(high + 1, '9'));
    if (first <= last)
        spey_guide_list_push(
            b, &list,
            spey_guide_seq2(b, digits(b, first, last, 1, 1), digits(b, '0', '9', n - 1, n - 1)));
    return spey_guide_alt(b, list);
}

/* Integers from low to high, 0 <= low, without leading zeros. */
static const spey_guide_expr *naturals(spey_guide_builder *b, int64_t low, int64_t high)
{
    spey_guide_list list = { 0 };
    int64_t first = 1; /* of this length */
    for (int n = 1; n <= DIGITS_MAX; n++, first *= 10) {
        int64_t from = n == 1 ? 0 : first, to = first * 10 - 1;
        from = low > from ? low : from;
        to = high < to ? high : to;
        if (from > to) continue;
        char a[24], c[24];
        snprintf(a, sizeof a, "%lld", (long long)from);
        snprintf(c, sizeof c, "%lld", (long long)to);
        spey_guide_list_push(b, &list, between(b, a, c));
    }
    return spey_guide_alt(b, list);
}

static const spey_guide_expr *negative(spey_guide_builder *b, const spey_guide_expr *e)
{
    return spey_guide_seq2(b, spey_guide_text(b, "-"), e);
}

static const spey_guide_expr *integers(spey_guide_builder *b, int64_t low, int64_t high)
{
    spey_guide_list list = { 0 };
    if (high >= 0) spey_guide_list_push(b, &list, naturals(b, low > 0 ? low : 0, high));
    if (low < 0)
        spey_guide_list_push(b, &list, negative(b, naturals(b, high < 0 ? -high : 1, -low)));
    return spey_guide_alt(b, list);
}

/* ---- numbers with decimals ---- */

typedef struct range {
    double low, high;
    bool low_open, high_open; /* the bound itself is out */
} range;

static const spey_guide_expr *decimals(spey_guide_builder *b)
{
    return spey_guide_seq2(b, spey_guide_text(b, "."), digits(b, '0', '9', 1, DECIMALS_MAX));
}

/* Decimals that are not all zero. */
static const spey_guide_expr *some_decimals(spey_guide_builder *b)
{
    const spey_guide_expr *zeros = digits(b, '0', '0', 0, DECIMALS_MAX / 2);
    const spey_guide_expr *rest = digits(b, '0', '9', 0, DECIMALS_MAX / 2);
    return spey_guide_seq2(
        b, spey_guide_text(b, "."),
        spey_guide_seq2(b, zeros, spey_guide_seq2(b, digits(b, '1', '9', 1, 1), rest)));
}

/* Numbers from r.low >= 0 to r.high: integer parts whose decimals may be anything, and the bounds themselves. Between a bound
 * with decimals and the next integer nothing is made. */
static const spey_guide_expr *positives(spey_guide_builder *b, range r)
{
    spey_guide_list list = { 0 };
    int64_t low = (int64_t)ceil(r.low), high = (int64_t)floor(r.high);
    bool open = r.low_open && ceil(r.low) == r.low;
    if (open && low + 1 <= high)
        spey_guide_list_push(b, &list, spey_guide_seq2(b, naturals(b, low, low), some_decimals(b)));
    low += open;
    if (low <= high - 1)
        spey_guide_list_push(
            b, &list,
            spey_guide_seq2(b, naturals(b, low, high - 1), spey_guide_optional(b, decimals(b))));
    bool high_out = r.high_open && floor(r.high) == r.high;
    if (low <= high && !high_out) spey_guide_list_push(b, &list, naturals(b, high, high));
    return spey_guide_alt(b, list);
}

static const spey_guide_expr *reals(spey_guide_builder *b, range r)
{
    spey_guide_list list = { 0 };
    if (r.high >= 0) {
        range up = { fmax(r.low, 0), r.high, r.low >= 0 && r.low_open, r.high_open };
        spey_guide_list_push(b, &list, positives(b, up));
    }
    if (r.low < 0) {
        range down = { fmax(-r.high, 0), -r.low, r.high >= 0 || r.high_open, r.low_open };
        spey_guide_list_push(b, &list, negative(b, positives(b, down)));
    }
    return spey_guide_alt(b, list);
}

/* Any number: with an exponent, too, but none that overflows a double. */
static const spey_guide_expr *any_number(spey_guide_builder *b)
{
    const spey_guide_expr *sign = spey_guide_optional(b, spey_guide_text(b, "-"));
    spey_guide_list marks = { 0 };
    static const char *const exponents[] = { "e", "E", "e-", "E-", "e+", "E+" };
    for (size_t i = 0; i < sizeof exponents / sizeof *exponents; i++)
        spey_guide_list_push(b, &marks, spey_guide_text(b, exponents[i]));
    const spey_guide_expr *exponent =
        spey_guide_seq2(b, spey_guide_alt(b, marks), digits(b, '0', '9', 1, 2));
    const spey_guide_expr *rest =
        spey_guide_seq2(b, spey_guide_optional(b, decimals(b)), spey_guide_optional(b, exponent));
    return spey_guide_seq2(b, sign, spey_guide_seq2(b, naturals(b, 0, LARGEST), rest));
}

/* ---- bounds ---- */

/* Tighten a bound of `r` by a keyword. */
static void take_bound(spey_schema *s, const json_t *schema, const char *key, range *r)
{
    const json_t *value = json_object_get(schema, key);
    if (!value) return;
    size_t before = spey_schema_enter(s, key);
    if (!json_is_number(value)) spey_schema_fail(s, SPEY_FORMAT, "a number is expected");
    spey_schema_leave(s, before);
    double bound = json_number_value(value);
    bool open = key[0] == 'e', is_low = strstr(key, "inimum") != NULL;
    if (is_low && (bound > r->low || (bound == r->low && open))) {
        r->low = bound;
        r->low_open = open;
    } else if (!is_low && (bound < r->high || (bound == r->high && open))) {
        r->high = bound;
        r->high_open = open;
    }
}

const spey_guide_expr *spey_schema_number(spey_schema *s, const json_t *schema, bool with_reals)
{
    const double largest = (double)LARGEST;
    range r = { -largest, largest, false, false };
    if (schema) {
        take_bound(s, schema, "minimum", &r);
        take_bound(s, schema, "exclusiveMinimum", &r);
        take_bound(s, schema, "maximum", &r);
        take_bound(s, schema, "exclusiveMaximum", &r);
    }
    if (!(r.low >= -largest && r.high <= largest))
        return spey_schema_fail(s, SPEY_UNSUPPORTED, "a bound has more than 16 digits");
    bool bounded = r.low > -largest || r.high < largest;
    if (with_reals && !bounded) return any_number(s->b);
    int64_t low = (int64_t)ceil(r.low), high = (int64_t)floor(r.high);
    if (with_reals) {
        if (low > high)
            return spey_schema_fail(s, SPEY_UNSUPPORTED, "no integer lies between the bounds");
        return reals(s->b, r);
    }
    low += r.low_open && (double)low == r.low;
    high -= r.high_open && (double)high == r.high;
    if (low > high) return spey_schema_fail(s, SPEY_FORMAT, "nothing lies between the bounds");
    return integers(s->b, low, high);
}
