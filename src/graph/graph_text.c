#include "graph/graph_text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph_infer.h"

static const char *const cut_names[] = { "none", "rows", "cols" };

/* ---- writing ---- */

/* The fewest digits that read back as the same number; whole numbers in full. */
static void write_number(spey_strbuf *out, double number)
{
    char text[40];
    if (fabs(number) < 1e15 && floor(number) == number) {
        spey_strbuf_printf(out, "%.0f", number);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    spey_strbuf_puts(out, text);
}

/* `is_read`: by a node, so that an E4M3 one has scales. */
static void write_weight(spey_strbuf *out, const spey_graph *graph, const spey_weight *weight,
                         bool is_read)
{
    spey_strbuf_printf(out, "weight %s %s [", weight->name, spey_dtype_name(weight->dtype));
    for (int d = 0; d < weight->n_dims; d++)
        spey_strbuf_printf(out, "%s%" PRId64, d ? "," : "", weight->dims[d]);
    spey_strbuf_putc(out, ']');
    if (weight->cut) spey_strbuf_printf(out, " cut=%s", cut_names[weight->cut]);
    if (is_read && weight->dtype == SPEY_E4M3) {
        spey_strbuf_printf(out, " scale=%s", graph->weights[weight->scale].name);
        if (weight->input == SPEY_INPUT_TOKEN) spey_strbuf_puts(out, " input=token");
        if (weight->input == SPEY_INPUT_STATIC)
            spey_strbuf_printf(out, " input_scale=%s", graph->weights[weight->input_scale].name);
    }
    for (int p = 0; p < weight->n_parts; p++) {
        const spey_weight *part = &graph->weights[weight->parts[p]];
        spey_strbuf_printf(out, "%s%s:%" PRId64, p ? "," : " parts=", part->name, part->dims[0]);
    }
    spey_strbuf_putc(out, '\n');
}

/* Where a weight is declared: on a line of its own in its turn; or earlier, by what it is a scale or a part of. */
typedef enum declaration { OWN_LINE, INSIDE, WRITTEN } declaration;

/* Scales come before the first weight that they belong to; parts are declared inside. */
static void write_weight_and_scales(spey_strbuf *out, const spey_graph *graph, int32_t w,
                                    bool is_read, declaration *declared)
{
    int32_t scales[2];
    int n_scales = is_read ? spey_graph_scales(graph, w, scales) : 0;
    for (int i = 0; i < n_scales; i++) {
        if (declared[scales[i]] != WRITTEN)
            write_weight(out, graph, &graph->weights[scales[i]], true);
        declared[scales[i]] = WRITTEN;
    }
    write_weight(out, graph, &graph->weights[w], is_read);
}

static spey_status write_weights(const spey_graph *graph, spey_strbuf *out)
{
    bool *used = spey_new_array(SPEY_PURPOSE_GRAPH, bool, graph->n_weights);
    declaration *declared = spey_new_array(SPEY_PURPOSE_GRAPH, declaration, graph->n_weights);
    if (used && declared) {
        spey_graph_mark_weights(graph, used);
        for (int w = 0; w < graph->n_weights; w++) {
            const spey_weight *weight = &graph->weights[w];
            int32_t scales[2];
            int n_scales = used[w] ? spey_graph_scales(graph, w, scales) : 0;
            for (int p = 0; p < weight->n_parts; p++)
                declared[weight->parts[p]] = used[weight->parts[p]] ? OWN_LINE : INSIDE;
            for (int i = 0; i < n_scales; i++)
                declared[scales[i]] = INSIDE;
        }
        for (int w = 0; w < graph->n_weights; w++)
            if (declared[w] == OWN_LINE) write_weight_and_scales(out, graph, w, used[w], declared);
    }
    spey_status status = used && declared ? SPEY_OK : SPEY_NOMEM;
    spey_free(used);
    spey_free(declared);
    return status;
}

static void write_attrs(spey_strbuf *out, const spey_node *node)
{
    const char *before = " {";
    for (int a = 0; a < SPEY_ATTR_COUNT; a++) {
        if (!(node->attrs_set >> a & 1)) continue;
        spey_strbuf_printf(out, "%s%s=", before, spey_attr_name((spey_attr)a));
        switch (spey_attr_kind((spey_attr)a)) {
        case 'I': spey_strbuf_printf(out, "%" PRId64, node->attrs[a].i); break;
        case 'F': write_number(out, node->attrs[a].f); break;
        default: spey_strbuf_puts(out, node->attrs[a].s); break;
        }
        before = " ";
    }
    if (node->attrs_set) spey_strbuf_putc(out, '}');
}

static void write_node(spey_strbuf *out, const spey_graph *graph, const spey_node *node)
{
    for (int i = 0; i < node->n_outputs; i++)
        spey_strbuf_printf(out, "%s%%%d", i ? ", " : "", node->outputs[i]);
    spey_strbuf_printf(out, "%s%s(", node->n_outputs ? " = " : "", spey_graph_op_name(node->op));
    for (int i = 0; i < node->n_inputs; i++)
        spey_strbuf_printf(out, "%s%%%d", i ? ", " : "", node->inputs[i]);
    spey_strbuf_putc(out, ')');
    for (int w = 0; w < node->n_weights; w++)
        spey_strbuf_printf(out, " %s", graph->weights[node->weights[w]].name);
    for (int i = 0; i < node->n_outputs; i++) {
        const spey_value_info *value = &graph->values[node->outputs[i]];
        spey_strbuf_printf(out, "%s%s %" PRId64, i ? ", " : " : ", spey_rows_name(value->rows),
                           value->cols);
    }
    write_attrs(out, node);
    spey_strbuf_putc(out, '\n');
}

static const char *kv_kind(const spey_cache_group *group)
{
    if (!group->source) return "kv";
    return group->scratch ? "scratch" : "cross";
}

spey_status spey_graph_write(const spey_graph *graph, spey_strbuf *out)
{
    spey_strbuf_puts(out, "spey-graph 1\n");
    SPEY_TRY(write_weights(graph, out));
    for (int c = 0; c < graph->n_caches; c++) {
        const spey_cache_group *group = &graph->caches[c];
        if (group->state) {
            spey_strbuf_printf(out, "cache %d state layers=%" PRId64 " elements=%" PRId64 "\n", c,
                               group->layers, group->state);
            continue;
        }
        spey_strbuf_printf(
            out,
            "cache %d %s layers=%" PRId64 " heads=%" PRId64 " k_dim=%" PRId64 " v_dim=%" PRId64, c,
            kv_kind(group), group->layers, group->heads, group->k_dim, group->v_dim);
        if (group->window) spey_strbuf_printf(out, " window=%" PRId64, group->window);
        if (group->scaled)
            spey_strbuf_printf(out, " scales=%s", graph->weights[group->scales].name);
        spey_strbuf_putc(out, '\n');
    }
    for (int n = 0; n < graph->n_nodes; n++)
        write_node(out, graph, &graph->nodes[n]);
    if (graph->output >= 0) spey_strbuf_printf(out, "output %%%d\n", graph->output);
    return spey_strbuf_status(out);
}

/* ---- reading: one line at a time, a cursor that never leaves it ---- */

typedef struct parser {
    const char *where;
    int line;
    const char *at, *end; /* what is left of the line */
    spey_graph *graph;
} parser;

#define BAD(p, ...) \
    spey_error_context(SPEY_FAIL(SPEY_FORMAT, __VA_ARGS__), "%s:%d", (p)->where, (p)->line)

/* What is left of the line, cut short, for "%.*s". */
#define REST(p) (int)((p)->end - (p)->at > 40 ? 40 : (p)->end - (p)->at), (p)->at

/* Pass on a failure of the graph, as a fault of the text unless memory ran out. */
static spey_status blame(const parser *p, spey_status status)
{
    if (status == SPEY_OK) return SPEY_OK;
    spey_error_context(status, "%s:%d", p->where, p->line);
    return status == SPEY_INVALID ? SPEY_FORMAT : status;
}

static void skip_spaces(parser *p)
{
    while (p->at < p->end && *p->at == ' ')
        p->at++;
}

static bool accept(parser *p, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, text, n) != 0) return false;
    p->at += n;
    return true;
}

