/* checkfaults: a CUDA device that has no memory left, or is lost, ends what runs on it with a clear error, and nothing else.
 *
 *   checkfaults FAULTS [--require]      FAULTS is the path of libspey-fault.so
 *
 * Each fault has a process of its own: a context that trapped stays broken until the process ends. Without a device the only
 * claim is that spey says so; the exit status is then 0, with --require 1. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../runtime/tiny_engine.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "spey/executor.h"

enum { REQUESTS = 8, TOKENS = 30, CONTEXT = 1 << 20 };

static int n_failed;
static spey_engine *engine;
static int (*trap)(int fires);
static void (*fill)(size_t leave);
static void (*release)(void);

static void claim(bool good, const char *name, const char *format, ...) SPEY_PRINTF(3, 4);

static void claim(bool good, const char *name, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("%s %s: ", good ? "ok  " : "FAIL", name);
    vprintf(format, list);
    putchar('\n');
    fflush(stdout);
    va_end(list);
    n_failed += !good;
}

/* What a request got. */
typedef struct record {
    int32_t ids[TOKENS];
    int n, n_ends;
    spey_finish finish;
    int nap_us;
} record;

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    if (event->token >= 0 && r->n < TOKENS) r->ids[r->n++] = event->token;
    if (event->last) r->finish = event->finish;
    r->n_ends += event->last;
    if (r->nap_us) nanosleep(&(struct timespec){ .tv_nsec = r->nap_us * 1000L }, NULL);
    return 0;
}

static void ordinary(spey_context_options *options)
{
    spey_context_options_init(options);
    options->device = "cuda";
    options->sequences_max = REQUESTS;
    options->sequence_tokens_max = 64;
    options->kv_block_tokens = 4;
}

static const int32_t prompt[] = { 3, 1, 4, 1, 5 };

static void fill_request(spey_request_options *options, spey_sampling *sampling, record *r)
{
    spey_sampling_init(sampling);
    sampling->max_tokens = TOKENS;
    sampling->ignore_eos = true;
    spey_request_options_init(options);
    options->prompt = prompt;
    options->n_prompt = sizeof prompt / sizeof *prompt;
    options->sampling = sampling;
    options->on_output = on_output;
    options->user = r;
}

static void submit(spey_context *context, record *r)
{
    spey_request_options options;
    spey_sampling sampling;
    fill_request(&options, &sampling, r);
    spey_status status = spey_context_submit_request(context, &options, NULL);
    if (status) claim(false, "submit", "%s", spey_last_error());
}

static spey_context *open_context(const spey_context_options *options)
{
    spey_context *context = NULL;
    if (spey_context_new(engine, options, &context))
        claim(false, "a context opens", "%s", spey_last_error());
    return context;
}

/* One request alone, in a context of its own. */
static bool works(record *out)
{
    spey_context_options options;
    ordinary(&options);
    spey_context *context = open_context(&options);
    if (!context) return false;
    *out = (record){ 0 };
    submit(context, out);
    bool good = spey_context_run(context) == SPEY_OK && out->finish == SPEY_FINISH_LENGTH;
    spey_context_free(context);
    return good;
}

static bool has_numbers(const char *text)
{
    return strstr(text, "iB") && strpbrk(text, "0123456789");
}

/* ---- memory ---- */

static void limits_that_do_not_fit_are_refused(void)
{
    record r = { 0 };
    spey_context_options options;
    spey_context *context = NULL;
    ordinary(&options);
    options.sequence_tokens_max = CONTEXT; /* of 512 KiB each: half a TiB */
    options.kv_block_tokens = 64;
    spey_status status = spey_context_new(engine, &options, &context);
    claim(status == SPEY_LIMIT && !context && has_numbers(spey_last_error()),
          "limits that do not fit are refused", "status %d, %s", (int)status, spey_last_error());
    const bool good = works(&r);
    claim(good, "limits that fit work afterwards", "%d tokens", r.n);
}

