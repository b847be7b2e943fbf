#include "runtime/sampler.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/rng.h"
#include "base/status.h"

typedef struct candidate {
    float score;  /* what it is ordered by: logit over temperature */
    float weight; /* probability, not normalised */
    int32_t id;
} candidate;

struct spey_sampler {
    int64_t vocab_size;
    candidate *candidates; /* [vocab_size] */
    /* Penalties count ids without clearing a table per token: an entry is valid when its stamp is the current one. */
    uint32_t *stamps;
    uint32_t *counts;
    uint32_t stamp;
    float *row; /* [vocab_size] for spey_sampler_copy */
};

spey_status spey_sampler_new(int64_t vocab_size, spey_sampler **out)
{
    *out = NULL;
    spey_sampler *s = spey_new(SPEY_PURPOSE_RUNTIME, spey_sampler);
    if (!s) return SPEY_NOMEM;
    s->vocab_size = vocab_size;
    s->candidates = spey_new_array(SPEY_PURPOSE_RUNTIME, candidate, vocab_size);
    s->stamps = spey_new_array(SPEY_PURPOSE_RUNTIME, uint32_t, vocab_size);
    s->counts = spey_new_array(SPEY_PURPOSE_RUNTIME, uint32_t, vocab_size);
    s->row = spey_new_array(SPEY_PURPOSE_RUNTIME, float, vocab_size);
    if (!s->row || !s->candidates || !s->stamps || !s->counts) {
        spey_sampler_free(s);
        return SPEY_NOMEM;
    }
    *out = s;
    return SPEY_OK;
}

void spey_sampler_free(spey_sampler *s)
{
    if (!s) return;
    spey_free(s->candidates);
    spey_free(s->stamps);
    spey_free(s->counts);
    spey_free(s->row);
    spey_free(s);
}

/* ---- settings ---- */

static spey_status check_range(const char *name, double value, double min, double max)
{
    if (value >= min && value <= max) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s is %g, expected %g to %g", name, value, min, max);
}

static spey_status check_ids(const char *name, const int32_t *ids, size_t n, int64_t vocab_size)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return SPEY_FAIL(SPEY_INVALID, "%s holds the token id %d, expected 0 to %lld", name,
                             ids[i], (long long)vocab_size - 1);
    return SPEY_OK;
}

spey_beam_options spey_sampling_beams(const spey_sampling *p)
{
    return (spey_beam_options){ .width = p->beams,
                                .groups = p->beam_groups,
                                .diversity_penalty = p->diversity_penalty,
                                .length_penalty = p->length_penalty,
                                .early_stopping = p->early_stopping };
}

static spey_status check_beams(const spey_sampling *p)
{
    SPEY_TRY(check_range("beams", p->beams, 0, SPEY_BEAMS_MAX));
    if (p->beams < 2) return SPEY_OK;
    spey_beam_options options = spey_sampling_beams(p);
    SPEY_TRY(spey_beam_check(&options));
    SPEY_TRY(check_range("n of a beam search", p->n, 1, p->beams));
    const char *wrong = NULL;
    if (p->temperature > 0) wrong = "a temperature";
    if (p->best_of) wrong = "best_of";
    if (p->n_stop) wrong = "stop strings";
    if (p->logprobs > 0) wrong = "the likeliest tokens (logprobs > 0)";
    return wrong ? SPEY_FAIL(SPEY_INVALID, "beam search and %s do not go together", wrong)
                 : SPEY_OK;
}

