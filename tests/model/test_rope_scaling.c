/* RoPE frequencies against numpy, computed with the formulas of transformers 5 in float32; and what is refused. */
#include "model_test.h"

#include <math.h>
#include <string.h>

#include "model/rope_scaling.h"

static spey_status read(const char *text, int64_t rotary, spey_rope_config *rope)
{
    json_t *json = json_of(text);
    spey_config config = { .where = "test", .json = json };
    spey_rope_read(&config, NULL, 10000, rotary, rope);
    json_decref(json);
    return config.status;
}

static void expect(const char *text, bool extended, const float *expected, int64_t n)
{
    spey_rope_config rope;
    float inv_freq[SPEY_ROPE_HALF_MAX];
    must(read(text, 2 * n, &rope));
    spey_rope_frequencies(&rope, extended, inv_freq);
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(inv_freq[i] / expected[i] - 1) <= 3e-7f))
            fail_msg("%s: frequency %lld is %.9g, expected %.9g", text, (long long)i,
                     (double)inv_freq[i], (double)expected[i]);
}

#define EXPECT(text, extended, ...)                        \
    expect(text, extended, (const float[]){ __VA_ARGS__ }, \
           (int64_t)(sizeof((const float[]){ __VA_ARGS__ }) / sizeof(float)))

#define PLAIN                                                                        \
    1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f, \
        0.00100000005f, 0.000316227786f

static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    EXPECT("{}", false, PLAIN);
    EXPECT("{'rope_scaling': null}", false, PLAIN);
    EXPECT("{'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}", false, PLAIN);
    EXPECT("{'rope_scaling': {'type': 'dynamic', 'factor': 4}}", false, PLAIN);
    EXPECT("{'rope_scaling': {'type': 'linear', 'factor': 2.5}}", false, 0.400000006f, 0.1264911f,
           0.0399999991f, 0.0126491114f, 0.00399999972f, 0.00126491114f, 0.000400000019f,
           0.000126491112f);
    EXPECT(
        "{'rope_theta': 500000, 'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1, "
        "'high_freq_factor': 4, 'original_max_position_embeddings': 64}}",
        false, 1.0f, 0.079403013f, 0.00470075384f, 0.000911583134f, 0.000176776681f,
        3.42810235e-05f, 6.64787058e-06f, 1.28917316e-06f);
    EXPECT(
        "{'rope_scaling': {'type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 2048}}",
        false, 1.0f, 0.316227764f, 0.100000001f, 0.025693506f, 0.00624999963f, 0.00138349656f,
        0.000250000012f, 7.90569466e-05f);
    EXPECT(
        "{'rope_scaling': {'type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 2048, 'truncate': false}}",
        false, 1.0f, 0.316227764f, 0.100000001f, 0.0238701962f, 0.00505697168f, 0.000811290462f,
        0.000250000012f, 7.90569466e-05f);
#define LONGROPE                                                                                     \
    "{'max_position_embeddings': 131072, 'original_max_position_embeddings': 4096, 'rope_scaling': " \
    "{'type': 'longrope', 'short_factor': [1.0, 1.0, 1.0, 1.0], 'long_factor': [1.5, 2, 4, 8]}}"
    EXPECT(LONGROPE, false, 1.0f, 0.1f, 0.01f, 0.001f);
    EXPECT(LONGROPE, true, 0.666666687f, 0.0500000007f, 0.00249999994f, 0.000125000006f);
}

static void llama_3_8b_has_its_published_middle(void **state)
{
    (void)state;
    static const float expected[] = { 0.00483942125f,  0.00394227589f,  0.00321144611f,
                                      0.00216657063f,  0.00137189368f,  0.00085675146f,
                                      0.000524846022f, 0.00031269365f,  0.000178507791f,
                                      9.5562129e-05f,  7.78465546e-05f, 6.34151438e-05f };
    spey_rope_config rope;
    float inv_freq[SPEY_ROPE_HALF_MAX];
    must(read(
        "{'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 500000.0, 'factor': 8.0, 'low_freq_factor': 1.0, "
        "'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}}",
        128, &rope));
    spey_rope_frequencies(&rope, false, inv_freq);
    for (int i = 0; i < 12;
         i++) /* smooth is a difference of near numbers: more than its last bits differ */
        assert_true(fabsf(inv_freq[26 + i] / expected[i] - 1) < 2e-6f);
}

static void expect_magnitude(const char *text, double expected)
{
    spey_rope_config rope;
    must(read(text, 8, &rope));
    if (fabs(rope.magnitude - expected) > 1e-12)
        fail_msg("%s: magnitude %.17g, expected %.17g", text, rope.magnitude, expected);
}

