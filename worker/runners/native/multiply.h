/* Linear layers: y = x W^T + bias, with exact weights or with activations rounded to int8. */
#pragma once

#include "arena.h"
#include "int8.h"
#include "linear.h"
#include "team.h"

/* What one thread multiplies with. */
typedef struct {
    __m512bh *panel;    /* [PANEL_INPUTS / 2][2] */
    float *sums;        /* [rows][OUTPUTS] */
    int8_rows rounded;  /* of all threads: x, for weights that have levels */
} workspace;

static workspace take_workspace(arena *from, int64_t rows, int8_rows rounded) {
    workspace space;
    space.panel = take(from, PANEL_INPUTS * sizeof(__m512bh));
    space.sums = take(from, rows * OUTPUTS * sizeof(float));
    space.rounded = rounded;
    return space;
}

/* Writes the sums of 32 outputs from `output` on, or of as many as there are. Product and bias are rounded together, and
   once more when `residual`, laid out as y, has been added. */
static void finish(const linear *w, int64_t output, int64_t rows, const float *sums, bf16 *y, const bf16 *residual) {
    for (int64_t half = output; half < output + OUTPUTS && half < w->outputs; half += 16) {
        const __mmask16 mask = lanes16(w->outputs - half);
        const __m512 bias = w->bias ? widen(_mm256_maskz_loadu_epi16(mask, w->bias + half)) : _mm512_setzero_ps();
        for (int64_t row = 0; row < rows; row++) {
            __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums + row * OUTPUTS + half - output), bias);
            const int64_t i = row * w->outputs + half;
            if (residual) sum = _mm512_add_ps(rounded(sum), widen(_mm256_maskz_loadu_epi16(mask, residual + i)));
            _mm256_mask_storeu_epi16(y + i, mask, (__m256i)_mm512_cvtneps_pbh(sum));
        }
    }
}

/* This thread's share of y = x W^T + bias, plus `residual`, laid out as y, if there is one. For weights that have levels,
   `space->rounded` is x, rounded. */
static void multiply_share(const linear *w, const bf16 *x, int64_t rows, bf16 *y, const bf16 *residual, const workspace *space,
                           member *self) {
    SHARE(unit, (w->outputs + OUTPUTS - 1) / OUTPUTS) {
        const int64_t output = unit * OUTPUTS;
        if (w->levels)
            sum_int8(w, output, &space->rounded, rows, space->sums);
        else if (w->codes)
            sum_4bit(w, output, x, rows, space->panel, space->sums);
        else
            for (int64_t each = 0; each < OUTPUTS && output + each < w->outputs; each += DENSE_OUTPUTS)
                sum_dense(w, output + each, x, rows, space->sums + each, OUTPUTS);
        finish(w, output, rows, space->sums, y, residual);
    }
}
