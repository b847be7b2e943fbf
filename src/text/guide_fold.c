#include "text/guide_fold.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "text/utf8.h"

enum {
    RUN_MAX = 16,
    BITMAP_TOKENS = 512, /* own tokens that are worth a bitmap */
    BITMAPS_MAX = 64,
};

/* ---- the walk through the vocabulary's trie ---- */

/* Where the bytes so far lead: a node, and the bytes of a character that is not whole yet. */
typedef struct cursor {
    int32_t at;
    uint8_t n, need;
    char bytes[4];
} cursor;

typedef struct folder {
    const spey_guide_vocab *v;
    const spey_guide_fold *fold;
    /* Nodes in the order in which they are made: parents first. There are at most as many as in the vocabulary's trie. */
    int32_t n;
    int32_t *parent;
    uint16_t *symbol;
    uint8_t *run; /* FOLDED ones up to here, one after the other; after RUN_MAX nothing is folded */
    int32_t *folded_child; /* of each, 0: none */
    int32_t *slots;        /* other children: (parent, symbol) → node, 0: free */
    uint32_t slot_mask;
    int32_t *node_of_token; /* [v->n_ids] in order of bytes */
    int32_t *folded;        /* [v->n_nodes] the FOLDED node that ends here, 0: none */
    int32_t *place;         /* [n] in preorder */
    cursor *path;           /* [v->depth_max + 1] */
} folder;

/* Where a child is or will be noted. */
static int32_t *find_child(folder *f, int32_t parent, int32_t symbol)
{
    if (symbol == SPEY_GUIDE_FOLDED) return &f->folded_child[parent];
    uint64_t mixed = ((uint64_t)parent << 8 | (uint64_t)symbol) * 0x9e3779b97f4a7c15u;
    uint32_t slot = (uint32_t)(mixed >> 32) & f->slot_mask;
    for (; f->slots[slot]; slot = (slot + 1) & f->slot_mask)
        if (f->parent[f->slots[slot]] == parent && f->symbol[f->slots[slot]] == symbol) break;
    return &f->slots[slot];
}

static int32_t child(folder *f, int32_t parent, int32_t symbol)
{
    int32_t *found = find_child(f, parent, symbol);
    if (*found) return *found;
    SPEY_ASSERT(f->n < f->v->n_nodes);
    *found = f->n;
    f->parent[f->n] = parent;
    f->symbol[f->n] = (uint16_t)symbol;
    bool over = f->run[parent] == RUN_MAX;
    f->run[f->n] = symbol == SPEY_GUIDE_FOLDED ? (uint8_t)(f->run[parent] + 1) : over ? RUN_MAX : 0;
    return f->n++;
}

/* The bytes of an unfinished character, byte by byte. */
static cursor spell(folder *f, cursor c)
{
    for (int i = 0; i < c.n; i++)
        c.at = child(f, c.at, (unsigned char)c.bytes[i]);
    return (cursor){ .at = c.at };
}

static bool folds(const folder *f, cursor c)
{
    size_t n;
    if (f->fold->after_first && c.at == 0) return false;
    if (f->run[c.at] == RUN_MAX || spey_utf8_classify(c.bytes, c.n, &n) != SPEY_UTF8_VALID)
        return false;
    uint32_t code = spey_utf8_get(c.bytes, &n);
    return code < 0x80 ? f->fold->ascii[code >> 6] >> (code & 63) & 1
                       : spey_guide_class_has(&f->fold->chars, code);
}

static cursor extend(folder *f, cursor c, unsigned char byte, bool *folded)
{
    *folded = false;
    if (c.n && (byte & 0xc0) != 0x80) c = spell(f, c);
    if (!c.n) c.need = byte < 0xc2 || byte > 0xf4 ? 1 : (uint8_t)spey_utf8_lead_length((char)byte);
    c.bytes[c.n++] = (char)byte;
    if (c.n < c.need) return c;
    *folded = folds(f, c);
    return *folded ? (cursor){ .at = child(f, c.at, SPEY_GUIDE_FOLDED) } : spell(f, c);
}

static void walk(folder *f)
{
    const spey_guide_vocab *v = f->v;
    f->n = 1;
    for (int32_t i = 1; i < v->n_nodes; i++) {
        const spey_guide_vocab_node *node = &v->nodes[i];
        bool folded;
        f->path[node->depth] = extend(f, f->path[node->depth - 1], node->byte, &folded);
        if (folded) f->folded[i] = f->path[node->depth].at;
        if (!node->n_own) continue;
        int32_t at = spell(f, f->path[node->depth]).at;
        for (int32_t k = 0; k < node->n_own; k++)
            f->node_of_token[node->first + k] = at;
    }
}

/* ---- into preorder ---- */

