#include <stdio.h>
#include <string.h>

#include "base/strbuf.h"
#include "build/build.h"
#include "cli/build_calibration.h"
#include "cli/command.h"

static bool is_fp8(const char *name)
{
    return name && !strcmp(name, "fp8");
}

int spey_cmd_build(int argc, char **argv)
{
    const char *output = NULL, *calib = NULL;
    int64_t calib_windows = 0;
    spey_build_options options = { 0 };
    bool json = false;
    const spey_option table[] = {
        { "output", SPEY_OPTION_TEXT, &output, "FILE", "where the engine goes (also: -o FILE)", 0,
          0 },
        { "dtype", SPEY_OPTION_TEXT, &options.dtype, "TYPE",
          "type of the matrices: f32, f16, bf16 or auto\n(default: as the checkpoint says)", 0, 0 },
        { "quant", SPEY_OPTION_TEXT, &options.quant, "NAME",
          "fp8: matrices of the layers in E4M3 (default: none)", 0, 0 },
        { "quant-scales", SPEY_OPTION_TEXT, &options.quant_scales, "NAME",
          "one scale for each output channel, or for the whole tensor (default: channel)", 0, 0 },
        { "kv-dtype", SPEY_OPTION_TEXT, &options.kv_dtype, "TYPE",
          "KV cache unless a run says otherwise: f32, f16, bf16, fp8, int8\n(default: as the checkpoint says)",
          0, 0 },
        { "calib", SPEY_OPTION_TEXT, &calib, "FILE",
          "text for static scales of the inputs (default: each token has its own)\nand of an fp8 KV cache (default: 1)",
          0, 0 },
        { "calib-windows", SPEY_OPTION_INT, &calib_windows, "N",
          "only the first N windows of 512 tokens of it", 1, 1 << 27 },
        { "disable-passes", SPEY_OPTION_TEXT, &options.disable_passes, "NAMES",
          "graph passes to leave out, by name, or \"all\"", 0, 0 },
        { "quiet", SPEY_OPTION_FLAG, &options.quiet, NULL, "no progress bar", 0, 0 },
        { "json", SPEY_OPTION_FLAG, &json, NULL, "print the report as one JSON object", 0, 0 },
    };
    const spey_command command = {
        .name = "build",
        .summary = "compile a Hugging Face checkpoint into an engine file",
        .usage = "CHECKPOINT -o FILE [options]",
        .details =
            "CHECKPOINT is a folder with config.json, *.safetensors and a tokenizer. The engine holds the model and\n"
            "nothing of this machine: it runs anywhere, with any limits. It appears under its name when it is\n"
            "complete; a failure or Ctrl-C leaves nothing.",
        .examples =
            "  spey build models/demo -o demo.spey\n"
            "  spey build Llama-3.2-1B -o llama.spey --dtype f16\n"
            "  spey build Llama-3.2-1B -o llama-fp8.spey --quant fp8 --kv-dtype fp8 --calib book.txt",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 1,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    if (!output) {
        SPEY_FAIL(SPEY_INVALID, "where should the engine go? spey build %s -o FILE",
                  args.positional[0]);
        return spey_report_usage();
    }
    if (!calib && calib_windows) {
        SPEY_FAIL(SPEY_INVALID, "--calib-windows without --calib");
        return spey_report_usage();
    }
    if (calib && !is_fp8(options.quant) && !is_fp8(options.kv_dtype)) {
        SPEY_FAIL(SPEY_INVALID,
                  "--calib finds scales for --quant fp8 and --kv-dtype fp8: both are missing");
        return spey_report_usage();
    }
    spey_build_report report;
    spey_calibration_run run = { 0 };
    spey_status status = SPEY_OK;
    if (calib)
        status = spey_calibration_run_make(args.positional[0], &options, output, calib,
                                           calib_windows, &run);
    if (calib) options.calibration = &run.calibration;
    if (!status) status = spey_build_engine(args.positional[0], output, &options, &report);
    spey_calibration_run_deinit(&run);
    if (status) return spey_report(status);
    if (report.warnings[0]) fprintf(stderr, "spey: warning: %s\n", report.warnings);
    if (json)
        printf(
            "{\"engine\": \"%s\", \"engine_bytes\": %llu, \"weights_bytes\": %llu, \"parameters\": %llu, "
            "\"tensors\": %d, \"nodes\": %d, \"seconds\": %.3f}\n",
            output, (unsigned long long)report.engine_bytes,
            (unsigned long long)report.weights_bytes, (unsigned long long)report.n_parameters,
            report.n_tensors, report.n_nodes, report.seconds);
    else
        fprintf(stderr, "%s: %.1f MiB, %.1f M parameters, %d nodes, built in %.2f s\n", output,
                (double)report.engine_bytes / 1048576.0, (double)report.n_parameters / 1e6,
                report.n_nodes, report.seconds);
    return SPEY_EXIT_OK;
}
