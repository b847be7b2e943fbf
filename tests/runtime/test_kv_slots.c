#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/rng.h"
#include "runtime/kv_slots.h"
#include "runtime/kv_tree.h"

enum { BLOCK = 4, BYTES_0 = 96, BYTES_1 = 40, FIRST_SLOT_AT = 4096 };

static char path[64];

static spey_kv_slots_limits limits_of(uint64_t bytes)
{
    return (spey_kv_slots_limits){ .path = path,
                                   .bytes = bytes,
                                   .identity = 7,
                                   .block_tokens = BLOCK,
                                   .n_groups = 2,
                                   .whole = 1,
                                   .block_bytes = { BYTES_0, BYTES_1 } };
}

static spey_kv_slots *open_slots(uint64_t bytes)
{
    const spey_kv_slots_limits limits = limits_of(bytes);
    spey_kv_slots *slots;
    assert_int_equal(spey_kv_slots_open(&limits, &slots), SPEY_OK);
    return slots;
}

/* Where the second slot begins tells how long one is. */
static uint64_t bytes_for(int n)
{
    return FIRST_SLOT_AT + (uint64_t)n * 448;
}

static void make_ids(int i, int32_t ids[BLOCK])
{
    for (int t = 0; t < BLOCK; t++)
        ids[t] = 1000 * i + t;
}

/* Block i of a tenant: every second one has nothing of group 1. */
static spey_kv_slot what_of(int i)
{
    int32_t ids[BLOCK];
    make_ids(i, ids);
    uint64_t root = spey_kv_tree_root((uint64_t)(i % 3));
    return (spey_kv_slot){ .salt = (uint64_t)(i % 3),
                           .parent_hash = root,
                           .hash = spey_kv_tree_hash(root, ids, BLOCK),
                           .groups = i % 2 ? 1 : 3 };
}

static void make_blocks(int i, uint8_t *blocks[2])
{
    memset(blocks[0], i + 1, BYTES_0);
    memset(blocks[1], i + 2, BYTES_1);
}

static spey_status put(spey_kv_slots *slots, int i)
{
    uint8_t bytes[2][BYTES_0], *blocks[2] = { bytes[0], bytes[1] };
    int32_t ids[BLOCK];
    spey_kv_slot what = what_of(i);
    make_ids(i, ids);
    make_blocks(i, blocks);
    int32_t slot = spey_kv_slots_put(slots, &what);
    return spey_kv_slots_write(slots, slot, &what, ids, (const void *const *)blocks);
}

static bool has(const spey_kv_slots *slots, int i)
{
    const spey_kv_slot what = what_of(i);
    return spey_kv_slots_find(slots, what.salt, what.hash) >= 0;
}

/* What is read is what was written, or is refused. */
static spey_status get(spey_kv_slots *slots, int i)
{
    uint8_t bytes[2][BYTES_0] = { { 0 } }, right[2][BYTES_0], *wanted[2] = { right[0], right[1] };
    int32_t ids[BLOCK], right_ids[BLOCK];
    const spey_kv_slot key = what_of(i);
    int32_t slot = spey_kv_slots_find(slots, key.salt, key.hash);
    assert_true(slot >= 0);
    const spey_kv_slot what = *spey_kv_slots_get(slots, slot);
    void *blocks[2] = { bytes[0], what.groups & 2 ? bytes[1] : NULL };
    spey_status status = spey_kv_slots_read(slots, slot, &what, ids, blocks);
    if (status) return status;
    make_ids(i, right_ids);
    make_blocks(i, wanted);
    assert_int_equal(what.groups, key.groups);
    assert_memory_equal(ids, right_ids, sizeof(ids));
    assert_memory_equal(bytes[0], right[0], BYTES_0);
    if (what.groups & 2) assert_memory_equal(bytes[1], right[1], BYTES_1);
    return SPEY_OK;
}

