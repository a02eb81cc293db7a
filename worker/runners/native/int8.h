/* Products of 4-bit weights with activations rounded to int8: four multiplications in a lane where bfloat16 has two.

   Inexact, and for AVX512-VNNI alone: elsewhere int16 is as fast. The largest magnitude of a block of activations becomes
   127. Unsigned numbers are multiplied by signed ones: the steps of a code are 128 too many, and each sum starts with what
   that will add, negated. */
#pragma once

#include "rounding.h"

/* Compiled on any CPU; whoever gives levels has checked that this one has the instructions. */
#ifndef VNNI
#define VNNI __attribute__((target("avx512vnni")))
#endif

enum { INT8_ROWS = 6, INT8_INPUTS = 1024, STEP_ZERO = 128 };

/* Rounds ROUNDING_BLOCK activations. What is not finite in them makes the scale so, and each sum that it is in. */
VNNI static void round_block_int8(const bf16 *x, int8_t *codes, float *scale, int32_t *start) {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    const __m512i left = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
    const __m512i right = _mm512_and_si512(_mm512_loadu_si512(x + 32), magnitude);
    /* Magnitudes are in the order of their bits; NaN is above all. */
    const __m512i words = _mm512_max_epu16(left, right);
    const __m512i odd = _mm512_andnot_si512(_mm512_set1_epi32(0xffff), words), even = _mm512_slli_epi32(words, 16);
    const __m512 largest = _mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epu32(_mm512_max_epu32(odd, even))));
    const __mmask16 is_zero = _mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_EQ_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(~is_zero, _mm512_set1_ps(127.0f), largest);
    __m512i sum = _mm512_setzero_si512();
    for (int part = 0; part < 4; part++) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + 16 * part), inverse));
        const __m128i narrow = _mm512_cvtsepi32_epi8(rounded);
        _mm_storeu_si128((__m128i *)(codes + 16 * part), narrow);
        sum = _mm512_add_epi32(sum, _mm512_cvtepi8_epi32(narrow));
    }
    *scale = _mm512_cvtss_f32(largest) / 127.0f;
    *start = -STEP_ZERO * _mm512_reduce_add_epi32(sum);
}

/* Rounds `count` activations, rows one behind the other; comes back when all threads have done their share. */
VNNI static void round_share_int8(const bf16 *x, int64_t count, const rounded_rows *to, member *self) {
    SHARE(block, count / ROUNDING_BLOCK)
        round_block_int8(x + block * ROUNDING_BLOCK, (int8_t *)to->codes + block * ROUNDING_BLOCK, to->scales + block,
                         to->starts + block);
    await(self);
}

/* The steps of four neighbouring inputs of 16 outputs, and of the next 16. */
INLINE void look_up_steps(const uint8_t *codes, __m512i steps, __m512i *low, __m512i *high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i code = _mm512_set1_epi8(15);
    const __m512i pairs = _mm512_permutexvar_epi16(order, _mm512_loadu_si512(codes));
    *low = _mm512_shuffle_epi8(steps, _mm512_and_si512(pairs, code));
    *high = _mm512_shuffle_epi8(steps, _mm512_and_si512(_mm512_srli_epi16(pairs, 4), code));
}

/* Adds to sums[rows][OUTPUTS] the products of rows from `first` on over `inputs` inputs from `begin` on, whole blocks.
   Two `chains` hide the latency of the instruction for few rows. */
VNNI INLINE void int8_tile(const int rows, const int chains, const linear *w, const uint8_t *codes, const bf16 *scales,
                           const rounded_rows *x, int64_t first, int64_t begin, int64_t inputs, float *sums) {
    const __m512i steps = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->steps));
    const __m512 step = _mm512_set1_ps(w->step);
    const int64_t blocks = w->inputs / ROUNDING_BLOCK;
    __m512 total[INT8_ROWS][2];
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) total[row][half] = _mm512_loadu_ps(sums + row * OUTPUTS + 16 * half);
    for (int64_t input = begin; input < begin + inputs; input += ROUNDING_BLOCK) {
        const int64_t block = first * blocks + input / ROUNDING_BLOCK;
        __m512i part[2][INT8_ROWS][2];
        for (int row = 0; row < rows; row++) {
            part[0][row][0] = part[0][row][1] = _mm512_set1_epi32(x->starts[block + row * blocks]);
            part[1][row][0] = part[1][row][1] = _mm512_setzero_si512();
        }
        const int8_t *given = (const int8_t *)x->codes + first * w->inputs + input;
        for (int i = 0; i < ROUNDING_BLOCK; i += 4 * chains) {
#pragma GCC unroll 2
            for (int chain = 0; chain < chains; chain++) {
                const int at = i + 4 * chain;
                __m512i low, high;
                /* For one or two rows memory is busy as it is. */
                if (rows > 2) _mm_prefetch(codes + OUTPUTS * (inputs + at) / 2, _MM_HINT_T1);
                look_up_steps(codes + OUTPUTS * at / 2, steps, &low, &high);
#pragma GCC unroll 8
                for (int row = 0; row < rows; row++) {
                    const __m512i all = repeated(given + row * w->inputs + at);
                    part[chain][row][0] = _mm512_dpbusd_epi32(part[chain][row][0], low, all);
                    part[chain][row][1] = _mm512_dpbusd_epi32(part[chain][row][1], high, all);
                }
            }
        }
        codes += OUTPUTS * ROUNDING_BLOCK / 2;
        const bf16 *scale = scales + input / w->block * w->outputs;
        for (int half = 0; half < 2; half++) {
            const __m512 factor = _mm512_mul_ps(load(scale + 16 * half), step);
            for (int row = 0; row < rows; row++) {
                __m512i sum = part[0][row][half];
                if (chains == 2) sum = _mm512_add_epi32(sum, part[1][row][half]);
                const __m512 scaled = _mm512_mul_ps(factor, _mm512_set1_ps(x->scales[block + row * blocks]));
                total[row][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scaled, total[row][half]);
            }
        }
    }
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) _mm512_storeu_ps(sums + row * OUTPUTS + 16 * half, total[row][half]);
}

VNNI static void multiply_int8(int rows, const linear *w, const uint8_t *codes, const bf16 *scales, const rounded_rows *x,
                               int64_t row, int64_t begin, int64_t inputs, float *sums) {
#define TILE(count, chains) \
    case count: int8_tile(count, chains, w, codes, scales, x, row, begin, inputs, sums); break;
    switch (rows) { TILE(1, 2) TILE(2, 2) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1) }
#undef TILE
}

/* Sums up 32 outputs from `output` on, for all rows: sums[rows][OUTPUTS]. Each tile of rows looks codes up anew:
   that costs no more than loading what was looked up before, which is twice as long. */
static void sum_int8(const linear *w, int64_t output, const rounded_rows *x, int64_t rows, float *sums) {
    const uint8_t *codes = w->codes + output * w->inputs / 2;
    memset(sums, 0, rows * OUTPUTS * sizeof(float));
    const int64_t tiles = (rows + INT8_ROWS - 1) / INT8_ROWS;
    const int64_t step = tiles == 1 ? w->inputs : INT8_INPUTS;
    for (int64_t begin = 0; begin < w->inputs; begin += step) {
        const int64_t inputs = begin + step < w->inputs ? step : w->inputs - begin;
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = tile * rows / tiles, last = (tile + 1) * rows / tiles;
            multiply_int8(last - first, w, codes + OUTPUTS * begin / 2, w->scales + output, x, first, begin, inputs,
                          sums + first * OUTPUTS);
        }
    }
}
