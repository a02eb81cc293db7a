/* The tokens of a row that may still be drawn, and what each warper leaves of them: ../warpers.py, without the rest of the
   vocabulary. */
#pragma once

#include "row.h"
#include "selection.h"

/* How a row chooses its token. */
typedef struct {
    uint64_t seed, index;  /* of its random number */
    int64_t top_k;         /* 0: off */
    float temperature;     /* 1: off */
    float rest;            /* 1 - top_p; below 0: off */
    float min_p;           /* 0: off */
    float typical_p;       /* below 0: off */
    float epsilon;         /* 0: off */
    int32_t samples;       /* 0: it takes the likeliest */
    int64_t top_logprobs;  /* how many to report; below 0: no log-probability at all */
    int64_t edit_count;
    const edit *edits;
} settings;

typedef struct {
    int64_t count;
    int32_t *ids;     /* ascending */
    float *scores;    /* with the temperature applied */
    float *weights;   /* e to the power of scores less the largest of them */
    weighted *items;  /* room to select in */
} survivors;

typedef struct {
    float shift, divisor;
} scale;

INLINE float scaled(scale by, float logit) { return (logit - by.shift) / by.divisor; }

static void weigh(survivors *s) {
    const float best = largest(s->scores, s->count);
    for (int64_t i = 0; i < s->count; i++) s->weights[i] = power_of_e(s->scores[i] - best);
}

static int64_t total_units(const survivors *s) {
    int64_t total = 0;
    for (int64_t i = 0; i < s->count; i++) total += weight_units(s->weights[i]);
    return total;
}

/* Keeps the tokens at places `i` of which `condition` holds. */
#define KEEP(s, condition)                        \
    do {                                          \
        int64_t kept = 0;                         \
        for (int64_t i = 0; i < s->count; i++) {  \
            const int keeps = (condition);        \
            s->ids[kept] = s->ids[i];             \
            s->scores[kept] = s->scores[i];       \
            s->weights[kept] = s->weights[i];     \
            kept += keeps;                        \
        }                                         \
        s->count = kept;                          \
    } while (0)

static void keep_top_k(survivors *s, int64_t k) {
    if (k >= s->count) return;
    float *copy = (float *)s->items;
    memcpy(copy, s->scores, s->count * sizeof *copy);
    const float least = kth_largest(copy, s->count, k);
    KEEP(s, s->scores[i] >= least);
}

/* `before`: the share, in units, of less likely tokens that are out already; `total`: of all weights. */
static void keep_top_p(survivors *s, float rest, int64_t before, float total) {
    for (int64_t i = 0; i < s->count; i++)
        s->items[i] = (weighted){s->scores[i], probability_units(s->weights[i] / total)};
    float least;
    if (!border(s->items, s->count, (goal){rest, 1}, &least, &before)) {
        /* Of the likeliest the last one. */
        const float best = largest(s->scores, s->count);
        int64_t last = 0;
        for (int64_t i = 0; i < s->count; i++)
            if (s->scores[i] == best) last = i;
        KEEP(s, i == last);
        return;
    }
    /* Of equals at the border the first ones are out. */
    int64_t place = 0, last_out = -1;
    for (; place < s->count; place++) {
        if (s->scores[place] != least) continue;
        before += probability_units(s->weights[place] / total);
        if (as_share(before) > rest) break;
        last_out = place;
    }
    KEEP(s, s->scores[i] > least || (s->scores[i] == least && i > last_out));
}

static void keep_min_p(survivors *s, float share) { KEEP(s, !(s->weights[i] < share)); }

static void keep_typical(survivors *s, float mass) {
    const float best = largest(s->scores, s->count);
    const double units = (double)total_units(s);
    const float total = (float)(units * 0x1p-40), log_total = (float)log(units * 0x1p-40);
    int64_t parts = 0;
    for (int64_t i = 0; i < s->count; i++) {
        const int64_t weight = weight_units(s->weights[i]);
        if (weight) parts += llrint((double)(s->scores[i] - best) * (double)weight);
    }
    const float entropy = (float)((double)log_total - (double)parts * 0x1p-40 / (units * 0x1p-40));
#define DISTANCE(i) fabsf(log_total - (s->scores[i] - best) - entropy)
    for (int64_t i = 0; i < s->count; i++)
        s->items[i] = (weighted){DISTANCE(i), probability_units(s->weights[i] / total)};
    float farthest;
    int64_t before = 0;
    if (!border(s->items, s->count, (goal){mass, 0}, &farthest, &before)) return;
    KEEP(s, DISTANCE(i) <= farthest);
#undef DISTANCE
    weigh(s);
}

static void cut_epsilon(survivors *s, float epsilon) {
    const float best = largest(s->scores, s->count), total = (float)as_weight(total_units(s));
    KEEP(s, !(s->weights[i] / total < epsilon && s->scores[i] < best));
}

/* A number in [0, 1), of 53 random bits: Philox4x32-10, as in ../random_numbers.py. */
static double uniform(uint64_t seed, uint64_t index) {
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), 0, 0};
    uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c[0] * 0xD2511F53, p1 = (uint64_t)c[2] * 0xCD9E8D57;
        const uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k[0], (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c[3] ^ k[1], (uint32_t)p0};
        memcpy(c, next, sizeof c);
        k[0] += 0x9E3779B9;
        k[1] += 0xBB67AE85;
    }
    return (double)(((uint64_t)c[0] << 21) | (c[1] >> 11)) * 0x1p-53;
}

/* The running weight that a row's random number falls on: the first token above it is drawn. */
static int64_t target_of(const settings *s, int64_t total) {
    const int64_t target = (int64_t)(uniform(s->seed, s->index) * (double)total);
    return target < total ? target : total - 1;
}

static int64_t draw(const survivors *s, const settings *by) {
    int64_t left = target_of(by, total_units(s)), i = 0;
    for (; i < s->count - 1; i++)
        if ((left -= weight_units(s->weights[i])) < 0) break;
    return s->ids[i];
}
