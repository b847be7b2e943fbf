#include "text/guide_fill.h"

#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"

enum {
    CACHED_STEPS = 512,
    FEW_TOKENS = 1024, /* so many are walked in no time */
    NEXTS_MAX = 16,    /* different states that are counted */
    FRONTS_MAX = 8,    /* states inside the characters of one part */
};

/* What the characters of a fold do to a state. */
typedef struct fold_step {
    int32_t state;
    uint32_t stamp;
    int32_t next;       /* of most of them */
    uint64_t except[2]; /* those of one byte that lead elsewhere */
    bool others;        /* some of the longer ones may */
} fold_step;

/* A FOLDED node below which exceptions are to be walked. */
typedef struct later {
    int32_t node, state;
} later;

/* Bytes of one class of the automaton: where the first leads, all do. */
typedef struct kind {
    unsigned char byte;
    int32_t n;
    uint64_t bits[2]; /* those below 128 */
} kind;

/* A fold with its characters by the automaton's classes of bytes. */
typedef struct fold_kinds {
    const spey_guide_fold *fold;
    kind ascii[128];
    int32_t n_ascii;
    spey_guide_choices parts[SPEY_GUIDE_FOLD_PARTS_MAX][4];
    int32_t n_below[256]; /* nodes that begin with a byte */
} fold_kinds;

struct spey_guide_filler {
    spey_guide_run *run;
    const spey_guide_vocab *vocab;
    fold_kinds *folds; /* [n_folds] */
    int32_t n_folds;
    int32_t n_starting[256]; /* tokens that begin with a byte */
    size_t mask_words;
    int32_t *path; /* [vocab->depth_max + 1] states of a walk */
    later *later;  /* [the largest fold's nodes] */
    int32_t n_later;
    fold_step steps[CACHED_STEPS];
    uint32_t stamp;
};

static spey_status too_complicated(void)
{
    return SPEY_FAIL(SPEY_LIMIT, "the guide is too complicated here");
}

static void set_bits(uint64_t *mask, const int32_t *ids, int32_t first, int32_t end)
{
    for (int32_t i = first; i < end; i++)
        mask[ids[i] >> 6] |= (uint64_t)1 << (ids[i] & 63);
}

static void clear_bits(uint64_t *mask, const int32_t *ids, int32_t first, int32_t end)
{
    for (int32_t i = first; i < end; i++)
        mask[ids[i] >> 6] &= ~((uint64_t)1 << (ids[i] & 63));
}

/* ---- the vocabulary's trie ---- */

/* Nodes first … end, a subtree without its root, whose state is in the path. */
static spey_status walk_subtree(spey_guide_filler *f, int32_t first, int32_t end, uint64_t *mask)
{
    const spey_guide_vocab *v = f->vocab;
    for (int32_t i = first; i < end;) {
        const spey_guide_vocab_node *node = &v->nodes[i];
        int32_t next = spey_guide_run_step(f->run, f->path[node->depth - 1], node->byte);
        if (next == SPEY_GUIDE_DEAD) {
            i = node->end;
            continue;
        }
        if (next < 0) return too_complicated();
        f->path[node->depth] = next;
        set_bits(mask, v->ids, node->first, node->first + node->n_own);
        i++;
    }
    return SPEY_OK;
}

/* ---- what the characters of a fold do ---- */

static bool in_ascii(const uint64_t bits[2], unsigned byte)
{
    return bits[byte >> 6] >> (byte & 63) & 1;
}

/* The state that most characters of one byte lead to. */
static int32_t find_most(spey_guide_run *run, const fold_kinds *fold, int32_t state)
{
    int32_t nexts[NEXTS_MAX], counts[NEXTS_MAX], n = 0, best = 0;
    for (int32_t i = 0; i < fold->n_ascii; i++) {
        int32_t next = spey_guide_run_step(run, state, fold->ascii[i].byte), k = 0;
        while (k < n && nexts[k] != next)
            k++;
        if (k == NEXTS_MAX) continue;
        if (k == n) counts[n++] = 0;
        nexts[k] = next;
        counts[k] += fold->ascii[i].n;
        if (counts[k] > counts[best]) best = k;
    }
    return n ? nexts[best] : SPEY_GUIDE_DEAD;
}

