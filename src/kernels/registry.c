#include "kernels/registry.h"

#include <stdio.h>
#include <string.h>

#include "base/env.h"
#include "device/cpu.h"
#include "kernels/gemm/gemm.h"

bool spey_kernel_is(const spey_kernel *kernel, const char *op)
{
    size_t n = strlen(op);
    return !strncmp(kernel->name, op, n) && kernel->name[n] == '/';
}

static const spey_kernel *find(const spey_backend *backend, const char *name, size_t len)
{
    int n;
    const spey_kernel *const *rows = backend->kernels(&n);
    for (int i = 0; i < n; i++)
        if (!strncmp(rows[i]->name, name, len) && !rows[i]->name[len]) return rows[i];
    return NULL;
}

const spey_kernel *spey_kernel_find(const spey_backend *backend, const char *name)
{
    return find(backend, name, strlen(name));
}

static bool fits(const spey_kernel *kernel, const void *args)
{
    return !(kernel->isa & ~spey_cpu_features()) && (!kernel->supports || kernel->supports(args));
}

/* The item of SPEY_KERNEL that names a row of `op`: its start and length. */
static const char *preferred(const char *op, size_t *len)
{
    const char *item = spey_env("SPEY_KERNEL");
    size_t n = strlen(op);
    while (item && *item) {
        *len = strcspn(item, ",");
        if (*len > n && !strncmp(item, op, n) && item[n] == '/') return item;
        item += *len;
        if (*item == ',') item++;
    }
    return NULL;
}

/* What was asked, for the error text; gemm is the op whose args vary most. */
static void describe(const char *op, const void *args, char *out, size_t n)
{
    out[0] = 0;
    if (strcmp(op, "gemm") != 0) return;
    const spey_gemm_args *a = args;
    snprintf(out, n, " (n %lld, k %lld, weights %s, input %s, output %s)", (long long)a->n,
             (long long)a->k, spey_dtype_name(a->w_dtype), spey_dtype_name(a->x_dtype),
             spey_dtype_name(a->y_dtype));
}

static spey_status choose(const spey_backend *backend, const char *op, const void *args,
                          bool invariant, const spey_kernel **out)
{
    *out = NULL;
    char asked[160];
    size_t len = 0;
    const char *wanted = preferred(op, &len);
    if (wanted) {
        const spey_kernel *kernel = find(backend, wanted, len);
        if (!kernel)
            return SPEY_FAIL(SPEY_INVALID, "SPEY_KERNEL: device %s has no kernel %.*s",
                             backend->name, (int)len, wanted);
        describe(op, args, asked, sizeof(asked));
        if (invariant && kernel->varies)
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "SPEY_KERNEL: %s gives other bits in other batches, and batch "
                             "invariance is asked for",
                             kernel->name);
        if (!fits(kernel, args))
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "SPEY_KERNEL: %s cannot be used here%s: the shape, the types or the "
                             "machine are wrong for it",
                             kernel->name, asked);
        *out = kernel;
        return SPEY_OK;
    }
    int n, n_rows = 0;
    const spey_kernel *const *rows = backend->kernels(&n);
    for (int i = 0; i < n; i++) {
        if (!spey_kernel_is(rows[i], op)) continue;
        n_rows++;
        if ((invariant && rows[i]->varies) || !fits(rows[i], args)) continue;
        *out = rows[i];
        return SPEY_OK;
    }
    describe(op, args, asked, sizeof(asked));
    return SPEY_FAIL(SPEY_UNSUPPORTED,
                     "device %s: none of %d kernels for %s takes these operands%s%s", backend->name,
                     n_rows, op, asked, invariant ? " and gives the same bits in every batch" : "");
}

spey_status spey_kernel_choose(const spey_backend *backend, const char *op, const void *args,
                               const spey_kernel **out)
{
    return choose(backend, op, args, false, out);
}

spey_status spey_kernel_choose_invariant(const spey_backend *backend, const char *op,
                                         const void *args, const spey_kernel **out)
{
    return choose(backend, op, args, true, out);
}
