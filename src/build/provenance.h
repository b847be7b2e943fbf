/* Where an engine came from: the "provenance" section. It names no machine, path or time, so that the same checkpoint
 * and options give the same bytes anywhere. */
#ifndef SPEY_BUILD_PROVENANCE_H
#define SPEY_BUILD_PROVENANCE_H

#include "base/status.h"
#include "base/strbuf.h"
#include "build/build.h"
#include "build/checkpoint.h"
#include "build/source_digest.h"
#include "graph/graph.h"

typedef struct spey_provenance {
    const spey_checkpoint *checkpoint;
    const spey_model_info *info;
    const spey_graph *graph;
    const spey_build_options *options; /* or NULL */
    spey_source_digest *digest;
} spey_provenance;

/* Append the JSON. Waits for the digests. */
spey_status spey_provenance_write(const spey_provenance *from, spey_strbuf *out);

#endif
