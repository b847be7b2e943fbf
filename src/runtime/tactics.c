#include "runtime/tactics.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/log.h"

enum { RECORD_BYTES_MAX = 16 << 20 };

/* Little-endian, as all that runs this is. */
typedef struct record_head {
    char magic[8];
    char subject[SPEY_TACTICS_SUBJECT_BYTES]; /* padded with zeros */
    uint64_t payload_bytes;
    uint64_t checksum; /* of subject and payload */
} record_head;

static const char magic[8] = "SPEYTAC1";

static uint64_t checksum_of(const record_head *head, const void *payload, size_t n)
{
    return spey_xxh3(head->subject, sizeof head->subject) ^ spey_xxh3(payload, n);
}

void spey_tactics_wrap(const char *subject, const void *payload, size_t n, spey_strbuf *out)
{
    record_head head = { .payload_bytes = n };
    memcpy(head.magic, magic, sizeof magic);
    snprintf(head.subject, sizeof head.subject, "%s", subject);
    head.checksum = checksum_of(&head, payload, n);
    spey_strbuf_append(out, &head, sizeof head);
    spey_strbuf_append(out, payload, n);
}

spey_status spey_tactics_unwrap(const char *subject, const void *file, size_t n,
                                const void **payload, size_t *payload_bytes)
{
    record_head head;
    if (n < sizeof head) return SPEY_FAIL(SPEY_FORMAT, "%zu bytes are no record", n);
    memcpy(&head, file, sizeof head);
    const uint8_t *rest = (const uint8_t *)file + sizeof head;
    if (memcmp(head.magic, magic, sizeof magic) != 0)
        return SPEY_FAIL(SPEY_FORMAT, "it is no record of tactics");
    if (head.payload_bytes != n - sizeof head ||
        head.checksum != checksum_of(&head, rest, n - sizeof head))
        return SPEY_FAIL(SPEY_FORMAT, "it is damaged");
    if (strncmp(head.subject, subject, sizeof head.subject) != 0)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "it is for %.*s, not for %s", (int)sizeof head.subject,
                         head.subject, subject);
    *payload = rest;
    *payload_bytes = n - sizeof head;
    return SPEY_OK;
}

/* Where the record may lie, the better place first: how many places. */
static int find_places(const spey_program *program, char places[2][SPEY_PATH_BYTES_MAX])
{
    const char *engine = spey_engine_file_path(program->engine);
    char folder[SPEY_PATH_BYTES_MAX], name[64];
    int n = 0;
    if (!program->has_virtual_weights &&
        snprintf(places[n], SPEY_PATH_BYTES_MAX, "%s.tactics", engine) < SPEY_PATH_BYTES_MAX)
        n++;
    snprintf(name, sizeof name, "%016llx.tactics",
             (unsigned long long)spey_xxh3(engine, strlen(engine)));
    if (!spey_cache_dir(folder) && !spey_path_join(places[n], folder, name)) n++;
    return n;
}

static spey_status read_record(const spey_program *program, const char *path)
{
    char subject[SPEY_TACTICS_SUBJECT_BYTES];
    const void *payload;
    size_t n;
    spey_strbuf file = { 0 };
    program->backend->tactics_subject(program->device, subject);
    spey_status status = spey_file_read(path, RECORD_BYTES_MAX, &file);
    if (!status) status = spey_tactics_unwrap(subject, file.data, file.len, &payload, &n);
    if (!status && !program->backend->tactics_write(program->device, payload, n))
        status = SPEY_FAIL(SPEY_FORMAT, "its tactics are not sound");
    spey_strbuf_deinit(&file);
    return status;
}

void spey_tactics_load(const spey_program *program)
{
    char places[2][SPEY_PATH_BYTES_MAX];
    if (!program->backend->tune) return;
    const int n = find_places(program, places);
    for (int i = 0; i < n; i++) {
        if (!spey_file_exists(places[i])) continue;
        if (!read_record(program, places[i])) return;
        spey_log(SPEY_LOG_WARNING, "%s is not used: %s", places[i], spey_last_error());
    }
}

static spey_status write_file(const char *path, const spey_strbuf *bytes)
{
    spey_file_writer *writer;
    SPEY_TRY(spey_file_writer_open(path, &writer));
    spey_status status = spey_file_writer_append(writer, bytes->data, bytes->len);
    if (!status) return spey_file_writer_commit(writer);
    spey_file_writer_abort(writer);
    return status;
}

/* In the first place that can be written. */
static spey_status write_record(const spey_program *program, const spey_strbuf *bytes)
{
    char places[2][SPEY_PATH_BYTES_MAX], folder[SPEY_PATH_BYTES_MAX];
    const int n = find_places(program, places);
    spey_status status = SPEY_FAIL(SPEY_NOT_FOUND, "there is no cache folder");
    for (int i = 0; i < n; i++) {
        if (i == n - 1 && !spey_cache_dir(folder)) (void)spey_dir_make(folder);
        status = write_file(places[i], bytes);
        if (!status) spey_log(SPEY_LOG_INFO, "tactics are in %s", places[i]);
        if (!status) break;
    }
    return status;
}

static spey_status record(const spey_program *program)
{
    char subject[SPEY_TACTICS_SUBJECT_BYTES];
    const size_t n = program->backend->tactics_read(program->device, NULL, 0);
    uint8_t *payload = spey_alloc(SPEY_PURPOSE_RUNTIME, n ? n : 1);
    if (!payload) return SPEY_NOMEM;
    program->backend->tactics_read(program->device, payload, n);
    program->backend->tactics_subject(program->device, subject);
    spey_strbuf bytes = { 0 };
    spey_tactics_wrap(subject, payload, n, &bytes);
    spey_status status = spey_strbuf_status(&bytes);
    if (!status) status = write_record(program, &bytes);
    spey_strbuf_deinit(&bytes);
    spey_free(payload);
    return status;
}

spey_status spey_tactics_tune(const spey_program *program, const spey_binding *binding)
{
    if (!program->backend->tune) return SPEY_OK;
    const uint64_t begin = spey_clock_ns();
    SPEY_TRY(program->backend->tune(program->device, binding->steps, binding->sizes.n_steps));
    spey_log(SPEY_LOG_INFO, "tuned in %.1f s", spey_clock_seconds_since(begin));
    if (record(program)) spey_log(SPEY_LOG_WARNING, "tactics are not kept: %s", spey_last_error());
    return SPEY_OK;
}
