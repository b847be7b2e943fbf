#include "tensor/dtype.h"

#include <math.h>

#include "base/rng.h"
#include "temp_folder.h"

enum { N16 = 1 << 16 };

static uint16_t all_16[N16];
static float as_f32[N16];
static double as_f64[N16];
static uint16_t back[N16];

static int fill_all(void **state)
{
    (void)state;
    for (int i = 0; i < N16; i++)
        all_16[i] = (uint16_t)i;
    return 0;
}

/* Independent of the code under test: by the definition of the formats. */
static double f16_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    double magnitude = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                       : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                      : ldexp(mantissa, -24);
    return h >> 15 ? -magnitude : magnitude;
}

static double bf16_value(uint16_t h)
{
    int exponent = h >> 7 & 255, mantissa = h & 0x7f;
    double magnitude = exponent == 255 ? (mantissa ? (double)NAN : (double)INFINITY)
                       : exponent      ? ldexp(128 + mantissa, exponent - 134)
                                       : ldexp(mantissa, -133);
    return h >> 15 ? -magnitude : magnitude;
}

static bool same(double a, double b)
{
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static void every_16_bit_value_widens_exactly(void **state)
{
    (void)state;
    assert_true(spey_convert(as_f32, SPEY_F32, all_16, SPEY_F16, N16));
    assert_true(spey_convert(as_f64, SPEY_F64, all_16, SPEY_F16, N16));
    for (int i = 0; i < N16; i++) {
        assert_true(same((double)as_f32[i], f16_value((uint16_t)i)));
        assert_true(same(as_f64[i], f16_value((uint16_t)i)));
        assert_true(same((double)spey_f16_to_f32((uint16_t)i), f16_value((uint16_t)i)));
    }
    assert_true(spey_convert(as_f32, SPEY_F32, all_16, SPEY_BF16, N16));
    assert_true(spey_convert(as_f64, SPEY_F64, all_16, SPEY_BF16, N16));
    for (int i = 0; i < N16; i++) {
        assert_true(same((double)as_f32[i], bf16_value((uint16_t)i)));
        assert_true(same(as_f64[i], bf16_value((uint16_t)i)));
    }
}

static void every_16_bit_value_survives_a_round_trip(void **state)
{
    (void)state;
    static const spey_dtype narrow[] = { SPEY_F16, SPEY_BF16 };
    static const spey_dtype wide[] = { SPEY_F32, SPEY_F64 };
    for (int k = 0; k < 4; k++) {
        spey_dtype dtype = narrow[k / 2];
        assert_true(spey_convert(as_f64, wide[k % 2], all_16, dtype, N16));
        assert_true(spey_convert(back, dtype, as_f64, wide[k % 2], N16));
        for (int i = 0; i < N16; i++) {
            double value = dtype == SPEY_F16 ? f16_value((uint16_t)i) : bf16_value((uint16_t)i);
            if (isnan(value))
                assert_true(isnan(dtype == SPEY_F16 ? f16_value(back[i]) : bf16_value(back[i])));
            else
                assert_int_equal(back[i], i);
        }
    }
}

/* The nearest of the format's neighbours, the even one in a tie: searched, not computed. */
static uint16_t nearest_16(double x, double (*value)(uint16_t), uint16_t infinity)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double magnitude = fabs(x);
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (value(middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    /* Infinity stands where the next binade would begin. */
    double below = value(low);
    double above = high == infinity ? below + (below - value((uint16_t)(low - 1))) : value(high);
    double to_low = magnitude - below, to_high = above - magnitude;
    bool up = to_high < to_low || (to_high == to_low && low % 2);
    if (isinf(magnitude)) up = true;
    return (uint16_t)(sign | (up ? high : low));
}

static void check_narrowing(double x)
{
    uint16_t f16, bf16;
    assert_true(spey_convert(&f16, SPEY_F16, &x, SPEY_F64, 1));
    assert_true(spey_convert(&bf16, SPEY_BF16, &x, SPEY_F64, 1));
    assert_int_equal(f16, nearest_16(x, f16_value, 0x7c00));
    assert_int_equal(bf16, nearest_16(x, bf16_value, 0x7f80));
    float single = (float)x;
    assert_true(spey_convert(&f16, SPEY_F16, &single, SPEY_F32, 1));
    assert_true(spey_convert(&bf16, SPEY_BF16, &single, SPEY_F32, 1));
    assert_int_equal(f16, nearest_16((double)single, f16_value, 0x7c00));
    assert_int_equal(bf16, nearest_16((double)single, bf16_value, 0x7f80));
    assert_int_equal(f16, spey_f32_to_f16(single));
    assert_int_equal(bf16, spey_f32_to_bf16(single));
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    const double special[] = {
        0.0,     -0.0,   65504.0, 65519.9, 65520.0, 65536.0,          -65520.0,         1e30,
        -1e30,   3.4e38, 3.39e38, 1e300,   -1e300,  0x1p-24,          0x1p-25,          0x1.1p-25,
        0x1p-26, 1e-40,  -1e-45,  1e-300,  0x1p-14, (double)INFINITY, -(double)INFINITY
    };
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        check_narrowing(special[i]);
    /* Both sides of every tie of f16: where rounding twice would go wrong. */
    for (uint16_t h = 0; h < 0x7bff; h++) {
        double tie = (f16_value(h) + f16_value((uint16_t)(h + 1))) / 2;
        check_narrowing(tie);
        check_narrowing(tie * (1 + 0x1p-50));
        check_narrowing(-tie * (1 - 0x1p-50));
    }
    spey_rng rng = { .seed = 7 };
    for (int i = 0; i < 200000; i++)
        check_narrowing(ldexp(spey_rng_range(&rng, -2, 2), (int)spey_rng_below(&rng, 60) - 40));
}

static void a_nan_stays_a_nan(void **state)
{
    (void)state;
    float nan_f32 = spey_f32_from_bits(0x7f800001u); /* only low bits set */
    double nan_f64 = (double)NAN;
    uint16_t h;
    assert_true(spey_convert(&h, SPEY_BF16, &nan_f32, SPEY_F32, 1));
    assert_true(isnan(bf16_value(h)));
    assert_true(spey_convert(&h, SPEY_F16, &nan_f32, SPEY_F32, 1));
    assert_true(isnan(f16_value(h)));
    assert_true(spey_convert(&h, SPEY_F16, &nan_f64, SPEY_F64, 1));
    assert_true(isnan(f16_value(h)));
}

static void f16_and_bf16_convert_into_each_other(void **state)
{
    (void)state;
    assert_true(spey_convert(back, SPEY_BF16, all_16, SPEY_F16, N16));
    for (int i = 0; i < N16; i++)
        if (!isnan(f16_value((uint16_t)i)))
            assert_int_equal(back[i], nearest_16(f16_value((uint16_t)i), bf16_value, 0x7f80));
    assert_true(spey_convert(back, SPEY_F16, all_16, SPEY_BF16, N16));
    for (int i = 0; i < N16; i++)
        if (!isnan(bf16_value((uint16_t)i)))
            assert_int_equal(back[i], nearest_16(bf16_value((uint16_t)i), f16_value, 0x7c00));
}

static void neither_side_need_be_aligned(void **state)
{
    (void)state;
    float values[9] = { 1, -2, 3.5f, 0, 65504, 1e-5f, 7, 8, 9 };
    uint8_t src[sizeof values + 1], dst[2 * 9 + 1];
    memcpy(src + 1, values, sizeof values);
    assert_true(spey_convert(dst + 1, SPEY_F16, src + 1, SPEY_F32, 9));
    for (int i = 0; i < 9; i++) {
        uint16_t h;
        memcpy(&h, dst + 1 + 2 * i, 2);
        assert_int_equal(h, spey_f32_to_f16(values[i]));
    }
}

static void overflow_is_found_and_infinity_is_not_overflow(void **state)
{
    (void)state;
    float values[4] = { 1, INFINITY, 65520, -1e30f };
    uint16_t h[4];
    assert_true(spey_convert(h, SPEY_F16, values, SPEY_F32, 4));
    assert_int_equal(spey_convert_find_overflow(h, SPEY_F16, values, SPEY_F32, 4), 2);
    assert_int_equal(spey_convert_find_overflow(h, SPEY_F16, values, SPEY_F32, 2), -1);
    assert_true(spey_convert(h, SPEY_BF16, values, SPEY_F32, 4));
    assert_int_equal(spey_convert_find_overflow(h, SPEY_BF16, values, SPEY_F32, 4), -1);
    double big = 1e39;
    float single;
    assert_true(spey_convert(&single, SPEY_F32, &big, SPEY_F64, 1));
    assert_int_equal(spey_convert_find_overflow(&single, SPEY_F32, &big, SPEY_F64, 1), 0);
}

static void only_floats_convert(void **state)
{
    (void)state;
    int8_t i8 = 1;
    float f;
    assert_false(spey_convert(&f, SPEY_F32, &i8, SPEY_I8, 1));
    assert_false(spey_convert(&i8, SPEY_I8, &f, SPEY_F32, 1));
    assert_false(spey_dtype_is_float(SPEY_E4M3));
}

static void every_e4m3_value_survives_a_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < 256; i++) {
        uint8_t e = (uint8_t)i, again;
        float value = spey_e4m3_to_f32(e), widened;
        spey_e4m3_widen(&widened, &e, 1);
        spey_e4m3_quantize(&again, &value, 1, 1);
        if ((i & 0x7f) == SPEY_E4M3_NAN) {
            assert_true(value != value && widened != widened);
            assert_int_equal(again & 0x7f, SPEY_E4M3_NAN);
            continue;
        }
        assert_int_equal(again, i);
        assert_int_equal(spey_f32_to_e4m3(value), i);
        assert_int_equal(spey_f32_bits(value), spey_f32_bits(widened));
    }
    assert_true(spey_e4m3_to_f32(0x7e) == SPEY_E4M3_MAX);
    assert_true(spey_e4m3_to_f32(0x01) == 0x1p-9f && spey_e4m3_to_f32(0x88) == -0x1p-6f);
}

