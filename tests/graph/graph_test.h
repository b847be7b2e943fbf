/* What the graph tests share: cmocka, and graphs from text. */
#ifndef SPEY_TESTS_GRAPH_GRAPH_TEST_H
#define SPEY_TESTS_GRAPH_GRAPH_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph_text.h"

/* Fail with the error text. */
#define must(expr)                                                \
    do {                                                          \
        if ((expr) != SPEY_OK) fail_msg("%s", spey_last_error()); \
    } while (0)

/* `expr` fails with `status` and a message that holds `text`. */
#define must_fail(expr, status, text)                                          \
    do {                                                                       \
        assert_int_equal((expr), (status));                                    \
        if (!strstr(spey_last_error(), (text)))                                \
            fail_msg("\"%s\" does not say \"%s\"", spey_last_error(), (text)); \
    } while (0)

static inline spey_graph *graph_of(const char *text)
{
    spey_graph *graph;
    must(spey_graph_parse("test", text, strlen(text), &graph));
    return graph;
}

/* Free with spey_free. */
static inline char *text_of(const spey_graph *graph)
{
    spey_strbuf buf = { 0 };
    char *text;
    must(spey_graph_write(graph, &buf));
    must(spey_strbuf_take(&buf, &text, NULL));
    return text;
}

#endif
