#include "spey/executor.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"
#include "runtime/context.h"
#include "runtime/executor_events.h"

enum { ITERATION_STATS_MAX = 1000 };

/* A letter to the engine thread. */
typedef struct mail {
    struct mail *next;
    spey_request *request; /* to be queued; NULL: `id` is to be cancelled */
    uint64_t id;
} mail;

/* Someone who waits for a look between two steps. */
typedef struct inquiry {
    spey_request_stats *out;
    size_t max, n;
    bool answered;
} inquiry;

struct spey_executor {
    spey_context *context; /* the engine thread's, but for what never changes */
    uint64_t last_iter;    /* likewise */
    int32_t queue_max;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* guards all that follows */
    pthread_cond_t work;  /* for the engine thread */
    pthread_cond_t news;  /* events, ends, answers */
    mail *first, *last;
    inquiry *inquiry;
    uint64_t next_id;
    int32_t n_waiting; /* in the mailbox, or in the context's queue when it was last looked at */
    int32_t n_open;    /* submitted and not ended */
    bool draining, stopping;
    spey_status broken; /* a step failed: nothing runs any more */
    char broken_text[256];
    spey_inboxes inboxes;
    spey_iteration_stats *iterations; /* a ring */
    size_t iterations_max, first_iteration, n_iterations;
};

void spey_executor_options_init(spey_executor_options *options)
{
    *options = (spey_executor_options){ .struct_bytes = sizeof *options };
    spey_context_options_init(&options->context);
}

/* ---- the engine thread ---- */

/* Events of requests that are awaited come here; the engine thread has not the lock. */
static int on_event(void *user, const spey_output *output)
{
    spey_inbox *inbox = user; /* there until its last event was taken */
    spey_executor *x = inbox->owner;
    spey_event *event = spey_event_new(output);
    pthread_mutex_lock(&x->lock);
    if (event)
        spey_inboxes_put(&x->inboxes, inbox, event);
    else if (output->last)
        inbox->closed = true; /* out of memory: it ends without its last event */
    pthread_cond_broadcast(&x->news);
    pthread_mutex_unlock(&x->lock);
    return event == NULL;
}

static void deliver_mail(spey_executor *x, mail *letters)
{
    for (mail *next; letters; letters = next) {
        next = letters->next;
        spey_request *r = letters->request;
        /* A request to be cancelled may have ended. */
        if (!r)
            spey_context_cancel(x->context, letters->id);
        else if (spey_context_queue(x->context, r)) {
            spey_request_end(r, SPEY_FINISH_ERROR, spey_last_error());
            spey_request_free(r);
        }
        spey_free(letters);
    }
}

/* Take what is new, waiting for it when nothing runs. NULL with *stop: it is over. */
static mail *take_mail(spey_executor *x, int32_t active, bool *stop)
{
    pthread_mutex_lock(&x->lock);
    if (x->inquiry && !x->inquiry->answered) {
        x->inquiry->n = spey_context_read_requests(x->context, x->inquiry->out, x->inquiry->max);
        x->inquiry->answered = true;
        pthread_cond_broadcast(&x->news);
    }
    while (!x->first && !active && !x->stopping && !(x->inquiry && !x->inquiry->answered))
        pthread_cond_wait(&x->work, &x->lock);
    mail *letters = x->first;
    x->first = x->last = NULL;
    *stop = x->stopping;
    pthread_mutex_unlock(&x->lock);
    return letters;
}

/* With the lock. The oldest makes room. */
static void keep_iteration(spey_executor *x, const spey_iteration_stats *iteration)
{
    x->iterations[(x->first_iteration + x->n_iterations) % x->iterations_max] = *iteration;
    if (x->n_iterations < x->iterations_max)
        x->n_iterations++;
    else
        x->first_iteration = (x->first_iteration + 1) % x->iterations_max;
}

static void note_step(spey_executor *x, spey_status status, int32_t active)
{
    spey_iteration_stats iteration;
    bool stepped = !status && spey_context_read_iteration(x->context, x->last_iter, &iteration);
    if (stepped) x->last_iter = iteration.iter;
    pthread_mutex_lock(&x->lock);
    x->n_open = active;
    x->n_waiting = spey_context_counts(x->context).queued;
    for (const mail *m = x->first; m; m = m->next)
        if (m->request) {
            x->n_open++;
            x->n_waiting++;
        }
    if (status) {
        x->broken = status;
        strncpy(x->broken_text, spey_last_error(), sizeof x->broken_text - 1);
    }
    if (stepped) keep_iteration(x, &iteration);
    pthread_cond_broadcast(&x->news);
    pthread_mutex_unlock(&x->lock);
}

