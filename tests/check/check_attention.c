#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "kernels/attention/attention.h"

/* clang-format off */
static const struct attention_case {
    const char *what;
    int64_t n_heads, n_kv_heads, k_dim, v_dim;
    spey_dtype dtype, kv;
    int32_t block_tokens, group;
    bool holes;
    int64_t pad;          /* of the pitches */
    float scale, softcap;
    int64_t window;
    bool causal, alibi, sinks;
    double sharpness;     /* of the queries: large ones make the softmax pick few tokens */
    check_seq seqs[6];    /* ends with kv_len 0 */
} cases[] = {
    { "one token",        1, 1,   1,   1, SPEY_F32, SPEY_F32,   1, 0, false, 0, 1.0f,    0, 0, true,  false, false, 1, { { 1, 1 } } },
    { "no tokens",        2, 1,  16,  16, SPEY_F32, SPEY_F32,  16, 0, false, 0, 1.0f,    0, 0, true,  false, false, 1, { { 0, 5 } } },
    { "prefill",          2, 2,  64,  64, SPEY_F32, SPEY_F32,  16, 0, false, 0, 0.125f,  0, 0, true,  false, false, 1, { { 63, 63 } } },
    { "prefill, tile+1",  4, 2,  64,  64, SPEY_F32, SPEY_F16,  16, 0, true,  3, 0.125f,  0, 0, true,  false, false, 1, { { 65, 65 }, { 64, 64 } } },
    { "decode",           8, 2, 128, 128, SPEY_F32, SPEY_BF16, 16, 1, true,  3, 0.088f,  0, 0, true,  false, false, 1, { { 1, 1 }, { 1, 64 }, { 1, 65 }, { 1, 200 }, { 1, 513 } } },
    { "mixed",            6, 2,  64,  64, SPEY_F32, SPEY_BF16, 32, 0, true,  0, 0.125f,  0, 0, true,  false, false, 1, { { 1, 100 }, { 37, 37 }, { 12, 90 }, { 0, 7 }, { 1, 33 } } },
    { "decode, splits",   4, 1,  64,  64, SPEY_F32, SPEY_F16,  16, 0, false, 0, 0.125f,  0, 0, true,  false, false, 1, { { 1, 2000 }, { 2, 1025 } } },
    { "decode, splits",  10, 2,  32,  48, SPEY_F32, SPEY_F32,  64, 0, true,  0, 0.2f,    0, 0, true,  false, true,  1, { { 1, 1537 } } },
    { "chunk over split", 3, 1,  64,  64, SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.125f,  0, 0, true,  false, false, 1, { { 40, 530 } } },
    { "group of 7",      14, 2,  96,  96, SPEY_F32, SPEY_F16,  16, 0, true,  0, 0.1f,    0, 0, true,  false, false, 1, { { 9, 80 }, { 1, 80 } } },
    { "group of 50",     50, 1,  24,  24, SPEY_F32, SPEY_F32,   8, 0, true,  0, 0.2f,    0, 0, true,  false, true,  1, { { 3, 70 }, { 1, 700 } } },
    { "odd sizes",        3, 1,  19,  37, SPEY_F32, SPEY_F16,   5, 2, true,  1, 0.23f,   0, 0, true,  false, false, 1, { { 11, 71 }, { 1, 5 } } },
    { "odd sizes",        3, 3,  21,   7, SPEY_F32, SPEY_BF16,  7, 2, true,  1, 0.23f,   0, 0, true,  false, false, 1, { { 11, 71 }, { 1, 6 } } },
    { "wide head",        2, 1, 256, 256, SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.0625f, 0, 0, true,  false, false, 1, { { 5, 130 } } },
    { "k wider than v",   4, 1, 192, 128, SPEY_F32, SPEY_F32,  16, 0, true,  0, 0.07f,   0, 0, true,  false, false, 1, { { 5, 70 } } },
    { "window 1",         2, 1,  16,  16, SPEY_F32, SPEY_F32,  16, 0, false, 0, 0.25f,   0, 1, true,  false, false, 1, { { 20, 100 }, { 1, 17 } } },
    { "window 40",        4, 2,  64,  64, SPEY_F32, SPEY_BF16, 16, 0, true,  0, 0.125f,  0, 40, true, false, false, 1, { { 100, 180 }, { 1, 300 }, { 10, 10 } } },
    { "window, splits",   4, 2,  64,  64, SPEY_F32, SPEY_F16,  16, 0, true,  0, 0.125f,  0, 600, true, false, true, 1, { { 3, 1300 }, { 1, 1100 } } },
    { "window over split",4, 2,  64,  64, SPEY_F32, SPEY_F16,  16, 0, true,  0, 0.125f,  0, 600, true, false, false, 1, { { 14, 1118 } } },
    { "softcap",          4, 2,  64,  64, SPEY_F32, SPEY_BF16, 16, 0, true,  0, 0.125f, 3.0f, 0, true, false, false, 6, { { 20, 90 }, { 1, 70 } } },
    { "alibi",            4, 4,  64,  64, SPEY_F32, SPEY_F16,  16, 0, true,  0, 0.125f,  0, 0, true,  true,  false, 1, { { 20, 90 }, { 1, 600 } } },
    { "alibi, softcap",   4, 1,  40,  40, SPEY_F32, SPEY_F16,  16, 0, true,  0, 0.125f, 5.0f, 70, true, true, true, 4, { { 20, 90 }, { 1, 600 } } },
    { "sinks",            8, 2,  64,  64, SPEY_F32, SPEY_F32,  16, 0, true,  0, 0.125f,  0, 0, true,  false, true,  1, { { 20, 90 }, { 1, 1 }, { 1, 600 } } },
    { "all to all",       4, 2,  64,  64, SPEY_F32, SPEY_F32,  16, 0, true,  0, 0.125f,  0, 0, false, false, false, 1, { { 70, 70 }, { 1, 600 } } },
    { "sharp",            4, 2,  64,  64, SPEY_F32, SPEY_F32,  16, 0, false, 0, 0.125f,  0, 0, true,  false, false, 60, { { 70, 70 }, { 1, 600 } } },
    { "bf16",             8, 2, 128, 128, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.088f, 0, 0, true,  false, false, 1, { { 9, 80 }, { 1, 300 }, { 40, 40 } } },
    { "bf16 all options", 8, 2,  64,  64, SPEY_BF16, SPEY_BF16, 16, 1, true,  8, 0.125f, 9.0f, 90, true, true, true, 2, { { 9, 80 }, { 1, 300 }, { 40, 40 } } },
    { "odd sizes",        3, 1,  19,  37, SPEY_F32, SPEY_BF16,  5, 2, true,  1, 0.23f,   0, 0, true,  false, false, 1, { { 11, 71 }, { 1, 5 } } },
    { "group of 50",     50, 1,  24,  24, SPEY_F32, SPEY_BF16,  8, 0, true,  0, 0.2f,    0, 0, true,  false, true,  1, { { 3, 70 }, { 1, 601 } } },
    { "window 7",         4, 2,  32,  56, SPEY_F32, SPEY_BF16, 16, 0, true,  0, 0.125f,  0, 7, true,  false, false, 1, { { 31, 91 }, { 1, 519 } } },
    { "all to all",       4, 2,  64,  48, SPEY_F32, SPEY_BF16, 16, 0, true,  0, 0.125f,  0, 0, false, true,  false, 1, { { 35, 35 }, { 1, 99 } } },
    { "e4m3",             8, 2,  64,  64, SPEY_F32, SPEY_E4M3, 16, 1, true,  3, 0.125f,  0, 0, true,  false, false, 1, { { 37, 37 }, { 1, 200 }, { 12, 90 }, { 1, 600 } } },
    { "e4m3, scaled",     4, 4,  24,  40, SPEY_F32, SPEY_E4M3,  8, 0, false, 3, 0.2f, 5.0f, 0, true,  false, true,  1, { { 20, 71 }, { 1, 65 } } },
    { "e4m3, odd",        3, 1,  19,  37, SPEY_F32, SPEY_E4M3,  5, 2, true,  1, 0.23f,   0, 9, true,  false, false, 1, { { 11, 71 }, { 1, 5 } } },
    { "i8",               8, 2,  64,  64, SPEY_F32, SPEY_I8,   16, 1, true,  3, 0.125f,  0, 0, true,  false, false, 1, { { 37, 37 }, { 1, 200 }, { 12, 90 }, { 1, 600 } } },
    { "i8, all options",  4, 2,  24,  40, SPEY_F32, SPEY_I8,    8, 0, false, 3, 0.2f, 5.0f, 60, true, true,  true,  1, { { 20, 101 }, { 1, 165 } } },
    { "i8, odd",          3, 1,  19,  37, SPEY_F32, SPEY_I8,    5, 2, true,  1, 0.23f,   0, 0, true,  false, false, 1, { { 11, 71 }, { 1, 5 } } },
    { "f16",              4, 1,  64,  64, SPEY_F16, SPEY_F16,  64, 0, false, 8, 0.125f,  0, 0, true,  false, true,  1, { { 9, 80 }, { 1, 300 }, { 40, 40 } } },
    /* Whole aligned chunks, for rows on tensor cores: sizes, groups and lengths around their tiles. */
    { "tiles",            8, 2, 128, 128, SPEY_BF16, SPEY_BF16, 64, 0, false, 8, 0.088f, 0, 0, true,  false, false, 1, { { 130, 130 }, { 1, 300 }, { 65, 200 }, { 0, 7 }, { 1, 64 }, { 1, 65 } } },
    { "tiles",            2, 2,  64,  64, SPEY_F16,  SPEY_F16,  32, 1, false, 8, 0.125f, 0, 0, true,  false, false, 1, { { 129, 129 }, { 1, 33 }, { 2, 128 }, { 64, 191 } } },
    { "tiles, group 7",  14, 2,  96,  96, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.1f,   0, 0, true,  false, false, 1, { { 30, 80 }, { 1, 80 }, { 19, 19 } } },
    { "tiles, group 29", 58, 2,  64,  64, SPEY_F16,  SPEY_F16,  16, 0, false, 0, 0.125f, 0, 0, true,  false, true,  1, { { 7, 70 }, { 1, 100 } } },
    { "tiles, wide",      2, 1, 256, 256, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.0625f, 0, 0, true, false, false, 1, { { 40, 130 }, { 1, 70 } } },
    { "tiles, k wider",   4, 1, 192, 128, SPEY_F16,  SPEY_F16,  16, 0, false, 8, 0.07f,  0, 0, true,  false, false, 1, { { 20, 70 }, { 1, 70 } } },
    { "tiles, v wider",   3, 3,  40,  72, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.2f,   0, 0, true,  false, false, 1, { { 20, 70 }, { 1, 70 } } },
    { "tiles, small",     4, 2,   8,   8, SPEY_BF16, SPEY_BF16, 48, 0, false, 8, 0.3f,   0, 0, true,  false, false, 1, { { 20, 70 }, { 1, 70 }, { 1, 1 } } },
    { "tiles, splits",   16, 2, 128, 128, SPEY_BF16, SPEY_BF16, 64, 0, false, 0, 0.088f, 0, 0, true,  false, true,  1, { { 1, 2000 }, { 1, 256 }, { 1, 257 }, { 1, 1025 } } },
    { "tiles, splits, window", 4, 2, 64, 64, SPEY_F16, SPEY_F16, 16, 0, false, 0, 0.125f, 0, 600, true, false, false, 1, { { 1, 1300 }, { 14, 1118 }, { 1, 20 } } },
    { "tiles, few of many",4, 2, 64, 64, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.125f, 0, 0, true,  false, false, 1, { { 2, 700 }, { 0, 7 }, { 0, 70 } } },
    { "tiles, window",    4, 2,  64,  64, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.125f, 0, 40, true, false, false, 1, { { 150, 280 }, { 1, 300 }, { 10, 10 } } },
    { "tiles, softcap",   4, 2,  64,  64, SPEY_F16,  SPEY_F16,  16, 0, false, 0, 0.125f, 3.0f, 0, true, false, false, 6, { { 20, 90 }, { 1, 70 } } },
    { "tiles, alibi",     6, 2,  64,  64, SPEY_F16,  SPEY_F16,  16, 0, false, 0, 0.125f, 0, 0, true,  true,  false, 1, { { 50, 90 }, { 1, 600 } } },
    { "tiles, all options",8, 2, 64,  64, SPEY_BF16, SPEY_BF16, 16, 1, false, 8, 0.125f, 9.0f, 90, true, true, true, 2, { { 9, 80 }, { 1, 300 }, { 40, 40 } } },
    { "tiles, all to all",4, 2, 128, 128, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.088f, 0, 0, false, false, false, 1, { { 70, 70 }, { 1, 600 } } },
    { "tiles, e4m3",      8, 2, 128, 128, SPEY_BF16, SPEY_E4M3, 64, 0, false, 8, 0.088f, 0, 0, true,  false, false, 1, { { 130, 130 }, { 1, 300 }, { 65, 200 }, { 0, 7 }, { 1, 64 }, { 1, 65 } } },
    { "tiles, e4m3",     58, 2,  64,  64, SPEY_F16,  SPEY_E4M3, 16, 1, false, 8, 0.125f, 0, 40, true, false, true,  1, { { 19, 70 }, { 1, 100 } } },
    { "tiles, e4m3, wide",4, 2, 192, 256, SPEY_BF16, SPEY_E4M3, 16, 0, false, 0, 0.07f,  5.0f, 0, true, true, false, 1, { { 40, 130 }, { 1, 70 } } },
    { "tiles, e4m3, splits", 8, 1, 128, 112, SPEY_BF16, SPEY_E4M3, 32, 0, false, 0, 0.088f, 0, 0, true, false, true, 1, { { 1, 1500 }, { 1, 257 } } },
    { "tiles, e4m3, 256", 4, 2, 256, 240, SPEY_BF16, SPEY_E4M3, 16, 0, false, 0, 0.0625f, 0, 0, true, false, true, 1, { { 40, 130 }, { 1, 70 }, { 100, 100 } } },
    { "tiles, e4m3, long",2, 1, 128, 128, SPEY_BF16, SPEY_E4M3, 32, 0, true,  8, 0.088f, 0, 0, true,  false, true,  1, { { 9, 700 }, { 20, 385 } } },
    { "tiles, e4m3, all to all", 4, 2, 64, 64, SPEY_F16, SPEY_E4M3, 16, 0, false, 0, 0.125f, 0, 0, false, false, false, 1, { { 70, 70 }, { 1, 600 } } },
    { "tiles, e4m3, many items", 24, 24, 16, 16, SPEY_BF16, SPEY_E4M3, 16, 0, false, 0, 0.3f, 0, 60, true, false, false, 1, { { 640, 640 }, { 1, 50 }, { 330, 500 } } },
    { "tiles, e4m3, many of one tile", 32, 4, 16, 16, SPEY_BF16, SPEY_E4M3, 16, 0, false, 0, 0.25f, 0, 0, true, false, true, 1, { { 128, 128 }, { 120, 127 }, { 1, 50 }, { 100, 100 }, { 128, 128 }, { 121, 121 } } },
    { "tiles, many of one tile", 32, 4, 8, 8, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.3f,  0, 0, true,  false, false, 1, { { 128, 128 }, { 120, 127 }, { 1, 50 }, { 100, 100 }, { 128, 128 }, { 121, 121 } } },
    { "tiles, i8",        8, 2, 128, 128, SPEY_BF16, SPEY_I8,   64, 0, false, 8, 0.088f, 0, 0, true,  false, false, 1, { { 130, 130 }, { 1, 300 }, { 1, 64 } } },
    { "tiles, i8",       58, 2,  64,  64, SPEY_F16,  SPEY_I8,   16, 1, false, 8, 0.125f, 0, 40, true, false, true,  1, { { 19, 70 }, { 1, 100 } } },
    { "tiles, i8, wide",  4, 2, 192, 256, SPEY_BF16, SPEY_I8,   16, 0, false, 0, 0.07f,  5.0f, 0, true, true, false, 1, { { 40, 130 }, { 1, 70 } } },
    { "tiles, i8, splits",8, 1, 128, 112, SPEY_BF16, SPEY_I8,   32, 0, false, 0, 0.088f, 0, 0, true, false, true, 1, { { 1, 1500 }, { 1, 257 } } },
    { "tiles, long",      2, 1, 128, 128, SPEY_BF16, SPEY_BF16, 32, 0, false, 8, 0.088f, 0, 0, true,  false, true,  1, { { 9, 700 }, { 20, 385 } } },
    { "tiles, long window",4, 1, 24,  16, SPEY_F16,  SPEY_F16,  48, 0, false, 8, 0.2f,   0, 200, true, false, false, 1, { { 150, 700 } } },
    { "tiles, many items",24, 24, 8,   8, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.3f,   0, 60, true, false, false, 1, { { 640, 640 }, { 1, 50 }, { 330, 500 } } },
    /* As many as a context may have at once decides how a row cuts its work: here 64 KV heads and more. */
    { "tiles, many",     32, 16, 128, 128, SPEY_BF16, SPEY_BF16, 64, 0, false, 8, 0.088f, 0, 0, true, false, false, 1, { { 1, 700 }, { 1, 64 }, { 1, 65 }, { 1, 20 } } },
    { "tiles, many, group 12", 192, 16, 64, 48, SPEY_F16, SPEY_F16, 16, 0, false, 0, 0.125f, 0, 40, true, false, true, 1, { { 1, 130 }, { 3, 90 }, { 1, 33 }, { 1, 17 } } },
    { "tiles, many, group 9", 144, 16, 128, 128, SPEY_BF16, SPEY_BF16, 48, 0, false, 0, 0.088f, 0, 0, true, true, false, 1, { { 1, 97 }, { 1, 15 }, { 1, 64 }, { 1, 1 } } },
    { "tiles, many, wide", 16, 16, 256, 192, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.0625f, 0, 0, true, false, false, 1, { { 1, 530 }, { 1, 16 }, { 1, 79 }, { 1, 128 } } },
    { "tiles, e4m3, many", 48, 16, 128, 112, SPEY_BF16, SPEY_E4M3, 48, 0, false, 0, 0.088f, 5.0f, 0, true, true, true, 1, { { 1, 600 }, { 1, 70 }, { 2, 65 }, { 1, 7 } } },
    { "tiles, e4m3, many, group 9", 144, 16, 64, 64, SPEY_F16, SPEY_E4M3, 16, 0, false, 8, 0.125f, 0, 0, true, false, false, 1, { { 1, 97 }, { 1, 15 }, { 1, 64 }, { 1, 1 } } },
    { "tiles, i8, many", 48, 16, 128, 112, SPEY_BF16, SPEY_I8, 48, 0, false, 0, 0.088f, 5.0f, 0, true, true, true, 1, { { 1, 600 }, { 1, 70 }, { 2, 65 }, { 1, 7 } } },
    { "tiles, i8, many, group 9", 144, 16, 64, 64, SPEY_F16, SPEY_I8, 16, 0, false, 8, 0.125f, 0, 50, true, false, false, 1, { { 1, 97 }, { 1, 15 }, { 1, 64 }, { 1, 1 } } },
    { "latent",           9, 1, 576, 512, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.04f,   0, 0, true,  false, false, 1, { { 1, 70 }, { 2, 17 }, { 1, 1 } } },
    { "latent, splits",   2, 1, 576, 512, SPEY_F16,  SPEY_F16,  32, 0, false, 0, 0.04f,   0, 0, true,  false, true,  1, { { 1, 300 }, { 1, 128 } } },
    { "latent, many heads",80, 1, 576, 512, SPEY_BF16, SPEY_BF16, 16, 1, false, 8, 0.04f, 0, 0, true,  false, false, 1, { { 1, 5 } } },
    { "latent, chunk",   12, 1, 264,  40, SPEY_BF16, SPEY_BF16, 16, 0, false, 0, 0.06f,   0, 0, true,  false, true,  1, { { 13, 100 }, { 1, 30 }, { 40, 40 } } },
    { "latent, all options", 6, 2, 320, 72, SPEY_F16, SPEY_F16, 16, 0, false, 8, 0.06f, 9.0f, 50, true, true, true, 2, { { 9, 80 }, { 1, 130 } } },
    { "tiles, sharp",     4, 2,  64,  64, SPEY_F16,  SPEY_F16,  16, 0, false, 0, 0.125f, 0, 0, true,  false, false, 60, { { 70, 70 }, { 1, 600 } } },
};

