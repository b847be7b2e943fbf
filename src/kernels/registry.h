/* The rows of every op, and the choice among them.
 *
 * ops.def lists ops, rows.def lists the CPU's rows, best first within an op; a backend brings its own. SPEY_KERNEL in
 * the environment ("gemm/ref,attention/ref") prefers the named rows, to bisect a wrong answer. */
#ifndef SPEY_KERNELS_REGISTRY_H
#define SPEY_KERNELS_REGISTRY_H

#include "base/status.h"
#include "device/backend.h"
#include "device/kernel.h"

/* The built-in CPU backend. */
const spey_backend *spey_cpu_backend(void);

/* The row that `backend` should use for these args of op ("gemm"): the first whose isa is present and that supports the
 * args. SPEY_UNSUPPORTED names the op and what was asked. */
spey_status spey_kernel_choose(const spey_backend *backend, const char *op, const void *args,
                               const spey_kernel **out);

/* The same among rows that give a token the same bits whatever else is in the batch. */
spey_status spey_kernel_choose_invariant(const spey_backend *backend, const char *op,
                                         const void *args, const spey_kernel **out);

/* By full name; NULL when there is none. */
const spey_kernel *spey_kernel_find(const spey_backend *backend, const char *name);

/* True when kernel->name is "op/…". */
bool spey_kernel_is(const spey_kernel *kernel, const char *op);

#endif
