/* Finds borders between values without sorting them: quickselect (Hoare 1961), by count or by weight. */
#pragma once

#include "weights.h"

INLINE float median(float a, float b, float c) {
    const float low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Returns the k-th largest of n values, k from 1 to n; changes their order. */
static float kth_largest(float *values, int64_t n, int64_t k) {
    for (;;) {
        const float pivot = median(values[0], values[n / 2], values[n - 1]);
        int64_t above = 0, at = 0, below = n;
        while (at < below) {
            const float value = values[at];
            if (value > pivot) {
                values[at++] = values[above];
                values[above++] = value;
            } else if (value < pivot) {
                values[at] = values[--below];
                values[below] = value;
            } else {
                at++;
            }
        }
        if (k <= above) {
            n = above;
        } else if (k <= below) {
            return pivot;
        } else {
            k -= below;
            values += below;
            n -= below;
        }
    }
}

typedef struct {
    float key;
    int64_t units;  /* of probability */
} weighted;

/* What a running share must be. */
typedef struct {
    float bound;
    int above;  /* whether above the bound, or at least it */
} goal;

INLINE int reaches(goal g, int64_t units) {
    const float share = as_share(units);
    return g.above ? share > g.bound : share >= g.bound;
}

/* Finds the smallest key with which the share of all smaller and equal ones, and of what comes before them, reaches the
   goal. Returns whether there is one; then `before` is the share of what is smaller. Changes the order. */
static int border(weighted *items, int64_t n, goal g, float *key, int64_t *before) {
    while (n) {
        const float pivot = median(items[0].key, items[n / 2].key, items[n - 1].key);
        int64_t below = 0, at = 0, above = n, less = 0, equal = 0;
        while (at < above) {
            const weighted item = items[at];
            if (item.key < pivot) {
                less += item.units;
                items[at++] = items[below];
                items[below++] = item;
            } else if (item.key > pivot) {
                items[at] = items[--above];
                items[above] = item;
            } else {
                equal += item.units;
                at++;
            }
        }
        if (below && reaches(g, *before + less)) {
            n = below;
        } else if (reaches(g, *before + less + equal)) {
            *before += less;
            *key = pivot;
            return 1;
        } else {
            *before += less + equal;
            items += above;
            n -= above;
        }
    }
    return 0;
}
