/* What the C code takes from AVX512, for CPUs with AVX2: lane by lane, slow, and so that every machine can test it. */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#ifdef EMULATED_BF16_AND_VNNI
#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1
#endif
/* Functions are not compiled for more than the CPU has. */
#define VNNI
#define EMULATED static inline __attribute__((always_inline))
#define LANES(count) for (int lane = 0; lane < (count); lane++)

typedef union {
    __m512 ps;
    __m512d pd;
    __m512i si;
    float f32[16];
    double f64[8];
    int8_t i8[64];
    uint8_t u8[64];
    int16_t i16[32];
    uint16_t u16[32];
    int32_t i32[16];
    uint32_t u32[16];
    int64_t i64[8];
} emulated;

EMULATED emulated of_ps(__m512 x) { return (emulated){.ps = x}; }
EMULATED emulated of_si(__m512i x) { return (emulated){.si = x}; }

/* The result is `to`, its lanes computed one after the other. */
#define EACH(result, count, statement) ({ emulated to; LANES(count) { statement; } to.result; })

/* Arithmetic of float32. */
#define _mm512_setzero_ps() ((__m512){0})
EMULATED __m512 emulated_all(float x) { return EACH(ps, 16, to.f32[lane] = x); }
#define _mm512_set1_ps(x) emulated_all(x)
#define _mm512_add_ps(x, y) ((__m512)((x) + (y)))
#define _mm512_sub_ps(x, y) ((__m512)((x) - (y)))
#define _mm512_mul_ps(x, y) ((__m512)((x) * (y)))
#define _mm512_div_ps(x, y) ((__m512)((x) / (y)))
EMULATED __m512 emulated_max(__m512 x, __m512 y) {
    const emulated a = of_ps(x), b = of_ps(y);
    return EACH(ps, 16, to.f32[lane] = a.f32[lane] > b.f32[lane] ? a.f32[lane] : b.f32[lane]);
}
EMULATED __m512 emulated_min(__m512 x, __m512 y) {
    const emulated a = of_ps(x), b = of_ps(y);
    return EACH(ps, 16, to.f32[lane] = a.f32[lane] < b.f32[lane] ? a.f32[lane] : b.f32[lane]);
}
EMULATED __m512 emulated_fmadd(__m512 x, __m512 y, __m512 z) {
    const emulated a = of_ps(x), b = of_ps(y), c = of_ps(z);
    return EACH(ps, 16, to.f32[lane] = __builtin_fmaf(a.f32[lane], b.f32[lane], c.f32[lane]));
}
EMULATED __m512 emulated_round(__m512 x) {
    const emulated a = of_ps(x);
    return EACH(ps, 16, to.f32[lane] = __builtin_rintf(a.f32[lane]));
}
EMULATED __m512 emulated_scalef(__m512 x, __m512 y) {
    const emulated a = of_ps(x), b = of_ps(y);
    return EACH(ps, 16, to.f32[lane] = ldexpf(a.f32[lane], (int)b.f32[lane]));
}
#define _mm512_max_ps(x, y) emulated_max(x, y)
#define _mm512_min_ps(x, y) emulated_min(x, y)
#define _mm512_fmadd_ps(x, y, z) emulated_fmadd(x, y, z)
#define _mm512_fnmadd_ps(x, y, z) emulated_fmadd(-(x), y, z)
#define _mm512_roundscale_ps(x, how) emulated_round(x)
#define _mm512_scalef_ps(x, n) emulated_scalef(x, n)

/* As the compiler's own: halves are folded. */
EMULATED float emulated_reduce_add(__m512 x) {
    emulated a = of_ps(x);
    for (int half = 8; half; half /= 2) LANES(half) a.f32[lane] += a.f32[lane + half];
    return a.f32[0];
}
EMULATED float emulated_reduce_max(__m512 x) {
    emulated a = of_ps(x);
    for (int half = 8; half; half /= 2)
        LANES(half) a.f32[lane] = a.f32[lane] > a.f32[lane + half] ? a.f32[lane] : a.f32[lane + half];
    return a.f32[0];
}
#define _mm512_reduce_add_ps(x) emulated_reduce_add(x)
#define _mm512_reduce_max_ps(x) emulated_reduce_max(x)

