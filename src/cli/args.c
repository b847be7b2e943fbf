#include "cli/args.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/edit_distance.h"

static void print_option(const spey_option *o)
{
    char left[64];
    snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    const char *line = o->help;
    for (bool first = true; line; first = false) {
        const char *end = strchr(line, '\n');
        printf("  %-28s %.*s\n", first ? left : "", end ? (int)(end - line) : (int)strlen(line),
               line);
        line = end ? end + 1 : NULL;
    }
}

static void print_help(const spey_command *c)
{
    printf("spey %s: %s\n\nUsage: spey %s %s\n", c->name, c->summary, c->name, c->usage);
    if (c->details) printf("\n%s\n", c->details);
    printf("\nOptions:\n");
    for (size_t i = 0; i < c->n_options; i++)
        print_option(&c->options[i]);
    printf("  %-28s %s\n", "--help", "show this");
    if (c->examples) printf("\nExamples:\n%s\n", c->examples);
}

static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] && a[n] == b[n])
        n++;
    return n;
}

static spey_status unknown_option(const spey_command *c, const char *name, size_t len)
{
    char asked[64];
    snprintf(asked, sizeof asked, "%.*s", (int)len, name);
    const char *nearest = NULL;
    int best = 4;
    for (size_t i = 0; i < c->n_options; i++) {
        int d = spey_edit_distance(asked, c->options[i].name);
        if (common_prefix(asked, c->options[i].name) >= 3 && d > 3) d = 3;
        if (d < best) {
            best = d;
            nearest = c->options[i].name;
        }
    }
    if (nearest)
        return SPEY_FAIL(SPEY_INVALID,
                         "unknown option --%s; did you mean --%s? (spey %s --help lists them)",
                         asked, nearest, c->name);
    return SPEY_FAIL(SPEY_INVALID, "unknown option --%s (spey %s --help lists them)", asked,
                     c->name);
}

static spey_status parse_bytes(const spey_option *o, const char *text)
{
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    static const char suffixes[] = "KMGT";
    double scale = 1;
    if (end != text && *end) {
        const char *at = strchr(suffixes, toupper((unsigned char)*end));
        if (at) {
            scale = pow(1024, (double)(at - suffixes + 1));
            end++;
        }
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (end == text || *end || !(number >= 0) || !(number * scale < 0x1p62))
        return SPEY_FAIL(SPEY_INVALID, "--%s is \"%s\", expected a size such as 512M or 4G",
                         o->name, text);
    *(uint64_t *)o->target = (uint64_t)(number * scale);
    return SPEY_OK;
}

static spey_status parse_number(const spey_option *o, const char *text)
{
    char *end;
    errno = 0;
    if (o->kind == SPEY_OPTION_INT) {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno || (double)value < o->min || (double)value > o->max)
            return SPEY_FAIL(SPEY_INVALID, "--%s is \"%s\", expected an integer from %.0f to %.0f",
                             o->name, text, o->min, o->max);
        *(int64_t *)o->target = value;
        return SPEY_OK;
    }
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= o->min && value <= o->max))
        return SPEY_FAIL(SPEY_INVALID, "--%s is \"%s\", expected a number from %g to %g", o->name,
                         text, o->min, o->max);
    *(double *)o->target = value;
    return SPEY_OK;
}

static spey_status set_option(const spey_option *o, const char *text)
{
    switch (o->kind) {
    case SPEY_OPTION_FLAG: *(bool *)o->target = true; return SPEY_OK;
    case SPEY_OPTION_CHOICE: *(int *)o->target = (int)o->min; return SPEY_OK;
    case SPEY_OPTION_INT:
    case SPEY_OPTION_NUMBER: return parse_number(o, text);
    case SPEY_OPTION_BYTES: return parse_bytes(o, text);
    case SPEY_OPTION_TEXT: *(const char **)o->target = text; return SPEY_OK;
    case SPEY_OPTION_LIST: break;
    }
    spey_text_list *list = o->target;
    if (list->n == SPEY_LIST_MAX)
        return SPEY_FAIL(SPEY_INVALID, "--%s is given more than %d times", o->name, SPEY_LIST_MAX);
    list->items[list->n++] = text;
    return SPEY_OK;
}

static const spey_option *find_option(const spey_command *c, const char *name, size_t len)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (strlen(c->options[i].name) == len && !memcmp(c->options[i].name, name, len))
            return &c->options[i];
    return NULL;
}

static bool takes_value(const spey_option *o)
{
    return o->kind != SPEY_OPTION_FLAG && o->kind != SPEY_OPTION_CHOICE;
}

/* Parse the option at argv[*i]; moves *i over a separate value. */
static spey_status parse_option(const spey_command *c, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const spey_option *o = find_option(c, name, len);
    if (!o) return unknown_option(c, name, len);
    if (!takes_value(o)) {
        if (equals) return SPEY_FAIL(SPEY_INVALID, "--%s takes no value", o->name);
        return set_option(o, NULL);
    }
    if (!equals && *i + 1 >= argc)
        return SPEY_FAIL(SPEY_INVALID, "--%s needs a value: --%s %s", o->name, o->name, o->value);
    return set_option(o, equals ? equals + 1 : argv[++*i]);
}

spey_status spey_args_parse(const spey_command *c, int argc, char **argv, spey_args *out)
{
    *out = (spey_args){ 0 };
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!options_end && (!strcmp(arg, "--help") || !strcmp(arg, "-h"))) {
            print_help(c);
            out->help = true;
            return SPEY_OK;
        }
        if (!options_end && !strcmp(arg, "--")) {
            options_end = true;
        } else if (!options_end && !strncmp(arg, "--", 2)) {
            SPEY_TRY(parse_option(c, argc, argv, &i));
        } else if (!options_end && !strcmp(arg, "-o") && find_option(c, "output", 6)) {
            if (i + 1 >= argc) return SPEY_FAIL(SPEY_INVALID, "-o needs a value: -o FILE");
            SPEY_TRY(set_option(find_option(c, "output", 6), argv[++i]));
        } else if (!options_end && arg[0] == '-' && arg[1]) {
            return SPEY_FAIL(SPEY_INVALID, "unknown option %s (spey %s --help lists them)", arg,
                             c->name);
        } else if (out->n_positional == c->positional_max) {
            return SPEY_FAIL(SPEY_INVALID, "unexpected argument \"%s\": usage: spey %s %s", arg,
                             c->name, c->usage);
        } else {
            out->positional[out->n_positional++] = arg;
        }
    }
    if (out->n_positional < c->positional_min)
        return SPEY_FAIL(SPEY_INVALID, "arguments are missing: usage: spey %s %s", c->name,
                         c->usage);
    return SPEY_OK;
}

spey_status spey_args_ids(const char *what, const char *text, int32_t **out, size_t *n)
{
    *out = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, strlen(text) / 2 + 1);
    *n = 0;
    if (!*out) return SPEY_NOMEM;
    const char *p = text;
    for (;;) {
        char *end;
        long value = strtol(p, &end, 10);
        if (end == p || value < 0 || value > INT32_MAX) break;
        (*out)[(*n)++] = (int32_t)value;
        while (*end == ' ')
            end++;
        if (!*end) return SPEY_OK;
        p = *end == ',' ? end + 1 : end;
    }
    spey_free(*out);
    *out = NULL;
    return SPEY_FAIL(SPEY_INVALID, "%s is \"%.40s\", expected token ids such as 1,2,3", what, text);
}
