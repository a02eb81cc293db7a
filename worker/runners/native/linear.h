/* Sums of x W^T for weights in 4-bit blocks or in bfloat16, in float32.

   4-bit weights are as bitsandbytes packs them for CPUs (`_convert_weight_packed_for_cpu`): for 32 outputs and two
   neighbouring inputs 64 codes in 32 bytes, the first 16 outputs in the low halves, the others in the high ones. Codes
   looked up give just the pairs that are multiplied. Scales are applied to the sum of each block. */
#pragma once

#include "vector.h"

/* What 4-bit weights are multiplied with: activations as they are, in bfloat16, or rounded to whole numbers. */
enum { EXACT, INT16, INT8 };

typedef struct {
    const uint8_t *codes;  /* [outputs / 32][inputs / 2][32]; none: the weights are dense */
    const bf16 *scales;    /* [inputs / block][outputs] */
    const bf16 *table;     /* [16], what each code stands for */
    const bf16 *dense;     /* [outputs][inputs] */
    const float *bias;     /* [outputs], or none */
    int64_t outputs, inputs, block;
    int64_t arithmetic;    /* of 4-bit weights */
    const void *steps;     /* [16], what each code stands for in steps: int16, or for INT8 uint8, above -128 steps */
    float step;
} linear;

/* Rows of the largest tile. */
enum { MOST_ROWS = DIRECT_ROWS > ROWS ? DIRECT_ROWS : ROWS };

/* Adds to sums[rows][OUTPUTS], as look_up orders them, the products over `inputs` inputs, a whole number of blocks, for
   `vectors` vectors of outputs. Weights come from the codes, or, looked up before, from a panel, [inputs / 2][vectors].
   `chains` splits each sum, to hide the latency of the instruction for few rows. */
INLINE void multiply_tile(const int rows, const int chains, const int is_looked_up, const linear *w, const uint8_t *codes,
                          const pairs *panel, const bf16 *scales, const bf16 *x, int64_t stride, int64_t inputs,
                          float *sums) {
    const int vectors = is_looked_up ? PANEL_VECTORS : OUTPUT_VECTORS;
    table codes_mean;
    if (!is_looked_up) codes_mean = load_table(w->table);
    floats total[MOST_ROWS][OUTPUT_VECTORS];
    for (int row = 0; row < rows; row++)
        for (int each = 0; each < vectors; each++) total[row][each] = load_floats(sums + row * OUTPUTS + WIDTH * each);
    for (int64_t begin = 0; begin < inputs; begin += w->block) {
        floats sum[4][MOST_ROWS][OUTPUT_VECTORS];
        for (int chain = 0; chain < chains; chain++)
            for (int row = 0; row < rows; row++)
                for (int each = 0; each < vectors; each++) sum[chain][row][each] = zeros();
        for (int64_t input = begin; input < begin + w->block; input += 2 * chains) {
#pragma GCC unroll 4
            for (int chain = 0; chain < chains; chain++) {
                const int64_t i = input / 2 + chain;
                pairs weights[OUTPUT_VECTORS];
                /* Next in memory is what is looked up next; without this, memory idles while many rows are computed. */
                if (PREFETCHES_IN_TILES && (is_looked_up || rows > 2)) prefetch(codes + OUTPUTS * (inputs / 2 + i));
                if (is_looked_up)
                    for (int each = 0; each < vectors; each++) weights[each] = panel[vectors * i + each];
                else
                    look_up(codes + OUTPUTS * i, &codes_mean, weights);
#pragma GCC unroll 8
                for (int row = 0; row < rows; row++) {
                    const pairs both = repeated(x + row * stride + 2 * i);
                    for (int each = 0; each < vectors; each++)
                        sum[chain][row][each] = dot(sum[chain][row][each], both, weights[each]);
                }
            }
        }
        floats factors[OUTPUT_VECTORS];
        load_outputs(scales + begin / w->block * w->outputs, vectors, factors);
        for (int row = 0; row < rows; row++)
            for (int each = 0; each < vectors; each++) {
                floats all_chains = sum[0][row][each];
                for (int chain = 1; chain < chains; chain++) all_chains = plus(all_chains, sum[chain][row][each]);
                total[row][each] = plus_product(all_chains, factors[each], total[row][each]);
            }
    }
    for (int row = 0; row < rows; row++)
        for (int each = 0; each < vectors; each++) store_floats(sums + row * OUTPUTS + WIDTH * each, total[row][each]);
}

static void multiply_directly(int rows, const linear *w, const uint8_t *codes, const bf16 *scales, const bf16 *x,
                              float *sums) {
#define TILE(n) \
    multiply_tile(n, CHAINS(n), 0, w, codes, 0, scales, x, w->inputs, w->inputs, sums)
    FOR_TILE(rows, DIRECT_ROWS, TILE)
#undef TILE
}

