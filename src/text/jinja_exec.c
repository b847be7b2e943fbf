#include <string.h>

#include "base/limits.h"
#include "text/jinja_eval.h"
#include "text/jinja_text.h"

/* ---- scopes ---- */

spey_status spey_jinja_scope_new(jinja_render *render, jinja_scope *parent, jinja_scope **out)
{
    jinja_scope *scope = spey_jinja_alloc(render, 1, sizeof *scope);
    if (!scope) return spey_jinja_no_memory(render);
    scope->parent = parent;
    SPEY_TRY(spey_jinja_dict_new(render, 0, &scope->variables));
    *out = scope;
    return SPEY_OK;
}

spey_status spey_jinja_scope_set(jinja_render *render, const char *name, size_t len,
                                 jinja_value value)
{
    SPEY_ASSERT(render->scope);
    return spey_jinja_dict_put(render, render->scope->variables, spey_jinja_text(name, len), value);
}

spey_status spey_jinja_scope_get(jinja_render *render, const char *name, size_t len,
                                 jinja_value *out)
{
    for (const jinja_scope *scope = render->scope; scope; scope = scope->parent) {
        const jinja_value *found = spey_jinja_dict_find_text(scope->variables, name, len);
        SPEY_TRY(spey_jinja_work(render, scope->variables->n / JINJA_ITEMS_PER_WORK));
        if (!found) continue;
        *out = *found;
        return SPEY_OK;
    }
    const jinja_builtin *function = spey_jinja_find_function(name, len);
    *out = function ? (jinja_value){ .kind = JINJA_FUNCTION, .builtin = function }
                    : spey_jinja_undefined(JINJA_WHY_NAME, JINJA_NONE, name, len);
    return SPEY_OK;
}

/* ---- assignment ---- */

static spey_status assign_attribute(jinja_render *render, const jinja_node *target,
                                    jinja_value value)
{
    jinja_value space;
    SPEY_TRY(spey_jinja_scope_get(render, target->text, target->len, &space));
    render->at = target;
    if (space.kind != JINJA_NAMESPACE)
        return SPEY_FAIL(SPEY_INVALID, "cannot assign attribute on non-namespace object");
    return spey_jinja_dict_put(render, space.dict, spey_jinja_text(target->a->text, target->a->len),
                               value);
}

static spey_status assign(jinja_render *render, const jinja_node *target, jinja_value value)
{
    if (target->kind == JINJA_NODE_NAME)
        return spey_jinja_scope_set(render, target->text, target->len, value);
    if (target->kind == JINJA_NODE_NAMESPACE_TARGET) return assign_attribute(render, target, value);
    jinja_list *items;
    size_t i = 0;
    render->at = target;
    SPEY_TRY(spey_jinja_iterate(render, value, &items));
    for (const jinja_node *part = target->a; part; part = part->next, i++) {
        if (i >= items->n)
            return SPEY_FAIL(SPEY_INVALID, "not enough values to unpack (got %zu)", items->n);
        SPEY_TRY(assign(render, part, items->items[i]));
    }
    if (i < items->n) return SPEY_FAIL(SPEY_INVALID, "too many values to unpack (expected %zu)", i);
    return SPEY_OK;
}

/* ---- bodies ---- */

/* Run `body` in a scope of its own under `parent`. */
static spey_status exec_scoped(jinja_render *render, const jinja_node *body)
{
    jinja_scope *outside = render->scope;
    SPEY_TRY(spey_jinja_scope_new(render, outside, &render->scope));
    spey_status status = spey_jinja_exec(render, body);
    render->scope = outside;
    return status;
}

/* What `body` writes, as a string. */
static spey_status capture(jinja_render *render, const jinja_node *body, jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    spey_strbuf *before = render->out;
    render->out = &buf;
    spey_status status = spey_jinja_exec(render, body);
    render->out = before;
    return spey_jinja_take_text(render, status, &buf, out);
}

static spey_status capture_scoped(jinja_render *render, const jinja_node *body, jinja_value *out)
{
    jinja_scope *outside = render->scope;
    SPEY_TRY(spey_jinja_scope_new(render, outside, &render->scope));
    spey_status status = capture(render, body, out);
    render->scope = outside;
    return status;
}

static spey_status apply_filters(jinja_render *render, const jinja_node *filters,
                                 jinja_value *value)
{
    if (!filters) return SPEY_OK;
    render->captured = *value;
    return spey_jinja_eval(render, filters, value);
}

/* ---- for ---- */

