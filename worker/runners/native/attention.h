/* Attention of tokens over their own rows: columns before a row's first token are never read.

   A single token reads keys as they are. Tokens that follow one another in a row share a tile: keys are transposed and
   values interleaved once for all of them. Softmax is in float32; what it gives is rounded to bfloat16 in tiles alone, so
   that a token's last bits depend on whether it was read together with others. */
#pragma once

#include <math.h>
#include <string.h>

#include "vector.h"

enum { MAX_HEAD_DIM = 256, TILE_QUERIES = 64, FEW_QUERIES = 16, TILE_SCORES = 1 << 19, TILE_ROWS = 8 };

/* Keys and values of a layer: [rows][heads][columns][head_dim]. */
typedef struct {
    bf16 *const *keys;    /* [layers] */
    bf16 *const *values;  /* [layers] */
    int64_t row_stride, head_stride;
} slab;

/* The products of a query with the keys of up to four columns; where there are fewer, the last one stands in. */
INLINE __m128 dot_four(const bf16 *query, const bf16 *keys, const int64_t columns, const int dim) {
    __m512 sums[4];
    for (int column = 0; column < 4; column++) {
        const bf16 *key = keys + (column < columns ? column : columns - 1) * dim;
        sums[column] = _mm512_setzero_ps();
        for (int i = 0; i < dim; i += 32)
            sums[column] = _mm512_dpbf16_ps(sums[column], load32(query + i), load32(key + i));
    }
    return sums_of_four(sums[0], sums[1], sums[2], sums[3]);
}

/* Columns rounded up to whole vectors. */
INLINE int64_t padded(int64_t columns) { return (columns + 15) / 16 * 16; }

/* Turns scores into weights that sum to one. */
static void softmax(float *scores, int64_t count) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 highest = lowest;
    for (int64_t i = 0; i < count; i += 16)
        highest = _mm512_max_ps(highest, _mm512_mask_loadu_ps(lowest, lanes16(count - i), scores + i));
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = lanes16(count - i);
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_mask_loadu_ps(most, mask, scores + i), most));
        _mm512_mask_storeu_ps(scores + i, mask, weight);
        sum = _mm512_mask_add_ps(sum, mask, sum, weight);
    }
    const __m512 scale = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = lanes16(count - i);
        _mm512_mask_storeu_ps(scores + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scores + i), scale));
    }
}