spey_status spey_sampling_check(const spey_sampling *p, int64_t vocab_size)
{
    if (p->struct_bytes != sizeof *p)
        return SPEY_FAIL(SPEY_INVALID, "spey_sampling was not filled by spey_sampling_init");
    SPEY_TRY(check_range("max_tokens", p->max_tokens, -1, SPEY_POSITIONS_MAX));
    SPEY_TRY(check_range("min_tokens", p->min_tokens, 0, SPEY_POSITIONS_MAX));
    SPEY_TRY(check_range("temperature", p->temperature, 0, 100));
    SPEY_TRY(check_range("top_k", p->top_k, 0, INT32_MAX));
    SPEY_TRY(check_range("top_p", p->top_p, 0, 1));
    SPEY_TRY(check_range("min_p", p->min_p, 0, 1));
    SPEY_TRY(check_range("typical_p", p->typical_p, 0, 1));
    SPEY_TRY(check_range("repetition_penalty", p->repetition_penalty, 1e-6, 1e6));
    SPEY_TRY(check_range("presence_penalty", p->presence_penalty, -100, 100));
    SPEY_TRY(check_range("frequency_penalty", p->frequency_penalty, -100, 100));
    SPEY_TRY(check_range("no_repeat_ngram", p->no_repeat_ngram, 0, 1024));
    SPEY_TRY(check_range("logprobs", p->logprobs, -1, SPEY_LOGPROBS_MAX));
    SPEY_TRY(check_range("prompt_logprobs", p->prompt_logprobs, -1, SPEY_LOGPROBS_MAX));
    SPEY_TRY(check_range("n", p->n, 1, SPEY_CHOICES_MAX));
    if (p->best_of) SPEY_TRY(check_range("best_of", p->best_of, p->n, SPEY_CHOICES_MAX));
    SPEY_TRY(check_beams(p));
    if (p->guide < SPEY_GUIDE_NONE || p->guide > SPEY_GUIDE_JSON_SCHEMA)
        return SPEY_FAIL(SPEY_INVALID, "guide is %d, expected %d to %d", (int)p->guide,
                         SPEY_GUIDE_NONE, SPEY_GUIDE_JSON_SCHEMA);
    if (p->guide != SPEY_GUIDE_NONE && !p->guide_text)
        return SPEY_FAIL(SPEY_INVALID, "guide_text is missing");
    SPEY_TRY(check_range("number of stop strings", (double)p->n_stop, 0, SPEY_STOP_STRINGS_MAX));
    SPEY_TRY(check_range("number of bad words", (double)p->n_bad_words, 0, SPEY_BAD_WORDS_MAX));
    SPEY_TRY(check_ids("stop_ids", p->stop_ids, p->n_stop_ids, vocab_size));
    SPEY_TRY(check_ids("suppress_ids", p->suppress_ids, p->n_suppress_ids, vocab_size));
    SPEY_TRY(check_ids("begin_suppress_ids", p->begin_suppress_ids, p->n_begin_suppress_ids,
                       vocab_size));
    SPEY_TRY(check_range("forced_eos_id", p->forced_eos_id, -1, (double)vocab_size - 1));
    for (size_t i = 0; i < p->n_bad_words; i++) {
        if (p->bad_words[i].n == 0) return SPEY_FAIL(SPEY_INVALID, "bad word %zu is empty", i);
        SPEY_TRY(check_ids("bad_words", p->bad_words[i].ids, p->bad_words[i].n, vocab_size));
    }
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        SPEY_TRY(check_ids("logit_bias", &p->logit_bias[i].id, 1, vocab_size));
        if (isnan(p->logit_bias[i].bias))
            return SPEY_FAIL(SPEY_INVALID, "logit_bias of token %d is not a number",
                             p->logit_bias[i].id);
    }
    return SPEY_OK;
}

/* ---- penalties and bans ---- */

/* Count the ids in [begin, end); returns with counts valid where the stamp is current. */
static void count_ids(spey_sampler *s, const int32_t *ids, int64_t begin, int64_t end)
{
    s->stamp++;
    for (int64_t i = begin; i < end; i++) {
        int32_t id = ids[i];
        if (s->stamps[id] != s->stamp) {
            s->stamps[id] = s->stamp;
            s->counts[id] = 0;
        }
        s->counts[id]++;
    }
}

