/* generation_config.json: whatever it says, it is refused with a message, or what it says can be written and read back. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/log.h"
#include "build/generation_config.h"
#include "engine/engine_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_read(const spey_model_info *info)
{
    spey_strbuf text = { 0 };
    spey_model_info again;
    SPEY_ASSERT(spey_model_info_write(info, &text) == SPEY_OK);
    SPEY_ASSERT(spey_model_info_parse("info", text.data, text.len, &again) == SPEY_OK);
    SPEY_ASSERT(again.suppress.n == info->suppress.n);
    SPEY_ASSERT(again.bad_words.n == info->bad_words.n);
    spey_strbuf_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *config;
    spey_log_set_level(SPEY_LOG_QUIET);
    if (spey_json_parse("fuzz", (const char *)data, size, &config) != SPEY_OK) return 0;
    for (int encodes = 0; encodes < 2; encodes++) {
        spey_model_info info = { .arch = "fuzz",
                                 .name = "fuzz",
                                 .vocab_size = 64,
                                 .hidden_size = 8,
                                 .context_length = 8,
                                 .bos_id = -1,
                                 .pad_id = -1,
                                 .decoder_start_id = encodes ? 0 : -1,
                                 .forced_bos_id = -1 };
        if (spey_generation_config_apply("fuzz", config, &info) == SPEY_OK)
            write_and_read(&info);
        else
            SPEY_ASSERT(strncmp(spey_last_error(), "fuzz: ", 6) == 0);
    }
    json_decref(config);
    return 0;
}
