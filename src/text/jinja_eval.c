#include "text/jinja_eval.h"

#include <string.h>

#include "text/jinja_ops.h"
#include "text/jinja_text.h"

static spey_status eval(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    return spey_jinja_eval(render, node, out);
}

static spey_status eval_items(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    for (const jinja_node *item = node->a; item; item = item->next) {
        jinja_value value;
        SPEY_TRY(eval(render, item, &value));
        SPEY_TRY(spey_jinja_list_push(render, list, value));
    }
    *out = spey_jinja_of_list(node->kind == JINJA_NODE_LIST ? JINJA_LIST : JINJA_TUPLE, list);
    return SPEY_OK;
}

static spey_status eval_dict(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_dict *dict;
    SPEY_TRY(spey_jinja_dict_new(render, 0, &dict));
    for (const jinja_node *pair = node->a; pair; pair = pair->next) {
        jinja_value key, value;
        SPEY_TRY(eval(render, pair->a, &key));
        SPEY_TRY(eval(render, pair->b, &value));
        SPEY_TRY(spey_jinja_dict_put(render, dict, key, value));
    }
    *out = (jinja_value){ .kind = JINJA_DICT, .dict = dict };
    return SPEY_OK;
}

static spey_status eval_subscript(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_value object, index;
    SPEY_TRY(eval(render, node->a, &object));
    if (node->b->kind != JINJA_NODE_SLICE) {
        SPEY_TRY(eval(render, node->b, &index));
        render->at = node;
        return spey_jinja_item(render, object, index, out);
    }
    const jinja_node *const written[3] = { node->b->a, node->b->b, node->b->c };
    jinja_value parts[3];
    for (int i = 0; i < 3; i++) {
        parts[i] = spey_jinja_none();
        if (written[i]) SPEY_TRY(eval(render, written[i], &parts[i]));
    }
    render->at = node;
    return spey_jinja_slice(render, object, parts, out);
}

static spey_status eval_concat(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    spey_status status = SPEY_OK;
    for (const jinja_node *part = node->a; part && !status; part = part->next) {
        jinja_value value;
        status = eval(render, part, &value);
        if (!status) status = spey_jinja_put_str(render, value, &buf);
    }
    return spey_jinja_take_text(render, status, &buf, out);
}

static spey_status eval_comparison(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_value left, right;
    bool holds = true;
    SPEY_TRY(eval(render, node->a, &left));
    for (const jinja_node *part = node->b; part && holds; part = part->next) {
        SPEY_TRY(eval(render, part->a, &right));
        render->at = part;
        SPEY_TRY(spey_jinja_compare(render, (jinja_op)part->op, left, right, &holds));
        left = right;
    }
    *out = spey_jinja_bool(holds);
    return SPEY_OK;
}

static spey_status eval_choice(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    static const char text[] = "the inline if-expression evaluated to false and no else section "
                               "was defined";
    jinja_value condition;
    SPEY_TRY(eval(render, node->a, &condition));
    if (spey_jinja_truth(condition)) return eval(render, node->b, out);
    if (node->c) return eval(render, node->c, out);
    *out = spey_jinja_undefined(JINJA_WHY_TEXT, JINJA_NONE, text, sizeof text - 1);
    return SPEY_OK;
}

/* ---- calls ---- */

typedef struct args_builder {
    jinja_list *items;
    jinja_named *named;
    size_t n_named, cap_named;
} args_builder;

static spey_status add_named(jinja_render *render, args_builder *builder, jinja_named named)
{
    for (size_t i = 0; i < builder->n_named; i++)
        if (builder->named[i].len == named.len &&
            memcmp(builder->named[i].name, named.name, named.len) == 0)
            return SPEY_FAIL(SPEY_INVALID, "got multiple values for keyword argument '%.100s'",
                             named.name);
    SPEY_TRY(spey_jinja_work(render, 1 + builder->n_named / JINJA_ITEMS_PER_WORK));
    if (builder->n_named == builder->cap_named) {
        size_t cap = builder->cap_named ? builder->cap_named * 2 : 4;
        jinja_named *grown = spey_jinja_alloc(render, cap, sizeof *grown);
        if (!grown) return spey_jinja_no_memory(render);
        if (builder->n_named) memcpy(grown, builder->named, builder->n_named * sizeof *grown);
        builder->named = grown;
        builder->cap_named = cap;
    }
    builder->named[builder->n_named++] = named;
    return SPEY_OK;
}

static spey_status spread(jinja_render *render, args_builder *builder, bool named, jinja_value v)
{
    jinja_list *items;
    if (!named) {
        SPEY_TRY(spey_jinja_iterate(render, v, &items));
        for (size_t i = 0; i < items->n; i++)
            SPEY_TRY(spey_jinja_list_push(render, builder->items, items->items[i]));
        return SPEY_OK;
    }
    if (v.kind != JINJA_DICT)
        return SPEY_FAIL(SPEY_INVALID, "argument after ** must be a mapping, not %s",
                         spey_jinja_type(v));
    for (size_t i = 0; i < v.dict->n; i++) {
        jinja_value key = v.dict->keys[i], copy;
        if (key.kind != JINJA_STRING) return SPEY_FAIL(SPEY_INVALID, "keywords must be strings");
        SPEY_TRY(spey_jinja_copy_text(render, key.text, key.len, &copy));
        SPEY_TRY(
            add_named(render, builder, (jinja_named){ copy.text, copy.len, v.dict->values[i] }));
    }
    return SPEY_OK;
}

