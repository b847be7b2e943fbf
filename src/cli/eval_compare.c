#include "cli/eval_compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/progress.h"
#include "cli/text_stream.h"
#include "runtime/sampler.h"

/* One of the two models. */
typedef struct side {
    spey_engine *engine;
    spey_context *context;
} side;

typedef struct comparison {
    int64_t vocab_size;
    const int32_t *ids; /* of the window */
    int64_t n_targets;  /* positions of the window that have a successor */
    float *reference;   /* [window, vocab_size] logits of `against` */
    double *divergence; /* of each position so far */
    int64_t n, n_same;
    double nll, nll_reference;
} comparison;

static void close_side(side *s)
{
    spey_context_free(s->context);
    spey_engine_close(s->engine);
}

static spey_status open_side(const spey_compare_options *o, const spey_runtime_flags *flags,
                             const char *path, side *out)
{
    spey_context_options options;
    spey_context_options_from(flags, &options);
    if (!flags->context) options.sequence_tokens_max = o->window;
    SPEY_TRY(spey_open_model(path, flags, &out->engine));
    return spey_context_new(out->engine, &options, &out->context);
}

static void keep_row(void *user, size_t position, float *logits)
{
    comparison *c = user;
    if ((int64_t)position >= c->n_targets) return;
    memcpy(c->reference + (int64_t)position * c->vocab_size, logits,
           (size_t)c->vocab_size * sizeof *logits);
}

/* Σ p (log p - log q). */
static double diverge(const float *p, double p_sum, const float *q, double q_sum, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - p_sum, log_q = (double)q[i] - q_sum;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum > 0 ? sum : 0; /* never negative but for roundings */
}

static void compare_row(void *user, size_t position, float *logits)
{
    comparison *c = user;
    if ((int64_t)position >= c->n_targets) return;
    const float *reference = c->reference + (int64_t)position * c->vocab_size;
    const int32_t next = c->ids[position + 1];
    double sum = spey_log_sum_exp(logits, c->vocab_size);
    double sum_reference = spey_log_sum_exp(reference, c->vocab_size);
    int64_t best = 0, best_reference = 0;
    for (int64_t i = 1; i < c->vocab_size; i++) {
        if (logits[i] > logits[best]) best = i;
        if (reference[i] > reference[best_reference]) best_reference = i;
    }
    c->divergence[c->n++] = diverge(reference, sum_reference, logits, sum, c->vocab_size);
    c->n_same += best == best_reference;
    c->nll += sum - (double)logits[next];
    c->nll_reference += sum_reference - (double)reference[next];
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const spey_compare_options *o, comparison *c)
{
    double sum = 0, n = (double)c->n;
    qsort(c->divergence, (size_t)c->n, sizeof *c->divergence, by_size);
    for (int64_t i = 0; i < c->n; i++)
        sum += c->divergence[i];
    const double p99 = c->divergence[(int64_t)ceil(0.99 * n) - 1], max = c->divergence[c->n - 1];
    const double perplexity = exp(c->nll / n), reference = exp(c->nll_reference / n);
    const double same = (double)c->n_same / n, change = perplexity / reference - 1;
    if (o->json)
        printf("{\"tokens\": %lld, \"kl_mean\": %.6g, \"kl_p99\": %.6g, \"kl_max\": %.6g, "
               "\"top1_agreement\": %.6f, \"perplexity\": %.8g, \"perplexity_against\": %.8g, "
               "\"perplexity_change\": %.6g}\n",
               (long long)c->n, sum / n, p99, max, same, perplexity, reference, change);
    else
        printf(
            "%lld tokens: KL divergence %.5f nats in the mean, %.5f at the 99th percentile, %.5f "
            "at most;\nbest tokens agree in %.2f %%; perplexity %.4f against %.4f (%+.2f %%)\n",
            (long long)c->n, sum / n, p99, max, 100 * same, perplexity, reference, 100 * change);
}

static spey_status compare_windows(const spey_compare_options *o, const side *model,
                                   const side *against, const spey_ids *stream, comparison *c)
{
    const spey_windows windows = spey_windows_cut((int64_t)stream->len, o->window, o->windows);
    c->reference = spey_new_array(SPEY_PURPOSE_GENERAL, float, o->window * c->vocab_size);
    c->divergence = spey_new_array(SPEY_PURPOSE_GENERAL, double, windows.n * o->window);
    if (!c->reference || !c->divergence) return SPEY_NOMEM;
    spey_progress progress;
    spey_progress_begin(&progress, "comparing", (uint64_t)windows.n);
    for (int64_t w = 0; w < windows.n; w++) {
        int64_t begin;
        spey_windows_at(&windows, w, &begin, &c->n_targets);
        c->ids = stream->data + begin;
        size_t n = (size_t)c->n_targets;
        SPEY_TRY(spey_context_logits(against->context, c->ids, n, keep_row, c));
        SPEY_TRY(spey_context_logits(model->context, c->ids, n, compare_row, c));
        spey_progress_update(&progress, (uint64_t)w + 1);
    }
    spey_progress_end(&progress);
    print(o, c);
    return SPEY_OK;
}

static spey_status compare_sides(const spey_compare_options *o, const side *model,
                                 const side *against, spey_ids *stream)
{
    comparison c = { .vocab_size = spey_engine_vocab_size(model->engine) };
    if (spey_engine_vocab_size(against->engine) != c.vocab_size)
        return SPEY_FAIL(SPEY_INVALID,
                         "%s has a vocabulary of %lld, %s one of %lld: their distributions cannot "
                         "be compared",
                         o->model, (long long)c.vocab_size, o->against,
                         (long long)spey_engine_vocab_size(against->engine));
    SPEY_TRY(spey_text_stream(o->text, model->engine, stream));
    int64_t longest = (int64_t)stream->len - 1;
    spey_compare_options fitted = *o;
    if (fitted.window > longest) fitted.window = longest;
    spey_status status = compare_windows(&fitted, model, against, stream, &c);
    spey_free(c.reference);
    spey_free(c.divergence);
    return status;
}

spey_status spey_compare(const spey_compare_options *o)
{
    side model = { 0 }, against = { 0 };
    spey_ids stream = { 0 };
    spey_runtime_flags plain = *o->runtime;
    plain.quant = NULL; /* of the model that is judged alone */
    spey_status status = open_side(o, o->runtime, o->model, &model);
    if (!status) status = open_side(o, &plain, o->against, &against);
    if (!status) status = compare_sides(o, &model, &against, &stream);
    spey_ids_deinit(&stream);
    close_side(&against);
    close_side(&model);
    return status;
}
