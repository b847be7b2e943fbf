#include "tensor/safetensors.h"

#include <math.h>

#include "base/alloc.h"
#include "temp_folder.h"

/* A file in memory: length, header, then `data_bytes` bytes 0, 1, 2 … */
typedef struct image {
    uint8_t bytes[4096];
    size_t n;
} image;

static image make_image(const char *header, size_t data_bytes)
{
    image out = { .n = 8 + strlen(header) + data_bytes };
    assert_true(out.n <= sizeof out.bytes);
    for (int i = 0; i < 8; i++)
        out.bytes[i] = (uint8_t)((uint64_t)strlen(header) >> (8 * i));
    memcpy(out.bytes + 8, header, strlen(header));
    for (size_t i = 0; i < data_bytes; i++)
        out.bytes[8 + strlen(header) + i] = (uint8_t)i;
    return out;
}

/* Parsing fails with this status and a text that holds `part`, and leaves nothing. */
static void refuses(const char *header, size_t data_bytes, spey_status status, const char *part)
{
    image file = make_image(header, data_bytes);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_safetensors *tensors = (spey_safetensors *)&file;
    spey_status got = spey_safetensors_parse("x.safetensors", file.bytes, file.n, &tensors);
    if (got != status) fail_msg("status %d for %s, expected %d", got, header, status);
    assert_error_has(part);
    assert_error_has("x.safetensors");
    assert_null(tensors);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

static void a_file_lists_its_tensors_in_order_of_data(void **state)
{
    (void)state;
    image file =
        make_image("{\"__metadata__\":{\"format\":\"pt\"},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]},"
                   "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                   "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[12,20]},"
                   "\"none\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[4,4]}}   ",
                   20);
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_parse("x", file.bytes, file.n, &tensors), SPEY_OK);
    assert_int_equal(spey_safetensors_count(tensors), 4);
    assert_string_equal(spey_safetensors_at(tensors, 0)->name, "a");
    assert_string_equal(spey_safetensors_at(tensors, 1)->name, "none");
    const spey_safetensor *b = spey_safetensors_find(tensors, "b");
    assert_int_equal(b->dtype, SPEY_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->bytes, 8);
    assert_int_equal(((const uint8_t *)b->data)[0], 4);
    const spey_safetensor *scalar = spey_safetensors_find(tensors, "scalar");
    assert_int_equal(scalar->n_dims, 0);
    assert_int_equal(scalar->bytes, 8);
    assert_null(spey_safetensors_find(tensors, "c"));
    spey_safetensors_close(tensors);
}

static void an_empty_set_is_fine(void **state)
{
    (void)state;
    image file = make_image("{}", 0);
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_parse("x", file.bytes, file.n, &tensors), SPEY_OK);
    assert_int_equal(spey_safetensors_count(tensors), 0);
    assert_null(spey_safetensors_nearest(tensors, "x", NULL, NULL));
    spey_safetensors_close(tensors);
}