static void *run(void *user)
{
    spey_executor *x = user;
    int32_t active = 0;
    for (bool stop = false;;) {
        deliver_mail(x, take_mail(x, active, &stop));
        if (stop) spey_context_end_all(x->context, SPEY_FINISH_CANCELLED, NULL);
        spey_status status = spey_context_step(x->context, &active);
        if (status) {
            spey_context_end_all(x->context, SPEY_FINISH_ERROR, spey_last_error());
            active = 0;
        }
        note_step(x, status, active);
        if (stop) return NULL;
    }
}

/* ---- life ---- */

static spey_status start(spey_executor *x, const spey_engine *engine,
                         const spey_executor_options *o)
{
    SPEY_TRY(spey_context_new(engine, &o->context, &x->context));
    x->queue_max = spey_context_queue_max(&o->context);
    x->iterations_max =
        o->iteration_stats_max > 0 ? (size_t)o->iteration_stats_max : ITERATION_STATS_MAX;
    x->iterations = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_iteration_stats, x->iterations_max);
    if (!x->iterations) return SPEY_NOMEM;
    int failed = pthread_create(&x->thread, NULL, run, x);
    if (failed)
        return SPEY_FAIL(SPEY_NOMEM, "cannot start the engine thread: %s", strerror(failed));
    x->started = true;
    return SPEY_OK;
}

spey_status spey_executor_new(const spey_engine *engine, const spey_executor_options *options,
                              spey_executor **out)
{
    *out = NULL;
    spey_executor_options defaults;
    spey_executor_options_init(&defaults);
    if (!options) options = &defaults;
    if (options->struct_bytes != sizeof *options)
        return SPEY_FAIL(SPEY_INVALID,
                         "spey_executor_options was not filled by spey_executor_options_init");
    spey_executor *x = spey_new(SPEY_PURPOSE_RUNTIME, spey_executor);
    if (!x) return SPEY_NOMEM;
    x->next_id = 1;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->work, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&x->news, &attributes);
    pthread_condattr_destroy(&attributes);
    spey_status status = start(x, engine, options);
    if (status)
        spey_executor_free(x);
    else
        *out = x;
    return status;
}

void spey_executor_free(spey_executor *x)
{
    if (!x) return;
    if (x->started) {
        pthread_mutex_lock(&x->lock);
        x->stopping = true;
        pthread_cond_signal(&x->work);
        pthread_mutex_unlock(&x->lock);
        pthread_join(x->thread, NULL);
    }
    spey_inboxes_deinit(&x->inboxes);
    spey_free(x->iterations);
    spey_context_free(x->context);
    pthread_cond_destroy(&x->news);
    pthread_cond_destroy(&x->work);
    pthread_mutex_destroy(&x->lock);
    spey_free(x);
}

/* ---- requests ---- */

static spey_status check_open(const spey_executor *x)
{
    if (x->broken) return SPEY_FAIL(x->broken, "the executor has stopped: %s", x->broken_text);
    if (x->draining) return SPEY_FAIL(SPEY_CANCELLED, "the executor takes no more requests");
    if (x->n_waiting >= x->queue_max)
        return SPEY_FAIL(SPEY_LIMIT, "the queue is full: %d requests wait", x->n_waiting);
    return SPEY_OK;
}

static void post(spey_executor *x, mail *letter)
{
    *(x->last ? &x->last->next : &x->first) = letter;
    x->last = letter;
    pthread_cond_signal(&x->work);
}

/* The letter with its request, and the inbox if its events are awaited: all that submit allocates. */
static spey_status write_letter(spey_executor *x, const spey_request_options *options,
                                mail **letter, spey_inbox **inbox)
{
    *inbox = NULL;
    *letter = spey_new(SPEY_PURPOSE_RUNTIME, mail);
    if (!*letter) return SPEY_NOMEM;
    spey_request_options own = *options;
    if (!own.on_output) {
        *inbox = spey_new(SPEY_PURPOSE_RUNTIME, spey_inbox);
        if (*inbox) (*inbox)->owner = x;
        own.on_output = on_event;
        own.user = *inbox;
    }
    spey_status status = own.on_output == on_event && !*inbox
                             ? SPEY_NOMEM
                             : spey_context_prepare(x->context, &own, &(*letter)->request);
    if (!status) return SPEY_OK;
    spey_free(*inbox);
    spey_free(*letter);
    return status;
}

spey_status spey_executor_submit(spey_executor *x, const spey_request_options *options,
                                 uint64_t *out_request)
{
    pthread_mutex_lock(&x->lock);
    spey_status status = check_open(x); /* before anything is allocated */
    pthread_mutex_unlock(&x->lock);
    if (status) return status;
    mail *letter;
    spey_inbox *inbox;
    SPEY_TRY(write_letter(x, options, &letter, &inbox));
    pthread_mutex_lock(&x->lock);
    status = check_open(x);
    if (!status) {
        letter->request->id = letter->id = x->next_id++;
        if (out_request) *out_request = letter->id;
        if (inbox) {
            inbox->request = letter->id;
            spey_inboxes_add(&x->inboxes, inbox);
        }
        x->n_waiting++;
        x->n_open++;
        post(x, letter);
    }
    pthread_mutex_unlock(&x->lock);
    if (!status) return SPEY_OK;
    spey_request_free(letter->request);
    spey_free(letter);
    spey_free(inbox);
    return status;
}

