#include "runtime/plan.h"

#include <stdio.h>

const char *spey_bytes_text(char out[SPEY_BYTES_TEXT], uint64_t bytes)
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    if (bytes < 1024) {
        snprintf(out, SPEY_BYTES_TEXT, "%d B", (int)bytes);
        return out;
    }
    double value = (double)bytes / 1024;
    int unit = 0;
    while (value >= 1023.95 && unit < 5) {
        value /= 1024;
        unit++;
    }
    snprintf(out, SPEY_BYTES_TEXT, "%.1f %s", value, units[unit]);
    return out;
}

static void write_limit(spey_strbuf *out, const char *what, int64_t value)
{
    spey_strbuf_printf(out, "  %-32s %12lld\n", what, (long long)value);
}

static void write_blocks(spey_strbuf *out, const spey_limits_plan *limits, int64_t n,
                         uint64_t bytes)
{
    char text[SPEY_BYTES_TEXT];
    spey_strbuf_printf(out, "  %lld blocks of %d tokens, %s, %s each\n", (long long)n,
                       limits->kv_block_tokens, limits->kv_dtype, spey_bytes_text(text, bytes));
}

void spey_plan_write(const spey_plan *plan, spey_strbuf *out)
{
    char text[SPEY_BYTES_TEXT];
    const spey_limits_plan *limits = &plan->limits;
    spey_strbuf_printf(out, "memory on %s, %d thread%s\n", limits->device, limits->threads,
                       limits->threads == 1 ? "" : "s");
    for (int i = 0; i < plan->n_lines; i++)
        spey_strbuf_printf(out, "  %-32s %12s%s\n", plan->lines[i].what,
                           spey_bytes_text(text, plan->lines[i].bytes),
                           plan->lines[i].counted ? "" : "  not counted");
    spey_strbuf_printf(out, "  %-32s %12s", "total", spey_bytes_text(text, plan->total_bytes));
    spey_strbuf_printf(out, "  of %s available\n", spey_bytes_text(text, plan->available_bytes));
    spey_strbuf_puts(out, "limits\n");
    write_limit(out, "sequences", limits->sequences_max);
    write_limit(out, "tokens of a sequence", limits->sequence_tokens_max);
    write_limit(out, "tokens of a step", limits->step_tokens_max);
    write_limit(out, "rows of logits of a step", limits->outputs_max);
    if (plan->source_tokens_max)
        write_limit(out, "tokens of an encoder's input", plan->source_tokens_max);
    if (plan->state_bytes)
        spey_strbuf_printf(out, "  a state of %s for each sequence\n",
                           spey_bytes_text(text, plan->state_bytes));
    if (!plan->kv_block_bytes) return;
    write_limit(out, "tokens in the kv cache", plan->kv_tokens);
    bool differ = false;
    for (int g = 0; g < plan->n_kv_groups; g++)
        differ = differ || plan->kv_groups[g].n_blocks != plan->kv_blocks;
    if (!differ) write_blocks(out, limits, plan->kv_blocks, plan->kv_block_bytes);
    for (int g = 0; differ && g < plan->n_kv_groups; g++) {
        const spey_plan_kv_group *group = &plan->kv_groups[g];
        write_blocks(out, limits, group->n_blocks, group->block_bytes);
        if (group->window)
            spey_strbuf_printf(out, "    for windows of %lld tokens\n", (long long)group->window);
    }
}