/* What encoder-decoder models ask for, and products that want their input rounded. */
struct attention_extra {
    bool cross; /* kv_len of the sequences is the length of the encoder's input */
    int64_t buckets, max_distance; /* of a relative bias; 0: none */
    bool e4m3;                     /* out is */
};

static const struct {
    struct attention_case base;
    struct attention_extra extra;
} extended[] = {
    { { "relative",         4, 4,  64,  64, SPEY_F32, SPEY_F32,  16, 0, true,  0, 1.0f,    0, 0, true,  false, false, 0.2, { { 70, 180 }, { 1, 700 }, { 1, 1 } } },
      { false, 32, 128, false } },
    { { "relative, wide",   6, 2,  24,  24, SPEY_F32, SPEY_BF16, 16, 1, true,  3, 0.25f,   0, 0, true,  false, true,  1, { { 20, 90 }, { 1, 1300 }, { 7, 7 } } },
      { false, 9, 1024, false } },
    { { "relative, few",    3, 1,  16,  16, SPEY_F32, SPEY_F16,   8, 0, true,  0, 0.25f, 4.0f, 30, true, true, false, 1, { { 20, 90 }, { 1, 40 } } },
      { false, 2, 5, false } },
    { { "relative, both ways", 4, 4, 64, 64, SPEY_F32, SPEY_F32, 16, 0, true,  0, 1.0f,    0, 0, false, false, false, 0.2, { { 180, 180 }, { 600, 600 }, { 1, 1 } } },
      { false, 32, 128, false } },
    { { "relative, both ways", 3, 3, 20, 20, SPEY_F32, SPEY_F16, 5, 2, true,  1, 0.3f,    0, 0, false, false, false, 1, { { 40, 40 }, { 9, 9 } } },
      { false, 6, 11, false } },
    { { "cross",            4, 2,  64,  64, SPEY_F32, SPEY_BF16, 16, 0, true,  0, 0.125f,  0, 0, false, false, false, 1, { { 30, 70 }, { 1, 600 }, { 5, 1 } } },
      { true, 0, 0, false } },
    { { "cross, many",      2, 1,  19,  37, SPEY_F32, SPEY_F32,   7, 1, true,  3, 0.2f, 5.0f, 0, false, false, true,  1, { { 1, 1200 }, { 90, 5 }, { 0, 9 }, { 2, 64 } } },
      { true, 0, 0, false } },
    { { "bf16 cross",       4, 4,  64,  64, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.125f, 0, 0, false, false, false, 1, { { 9, 80 }, { 1, 300 } } },
      { true, 0, 0, false } },
    { { "bf16 relative",    4, 4,  64,  64, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 1.0f, 0, 0, true, false, false, 0.2, { { 9, 180 }, { 40, 40 } } },
      { false, 32, 128, false } },
    { { "to e4m3",          8, 2, 128, 128, SPEY_BF16, SPEY_BF16, 64, 0, false, 8, 0.088f, 0, 0, true, false, false, 1, { { 30, 130 }, { 1, 300 }, { 0, 7 } } },
      { false, 0, 0, true } },
    { { "to e4m3, sinks",   4, 2,  64,  72, SPEY_F16, SPEY_E4M3, 16, 1, false, 8, 0.125f, 0, 0, true, false, true,  1, { { 9, 80 }, { 1, 300 } } },
      { false, 0, 0, true } },
    { { "to e4m3, splits",  8, 1, 128, 112, SPEY_BF16, SPEY_E4M3, 32, 0, false, 0, 0.088f, 0, 0, true, false, true, 1, { { 1, 1500 }, { 1, 257 } } },
      { false, 0, 0, true } },
    { { "to e4m3, i8",      4, 2,  64,  64, SPEY_BF16, SPEY_I8,  16, 0, false, 0, 0.125f, 9.0f, 0, true, true, false, 1, { { 9, 80 }, { 1, 300 } } },
      { false, 0, 0, true } },
    { { "to e4m3, latent",  9, 1, 576, 512, SPEY_BF16, SPEY_BF16, 16, 0, false, 8, 0.04f, 0, 0, true, false, false, 1, { { 1, 70 }, { 2, 17 } } },
      { false, 0, 0, true } },
    { { "to e4m3, odd",     3, 1,  19,  37, SPEY_F32, SPEY_F16,   5, 2, true,  1, 0.23f,   0, 0, true, false, false, 1, { { 11, 71 }, { 1, 5 } } },
      { false, 0, 0, true } },
};
/* clang-format on */

