/* Probabilities whose every bit is defined: ../weights.py is the same in torch, and says why.

   Compiled without contraction: a product and a sum are two roundings here unless fused() says otherwise. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined __FMA__ || defined __ARM_FEATURE_FMA
#define fused(a, b, c) __builtin_fma(a, b, c)
#else
#define fused(a, b, c) ((a) * (b) + (c))
#endif

INLINE int64_t bits_of(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* e to the power of x, at most 0, rounded once to float32. In float64 the error is below 2^-51, so that but for a handful
   of all float32 the result is the nearest one. 2^n times the Taylor polynomial of the rest, which is within ln 2 / 2. */
INLINE float power_of_e(float x) {
    const double clamped = x < -200.0f ? -200.0 : x;
    const double shifted = fused(clamped, 0x1.71547652b82fep0, 0x1.8p52);
    const double n = shifted - 0x1.8p52;
    /* The first part of ln 2 has 20 zeros at its end: its product with n is exact even where it is not fused. */
    double rest = fused(n, -0x1.62e42fee00000p-1, clamped);
    rest = fused(n, -0x1.a39ef35793c76p-33, rest);
    double sum = 1.0 / 6227020800;
    sum = fused(sum, rest, 1.0 / 479001600);
    sum = fused(sum, rest, 1.0 / 39916800);
    sum = fused(sum, rest, 1.0 / 3628800);
    sum = fused(sum, rest, 1.0 / 362880);
    sum = fused(sum, rest, 1.0 / 40320);
    sum = fused(sum, rest, 1.0 / 5040);
    sum = fused(sum, rest, 1.0 / 720);
    sum = fused(sum, rest, 1.0 / 120);
    sum = fused(sum, rest, 1.0 / 24);
    sum = fused(sum, rest, 1.0 / 6);
    sum = fused(sum, rest, 0.5);
    sum = fused(sum, rest, 1.0);
    sum = fused(sum, rest, 1.0);
    const int64_t scaled = bits_of(sum) + (int64_t)((uint64_t)bits_of(shifted) << 52);
    double result;
    memcpy(&result, &scaled, sizeof result);
    return (float)result;
}

/* A power, at most 1, in units of 2^-40, rounded to even. */
INLINE int64_t weight_units(float power) { return bits_of(power + 0x1.8p12) - bits_of(0x1.8p12); }

INLINE double as_weight(int64_t units) { return (double)units * 0x1p-40; }

/* A probability in units of 2^-60, rounded to even, and back. */
INLINE int64_t probability_units(float probability) { return llrintf(probability * 0x1p60f); }

INLINE float as_share(int64_t units) { return (float)((double)units * 0x1p-60); }
