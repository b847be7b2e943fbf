#include "engine/engine_file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "../tensor/temp_folder.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "engine/engine_format.h"
#include "engine/engine_writer.h"

static const spey_model_info sample_info = {
    .arch = "llama",
    .name = "tiny \"quoted\"",
    .kv_dtype = "fp8",
    .dtype = SPEY_BF16,
    .vocab_size = 8192,
    .hidden_size = 256,
    .n_layers = 8,
    .context_length = 1024,
    .n_parameters = 8400000000000,
    .bos_id = 0,
    .pad_id = -1,
    .eos_ids = { 1, 7 },
    .n_eos = 2,
    .do_sample = true,
    .temperature = 0.6,
    .top_p = 0.9,
    .min_p = 0.1,
    .typical_p = 1,
    .repetition_penalty = 1.1,
    .top_k = 50,
    .no_repeat_ngram = 3,
    .min_length = 56,
    .min_new_tokens = 4,
    .forced_eos_id = 2,
    .suppress = { { 5, 6 }, 2 },
    .begin_suppress = { { 220 }, 1 },
    .bad_words = { { 8, 9, -1, 10, -1 }, 5 },
};

static const spey_engine_tensor sample_tensors[] = {
    { .name = "embed", .dtype = SPEY_BF16, .n_dims = 2, .dims = { 8, 16 } },
    { .name = "norm", .dtype = SPEY_F32, .n_dims = 1, .dims = { 5 } },
    { .name = "head", .dtype = SPEY_F16, .n_dims = 2, .dims = { 4, 8 } },
};
enum { N_TENSORS = sizeof sample_tensors / sizeof *sample_tensors };

static size_t sample_bytes(int i)
{
    uint64_t bytes = 0;
    const spey_engine_tensor *tensor = &sample_tensors[i];
    assert_true(spey_engine_tensor_bytes((uint32_t)tensor->dtype, (uint32_t)tensor->n_dims,
                                         tensor->dims, &bytes));
    return (size_t)bytes;
}

static spey_status append_weights(spey_engine_writer *writer)
{
    for (int i = 0; i < N_TENSORS; i++) {
        uint8_t bytes[4096];
        size_t n = sample_bytes(i), half = n / 2;
        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)(k * 7 + (size_t)i);
        spey_status status = spey_engine_writer_append(writer, bytes, half);
        if (!status) status = spey_engine_writer_append(writer, bytes + half, n - half);
        if (status) return status;
    }
    return SPEY_OK;
}

