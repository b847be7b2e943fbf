#include "runtime/replay.h"

#include <stdio.h>

#include "base/limits.h"

static bool is_decode(const spey_ragged *batch)
{
    return batch->n_tokens == batch->n_seqs && batch->n_outputs == batch->n_seqs;
}

static void forget(spey_replay_graph *place, const spey_backend *backend, spey_device *device)
{
    if (place->graph) backend->graph_free(device, place->graph);
    *place = (spey_replay_graph){ 0 };
}

/* The place of this size: its own, a free one, or that of the size which was away longest. */
static spey_replay_graph *find_place(spey_replay *replay, int32_t n_seqs)
{
    spey_replay_graph *oldest = &replay->graphs[0];
    for (int i = 0; i < SPEY_REPLAY_GRAPHS; i++) {
        spey_replay_graph *place = &replay->graphs[i];
        if (place->n_seqs == n_seqs) return place;
        if (place->used < oldest->used) oldest = place;
    }
    return oldest;
}

/* The capture ends in any case: without it the device takes no other work. */
static spey_status capture(const spey_backend *backend, spey_device *device, const spey_step *steps,
                           int n_steps, void **out)
{
    SPEY_TRY(backend->capture_begin(device));
    spey_status status = backend->run(device, steps, n_steps);
    if (status == SPEY_OK) return backend->capture_end(device, out);
    char text[SPEY_ERROR_BYTES_MAX];
    snprintf(text, sizeof(text), "%s", spey_last_error());
    void *unfinished = NULL;
    if (backend->capture_end(device, &unfinished) == SPEY_OK)
        backend->graph_free(device, unfinished);
    return SPEY_FAIL(status, "%s", text);
}

spey_status spey_replay_run(spey_replay *replay, const spey_backend *backend, spey_device *device,
                            const spey_ragged *batch, const spey_step *steps, int n_steps)
{
    if (!backend->capture_begin || !is_decode(batch)) return backend->run(device, steps, n_steps);
    spey_replay_graph *place = find_place(replay, batch->n_seqs);
    bool seen = place->n_seqs == batch->n_seqs;
    if (!seen) forget(place, backend, device);
    place->n_seqs = batch->n_seqs;
    place->used = ++replay->n_steps;
    if (!seen) return backend->run(device, steps, n_steps);
    spey_status status = SPEY_OK;
    if (!place->graph) status = capture(backend, device, steps, n_steps, &place->graph);
    if (status == SPEY_OK) status = backend->replay(device, place->graph);
    if (status != SPEY_OK) forget(place, backend, device);
    return status;
}

void spey_replay_deinit(spey_replay *replay, const spey_backend *backend, spey_device *device)
{
    for (int i = 0; i < SPEY_REPLAY_GRAPHS; i++)
        forget(&replay->graphs[i], backend, device);
}
