#include <string.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* The longest added token at text[at], as Aho-Corasick's leftmost-longest search finds it. */
static const spey_tok_added *token_at(const spey_tokenizer *t, bool normalized, const char *text,
                                      size_t n, size_t at, size_t *len)
{
    int32_t index = 0;
    const spey_trie *trie = normalized ? &t->added_norm : &t->added_raw;
    *len = spey_trie_longest(trie, text + at, n - at, &index);
    return *len ? &t->added[index] : NULL;
}

static bool word_before(const char *text, size_t at)
{
    size_t len;
    return at > 0 && (spey_char_class(spey_utf8_get(text + spey_utf8_before(text, at), &len)) &
                      SPEY_CHAR_WORD);
}

static bool word_after(const char *text, size_t n, size_t at)
{
    size_t len;
    return at < n && (spey_char_class(spey_utf8_get(text + at, &len)) & SPEY_CHAR_WORD);
}

/* Take the white space around a token that asks for it, on the left not before `done`. */
static void widen(const char *text, size_t n, size_t done, spey_tok_match *match)
{
    size_t len;
    while ((match->token->flags & SPEY_TOK_ADDED_LSTRIP) && match->begin > done) {
        size_t before = spey_utf8_before(text, match->begin);
        if (!(spey_char_class(spey_utf8_get(text + before, &len)) & SPEY_CHAR_SPACE)) break;
        match->begin = before;
    }
    if (match->begin < done) match->begin = done;
    while ((match->token->flags & SPEY_TOK_ADDED_RSTRIP) && match->end < n) {
        if (!(spey_char_class(spey_utf8_get(text + match->end, &len)) & SPEY_CHAR_SPACE)) break;
        match->end += len;
    }
}

bool spey_tok_next_added(const spey_tokenizer *t, bool normalized, const char *text, size_t n,
                         size_t *from, size_t done, spey_tok_match *match)
{
    const spey_trie *trie = normalized ? &t->added_norm : &t->added_raw;
    const bool *first = t->added_first[normalized];
    for (size_t at = *from; trie->count > 1 && at < n;) {
        if (!first[(unsigned char)text[at]]) {
            at++;
            continue;
        }
        size_t len;
        const spey_tok_added *token = token_at(t, normalized, text, n, at, &len);
        if (!token) {
            at++;
            continue;
        }
        *match = (spey_tok_match){ token, at, at + len };
        at += len; /* matches do not overlap, discarded ones included */
        if ((token->flags & SPEY_TOK_ADDED_SINGLE_WORD) &&
            (word_before(text, match->begin) || word_after(text, n, match->end)))
            continue;
        *from = at;
        widen(text, n, done, match);
        return true;
    }
    *from = n;
    return false;
}