static void penalize_repetition(spey_sampler *s, float penalty, const spey_history *h,
                                float *logits)
{
    s->stamp++;
    for (int64_t i = 0; i < h->n; i++) {
        int32_t id = h->ids[i];
        if (id >= s->vocab_size || s->stamps[id] == s->stamp) continue;
        s->stamps[id] = s->stamp;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

static void penalize_output(spey_sampler *s, const spey_sampling *p, const spey_history *h,
                            float *logits)
{
    count_ids(s, h->ids, h->n_prompt, h->n);
    for (int64_t i = h->n_prompt; i < h->n; i++) {
        int32_t id = h->ids[i];
        if (s->stamps[id] != s->stamp) continue; /* done */
        s->stamps[id] = s->stamp - 1;
        logits[id] -= (float)(p->presence_penalty + p->frequency_penalty * s->counts[id]);
    }
}

/* Ban every token that would complete an n-gram the sequence already has. */
static void ban_ngrams(const spey_sampler *s, int64_t n, const spey_history *h, float *logits)
{
    const int32_t *last = h->ids + h->n - (n - 1);
    for (int64_t i = 0; i + n <= h->n; i++) {
        int64_t same = 0;
        while (same < n - 1 && h->ids[i + same] == last[same])
            same++;
        int32_t next = h->ids[i + n - 1];
        if (same == n - 1 && next < s->vocab_size) logits[next] = -INFINITY;
    }
}

static void ban_ids(const int32_t *ids, size_t n, float *logits)
{
    for (size_t i = 0; i < n; i++)
        logits[ids[i]] = -INFINITY;
}

static void ban_words(const spey_sampling *p, const spey_history *h, float *logits)
{
    for (size_t w = 0; w < p->n_bad_words; w++) {
        const spey_id_list *word = &p->bad_words[w];
        int64_t before = (int64_t)word->n - 1, same = 0;
        if (before > h->n) continue;
        while (same < before && h->ids[h->n - before + same] == word->ids[same])
            same++;
        if (same == before) logits[word->ids[before]] = -INFINITY;
    }
}

bool spey_sampling_takes_best(const spey_sampling *p)
{
    bool greedy = p->temperature == 0 || p->top_k == 1;
    bool penalties =
        p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
    bool bans = p->no_repeat_ngram > 0 || p->n_bad_words > 0 || p->min_tokens > 0 ||
                p->n_suppress_ids > 0 || p->n_begin_suppress_ids > 0;
    bool more = p->forced_eos_id >= 0 || p->guide != SPEY_GUIDE_NONE || p->beams > 1;
    return greedy && !penalties && !bans && !more && !p->n_logit_bias;
}

void spey_sampler_penalize(spey_sampler *s, const spey_sampling *p, const spey_history *h,
                           const int32_t *eos_ids, int32_t n_eos, float *logits)
{
    for (size_t i = 0; i < p->n_logit_bias; i++)
        logits[p->logit_bias[i].id] += p->logit_bias[i].bias;
    if (p->repetition_penalty != 1) penalize_repetition(s, (float)p->repetition_penalty, h, logits);
    if (p->presence_penalty != 0 || p->frequency_penalty != 0) penalize_output(s, p, h, logits);
    if (p->no_repeat_ngram > 0 && h->n + 1 >= p->no_repeat_ngram)
        ban_ngrams(s, p->no_repeat_ngram, h, logits);
    ban_words(p, h, logits);
    ban_ids(p->suppress_ids, p->n_suppress_ids, logits);
    if (h->n == h->n_prompt) ban_ids(p->begin_suppress_ids, p->n_begin_suppress_ids, logits);
    if (h->n - h->n_prompt < p->min_tokens) {
        ban_ids(eos_ids, (size_t)n_eos, logits);
        ban_ids(p->stop_ids, p->n_stop_ids, logits);
    }
}

void spey_sampler_force(const spey_sampler *s, int32_t id, float *logits)
{
    for (int64_t i = 0; i < s->vocab_size; i++)
        logits[i] = i == id ? 0 : -INFINITY;
}

float *spey_sampler_copy(spey_sampler *s, const float *logits)
{
    memcpy(s->row, logits, (size_t)s->vocab_size * sizeof *logits);
    return s->row;
}

/* ---- the draw ---- */

/* The order of all choices: higher score first, then lower id. */
static bool before(candidate a, candidate b)
{
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

static void sift_down(candidate *heap, int64_t n, int64_t i)
{
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], heap[i])) return;
        candidate moved = heap[i];
        heap[i] = heap[child];
        heap[child] = moved;
        i = child;
    }
}

static void heapify(candidate *heap, int64_t n)
{
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, i);
}

/* Move the best of heap[0, n) to heap[n - 1]; the rest stays a heap. Popped candidates so stand from the end of the array
 * backwards, best last: no second array is needed. */
static candidate pop(candidate *heap, int64_t n)
{
    candidate best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0);
    return best;
}

static void reverse(candidate *list, int64_t n)
{
    for (int64_t i = 0, j = n - 1; i < j; i++, j--) {
        candidate moved = list[i];
        list[i] = list[j];
        list[j] = moved;
    }
}

/* Fill in the candidates that are not banned. False: none is left (*n == 0), or a logit is not a number. */
static bool collect(spey_sampler *s, const float *logits, double temperature, int64_t *n)
{
    float scale = (float)(1 / temperature), best = -INFINITY;
    int64_t count = 0;
    bool nan = false;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        nan |= isnan(logits[i]);
        if (logits[i] == -INFINITY) continue;
        best = logits[i] > best ? logits[i] : best;
        s->candidates[count++] = (candidate){ .score = logits[i], .id = (int32_t)i };
    }
    for (int64_t i = 0; i < count; i++) {
        s->candidates[i].score = (s->candidates[i].score - best) * scale;
        s->candidates[i].weight = expf(s->candidates[i].score);
    }
    *n = count;
    return count > 0 && !nan && best < INFINITY;
}

static double sum_weights(const candidate *list, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)list[i].weight;
    return sum;
}

/* Keep the best `n_max`, and of these the fewest, best first, whose mass reaches `share` of theirs; at least
 * one. The survivors stand best first from *list on; returns how many. */
