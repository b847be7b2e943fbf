/* What a request begins with, from the file into memory, before the request begins. */
#include <string.h>

#include "runtime/kv_file_impl.h"

/* ---- what the file has ---- */

/* The slot of block i of a key whose hash up to there is *hash, which goes on; KV_NONE: there is none, or nothing of it is to
 * be reused, as a token is left to compute. */
static int32_t slot_of(const spey_kv_cache *kv, const spey_kv_key *key, int64_t i, uint64_t *hash)
{
    int64_t n = kv->limits.block_tokens;
    if ((i + 1) * n > key->n - 1) return KV_NONE;
    *hash = spey_kv_tree_hash(*hash, key->ids + i * n, (int32_t)n);
    return spey_kv_slots_find(kv->file->slots, key->salt, *hash);
}

bool spey_kv_file_has_more(const spey_kv_cache *kv, const spey_kv_key *key)
{
    uint64_t hash;
    if (!kv->file || kv->file->off) return false;
    int64_t known = spey_kv_books_known(kv, key, &hash);
    return slot_of(kv, key, known, &hash) != KV_NONE;
}

bool spey_kv_is_fetching(const spey_kv_cache *kv)
{
    return kv->file && kv->file->fetch.active;
}

/* ---- asking ---- */

bool spey_kv_fetch(spey_kv_cache *kv, const spey_kv_key *key)
{
    if (!kv->file || kv->file->off) return false;
    kv_fetch *fetch = &kv->file->fetch;
    SPEY_ASSERT(!fetch->active);
    SPEY_ASSERT(key->n <= kv->limits.sequence_tokens_max);
    *fetch = (kv_fetch){ .salt = key->salt, .ids = fetch->ids, .chain = fetch->chain };
    fetch->begin = fetch->next = fetch->end = spey_kv_books_known(kv, key, &fetch->hash);
    uint64_t hash = fetch->hash;
    for (int32_t slot; (slot = slot_of(kv, key, fetch->end, &hash)) != KV_NONE; fetch->end++)
        fetch->chain[fetch->end] = slot;
    /* Ends of chains are replaced before their beginnings. */
    for (int64_t i = fetch->end - 1; i >= fetch->begin; i--)
        spey_kv_slots_touch(kv->file->slots, fetch->chain[i]);
    fetch->active = fetch->begin < fetch->end;
    fetch->n_ids = key->n;
    memcpy(fetch->ids, key->ids, (size_t)key->n * sizeof(*key->ids));
    return fetch->active;
}

static spey_kv_key key_of(const kv_fetch *fetch)
{
    return (spey_kv_key){ .salt = fetch->salt, .ids = fetch->ids, .n = fetch->n_ids };
}

/* Blocks before the last window are not worth their room, where others carry the node. */
static bool is_wanted(const spey_kv_cache *kv, int g, int64_t place)
{
    int64_t end = kv->file->fetch.end * kv->limits.block_tokens;
    return kv->leader == KV_NONE ||
           place >= spey_kv_books_first_seen(kv, kv->groups[g].window, end);
}

/* A free block of host memory that no copy reads any more, at the end of the list of free ones. False: there is none yet. */
static bool find_block(spey_kv_cache *kv, int g)
{
    kv_group *group = &kv->groups[g];
    for (int32_t i = group->n_host_free - 1; i >= 0; i--) {
        int32_t block = group->host_free[i];
        if (!spey_kv_file_may_use(kv, g, block)) continue;
        group->host_free[i] = group->host_free[group->n_host_free - 1];
        group->host_free[group->n_host_free - 1] = block;
        return true;
    }
    return false;
}

static bool needs(const spey_kv_cache *kv, const kv_job *job, int g)
{
    return job->what.groups >> g & 1 && is_wanted(kv, g, job->place);
}

/* Blocks of host memory for a slot's. False: there are too few, now or (*stuck) altogether. */
static bool take_blocks(spey_kv_cache *kv, kv_job *job, bool *stuck)
{
    for (int g = 0; g < kv->limits.n_groups; g++) {
        if (!needs(kv, job, g)) continue;
        *stuck = !spey_kv_host_make_room(kv, g);
        if (*stuck || !find_block(kv, g)) return false;
    }
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        if (!needs(kv, job, g)) continue;
        job->blocks[g] = group->host_free[--group->n_host_free];
        group->host_uses[job->blocks[g]] = KV_HOST_HELD;
    }
    return true;
}

/* Half of host memory is for what comes from the pools. */
static int32_t waiting_max(const spey_kv_cache *kv)
{
    return kv->limits.host_blocks > 1 ? kv->limits.host_blocks / 2 : 1;
}

