/* test_simulator [--seeds N] [--first S]: worlds S … S + N - 1, each step by step and then one step ahead.
 * test_simulator --bench: host time per step, and steps per second beside a device. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "simulator.h"

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int run(uint64_t first, uint64_t n)
{
    sim_totals totals = { 0 };
    double start = seconds();
    for (uint64_t seed = first; seed < first + n; seed++) {
        char error[512];
        bool ahead = false, ok = sim_run(seed, ahead, &totals, error, sizeof error);
        if (ok) ok = sim_run(seed, ahead = true, &totals, error, sizeof error);
        if (ok) continue;
        fprintf(stderr, "simulator: seed %" PRIu64 "%s: %s\n", seed, ahead ? ", ahead" : "", error);
        fprintf(stderr, "again: test_simulator --first %" PRIu64 " --seeds 1\n", seed);
        return 1;
    }
    printf("%" PRIu64 " worlds: %" PRIu64 " requests, %" PRIu64 " steps, %" PRIu64
           " tokens, %" PRIu64 " pauses, %" PRIu64 " cancels, %" PRIu64 " timeouts, %" PRIu64
           " refusals, %" PRIu64 " forks, %" PRIu64 " beams that changed hands, %" PRIu64
           " tokens reused, %" PRIu64 " blocks back from host memory, %" PRIu64
           " written to files, %" PRIu64 " read, %" PRIu64 " found damaged, %" PRIu64
           " steps ahead, %" PRIu64 " items too many, %.1f s\n",
           totals.runs, totals.requests, totals.steps, totals.tokens, totals.pauses, totals.cancels,
           totals.timeouts, totals.refusals, totals.forks, totals.moves, totals.reused,
           totals.restored, totals.stored, totals.loaded, totals.discarded, totals.ahead,
           totals.superfluous, seconds() - start);
    /* A world in which nothing happens proves nothing. */
    bool lively = totals.pauses && totals.cancels && totals.timeouts && totals.refusals &&
                  totals.forks && totals.moves && totals.reused && totals.restored &&
                  totals.stored && totals.loaded && totals.discarded && totals.ahead &&
                  totals.superfluous;
    if (n >= 1000 && !lively) {
        fprintf(stderr, "simulator: something never happened\n");
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, n = 1000;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (!strcmp(argv[i], "--bench"))
            return sim_bench(256) || sim_bench(2048);
        else if (!strcmp(argv[i], "--seeds") && has_value)
            n = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--first") && has_value)
            first = strtoull(argv[++i], NULL, 10);
        else {
            fprintf(stderr, "usage: test_simulator [--seeds N] [--first S] | --bench\n");
            return 2;
        }
    }
    return run(first, n);
}
