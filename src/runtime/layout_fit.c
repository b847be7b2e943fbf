/* What to say when a plan does not fit: which settings would. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/layout.h"

enum { SUGGESTIONS_MAX = 3 };

typedef struct advice {
    char text[512];
    size_t len;
    int n;
} advice;

static void say(advice *a, const char *format, ...) SPEY_PRINTF(2, 3);

static void say(advice *a, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(a->text + a->len, sizeof(a->text) - a->len, format, args);
    va_end(args);
    if (n > 0) a->len += (size_t)n < sizeof(a->text) - a->len ? (size_t)n : 0;
}

/* A setting that can be lowered, and by which steps. */
typedef enum lever { SEQUENCES, SEQUENCE_TOKENS, STEP_TOKENS, KV_BYTES, LEVER_COUNT } lever;

static const struct {
    const char *name;
    uint64_t unit;
} levers[LEVER_COUNT] = {
    [SEQUENCES] = { "sequences_max", 1 },
    [SEQUENCE_TOKENS] = { "sequence_tokens_max", 64 },
    [STEP_TOKENS] = { "step_tokens_max", 16 },
    [KV_BYTES] = { "kv_bytes", 1 << 20 },
};

static uint64_t current(const spey_limits_plan *limits, lever l)
{
    switch (l) {
    case SEQUENCES: return (uint64_t)limits->sequences_max;
    case SEQUENCE_TOKENS: return (uint64_t)limits->sequence_tokens_max;
    case STEP_TOKENS: return (uint64_t)limits->step_tokens_max;
    default: return limits->kv_bytes;
    }
}

static void set(spey_limits_plan *limits, lever l, uint64_t value)
{
    switch (l) {
    case SEQUENCES: limits->sequences_max = (int32_t)value; break;
    case SEQUENCE_TOKENS: limits->sequence_tokens_max = (int64_t)value; break;
    case STEP_TOKENS: limits->step_tokens_max = (int64_t)value; break;
    default: limits->kv_bytes = value; break;
    }
}

/* The total of a plan with these limits; UINT64_MAX when it does not fit or cannot be. */
static uint64_t try_limits(const spey_program *program, const spey_limits_plan *limits)
{
    spey_layout trial;
    if (spey_layout_init(&trial, program, limits) != SPEY_OK) return UINT64_MAX;
    uint64_t total = spey_layout_fits(&trial) ? trial.plan.total_bytes : UINT64_MAX;
    spey_layout_deinit(&trial);
    return total;
}

/* The largest value of a lever that fits, other limits as given; 0: none. */
static uint64_t largest_fit(const spey_program *program, spey_limits_plan limits, lever l,
                            uint64_t from)
{
    uint64_t unit = levers[l].unit, low = 0,
             high = (from + unit - 1) / unit; /* high does not fit */
    while (low + 1 < high) {
        uint64_t middle = low + (high - low) / 2;
        set(&limits, l, middle * unit);
        if (try_limits(program, &limits) != UINT64_MAX)
            low = middle;
        else
            high = middle;
    }
    return low * unit;
}

static void suggest(advice *a, const spey_program *program, const spey_limits_plan *limits,
                    const char *setting)
{
    char bytes[SPEY_BYTES_TEXT];
    uint64_t total = try_limits(program, limits);
    if (a->n >= SUGGESTIONS_MAX || total == UINT64_MAX) return;
    say(a, "%s%s (%s)", a->n++ ? "; " : "", setting, spey_bytes_text(bytes, total));
}

static void suggest_lever(advice *a, const spey_program *program, const spey_limits_plan *limits,
                          lever l, uint64_t from)
{
    if (a->n >= SUGGESTIONS_MAX) return;
    spey_limits_plan lower = *limits;
    uint64_t value = largest_fit(program, lower, l, from);
    if (!value) return;
    set(&lower, l, value);
    char setting[64];
    bool mib = l == KV_BYTES;
    snprintf(setting, sizeof(setting), "%s %llu%s", levers[l].name,
             (unsigned long long)(mib ? value >> 20 : value), mib ? " MiB" : "");
    suggest(a, program, &lower, setting);
}

/* When no setting alone is enough: everything small, then the longest sequence that fits. */
static void suggest_smallest(advice *a, const spey_layout *layout, const spey_program *program,
                             const spey_limits_plan *limits)
{
    spey_limits_plan small = *limits;
    small.sequences_max = 1;
    small.outputs_max = 1;
    small.kv_bytes = 0;
    small.step_tokens_max = layout->plan.limits.step_tokens_max < 16 ? 1 : 16;
    uint64_t from = current(&layout->plan.limits, SEQUENCE_TOKENS);
    uint64_t value =
        largest_fit(program, small, SEQUENCE_TOKENS, from + levers[SEQUENCE_TOKENS].unit);
    if (!value) return;
    if (value > from) value = from;
    set(&small, SEQUENCE_TOKENS, value);
    char setting[128];
    snprintf(setting, sizeof(setting),
             "sequences_max 1, outputs_max 1, step_tokens_max %lld and sequence_tokens_max %llu "
             "together",
             (long long)small.step_tokens_max, (unsigned long long)value);
    suggest(a, program, &small, setting);
}

spey_status spey_layout_check_fits(const spey_layout *layout, const spey_program *program,
                                   const spey_limits_plan *limits)
{
    if (spey_layout_fits(layout)) return SPEY_OK;
    const spey_plan *plan = &layout->plan;
    advice a = { 0 };
    if (layout->kv_dtype == SPEY_F32) {
        spey_limits_plan lower = *limits;
        lower.kv_dtype = "bf16";
        suggest(&a, program, &lower, "kv_dtype bf16");
    }
    for (lever l = 0; l < LEVER_COUNT; l++)
        if (l != KV_BYTES || limits->kv_bytes)
            suggest_lever(&a, program, limits, l, current(&plan->limits, l));
    if (!a.n) suggest_smallest(&a, layout, program, limits);
    char needed[SPEY_BYTES_TEXT], available[SPEY_BYTES_TEXT], line[SPEY_BYTES_TEXT];
    advice lines = { 0 };
    for (int i = 0; i < plan->n_lines; i++)
        if (plan->lines[i].counted)
            say(&lines, "%s%s %s", lines.len ? ", " : "", plan->lines[i].what,
                spey_bytes_text(line, plan->lines[i].bytes));
    spey_bytes_text(needed, plan->total_bytes);
    spey_bytes_text(available, plan->available_bytes);
    if (!a.n)
        return SPEY_FAIL(SPEY_LIMIT, "%s of memory needed (%s), %s available; no setting fits",
                         needed, lines.text, available);
    return SPEY_FAIL(SPEY_LIMIT, "%s of memory needed (%s), %s available; what would fit: %s",
                     needed, lines.text, available, a.text);
}
