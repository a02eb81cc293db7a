/* The forward pass of decoder-only models built like Llama, for CPUs with AVX512-BF16, and 4-bit products for all others.

   Tokens come as a flat list: each has a row and a column of a slab, so a prompt's chunk and one step of many rows are
   the same to it, and padding costs nothing. All threads walk through one parallel region. Activations are bfloat16 and
   are rounded where the model in transformers rounds them. */

#include <omp.h>
#include <stdlib.h>

#include "attention.h"
#include "int8.h"
#include "linear.h"
#include "team.h"

typedef struct {
    const bf16 *input_norm, *post_norm;  /* [width] */
    const bf16 *query_norm, *key_norm;   /* [head_dim], or none */
    linear query, key, value, output, gate, up, down;
    int64_t window;  /* columns that a token sees, itself included; 0: all */
} layer;

typedef struct {
    const layer *layers;
    const bf16 *final_norm;  /* [width] */
    linear head;             /* dense */
    int64_t layer_count, width, inner, heads, key_heads, head_dim;
    float epsilon, scaling;
} model;

/* A token and where it is. */
typedef struct {
    int64_t slab, row, first, column;  /* of its slab; its row begins at column `first` */
} place;

typedef struct {
    int64_t count;
    const place *places;     /* [count] */
    bf16 *hidden;            /* [count][width]: embeddings in, hidden states out */
    const bf16 *cos, *sin;   /* [count][head_dim] */
    const slab *slabs;
    int64_t asked_count;
    const int64_t *asked;    /* [asked_count], tokens whose logits are wanted */
    float *logits;           /* [asked_count][vocabulary] */
} tokens;

/* Tokens that follow one another in a row. */
typedef struct {
    int64_t begin, count;
} run;

/* Between the stages of a layer; each [count][...]. */
typedef struct {
    bf16 *normed, *query, *key, *value, *attended, *gate, *up;
    run *runs;  /* [run_count]: all tokens */
    int64_t run_count;
} activations;

static void normalize(const bf16 *x, const bf16 *weight, bf16 *y, int64_t width, float epsilon) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t place = 0; place < width; place += 16) {
        const __m512 value = load16(x + place);
        sum = _mm512_fmadd_ps(value, value, sum);
    }
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / width + epsilon));
    for (int64_t place = 0; place < width; place += 16)
        store16(y + place, _mm512_mul_ps(load16(weight + place), rounded(_mm512_mul_ps(load16(x + place), scale))));
}

/* Rotary position embedding of one head, in place: the first half of the dimensions pairs with the second. */
static void rotate(bf16 *head, const bf16 *cos, const bf16 *sin, int64_t dim) {
    for (int64_t place = 0; place < dim / 2; place += 16) {
        bf16 *left = head + place, *right = left + dim / 2;
        const __m512 a = load16(left), b = load16(right);
        const __m512 cos_a = load16(cos + place), cos_b = load16(cos + dim / 2 + place);
        const __m512 sin_a = load16(sin + place), sin_b = load16(sin + dim / 2 + place);
        store16(left, _mm512_sub_ps(rounded(_mm512_mul_ps(a, cos_a)), rounded(_mm512_mul_ps(b, sin_a))));
        store16(right, _mm512_add_ps(rounded(_mm512_mul_ps(b, cos_b)), rounded(_mm512_mul_ps(a, sin_b))));
    }
}

static void gate_up(bf16 *gate, const bf16 *up, int64_t count) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t place = 0; place < count; place += 16) {
        const __m512 x = load16(gate + place);
        const __m512 silu = _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
        store16(gate + place, _mm512_mul_ps(rounded(silu), load16(up + place)));
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
        attend(dim, a->query + queries, group, keys, values, columns, m->scaling, scores, a->attended + queries);
        return;
    }
    sight sights[TILE_QUERIES];
    for (int64_t token = 0; token < r->count; token++)
        for (int64_t each = 0; each < group; each++) {
            const int64_t query = queries + (token * m->heads + each) * dim;
            sights[token * group + each] = (sight){a->query + query, a->attended + query,
                                                   first_seen(l, at + token) - first, at[token].column + 1 - first};
        }
    attend_tile(dim, sights, r->count * group, keys, values, columns, m->scaling, scores);
}

