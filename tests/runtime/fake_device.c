/* A plug-in, "fake": the CPU with memory that claims not to be the host's, so that the runtime copies weights and tables
 * to it and logits back. Of device "fake:N", N > 0, the Nth run fails and so do all that follow; weights are made before. */
#include <string.h>

#include "device/backend.h"
#include "kernels/registry.h"

static const spey_backend_host *spey;
static int n_runs, fails_at; /* of the device that was opened last */

/* Of downloads in two halves, of the devices that were opened last: two buffers, as if what was queued had been done at once. */
enum { QUEUES = 2 };
static struct {
    const spey_device *device;
    uint8_t fetches[SPEY_FETCHES_MAX][SPEY_FETCH_BYTES_MAX];
    int n_fetches, n_fetched;
} queues[QUEUES];
static int n_opened;

static int queue_of(const spey_device *device)
{
    return queues[0].device != device;
}

static int fake_device_count(void)
{
    return 1000;
}

static spey_status fake_device_open(int index, const spey_device_options *options,
                                    spey_device **out)
{
    n_runs = 0;
    fails_at = index;
    spey_status status = spey_cpu_backend()->device_open(0, options, out);
    if (status) return status;
    const int q = n_opened++ % QUEUES;
    queues[q].device = *out;
    queues[q].n_fetches = queues[q].n_fetched = 0;
    if (queues[!q].device == *out) queues[!q].device = NULL;
    return SPEY_OK;
}

static void fake_device_info(const spey_device *device, spey_device_info *out)
{
    spey_cpu_backend()->device_info(device, out);
    out->host_memory = false;
}

static spey_status fake_fetch_begin(spey_device *device, const void *src, size_t bytes)
{
    const int q = queue_of(device), n = queues[q].n_fetches;
    if (n - queues[q].n_fetched >= SPEY_FETCHES_MAX)
        return spey->fail(SPEY_INTERNAL, "a fetch more");
    memcpy(queues[q].fetches[n % SPEY_FETCHES_MAX], src, bytes);
    queues[q].n_fetches++;
    return SPEY_OK;
}

static spey_status fake_fetch_end(spey_device *device, void *host, size_t bytes)
{
    const int q = queue_of(device), n = queues[q].n_fetched;
    if (n >= queues[q].n_fetches) return spey->fail(SPEY_INTERNAL, "a fetch that did not begin");
    memcpy(host, queues[q].fetches[n % SPEY_FETCHES_MAX], bytes);
    queues[q].n_fetched++;
    return SPEY_OK;
}

static spey_status fake_run(spey_device *device, const spey_step *steps, int n_steps)
{
    bool makes_weights = !strncmp(steps[0].kernel->name, "random_", 7);
    n_runs += !makes_weights;
    if (fails_at && n_runs >= fails_at) return spey->fail(SPEY_DEVICE, "run %d fails", n_runs);
    return spey_cpu_backend()->run(device, steps, n_steps);
}

__attribute__((visibility("default"))) const spey_backend *
spey_backend_plugin(const spey_backend_host *host);

const spey_backend *spey_backend_plugin(const spey_backend_host *host)
{
    static spey_backend backend;
    if (host->abi != SPEY_BACKEND_ABI) return NULL;
    spey = host;
    backend = *spey_cpu_backend();
    backend.name = "fake";
    backend.device_count = fake_device_count;
    backend.device_open = fake_device_open;
    backend.device_info = fake_device_info;
    backend.run = fake_run;
    backend.fetch_begin = fake_fetch_begin;
    backend.fetch_end = fake_fetch_end;
    return &backend;
}
