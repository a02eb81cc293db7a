/* Chooses one token for each row of logits: the same tokens as ../sampler.py in torch, in one pass over the vocabulary.

   The pass finds the largest logits of small groups, and whether all are finite. With a top_k or min_p only groups that
   can hold survivors are looked at again; other settings need e to the power of every score, computed once. From then on
   all that is done is done to the survivors.

   Rows are shared out to the threads; where there are fewer of them, parts of the vocabulary are. The whole numbers that
   are added up are the same in any order. */

#include <omp.h>
#include <stddef.h>
#include <stdlib.h>

#include "survivors.h"

enum { PART = 32 * GROUP };

/* Fewer logits are not worth that one thread waits for another, which may take long if others want its processor, too. */
enum { WORTH_SHARING = 16 * PART };

enum outcome { NOT_FINITE, NONE_LEFT, CHOSEN };

typedef struct {
    int64_t token, outcome;
    int64_t rank;         /* from 1 */
    int64_t top_count;
    int64_t *top_ids;     /* [top_logprobs] the likeliest first */
    float *top_logprobs;  /* [top_logprobs] */
    float logprob;
} answer;

/* What one row is worked on with. */
typedef struct {
    const settings *by;
    answer *to;
    row row;
    int broken;
    float raw_best;
    scale scale;
    float best;          /* the largest score */
    int weighs_all;      /* whether the powers are needed */
    float *powers;       /* [vocabulary] e to the power of scores less the largest */
    int64_t *part_units; /* [parts] what they add up to */
    survivors left;
} work;

INLINE size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void *take(char **memory, size_t bytes) {
    void *taken = *memory;
    *memory += aligned(bytes);
    return taken;
}

/* Takes its arrays from memory, or tells how much they take if that is at 0. */
static work take_work(char **memory, int64_t vocabulary, int64_t edited) {
    work w = {0};
    w.row.maxima = take(memory, maxima_count(vocabulary) * sizeof(float));
    w.row.before = take(memory, edited * sizeof(float));
    w.powers = take(memory, vocabulary * sizeof(float));
    w.part_units = take(memory, (vocabulary + PART - 1) / PART * sizeof(int64_t));
    w.left.ids = take(memory, vocabulary * sizeof(int32_t));
    w.left.scores = take(memory, vocabulary * sizeof(float));
    w.left.weights = take(memory, vocabulary * sizeof(float));
    w.left.items = take(memory, vocabulary * sizeof(weighted));
    return w;
}

static void start(work *w, const settings *by, answer *to, float *logits, int64_t vocabulary) {
    w->by = by;
    w->to = to;
    w->row.logits = logits;
    w->row.vocabulary = vocabulary;
    w->row.only_count = -1;
    w->broken = w->weighs_all = 0;
}

static void scan_part(work *w, int64_t part) {
    const int64_t begin = part * (PART / GROUP), all = group_count(w->row.vocabulary);
    const int64_t end = begin + PART / GROUP < all ? begin + PART / GROUP : all;
    if (!scan(&w->row, begin, end)) __atomic_store_n(&w->broken, 1, __ATOMIC_RELAXED);
}

static float best_logit(const row *r) {
    if (r->only_count < 0) return largest(r->maxima, maxima_count(r->vocabulary));
    float best = -INFINITY;
    for (int64_t i = 0; i < r->only_count; i++)
        if (r->logits[r->only[i]] > best) best = r->logits[r->only[i]];
    return best;
}

/* Whether a k-th largest is found by the maxima alone. */
static int selects_few(const work *w) { return w->by->top_k && 2 * w->by->top_k <= maxima_count(w->row.vocabulary); }

/* After the scan: carries out the edits, and finds out what has to be done. */
static void prepare(work *w) {
    const settings *by = w->by;
    row *r = &w->row;
    w->to->outcome = NOT_FINITE;
    if (w->broken) return;
    w->raw_best = largest(r->maxima, maxima_count(r->vocabulary));
    apply_edits(r, by->edits, by->edit_count);
    const float best = best_logit(r);
    w->to->outcome = best > -INFINITY ? CHOSEN : NONE_LEFT;
    if (w->to->outcome != CHOSEN || !by->samples) {
        w->best = best;
        return;
    }
    w->scale = (scale){isfinite(best / by->temperature) ? 0.0f : best, by->temperature};
    w->best = scaled(w->scale, best);
    const int needs_few = r->only_count >= 0 || by->top_k || (by->rest < 0 && by->min_p > 0);
    w->weighs_all = !needs_few;
}