/* How often work is shared out, at most. */
enum { LAYER_STAGES = 16, HEAD_STAGES = 2, LINEAR_STAGES = 2 };

/* One thread's part of a layer. */
static void run_layer(const model *m, int64_t index, const tokens *t, const activations *a, const workspace *space,
                      float *scores, team *team) {
    const layer *l = &m->layers[index];
    const int64_t n = t->count;
    SHARE(token, n)
        normalize(t->hidden + token * m->width, l->input_norm, a->normed + token * m->width, m->width, m->epsilon);
    await(team);
    if (l->query.levels || l->key.levels || l->value.levels)
        round_share(a->normed, n * m->width, &space->rounded, team);
    multiply_share(&l->query, a->normed, n, a->query, 0, space, team);
    multiply_share(&l->key, a->normed, n, a->key, 0, space, team);
    multiply_share(&l->value, a->normed, n, a->value, 0, space, team);
    await(team);
    SHARE(token, n) remember(m, l, index, t, token, a);
    await(team);
    SHARE(task, a->run_count * m->key_heads)
        attend_run(m, l, index, t, &a->runs[task / m->key_heads], task % m->key_heads, a, scores);
    await(team);
    if (l->output.levels) round_share(a->attended, n * m->heads * m->head_dim, &space->rounded, team);
    multiply_share(&l->output, a->attended, n, t->hidden, t->hidden, space, team);
    await(team);
    SHARE(token, n)
        normalize(t->hidden + token * m->width, l->post_norm, a->normed + token * m->width, m->width, m->epsilon);
    await(team);
    if (l->gate.levels || l->up.levels) round_share(a->normed, n * m->width, &space->rounded, team);
    multiply_share(&l->gate, a->normed, n, a->gate, 0, space, team);
    multiply_share(&l->up, a->normed, n, a->up, 0, space, team);
    await(team);
    SHARE(part, n * m->inner / 16) gate_up(a->gate + 16 * part, a->up + 16 * part, 16);
    await(team);
    if (l->down.levels) round_share(a->gate, n * m->inner, &space->rounded, team);
    multiply_share(&l->down, a->gate, n, t->hidden, t->hidden, space, team);
    await(team);
}

static void run_head(const model *m, const tokens *t, bf16 *normed, team *team) {
    SHARE(place, t->asked_count)
        normalize(t->hidden + t->asked[place] * m->width, m->final_norm, normed + place * m->width, m->width, m->epsilon);
    await(team);
    const int64_t units = (m->head.outputs + DENSE_OUTPUTS - 1) / DENSE_OUTPUTS;
    SHARE(unit, units)
        sum_dense(&m->head, unit * DENSE_OUTPUTS, normed, t->asked_count, t->logits + unit * DENSE_OUTPUTS, m->head.outputs);
}

/* Memory in which pieces are laid out one behind the other, on cache lines. */
typedef struct {
    char *memory;
    size_t used;
} arena;

static void *take(arena *from, size_t bytes) {
    void *piece = from->memory ? from->memory + from->used : 0;
    from->used += (bytes + 63) / 64 * 64;
    return piece;
}

static workspace take_workspace(arena *from, int64_t rows) {
    workspace space;
    space.panel = take(from, PANEL_INPUTS * sizeof(__m512bh));
    space.sums = take(from, rows * OUTPUTS * sizeof(float));
    return space;
}

