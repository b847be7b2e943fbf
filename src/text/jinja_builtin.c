#include "text/jinja_builtin.h"

#include <string.h>
#include <time.h>

#include "text/jinja_ops.h"
#include "text/jinja_text.h"

const jinja_builtin *spey_jinja_find_builtin(const jinja_builtin *table, size_t n, const char *name,
                                             size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0) return &table[i];
    return NULL;
}

/* Index of a parameter in the blank-separated names, or -1; *n is their number. */
static int find_parameter(const char *names, const char *name, size_t len, size_t *n)
{
    int found = -1, index = 0;
    for (const char *at = names; *at; index++) {
        size_t size = strcspn(at, " ");
        if (name && size == len && memcmp(at, name, len) == 0) found = index;
        at += size;
        at += *at == ' ';
    }
    *n = (size_t)index;
    return found;
}

static spey_status bind(const jinja_builtin *builtin, const jinja_args *args,
                        jinja_value bound[JINJA_PARAMETERS_MAX], size_t *n)
{
    find_parameter(builtin->parameters, NULL, 0, n);
    SPEY_ASSERT(*n <= JINJA_PARAMETERS_MAX);
    if (args->n > *n)
        return SPEY_FAIL(SPEY_INVALID, "%s: %zu arguments given, at most %zu expected",
                         builtin->name, args->n, *n);
    for (size_t i = 0; i < JINJA_PARAMETERS_MAX; i++)
        bound[i] = i < args->n ? args->items[i] : (jinja_value){ .kind = JINJA_MISSING };
    for (size_t i = 0; i < args->n_named; i++) {
        const jinja_named *named = &args->named[i];
        int index = find_parameter(builtin->parameters, named->name, named->len, n);
        if (index < 0)
            return SPEY_FAIL(SPEY_INVALID, "%s: unexpected keyword argument '%.100s'",
                             builtin->name, named->name);
        if (bound[index].kind != JINJA_MISSING)
            return SPEY_FAIL(SPEY_INVALID, "%s: multiple values for argument '%.100s'",
                             builtin->name, named->name);
        bound[index] = named->value;
    }
    for (size_t i = 0; i < builtin->required; i++)
        if (bound[i].kind == JINJA_MISSING)
            return SPEY_FAIL(SPEY_INVALID, "%s: argument %zu is missing", builtin->name, i + 1);
    return SPEY_OK;
}

spey_status spey_jinja_call_builtin(jinja_render *render, const jinja_builtin *builtin,
                                    jinja_value self, const jinja_args *args, jinja_value *out)
{
    if (!builtin->call) return SPEY_FAIL(SPEY_UNSUPPORTED, "'%s' is not supported", builtin->name);
    SPEY_TRY(spey_jinja_work(render, 1));
    if (!builtin->parameters) return builtin->call(render, self, args, out);
    jinja_value bound[JINJA_PARAMETERS_MAX];
    size_t n;
    SPEY_TRY(bind(builtin, args, bound, &n));
    const jinja_args by_position = { .n = n, .items = bound };
    return builtin->call(render, self, &by_position, out);
}

spey_status spey_jinja_arg_int(const jinja_builtin *builtin, jinja_value v, int64_t missing,
                               int64_t *out)
{
    *out = missing;
    if (v.kind == JINJA_MISSING || spey_jinja_whole(v, out)) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: an integer is required, not %s",
                     builtin ? builtin->name : "argument", spey_jinja_type(v));
}

/* ---- global functions ---- */

enum { RANGE_MAX = 100000 }; /* as in Jinja's sandbox */

static spey_status call_range(jinja_render *render, jinja_value self, const jinja_args *args,
                              jinja_value *out)
{
    int64_t given[3] = { 0, 0, 1 };
    for (size_t i = 0; i < 3; i++)
        SPEY_TRY(spey_jinja_arg_int(self.builtin, args->items[i], given[i], &given[i]));
    if (args->items[1].kind == JINJA_MISSING) {
        given[1] = given[0];
        given[0] = 0;
    }
    int64_t start = given[0], stop = given[1], step = given[2];
    if (step == 0) return SPEY_FAIL(SPEY_INVALID, "range() arg 3 must not be zero");
    uint64_t span = 0, stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    if (step > 0 ? start < stop : start > stop)
        span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t n = span / stride + (span % stride != 0);
    if (n > RANGE_MAX) return SPEY_FAIL(SPEY_LIMIT, "range too big: at most %d items", RANGE_MAX);
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, n, &list));
    for (uint64_t i = 0; i < n; i++)
        SPEY_TRY(spey_jinja_list_push(
            render, list, spey_jinja_int((int64_t)((uint64_t)start + i * (uint64_t)step))));
    memcpy(list->range, given, sizeof given);
    *out = spey_jinja_of_list(JINJA_RANGE, list);
    return SPEY_OK;
}

