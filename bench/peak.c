/* How fast a core multiplies and adds numbers in float32 that are all in registers, by the vectors of the kernels. */
#include "vector.h"

enum { CHAINS_OF_PEAK = 12 };

/* Returns the number of floating-point operations of so many rounds. */
int64_t peak(int64_t rounds, float *result) {
    floats sums[CHAINS_OF_PEAK];
    for (int chain = 0; chain < CHAINS_OF_PEAK; chain++) sums[chain] = all(chain);
    const floats factor = all(0.999f), summand = all(1e-3f);
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int chain = 0; chain < CHAINS_OF_PEAK; chain++) sums[chain] = plus_product(sums[chain], factor, summand);
        /* Or the compiler computes several rounds at once. */
        __asm__ volatile("");
    }
    *result = 0.0f;
    for (int chain = 0; chain < CHAINS_OF_PEAK; chain++) *result += sum_of(sums[chain]);
    return rounds * CHAINS_OF_PEAK * WIDTH * 2;
}