#define T(dtype, shape, offsets) \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void bad_entries_are_refused(void **state)
{
    (void)state;
    refuses("[]", 0, SPEY_FORMAT, "not a JSON object");
    refuses("{", 0, SPEY_FORMAT, "bad JSON");
    refuses("", 0, SPEY_FORMAT, "bad JSON");
    refuses("{} x", 0, SPEY_FORMAT, "bad JSON");
    refuses("{\"__metadata__\":3}", 0, SPEY_FORMAT, "__metadata__");
    refuses("{\"a\":3}", 0, SPEY_FORMAT, "tensor a: its entry is not an object");
    refuses("{\"a\":{}}", 0, SPEY_FORMAT, "\"dtype\" is not a string");
    refuses("{\"a\":" T("F7", "[1]", "[0,4]") "}", 4, SPEY_UNSUPPORTED, "unknown dtype \"F7\"");
    refuses("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SPEY_FORMAT, "\"shape\"");
    refuses("{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, SPEY_FORMAT, "dimension 0");
    refuses("{\"a\":" T("F32", "[1,\"2\"]", "[0,4]") "}", 4, SPEY_FORMAT, "dimension 1");
    refuses("{\"a\":" T("F32", "[1.0]", "[0,4]") "}", 4, SPEY_FORMAT, "dimension 0");
    refuses("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, SPEY_LIMIT, "9 dimensions");
    refuses("{\"a\":" T("F32", "[1]", "[0]") "}", 4, SPEY_FORMAT, "not a pair");
    refuses("{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, SPEY_FORMAT, "not a pair");
    refuses("{\"a\":" T("F32", "[1]", "[0,-4]") "}", 4, SPEY_FORMAT, "data offset");
    refuses("{\"a\":" T("F32", "[1]", "\"04\"") "}", 4, SPEY_FORMAT, "not a pair");
    refuses("{\"\":" T("F32", "[1]", "[0,4]") "}", 4, SPEY_LIMIT, "tensor name has 0 bytes");
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    refuses("{\"a\":" T("F32", "[4294967296,4294967296]", "[0,4]") "}", 4, SPEY_FORMAT,
            "overflows");
    refuses("{\"a\":" T("F64", "[9223372036854775807]", "[0,4]") "}", 4, SPEY_FORMAT, "overflows");
    refuses("{\"a\":" T("F32", "[99999999999999999999]", "[0,4]") "}", 4, SPEY_FORMAT, "bad JSON");
    refuses("{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, SPEY_FORMAT,
            "tensor a is [2] of f32, 8 bytes, but has 4 bytes");
    refuses("{\"a\":" T("F32", "[1]", "[0,9223372036854775807]") "}", 4, SPEY_FORMAT, "lies at");
    refuses("{\"a\":" T("F32", "[1]", "[4,8]") "}", 4, SPEY_FORMAT, "lies at bytes 4 to 8");
    refuses("{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, SPEY_FORMAT, "lies at bytes 4 to 0");
}

static void data_is_tiled_exactly(void **state)
{
    (void)state;
    refuses("{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, SPEY_FORMAT,
            "4 bytes before tensor a belong to no tensor");
    refuses("{\"a\":" T("F32", "[1]", "[0,4]") "}", 7, SPEY_FORMAT,
            "3 bytes at the end belong to no tensor");
    refuses("{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8,
            SPEY_FORMAT, "tensors a and b overlap");
    refuses("{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4,
            SPEY_FORMAT, "overlap");
}

static void a_name_may_appear_once(void **state)
{
    (void)state;
    refuses("{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8,
            SPEY_FORMAT, "duplicate");
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    char header[600];
    memset(header, '[', sizeof header);
    header[sizeof header - 1] = 0;
    refuses(header, 0, SPEY_LIMIT, "nested deeper");
}

static void the_header_length_is_not_believed(void **state)
{
    (void)state;
    image file = make_image("{\"a\":" T("F32", "[1]", "[0,4]") "}", 4);
    spey_safetensors *tensors;
    static const uint64_t lies[] = { UINT64_MAX, INT64_MAX, (uint64_t)1 << 40, 5000, 3 };
    static const char *const parts[] = { "not a safetensors file", "not a safetensors file",
                                         "not a safetensors file", "truncated", "bad JSON" };
    for (size_t i = 0; i < 5; i++) {
        memcpy(file.bytes, &lies[i], 8);
        assert_int_equal(spey_safetensors_parse("x", file.bytes, file.n, &tensors), SPEY_FORMAT);
        assert_error_has(parts[i]);
    }
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    image file = make_image("{\"a\":" T("F32", "[3]", "[0,12]") "}", 12);
    spey_safetensors *tensors;
    for (size_t n = 0; n < file.n; n++) {
        /* A copy of the exact size, so that a sanitizer sees a read behind the end. */
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, file.bytes, n);
        assert_int_equal(spey_safetensors_parse("x", copy, n, &tensors), SPEY_FORMAT);
        free(copy);
    }
}

static void one_changed_byte_never_crashes(void **state)
{
    (void)state;
    image file =
        make_image("{\"__metadata__\":{\"x\":\"y\"},\"a\":" T("F32", "[3]", "[0,12]") ",\"bb\":" T(
                       "BF16", "[2,2]", "[12,20]") "}",
                   20);
    for (size_t at = 0; at < file.n; at++)
        for (int bit = 0; bit < 8; bit++) {
            image changed = file;
            changed.bytes[at] ^= (uint8_t)(1 << bit);
            spey_safetensors *tensors;
            if (!spey_safetensors_parse("x", changed.bytes, changed.n, &tensors))
                spey_safetensors_close(tensors);
        }
}

static void unaligned_data_is_read(void **state)
{
    (void)state;
    image file =
        make_image("{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("F32", "[2]", "[1,9]") "}", 0);
    float values[2] = { 1.5f, -2 };
    memcpy(file.bytes + file.n + 1, values, sizeof values);
    file.n += 9;
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_parse("x", file.bytes, file.n, &tensors), SPEY_OK);
    double out[2];
    assert_true(
        spey_convert(out, SPEY_F64, spey_safetensors_find(tensors, "b")->data, SPEY_F32, 2));
    assert_true(out[0] == 1.5 && out[1] == -2.0);
    spey_safetensors_close(tensors);
}

/* ---- files and shards ---- */

static const float shard_values[4] = { 1, 2, 3, 4 };

static void write_shard(const temp_folder *folder, const char *file, const char *a, const char *b)
{
    const spey_safetensor tensors[2] = {
        { .name = a,
          .dtype = SPEY_F32,
          .n_dims = 2,
          .dims = { 2, 2 },
          .data = shard_values,
          .bytes = 16 },
        { .name = b,
          .dtype = SPEY_I64,
          .n_dims = 1,
          .dims = { 2 },
          .data = shard_values,
          .bytes = 16 },
    };
    assert_int_equal(spey_safetensors_write(temp_path(folder, file), tensors, b ? 2 : 1), SPEY_OK);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    write_shard(&folder, "dump.safetensors", "logits \"1\"", "ids");
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_open(temp_path(&folder, "dump.safetensors"), &tensors),
                     SPEY_OK);
    assert_int_equal(spey_safetensors_count(tensors), 2);
    const spey_safetensor *logits = spey_safetensors_find(tensors, "logits \"1\"");
    assert_int_equal((uintptr_t)logits->data % 64, 0);
    assert_memory_equal(logits->data, shard_values, 16);
    assert_int_equal(spey_safetensors_find(tensors, "ids")->dtype, SPEY_I64);
    assert_string_equal(spey_safetensors_file_name(tensors, 0), "dump.safetensors");
    spey_safetensors_close(tensors);
    assert_int_equal(count_files(folder.path), 1);
    remove_tree(folder.path);
}

static void shards_make_one_set(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    write_shard(&folder, "model-1.safetensors", "a", "b");
    write_shard(&folder, "model-2.safetensors", "c", "d");
    write_text(
        temp_path(&folder, "model.safetensors.index.json"),
        "{\"metadata\":{},\"weight_map\":{\"c\":\"model-2.safetensors\",\"a\":\"model-1.safetensors\","
        "\"b\":\"model-1.safetensors\",\"d\":\"model-2.safetensors\"}}");
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_open(folder.path, &tensors), SPEY_OK);
    assert_int_equal(spey_safetensors_count(tensors), 4);
    assert_int_equal(spey_safetensors_n_files(tensors), 2);
    assert_int_equal(spey_safetensors_find(tensors, "c")->file, 1);
    spey_safetensors_close(tensors);
    remove_tree(folder.path);
}

