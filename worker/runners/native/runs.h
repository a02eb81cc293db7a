/* Runs of tokens that follow one another in a row, and their attention. */
#pragma once

#include "attention.h"
#include "model.h"

static int64_t first_seen(const layer *l, const place *at) {
    const int64_t first = l->window ? at->column - l->window + 1 : at->first;
    return first > at->first ? first : at->first;
}

/* One head of keys for one run of tokens. */
static void attend_run(const model *m, const layer *l, int64_t index, const tokens *t, const run *r, int64_t head,
                       const activations *a, float *scores) {
    const int64_t dim = m->head_dim, group = m->heads / m->key_heads;
    const place *at = &t->places[r->begin], *last = at + r->count - 1;
    const slab *s = &t->slabs[at->slab];
    const int64_t first = first_seen(l, at), columns = last->column + 1 - first;
    const int64_t from = at->row * s->row_stride + head * s->head_stride + first * dim;
    const bf16 *keys = s->keys[index] + from, *values = s->values[index] + from;
    const int64_t queries = (r->begin * m->heads + head * group) * dim;
    if (r->count == 1) {
        attend(dim, a->query + queries, group, keys, values, columns, m->scaling, m->score_cap, scores,
               a->attended + queries);
        return;
    }
    sight sights[TILE_QUERIES];
    for (int64_t token = 0; token < r->count; token++)
        for (int64_t each = 0; each < group; each++) {
            const int64_t query = queries + (token * m->heads + each) * dim;
            sights[token * group + each] = (sight){a->query + query, a->attended + query,
                                                   first_seen(l, at + token) - first, at[token].column + 1 - first};
        }
    attend_tile(dim, sights, r->count * group, keys, values, columns, m->scaling, m->score_cap, scores);
}

static int64_t widest_window(const model *m) {
    int64_t widest = 0;
    for (int64_t index = 0; index < m->layer_count; index++) {
        const int64_t window = m->layers[index].window;
        if (!window) return 0;
        if (window > widest) widest = window;
    }
    return widest;
}

/* Floats for the scores of a run of `count` tokens up to `last` in the layer that sees most; window: as that layer's. */
static int64_t scores_of(const model *m, int64_t window, const place *last, int64_t count) {
    const int64_t all = last->column + 1 - last->first, seen = window + count - 1;
    return count * (m->heads / m->key_heads) * padded(window && seen < all ? seen : all);
}

/* Whether a tile may have so many tokens. More of them read keys and values less often, but their scores leave the cache;
   a few are worth that, and two always: one alone takes twice as long as it does in a tile. */
static int fits(const model *m, int64_t window, const place *last, int64_t count) {
    const int64_t queries = count * (m->heads / m->key_heads);
    if (queries > TILE_QUERIES) return 0;
    return count == 2 || queries <= FEW_QUERIES || scores_of(m, window, last, count) <= TILE_SCORES;
}

static int follow(const place *at, const place *next) {
    return next->slab == at->slab && next->row == at->row && next->first == at->first && next->column == at->column + 1;
}

/* Parts the tokens into runs that attention takes as a tile; returns the floats that the scores of the largest need. */
static int64_t split(const model *m, const tokens *t, activations *a) {
    const int64_t window = widest_window(m);
    int64_t most = 0;
    for (int64_t token = 0; token < t->count; token++) {
        const place *at = &t->places[token];
        if (token && follow(at - 1, at) && fits(m, window, at, a->runs[a->run_count - 1].count + 1))
            a->runs[a->run_count - 1].count++;
        else
            a->runs[a->run_count++] = (run){token, 1};
        const int64_t scores = scores_of(m, window, at, a->runs[a->run_count - 1].count);
        if (scores > most) most = scores;
    }
    return most;
}