static spey_status write_sample(const char *path)
{
    spey_engine_writer *writer;
    spey_status status = spey_engine_writer_open(path, &writer);
    if (status) return status;
    status = spey_engine_writer_info(writer, &sample_info);
    if (!status) status = spey_engine_writer_section(writer, "graph", "spey-graph 1\n", 13);
    if (!status) status = spey_engine_writer_section(writer, "file:empty.json", "", 0);
    if (!status) status = spey_engine_writer_tensors(writer, sample_tensors, N_TENSORS);
    if (!status) status = append_weights(writer);
    if (!status) status = spey_engine_writer_section(writer, "provenance", "{}", 2);
    if (!status) return spey_engine_writer_commit(writer, NULL);
    spey_engine_writer_abort(writer);
    return status;
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    assert_int_equal(write_sample(path), SPEY_OK);
    assert_true(spey_engine_file_probe(path));
    spey_engine_file *file;
    assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_OK);
    const spey_model_info *info = spey_engine_file_info(file);
    assert_memory_equal(info->eos_ids, sample_info.eos_ids, sizeof info->eos_ids);
    assert_string_equal(info->name, sample_info.name);
    assert_string_equal(info->kv_dtype, "fp8");
    assert_true(info->temperature == sample_info.temperature && info->repetition_penalty == 1.1);
    assert_int_equal(info->n_parameters, sample_info.n_parameters);
    assert_int_equal(info->pad_id, -1);
    assert_int_equal(info->no_repeat_ngram, 3);
    assert_int_equal(info->min_length, 56);
    assert_int_equal(info->min_new_tokens, 4);
    assert_int_equal(info->forced_eos_id, 2);
    assert_memory_equal(&info->suppress, &sample_info.suppress, sizeof info->suppress);
    assert_memory_equal(&info->begin_suppress, &sample_info.begin_suppress, sizeof info->suppress);
    assert_memory_equal(&info->bad_words, &sample_info.bad_words, sizeof info->bad_words);
    assert_int_equal(spey_engine_file_n_tensors(file), N_TENSORS);
    for (int i = 0; i < N_TENSORS; i++) {
        const spey_engine_tensor *tensor = spey_engine_file_tensor(file, sample_tensors[i].name);
        assert_ptr_equal(tensor, spey_engine_file_tensor_at(file, i));
        assert_int_equal(tensor->dtype, sample_tensors[i].dtype);
        assert_int_equal(tensor->bytes, sample_bytes(i));
        assert_int_equal((uintptr_t)tensor->data % 64, 0);
        for (size_t k = 0; k < tensor->bytes; k++)
            assert_int_equal(((const uint8_t *)tensor->data)[k], (uint8_t)(k * 7 + (size_t)i));
    }
    assert_null(spey_engine_file_tensor(file, "nothing"));
    const void *data;
    size_t n;
    assert_int_equal(spey_engine_file_section(file, "graph", &data, &n), SPEY_OK);
    assert_int_equal(n, 13);
    assert_memory_equal(data, "spey-graph 1\n", 13);
    assert_int_equal(spey_engine_file_section(file, "file:empty.json", &data, &n), SPEY_OK);
    assert_int_equal(n, 0);
    assert_int_equal(spey_engine_file_section(file, "tokenizer", &data, &n), SPEY_NOT_FOUND);
    assert_error_has("has no section \"tokenizer\"");
    spey_engine_file_close(file);
    remove_tree(folder.path);
}

static void large_tensors_begin_on_pages(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    const spey_engine_tensor tensors[] = {
        { .name = "small", .dtype = SPEY_F32, .n_dims = 1, .dims = { 3 } },
        { .name = "large", .dtype = SPEY_F32, .n_dims = 2, .dims = { 512, 512 } },
    };
    spey_engine_writer *writer;
    assert_int_equal(spey_engine_writer_open(path, &writer), SPEY_OK);
    assert_int_equal(spey_engine_writer_info(writer, &sample_info), SPEY_OK);
    assert_int_equal(spey_engine_writer_section(writer, "graph", "g", 1), SPEY_OK);
    assert_int_equal(spey_engine_writer_tensors(writer, tensors, 2), SPEY_OK);
    float *values = calloc(512, 512 * sizeof(float));
    values[0] = 4;
    assert_int_equal(spey_engine_writer_append(writer, "abcdefghijkl", 12), SPEY_OK);
    assert_int_equal(spey_engine_writer_append(writer, values, 1 << 20), SPEY_OK);
    free(values);
    assert_int_equal(spey_engine_writer_commit(writer, NULL), SPEY_OK);
    spey_engine_file *file;
    assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_OK);
    const spey_engine_tensor *large = spey_engine_file_tensor(file, "large");
    assert_int_equal((uintptr_t)large->data % 4096, 0);
    assert_true(((const float *)large->data)[0] == 4.0f);
    spey_engine_file_close(file);
    remove_tree(folder.path);
}

/* ---- damage ---- */

