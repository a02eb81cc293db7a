/* The forward pass of decoder-only models built like Llama (llama.py knows which), and 4-bit products for all others. What differs between kinds
   of CPUs is in vector.h.

   Tokens come as a flat list: each has a row and a column of a slab, so a prompt's chunk and one step of many rows are
   the same to it, and padding costs nothing. All threads walk through one parallel region.

   What a stage leaves to the next is bfloat16, and so are the steps within norms, rotations and gates that transformers
   rounds. Sums, softmax and the head's logits are float32, where transformers rounds those logits. */

#include <omp.h>
#include <stdlib.h>

#include "arena.h"
#include "attention.h"
#include "model.h"
#include "multiply.h"
#include "runs.h"
#include "team.h"

static void normalize(const model *m, const bf16 *x, const bf16 *weight, bf16 *y, int64_t width) {
    floats sum = zeros();
    for (int64_t i = 0; i < width; i += WIDTH) {
        const floats value = load(x + i);
        sum = plus_product(value, value, sum);
    }
    const floats scale = all(1.0f / sqrtf(sum_of(sum) / width + m->epsilon));
    for (int64_t i = 0; i < width; i += WIDTH) {
        const floats by = load(weight + i), normal = times(load(x + i), scale);
        switch (m->norm_kind) {
            case ROUNDED_FIRST: store(y + i, times(by, rounded(normal))); break;
            case ROUNDED_LAST: store(y + i, times(by, normal)); break;
            case PLUS_ONE: store(y + i, times(plus(all(1.0f), by), normal));
        }
    }
}

/* Adds x, normalized in place, to a token's hidden state. */
static void add_normalized(const model *m, bf16 *x, const bf16 *weight, bf16 *hidden) {
    normalize(m, x, weight, x, m->width);
    for (int64_t i = 0; i < m->width; i += WIDTH) store(hidden + i, plus(load(hidden + i), load(x + i)));
}

/* Rotary position embedding of one head, in place: the first half of the dimensions pairs with the second. */
static void rotate(bf16 *head, const bf16 *cos, const bf16 *sin, int64_t dim) {
    for (int64_t i = 0; i < dim / 2; i += WIDTH) {
        bf16 *left = head + i, *right = left + dim / 2;
        const floats a = load(left), b = load(right);
        const floats cos_a = load(cos + i), cos_b = load(cos + dim / 2 + i);
        const floats sin_a = load(sin + i), sin_b = load(sin + dim / 2 + i);
        store(left, minus(rounded(times(a, cos_a)), rounded(times(b, sin_a))));
        store(right, plus(rounded(times(b, cos_b)), rounded(times(a, sin_b))));
    }
}

/* SiLU is x times its sigmoid; GELU, by the tangent, x times that of 2 sqrt(2 / pi) (x + 0.044715 x^3). */
static void gate_up(int64_t kind, bf16 *gate, const bf16 *up, int64_t count) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const floats x = load(gate + i), cube = times(x, times(x, x));
        const floats z = kind == SILU ? x : times(all(1.59576912f), plus(x, times(all(0.044715f), cube)));
        const floats activated = over(x, plus(all(1.0f), exponential(minus(zeros(), z))));
        store(gate + i, times(rounded(activated), load(up + i)));
    }
}

/* Normalizes a token's heads in place, each by itself or all together. */
static void normalize_heads(const model *m, bf16 *x, const bf16 *weight, int64_t heads) {
    const int64_t width = m->norms_all_heads ? heads * m->head_dim : m->head_dim;
    if (weight)
        for (int64_t i = 0; i < heads * m->head_dim; i += width) normalize(m, x + i, weight, x + i, width);
}

