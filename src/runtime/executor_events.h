/* Events of requests that are awaited instead of called back. The caller's lock guards all of it. */
#ifndef SPEY_RUNTIME_EXECUTOR_EVENTS_H
#define SPEY_RUNTIME_EXECUTOR_EVENTS_H

#include "spey/spey.h"

/* An event with its own copies, in two lists: of all, and of its request. */
typedef struct spey_event {
    spey_output output; /* first: what the caller gets is freed by this address */
    struct spey_inbox *inbox;
    struct spey_event *next, *previous, *next_of_request;
} spey_event;

/* One request whose events are awaited. */
typedef struct spey_inbox {
    struct spey_inbox *next, *previous;
    void *owner;
    uint64_t request;
    spey_event *first, *last;
    bool closed; /* its last event is here or was taken */
} spey_inbox;

typedef struct spey_inboxes {
    spey_inbox *first;
    spey_event *oldest, *newest; /* of all */
} spey_inboxes;

/* Copy an event. NULL: out of memory. */
spey_event *spey_event_new(const spey_output *output);

void spey_inboxes_add(spey_inboxes *inboxes, spey_inbox *inbox);
spey_inbox *spey_inboxes_find(const spey_inboxes *inboxes, uint64_t request);
/* Give the inbox an event; takes it. */
void spey_inboxes_put(spey_inboxes *inboxes, spey_inbox *inbox, spey_event *event);
/* The oldest event of the inbox, or of all (NULL); NULL when there is none. An inbox whose last event is taken is freed. */
spey_event *spey_inboxes_take(spey_inboxes *inboxes, spey_inbox *inbox);
void spey_inboxes_remove(spey_inboxes *inboxes, spey_inbox *inbox);
void spey_inboxes_deinit(spey_inboxes *inboxes);

#endif
