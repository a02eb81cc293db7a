/* Products of 4-bit weights with activations rounded to int16: whole numbers of 16 bits on both sides, summed up in 32
   bits over a block of activations.

   A code stands for its value times 2^13, which is nearer to it than bfloat16 is, and the activations of a block share
   what is left of 32 bits. Sums of whole numbers do not depend on their order, and blocks are added one after the other:
   results are the same bits for any number of rows and on every kind of CPU. */
#pragma once

#include "rounding.h"

/* What a tile is multiplied with: rows from one on, inputs from one on. */
typedef struct {
    const int16_t *codes;  /* [rows][stride] */
    const float *scales;   /* [rows][stride / ROUNDING_BLOCK] */
    int64_t stride;
} fixed_rows;

enum { STEPS = 16 };

/* Adds to sums[rows][OUTPUTS], as look_up orders them, the products over `inputs` inputs, whole blocks of both kinds.
   Weights and vectors as in multiply_tile. */
INLINE void fixed_tile(const int rows, const int chains, const int is_looked_up, const linear *w, const uint8_t *codes,
                       const pairs *panel, const bf16 *scales, fixed_rows x, int64_t inputs, float *sums) {
    const int vectors = is_looked_up ? PANEL_VECTORS : OUTPUT_VECTORS;
    table codes_mean;
    if (!is_looked_up) codes_mean = load_table(w->steps);
    const int64_t block = w->block < ROUNDING_BLOCK ? w->block : ROUNDING_BLOCK;
    for (int64_t begin = 0; begin < inputs; begin += block) {
        ints sum[4][MOST_ROWS][OUTPUT_VECTORS];
        for (int chain = 0; chain < chains; chain++)
            for (int row = 0; row < rows; row++)
                for (int each = 0; each < vectors; each++) sum[chain][row][each] = no_ints();
        for (int64_t input = begin; input < begin + block; input += 2 * STEPS) {
            const int64_t first = input / 2;
            for (int step = 0; step < STEPS; step += chains) {
#pragma GCC unroll 4
                for (int chain = 0; chain < chains; chain++) {
                    const int64_t i = first + step + chain;
                    pairs weights[OUTPUT_VECTORS];
                    if (PREFETCHES_IN_TILES && (is_looked_up || rows > 2)) prefetch(codes + OUTPUTS * (inputs / 2 + i));
                    if (is_looked_up)
                        for (int each = 0; each < vectors; each++) weights[each] = panel[vectors * i + each];
                    else
                        look_up(codes + OUTPUTS * i, &codes_mean, weights);
#pragma GCC unroll 8
                    for (int row = 0; row < rows; row++) {
                        const pairs both = repeated(x.codes + row * x.stride + 2 * i);
                        for (int each = 0; each < vectors; each++)
                            sum[chain][row][each] = dot_ints(sum[chain][row][each], both, weights[each]);
                    }
                }
            }
        }
        floats factors[OUTPUT_VECTORS];
        load_outputs(scales + begin / w->block * w->outputs, vectors, factors);
        for (int row = 0; row < rows; row++) {
            const floats scale = all(x.scales[(row * x.stride + begin) / ROUNDING_BLOCK] * w->step);
            for (int each = 0; each < vectors; each++) {
                float *to = sums + row * OUTPUTS + WIDTH * each;
                ints all_chains = sum[0][row][each];
                for (int chain = 1; chain < chains; chain++) all_chains = plus_ints(all_chains, sum[chain][row][each]);
                const floats scaled = times(times(factors[each], scale), to_floats(all_chains));
                store_floats(to, plus(load_floats(to), scaled));
            }
        }
    }
}

static void fixed_directly(int rows, const linear *w, const uint8_t *codes, const bf16 *scales, fixed_rows x, float *sums) {
#define TILE(n) fixed_tile(n, CHAINS(n), 0, w, codes, 0, scales, x, w->inputs, sums)
    FOR_TILE(rows, DIRECT_ROWS, TILE)
#undef TILE
}

static void fixed_panel(int rows, const linear *w, const uint8_t *codes, const pairs *panel, const bf16 *scales,
                        fixed_rows x, int64_t inputs, float *sums) {
#define TILE(n) fixed_tile(n, CHAINS(n), 1, w, codes, panel, scales, x, inputs, sums)
    FOR_TILE(rows, ROWS, TILE)
#undef TILE
}

/* As sum_4bit, for activations that are rounded. */
static void sum_int16(const linear *w, int64_t output, const rounded_rows *x, int64_t rows, pairs *panel, float *sums) {
    const uint8_t *codes = w->codes + output * w->inputs / 2;
    memset(sums, 0, rows * OUTPUTS * sizeof(float));
    if (rows <= DIRECT_ROWS) {
        fixed_directly(rows, w, codes, w->scales + output, (fixed_rows){x->codes, x->scales, w->inputs}, sums);
        return;
    }
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    for (int64_t begin = 0; begin < w->inputs; begin += PANEL_INPUTS) {
        const int64_t inputs = begin + PANEL_INPUTS < w->inputs ? PANEL_INPUTS : w->inputs - begin;
        const uint8_t *part = codes + OUTPUTS * begin / 2;
        const bf16 *scales = w->scales + begin / w->block * w->outputs + output;
        look_up_panel(w->steps, part, inputs, panel);
        for (int64_t each = 0; each < OUTPUT_VECTORS; each += PANEL_VECTORS)
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t first = tile * rows / tiles, last = (tile + 1) * rows / tiles;
                const int64_t at = first * w->inputs + begin;
                const fixed_rows given = {(const int16_t *)x->codes + at, x->scales + at / ROUNDING_BLOCK, w->inputs};
                fixed_panel(last - first, w, part, panel + each * PANEL_INPUTS / 2, scales + WIDTH * each, given, inputs,
                            sums + first * OUTPUTS + WIDTH * each);
            }
    }
}
