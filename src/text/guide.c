#include "text/guide.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "text/guide_automaton.h"
#include "text/guide_fill.h"
#include "text/guide_read.h"
#include "text/guide_run.h"

struct spey_guide {
    spey_guide_automaton automaton;
    spey_guide_class classes[SPEY_GUIDE_LARGE_MAX]; /* worth folding */
    int32_t n_classes;
};

enum { PROBE_STATES = 256, PROBE_STEPS = 1 << 14 };

/* ---- compiling ---- */

/* Walk the automaton a little way, breadth first: one that is at ever more places at once is refused now rather than in the
 * middle of an answer. */
static spey_status probe(const spey_guide_automaton *a)
{
    spey_guide_run *run;
    SPEY_TRY(spey_guide_run_new(a, &run));
    int32_t queue[PROBE_STATES] = { spey_guide_run_start(run) };
    int n = 1, steps = 0;
    spey_status status = SPEY_OK;
    for (int i = 0; i < n && !status; i++)
        for (unsigned byte = 0; byte < 256 && steps < PROBE_STEPS && !status; byte++, steps++) {
            int32_t next = spey_guide_run_step(run, queue[i], (unsigned char)byte);
            bool known = next < 0;
            for (int k = 0; k < n && !known; k++)
                known = queue[k] == next;
            if (!known && n < PROBE_STATES) queue[n++] = next;
            if (next == SPEY_GUIDE_TOO_BIG)
                status =
                    SPEY_FAIL(SPEY_LIMIT, "the guide is too ambiguous: more than %d ways to go on",
                              SPEY_GUIDE_PLACES_MAX);
        }
    spey_guide_run_free(run);
    return status;
}

/* The builder's memory goes; these stay. */
static spey_status keep_classes(spey_guide *guide, const spey_guide_classes *from)
{
    for (int32_t i = 0; i < from->n && guide->n_classes < SPEY_GUIDE_LARGE_MAX; i++) {
        const spey_guide_class *set = from->sets[i];
        spey_guide_class *to = &guide->classes[guide->n_classes];
        to->ranges = spey_new_array(SPEY_PURPOSE_TEXT, spey_guide_range, set->n);
        if (!to->ranges) return SPEY_NOMEM;
        memcpy(to->ranges, set->ranges, set->n * sizeof *set->ranges);
        to->n = to->cap = set->n;
        guide->n_classes++;
    }
    return SPEY_OK;
}

spey_status spey_guide_compile(spey_guide_format format, const char *text, size_t n,
                               spey_guide **out)
{
    *out = NULL;
    if (n > SPEY_GUIDE_TEXT_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "the guide has %zu bytes, at most %d", n, SPEY_GUIDE_TEXT_MAX);
    spey_guide *guide = spey_new(SPEY_PURPOSE_TEXT, spey_guide);
    if (!guide) return SPEY_NOMEM;
    spey_guide_builder b;
    spey_guide_builder_init(&b);
    switch (format) {
    case SPEY_GUIDE_NONE: spey_guide_fail(&b, SPEY_FAIL(SPEY_INVALID, "no kind of guide")); break;
    case SPEY_GUIDE_REGEX: spey_guide_read_regex(&b, text, n); break;
    case SPEY_GUIDE_GRAMMAR: spey_guide_read_grammar(&b, text, n); break;
    case SPEY_GUIDE_JSON_SCHEMA: spey_guide_read_schema(&b, text, n); break;
    }
    spey_status status = spey_guide_automaton_init(&guide->automaton, &b);
    if (!status) status = keep_classes(guide, &b.repeated);
    if (!status) status = keep_classes(guide, &b.large);
    spey_guide_builder_deinit(&b);
    if (!status) status = probe(&guide->automaton);
    if (status) {
        spey_guide_free(guide);
        return status;
    }
    *out = guide;
    return SPEY_OK;
}

void spey_guide_free(spey_guide *guide)
{
    if (!guide) return;
    for (int32_t i = 0; i < guide->n_classes; i++)
        spey_free(guide->classes[i].ranges);
    spey_guide_automaton_deinit(&guide->automaton);
    spey_free(guide);
}

size_t spey_guide_memory(const spey_guide *guide)
{
    return sizeof *guide + spey_guide_automaton_bytes(&guide->automaton);
}

/* ---- masks ---- */

