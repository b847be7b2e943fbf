#include "cli/build_calibration.h"

#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/progress.h"
#include "build/source_digest.h"
#include "cli/text_stream.h"

static spey_status digest_text(const char *path, char out[SPEY_SHA256_HEX_BYTES])
{
    spey_strbuf text = { 0 };
    spey_status status = spey_file_read(path, SPEY_JSON_BYTES_MAX, &text);
    if (!status) status = spey_bytes_digest(text.data ? text.data : "", text.len, out);
    spey_strbuf_deinit(&text);
    return status;
}

/* The checkpoint without quantization. The mapping outlives the file's name. */
static spey_status build_plain(const char *checkpoint, const spey_build_options *options,
                               const char *output, spey_engine **out)
{
    char path[SPEY_PATH_BYTES_MAX];
    spey_build_options plain = *options;
    plain.quant = plain.quant_scales = plain.kv_dtype = NULL;
    plain.calibration = NULL;
    if (snprintf(path, sizeof path, "%s.calibration", output) >= (int)sizeof path)
        return SPEY_FAIL(SPEY_LIMIT, "%.100s…: path too long", output);
    SPEY_TRY(spey_build_engine(checkpoint, path, &plain, NULL));
    spey_status status = spey_engine_open(path, out);
    unlink(path);
    return status;
}

static spey_status run_windows(spey_calibration_run *run, const spey_ids *stream,
                               const spey_windows *windows)
{
    spey_progress progress;
    spey_progress_begin(&progress, "calibrating", (uint64_t)windows->n);
    for (int64_t w = 0; w < windows->n; w++) {
        int64_t begin, len;
        spey_windows_at(windows, w, &begin, &len);
        SPEY_TRY(spey_calibrator_run(run->calibrator, stream->data + begin, len));
        run->calibration.n_tokens += len;
        spey_progress_update(&progress, (uint64_t)w + 1);
    }
    spey_progress_end(&progress);
    return SPEY_OK;
}

static spey_status collect(spey_calibration_run *run)
{
    int n = 0;
    float largest;
    while (spey_calibrator_range(run->calibrator, n, &largest))
        n++;
    run->ranges = spey_new_array(SPEY_PURPOSE_GENERAL, spey_input_range, n);
    if (!run->ranges) return SPEY_NOMEM;
    for (int i = 0; i < n; i++)
        run->ranges[i].weight = spey_calibrator_range(run->calibrator, i, &run->ranges[i].largest);
    run->calibration.ranges = run->ranges;
    run->calibration.n = n;
    for (int c = 0; c < SPEY_CACHE_GROUPS_MAX; c++)
        run->calibration.caches[c] = spey_calibrator_cache(run->calibrator, c);
    run->calibration.text_sha256 = run->text_sha256;
    return SPEY_OK;
}

static spey_status calibrate(spey_calibration_run *run, const char *text, int64_t windows_max)
{
    const int64_t context = spey_engine_file_info(run->engine->file)->context_length;
    int64_t window = SPEY_CALIBRATION_WINDOW < context ? SPEY_CALIBRATION_WINDOW : context;
    spey_ids stream = { 0 };
    spey_status status = digest_text(text, run->text_sha256);
    if (!status) status = spey_text_stream(text, run->engine, &stream);
    if (!status) status = spey_calibrator_new(run->engine->file, window, 0, &run->calibrator);
    if (!status) {
        const spey_windows windows = spey_windows_cut((int64_t)stream.len, window, windows_max);
        status = run_windows(run, &stream, &windows);
    }
    run->calibration.window = window;
    spey_ids_deinit(&stream);
    return status ? status : collect(run);
}

spey_status spey_calibration_run_make(const char *checkpoint, const spey_build_options *options,
                                      const char *output, const char *text, int64_t windows,
                                      spey_calibration_run *out)
{
    *out = (spey_calibration_run){ 0 };
    SPEY_TRY(build_plain(checkpoint, options, output, &out->engine));
    spey_status status = calibrate(out, text, windows);
    if (status) spey_calibration_run_deinit(out);
    return status;
}

void spey_calibration_run_deinit(spey_calibration_run *run)
{
    spey_calibrator_free(run->calibrator);
    spey_engine_close(run->engine);
    spey_free(run->ranges);
    *run = (spey_calibration_run){ 0 };
}