static void multiply_panel(int rows, const linear *w, const uint8_t *codes, const pairs *panel, const bf16 *scales,
                           const bf16 *x, int64_t inputs, float *sums) {
#define TILE(n) multiply_tile(n, CHAINS(n), 1, w, codes, panel, scales, x, w->inputs, inputs, sums)
    FOR_TILE(rows, ROWS, TILE)
#undef TILE
}

/* Looks codes of `inputs` inputs up: panel[OUTPUT_VECTORS / PANEL_VECTORS][PANEL_INPUTS / 2][PANEL_VECTORS]. */
static void look_up_panel(const void *what, const uint8_t *codes, int64_t inputs, pairs *panel) {
    const table codes_mean = load_table(what);
    for (int64_t i = 0; i < inputs / 2; i++) {
        pairs found[OUTPUT_VECTORS];
        look_up(codes + OUTPUTS * i, &codes_mean, found);
        for (int each = 0; each < OUTPUT_VECTORS; each++)
            panel[(each / PANEL_VECTORS * PANEL_INPUTS / 2 + i) * PANEL_VECTORS + each % PANEL_VECTORS] = found[each];
    }
}

/* Sums up 32 outputs from `output` on, for all rows: sums[rows][OUTPUTS], as look_up orders them. More than DIRECT_ROWS
   rows take a panel, as look_up_panel's. */
static void sum_4bit(const linear *w, int64_t output, const bf16 *x, int64_t rows, pairs *panel, float *sums) {
    const uint8_t *codes = w->codes + output * w->inputs / 2;
    memset(sums, 0, rows * OUTPUTS * sizeof(float));
    if (rows <= DIRECT_ROWS) {
        multiply_directly(rows, w, codes, w->scales + output, x, sums);
        return;
    }
    const int64_t tiles = (rows + ROWS - 1) / ROWS, step = PANEL_INPUTS / w->block * w->block;
    for (int64_t begin = 0; begin < w->inputs; begin += step) {
        const int64_t inputs = begin + step < w->inputs ? step : w->inputs - begin;
        const uint8_t *part = codes + OUTPUTS * begin / 2;
        const bf16 *scales = w->scales + begin / w->block * w->outputs + output;
        look_up_panel(w->table, part, inputs, panel);
        for (int64_t each = 0; each < OUTPUT_VECTORS; each += PANEL_VECTORS)
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t first = tile * rows / tiles, last = (tile + 1) * rows / tiles;
                multiply_panel(last - first, w, part, panel + each * PANEL_INPUTS / 2, scales + WIDTH * each,
                               x + first * w->inputs + begin, inputs, sums + first * OUTPUTS + WIDTH * each);
            }
    }
}

/* sums[rows][outputs] for up to DENSE_OUTPUTS outputs of dense weights. */
INLINE void dense_tile(const int rows, const int outputs, const bf16 *weights, const bf16 *x, int64_t inputs, float *sums,
                       int64_t sums_stride) {
    floats total[DENSE_ROWS][DENSE_OUTPUTS];
    for (int row = 0; row < rows; row++)
        for (int output = 0; output < outputs; output++) total[row][output] = zeros();
    for (int64_t input = 0; input < inputs; input += 2 * WIDTH) {
        pairs given[DENSE_ROWS];
        for (int row = 0; row < rows; row++) given[row] = load_first_pairs(x + row * inputs + input, inputs - input);
        for (int output = 0; output < outputs; output++) {
            const pairs weight = load_first_pairs(weights + output * inputs + input, inputs - input);
            for (int row = 0; row < rows; row++) total[row][output] = dot(total[row][output], given[row], weight);
        }
    }
    for (int row = 0; row < rows; row++) {
        if (outputs == DENSE_OUTPUTS)
            store_four(sums + row * sums_stride,
                       sums_of_four(total[row][0], total[row][1], total[row][2], total[row][3]));
        else
            for (int output = 0; output < outputs; output++)
                sums[row * sums_stride + output] = sum_of(total[row][output]);
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
        if (count < DENSE_OUTPUTS) {
            for (int row = 0; row < left; row++)
                for (int each = 0; each < count; each++)
                    dense_tile(1, 1, weights + each * w->inputs, given + row * w->inputs, w->inputs,
                               to + row * sums_stride + each, sums_stride);
        } else {
#define TILE(n) dense_tile(n, DENSE_OUTPUTS, weights, given, w->inputs, to, sums_stride)
            FOR_TILE(left, DENSE_ROWS, TILE)
#undef TILE
        }
    }
}
