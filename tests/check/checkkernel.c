/* checkkernel: every row of every op against its reference, and against the clock.
 *
 *   checkkernel [PATTERN] [--backend cpu|cuda] [--list] [-v] [--seed N] [--repeat N]
 *               [--bytes-max N] [--aligned] [--pieces] [--bench] [--problem PATTERN] [--threads N]
 *               [--json FILE]
 *
 * PATTERN is a part of a row's name ("norm", "attention/avx512"). --problem: problems whose name has it.
 * --pieces: on a device that tunes products, those too in pieces. For runs under a sanitizer --bytes-max leaves out problems whose
 * operands have more, and --aligned the ways in which operands are aligned to an element only. The exit status is 1 when a row is
 * wrong, an op has no check, or no problem of its check suits a row that this machine can run. How it checks:
 * tests/check/check.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "check_impl.h"
#include "device/cpu.h"
#include "kernels/gemm/gemm_tactic.h"
#include "kernels/registry.h"

/* A weak symbol, so that an op without a check is a failure of the run and not of the link. */
#define SPEY_OP(name, args) extern const check_op check_##name __attribute__((weak));
#include "kernels/ops.def"
#undef SPEY_OP

static const struct op {
    const char *name;
    const check_op *check;
} ops[] = {
#define SPEY_OP(name, args) { #name, &check_##name },
#include "kernels/ops.def"
#undef SPEY_OP
};
enum { N_OPS = sizeof ops / sizeof ops[0], ROWS_MAX = 512 };

typedef struct options {
    const char *pattern;
    const char *backend;
    const char *json;
    uint64_t seed;
    int repeat;
    int threads;
    size_t bytes_max; /* of a problem's operands; 0: no bound */
    const char *problem;
    bool aligned, pieces;
    bool bench, list, verbose;
} options;

/* What is known of a row after its problems. */
typedef struct tally {
    const spey_kernel *row;
    int n_cases;
    int n_failed;
    check_error worst;
} tally;

typedef struct session {
    options opt;
    check_target target;
    const spey_kernel *const *rows;
    int n_rows;
    check_ceiling ceiling;
    spey_strbuf json;
    bool failed;
} session;

/* ---- one row on one problem ---- */

static void keep_first(check *c)
{
    for (int i = 0; i < c->n_buffers; i++) {
        check_buffer *b = &c->buffers[i];
        if (!b->first) b->first = malloc(b->bytes + 1);
        if (!b->first) check_die("out of memory");
        memcpy(b->first, b->result, b->bytes);
    }
}

/* Place, run, collect. -1: the row does not take the problem when it lies so; 0: failed; 1: the results are there. */
static int run_once(session *s, check *c, const spey_kernel *row, check_place place, int threads,
                    char why[160])
{
    /* The workspace depends on sizes alone, which are the same for every copy. */
    check_target_place(&s->target, c, place, row->workspace ? row->workspace(c->args) : 0);
    int result = -1;
    if (!row->supports || row->supports(c->args))
        result = check_target_run(&s->target, c, row, threads, why);
    char canary[160];
    bool whole = check_target_collect(&s->target, c, canary);
    if (result == 1 && !whole) {
        memcpy(why, canary, sizeof canary);
        return 0;
    }
    return result;
}

