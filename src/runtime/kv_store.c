#include "runtime/kv_store.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "runtime/kv_tree.h"

typedef struct store_header {
    char magic[8];
    uint64_t identity;
    uint64_t record_bytes;
    uint64_t checksum; /* of what is before */
} store_header;

/* Then come ids[block_tokens] and the blocks. */
typedef struct store_record {
    uint64_t checksum; /* of what is behind */
    uint64_t salt;
    uint64_t hash;
    int32_t parent;  /* number of an earlier record; -1: none */
    uint32_t groups; /* bit g: group g has a block */
} store_record;

static const char magic[8] = "SPEYKV1";

static size_t ids_bytes(const spey_kv_cache *kv)
{
    return (size_t)kv->limits.block_tokens * sizeof(int32_t);
}

/* SIZE_MAX: no memory holds it. */
static size_t record_bytes(const spey_kv_store *store, const spey_kv_cache *kv)
{
    size_t bytes = sizeof(store_record) + ids_bytes(kv);
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (!spey_add_size(bytes, store->block_bytes[g], &bytes)) return SIZE_MAX;
    return bytes;
}

static store_header header_of(const spey_kv_store *store, const spey_kv_cache *kv)
{
    store_header header = { .identity = store->identity, .record_bytes = record_bytes(store, kv) };
    memcpy(header.magic, magic, sizeof(magic));
    header.checksum = spey_xxh3(&header, offsetof(store_header, checksum));
    return header;
}

static uint64_t checksum_of(const uint8_t *record, size_t bytes)
{
    size_t skipped = sizeof(((store_record *)0)->checksum);
    return spey_xxh3(record + skipped, bytes - skipped);
}

/* ---- writing ---- */

typedef struct saver {
    const spey_kv_store *store;
    const spey_kv_cache *kv;
    spey_file_writer *writer;
    uint8_t *record;
    size_t bytes;
    int32_t *numbers; /* [nodes_max] of records */
    int32_t n;
} saver;

static spey_status save_blocks(const saver *s, int32_t node, uint32_t *groups)
{
    uint8_t *at = s->record + sizeof(store_record) + ids_bytes(s->kv);
    for (int g = 0; g < s->kv->limits.n_groups; at += s->store->block_bytes[g++]) {
        const kv_group *group = &s->kv->groups[g];
        int32_t block = group->blocks_of_nodes[node];
        spey_kv_tier tier = SPEY_KV_TIER_DEVICE;
        if (block == KV_NONE && kv_on_host(group, node)) {
            block = group->host_of_nodes[node];
            tier = SPEY_KV_TIER_HOST;
        }
        if (block == KV_NONE) continue;
        SPEY_TRY(s->store->read(s->store->user, g, tier, block, at));
        *groups |= (uint32_t)1 << g;
    }
    return SPEY_OK;
}

static spey_status save_node(saver *s, int32_t node)
{
    const struct kv_node *n = &s->kv->nodes[node];
    store_record record = { .salt = n->salt,
                            .hash = n->hash,
                            .parent = n->parent == KV_NONE ? -1 : s->numbers[n->parent] };
    memset(s->record, 0, s->bytes);
    memcpy(s->record + sizeof(record), kv_node_ids(s->kv, node), ids_bytes(s->kv));
    SPEY_TRY(save_blocks(s, node, &record.groups));
    memcpy(s->record, &record, sizeof(record));
    record.checksum = checksum_of(s->record, s->bytes);
    memcpy(s->record, &record, sizeof(record));
    s->numbers[node] = s->n++;
    return spey_file_writer_append(s->writer, s->record, s->bytes);
}

/* Those above before those below. */
static spey_status save_nodes(saver *s)
{
    const struct kv_node *nodes = s->kv->nodes;
    int32_t node = s->kv->nodes_max ? s->kv->first_root : KV_NONE;
    while (node != KV_NONE) {
        if (nodes[node].n_ids == s->kv->limits.block_tokens) SPEY_TRY(save_node(s, node));
        int32_t next = nodes[node].first_child;
        while (next == KV_NONE && node != KV_NONE) {
            next = nodes[node].next_sibling;
            node = nodes[node].parent;
        }
        node = next;
    }
    return SPEY_OK;
}

static spey_status save(saver *s)
{
    const store_header header = header_of(s->store, s->kv);
    s->record = spey_alloc(SPEY_PURPOSE_KV, s->bytes);
    s->numbers = spey_new_array(SPEY_PURPOSE_KV, int32_t, s->kv->nodes_max);
    if (!s->record || !s->numbers) return SPEY_NOMEM;
    SPEY_TRY(spey_file_writer_open(s->store->path, &s->writer));
    SPEY_TRY(spey_file_writer_append(s->writer, &header, sizeof(header)));
    return save_nodes(s);
}

