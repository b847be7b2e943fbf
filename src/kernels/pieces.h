/* A matrix cut into pieces of a row for the lanes of a team: one row is shared as well as many. */
#ifndef SPEY_KERNELS_PIECES_H
#define SPEY_KERNELS_PIECES_H

#include <stdbool.h>
#include <stdint.h>

#include "device/pool.h"

/* 4 KiB of F32: long against the counter's cost, short against a row of any model that is worth sharing. */
enum { SPEY_PIECE_COLS = 1024, SPEY_PIECE_CHUNK = 8192 };

typedef struct spey_pieces {
    int64_t rows, cols;
    int64_t at, end; /* pieces of the current chunk */
    /* the current piece: columns [begin, stop) of `row` */
    int64_t row, begin, stop;
} spey_pieces;

/* The lane's next piece; false when none is left. Start with { .rows = …, .cols = … }. */
static inline bool spey_pieces_next(spey_pieces *p, const spey_lane *lane)
{
    const int64_t per_row = (p->cols + SPEY_PIECE_COLS - 1) / SPEY_PIECE_COLS;
    const int64_t width = p->cols < SPEY_PIECE_COLS ? p->cols : SPEY_PIECE_COLS;
    if (p->at == p->end) {
        int64_t grain = width > 0 ? SPEY_PIECE_CHUNK / width : 1;
        if (per_row > 1 && p->rows == 1) grain = 1;
        if (!spey_lane_chunk(lane, p->rows * per_row, grain, &p->at, &p->end)) return false;
    }
    p->row = p->at / per_row;
    p->begin = p->at % per_row * SPEY_PIECE_COLS;
    p->stop = p->cols - p->begin < SPEY_PIECE_COLS ? p->cols : p->begin + SPEY_PIECE_COLS;
    p->at++;
    return true;
}

#endif