static void what_was_written_is_there_after_a_restart(void **state)
{
    (void)state;
    spey_kv_slots *slots = open_slots(bytes_for(10));
    assert_int_equal(spey_kv_slots_count(slots).n_slots, 10);
    for (int i = 0; i < 7; i++)
        assert_int_equal(put(slots, i), SPEY_OK);
    spey_kv_slots_close(slots);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    slots = open_slots(bytes_for(10));
    assert_int_equal(spey_kv_slots_count(slots).n_used, 7);
    assert_int_equal(spey_kv_slots_count(slots).n_discarded, 0);
    for (int i = 0; i < 7; i++)
        assert_int_equal(get(slots, i), SPEY_OK);
    assert_false(has(slots, 7));
    const spey_kv_slot what = what_of(4);
    assert_int_equal(spey_kv_slots_find(slots, what.salt + 1, what.hash), -1);
    spey_kv_slots_drop(slots, spey_kv_slots_find(slots, what.salt, what.hash));
    assert_false(has(slots, 4));
    assert_int_equal(spey_kv_slots_clear(slots), SPEY_OK);
    assert_int_equal(spey_kv_slots_count(slots).n_used, 0);
    spey_kv_slots_close(slots);
    slots = open_slots(bytes_for(10));
    assert_int_equal(spey_kv_slots_count(slots).n_used, 0);
    spey_kv_slots_close(slots);
}

static void a_full_file_forgets_what_was_used_least_recently(void **state)
{
    (void)state;
    spey_kv_slots *slots = open_slots(bytes_for(4) + 100);
    for (int i = 0; i < 4; i++)
        put(slots, i);
    const spey_kv_slot first = what_of(0);
    spey_kv_slots_touch(slots, spey_kv_slots_find(slots, first.salt, first.hash));
    put(slots, 4);
    assert_true(has(slots, 0) && !has(slots, 1) && has(slots, 4));
    spey_kv_slots_close(slots);
    slots = open_slots(bytes_for(4)); /* touches are forgotten, the order of writing is not */
    put(slots, 5);
    assert_true(!has(slots, 0) && has(slots, 2) && has(slots, 3) && has(slots, 5));
    assert_int_equal(get(slots, 5), SPEY_OK);
    spey_kv_slots_close(slots);
    slots = open_slots(bytes_for(2)); /* it has become smaller */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size <= bytes_for(2));
    assert_int_equal(spey_kv_slots_count(slots).n_used, 2);
    spey_kv_slots_close(slots);
}

static void assert_left_alone(const spey_kv_slots_limits *limits, const char *why)
{
    spey_strbuf before = { 0 }, after = { 0 };
    spey_kv_slots *slots;
    assert_int_equal(spey_file_read(path, 1 << 20, &before), SPEY_OK);
    assert_int_equal(spey_kv_slots_open(limits, &slots), SPEY_INVALID);
    assert_null(slots);
    if (!strstr(spey_last_error(), why)) fail_msg("%s", spey_last_error());
    assert_int_equal(spey_file_read(path, 1 << 20, &after), SPEY_OK);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    spey_strbuf_deinit(&before);
    spey_strbuf_deinit(&after);
}

