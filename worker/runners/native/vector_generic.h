/* Plain C, by the vectors that gcc and clang have for any CPU; of what every x86-64 has, one instruction. */
#pragma once

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Up to DIRECT_ROWS rows, codes are looked up as they are needed; for more, once for all rows, a panel at a time, with
   ROWS rows and PANEL_VECTORS vectors of outputs in registers. */
enum {
    WIDTH = 4, DIRECT_ROWS = 1, ROWS = 4, PANEL_INPUTS = 1024, PANEL_VECTORS = 2, DENSE_OUTPUTS = 4, DENSE_ROWS = 2,
    PREFETCHES_IN_TILES = 0
};
/* Sums for each number, in a tile of so many rows. */
#define CHAINS(rows) 1
/* Rows of a tile of attention, and vectors of values that a single query sums up at once. */
#define SUMMED_AT_ONCE 8
#define TILE_ROWS 2

typedef float floats __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(16)));
typedef uint32_t pairs __attribute__((vector_size(16)));
/* What two codes stand for, the first in the low half of the index. */
typedef struct {
    uint32_t both[256];
} table;

INLINE void rest_a_little(void) {
#ifdef __SSE2__
    _mm_pause();
#endif
}
INLINE void prefetch(const void *at) { __builtin_prefetch(at); }

INLINE floats zeros(void) { return (floats){0}; }
INLINE floats all(float value) { return (floats){value, value, value, value}; }
INLINE floats plus(floats a, floats b) { return a + b; }
INLINE floats minus(floats a, floats b) { return a - b; }
INLINE floats times(floats a, floats b) { return a * b; }
INLINE floats over(floats a, floats b) { return a / b; }
INLINE floats chosen(ints first, floats a, floats b) { return (floats)((first & (ints)a) | (~first & (ints)b)); }
/* Of two that cannot be compared, the second. */
INLINE floats larger(floats a, floats b) { return chosen(a > b, a, b); }
INLINE floats smaller(floats a, floats b) { return chosen(a < b, a, b); }
/* c plus a b, and c minus a b. */
INLINE floats plus_product(floats a, floats b, floats c) { return c + a * b; }
INLINE floats minus_product(floats a, floats b, floats c) { return c - a * b; }
/* Whole numbers, of such below 2^22; times_power_of_2 takes such, from -126 to 127. */
INLINE floats nearest(floats x) { return x + 12582912.0f - 12582912.0f; }
INLINE floats times_power_of_2(floats x, floats n) { return x * (floats)((__builtin_convertvector(n, ints) + 127) << 23); }
INLINE float sum_of(floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float largest_of(floats x) {
    const float left = x[0] > x[2] ? x[0] : x[2], right = x[1] > x[3] ? x[1] : x[3];
    return left > right ? left : right;
}
INLINE four sums_of_four(floats a, floats b, floats c, floats d) { return (four){sum_of(a), sum_of(b), sum_of(c), sum_of(d)}; }

INLINE floats load_floats(const float *from) {
    floats values;
    memcpy(&values, from, sizeof values);
    return values;
}
INLINE void store_floats(float *to, floats values) { memcpy(to, &values, sizeof values); }

INLINE floats load(const bf16 *from) {
    return (floats)((pairs){from[0], from[1], from[2], from[3]} << 16);
}
INLINE pairs narrow(floats values) {
    const pairs bits = (pairs)values, top = bits >> 16;
    return (pairs)chosen(values == values, (floats)((bits + 0x7fff + (top & 1)) >> 16), (floats)(top | 0x40));
}
INLINE void store(bf16 *to, floats values) {
    const pairs words = narrow(values);
    for (int lane = 0; lane < WIDTH; lane++) to[lane] = (bf16)words[lane];
}
/* What a bfloat16 keeps of it. */
INLINE floats rounded(floats values) { return (floats)(narrow(values) << 16); }

INLINE pairs load_pairs(const void *from) {
    pairs values;
    memcpy(&values, from, sizeof values);
    return values;
}
/* Four bytes, again and again: two neighbours in 16 bits. */
INLINE pairs repeated(const void *from) {
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return (pairs){bytes, bytes, bytes, bytes};
}

/* sum plus the products of both bfloat16 of each pair, one after the other. */
INLINE floats dot(floats sum, pairs a, pairs b) {
    sum += (floats)(a << 16) * (floats)(b << 16);
    return sum + (floats)(a & 0xffff0000) * (floats)(b & 0xffff0000);
}

INLINE ints no_ints(void) { return (ints){0}; }
INLINE ints plus_ints(ints a, ints b) { return a + b; }
INLINE floats to_floats(ints x) { return __builtin_convertvector(x, floats); }
/* sum plus the products of both whole numbers of each pair. */
INLINE ints dot_ints(ints sum, pairs a, pairs b) {
#ifdef __SSE2__
    return sum + (ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return sum + ((ints)(a << 16) >> 16) * ((ints)(b << 16) >> 16) + ((ints)a >> 16) * ((ints)b >> 16);
#endif
}

/* Pairs of the lanes of both, in an order that store_interleaved undoes. */
INLINE void interleave(pairs even, pairs odd, pairs *low, pairs *high) {
    const pairs first = (even & 0xffff) | odd << 16, second = even >> 16 | (odd & 0xffff0000);
    *low = (pairs){first[0], second[0], first[1], second[1]};
    *high = (pairs){first[2], second[2], first[3], second[3]};
}
INLINE void store_interleaved(bf16 *to, floats low, floats high) {
    store(to, low);
    store(to + WIDTH, high);
}

INLINE table load_table(const void *from) {
    table made;
    uint16_t values[16];
    memcpy(values, from, sizeof values);
    for (int index = 0; index < 256; index++) made.both[index] = values[index & 15] | (uint32_t)values[index >> 4] << 16;
    return made;
}
/* What 64 codes in 32 bytes stand for: pairs of two inputs, for all vectors of outputs. */
INLINE void look_up(const uint8_t *codes, const table *from, pairs *to) {
    for (int output = 0; output < OUTPUTS / 2; output++) {
        const uint8_t first = codes[2 * output], second = codes[2 * output + 1];
        to[output / WIDTH][output % WIDTH] = from->both[(first & 15) | (second & 15) << 4];
        to[(OUTPUTS / 2 + output) / WIDTH][output % WIDTH] = from->both[first >> 4 | (second & 0xf0)];
    }
}
/* Numbers of outputs in the order in which look_up gives them. */
INLINE void load_outputs(const bf16 *from, const int vectors, floats *to) {
    for (int each = 0; each < vectors; each++) to[each] = load(from + WIDTH * each);
}
/* Brings OUTPUTS sums from that order, which is their own here, into their own. */
INLINE void put_in_order(float *sums) { (void)sums; }