static void weigh_part(work *w, int64_t part) {
    const int64_t begin = part * PART;
    const int64_t end = begin + PART < w->row.vocabulary ? begin + PART : w->row.vocabulary;
    const float *logits = w->row.logits;
    const scale by = w->scale;
    const float best = w->best;
    float *powers = w->powers;
    int64_t units = 0;
    for (int64_t i = begin; i < end; i++) {
        const float power = power_of_e(scaled(by, logits[i]) - best);
        powers[i] = power;
        units += weight_units(power);
    }
    w->part_units[part] = units;
}

static int64_t all_units(const work *w) {
    int64_t units = 0;
    for (int64_t part = 0; part * PART < w->row.vocabulary; part++) units += w->part_units[part];
    return units;
}

static void add_survivor(work *w, int64_t token, float score) {
    survivors *s = &w->left;
    s->ids[s->count] = (int32_t)token;
    s->scores[s->count++] = score;
}

/* Takes the tokens whose scores are at least this, and that are not masked. */
static void gather(work *w, float least) {
    const row *r = &w->row;
    w->left.count = 0;
    for (int64_t group = 0; group < group_count(r->vocabulary); group++) {
        int holds[LANES], any = 0;
        for (int64_t lane = 0; lane < LANES; lane++)
            any |= holds[lane] = scaled(w->scale, r->maxima[group * LANES + lane]) >= least;
        if (!any) continue;
        const int64_t begin = group * GROUP, end = begin + GROUP < r->vocabulary ? begin + GROUP : r->vocabulary;
        for (int64_t token = begin; token < end; token++) {
            if (!holds[token % LANES]) continue;
            const float score = scaled(w->scale, r->logits[token]);
            if (score >= least && score > -INFINITY) add_survivor(w, token, score);
        }
    }
}

/* The k-th largest of the maxima: there are at least k logits as large. */
static float least_of_maxima(work *w, int64_t k) {
    const int64_t count = maxima_count(w->row.vocabulary);
    float *copy = (float *)w->left.items;
    memcpy(copy, w->row.maxima, count * sizeof *copy);
    return kth_largest(copy, count, k);
}

/* Takes the tokens whose powers are above a bound. Returns the share, in units, of the others. */
static int64_t gather_powers(work *w, float bound, float total) {
    survivors *s = &w->left;
    const int64_t count = w->row.vocabulary;
    int64_t others = 0, kept = 0;
    for (int64_t i = 0; i < count; i++) {
        /* probability_units, of a probability below 2^-9. */
        const double small = w->powers[i] > bound ? 0.0f : w->powers[i] / total;
        others += bits_of(small + 0x1.8p-8) - bits_of(0x1.8p-8);
    }
    for (int64_t i = 0; i < count; i++) {
        s->ids[kept] = (int32_t)i;
        kept += w->powers[i] > bound;
    }
    s->count = kept;
    for (int64_t i = 0; i < kept; i++) {
        s->scores[i] = scaled(w->scale, w->row.logits[s->ids[i]]);
        s->weights[i] = w->powers[s->ids[i]];
    }
    return others;
}

/* Draws by the powers alone. */
static int64_t draw_from_all(const work *w) {
    int64_t left = target_of(w->by, all_units(w)), part = 0, i;
    while (left >= w->part_units[part]) left -= w->part_units[part++];
    for (i = part * PART; i < w->row.vocabulary - 1; i++)
        if ((left -= weight_units(w->powers[i])) < 0) break;
    return i;
}