static void refuses(const char *path, spey_status status, const char *part)
{
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_engine_file *file;
    spey_status got = spey_engine_file_open(path, NULL, &file);
    if (got != status)
        fail_msg("status %d (%s), expected %d (%s)", got, spey_last_error(), status, part);
    assert_error_has(part);
    assert_error_has(path);
    assert_null(file);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

static void foreign_files_are_named(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    refuses(path, SPEY_NOT_FOUND, "cannot open");
    assert_false(spey_engine_file_probe(path));
    refuses(folder.path, SPEY_INVALID, "is a directory");
    static const char *const cases[][2] = {
        { "", "is empty" },
        { "GGUF....", "a GGUF file" },
        { "PK\x03\x04zip", "a ZIP archive" },
        { "{\"a\":1}", "is JSON" },
        { "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer" },
        { "aaaaaaaa{\"x\":1}", "a safetensors file" },
        { "hello, world", "is not a Spey engine" },
        { "\x89SPE", "truncated" },
        { "\x89SPEY\r\n\x1a", "truncated" },
        { "\x89SPEY\n\x1a rest of it", "is not a Spey engine" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(path, cases[i][0]);
        refuses(path, SPEY_FORMAT, cases[i][1]);
    }
    remove_tree(folder.path);
}

static void a_newer_format_says_so(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    assert_int_equal(write_sample(path), SPEY_OK);
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    bytes[8] = SPEY_ENGINE_VERSION + 1; /* whatever else the header of that version holds */
    write_bytes(path, bytes, n);
    refuses(path, SPEY_UNSUPPORTED, "made by a newer Spey (engine format 2");
    free(bytes);
    remove_tree(folder.path);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    assert_int_equal(write_sample(path), SPEY_OK);
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    for (size_t length = n; length-- > 0;) {
        assert_int_equal(truncate(path, (off_t)length), 0);
        spey_engine_file *file;
        assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_FORMAT);
        assert_error_has(length ? "truncated" : "is empty");
    }
    /* One byte too many is no engine either. */
    write_bytes(path, bytes, n + 1);
    refuses(path, SPEY_FORMAT, "its header says");
    free(bytes);
    remove_tree(folder.path);
}

static void a_flipped_bit_is_found_wherever_it_lies(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    assert_int_equal(write_sample(path), SPEY_OK);
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    spey_engine_file *good;
    assert_int_equal(spey_engine_file_open(path, NULL, &good), SPEY_OK);
    const char *other = temp_path(&folder, "b.spey");
    int n_sections = spey_engine_file_n_sections(good);
    for (int i = 0; i < n_sections; i++) {
        spey_engine_section section = spey_engine_file_section_at(good, i);
        for (uint64_t k = 0; k<section.bytes; k += section.bytes> 64 ? 37 : 1) {
            bytes[section.offset + k] ^= 0x10;
            write_bytes(other, bytes, n);
            char expected[128];
            snprintf(expected, sizeof expected, "the checksum of section \"%s\"", section.name);
            refuses(other, SPEY_FORMAT, expected);
            bytes[section.offset + k] ^= 0x10;
        }
    }
    /* Header and section table, byte by byte. */
    size_t table = n - (size_t)n_sections * sizeof(spey_engine_section_entry);
    for (size_t k = 0; k < n; k = k + 1 == 64 ? table : k + 1) {
        bytes[k] ^= 1;
        write_bytes(other, bytes, n);
        spey_engine_file *file;
        spey_status status = spey_engine_file_open(other, NULL, &file);
        assert_true(status == SPEY_FORMAT || (status == SPEY_UNSUPPORTED && k >= 8 && k < 12));
        bytes[k] ^= 1;
    }
    spey_engine_file_close(good);
    free(bytes);
    remove_tree(folder.path);
}

/* ---- lies with right checksums ---- */

/* An engine in memory whose parts a test changes; seal puts the checksums right again. */
typedef struct forgery {
    uint8_t *bytes;
    size_t n;
    spey_engine_header *header;
    spey_engine_section_entry *sections;
    spey_engine_tensors_header *table;
    spey_engine_tensor_entry *tensors;
    char *names;
} forgery;

enum { INFO, GRAPH, EMPTY, TENSORS, WEIGHTS, PROVENANCE }; /* in the order of write_sample */

static void locate(forgery *f)
{
    f->header = (spey_engine_header *)f->bytes;
    f->sections = (spey_engine_section_entry *)(f->bytes + f->header->table_offset);
    f->table = (spey_engine_tensors_header *)(f->bytes + f->sections[TENSORS].offset);
    f->tensors = (spey_engine_tensor_entry *)(f->table + 1);
    f->names = (char *)(f->tensors + N_TENSORS);
}

static forgery forge(const uint8_t *bytes, size_t n)
{
    forgery f = { .bytes = aligned_alloc(64, (n + 63) / 64 * 64), .n = n };
    memcpy(f.bytes, bytes, n);
    locate(&f);
    return f;
}

static void seal_header(forgery *f)
{
    f->header->checksum = spey_xxh3(f->header, offsetof(spey_engine_header, checksum));
}

static void seal_table(forgery *f)
{
    f->header->table_checksum = spey_xxh3(f->sections, f->header->n_sections * sizeof *f->sections);
    seal_header(f);
}

static void seal(forgery *f)
{
    for (uint32_t i = 0; i < f->header->n_sections; i++)
        f->sections[i].checksum = spey_xxh3(f->bytes + f->sections[i].offset, f->sections[i].bytes);
    seal_table(f);
}

static void lie_header_bytes(forgery *f)
{
    f->header->header_bytes = 128;
    seal_header(f);
}
static void lie_section_size(forgery *f)
{
    f->header->section_bytes = 64;
    seal_header(f);
}
static void lie_section_count(forgery *f)
{
    f->header->n_sections = UINT32_MAX;
    seal_header(f);
}
static void lie_table_offset(forgery *f)
{
    f->header->table_offset = UINT64_MAX - 63;
    seal_header(f);
}
static void lie_file_bytes(forgery *f)
{
    f->header->file_bytes++;
    seal_header(f);
}
static void lie_version_zero(forgery *f)
{
    f->header->version = 0;
    seal_header(f);
}
static void lie_section_offset(forgery *f)
{
    f->sections[WEIGHTS].offset = UINT64_MAX - 4095;
    seal_table(f);
}
static void lie_section_bytes(forgery *f)
{
    f->sections[WEIGHTS].bytes = UINT64_MAX;
    seal_table(f);
}
static void lie_section_overlap(forgery *f)
{
    f->sections[GRAPH].offset = f->sections[INFO].offset;
    seal(f);
}
static void lie_section_in_header(forgery *f)
{
    f->sections[INFO].offset = 0;
    seal(f);
}
static void lie_section_unaligned(forgery *f)
{
    f->sections[GRAPH].offset++;
    seal(f);
}
static void lie_section_duplicate(forgery *f)
{
    strcpy(f->sections[PROVENANCE].name, "info");
    seal(f);
}
static void lie_section_unnamed(forgery *f)
{
    f->sections[GRAPH].name[0] = 0;
    seal(f);
}
static void lie_section_name_endless(forgery *f)
{
    memset(f->sections[GRAPH].name, 'x', sizeof f->sections[GRAPH].name);
    seal(f);
}
static void lie_no_info(forgery *f)
{
    strcpy(f->sections[INFO].name, "inf");
    seal(f);
}
static void lie_no_graph(forgery *f)
{
    strcpy(f->sections[GRAPH].name, "grph");
    seal(f);
}
static void lie_no_weights(forgery *f)
{
    strcpy(f->sections[WEIGHTS].name, "w");
    seal(f);
}
static void lie_no_tensors(forgery *f)
{
    strcpy(f->sections[TENSORS].name, "t");
    seal(f);
}
static void lie_weights_off_page(forgery *f)
{
    f->sections[WEIGHTS].offset += 64;
    f->sections[WEIGHTS].bytes -= 64;
    seal(f);
}
static void lie_info_json(forgery *f)
{
    f->bytes[f->sections[INFO].offset] = '[';
    seal(f);
}
static void lie_info_value(forgery *f)
{
    char *at = strstr((char *)f->bytes + f->sections[INFO].offset, "8192");
    memcpy(at, "-192", 4);
    seal(f);
}
static void lie_tensor_count(forgery *f)
{
    f->table->n_tensors = UINT32_MAX;
    seal(f);
}
static void lie_tensor_count_small(forgery *f)
{
    f->table->n_tensors = 2;
    seal(f);
}
static void lie_tensor_entry_bytes(forgery *f)
{
    f->table->entry_bytes = 32;
    seal(f);
}
static void lie_tensor_table_short(forgery *f)
{
    f->sections[TENSORS].bytes = 8;
    seal(f);
}
static void lie_names_endless(forgery *f)
{
    f->names[f->table->names_bytes - 1] = 'x';
    seal(f);
}
static void lie_name_offset(forgery *f)
{
    f->tensors[1].name_offset = UINT32_MAX;
    seal(f);
}
static void lie_name_empty(forgery *f)
{
    f->tensors[1].name_offset = (uint32_t)f->table->names_bytes - 1;
    seal(f);
}
static void lie_name_twice(forgery *f)
{
    f->tensors[1].name_offset = f->tensors[0].name_offset;
    seal(f);
}
static void lie_dtype(forgery *f)
{
    f->tensors[1].dtype = SPEY_DTYPE_COUNT;
    seal(f);
}
static void lie_dims_count(forgery *f)
{
    f->tensors[1].n_dims = 5;
    seal(f);
}
static void lie_no_dims(forgery *f)
{
    f->tensors[1].n_dims = 0;
    seal(f);
}
static void lie_dim_negative(forgery *f)
{
    f->tensors[0].dims[0] = -8;
    seal(f);
}
static void lie_dim_overflow(forgery *f)
{
    f->tensors[0].dims[0] = INT64_MAX;
    seal(f);
}
static void lie_tensor_bytes(forgery *f)
{
    f->tensors[0].bytes++;
    seal(f);
}
static void lie_tensor_offset(forgery *f)
{
    f->tensors[2].offset = UINT64_MAX - 63;
    seal(f);
}
static void lie_tensor_end(forgery *f)
{
    f->tensors[2].offset += 64;
    seal(f);
}
static void lie_tensor_overlap(forgery *f)
{
    f->tensors[1].offset = 0;
    seal(f);
}
static void lie_tensor_unaligned(forgery *f)
{
    f->tensors[1].offset++;
    seal(f);
}

static void lies_with_right_checksums_are_found(void **state)
{
    (void)state;
    static const struct {
        void (*lie)(forgery *);
        const char *part;
    } cases[] = {
        { lie_header_bytes, "header's checksum" },
        { lie_version_zero, "header's checksum" },
        { lie_section_size, "section table does not fit" },
        { lie_section_count, "section table does not fit" },
        { lie_table_offset, "section table does not fit" },
        { lie_file_bytes, "its header says" },
        { lie_section_offset, "section \"weights\" lies at" },
        { lie_section_bytes, "section \"weights\" lies at" },
        { lie_section_overlap, "section \"graph\" lies at" },
        { lie_section_in_header, "section \"info\" lies at" },
        { lie_section_unaligned, "section \"graph\" lies at" },
        { lie_section_duplicate, "two sections \"info\"" },
        { lie_section_unnamed, "section 1 has no name" },
        { lie_section_name_endless, "section 1 has no name" },
        { lie_no_info, "has no section \"info\"" },
        { lie_no_graph, "has no section \"graph\"" },
        { lie_no_weights, "has no section \"weights\"" },
        { lie_no_tensors, "has no section \"tensors\"" },
        { lie_weights_off_page, "not page-aligned" },
        { lie_info_json, "info: bad JSON" },
        { lie_info_value, "\"vocab_size\" is -192" },
        { lie_tensor_count, "the tensor table says" },
        { lie_tensor_count_small, "the tensor table says" },
        { lie_tensor_entry_bytes, "the tensor table says" },
        { lie_tensor_table_short, "the tensor table has 8 bytes" },
        { lie_names_endless, "has no end" },
        { lie_name_offset, "the name of tensor 1 is missing" },
        { lie_name_empty, "the name of tensor 1 has 0 bytes" },
        { lie_name_twice, "two tensors embed" },
        { lie_dtype, "do not fit" },
        { lie_dims_count, "do not fit" },
        { lie_no_dims, "do not fit" },
        { lie_dim_negative, "do not fit" },
        { lie_dim_overflow, "do not fit" },
        { lie_tensor_bytes, "do not fit" },
        { lie_tensor_offset, "tensor head lies at" },
        { lie_tensor_end, "tensor head lies at" },
        { lie_tensor_overlap, "tensor norm lies at" },
        { lie_tensor_unaligned, "tensor norm lies at" },
    };
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    assert_int_equal(write_sample(path), SPEY_OK);
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        forgery f = forge(bytes, n);
        cases[i].lie(&f);
        write_bytes(path, f.bytes, f.n);
        refuses(path, SPEY_FORMAT, cases[i].part);
        free(f.bytes);
    }
    free(bytes);
    remove_tree(folder.path);
}

