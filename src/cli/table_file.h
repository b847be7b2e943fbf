/* Prompt tables in files. */
#ifndef SPEY_CLI_TABLE_FILE_H
#define SPEY_CLI_TABLE_FILE_H

#include "spey/spey.h"

typedef struct spey_table_file spey_table_file;

/* A safetensors file with the tensor "prompt_embeddings" [rows, hidden], as PEFT writes it. The rows stay mapped until close. */
spey_status spey_table_file_open(const char *path, spey_table_file **out);
void spey_table_file_close(spey_table_file *file);
const spey_prompt_table *spey_table_file_table(const spey_table_file *file);

/* All rows of a table before a prompt of n ids, which the caller allocated and frees; *ids moves. */
spey_status spey_prompt_begin_with_table(const spey_engine *engine, const spey_prompt_table *table,
                                         int32_t **ids, size_t *n);

#endif
