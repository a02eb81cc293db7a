/* The forward pass of decoder-only models of known parts (families.py has them), and 4-bit products for all others. What
   differs between kinds of CPUs is in vector.h.

   Tokens come as a flat list: each has a row and a column of a slab, so a prompt's chunk and one step of many rows are
   the same to it, and padding costs nothing. All threads walk through one parallel region.

   What a stage leaves to the next is bfloat16, and so are the steps within norms, rotations and gates that transformers
   rounds. Sums, softmax and the head's logits are float32, where transformers rounds those logits. */

#include <omp.h>
#include <stdlib.h>

#include "activation.h"
#include "arena.h"
#include "attention.h"
#include "experts.h"
#include "model.h"
#include "multiply.h"
#include "runs.h"
#include "team.h"

static void normalize(const model *m, const bf16 *x, norm by, bf16 *y, int64_t width) {
    floats mean = zeros();
    if (m->norm_kind == CENTERED) {
        for (int64_t i = 0; i < width; i += WIDTH) mean = plus(mean, load(x + i));
        mean = all(sum_of(mean) / width);
    }
    floats sum = zeros();
    for (int64_t i = 0; i < width; i += WIDTH) {
        const floats value = minus(load(x + i), mean);
        sum = plus_product(value, value, sum);
    }
    const floats scale = all(1.0f / sqrtf(sum_of(sum) / width + m->epsilon));
    for (int64_t i = 0; i < width; i += WIDTH) {
        const floats weight = load(by.weight + i), normal = times(minus(load(x + i), mean), scale);
        switch (m->norm_kind) {
            case ROUNDED_FIRST: store(y + i, times(weight, rounded(normal))); break;
            case ROUNDED_LAST: store(y + i, times(weight, normal)); break;
            case PLUS_ONE: store(y + i, times(plus(all(1.0f), weight), normal)); break;
            case CENTERED: store(y + i, plus(times(weight, normal), by.bias ? load(by.bias + i) : zeros()));
        }
    }
}

/* Adds x to a token's hidden state. */
static void add(const model *m, const bf16 *x, bf16 *hidden) {
    for (int64_t i = 0; i < m->width; i += WIDTH) store(hidden + i, plus(load(hidden + i), load(x + i)));
}

/* Rotary position embedding of the first `dim` dimensions of a head, in place: their first half pairs with the second. */
static void rotate(bf16 *head, const bf16 *cos, const bf16 *sin, int64_t dim) {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; i += WIDTH) {
        const int64_t left = half - i;
        const floats a = load_first(head + i, left), b = load_first(head + half + i, left);
        const floats cos_a = load_first(cos + i, left), cos_b = load_first(cos + half + i, left);
        const floats sin_a = load_first(sin + i, left), sin_b = load_first(sin + half + i, left);
        store_first(head + i, left, minus(rounded(times(a, cos_a)), rounded(times(b, sin_a))));
        store_first(head + half + i, left, plus(rounded(times(b, cos_b)), rounded(times(a, sin_b))));
    }
}

/* Parts what one projection has given a token: for each head of keys its queries, itself and its values. */
static void unpack(const model *m, int64_t token, const activations *a) {
    const int64_t dim = m->head_dim, group = m->heads / m->key_heads;
    const bf16 *from = a->packed + token * (m->heads + 2 * m->key_heads) * dim;
    for (int64_t head = 0; head < m->key_heads; head++, from += (group + 2) * dim) {
        memcpy(a->query + (token * m->heads + head * group) * dim, from, group * dim * sizeof(bf16));
        memcpy(a->key + (token * m->key_heads + head) * dim, from + group * dim, dim * sizeof(bf16));
        memcpy(a->value + (token * m->key_heads + head) * dim, from + (group + 1) * dim, dim * sizeof(bf16));
    }
}

/* Normalizes a token's heads in place. */
static void normalize_heads(const model *m, bf16 *x, norm by, int64_t heads) {
    if (!by.weight) return;
    const int64_t width = m->head_norms == TOGETHER ? heads * m->head_dim : m->head_dim;
    for (int64_t i = 0; i < heads * m->head_dim; i += width) {
        normalize(m, x + i, by, x + i, width);
        if (m->head_norms == OWN) by.weight += width;
    }
}