/* n random numbers from element `first` on, out of a few: a bench fills millions. */
static void fill_slot(check *c, check_buffer *pool, int64_t first, int64_t n,
                      const double numbers[256])
{
    uint64_t bits = 0;
    for (int64_t i = 0; i < n; i++, bits >>= 8) {
        if (i % 8 == 0) bits = spey_rng_next(check_rng(c));
        check_set(pool, first + i, numbers[bits & 255]);
    }
}

/* NaN into V at cache index i of sequence s: one dimension, or (I8) the token's scale. */
static void spoil(check *c, const spey_attention_args *a, check_buffer *pool, int s, int64_t i,
                  int64_t dimension)
{
    for (int64_t h = 0; h < a->n_kv_heads; h++) {
        if (a->kv.dtype == SPEY_I8)
            check_set(check_bound_to(c, &a->kv.token_scales),
                      check_cache_v_scale(c, &a->kv, s, h, i), (double)NAN);
        else
            check_set(pool, check_cache_v(c, &a->kv, s, h, i) + dimension, (double)NAN);
    }
}

static void fill_scales(check *c, const spey_attention_args *a, int s, int64_t h, int64_t i)
{
    check_buffer *scales = check_bound_to(c, &a->kv.token_scales);
    check_set(scales, check_cache_k_scale(c, &a->kv, s, h, i),
              spey_rng_range(check_rng(c), 0.02, 0.05));
    check_set(scales, check_cache_v_scale(c, &a->kv, s, h, i),
              spey_rng_range(check_rng(c), 0.02, 0.05));
}