/* Normalizes and rotates a token's heads, and puts its keys and values into its row. */
static void remember(const model *m, const layer *l, int64_t index, const tokens *t, int64_t token, const activations *a) {
    const int64_t dim = m->head_dim;
    const int64_t turn = (l->rotation * t->count + token) * dim;
    const bf16 *cos = t->cos + turn, *sin = t->sin + turn;
    bf16 *query = a->query + token * m->heads * dim, *key = a->key + token * m->key_heads * dim;
    const place *at = &t->places[token];
    const slab *s = &t->slabs[at->slab];
    normalize_heads(m, query, l->query_norm, m->heads);
    normalize_heads(m, key, l->key_norm, m->key_heads);
    for (int64_t head = 0; head < m->heads; head++) rotate(query + head * dim, cos, sin, dim);
    for (int64_t head = 0; head < m->key_heads; head++) {
        rotate(key + head * dim, cos, sin, dim);
        const int64_t to = at->row * s->row_stride + head * s->head_stride + at->column * dim;
        memcpy(s->keys[index] + to, key + head * dim, dim * sizeof(bf16));
        memcpy(s->values[index] + to, a->value + (token * m->key_heads + head) * dim, dim * sizeof(bf16));
    }
}

/* How often work is shared out, at most. */
enum { LAYER_STAGES = 18, HEAD_STAGES = 2, LINEAR_STAGES = 2 };

/* Rounds the activations that some layers share, if any of them wants it: those that do want the same. */
static void round_for(const linear **layers, int count, const bf16 *x, int64_t rows, const rounded_rows *to, member *self) {
    for (int each = 0; each < count; each++)
        if (layers[each]->arithmetic != EXACT) {
            round_share(layers[each], x, 0, rows * layers[each]->inputs, to, self);
            return;
        }
}

/* Returns what attention or the network reads: hidden states, normalized if there is a norm. */
static const bf16 *normalized(const model *m, const bf16 *norm, const tokens *t, const activations *a, member *self) {
    if (!norm) return t->hidden;
    SHARE(token, t->count) normalize(m, t->hidden + token * m->width, norm, a->normed + token * m->width, m->width);
    await(self);
    return a->normed;
}

/* Adds what attention or the network gives to the hidden states, normalized if there is a norm. */
static void add_output(const model *m, const linear *last, const bf16 *x, const bf16 *norm, const tokens *t,
                       const activations *a, const workspace *space, member *self) {
    round_for((const linear *[]){last}, 1, x, t->count, &space->rounded, self);
    multiply_share(last, x, t->count, norm ? a->normed : t->hidden, norm ? 0 : t->hidden, space, self);
    await(self);
    if (!norm) return;
    SHARE(token, t->count) add_normalized(m, a->normed + token * m->width, norm, t->hidden + token * m->width);
    await(self);
}

/* One thread's part of a layer. */
static void run_layer(const model *m, int64_t index, const tokens *t, const activations *a, const workspace *space,
                      float *scores, member *self) {
    const layer *l = &m->layers[index];
    const int64_t n = t->count;
    const bf16 *x = normalized(m, l->input_norm, t, a, self);
    round_for((const linear *[]){&l->query, &l->key, &l->value}, 3, x, n, &space->rounded, self);
    multiply_share(&l->query, x, n, a->query, 0, space, self);
    multiply_share(&l->key, x, n, a->key, 0, space, self);
    multiply_share(&l->value, x, n, a->value, 0, space, self);
    await(self);
    SHARE(token, n) remember(m, l, index, t, token, a);
    await(self);
    SHARE(task, a->run_count * m->key_heads)
        attend_run(m, l, index, t, &a->runs[task / m->key_heads], task % m->key_heads, a, scores);
    await(self);
    add_output(m, &l->output, a->attended, l->attended_norm, t, a, space, self);
    x = normalized(m, l->network_norm, t, a, self);
    round_for((const linear *[]){&l->gate, &l->up}, 2, x, n, &space->rounded, self);
    multiply_share(&l->gate, x, n, a->gate, 0, space, self);
    multiply_share(&l->up, x, n, a->up, 0, space, self);
    await(self);
    SHARE(part, n * m->inner / 16) gate_up(m->gate_kind, a->gate + 16 * part, a->up + 16 * part, 16);
    await(self);
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
        for (int64_t answer = 0; m->logit_cap > 0 && answer < t->asked_count; answer++)
            soften(t->logits + answer * m->head.outputs + begin, left < DENSE_OUTPUTS ? left : DENSE_OUTPUTS, m->logit_cap);
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