static int64_t keep_best(candidate **list, int64_t n, int64_t n_max, double share)
{
    candidate *heap = *list;
    bool cut = n_max < n;
    double goal = cut || share >= 1 ? HUGE_VAL : share * sum_weights(heap, n), mass = 0;
    int64_t taken = 0;
    heapify(heap, n);
    for (; taken < n && taken < n_max && (taken == 0 || mass < goal); taken++)
        mass += (double)pop(heap, n - taken).weight;
    *list = heap + n - taken;
    reverse(*list, taken);
    if (!cut || share >= 1) return taken;
    double kept_mass = 0;
    int64_t kept = 0;
    while (kept < taken && (kept == 0 || kept_mass < share * mass))
        kept_mass += (double)(*list)[kept++].weight;
    return kept;
}

static int64_t keep_min_p(candidate *list, int64_t n, double min_p)
{
    float best = 0;
    for (int64_t i = 0; i < n; i++)
        best = list[i].weight > best ? list[i].weight : best;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if ((double)list[i].weight >= min_p * (double)best) list[kept++] = list[i];
    return kept;
}

/* Locally typical sampling (Meister et al., 2023): prefer tokens whose surprise is near the entropy. */
static int64_t keep_typical(candidate **list, int64_t n, double share)
{
    double total = sum_weights(*list, n), entropy = 0;
    for (int64_t i = 0; i < n; i++) {
        double p = (double)(*list)[i].weight / total;
        entropy -= p > 0 ? p * log(p) : 0;
    }
    for (int64_t i = 0; i < n; i++) {
        double p = (double)(*list)[i].weight / total;
        (*list)[i].score = p > 0 ? (float)-fabs(-log(p) - entropy) : -INFINITY;
    }
    return keep_best(list, n, n, share);
}

static int32_t argmax(const float *logits, int64_t n, bool *nan)
{
    int64_t best = 0;
    *nan = false;
    for (int64_t i = 0; i < n; i++) {
        *nan |= isnan(logits[i]);
        if (logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

static spey_status no_choice(bool nan)
{
    return nan ? SPEY_FAIL(SPEY_INVALID, "the model gave a logit that is not a number")
               : SPEY_FAIL(SPEY_INVALID, "every token is banned: loosen bad words or logit bias");
}

spey_status spey_sampler_draw(spey_sampler *s, const spey_sampling *p, const float *logits,
                              uint64_t index, int32_t *out)
{
    if (p->temperature == 0 || p->top_k == 1) {
        bool nan;
        int32_t best = argmax(logits, s->vocab_size, &nan);
        if (nan || logits[best] == -INFINITY) return no_choice(nan);
        *out = best;
        return SPEY_OK;
    }
    int64_t n;
    if (!collect(s, logits, p->temperature, &n)) return no_choice(n > 0);
    candidate *list = s->candidates;
    if (p->top_k > 0 || p->top_p < 1)
        n = keep_best(&list, n, p->top_k > 0 ? p->top_k : n, p->top_p);
    if (p->min_p > 0) n = keep_min_p(list, n, p->min_p);
    if (p->typical_p < 1) n = keep_typical(&list, n, p->typical_p);
    double point = spey_philox_uniform(p->seed, 0, index) * sum_weights(list, n), mass = 0;
    int64_t i = 0;
    for (; i < n - 1; i++) {
        mass += (double)list[i].weight;
        if (point < mass) break;
    }
    *out = list[i].id;
    return SPEY_OK;
}

/* ---- log-probabilities ---- */

double spey_log_sum_exp(const float *logits, int64_t n)
{
    float best = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        best = logits[i] > best ? logits[i] : best;
    if (best == -INFINITY) return (double)best;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)expf(logits[i] - best);
    return (double)best + log(sum);
}

void spey_sampler_top(spey_sampler *s, const float *logits, double log_sum_exp, int32_t n,
                      spey_token_logprob *out)
{
    /* n is small: insertion into the n best so far, sorted, passes once over the row. */
    int32_t taken = 0;
    candidate *best = s->candidates;
    for (int64_t i = 0; n > 0 && i < s->vocab_size; i++) {
        candidate c = { .score = logits[i], .id = (int32_t)i };
        if (taken == n && !before(c, best[n - 1])) continue;
        int32_t at = taken < n ? taken++ : n - 1;
        for (; at > 0 && before(c, best[at - 1]); at--)
            best[at] = best[at - 1];
        best[at] = c;
    }
    for (int32_t i = 0; i < taken; i++)
        out[i] = (spey_token_logprob){ best[i].id, (float)((double)best[i].score - log_sum_exp) };
}