/* Do all characters of a part lead to `wanted`? */
static bool part_leads_to(spey_guide_run *run, const fold_kinds *fold, int32_t part, int32_t state,
                          int32_t wanted)
{
    int32_t fronts[2][FRONTS_MAX] = { { state } }, n = 1, length = fold->fold->parts[part].n;
    for (int32_t i = 0; i < length; i++) {
        const int32_t *from = fronts[i & 1];
        int32_t *to = fronts[~i & 1], n_to = 0;
        for (int32_t k = 0; k < n * fold->parts[part][i].n; k++) {
            unsigned char byte = fold->parts[part][i].bytes[k / n];
            int32_t next = spey_guide_run_step(run, from[k % n], byte), at = 0;
            if (next < 0 && next != wanted) return false;
            while (at < n_to && to[at] != next)
                at++;
            if (next < 0 || at < n_to) continue;
            if (n_to == FRONTS_MAX) return false;
            to[n_to++] = next;
        }
        n = n_to;
    }
    return n == 0 || (n == 1 && fronts[length & 1][0] == wanted);
}

static const fold_step *find_step(spey_guide_filler *f, const fold_kinds *fold, int32_t state)
{
    fold_step *s = &f->steps[state % CACHED_STEPS];
    if (s->stamp == f->stamp && s->state == state) return s;
    *s = (fold_step){ .state = state, .stamp = f->stamp };
    s->next = find_most(f->run, fold, state);
    const kind *most = NULL;
    for (int32_t i = 0; i < fold->n_ascii; i++) {
        const kind *k = &fold->ascii[i];
        if (spey_guide_run_step(f->run, state, k->byte) == s->next) {
            most = k;
            continue;
        }
        s->except[0] |= k->bits[0];
        s->except[1] |= k->bits[1];
    }
    for (int32_t i = 0; i < fold->fold->n_parts && !s->others; i++) {
        bool agrees = most && s->next >= 0 &&
                      spey_guide_run_agrees(f->run, state, most->byte, fold->parts[i],
                                            fold->fold->parts[i].n);
        s->others = !agrees && !part_leads_to(f->run, fold, i, state, s->next);
    }
    return s;
}

/* ---- a folded trie ---- */

static spey_status walk_fold(spey_guide_filler *f, const fold_kinds *kinds, uint64_t *mask)
{
    const spey_guide_fold *fold = kinds->fold;
    f->n_later = 0;
    for (int32_t i = 1; i < fold->n_nodes;) {
        const spey_guide_fold_node *node = &fold->nodes[i];
        int32_t state = f->path[node->depth - 1], next;
        if (node->symbol == SPEY_GUIDE_FOLDED) {
            const fold_step *s = find_step(f, kinds, state);
            if (s->except[0] || s->except[1] || s->others)
                f->later[f->n_later++] = (later){ i, state };
            next = s->next;
        } else {
            next = spey_guide_run_step(f->run, state, (unsigned char)node->symbol);
        }
        if (next == SPEY_GUIDE_DEAD) {
            i = node->end;
            continue;
        }
        if (next < 0) return too_complicated();
        f->path[node->depth] = next;
        if (node->bitmap < 0) {
            set_bits(mask, fold->ids, node->first, node[1].first);
        } else {
            const uint64_t *bits = fold->bitmaps + (size_t)node->bitmap * f->mask_words;
            for (size_t k = 0; k < f->mask_words; k++)
                mask[k] |= bits[k];
        }
        i++;
    }
    return SPEY_OK;
}

/* The state after the character that ends at a node of the vocabulary. */
static int32_t step_character(const spey_guide_filler *f, const spey_guide_vocab_node *node,
                              int32_t state)
{
    if (node->byte < 0x80) return spey_guide_run_step(f->run, state, node->byte);
    const char *end = f->vocab->bytes[f->vocab->ids[node->first]] + node->depth, *p = end - 1;
    while ((*p & 0xc0) == 0x80)
        p--;
    for (; p < end && state >= 0; p++)
        state = spey_guide_run_step(f->run, state, (unsigned char)*p);
    return state;
}

