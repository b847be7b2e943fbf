#include "text/guide_table.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"

struct spey_guide_entry {
    spey_guide_entry *next;
    spey_guide_format format;
    char *text;
    size_t n;
    spey_guide *guide;
    uint64_t guide_bytes;
    int32_t users;
    uint64_t used;               /* when it was asked for last */
    bool pinned;                 /* between begin and end */
    spey_guide_matcher *matcher; /* NULL: not now */
    uint64_t matcher_bytes, generation;
};

struct spey_guide_table {
    pthread_mutex_t
        lock; /* guards all that follows, but for pinned matchers: they are the engine thread's */
    const int32_t *eos_ids;
    int32_t n_eos;
    const spey_guide_vocab *vocab;
    spey_guide_entry *first;
    uint64_t bytes, bytes_max, clock, generation;
};

spey_status spey_guide_table_new(uint64_t bytes_max, const int32_t *eos_ids, int32_t n_eos,
                                 spey_guide_table **out)
{
    *out = spey_new(SPEY_PURPOSE_TEXT, spey_guide_table);
    if (!*out) return SPEY_NOMEM;
    pthread_mutex_init(&(*out)->lock, NULL);
    (*out)->eos_ids = eos_ids;
    (*out)->n_eos = n_eos;
    (*out)->bytes_max = bytes_max ? bytes_max : SPEY_GUIDE_TABLE_BYTES;
    return SPEY_OK;
}

/* ---- making room ---- */

static void drop_matcher(spey_guide_table *t, spey_guide_entry *e)
{
    t->bytes -= e->matcher_bytes;
    e->matcher_bytes = 0;
    spey_guide_matcher_free(e->matcher);
    e->matcher = NULL;
}

static void free_entry(spey_guide_entry *e)
{
    if (!e) return;
    spey_guide_matcher_free(e->matcher);
    spey_guide_free(e->guide);
    spey_free(e->text);
    spey_free(e);
}

static void remove_entry(spey_guide_table *t, spey_guide_entry *e)
{
    spey_guide_entry **link = &t->first;
    while (*link != e) {
        SPEY_ASSERT(*link);
        link = &(*link)->next;
    }
    *link = e->next;
    t->bytes -= e->guide_bytes + e->matcher_bytes;
    free_entry(e);
}

/* The least recently used one that may go: without users, or with a matcher that it can do without. */
static spey_guide_entry *find_oldest(const spey_guide_table *t, bool in_use,
                                     const spey_guide_entry *keep)
{
    spey_guide_entry *oldest = NULL;
    for (spey_guide_entry *e = t->first; e; e = e->next) {
        bool may_go = in_use ? e->users > 0 && e->matcher && !e->pinned : e->users == 0;
        if (e != keep && may_go && (!oldest || e->used < oldest->used)) oldest = e;
    }
    return oldest;
}

/* Guides without users go until `bytes` more fit; then matchers, if so wanted. */
static bool make_room(spey_guide_table *t, uint64_t bytes, bool from_users,
                      const spey_guide_entry *keep)
{
    for (int in_use = 0; in_use <= from_users; in_use++)
        while (t->bytes + bytes > t->bytes_max) {
            spey_guide_entry *oldest = find_oldest(t, in_use, keep);
            if (!oldest) break;
            if (in_use)
                drop_matcher(t, oldest);
            else
                remove_entry(t, oldest);
        }
    return t->bytes + bytes <= t->bytes_max;
}

void spey_guide_table_free(spey_guide_table *t)
{
    if (!t) return;
    while (t->first) {
        SPEY_ASSERT(t->first->users == 0);
        remove_entry(t, t->first);
    }
    pthread_mutex_destroy(&t->lock);
    spey_free(t);
}

/* ---- any thread ---- */

static spey_guide_entry *find(const spey_guide_table *t, spey_guide_format format, const char *text,
                              size_t n)
{
    spey_guide_entry *e = t->first;
    while (e && (e->format != format || e->n != n || memcmp(e->text, text, n) != 0))
        e = e->next;
    return e;
}

static spey_status compile(spey_guide_format format, const char *text, size_t n,
                           spey_guide_entry **out)
{
    *out = NULL;
    spey_guide *guide;
    SPEY_TRY(spey_guide_compile(format, text, n, &guide));
    spey_guide_entry *e = spey_new(SPEY_PURPOSE_TEXT, spey_guide_entry);
    char *copy = e ? spey_strndup(SPEY_PURPOSE_TEXT, text, n) : NULL;
    if (!copy) {
        spey_free(e);
        spey_guide_free(guide);
        return SPEY_NOMEM;
    }
    *e = (spey_guide_entry){ .format = format,
                             .text = copy,
                             .n = n,
                             .guide = guide,
                             .guide_bytes = sizeof *e + n + spey_guide_memory(guide) };
    *out = e;
    return SPEY_OK;
}