/* Normalizes and rotates a token's heads, and puts its keys and values into its row. */
static void remember(const model *m, const layer *l, int64_t index, const tokens *t, int64_t token, const activations *a) {
    const int64_t dim = m->head_dim;
    const int64_t turn = (l->rotation * t->count + token) * m->rotary_dim;
    const bf16 *cos = t->cos + turn, *sin = t->sin + turn;
    bf16 *query = a->query + token * m->heads * dim, *key = a->key + token * m->key_heads * dim;
    const place *at = &t->places[token];
    const slab *s = &t->slabs[at->slab];
    if (m->is_interleaved) unpack(m, token, a);
    normalize_heads(m, query, l->query_norm, m->heads);
    normalize_heads(m, key, l->key_norm, m->key_heads);
    for (int64_t head = 0; head < m->heads; head++) rotate(query + head * dim, cos, sin, m->rotary_dim);
    for (int64_t head = 0; head < m->key_heads; head++) {
        rotate(key + head * dim, cos, sin, m->rotary_dim);
        const int64_t to = at->row * s->row_stride + head * s->head_stride + at->column * dim;
        memcpy(s->keys[index] + to, key + head * dim, dim * sizeof(bf16));
        memcpy(s->values[index] + to, a->value + (token * m->key_heads + head) * dim, dim * sizeof(bf16));
    }
}

/* How often work is shared out, at most. */
enum { LAYER_STAGES = 18 + EXPERT_STAGES, HEAD_STAGES = 2, LINEAR_STAGES = 2 };

/* Rounds the activations that some layers share, if any of them wants it: those that do want the same. */
static void round_for(const linear **layers, int count, const bf16 *x, int64_t rows, const rounded_rows *to, member *self) {
    for (int each = 0; each < count; each++)
        if (layers[each]->arithmetic != EXACT) {
            round_share(layers[each], x, 0, rows * layers[each]->inputs, to, self);
            return;
        }
}

/* Returns what attention or the network reads: hidden states, normalized if there is a norm. */
static const bf16 *normalized(const model *m, norm by, const tokens *t, const activations *a, member *self) {
    if (!by.weight) return t->hidden;
    SHARE(token, t->count) normalize(m, t->hidden + token * m->width, by, a->normed + token * m->width, m->width);
    await(self);
    return a->normed;
}

/* What the last projection of attention or the network gives, plus `residual`, if there is one. */
static void put_output(const linear *last, const bf16 *x, int64_t rows, bf16 *y, const bf16 *residual,
                       const workspace *space, member *self) {
    round_for((const linear *[]){last}, 1, x, rows, &space->rounded, self);
    multiply_share(last, x, rows, y, residual, space, self);
    await(self);
}

/* Adds what attention or the network gives to the hidden states, normalized if there is a norm. */
static void add_output(const model *m, const linear *last, const bf16 *x, norm by, const tokens *t, const activations *a,
                       const workspace *space, member *self) {
    if (!by.weight) {
        put_output(last, x, t->count, t->hidden, t->hidden, space, self);
        return;
    }
    put_output(last, x, t->count, a->normed, 0, space, self);
    SHARE(token, t->count) {
        bf16 *normed = a->normed + token * m->width;
        normalize(m, normed, by, normed, m->width);
        add(m, normed, t->hidden + token * m->width);
    }
    await(self);
}

/* Adds what both give, their sum first, as most families do that have a parallel network. */
static void add_both(const model *m, const linear *last, const bf16 *x, const tokens *t, const activations *a,
                     const workspace *space, member *self) {
    put_output(last, x, t->count, a->added, a->added, space, self);
    SHARE(token, t->count) add(m, a->added + token * m->width, t->hidden + token * m->width);
    await(self);
}

/* One thread's part of a layer. */
static void run_layer(const model *m, int64_t index, const tokens *t, const activations *a, const workspace *space,
                      float *scores, member *self) {
    const layer *l = &m->layers[index];
    const int64_t n = t->count;
    const bf16 *x = normalized(m, l->input_norm, t, a, self);
    round_for((const linear *[]){&l->query, &l->key, &l->value}, 3, x, n, &space->rounded, self);
    multiply_share(&l->query, x, n, m->is_interleaved ? a->packed : a->query, 0, space, self);
    multiply_share(&l->key, x, n, a->key, 0, space, self);
    multiply_share(&l->value, x, n, a->value, 0, space, self);
    await(self);
    SHARE(token, n) remember(m, l, index, t, token, a);
    await(self);
    SHARE(task, a->run_count * m->key_heads)
        attend_run(m, l, index, t, &a->runs[task / m->key_heads], task % m->key_heads, a, scores);
    await(self);
    if (m->is_parallel)
        put_output(&l->output, a->attended, n, a->added, 0, space, self);
    else
        add_output(m, &l->output, a->attended, l->attended_norm, t, a, space, self);
    /* A parallel network without a norm of its own reads what attention has read. */
    if (!m->is_parallel || l->network_norm.weight) x = normalized(m, l->network_norm, t, a, self);
    round_for((const linear *[]){&l->gate, &l->up}, 2, x, n, &space->rounded, self);
    multiply_share(&l->gate, x, n, a->gate, 0, space, self);
    multiply_share(&l->up, x, n, a->up, 0, space, self);
    await(self);
    SHARE(part, n * l->gate.outputs / 16)
        activate(m->gate_kind, a->gate + 16 * part, l->up.outputs ? a->up + 16 * part : 0, 16);
    await(self);
    if (l->experts.router.outputs) {
        put_output(&l->down, a->gate, n, a->added, 0, space, self);
        run_experts(m, index, x, t, a, space, self);
    } else if (m->is_parallel)
        add_both(m, &l->down, a->gate, t, a, space, self);
    else
        add_output(m, &l->down, a->gate, l->fed_norm, t, a, space, self);
}

