/* Attention of tokens over their own rows: columns before a row's first token are never read.

   A single token reads keys as they are. Tokens that follow one another in a row share a tile: keys are transposed and
   values interleaved once for all of them. Softmax is in float32; what it gives is rounded to bfloat16 in tiles alone, so
   that a token's last bits depend on whether it was read together with others. */
#pragma once

#include <math.h>
#include <string.h>

#include "vector.h"

enum { MAX_HEAD_DIM = 256, TILE_QUERIES = 64, FEW_QUERIES = 16, TILE_SCORES = 1 << 19 };

/* Keys and values of a layer: [rows][heads][columns][head_dim]. */
typedef struct {
    bf16 *const *keys;    /* [layers] */
    bf16 *const *values;  /* [layers] */
    int64_t row_stride, head_stride;
} slab;

/* The products of a query with the keys of up to four columns; where there are fewer, the last one stands in. */
INLINE four dot_four(const bf16 *query, const bf16 *keys, const int64_t columns, const int dim) {
    floats sums[4];
    for (int column = 0; column < 4; column++) sums[column] = zeros();
    for (int i = 0; i < dim; i += 2 * WIDTH) {
        const pairs given = load_pairs(query + i);
        for (int column = 0; column < 4; column++) {
            const bf16 *key = keys + (column < columns ? column : columns - 1) * dim;
            sums[column] = dot(sums[column], given, load_pairs(key + i));
        }
    }
    return sums_of_four(sums[0], sums[1], sums[2], sums[3]);
}

/* Columns rounded up to whole vectors. */
INLINE int64_t padded(int64_t columns) { return (columns + 15) / 16 * 16; }

/* Turns scores into weights that sum to one. */
static void softmax(float *scores, int64_t count) {
    floats highest = all(-INFINITY);
    for (int64_t i = 0; i < count; i += WIDTH)
        highest = larger(highest, load_first_floats(scores + i, count - i, all(-INFINITY)));
    const floats most = all(largest_of(highest));
    floats sum = zeros();
    for (int64_t i = 0; i < count; i += WIDTH) {
        const floats weight = exponential(minus(load_first_floats(scores + i, count - i, most), most));
        store_first_floats(scores + i, count - i, weight);
        sum = plus_first(sum, count - i, weight);
    }
    const floats scale = all(1.0f / sum_of(sum));
    for (int64_t i = 0; i < count; i += WIDTH)
        store_first_floats(scores + i, count - i, times(load_first_floats(scores + i, count - i, zeros()), scale));
}

/* Bounds scores: cap times the hyperbolic tangent of their share of it. */
static void soften(float *scores, int64_t count, float cap) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const floats power = exponential(times(all(2.0f / cap), load_first_floats(scores + i, count - i, zeros())));
        const floats tangent = minus(all(1.0f), over(all(2.0f), plus(all(1.0f), power)));
        store_first_floats(scores + i, count - i, times(all(cap), tangent));
    }
}

/* The queries of `group` heads that share keys and values, [group][dim], over `count` columns; scores: [group][padded count]. */
INLINE void attend_dim(const int dim, const bf16 *queries, int64_t group, const bf16 *keys, const bf16 *values,
                       int64_t count, float scaling, float cap, float *scores, bf16 *output) {
    const int64_t stride = padded(count);
    const four scale = {scaling, scaling, scaling, scaling};
    for (int64_t column = 0; column < count; column += 4)
        for (int64_t query = 0; query < group; query++) {
            const four products = dot_four(queries + query * dim, keys + column * dim, count - column, dim);
            store_four(scores + query * stride + column, products * scale);
        }
    for (int64_t query = 0; query < group; query++) {
        float *weights = scores + query * stride;
        if (cap > 0) soften(weights, count, cap);
        softmax(weights, count);
        for (int begin = 0; begin < dim; begin += SUMMED_AT_ONCE * WIDTH) {
            const int parts = dim - begin < SUMMED_AT_ONCE * WIDTH ? (dim - begin) / WIDTH : SUMMED_AT_ONCE;
            floats sums[SUMMED_AT_ONCE];
            for (int part = 0; part < parts; part++) sums[part] = zeros();
            for (int64_t column = 0; column < count; column++) {
                const floats weight = all(weights[column]);
                const bf16 *value = values + column * dim + begin;
                for (int part = 0; part < parts; part++)
                    sums[part] = plus_product(weight, load(value + WIDTH * part), sums[part]);
            }
            for (int part = 0; part < parts; part++) store(output + query * dim + begin + WIDTH * part, sums[part]);
        }
    }
}

/* dim: a multiple of 32, at most MAX_HEAD_DIM. */
static void attend(int64_t dim, const bf16 *queries, int64_t group, const bf16 *keys, const bf16 *values, int64_t count,
                   float scaling, float cap, float *scores, bf16 *output) {
    switch (dim) {
        case 64: attend_dim(64, queries, group, keys, values, count, scaling, cap, scores, output); break;
        case 128: attend_dim(128, queries, group, keys, values, count, scaling, cap, scores, output); break;
        default: attend_dim(dim, queries, group, keys, values, count, scaling, cap, scores, output);
    }
}

