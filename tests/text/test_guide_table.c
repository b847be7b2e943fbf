/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/guide_table.h"

enum { EOS = 256, N_TEXTS = 1000 };

typedef struct fixture {
    spey_guide_vocab *vocab;
    int32_t eos;
} fixture;

static int set_up(void **state)
{
    static fixture f = { .eos = EOS };
    static char bytes[256];
    const char *each[EOS + 1] = { NULL };
    uint32_t lengths[EOS + 1] = { 0 };
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        each[i] = bytes + i;
        lengths[i] = 1;
    }
    *state = &f;
    return spey_guide_vocab_from_bytes(each, lengths, EOS + 1, &f.vocab) ? -1 : 0;
}

static int tear_down(void **state)
{
    spey_guide_vocab_free(((fixture *)*state)->vocab);
    return 0;
}

static spey_guide_table *new_table(const fixture *f, uint64_t bytes_max)
{
    spey_guide_table *t;
    assert_int_equal(spey_guide_table_new(bytes_max, &f->eos, 1, &t), SPEY_OK);
    return t;
}

static spey_guide_entry *get(const fixture *f, spey_guide_table *t, const char *text)
{
    spey_guide_entry *e;
    assert_int_equal(spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, text, &e), SPEY_OK);
    return e;
}

/* One token under the guide; the generation of its states. */
static uint64_t step(spey_guide_table *t, spey_guide_entry *e, int32_t token)
{
    spey_guide_matcher *m;
    uint64_t generation;
    assert_int_equal(spey_guide_table_begin(t, e, &m, &generation), SPEY_OK);
    spey_guide_state at = spey_guide_matcher_start(m);
    assert_int_equal(spey_guide_matcher_advance(m, &at, token), SPEY_OK);
    spey_guide_matcher_drop(m, at);
    spey_guide_table_end(t, e);
    return generation;
}

/* What one regex with its tables takes. */
static uint64_t cost_of_one(const fixture *f)
{
    spey_guide_table *t = new_table(f, 0);
    spey_guide_table_put(t, get(f, t, "a000"));
    uint64_t bytes = spey_guide_table_bytes(t);
    spey_guide_table_free(t);
    return bytes;
}

static void equal_texts_of_one_kind_share_a_guide(void **state)
{
    const fixture *f = *state;
    spey_guide_table *t = new_table(f, 0);
    spey_guide_entry *a = get(f, t, "root"), *b = get(f, t, "root"), *other = get(f, t, "roo"), *c;
    uint64_t bytes = spey_guide_table_bytes(t);
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, other);
    assert_int_equal(spey_guide_table_get(t, f->vocab, SPEY_GUIDE_GRAMMAR, "root ::= \"x\"", &c),
                     SPEY_OK);
    assert_ptr_not_equal(a, c);
    for (int i = 0; i < 100; i++)
        spey_guide_table_put(t, get(f, t, "root"));
    assert_true(spey_guide_table_bytes(t) < 2 * bytes);
    assert_int_equal(step(t, a, 'r'), step(t, b, 'r'));
    spey_guide_table_put(t, a);
    spey_guide_table_put(t, b);
    spey_guide_table_put(t, other);
    spey_guide_table_put(t, c);
    spey_guide_table_free(t);
}

static void bad_texts_are_refused_and_leave_nothing(void **state)
{
    const fixture *f = *state;
    spey_guide_table *t = new_table(f, 0);
    spey_guide_entry *e;
    assert_int_equal(spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, "(a", &e), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "a ) is missing"));
    assert_null(e);
    assert_int_equal(spey_guide_table_bytes(t), 0);
    spey_guide_table_put(t, get(f, t, "a"));
    spey_guide_table_free(t);
}

static void unused_guides_go_when_there_is_no_room(void **state)
{
    const fixture *f = *state;
    uint64_t one = cost_of_one(f), most = 3 * one + one / 2;
    spey_guide_table *t = new_table(f, most);
    spey_guide_entry *kept = get(f, t, "kept");
    uint64_t generation = step(t, kept, 'k');
    for (int i = 0; i < 40; i++) {
        char text[8];
        snprintf(text, sizeof text, "a%03d", i);
        spey_guide_entry *e = get(f, t, text);
        step(t, e, 'a');
        assert_true(spey_guide_table_bytes(t) <= most);
        spey_guide_table_put(t, e);
    }
    assert_int_equal(step(t, kept, 'k'), generation); /* it was in use */
    spey_guide_table_put(t, kept);
    spey_guide_table_free(t);
}