/* Makes what the first warper leaves the survivors. */
static void narrow_all(work *w) {
    const settings *by = w->by;
    const float total = (float)as_weight(all_units(w));
    const int64_t count = w->row.vocabulary;
    /* Less likely ones are within half of the rest together. Of few tokens all are taken. */
    const float unlikely = count < GROUP ? -1.0f : 0.999f * total * (by->rest / (2 * count));
    if (by->rest >= 0) {
        keep_top_p(&w->left, by->rest, gather_powers(w, unlikely, total), total);
    } else if (by->typical_p >= 0) {
        gather_powers(w, -1.0f, total);
        keep_typical(&w->left, by->typical_p);
    } else {
        gather_powers(w, fminf(0.5f, 0.999f * total * by->epsilon), total);
        const float best = w->best;
        survivors *s = &w->left;
        KEEP(s, !(s->weights[i] / total < by->epsilon && s->scores[i] < best));
    }
}

static void narrow_few(work *w) {
    const settings *by = w->by;
    if (w->row.only_count >= 0) {
        w->left.count = 0;
        for (int64_t i = 0; i < w->row.only_count; i++) {
            const float score = scaled(w->scale, w->row.logits[w->row.only[i]]);
            if (score > -INFINITY) add_survivor(w, w->row.only[i], score);
        }
    } else if (selects_few(w)) {
        gather(w, scaled(w->scale, least_of_maxima(w, by->top_k)));
    } else if (by->top_k) {
        gather(w, -INFINITY);
    } else {
        /* Well below what min_p leaves, however the sum is rounded. */
        const float log_share = logf(by->min_p);
        gather(w, w->best + log_share - 1e-4f * (1 + fabsf(log_share)) - 1e-6f * fabsf(w->best));
    }
    if (by->top_k) keep_top_k(&w->left, by->top_k);
    weigh(&w->left);
    if (by->rest >= 0) keep_top_p(&w->left, by->rest, 0, (float)as_weight(total_units(&w->left)));
}

static int64_t draw_token(work *w) {
    const settings *by = w->by;
    survivors *s = &w->left;
    const int narrows = by->rest >= 0 || by->min_p > 0 || by->typical_p >= 0 || by->epsilon > 0;
    if (w->weighs_all && !narrows) return draw_from_all(w);
    int typical_done = 0, epsilon_done = 0;
    if (w->weighs_all) {
        narrow_all(w);
        typical_done = by->rest < 0;
        epsilon_done = typical_done && by->typical_p < 0;
    } else {
        narrow_few(w);
    }
    if (by->min_p > 0) keep_min_p(s, by->min_p);
    if (by->typical_p >= 0 && !typical_done) keep_typical(s, by->typical_p);
    if (by->epsilon > 0 && !epsilon_done) cut_epsilon(s, by->epsilon);
    return draw(s, by);
}

/* The first of the likeliest. */
static int64_t likeliest(const work *w) {
    const row *r = &w->row;
    if (r->only_count >= 0) {
        int64_t i = 0;
        while (r->logits[r->only[i]] != w->best) i++;
        return r->only[i];
    }
    int64_t maximum = 0, token;
    while (r->maxima[maximum] != w->best) maximum++;
    for (token = maximum / LANES * GROUP; r->logits[token] != w->best; token++) continue;
    return token;
}

typedef struct {
    int32_t id;
    float logprob;
} alternative;

static int likelier_first(const void *a, const void *b) {
    const alternative *x = a, *y = b;
    return x->logprob != y->logprob ? (x->logprob < y->logprob) - (x->logprob > y->logprob) : (x->id > y->id) - (x->id < y->id);
}

