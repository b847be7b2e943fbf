#include "runtime/kv_file.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "runtime/kv_file_impl.h"

/* Nodes of the list that one turn looks at: most of what is evicted again is in the file already. */
enum { LOOKED_AT_MAX = 256 };

/* ---- jobs ---- */

kv_job *spey_kv_file_new_job(spey_kv_file *f)
{
    if (f->n_handed - f->n_taken >= (uint64_t)f->jobs_max) return NULL;
    kv_job *job = &f->jobs[f->n_handed % KV_JOBS_MAX];
    *job = (kv_job){ .ids = job->ids };
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        job->blocks[g] = KV_NONE;
    return job;
}

void spey_kv_file_post(spey_kv_file *f)
{
    f->n_handed++;
    if (f->driver) spey_driver_start(f->driver);
}

static void do_job(spey_kv_file *f, kv_job *job)
{
    void *blocks[SPEY_CACHE_GROUPS_MAX] = { NULL };
    for (int g = 0; g < f->n_groups; g++)
        if (job->blocks[g] != KV_NONE)
            blocks[g] = f->host[g] + (size_t)job->blocks[g] * f->block_bytes[g];
    if (job->writes)
        job->status = spey_kv_slots_write(f->slots, job->slot, &job->what, job->ids,
                                          (const void *const *)blocks);
    else
        job->status = spey_kv_slots_read(f->slots, job->slot, &job->what, job->ids, blocks);
    if (job->status) snprintf(job->error, sizeof(job->error), "%s", spey_last_error());
}

static void carry_out(void *user, uint64_t number)
{
    spey_kv_file *f = user;
    do_job(f, &f->jobs[(number - 1) % KV_JOBS_MAX]);
}

bool spey_kv_file_work(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    SPEY_ASSERT(!f->driver);
    if (f->n_worked == f->n_handed) return false;
    carry_out(f, ++f->n_worked);
    return true;
}

void spey_kv_file_wait(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    if (!f->driver)
        spey_kv_file_work(kv);
    else if (f->n_taken != f->n_handed)
        spey_driver_wait(f->driver, f->n_taken + 1);
}

bool spey_kv_has_file(const spey_kv_cache *kv)
{
    return kv->file != NULL;
}

bool spey_kv_file_is_busy(const spey_kv_cache *kv)
{
    const spey_kv_file *f = kv->file;
    if (!f) return false;
    bool waits = f->fetch.active || f->unwritten.first != KV_NONE;
    return f->n_handed != f->n_taken || (waits && !f->off);
}

/* ---- what is to be written ---- */

void spey_kv_file_note(spey_kv_cache *kv, int32_t node)
{
    spey_kv_file *f = kv->file;
    if (!f || f->off || kv->nodes[node].unwritten) return;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].blocks_of_nodes[node] != KV_NONE) return;
    spey_kv_list_append(&f->unwritten, f->links, node);
    kv->nodes[node].unwritten = true;
}

void spey_kv_file_forget(spey_kv_cache *kv, int32_t node)
{
    spey_kv_list_remove(&kv->file->unwritten, kv->file->links, node);
    kv->nodes[node].unwritten = false;
}

void spey_kv_file_fail(spey_kv_cache *kv, const char *why)
{
    spey_kv_file *f = kv->file;
    if (f->off) return;
    f->off = true;
    while (f->unwritten.first != KV_NONE)
        spey_kv_file_forget(kv, f->unwritten.first);
    spey_log(SPEY_LOG_WARNING, "the KV cache goes on without its file: %s", why);
}

/* Which groups have a block of a node in host memory; 0: it has gone back, or lost what it needs. */
static uint32_t groups_on_host(const spey_kv_cache *kv, int32_t node)
{
    uint32_t groups = 0;
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->blocks_of_nodes[node] != KV_NONE) return 0;
        if (kv_on_host(group, node))
            groups |= (uint32_t)1 << g;
        else if (!group->window)
            return 0;
    }
    return groups;
}

/* The file has what of the node is in host memory. */
static bool is_written(spey_kv_file *f, int32_t slot, uint32_t groups)
{
    if (slot == KV_NONE) return false;
    if ((groups & ~spey_kv_slots_get(f->slots, slot)->groups) == 0) {
        spey_kv_slots_touch(f->slots, slot);
        return true;
    }
    spey_kv_slots_drop(f->slots, slot);
    return false;
}