static void write_file(const char *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

static void somebody_elses_file_is_left_alone(void **state)
{
    (void)state;
    spey_kv_slots *slots = open_slots(bytes_for(4));
    put(slots, 0);
    spey_kv_slots_limits limits = limits_of(bytes_for(4));
    assert_left_alone(&limits, "is in use");
    spey_kv_slots_close(slots);
    limits.identity = 8;
    assert_left_alone(&limits, "of another engine");
    limits.identity = 7;
    limits.block_bytes[1] += 64;
    assert_left_alone(&limits, "of another engine");
    limits = limits_of(bytes_for(4));
    assert_int_equal(chmod(path, 0640), 0);
    assert_left_alone(&limits, "others may read");
    assert_int_equal(chmod(path, 0600), 0);
    write_file("a poem\n", 7);
    assert_left_alone(&limits, "is not a KV file");
    spey_kv_slots *none;
    limits.bytes = FIRST_SLOT_AT + 100;
    assert_int_equal(spey_kv_slots_open(&limits, &none), SPEY_LIMIT);
    limits.bytes = bytes_for(4);
    limits.path = "/tmp";
    assert_int_equal(spey_kv_slots_open(&limits, &none), SPEY_IO);
    limits.path = "/tmp/spey-no-such-directory/kv";
    assert_int_equal(spey_kv_slots_open(&limits, &none), SPEY_IO);
    limits.path = "/dev/null";
    assert_int_equal(spey_kv_slots_open(&limits, &none), SPEY_INVALID);
}

static void a_link_is_not_followed(void **state)
{
    (void)state;
    char link[80];
    snprintf(link, sizeof(link), "%s-link", path);
    spey_kv_slots_close(open_slots(bytes_for(1)));
    unlink(link);
    assert_int_equal(symlink(path, link), 0);
    spey_kv_slots_limits limits = limits_of(bytes_for(1));
    limits.path = link;
    spey_kv_slots *slots;
    assert_int_equal(spey_kv_slots_open(&limits, &slots), SPEY_IO);
    unlink(link);
}

/* One byte after another: the file's header is refused, a slot's makes it vanish, a block's is found when it is read. */
static void every_changed_byte_is_noticed(void **state)
{
    (void)state;
    spey_strbuf whole = { 0 };
    spey_kv_slots *slots = open_slots(bytes_for(2));
    put(slots, 0);
    put(slots, 2);
    spey_kv_slots_close(slots);
    assert_int_equal(spey_file_read(path, 1 << 20, &whole), SPEY_OK);
    int at_open = 0, at_read = 0, unused = 0;
    for (size_t at = 0; at < whole.len; at++) {
        if (at == 32) at = FIRST_SLOT_AT; /* nothing is there */
        whole.data[at] ^= 0x21;
        write_file(whole.data, whole.len);
        whole.data[at] ^= 0x21;
        const spey_kv_slots_limits limits = limits_of(bytes_for(2));
        if (at < 32) {
            assert_left_alone(&limits, path);
            continue;
        }
        slots = open_slots(bytes_for(2));
        int n = spey_kv_slots_count(slots).n_used, first = has(slots, 0), second = has(slots, 2);
        assert_int_equal(n, first + second);
        assert_int_equal(spey_kv_slots_count(slots).n_discarded, 2 - n);
        int sound = (first && get(slots, 0) == SPEY_OK) + (second && get(slots, 2) == SPEY_OK);
        assert_true(sound >= 1);
        at_open += n == 1;
        at_read += n == 2 && sound == 1;
        unused += sound == 2;
        spey_kv_slots_close(slots);
        slots = open_slots(bytes_for(2)); /* what was found damaged has gone */
        assert_int_equal(spey_kv_slots_count(slots).n_used, sound);
        spey_kv_slots_close(slots);
    }
    assert_int_equal(at_read, 2 * (BYTES_0 + BYTES_1));
    assert_true(at_open > 2 * (192 + (int)sizeof(int32_t) * BLOCK) - 1);
    assert_true(unused < 2 * 3 * 64);
    spey_strbuf_deinit(&whole);
}

static void hostile_bytes_are_never_believed(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 5 };
    spey_strbuf whole = { 0 };
    spey_kv_slots *slots = open_slots(bytes_for(8));
    for (int i = 0; i < 8; i++)
        put(slots, i);
    spey_kv_slots_close(slots);
    assert_int_equal(spey_file_read(path, 1 << 20, &whole), SPEY_OK);
    char *copy = malloc(2 * whole.len);
    assert_non_null(copy);
    for (int round = 0; round < 300; round++) {
        size_t len = whole.len;
        memcpy(copy, whole.data, len);
        if (round % 3 == 0) len = FIRST_SLOT_AT + spey_rng_below(&rng, len - FIRST_SLOT_AT);
        if (round % 3 == 1) { /* slots change places, or are there twice */
            size_t from = spey_rng_below(&rng, 8), to = spey_rng_below(&rng, 8);
            memcpy(copy + bytes_for((int)to), whole.data + bytes_for((int)from), 448);
        }
        for (size_t k = spey_rng_below(&rng, 5); k > 0 && len > FIRST_SLOT_AT; k--)
            copy[FIRST_SLOT_AT + spey_rng_below(&rng, len - FIRST_SLOT_AT)] ^= (char)(1 + round);
        write_file(copy, len);
        slots = open_slots(bytes_for(8));
        for (int i = 0; i < 8; i++)
            if (has(slots, i)) get(slots, i);
        for (int i = 8; i < 12; i++)
            assert_int_equal(put(slots, i), SPEY_OK);
        for (int i = 8; i < 12; i++)
            assert_int_equal(get(slots, i), SPEY_OK);
        spey_kv_slots_close(slots);
    }
    free(copy);
    spey_strbuf_deinit(&whole);
}