/* All ways to run the whole problem. -1: not supported. */
static int check_whole(session *s, check *c, const spey_kernel *row, check_error *error,
                       char why[160])
{
    static const struct {
        check_place place;
        int threads;
    } ways[] = { { CHECK_PLACE_START, 1 },
                 { CHECK_PLACE_END, 1 },
                 { CHECK_PLACE_START, 2 },
                 { CHECK_PLACE_END, 3 } };
    bool have_first = false;
    check_place first = CHECK_PLACE_START;
    char text[160];
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (s->target.device && ways[i].threads > 2) continue;
        if (s->opt.aligned && ways[i].place == CHECK_PLACE_END) continue;
        int result = run_once(s, c, row, ways[i].place, ways[i].threads, text);
        if (result < 0) continue;
        check_error here = { 0 };
        if (result == 1 && !check_compare_reference(c, &here, text)) result = 0;
        if (here.worst > error->worst) error->worst = here.worst;
        if (here.nmse > error->nmse) error->nmse = here.nmse;
        if (here.cosine > error->cosine) error->cosine = here.cosine;
        bool same = !row->varies || ways[i].place == first;
        if (result == 1 && have_first && same && !check_compare_first(c, c, text)) result = 0;
        if (result == 0) {
            snprintf(why, 160, "%s placed at the %s, %d lanes: %.110s", have_first ? "again," : "",
                     ways[i].place == CHECK_PLACE_END ? "end" : "start", ways[i].threads, text);
            return 0;
        }
        if (!have_first) {
            keep_first(c);
            first = ways[i].place;
        }
        have_first = true;
    }
    return have_first ? 1 : -1;
}

/* ---- products in pieces ---- */

enum { PIECES = 3, TACTICS_MAX = 4096 };

/* From now on the products that the device has tuned are computed in pieces. False: it has tuned none. */
static bool cut_products(check_target *t, uint32_t flags)
{
    static uint8_t record[TACTICS_MAX * SPEY_GEMM_TACTIC_BYTES];
    const spey_gemm_cut cut = { PIECES, flags };
    size_t bytes = t->backend->tactics_read(t->device, record, sizeof record);
    if (bytes > sizeof record) check_die("the device knows too many products");
    for (size_t end = SPEY_GEMM_TACTIC_BYTES; end <= bytes; end += SPEY_GEMM_TACTIC_BYTES)
        memcpy(record + end - sizeof cut, &cut, sizeof cut);
    if (bytes && !t->backend->tactics_write(t->device, record, bytes))
        check_die("the device does not take its own record");
    return bytes > 0;
}

/* Tuning may cut large products; here it is done to small ones, whichever way is faster. */
static bool check_pieces(session *s, check *c, const spey_kernel *row, char why[160])
{
    check_target *t = &s->target;
    const spey_step step = { row, c->args };
    char text[160];
    if (!t->device || !t->backend->tune || !spey_kernel_is(row, "gemm")) return true;
    check_target_place(t, c, CHECK_PLACE_START, row->workspace ? row->workspace(c->args) : 0);
    const bool tuned = row->supports(c->args) && t->backend->tune(t->device, &step, 1) == SPEY_OK;
    check_target_collect(t, c, text); /* tuning leaves nothing as it was */
    for (uint32_t flags = 0; flags <= SPEY_GEMM_CUT_BY_COLUMNS && tuned;
         flags += SPEY_GEMM_CUT_BY_COLUMNS) {
        check_error error;
        if (!cut_products(t, flags)) return true;
        int result = run_once(s, c, row, CHECK_PLACE_START, 1, text);
        if (result < 0 || (result == 1 && check_compare_reference(c, &error, text))) continue;
        snprintf(why, 160, "in pieces of %s: %.130s", flags ? "outputs" : "rows", text);
        return false;
    }
    return true;
}

/* The problem in parts: the bits of the whole. */
static bool check_parts(session *s, const check_op *op, check *whole, const spey_kernel *row,
                        uint64_t seed, char why[160])
{
    for (int part = 1;; part++) {
        check *c = check_problem_new(whole->op, op->args_bytes, seed, whole->index, part);
        char text[160];
        bool there = op->make(c, whole->index, c->args), good = true;
        if (there && run_once(s, c, row, CHECK_PLACE_START, 1 + part % 3, text) >= 0) {
            check_error unused;
            for (int i = 0; i < c->n_buffers; i++)
                c->buffers[i].reference = whole->buffers[i].first;
            good = c->n_buffers == whole->n_buffers && check_compare_first(c, whole, text) &&
                   check_compare_reference(c, &unused, text);
            for (int i = 0; i < c->n_buffers; i++)
                c->buffers[i].reference = NULL;
        }
        check_problem_free(c);
        if (!good) snprintf(why, 160, "part %d differs from the whole: %.110s", part, text);
        if (!there || !good) return good;
    }
}