/* Of the logits as the model gave them: float32 log-softmax, rank and alternatives. */
static void report(work *w) {
    row *r = &w->row;
    answer *to = w->to;
    w->scale = (scale){0.0f, 1.0f};
    const float best = w->best = w->raw_best;
    for (int64_t part = 0; part * PART < r->vocabulary; part++) weigh_part(w, part);
    const float log_total = (float)log(as_weight(all_units(w)));
    const float chosen = to->logprob = r->logits[to->token] - best - log_total;
    int64_t likelier = 0;
    for (int64_t i = 0; i < r->vocabulary; i++) likelier += r->logits[i] - best - log_total > chosen;
    to->rank = likelier + 1;
    const int64_t wanted = to->top_count = w->by->top_logprobs < r->vocabulary ? w->by->top_logprobs : r->vocabulary;
    if (!wanted) return;
    gather(w, 2 * wanted <= maxima_count(r->vocabulary) ? least_of_maxima(w, wanted) : -INFINITY);
    float *copy = (float *)w->left.items;
    memcpy(copy, w->left.scores, w->left.count * sizeof *copy);
    /* Logits that differ may have log-probabilities that do not: those just below the last one are looked at, too. */
    const float last = kth_largest(copy, w->left.count, wanted), least = last - best - log_total;
    gather(w, last - 1e-5f * (fabsf(last) + fabsf(best) + fabsf(log_total)));
    alternative *found = (alternative *)w->left.items;
    int64_t count = 0;
    for (int64_t i = 0; i < w->left.count; i++) {
        const float logprob = w->left.scores[i] - best - log_total;
        if (logprob >= least) found[count++] = (alternative){w->left.ids[i], logprob};
    }
    qsort(found, count, sizeof *found, likelier_first);
    for (int64_t i = 0; i < wanted; i++) {
        to->top_ids[i] = found[i].id;
        to->top_logprobs[i] = found[i].logprob;
    }
}

static void finish(work *w) {
    answer *to = w->to;
    if (to->outcome == NOT_FINITE) return;
    if (to->outcome == CHOSEN) to->token = w->by->samples ? draw_token(w) : likeliest(w);
    undo_edits(&w->row, w->by->edits, w->by->edit_count);
    if (to->outcome == CHOSEN && w->by->top_logprobs >= 0) report(w);
}

static int64_t most_edited(const settings *by, int64_t rows) {
    int64_t most = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t edited = 0;
        for (int64_t e = 0; e < by[i].edit_count; e++) edited += by[i].edits[e].count;
        if (edited > most) most = edited;
    }
    return most;
}

/* Returns how many bytes of memory, aligned to a cache line, textserve_sample needs for these rows. */
int64_t textserve_sample_bytes(const settings *by, int64_t rows, int64_t vocabulary, int64_t threads) {
    char *end = 0;
    take(&end, threads * sizeof(work));
    const int64_t edited = most_edited(by, rows);
    for (int64_t i = 0; i < threads; i++) take_work(&end, vocabulary, edited);
    return end - (char *)0;
}

/* Chooses a token for each of [rows][vocabulary] logits, which are changed on the way, and are then what they were. */
void textserve_sample(float *logits, const settings *by, answer *to, int64_t rows, int64_t vocabulary, int64_t threads,
                      char *memory) {
    const int64_t parts = (vocabulary + PART - 1) / PART, edited = most_edited(by, rows);
    work *works = take(&memory, threads * sizeof(work));
    for (int64_t i = 0; i < threads; i++) works[i] = take_work(&memory, vocabulary, edited);
    if (rows < threads)
        for (int64_t i = 0; i < rows; i++) start(&works[i], &by[i], &to[i], logits + i * vocabulary, vocabulary);
#pragma omp parallel num_threads(threads) if (rows * vocabulary >= WORTH_SHARING)
    if (rows < threads) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < rows * parts; i++) scan_part(&works[i / parts], i % parts);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < rows; i++) prepare(&works[i]);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < rows * parts; i++)
            if (works[i / parts].weighs_all) weigh_part(&works[i / parts], i % parts);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < rows; i++) finish(&works[i]);
    } else {
        work *w = &works[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < rows; i++) {
            start(w, &by[i], &to[i], logits + i * vocabulary, vocabulary);
            for (int64_t part = 0; part < parts; part++) scan_part(w, part);
            prepare(w);
            if (w->weighs_all)
                for (int64_t part = 0; part < parts; part++) weigh_part(w, part);
            finish(w);
        }
    }
}

/* For tests: y = e to the power of x, and what they add up to in units of 2^-40. */
int64_t textserve_powers(const float *x, int64_t count, float *y) {
    int64_t units = 0;
    for (int64_t i = 0; i < count; i++) units += weight_units(y[i] = power_of_e(x[i]));
    return units;
}

/* For tests, too. */
double textserve_uniform(uint64_t seed, uint64_t index) { return uniform(seed, index); }
