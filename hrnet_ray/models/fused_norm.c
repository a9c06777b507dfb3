/* BatchNorm of a training step in bf16, with the shortcut's addition and the ReLU behind it.

   `y = relu(norm(x) + shortcut)` and its gradients, each in two passes over memory, where torch's
   operators take four and three. Tensors are [rows, channels] without gaps (channels last), and
   channels come in sixteens. Sums are float within a block of rows and double beyond; all else is
   float, and rounded once. A thread has the same rows in both passes, and sums are added up in the
   threads' order: the same threads give the same bits. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    LANES = 16,
    MOST = 4,          /* vectors whose sums stay in registers */
    BLOCK = 16 * 1024, /* values: 32 KB, which the first cache holds */
    AHEAD = 2048       /* values: what comes from memory meanwhile; more than the processor's own guess */
};

typedef uint16_t bf16;
typedef float Reals __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE Reals wide(const bf16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    return (Reals)(__builtin_convertvector(halves, Words) << 16);
}

INLINE Reals reals(const float *from) {
    Reals values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE void put(bf16 *to, Reals values) { /* rounded to nearest, ties to even */
    Words words = (Words)values;
    Halves halves = __builtin_convertvector((words + 0x7fff + ((words >> 16) & 1)) >> 16, Halves);
    memcpy(to, &halves, sizeof halves);
}

INLINE Reals where(Mask mask, Reals values) { return (Reals)(mask & (Mask)values); }

INLINE long least(long one, long other) { return one < other ? one : other; }

typedef struct {
    long from, to;
} Span;

INLINE Span share(long rows, int thread, int threads) {
    return (Span){rows * thread / threads, rows * (thread + 1) / threads};
}

/* Per thread: sums of one thing for all channels, then of another. */
INLINE void total(const double *sums, long channels, int threads, long k, double *one, double *other) {
    *one = *other = 0;
    for (int thread = 0; thread < threads; thread++) {
        *one += sums[2 * channels * thread + k];
        *other += sums[2 * channels * thread + channels + k];
    }
}

INLINE void add_lanes(double *sums, Reals values) {
    for (int lane = 0; lane < LANES; lane++) sums[lane] += values[lane];
}

INLINE void sum_values(const bf16 *x, long rows, long channels, int vectors, double *sum, double *squares) {
    Reals a[MOST] = {{0}}, b[MOST] = {{0}};
    for (long row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) {
            const bf16 *here = x + row * channels + v * LANES;
            __builtin_prefetch(here + AHEAD);
            Reals value = wide(here);
            a[v] += value;
            b[v] += value * value;
        }
    for (int v = 0; v < vectors; v++) {
        add_lanes(sum + v * LANES, a[v]);
        add_lanes(squares + v * LANES, b[v]);
    }
}

void norm_forward(
    const bf16 *x, const bf16 *shortcut /* or null */, bf16 *y, long rows, long channels, int relu,
    const float *weight, const float *bias, float eps, float momentum, float *running_mean,
    float *running_variance, float *statistics /* [4, channels], of which backward wants all */, int threads) {
    double sums[2 * channels * threads];
    float *mean = statistics, *inverse = mean + channels; /* of the deviation */
    float *scale = inverse + channels, *shift = scale + channels;
    const long block = BLOCK / channels + 1; /* rows */
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for schedule(static, 1)
        for (int thread = 0; thread < threads; thread++) {
            Span span = share(rows, thread, threads);
            double *sum = sums + 2 * channels * thread, *squares = sum + channels;
            memset(sum, 0, 2 * channels * sizeof *sum);
            for (long row = span.from; row < span.to; row += block) {
                const bf16 *here = x + row * channels;
                long count = least(block, span.to - row), k = 0;
                for (; k + 4 * LANES <= channels; k += 4 * LANES)
                    sum_values(here + k, count, channels, 4, sum + k, squares + k);
                for (; k + 2 * LANES <= channels; k += 2 * LANES)
                    sum_values(here + k, count, channels, 2, sum + k, squares + k);
                for (; k < channels; k += LANES)
                    sum_values(here + k, count, channels, 1, sum + k, squares + k);
            }
        }
        #pragma omp single
        for (long k = 0; k < channels; k++) {
            double sum, squares;
            total(sums, channels, threads, k, &sum, &squares);
            double centre = sum / rows, variance = squares / rows - centre * centre;
            variance = variance < 0 ? 0 : variance; /* NaN stays */
            mean[k] = centre;
            inverse[k] = 1 / sqrt(variance + (double)eps);
            double unbiased = variance * rows / (rows > 1 ? rows - 1 : 1);
            running_mean[k] += momentum * (centre - running_mean[k]);
            running_variance[k] += momentum * (unbiased - running_variance[k]);
            scale[k] = weight[k] * inverse[k];
            shift[k] = bias[k] - mean[k] * scale[k];
        }
        #pragma omp for schedule(static, 1)
        for (int thread = 0; thread < threads; thread++) {
            Span span = share(rows, thread, threads);
            for (long end = span.to; end > span.from; end -= block) /* backwards: the last is cached */
                for (long row = end - least(block, end - span.from); row < end; row++)
                    for (long k = 0, at = row * channels; k < channels; k += LANES, at += LANES) {
                        Reals value = wide(x + at) * reals(scale + k) + reals(shift + k);
                        __builtin_prefetch(y + at + AHEAD, 1);
                        if (shortcut) {
                            __builtin_prefetch(shortcut + at + AHEAD);
                            value += wide(shortcut + at);
                        }
                        put(y + at, relu ? where(~(value < 0), value) : value);
                    }
        }
    }
}