/* For so many activations. */
static int8_rows take_rounded(arena *from, int64_t count) {
    int8_rows rounded;
    rounded.codes = take(from, count);
    rounded.scales = take(from, count / INT8_BLOCK * sizeof(float));
    rounded.starts = take(from, count / INT8_BLOCK * sizeof(int32_t));
    return rounded;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* For whatever is multiplied with a model's weights. */
static int8_rows take_widest_rounded(arena *from, const model *m, int64_t count) {
    return take_rounded(from, count * larger(m->width, larger(m->inner, m->heads * m->head_dim)));
}

static stage *take_stages(arena *from, int64_t count) {
    stage *stages = take(from, count * sizeof(stage));
    if (stages) memset(stages, 0, count * sizeof(stage));
    return stages;
}

static activations take_activations(arena *from, const model *m, int64_t count) {
    activations a;
    a.normed = take(from, count * m->width * sizeof(bf16));
    a.query = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.attended = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.key = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.value = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.gate = take(from, count * m->inner * sizeof(bf16));
    a.up = take(from, count * m->inner * sizeof(bf16));
    a.runs = take(from, count * sizeof(run));
    a.run_count = 0;
    return a;
}

/* Floats for the scores of a run of `count` tokens up to `last`. */
static int64_t scores_of(const model *m, const place *last, int64_t count) {
    return count * (m->heads / m->key_heads) * padded(last->column + 1 - last->first);
}

static int follow(const place *at, const place *next) {
    return next->slab == at->slab && next->row == at->row && next->first == at->first && next->column == at->column + 1;
}

/* Parts the tokens into runs that attention takes as a tile; returns the floats that the scores of the largest need. */
static int64_t split(const model *m, const tokens *t, activations *a) {
    const int64_t longest = TILE_QUERIES / (m->heads / m->key_heads);
    int64_t most = 0;
    for (int64_t token = 0; token < t->count; token++) {
        const place *at = &t->places[token];
        int64_t count = 1;
        if (token && follow(at - 1, at)) {
            run *before = &a->runs[a->run_count - 1];
            const int64_t more = before->count + 1;
            if (more <= longest && scores_of(m, at, more) <= TILE_SCORES) before->count = count = more;
        }
        if (count == 1) a->runs[a->run_count++] = (run){token, 1};
        const int64_t scores = scores_of(m, at, count);
        if (scores > most) most = scores;
    }
    return most;
}

/* Runs all tokens through the model: writes their keys and values, and the logits that are asked for.
   Returns 0, or 1 if there is no memory: then nothing was done. */
int textserve_forward(const model *m, const tokens *t, int64_t thread_count) {
    const int64_t stage_count = m->layer_count * LAYER_STAGES + HEAD_STAGES;
    arena sizes = {0, 0};
    take_stages(&sizes, stage_count);
    take_activations(&sizes, m, t->count);
    take_widest_rounded(&sizes, m, t->count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, t->count);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, stage_count);
    activations a = take_activations(&pieces, m, t->count);
    const int8_rows rounded = take_widest_rounded(&pieces, m, t->count);
    const size_t score_bytes = (split(m, t, &a) * sizeof(float) + 63) / 64 * 64;
    char *scores = aligned_alloc(64, thread_count * score_bytes);
    if (!scores) {
        free(pieces.memory);
        return 1;
    }
#pragma omp parallel num_threads(thread_count)
    {
        team own = {stages, omp_get_num_threads(), 0, 0};
        float *own_scores = (float *)(scores + omp_get_thread_num() * score_bytes);
        workspace space;
#pragma omp critical
        space = take_workspace(&pieces, t->count);
        space.rounded = rounded;
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
    const int64_t rounded_count = w->levels ? rows * w->inputs : 0;
    arena sizes = {0, 0};
    take_stages(&sizes, LINEAR_STAGES);
    take_rounded(&sizes, rounded_count);
    for (int64_t thread = 0; thread < thread_count; thread++) take_workspace(&sizes, rows);
    arena pieces = {aligned_alloc(64, sizes.used), 0};
    if (!pieces.memory) return 1;
    stage *stages = take_stages(&pieces, LINEAR_STAGES);
    const int8_rows rounded = take_rounded(&pieces, rounded_count);
#pragma omp parallel num_threads(thread_count)
    {
        workspace space;
#pragma omp critical
        space = take_workspace(&pieces, rows);
        space.rounded = rounded;
        team own = {stages, omp_get_num_threads(), 0, 0};
        if (w->levels) round_share(x, rounded_count, &space.rounded, &own);
        multiply_share(w, x, rows, y, 0, &space, &own);
    }
    free(pieces.memory);
    return 0;
}