/* The queries of `group` heads that share keys and values, [group][dim], over `count` columns; scores: [group][padded count]. */
INLINE void attend_dim(const int dim, const bf16 *queries, int64_t group, const bf16 *keys, const bf16 *values,
                       int64_t count, float scaling, float *scores, bf16 *output) {
    const int64_t stride = padded(count);
    const __m128 scale = _mm_set1_ps(scaling);
    for (int64_t column = 0; column < count; column += 4)
        for (int64_t query = 0; query < group; query++) {
            const __m128 products = dot_four(queries + query * dim, keys + column * dim, count - column, dim);
            _mm_storeu_ps(scores + query * stride + column, _mm_mul_ps(products, scale));
        }
    for (int64_t query = 0; query < group; query++) {
        float *weights = scores + query * stride;
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

/* 16 columns of keys, [columns][dim], as [dim / 2][16] pairs; zeros for columns that are missing. */
static void transpose_keys(const bf16 *keys, int64_t columns, int64_t dim, int32_t *pairs) {
    for (int64_t column = 0; column < 16; column++)
        for (int64_t i = 0; i < dim / 2; i++) {
            int32_t both = 0;
            if (column < columns) memcpy(&both, keys + column * dim + 2 * i, sizeof both);
            pairs[i * 16 + column] = both;
        }
}

/* The scores of some queries for 16 columns. */
INLINE void score_rows(const int rows, const bf16 *const *queries, const int32_t *pairs, int64_t dim, float scaling,
                       float *scores, int64_t stride) {
    __m512 sums[TILE_ROWS];
    for (int row = 0; row < rows; row++) sums[row] = _mm512_setzero_ps();
    for (int64_t i = 0; i < dim / 2; i++) {
        const __m512bh key = (__m512bh)_mm512_loadu_si512(pairs + i * 16);
        for (int row = 0; row < rows; row++)
            sums[row] = _mm512_dpbf16_ps(sums[row], (__m512bh)repeated(queries[row] + 2 * i), key);
    }
    for (int row = 0; row < rows; row++)
        _mm512_storeu_ps(scores + row * stride, _mm512_mul_ps(sums[row], _mm512_set1_ps(scaling)));
}

/* Rounds weights to bfloat16 where they are: the first half of their memory. */
static void round_in_place(float *weights, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) store16((bf16 *)weights + i, _mm512_loadu_ps(weights + i));
}

/* Sums values of 32 dimensions, weighted, over an even number of columns, for some queries. */
INLINE void sum_values(const int rows, const float *weights, int64_t stride, const bf16 *values, int64_t dim,
                       int64_t columns, bf16 *const *outputs) {
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    __m512 low[TILE_ROWS], high[TILE_ROWS];
    for (int row = 0; row < rows; row++) low[row] = high[row] = _mm512_setzero_ps();
    for (int64_t column = 0; column < columns; column += 2) {
        /* An odd last column is paired with itself: its partner's weight is zero. */
        const __m512i even = _mm512_loadu_si512(values + column * dim);
        const __m512i odd = column + 1 < columns ? _mm512_loadu_si512(values + (column + 1) * dim) : even;
        const __m512bh lower = (__m512bh)_mm512_unpacklo_epi16(even, odd), upper = (__m512bh)_mm512_unpackhi_epi16(even, odd);
        for (int row = 0; row < rows; row++) {
            const __m512bh weight = (__m512bh)repeated((const bf16 *)(weights + row * stride) + column);
            low[row] = _mm512_dpbf16_ps(low[row], weight, lower);
            high[row] = _mm512_dpbf16_ps(high[row], weight, upper);
        }
    }
    for (int row = 0; row < rows; row++) {
        store16(outputs[row], _mm512_permutex2var_ps(low[row], first, high[row]));
        store16(outputs[row] + 16, _mm512_permutex2var_ps(low[row], second, high[row]));
    }
}

/* One query of a tile: where it is, where its output goes, and the columns [begin, end) that it sees. */
typedef struct {
    const bf16 *query;
    bf16 *output;
    int64_t begin, end;
} sight;

#define FOR_ROWS(count, CALL) \
    switch (count) { case 1: CALL(1); break; case 2: CALL(2); break; case 3: CALL(3); break; case 4: CALL(4); break; \
                     case 5: CALL(5); break; case 6: CALL(6); break; case 7: CALL(7); break; case 8: CALL(8); break; }

/* Attention of up to TILE_QUERIES queries over keys and values, [columns][dim]; scores: [queries][padded columns]. */
static void attend_tile(int64_t dim, const sight *sights, int64_t count, const bf16 *keys, const bf16 *values,
                        int64_t columns, float scaling, float *scores) {
    const int64_t stride = padded(columns);
    int32_t pairs[MAX_HEAD_DIM / 2 * 16];
    const bf16 *queries[TILE_QUERIES];
    bf16 *outputs[TILE_ROWS];
    for (int64_t row = 0; row < count; row++) queries[row] = sights[row].query;
    for (int64_t column = 0; column < columns; column += 16) {
        transpose_keys(keys + column * dim, columns - column, dim, pairs);
        for (int64_t row = 0; row < count; row += TILE_ROWS) {
#define SCORE(rows) score_rows(rows, queries + row, pairs, dim, scaling, scores + row * stride + column, stride)
            FOR_ROWS(count - row < TILE_ROWS ? count - row : TILE_ROWS, SCORE)
#undef SCORE
        }
    }
    for (int64_t row = 0; row < count; row++) {
        float *weights = scores + row * stride;
        softmax(weights + sights[row].begin, sights[row].end - sights[row].begin);
        memset(weights, 0, sights[row].begin * sizeof(float));
        memset(weights + sights[row].end, 0, (stride - sights[row].end) * sizeof(float));
        round_in_place(weights, stride);
    }
    for (int64_t part = 0; part < dim; part += 32)
        for (int64_t row = 0; row < count; row += TILE_ROWS) {
            const int64_t rows = count - row < TILE_ROWS ? count - row : TILE_ROWS;
            for (int64_t each = 0; each < rows; each++) outputs[each] = sights[row + each].output + part;
#define SUM(n) sum_values(n, scores + row * stride, stride, values + part, dim, columns, outputs)
            FOR_ROWS(rows, SUM)
#undef SUM
        }
}
#undef FOR_ROWS