/* What tells where the ReLU let through. */
enum Gate { OPEN, BY_INPUT /* x is read anyhow */, BY_OUTPUT /* of shortcuts */ };

INLINE Reals through(enum Gate gate, Reals gradient, Reals x, const bf16 *y, Reals scale, Reals shift) {
    if (gate == BY_INPUT) return where(x * scale + shift > 0, gradient);
    return gate == BY_OUTPUT ? where(wide(y) > 0, gradient) : gradient;
}

INLINE void sum_gradients(
    enum Gate gate, const bf16 *x, const bf16 *y, const bf16 *dy, bf16 *dshortcut, long rows, long channels,
    int vectors, const float *mean, const float *scale, const float *shift, double *sum, double *product) {
    Reals a[MOST] = {{0}}, b[MOST] = {{0}};
    for (long row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) {
            long k = v * LANES, at = row * channels + k;
            __builtin_prefetch(x + at + AHEAD);
            __builtin_prefetch(dy + at + AHEAD);
            if (gate == BY_OUTPUT) __builtin_prefetch(y + at + AHEAD);
            Reals value = wide(x + at);
            Reals gradient = through(gate, wide(dy + at), value, y + at, reals(scale + k), reals(shift + k));
            if (gate == BY_OUTPUT) put(dshortcut + at, gradient);
            a[v] += gradient;
            b[v] += gradient * (value - reals(mean + k));
        }
    for (int v = 0; v < vectors; v++) {
        add_lanes(sum + v * LANES, a[v]);
        add_lanes(product + v * LANES, b[v]);
    }
}

INLINE void backward(
    enum Gate gate, const bf16 *x, const bf16 *y, const bf16 *dy, bf16 *dx, bf16 *dshortcut, long rows,
    long channels, const float *statistics, float *gradients, int threads) {
    double sums[2 * channels * threads];
    const float *mean = statistics, *inverse = mean + channels;
    const float *scale = inverse + channels, *shift = scale + channels;
    float *dweight = gradients, *dbias = dweight + channels;
    float *slope = dbias + channels, *constant = slope + channels;
    const long block = BLOCK / channels + 1; /* rows */
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for schedule(static, 1)
        for (int thread = 0; thread < threads; thread++) {
            Span span = share(rows, thread, threads);
            double *sum = sums + 2 * channels * thread, *product = sum + channels;
            memset(sum, 0, 2 * channels * sizeof *sum);
            for (long row = span.from; row < span.to; row += block) {
                long count = least(block, span.to - row), k = 0, at = row * channels;
#define SUM(vectors)                                                                                     \
    sum_gradients(gate, x + at + k, y + at + k, dy + at + k, dshortcut + at + k, count, channels, vectors, \
                  mean + k, scale + k, shift + k, sum + k, product + k)
                for (; k + 2 * LANES <= channels; k += 2 * LANES) SUM(2);
                for (; k < channels; k += LANES) SUM(1);
#undef SUM
            }
        }
        #pragma omp single
        for (long k = 0; k < channels; k++) {
            double sum, product;
            total(sums, channels, threads, k, &sum, &product);
            dbias[k] = sum;
            dweight[k] = product * inverse[k];
            slope[k] = -scale[k] * inverse[k] * inverse[k] * product / rows;
            constant[k] = -scale[k] * sum / rows - slope[k] * mean[k];
        }
        #pragma omp for schedule(static, 1)
        for (int thread = 0; thread < threads; thread++) {
            Span span = share(rows, thread, threads);
            const bf16 *come = gate == BY_OUTPUT ? dshortcut : dy; /* the former is through already */
            const enum Gate left = gate == BY_INPUT ? BY_INPUT : OPEN;
            for (long end = span.to; end > span.from; end -= block)
                for (long row = end - least(block, end - span.from); row < end; row++)
                    for (long k = 0, at = row * channels; k < channels; k += LANES, at += LANES) {
                        Reals value = wide(x + at), factor = reals(scale + k);
                        Reals gradient = through(left, wide(come + at), value, 0, factor, reals(shift + k));
                        put(dx + at, factor * gradient + reals(slope + k) * value + reals(constant + k));
                    }
        }
    }
}

void norm_backward(
    const bf16 *x, const bf16 *y, const bf16 *dy, bf16 *dx, bf16 *dshortcut /* or null */, long rows,
    long channels, int relu, const float *statistics,
    float *gradients /* [4, channels]: of weight, of bias, and two for us */, int threads) {
#define REST x, y, dy, dx, dshortcut, rows, channels, statistics, gradients, threads
    /* One routine for each gate: what it is shall be asked outside the loops. */
    if (dshortcut) backward(BY_OUTPUT, REST);
    else if (relu) backward(BY_INPUT, REST);
    else backward(OPEN, REST);
#undef REST
}
