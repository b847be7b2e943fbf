#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planning.h"

/* 16 layers of a shape whose cache, activations and logits are large beside its tables. */
static const tiny_shape large = { .layers = 16,
                                  .hidden = 1024,
                                  .heads = 16,
                                  .kv_heads = 8,
                                  .head_dim = 64,
                                  .mlp = 4096,
                                  .vocab = 32000,
                                  .context = 8192,
                                  .dtype = SPEY_F32 };

/* Apply "sequence_tokens_max 3072 (…" from the advice. */
static void apply(const char *setting, spey_limits_plan *limits)
{
    long long value = 0;
    if (sscanf(setting, "sequences_max %lld", &value) == 1)
        limits->sequences_max = (int32_t)value;
    else if (sscanf(setting, "sequence_tokens_max %lld", &value) == 1)
        limits->sequence_tokens_max = value;
    else if (sscanf(setting, "step_tokens_max %lld", &value) == 1)
        limits->step_tokens_max = value;
    else if (sscanf(setting, "kv_bytes %lld MiB", &value) == 1)
        limits->kv_bytes = (uint64_t)value << 20;
    else if (!strncmp(setting, "kv_dtype bf16", 13))
        limits->kv_dtype = "bf16";
    else
        fail_msg("unknown advice '%s'", setting);
}

/* Every setting that the refusal names makes the plan fit. */
static int advice_fits(spey_limits_plan limits)
{
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    char text[1024];
    snprintf(text, sizeof(text), "%s", spey_last_error());
    char *at = strstr(text, "what would fit: ");
    if (!at) print_error("%s\n", text);
    assert_non_null(at);
    int n = 0;
    for (at += 16; at; at = strstr(at, "; ")) {
        if (n++) at += 2;
        spey_limits_plan advised = limits;
        apply(at, &advised);
        spey_plan plan = plan_of(&large, advised);
        assert_true(plan.total_bytes <= plan.available_bytes);
    }
    return n;
}

static void a_plan_that_does_not_fit_says_what_would(void **state)
{
    (void)state;
    spey_plan weights = plan_of(&large, (spey_limits_plan){ .sequence_tokens_max = 32 });
    uint64_t base = weights.total_bytes;
    /* the cache is too large */
    spey_limits_plan cache = { .sequences_max = 8, .sequence_tokens_max = 4096 };
    cache.memory_bytes_max = base + (200 << 20);
    assert_in_range(advice_fits(cache), 1, 3);
    cache.kv_bytes = (uint64_t)1 << 30;
    assert_in_range(advice_fits(cache), 1, 3);
    /* the activations are */
    spey_limits_plan step = { .step_tokens_max = 8192, .sequence_tokens_max = 64 };
    step.memory_bytes_max = base + (100 << 20);
    assert_in_range(advice_fits(step), 1, 3);
}

static void settings_are_combined_when_none_alone_is_enough(void **state)
{
    (void)state;
    uint64_t base =
        plan_of(&large, (spey_limits_plan){ .sequence_tokens_max = 64, .step_tokens_max = 16 })
            .total_bytes;
    spey_limits_plan limits = { .sequences_max = 64,
                                .sequence_tokens_max = 8192,
                                .step_tokens_max = 8192,
                                .outputs_max = 8192 };
    limits.memory_bytes_max = base + (64 << 20);
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "together"));
    limits.memory_bytes_max = 1 << 20;
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "no setting fits"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_that_does_not_fit_says_what_would),
        cmocka_unit_test(settings_are_combined_when_none_alone_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