/* ---- large weights ---- */

static void large_weights_are_verified_on_request(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    const int64_t rows = SPEY_ENGINE_VERIFY_BYTES_MAX / 4096 + 1;
    const spey_engine_tensor tensor = {
        .name = "w", .dtype = SPEY_U8, .n_dims = 2, .dims = { rows, 4096 }
    };
    spey_engine_writer *writer;
    assert_int_equal(spey_engine_writer_open(path, &writer), SPEY_OK);
    assert_int_equal(spey_engine_writer_info(writer, &sample_info), SPEY_OK);
    assert_int_equal(spey_engine_writer_section(writer, "graph", "g", 1), SPEY_OK);
    assert_int_equal(spey_engine_writer_tensors(writer, &tensor, 1), SPEY_OK);
    uint8_t row[4096] = { 1 };
    for (int64_t i = 0; i < rows; i++)
        assert_int_equal(spey_engine_writer_append(writer, row, sizeof row), SPEY_OK);
    assert_int_equal(spey_engine_writer_commit(writer, NULL), SPEY_OK);
    FILE *stream = fopen(path, "r+b");
    fseek(stream, 32 << 20, SEEK_SET);
    fputc('!', stream);
    fclose(stream);
    spey_engine_file *file;
    assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_OK);
    spey_engine_file_close(file);
    const spey_engine_open_options options = { .verify_weights = true };
    assert_int_equal(spey_engine_file_open(path, &options, &file), SPEY_FORMAT);
    assert_error_has("section \"weights\"");
    remove_tree(folder.path);
}

