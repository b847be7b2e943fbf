/* What commands may see inside a public spey_context. */
#ifndef SPEY_RUNTIME_CONTEXT_H
#define SPEY_RUNTIME_CONTEXT_H

#include "runtime/executor.h"
#include "spey/spey.h"

/* The executor of a context; it stays the context's. */
spey_executor *spey_context_executor(spey_context *context);

#endif
