#include "runtime/kv_slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "runtime/kv_tree.h"

/* The file's header has a page of its own. */
enum { FIRST_SLOT_AT = 4096, SLOT_ALIGNMENT = 64, SLOTS_MAX = INT32_MAX / 4 };

typedef struct file_header {
    char magic[8];
    uint64_t identity;
    uint64_t slot_bytes;
    uint64_t checksum; /* of what is before */
} file_header;

/* Then come ids[block_tokens], and from a multiple of SLOT_ALIGNMENT on the blocks. */
typedef struct slot_header {
    uint64_t checksum; /* of what is behind, ids included */
    char magic[8];
    uint64_t identity;
    uint64_t number;
    uint64_t salt, hash, parent_hash;
    uint64_t groups;
    uint64_t block_sums[SPEY_CACHE_GROUPS_MAX];
} slot_header;

static const char file_magic[8] = "SPEYKV2", slot_magic[8] = "SPEYKVS";

typedef struct entry {
    spey_kv_slot what;
    bool used;
    int32_t next_in_bucket;
} entry;

struct spey_kv_slots {
    spey_kv_slots_limits limits;
    char *path;
    int fd; /* -1: none yet */
    size_t head_bytes, slot_bytes;
    /* The thread that writes and reads: */
    uint8_t *head; /* [head_bytes] */
    /* The other one: */
    entry *entries; /* [n_slots] */
    struct kv_link *links;
    struct kv_list order; /* of those in use */
    int32_t *buckets, *free_slots;
    int32_t n_slots, n_buckets, n_free;
    uint64_t next_number;
    int64_t n_discarded;
};

/* ---- bytes ---- */

static spey_status fail_errno(const spey_kv_slots *s, const char *doing)
{
    return SPEY_FAIL(SPEY_IO, "%s: cannot %s: %s", s->path, doing, strerror(errno));
}

