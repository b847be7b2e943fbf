/* The scheduler's tables, for its own sources. */
#ifndef SPEY_RUNTIME_SCHEDULER_IMPL_H
#define SPEY_RUNTIME_SCHEDULER_IMPL_H

#include "runtime/scheduler.h"

enum { SPEY_PRIORITIES = SPEY_PRIORITY_MAX - SPEY_PRIORITY_MIN + 1, SPEY_TENANTS_MAX = 1024 };

/* A binary heap of small numbers; `at` (may be NULL) says where each lies, -1 for those outside. */
typedef struct spey_heap {
    int32_t *items, *at;
    int32_t n;
    bool (*before)(const void *context, int32_t a, int32_t b);
    const void *context;
} spey_heap;

void spey_heap_push(spey_heap *heap, int32_t item);
int32_t spey_heap_pop(spey_heap *heap);
void spey_heap_remove(spey_heap *heap, int32_t item); /* needs `at` */

typedef enum spey_ticket_state {
    SPEY_TICKET_FREE,
    SPEY_TICKET_QUEUED,
    SPEY_TICKET_RUNNING,
    SPEY_TICKET_PAUSED,
} spey_ticket_state;

typedef struct spey_entry {
    spey_ticket_state state;
    spey_job job;
    int32_t tenant;     /* index */
    double tag;         /* its place in the fair order: when its last token would be served */
    uint64_t submitted; /* number among all submits */
    uint64_t admitted;  /* number among first admissions; 0: never */
    int32_t first;      /* its sequence of the lowest index that has not ended; -1 while queued */
    int32_t n_live;     /* sequences that have not ended */
    int64_t n_used;     /* tokens of the longest that has */
    bool forked;        /* every live sequence has a cache of its own, not the trunk alone */
    int64_t n_stored;   /* tokens of its first sequence when it was paused */
    bool fetches;       /* it waits for blocks from the KV cache's file */
    bool prompt_read;   /* the prompt's rows of logits were computed once */
} spey_entry;

typedef struct spey_sequence {
    int32_t next; /* of the same request, by index; or the next free one */
    int32_t index;
    spey_seq_id seq;  /* -1: without a cache */
    int64_t n_known;  /* tokens; the same in all live sequences of a request */
    int64_t n_done;   /* those that are stored */
    int64_t n_flying; /* of those that are stored: in steps under way */
    int32_t n_untold; /* of those that are known: steps under way will say which they are */
} spey_sequence;

typedef struct spey_tenant {
    uint64_t id;
    int32_t n_tickets;
    double last_tag[SPEY_PRIORITIES];
} spey_tenant;

/* While the caches of a request's sequences change hands. */
struct spey_handover {
    int32_t record;  /* -1: no live sequence of this index */
    spey_seq_id old; /* what it had; -1: nothing */
    int64_t n_known, n_done;
    spey_seq_id now;
    bool taken; /* someone continues it */
};

struct spey_scheduler {
    spey_scheduler_limits limits;
    int32_t tickets_max;
    spey_entry *entries; /* [tickets_max] */
    int32_t *free_tickets, n_free_tickets;
    spey_sequence *sequences; /* [sequences_max] */
    int32_t free_sequence;
    int32_t n_sequences;         /* of running requests */
    int32_t *running, n_running; /* by priority, then first admission */
    int32_t *paused, n_paused;   /* likewise */
    spey_heap queue, deadlines;
    spey_tenant *tenants;                   /* [SPEY_TENANTS_MAX] */
    double served[SPEY_PRIORITIES];         /* virtual time: the tag of the last admission */
    int64_t claimed[SPEY_CACHE_GROUPS_MAX]; /* blocks that running requests need at their longest */
    struct spey_load {                      /* sums over all requests, waiting ones too */
        int64_t tickets, sequences, prompt_tokens, output_tokens;
        int64_t blocks[SPEY_CACHE_GROUPS_MAX];
    } load;
    double credit;        /* admissions that pacing allows */
    spey_ticket fetching; /* whose blocks are coming; -1: nobody's */
    uint64_t n_kept_tokens, n_repeated_tokens;
    uint64_t n_submits, n_admissions, n_pauses;
    struct spey_handover *caches; /* [sequences_max] for take */
};

