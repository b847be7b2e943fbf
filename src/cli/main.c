#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/command.h"

uint64_t spey_process_start_ns;

static void print_usage(FILE *to)
{
    fprintf(to, "spey %s: large-language-model inference\n\nUsage: spey COMMAND …\n\nCommands:\n",
            spey_version());
#define PRINT_COMMAND(name, summary) fprintf(to, "  %-10s %s\n", #name, summary);
    SPEY_COMMAND_LIST(PRINT_COMMAND)
#undef PRINT_COMMAND
    fprintf(to, "\n\"spey COMMAND --help\" shows options and examples.\n"
                "\nExamples:\n"
                "  spey run models/demo \"Once upon a time\"\n"
                "  spey build models/demo -o demo.spey\n"
                "  spey inspect demo.spey\n");
}

int spey_report(spey_status status)
{
    if (status == SPEY_OK) return SPEY_EXIT_OK;
    fprintf(stderr, "spey: error: %s\n", spey_last_error());
    return SPEY_EXIT_FAILURE;
}

int spey_report_usage(void)
{
    spey_report(SPEY_INVALID);
    return SPEY_EXIT_USAGE;
}

bool spey_command_begin(const spey_command *command, int argc, char **argv, spey_args *args,
                        int *exit_code)
{
    bool failed = spey_args_parse(command, argc, argv, args) != SPEY_OK;
    *exit_code = failed ? spey_report_usage() : SPEY_EXIT_OK;
    return !failed && !args->help;
}

int main(int argc, char **argv)
{
    spey_process_start_ns = spey_clock_ns();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, which every command checks */
    spey_file_cleanup_on_signal();
    if (argc < 2) {
        print_usage(stderr);
        return SPEY_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_usage(stdout);
        return SPEY_EXIT_OK;
    }
    if (!strcmp(name, "--version")) {
        printf("spey %s\n", spey_version());
        return SPEY_EXIT_OK;
    }
#define RUN_COMMAND(command, summary) \
    if (!strcmp(name, #command)) return spey_cmd_##command(argc - 2, argv + 2);
    SPEY_COMMAND_LIST(RUN_COMMAND)
#undef RUN_COMMAND
    fprintf(stderr, "spey: error: unknown command \"%s\"; \"spey --help\" lists them\n", name);
    return SPEY_EXIT_USAGE;
}
