#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>
#include <string.h>

#include "base/alloc.h"

static const char *const library_names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };

static spey_status load_functions(spey_cublaslt *lt)
{
    void *symbol;
#define LOAD(name)                                                                        \
    symbol = dlsym(lt->library, "cublasLt" #name);                                        \
    if (!symbol)                                                                          \
        return spey_cuda_host->fail(SPEY_NOT_FOUND, "cuda: cuBLASLt lacks cublasLt" #name \
                                                    ": version 12 or newer is needed");   \
    memcpy(&lt->name, &symbol, sizeof symbol);
    SPEY_CUBLASLT_LIST(LOAD)
#undef LOAD
    return SPEY_OK;
}

/* The plug-in's RUNPATH (beside itself, the CUDA installation) takes part in these look-ups. */
static spey_status open_library(spey_cublaslt *lt)
{
    for (size_t i = 0; i < sizeof library_names / sizeof *library_names && !lt->library; i++)
        lt->library = dlopen(library_names[i], RTLD_NOW | RTLD_LOCAL);
    if (lt->library) return load_functions(lt);
    return spey_cuda_host->fail(
        SPEY_NOT_FOUND,
        "cuda: libcublasLt.so.13 (or .12) was not found: install cuBLAS (apt: libcublas-13-0, "
        "pip: nvidia-cublas) and put its folder into LD_LIBRARY_PATH if it is not a system one");
}

spey_status spey_cublaslt_open(spey_device *device)
{
    spey_cublaslt *lt = spey_new(SPEY_PURPOSE_RUNTIME, spey_cublaslt);
    if (!lt) return spey_cuda_host->fail(SPEY_NOMEM, "cuda: out of host memory");
    device->cublaslt = lt;
    SPEY_TRY(open_library(lt));
    cublasStatus_t status = lt->Create(&lt->handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        return spey_cuda_host->fail(SPEY_DEVICE, "cuda: cublasLtCreate: %s",
                                    lt->GetStatusName(status));
    SPEY_CUDA_TRY(cudaMalloc(&lt->workspace, SPEY_CUDA_GEMM_WORKSPACE));
    return SPEY_OK;
}

void spey_cublaslt_close(spey_device *device)
{
    spey_cublaslt *lt = device->cublaslt;
    if (!lt) return;
    if (lt->handle) lt->Destroy(lt->handle);
    if (lt->workspace) cudaFree(lt->workspace);
    /* The library stays: unloading one that has registered kernels and thread exits is not safe. */
    spey_free(lt);
    device->cublaslt = NULL;
}
