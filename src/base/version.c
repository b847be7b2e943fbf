#include "spey/spey.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *spey_version(void)
{
    return TEXT(SPEY_VERSION_MAJOR) "." TEXT(SPEY_VERSION_MINOR) "." TEXT(SPEY_VERSION_PATCH);
}