static spey_status write_at(const spey_kv_slots *s, uint64_t offset, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    while (n > 0) {
        ssize_t done = pwrite(s->fd, from, n, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_errno(s, "write");
        from += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return SPEY_OK;
}

/* What lies behind the end is zero. */
static spey_status read_at(const spey_kv_slots *s, uint64_t offset, void *bytes, size_t n)
{
    uint8_t *to = bytes;
    while (n > 0) {
        ssize_t done = pread(s->fd, to, n, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_errno(s, "read");
        if (done == 0) {
            memset(to, 0, n);
            return SPEY_OK;
        }
        to += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return SPEY_OK;
}

static uint64_t slot_at(const spey_kv_slots *s, int32_t slot)
{
    return FIRST_SLOT_AT + (uint64_t)slot * s->slot_bytes;
}

static uint64_t block_at(const spey_kv_slots *s, int32_t slot, int g)
{
    uint64_t at =
        slot_at(s, slot) + (s->head_bytes + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
    for (int before = 0; before < g; before++)
        at += s->limits.block_bytes[before];
    return at;
}

static bool size_slots(spey_kv_slots *s)
{
    size_t ids, bytes;
    if (!spey_mul_size((size_t)s->limits.block_tokens, sizeof(int32_t), &ids) ||
        !spey_add_size(ids, sizeof(slot_header), &s->head_bytes) ||
        !spey_add_size(s->head_bytes, 2 * SLOT_ALIGNMENT, &bytes))
        return false;
    for (int g = 0; g < s->limits.n_groups; g++)
        if (!spey_add_size(bytes, s->limits.block_bytes[g], &bytes)) return false;
    s->slot_bytes = bytes / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
    uint64_t most = INT64_MAX < s->limits.bytes ? INT64_MAX : s->limits.bytes;
    uint64_t n = most > FIRST_SLOT_AT ? (most - FIRST_SLOT_AT) / s->slot_bytes : 0;
    s->n_slots = (int32_t)(n < SLOTS_MAX ? n : SLOTS_MAX);
    return true;
}

/* ---- the index ---- */

static int32_t *bucket(const spey_kv_slots *s, uint64_t hash)
{
    return &s->buckets[hash & (uint64_t)(s->n_buckets - 1)];
}

int32_t spey_kv_slots_find(const spey_kv_slots *s, uint64_t salt, uint64_t hash)
{
    int32_t i = *bucket(s, hash);
    while (i != KV_NONE && (s->entries[i].what.hash != hash || s->entries[i].what.salt != salt))
        i = s->entries[i].next_in_bucket;
    return i;
}

const spey_kv_slot *spey_kv_slots_get(const spey_kv_slots *s, int32_t slot)
{
    SPEY_ASSERT(slot >= 0 && slot < s->n_slots && s->entries[slot].used);
    return &s->entries[slot].what;
}

static void enter(spey_kv_slots *s, int32_t slot, const spey_kv_slot *what)
{
    int32_t *first = bucket(s, what->hash);
    s->entries[slot] = (entry){ *what, true, *first };
    *first = slot;
}

static void leave(spey_kv_slots *s, int32_t slot)
{
    int32_t *link = bucket(s, s->entries[slot].what.hash);
    while (*link != slot)
        link = &s->entries[*link].next_in_bucket;
    *link = s->entries[slot].next_in_bucket;
    s->entries[slot] = (entry){ .used = false };
}

int32_t spey_kv_slots_put(spey_kv_slots *s, spey_kv_slot *what)
{
    int32_t slot;
    if (s->n_free) {
        slot = s->free_slots[--s->n_free];
    } else {
        slot = s->order.first;
        spey_kv_list_remove(&s->order, s->links, slot);
        leave(s, slot);
    }
    what->number = s->next_number++;
    enter(s, slot, what);
    spey_kv_list_append(&s->order, s->links, slot);
    return slot;
}

void spey_kv_slots_touch(spey_kv_slots *s, int32_t slot)
{
    SPEY_ASSERT(s->entries[slot].used);
    spey_kv_list_remove(&s->order, s->links, slot);
    spey_kv_list_append(&s->order, s->links, slot);
}

void spey_kv_slots_drop(spey_kv_slots *s, int32_t slot)
{
    SPEY_ASSERT(s->entries[slot].used);
    spey_kv_list_remove(&s->order, s->links, slot);
    leave(s, slot);
    s->free_slots[s->n_free++] = slot;
}

static void empty_index(spey_kv_slots *s)
{
    s->order = (struct kv_list){ KV_NONE, KV_NONE };
    for (int32_t i = 0; i < s->n_buckets; i++)
        s->buckets[i] = KV_NONE;
    for (int32_t i = 0; i < s->n_slots; i++)
        s->entries[i] = (entry){ .used = false };
    s->n_free = 0;
}

/* Those of low numbers are taken first, so that the file is as long as it must be. */
static void list_free(spey_kv_slots *s)
{
    s->n_free = 0;
    for (int32_t i = s->n_slots - 1; i >= 0; i--)
        if (!s->entries[i].used) s->free_slots[s->n_free++] = i;
}

spey_status spey_kv_slots_clear(spey_kv_slots *s)
{
    empty_index(s);
    list_free(s);
    return ftruncate(s->fd, FIRST_SLOT_AT) ? fail_errno(s, "shorten") : SPEY_OK;
}

spey_kv_slots_counts spey_kv_slots_count(const spey_kv_slots *s)
{
    return (spey_kv_slots_counts){ .n_slots = s->n_slots,
                                   .n_used = s->n_slots - s->n_free,
                                   .n_discarded = s->n_discarded };
}

uint64_t spey_kv_slots_memory(uint64_t bytes, uint64_t block_bytes)
{
    uint64_t n = bytes / (block_bytes + sizeof(slot_header)), buckets = 1;
    n = n < SLOTS_MAX ? n : SLOTS_MAX;
    while (buckets < n)
        buckets *= 2;
    return n * (sizeof(entry) + sizeof(struct kv_link) + sizeof(int32_t)) +
           buckets * sizeof(int32_t);
}

/* ---- opening ---- */

static bool allocate(spey_kv_slots *s)
{
    s->n_buckets = 1;
    while (s->n_buckets < s->n_slots)
        s->n_buckets *= 2;
    s->head = spey_alloc(SPEY_PURPOSE_KV, s->head_bytes);
    s->entries = spey_new_array(SPEY_PURPOSE_KV, entry, s->n_slots);
    s->links = spey_new_array(SPEY_PURPOSE_KV, struct kv_link, s->n_slots);
    s->buckets = spey_new_array(SPEY_PURPOSE_KV, int32_t, s->n_buckets);
    s->free_slots = spey_new_array(SPEY_PURPOSE_KV, int32_t, s->n_slots);
    return s->head && s->entries && s->links && s->buckets && s->free_slots;
}

static spey_status check_private(const spey_kv_slots *s, const struct stat *st)
{
    if (!S_ISREG(st->st_mode)) return SPEY_FAIL(SPEY_INVALID, "%s: is not a regular file", s->path);
    if (st->st_uid != geteuid() || (st->st_mode & 077))
        return SPEY_FAIL(SPEY_INVALID,
                         "%s: others may read or write it, and it holds what was said in prompts: "
                         "expected a file of one's own with mode 0600",
                         s->path);
    return SPEY_OK;
}

static file_header header_of(const spey_kv_slots *s)
{
    file_header header = { .identity = s->limits.identity, .slot_bytes = s->slot_bytes };
    memcpy(header.magic, file_magic, sizeof(file_magic));
    header.checksum = spey_xxh3(&header, offsetof(file_header, checksum));
    return header;
}

/* A file of ours, or an empty one, which becomes ours. */
static spey_status check_header(spey_kv_slots *s, uint64_t size)
{
    const file_header wanted = header_of(s);
    file_header header;
    if (size == 0) return write_at(s, 0, &wanted, sizeof(wanted));
    SPEY_TRY(read_at(s, 0, &header, sizeof(header)));
    if (memcmp(header.magic, file_magic, sizeof(file_magic)) != 0)
        return SPEY_FAIL(SPEY_INVALID, "%s: is not a KV file; it was left alone", s->path);
    if (memcmp(&header, &wanted, sizeof(header)) != 0)
        return SPEY_FAIL(SPEY_INVALID,
                         "%s: is the KV file of another engine, version, device or layout of "
                         "blocks; it was left alone: remove it or name another one",
                         s->path);
    return SPEY_OK;
}

static bool is_sound(const spey_kv_slots *s, const slot_header *header)
{
    const uint8_t *sealed = s->head + sizeof(header->checksum);
    const int32_t *ids = (const int32_t *)(const void *)(s->head + sizeof(*header));
    return memcmp(header->magic, slot_magic, sizeof(slot_magic)) == 0 &&
           header->checksum == spey_xxh3(sealed, s->head_bytes - sizeof(header->checksum)) &&
           header->identity == s->limits.identity && header->groups &&
           header->groups >> s->limits.n_groups == 0 &&
           (header->groups & s->limits.whole) == s->limits.whole &&
           header->hash == spey_kv_tree_hash(header->parent_hash, ids, s->limits.block_tokens);
}

/* The header of a slot and its ids into s->head. */
static spey_status read_head(spey_kv_slots *s, int32_t slot, slot_header *header)
{
    SPEY_TRY(read_at(s, slot_at(s, slot), s->head, s->head_bytes));
    memcpy(header, s->head, sizeof(*header));
    return SPEY_OK;
}

static bool is_wiped(const slot_header *header)
{
    static const slot_header nothing;
    return memcmp(header, &nothing, sizeof(nothing)) == 0;
}

/* Of two slots that hold the same the later one stays. */
static void enter_found(spey_kv_slots *s, int32_t slot, const slot_header *header)
{
    const spey_kv_slot what = { header->salt, header->hash, header->parent_hash, header->number,
                                (uint32_t)header->groups };
    int32_t other = spey_kv_slots_find(s, what.salt, what.hash);
    if (other != KV_NONE && s->entries[other].what.number > what.number) return;
    if (other != KV_NONE) leave(s, other);
    enter(s, slot, &what);
    if (what.number >= s->next_number) s->next_number = what.number + 1;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (x[0] > y[0]) - (x[0] < y[0]);
}

/* The order in which they were written. */
static spey_status restore_order(spey_kv_slots *s)
{
    size_t n = 0;
    uint64_t(*all)[2] = spey_alloc_array(SPEY_PURPOSE_KV, (size_t)s->n_slots, sizeof(all[0]));
    if (!all) return SPEY_NOMEM;
    for (int32_t i = 0; i < s->n_slots; i++) {
        if (!s->entries[i].used) continue;
        all[n][0] = s->entries[i].what.number;
        all[n++][1] = (uint64_t)i;
    }
    if (n) qsort(all, n, sizeof(all[0]), by_number);
    for (size_t i = 0; i < n; i++)
        spey_kv_list_append(&s->order, s->links, (int32_t)all[i][1]);
    spey_free(all);
    return SPEY_OK;
}

static spey_status read_index(spey_kv_slots *s, uint64_t size)
{
    uint64_t end = FIRST_SLOT_AT + (uint64_t)s->n_slots * s->slot_bytes;
    if (size > end && ftruncate(s->fd, (off_t)end)) return fail_errno(s, "shorten");
    empty_index(s);
    for (int32_t i = 0; i < s->n_slots && slot_at(s, i) < size; i++) {
        slot_header header;
        SPEY_TRY(read_head(s, i, &header));
        if (is_sound(s, &header))
            enter_found(s, i, &header);
        else
            s->n_discarded += !is_wiped(&header);
    }
    list_free(s);
    return restore_order(s);
}

static spey_status open_file(spey_kv_slots *s)
{
    struct stat st;
    if (!size_slots(s) || !s->n_slots)
        return SPEY_FAIL(SPEY_LIMIT, "%s: %llu bytes are too few for one block of the KV cache",
                         s->path, (unsigned long long)s->limits.bytes);
    if (!allocate(s)) return SPEY_NOMEM;
    s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (s->fd < 0) return fail_errno(s, "open");
    if (flock(s->fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return fail_errno(s, "lock");
        return SPEY_FAIL(SPEY_INVALID, "%s: is in use; every process needs a KV file of its own",
                         s->path);
    }
    if (fstat(s->fd, &st)) return fail_errno(s, "stat");
    SPEY_TRY(check_private(s, &st));
    SPEY_TRY(check_header(s, (uint64_t)st.st_size));
    return read_index(s, (uint64_t)st.st_size);
}

spey_status spey_kv_slots_open(const spey_kv_slots_limits *limits, spey_kv_slots **out)
{
    *out = NULL;
    SPEY_ASSERT(limits->block_tokens > 0);
    SPEY_ASSERT(limits->n_groups > 0 && limits->n_groups <= SPEY_CACHE_GROUPS_MAX);
    spey_kv_slots *s = spey_new(SPEY_PURPOSE_KV, spey_kv_slots);
    if (!s) return SPEY_NOMEM;
    s->limits = *limits;
    s->fd = -1;
    s->path = spey_strdup(SPEY_PURPOSE_KV, limits->path);
    spey_status status = s->path ? open_file(s) : SPEY_NOMEM;
    if (status == SPEY_OK)
        *out = s;
    else
        spey_kv_slots_close(s);
    return status;
}

void spey_kv_slots_close(spey_kv_slots *s)
{
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    spey_free(s->head);
    spey_free(s->entries);
    spey_free(s->links);
    spey_free(s->buckets);
    spey_free(s->free_slots);
    spey_free(s->path);
    spey_free(s);
}

/* ---- writing and reading ---- */

static spey_status wipe(const spey_kv_slots *s, int32_t slot)
{
    static const slot_header nothing;
    return write_at(s, slot_at(s, slot), &nothing, sizeof(nothing));
}

spey_status spey_kv_slots_write(spey_kv_slots *s, int32_t slot, const spey_kv_slot *what,
                                const int32_t *ids, const void *const *blocks)
{
    slot_header header = { .identity = s->limits.identity,
                           .number = what->number,
                           .salt = what->salt,
                           .hash = what->hash,
                           .parent_hash = what->parent_hash,
                           .groups = what->groups };
    memcpy(header.magic, slot_magic, sizeof(slot_magic));
    SPEY_TRY(wipe(s, slot));
    for (int g = 0; g < s->limits.n_groups; g++) {
        if (!(what->groups >> g & 1)) continue;
        header.block_sums[g] = spey_xxh3(blocks[g], s->limits.block_bytes[g]);
        SPEY_TRY(write_at(s, block_at(s, slot, g), blocks[g], s->limits.block_bytes[g]));
    }
    memcpy(s->head, &header, sizeof(header));
    memcpy(s->head + sizeof(header), ids, s->head_bytes - sizeof(header));
    header.checksum =
        spey_xxh3(s->head + sizeof(header.checksum), s->head_bytes - sizeof(header.checksum));
    memcpy(s->head, &header, sizeof(header));
    return write_at(s, slot_at(s, slot), s->head, s->head_bytes);
}

static spey_status read_blocks(const spey_kv_slots *s, int32_t slot, const slot_header *header,
                               void *const *blocks, bool *sound)
{
    for (int g = 0; *sound && g < s->limits.n_groups; g++) {
        if (!blocks[g]) continue;
        SPEY_TRY(read_at(s, block_at(s, slot, g), blocks[g], s->limits.block_bytes[g]));
        *sound = header->block_sums[g] == spey_xxh3(blocks[g], s->limits.block_bytes[g]);
    }
    return SPEY_OK;
}

spey_status spey_kv_slots_read(spey_kv_slots *s, int32_t slot, const spey_kv_slot *what,
                               int32_t *ids, void *const *blocks)
{
    slot_header header;
    SPEY_TRY(read_head(s, slot, &header));
    bool sound = is_sound(s, &header) && header.salt == what->salt && header.hash == what->hash &&
                 header.groups == what->groups;
    SPEY_TRY(read_blocks(s, slot, &header, blocks, &sound));
    if (!sound) {
        SPEY_TRY(wipe(s, slot));
        return SPEY_FAIL(SPEY_FORMAT, "%s: slot %d is damaged", s->path, slot);
    }
    memcpy(ids, s->head + sizeof(header), s->head_bytes - sizeof(header));
    return SPEY_OK;
}