struct spey_guide_matcher {
    spey_guide_run *run;
    spey_guide_filler *filler;
    const spey_guide_vocab *vocab;
    int32_t *eos;
    int32_t n_eos;
    size_t mask_words;
    int32_t n_masks;     /* kept ones */
    uint64_t *masks;     /* [n_masks][mask_words] */
    int32_t *mask_state; /* [n_masks] whose mask it is, -1: free */
    bool *mask_used;     /* since the clock passed */
    int32_t clock;       /* the mask that is given up next */
    int32_t *state_mask; /* [SPEY_GUIDE_STATES_MAX] index + 1, 0: none */
};

static int32_t masks_of(const spey_guide_vocab *vocab)
{
    int64_t n = SPEY_GUIDE_MASK_BYTES / (int64_t)(8 * (((size_t)vocab->vocab_size + 63) / 64));
    return n < 2 ? 2 : n > SPEY_GUIDE_STATES_MAX ? SPEY_GUIDE_STATES_MAX : (int32_t)n;
}

size_t spey_guide_matcher_bytes(const spey_guide *guide, const spey_guide_vocab *vocab)
{
    size_t words = ((size_t)vocab->vocab_size + 63) / 64;
    return sizeof(spey_guide_matcher) + (size_t)masks_of(vocab) * (8 * words + 5) +
           SPEY_GUIDE_STATES_MAX * sizeof(int32_t) + spey_guide_run_bytes(&guide->automaton) +
           spey_guide_filler_bytes(vocab, guide->n_classes);
}

spey_status spey_guide_matcher_new(const spey_guide *guide, const spey_guide_vocab *vocab,
                                   const int32_t *eos_ids, int32_t n_eos, spey_guide_matcher **out)
{
    *out = NULL;
    spey_guide_matcher *m = spey_new(SPEY_PURPOSE_TEXT, spey_guide_matcher);
    if (!m) return SPEY_NOMEM;
    m->vocab = vocab;
    m->n_eos = n_eos;
    m->mask_words = ((size_t)vocab->vocab_size + 63) / 64;
    m->n_masks = masks_of(vocab);
    m->masks = spey_alloc_array(SPEY_PURPOSE_TEXT, (size_t)m->n_masks, 8 * m->mask_words);
    m->mask_state = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, m->n_masks);
    m->mask_used = spey_new_array(SPEY_PURPOSE_TEXT, bool, m->n_masks);
    m->state_mask = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, SPEY_GUIDE_STATES_MAX);
    m->eos = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n_eos);
    bool room = m->masks && m->mask_state && m->mask_used && m->state_mask && m->eos;
    spey_status status = room ? spey_guide_run_new(&guide->automaton, &m->run) : SPEY_NOMEM;
    if (!status)
        status = spey_guide_filler_new(m->run, vocab, guide->classes, guide->n_classes, &m->filler);
    if (status) {
        spey_guide_matcher_free(m);
        return status;
    }
    if (n_eos) memcpy(m->eos, eos_ids, (size_t)n_eos * sizeof *eos_ids);
    for (int32_t i = 0; i < m->n_masks; i++)
        m->mask_state[i] = -1;
    *out = m;
    return SPEY_OK;
}

void spey_guide_matcher_free(spey_guide_matcher *m)
{
    if (!m) return;
    spey_guide_filler_free(m->filler);
    spey_guide_run_free(m->run);
    spey_free(m->eos);
    spey_free(m->masks);
    spey_free(m->mask_state);
    spey_free(m->mask_used);
    spey_free(m->state_mask);
    spey_free(m);
}

/* A place for a mask: the first that was not used since the clock passed it last. */
static int32_t take_mask(spey_guide_matcher *m)
{
    while (m->mask_used[m->clock]) {
        m->mask_used[m->clock] = false;
        m->clock = (m->clock + 1) % m->n_masks;
    }
    int32_t at = m->clock;
    m->clock = (m->clock + 1) % m->n_masks;
    if (m->mask_state[at] >= 0) m->state_mask[m->mask_state[at]] = 0;
    m->mask_state[at] = -1;
    return at;
}

/* Before states are made: room in the tables, and no mask of a state that was forgotten. */
static void make_room(spey_guide_matcher *m)
{
    if (!spey_guide_run_collect(m->run)) return;
    for (int32_t i = 0; i < m->n_masks; i++) {
        int32_t state = m->mask_state[i];
        if (state < 0 || spey_guide_run_is_held(m->run, state)) continue;
        m->state_mask[state] = 0;
        m->mask_state[i] = -1;
        m->mask_used[i] = false;
    }
}

static void set_allowed(uint64_t *mask, int32_t id, bool allowed)
{
    uint64_t bit = (uint64_t)1 << (id & 63);
    mask[id >> 6] = allowed ? mask[id >> 6] | bit : mask[id >> 6] & ~bit;
}