static void run_head(const model *m, const tokens *t, bf16 *normed, member *self) {
    SHARE(answer, t->asked_count)
        normalize(m, t->hidden + t->asked[answer] * m->width, m->final_norm, normed + answer * m->width, m->width);
    await(self);
    const int64_t units = (m->head.outputs + DENSE_OUTPUTS - 1) / DENSE_OUTPUTS;
    SHARE(unit, units) {
        const int64_t begin = unit * DENSE_OUTPUTS, left = m->head.outputs - begin;
        sum_dense(&m->head, begin, normed, t->asked_count, t->logits + begin, m->head.outputs);
        const int64_t count = left < DENSE_OUTPUTS ? left : DENSE_OUTPUTS;
        for (int64_t answer = 0; answer < t->asked_count; answer++) {
            float *logits = t->logits + answer * m->head.outputs + begin;
            for (int64_t each = 0; m->head.bias && each < count; each++) logits[each] += m->head.bias[begin + each];
            if (m->logit_cap > 0) soften(logits, count, m->logit_cap);
        }
    }
}

/* Runs all tokens through the model: writes their keys and values, and the logits that are asked for.
   Returns 0, or 1 if there is no memory: then nothing was done. */
int textserve_forward(const model *m, const tokens *t, int64_t thread_count) {
    if (!t->count) return 0;
    const int64_t stage_count = m->layer_count * LAYER_STAGES + HEAD_STAGES;
    const int64_t rounded_count = t->count * widest_rounded(m);
    arena sizes = {0, 0};
    take_stages(&sizes, stage_count);
    take_activations(&sizes, m, t->count);
    const rounded_rows nowhere = take_rounded(&sizes, rounded_count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, t->count, nowhere);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, stage_count);
    activations a = take_activations(&pieces, m, t->count);
    const rounded_rows rounded = take_rounded(&pieces, rounded_count);
    const size_t score_bytes = cache_lines(split(m, t, &a) * sizeof(float));
    char *scores = aligned_alloc(64, thread_count * score_bytes);
    if (!scores) {
        free(pieces.memory);
        return 1;
    }
#pragma omp parallel num_threads(thread_count)
    {
        member own = {stages, stage_count, omp_get_num_threads(), 0, 0};
        float *own_scores = (float *)(scores + omp_get_thread_num() * score_bytes);
        workspace space;
#pragma omp critical
        space = take_workspace(&pieces, t->count, rounded);
        for (int64_t index = 0; index < m->layer_count; index++)
            run_layer(m, index, t, &a, &space, own_scores, &own);
        run_head(m, t, a.normed, &own);
    }
    free(scores);
    free(pieces.memory);
    return 0;
}

/* y = x W^T + bias for [rows][inputs], bfloat16 or, if `wide`, float32, which takes weights for INT16. Returns 0, or 1 if
   there is no memory. */
int textserve_linear(const linear *w, const void *x, int64_t rows, void *y, int64_t wide, int64_t thread_count) {
    if (!rows) return 0;
    const int64_t rounded_count = w->arithmetic == EXACT ? 0 : rows * w->inputs;
    arena sizes = {0, 0};
    take_stages(&sizes, LINEAR_STAGES);
    const rounded_rows nowhere = take_rounded(&sizes, rounded_count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, rows, nowhere);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, LINEAR_STAGES);
    const rounded_rows rounded = take_rounded(&pieces, rounded_count);
#pragma omp parallel num_threads(thread_count)
    {
        workspace space;
#pragma omp critical
        space = take_workspace(&pieces, rows, rounded);
        member own = {stages, LINEAR_STAGES, omp_get_num_threads(), 0, 0};
        if (w->arithmetic != EXACT) round_share(w, x, wide, rounded_count, &space.rounded, &own);
        if (wide)
            multiply_share_wide(w, rows, y, &space, &own);
        else
            multiply_share(w, x, rows, y, 0, &space, &own);
    }
    free(pieces.memory);
    return 0;
}