/* 16 columns of keys, [columns][dim], as [dim / 2][16] pairs; zeros for columns that are missing. */
static void transpose_keys(const bf16 *keys, int64_t columns, int64_t dim, int32_t *to) {
    for (int64_t column = 0; column < 16; column++)
        for (int64_t i = 0; i < dim / 2; i++) {
            int32_t both = 0;
            if (column < columns) memcpy(&both, keys + column * dim + 2 * i, sizeof both);
            to[i * 16 + column] = both;
        }
}

/* The scores of some queries for 16 columns. */
INLINE void score_rows(const int rows, const bf16 *const *queries, const int32_t *transposed, int64_t dim, float scaling,
                       float *scores, int64_t stride) {
    enum { PARTS = 16 / WIDTH };
    floats sums[TILE_ROWS][PARTS];
    for (int row = 0; row < rows; row++)
        for (int part = 0; part < PARTS; part++) sums[row][part] = zeros();
    for (int64_t i = 0; i < dim / 2; i++) {
        pairs keys[PARTS];
        for (int part = 0; part < PARTS; part++) keys[part] = load_pairs(transposed + i * 16 + part * WIDTH);
        for (int row = 0; row < rows; row++) {
            const pairs query = repeated(queries[row] + 2 * i);
            for (int part = 0; part < PARTS; part++) sums[row][part] = dot(sums[row][part], query, keys[part]);
        }
    }
    for (int row = 0; row < rows; row++)
        for (int part = 0; part < PARTS; part++)
            store_floats(scores + row * stride + part * WIDTH, times(sums[row][part], all(scaling)));
}

/* Rounds weights to bfloat16 where they are: the first half of their memory. */
static void round_in_place(float *weights, int64_t count) {
    for (int64_t i = 0; i < count; i += WIDTH) store((bf16 *)weights + i, load_floats(weights + i));
}

/* Sums values of 2 WIDTH dimensions, weighted, over an even number of columns, for some queries. */
INLINE void sum_values(const int rows, const float *weights, int64_t stride, const bf16 *values, int64_t dim,
                       int64_t columns, bf16 *const *outputs) {
    floats low[TILE_ROWS], high[TILE_ROWS];
    for (int row = 0; row < rows; row++) low[row] = high[row] = zeros();
    for (int64_t column = 0; column < columns; column += 2) {
        /* An odd last column is paired with itself: its partner's weight is zero. */
        const pairs even = load_pairs(values + column * dim);
        const pairs odd = column + 1 < columns ? load_pairs(values + (column + 1) * dim) : even;
        pairs lower, upper;
        interleave(even, odd, &lower, &upper);
        for (int row = 0; row < rows; row++) {
            const pairs weight = repeated((const bf16 *)(weights + row * stride) + column);
            low[row] = dot(low[row], weight, lower);
            high[row] = dot(high[row], weight, upper);
        }
    }
    for (int row = 0; row < rows; row++) store_interleaved(outputs[row], low[row], high[row]);
}

/* One query of a tile: where it is, where its output goes, and the columns [begin, end) that it sees. */
typedef struct {
    const bf16 *query;
    bf16 *output;
    int64_t begin, end;
} sight;

/* Attention of up to TILE_QUERIES queries over keys and values, [columns][dim]; scores: [queries][padded columns]. */
static void attend_tile(int64_t dim, const sight *sights, int64_t count, const bf16 *keys, const bf16 *values,
                        int64_t columns, float scaling, float cap, float *scores) {
    const int64_t stride = padded(columns);
    int32_t transposed[MAX_HEAD_DIM / 2 * 16];
    const bf16 *queries[TILE_QUERIES];
    bf16 *outputs[TILE_ROWS];
    for (int64_t row = 0; row < count; row++) queries[row] = sights[row].query;
    for (int64_t column = 0; column < columns; column += 16) {
        transpose_keys(keys + column * dim, columns - column, dim, transposed);
        for (int64_t row = 0; row < count; row += TILE_ROWS) {
#define SCORE(rows) score_rows(rows, queries + row, transposed, dim, scaling, scores + row * stride + column, stride)
            FOR_TILE(count - row < TILE_ROWS ? count - row : TILE_ROWS, TILE_ROWS, SCORE)
#undef SCORE
        }
    }
    for (int64_t row = 0; row < count; row++) {
        float *weights = scores + row * stride;
        const int64_t seen = sights[row].end - sights[row].begin;
        if (cap > 0) soften(weights + sights[row].begin, seen, cap);
        softmax(weights + sights[row].begin, seen);
        memset(weights, 0, sights[row].begin * sizeof(float));
        memset(weights + sights[row].end, 0, (stride - sights[row].end) * sizeof(float));
        round_in_place(weights, stride);
    }
    for (int64_t part = 0; part < dim; part += 2 * WIDTH)
        for (int64_t row = 0; row < count; row += TILE_ROWS) {
            const int64_t rows = count - row < TILE_ROWS ? count - row : TILE_ROWS;
            for (int64_t each = 0; each < rows; each++) outputs[each] = sights[row + each].output + part;
#define SUM(n) sum_values(n, scores + row * stride, stride, values + part, dim, columns, outputs)
            FOR_TILE(rows, TILE_ROWS, SUM)
#undef SUM
        }
}
