#include "runtime/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/gemm/gemm.h"

typedef struct step_time {
    uint64_t n_runs, ns;
    int64_t n_rows;
} step_time;

struct spey_profile {
    const spey_backend *backend;
    spey_device *device;
    const spey_step *steps;
    int n_steps;
    step_time *times; /* [n_steps] */
    void **marks;     /* [n_steps + 1] events: before each step, and behind the last */
};

spey_status spey_profile_new(const spey_backend *backend, spey_device *device,
                             const spey_step *steps, int n_steps, spey_profile **out)
{
    spey_profile *p = *out = spey_new(SPEY_PURPOSE_RUNTIME, spey_profile);
    if (!p) return SPEY_NOMEM;
    *p = (spey_profile){ .backend = backend, .device = device, .steps = steps, .n_steps = n_steps };
    p->times = spey_new_array(SPEY_PURPOSE_RUNTIME, step_time, n_steps);
    p->marks = spey_new_array(SPEY_PURPOSE_RUNTIME, void *, n_steps + 1);
    spey_status status = p->times && p->marks ? SPEY_OK : SPEY_NOMEM;
    for (int i = 0; i <= n_steps && !status; i++)
        status = backend->event_new(device, &p->marks[i]);
    if (!status) return SPEY_OK;
    spey_profile_free(p);
    *out = NULL;
    return status;
}

void spey_profile_free(spey_profile *p)
{
    if (!p) return;
    for (int i = 0; i <= p->n_steps && p->marks; i++)
        if (p->marks[i]) p->backend->event_free(p->device, p->marks[i]);
    spey_free(p->marks);
    spey_free(p->times);
    spey_free(p);
}

void spey_profile_clear(spey_profile *p)
{
    memset(p->times, 0, (size_t)p->n_steps * sizeof(*p->times));
}

static spey_status add_times(spey_profile *p, int begin, int end)
{
    for (int i = begin; i < end; i++) {
        uint64_t ns = 0;
        SPEY_TRY(p->backend->event_elapsed_ns(p->device, p->marks[i], p->marks[i + 1], &ns));
        p->times[i].n_runs++;
        p->times[i].ns += ns;
        p->times[i].n_rows += *(const int64_t *)p->steps[i].args;
    }
    return SPEY_OK;
}

spey_status spey_profile_run(spey_profile *p, int begin, int end)
{
    SPEY_TRY(p->backend->event_record(p->device, p->marks[begin]));
    for (int i = begin; i < end; i++) {
        SPEY_TRY(p->backend->run(p->device, &p->steps[i], 1));
        SPEY_TRY(p->backend->event_record(p->device, p->marks[i + 1]));
    }
    SPEY_TRY(p->backend->sync(p->device));
    return add_times(p, begin, end);
}

/* ---- reading ---- */

static const spey_gemm_args *as_gemm(const spey_step *step)
{
    return strncmp(step->kernel->name, "gemm/", 5) ? NULL : step->args;
}

static void name_line(const spey_step *step, char out[SPEY_PROFILE_NAME_BYTES])
{
    const spey_gemm_args *gemm = as_gemm(step);
    if (gemm)
        snprintf(out, SPEY_PROFILE_NAME_BYTES, "%s %lld>%lld%s", step->kernel->name,
                 (long long)gemm->k, (long long)gemm->n, gemm->glu.out ? " glu" : "");
    else
        snprintf(out, SPEY_PROFILE_NAME_BYTES, "%s", step->kernel->name);
}

static spey_profile_line *find_line(spey_profile_line *lines, int *n, const spey_step *step)
{
    char name[SPEY_PROFILE_NAME_BYTES];
    name_line(step, name);
    for (int i = 0; i < *n; i++)
        if (!strcmp(lines[i].name, name)) return &lines[i];
    spey_profile_line *line = &lines[(*n)++];
    *line = (spey_profile_line){ 0 };
    memcpy(line->name, name, sizeof(name));
    return line;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = ((const spey_profile_line *)a)->ns, y = ((const spey_profile_line *)b)->ns;
    return (x < y) - (x > y);
}

int spey_profile_read(const spey_profile *p, spey_profile_line *out)
{
    int n = 0;
    for (int i = 0; i < p->n_steps; i++) {
        const step_time *time = &p->times[i];
        if (!time->n_runs) continue;
        const spey_gemm_args *gemm = as_gemm(&p->steps[i]);
        spey_profile_line *line = find_line(out, &n, &p->steps[i]);
        line->n_runs += time->n_runs;
        line->ns += time->ns;
        if (!gemm) continue;
        double n_weights = (double)gemm->n * (double)gemm->k;
        line->operations += 2 * (double)time->n_rows * n_weights;
        line->weight_bytes +=
            (double)time->n_runs * n_weights * (double)spey_dtype_bytes(gemm->w_dtype);
    }
    qsort(out, (size_t)n, sizeof *out, by_time);
    return n;
}
