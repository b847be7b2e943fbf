#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"

/* Of the empty text: the value that the XXH3 specification gives. */
static void xxh3_gives_known_answers(void **state)
{
    (void)state;
    assert_int_equal(spey_xxh3("", 0), 0x2d06800538d394c2u);
}

static void xxh3_in_pieces_is_xxh3_of_the_whole(void **state)
{
    (void)state;
    unsigned char bytes[3000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 31 + i / 256);
    for (size_t piece = 1; piece < sizeof bytes; piece = piece * 3 + 1) {
        spey_xxh3_state *hash;
        assert_int_equal(spey_xxh3_new(&hash), SPEY_OK);
        for (size_t i = 0; i < sizeof bytes; i += piece)
            spey_xxh3_update(hash, bytes + i, i + piece > sizeof bytes ? sizeof bytes - i : piece);
        assert_int_equal(spey_xxh3_digest(hash), spey_xxh3(bytes, sizeof bytes));
        spey_xxh3_free(hash);
    }
    uint64_t whole = spey_xxh3(bytes, sizeof bytes);
    bytes[1500] ^= 1;
    assert_int_not_equal(spey_xxh3(bytes, sizeof bytes), whole);
}

/* FIPS 180-4, examples. */
static void sha256_gives_known_answers(void **state)
{
    (void)state;
    spey_sha256 *hash;
    char hex[SPEY_SHA256_HEX_BYTES];
    assert_int_equal(spey_sha256_new(&hash), SPEY_OK);
    spey_sha256_hex(hash, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    spey_sha256_update(hash, "a", 1);
    spey_sha256_update(hash, "bc", 2);
    spey_sha256_hex(hash, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    spey_sha256_hex(hash, hex); /* the state was reset */
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    spey_sha256_free(hash);
}

static void new_fails_without_memory(void **state)
{
    (void)state;
    spey_xxh3_state *xxh3;
    spey_sha256 *sha256;
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_xxh3_new(&xxh3), SPEY_NOMEM);
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_sha256_new(&sha256), SPEY_NOMEM);
    assert_true(!xxh3 && !sha256);
    spey_xxh3_free(NULL);
    spey_sha256_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xxh3_gives_known_answers),
        cmocka_unit_test(xxh3_in_pieces_is_xxh3_of_the_whole),
        cmocka_unit_test(sha256_gives_known_answers),
        cmocka_unit_test(new_fails_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
