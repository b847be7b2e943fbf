/* Any bytes: an engine whose sections and tensors lie inside of the file, or an error. The first byte chooses whether the
 * checksums are put right first, so that the checks behind them are reached. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "engine/engine_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void seal(uint8_t *bytes, size_t n)
{
    spey_engine_header header;
    if (n < sizeof header) return;
    memcpy(&header, bytes, sizeof header);
    memcpy(header.magic, SPEY_ENGINE_MAGIC, SPEY_ENGINE_MAGIC_BYTES);
    header.version = SPEY_ENGINE_VERSION;
    header.file_bytes = n;
    uint64_t table_bytes = header.n_sections * sizeof(spey_engine_section_entry);
    if (header.n_sections <= SPEY_ENGINE_SECTIONS_MAX && table_bytes <= n - sizeof header) {
        header.table_offset = (n - table_bytes) / 64 * 64;
        header.file_bytes = header.table_offset + table_bytes;
        for (uint32_t i = 0; i < header.n_sections; i++) {
            uint8_t *at = bytes + header.table_offset + i * sizeof(spey_engine_section_entry);
            spey_engine_section_entry entry;
            memcpy(&entry, at, sizeof entry);
            if (entry.offset > n || entry.bytes > n - entry.offset) continue;
            entry.checksum = spey_xxh3(bytes + entry.offset, (size_t)entry.bytes);
            memcpy(at, &entry, sizeof entry);
        }
        header.table_checksum = spey_xxh3(bytes + header.table_offset, (size_t)table_bytes);
    }
    header.checksum = spey_xxh3(&header, offsetof(spey_engine_header, checksum));
    memcpy(bytes, &header, sizeof header);
}

static void read_all(const spey_engine_file *file)
{
    uint64_t sum = 0;
    for (int i = 0; i < spey_engine_file_n_sections(file); i++) {
        spey_engine_section section = spey_engine_file_section_at(file, i);
        const void *data;
        size_t n;
        if (spey_engine_file_section(file, section.name, &data, &n)) abort();
        for (size_t k = 0; k < n; k++)
            sum += ((const uint8_t *)data)[k];
    }
    for (int i = 0; i < spey_engine_file_n_tensors(file); i++) {
        const spey_engine_tensor *tensor = spey_engine_file_tensor_at(file, i);
        if (spey_engine_file_tensor(file, tensor->name) != tensor) abort();
        if ((uintptr_t)tensor->data % 64) abort();
        for (size_t k = 0; k < tensor->bytes; k++)
            sum += ((const uint8_t *)tensor->data)[k];
    }
    if (sum == 1) puts("");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 1) return 0;
    uint8_t *copy = malloc(n);
    memcpy(copy, bytes + 1, n - 1);
    if (bytes[0] & 1) seal(copy, n - 1);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    bool written = fd >= 0 && write(fd, copy, n - 1) == (ssize_t)(n - 1);
    spey_engine_header header;
    if (written && bytes[0] & 1 && n - 1 >= sizeof header) {
        memcpy(&header, copy, sizeof header);
        written = header.file_bytes > n - 1 || ftruncate(fd, (off_t)header.file_bytes) == 0;
    }
    free(copy);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    spey_engine_file *file;
    if (written && !spey_engine_file_open(path, NULL, &file)) {
        read_all(file);
        spey_engine_file_close(file);
    }
    if (fd >= 0) close(fd);
    return 0;
}
