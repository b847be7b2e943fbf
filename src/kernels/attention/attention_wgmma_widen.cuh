/* The producer of attention on Hopper's tensor cores over a cache of E4M3. attention_wgmma_sm90.cu explains it.
 *
 * Of each item it brings units: Q, then (unless the item before kept them) tiles of K and V in the order in which consumers need them. A unit is fetched
 * (cp.async) while the two before it are widened to F16: Q where it lies, tiles from a place of their own into panels. A
 * thread widens what it has fetched itself, so that nobody waits for others. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_WIDEN_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_WIDEN_CUH

#include "kernels/attention/attention_wgmma_produce.cuh"

/* Unit `unit` of an item: 0 is Q, 2 · tiles the last tile of V. */
struct item_unit {
    int tile; /* the nth of the item's; Q: -1 */
    bool is_v;
};

static __device__ __forceinline__ item_unit unit_at(int unit, int tiles)
{
    if (unit == 0) return { -1, false };
    if (unit == 2 * tiles) return { tiles - 1, true };
    const bool is_v = unit >= 3 && unit % 2 == 1;
    return { is_v ? (unit - 3) / 2 : unit / 2, is_v };
}

/* A place in the list of units. */
struct unit_cursor {
    uint32_t item;
    int unit;
    uint32_t tiles, raws; /* of K; of K and V, before this unit's item and before this unit */

    __device__ __forceinline__ void next(int item_tiles)
    {
        raws += unit > 0;
        if (unit++ < 2 * item_tiles) return;
        unit = 0;
        item++;
        tiles += item_tiles;
    }
};

/* What of a pass of a tile a thread has: 16 elements of a token. Eight threads that write 16 bytes at once have even (or
 * odd) chunks of two neighbouring rows: places in all banks. */
template <typename X> struct raw_place {
    static constexpr int CHUNKS = X::D / 16, PASS = WARPGROUP_THREADS / CHUNKS; /* tokens */
    int row, chunk;

    __device__ __forceinline__ raw_place()
    {
        const int thread = threadIdx.x % WARPGROUP_THREADS, rest = thread / 8;
        row = thread / 4 % 2 + rest / (CHUNKS / 4) * 2;
        chunk = thread % 4 + rest % (CHUNKS / 4) * 4;
    }
};

/* A tile of K or V as it is; tokens outside of the range become zeros, unread. */
template <typename X>
static __device__ __forceinline__ void fetch_tile(uint32_t to, const attention_problem &p,
                                                  cache_range range, int tile, strip_places places,
                                                  bool is_v)
{
    constexpr int PASS = raw_place<X>::PASS;
    const raw_place<X> place;
    const spey_kv_view &kv = p.a.kv;
    const int token_bytes = static_cast<int>(is_v ? kv.v_token_bytes : kv.k_token_bytes);
    const bool mine = place.chunk < static_cast<int>(is_v ? p.a.v_dim : p.a.k_dim) / 16;
    const uint8_t *head = kv.base + place.chunk * 16 + head_offset(kv, range.kv_head, is_v);
#pragma unroll
    for (int i = 0; i < X::TOKENS; i += PASS) {
        const int row = i + place.row, token = tile * X::TOKENS + row;
        const int64_t block = __shfl_sync(0xffffffffu, places.block, row / STRIP_TOKENS);
        const int inside = __shfl_sync(0xffffffffu, places.inside, row / STRIP_TOKENS);
        copy_async16(to + (i / PASS * WARPGROUP_THREADS + threadIdx.x % WARPGROUP_THREADS) * 16,
                     head + block * kv.block_bytes + (inside + row % STRIP_TOKENS) * token_bytes,
                     mine && token >= range.begin && token < range.end);
    }
}

/* As copy_query_panels. Heads of a group are mostly so many that a thread meets one of them alone: then it divides once. */
template <typename X>
static __device__ __forceinline__ void fetch_queries(uint32_t to, const attention_problem &p,
                                                     const attention_plan &plan,
                                                     const prefill_item &item)
{
    constexpr int PASS = WARPGROUP_THREADS / X::CHUNKS;
    const int thread = threadIdx.x % WARPGROUP_THREADS, chunk = thread % X::CHUNKS;
    const int first = thread / X::CHUNKS, first_at = item.row + first;
    const int rows = chunk < static_cast<int>(p.a.k_dim) / 8 ? item.n_rows - item.row : 0;
    const bool one_head = PASS % plan.group == 0;
    const int64_t step = one_head ? PASS / plan.group * p.a.q_pitch : 0;
    const uint16_t *q = query_at(p, plan, item, min(first_at, item.n_rows - 1)) + chunk * 8;
#pragma unroll 4
    for (int row = first; row < WGMMA_ROWS; row += PASS) {
        if (!one_head)
            q = query_at(p, plan, item, min(item.row + row, item.n_rows - 1)) + chunk * 8;
        copy_async16(to + panel_place(WGMMA_ROWS, row, chunk), q, row < rows);
        q += step;
    }
}

static __device__ __forceinline__ uint4 widen_eight(uint32_t low, uint32_t high)
{
    return make_uint4(widen_e4m3(low, 0x10), widen_e4m3(low, 0x32), widen_e4m3(high, 0x10),
                      widen_e4m3(high, 0x32));
}

