/* Reading values of config.json. */
#include "model_test.h"

#include <math.h>

#include "model/config.h"

static spey_config config_of(const json_t *json)
{
    return (spey_config){ .where = "config.json", .json = json };
}

static void the_first_spelling_that_is_there_counts(void **state)
{
    (void)state;
    json_t *json = json_of("{'n_layer': 3, 'num_hidden_layers': null, 'layers': 5}");
    spey_config config = config_of(json);
    assert_int_equal(spey_config_int(&config, "num_hidden_layers|n_layer|layers", 1, 9, -1), 3);
    assert_int_equal(spey_config_int(&config, "layers|n_layer", 1, 9, -1), 5);
    assert_int_equal(spey_config_int(&config, "missing", 1, 9, 7), 7);
    assert_false(spey_config_has(&config, "num_hidden_layers"));
    assert_true(spey_config_has(&config, "num_hidden_layers|n_layer"));
    must(config.status);
    json_decref(json);
}

static void the_first_failure_stays(void **state)
{
    (void)state;
    json_t *json = json_of("{'a': 'x', 'b': 1}");
    spey_config config = config_of(json);
    assert_int_equal(spey_config_int(&config, "a", 4, 9, 5), 4);
    assert_int_equal(spey_config_int(&config, "b", 0, 9, 5), 0); /* the lower end: no longer read */
    spey_config_number(&config, "missing", 0, 1, SPEY_REQUIRED);
    spey_config_demand(&config, false, "later");
    assert_int_equal(config.status, SPEY_FORMAT);
    assert_string_equal(spey_last_error(), "config.json: \"a\" is a string, expected an integer");
    json_decref(json);
}

static void objects_inside_have_readers_of_their_own(void **state)
{
    (void)state;
    json_t *json = json_of("{'rope': {'factor': 2}, 'none': null}");
    spey_config config = config_of(json);
    char where[SPEY_PATH_BYTES_MAX];
    spey_config rope = spey_config_enter(&config, "rope", where);
    assert_true(spey_config_number(&rope, "factor", 0, 9, 1) == 2);
    spey_config none = spey_config_enter(&config, "none", where);
    assert_true(spey_config_number(&none, "factor", 0, 9, 1) == 1);
    spey_config_number(&none, "theta", 1, 9, SPEY_REQUIRED);
    spey_config_leave(&config, &none);
    must_fail(config.status, SPEY_FORMAT, "config.json: none: \"theta\" is missing");
    json_decref(json);
}

static void activations_have_many_names(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "silu", "silu" },           { "gelu", "gelu" },
        { "gelu_new", "gelu_tanh" },  { "gelu_pytorch_tanh", "gelu_tanh" },
        { "gelu_fast", "gelu_tanh" }, { "quick_gelu", "quick_gelu" },
        { "relu", "relu" },           { "swish", "silu" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = json_object();
        json_object_set_new(json, "hidden_act", json_string(cases[i][0]));
        spey_config config = config_of(json);
        assert_string_equal(spey_config_activation(&config, "hidden_act", NULL), cases[i][1]);
        must(config.status);
        json_decref(json);
    }
    json_t *json = json_of("{}");
    spey_config config = config_of(json);
    assert_string_equal(spey_config_activation(&config, "hidden_act", "gelu"), "gelu");
    spey_config_activation(&config, "hidden_act", NULL);
    must_fail(config.status, SPEY_UNSUPPORTED, "\"hidden_act\" is \"null\"; supported are silu");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_spelling_that_is_there_counts),
        cmocka_unit_test(the_first_failure_stays),
        cmocka_unit_test(objects_inside_have_readers_of_their_own),
        cmocka_unit_test(activations_have_many_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