static void a_full_device_is_told(void)
{
    record before = { 0 }, after = { 0 };
    bool good = works(&before);
    spey_context_options options;
    spey_context *context = NULL;
    ordinary(&options);
    options.sequence_tokens_max = 8192; /* 4 GiB */
    options.kv_block_tokens = 64;
    fill((size_t)2 << 30);
    spey_status status = spey_context_new(engine, &options, &context);
    claim((status == SPEY_LIMIT || status == SPEY_NOMEM) && !context &&
              has_numbers(spey_last_error()),
          "a full device is told with numbers", "status %d, %s", (int)status, spey_last_error());
    release();
    good = good && works(&after) && !memcmp(before.ids, after.ids, sizeof before.ids);
    claim(good, "it works when there is memory again", "%d tokens", after.n);
}

/* Nothing allocates on the step path, but the driver may: it goes on, or ends with an error. */
static void memory_that_goes_while_it_runs(void)
{
    record before = { 0 }, r[REQUESTS] = { 0 }, after = { 0 };
    bool good = works(&before);
    spey_context_options options;
    ordinary(&options);
    spey_context *context = open_context(&options);
    for (int i = 0; i < REQUESTS; i++)
        submit(context, &r[i]);
    spey_status status = spey_context_step(context, NULL);
    fill(0);
    if (!status) status = spey_context_run(context);
    char text[256];
    snprintf(text, sizeof text, "%s", status ? spey_last_error() : "it went on");
    if (status) spey_context_end_all(context, SPEY_FINISH_ERROR, text);
    for (int i = 0; i < REQUESTS; i++)
        good = good && r[i].n_ends == 1 && !memcmp(r[i].ids, before.ids, (size_t)r[i].n * 4);
    spey_context_free(context);
    release();
    good = good && works(&after) && !memcmp(before.ids, after.ids, sizeof before.ids);
    claim(good, "memory that goes while it runs harms nothing", "status %d, %s", (int)status, text);
}

/* ---- a lost device ---- */

static bool is_lost(spey_status status, const char *text)
{
    return status == SPEY_DEVICE && strstr(text, "cuda: the device is lost");
}

static void lose_with(bool ahead)
{
    const char *name = ahead ? "a lost device, one step ahead" : "a lost device";
    record r[REQUESTS] = { 0 };
    spey_context_options options;
    ordinary(&options);
    options.ahead = ahead ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF;
    spey_context *context = open_context(&options);
    if (!context) return;
    for (int i = 0; i < REQUESTS; i++)
        submit(context, &r[i]);
    spey_status status = SPEY_OK;
    for (int i = 0; i < 6 && !status; i++)
        status = spey_context_step(context, NULL);
    claim(status == SPEY_OK && trap(1), name, "six steps and a trap");
    status = spey_context_run(context);
    claim(is_lost(status, spey_last_error()), name, "status %d, %s", (int)status,
          spey_last_error());
    status = spey_context_step(context, NULL);
    claim(status != SPEY_OK, name, "it stays so: status %d, %s", (int)status, spey_last_error());
    spey_context_end_all(context, SPEY_FINISH_ERROR, "the device is lost");
    bool ended = true;
    for (int i = 0; i < REQUESTS; i++)
        ended = ended && r[i].n_ends == 1 && r[i].finish == SPEY_FINISH_ERROR && r[i].n > 0;
    claim(ended, name, "every request ends once, with an error");
    spey_context_free(context);
    context = NULL;
    status = spey_context_new(engine, &options, &context);
    claim(status == SPEY_DEVICE && !context, name, "no other context opens: status %d, %s",
          (int)status, spey_last_error());
}

static void a_lost_device_ends_a_context(void)
{
    lose_with(false);
}

static void a_lost_device_ends_a_context_that_is_ahead(void)
{
    lose_with(true);
}

