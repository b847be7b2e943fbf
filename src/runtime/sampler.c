#include "runtime/sampler.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/status.h"
#include "kernels/sample/sample_weight.h"

/* Numbers of tokens, and what they weigh together, by a digit of the keys. */
enum { DIGIT_BITS = 10, DIGITS = SPEY_SAMPLE_KEY_BITS / DIGIT_BITS, BINS = 1 << DIGIT_BITS };
typedef struct bin {
    uint64_t count, mass;
} bin;

struct spey_sampler {
    int64_t vocab_size;
    uint32_t *keys;    /* [vocab_size] */
    uint64_t *weights; /* [vocab_size]; 0: not to be drawn */
    bin bins[BINS];
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
    s->keys = spey_new_array(SPEY_PURPOSE_RUNTIME, uint32_t, vocab_size);
    s->weights = spey_new_array(SPEY_PURPOSE_RUNTIME, uint64_t, vocab_size);
    s->stamps = spey_new_array(SPEY_PURPOSE_RUNTIME, uint32_t, vocab_size);
    s->counts = spey_new_array(SPEY_PURPOSE_RUNTIME, uint32_t, vocab_size);
    s->row = spey_new_array(SPEY_PURPOSE_RUNTIME, float, vocab_size);
    if (!s->row || !s->keys || !s->weights || !s->stamps || !s->counts) {
        spey_sampler_free(s);
        return SPEY_NOMEM;
    }
    *out = s;
    return SPEY_OK;
}

void spey_sampler_free(spey_sampler *s)
{
    if (!s) return;
    spey_free(s->keys);
    spey_free(s->weights);
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

/* Fill in keys and weights. False: there is no best logit. It is -INFINITY when every token is banned, else INFINITY. */
static bool weigh(spey_sampler *s, const float *logits, double temperature, float *best)
{
    const float slope = spey_sample_slope(temperature);
    bool nan = false;
    *best = -INFINITY;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        nan |= isnan(logits[i]);
        *best = logits[i] > *best ? logits[i] : *best;
    }
    if (nan) *best = INFINITY;
    if (isinf(*best)) return false;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        s->keys[i] = spey_sample_key(*best, logits[i], slope);
        s->weights[i] = spey_sample_weight(s->keys[i]);
    }
    return true;
}

static uint64_t sum_weights(const spey_sampler *s)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < s->vocab_size; i++)
        sum += s->weights[i];
    return sum;
}

/* Count the tokens whose keys begin with `prefix` by their next digit. */
static void count_digit(spey_sampler *s, int digit, uint32_t prefix)
{
    const int shift = SPEY_SAMPLE_KEY_BITS - (digit + 1) * DIGIT_BITS;
    memset(s->bins, 0, sizeof s->bins);
    for (int64_t i = 0; i < s->vocab_size; i++) {
        if (!s->weights[i] || s->keys[i] >> shift >> DIGIT_BITS != prefix) continue;
        bin *b = &s->bins[s->keys[i] >> shift & (BINS - 1)];
        b->count++;
        b->mass += s->weights[i];
    }
}

/* Keep what comes first by key, of equal ones by id, until there are `count_max` tokens, or until they weigh `goal`, which all
 * together do. */
static void keep_first(spey_sampler *s, uint64_t count_max, uint64_t goal)
{
    uint32_t key = 0;
    bin before = { 0 };
    for (int digit = 0; digit < DIGITS; digit++) {
        count_digit(s, digit, key);
        int i = 0;
        for (; i < BINS - 1; i++) {
            const bin with = { before.count + s->bins[i].count, before.mass + s->bins[i].mass };
            if (with.count >= count_max || with.mass >= goal) break;
            before = with;
        }
        key = key << DIGIT_BITS | (uint32_t)i;
    }
    for (int64_t i = 0; i < s->vocab_size; i++) {
        bool stays = before.count < count_max && before.mass < goal;
        if (!s->weights[i] || s->keys[i] < key) continue;
        if (s->keys[i] > key || !stays) {
            s->weights[i] = 0;
            continue;
        }
        before.count++;
        before.mass += s->weights[i];
    }
}

static void keep_share(spey_sampler *s, double share)
{
    keep_first(s, UINT64_MAX, spey_sample_goal(share, sum_weights(s)));
}

static void keep_min_p(spey_sampler *s, double min_p)
{
    const uint64_t least = spey_sample_least(min_p);
    for (int64_t i = 0; i < s->vocab_size; i++)
        if (s->weights[i] < least) s->weights[i] = 0;
}

/* Locally typical sampling (Meister et al., 2023): prefer tokens whose surprise is near the entropy. */
static void keep_typical(spey_sampler *s, double share)
{
    double total = (double)sum_weights(s), entropy = 0;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        double p = (double)s->weights[i] / total;
        entropy -= p > 0 ? p * log2(p) : 0;
    }
    for (int64_t i = 0; i < s->vocab_size; i++) {
        double p = (double)s->weights[i] / total;
        double distance = p > 0 ? fabs(-log2(p) - entropy) : 0;
        s->keys[i] = spey_sample_key(0, (float)-distance, 1);
    }
    keep_share(s, share);
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
    float best;
    if (!weigh(s, logits, p->temperature, &best)) return no_choice(best > -INFINITY);
    if (p->top_k > 0) keep_first(s, (uint64_t)p->top_k, UINT64_MAX);
    if (p->top_p < 1) keep_share(s, p->top_p);
    if (p->min_p > 0) keep_min_p(s, p->min_p);
    if (p->typical_p < 1) keep_typical(s, p->typical_p);
    uint64_t point = spey_sample_point(p->seed, index, sum_weights(s)), mass = s->weights[0];
    int64_t i = 0;
    while (mass <= point)
        mass += s->weights[++i];
    *out = (int32_t)i;
    return SPEY_OK;
}