void spey_kv_fetch_go_on(spey_kv_cache *kv)
{
    kv_fetch *fetch = &kv->file->fetch;
    const spey_kv_key key = key_of(fetch);
    fetch->stuck = false;
    while (fetch->active && fetch->next < fetch->end &&
           fetch->n_waiting + fetch->n_reading < waiting_max(kv)) {
        kv_job *job = spey_kv_file_new_job(kv->file);
        uint64_t hash = fetch->hash;
        if (!job) return;
        job->slot = slot_of(kv, &key, fetch->next, &hash);
        if (job->slot == KV_NONE) { /* it was replaced meanwhile */
            fetch->end = fetch->next;
            return;
        }
        job->what = *spey_kv_slots_get(kv->file->slots, job->slot);
        job->place = fetch->next;
        if (!take_blocks(kv, job, &fetch->stuck)) return;
        fetch->hash = hash;
        fetch->next++;
        fetch->n_reading++;
        spey_kv_file_post(kv->file);
    }
}

/* ---- what has come ---- */

/* The node of the first n blocks of the key; KV_NONE: the root. False: there is none. */
static bool find_node(const spey_kv_cache *kv, const kv_fetch *fetch, int64_t n, int32_t *node)
{
    int32_t tokens = kv->limits.block_tokens;
    uint64_t hash = spey_kv_tree_root(fetch->salt);
    *node = fetch->last;
    if (n == fetch->n_last) return true;
    *node = KV_NONE;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *ids = fetch->ids + i * tokens;
        hash = spey_kv_tree_hash(hash, ids, tokens);
        *node = spey_kv_tree_find(kv, *node, fetch->salt, hash, ids);
        if (*node == KV_NONE) return false;
    }
    return true;
}

/* What was read becomes the node's where it has nothing. */
static void give_blocks(spey_kv_cache *kv, const kv_job *job, int32_t node)
{
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        int32_t block = job->blocks[g];
        if (block == KV_NONE) continue;
        if (node == KV_NONE || group->blocks_of_nodes[node] != KV_NONE || kv_on_host(group, node)) {
            spey_kv_file_release(kv, g, block);
            continue;
        }
        group->host_uses[block] = KV_HOST_IDLE;
        group->host_of_nodes[node] = block;
        spey_kv_host_unpin(kv, g, node);
    }
}

/* The node of what was read, new or old; KV_NONE: it hangs on nothing, or is not what was asked for. */
static int32_t node_for(spey_kv_cache *kv, const kv_job *job)
{
    kv_fetch *fetch = &kv->file->fetch;
    int32_t tokens = kv->limits.block_tokens, parent;
    const int32_t *ids = fetch->ids + job->place * tokens;
    if (job->place >= fetch->end || memcmp(ids, job->ids, (size_t)tokens * sizeof(*ids)) != 0 ||
        !find_node(kv, fetch, job->place, &parent))
        return KV_NONE;
    int32_t node = spey_kv_tree_find(kv, parent, fetch->salt, job->what.hash, ids);
    const struct kv_node like = { .priority = KV_PRIORITY_DEFAULT,
                                  .n_ids = tokens,
                                  .parent = parent,
                                  .salt = fetch->salt,
                                  .hash = job->what.hash };
    if (node == KV_NONE) {
        node = spey_kv_tree_add(kv, &like, ids);
        if (node == KV_NONE) return KV_NONE;
        spey_kv_report(kv, SPEY_KV_EVENT_UPDATED, SPEY_KV_TIER_HOST, node);
    }
    fetch->last = node;
    fetch->n_last = job->place + 1;
    return node;
}

static void forget_slot(spey_kv_cache *kv, const kv_job *job)
{
    spey_kv_file *f = kv->file;
    int32_t slot = spey_kv_slots_find(f->slots, job->what.salt, job->what.hash);
    f->n_discarded++;
    if (slot == job->slot && spey_kv_slots_get(f->slots, slot)->number == job->what.number)
        spey_kv_slots_drop(f->slots, slot);
}

void spey_kv_fetch_take(spey_kv_cache *kv, const kv_job *job)
{
    kv_fetch *fetch = &kv->file->fetch;
    int32_t node = job->status ? KV_NONE : node_for(kv, job);
    fetch->n_reading--;
    give_blocks(kv, job, node);
    if (node != KV_NONE) {
        /* With windows alone only the last blocks are needed: others may leave as more come. */
        fetch->n_waiting += kv->leader != KV_NONE;
        fetch->n_here = job->place + 1;
        kv->file->n_loaded++;
    } else if (fetch->end > job->place) {
        fetch->end = job->place; /* what is behind it hangs on nothing */
    }
    if (job->status == SPEY_FORMAT)
        forget_slot(kv, job);
    else if (job->status)
        spey_kv_file_fail(kv, job->error);
}

void spey_kv_fetch_settle(spey_kv_cache *kv)
{
    kv_fetch *fetch = &kv->file->fetch;
    if (!fetch->active) return;
    const spey_kv_key key = key_of(fetch);
    if (fetch->n_waiting && spey_kv_books_restore(kv, &key, fetch->n_here)) fetch->n_waiting = 0;
    bool full = fetch->stuck || fetch->n_waiting >= waiting_max(kv);
    if (!fetch->n_reading && (fetch->next >= fetch->end || full || kv->file->off))
        fetch->active = false;
}