/* Random K and V where some token of the whole step may look; the rest of the pool stays NaN. So does one dimension of V of
 * a chunk's last token, and of the first one in its window: tokens that do not see it must not multiply it, not even
 * with 0. */
static void fill_cache(check *c, const struct attention_case *k, const spey_attention_args *a,
                       const check_step *step, check_buffer *pool)
{
    double numbers[256];
    for (int i = 0; i < 256; i++)
        numbers[i] = k->kv == SPEY_I8 ? i - 128 + (i == 0) : spey_rng_normal(check_rng(c));
    for (int s = 0; s < step->n_seqs; s++) {
        int64_t first = step->seqs[s].kv_len - step->seqs[s].n_tokens;
        int64_t begin = k->window > 0 && first >= k->window ? first - k->window + 1 : 0;
        for (int64_t i = begin; i < step->seqs[s].kv_len; i++) {
            for (int64_t h = 0; h < k->n_kv_heads; h++) {
                fill_slot(c, pool, check_cache_k(c, &a->kv, s, h, i), k->k_dim, numbers);
                fill_slot(c, pool, check_cache_v(c, &a->kv, s, h, i), k->v_dim, numbers);
                if (k->kv == SPEY_I8) fill_scales(c, a, s, h, i);
            }
        }
        /* Tensor cores, for 16-bit activations, do multiply them with 0. */
        if (!k->causal || step->seqs[s].n_tokens <= 1 || k->dtype != SPEY_F32) continue;
        spoil(c, a, pool, s, step->seqs[s].kv_len - 1, 0);
        if (begin) spoil(c, a, pool, s, begin, 1);
    }
}