static void refuses_index(const temp_folder *folder, const char *index, spey_status status,
                          const char *part)
{
    write_text(temp_path(folder, "model.safetensors.index.json"), index);
    spey_safetensors *tensors;
    uint64_t live = spey_alloc_read_stats().n_live;
    assert_int_equal(spey_safetensors_open(folder->path, &tensors), status);
    assert_error_has(part);
    assert_null(tensors);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

static void bad_indices_are_refused(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    write_shard(&folder, "one.safetensors", "a", "b");
    write_shard(&folder, "two.safetensors", "a", "c");
    refuses_index(&folder, "[]", SPEY_FORMAT, "weight_map");
    refuses_index(&folder, "{\"weight_map\":{}}", SPEY_FORMAT, "names no files");
    refuses_index(&folder, "{\"weight_map\":{\"a\":3}}", SPEY_FORMAT, "in no valid file");
    refuses_index(&folder, "{\"weight_map\":{\"a\":\"../one.safetensors\"}}", SPEY_FORMAT,
                  "in no valid file");
    refuses_index(&folder, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", SPEY_FORMAT,
                  "in no valid file");
    refuses_index(&folder, "{\"weight_map\":{\"a\":\"gone.safetensors\"}}", SPEY_NOT_FOUND,
                  "incomplete download");
    refuses_index(&folder, "{\"weight_map\":{\"x\":\"one.safetensors\"}}", SPEY_FORMAT,
                  "tensor x is not in one.safetensors");
    refuses_index(&folder, "{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
                  SPEY_FORMAT, "tensor a is also in one.safetensors");
    remove_tree(folder.path);
}

static void a_folder_without_weights_says_what_it_has(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_open(folder.path, &tensors), SPEY_NOT_FOUND);
    assert_error_has("neither model.safetensors nor");
    write_text(temp_path(&folder, "pytorch_model.bin"), "x");
    assert_int_equal(spey_safetensors_open(folder.path, &tensors), SPEY_UNSUPPORTED);
    assert_error_has("safe_serialization=True");
    write_text(temp_path(&folder, "model.safetensors"), "");
    assert_int_equal(spey_safetensors_open(folder.path, &tensors), SPEY_FORMAT);
    assert_error_has("0 bytes is too short");
    assert_int_equal(spey_safetensors_open(temp_path(&folder, "gone"), &tensors), SPEY_NOT_FOUND);
    remove_tree(folder.path);
}