static spey_status expect(parser *p, const char *text)
{
    if (accept(p, text)) return SPEY_OK;
    return BAD(p, "expected \"%s\" at \"%.*s\"", text, REST(p));
}

/* A run of characters of names and numbers; empty is an error. */
static spey_status word(parser *p, const char **out, size_t *n)
{
    const char *begin = p->at;
    while (p->at < p->end && (isalnum((unsigned char)*p->at) || strchr("._-/+", *p->at)) && *p->at)
        p->at++;
    *out = begin;
    *n = (size_t)(p->at - begin);
    if (*n == 0) return BAD(p, "expected a word at \"%.*s\"", REST(p));
    if (*n >= SPEY_NAME_BYTES_MAX) return BAD(p, "a word of %zu bytes", *n);
    return SPEY_OK;
}

static spey_status word_copy(parser *p, char out[SPEY_NAME_BYTES_MAX])
{
    const char *begin;
    size_t n;
    SPEY_TRY(word(p, &begin, &n));
    memcpy(out, begin, n);
    out[n] = 0;
    return SPEY_OK;
}

static spey_status integer(parser *p, int64_t *out)
{
    char text[SPEY_NAME_BYTES_MAX], *end;
    SPEY_TRY(word_copy(p, text));
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*end || errno || text[0] == '+')
        return BAD(p, "\"%s\" is not a whole number in range", text);
    *out = value;
    return SPEY_OK;
}