static void write_for_ever(void)
{
    const spey_kv_slots_limits limits = limits_of(bytes_for(50));
    spey_kv_slots *slots;
    if (spey_kv_slots_open(&limits, &slots)) _exit(1);
    for (int i = 0;; i = (i + 1) % 200)
        if (!has(slots, i) && put(slots, i)) _exit(2);
}

/* Whatever the moment: what the next process finds is whole. */
static void a_killed_writer_leaves_whole_blocks(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) write_for_ever();
        usleep(500 + 331 * (unsigned)round);
        assert_int_equal(kill(child, SIGKILL), 0);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        spey_kv_slots *slots = open_slots(bytes_for(50));
        for (int i = 0; i < 200; i++)
            if (has(slots, i)) assert_int_equal(get(slots, i), SPEY_OK);
        assert_true(spey_kv_slots_count(slots).n_discarded <= 1);
        spey_kv_slots_close(slots);
    }
}

static void a_full_disk_is_an_error(void **state)
{
    (void)state;
    struct rlimit before, small = { .rlim_cur = bytes_for(2), .rlim_max = RLIM_INFINITY };
    spey_kv_slots *slots = open_slots(bytes_for(4));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    spey_status first = put(slots, 0), second = put(slots, 1), third = put(slots, 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(first, SPEY_OK);
    assert_int_equal(second, SPEY_OK);
    assert_int_equal(third, SPEY_IO);
    assert_non_null(strstr(spey_last_error(), path));
    spey_kv_slots_close(slots);
    slots = open_slots(bytes_for(4));
    assert_true(has(slots, 0) && has(slots, 1) && !has(slots, 2));
    spey_kv_slots_close(slots);
}

static void without_memory_the_file_stays_as_it_is(void **state)
{
    (void)state;
    spey_kv_slots *slots = open_slots(bytes_for(3));
    put(slots, 0);
    spey_kv_slots_close(slots);
    const spey_kv_slots_limits limits = limits_of(bytes_for(3));
    for (uint64_t i = 1;; i++) {
        spey_alloc_fail_nth(i);
        spey_status status = spey_kv_slots_open(&limits, &slots);
        spey_alloc_fail_nth(0);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
        assert_null(slots);
    }
    assert_int_equal(get(slots, 0), SPEY_OK);
    spey_kv_slots_close(slots);
}

static int remove_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/spey-test-kv-slots-%d", (int)getpid());
    unlink(path);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, remove_file, remove_file)
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_there_after_a_restart),
        TEST(a_full_file_forgets_what_was_used_least_recently),
        TEST(somebody_elses_file_is_left_alone),
        TEST(a_link_is_not_followed),
        TEST(every_changed_byte_is_noticed),
        TEST(hostile_bytes_are_never_believed),
        TEST(a_killed_writer_leaves_whole_blocks),
        TEST(a_full_disk_is_an_error),
        TEST(without_memory_the_file_stays_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
