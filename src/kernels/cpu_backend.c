/* The CPU as a backend: device memory is anonymous mappings, kernels run on a worker pool, run() returns when all is
 * done. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "device/cpu.h"
#include "device/pool.h"
#include "kernels/registry.h"
#include "kernels/rows.h"

static const spey_kernel *const rows[] = {
#define SPEY_ROW(op, variant) &spey_##op##_##variant,
#include "kernels/rows.def"
#undef SPEY_ROW
};

struct spey_device {
    spey_pool *pool;
};

static int cpu_device_count(void)
{
    return 1;
}

static spey_status cpu_device_open(int index, const spey_device_options *options, spey_device **out)
{
    *out = NULL;
    if (index != 0) return SPEY_FAIL(SPEY_NOT_FOUND, "there is no CPU device %d, only 0", index);
    spey_device *device = spey_new(SPEY_PURPOSE_GENERAL, spey_device);
    if (!device) return SPEY_NOMEM;
    spey_status status = spey_pool_new(options ? options->threads : 0, &device->pool);
    if (status != SPEY_OK) {
        spey_free(device);
        return status;
    }
    *out = device;
    return SPEY_OK;
}

static void cpu_device_close(spey_device *device)
{
    if (!device) return;
    spey_pool_free(device->pool);
    spey_free(device);
}

/* The number after `key` in a file of /proc or /sys ("" : at its start); `missing` when there is none ("max"). */
static uint64_t read_number(const char *path, const char *key, uint64_t missing)
{
    uint64_t value = missing;
    char line[256];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        size_t n = strlen(key);
        char *end;
        if (strncmp(line, key, n) != 0) continue;
        unsigned long long number = strtoull(line + n, &end, 10);
        if (end != line + n) value = number;
        break;
    }
    if (file) fclose(file);
    return value;
}

static void cpu_device_info(const spey_device *device, spey_device_info *out)
{
    *out =
        (spey_device_info){ .host_memory = true, .compute_units = spey_pool_threads(device->pool) };
    spey_cpu_describe(out->name, sizeof(out->name));
    out->memory_bytes = read_number("/proc/meminfo", "MemTotal:", 0) * 1024;
    out->memory_free_bytes = read_number("/proc/meminfo", "MemAvailable:", 0) * 1024;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", "", UINT64_MAX);
    if (limit < out->memory_bytes) {
        uint64_t used = read_number("/sys/fs/cgroup/memory.current", "", 0);
        uint64_t left = used < limit ? limit - used : 0;
        out->memory_bytes = limit;
        if (left < out->memory_free_bytes) out->memory_free_bytes = left;
    }
}

/* Blocks of a huge page or more begin at one, so that the TLB covers them with few entries. */
enum { HUGE_PAGE = 2 << 20 };

static size_t mapped_bytes(size_t bytes)
{
    size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : (size_t)sysconf(_SC_PAGESIZE);
    return bytes ? (bytes + unit - 1) & ~(unit - 1) : unit;
}

static spey_status cpu_memory_new(spey_device *device, size_t bytes, void **out)
{
    (void)device;
    *out = NULL;
    size_t with_slack;
    if (!spey_add_size(bytes, (size_t)2 * HUGE_PAGE, &with_slack))
        return SPEY_FAIL(SPEY_NOMEM, "%zu bytes of memory wanted", bytes);
    size_t size = mapped_bytes(bytes);
    size_t slack = size >= HUGE_PAGE ? HUGE_PAGE : 0;
    uint8_t *map =
        mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return SPEY_FAIL(SPEY_NOMEM, "%zu bytes of memory wanted", bytes);
    if (slack) {
        size_t head = (size_t) - (uintptr_t)map & (HUGE_PAGE - 1);
        if (head) munmap(map, head);
        if (slack > head) munmap(map + head + size, slack - head);
        map += head;
        madvise(map, size, MADV_HUGEPAGE);
    }
    *out = map;
    return SPEY_OK;
}

static void cpu_memory_free(spey_device *device, void *memory, size_t bytes)
{
    (void)device;
    if (memory) munmap(memory, mapped_bytes(bytes));
}

static spey_status cpu_upload(spey_device *device, void *dst, const void *host, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(dst, host, bytes);
    return SPEY_OK;
}

static spey_status cpu_download(spey_device *device, void *host, const void *src, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(host, src, bytes);
    return SPEY_OK;
}

static spey_status cpu_copy(spey_device *device, void *dst, const void *src, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(dst, src, bytes);
    return SPEY_OK;
}

static spey_status cpu_run(spey_device *device, const spey_step *steps, int n_steps)
{
    spey_pool_run_steps(device->pool, steps, n_steps);
    return SPEY_OK;
}

static spey_status cpu_sync(spey_device *device)
{
    (void)device;
    return SPEY_OK;
}

static spey_status cpu_event_new(spey_device *device, void **out)
{
    (void)device;
    *out = spey_new(SPEY_PURPOSE_GENERAL, uint64_t);
    return *out ? SPEY_OK : SPEY_NOMEM;
}

static void cpu_event_free(spey_device *device, void *event)
{
    (void)device;
    spey_free(event);
}

static spey_status cpu_event_record(spey_device *device, void *event)
{
    (void)device;
    *(uint64_t *)event = spey_clock_ns();
    return SPEY_OK;
}

static spey_status cpu_event_elapsed_ns(spey_device *device, void *begin, void *end, uint64_t *out)
{
    (void)device;
    *out = *(const uint64_t *)end - *(const uint64_t *)begin;
    return SPEY_OK;
}

static const spey_kernel *const *cpu_kernels(int *n)
{
    *n = (int)(sizeof(rows) / sizeof(rows[0]));
    return rows;
}

const spey_backend *spey_cpu_backend(void)
{
    static const spey_backend backend = {
        .abi = SPEY_BACKEND_ABI,
        .name = "cpu",
        .device_count = cpu_device_count,
        .device_open = cpu_device_open,
        .device_close = cpu_device_close,
        .device_info = cpu_device_info,
        .memory_new = cpu_memory_new,
        .memory_free = cpu_memory_free,
        .upload = cpu_upload,
        .download = cpu_download,
        .copy = cpu_copy,
        .run = cpu_run,
        .sync = cpu_sync,
        .event_new = cpu_event_new,
        .event_free = cpu_event_free,
        .event_record = cpu_event_record,
        .event_elapsed_ns = cpu_event_elapsed_ns,
        .kernels = cpu_kernels,
    };
    return &backend;
}