template <typename X> static __device__ __forceinline__ void widen_tile(uint32_t to, uint32_t from)
{
    constexpr int PASS = raw_place<X>::PASS;
    static_assert(PASS % 8 == 0, "passes leave chunks where they are");
    const raw_place<X> place;
    const uint32_t low = to + panel_place(X::TOKENS, place.row, 2 * place.chunk);
    const uint32_t high = to + panel_place(X::TOKENS, place.row, 2 * place.chunk + 1);
    from += threadIdx.x % WARPGROUP_THREADS * 16;
#pragma unroll
    for (int first = 0; first < X::TOKENS / PASS; first += 4) {
        uint4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = load_shared4(from + (first + i) * WARPGROUP_THREADS * 16);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = (first + i) * PASS * PANEL_ROW_BYTES;
            store_shared4(low + at, widen_eight(x[i].x, x[i].y));
            store_shared4(high + at, widen_eight(x[i].z, x[i].w));
        }
    }
}

/* Two numbers of BF16 as F16; those that it cannot hold become its largest. */
static __device__ __forceinline__ uint32_t half_pair(uint32_t pair)
{
    uint32_t x;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;"
        : "=r"(x)
        : "f"(__uint_as_float(pair & 0xffff0000u)), "f"(__uint_as_float(pair << 16)));
    return x;
}

/* What this thread copied of Q, BF16, becomes F16. */
template <typename X> static __device__ __forceinline__ void convert_queries(uint32_t q)
{
    constexpr int PASS = WARPGROUP_THREADS / X::CHUNKS;
    const int thread = threadIdx.x % WARPGROUP_THREADS, chunk = thread % X::CHUNKS;
#pragma unroll 1
    for (int first = thread / X::CHUNKS; first < WGMMA_ROWS; first += 4 * PASS) {
        uint4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = load_shared4(q + panel_place(WGMMA_ROWS, first + i * PASS, chunk));
#pragma unroll
        for (int i = 0; i < 4; i++)
            store_shared4(q + panel_place(WGMMA_ROWS, first + i * PASS, chunk),
                          make_uint4(half_pair(x[i].x), half_pair(x[i].y), half_pair(x[i].z),
                                     half_pair(x[i].w)));
    }
}

/* What fetching remembers: where it is, and the strips of the next tiles of K and of V. */
template <typename X> struct unit_fetcher {
    unit_cursor at;
    item_finder<X> finder;
    strip_places k, v;
};

/* One group of copies. With an item's Q the next item is found. */
template <typename X>
static __device__ __forceinline__ void
fetch_unit(const attention_problem &p, const attention_plan &plan, const wgmma_shared<X> &shared,
           wgmma_item slots[ITEM_SLOTS], unit_fetcher<X> *f)
{
    const wgmma_item &item = slots[f->at.item % ITEM_SLOTS];
    const int tiles = item.tiles;
    if (tiles >= 0) {
        const item_unit unit = unit_at(f->at.unit, tiles);
        if (unit.tile < 0) {
            if (item.fresh) f->k = find_strips<X>(p, item.range, item.tile);
            barrier_wait(shared.q_empty(f->at.item), wgmma_shared<X>::q_phase(f->at.item) ^ 1);
            fetch_queries<X>(shared.q(f->at.item), p, plan, item.rows);
            f->finder.find(p, plan, slots);
        } else {
            const strip_places places = { unit.is_v ? f->v.block : f->k.block,
                                          unit.is_v ? f->v.inside : f->k.inside };
            fetch_tile<X>(shared.raw(f->at.raws), p, item.range, item.tile - unit.tile, places,
                          unit.is_v);
        }
        /* Behind K of the first tile, and then behind each V, comes K of a tile that was not met yet. */
        if (unit.is_v || unit.tile == 0) {
            const int next = unit.tile + (unit.is_v ? 2 : 1);
            f->v = f->k;
            if (next < tiles) f->k = find_strips<X>(p, item.range, item.tile - next);
        }
        f->at.next(item.fresh ? tiles : 0);
    }
    copy_commit();
}

/* Widens what was fetched; false: there are no more items. */
template <typename X>
static __device__ __forceinline__ bool
widen_unit(const attention_problem &p, const wgmma_shared<X> &shared,
           const wgmma_item slots[ITEM_SLOTS], unit_cursor *at)
{
    using S = wgmma_shared<X>;
    const int tiles = slots[at->item % ITEM_SLOTS].tiles;
    const bool fresh = slots[at->item % ITEM_SLOTS].fresh;
    const item_unit unit = unit_at(at->unit, tiles);
    copy_wait<1>();
    if (unit.tile < 0) {
        if (tiles < 0)
            barrier_wait(shared.q_empty(at->item), S::q_phase(at->item) ^ 1);
        else if (p.a.dtype == SPEY_BF16)
            convert_queries<X>(shared.q(at->item));
        fence_for_wgmma();
        barrier_arrive(shared.q_full(at->item));
        if (threadIdx.x == 0) barrier_arrive(shared.q_full(at->item)); /* it wrote the slot */
        if (tiles < 0) return false;
    } else {
        const uint32_t n = at->tiles + unit.tile;
        barrier_wait(shared.empty(unit.is_v, n), S::phase(n) ^ 1);
        widen_tile<X>(shared.tile(unit.is_v, n), shared.raw(at->raws));
        fence_for_wgmma();
        barrier_arrive(shared.full(unit.is_v, n));
    }
    at->next(fresh ? tiles : 0);
    return true;
}

template <typename X>
static __device__ __forceinline__ void
produce_widened(const attention_problem &p, const attention_plan &plan, int bundle,
                const wgmma_shared<X> &shared, wgmma_item slots[ITEM_SLOTS])
{
    unit_cursor at = { 0, 0, 0, 0 };
    unit_fetcher<X> fetcher = { at, no_items_found<X>(bundle), {}, {} };
    fetcher.finder.find(p, plan, slots);
    wait_for_others();
    for (int fetched = 0;; fetched++) {
        if (fetched >= 2 && !widen_unit<X>(p, shared, slots, &at)) break;
        fetch_unit<X>(p, plan, shared, slots, &fetcher);
    }
    copy_wait<0>();
}

#endif
