/* Where rows run. CPU: each buffer lies in a mapping of its own between two unmapped pages, so that one byte too far
 * is a fault. Devices: all buffers lie in one block with canaries between them. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check_impl.h"
#include "kernels/registry.h"

enum { CANARY = 256, CANARY_BYTE = 0xcb, WORKSPACE_ALIGN = 64 };

spey_status check_target_open(check_target *t, const char *backend)
{
    *t = (check_target){ 0 };
    if (!strcmp(backend, "cpu")) {
        t->backend = spey_cpu_backend();
        return SPEY_OK;
    }
    SPEY_TRY(spey_backend_open_plugin(backend, &t->backend));
    return t->backend->device_open(0, NULL, &t->device);
}

void check_target_close(check_target *t)
{
    for (int i = 0; i <= CHECK_THREADS_MAX; i++)
        spey_pool_free(t->pools[i]);
    if (!t->device) return;
    if (t->arena) t->backend->memory_free(t->device, t->arena, t->arena_bytes);
    t->backend->device_close(t->device);
    free(t->image);
}

spey_pool *check_target_pool(check_target *t, int threads)
{
    if (threads < 0 || threads > CHECK_THREADS_MAX) check_die("%d threads", threads);
    if (!t->pools[threads] && spey_pool_new(threads, &t->pools[threads]) != SPEY_OK)
        check_die("%s", spey_last_error());
    return t->pools[threads];
}

/* ---- CPU ---- */

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void map_buffer(check_buffer *b, check_place place, size_t align)
{
    /* Big buffers begin at a huge page, as the backend's own memory does, so that the bench measures the same. */
    const size_t huge = (size_t)2 << 20;
    size_t page = page_bytes(), slack = b->bytes >= huge ? huge : page;
    size_t inside = (b->bytes + page - 1) / page * page;
    if (!inside) inside = page;
    b->mapping_bytes = inside + slack + 2 * page;
    uint8_t *map =
        mmap(NULL, b->mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) check_die("cannot map %zu bytes", b->mapping_bytes);
    uint8_t *begin = map + page + ((size_t) - (uintptr_t)(map + page) & (slack - 1));
    if (mprotect(begin, inside, PROT_READ | PROT_WRITE))
        check_die("cannot map %zu bytes", b->mapping_bytes);
    if (slack == huge) madvise(begin, inside, MADV_HUGEPAGE);
    b->mapping = map;
    b->pages = begin;
    b->pages_bytes = inside;
    memset(begin, CANARY_BYTE, inside);
    b->target = place == CHECK_PLACE_END ? begin + (inside - b->bytes) / align * align : begin;
    if (b->initial)
        memcpy(b->target, b->initial, b->bytes);
    else
        memset(b->target, 0xff, b->bytes);
}

/* The part of the pages that is not the buffer still has its canary. */
static bool unmap_buffer(check_buffer *b)
{
    const uint8_t *target = b->target, *end = b->pages + b->pages_bytes;
    bool whole = true;
    for (const uint8_t *p = b->pages; p < target; p++)
        whole &= *p == CANARY_BYTE;
    for (const uint8_t *p = target + b->bytes; p < end; p++)
        whole &= *p == CANARY_BYTE;
    if (b->result) memcpy(b->result, target, b->bytes);
    munmap(b->mapping, b->mapping_bytes);
    b->mapping = b->target = NULL;
    return whole;
}

/* ---- devices ---- */

static check_buffer *nth_buffer(check *c, int i)
{
    return i < c->n_buffers ? &c->buffers[i] : &c->workspace;
}

/* Lay out [canary | buffer | canary | buffer | … | canary]; returns the bytes of all. */
static size_t lay_out(check *c, check_place place, size_t *offsets)
{
    size_t at = CANARY;
    for (int i = 0; i <= c->n_buffers; i++) {
        size_t bytes = nth_buffer(c, i)->bytes, padded = (bytes + CANARY - 1) / CANARY * CANARY;
        bool at_end = place == CHECK_PLACE_END && i < c->n_buffers;
        offsets[i] = at_end ? at + padded - bytes : at;
        at += padded + CANARY;
    }
    return at;
}

static void place_on_device(check_target *t, check *c, check_place place)
{
    size_t offsets[CHECK_BUFFERS_MAX + 1], total = lay_out(c, place, offsets);
    if (total > t->arena_bytes) {
        if (t->arena) t->backend->memory_free(t->device, t->arena, t->arena_bytes);
        free(t->image);
        void *arena = NULL;
        t->arena_bytes = total + total / 2;
        t->image = malloc(t->arena_bytes);
        if (!t->image || t->backend->memory_new(t->device, t->arena_bytes, &arena) != SPEY_OK)
            check_die("%zu bytes of device memory: %s", t->arena_bytes, spey_last_error());
        t->arena = arena;
    }
    memset(t->image, CANARY_BYTE, total);
    for (int i = 0; i <= c->n_buffers; i++) {
        check_buffer *b = nth_buffer(c, i);
        if (b->initial)
            memcpy(t->image + offsets[i], b->initial, b->bytes);
        else
            memset(t->image + offsets[i], 0xff, b->bytes);
        b->target = t->arena + offsets[i];
    }
    if (t->backend->upload(t->device, t->arena, t->image, total) != SPEY_OK)
        check_die("upload: %s", spey_last_error());
}

