#include "base/env.h"

#include <stdlib.h>

const char *spey_env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}
