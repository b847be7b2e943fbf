/* patch, one number after the other. */
#include "kernels/patch/patch.h"

#include "device/pool.h"
#include "kernels/rows.h"

static void run(const void *args, const spey_lane *lane)
{
    const spey_patch_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1024, &begin, &end)) {
        for (int64_t i = begin; i < end; i++)
            a->words[a->patches[i].place] = a->patches[i].value;
    }
}

const spey_kernel spey_patch_ref = { .name = "patch/ref", .run = run };