static bool collect_from_device(check_target *t, check *c, char why[160])
{
    size_t end = 0;
    for (int i = 0; i <= c->n_buffers; i++) {
        const check_buffer *b = nth_buffer(c, i);
        size_t at = (size_t)((uint8_t *)b->target - t->arena) + b->bytes;
        if (at + CANARY > end) end = at + CANARY;
    }
    if (end > t->arena_bytes) end = t->arena_bytes;
    if (t->backend->download(t->device, t->image, t->arena, end) != SPEY_OK)
        check_die("download: %s", spey_last_error());
    size_t at = 0;
    bool whole = true;
    for (int i = 0; i <= c->n_buffers; i++) {
        check_buffer *b = nth_buffer(c, i);
        size_t begin = (size_t)((uint8_t *)b->target - t->arena);
        for (; at < begin; at++)
            if (t->image[at] != CANARY_BYTE && whole) {
                snprintf(why, 160, "wrote %zu bytes before %s", begin - at, b->name);
                whole = false;
            }
        if (b->result) memcpy(b->result, t->image + begin, b->bytes);
        at = begin + b->bytes;
    }
    for (size_t last = at; at < end; at++)
        if (t->image[at] != CANARY_BYTE && whole) {
            snprintf(why, 160, "wrote %zu bytes after the last buffer", at - last);
            whole = false;
        }
    return whole;
}

/* ---- both ---- */

void check_target_place(check_target *t, check *c, check_place place, size_t workspace_bytes)
{
    c->workspace = (check_buffer){ .name = "workspace", .bytes = workspace_bytes };
    for (int i = 0; i < c->n_buffers; i++) {
        check_buffer *b = &c->buffers[i];
        if (!b->result) b->result = malloc(b->bytes + 1);
        if (!b->result) check_die("out of memory");
    }
    if (t->device) {
        place_on_device(t, c, place);
    } else {
        for (int i = 0; i < c->n_buffers; i++)
            map_buffer(&c->buffers[i], place, spey_dtype_bytes(c->buffers[i].dtype));
        map_buffer(&c->workspace, place, WORKSPACE_ALIGN);
    }
    check_problem_bind(c, CHECK_TARGET);
    if (c->workspace_field)
        memcpy(c->workspace_field, &c->workspace.target, sizeof c->workspace.target);
}

bool check_target_collect(check_target *t, check *c, char why[160])
{
    if (t->device) return collect_from_device(t, c, why);
    bool whole = true;
    for (int i = 0; i <= c->n_buffers; i++) {
        check_buffer *b = nth_buffer(c, i);
        if (!unmap_buffer(b) && whole) {
            snprintf(why, 160, "wrote outside of %s", b->name);
            whole = false;
        }
    }
    return whole;
}

/* ---- crashes ---- */

static sigjmp_buf crash_return;
static volatile sig_atomic_t crash_signal;
static _Thread_local volatile sig_atomic_t crash_is_mine;
static const char *volatile crash_row, *volatile crash_case;

static void on_crash(int signal)
{
    crash_signal = signal;
    if (crash_is_mine) siglongjmp(crash_return, 1);
    /* A worker of the pool: there is no way back, so name the culprit and end. */
    char text[400];
    int n = snprintf(text, sizeof text, "\nFAIL %s: %s: a worker thread crashed with signal %d\n",
                     crash_row, crash_case, signal);
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0) _exit(2);
    _exit(1);
}

static void catch_crashes(bool on)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
    struct sigaction action = { .sa_handler = on ? on_crash : SIG_DFL };
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, NULL);
}

bool check_target_run(check_target *t, check *c, const spey_kernel *row, int threads, char why[160])
{
    const spey_step step = { row, c->args };
    crash_row = row->name;
    crash_case = c->name;
    crash_is_mine = 1;
    if (sigsetjmp(crash_return, 1)) {
        catch_crashes(false);
        snprintf(why, 160, "crashed: %s", strsignal(crash_signal));
        return false;
    }
    catch_crashes(true);
    spey_status status = SPEY_OK;
    if (t->device) {
        status = t->backend->run(t->device, &step, 1);
        if (status == SPEY_OK) status = t->backend->sync(t->device);
    } else if (threads == 1) {
        int64_t counter = 0;
        spey_lane lane = spey_lane_solo(&counter);
        row->run(c->args, &lane);
    } else {
        spey_pool_run_steps(check_target_pool(t, threads), &step, 1);
    }
    catch_crashes(false);
    if (status != SPEY_OK) snprintf(why, 160, "failed: %.120s", spey_last_error());
    return status == SPEY_OK;
}