static spey_status number(parser *p, double *out)
{
    char text[SPEY_NAME_BYTES_MAX], *end;
    SPEY_TRY(word_copy(p, text));
    bool digits = strspn(text, "0123456789+-.e") == strlen(text);
    double value = digits ? strtod(text, &end) : 0;
    if (!digits || *end || !isfinite(value)) return BAD(p, "\"%s\" is not a number", text);
    *out = value;
    return SPEY_OK;
}

static spey_status value(parser *p, spey_value *out)
{
    int64_t i = 0;
    SPEY_TRY(expect(p, "%"));
    SPEY_TRY(integer(p, &i));
    if (i < 0 || i >= p->graph->n_values)
        return BAD(p, "%%%" PRId64 " is not made by an earlier line", i);
    *out = (spey_value)i;
    return SPEY_OK;
}

/* "KEY=WHOLE NUMBER" */
static spey_status field(parser *p, const char *key, int64_t *out)
{
    SPEY_TRY(expect(p, key));
    SPEY_TRY(expect(p, "="));
    return integer(p, out);
}

/* ---- weights and caches ---- */

static spey_status parse_dims(parser *p, spey_weight *weight)
{
    SPEY_TRY(expect(p, "["));
    do {
        if (weight->n_dims == SPEY_DIMS_MAX) return BAD(p, "more than %d dims", SPEY_DIMS_MAX);
        SPEY_TRY(integer(p, &weight->dims[weight->n_dims++]));
    } while (accept(p, ","));
    return expect(p, "]");
}

/* A part is a leaf: declared before, or here. */
static spey_status parse_part(parser *p, spey_weight *weight)
{
    if (weight->n_parts == SPEY_WEIGHT_PARTS_MAX)
        return BAD(p, "more than %d parts", SPEY_WEIGHT_PARTS_MAX);
    char name[SPEY_NAME_BYTES_MAX];
    int64_t rows;
    SPEY_TRY(word_copy(p, name));
    SPEY_TRY(expect(p, ":"));
    SPEY_TRY(integer(p, &rows));
    int32_t *index = &weight->parts[weight->n_parts++];
    *index = spey_graph_find_weight(p->graph, name);
    if (*index >= 0) {
        if (p->graph->weights[*index].dims[0] != rows)
            return BAD(p, "part %s has %" PRId64 " rows elsewhere", name,
                       p->graph->weights[*index].dims[0]);
        return SPEY_OK;
    }
    spey_weight leaf = {
        .name = name, .dtype = weight->dtype, .n_dims = weight->n_dims, .cut = weight->cut
    };
    memcpy(leaf.dims, weight->dims, sizeof leaf.dims);
    leaf.dims[0] = rows;
    return blame(p, spey_graph_add_weight(p->graph, &leaf, index));
}