static void a_lost_device_ends_an_executor(void)
{
    static record r[REQUESTS];
    spey_executor_options options;
    spey_executor_options_init(&options);
    ordinary(&options.context);
    spey_executor *executor = NULL;
    const char *name = "a lost device under an executor";
    if (spey_executor_new(engine, &options, &executor)) {
        claim(false, name, "%s", spey_last_error());
        return;
    }
    trap(0);
    spey_request_options request;
    spey_sampling sampling;
    for (int i = 0; i < REQUESTS; i++) {
        r[i].nap_us = 2000; /* slow enough to be caught */
        fill_request(&request, &sampling, &r[i]);
        if (spey_executor_submit(executor, &request, NULL))
            claim(false, name, "%s", spey_last_error());
    }
    nanosleep(&(struct timespec){ .tv_nsec = 60000000 }, NULL);
    trap(1);
    spey_status drained = spey_executor_drain(executor, 20000);
    claim(drained == SPEY_OK, name, "all ends: %s", drained ? spey_last_error() : "yes");
    spey_status status = spey_executor_submit(executor, &request, NULL);
    claim(
        is_lost(status, strstr(spey_last_error(), "cuda") ? strstr(spey_last_error(), "cuda") : ""),
        name, "it takes no more: status %d, %s", (int)status, spey_last_error());
    spey_executor_free(executor);
    int n_errors = 0;
    bool ended = true;
    for (int i = 0; i < REQUESTS; i++) {
        ended = ended && r[i].n_ends == 1;
        n_errors += r[i].finish == SPEY_FINISH_ERROR;
    }
    claim(ended && n_errors > 0, name, "%d of %d requests end with an error", n_errors, REQUESTS);
}

/* ---- all ---- */

static void open_engine(void)
{
    spey_engine_file *file;
    tiny_shape shape = tiny_default;
    shape.layers = 32;
    shape.heads = shape.kv_heads = 16;
    shape.head_dim = 128;
    shape.context = CONTEXT;
    if (tiny_engine_new(&shape, &file) || spey_engine_from_file(file, &engine)) {
        claim(false, "the engine opens", "%s", spey_last_error());
        exit(1);
    }
}

enum { ABSENT = 77, SECONDS_MAX = 60 };

/* The child's exit status: 0 when its claims hold; 1, too, when it did not end by itself. */
static int in_a_child(void (*body)(void))
{
    int result = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS_MAX);
        open_engine();
        body();
        spey_engine_close(engine);
        fflush(stdout);
        _exit(n_failed != 0);
    }
    if (child < 0 || waitpid(child, &result, 0) != child) return 1;
    if (WIFSIGNALED(result)) printf("FAIL a process died of signal %d\n", WTERMSIG(result));
    return WIFEXITED(result) ? WEXITSTATUS(result) : 1;
}

static void look_for_a_device(void)
{
    record r = { 0 };
    spey_context_options options;
    spey_context *context = NULL;
    ordinary(&options);
    if (spey_context_new(engine, &options, &context) == SPEY_OK) {
        spey_context_free(context);
        const bool good = works(&r);
        claim(good, "a device is there", "%d tokens", r.n);
        return;
    }
    claim(strstr(spey_last_error(), "cuda") != NULL, "no device, and that is told", "%s",
          spey_last_error());
    fflush(stdout);
    _exit(n_failed ? 1 : ABSENT);
}

static bool load_faults(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbols[] = { library ? dlsym(library, "spey_fault_trap") : NULL,
                        library ? dlsym(library, "spey_fault_fill") : NULL,
                        library ? dlsym(library, "spey_fault_release") : NULL };
    if (!symbols[0] || !symbols[1] || !symbols[2]) return false;
    memcpy(&trap, &symbols[0], sizeof trap);
    memcpy(&fill, &symbols[1], sizeof fill);
    memcpy(&release, &symbols[2], sizeof release);
    return true;
}

int main(int argc, char **argv)
{
    static void (*const cases[])(void) = {
        limits_that_do_not_fit_are_refused,
        a_full_device_is_told,
        memory_that_goes_while_it_runs,
        a_lost_device_ends_a_context,
        a_lost_device_ends_a_context_that_is_ahead,
        a_lost_device_ends_an_executor,
    };
    bool require = argc == 3 && !strcmp(argv[2], "--require");
    if (argc < 2 || !load_faults(argv[1])) {
        fprintf(stderr, "usage: checkfaults FAULTS [--require]: %s\n", argc < 2 ? "" : dlerror());
        return 2;
    }
    int status = in_a_child(look_for_a_device), n_bad = 0;
    if (status) return status == ABSENT && !require ? 0 : 1;
    int n = (int)(sizeof cases / sizeof *cases);
    for (int i = 0; i < n; i++)
        n_bad += in_a_child(cases[i]) != 0;
    printf("checkfaults: %d faults, %d were not survived well\n", n, n_bad);
    return n_bad != 0;
}
