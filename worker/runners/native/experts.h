/* Networks of which each token goes through a few. Tokens are sorted by expert: each one's weights are read once, for all
   tokens that it has, and those of others not at all.

   The router's scores are rounded, as transformers rounds them, for the choice hangs on them; what experts give is added
   up in float32 and rounded once. */
#pragma once

#include "activation.h"
#include "attention.h"
#include "model.h"
#include "multiply.h"
#include "team.h"

enum { EXPERT_STAGES = 9 };

/* Turns a token's scores into shares, and chooses those that have the largest; of equal ones the first. */
static void choose(const experts *e, int64_t token, const routes *r) {
    const int64_t count = e->router.outputs;
    float *shares = r->shares + token * count, sum = 0;
    int64_t *chosen = r->chosen + token * e->chosen;
    for (int64_t i = 0; i < count; i += WIDTH)
        store_first_floats(shares + i, count - i, load_first(r->scores + token * count + i, count - i));
    softmax(shares, count);
    for (int64_t each = 0; each < e->chosen; each++) {
        int64_t best = -1;
        for (int64_t expert = 0; expert < count; expert++) {
            int is_taken = 0;
            for (int64_t before = 0; before < each; before++) is_taken |= chosen[before] == expert;
            if (!is_taken && (best < 0 || shares[expert] > shares[best])) best = expert;
        }
        chosen[each] = best;
        sum += shares[best];
    }
    for (int64_t each = 0; e->is_divided && each < e->chosen; each++) shares[chosen[each]] /= sum;
}

/* In layer `index`: gives each token a slot for each expert that it has chosen, sorted by expert. */
static void sort_by_expert(const experts *e, int64_t index, int64_t tokens, const routes *r) {
    const int64_t count = e->router.outputs, slots = tokens * e->chosen;
    memset(r->begins, 0, (count + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < slots; i++) r->begins[r->chosen[i] + 1]++;
    int64_t active = 0;
    for (int64_t expert = 0; expert < count; expert++) {
        if (r->begins[expert + 1]) r->active[active++] = expert;
        r->begins[expert + 1] += r->begins[expert];
    }
    for (int64_t i = 0; i < slots; i++) r->slots[i] = r->begins[r->chosen[i]]++;
    /* Each now begins where it ended. */
    memmove(r->begins + 1, r->begins, count * sizeof(int64_t));
    r->begins[0] = 0;
    r->active_counts[index] = active;
}

/* 32 outputs of a projection of the `which`th expert that has tokens, for those; x and y by slots. */
static void multiply_expert(const linear *first, int64_t stride, int64_t which, int64_t unit, const bf16 *x, bf16 *y,
                            const routes *r, const workspace *space) {
    const int64_t expert = r->active[which], begin = r->begins[expert];
    linear own = *first;
    own.dense += stride * expert;
    multiply_unit(&own, unit, x + begin * own.inputs, r->begins[expert + 1] - begin, y + begin * own.outputs, 0, space);
}

/* Adds what a token's experts give to its hidden state, and what the network gives that all go through. */
static void add_experts(const experts *e, int64_t token, int64_t width, const routes *r, const bf16 *shared, bf16 *hidden) {
    const float *shares = r->shares + token * e->router.outputs;
    const int64_t *chosen = r->chosen + token * e->chosen, *slots = r->slots + token * e->chosen;
    floats part = zeros();
    if (e->shared_gate.outputs) {
        const uint32_t bits = (uint32_t)r->shared_scores[token] << 16;
        float score;
        memcpy(&score, &bits, sizeof score);
        part = rounded(over(all(1.0f), plus(all(1.0f), exponential(all(-score)))));
    }
    for (int64_t i = 0; i < width; i += WIDTH) {
        floats sum = zeros();
        for (int64_t each = 0; each < e->chosen; each++)
            sum = plus(sum, times(all(shares[chosen[each]]), load(r->gained + slots[each] * width + i)));
        sum = rounded(sum);
        if (e->shared_gate.outputs) sum = rounded(plus(sum, rounded(times(part, load(shared + token * width + i)))));
        store(hidden + i, plus(load(hidden + i), sum));
    }
}

/* One thread's part of the experts of layer `index`, which read x, [count][width]. */
static void run_experts(const model *m, int64_t index, const bf16 *x, const tokens *t, const activations *a,
                        const workspace *space, member *self) {
    const experts *e = &m->layers[index].experts;
    const routes *r = &a->routes;
    const int64_t n = t->count, slots = n * e->chosen, width = m->width;
    multiply_share(&e->router, x, n, r->scores, 0, space, self);
    multiply_share(&e->shared_gate, x, n, r->shared_scores, 0, space, self);
    await(self);
    SHARE(token, n) choose(e, token, r);
    await(self);
    SHARE(only, 1) sort_by_expert(e, index, n, r);
    await(self);
    SHARE(choice, slots) memcpy(r->given + r->slots[choice] * width, x + choice / e->chosen * width, width * sizeof(bf16));
    await(self);
    const int64_t inner_units = units_of(&e->gate), outer_units = units_of(&e->down);
    SHARE(unit, r->active_counts[index] * inner_units) {
        multiply_expert(&e->gate, e->gate_stride, unit / inner_units, unit % inner_units, r->given, r->gate, r, space);
        multiply_expert(&e->up, e->gate_stride, unit / inner_units, unit % inner_units, r->given, r->up, r, space);
    }
    await(self);
    SHARE(part, slots * e->gate.outputs / 16) activate(m->gate_kind, r->gate + 16 * part, r->up + 16 * part, 16);
    await(self);
    SHARE(unit, r->active_counts[index] * outer_units)
        multiply_expert(&e->down, e->down_stride, unit / outer_units, unit % outer_units, r->gate, r->gained, r, space);
    await(self);
    SHARE(token, n) add_experts(e, token, width, r, a->added, t->hidden + token * width);
    await(self);
}