spey_status spey_jinja_eval_args(jinja_render *render, const jinja_node *arguments,
                                 const jinja_named *extra, jinja_args *out)
{
    args_builder builder = { 0 };
    SPEY_TRY(spey_jinja_list_new(render, 0, &builder.items));
    for (const jinja_node *node = arguments; node; node = node->next) {
        jinja_value value;
        SPEY_TRY(eval(render, node->a, &value));
        render->at = node;
        if (node->op)
            SPEY_TRY(spread(render, &builder, node->op == 'd', value));
        else if (node->text)
            SPEY_TRY(add_named(render, &builder, (jinja_named){ node->text, node->len, value }));
        else
            SPEY_TRY(spey_jinja_list_push(render, builder.items, value));
    }
    if (extra) SPEY_TRY(add_named(render, &builder, *extra));
    *out = (jinja_args){ .n = builder.items->n,
                         .items = builder.items->items,
                         .n_named = builder.n_named,
                         .named = builder.named };
    return SPEY_OK;
}

static spey_status next_of_joiner(jinja_list *joiner, jinja_value *out)
{
    *out = joiner->next++ ? joiner->items[0] : spey_jinja_literal("");
    return SPEY_OK;
}

spey_status spey_jinja_call(jinja_render *render, jinja_value callee, const jinja_args *args,
                            jinja_value *out)
{
    switch (callee.kind) {
    case JINJA_UNDEFINED: return spey_jinja_fail_undefined(callee);
    case JINJA_FUNCTION: return spey_jinja_call_builtin(render, callee.builtin, callee, args, out);
    case JINJA_METHOD:
        return spey_jinja_call_builtin(render, callee.method->builtin, callee.method->self, args,
                                       out);
    case JINJA_MACRO: return spey_jinja_call_macro(render, callee.macro, args, out);
    case JINJA_JOINER: return next_of_joiner(callee.list, out);
    case JINJA_LOOP:
        if (args->n == 1 && args->n_named == 0)
            return spey_jinja_call_loop(render, callee.loop, args->items[0], out);
        return SPEY_FAIL(SPEY_INVALID, "loop() takes one argument");
    default: return SPEY_FAIL(SPEY_INVALID, "'%s' object is not callable", spey_jinja_type(callee));
    }
}

static spey_status eval_call(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_value callee;
    jinja_args args;
    SPEY_TRY(eval(render, node->a, &callee));
    SPEY_TRY(spey_jinja_eval_args(render, node->b, NULL, &args));
    render->at = node;
    return spey_jinja_call(render, callee, &args, out);
}

static spey_status eval_named(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_value input = render->captured;
    jinja_args args;
    if (node->a) SPEY_TRY(eval(render, node->a, &input));
    SPEY_TRY(spey_jinja_eval_args(render, node->b, NULL, &args));
    render->at = node;
    if (!node->builtin)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "no %s named '%.100s'",
                         node->kind == JINJA_NODE_FILTER ? "filter" : "test", node->text);
    return spey_jinja_call_builtin(render, node->builtin, input, &args, out);
}

/* ---- dispatch ---- */

static spey_status eval_operator(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    jinja_value a, b;
    SPEY_TRY(eval(render, node->a, &a));
    switch (node->kind) {
    case JINJA_NODE_NOT: *out = spey_jinja_bool(!spey_jinja_truth(a)); return SPEY_OK;
    case JINJA_NODE_AND:
    case JINJA_NODE_OR:
        *out = a;
        if (spey_jinja_truth(a) == (node->kind == JINJA_NODE_OR)) return SPEY_OK;
        return eval(render, node->b, out);
    case JINJA_NODE_NEGATE:
    case JINJA_NODE_POSITIVE:
        render->at = node;
        return spey_jinja_negate(render, a, node->kind == JINJA_NODE_NEGATE, out);
    case JINJA_NODE_ATTRIBUTE:
        render->at = node;
        return spey_jinja_attribute(render, a, node->text, node->len, out);
    default:
        SPEY_TRY(eval(render, node->b, &b));
        render->at = node;
        return spey_jinja_binary(render, (jinja_op)node->op, a, b, out);
    }
}

static spey_status eval_node(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    switch (node->kind) {
    case JINJA_NODE_CONST: *out = node->constant; return SPEY_OK;
    case JINJA_NODE_NAME: return spey_jinja_scope_get(render, node->text, node->len, out);
    case JINJA_NODE_LIST:
    case JINJA_NODE_TUPLE: return eval_items(render, node, out);
    case JINJA_NODE_DICT: return eval_dict(render, node, out);
    case JINJA_NODE_ITEM: return eval_subscript(render, node, out);
    case JINJA_NODE_CONCAT: return eval_concat(render, node, out);
    case JINJA_NODE_COMPARE: return eval_comparison(render, node, out);
    case JINJA_NODE_CHOICE: return eval_choice(render, node, out);
    case JINJA_NODE_CALL: return eval_call(render, node, out);
    case JINJA_NODE_FILTER:
    case JINJA_NODE_TEST: return eval_named(render, node, out);
    case JINJA_NODE_ATTRIBUTE:
    case JINJA_NODE_NEGATE:
    case JINJA_NODE_POSITIVE:
    case JINJA_NODE_BINARY:
    case JINJA_NODE_NOT:
    case JINJA_NODE_AND:
    case JINJA_NODE_OR: return eval_operator(render, node, out);
    default: return SPEY_FAIL(SPEY_FORMAT, "a slice is not allowed here");
    }
}

spey_status spey_jinja_eval(jinja_render *render, const jinja_node *node, jinja_value *out)
{
    render->at = node;
    SPEY_TRY(spey_jinja_work(render, 1));
    spey_status status = spey_jinja_enter(render);
    if (!status) status = eval_node(render, node, out);
    spey_jinja_leave(render);
    return status;
}