/* Memory, and masks. */
EMULATED __m512i emulated_load(const void *from) {
    __m512i x;
    memcpy(&x, from, sizeof x);
    return x;
}
EMULATED void emulated_store(void *to, __m512i x) { memcpy(to, &x, sizeof x); }
#define _mm512_loadu_ps(from) ((__m512)emulated_load(from))
#define _mm512_storeu_ps(to, x) emulated_store(to, (__m512i)(x))
#define _mm512_loadu_si512(from) emulated_load(from)
#define _mm512_storeu_si512(to, x) emulated_store(to, x)
EMULATED __m512 emulated_mask_load(__m512 others, __mmask16 mask, const float *from) {
    emulated a = of_ps(others);
    LANES(16) if (mask >> lane & 1) a.f32[lane] = from[lane];
    return a.ps;
}
EMULATED void emulated_mask_store(float *to, __mmask16 mask, __m512 x) {
    LANES(16) if (mask >> lane & 1) to[lane] = of_ps(x).f32[lane];
}
EMULATED __m512i emulated_maskz_load_words(__mmask32 mask, const void *from) {
    emulated a = {.si = {0}};
    LANES(32) if (mask >> lane & 1) a.u16[lane] = ((const uint16_t *)from)[lane];
    return a.si;
}
EMULATED __m256i emulated_maskz_load_half(__mmask16 mask, const void *from) {
    uint16_t words[16] = {0};
    LANES(16) if (mask >> lane & 1) words[lane] = ((const uint16_t *)from)[lane];
    return _mm256_loadu_si256((const __m256i *)words);
}
EMULATED void emulated_mask_store_half(void *to, __mmask16 mask, __m256i x) {
    uint16_t words[16];
    _mm256_storeu_si256((__m256i *)words, x);
    LANES(16) if (mask >> lane & 1) ((uint16_t *)to)[lane] = words[lane];
}
EMULATED __m512 emulated_select(__m512 others, __mmask16 mask, __m512 x) {
    emulated a = of_ps(others);
    LANES(16) if (mask >> lane & 1) a.f32[lane] = of_ps(x).f32[lane];
    return a.ps;
}
EMULATED __mmask16 emulated_compare(__m512 x, __m512 y, int how) {
    const emulated a = of_ps(x), b = of_ps(y);
    int mask = 0;
    LANES(16) {
        const float left = a.f32[lane], right = b.f32[lane];
        mask |= (how == _CMP_UNORD_Q ? left != left || right != right : left == right) << lane;
    }
    return mask;
}
#define _mm512_mask_loadu_ps(others, mask, from) emulated_mask_load(others, mask, from)
#define _mm512_maskz_loadu_ps(mask, from) emulated_mask_load(_mm512_setzero_ps(), mask, from)
#define _mm512_mask_storeu_ps(to, mask, x) emulated_mask_store(to, mask, x)
#define _mm512_maskz_loadu_epi16(mask, from) emulated_maskz_load_words(mask, from)
#define _mm256_maskz_loadu_epi16(mask, from) emulated_maskz_load_half(mask, from)
#define _mm256_mask_storeu_epi16(to, mask, x) emulated_mask_store_half(to, mask, x)
#define _mm512_mask_add_ps(others, mask, x, y) emulated_select(others, mask, (x) + (y))
#define _mm512_maskz_div_ps(mask, x, y) emulated_select(_mm512_setzero_ps(), mask, (x) / (y))
#define _mm512_mask_mov_epi32(others, mask, x) ((__m512i)emulated_select((__m512)(others), mask, (__m512)(x)))
#define _mm512_cmp_ps_mask(x, y, how) emulated_compare(x, y, how)

/* Whole numbers. */
#define _mm512_setzero_si512() ((__m512i){0})
EMULATED __m512i emulated_all32(int32_t x) { return EACH(si, 16, to.i32[lane] = x); }
EMULATED __m512i emulated_all16(int16_t x) { return EACH(si, 32, to.i16[lane] = x); }
EMULATED __m512i emulated_all8(int8_t x) { return EACH(si, 64, to.i8[lane] = x); }
#define _mm512_set1_epi32(x) emulated_all32(x)
#define _mm512_set1_epi16(x) emulated_all16(x)
#define _mm512_set1_epi8(x) emulated_all8(x)
#define _mm512_and_si512(x, y) ((__m512i)((x) & (y)))
#define _mm512_or_si512(x, y) ((__m512i)((x) | (y)))
#define _mm512_andnot_si512(x, y) ((__m512i)(~(x) & (y)))
#define BY_LANES(name, kind, count, expression) \
    EMULATED __m512i emulated_##name(__m512i x, __m512i y) { \
        const emulated a = of_si(x), b = of_si(y); \
        return EACH(si, count, to.kind[lane] = (expression)); \
    }