/* The items for which the loop's condition holds. */
static spey_status filter_items(jinja_render *render, const jinja_node *node, jinja_list **items)
{
    jinja_scope *outside = render->scope;
    jinja_list *kept;
    SPEY_TRY(spey_jinja_list_new(render, 0, &kept));
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < (*items)->n && !status; i++) {
        jinja_value holds;
        status = spey_jinja_scope_new(render, outside, &render->scope);
        if (!status) status = assign(render, node->a, (*items)->items[i]);
        if (!status) status = spey_jinja_eval(render, node->e, &holds);
        if (!status && spey_jinja_truth(holds))
            status = spey_jinja_list_push(render, kept, (*items)->items[i]);
        render->scope = outside;
    }
    *items = kept;
    return status;
}

/* *completed: some turn reached the end of the body. Jinja's `else` asks for that, not for the items. */
static spey_status exec_turns(jinja_render *render, const jinja_node *node, jinja_loop *loop,
                              bool *completed)
{
    spey_status status = SPEY_OK;
    *completed = false;
    jinja_value self = { .kind = JINJA_LOOP, .loop = loop };
    jinja_scope *scope = NULL;
    for (; loop->index0 < loop->items->n && !status; loop->index0++) {
        status = spey_jinja_work(render, JINJA_STEP);
        if (!status && (!scope || scope->is_captured))
            status = spey_jinja_scope_new(render, loop->outside, &scope);
        if (status) break;
        scope->variables->n = 0;
        render->scope = scope;
        status = spey_jinja_scope_set(render, "loop", 4, self);
        if (!status) status = assign(render, node->a, loop->items->items[loop->index0]);
        if (!status) status = spey_jinja_exec(render, node->c);
        jinja_flow flow = render->flow;
        *completed = *completed || flow == JINJA_FLOW_NEXT;
        render->flow = JINJA_FLOW_NEXT;
        if (flow == JINJA_FLOW_BREAK) break;
    }
    return status;
}

static spey_status exec_loop(jinja_render *render, const jinja_node *node, jinja_value iterable,
                             int depth0)
{
    jinja_loop *loop = spey_jinja_alloc(render, 1, sizeof *loop);
    if (!loop) return spey_jinja_no_memory(render);
    *loop = (jinja_loop){ .node = node, .outside = render->scope, .depth0 = depth0 };
    SPEY_TRY(spey_jinja_iterate(render, iterable, &loop->items));
    if (node->e) SPEY_TRY(filter_items(render, node, &loop->items));
    bool completed;
    spey_status status = exec_turns(render, node, loop, &completed);
    render->scope = loop->outside;
    if (!status && !completed && node->d) status = exec_scoped(render, node->d);
    return status;
}

spey_status spey_jinja_call_loop(jinja_render *render, const jinja_loop *loop, jinja_value items,
                                 jinja_value *out)
{
    if (!loop->node->flag)
        return SPEY_FAIL(SPEY_INVALID, "the loop must have the 'recursive' marker to be called");
    spey_strbuf buf = spey_jinja_buffer(), *before = render->out;
    jinja_scope *inside = render->scope;
    render->out = &buf;
    render->scope = loop->outside;
    spey_status status = spey_jinja_enter(render);
    if (!status) status = exec_loop(render, loop->node, items, loop->depth0 + 1);
    spey_jinja_leave(render);
    render->scope = inside;
    render->out = before;
    return spey_jinja_take_text(render, status, &buf, out);
}

/* ---- macros ---- */

static spey_status exec_macro(jinja_render *render, const jinja_node *node)
{
    jinja_macro *macro = spey_jinja_alloc(render, 1, sizeof *macro);
    if (!macro) return spey_jinja_no_memory(render);
    *macro = (jinja_macro){ .node = node, .closure = render->scope };
    for (jinja_scope *scope = render->scope; scope; scope = scope->parent)
        scope->is_captured = true;
    return spey_jinja_scope_set(render, node->text, node->len,
                                (jinja_value){ .kind = JINJA_MACRO, .macro = macro });
}

static const jinja_named *find_named(const jinja_args *args, const char *name, size_t len)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (args->named[i].len == len && memcmp(args->named[i].name, name, len) == 0)
            return &args->named[i];
    return NULL;
}

static spey_status bind_parameters(jinja_render *render, const jinja_node *macro,
                                   const jinja_args *args)
{
    size_t i = 0;
    for (const jinja_node *node = macro->a; node; node = node->next, i++) {
        const jinja_named *named = find_named(args, node->text, node->len);
        jinja_value value;
        if (i < args->n)
            value = args->items[i];
        else if (named)
            value = named->value;
        else if (node->a)
            SPEY_TRY(spey_jinja_eval(render, node->a, &value));
        else
            value = spey_jinja_undefined(JINJA_WHY_NAME, JINJA_NONE, node->text, node->len);
        SPEY_TRY(spey_jinja_scope_set(render, node->text, node->len, value));
    }
    return SPEY_OK;
}

