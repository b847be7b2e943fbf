#include "graph/passes.h"

#include <stdio.h>
#include <string.h>

#define SPEY_PASS(name, what) spey_pass_run spey_pass_##name;
#include "graph/passes.def"
#undef SPEY_PASS

static const spey_pass passes[] = {
#define SPEY_PASS(name, what) { #name, what, spey_pass_##name },
#include "graph/passes.def"
#undef SPEY_PASS
};

enum { N_PASSES = sizeof passes / sizeof *passes };

const spey_pass *spey_passes(int *n)
{
    *n = N_PASSES;
    return passes;
}

static spey_status fail_unknown(const char *name, size_t n)
{
    char known[512] = "";
    size_t used = 0;
    for (int i = 0; i < N_PASSES && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 passes[i].name);
    return SPEY_FAIL(SPEY_INVALID, "unknown pass \"%.*s\"; known are all, %s", (int)n, name, known);
}

/* off[i]: pass i is in the list. */
static spey_status parse_disabled(const char *list, bool off[N_PASSES])
{
    for (const char *at = list ? list : ""; *at;) {
        size_t n = strcspn(at, ",");
        bool all = n == 3 && memcmp(at, "all", 3) == 0, found = all;
        for (int i = 0; i < N_PASSES; i++) {
            bool same = strlen(passes[i].name) == n && memcmp(at, passes[i].name, n) == 0;
            off[i] = off[i] || same || all;
            found = found || same;
        }
        if (!found) return fail_unknown(at, n > 64 ? 64 : n);
        at += n + (at[n] == ',');
    }
    return SPEY_OK;
}

spey_status spey_passes_run(spey_graph *graph, const char *disabled)
{
    bool off[N_PASSES] = { false };
    SPEY_TRY(parse_disabled(disabled, off));
    for (int i = 0; i < N_PASSES; i++) {
        int n_changes = 0;
        if (!off[i]) SPEY_TRY_CTX(passes[i].run(graph, &n_changes), "pass %s", passes[i].name);
    }
    return spey_graph_check(graph);
}
