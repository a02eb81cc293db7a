/* The forward pass of decoder-only models built like Llama, for CPUs with AVX512-BF16, and 4-bit products for all
   others.

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

static void normalize(const bf16 *x, const bf16 *weight, bf16 *y, int64_t width, float epsilon) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 value = load16(x + i);
        sum = _mm512_fmadd_ps(value, value, sum);
    }
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / width + epsilon));
    for (int64_t i = 0; i < width; i += 16)
        store16(y + i, _mm512_mul_ps(load16(weight + i), rounded(_mm512_mul_ps(load16(x + i), scale))));
}

/* Rotary position embedding of one head, in place: the first half of the dimensions pairs with the second. */
static void rotate(bf16 *head, const bf16 *cos, const bf16 *sin, int64_t dim) {
    for (int64_t i = 0; i < dim / 2; i += 16) {
        bf16 *left = head + i, *right = left + dim / 2;
        const __m512 a = load16(left), b = load16(right);
        const __m512 cos_a = load16(cos + i), cos_b = load16(cos + dim / 2 + i);
        const __m512 sin_a = load16(sin + i), sin_b = load16(sin + dim / 2 + i);
        store16(left, _mm512_sub_ps(rounded(_mm512_mul_ps(a, cos_a)), rounded(_mm512_mul_ps(b, sin_a))));
        store16(right, _mm512_add_ps(rounded(_mm512_mul_ps(b, cos_b)), rounded(_mm512_mul_ps(a, sin_b))));
    }
}

static void gate_up(bf16 *gate, const bf16 *up, int64_t count) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 x = load16(gate + i);
        const __m512 silu = _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
        store16(gate + i, _mm512_mul_ps(rounded(silu), load16(up + i)));
    }
}

/* Normalizes and rotates a token's heads, and puts its keys and values into its row. */
static void remember(const model *m, const layer *l, int64_t index, const tokens *t, int64_t token, const activations *a) {
    const int64_t dim = m->head_dim;
    const bf16 *cos = t->cos + token * dim, *sin = t->sin + token * dim;
    bf16 *query = a->query + token * m->heads * dim, *key = a->key + token * m->key_heads * dim;
    const place *at = &t->places[token];
    const slab *s = &t->slabs[at->slab];
    for (int64_t head = 0; head < m->heads; head++) {
        if (l->query_norm) normalize(query + head * dim, l->query_norm, query + head * dim, dim, m->epsilon);
        rotate(query + head * dim, cos, sin, dim);
    }
    for (int64_t head = 0; head < m->key_heads; head++) {
        if (l->key_norm) normalize(key + head * dim, l->key_norm, key + head * dim, dim, m->epsilon);
        rotate(key + head * dim, cos, sin, dim);
        const int64_t to = at->row * s->row_stride + head * s->head_stride + at->column * dim;
        memcpy(s->keys[index] + to, key + head * dim, dim * sizeof(bf16));
        memcpy(s->values[index] + to, a->value + (token * m->key_heads + head) * dim, dim * sizeof(bf16));
    }
}

/* How often work is shared out, at most. */
enum { LAYER_STAGES = 16, HEAD_STAGES = 2, LINEAR_STAGES = 2 };

/* One thread's part of a layer. */
static void run_layer(const model *m, int64_t index, const tokens *t, const activations *a, const workspace *space,
                      float *scores, member *self) {
    const layer *l = &m->layers[index];
    const int64_t n = t->count;
    SHARE(token, n)
        normalize(t->hidden + token * m->width, l->input_norm, a->normed + token * m->width, m->width, m->epsilon);
    await(self);
    if (l->query.levels || l->key.levels || l->value.levels)
        round_share(a->normed, n * m->width, &space->rounded, self);
    multiply_share(&l->query, a->normed, n, a->query, 0, space, self);
    multiply_share(&l->key, a->normed, n, a->key, 0, space, self);
    multiply_share(&l->value, a->normed, n, a->value, 0, space, self);
    await(self);
    SHARE(token, n) remember(m, l, index, t, token, a);
    await(self);
    SHARE(task, a->run_count * m->key_heads)
        attend_run(m, l, index, t, &a->runs[task / m->key_heads], task % m->key_heads, a, scores);
    await(self);
    if (l->output.levels) round_share(a->attended, n * m->heads * m->head_dim, &space->rounded, self);
    multiply_share(&l->output, a->attended, n, t->hidden, t->hidden, space, self);
    await(self);
    SHARE(token, n)
        normalize(t->hidden + token * m->width, l->post_norm, a->normed + token * m->width, m->width, m->epsilon);
    await(self);
    if (l->gate.levels || l->up.levels) round_share(a->normed, n * m->width, &space->rounded, self);
    multiply_share(&l->gate, a->normed, n, a->gate, 0, space, self);
    multiply_share(&l->up, a->normed, n, a->up, 0, space, self);
    await(self);
    SHARE(part, n * m->inner / 16) gate_up(a->gate + 16 * part, a->up + 16 * part, 16);
    await(self);
    if (l->down.levels) round_share(a->gate, n * m->inner, &space->rounded, self);
    multiply_share(&l->down, a->gate, n, t->hidden, t->hidden, space, self);
    await(self);
}

static void run_head(const model *m, const tokens *t, bf16 *normed, member *self) {
    SHARE(answer, t->asked_count)
        normalize(t->hidden + t->asked[answer] * m->width, m->final_norm, normed + answer * m->width, m->width, m->epsilon);
    await(self);
    const int64_t units = (m->head.outputs + DENSE_OUTPUTS - 1) / DENSE_OUTPUTS;
    SHARE(unit, units)
        sum_dense(&m->head, unit * DENSE_OUTPUTS, normed, t->asked_count, t->logits + unit * DENSE_OUTPUTS, m->head.outputs);
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
    const int8_rows nowhere = take_rounded(&sizes, rounded_count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, t->count, nowhere);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, stage_count);
    activations a = take_activations(&pieces, m, t->count);
    const int8_rows rounded = take_rounded(&pieces, rounded_count);
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

/* y = x W^T + bias for [rows][inputs]. Returns 0, or 1 if there is no memory. */
int textserve_linear(const linear *w, const bf16 *x, int64_t rows, bf16 *y, int64_t thread_count) {
    if (!rows) return 0;
    const int64_t rounded_count = w->levels ? rows * w->inputs : 0;
    arena sizes = {0, 0};
    take_stages(&sizes, LINEAR_STAGES);
    const int8_rows nowhere = take_rounded(&sizes, rounded_count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, rows, nowhere);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, LINEAR_STAGES);
    const int8_rows rounded = take_rounded(&pieces, rounded_count);
#pragma omp parallel num_threads(thread_count)
    {
        workspace space;
#pragma omp critical
        space = take_workspace(&pieces, rows, rounded);
        member own = {stages, LINEAR_STAGES, omp_get_num_threads(), 0, 0};
        if (w->levels) round_share(x, rounded_count, &space.rounded, &own);
        multiply_share(w, x, rows, y, 0, &space, &own);
    }
    free(pieces.memory);
    return 0;
}