static void check_row(session *s, const check_op *op, check *c, tally *t, uint64_t seed)
{
    if (t->row->isa & ~spey_cpu_features()) return;
    char why[160] = "";
    check_error error = { 0 };
    int result = check_whole(s, c, t->row, &error, why);
    if (result < 0) return;
    if (result == 1 && !t->row->varies && !check_parts(s, op, c, t->row, seed, why)) result = 0;
    if (result == 1 && s->opt.pieces && !check_pieces(s, c, t->row, why)) result = 0;
    t->n_cases++;
    if (error.worst > t->worst.worst) t->worst.worst = error.worst;
    if (error.nmse > t->worst.nmse) t->worst.nmse = error.nmse;
    if (error.cosine > t->worst.cosine) t->worst.cosine = error.cosine;
    if (s->opt.verbose)
        printf("     %-28s %-60s worst %.3f of bound, nmse %.2e, 1-cos %.2e\n", t->row->name,
               c->name, error.worst, error.nmse, error.cosine);
    if (result == 1) return;
    t->n_failed++;
    if (t->n_failed <= 5 || s->opt.verbose)
        printf("FAIL %s: %s (case %d, seed %llu): %s\n", t->row->name, c->name, c->index,
               (unsigned long long)s->opt.seed, why);
}

/* ---- one op ---- */

static bool run_reference(const char *op, check *c)
{
    char name[80];
    snprintf(name, sizeof name, "%s/ref", op);
    const spey_kernel *ref = spey_kernel_find(spey_cpu_backend(), name);
    if (!ref) return false;
    for (int i = 0; i < c->n_buffers; i++) {
        check_buffer *b = &c->buffers[i];
        b->reference = malloc(b->bytes + 1);
        if (!b->reference) check_die("out of memory");
        memcpy(b->reference, b->initial, b->bytes);
    }
    check_problem_bind(c, CHECK_REFERENCE);
    void *workspace = NULL;
    if (c->workspace_field) {
        workspace =
            aligned_alloc(64, ((ref->workspace ? ref->workspace(c->args) : 0) + 64) & ~(size_t)63);
        memcpy(c->workspace_field, &workspace, sizeof workspace);
    }
    if (ref->supports && !ref->supports(c->args))
        check_die("%s does not support its own check: %s", name, c->name);
    int64_t counter = 0;
    spey_lane lane = spey_lane_solo(&counter);
    ref->run(c->args, &lane);
    free(workspace);
    check_problem_bind(c, CHECK_INITIAL);
    return true;
}

static void json_row(session *s, const tally *t)
{
    if (!s->opt.json) return;
    if (s->json.len) spey_strbuf_puts(&s->json, ",\n");
    spey_strbuf_printf(
        &s->json,
        "  {\"row\": \"%s\", \"cases\": %d, \"failed\": %d, \"worst_of_bound\": %.4g, "
        "\"nmse\": %.4g, \"one_minus_cosine\": %.4g}",
        t->row->name, t->n_cases, t->n_failed, t->worst.worst, t->worst.nmse, t->worst.cosine);
}

static void report_row(session *s, const tally *t)
{
    json_row(s, t);
    if (t->row->isa & ~spey_cpu_features()) {
        printf("skip %-30s this machine cannot run it\n", t->row->name);
        return;
    }
    if (!t->n_cases && (s->opt.bytes_max || s->opt.problem)) {
        printf("skip %-30s no problem that was asked for suits it\n", t->row->name);
        return;
    }
    bool good = t->n_cases && !t->n_failed;
    printf("%s %-30s %4d cases", good ? "ok  " : "FAIL", t->row->name, t->n_cases);
    if (!t->n_cases)
        printf(": no problem of its check suits it");
    else if (t->n_failed)
        printf(", %d failed", t->n_failed);
    else
        printf(", worst %.2f of bound, nmse %.1e, 1-cos %.1e", t->worst.worst, t->worst.nmse,
               t->worst.cosine);
    putchar('\n');
    fflush(stdout);
    if (!good) s->failed = true;
}