static void set_shape(const struct attention_case *k, spey_attention_args *a)
{
    a->n_heads = k->n_heads;
    a->n_kv_heads = k->n_kv_heads;
    a->k_dim = k->k_dim;
    a->v_dim = k->v_dim;
    a->scale = k->scale;
    a->softcap = k->softcap;
    a->window = k->window;
    a->causal = k->causal;
    a->dtype = k->dtype;
    /* Of the cases that may round, those of odd pitches also write BF16. */
    bool narrow = a->precision == SPEY_PRECISION_16 && k->dtype == SPEY_F32 && k->pad % 2;
    a->out_dtype = narrow ? SPEY_BF16 : k->dtype;
    a->q_pitch = k->n_heads * k->k_dim + k->pad;
    a->out_pitch = k->n_heads * k->v_dim + 2 * k->pad;
}

/* Lengths of the encoder's inputs, and others in place of those of the sequences. */
static void make_cross(check *c, const check_step *step, spey_ragged *batch)
{
    check_buffer *source_len = check_buffer_new(c, "source_len", SPEY_I32, batch->n_seqs);
    check_buffer *kv_len = check_bound_to(c, &batch->kv_len);
    for (int s = 0; s < batch->n_seqs; s++) {
        int whole = step->seq < 0 ? s : step->seq;
        check_set(source_len, s, step->seqs[whole].kv_len);
        check_set(kv_len, s, 1000 - step->seqs[whole].kv_len / 2);
    }
    check_bind(c, &batch->source_len, source_len, 0);
}

