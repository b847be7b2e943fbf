/* Command-line options from a table: parsing, range checks, and --help with examples. */
#ifndef SPEY_CLI_ARGS_H
#define SPEY_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum spey_option_kind {
    SPEY_OPTION_FLAG,   /* bool */
    SPEY_OPTION_CHOICE, /* int, which gets `min`: of several such with one target the last counts */
    SPEY_OPTION_INT,    /* int64_t in [min, max] */
    SPEY_OPTION_NUMBER, /* double in [min, max] */
    SPEY_OPTION_BYTES,  /* uint64_t with K, M, G, T (powers of 1024) */
    SPEY_OPTION_TEXT,   /* const char *, borrowed from argv */
    SPEY_OPTION_LIST,   /* spey_text_list: the option may be repeated */
} spey_option_kind;

enum { SPEY_LIST_MAX = 64 };
typedef struct spey_text_list {
    const char *items[SPEY_LIST_MAX];
    size_t n;
} spey_text_list;

typedef struct spey_option {
    const char *name; /* "max-tokens" */
    spey_option_kind kind;
    void *target;
    const char *value; /* "N"; NULL: it takes none */
    const char *help;
    double min, max; /* of INT and NUMBER */
} spey_option;

typedef struct spey_command {
    const char *name;     /* "run" */
    const char *summary;  /* one line */
    const char *usage;    /* "MODEL [PROMPT] [options]" */
    const char *details;  /* paragraphs or NULL */
    const char *examples; /* lines, each a command */
    const spey_option *options;
    size_t n_options;
    size_t positional_min, positional_max;
} spey_command;

enum { SPEY_POSITIONAL_MAX = 16 };
typedef struct spey_args {
    const char *positional[SPEY_POSITIONAL_MAX];
    size_t n_positional;
    bool help; /* --help was given and printed: do nothing more */
} spey_args;

/* Parse argv[0, argc) (after the command's name) into the targets. "--name value" and "--name=value"; "--" ends options;
 * "-h" and "--help" print the help on stdout. SPEY_INVALID names the option, what was found and what is expected; an
 * unknown one suggests the nearest. */
spey_status spey_args_parse(const spey_command *command, int argc, char **argv, spey_args *out);

/* "1, 2,3" to ids; the caller frees *out with spey_free. */
spey_status spey_args_ids(const char *what, const char *text, int32_t **out, size_t *n);

#endif
