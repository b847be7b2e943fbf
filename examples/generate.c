/* Generate text with an engine: cc generate.c -lspey -o generate && ./generate demo.spey "Once upon a time" */
#include <spey/spey.h>
#include <stdio.h>
#include <string.h>

static int print_text(void *user, const spey_output *output)
{
    (void)user;
    fwrite(output->text, 1, output->text_bytes, stdout);
    return fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    spey_engine *engine = NULL;
    spey_context *context = NULL;
    int32_t ids[4096];
    size_t n;
    spey_sampling sampling;
    spey_sampling_init(&sampling);
    sampling.max_tokens = 64;

    spey_status status = argc > 1 ? spey_engine_open(argv[1], &engine) : SPEY_INVALID;
    if (!status) status = spey_context_new(engine, NULL, &context);
    if (!status) status = spey_engine_tokenize(engine, prompt, strlen(prompt), true, ids, 4096, &n);
    if (!status)
        status = spey_context_submit(context, ids, n < 4096 ? n : 4096, &sampling, print_text, NULL,
                                     NULL);
    if (!status) status = spey_context_run(context);
    if (status)
        fprintf(stderr, "generate: %s\n",
                argc > 1 ? spey_last_error() : "usage: generate ENGINE [PROMPT]");
    else
        putchar('\n');
    spey_context_free(context);
    spey_engine_close(engine);
    return status != SPEY_OK;
}
