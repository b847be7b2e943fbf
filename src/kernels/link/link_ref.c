/* link, one id after the other. */
#include "kernels/link/link.h"

#include "device/pool.h"
#include "kernels/rows.h"

static void run(const void *args, const spey_lane *lane)
{
    const spey_link_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 64, &begin, &end)) {
        for (int64_t i = begin; i < end; i++) {
            const int32_t id = a->found[a->numbers[i]];
            a->ids[a->places[i]] = id < 0 ? 0 : id;
        }
    }
}

const spey_kernel spey_link_ref = { .name = "link/ref", .run = run };
