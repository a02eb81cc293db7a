/* Activations rounded to whole numbers, for products with 4-bit weights that are whole numbers, too.

   Each row is rounded by itself, in blocks of 64 inputs with a scale each, so that an outlier spoils its own block alone. */
#pragma once

#include <math.h>

#include "arena.h"
#include "linear.h"
#include "team.h"

enum { ROUNDING_BLOCK = 64 };

typedef struct {
    void *codes;      /* [rows][inputs], int16 or int8 */
    float *scales;    /* [rows][inputs / ROUNDING_BLOCK] */
    int32_t *starts;  /* [rows][inputs / ROUNDING_BLOCK], of an int8 block's sums of products */
} rounded_rows;

/* For so many activations. */
static rounded_rows take_rounded(arena *from, int64_t count) {
    rounded_rows rounded;
    rounded.codes = take(from, count * sizeof(int16_t));
    rounded.scales = take(from, count / ROUNDING_BLOCK * sizeof(float));
    rounded.starts = take(from, count / ROUNDING_BLOCK * sizeof(int32_t));
    return rounded;
}

/* The largest number of steps in a weight is 2^13 (see `int16_steps`), and all products of a block are to fit 32 bits. */
enum { LARGEST_INT16 = 32767, LARGEST_SUM = (1 << 18) - ROUNDING_BLOCK };
/* Nothing is magnified by more: of numbers that are that small, nothing is left. */
#define LARGEST_GAIN 1e34f
/* Added to a number, it leaves the nearest whole one in the last bits. */
#define TO_WHOLE 12582912.0f

/* Rounds ROUNDING_BLOCK activations to int16, as finely as the largest and the sum of their magnitudes allow. What is not
   finite in them makes the scale so, and each sum that it is in. Plain C in one order, so that every CPU has these bits. */
static void round_block_int16(const float *x, int16_t *codes, float *scale) {
    enum { LANES = 16 };
    float sums[LANES] = {0}, most[LANES] = {0};
    for (int begin = 0; begin < ROUNDING_BLOCK; begin += LANES)
        for (int i = 0; i < LANES; i++) {
            const float magnitude = fabsf(x[begin + i]);
            sums[i] += magnitude;
            most[i] = most[i] > magnitude ? most[i] : magnitude;
        }
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) {
            sums[i] += sums[i + half];
            most[i] = most[i] > most[i + half] ? most[i] : most[i + half];
        }
    const float by_sum = LARGEST_SUM / sums[0], by_most = LARGEST_INT16 / most[0];
    float gain = by_sum < by_most ? by_sum : by_most;
    gain = gain < LARGEST_GAIN ? gain : LARGEST_GAIN;
    for (int i = 0; i < ROUNDING_BLOCK; i++) {
        const float moved = x[i] * gain + TO_WHOLE;
        int32_t bits;
        memcpy(&bits, &moved, sizeof bits);
        codes[i] = (int16_t)bits;
    }
    *scale = isfinite(sums[0]) ? 1.0f / gain : sums[0];
}

/* Rounds `count` activations, rows one behind the other, bfloat16 or, if `wide`, float32, to int16; comes back when all
   threads have done their share. */
static void round_share_int16(const void *x, int wide, int64_t count, const rounded_rows *to, member *self) {
    SHARE(block, count / ROUNDING_BLOCK) {
        float widened[ROUNDING_BLOCK];
        const float *given = (const float *)x + block * ROUNDING_BLOCK;
        if (!wide) {
            for (int i = 0; i < ROUNDING_BLOCK; i += WIDTH)
                store_floats(widened + i, load((const bf16 *)x + block * ROUNDING_BLOCK + i));
            given = widened;
        }
        round_block_int16(given, (int16_t *)to->codes + block * ROUNDING_BLOCK, to->scales + block);
    }
    await(self);
}