/* What the entry's tables will take, or take. */
static uint64_t tables_bytes(const spey_guide_table *t, const spey_guide_entry *e)
{
    return spey_guide_matcher_bytes(e->guide, t->vocab);
}

static spey_status make_matcher(const spey_guide_table *t, spey_guide_entry *e)
{
    SPEY_TRY(spey_guide_matcher_new(e->guide, t->vocab, t->eos_ids, t->n_eos, &e->matcher));
    e->matcher_bytes = tables_bytes(t, e);
    return SPEY_OK;
}

/* A new entry, made without the lock: neither the engine nor others wait for the compiler. With its tables if there is room
 * for them, so that no step need make them. */
static spey_status make_entry(spey_guide_table *t, spey_guide_format format, const char *text,
                              size_t n, spey_guide_entry **out)
{
    SPEY_TRY(compile(format, text, n, out));
    pthread_mutex_lock(&t->lock);
    bool fits = make_room(t, (*out)->guide_bytes + tables_bytes(t, *out), false, NULL);
    pthread_mutex_unlock(&t->lock);
    spey_status status = fits ? make_matcher(t, *out) : SPEY_OK;
    if (status) {
        free_entry(*out);
        *out = NULL;
    }
    return status;
}

/* Take the new entry, unless another thread was faster. */
static spey_status insert(spey_guide_table *t, spey_guide_entry *made, spey_guide_entry **out)
{
    spey_guide_entry *e = find(t, made->format, made->text, made->n);
    *out = e;
    if (!e && !make_room(t, made->guide_bytes + made->matcher_bytes, false, NULL)) {
        spey_guide_matcher_free(made->matcher);
        made->matcher = NULL;
        made->matcher_bytes = 0;
    }
    if (e || !make_room(t, made->guide_bytes + made->matcher_bytes, true, NULL)) {
        free_entry(made);
        return e ? SPEY_OK
                 : SPEY_FAIL(SPEY_LIMIT, "guides in use take all of the %llu bytes that guides may",
                             (unsigned long long)t->bytes_max);
    }
    made->next = t->first;
    made->generation = ++t->generation;
    t->first = made;
    t->bytes += made->guide_bytes + made->matcher_bytes;
    *out = made;
    return SPEY_OK;
}

spey_status spey_guide_table_get(spey_guide_table *t, const spey_guide_vocab *vocab,
                                 spey_guide_format format, const char *text, spey_guide_entry **out)
{
    size_t n = strlen(text);
    spey_status status = SPEY_OK;
    *out = NULL;
    pthread_mutex_lock(&t->lock);
    if (!t->vocab) t->vocab = vocab;
    spey_guide_entry *e = find(t, format, text, n);
    if (!e) {
        spey_guide_entry *made;
        pthread_mutex_unlock(&t->lock);
        SPEY_TRY(make_entry(t, format, text, n, &made));
        pthread_mutex_lock(&t->lock);
        status = insert(t, made, &e);
    }
    if (!status) {
        e->users++;
        e->used = ++t->clock;
        *out = e;
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

void spey_guide_table_put(spey_guide_table *t, spey_guide_entry *e)
{
    if (!e) return;
    pthread_mutex_lock(&t->lock);
    SPEY_ASSERT(e->users > 0);
    e->users--;
    pthread_mutex_unlock(&t->lock);
}

uint64_t spey_guide_table_bytes(spey_guide_table *t)
{
    pthread_mutex_lock(&t->lock);
    uint64_t bytes = t->bytes;
    pthread_mutex_unlock(&t->lock);
    return bytes;
}

/* ---- the engine thread ---- */

spey_status spey_guide_table_begin(spey_guide_table *t, spey_guide_entry *e,
                                   spey_guide_matcher **matcher, uint64_t *generation)
{
    spey_status status = SPEY_OK;
    pthread_mutex_lock(&t->lock);
    if (!e->matcher) {
        /* The request that runs has its tables even when one guide's are more than the bound. */
        make_room(t, tables_bytes(t, e), true, e);
        status = make_matcher(t, e);
        t->bytes += e->matcher_bytes;
        e->generation = ++t->generation;
    }
    e->pinned = !status;
    e->used = ++t->clock;
    *matcher = e->matcher;
    *generation = e->generation;
    pthread_mutex_unlock(&t->lock);
    return status;
}

void spey_guide_table_end(spey_guide_table *t, spey_guide_entry *e)
{
    pthread_mutex_lock(&t->lock);
    e->pinned = false;
    pthread_mutex_unlock(&t->lock);
}

void spey_guide_table_drop(spey_guide_table *t, spey_guide_entry *e, uint64_t generation,
                           spey_guide_state state)
{
    pthread_mutex_lock(&t->lock);
    if (e->matcher && e->generation == generation) spey_guide_matcher_drop(e->matcher, state);
    pthread_mutex_unlock(&t->lock);
}
