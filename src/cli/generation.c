#include "cli/generation.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/command.h"

static void put_number(spey_strbuf *out, double x)
{
    if (isfinite(x))
        spey_strbuf_printf(out, "%.9g", x);
    else
        spey_strbuf_puts(out, "null");
}

static void put_top(spey_strbuf *out, const spey_token_logprob *top, int32_t n)
{
    spey_strbuf_puts(out, "[");
    for (int32_t i = 0; i < n; i++) {
        spey_strbuf_printf(out, "%s{\"id\": %d, \"logprob\": ", i ? ", " : "", top[i].id);
        put_number(out, (double)top[i].logprob);
        spey_strbuf_puts(out, "}");
    }
    spey_strbuf_puts(out, "]");
}

static void collect_logprobs(spey_generation *g, const spey_output *event)
{
    for (int32_t i = 0; i < event->n_prompt; i++) {
        spey_strbuf_printf(&g->prompt_logprobs, "%s{\"logprob\": ", i ? ", " : "");
        put_number(&g->prompt_logprobs, (double)event->prompt_logprobs[i]);
        spey_strbuf_puts(&g->prompt_logprobs, ", \"top_next\": ");
        put_top(&g->prompt_logprobs, event->prompt_top + i * event->n_prompt_top,
                event->n_prompt_top);
        spey_strbuf_puts(&g->prompt_logprobs, "}");
    }
    if (event->token < 0 || isnan(event->logprob)) return;
    spey_strbuf_printf(&g->logprobs, "%s{\"id\": %d, \"logprob\": ", g->logprobs.len ? ", " : "",
                       event->token);
    put_number(&g->logprobs, (double)event->logprob);
    spey_strbuf_puts(&g->logprobs, ", \"top\": ");
    put_top(&g->logprobs, event->top, event->n_top);
    spey_strbuf_puts(&g->logprobs, "}");
}

static void put_id(spey_strbuf *out, int32_t id)
{
    spey_strbuf_printf(out, "%s%d", out->len ? ", " : "", id);
}

/* Most requests have no others. */
static bool make_room(spey_generation *g)
{
    if (g->others) return true;
    g->others = spey_new_array(SPEY_PURPOSE_GENERAL, spey_generation_choice, SPEY_CHOICES_MAX - 1);
    if (!g->others) snprintf(g->error, sizeof g->error, "%s", spey_last_error());
    return g->others != NULL;
}

static void collect_other(spey_generation *g, const spey_output *event)
{
    if (!make_room(g)) return;
    spey_generation_choice *c = &g->others[event->sequence - 1];
    if (event->sequence > g->n_others) g->n_others = event->sequence;
    if (event->token >= 0) put_id(&c->ids, event->token);
    spey_strbuf_append(&c->text, event->text, event->text_bytes);
    c->finish = event->finish;
    c->score = event->score;
}

int spey_generation_on_output(void *user, const spey_output *event)
{
    spey_generation *g = user;
    if (event->error) snprintf(g->error, sizeof g->error, "%s", event->error);
    if (event->sequence > 0) {
        collect_other(g, event);
        return g->interrupted && *g->interrupted;
    }
    if (event->token >= 0) {
        g->last_ns = spey_clock_ns();
        if (g->n_output++ == 0) g->first_ns = g->last_ns;
        put_id(&g->output_ids, event->token);
    }
    collect_logprobs(g, event);
    if (g->stream && event->text_bytes) {
        if (fwrite(event->text, 1, event->text_bytes, stdout) != event->text_bytes ||
            fflush(stdout))
            g->write_failed = true;
    }
    spey_strbuf_append(&g->text, event->text, event->text_bytes);
    g->finish = event->finish;
    g->score = event->score;
    return g->write_failed || (g->interrupted && *g->interrupted);
}

void spey_generation_deinit(spey_generation *g)
{
    for (int32_t i = 0; i < g->n_others; i++) {
        spey_strbuf_deinit(&g->others[i].text);
        spey_strbuf_deinit(&g->others[i].ids);
    }
    spey_free(g->others);
    spey_strbuf_deinit(&g->text);
    spey_strbuf_deinit(&g->output_ids);
    spey_strbuf_deinit(&g->logprobs);
    spey_strbuf_deinit(&g->prompt_logprobs);
}

double spey_ms_between(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-6 : 0;
}

double spey_generation_decode_rate(const spey_generation *g)
{
    double seconds = spey_ms_between(g->first_ns, g->last_ns) * 1e-3;
    return g->n_output > 1 && seconds > 0 ? (double)(g->n_output - 1) / seconds : 0;
}

static void put_text(spey_strbuf *out, const spey_engine *engine, const spey_strbuf *text)
{
    if (spey_engine_has_tokenizer(engine))
        spey_json_quote(out, text->data ? text->data : "", text->len);
    else
        spey_strbuf_puts(out, "null");
}

/* {"output_ids": …, "text": …, "finish_reason": …, "score": …} of each sequence but the first. */
static void put_others(spey_strbuf *out, const spey_generation *g, const spey_engine *engine)
{
    spey_strbuf_puts(out, ", \"others\": [");
    for (int32_t i = 0; i < g->n_others; i++) {
        const spey_generation_choice *c = &g->others[i];
        spey_strbuf_printf(out, "%s{\"output_ids\": [%s], \"text\": ", i ? ", " : "",
                           c->ids.data ? c->ids.data : "");
        put_text(out, engine, &c->text);
        spey_strbuf_printf(out, ", \"finish_reason\": \"%s\"", spey_finish_text(c->finish));
        if (!isnan(c->score)) spey_strbuf_printf(out, ", \"score\": %.9g", c->score);
        spey_strbuf_puts(out, "}");
    }
    spey_strbuf_puts(out, "]");
}

void spey_generation_write_json(const spey_generation *g, const spey_engine *engine,
                                const int32_t *prompt, size_t n, spey_strbuf *out)
{
    spey_strbuf_puts(out, "{\"prompt_ids\": [");
    for (size_t i = 0; i < n; i++)
        spey_strbuf_printf(out, "%s%d", i ? ", " : "", prompt[i]);
    spey_strbuf_printf(
        out, "], \"output_ids\": [%s], \"text\": ", g->output_ids.data ? g->output_ids.data : "");
    put_text(out, engine, &g->text);
    spey_strbuf_printf(out, ", \"finish_reason\": \"%s\"", spey_finish_text(g->finish));
    if (!isnan(g->score)) spey_strbuf_printf(out, ", \"score\": %.9g", g->score);
    if (g->n_others) put_others(out, g, engine);
    if (g->logprobs.len) spey_strbuf_printf(out, ", \"logprobs\": [%s]", g->logprobs.data);
    if (g->prompt_logprobs.len)
        spey_strbuf_printf(out, ", \"prompt_logprobs\": [%s]", g->prompt_logprobs.data);
    spey_strbuf_printf(
        out,
        ", \"timings\": {\"prompt_tokens\": %zu, \"output_tokens\": %lld, \"load_ms\": %.3f, "
        "\"prompt_ms\": %.3f, \"first_token_ms\": %.3f, \"decode_tokens_per_second\": %.2f}}",
        n, (long long)g->n_output, spey_ms_between(spey_process_start_ns, g->start_ns),
        spey_ms_between(g->start_ns, g->first_ns),
        spey_ms_between(spey_process_start_ns, g->first_ns), spey_generation_decode_rate(g));
}