/* ---- writing goes wrong ---- */

static void an_aborted_engine_leaves_nothing(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    write_text(path, "what was there before");
    spey_engine_writer *writer;
    assert_int_equal(spey_engine_writer_open(path, &writer), SPEY_OK);
    assert_int_equal(spey_engine_writer_info(writer, &sample_info), SPEY_OK);
    assert_int_equal(spey_engine_writer_section(writer, "info", "again", 5), SPEY_INVALID);
    assert_error_has("is there already");
    char name[SPEY_ENGINE_SECTION_NAME_BYTES + 1];
    memset(name, 'n', sizeof name);
    name[SPEY_ENGINE_SECTION_NAME_BYTES] = 0;
    assert_int_equal(spey_engine_writer_section(writer, name, "x", 1), SPEY_INVALID);
    spey_engine_writer_abort(writer);
    assert_int_equal(count_files(folder.path), 1);
    refuses(path, SPEY_FORMAT, "not a Spey engine");
    assert_int_equal(spey_engine_writer_open(temp_path(&folder, "no/such/a.spey"), &writer),
                     SPEY_IO);
    assert_int_equal(spey_engine_writer_open(folder.path, &writer), SPEY_INVALID);
    remove_tree(folder.path);
}

static void an_interrupt_leaves_nothing(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    pid_t child = fork();
    if (child == 0) {
        spey_engine_writer *writer;
        spey_file_cleanup_on_signal();
        if (spey_engine_writer_open(path, &writer)) _exit(1);
        if (spey_engine_writer_info(writer, &sample_info) || count_files(folder.path) != 1)
            _exit(2);
        raise(SIGINT);
        _exit(3);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    assert_int_equal(count_files(folder.path), 0);
    remove_tree(folder.path);
}

static void a_full_disk_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = { 0, 64, 2000, 4096, 4500 };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit small = { limits[i], before.rlim_max };
        setrlimit(RLIMIT_FSIZE, &small);
        spey_status status = write_sample(path);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(status, SPEY_IO);
        assert_error_has("a.spey: cannot write");
        assert_int_equal(count_files(folder.path), 0);
    }
    signal(SIGXFSZ, SIG_DFL);
    remove_tree(folder.path);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "a.spey");
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_alloc_fail_nth(n);
        status = write_sample(path);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_int_equal(count_files(folder.path), status ? 0 : 1);
    }
    status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_engine_file *file;
        spey_alloc_fail_nth(n);
        status = spey_engine_file_open(path, NULL, &file);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        spey_engine_file_close(file);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    remove_tree(folder.path);
}

