#include "runtime/executor_events.h"

#include <string.h>

#include "base/alloc.h"
#include "spey/executor.h"

/* ---- one event ---- */

/* Everything in one piece of memory behind the event, widest first. */
spey_event *spey_event_new(const spey_output *o)
{
    size_t n_tops = (size_t)o->n_prompt * (size_t)o->n_prompt_top;
    size_t tops = ((size_t)o->n_top + n_tops) * sizeof(spey_token_logprob);
    size_t logprobs = (size_t)o->n_prompt * sizeof(float);
    size_t error = o->error ? strlen(o->error) + 1 : 0;
    spey_event *event = spey_alloc(SPEY_PURPOSE_RUNTIME,
                                   sizeof *event + tops + logprobs + o->text_bytes + 1 + error);
    if (!event) return NULL;
    spey_token_logprob *top = (spey_token_logprob *)(event + 1);
    spey_token_logprob *prompt_top = top + o->n_top;
    float *prompt = (float *)(prompt_top + n_tops);
    char *text = (char *)(prompt + o->n_prompt);
    event->output = *o;
    event->output.text = text;
    if (o->text_bytes) memcpy(text, o->text, o->text_bytes);
    if (o->n_top) event->output.top = memcpy(top, o->top, (size_t)o->n_top * sizeof *top);
    if (o->n_prompt) event->output.prompt_logprobs = memcpy(prompt, o->prompt_logprobs, logprobs);
    if (n_tops)
        event->output.prompt_top = memcpy(prompt_top, o->prompt_top, n_tops * sizeof *prompt_top);
    if (error) event->output.error = memcpy(text + o->text_bytes + 1, o->error, error);
    return event;
}

void spey_output_free(spey_output *output)
{
    spey_free(output);
}

/* ---- lists ---- */

void spey_inboxes_add(spey_inboxes *all, spey_inbox *inbox)
{
    inbox->previous = NULL;
    inbox->next = all->first;
    if (all->first) all->first->previous = inbox;
    all->first = inbox;
}

spey_inbox *spey_inboxes_find(const spey_inboxes *all, uint64_t request)
{
    spey_inbox *inbox = all->first;
    while (inbox && inbox->request != request)
        inbox = inbox->next;
    return inbox;
}

void spey_inboxes_put(spey_inboxes *all, spey_inbox *inbox, spey_event *event)
{
    event->inbox = inbox;
    event->previous = all->newest;
    *(all->newest ? &all->newest->next : &all->oldest) = event;
    all->newest = event;
    *(inbox->last ? &inbox->last->next_of_request : &inbox->first) = event;
    inbox->last = event;
    inbox->closed = event->output.last;
}

spey_event *spey_inboxes_take(spey_inboxes *all, spey_inbox *inbox)
{
    if (!inbox) {
        if (!all->oldest) return NULL;
        inbox = all->oldest->inbox;
    }
    spey_event *event = inbox->first; /* the oldest of all is also the oldest of its request */
    if (!event) return NULL;
    inbox->first = event->next_of_request;
    if (!inbox->first) inbox->last = NULL;
    *(event->previous ? &event->previous->next : &all->oldest) = event->next;
    *(event->next ? &event->next->previous : &all->newest) = event->previous;
    if (event->output.last) spey_inboxes_remove(all, inbox);
    return event;
}

void spey_inboxes_remove(spey_inboxes *all, spey_inbox *inbox)
{
    *(inbox->previous ? &inbox->previous->next : &all->first) = inbox->next;
    if (inbox->next) inbox->next->previous = inbox->previous;
    spey_free(inbox);
}

void spey_inboxes_deinit(spey_inboxes *all)
{
    while (all->oldest) {
        spey_event *next = all->oldest->next;
        spey_free(all->oldest);
        all->oldest = next;
    }
    while (all->first)
        spey_inboxes_remove(all, all->first);
}