static void write_node(spey_kv_cache *kv, int32_t node, kv_job *job)
{
    const struct kv_node *n = &kv->nodes[node];
    spey_kv_file *f = kv->file;
    uint32_t groups = groups_on_host(kv, node);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        if (!(groups >> g & 1)) continue;
        job->blocks[g] = kv->groups[g].host_of_nodes[node];
        if (kv->groups[g].host_uses[job->blocks[g]] != KV_HOST_IDLE) return; /* it is under way */
    }
    if (!groups || is_written(f, spey_kv_slots_find(f->slots, n->salt, n->hash), groups)) return;
    uint64_t above = n->parent == KV_NONE ? spey_kv_tree_root(n->salt) : kv->nodes[n->parent].hash;
    job->writes = true;
    job->what =
        (spey_kv_slot){ .salt = n->salt, .hash = n->hash, .parent_hash = above, .groups = groups };
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (groups >> g & 1) kv->groups[g].host_uses[job->blocks[g]] = KV_HOST_WRITTEN;
    memcpy(job->ids, kv_node_ids(kv, node), (size_t)kv->limits.block_tokens * sizeof(int32_t));
    job->slot = spey_kv_slots_put(f->slots, &job->what);
    spey_kv_file_post(f);
}

/* What the node has in host memory is there by now. */
static bool has_arrived(const spey_kv_cache *kv, int32_t node)
{
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv_on_host(&kv->groups[g], node) &&
            !spey_kv_file_may_use(kv, g, kv->groups[g].host_of_nodes[node]))
            return false;
    return true;
}

static void write_nodes(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    for (int i = 0; i < LOOKED_AT_MAX && f->unwritten.first != KV_NONE; i++) {
        kv_job *job = spey_kv_file_new_job(f);
        int32_t node = f->unwritten.first;
        if (!job || !has_arrived(kv, node)) return;
        spey_kv_file_forget(kv, node);
        write_node(kv, node, job);
    }
}

/* ---- what was done ---- */

void spey_kv_file_release(spey_kv_cache *kv, int g, int32_t block)
{
    kv_group *group = &kv->groups[g];
    bool held = group->host_uses[block] == KV_HOST_HELD;
    group->host_uses[block] = KV_HOST_IDLE;
    if (held) group->host_free[group->n_host_free++] = block;
}

static void take_written(spey_kv_cache *kv, const kv_job *job)
{
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (job->blocks[g] != KV_NONE) spey_kv_file_release(kv, g, job->blocks[g]);
    if (job->status)
        spey_kv_file_fail(kv, job->error);
    else
        kv->file->n_stored++;
}

static void take_done(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    uint64_t n_done = f->driver ? spey_driver_done(f->driver) : f->n_worked;
    f->fetch.n_last = -1;
    while (f->n_taken < n_done) {
        const kv_job *job = &f->jobs[f->n_taken % KV_JOBS_MAX];
        if (job->writes)
            take_written(kv, job);
        else
            spey_kv_fetch_take(kv, job);
        f->n_taken++;
    }
}

bool spey_kv_file_may_use(const spey_kv_cache *kv, int g, int32_t block)
{
    return kv->groups[g].host_lists[block] <= kv->file->n_lists;
}

void spey_kv_file_turn(spey_kv_cache *kv, int n_behind)
{
    spey_kv_file *f = kv->file;
    if (!f) return;
    f->n_lists = kv->n_lists - (uint64_t)n_behind;
    take_done(kv);
    if (!f->off) {
        spey_kv_fetch_go_on(kv);
        write_nodes(kv);
    }
    spey_kv_fetch_settle(kv);
}

static void finish_jobs(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    while (f->n_taken != f->n_handed) {
        spey_kv_file_wait(kv);
        take_done(kv);
    }
}

void spey_kv_file_clear(spey_kv_cache *kv)
{
    spey_kv_file *f = kv->file;
    if (!f) return;
    f->fetch.end = 0;
    finish_jobs(kv);
    f->fetch.active = false;
    if (spey_kv_slots_clear(f->slots)) spey_kv_file_fail(kv, spey_last_error());
}

bool spey_kv_file_push_out(spey_kv_cache *kv)
{
    int32_t n = 0, most = (kv->limits.host_blocks + 1) / 2;
    if (kv->file->off) return false;
    for (int g = 0; g < kv->limits.n_groups; g++)
        while (n < most && kv->groups[g].n_cached > 0) {
            spey_kv_tree_evict(kv, g);
            n++;
        }
    return n > 0;
}