static bool is_parameter(const jinja_node *macro, size_t from, const jinja_named *named)
{
    size_t i = 0;
    for (const jinja_node *node = macro->a; node; node = node->next, i++)
        if (i >= from && node->len == named->len &&
            memcmp(node->text, named->name, named->len) == 0)
            return true;
    return false;
}

/* Named arguments that are no parameters: kwargs and caller, or an error. */
static spey_status bind_rest(jinja_render *render, const jinja_node *macro, const jinja_args *args)
{
    jinja_dict *kwargs;
    static const char no_caller[] = "No caller defined";
    jinja_value caller =
        spey_jinja_undefined(JINJA_WHY_TEXT, JINJA_NONE, no_caller, sizeof no_caller - 1);
    SPEY_TRY(spey_jinja_dict_new(render, 0, &kwargs));
    for (size_t i = 0; i < args->n_named; i++) {
        const jinja_named *named = &args->named[i];
        bool is_caller = named->len == 6 && memcmp(named->name, "caller", 6) == 0;
        if (is_parameter(macro, args->n, named)) continue;
        if (is_caller && macro->uses & JINJA_USES_CALLER)
            caller = named->value;
        else if (macro->uses & JINJA_USES_KWARGS)
            SPEY_TRY(spey_jinja_dict_add(render, kwargs, spey_jinja_text(named->name, named->len),
                                         named->value));
        else
            return SPEY_FAIL(SPEY_INVALID, "macro '%.100s' takes no keyword argument '%.100s'",
                             macro->text, named->name);
    }
    if (macro->uses & JINJA_USES_KWARGS)
        SPEY_TRY(spey_jinja_scope_set(render, "kwargs", 6,
                                      (jinja_value){ .kind = JINJA_DICT, .dict = kwargs }));
    if (macro->uses & JINJA_USES_CALLER) {
        const jinja_named as_parameter = { "caller", 6, caller };
        if (!is_parameter(macro, 0, &as_parameter))
            SPEY_TRY(spey_jinja_scope_set(render, "caller", 6, caller));
    }
    return SPEY_OK;
}

static spey_status bind_varargs(jinja_render *render, const jinja_node *macro,
                                const jinja_args *args)
{
    size_t n_parameters = 0;
    for (const jinja_node *node = macro->a; node; node = node->next)
        n_parameters++;
    if (!(macro->uses & JINJA_USES_VARARGS)) {
        if (args->n <= n_parameters) return SPEY_OK;
        return SPEY_FAIL(SPEY_INVALID, "macro '%.100s' takes not more than %zu argument(s)",
                         macro->text, n_parameters);
    }
    jinja_list *rest;
    SPEY_TRY(spey_jinja_list_new(render, 0, &rest));
    for (size_t i = n_parameters; i < args->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, rest, args->items[i]));
    return spey_jinja_scope_set(render, "varargs", 7, spey_jinja_of_list(JINJA_TUPLE, rest));
}

static spey_status run_macro(jinja_render *render, const jinja_node *macro, const jinja_args *args,
                             jinja_value *out)
{
    SPEY_TRY(bind_rest(render, macro, args));
    SPEY_TRY(bind_varargs(render, macro, args));
    SPEY_TRY(bind_parameters(render, macro, args));
    return capture(render, macro->c, out);
}

spey_status spey_jinja_call_macro(jinja_render *render, const jinja_macro *macro,
                                  const jinja_args *args, jinja_value *out)
{
    jinja_scope *outside = render->scope;
    SPEY_TRY(spey_jinja_work(render, JINJA_STEP));
    SPEY_TRY(spey_jinja_scope_new(render, macro->closure, &render->scope));
    spey_status status = spey_jinja_enter(render);
    if (!status) status = run_macro(render, macro->node, args, out);
    spey_jinja_leave(render);
    render->scope = outside;
    return status;
}