/* Walk what the members of a FOLDED node that are exceptions begin. */
static spey_status walk_exceptions(spey_guide_filler *f, const fold_kinds *kinds, later at,
                                   uint64_t *mask)
{
    const spey_guide_vocab *v = f->vocab;
    const spey_guide_fold *fold = kinds->fold;
    const fold_step s = *find_step(f, kinds, at.state);
    const spey_guide_fold_node *folded = &fold->nodes[at.node];
    for (int32_t i = folded->member; i < folded[1].member; i++) {
        int32_t member = fold->members[i];
        const spey_guide_vocab_node *node = &v->nodes[member];
        if (node->byte < 0x80 ? !in_ascii(s.except, node->byte) : !s.others) continue;
        int32_t next = step_character(f, node, at.state);
        if (next == s.next) continue;
        if (next == SPEY_GUIDE_TOO_BIG) return too_complicated();
        if (s.next >= 0) clear_bits(mask, v->ids, node->first, v->nodes[node->end].first);
        if (next < 0) continue;
        f->path[node->depth] = next;
        set_bits(mask, v->ids, node->first, node->first + node->n_own);
        SPEY_TRY(walk_subtree(f, member + 1, node->end, mask));
    }
    return SPEY_OK;
}

/* About how many nodes are walked; `alive` are the tokens that begin with each byte that is not dead. */
static int32_t guess_cost(spey_guide_filler *f, const fold_kinds *kinds, int32_t state,
                          const int32_t *alive)
{
    const spey_guide_fold *fold = kinds->fold;
    int32_t cost = 0;
    if (fold->after_first) {
        for (unsigned byte = 0; byte < 256; byte++)
            cost += alive[byte] ? kinds->n_below[byte] / 4 : 0;
        return cost;
    }
    f->stamp++;
    const fold_step *s = find_step(f, kinds, state);
    for (unsigned byte = 0; byte < 256; byte++)
        if (byte < 0x80 ? in_ascii(s->except, byte) : s->others) cost += 2 * alive[byte];
    return cost + fold->n_nodes / 8;
}

/* The fold with which the fewest nodes are walked; NULL: none. */
static const fold_kinds *choose_fold(spey_guide_filler *f, int32_t state)
{
    int32_t best_cost = 0, alive[256];
    for (unsigned byte = 0; byte < 256; byte++) {
        bool dead = spey_guide_run_step(f->run, state, (unsigned char)byte) == SPEY_GUIDE_DEAD;
        alive[byte] = dead ? 0 : f->n_starting[byte];
        best_cost += alive[byte];
    }
    const fold_kinds *best = NULL;
    if (best_cost < FEW_TOKENS) return NULL;
    for (int32_t i = 0; i < f->n_folds; i++) {
        int32_t cost = guess_cost(f, &f->folds[i], state, alive);
        if (cost >= best_cost) continue;
        best_cost = cost;
        best = &f->folds[i];
    }
    f->stamp++;
    return best;
}

spey_status spey_guide_filler_fill(spey_guide_filler *f, int32_t state, uint64_t *mask)
{
    memset(mask, 0, 8 * f->mask_words);
    f->path[0] = state;
    const fold_kinds *fold = choose_fold(f, state);
    if (!fold) return walk_subtree(f, 1, f->vocab->n_nodes, mask);
    SPEY_TRY(walk_fold(f, fold, mask));
    /* From the end: an exception is a whole subtree, whatever was found below it. */
    for (int32_t i = f->n_later - 1; i >= 0; i--)
        SPEY_TRY(walk_exceptions(f, fold, f->later[i], mask));
    return SPEY_OK;
}

/* ---- life ---- */