static void place_nodes(folder *f, spey_guide_fold_node *nodes)
{
    int32_t *size = f->slots; /* not needed any more, and large enough */
    for (int32_t i = 0; i < f->n; i++)
        size[i] = 1;
    for (int32_t i = f->n - 1; i > 0; i--)
        size[f->parent[i]] += size[i];
    nodes[0] = (spey_guide_fold_node){ .end = 1, .bitmap = -1 };
    for (int32_t i = 1; i < f->n; i++) {
        spey_guide_fold_node *parent = &nodes[f->place[f->parent[i]]];
        f->place[i] = parent->end; /* its end moves on with each child */
        parent->end += size[i];
        nodes[f->place[i]] = (spey_guide_fold_node){
            .end = f->place[i] + 1, .depth = parent->depth + 1, .bitmap = -1, .symbol = f->symbol[i]
        };
    }
}

static void list_tokens(folder *f, spey_guide_fold *fold)
{
    const spey_guide_vocab *v = f->v;
    spey_guide_fold_node *nodes = fold->nodes;
    for (int32_t i = 0; i < v->n_ids; i++)
        nodes[f->place[f->node_of_token[i]] + 1].first++;
    for (int32_t i = 1; i < v->n_nodes; i++)
        if (f->folded[i]) nodes[f->place[f->folded[i]] + 1].member++;
    for (int32_t i = 1; i <= f->n; i++) {
        nodes[i].first += nodes[i - 1].first;
        nodes[i].member += nodes[i - 1].member;
    }
    int32_t *used = f->slots;
    memset(used, 0, (size_t)f->n * sizeof *used);
    for (int32_t i = 0; i < v->n_ids; i++) {
        int32_t at = f->place[f->node_of_token[i]];
        fold->ids[nodes[at].first + used[at]++] = v->ids[i];
    }
    memset(used, 0, (size_t)f->n * sizeof *used);
    for (int32_t i = 1; i < v->n_nodes; i++) {
        if (!f->folded[i]) continue;
        int32_t at = f->place[f->folded[i]];
        fold->members[nodes[at].member + used[at]++] = i;
    }
}

static spey_status draw_bitmaps(const spey_guide_vocab *v, spey_guide_fold *fold)
{
    size_t words = ((size_t)v->vocab_size + 63) / 64;
    int32_t n = 0;
    for (int32_t i = 0; i < fold->n_nodes && n < BITMAPS_MAX; i++)
        if (fold->nodes[i + 1].first - fold->nodes[i].first >= BITMAP_TOKENS)
            fold->nodes[i].bitmap = n++;
    fold->bitmaps = spey_alloc_array(SPEY_PURPOSE_TEXT, (size_t)n, 8 * words);
    if (!fold->bitmaps) return SPEY_NOMEM;
    for (int32_t i = 0; i < fold->n_nodes; i++)
        for (int32_t k = fold->nodes[i].first;
             fold->nodes[i].bitmap >= 0 && k < fold->nodes[i + 1].first; k++)
            fold->bitmaps[(size_t)fold->nodes[i].bitmap * words + (size_t)(fold->ids[k] >> 6)] |=
                (uint64_t)1 << (fold->ids[k] & 63);
    return SPEY_OK;
}

static spey_status arrange(folder *f, spey_guide_fold *fold)
{
    int32_t n_members = 0;
    for (int32_t i = 1; i < f->v->n_nodes; i++)
        n_members += f->folded[i] != 0;
    fold->n_nodes = f->n;
    fold->nodes = spey_new_array(SPEY_PURPOSE_TEXT, spey_guide_fold_node, (int64_t)f->n + 1);
    fold->ids = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, f->v->n_ids);
    fold->members = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n_members);
    f->place = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, f->n);
    if (!fold->nodes || !fold->ids || !fold->members || !f->place) return SPEY_NOMEM;
    place_nodes(f, fold->nodes);
    list_tokens(f, fold);
    return draw_bitmaps(f->v, fold);
}

static spey_status fill(const spey_guide_vocab *v, spey_guide_fold *fold)
{
    folder f = { .v = v, .fold = fold };
    size_t n = (size_t)v->n_nodes, n_slots = 1024;
    while (n_slots < 2 * n)
        n_slots *= 2;
    f.slot_mask = (uint32_t)n_slots - 1;
    f.parent = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n);
    f.symbol = spey_new_array(SPEY_PURPOSE_TEXT, uint16_t, n);
    f.run = spey_new_array(SPEY_PURPOSE_TEXT, uint8_t, n);
    f.folded_child = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n);
    f.slots = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n_slots);
    f.node_of_token = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, v->n_ids);
    f.folded = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n);
    f.path = spey_new_array(SPEY_PURPOSE_TEXT, cursor, (int64_t)v->depth_max + 1);
    bool room = f.parent && f.symbol && f.run && f.folded_child && f.slots && f.node_of_token &&
                f.folded && f.path;
    if (room) walk(&f);
    spey_status status = room ? arrange(&f, fold) : SPEY_NOMEM;
    spey_free(f.parent);
    spey_free(f.symbol);
    spey_free(f.run);
    spey_free(f.folded_child);
    spey_free(f.slots);
    spey_free(f.node_of_token);
    spey_free(f.folded);
    spey_free(f.place);
    spey_free(f.path);
    return status;
}