static spey_status parse_cut(parser *p, spey_weight *weight)
{
    for (int cut = SPEY_CUT_ROWS; cut <= SPEY_CUT_COLS; cut++)
        if (accept(p, cut_names[cut])) {
            weight->cut = (spey_cut)cut;
            return SPEY_OK;
        }
    return BAD(p, "cut is neither rows nor cols");
}

/* "=NAME" of a weight that was declared before. */
static spey_status parse_scale(parser *p, int32_t *out)
{
    char name[SPEY_NAME_BYTES_MAX];
    SPEY_TRY(word_copy(p, name));
    *out = spey_graph_find_weight(p->graph, name);
    if (*out < 0) return BAD(p, "scale %s is not declared", name);
    return SPEY_OK;
}

/* [ scale= [ input=token | input_scale= ] ] */
static spey_status parse_scales(parser *p, spey_weight *weight)
{
    weight->scale = weight->input_scale = -1;
    if (!accept(p, " scale=")) return SPEY_OK;
    if (weight->dtype != SPEY_E4M3)
        return BAD(p, "weight %s is %s: it has no scales", weight->name,
                   spey_dtype_name(weight->dtype));
    SPEY_TRY(parse_scale(p, &weight->scale));
    if (accept(p, " input=token")) weight->input = SPEY_INPUT_TOKEN;
    if (!accept(p, " input_scale=")) return SPEY_OK;
    if (weight->input) return BAD(p, "weight %s: two ways to scale inputs", weight->name);
    weight->input = SPEY_INPUT_STATIC;
    return parse_scale(p, &weight->input_scale);
}

static spey_status parse_weight(parser *p)
{
    char name[SPEY_NAME_BYTES_MAX];
    const char *dtype;
    size_t n;
    spey_weight weight = { .name = name };
    SPEY_TRY(word_copy(p, name));
    SPEY_TRY(expect(p, " "));
    SPEY_TRY(word(p, &dtype, &n));
    if (!spey_dtype_from_name(dtype, n, &weight.dtype))
        return BAD(p, "weight %s: unknown dtype \"%.*s\"", name, (int)n, dtype);
    SPEY_TRY(expect(p, " "));
    SPEY_TRY(parse_dims(p, &weight));
    if (accept(p, " cut=")) SPEY_TRY(parse_cut(p, &weight));
    SPEY_TRY(parse_scales(p, &weight));
    if (accept(p, " parts=")) do {
            SPEY_TRY(parse_part(p, &weight));
        } while (accept(p, ","));
    int32_t index;
    return blame(p, spey_graph_add_weight(p->graph, &weight, &index));
}

static spey_status parse_cache(parser *p)
{
    int64_t number_of = 0;
    spey_cache_group group = { 0 };
    SPEY_TRY(integer(p, &number_of));
    if (number_of != p->graph->n_caches)
        return BAD(p, "cache %" PRId64 ", expected %d", number_of, p->graph->n_caches);
    bool state = accept(p, " state ");
    group.scratch = !state && accept(p, " scratch ");
    group.source = group.scratch || (!state && accept(p, " cross "));
    if (!state && !group.source) SPEY_TRY(expect(p, " kv "));
    SPEY_TRY(field(p, "layers", &group.layers));
    if (state) {
        SPEY_TRY(field(p, " elements", &group.state));
        if (!group.state) return BAD(p, "a state without elements");
    } else {
        SPEY_TRY(field(p, " heads", &group.heads));
        SPEY_TRY(field(p, " k_dim", &group.k_dim));
        SPEY_TRY(field(p, " v_dim", &group.v_dim));
        if (accept(p, " window=")) SPEY_TRY(integer(p, &group.window));
        group.scaled = accept(p, " scales=");
        if (group.scaled) SPEY_TRY(parse_scale(p, &group.scales));
    }
    int index;
    return blame(p, spey_graph_add_cache(p->graph, &group, &index));
}

