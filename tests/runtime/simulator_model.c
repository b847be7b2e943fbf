#include <stdlib.h>

#include "simulator.h"

uint64_t sim_hash(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u)) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 29) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 32;
}

bool sim_memory_init(sim_memory *m, const spey_kv_limits *limits)
{
    *m = (sim_memory){ .limits = *limits };
    for (int g = 0; g < limits->n_groups; g++) {
        size_t block = (size_t)limits->block_tokens;
        m->cells[g] = calloc((size_t)limits->groups[g].n_blocks * block, sizeof(uint64_t));
        m->host[g] = calloc((size_t)limits->host_blocks * block + 1, sizeof(uint64_t));
        if (!m->cells[g] || !m->host[g]) return false;
    }
    return true;
}

void sim_memory_deinit(sim_memory *m)
{
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++) {
        free(m->cells[g]);
        free(m->host[g]);
    }
}

void sim_tables_capture(const spey_kv_cache *kv, spey_seq_id seq, sim_tables *out)
{
    for (int g = 0; g < spey_kv_get_limits(kv)->n_groups; g++) {
        int64_t n;
        const int32_t *blocks = spey_kv_blocks(kv, g, seq, &n);
        for (int64_t i = 0; i < n; i++)
            out->blocks[g][i] = blocks[i];
    }
    out->n_source = spey_kv_cross_length(kv, seq);
}

static uint64_t *cell(const sim_memory *m, const sim_tables *tables, int g, int64_t position)
{
    const int32_t *blocks = tables->blocks[g];
    int64_t bt = m->limits.block_tokens;
    if (m->limits.groups[g].kind == SPEY_KV_STATE) return &m->cells[g][blocks[0] * bt];
    return &m->cells[g][blocks[position / bt] * bt + position % bt];
}

void sim_memory_copy(sim_memory *m, const spey_kv_copy *copies, int64_t n)
{
    int64_t bt = m->limits.block_tokens;
    for (int64_t i = 0; i < n; i++) {
        const spey_kv_copy *c = &copies[i];
        const uint64_t *src =
            c->kind == SPEY_KV_COPY_FROM_HOST ? m->host[c->group] : m->cells[c->group];
        uint64_t *dst = c->kind == SPEY_KV_COPY_TO_HOST ? m->host[c->group] : m->cells[c->group];
        for (int64_t t = 0; t < bt; t++)
            dst[c->dst * bt + t] = src[c->src * bt + t];
    }
}

/* Salts stand for what changes the numbers: equal ids of two salts are not the same. */
static uint64_t hash_token(uint64_t salt, int32_t id, int64_t position)
{
    return sim_hash(sim_hash(salt, (uint64_t)id), (uint64_t)position);
}

static uint64_t hash_source(int64_t n, int64_t position)
{
    return sim_hash((uint64_t)n, (uint64_t)~position);
}

void sim_memory_encode(sim_memory *m, const sim_tables *tables)
{
    for (int g = 0; g < m->limits.n_groups; g++)
        for (int64_t i = 0; m->limits.groups[g].kind == SPEY_KV_CROSS && i < tables->n_source; i++)
            *cell(m, tables, g, i) = hash_source(tables->n_source, i);
}

void sim_memory_store(sim_memory *m, const sim_tables *tables, int64_t position, uint64_t salt,
                      int32_t id)
{
    for (int g = 0; g < m->limits.n_groups; g++) {
        if (m->limits.groups[g].kind == SPEY_KV_CROSS) continue;
        uint64_t *at = cell(m, tables, g, position), token = hash_token(salt, id, position);
        bool is_state = m->limits.groups[g].kind == SPEY_KV_STATE;
        *at = is_state ? sim_hash(position ? *at : 0, token) : token;
    }
}

/* The first position that a token sees. */
static int64_t first_seen(const spey_kv_group_limits *group, int64_t position)
{
    return group->window && position >= group->window ? position - group->window + 1 : 0;
}

uint64_t sim_memory_read(const sim_memory *m, const sim_tables *tables, int64_t position)
{
    uint64_t row = 0;
    for (int g = 0; g < m->limits.n_groups; g++) {
        const spey_kv_group_limits *group = &m->limits.groups[g];
        uint64_t seen = 0;
        if (group->kind == SPEY_KV_STATE)
            seen = *cell(m, tables, g, 0);
        else if (group->kind == SPEY_KV_CROSS)
            for (int64_t i = 0; i < tables->n_source; i++)
                seen = seen * 0x100000001b3u + *cell(m, tables, g, i);
        else
            for (int64_t i = first_seen(group, position); i <= position; i++)
                seen = seen * 0x100000001b3u + *cell(m, tables, g, i);
        row = sim_hash(row, seen);
    }
    return row;
}

static uint64_t see_source(int64_t n)
{
    uint64_t seen = 0;
    for (int64_t i = 0; i < n; i++)
        seen = seen * 0x100000001b3u + hash_source(n, i);
    return seen;
}

uint64_t sim_row(const spey_kv_limits *limits, const sim_setting *setting, const int32_t *ids,
                 int64_t position)
{
    uint64_t row = 0;
    for (int g = 0; g < limits->n_groups; g++) {
        const spey_kv_group_limits *group = &limits->groups[g];
        bool is_state = group->kind == SPEY_KV_STATE, is_cross = group->kind == SPEY_KV_CROSS;
        uint64_t seen = is_cross ? see_source(setting->n_source) : 0;
        for (int64_t i = is_state ? 0 : first_seen(group, position); !is_cross && i <= position;
             i++) {
            uint64_t token = hash_token(setting->salt, ids[i], i);
            seen = is_state ? sim_hash(seen, token) : seen * 0x100000001b3u + token;
        }
        row = sim_hash(row, seen);
    }
    return row;
}
