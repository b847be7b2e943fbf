/* What a request asks of its next token, as a rule that a device follows. */
#include <math.h>
#include <string.h>

#include "kernels/sample/sample_weight.h"
#include "runtime/request_impl.h"

static bool has_bias_twice(const spey_sampling *p)
{
    for (size_t i = 0; i < p->n_logit_bias; i++)
        for (size_t k = 0; k < i; k++)
            if (p->logit_bias[i].id == p->logit_bias[k].id) return true;
    return false;
}

bool spey_request_may_have_rules(const spey_request *r)
{
    const spey_sampling *p = &r->sampling;
    return !r->beams && !r->process_logits && !r->context_logits && !r->generation_logits &&
           p->typical_p >= 1 && p->no_repeat_ngram != 1 && p->n_logit_bias <= SPEY_RULE_BIAS_MAX &&
           !has_bias_twice(p);
}

/* ---- ids ---- */

/* What is being added to a page. */
typedef struct writer {
    int32_t *ids;
    int64_t n, max;
    bool full;
    int64_t vocab_size;
    int32_t newest; /* the sequence's; -1: nobody knows it yet */
} writer;

static void add(writer *w, const int32_t *ids, size_t n)
{
    w->full = w->full || (int64_t)n > w->max - w->n;
    if (w->full || !n) return;
    memcpy(w->ids + w->n, ids, n * sizeof *ids);
    w->n += (int64_t)n;
}

/* The last of them is told by the step. */
static void add_history(writer *w, const spey_request *r, const spey_choice *c, int64_t n,
                        spey_sample_rule *out)
{
    const spey_sampling *p = &r->sampling;
    bool repeated = p->repetition_penalty != 1;
    bool counted = p->presence_penalty != 0 || p->frequency_penalty != 0;
    if (!repeated && !counted) return;
    static const int32_t last = -1;
    int64_t begin = repeated ? 0 : r->n_prompt;
    if (begin == n) return;
    add(w, c->ids + begin, (size_t)(n - 1 - begin));
    add(w, &last, 1);
    out->n_history = (int32_t)(n - begin);
    out->n_prompt = (int32_t)(r->n_prompt - begin);
}

static void add_bias(writer *w, const spey_sampling *p, spey_sample_rule *out)
{
    for (size_t i = 0; i < p->n_logit_bias; i++)
        add(w, &p->logit_bias[i].id, 1);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        int32_t bits;
        memcpy(&bits, &p->logit_bias[i].bias, sizeof bits);
        add(w, &bits, 1);
    }
    out->n_bias = (int32_t)p->n_logit_bias;
}

/* `banned` may not follow `last`. */
static void add_ban_behind(writer *w, int32_t last, int32_t banned)
{
    if (w->newest == last) add(w, &banned, 1);
    if (w->newest < 0) add(w, (const int32_t[]){ last, banned }, 2);
}

/* Whose first tokens the sequence ends with, as far as it is known. */
static void add_word(writer *w, const spey_id_list *word, const int32_t *ids, int64_t n)
{
    int64_t before = (int64_t)word->n - 1, same = 0;
    if (before < 1 || before > n) return;
    while (same < before - 1 && ids[n - before + same] == word->ids[same])
        same++;
    if (same == before - 1) add_ban_behind(w, word->ids[before - 1], word->ids[before]);
}

/* What would complete `size` tokens that the sequence already has. The last time that it has them may end with its newest one,
 * which is then the one before, too. */
static void add_ngrams(writer *w, int64_t size, const int32_t *ids, int64_t n, int64_t n_known)
{
    for (int64_t i = 0; size > 1 && i + size <= n; i++) {
        int64_t same = 0;
        while (same < size - 2 && ids[i + same] == ids[n - size + 1 + same])
            same++;
        const int32_t behind = ids[i + size - 2];
        const int32_t next = i + size <= n_known ? ids[i + size - 1] : behind;
        if (same == size - 2 && next < w->vocab_size) add_ban_behind(w, behind, next);
    }
}

