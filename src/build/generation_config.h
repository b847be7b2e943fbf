/* What transformers' generate() would do with a checkpoint, from generation_config.json. */
#ifndef SPEY_BUILD_GENERATION_CONFIG_H
#define SPEY_BUILD_GENERATION_CONFIG_H

#include "base/json.h"
#include "engine/engine_file.h"

/* Put what the file says over what config.json said. What it says that is no default here is logged, by name. */
spey_status spey_generation_config_apply(const char *where, const json_t *config,
                                         spey_model_info *info);
/* Only what it forbids and forces: logits processors. */
spey_status spey_generation_rules_apply(const char *where, const json_t *config,
                                        spey_model_info *info);

#endif
