/* Sums of x W^T for weights in 4-bit blocks or in bfloat16, in float32.

   4-bit weights are as bitsandbytes packs them for this kind of CPU (`_convert_weight_packed_for_cpu`): for 32 outputs
   and two neighbouring inputs 64 codes in 32 bytes, the first 16 outputs in the low halves, the others in the high ones.
   A code looked up gives just what the dot-product instruction takes. Scales are applied to the sum of each block. */
#pragma once

#include <string.h>

#include "vector.h"

/* Up to DIRECT_ROWS rows, codes are looked up as they are needed; for more, once for all rows, a panel at a time, with
   ROWS rows in registers. */
enum { OUTPUTS = 32, DIRECT_ROWS = 8, ROWS = 6, PANEL_INPUTS = 1024, DENSE_OUTPUTS = 4, DENSE_ROWS = 6 };

typedef struct {
    const uint8_t *codes;  /* [outputs / 32][inputs / 2][32]; none: the weights are dense */
    const bf16 *scales;    /* [inputs / block][outputs] */
    const bf16 *table;     /* [16], what each code stands for */
    const bf16 *dense;     /* [outputs][inputs] */
    const bf16 *bias;      /* [outputs], or none */
    int64_t outputs, inputs, block;
    const uint8_t *levels; /* [16], what each code stands for, in steps above -128 steps; none: products are exact */
    float level_step;
} linear;

INLINE void look_up(const uint8_t *codes, __m512i table, __m512bh *low, __m512bh *high) {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    *low = (__m512bh)_mm512_permutexvar_epi16(words, table);
    *high = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
}

/* Twice the 16 values: the lookup heeds five bits, the fifth of which is of another code. */
INLINE __m512i lookup_table(const bf16 *table) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)table));
}

/* Adds to sums[rows][OUTPUTS] the products over `inputs` inputs, a whole number of blocks. Weights come from the codes,
   or, looked up before, from a panel. `chains` splits each sum, to hide the latency of the instruction for few rows. */
INLINE void multiply_tile(const int rows, const int chains, const linear *w, const uint8_t *codes, const __m512bh *panel,
                          const bf16 *scales, const bf16 *x, int64_t stride, int64_t inputs, float *sums) {
    const __m512i table = lookup_table(w->table);
    __m512 total[DIRECT_ROWS][2];
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) total[row][half] = _mm512_loadu_ps(sums + row * OUTPUTS + 16 * half);
    for (int64_t begin = 0; begin < inputs; begin += w->block) {
        __m512 part[4][DIRECT_ROWS][2];
        for (int chain = 0; chain < chains; chain++)
            for (int row = 0; row < rows; row++) part[chain][row][0] = part[chain][row][1] = _mm512_setzero_ps();
        for (int64_t input = begin; input < begin + w->block; input += 2 * chains) {
#pragma GCC unroll 4
            for (int chain = 0; chain < chains; chain++) {
                const int64_t i = input / 2 + chain;
                __m512bh low, high;
                /* Next in memory is what is looked up next; without this, memory idles while many rows are computed. */
                if (panel || rows > 2) _mm_prefetch(codes + OUTPUTS * (inputs / 2 + i), _MM_HINT_T1);
                if (panel)
                    low = panel[2 * i], high = panel[2 * i + 1];
                else
                    look_up(codes + OUTPUTS * i, table, &low, &high);
#pragma GCC unroll 8
                for (int row = 0; row < rows; row++) {
                    const __m512bh both = (__m512bh)repeated(x + row * stride + 2 * i);
                    part[chain][row][0] = _mm512_dpbf16_ps(part[chain][row][0], both, low);
                    part[chain][row][1] = _mm512_dpbf16_ps(part[chain][row][1], both, high);
                }
            }
        }
        const bf16 *scale = scales + begin / w->block * w->outputs;
        const __m512 factors[2] = {load16(scale), load16(scale + 16)};
        for (int row = 0; row < rows; row++)
            for (int half = 0; half < 2; half++) {
                __m512 sum = part[0][row][half];
                for (int chain = 1; chain < chains; chain++) sum = _mm512_add_ps(sum, part[chain][row][half]);
                total[row][half] = _mm512_fmadd_ps(sum, factors[half], total[row][half]);
            }
    }
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) _mm512_storeu_ps(sums + row * OUTPUTS + 16 * half, total[row][half]);
}