/* ---- virtual engines ---- */

static void a_virtual_engine_has_shapes_but_no_data(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_engine_file *file;
    assert_int_equal(
        spey_engine_file_virtual(&sample_info, "spey-graph 1\n", sample_tensors, N_TENSORS, &file),
        SPEY_OK);
    assert_string_equal(spey_engine_file_path(file), sample_info.name);
    float table[3] = { 1, 2, 3 };
    spey_engine_tensor computed = { .name = "t", .dtype = SPEY_F32, .n_dims = 1, .dims = { 3 } };
    computed.data = table;
    computed.bytes = sizeof table;
    spey_engine_file *with_table;
    assert_int_equal(spey_engine_file_virtual(&sample_info, "g", &computed, 1, &with_table),
                     SPEY_OK);
    const spey_engine_tensor *kept = spey_engine_file_tensor(with_table, "t");
    assert_ptr_not_equal(kept->data, table);
    assert_int_equal((uintptr_t)kept->data % 64, 0);
    assert_memory_equal(kept->data, table, sizeof table);
    spey_engine_file_close(with_table);
    const spey_engine_tensor *head = spey_engine_file_tensor(file, "head");
    assert_null(head->data);
    assert_int_equal(head->bytes, 64);
    assert_ptr_not_equal(head->name, sample_tensors[2].name);
    const void *data;
    size_t n;
    assert_int_equal(spey_engine_file_section(file, "graph", &data, &n), SPEY_OK);
    assert_int_equal(n, 13);
    assert_int_equal(spey_engine_file_section(file, "info", &data, &n), SPEY_OK);
    spey_model_info info;
    assert_int_equal(spey_model_info_parse("info", data, n, &info), SPEY_OK);
    assert_int_equal(info.vocab_size, 8192);
    assert_int_equal(spey_engine_file_section(file, "weights", &data, &n), SPEY_NOT_FOUND);
    spey_engine_file_close(file);
    const spey_engine_tensor twice[] = { sample_tensors[0], sample_tensors[0] };
    assert_int_equal(spey_engine_file_virtual(&sample_info, "", twice, 2, &file), SPEY_FORMAT);
    const spey_engine_tensor impossible[] = {
        { .name = "w", .dtype = SPEY_F32, .n_dims = 1, .dims = { 0 } }
    };
    assert_int_equal(spey_engine_file_virtual(&sample_info, "", impossible, 1, &file),
                     SPEY_INVALID);
    spey_status status = SPEY_NOMEM;
    for (uint64_t k = 1; status; k++) {
        spey_alloc_fail_nth(k);
        status = spey_engine_file_virtual(&sample_info, "g", sample_tensors, N_TENSORS, &file);
        spey_alloc_fail_nth(0);
        spey_engine_file_close(file);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

/* ---- info ---- */

static void bad_info_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        /* key, what to put, what the error says */
        { "\"arch\": \"llama\"", "\"arch\": 3", "\"arch\" is an integer" },
        { "\"dtype\": \"bf16\"", "\"dtype\": \"f7\"", "unknown dtype \"f7\"" },
        { "\"hidden_size\": 256", "\"hidden_size\": 0", "\"hidden_size\" is 0" },
        { "\"n_layers\": 8", "\"layers\": 8", "\"n_layers\" is missing" },
        { "\"bos_id\": 0", "\"bos_id\": -2", "\"bos_id\" is -2" },
        { "[1, 7]", "7", "\"eos_ids\" is not a list" },
        { "[1, 7]", "[-1]", "not a token id" },
        { "[1, 7]", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "at most 16" },
        { "\"do_sample\": true", "\"do_sample\": 1", "\"do_sample\" is an integer" },
        { "[5, 6]", "5", "\"suppress_ids\" is not a list of at most 512" },
        { "[220]", "[-1]", "\"begin_suppress_ids\" holds what is not" },
        { "[8, 9, -1", "[8, 9, -2", "\"bad_words\" holds what is not" },
        { "\"forced_eos_id\": 2", "\"forced_eos_id\": -2", "\"forced_eos_id\" is -2" },
        { "\"top_k\": 50", "\"top_k\": -3", "\"top_k\" is -3" },
        { "\"min_p\"", "\"mim_p\"", "\"min_p\" is missing" },
    };
    spey_strbuf text = { 0 };
    assert_int_equal(spey_model_info_write(&sample_info, &text), SPEY_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char changed[4096];
        const char *at = strstr(text.data, cases[i][0]);
        assert_non_null(at);
        int n = snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text.data), text.data,
                         cases[i][1], at + strlen(cases[i][0]));
        spey_model_info info;
        assert_int_equal(spey_model_info_parse("info", changed, (size_t)n, &info), SPEY_FORMAT);
        assert_error_has(cases[i][2]);
    }
    spey_strbuf_deinit(&text);
}

