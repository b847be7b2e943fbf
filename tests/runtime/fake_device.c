/* A plug-in, "fake": the CPU with memory that claims not to be the host's, so that the runtime copies weights and tables
 * to it and logits back. */
#include "device/backend.h"
#include "kernels/registry.h"

static void fake_device_info(const spey_device *device, spey_device_info *out)
{
    spey_cpu_backend()->device_info(device, out);
    out->host_memory = false;
}

__attribute__((visibility("default"))) const spey_backend *
spey_backend_plugin(const spey_backend_host *host);

const spey_backend *spey_backend_plugin(const spey_backend_host *host)
{
    static spey_backend backend;
    if (host->abi != SPEY_BACKEND_ABI) return NULL;
    backend = *spey_cpu_backend();
    backend.name = "fake";
    backend.device_info = fake_device_info;
    return &backend;
}
