/* Any bytes as a template: parsing and rendering end in a status, within the limits, without a leak. */
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/json.h"
#include "text/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *variables(void)
{
    static json_t *made;
    if (!made)
        made = json_pack("{s:[{s:s,s:s},{s:s,s:n}], s:[i,i,f], s:s, s:b, s:n, s:{s:i,s:s}}",
                         "messages", "role", "user", "content", "h\xc3\xa9llo, World", "role",
                         "assistant", "content", "l", 3, 1, 2.5, "s", "  text, \xe2\x98\x83 ", "b",
                         1, "n", "d", "x", 1, "y", "two");
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    spey_chat_template *chat_template;
    uint64_t live = spey_alloc_read_stats().n_live;
    if (!spey_chat_template_parse((const char *)data, size, &chat_template)) {
        spey_strbuf out = { 0 };
        (void)spey_chat_template_render(chat_template, variables(), &out);
        spey_strbuf_deinit(&out);
        spey_chat_template_free(chat_template);
    }
    SPEY_ASSERT(spey_alloc_read_stats().n_live == live);
    return 0;
}