/* Engines from before there were rules have none. */
static void missing_rules_are_none(void **state)
{
    (void)state;
    static const char *const keys[] = { "\"suppress_ids\"", "\"begin_suppress_ids\"",
                                        "\"bad_words\"",    "\"no_repeat_ngram\"",
                                        "\"min_length\"",   "\"min_new_tokens\"",
                                        "\"forced_eos_id\"" };
    spey_strbuf text = { 0 };
    assert_int_equal(spey_model_info_write(&sample_info, &text), SPEY_OK);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        strstr(text.data, keys[i])[1] = '_';
    spey_model_info info;
    assert_int_equal(spey_model_info_parse("info", text.data, text.len, &info), SPEY_OK);
    assert_int_equal(info.suppress.n + info.begin_suppress.n + info.bad_words.n, 0);
    assert_int_equal(info.no_repeat_ngram + info.min_length + info.min_new_tokens, 0);
    assert_int_equal(info.forced_eos_id, -1);
    spey_strbuf_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(large_tensors_begin_on_pages),
        cmocka_unit_test(foreign_files_are_named),
        cmocka_unit_test(a_newer_format_says_so),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(a_flipped_bit_is_found_wherever_it_lies),
        cmocka_unit_test(lies_with_right_checksums_are_found),
        cmocka_unit_test(large_weights_are_verified_on_request),
        cmocka_unit_test(an_aborted_engine_leaves_nothing),
        cmocka_unit_test(an_interrupt_leaves_nothing),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_nothing),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
        cmocka_unit_test(a_virtual_engine_has_shapes_but_no_data),
        cmocka_unit_test(bad_info_is_refused),
        cmocka_unit_test(missing_rules_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
