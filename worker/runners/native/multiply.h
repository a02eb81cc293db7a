/* Linear layers: y = x W^T + bias, by the arithmetic of each layer's weights. */
#pragma once

#include "arena.h"
#include "fixed.h"
#include "linear.h"
#include "rounding.h"
#include "team.h"
#ifdef HAS_INT8
#include "int8.h"
#endif

/* What one thread multiplies with. */
typedef struct {
    pairs *panel;          /* [OUTPUT_VECTORS / PANEL_VECTORS][PANEL_INPUTS / 2][PANEL_VECTORS] */
    float *sums;           /* [rows][OUTPUTS] */
    rounded_rows rounded;  /* of all threads: x, for weights whose arithmetic is not exact */
} workspace;

static workspace take_workspace(arena *from, int64_t rows, rounded_rows rounded) {
    workspace space;
    space.panel = take(from, PANEL_INPUTS / 2 * OUTPUT_VECTORS * sizeof(pairs));
    space.sums = take(from, rows * OUTPUTS * sizeof(float));
    space.rounded = rounded;
    return space;
}

/* Rounds `count` activations for a layer, bfloat16 or, if `wide`, float32; comes back when all threads have done so. */
static void round_share(const linear *w, const void *x, int wide, int64_t count, const rounded_rows *to, member *self) {
#ifdef HAS_INT8
    if (w->arithmetic == INT8) {
        round_share_int8(x, count, to, self);
        return;
    }
#endif
    (void)w;
    round_share_int16(x, wide, count, to, self);
}

/* Writes the sums of 32 outputs from `output` on, or of as many as there are. Product and bias are rounded together, and
   once more when `residual`, laid out as y, has been added. */
static void finish(const linear *w, int64_t output, int64_t rows, const float *sums, bf16 *y, const bf16 *residual) {
    for (int64_t part = output; part < output + OUTPUTS && part < w->outputs; part += WIDTH) {
        const int64_t left = w->outputs - part;
        const floats bias = w->bias ? load_first_floats(w->bias + part, left, zeros()) : zeros();
        for (int64_t row = 0; row < rows; row++) {
            floats sum = plus(load_floats(sums + row * OUTPUTS + part - output), bias);
            const int64_t i = row * w->outputs + part;
            if (residual) sum = plus(rounded(sum), load_first(residual + i, left));
            store_first(y + i, left, sum);
        }
    }
}

/* The same in float32. */
static void finish_wide(const linear *w, int64_t output, int64_t rows, const float *sums, float *y) {
    for (int64_t part = output; part < output + OUTPUTS && part < w->outputs; part += WIDTH) {
        const int64_t left = w->outputs - part;
        const floats bias = w->bias ? load_first_floats(w->bias + part, left, zeros()) : zeros();
        for (int64_t row = 0; row < rows; row++)
            store_first_floats(y + row * w->outputs + part, left,
                               plus(load_floats(sums + row * OUTPUTS + part - output), bias));
    }
}

/* The sums of 32 outputs from `output` on, or of as many as there are: space->sums[rows][OUTPUTS]. */
static void sum(const linear *w, int64_t output, const bf16 *x, int64_t rows, const workspace *space) {
    if (!w->codes) {
        for (int64_t each = 0; each < OUTPUTS && output + each < w->outputs; each += DENSE_OUTPUTS)
            sum_dense(w, output + each, x, rows, space->sums + each, OUTPUTS);
        return;
    }
#ifdef HAS_INT8
    if (w->arithmetic == INT8) {
        sum_int8(w, output, &space->rounded, rows, space->sums);
        return;
    }
#endif
    if (w->arithmetic == INT16)
        sum_int16(w, output, &space->rounded, rows, space->panel, space->sums);
    else
        sum_4bit(w, output, x, rows, space->panel, space->sums);
    for (int64_t row = 0; row < rows; row++) put_in_order(space->sums + row * OUTPUTS);
}

/* y = x W^T + bias for the `unit`th 32 outputs, plus `residual`, laid out as y, if there is one. */
static void multiply_unit(const linear *w, int64_t unit, const bf16 *x, int64_t rows, bf16 *y, const bf16 *residual,
                          const workspace *space) {
    sum(w, unit * OUTPUTS, x, rows, space);
    finish(w, unit * OUTPUTS, rows, space->sums, y, residual);
}

/* Units of a layer. */
static int64_t units_of(const linear *w) { return (w->outputs + OUTPUTS - 1) / OUTPUTS; }

/* This thread's share of y = x W^T + bias, plus `residual`, laid out as y, if there is one. For weights whose arithmetic is
   not exact, `space->rounded` is x, rounded. */
static void multiply_share(const linear *w, const bf16 *x, int64_t rows, bf16 *y, const bf16 *residual, const workspace *space,
                           member *self) {
    SHARE(unit, units_of(w)) multiply_unit(w, unit, x, rows, y, residual, space);
}

/* The same into float32, of rounded x alone. */
static void multiply_share_wide(const linear *w, int64_t rows, float *y, const workspace *space, member *self) {
    SHARE(unit, units_of(w)) {
        sum(w, unit * OUTPUTS, 0, rows, space);
        finish_wide(w, unit * OUTPUTS, rows, space->sums, y);
    }
}