static void the_nearest_name_is_found(void **state)
{
    (void)state;
    image file = make_image(
        "{\"model.norm.weight\":" T(
            "U8", "[1]", "[0,1]") ","
                                  "\"model.embed.weight\":" T(
                                      "U8", "[1]", "[1,2]") ","
                                                            "\"lm_head.weight\":" T("U8", "[1]",
                                                                                    "[2,3]") "}",
        3);
    spey_safetensors *tensors;
    assert_int_equal(spey_safetensors_parse("x", file.bytes, file.n, &tensors), SPEY_OK);
    assert_string_equal(spey_safetensors_nearest(tensors, "model.norm.wieght", NULL, NULL),
                        "model.norm.weight");
    assert_string_equal(spey_safetensors_nearest(tensors, "head.weight", NULL, NULL),
                        "lm_head.weight");
    assert_string_equal(spey_safetensors_nearest(tensors, "modelembed_weight", NULL, NULL),
                        "model.embed.weight");
    assert_non_null(spey_safetensors_nearest(tensors, "", NULL, NULL));
    char longest[1000];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    assert_non_null(spey_safetensors_nearest(tensors, longest, NULL, NULL));
    spey_safetensors_close(tensors);
}

static void shapes_print_within_bounds(void **state)
{
    (void)state;
    char text[SPEY_SHAPE_TEXT_BYTES];
    const int64_t dims[8] = { 256, 768, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, 1 };
    assert_string_equal(spey_shape_text(text, 2, dims), "[256,768]");
    assert_string_equal(spey_shape_text(text, 0, dims), "[]");
    assert_non_null(strstr(spey_shape_text(text, 8, dims), "…]"));
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    write_shard(&folder, "one.safetensors", "a", "b");
    write_shard(&folder, "two.safetensors", "c", NULL);
    write_text(temp_path(&folder, "model.safetensors.index.json"),
               "{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}");
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_safetensors *tensors;
        spey_alloc_fail_nth(n);
        status = spey_safetensors_open(folder.path, &tensors);
        spey_alloc_fail_nth(0);
        if (!status)
            spey_safetensors_close(tensors);
        else
            assert_int_equal(status, SPEY_NOMEM);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_true(n < 10000);
    }
    remove_tree(folder.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_lists_its_tensors_in_order_of_data),
        cmocka_unit_test(an_empty_set_is_fine),
        cmocka_unit_test(bad_entries_are_refused),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(data_is_tiled_exactly),
        cmocka_unit_test(a_name_may_appear_once),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(the_header_length_is_not_believed),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(one_changed_byte_never_crashes),
        cmocka_unit_test(unaligned_data_is_read),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(shards_make_one_set),
        cmocka_unit_test(bad_indices_are_refused),
        cmocka_unit_test(a_folder_without_weights_says_what_it_has),
        cmocka_unit_test(the_nearest_name_is_found),
        cmocka_unit_test(shapes_print_within_bounds),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