static void find_kinds(fold_kinds *kinds, const spey_guide_fold *fold, const uint8_t *class_of)
{
    int32_t of_class[256];
    memset(of_class, -1, sizeof of_class);
    kinds->fold = fold;
    for (int32_t i = 1; i < fold->n_nodes; i = fold->nodes[i].end)
        if (fold->nodes[i].symbol < 256)
            kinds->n_below[fold->nodes[i].symbol] = fold->nodes[i].end - i;
    for (unsigned byte = 0; byte < 128; byte++) {
        if (!in_ascii(fold->ascii, byte)) continue;
        int32_t *at = &of_class[class_of[byte]];
        if (*at < 0) {
            *at = kinds->n_ascii++;
            kinds->ascii[*at].byte = (unsigned char)byte;
        }
        kinds->ascii[*at].n++;
        kinds->ascii[*at].bits[byte >> 6] |= (uint64_t)1 << (byte & 63);
    }
    for (int32_t p = 0; p < fold->n_parts; p++)
        for (int32_t i = 0; i < fold->parts[p].n; i++)
            for (unsigned byte = fold->parts[p].from[i]; byte <= fold->parts[p].to[i]; byte++)
                if (byte == fold->parts[p].from[i] || class_of[byte] != class_of[byte - 1])
                    kinds->parts[p][i].bytes[kinds->parts[p][i].n++] = (unsigned char)byte;
}

static spey_status get_folds(spey_guide_filler *f, const spey_guide_class *classes,
                             int32_t n_classes)
{
    const uint8_t *class_of = ((const spey_guide_edges *)f->run)->class_of;
    int32_t n_nodes = 0;
    f->folds = spey_new_array(SPEY_PURPOSE_TEXT, fold_kinds, 2 * n_classes);
    if (!f->folds) return SPEY_NOMEM;
    for (int32_t i = 0; i < 2 * n_classes; i++) {
        const spey_guide_fold *fold;
        SPEY_TRY(spey_guide_fold_get(f->vocab, &classes[i / 2], i % 2, &fold));
        if (!fold) continue;
        find_kinds(&f->folds[f->n_folds++], fold, class_of);
        if (fold->n_nodes > n_nodes) n_nodes = fold->n_nodes;
    }
    f->later = spey_new_array(SPEY_PURPOSE_TEXT, later, n_nodes);
    return f->later ? SPEY_OK : SPEY_NOMEM;
}

spey_status spey_guide_filler_new(spey_guide_run *run, const spey_guide_vocab *vocab,
                                  const spey_guide_class *classes, int32_t n_classes,
                                  spey_guide_filler **out)
{
    *out = NULL;
    spey_guide_filler *f = spey_new(SPEY_PURPOSE_TEXT, spey_guide_filler);
    if (!f) return SPEY_NOMEM;
    f->run = run;
    f->vocab = vocab;
    f->mask_words = ((size_t)vocab->vocab_size + 63) / 64;
    for (int32_t i = 1; i < vocab->n_nodes; i = vocab->nodes[i].end)
        f->n_starting[vocab->nodes[i].byte] =
            vocab->nodes[vocab->nodes[i].end].first - vocab->nodes[i].first;
    f->path = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, (int64_t)vocab->depth_max + 1);
    spey_status status = f->path ? get_folds(f, classes, n_classes) : SPEY_NOMEM;
    if (status) {
        spey_guide_filler_free(f);
        return status;
    }
    *out = f;
    return SPEY_OK;
}

size_t spey_guide_filler_bytes(const spey_guide_vocab *vocab, int32_t n_classes)
{
    return sizeof(spey_guide_filler) + ((size_t)vocab->depth_max + 1) * sizeof(int32_t) +
           (n_classes ? (size_t)n_classes * 2 * sizeof(fold_kinds) +
                            (size_t)vocab->n_nodes * sizeof(later)
                      : 0);
}

void spey_guide_filler_free(spey_guide_filler *f)
{
    if (!f) return;
    for (int32_t i = 0; i < f->n_folds; i++)
        spey_guide_fold_put(f->vocab, f->folds[i].fold);
    spey_free(f->folds);
    spey_free(f->path);
    spey_free(f->later);
    spey_free(f);
}
