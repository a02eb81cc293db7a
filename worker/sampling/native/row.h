/* A row of logits that is read once, and changed in few places. */
#pragma once

#include "weights.h"

enum { LANES = 8, GROUP = 256 };

/* What a processor does to a row; ids are distinct and within the vocabulary. edits.py makes them. */
enum edit_kind { ADD, REPEAT, OUTPUT, BAN, ONLY, FORCE, GROW };

typedef struct {
    const int64_t *ids;   /* [count]; ascending for ONLY */
    const float *values;  /* [count] what is added, or how often the token came */
    int64_t count;
    int32_t kind;
    float first, second;  /* penalty; frequency and presence penalty; growth */
} edit;

typedef struct {
    float *logits;          /* [vocabulary] */
    int64_t vocabulary;
    float *maxima;          /* [maxima_count(vocabulary)]: of all places with the same group and lane */
    float *before;          /* what the edits have overwritten, in their order */
    const int64_t *only;    /* [only_count] the tokens that are left, ascending */
    int64_t only_count;     /* below 0: all are */
} row;

INLINE int64_t group_count(int64_t vocabulary) { return (vocabulary + GROUP - 1) / GROUP; }

INLINE int64_t maxima_count(int64_t vocabulary) { return group_count(vocabulary) * LANES; }

INLINE int64_t maximum_of(int64_t token) { return token / GROUP * LANES + token % LANES; }

/* The places of maximum `index`. */
#define EACH_PLACE(token, r, index) \
    for (int64_t token = (index) / LANES * GROUP + (index) % LANES, end_##token = ((index) / LANES + 1) * GROUP; \
         token < end_##token && token < (r)->vocabulary; token += LANES)

typedef int32_t lanes_of_bits __attribute__((vector_size(4 * LANES)));

/* Finds the maxima of groups [begin, end). Returns whether all their logits are finite; if not, maxima mean nothing. */
static int scan(const row *r, int64_t begin, int64_t end) {
    lanes_of_bits broken = {0};
    for (int64_t group = begin; group < end; group++) {
        const float *from = r->logits + group * GROUP;
        const int64_t left = r->vocabulary - group * GROUP;
        float padded[GROUP];
        if (left < GROUP) {
            for (int64_t i = 0; i < GROUP; i++) padded[i] = i < left ? from[i] : -0x1.fffffep127f;
            from = padded;
        }
        /* As whole numbers in the order of the floats, which any compiler compares in vectors. */
        lanes_of_bits best = (lanes_of_bits){0} + INT32_MIN;
        for (int64_t i = 0; i < GROUP; i += LANES) {
            lanes_of_bits bits;
            memcpy(&bits, from + i, sizeof bits);
            broken |= (bits & 0x7f800000) == 0x7f800000;
            const lanes_of_bits ordered = bits ^ ((bits >> 31) & 0x7fffffff);
            const lanes_of_bits larger = ordered > best;
            best = (ordered & larger) | (best & ~larger);
        }
        best ^= (best >> 31) & 0x7fffffff;
        memcpy(r->maxima + group * LANES, &best, sizeof best);
        for (int64_t lane = left; lane < LANES; lane++) r->maxima[group * LANES + lane] = -INFINITY;
    }
    int32_t any = 0;
    for (int64_t lane = 0; lane < LANES; lane++) any |= broken[lane];
    return !any;
}

static float largest(const float *values, int64_t count) {
    float found = -INFINITY;
    for (int64_t i = 0; i < count; i++)
        if (values[i] > found) found = values[i];
    return found;
}

/* Changes one logit, and what it was the maximum of. */
static void set(const row *r, int64_t token, float value) {
    float *maximum = r->maxima + maximum_of(token);
    const float old = r->logits[token];
    r->logits[token] = value;
    if (value >= *maximum) {
        *maximum = value;
    } else if (old == *maximum) {
        *maximum = -INFINITY;
        EACH_PLACE(other, r, maximum_of(token)) if (r->logits[other] > *maximum) *maximum = r->logits[other];
    }
}

/* Within float32's range; what was masked stays so. */
INLINE float within_range(float value, float old) {
    if (!isfinite(old)) return old;
    return value > 0x1.fffffep127f ? 0x1.fffffep127f : value < -0x1.fffffep127f ? -0x1.fffffep127f : value;
}

INLINE float edited(const edit *e, int64_t place, float old) {
    switch (e->kind) {
        case ADD: return old + e->values[place];
        case REPEAT: return within_range(old < 0 ? old * e->first : old / e->first, old);
        case OUTPUT: return old - (e->first * e->values[place] + e->second);
        case BAN: return -INFINITY;
        case FORCE: return 0.0f;
        case GROW: return within_range(old + fabsf(old) * e->first, old);
        default: return old;
    }
}

/* Carries the edits out, one after the other. */
static void apply_edits(row *r, const edit *edits, int64_t count) {
    float *before = r->before;
    for (const edit *e = edits; e < edits + count; e++) {
        for (int64_t place = 0; place < e->count; place++) {
            const float old = r->logits[e->ids[place]];
            *before++ = old;
            set(r, e->ids[place], edited(e, place, old));
        }
        if (e->kind == ONLY || e->kind == FORCE) {
            /* Of those that are masked already, none comes back but a forced one. */
            r->only = e->ids;
            r->only_count = e->count;
        }
    }
}

/* Makes the logits what they were. */
static void undo_edits(row *r, const edit *edits, int64_t count) {
    const float *before = r->before;
    for (const edit *e = edits; e < edits + count; e++) before += e->count;
    for (int64_t i = count - 1; i >= 0; i--)
        for (int64_t place = edits[i].count - 1; place >= 0; place--) set(r, edits[i].ids[place], *--before);
}