static bool make_attention(check *c, const struct attention_case *k,
                           const struct attention_extra *extra, spey_attention_args *a)
{
    int n_seqs = 0;
    while (n_seqs < 6 && k->seqs[n_seqs].kv_len)
        n_seqs++;
    check_step step, whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    /* Without a causal mask a token sees the tokens after it, so a step cannot be cut. */
    if (!k->causal && !extra->cross && check_part(c) > n_seqs) return false;
    check_name(c, "%s, %lld/%lld heads of %lld/%lld, %s cache%s", k->what, (long long)k->n_heads,
               (long long)k->n_kv_heads, (long long)k->k_dim, (long long)k->v_dim,
               spey_dtype_name(k->kv), a->precision == SPEY_PRECISION_16 ? ", rounded" : "");
    set_shape(k, a);
    if (extra->e4m3) a->out_dtype = SPEY_E4M3;
    if (extra->e4m3) check_out_scale(c, &a->out_scale, SPEY_INPUT_STATIC, 1, 0, 1, 0.3);
    a->cross = extra->cross;
    a->relative.buckets = extra->buckets;
    a->relative.max_distance = extra->max_distance;
    spey_ragged *batch = check_batch(c, &a->batch, &step, 100);
    int64_t rows = check_step_tokens(&whole), first = check_step_first(&step);
    a->rows = check_step_tokens(&step);
    check_buffer *q =
        check_matrix(c, "q", k->dtype, rows, k->n_heads * k->k_dim, a->q_pitch, 0, k->sharpness);
    check_bind(c, &a->q, q, first * a->q_pitch);
    int64_t width = k->n_heads * k->v_dim;
    check_buffer *out =
        check_buffer_new(c, "out", a->out_dtype, rows ? (rows - 1) * a->out_pitch + width : 0);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, width, a->out_pitch);
    check_step cached = step; /* what the cache holds for */
    if (extra->cross) {
        make_cross(c, &step, batch);
        if (step.seq >= 0) cached.from = 0;
        if (step.seq >= 0) cached.to = k->seqs[step.seq].n_tokens;
    }
    if (extra->buckets)
        check_bind(c, &a->relative.bias,
                   check_matrix(c, "relative bias", SPEY_F32, extra->buckets, k->n_heads,
                                k->n_heads, 0, 1),
                   0);
    if (k->alibi)
        check_bind(c, &a->alibi_slopes,
                   check_matrix(c, "slopes", SPEY_F32, 1, k->n_heads, k->n_heads, 0.05, 0.02), 0);
    if (k->sinks)
        check_bind(c, &a->sinks,
                   check_matrix(c, "sinks", SPEY_F32, 1, k->n_heads, k->n_heads, 1, 2), 0);
    const check_cache cache = { .dtype = k->kv,
                                .group = k->group,
                                .block_tokens = k->block_tokens,
                                .n_heads = k->n_kv_heads,
                                .k_dim = k->k_dim,
                                .v_dim = k->v_dim,
                                .pad = k->holes,
                                .scaled = !k->holes,
                                .window = k->window };
    check_buffer *pool = check_cache_new(c, &cache, &cached, batch, &a->kv);
    fill_cache(c, k, a, &whole, pool);
    a->seqs_max = n_seqs;
    for (int s = 0; s < n_seqs; s++)
        if (k->seqs[s].kv_len > a->kv_len_max) a->kv_len_max = k->seqs[s].kv_len;
    check_workspace(c, &a->workspace);
    return true;
}

/* All cases, then again those in which a row may round. */
static bool make(check *c, int index, void *args)
{
    enum {
        CASES = sizeof cases / sizeof cases[0],
        EXTENDED = sizeof extended / sizeof extended[0]
    };
    static const struct attention_extra none;
    spey_attention_args *a = args;
    int rounded = index - CASES - EXTENDED;
    if (rounded >= 0) a->precision = SPEY_PRECISION_16;
    for (int i = rounded < 0 ? index : 0; i < CASES + EXTENDED; i++) {
        const struct attention_case *k = i < CASES ? &cases[i] : &extended[i - CASES].base;
        const bool may_round = k->kv != SPEY_F32 && (k->kv != SPEY_F16 || k->dtype != SPEY_F32);
        if (rounded >= 0 && (!may_round || rounded-- > 0)) continue;
        return make_attention(c, k, i < CASES ? &none : &extended[i - CASES].extra, args);
    }
    return false;
}