static spey_status fill_mask(spey_guide_matcher *m, spey_guide_state state, uint64_t *mask)
{
    SPEY_TRY(spey_guide_filler_fill(m->filler, state, mask));
    bool can_end = spey_guide_run_can_end(m->run, state);
    for (int32_t i = 0; i < m->n_eos; i++)
        set_allowed(mask, m->eos[i], can_end);
    return SPEY_OK;
}

spey_status spey_guide_matcher_mask(spey_guide_matcher *m, spey_guide_state state,
                                    const uint64_t **mask)
{
    if (!m->state_mask[state]) {
        make_room(m);
        int32_t at = take_mask(m);
        SPEY_TRY(fill_mask(m, state, m->masks + (size_t)at * m->mask_words));
        m->mask_state[at] = state;
        m->state_mask[state] = at + 1;
    }
    int32_t at = m->state_mask[state] - 1;
    m->mask_used[at] = true;
    *mask = m->masks + (size_t)at * m->mask_words;
    return SPEY_OK;
}

/* Lanes that the compiler makes vectors of, on any machine. */
typedef int32_t lanes __attribute__((vector_size(16)));

/* 64 logits by one word. Most words of most masks allow nothing or nearly everything. */
static void apply_word(uint64_t word, float *logits)
{
    enum { FEW = 8 };
    const lanes bit = { 1, 2, 4, 8 };
    const union {
        float f;
        int32_t i;
    } never = { .f = -INFINITY };
    if (word == 0) {
        for (int k = 0; k < 64; k++)
            logits[k] = -INFINITY;
    } else if (__builtin_popcountll(~word) <= FEW) {
        for (uint64_t banned = ~word; banned; banned &= banned - 1)
            logits[__builtin_ctzll(banned)] = -INFINITY;
    } else {
        for (int k = 0; k < 64; k += 4) {
            lanes old, allowed = ((int32_t)(word >> k & 15) & bit) == bit;
            memcpy(&old, logits + k, sizeof old);
            old = (old & allowed) | (never.i & ~allowed);
            memcpy(logits + k, &old, sizeof old);
        }
    }
}

spey_status spey_guide_matcher_apply(spey_guide_matcher *m, spey_guide_state state, float *logits)
{
    const uint64_t *mask;
    SPEY_TRY(spey_guide_matcher_mask(m, state, &mask));
    int32_t n = m->vocab->vocab_size, id = 0;
    for (; id + 64 <= n; id += 64)
        apply_word(mask[id >> 6], logits + id);
    for (; id < n; id++)
        if (!(mask[id >> 6] >> (id & 63) & 1)) logits[id] = -INFINITY;
    return SPEY_OK;
}

/* ---- states ---- */

spey_guide_state spey_guide_matcher_start(spey_guide_matcher *m)
{
    return spey_guide_matcher_fork(m, spey_guide_run_start(m->run));
}

spey_guide_state spey_guide_matcher_fork(spey_guide_matcher *m, spey_guide_state state)
{
    spey_guide_run_hold(m->run, state);
    return state;
}

void spey_guide_matcher_drop(spey_guide_matcher *m, spey_guide_state state)
{
    spey_guide_run_drop(m->run, state);
}

spey_status spey_guide_matcher_advance(spey_guide_matcher *m, spey_guide_state *state,
                                       int32_t token)
{
    SPEY_ASSERT(token >= 0 && token < m->vocab->vocab_size);
    const char *bytes = m->vocab->bytes[token];
    int32_t at = *state;
    make_room(m);
    for (uint32_t i = 0; bytes && i < m->vocab->lengths[token] && at >= 0; i++)
        at = spey_guide_run_step(m->run, at, (unsigned char)bytes[i]);
    if (at == SPEY_GUIDE_TOO_BIG) return SPEY_FAIL(SPEY_LIMIT, "the guide is too complicated here");
    if (!bytes || at < 0)
        return SPEY_FAIL(SPEY_INVALID, "token %d is not what the guide allows here", token);
    spey_guide_run_hold(m->run, at);
    spey_guide_run_drop(m->run, *state);
    *state = at;
    return SPEY_OK;
}

bool spey_guide_matcher_can_end(const spey_guide_matcher *m, spey_guide_state state)
{
    return spey_guide_run_can_end(m->run, state);
}

bool spey_guide_matcher_must_end(spey_guide_matcher *m, spey_guide_state state)
{
    return spey_guide_run_must_end(m->run, state);
}
