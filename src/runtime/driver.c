#include "runtime/driver.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

struct spey_driver {
    spey_driver_fn run;
    void *user;
    pthread_t thread;
    bool started_thread;

    pthread_mutex_t lock; /* guards all that follows */
    pthread_cond_t work;  /* for the thread */
    pthread_cond_t news;  /* for who waits */
    uint64_t n_started, n_done;
    bool stopping;
};

static void *drive(void *arg)
{
    spey_driver *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (d->n_done == d->n_started && !d->stopping)
            pthread_cond_wait(&d->work, &d->lock);
        if (d->n_done == d->n_started) break;
        uint64_t number = d->n_done + 1;
        pthread_mutex_unlock(&d->lock);
        d->run(d->user, number);
        pthread_mutex_lock(&d->lock);
        d->n_done = number;
        pthread_cond_signal(&d->news);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

spey_status spey_driver_new(spey_driver_fn run, void *user, spey_driver **out)
{
    *out = NULL;
    spey_driver *d = spey_new(SPEY_PURPOSE_RUNTIME, spey_driver);
    if (!d) return SPEY_NOMEM;
    d->run = run;
    d->user = user;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->work, NULL);
    pthread_cond_init(&d->news, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&d->thread, NULL, drive, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    d->started_thread = !failed;
    if (!failed) {
        *out = d;
        return SPEY_OK;
    }
    spey_driver_free(d);
    return SPEY_FAIL(SPEY_NOMEM, "cannot start a thread: %s", strerror(failed));
}

void spey_driver_free(spey_driver *d)
{
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    if (d->started_thread) pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->news);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    spey_free(d);
}

void spey_driver_start(spey_driver *d)
{
    pthread_mutex_lock(&d->lock);
    d->n_started++;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
}

void spey_driver_wait(spey_driver *d, uint64_t number)
{
    pthread_mutex_lock(&d->lock);
    SPEY_ASSERT(number <= d->n_started);
    while (d->n_done < number)
        pthread_cond_wait(&d->news, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

uint64_t spey_driver_done(spey_driver *d)
{
    pthread_mutex_lock(&d->lock);
    uint64_t n = d->n_done;
    pthread_mutex_unlock(&d->lock);
    return n;
}