static double relative_bias(const spey_attention_args *a, int64_t h, int64_t ahead)
{
    int64_t distance = ahead < 0 ? -ahead : ahead;
    int64_t bucket = spey_relative_bucket(&a->relative, a->causal, distance);
    if (ahead > 0) bucket += a->relative.buckets / 2;
    return (double)a->relative.bias[bucket * a->n_heads + h];
}

/* What one head of one token works on: n tokens with their products, V, the derivative of the score by its sum of
 * products, and the weights that the softmax gives them. */
typedef struct head_row {
    int64_t n, k_dim, v_dim;
    double *products; /* [n][k_dim] of scale · q and K */
    double spread;    /* the largest √Σ of their squares */
    double *v;        /* [n][v_dim] */
    double *slope, *weight;
    bool scaled_after; /* weights are rounded times a scale: the denominator's are not */
} head_row;

/* docs/numerics.md, "Attention", of q and weights that are rounded to 16 bits: what that does to dimension e of the
 * output. */
static double rounding_error(const head_row *h, int64_t e, double u16)
{
    double out = 0, size = 0, squares = 0;
    double *sums = calloc((size_t)h->k_dim, sizeof(double));
    for (int64_t j = 0; j < h->n; j++) {
        out += h->weight[j] * h->v[j * h->v_dim + e];
        size += h->weight[j] * fabs(h->v[j * h->v_dim + e]);
    }
    for (int64_t j = 0; j < h->n; j++) {
        double pull = h->weight[j] * (h->v[j * h->v_dim + e] - out), change = pull * h->slope[j];
        double kept = h->scaled_after ? pull + h->weight[j] * out : pull;
        squares += kept * kept;
        for (int64_t d = 0; d < h->k_dim; d++)
            sums[d] += change * h->products[j * h->k_dim + d];
    }
    for (int64_t d = 0; d < h->k_dim; d++)
        squares += sums[d] * sums[d];
    free(sums);
    double second = 6 * u16 * h->spread + u16;
    return 6 * u16 * sqrt(squares) + second * second * (size + fabs(out)) + (double)h->n * 0x1p-125;
}

/* docs/numerics.md, "Attention". Of one head of one token: the largest error of a score, then of the output. */
static void bound_row(check *c, const spey_attention_args *a, int64_t r, int64_t h,
                      check_buffer *out)
{
    const double u = 0x1p-24;
    const bool rounded = a->precision == SPEY_PRECISION_16 && a->kv.dtype != SPEY_F32;
    const bool tensor = rounded && a->dtype != SPEY_F32;
    const double truncation = tensor ? 2 : 1;
    const double unit16 = check_unit(a->kv.dtype == SPEY_F16 ? SPEY_F16 : SPEY_BF16);
    int s = a->batch->token_seq[r];
    int64_t index = a->batch->kv_len[s] - a->batch->seq_start[s + 1] + r;
    int64_t end = a->causal ? index + 1 : spey_attention_length(a, s);
    int64_t begin = a->window > 0 && index >= a->window ? index - a->window + 1 : 0;
    int64_t kv_head = h / (a->n_heads / a->n_kv_heads), n = end - begin;
    const double out_scale = a->out_dtype == SPEY_E4M3 ? (double)*a->out_scale : 1;
    check_buffer *pool = check_bound_to(c, &a->kv.base);
    double *score = malloc((size_t)n * sizeof(double)), max = -1e300, score_error = 0;
    head_row row = { .n = n,
                     .k_dim = a->k_dim,
                     .v_dim = a->v_dim,
                     .weight = score,
                     .scaled_after = a->kv.dtype == SPEY_I8 || tensor };
    const double scalings = spey_dtype_bytes(a->kv.dtype) == 1 ? 2 : 0;
    row.products = malloc((size_t)(n * a->k_dim) * sizeof(double));
    row.v = malloc((size_t)(n * a->v_dim) * sizeof(double));
    row.slope = malloc((size_t)n * sizeof(double));
    for (int64_t j = begin; j < end; j++) {
        double dot = 0, absolute = 0, squares = 0;
        int64_t k = check_cache_k(c, &a->kv, s, kv_head, j);
        int64_t v = check_cache_v(c, &a->kv, s, kv_head, j);
        double k_factor = a->kv.k_scale ? (double)a->kv.k_scale[kv_head] : 1;
        double v_factor = a->kv.v_scale ? (double)a->kv.v_scale[kv_head] : 1;
        if (a->kv.dtype == SPEY_I8) {
            check_buffer *scales = check_bound_to(c, &a->kv.token_scales);
            k_factor = check_get(scales, check_cache_k_scale(c, &a->kv, s, kv_head, j));
            v_factor = check_get(scales, check_cache_v_scale(c, &a->kv, s, kv_head, j));
        }
        for (int64_t d = 0; d < a->v_dim; d++)
            row.v[(j - begin) * a->v_dim + d] = check_get(pool, v + d) * v_factor;
        for (int64_t d = 0; d < a->k_dim; d++) {
            double q = check_scalar(a->q, a->dtype, r * a->q_pitch + h * a->k_dim + d);
            double x = q * (double)a->scale * check_get(pool, k + d) * k_factor;
            row.products[(j - begin) * a->k_dim + d] = x;
            dot += x;
            absolute += fabs(x);
            squares += x * x;
        }
        row.spread = fmax(row.spread, sqrt(squares));
        double error = ((double)a->k_dim + 2 + scalings) * truncation * u * absolute +
                       (double)a->k_dim * 0x1p-125;
        row.slope[j - begin] = 1;
        if (a->softcap > 0) {
            dot = (double)a->softcap * tanh(dot / (double)a->softcap);
            row.slope[j - begin] = 1 - pow(dot / (double)a->softcap, 2);
            error += 6 * u * fabs(dot) + (tensor ? 8 * u * (double)a->softcap : 0);
        }
        if (a->alibi_slopes) {
            dot += (double)a->alibi_slopes[h] * (double)(j - index);
            error += 2 * u * (fabs(dot) + fabs((double)a->alibi_slopes[h] * (double)(j - index)));
        }
        if (a->relative.bias) {
            double term = relative_bias(a, h, j - index);
            dot += term;
            error += 2 * u * (fabs(dot) + fabs(term));
        }
        score[j - begin] = dot;
        if (dot > max) max = dot;
        if (error > score_error) score_error = error;
    }
    if (a->sinks && (double)a->sinks[h] > max) max = (double)a->sinks[h];
    double lowest = max;
    for (int64_t j = 0; j < n; j++)
        if (score[j] < lowest) lowest = score[j];
    /* A weight is off by the errors of its score, of the difference from the maximum, of exp and of the rescalings: one
     * a tile, and those where parts of warps, CTAs and splits are joined. */
    double tiles = (double)(n / 64 + 4);
    double weight_error = 2 * score_error + u * (max - lowest) + (4 + 3 * tiles) * u;
    double sum_error = weight_error + ((double)n + 2) * u;
    double sum = a->sinks ? exp((double)a->sinks[h] - max) : 0;
    for (int64_t j = 0; j < n; j++)
        sum += score[j] = exp(score[j] - max);
    for (int64_t j = 0; j < n; j++)
        row.weight[j] /= sum;
    for (int64_t d = 0; d < a->v_dim; d++) {
        double absolute = 0;
        for (int64_t j = 0; j < n; j++)
            absolute += row.weight[j] * fabs(row.v[j * a->v_dim + d]);
        int64_t at = r * a->out_pitch + h * a->v_dim + d;
        double reference = check_reference(out, at);
        double error = absolute * (weight_error + ((double)n + 2 + scalings) * truncation * u) +
                       fabs(reference) * out_scale * (sum_error + 4 * u);
        if (rounded) error += rounding_error(&row, d, unit16);
        if (a->out_dtype == SPEY_E4M3)
            error = check_e4m3_error(reference, out_scale, error, 0);
        else
            error += check_rounding(a->out_dtype, reference);
        check_set_bound(out, at, isnan(error) ? (double)INFINITY : error);
    }
    free(row.products);
    free(row.v);
    free(row.slope);
    free(score);
}