BY_LANES(add32, i32, 16, a.i32[lane] + b.i32[lane])
BY_LANES(max32, u32, 16, a.u32[lane] > b.u32[lane] ? a.u32[lane] : b.u32[lane])
BY_LANES(max16, u16, 32, a.u16[lane] > b.u16[lane] ? a.u16[lane] : b.u16[lane])
BY_LANES(madd, i32, 16, a.i16[2 * lane] * b.i16[2 * lane] + a.i16[2 * lane + 1] * b.i16[2 * lane + 1])
BY_LANES(low16, i16, 32, (lane & 1 ? b : a).i16[lane / 8 * 8 + lane % 8 / 2])
BY_LANES(high16, i16, 32, (lane & 1 ? b : a).i16[lane / 8 * 8 + 4 + lane % 8 / 2])
BY_LANES(low32, i32, 16, (lane & 1 ? b : a).i32[lane / 4 * 4 + lane % 4 / 2])
BY_LANES(high32, i32, 16, (lane & 1 ? b : a).i32[lane / 4 * 4 + 2 + lane % 4 / 2])
BY_LANES(low64, i64, 8, (lane & 1 ? b : a).i64[lane / 2 * 2])
BY_LANES(high64, i64, 8, (lane & 1 ? b : a).i64[lane / 2 * 2 + 1])
BY_LANES(pick16, u16, 32, b.u16[a.u16[lane] & 31])
BY_LANES(pick8, u8, 64, b.u8[lane] & 0x80 ? 0 : a.u8[lane / 16 * 16 + (b.u8[lane] & 15)])
BY_LANES(left32, u32, 16, a.u32[lane] << b.u32[0])
BY_LANES(right32, u32, 16, a.u32[lane] >> b.u32[0])
BY_LANES(right16, u16, 32, a.u16[lane] >> b.u16[0])
BY_LANES(dot_bytes, i32, 16,
         a.u8[4 * lane] * b.i8[4 * lane] + a.u8[4 * lane + 1] * b.i8[4 * lane + 1] +
             a.u8[4 * lane + 2] * b.i8[4 * lane + 2] + a.u8[4 * lane + 3] * b.i8[4 * lane + 3])
#define _mm512_add_epi32(x, y) emulated_add32(x, y)
#define _mm512_max_epu32(x, y) emulated_max32(x, y)
#define _mm512_max_epu16(x, y) emulated_max16(x, y)
#define _mm512_madd_epi16(x, y) emulated_madd(x, y)
#define _mm512_dpwssd_epi32(sum, x, y) emulated_add32(sum, emulated_madd(x, y))
#define _mm512_dpbusd_epi32(sum, x, y) emulated_add32(sum, emulated_dot_bytes(x, y))
#define _mm512_slli_epi32(x, bits) emulated_left32(x, _mm512_set1_epi32(bits))
#define _mm512_srli_epi32(x, bits) emulated_right32(x, _mm512_set1_epi32(bits))
#define _mm512_srli_epi16(x, bits) emulated_right16(x, _mm512_set1_epi16(bits))
EMULATED uint32_t emulated_reduce_max32(__m512i x) {
    uint32_t most = 0;
    LANES(16) most = of_si(x).u32[lane] > most ? of_si(x).u32[lane] : most;
    return most;
}
EMULATED int32_t emulated_reduce_add32(__m512i x) {
    int32_t sum = 0;
    LANES(16) sum += of_si(x).i32[lane];
    return sum;
}
#define _mm512_reduce_max_epu32(x) emulated_reduce_max32(x)
#define _mm512_reduce_add_epi32(x) emulated_reduce_add32(x)

/* Lanes in another order. */
#define _mm512_unpacklo_epi16(x, y) emulated_low16(x, y)
#define _mm512_unpackhi_epi16(x, y) emulated_high16(x, y)
#define _mm512_unpacklo_ps(x, y) ((__m512)emulated_low32((__m512i)(x), (__m512i)(y)))
#define _mm512_unpackhi_ps(x, y) ((__m512)emulated_high32((__m512i)(x), (__m512i)(y)))
#define _mm512_unpacklo_pd(x, y) ((__m512d)emulated_low64((__m512i)(x), (__m512i)(y)))
#define _mm512_unpackhi_pd(x, y) ((__m512d)emulated_high64((__m512i)(x), (__m512i)(y)))
#define _mm512_permutexvar_epi16(index, x) emulated_pick16(index, x)
#define _mm512_shuffle_epi8(x, index) emulated_pick8(x, index)
EMULATED __m512 emulated_pick_of_two(__m512 x, __m512i index, __m512 y) {
    const emulated a = of_ps(x), b = of_ps(y), at = of_si(index);
    return EACH(ps, 16, to.f32[lane] = (at.u32[lane] & 16 ? b : a).f32[at.u32[lane] & 15]);
}
#define _mm512_permutex2var_ps(x, index, y) emulated_pick_of_two(x, index, y)
#define _mm512_set_epi32(...) \
    ({ const int32_t given[] = {__VA_ARGS__}; EACH(si, 16, to.i32[lane] = given[15 - lane]); })