static void magnitudes_are_those_of_transformers(void **state)
{
    (void)state;
    expect_magnitude("{}", 1);
    expect_magnitude("{'rope_scaling': {'type': 'linear', 'factor': 4}}", 1);
#define YARN(more)                                                                                                     \
    "{'max_position_embeddings': 8192, 'rope_scaling': {'type': 'yarn', 'original_max_position_embeddings': 2048" more \
    "}}"
    expect_magnitude(YARN(", 'factor': 4"), 1.138629436111989);
    expect_magnitude(YARN(""), 1.138629436111989); /* the ratio of positions */
    expect_magnitude(YARN(", 'factor': 40, 'mscale': 0.707, 'mscale_all_dim': 1.0"),
                     0.9210423553163399);
    expect_magnitude(YARN(", 'factor': 40, 'mscale': 1.0, 'mscale_all_dim': 0"),
                     1.3688879454113936);
    expect_magnitude(YARN(", 'factor': 40, 'attention_factor': 0.5"), 0.5);
    expect_magnitude(LONGROPE, 1.1902380714238083);
}

static void rope_parameters_come_before_rope_scaling(void **state)
{
    (void)state;
    spey_rope_config rope;
    must(read(
        "{'rope_theta': 7, 'rope_parameters': {'rope_theta': 9}, 'rope_scaling': {'type': 'linear', 'factor': 2}}",
        8, &rope));
    assert_int_equal(rope.type, SPEY_ROPE_DEFAULT);
    assert_true(rope.theta == 9);
    must(read("{'rope_parameters': null, 'rope_scaling': {'type': 'linear', 'factor': 2}}", 8,
              &rope));
    assert_int_equal(rope.type, SPEY_ROPE_LINEAR);
    must(read(
        "{'max_position_embeddings': 640, 'rope_scaling': {'type': 'dynamic', 'factor': 2, 'original_max_position_embeddings': 64}}",
        8, &rope));
    assert_int_equal(rope.original, 640); /* as transformers does */
}

static void refused(const char *text, int64_t rotary, const char *error)
{
    spey_rope_config rope;
    spey_status status = read(text, rotary, &rope);
    assert_true(status == SPEY_FORMAT || status == SPEY_UNSUPPORTED);
    if (!strstr(spey_last_error(), error))
        fail_msg("\"%s\" does not say \"%s\"", spey_last_error(), error);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    refused("{'rope_theta': 0}", 8, "test: \"rope_theta\" is 0");
    refused("{'rope_theta': 'big'}", 8, "test: \"rope_theta\" is a string");
    refused("{'rope_scaling': 3}", 8, "test: \"rope_scaling\" is not an object");
    refused("{'rope_scaling': {'type': 3}}", 8, "test: rope_scaling: \"type\" is an integer");
    refused("{'rope_scaling': {'type': 'mrope'}}", 8,
            "rope_type is \"mrope\"; supported are default, linear");
    refused("{'rope_scaling': {'type': 'linear', 'factor': 0}}", 8,
            "test: rope_scaling: \"factor\" is 0");
    refused("{'rope_scaling': {'type': 'linear'}}", 8, "\"factor\" is missing");
    refused("{'rope_parameters': {'rope_type': 'linear', 'factor': -2}}", 8,
            "test: rope_parameters: \"factor\" is -2");
    refused(
        "{'rope_scaling': {'type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4}}",
        8, "high_freq_factor is 4, expected more than low_freq_factor");
    refused("{'rope_scaling': {'type': 'llama3', 'factor': 8}}", 8,
            "\"low_freq_factor\" is missing");
    refused(
        "{'rope_scaling': {'type': 'yarn', 'factor': 8, 'original_max_position_embeddings': 0}}", 8,
        "original_max_position_embeddings\" is 0");
    refused("{'rope_theta': 1, 'rope_scaling': {'type': 'yarn', 'factor': 8}}", 8,
            "yarn needs rope_theta above 1");
    refused(
        "{'rope_scaling': {'type': 'longrope', 'factor': 8, 'short_factor': [1], 'long_factor': [1, 1, 1, 1]}}",
        8, "\"short_factor\" has 1 items, expected 4 numbers");
    refused(
        "{'rope_scaling': {'type': 'longrope', 'factor': 8, 'short_factor': [1, 1, 1, 0], 'long_factor': [1, 1, 1, 1]}}",
        8, "\"short_factor\"[3] is not a number in");
    refused("{'rope_scaling': {'type': 'dynamic', 'factor': 2}}", 2, "dynamic needs more than 2");
    refused("{}", 7, "7 rotated elements");
    refused("{}", 0, "0 rotated elements");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(llama_3_8b_has_its_published_middle),
        cmocka_unit_test(magnitudes_are_those_of_transformers),
        cmocka_unit_test(rope_parameters_come_before_rope_scaling),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
