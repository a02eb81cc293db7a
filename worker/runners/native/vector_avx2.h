/* AVX2 with FMA; with AVX-VNNI where the compiler may use it. A lookup takes the low and the high bytes of numbers from
   two tables; what it gives is not in the order of the outputs, since bytes are joined in each half of a register. */
#pragma once

#include <immintrin.h>

/* Up to DIRECT_ROWS rows, codes are looked up as they are needed; for more, once for all rows, a panel at a time, with
   ROWS rows and PANEL_VECTORS vectors of outputs in registers. */
enum {
    WIDTH = 8, DIRECT_ROWS = 2, ROWS = 4, PANEL_INPUTS = 1024, PANEL_VECTORS = 2, DENSE_OUTPUTS = 4, DENSE_ROWS = 2,
    PREFETCHES_IN_TILES = 0, AHEAD = 1024
};
/* Sums for each number, in a tile of so many rows. */
#define CHAINS(rows) 1
/* Rows of a tile of attention, and vectors of values that a single query sums up at once. */
#define SUMMED_AT_ONCE 8
#define TILE_ROWS 4

typedef __m256 floats;
typedef __m256i ints, pairs;
typedef struct {
    __m256i low, high;
} table;

INLINE void rest_a_little(void) { _mm_pause(); }
INLINE void prefetch(const void *at) { _mm_prefetch(at, _MM_HINT_T0); }

INLINE floats zeros(void) { return _mm256_setzero_ps(); }
INLINE floats all(float value) { return _mm256_set1_ps(value); }
INLINE floats plus(floats a, floats b) { return _mm256_add_ps(a, b); }
INLINE floats minus(floats a, floats b) { return _mm256_sub_ps(a, b); }
INLINE floats times(floats a, floats b) { return _mm256_mul_ps(a, b); }
INLINE floats over(floats a, floats b) { return _mm256_div_ps(a, b); }
/* Of two that cannot be compared, the second. */
INLINE floats larger(floats a, floats b) { return _mm256_max_ps(a, b); }
INLINE floats smaller(floats a, floats b) { return _mm256_min_ps(a, b); }
/* c plus a b, and c minus a b. */
INLINE floats plus_product(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE floats minus_product(floats a, floats b, floats c) { return _mm256_fnmadd_ps(a, b, c); }
/* Whole numbers; times_power_of_2 takes such, from -126 to 127. */
INLINE floats nearest(floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE floats times_power_of_2(floats x, floats n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

INLINE float sum_of(floats x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

INLINE float largest_of(floats x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

INLINE four sums_of_four(floats a, floats b, floats c, floats d) {
    const __m256 lanes = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
}

INLINE floats load_floats(const float *from) { return _mm256_loadu_ps(from); }
INLINE void store_floats(float *to, floats values) { _mm256_storeu_ps(to, values); }

INLINE __m256 widen(__m128i values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
}

INLINE __m128i narrow(floats values) {
    const __m256i bits = _mm256_castps_si256(values), top = _mm256_srli_epi32(bits, 16);
    const __m256i half = _mm256_add_epi32(_mm256_and_si256(top, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(up, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

INLINE floats load(const bf16 *from) { return widen(_mm_loadu_si128((const __m128i *)from)); }
INLINE void store(bf16 *to, floats values) { _mm_storeu_si128((__m128i *)to, narrow(values)); }
/* What a bfloat16 keeps of it. */
INLINE floats rounded(floats values) { return widen(narrow(values)); }

INLINE pairs load_pairs(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE void store_pairs(void *to, pairs values) { _mm256_storeu_si256((__m256i *)to, values); }
/* Four bytes, again and again: two neighbours in 16 bits. */
INLINE pairs repeated(const void *from) {
    int32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* sum plus the products of both bfloat16 of each pair, one after the other. */
INLINE floats dot(floats sum, pairs a, pairs b) {
    const __m256i high = _mm256_set1_epi32(0xffff0000);
    sum = _mm256_fmadd_ps((__m256)_mm256_slli_epi32(a, 16), (__m256)_mm256_slli_epi32(b, 16), sum);
    return _mm256_fmadd_ps((__m256)_mm256_and_si256(a, high), (__m256)_mm256_and_si256(b, high), sum);
}

INLINE ints no_ints(void) { return _mm256_setzero_si256(); }
INLINE ints plus_ints(ints a, ints b) { return _mm256_add_epi32(a, b); }
INLINE floats to_floats(ints x) { return _mm256_cvtepi32_ps(x); }
/* sum plus the products of both whole numbers of each pair. */
INLINE ints dot_ints(ints sum, pairs a, pairs b) {
#ifdef __AVXVNNI__
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

/* Pairs of the lanes of both, in an order that store_interleaved undoes. */
INLINE void interleave(pairs even, pairs odd, pairs *low, pairs *high) {
    *low = _mm256_unpacklo_epi16(even, odd);
    *high = _mm256_unpackhi_epi16(even, odd);
}
INLINE void store_interleaved(bf16 *to, floats low, floats high) {
    store(to, _mm256_permute2f128_ps(low, high, 0x20));
    store(to + WIDTH, _mm256_permute2f128_ps(low, high, 0x31));
}

/* 16 numbers as their low bytes and their high bytes, in both halves. */
INLINE table load_table(const void *from) {
    const __m128i bytes = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i left = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)from), bytes);
    const __m128i right = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)from + 1), bytes);
    return (table){_mm256_broadcastsi128_si256(_mm_unpacklo_epi64(left, right)),
                   _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(left, right))};
}
/* What 64 codes in 32 bytes stand for: pairs of two inputs, for all vectors of outputs. */
INLINE void look_up(const uint8_t *codes, const table *from, pairs *to) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)codes), code = _mm256_set1_epi8(15);
    const __m256i left = _mm256_and_si256(bytes, code), right = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), code);
    /* The hardware's own guess comes too late for rows of codes as short as those of a layer. */
    prefetch(codes + AHEAD);
    const __m256i left_low = _mm256_shuffle_epi8(from->low, left), left_high = _mm256_shuffle_epi8(from->high, left);
    const __m256i right_low = _mm256_shuffle_epi8(from->low, right), right_high = _mm256_shuffle_epi8(from->high, right);
    to[0] = _mm256_unpacklo_epi8(left_low, left_high);
    to[1] = _mm256_unpackhi_epi8(left_low, left_high);
    to[2] = _mm256_unpacklo_epi8(right_low, right_high);
    to[3] = _mm256_unpackhi_epi8(right_low, right_high);
}
/* Numbers of outputs, two vectors or four, in the order in which look_up gives them. */
INLINE void load_outputs(const bf16 *from, const int vectors, floats *to) {
    for (int each = 0; each < vectors; each += 2) {
        const __m256 first = load(from + WIDTH * each), second = load(from + WIDTH * (each + 1));
        to[each] = _mm256_permute2f128_ps(first, second, 0x20);
        to[each + 1] = _mm256_permute2f128_ps(first, second, 0x31);
    }
}
/* Brings OUTPUTS sums from that order into their own. */
INLINE void put_in_order(float *sums) {
    for (int each = 0; each < OUTPUTS; each += 2 * WIDTH) {
        const __m256 low = load_floats(sums + each), high = load_floats(sums + each + WIDTH);
        store_floats(sums + each, _mm256_permute2f128_ps(low, high, 0x20));
        store_floats(sums + each + WIDTH, _mm256_permute2f128_ps(low, high, 0x31));
    }
}
