/* Vectors of float32, bfloat16 and whole numbers: one vocabulary, in which all else is written, and the words that each
   kind of CPU has for it. Which kind it is follows from what the compiler may use; GENERIC asks for plain C.

   A file for a kind of CPU says how many float32 numbers a vector has (WIDTH, up to 16) and how large the tiles are that
   its registers hold. It defines the types

   - floats: WIDTH numbers in float32
   - ints:   WIDTH whole numbers of 32 bits
   - pairs:  WIDTH pairs of neighbours of 16 bits, each pair in a lane: bfloat16, or whole numbers
   - table:  16 numbers of 16 bits, to be looked up

   and the functions on them. Those that are named `first` heed as many lanes as are left, and touch no memory behind. */
#pragma once

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef float four __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))

/* Outputs of a layer whose codes lie together. */
enum { OUTPUTS = 32 };

#if defined GENERIC
#include "vector_generic.h"
#elif defined __AVX512F__
#include "vector_avx512.h"
#elif defined __AVX2__
#include "vector_avx2.h"
#elif defined __ARM_NEON
#include "vector_neon.h"
#else
#include "vector_generic.h"
#endif

/* Calls TILE(rows) for as many rows as there are, up to `most`. */
#define FOR_TILE(rows, most, TILE) \
    switch (rows) { \
        case 1: TILE(1); break; \
        case 2: if (most >= 2) TILE(2); break; \
        case 3: if (most >= 3) TILE(3); break; \
        case 4: if (most >= 4) TILE(4); break; \
        case 5: if (most >= 5) TILE(5); break; \
        case 6: if (most >= 6) TILE(6); break; \
        case 7: if (most >= 7) TILE(7); break; \
        case 8: if (most >= 8) TILE(8); break; \
    }

/* Vectors that hold a number for each of OUTPUTS outputs. */
enum { OUTPUT_VECTORS = OUTPUTS / WIDTH };

#ifndef HAS_MASKS
/* The first lanes by way of a whole vector in memory. */

/* The other lanes are those of `others`. */
INLINE floats load_first_floats(const float *from, int64_t left, floats others) {
    if (left >= WIDTH) return load_floats(from);
    float whole[WIDTH];
    store_floats(whole, others);
    memcpy(whole, from, left * sizeof(float));
    return load_floats(whole);
}

INLINE void store_first_floats(float *to, int64_t left, floats values) {
    if (left >= WIDTH) {
        store_floats(to, values);
        return;
    }
    float whole[WIDTH];
    store_floats(whole, values);
    memcpy(to, whole, left * sizeof(float));
}

/* a plus b, and a in the other lanes. */
INLINE floats plus_first(floats a, int64_t left, floats b) {
    if (left >= WIDTH) return plus(a, b);
    float whole[WIDTH];
    store_floats(whole, plus(a, b));
    return load_first_floats(whole, left, a);
}

/* The other lanes are 0. */
INLINE floats load_first(const bf16 *from, int64_t left) {
    if (left >= WIDTH) return load(from);
    bf16 whole[WIDTH] = {0};
    memcpy(whole, from, left * sizeof(bf16));
    return load(whole);
}

INLINE void store_first(bf16 *to, int64_t left, floats values) {
    if (left >= WIDTH) {
        store(to, values);
        return;
    }
    bf16 whole[WIDTH];
    store(whole, values);
    memcpy(to, whole, left * sizeof(bf16));
}

INLINE pairs load_first_pairs(const bf16 *from, int64_t left) {
    if (left >= 2 * WIDTH) return load_pairs(from);
    bf16 whole[2 * WIDTH] = {0};
    memcpy(whole, from, left * sizeof(bf16));
    return load_pairs(whole);
}
#endif

INLINE void store_four(float *to, four values) { memcpy(to, &values, sizeof values); }

/* e to the power of x: 2^n times a polynomial in the rest, |error| < 2 units in the last place; next to 0
   below -87. NaN stays NaN: of the two that are compared the second is taken then. */
INLINE floats exponential(floats x) {
    x = larger(all(-87.3f), smaller(all(88.0f), x));
    const floats n = nearest(times(x, all(1.44269504f)));
    floats rest = minus_product(n, all(0.693359375f), x);
    rest = minus_product(n, all(-2.12194440e-4f), rest);
    floats sum = all(1.9875691500e-4f);
    sum = plus_product(sum, rest, all(1.3981999507e-3f));
    sum = plus_product(sum, rest, all(8.3334519073e-3f));
    sum = plus_product(sum, rest, all(4.1665795894e-2f));
    sum = plus_product(sum, rest, all(1.6666665459e-1f));
    sum = plus_product(sum, rest, all(5.0000001201e-1f));
    sum = plus_product(sum, times(rest, rest), plus(rest, all(1.0f)));
    return times_power_of_2(sum, n);
}