static bool is_left_out(const session *s, const check *c)
{
    size_t bytes = 0;
    for (int i = 0; i < c->n_buffers; i++)
        bytes += c->buffers[i].bytes;
    return (s->opt.bytes_max && bytes > s->opt.bytes_max) ||
           (s->opt.problem && !strstr(c->name, s->opt.problem));
}

static void check_one_op(session *s, const struct op *op, tally *tallies, int n)
{
    for (int round = 0; round < s->opt.repeat; round++) {
        uint64_t seed = s->opt.seed + (uint64_t)round * 1000003;
        for (int index = 0;; index++) {
            check *c = check_problem_new(op->name, op->check->args_bytes, seed, index, 0);
            bool there = op->check->make(c, index, c->args);
            if (there && is_left_out(s, c)) {
                check_problem_free(c);
                continue;
            }
            if (there) {
                if (!run_reference(op->name, c)) {
                    printf("FAIL %s has no reference row\n", op->name);
                    s->failed = true;
                    there = false;
                } else if (op->check->bound) {
                    op->check->bound(c, c->args);
                }
            }
            for (int i = 0; there && i < n; i++)
                check_row(s, op->check, c, &tallies[i], seed);
            check_problem_free(c);
            if (!there) break;
        }
    }
    for (int i = 0; i < n; i++)
        report_row(s, &tallies[i]);
}

