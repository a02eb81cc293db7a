/* Attention of one token over its own row: columns before the row's first token are never read. */
#pragma once

#include <math.h>

#include "vector.h"

enum { MAX_HEAD_DIM = 256 };

/* Keys and values of a layer: [rows][heads][columns][head_dim]. */
typedef struct {
    bf16 *const *keys;    /* [layers] */
    bf16 *const *values;  /* [layers] */
    int64_t row_stride, head_stride;
} slab;

INLINE float dot(const bf16 *a, const bf16 *b, const int dim) {
    __m512 sum = _mm512_setzero_ps();
    for (int place = 0; place < dim; place += 32) sum = _mm512_dpbf16_ps(sum, load32(a + place), load32(b + place));
    return _mm512_reduce_add_ps(sum);
}

/* Turns scores into weights that sum to one. */
static void softmax(float *scores, int64_t count) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 highest = lowest;
    for (int64_t place = 0; place < count; place += 16) {
        const __mmask16 mask = count - place >= 16 ? 0xffff : (1 << (count - place)) - 1;
        highest = _mm512_max_ps(highest, _mm512_mask_loadu_ps(lowest, mask, scores + place));
    }
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t place = 0; place < count; place += 16) {
        const __mmask16 mask = count - place >= 16 ? 0xffff : (1 << (count - place)) - 1;
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_mask_loadu_ps(most, mask, scores + place), most));
        _mm512_mask_storeu_ps(scores + place, mask, weight);
        sum = _mm512_mask_add_ps(sum, mask, sum, weight);
    }
    const __m512 scale = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t place = 0; place < count; place += 16) {
        const __mmask16 mask = count - place >= 16 ? 0xffff : (1 << (count - place)) - 1;
        _mm512_mask_storeu_ps(scores + place, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scores + place), scale));
    }
}

/* The queries of `group` heads that share keys and values, [group][dim], over `count` columns; scores: [group][count]. */
INLINE void attend_dim(const int dim, const bf16 *queries, int64_t group, const bf16 *keys, const bf16 *values,
                       int64_t count, float scaling, float *scores, bf16 *output) {
    for (int64_t column = 0; column < count; column++)
        for (int64_t query = 0; query < group; query++)
            scores[query * count + column] = scaling * dot(queries + query * dim, keys + column * dim, dim);
    for (int64_t query = 0; query < group; query++) {
        float *weights = scores + query * count;
        softmax(weights, count);
        __m512 sums[MAX_HEAD_DIM / 16];
        for (int part = 0; part < dim / 16; part++) sums[part] = _mm512_setzero_ps();
        for (int64_t column = 0; column < count; column++) {
            const __m512 weight = _mm512_set1_ps(weights[column]);
            for (int part = 0; part < dim / 16; part++)
                sums[part] = _mm512_fmadd_ps(weight, load16(values + column * dim + 16 * part), sums[part]);
        }
        for (int part = 0; part < dim / 16; part++) store16(output + query * dim + 16 * part, sums[part]);
    }
}

/* dim: a multiple of 32, at most MAX_HEAD_DIM. */
static void attend(int64_t dim, const bf16 *queries, int64_t group, const bf16 *keys, const bf16 *values, int64_t count,
                   float scaling, float *scores, bf16 *output) {
    switch (dim) {
        case 64: attend_dim(64, queries, group, keys, values, count, scaling, scores, output); break;
        case 128: attend_dim(128, queries, group, keys, values, count, scaling, scores, output); break;
        default: attend_dim(dim, queries, group, keys, values, count, scaling, scores, output);
    }
}
