/* NEON, as every 64-bit ARM has it. */
#pragma once

#include <arm_neon.h>

/* Up to DIRECT_ROWS rows, codes are looked up as they are needed; for more, once for all rows, a panel at a time, with
   ROWS rows and PANEL_VECTORS vectors of outputs in registers. */
enum {
    WIDTH = 4, DIRECT_ROWS = 1, ROWS = 4, PANEL_INPUTS = 1024, PANEL_VECTORS = 4, DENSE_OUTPUTS = 4, DENSE_ROWS = 4,
    PREFETCHES_IN_TILES = 0
};
/* Sums for each number, in a tile of so many rows. */
#define CHAINS(rows) 1
/* Rows of a tile of attention, and vectors of values that a single query sums up at once. */
#define SUMMED_AT_ONCE 16
#define TILE_ROWS 4

typedef float32x4_t floats;
typedef int32x4_t ints;
typedef uint32x4_t pairs;
typedef struct {
    uint8x16_t low, high;
} table;

INLINE void rest_a_little(void) { __asm__ volatile("yield"); }
INLINE void prefetch(const void *at) { __builtin_prefetch(at); }

INLINE floats zeros(void) { return vdupq_n_f32(0.0f); }
INLINE floats all(float value) { return vdupq_n_f32(value); }
INLINE floats plus(floats a, floats b) { return vaddq_f32(a, b); }
INLINE floats minus(floats a, floats b) { return vsubq_f32(a, b); }
INLINE floats times(floats a, floats b) { return vmulq_f32(a, b); }
INLINE floats over(floats a, floats b) { return vdivq_f32(a, b); }
/* Of two that cannot be compared, what is not a number. */
INLINE floats larger(floats a, floats b) { return vmaxq_f32(a, b); }
INLINE floats smaller(floats a, floats b) { return vminq_f32(a, b); }
/* c plus a b, and c minus a b. */
INLINE floats plus_product(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
INLINE floats minus_product(floats a, floats b, floats c) { return vfmsq_f32(c, a, b); }
/* Whole numbers; times_power_of_2 takes such, from -126 to 127. */
INLINE floats nearest(floats x) { return vrndnq_f32(x); }
INLINE floats times_power_of_2(floats x, floats n) {
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
INLINE float sum_of(floats x) { return vaddvq_f32(x); }
INLINE float largest_of(floats x) { return vmaxvq_f32(x); }
INLINE four sums_of_four(floats a, floats b, floats c, floats d) {
    return (four)vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

INLINE floats load_floats(const float *from) { return vld1q_f32(from); }
INLINE void store_floats(float *to, floats values) { vst1q_f32(to, values); }

INLINE floats load(const bf16 *from) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16)); }
INLINE uint16x4_t narrow(floats values) {
    const uint32x4_t bits = vreinterpretq_u32_f32(values);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(values, values), up, quiet), 16);
}
INLINE void store(bf16 *to, floats values) { vst1_u16(to, narrow(values)); }
/* What a bfloat16 keeps of it. */
INLINE floats rounded(floats values) { return vreinterpretq_f32_u32(vshll_n_u16(narrow(values), 16)); }

INLINE pairs load_pairs(const void *from) { return vreinterpretq_u32_u8(vld1q_u8(from)); }
/* Four bytes, again and again: two neighbours in 16 bits. */
INLINE pairs repeated(const void *from) {
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return vdupq_n_u32(bytes);
}

/* sum plus the products of both bfloat16 of each pair, one after the other. */
INLINE floats dot(floats sum, pairs a, pairs b) {
    const uint32x4_t high = vdupq_n_u32(0xffff0000);
    sum = vfmaq_f32(sum, vreinterpretq_f32_u32(vshlq_n_u32(a, 16)), vreinterpretq_f32_u32(vshlq_n_u32(b, 16)));
    return vfmaq_f32(sum, vreinterpretq_f32_u32(vandq_u32(a, high)), vreinterpretq_f32_u32(vandq_u32(b, high)));
}

INLINE ints no_ints(void) { return vdupq_n_s32(0); }
INLINE ints plus_ints(ints a, ints b) { return vaddq_s32(a, b); }
INLINE floats to_floats(ints x) { return vcvtq_f32_s32(x); }
/* sum plus the products of both whole numbers of each pair. */
INLINE ints dot_ints(ints sum, pairs a, pairs b) {
    const int16x8_t left = vreinterpretq_s16_u32(a), right = vreinterpretq_s16_u32(b);
    const int32x4_t low = vmull_s16(vget_low_s16(left), vget_low_s16(right)), high = vmull_high_s16(left, right);
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

/* Pairs of the lanes of both, in an order that store_interleaved undoes. */
INLINE void interleave(pairs even, pairs odd, pairs *low, pairs *high) {
    const uint16x8_t left = vreinterpretq_u16_u32(even), right = vreinterpretq_u16_u32(odd);
    *low = vreinterpretq_u32_u16(vzip1q_u16(left, right));
    *high = vreinterpretq_u32_u16(vzip2q_u16(left, right));
}
INLINE void store_interleaved(bf16 *to, floats low, floats high) {
    store(to, low);
    store(to + WIDTH, high);
}

/* 16 numbers as their low bytes and their high bytes. */
INLINE table load_table(const void *from) {
    const uint8x16x2_t bytes = vld2q_u8(from);
    return (table){bytes.val[0], bytes.val[1]};
}
/* What 64 codes in 32 bytes stand for: pairs of two inputs, for all vectors of outputs. */
INLINE void look_up(const uint8_t *codes, const table *from, pairs *to) {
    for (int part = 0; part < 2; part++) {
        const uint8x16_t bytes = vld1q_u8(codes + 16 * part);
        const uint8x16_t halves[2] = {vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8(bytes, 4)};
        for (int half = 0; half < 2; half++) {
            const uint8x16_t low = vqtbl1q_u8(from->low, halves[half]), high = vqtbl1q_u8(from->high, halves[half]);
            to[4 * half + 2 * part] = vreinterpretq_u32_u8(vzip1q_u8(low, high));
            to[4 * half + 2 * part + 1] = vreinterpretq_u32_u8(vzip2q_u8(low, high));
        }
    }
}
/* Numbers of outputs in the order in which look_up gives them. */
INLINE void load_outputs(const bf16 *from, const int vectors, floats *to) {
    for (int each = 0; each < vectors; each++) to[each] = load(from + WIDTH * each);
}
/* Brings OUTPUTS sums from that order, which is their own here, into their own. */
INLINE void put_in_order(float *sums) { (void)sums; }