spey_status spey_executor_cancel(spey_executor *x, uint64_t request)
{
    mail *letter = spey_new(SPEY_PURPOSE_RUNTIME, mail);
    if (!letter) return SPEY_NOMEM;
    letter->id = request;
    pthread_mutex_lock(&x->lock);
    bool known = request > 0 && request < x->next_id;
    if (known) post(x, letter);
    pthread_mutex_unlock(&x->lock);
    if (known) return SPEY_OK;
    spey_free(letter);
    return SPEY_FAIL(SPEY_NOT_FOUND, "there is no request %llu", (unsigned long long)request);
}

/* ---- waiting ---- */

static struct timespec deadline_in(int64_t timeout_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t ns = at.tv_nsec + timeout_ms % 1000 * 1000000;
    at.tv_sec += (time_t)(timeout_ms / 1000 + ns / 1000000000);
    at.tv_nsec = (long)(ns % 1000000000);
    return at;
}

/* Wait for news, with the lock. False: time is up. */
static bool wait_for_news(spey_executor *x, int64_t timeout_ms, const struct timespec *deadline)
{
    if (timeout_ms < 0) return pthread_cond_wait(&x->news, &x->lock) == 0;
    return pthread_cond_timedwait(&x->news, &x->lock, deadline) != ETIMEDOUT;
}

/* NULL with *more: nothing yet; NULL without: nothing will come. */
static spey_event *take_event(spey_executor *x, uint64_t request, bool *more)
{
    spey_inbox *inbox = request ? spey_inboxes_find(&x->inboxes, request) : NULL;
    *more = request ? inbox != NULL : x->inboxes.first != NULL;
    if (!*more) return NULL;
    spey_event *event = spey_inboxes_take(&x->inboxes, inbox);
    if (event || !inbox || !inbox->closed) return event;
    spey_inboxes_remove(&x->inboxes, inbox); /* its last event could not be kept */
    *more = false;
    return NULL;
}

spey_status spey_executor_await(spey_executor *x, uint64_t request, int64_t timeout_ms,
                                spey_output **out)
{
    *out = NULL;
    struct timespec deadline = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    bool more;
    pthread_mutex_lock(&x->lock);
    spey_event *event = take_event(x, request, &more);
    while (!event && more && wait_for_news(x, timeout_ms, &deadline))
        event = take_event(x, request, &more);
    pthread_mutex_unlock(&x->lock);
    if (event) *out = &event->output;
    if (event || more) return SPEY_OK;
    return SPEY_FAIL(SPEY_NOT_FOUND, "no events of request %llu are to come",
                     (unsigned long long)request);
}

spey_status spey_executor_drain(spey_executor *x, int64_t timeout_ms)
{
    struct timespec deadline = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    pthread_mutex_lock(&x->lock);
    x->draining = true;
    while (x->n_open > 0 && wait_for_news(x, timeout_ms, &deadline))
        ;
    int32_t left = x->n_open;
    pthread_mutex_unlock(&x->lock);
    if (!left) return SPEY_OK;
    return SPEY_FAIL(SPEY_LIMIT, "%d requests are left after %lld ms", left, (long long)timeout_ms);
}

/* ---- statistics ---- */

size_t spey_executor_read_iterations(spey_executor *x, spey_iteration_stats *out, size_t max)
{
    pthread_mutex_lock(&x->lock);
    size_t n = x->n_iterations < max ? x->n_iterations : max;
    for (size_t i = 0; i < n; i++)
        out[i] = x->iterations[(x->first_iteration + i) % x->iterations_max];
    x->first_iteration = (x->first_iteration + n) % x->iterations_max;
    x->n_iterations -= n;
    pthread_mutex_unlock(&x->lock);
    return n;
}

spey_status spey_executor_read_requests(spey_executor *x, spey_request_stats *out, size_t max,
                                        size_t *n)
{
    inquiry mine = { .out = out, .max = max };
    pthread_mutex_lock(&x->lock);
    while (x->inquiry) /* one at a time */
        pthread_cond_wait(&x->news, &x->lock);
    x->inquiry = &mine;
    pthread_cond_signal(&x->work);
    while (!mine.answered)
        pthread_cond_wait(&x->news, &x->lock);
    x->inquiry = NULL;
    pthread_cond_broadcast(&x->news);
    pthread_mutex_unlock(&x->lock);
    *n = mine.n;
    return SPEY_OK;
}