/* ---- one fold ---- */

static void fold_free(spey_guide_fold *fold)
{
    if (!fold) return;
    spey_free(fold->chars.ranges);
    spey_free(fold->nodes);
    spey_free(fold->ids);
    spey_free(fold->members);
    spey_free(fold->bitmaps);
    spey_free(fold);
}

static void add_part(void *user, const spey_guide_bytes *bytes)
{
    spey_guide_fold *fold = user;
    if (bytes->n == 1)
        for (unsigned c = bytes->from[0]; c <= bytes->to[0]; c++)
            fold->ascii[c >> 6] |= (uint64_t)1 << (c & 63);
    else if (fold->n_parts++ < SPEY_GUIDE_FOLD_PARTS_MAX)
        fold->parts[fold->n_parts - 1] = *bytes;
}

/* NULL when the class has too many parts. */
static spey_status fold_new(const spey_guide_vocab *v, const spey_guide_class *chars,
                            bool after_first, spey_guide_fold **out)
{
    *out = NULL;
    spey_guide_fold *fold = spey_new(SPEY_PURPOSE_TEXT, spey_guide_fold);
    if (!fold) return SPEY_NOMEM;
    fold->after_first = after_first;
    spey_guide_class_split(chars, add_part, fold);
    if (fold->n_parts > SPEY_GUIDE_FOLD_PARTS_MAX) {
        fold_free(fold);
        return SPEY_OK;
    }
    fold->chars.n = fold->chars.cap = chars->n;
    fold->chars.ranges = spey_new_array(SPEY_PURPOSE_TEXT, spey_guide_range, chars->n);
    spey_status status = fold->chars.ranges ? SPEY_OK : SPEY_NOMEM;
    if (!status) memcpy(fold->chars.ranges, chars->ranges, chars->n * sizeof *chars->ranges);
    if (!status) status = fill(v, fold);
    if (status)
        fold_free(fold);
    else
        *out = fold;
    return status;
}

/* ---- those of a vocabulary ---- */

struct spey_guide_folds {
    pthread_mutex_t lock;
    spey_guide_fold *fold[SPEY_GUIDE_FOLDS_MAX];
    int32_t users[SPEY_GUIDE_FOLDS_MAX];
    uint64_t used[SPEY_GUIDE_FOLDS_MAX], clock; /* when each was asked for last */
};

spey_status spey_guide_folds_new(spey_guide_folds **out)
{
    *out = spey_new(SPEY_PURPOSE_TEXT, spey_guide_folds);
    if (!*out) return SPEY_NOMEM;
    pthread_mutex_init(&(*out)->lock, NULL);
    return SPEY_OK;
}

void spey_guide_folds_free(spey_guide_folds *folds)
{
    if (!folds) return;
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++) {
        SPEY_ASSERT(folds->users[i] == 0);
        fold_free(folds->fold[i]);
    }
    pthread_mutex_destroy(&folds->lock);
    spey_free(folds);
}

static bool is_fold(const spey_guide_fold *fold, const spey_guide_class *chars, bool after_first)
{
    return fold && fold->after_first == after_first && fold->chars.n == chars->n &&
           !memcmp(fold->chars.ranges, chars->ranges, chars->n * sizeof *chars->ranges);
}

/* The place of that of the class, else the place for a new one; -1: all are in use. */
static int find(const spey_guide_folds *folds, const spey_guide_class *chars, bool after_first)
{
    int best = -1;
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++)
        if (is_fold(folds->fold[i], chars, after_first)) return i;
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++)
        if (!folds->users[i] && (best < 0 || folds->used[i] < folds->used[best])) best = i;
    return best;
}

spey_status spey_guide_fold_get(const spey_guide_vocab *v, const spey_guide_class *chars,
                                bool after_first, const spey_guide_fold **out)
{
    spey_guide_folds *folds = v->folds;
    spey_status status = SPEY_OK;
    *out = NULL;
    pthread_mutex_lock(&folds->lock);
    int at = find(folds, chars, after_first);
    spey_guide_fold *found = at < 0 ? NULL : folds->fold[at];
    if (at >= 0 && !is_fold(found, chars, after_first)) {
        status = fold_new(v, chars, after_first, &found);
        if (found) {
            fold_free(folds->fold[at]);
            folds->fold[at] = found;
        }
    }
    if (found) {
        folds->users[at]++;
        folds->used[at] = ++folds->clock;
        *out = found;
    }
    pthread_mutex_unlock(&folds->lock);
    return status;
}

void spey_guide_fold_put(const spey_guide_vocab *v, const spey_guide_fold *fold)
{
    spey_guide_folds *folds = v->folds;
    pthread_mutex_lock(&folds->lock);
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++)
        if (fold && folds->fold[i] == fold) folds->users[i]--;
    pthread_mutex_unlock(&folds->lock);
}