static spey_status exec_call_block(jinja_render *render, const jinja_node *node)
{
    jinja_macro caller = { .node = node, .closure = render->scope };
    jinja_macro *kept = spey_jinja_alloc(render, 1, sizeof *kept);
    if (!kept) return spey_jinja_no_memory(render);
    *kept = caller;
    for (jinja_scope *scope = render->scope; scope; scope = scope->parent)
        scope->is_captured = true;
    const jinja_named extra = { "caller", 6, { .kind = JINJA_MACRO, .macro = kept } };
    jinja_value callee, result;
    jinja_args args;
    SPEY_TRY(spey_jinja_eval(render, node->b->a, &callee));
    SPEY_TRY(spey_jinja_eval_args(render, node->b->b, &extra, &args));
    render->at = node;
    SPEY_TRY(spey_jinja_call(render, callee, &args, &result));
    return spey_jinja_put_str(render, result, render->out);
}

/* ---- other statements ---- */

static spey_status exec_output(jinja_render *render, const jinja_node *node)
{
    jinja_value value;
    SPEY_TRY(spey_jinja_eval(render, node->a, &value));
    render->at = node;
    return spey_jinja_put_str(render, value, render->out);
}

static spey_status exec_if(jinja_render *render, const jinja_node *node)
{
    for (; node; node = node->c) {
        jinja_value condition = spey_jinja_bool(true);
        if (node->a) SPEY_TRY(spey_jinja_eval(render, node->a, &condition));
        if (spey_jinja_truth(condition)) return spey_jinja_exec(render, node->b);
    }
    return SPEY_OK;
}

static spey_status exec_set(jinja_render *render, const jinja_node *node)
{
    jinja_value value;
    if (node->kind == JINJA_NODE_SET) {
        SPEY_TRY(spey_jinja_eval(render, node->b, &value));
    } else {
        SPEY_TRY(capture_scoped(render, node->c, &value));
        if (render->flow) return SPEY_OK; /* a break leaves without assigning */
        SPEY_TRY(apply_filters(render, node->b, &value));
    }
    return assign(render, node->a, value);
}

static spey_status exec_filter_block(jinja_render *render, const jinja_node *node)
{
    jinja_value value;
    SPEY_TRY(capture_scoped(render, node->c, &value));
    if (render->flow) return SPEY_OK;
    SPEY_TRY(apply_filters(render, node->b, &value));
    return spey_jinja_put_str(render, value, render->out);
}

/* The values are evaluated outside of the scope they are assigned in. */
static spey_status exec_with(jinja_render *render, const jinja_node *node)
{
    jinja_scope *outside = render->scope, *inside = NULL;
    SPEY_TRY(spey_jinja_scope_new(render, outside, &inside));
    spey_status status = SPEY_OK;
    for (const jinja_node *pair = node->a; pair && !status; pair = pair->next) {
        jinja_value value;
        status = spey_jinja_eval(render, pair->b, &value);
        render->scope = inside;
        if (!status) status = assign(render, pair->a, value);
        render->scope = outside;
    }
    render->scope = inside;
    if (!status) status = spey_jinja_exec(render, node->c);
    render->scope = outside;
    return status;
}

static spey_status exec_statement(jinja_render *render, const jinja_node *node)
{
    jinja_value iterable;
    switch (node->kind) {
    case JINJA_NODE_TEXT:
        spey_strbuf_append(render->out, node->text, node->len);
        return spey_strbuf_status(render->out);
    case JINJA_NODE_OUTPUT: return exec_output(render, node);
    case JINJA_NODE_IF: return exec_if(render, node);
    case JINJA_NODE_FOR:
        SPEY_TRY(spey_jinja_eval(render, node->b, &iterable));
        render->at = node;
        return exec_loop(render, node, iterable, 0);
    case JINJA_NODE_SET:
    case JINJA_NODE_SET_BLOCK: return exec_set(render, node);
    case JINJA_NODE_MACRO: return exec_macro(render, node);
    case JINJA_NODE_CALL_BLOCK: return exec_call_block(render, node);
    case JINJA_NODE_FILTER_BLOCK: return exec_filter_block(render, node);
    case JINJA_NODE_WITH: return exec_with(render, node);
    case JINJA_NODE_SCOPED: return exec_scoped(render, node->c);
    case JINJA_NODE_BREAK: render->flow = JINJA_FLOW_BREAK; return SPEY_OK;
    case JINJA_NODE_CONTINUE: render->flow = JINJA_FLOW_CONTINUE; return SPEY_OK;
    default: return SPEY_FAIL(SPEY_INTERNAL, "unknown statement");
    }
}

spey_status spey_jinja_exec(jinja_render *render, const jinja_node *list)
{
    spey_status status = spey_jinja_enter(render);
    for (; list && !status && render->flow == JINJA_FLOW_NEXT; list = list->next) {
        render->at = list;
        status = spey_jinja_work(render, JINJA_STEP);
        if (!status) status = exec_statement(render, list);
    }
    spey_jinja_leave(render);
    return status;
}