/* A request's demand over time, for future-peak admission: base + growth · t tokens until `left` steps are over. */
typedef struct spey_demand {
    uint32_t left;
    int32_t growth;
    int64_t base;
} spey_demand;

struct spey_schedule_scratch {
    int32_t *frontier;             /* [tickets_max] for a walk */
    spey_demand *demands, *sorted; /* [sequences_max] */
    double credit;                 /* what commit leaves of it */
};

/* What a plan has left while it is made. */
typedef struct spey_planning {
    const spey_scheduler *s;
    const spey_kv_cache *kv;
    uint64_t now_ns;
    spey_schedule *out;
    int32_t n_kept;           /* running requests that are not paused */
    int32_t sequences;        /* of those that stay and come */
    int64_t prefill, outputs; /* prompt tokens and rows of logits that the step has left */
    int64_t room[SPEY_CACHE_GROUPS_MAX];    /* blocks that are free */
    int64_t owed[SPEY_CACHE_GROUPS_MAX];    /* blocks that prompts under way will still take */
    int64_t claimed[SPEY_CACHE_GROUPS_MAX]; /* as in the scheduler, for those that stay and come */
    int64_t peak; /* tokens that they hold at most at one time; -1: not known yet */
} spey_planning;

/* Blocks of group g that a request holds when each of its sequences has n_tokens. */
int64_t spey_scheduler_blocks(const spey_scheduler *s, const spey_job *job, int g,
                              int64_t n_tokens);
/* Who runs before whom. */
bool spey_scheduler_goes_first(const spey_scheduler *s, int32_t a, int32_t b);
/* Rows of logits that n tokens of a sequence beginning at `from` give. */
int32_t spey_scheduler_rows(const spey_entry *e, const spey_sequence *q, int64_t from, int64_t n);
/* Every live sequence has but its newest token to compute. */
bool spey_scheduler_decodes(const spey_scheduler *s, const spey_entry *e);
/* The step under way gives its last token, if nothing ends it before: there is nothing more to compute. */
bool spey_scheduler_is_spent(const spey_scheduler *s, const spey_entry *e);
/* How far the sequence's cache is to be filled before that. */
int64_t spey_scheduler_goal(const spey_entry *e, const spey_sequence *q);

/* What its trunk may find in the cache; n 0: it is not to look. */
spey_kv_key spey_scheduler_key(const spey_scheduler *s, const spey_entry *e);

/* Give a sequence's cache and record back. */
void spey_scheduler_drop_sequence(spey_scheduler *s, spey_kv_cache *kv, spey_entry *e,
                                  int32_t record);
void spey_scheduler_remove_from(int32_t *list, int32_t *n, int32_t ticket);
/* The request's sequence of that index; -1: it has ended. */
int32_t spey_scheduler_find(const spey_scheduler *s, const spey_entry *e, int32_t index);
/* Count a request's blocks at its longest in (1) or out (-1). */
void spey_scheduler_claim(spey_scheduler *s, const spey_job *job, int sign);

/* ---- policies ---- */

/* The request may begin now, beside what the plan has already; `n_tokens`: what its longest sequence knows. */
bool spey_policy_admits(spey_planning *p, const spey_job *job, int64_t n_tokens);
/* Note that it does. */
void spey_policy_admitted(spey_planning *p, const spey_job *job, int64_t n_tokens);
/* What pacing allows after one more step. */
double spey_policy_credit(const spey_scheduler *s);

/* ---- the queue ---- */

void spey_queue_init(spey_scheduler *s);
spey_status spey_queue_add(spey_scheduler *s, int32_t ticket);
void spey_queue_remove(spey_scheduler *s, int32_t ticket);
/* It leaves the scheduler having used n tokens: what its tenant was charged beyond is given back. */
void spey_queue_settle(spey_scheduler *s, int32_t ticket, int64_t n_used);
/* The queue in its order, without changing it: first resets, next gives tickets and then -1. */
typedef struct spey_queue_walk {
    const spey_scheduler *s;
    spey_heap frontier;
} spey_queue_walk;
void spey_queue_walk_init(spey_queue_walk *walk, const spey_scheduler *s, int32_t *memory);
int32_t spey_queue_walk_peek(const spey_queue_walk *walk);
void spey_queue_walk_next(spey_queue_walk *walk);

#endif
