#include "device/backend.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"

enum { PLUGINS_MAX = 4, NAME_MAX_BYTES = 32 };

static void host_log(int level, const char *format, ...) SPEY_PRINTF(2, 3);

static void host_log(int level, const char *format, ...)
{
    char text[SPEY_ERROR_BYTES_MAX];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    spey_log((spey_log_level)level, "%s", text);
}

static const spey_backend_host host = {
    .abi = SPEY_BACKEND_ABI,
    .fail = spey_error_set,
    .log = host_log,
};

/* The folder of the running program; false when /proc does not tell. */
static bool program_folder(char out[SPEY_PATH_BYTES_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, SPEY_PATH_BYTES_MAX - 1);
    if (n <= 0) return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash) return false;
    *slash = 0;
    return true;
}

/* A library that is there but does not load is an error at once: the reason is what the user needs. */
static spey_status open_library(const char *name, void **out)
{
    char folder[SPEY_PATH_BYTES_MAX], file[SPEY_NAME_BYTES_MAX];
    snprintf(file, sizeof(file), "libspey-%s.so", name);
    if (program_folder(folder)) {
        static const char *const places[] = { "", "../lib/spey/" };
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
            char relative[SPEY_NAME_BYTES_MAX + 16], path[SPEY_PATH_BYTES_MAX];
            snprintf(relative, sizeof(relative), "%s%s", places[i], file);
            if (spey_path_join(path, folder, relative) != SPEY_OK || !spey_file_exists(path))
                continue;
            *out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (*out) return SPEY_OK;
            return SPEY_FAIL(SPEY_NOT_FOUND, "%s does not load: %s", path, dlerror());
        }
    }
    *out = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (*out) return SPEY_OK;
    return SPEY_FAIL(SPEY_NOT_FOUND,
                     "no library for device '%s': %s is neither beside the program nor in "
                     "../lib/spey, and the system says: %s",
                     name, file, dlerror());
}

static spey_status open_plugin(const char *name, const spey_backend **out)
{
    void *library;
    SPEY_TRY(open_library(name, &library));
    spey_backend_plugin_fn plugin;
    void *symbol = dlsym(library, SPEY_BACKEND_PLUGIN_SYMBOL);
    if (!symbol) {
        dlclose(library);
        return SPEY_FAIL(SPEY_NOT_FOUND, "libspey-%s.so has no symbol %s", name,
                         SPEY_BACKEND_PLUGIN_SYMBOL);
    }
    memcpy(&plugin, &symbol,
           sizeof(plugin)); /* ISO C has no cast from object to function pointer */
    spey_error_set(SPEY_NOT_FOUND, "it gave no reason");
    const spey_backend *backend = plugin(&host);
    if (!backend) {
        dlclose(library);
        return spey_error_context(SPEY_NOT_FOUND, "device '%s' is not usable", name);
    }
    if (backend->abi != SPEY_BACKEND_ABI)
        return SPEY_FAIL(SPEY_NOT_FOUND,
                         "libspey-%s.so speaks version %u of the plug-in interface, "
                         "this program %u",
                         name, backend->abi, (unsigned)SPEY_BACKEND_ABI);
    *out = backend;
    return SPEY_OK;
}

spey_status spey_backend_open_plugin(const char *name, const spey_backend **out)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        char name[NAME_MAX_BYTES];
        const spey_backend *backend;
    } opened[PLUGINS_MAX];
    static int n_opened;

    *out = NULL;
    if (!*name || strlen(name) >= NAME_MAX_BYTES || strchr(name, '/'))
        return SPEY_FAIL(SPEY_INVALID, "'%s' is not the name of a device", name);
    pthread_mutex_lock(&mutex);
    spey_status status = SPEY_OK;
    for (int i = 0; i < n_opened && !*out; i++)
        if (!strcmp(opened[i].name, name)) *out = opened[i].backend;
    if (!*out) {
        status = n_opened < PLUGINS_MAX
                     ? open_plugin(name, out)
                     : SPEY_FAIL(SPEY_LIMIT, "more than %d kinds of device", (int)PLUGINS_MAX);
        if (status == SPEY_OK) {
            snprintf(opened[n_opened].name, NAME_MAX_BYTES, "%s", name);
            opened[n_opened++].backend = *out;
        }
    }
    pthread_mutex_unlock(&mutex);
    return status;
}