static void bound(check *c, const void *args)
{
    const spey_attention_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t h = 0; h < a->n_heads; h++)
            bound_row(c, a, r, h, out);
}

static bool bench(check *c, int index, void *args)
{
    /* clang-format off */
    static const struct attention_case shapes[] = {
        { "decode 16k",     32, 8, 128, 128, SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 16k",     32, 8, 128, 128, SPEY_F32, SPEY_F16, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 16k",      8, 8, 128, 128, SPEY_F32, SPEY_F32, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 16k",     32, 4, 64,  64,  SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.125f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 4 x 4k",  16, 16, 64, 64,  SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.125f, 0, 0, true, false, false, 1, { { 1, 4096 }, { 1, 4096 }, { 1, 4096 }, { 1, 4096 } } },
        { "prefill 1k",     32, 8, 128, 128, SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1024, 1024 } } },
        { "prefill 1k",     16, 16, 64, 64,  SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.125f, 0, 0, true, false, false, 1, { { 1024, 1024 } } },
        { "decode 16k, big blocks", 32, 8, 128, 128, SPEY_F32, SPEY_BF16, 64, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 16k",     32, 8, 128, 128, SPEY_F32, SPEY_E4M3, 64, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "decode 16k",     32, 8, 128, 128, SPEY_F32, SPEY_I8, 64, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 16384 } } },
        { "prefill 1k",     32, 8, 128, 128, SPEY_F32, SPEY_I8, 64, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1024, 1024 } } },
        { "decode 256",     32, 8, 128, 128, SPEY_F32, SPEY_BF16, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 1, 256 } } },
        { "chunk 256/8k",   16, 4, 128, 128, SPEY_F32, SPEY_F16, 16, 0, false, 0, 0.088f, 0, 0, true, false, false, 1, { { 256, 8192 } } },
    };
    /* clang-format on */
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct attention_case *k = &shapes[index];
    spey_attention_args *a = args;
    if (k->kv != SPEY_F32 && k->kv != SPEY_F16) a->precision = SPEY_PRECISION_16;
    make_attention(c, k, &(struct attention_extra){ 0 }, args);
    double scores = 0, bytes = 0;
    for (int s = 0; s < 6 && k->seqs[s].kv_len; s++) {
        double n = k->seqs[s].n_tokens, length = k->seqs[s].kv_len;
        scores += n * (length - (n - 1) / 2) * (double)k->n_heads;
        bytes += length * (double)(k->n_kv_heads * (k->k_dim + k->v_dim)) *
                 (double)spey_dtype_bytes(k->kv);
        bytes += n * (double)(k->n_heads * (k->k_dim + k->v_dim)) * 4;
    }
    check_work(c, bytes, scores * 2 * (double)(k->k_dim + k->v_dim));
    return true;
}

const check_op check_attention = { sizeof(spey_attention_args), make, bound, bench };
