// A linear layer in half precision, forward and backward, behind a plain C interface (half.py).
//
// Rows of inputs and gradients are converted in groups, each with its own scale: wide enough that
// sums over a group pay, small enough for the second-level cache. Results do not depend on the number
// of threads.
#include "half.h"

using namespace half_products;

namespace {

struct Linear {
    int64_t rows, outputs, inputs, threads;  // y (rows, outputs) = x (rows, inputs) weight^T
    int64_t group, stride;  // rows of a group, and of a panel with what keeps panels off one cache set
    const float* x;
    int64_t ldx;
    const float* weight;
    int64_t ldw;
    half* packed_weight;
    half* packed_x;  // (groups, panels of 32, stride, 32)
    int32_t* x_scale;
    float* y;
    const float* dy;
    int64_t ldy;
    half* packed_dy;  // (groups, panels of 24, stride, 24)
    int32_t* dy_scale;
    float* dx;  // either may be null
    float* dw;

    int64_t groups() const { return (rows + group - 1) / group; }
    int64_t rows_of(int64_t g) const { return rows - g * group < group ? rows - g * group : group; }
    half* x_of(int64_t g) const { return packed_x + g * ((inputs + INPUT - 1) / INPUT) * INPUT * stride; }
    half* dy_of(int64_t g) const {
        return packed_dy + g * ((outputs + GRADIENT - 1) / GRADIENT) * GRADIENT * stride;
    }
    // Parts of a group that are worked on apart: 1, where that shares the work evenly.
    int64_t parts() const {
        for (int64_t p = 1; p < 4; p++) {
            int64_t units = groups() * p, most = (units + threads - 1) / threads;
            if (most * threads * 10 <= units * 11) return p;
        }
        return 4;
    }
};

int64_t part_end(int64_t rows, int64_t part, int64_t parts) {
    return ((rows + TALL - 1) / TALL * part / parts) * TALL;
}

// One operand's rows by the weights, group after group.
template <int T, class Source>
void multiply_groups(const Linear& a, Source source, const int32_t* scales, int weight_scale,
                     int64_t depth, float* to, int64_t columns) {
    const int64_t parts = a.parts();
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < a.groups() * parts; unit++) {
        const int64_t g = unit / parts, rows = a.rows_of(g);
        const int64_t from = part_end(rows, unit % parts, parts);
        int64_t upto = part_end(rows, unit % parts + 1, parts);
        upto = upto < rows ? upto : rows;
        if (from >= upto) continue;
        rows_by_columns<T>(source(g) + from * T, a.stride * T, a.packed_weight, depth,
                           {to + (g * a.group + from) * columns, columns, upto - from, columns,
                            -scales[g] - weight_scale, false});
    }
}

void forward(const Linear& a) {
    const uint32_t most = greatest(a.weight, a.ldw, a.outputs, a.inputs);
    const int weight_scale = exponent(most, OTHER_LIMIT);
#pragma omp parallel num_threads((int)a.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t n = 0; n < a.outputs; n += L)
            transpose(a.weight, a.ldw, a.outputs, a.inputs, n, weight_scale,
                      a.packed_weight + n * a.inputs);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < a.groups(); g++) {
            const float* x = a.x + g * a.group * a.ldx;
            const int scale = exponent(greatest(x, a.ldx, a.rows_of(g), a.inputs), INPUT_LIMIT);
            a.x_scale[g] = scale;
            convert<INPUT>(x, a.ldx, a.rows_of(g), a.inputs, a.group, scale, a.x_of(g),
                           a.stride * INPUT);
        }
        multiply_groups<INPUT>(
            a, [&](int64_t g) { return a.x_of(g); }, a.x_scale, weight_scale, a.inputs, a.y,
            a.outputs);
    }
}

void backward(const Linear& a) {
    const uint32_t most = a.dx ? greatest(a.weight, a.ldw, a.outputs, a.inputs) : 0;
    const int weight_scale = exponent(most, OTHER_LIMIT);
#pragma omp parallel num_threads((int)a.threads)
    {
        if (a.dx)
#pragma omp for schedule(static) nowait
            for (int64_t k = 0; k < a.inputs; k += L)
                convert<L>(a.weight + k, a.ldw, a.outputs, a.inputs - k < L ? a.inputs - k : L,
                           a.outputs, weight_scale, a.packed_weight + k * a.outputs, 0);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < a.groups(); g++) {
            const float* dy = a.dy + g * a.group * a.ldy;
            const int scale = exponent(greatest(dy, a.ldy, a.rows_of(g), a.outputs), OTHER_LIMIT);
            a.dy_scale[g] = scale;
            convert<GRADIENT>(dy, a.ldy, a.rows_of(g), a.outputs, a.group, scale, a.dy_of(g),
                              a.stride * GRADIENT);
        }
        if (a.dx)
            multiply_groups<GRADIENT>(
                a, [&](int64_t g) { return a.dy_of(g); }, a.dy_scale, weight_scale, a.outputs,
                a.dx, a.inputs);
        if (a.dw)
#pragma omp for schedule(static)
            for (int64_t share = 0; share < a.threads; share++) {
                int64_t first = part_end(a.outputs, share, a.threads);
                int64_t last = part_end(a.outputs, share + 1, a.threads);
                last = last < a.outputs ? last : a.outputs;
                for (int64_t g = 0; g < a.groups() && first < last; g++)
                    columns_by_columns(a.dy_of(g), a.x_of(g), a.stride, a.rows_of(g), first, last,
                                       {a.dw, a.inputs, last, a.inputs,
                                        -a.dy_scale[g] - a.x_scale[g], g > 0});
            }
    }
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {
EXPORT int twin_half_abi(void) { return 1; }
EXPORT void twin_half_forward(const Linear* a) { forward(*a); }
EXPORT void twin_half_backward(const Linear* a) { backward(*a); }
}
