/* AVX512 with BW, VL and DQ; with BF16 and VNNI where the compiler may use them. */
#pragma once

#include <immintrin.h>

/* Up to DIRECT_ROWS rows, codes are looked up as they are needed; for more, once for all rows, a panel at a time, with
   ROWS rows and PANEL_VECTORS vectors of outputs in registers. */
enum {
    WIDTH = 16, DIRECT_ROWS = 8, ROWS = 6, PANEL_INPUTS = 1024, PANEL_VECTORS = 2, DENSE_OUTPUTS = 4, DENSE_ROWS = 6,
    PREFETCHES_IN_TILES = 1
};
/* Sums for each number, in a tile of so many rows. */
#define CHAINS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
/* Rows of a tile of attention, and vectors of values that a single query sums up at once. */
#define SUMMED_AT_ONCE 16
#define TILE_ROWS 8
#define HAS_INT8
#define HAS_MASKS

typedef __m512 floats;
typedef __m512i ints, pairs, table;

INLINE void rest_a_little(void) { _mm_pause(); }
INLINE void prefetch(const void *at) { _mm_prefetch(at, _MM_HINT_T1); }

INLINE __mmask16 lanes16(int64_t left) { return left >= 16 ? 0xffff : (1 << left) - 1; }
INLINE __mmask32 lanes32(int64_t left) { return left >= 32 ? 0xffffffffu : (1u << left) - 1; }

INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE floats all(float value) { return _mm512_set1_ps(value); }
INLINE floats plus(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats minus(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats times(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats over(floats a, floats b) { return _mm512_div_ps(a, b); }
/* Of two that cannot be compared, the second. */
INLINE floats larger(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats smaller(floats a, floats b) { return _mm512_min_ps(a, b); }
/* c plus a b, and c minus a b. */
INLINE floats plus_product(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats minus_product(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }
/* Whole numbers; times_power_of_2 takes such. */
INLINE floats nearest(floats x) { return _mm512_roundscale_ps(x, 0); }
INLINE floats times_power_of_2(floats x, floats n) { return _mm512_scalef_ps(x, n); }
INLINE float sum_of(floats x) { return _mm512_reduce_add_ps(x); }
INLINE float largest_of(floats x) { return _mm512_reduce_max_ps(x); }

INLINE four sums_of_four(floats a, floats b, floats c, floats d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 lanes = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m128 left = _mm_add_ps(_mm512_extractf32x4_ps(lanes, 0), _mm512_extractf32x4_ps(lanes, 1));
    return _mm_add_ps(left, _mm_add_ps(_mm512_extractf32x4_ps(lanes, 2), _mm512_extractf32x4_ps(lanes, 3)));
}

INLINE floats load_floats(const float *from) { return _mm512_loadu_ps(from); }
INLINE void store_floats(float *to, floats values) { _mm512_storeu_ps(to, values); }
/* The other lanes are those of `others`. */
INLINE floats load_first_floats(const float *from, int64_t left, floats others) {
    return _mm512_mask_loadu_ps(others, lanes16(left), from);
}
INLINE void store_first_floats(float *to, int64_t left, floats values) { _mm512_mask_storeu_ps(to, lanes16(left), values); }
/* a plus b, and a in the other lanes. */
INLINE floats plus_first(floats a, int64_t left, floats b) { return _mm512_mask_add_ps(a, lanes16(left), a, b); }

INLINE __m512 widen(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

INLINE __m256i narrow(floats values) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(values);
#else
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q), quiet));
#endif
}

INLINE floats load(const bf16 *from) { return widen(_mm256_loadu_si256((const __m256i *)from)); }
INLINE void store(bf16 *to, floats values) { _mm256_storeu_si256((__m256i *)to, narrow(values)); }
/* What a bfloat16 keeps of it. */
INLINE floats rounded(floats values) { return widen(narrow(values)); }
/* The other lanes are 0. */
INLINE floats load_first(const bf16 *from, int64_t left) { return widen(_mm256_maskz_loadu_epi16(lanes16(left), from)); }
INLINE void store_first(bf16 *to, int64_t left, floats values) {
    _mm256_mask_storeu_epi16(to, lanes16(left), narrow(values));
}

INLINE pairs load_pairs(const void *from) { return _mm512_loadu_si512(from); }
INLINE void store_pairs(void *to, pairs values) { _mm512_storeu_si512(to, values); }
INLINE pairs load_first_pairs(const bf16 *from, int64_t left) { return _mm512_maskz_loadu_epi16(lanes32(left), from); }
/* Four bytes, again and again: two neighbours in 16 bits, or four in int8. */
INLINE pairs repeated(const void *from) {
    int32_t bytes;
    __builtin_memcpy(&bytes, from, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

/* sum plus the products of both bfloat16 of each pair, one after the other. */
INLINE floats dot(floats sum, pairs a, pairs b) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    const __m512i high = _mm512_set1_epi32(0xffff0000);
    sum = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(a, 16), (__m512)_mm512_slli_epi32(b, 16), sum);
    return _mm512_fmadd_ps((__m512)_mm512_and_si512(a, high), (__m512)_mm512_and_si512(b, high), sum);
#endif
}

INLINE ints no_ints(void) { return _mm512_setzero_si512(); }
INLINE ints plus_ints(ints a, ints b) { return _mm512_add_epi32(a, b); }
INLINE floats to_floats(ints x) { return _mm512_cvtepi32_ps(x); }
/* sum plus the products of both whole numbers of each pair. */
INLINE ints dot_ints(ints sum, pairs a, pairs b) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

/* Pairs of the lanes of both, in an order that store_interleaved undoes. */
INLINE void interleave(pairs even, pairs odd, pairs *low, pairs *high) {
    *low = _mm512_unpacklo_epi16(even, odd);
    *high = _mm512_unpackhi_epi16(even, odd);
}
INLINE void store_interleaved(bf16 *to, floats low, floats high) {
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    store(to, _mm512_permutex2var_ps(low, first, high));
    store(to + 16, _mm512_permutex2var_ps(low, second, high));
}

/* Twice the 16 numbers: the lookup heeds five bits, the fifth of which is of another code. */
INLINE table load_table(const void *from) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)from)); }
/* What 64 codes in 32 bytes stand for: pairs of two inputs, for all vectors of outputs. */
INLINE void look_up(const uint8_t *codes, const table *from, pairs *to) {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    to[0] = _mm512_permutexvar_epi16(words, *from);
    to[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), *from);
}
/* Numbers of outputs in the order in which look_up gives them. */
INLINE void load_outputs(const bf16 *from, const int vectors, floats *to) {
    for (int each = 0; each < vectors; each++) to[each] = load(from + WIDTH * each);
}
/* Brings OUTPUTS sums from that order, which is their own here, into their own. */
INLINE void put_in_order(float *sums) { (void)sums; }