/* Between neighbours, and just beside the middle; both conversions say the same. */
static void e4m3_rounds_to_nearest_even_and_saturates(void **state)
{
    (void)state;
    for (int i = 0; i < 0x7e; i++) {
        double a = (double)spey_e4m3_to_f32((uint8_t)i),
               b = (double)spey_e4m3_to_f32((uint8_t)(i + 1));
        float middle = (float)((a + b) / 2);
        const float inputs[] = { middle, nextafterf(middle, 0), nextafterf(middle, 500) };
        const int expected[] = { i + (i & 1), i, i + 1 };
        for (int k = 0; k < 3; k++) {
            uint8_t e;
            float negative = -inputs[k];
            assert_int_equal(spey_f32_to_e4m3(inputs[k]), expected[k]);
            spey_e4m3_quantize(&e, &negative, 1, 1);
            assert_int_equal(e, expected[k] | 0x80);
        }
    }
    const float large[] = { 449, 464, 480, 1e30f, INFINITY };
    for (size_t k = 0; k < sizeof large / sizeof *large; k++) {
        uint8_t e;
        spey_e4m3_quantize(&e, &large[k], 1, 1);
        assert_int_equal(e, 0x7e);
        assert_int_equal(spey_f32_to_e4m3(-large[k]), 0xfe);
    }
}

