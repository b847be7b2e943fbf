/* What config.json's "quantization_config", or ModelOpt's hf_quant_config.json, says of a quantized checkpoint. Which
 * tensors are quantized is seen from their types; here is decided whether that format can be read at all. */
#ifndef SPEY_BUILD_QUANT_CONFIG_H
#define SPEY_BUILD_QUANT_CONFIG_H

#include <stdbool.h>

#include "base/json.h"
#include "base/status.h"

/* `config`: the object that names the method. SPEY_UNSUPPORTED names what was found and what can be read. *fp8_cache is set when
 * it says that K and V are kept in E4M3. */
spey_status spey_quant_config_check(const char *where, const json_t *config, bool *fp8_cache);

#endif