/* ---- nodes ---- */

static spey_status parse_attr(parser *p, spey_node *node)
{
    const char *name, *text;
    size_t n, n_text;
    SPEY_TRY(word(p, &name, &n));
    int a = 0;
    while (a < SPEY_ATTR_COUNT && (strlen(spey_attr_name((spey_attr)a)) != n ||
                                   memcmp(spey_attr_name((spey_attr)a), name, n) != 0))
        a++;
    if (a == SPEY_ATTR_COUNT) return BAD(p, "unknown attribute \"%.*s\"", (int)n, name);
    if (node->attrs_set >> a & 1) return BAD(p, "%.*s is given twice", (int)n, name);
    SPEY_TRY(expect(p, "="));
    node->attrs_set |= (uint64_t)1 << a;
    switch (spey_attr_kind((spey_attr)a)) {
    case 'I': return integer(p, &node->attrs[a].i);
    case 'F': return number(p, &node->attrs[a].f);
    default: break;
    }
    SPEY_TRY(word(p, &text, &n_text));
    node->attrs[a].s = spey_attr_find_text((spey_attr)a, text, n_text);
    if (!node->attrs[a].s) return BAD(p, "unknown %.*s \"%.*s\"", (int)n, name, (int)n_text, text);
    return SPEY_OK;
}

/* "OP(%a, %b) weights" */
static spey_status parse_call(parser *p, spey_node *node)
{
    const char *name;
    size_t n;
    SPEY_TRY(word(p, &name, &n));
    int op = 0;
    while (op < SPEY_GRAPH_OP_COUNT &&
           (strlen(spey_graph_op_name((spey_graph_op)op)) != n ||
            memcmp(spey_graph_op_name((spey_graph_op)op), name, n) != 0))
        op++;
    if (op == SPEY_GRAPH_OP_COUNT) return BAD(p, "unknown op \"%.*s\"", (int)n, name);
    node->op = (spey_graph_op)op;
    SPEY_TRY(expect(p, "("));
    while (!accept(p, ")")) {
        if (node->n_inputs) SPEY_TRY(expect(p, ", "));
        if (node->n_inputs == SPEY_NODE_INPUTS_MAX)
            return BAD(p, "more than %d inputs", SPEY_NODE_INPUTS_MAX);
        SPEY_TRY(value(p, &node->inputs[node->n_inputs++]));
    }
    while (p->end - p->at > 1 && p->at[0] == ' ' && p->at[1] != ':' && p->at[1] != '{') {
        char weight[SPEY_NAME_BYTES_MAX];
        p->at++;
        SPEY_TRY(word_copy(p, weight));
        if (node->n_weights == SPEY_NODE_WEIGHTS_MAX)
            return BAD(p, "more than %d weights", SPEY_NODE_WEIGHTS_MAX);
        int32_t index = spey_graph_find_weight(p->graph, weight);
        if (index < 0) return BAD(p, "weight %s is not declared", weight);
        node->weights[node->n_weights++] = index;
    }
    return SPEY_OK;
}

/* "%4, %5 = " */
static spey_status parse_results(parser *p, int *n_results)
{
    *n_results = 0;
    if (p->at == p->end || *p->at != '%') return SPEY_OK;
    do {
        int64_t i;
        SPEY_TRY(expect(p, "%"));
        SPEY_TRY(integer(p, &i));
        if (i != p->graph->n_values + *n_results)
            return BAD(p, "%%%" PRId64 " is made, expected %%%d", i,
                       p->graph->n_values + *n_results);
        ++*n_results;
    } while (*n_results < SPEY_NODE_OUTPUTS_MAX && accept(p, ", "));
    return expect(p, " = ");
}