/* ---- bench ---- */

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of one thread the CPU time counts, so that a busy machine does not disturb; of several the wall clock. */
static uint64_t now_ns(const session *s)
{
    struct timespec t;
    clock_gettime(s->opt.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t time_once(session *s, const spey_step *step, void *events[2])
{
    check_target *t = &s->target;
    uint64_t ns = 0;
    if (!t->device) {
        spey_pool *pool = check_target_pool(t, s->opt.threads);
        uint64_t start = now_ns(s);
        spey_pool_run_steps(pool, step, 1);
        return now_ns(s) - start;
    }
    if (t->backend->event_record(t->device, events[0]) != SPEY_OK ||
        t->backend->run(t->device, step, 1) != SPEY_OK ||
        t->backend->event_record(t->device, events[1]) != SPEY_OK ||
        t->backend->event_elapsed_ns(t->device, events[0], events[1], &ns) != SPEY_OK)
        check_die("%s: %s", step->kernel->name, spey_last_error());
    return ns;
}

/* Minimum and median nanoseconds of many runs in about 0.3 s. */
static void time_row(session *s, check *c, const spey_kernel *row, int runs_max, uint64_t out[2])
{
    enum { RUNS_MAX = 1000 };
    static uint64_t times[RUNS_MAX];
    void *events[2] = { 0 };
    check_target *t = &s->target;
    if (t->device && (t->backend->event_new(t->device, &events[0]) != SPEY_OK ||
                      t->backend->event_new(t->device, &events[1]) != SPEY_OK))
        check_die("%s", spey_last_error());
    const spey_step step = { row, c->args };
    uint64_t start = spey_clock_ns();
    int n = 0;
    if (runs_max > 1) time_once(s, &step, events); /* warm caches, pages and clocks */
    do {
        times[n++] = time_once(s, &step, events);
    } while (n < RUNS_MAX && n < runs_max && (n < 5 || spey_clock_ns() - start < 300000000u));
    for (int i = 0; t->device && i < 2; i++)
        t->backend->event_free(t->device, events[i]);
    qsort(times, (size_t)n, sizeof times[0], by_time);
    out[0] = times[0];
    out[1] = times[n / 2];
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void bench_row(session *s, check *c, const spey_kernel *row, double ref_seconds)
{
    check_target_place(&s->target, c, CHECK_PLACE_START,
                       row->workspace ? row->workspace(c->args) : 0);
    char why[160];
    if (row->supports && !row->supports(c->args)) {
        check_target_collect(&s->target, c, why);
        return;
    }
    uint64_t ns[2];
    time_row(s, c, row, 1000, ns);
    check_target_collect(&s->target, c, why);
    double seconds = 1e-9 * (double)ns[0];
    printf("%-22s %-46s %10.1f %10.1f us %8.1f GB/s %8.1f GFLOP/s", row->name, c->name,
           1e-3 * (double)ns[0], 1e-3 * (double)ns[1], 1e-9 * c->bytes / seconds,
           1e-9 * c->flops / seconds);
    double of_ceiling = 0;
    if (s->ceiling.read_bytes > 0) {
        of_ceiling =
            larger(c->bytes / s->ceiling.read_bytes, c->flops / s->ceiling.fma_flops) / seconds;
        printf(" %5.0f %%", 100 * of_ceiling);
    }
    if (ref_seconds > 0) printf(" %8.1f x ref", ref_seconds / seconds);
    putchar('\n');
    fflush(stdout);
    if (!s->opt.json) return;
    if (s->json.len) spey_strbuf_puts(&s->json, ",\n");
    spey_strbuf_printf(
        &s->json,
        "  {\"row\": \"%s\", \"problem\": \"%s\", \"min_us\": %.2f, \"median_us\": %.2f, "
        "\"gb_s\": %.2f, \"gflop_s\": %.2f, \"of_ceiling\": %.3f}",
        row->name, c->name, 1e-3 * (double)ns[0], 1e-3 * (double)ns[1], 1e-9 * c->bytes / seconds,
        1e-9 * c->flops / seconds, of_ceiling);
}

static bool is_reference(const spey_kernel *row)
{
    return !strcmp(strchr(row->name, '/'), "/ref");
}

static void bench_one_op(session *s, const struct op *op, const tally *tallies, int n)
{
    for (int index = 0; op->check->bench; index++) {
        check *c = check_problem_new(op->name, op->check->args_bytes, s->opt.seed, index, 0);
        bool there = op->check->bench(c, index, c->args);
        if (there && s->opt.problem && !strstr(c->name, s->opt.problem)) {
            check_problem_free(c);
            continue;
        }
        char name[80], why[160];
        snprintf(name, sizeof name, "%s/ref", op->name);
        const spey_kernel *ref = spey_kernel_find(spey_cpu_backend(), name);
        double ref_seconds = 0;
        /* Once, and only where it ends soon: references do some 10^8 operations a second. */
        if (there && ref && !s->target.device && larger(c->flops, c->bytes) < 2e8) {
            uint64_t ns[2];
            check_target_place(&s->target, c, CHECK_PLACE_START, 0);
            time_row(s, c, ref, 1, ns);
            check_target_collect(&s->target, c, why);
            ref_seconds = 1e-9 * (double)ns[0];
        }
        for (int i = 0; there && i < n; i++)
            if (!is_reference(tallies[i].row) && !(tallies[i].row->isa & ~spey_cpu_features()))
                bench_row(s, c, tallies[i].row, ref_seconds);
        check_problem_free(c);
        if (!there) break;
    }
}

/* ---- the whole run ---- */

static int rows_of(const session *s, const char *op, tally *out)
{
    int n = 0;
    for (int i = 0; i < s->n_rows && n < ROWS_MAX; i++)
        if (spey_kernel_is(s->rows[i], op) &&
            (!s->opt.pattern || strstr(s->rows[i]->name, s->opt.pattern)))
            out[n++] = (tally){ .row = s->rows[i] };
    return n;
}

static void each_op(session *s)
{
    static tally tallies[ROWS_MAX];
    for (int i = 0; i < N_OPS; i++) {
        int n = rows_of(s, ops[i].name, tallies);
        if (!n) continue;
        if (!ops[i].check) {
            printf("FAIL %s has no check (tests/check/check_%s.c)\n", ops[i].name, ops[i].name);
            s->failed = true;
        } else if (s->opt.list) {
            for (int k = 0; k < n; k++)
                printf("%s\n", tallies[k].row->name);
        } else if (s->opt.bench) {
            bench_one_op(s, &ops[i], tallies, n);
        } else {
            check_one_op(s, &ops[i], tallies, n);
        }
    }
}

static void start_bench(session *s)
{
    if (s->target.device) return;
    spey_pool *pool = check_target_pool(&s->target, s->opt.threads);
    check_ceiling_measure(pool, &s->ceiling);
    char cpu[200];
    spey_cpu_describe(cpu, sizeof cpu);
    printf("%s, %d threads: reads %.1f GB/s, FP32 FMA %.0f GFLOP/s\n", cpu, spey_pool_threads(pool),
           1e-9 * s->ceiling.read_bytes, 1e-9 * s->ceiling.fma_flops);
    printf("%-22s %-46s %10s %13s\n", "row", "problem", "min", "median");
}

static void write_json(session *s)
{
    FILE *file = fopen(s->opt.json, "w");
    if (!file) check_die("%s: %s", s->opt.json, strerror(errno));
    fprintf(file,
            "{\"backend\": \"%s\", \"seed\": %llu, \"read_gb_s\": %.2f, \"fma_gflop_s\": %.1f,\n"
            " \"rows\": [\n%s\n]}\n",
            s->opt.backend, (unsigned long long)s->opt.seed, 1e-9 * s->ceiling.read_bytes,
            1e-9 * s->ceiling.fma_flops, s->json.data ? s->json.data : "");
    if (fclose(file)) check_die("%s: %s", s->opt.json, strerror(errno));
}

static const char usage[] =
    "usage: checkkernel [PATTERN] [--backend cpu|cuda] [--list] [-v] [--seed N] [--repeat N]\n"
    "                   [--bytes-max N] [--aligned] [--pieces] [--bench] [--problem PATTERN]\n"
    "                   [--threads N] [--json FILE]\n";

static const char *value_of(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc) check_die("%s needs a value\n%s", argv[*i], usage);
    return argv[++*i];
}

static options parse_options(int argc, char **argv)
{
    options opt = { .backend = "cpu", .seed = 1, .repeat = 1 };
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!strcmp(arg, "--bench"))
            opt.bench = true;
        else if (!strcmp(arg, "--list"))
            opt.list = true;
        else if (!strcmp(arg, "--aligned"))
            opt.aligned = true;
        else if (!strcmp(arg, "--pieces"))
            opt.pieces = true;
        else if (!strcmp(arg, "-v"))
            opt.verbose = true;
        else if (!strcmp(arg, "--problem"))
            opt.problem = value_of(argc, argv, &i);
        else if (!strcmp(arg, "--backend"))
            opt.backend = value_of(argc, argv, &i);
        else if (!strcmp(arg, "--json"))
            opt.json = value_of(argc, argv, &i);
        else if (!strcmp(arg, "--seed"))
            opt.seed = strtoull(value_of(argc, argv, &i), NULL, 10);
        else if (!strcmp(arg, "--repeat"))
            opt.repeat = atoi(value_of(argc, argv, &i));
        else if (!strcmp(arg, "--bytes-max"))
            opt.bytes_max = strtoull(value_of(argc, argv, &i), NULL, 10);
        else if (!strcmp(arg, "--threads"))
            opt.threads = atoi(value_of(argc, argv, &i));
        else if (arg[0] == '-' || opt.pattern)
            check_die("unknown argument %s\n%s", arg, usage);
        else
            opt.pattern = arg;
    }
    return opt;
}

int main(int argc, char **argv)
{
    session s = { .opt = parse_options(argc, argv) };
    if (check_target_open(&s.target, s.opt.backend) != SPEY_OK) check_die("%s", spey_last_error());
    s.rows = s.target.backend->kernels(&s.n_rows);
    if (s.opt.bench) start_bench(&s);
    each_op(&s);
    if (s.opt.json) write_json(&s);
    spey_strbuf_deinit(&s.json);
    check_target_close(&s.target);
    return s.failed ? 1 : 0;
}