/* dict(mapping or pairs, **named) into `dict`. */
static spey_status fill_dict(jinja_render *render, const jinja_args *args, jinja_dict *dict)
{
    if (args->n > 1) return SPEY_FAIL(SPEY_INVALID, "dict: at most 1 argument expected");
    if (args->n && args->items[0].kind == JINJA_DICT) {
        const jinja_dict *from = args->items[0].dict;
        for (size_t i = 0; i < from->n; i++)
            SPEY_TRY(spey_jinja_dict_add(render, dict, from->keys[i], from->values[i]));
        SPEY_TRY(spey_jinja_work(render, from->n));
    } else if (args->n) {
        jinja_list *pairs, *pair;
        SPEY_TRY(spey_jinja_iterate(render, args->items[0], &pairs));
        for (size_t i = 0; i < pairs->n; i++) {
            SPEY_TRY(spey_jinja_iterate(render, pairs->items[i], &pair));
            if (pair->n != 2) return SPEY_FAIL(SPEY_INVALID, "dict: pairs expected");
            SPEY_TRY(spey_jinja_dict_put(render, dict, pair->items[0], pair->items[1]));
        }
    }
    for (size_t i = 0; i < args->n_named; i++) {
        const jinja_named *named = &args->named[i];
        SPEY_TRY(spey_jinja_dict_put(render, dict, spey_jinja_text(named->name, named->len),
                                     named->value));
    }
    return SPEY_OK;
}

static spey_status call_dict(jinja_render *render, jinja_value self, const jinja_args *args,
                             jinja_value *out)
{
    jinja_dict *dict;
    SPEY_TRY(spey_jinja_dict_new(render, 0, &dict));
    SPEY_TRY(fill_dict(render, args, dict));
    (void)self;
    *out = (jinja_value){ .kind = JINJA_DICT, .dict = dict };
    return SPEY_OK;
}

static spey_status call_namespace(jinja_render *render, jinja_value self, const jinja_args *args,
                                  jinja_value *out)
{
    SPEY_TRY(call_dict(render, self, args, out));
    out->kind = JINJA_NAMESPACE;
    return SPEY_OK;
}

static spey_status call_joiner(jinja_render *render, jinja_value self, const jinja_args *args,
                               jinja_value *out)
{
    (void)self;
    jinja_list *list;
    jinja_value separator = args->items[0];
    SPEY_TRY(spey_jinja_list_new(render, 1, &list));
    if (separator.kind == JINJA_MISSING) separator = spey_jinja_literal(", ");
    SPEY_TRY(spey_jinja_list_push(render, list, separator));
    *out = spey_jinja_of_list(JINJA_JOINER, list);
    return SPEY_OK;
}

static spey_status call_cycler(jinja_render *render, jinja_value self, const jinja_args *args,
                               jinja_value *out)
{
    (void)self;
    jinja_list *list;
    if (args->n == 0) return SPEY_FAIL(SPEY_INVALID, "cycler: at least one item expected");
    SPEY_TRY(spey_jinja_list_new(render, args->n, &list));
    for (size_t i = 0; i < args->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, list, args->items[i]));
    *out = spey_jinja_of_list(JINJA_CYCLER, list);
    return SPEY_OK;
}

static spey_status call_raise_exception(jinja_render *render, jinja_value self,
                                        const jinja_args *args, jinja_value *out)
{
    (void)self;
    SPEY_TRY(spey_jinja_to_str(render, args->items[0], out));
    render->message_is_final = true;
    return SPEY_FAIL(SPEY_INVALID, "%.*s", (int)(out->len < 1000 ? out->len : 1000), out->text);
}

static spey_status call_strftime_now(jinja_render *render, jinja_value self, const jinja_args *args,
                                     jinja_value *out)
{
    jinja_value format = args->items[0];
    char copy[256], text[1024];
    time_t now = time(NULL);
    struct tm parts;
    (void)self;
    if (format.kind != JINJA_STRING || format.len >= sizeof copy)
        return SPEY_FAIL(SPEY_INVALID, "strftime_now: a format of at most 255 bytes is expected");
    memcpy(copy, format.text, format.len);
    copy[format.len] = 0;
    if (!localtime_r(&now, &parts)) return SPEY_FAIL(SPEY_INTERNAL, "no local time");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof text, copy, &parts);
#pragma GCC diagnostic pop
    if (n == 0 && format.len > 0 && !spey_jinja_is_text(format, "%p"))
        return SPEY_FAIL(SPEY_INVALID, "strftime_now: cannot format '%s'", copy);
    if (!spey_jinja_utf8_is_valid(text, n))
        return SPEY_FAIL(SPEY_INVALID, "strftime_now: '%s' does not give UTF-8", copy);
    return spey_jinja_copy_text(render, text, n, out);
}

static const jinja_builtin functions[] = {
    { "range", call_range, "start stop step", 1 },
    { "dict", call_dict, NULL, 0 },
    { "namespace", call_namespace, NULL, 0 },
    { "joiner", call_joiner, "sep", 0 },
    { "cycler", call_cycler, NULL, 0 },
    { "raise_exception", call_raise_exception, "message", 1 },
    { "strftime_now", call_strftime_now, "format", 1 },
    { "lipsum", NULL, NULL, 0 },
};

const jinja_builtin *spey_jinja_find_function(const char *name, size_t len)
{
    return spey_jinja_find_builtin(functions, sizeof functions / sizeof *functions, name, len);
}

const jinja_builtin *spey_jinja_find_filter(const char *name, size_t len)
{
    const jinja_builtin *found = spey_jinja_find_text_filter(name, len);
    return found ? found : spey_jinja_find_list_filter(name, len);
}