static void multiply(int rows, const linear *w, const uint8_t *codes, const __m512bh *panel, const bf16 *scales,
                     const bf16 *x, int64_t stride, int64_t inputs, float *sums) {
#define TILE(count, chains) \
    case count: multiply_tile(count, chains, w, codes, panel, scales, x, stride, inputs, sums); break;
    switch (rows) { TILE(1, 4) TILE(2, 2) TILE(3, 2) TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1) }
#undef TILE
}

static void look_up_panel(const linear *w, const uint8_t *codes, int64_t inputs, __m512bh *panel) {
    const __m512i table = lookup_table(w->table);
    for (int64_t i = 0; i < inputs / 2; i++)
        look_up(codes + OUTPUTS * i, table, panel + 2 * i, panel + 2 * i + 1);
}

/* Sums up 32 outputs from `output` on, for all rows: sums[rows][OUTPUTS]. More than DIRECT_ROWS rows take a panel,
   [PANEL_INPUTS / 2][2]. */
static void sum_4bit(const linear *w, int64_t output, const bf16 *x, int64_t rows, __m512bh *panel, float *sums) {
    const uint8_t *codes = w->codes + output * w->inputs / 2;
    memset(sums, 0, rows * OUTPUTS * sizeof(float));
    const int64_t tiles = rows <= DIRECT_ROWS ? 1 : (rows + ROWS - 1) / ROWS;
    const int64_t step = tiles == 1 ? w->inputs : PANEL_INPUTS / w->block * w->block;
    for (int64_t begin = 0; begin < w->inputs; begin += step) {
        const int64_t inputs = begin + step < w->inputs ? step : w->inputs - begin;
        const uint8_t *part = codes + OUTPUTS * begin / 2;
        if (tiles > 1) look_up_panel(w, part, inputs, panel);
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = tile * rows / tiles, last = (tile + 1) * rows / tiles;
            multiply(last - first, w, part, tiles > 1 ? panel : 0, w->scales + begin / w->block * w->outputs + output,
                     x + first * w->inputs + begin, w->inputs, inputs, sums + first * OUTPUTS);
        }
    }
}

/* sums[rows][outputs] for up to DENSE_OUTPUTS outputs of dense weights. */
INLINE void dense_tile(const int rows, const int outputs, const bf16 *weights, const bf16 *x, int64_t inputs, float *sums,
                       int64_t sums_stride) {
    __m512 total[DENSE_ROWS][DENSE_OUTPUTS];
    for (int row = 0; row < rows; row++)
        for (int output = 0; output < outputs; output++) total[row][output] = _mm512_setzero_ps();
    for (int64_t input = 0; input < inputs; input += 32) {
        const __mmask32 mask = lanes32(inputs - input);
        __m512bh weight[DENSE_OUTPUTS];
        for (int output = 0; output < outputs; output++)
            weight[output] = (__m512bh)_mm512_maskz_loadu_epi16(mask, weights + output * inputs + input);
        for (int row = 0; row < rows; row++) {
            const __m512bh given = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + row * inputs + input);
            for (int output = 0; output < outputs; output++)
                total[row][output] = _mm512_dpbf16_ps(total[row][output], given, weight[output]);
        }
    }
    for (int row = 0; row < rows; row++) {
        if (outputs == DENSE_OUTPUTS)
            _mm_storeu_ps(sums + row * sums_stride,
                          sums_of_four(total[row][0], total[row][1], total[row][2], total[row][3]));
        else
            for (int output = 0; output < outputs; output++)
                sums[row * sums_stride + output] = _mm512_reduce_add_ps(total[row][output]);
    }
}

/* Sums up DENSE_OUTPUTS outputs from `output` on, or as many as there are, for all rows. */
static void sum_dense(const linear *w, int64_t output, const bf16 *x, int64_t rows, float *sums, int64_t sums_stride) {
    const bf16 *weights = w->dense + output * w->inputs;
    const int count = w->outputs - output < DENSE_OUTPUTS ? w->outputs - output : DENSE_OUTPUTS;
    for (int64_t first = 0; first < rows; first += DENSE_ROWS) {
        const bf16 *given = x + first * w->inputs;
        float *to = sums + first * sums_stride;
        const int left = rows - first < DENSE_ROWS ? rows - first : DENSE_ROWS;
#define TILE(n) \
    case n: dense_tile(n, DENSE_OUTPUTS, weights, given, w->inputs, to, sums_stride); break;
        if (count < DENSE_OUTPUTS)
            for (int row = 0; row < left; row++)
                for (int each = 0; each < count; each++)
                    dense_tile(1, 1, weights + each * w->inputs, given + row * w->inputs, w->inputs,
                               to + row * sums_stride + each, sums_stride);
        else
            switch (left) { TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) }
#undef TILE
    }
}