/* " : tokens 256, tokens 256" */
static spey_status parse_shapes(parser *p, int n, spey_value_info shapes[SPEY_NODE_OUTPUTS_MAX])
{
    for (int i = 0; i < n; i++) {
        SPEY_TRY(expect(p, i ? ", " : " : "));
        shapes[i].rows = SPEY_ROWS_TOKENS;
        if (accept(p, "outputs "))
            shapes[i].rows = SPEY_ROWS_OUTPUTS;
        else if (accept(p, "source "))
            shapes[i].rows = SPEY_ROWS_SOURCE;
        else
            SPEY_TRY(expect(p, "tokens "));
        SPEY_TRY(integer(p, &shapes[i].cols));
    }
    return SPEY_OK;
}

static spey_status parse_node(parser *p)
{
    spey_node node = { 0 };
    spey_value_info shapes[SPEY_NODE_OUTPUTS_MAX];
    int n_results;
    SPEY_TRY(parse_results(p, &n_results));
    SPEY_TRY(parse_call(p, &node));
    SPEY_TRY(parse_shapes(p, n_results, shapes));
    if (accept(p, " {")) {
        do {
            SPEY_TRY(parse_attr(p, &node));
        } while (accept(p, " "));
        SPEY_TRY(expect(p, "}"));
    }
    if (n_results != spey_graph_op_outputs(node.op))
        return BAD(p, "%s has %d results, expected %d", spey_graph_op_name(node.op), n_results,
                   spey_graph_op_outputs(node.op));
    int first = p->graph->n_values;
    SPEY_TRY(blame(p, spey_graph_add_node(p->graph, &node, NULL)));
    for (int i = 0; i < n_results; i++) {
        const spey_value_info *made = &p->graph->values[first + i];
        if (made->rows != shapes[i].rows || made->cols != shapes[i].cols)
            return BAD(p, "%%%d is %s %" PRId64 ", but %s makes %s %" PRId64, first + i,
                       spey_rows_name(shapes[i].rows), shapes[i].cols, spey_graph_op_name(node.op),
                       spey_rows_name(made->rows), made->cols);
    }
    return SPEY_OK;
}

static spey_status parse_line(parser *p)
{
    if (p->graph->output >= 0) return BAD(p, "text after the output");
    if (accept(p, "weight "))
        SPEY_TRY(parse_weight(p));
    else if (accept(p, "cache "))
        SPEY_TRY(parse_cache(p));
    else if (accept(p, "output "))
        SPEY_TRY(value(p, &p->graph->output));
    else
        SPEY_TRY(parse_node(p));
    skip_spaces(p);
    if (p->at != p->end) return BAD(p, "unexpected \"%.*s\"", REST(p));
    return SPEY_OK;
}

static spey_status parse_text(parser *p, const char *text, size_t n)
{
    const char *end = text + n;
    bool begun = false;
    for (const char *line = text; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        p->line++;
        p->at = line;
        p->end = newline ? newline : end;
        line = newline ? newline + 1 : end;
        if (!begun) {
            SPEY_TRY(expect(p, "spey-graph "));
            if (p->end - p->at != 1 || *p->at != '1')
                return BAD(p, "unknown version of the graph format, expected 1");
            begun = true;
        } else if (p->at != p->end && *p->at != '#') {
            SPEY_TRY(parse_line(p));
        }
    }
    return blame(p, spey_graph_check(p->graph));
}

spey_status spey_graph_parse(const char *where, const char *text, size_t n, spey_graph **out)
{
    *out = NULL;
    if (n > SPEY_GRAPH_TEXT_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: a graph of %zu bytes, expected up to %d", where, n,
                         SPEY_GRAPH_TEXT_MAX);
    parser p = { .where = where };
    SPEY_TRY(spey_graph_new(&p.graph));
    spey_status status = parse_text(&p, text, n);
    if (status)
        spey_graph_free(p.graph);
    else
        *out = p.graph;
    return status;
}