static void dtypes_have_two_names(void **state)
{
    (void)state;
    spey_dtype dtype;
    assert_true(spey_dtype_from_name("bf16", 4, &dtype));
    assert_int_equal(dtype, SPEY_BF16);
    assert_true(spey_dtype_from_name("F8_E4M3", 7, &dtype));
    assert_int_equal(dtype, SPEY_E4M3);
    assert_false(spey_dtype_from_name("F4", 2, &dtype));
    assert_false(spey_dtype_from_name("", 0, &dtype));
    assert_string_equal(spey_dtype_name(SPEY_F16), "f16");
    assert_int_equal(spey_dtype_bytes(SPEY_DTYPE_COUNT), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_e4m3_value_survives_a_round_trip),
        cmocka_unit_test(e4m3_rounds_to_nearest_even_and_saturates),
        cmocka_unit_test(every_16_bit_value_widens_exactly),
        cmocka_unit_test(every_16_bit_value_survives_a_round_trip),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(a_nan_stays_a_nan),
        cmocka_unit_test(f16_and_bf16_convert_into_each_other),
        cmocka_unit_test(neither_side_need_be_aligned),
        cmocka_unit_test(overflow_is_found_and_infinity_is_not_overflow),
        cmocka_unit_test(only_floats_convert),
        cmocka_unit_test(dtypes_have_two_names),
    };
    return cmocka_run_group_tests(tests, fill_all, NULL);
}
