/* What the model tests share: configurations from text, with patches. */
#ifndef SPEY_TESTS_MODEL_MODEL_TEST_H
#define SPEY_TESTS_MODEL_MODEL_TEST_H

#include "../graph/graph_test.h"

#include "base/json.h"
#include "model/model.h"

/* Single quotes stand for double ones. Free with json_decref. */
static inline json_t *json_of(const char *text)
{
    char copy[8192];
    json_t *json;
    size_t n = strlen(text);
    assert_true(n < sizeof copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = text[i] == '\'' ? '"' : text[i];
    must(spey_json_parse("test", copy, n, &json));
    return json;
}

/* `base` with the keys of `patch` put over it; "'key': '-'" takes the key away. */
static inline json_t *patched(const char *base, const char *patch)
{
    json_t *json = json_of(base), *over = json_of(patch), *value;
    const char *key;
    json_object_foreach(over, key, value)
    {
        bool drop = json_is_string(value) && strcmp(json_string_value(value), "-") == 0;
        assert_int_equal(drop ? json_object_del(json, key) : json_object_set(json, key, value), 0);
    }
    json_decref(over);
    return json;
}

#endif