/* A queue of a thousand guides, of which each has its turn. */
static void guides_in_use_lend_each_other_their_tables(void **state)
{
    const fixture *f = *state;
    uint64_t most = 4 * cost_of_one(f);
    spey_guide_table *t = new_table(f, most);
    static spey_guide_entry *all[N_TEXTS];
    for (int i = 0; i < N_TEXTS; i++) {
        char text[8];
        snprintf(text, sizeof text, "a%03d", i);
        all[i] = get(f, t, text);
        assert_true(spey_guide_table_bytes(t) <= most);
    }
    uint64_t first = step(t, all[0], 'a');
    assert_int_equal(step(t, all[0], 'a'), first);
    for (int i = 1; i < 20; i++) {
        assert_int_not_equal(step(t, all[i], 'a'), 0);
        assert_true(spey_guide_table_bytes(t) <= most);
    }
    assert_int_not_equal(step(t, all[0], 'a'), first); /* its states were forgotten */
    spey_guide_table_drop(t, all[0], first, 12345);    /* and are nobody's */
    for (int i = 0; i < N_TEXTS; i++)
        spey_guide_table_put(t, all[i]);
    spey_guide_table_free(t);
}

static void a_guide_that_does_not_fit_beside_those_in_use_is_refused(void **state)
{
    const fixture *f = *state;
    spey_guide_table *t = new_table(f, 4096);
    spey_guide_entry *all[64], *e;
    int n = 0;
    spey_status status = SPEY_OK;
    for (; !status && n < 64; n += !status) {
        char text[32];
        snprintf(text, sizeof text, "[a-f]{3}%d", n);
        status = spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, text, &all[n]);
    }
    assert_int_equal(status, SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "guides in use take all"));
    assert_true(n > 1);
    step(t, all[0], 'a'); /* one has its tables in any case */
    for (int i = 0; i < n; i++)
        spey_guide_table_put(t, all[i]);
    assert_int_equal(spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, "x", &e), SPEY_OK);
    spey_guide_table_put(t, e);
    spey_guide_table_free(t);
}

typedef struct submitter {
    const fixture *f;
    spey_guide_table *t;
} submitter;

static void *submit(void *arg)
{
    const submitter *s = arg;
    for (int i = 0; i < 20; i++) {
        char text[8];
        spey_guide_entry *e;
        snprintf(text, sizeof text, "a%03d", i % 7);
        if (!spey_guide_table_get(s->t, s->f->vocab, SPEY_GUIDE_REGEX, text, &e))
            spey_guide_table_put(s->t, e);
    }
    return NULL;
}

static void threads_submit_while_the_engine_steps(void **state)
{
    const fixture *f = *state;
    submitter s = { f, new_table(f, 3 * cost_of_one(f)) };
    spey_guide_entry *mine = get(f, s.t, "mine");
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit, &s), 0);
    for (int i = 0; i < 200; i++)
        step(s.t, mine, 'm');
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    spey_guide_table_put(s.t, mine);
    spey_guide_table_free(s.t);
}

static spey_status use_all(const fixture *f)
{
    spey_guide_table *t;
    spey_guide_entry *e = NULL;
    spey_guide_matcher *m;
    uint64_t generation;
    SPEY_TRY(spey_guide_table_new(1, &f->eos, 1, &t)); /* tables are made when they are wanted */
    spey_status status = spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, "ab*", &e);
    spey_guide_table_put(t, e);
    spey_guide_table_free(t);
    if (status != SPEY_LIMIT) return status;
    SPEY_TRY(spey_guide_table_new(4096, &f->eos, 1, &t));
    status = spey_guide_table_get(t, f->vocab, SPEY_GUIDE_REGEX, "ab*", &e);
    if (!status) status = spey_guide_table_begin(t, e, &m, &generation);
    if (!status) spey_guide_table_end(t, e);
    spey_guide_table_put(t, e);
    spey_guide_table_free(t);
    return status;
}

static void failed_allocations_leak_nothing(void **state)
{
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_alloc_fail_nth(nth);
        status = use_all(*state);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_NOMEM || status == SPEY_OK);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_texts_of_one_kind_share_a_guide),
        cmocka_unit_test(bad_texts_are_refused_and_leave_nothing),
        cmocka_unit_test(unused_guides_go_when_there_is_no_room),
        cmocka_unit_test(guides_in_use_lend_each_other_their_tables),
        cmocka_unit_test(a_guide_that_does_not_fit_beside_those_in_use_is_refused),
        cmocka_unit_test(threads_submit_while_the_engine_steps),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