void spey_kv_file_read_stats(const spey_kv_cache *kv, spey_kv_stats *out)
{
    const spey_kv_file *f = kv->file;
    if (!f) return;
    const spey_kv_slots_counts counts = spey_kv_slots_count(f->slots);
    out->file_max_num_blocks = counts.n_slots;
    out->file_used_num_blocks = counts.n_used;
    out->file_stored_blocks = f->n_stored;
    out->file_loaded_blocks = f->n_loaded;
    out->file_discarded_blocks = f->n_discarded;
}

/* ---- life ---- */

static spey_status open_slots(const spey_kv_cache *kv, const spey_kv_file_setup *setup,
                              spey_kv_slots **out)
{
    spey_kv_slots_limits limits = { .path = setup->path,
                                    .bytes = setup->bytes,
                                    .identity = setup->identity,
                                    .block_tokens = kv->limits.block_tokens,
                                    .n_groups = kv->limits.n_groups };
    for (int g = 0; g < kv->limits.n_groups; g++) {
        limits.block_bytes[g] = setup->block_bytes[g];
        if (!kv->groups[g].window) limits.whole |= (uint32_t)1 << g;
    }
    return spey_kv_slots_open(&limits, out);
}

static bool allocate(spey_kv_file *f, const spey_kv_limits *limits, int32_t nodes_max)
{
    int64_t blocks = spey_kv_books_blocks(limits, limits->sequence_tokens_max);
    f->job_ids = spey_new_array(SPEY_PURPOSE_KV, int32_t, KV_JOBS_MAX * limits->block_tokens);
    f->links = spey_new_array(SPEY_PURPOSE_KV, struct kv_link, nodes_max);
    f->fetch.ids = spey_new_array(SPEY_PURPOSE_KV, int32_t, limits->sequence_tokens_max);
    f->fetch.chain = spey_new_array(SPEY_PURPOSE_KV, int32_t, blocks);
    return f->job_ids && f->links && f->fetch.ids && f->fetch.chain;
}

static spey_status fill(spey_kv_file *f, spey_kv_cache *kv, const spey_kv_file_setup *setup)
{
    const spey_kv_limits *limits = &kv->limits;
    f->n_groups = limits->n_groups;
    memcpy(f->block_bytes, setup->block_bytes, sizeof(f->block_bytes));
    memcpy(f->host, setup->host, sizeof(f->host));
    f->unwritten = (struct kv_list){ KV_NONE, KV_NONE };
    /* What is under way cannot be forgotten: never more than a quarter of host memory. */
    int32_t quarter = limits->host_blocks / 4 > 0 ? limits->host_blocks / 4 : 1;
    f->jobs_max = quarter < KV_JOBS_MAX ? quarter : KV_JOBS_MAX;
    if (!allocate(f, limits, kv->nodes_max)) return SPEY_NOMEM;
    for (int i = 0; i < KV_JOBS_MAX; i++)
        f->jobs[i].ids = f->job_ids + (int64_t)i * limits->block_tokens;
    SPEY_TRY(open_slots(kv, setup, &f->slots));
    f->n_discarded = spey_kv_slots_count(f->slots).n_discarded;
    return setup->no_thread ? SPEY_OK : spey_driver_new(carry_out, f, &f->driver);
}

spey_status spey_kv_file_open(spey_kv_cache *kv, const spey_kv_file_setup *setup)
{
    SPEY_ASSERT(!kv->file);
    SPEY_ASSERT(kv->nodes_max && kv->limits.host_blocks > 0);
    spey_kv_file *f = spey_new(SPEY_PURPOSE_KV, spey_kv_file);
    if (!f) return SPEY_NOMEM;
    kv->file = f;
    spey_status status = fill(f, kv, setup);
    if (status) spey_kv_file_close(kv);
    return status;
}

void spey_kv_file_close(spey_kv_cache *kv)
{
    spey_kv_file *f = kv ? kv->file : NULL;
    if (!f) return;
    if (f->slots) finish_jobs(kv);
    while (f->slots && f->unwritten.first != KV_NONE)
        spey_kv_file_forget(kv, f->unwritten.first);
    spey_driver_free(f->driver);
    spey_kv_slots_close(f->slots);
    spey_free(f->job_ids);
    spey_free(f->links);
    spey_free(f->fetch.ids);
    spey_free(f->fetch.chain);
    spey_free(f);
    kv->file = NULL;
}