#define _mm512_set_epi16(...) \
    ({ const int16_t given[] = {__VA_ARGS__}; EACH(si, 32, to.i16[lane] = given[31 - lane]); })
EMULATED __m128 emulated_quarter(__m512 x, int part) {
    const emulated a = of_ps(x);
    return _mm_loadu_ps(a.f32 + 4 * part);
}
EMULATED __m512i emulated_twice(__m256i x) { return EACH(si, 2, memcpy(to.u8 + 32 * lane, &x, 32)); }
EMULATED __m512i emulated_four_times(__m128i x) { return EACH(si, 4, memcpy(to.u8 + 16 * lane, &x, 16)); }
#define _mm512_extractf32x4_ps(x, part) emulated_quarter(x, part)
#define _mm512_broadcast_i64x4(x) emulated_twice(x)
#define _mm512_broadcast_i32x4(x) emulated_four_times(x)

/* One type as another. */
#define _mm512_castsi512_ps(x) ((__m512)(x))
#define _mm512_castps_si512(x) ((__m512i)(x))
#define _mm512_castps_pd(x) ((__m512d)(x))
#define _mm512_castpd_ps(x) ((__m512)(x))
#define _mm512_cvtss_f32(x) (of_ps(x).f32[0])
EMULATED __m512 emulated_to_floats(__m512i x) { return EACH(ps, 16, to.f32[lane] = of_si(x).i32[lane]); }
EMULATED __m512i emulated_to_ints(__m512 x) {
    return EACH(si, 16, to.i32[lane] = _mm_cvtss_si32(_mm_set_ss(of_ps(x).f32[lane])));
}
#define _mm512_cvtepi32_ps(x) emulated_to_floats(x)
#define _mm512_cvtps_epi32(x) emulated_to_ints(x)
#define WIDENED(name, from, type, kind, count) \
    EMULATED __m512i emulated_##name(from x) { \
        type parts[count]; \
        memcpy(parts, &x, sizeof parts); \
        return EACH(si, count, to.kind[lane] = parts[lane]); \
    }
WIDENED(words_to_32, __m256i, uint16_t, u32, 16)
WIDENED(bytes_to_16, __m256i, uint8_t, u16, 32)
WIDENED(bytes_to_32, __m128i, int8_t, i32, 16)
#define _mm512_cvtepu16_epi32(x) emulated_words_to_32(x)
#define _mm512_cvtepu8_epi16(x) emulated_bytes_to_16(x)
#define _mm512_cvtepi8_epi32(x) emulated_bytes_to_32(x)
EMULATED __m256i emulated_words(__m512i x) {
    uint16_t words[16];
    LANES(16) words[lane] = of_si(x).u32[lane];
    return _mm256_loadu_si256((const __m256i *)words);
}
EMULATED __m128i emulated_bytes(__m512i x) {
    int8_t bytes[16];
    LANES(16) {
        const int32_t value = of_si(x).i32[lane];
        bytes[lane] = value < -128 ? -128 : value > 127 ? 127 : value;
    }
    return _mm_loadu_si128((const __m128i *)bytes);
}
#define _mm512_cvtepi32_epi16(x) emulated_words(x)
#define _mm512_cvtsepi32_epi8(x) emulated_bytes(x)

/* bfloat16. Numbers below the smallest normal one are zero to these instructions; that is left out. */
EMULATED __m256i emulated_to_bfloat16(__m512 x) {
    uint16_t words[16];
    LANES(16) {
        const uint32_t bits = of_ps(x).u32[lane];
        const int is_nan = (bits & 0x7fffffff) > 0x7f800000;
        words[lane] = is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
    return _mm256_loadu_si256((const __m256i *)words);
}
EMULATED __m512 emulated_dot_bfloat16(__m512 sum, __m512i x, __m512i y) {
    const emulated a = of_si(x), b = of_si(y), high = of_si(_mm512_set1_epi32(0xffff0000));
    emulated to = of_ps(sum);
    LANES(16) {
        float left, right;
        for (int odd = 0; odd < 2; odd++) {
            const uint32_t first = odd ? a.u32[lane] & high.u32[lane] : a.u32[lane] << 16;
            const uint32_t second = odd ? b.u32[lane] & high.u32[lane] : b.u32[lane] << 16;
            memcpy(&left, &first, 4);
            memcpy(&right, &second, 4);
            to.f32[lane] += left * right;
        }
    }
    return to.ps;
}
#define _mm512_cvtneps_pbh(x) ((__m256bh)emulated_to_bfloat16(x))
#define _mm512_dpbf16_ps(sum, x, y) emulated_dot_bfloat16(sum, (__m512i)(x), (__m512i)(y))