spey_status spey_kv_store_save(const spey_kv_store *store, const spey_kv_cache *kv, int64_t *n)
{
    saver s = { .store = store, .kv = kv, .bytes = record_bytes(store, kv) };
    *n = 0;
    SPEY_ASSERT(kv->n_copies == 0);
    spey_status status = save(&s);
    if (status == SPEY_OK)
        status = spey_file_writer_commit(s.writer);
    else
        spey_file_writer_abort(s.writer);
    if (status == SPEY_OK) *n = s.n;
    spey_free(s.record);
    spey_free(s.numbers);
    return status;
}

/* ---- reading ---- */

/* The pools have free blocks for these groups. Nothing is evicted: what was there before is worth no less. */
static bool has_room(const spey_kv_cache *kv, uint32_t groups)
{
    bool room = kv->first_free_node != KV_NONE;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (groups >> g & 1) room = room && kv->groups[g].n_free > 0;
    return room;
}

/* A record makes sense: it has what groups without a window must have, and no more than there are. */
static bool is_sound(const spey_kv_cache *kv, const store_record *record, int32_t parent,
                     const int32_t *ids)
{
    uint64_t above = parent == KV_NONE ? spey_kv_tree_root(record->salt) : kv->nodes[parent].hash;
    bool sound = record->hash == spey_kv_tree_hash(above, ids, kv->limits.block_tokens) &&
                 record->groups >> kv->limits.n_groups == 0 && record->groups;
    for (int g = 0; g < kv->limits.n_groups; g++)
        sound = sound && (kv->groups[g].window || record->groups >> g & 1);
    if (parent == KV_NONE) return sound;
    bool above_is_there =
        kv->leader == KV_NONE || kv->groups[kv->leader].blocks_of_nodes[parent] != KV_NONE;
    return sound && above_is_there && kv->nodes[parent].salt == record->salt;
}

static spey_status insert(const spey_kv_store *store, spey_kv_cache *kv, const uint8_t *bytes,
                          int32_t parent, int32_t *out)
{
    store_record record;
    memcpy(&record, bytes, sizeof(record));
    const int32_t *ids = (const int32_t *)(const void *)(bytes + sizeof(record));
    if (!is_sound(kv, &record, parent, ids)) return SPEY_OK;
    *out = spey_kv_tree_find(kv, parent, record.salt, record.hash, ids);
    if (*out != KV_NONE || !has_room(kv, record.groups)) return SPEY_OK;
    const struct kv_node like = { .priority = KV_PRIORITY_DEFAULT,
                                  .n_ids = kv->limits.block_tokens,
                                  .parent = parent,
                                  .salt = record.salt,
                                  .hash = record.hash };
    *out = spey_kv_tree_add(kv, &like, ids);
    spey_status status = SPEY_OK;
    bytes += sizeof(record) + ids_bytes(kv);
    for (int g = 0; g < kv->limits.n_groups; bytes += store->block_bytes[g++]) {
        if (!(record.groups >> g & 1)) continue;
        int32_t block = spey_kv_books_take(kv, g);
        if (status == SPEY_OK) status = store->write(store->user, g, block, bytes);
        spey_kv_tree_set_block(kv, *out, g, block);
        spey_kv_tree_cache(kv, g, *out);
    }
    if (status != SPEY_OK) spey_kv_tree_remove(kv, *out);
    return status;
}

static spey_status load_records(const spey_kv_store *store, spey_kv_cache *kv,
                                const spey_file_map *map, int32_t *nodes, int64_t *n)
{
    size_t bytes = record_bytes(store, kv);
    int64_t n_records = (int64_t)((map->size - sizeof(store_header)) / bytes);
    for (int64_t i = 0; i < n_records && i < kv->nodes_max; i++) {
        const uint8_t *at = map->data + sizeof(store_header) + (size_t)i * bytes;
        store_record record;
        memcpy(&record, at, sizeof(record));
        nodes[i] = KV_NONE;
        if (record.checksum != checksum_of(at, bytes) || record.parent >= i || record.parent < -1)
            continue;
        int32_t parent = record.parent < 0 ? KV_NONE : nodes[record.parent];
        if (record.parent >= 0 && parent == KV_NONE) continue;
        SPEY_TRY(insert(store, kv, at, parent, &nodes[i]));
        *n += nodes[i] != KV_NONE;
    }
    return SPEY_OK;
}

spey_status spey_kv_store_load(const spey_kv_store *store, spey_kv_cache *kv, int64_t *n)
{
    const store_header header = header_of(store, kv);
    spey_file_map map;
    *n = 0;
    if (!kv->nodes_max || !spey_file_exists(store->path)) return SPEY_OK;
    int32_t *nodes = spey_new_array(SPEY_PURPOSE_KV, int32_t, kv->nodes_max);
    if (!nodes) return SPEY_NOMEM;
    spey_status status = spey_file_map_open(store->path, &map);
    if (status == SPEY_OK) {
        if (map.size >= sizeof(header) && memcmp(map.data, &header, sizeof(header)) == 0)
            status = load_records(store, kv, &map, nodes, n);
        spey_file_map_close(&map);
    }
    spey_free(nodes);
    return status;
}