/* Bans come first, then those that depend on what nobody knows yet. */
static void add_bans(writer *w, const spey_request *r, const spey_choice *c, int64_t n,
                     spey_eos eos, spey_sample_rule *out)
{
    const spey_sampling *p = &r->sampling;
    int64_t begin = w->n, n_output = n - r->n_prompt;
    for (size_t i = 0; i < p->n_bad_words; i++)
        if (p->bad_words[i].n == 1) add(w, p->bad_words[i].ids, 1);
    add(w, p->suppress_ids, p->n_suppress_ids);
    if (n_output == 0) add(w, p->begin_suppress_ids, p->n_begin_suppress_ids);
    if (n_output < p->min_tokens) {
        add(w, eos.ids, (size_t)eos.n);
        add(w, p->stop_ids, p->n_stop_ids);
    }
    int64_t end = w->n;
    for (size_t i = 0; i < p->n_bad_words; i++)
        add_word(w, &p->bad_words[i], c->ids, n);
    add_ngrams(w, p->no_repeat_ngram, c->ids, n, c->n);
    if (w->newest >= 0) end = w->n;
    out->n_banned = (int32_t)(end - begin);
    out->n_pairs = (int32_t)((w->n - end) / 2);
}

/* ---- guides ---- */

/* *over: the output can only end, so that nothing else is asked of it. */
static bool add_mask(spey_request *r, const spey_choice *c, spey_rule_page *page, bool *over)
{
    const uint64_t *mask;
    if (page->n_masks == page->masks_max || spey_request_begin_guide(r)) return false;
    *over = spey_guide_matcher_must_end(r->matcher, c->guide_state);
    spey_status status = spey_guide_matcher_mask(r->matcher, c->guide_state, &mask);
    if (!status)
        memcpy(page->masks + page->n_masks++ * page->mask_words, mask,
               (size_t)page->mask_words * sizeof *page->masks);
    spey_request_end_guide(r);
    return !status; /* what is wrong the host will find, too */
}

/* ---- the rule ---- */

static spey_sample_rule draw_rule(const spey_request *r, int32_t index, int64_t n)
{
    const spey_sampling *p = &r->sampling;
    bool best = p->temperature == 0 || p->top_k == 1;
    return (spey_sample_rule){ .seed = p->seed + (uint64_t)index,
                               .index = (uint64_t)(n - r->n_prompt),
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .presence = p->presence_penalty,
                               .frequency = p->frequency_penalty,
                               .repetition = (float)p->repetition_penalty,
                               .slope = spey_sample_slope(best ? 1 : p->temperature),
                               .kind = best ? SPEY_SAMPLE_BEST : SPEY_SAMPLE_DRAW,
                               .top_k = p->top_k,
                               .mask = -1,
                               .wants_logprob = spey_request_scores(r),
                               .n_top = p->logprobs > 0 ? p->logprobs : 0 };
}

/* What the rule points to; false: it does not fit, and nothing was added. */
static bool add_lists(const spey_request *r, const spey_choice *c, int64_t n, spey_eos eos,
                      spey_rule_page *page, spey_sample_rule *out)
{
    writer w = { .ids = page->ids,
                 .n = page->n_ids,
                 .max = page->ids_max,
                 .vocab_size = page->vocab_size,
                 .newest = n <= c->n ? c->ids[n - 1] : -1 };
    out->ids = (int32_t)page->n_ids;
    add_history(&w, r, c, n, out);
    add_bias(&w, &r->sampling, out);
    add_bans(&w, r, c, n, eos, out);
    if (!w.full) page->n_ids = w.n;
    return !w.full;
}

bool spey_request_rule(spey_request *r, int32_t index, int64_t n, spey_eos eos,
                       spey_rule_page *page, spey_sample_rule *out)
{
    const spey_sampling *p = &r->sampling;
    const spey_choice *c = &r->choices[index];
    bool shared = r->width > 1 && n == r->n_prompt; /* all sequences draw from the row */
    bool over = false, wanted = p->prompt_logprobs >= 0 && n <= r->n_prompt;
    bool forced = p->forced_eos_id >= 0 && !r->guide && n + 1 == r->ids_max;
    if (!r->device_chooses || shared || wanted) return false;
    *out = draw_rule(r, index, n);
    out->mask = r->guide ? page->n_masks : -1;
    out->tops = page->n_tops;
    if (page->tops_max - page->n_tops < out->n_top) return false;
    if (r->guide && !add_mask(r, c, page, &over)) return false;
    if (forced) {
        out->kind = SPEY_SAMPLE_FORCED;
        out->ids = p->forced_eos_id;
    } else if (!over && !add_lists(r, c, n, eos, page, out)) {
        page->n_masks -= r->guide != NULL;
        return false;
    }
    page->n_tops += out->n_top;
    return true;
}
