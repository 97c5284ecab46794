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
    half* packed_dy;  // (groups, or 1 for one thread; panels of 24, stride, 24)
    int32_t* dy_scale;
    float* dx;  // either may be null
    float* dw;

    int64_t groups() const { return (rows + group - 1) / group; }
    int64_t rows_of(int64_t g) const { return rows - g * group < group ? rows - g * group : group; }
    half* x_of(int64_t g) const { return packed_x + g * ((inputs + INPUT - 1) / INPUT) * INPUT * stride; }
    half* dy_of(int64_t g) const {  // one thread needs one group at a time
        const int64_t size = (outputs + GRADIENT - 1) / GRADIENT * GRADIENT * stride;
        return packed_dy + (threads > 1 ? g * size : 0);
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
    const int64_t end = (rows + TALL - 1) / TALL * part / parts * TALL;
    return end < rows ? end : rows;
}

void convert_x(const Linear& a, int64_t g) {
    const float* x = a.x + g * a.group * a.ldx;
    const int scale = exponent(greatest(x, a.ldx, a.rows_of(g), a.inputs), INPUT_LIMIT);
    convert<INPUT>(x, a.ldx, a.rows_of(g), a.inputs, a.group, scale, a.x_of(g), a.stride * INPUT);
    a.x_scale[g] = scale;
}
void convert_dy(const Linear& a, int64_t g) {
    const float* dy = a.dy + g * a.group * a.ldy;
    const int scale = exponent(greatest(dy, a.ldy, a.rows_of(g), a.outputs), OTHER_LIMIT);
    convert<GRADIENT>(dy, a.ldy, a.rows_of(g), a.outputs, a.group, scale, a.dy_of(g),
                      a.stride * GRADIENT);
    a.dy_scale[g] = scale;
}

// A part of a group's y or dx.
void multiply_y(const Linear& a, int64_t g, int64_t part, int64_t parts, int weight_scale) {
    const int64_t from = part_end(a.rows_of(g), part, parts);
    const int64_t upto = part_end(a.rows_of(g), part + 1, parts);
    rows_by_columns<INPUT>(a.x_of(g) + from * INPUT, a.stride * INPUT, a.packed_weight, a.inputs,
                           {a.y + (g * a.group + from) * a.outputs, a.outputs, upto - from,
                            a.outputs, -a.x_scale[g] - weight_scale, false});
}
void multiply_dx(const Linear& a, int64_t g, int64_t part, int64_t parts, int weight_scale) {
    const int64_t from = part_end(a.rows_of(g), part, parts);
    const int64_t upto = part_end(a.rows_of(g), part + 1, parts);
    rows_by_columns<GRADIENT>(a.dy_of(g) + from * GRADIENT, a.stride * GRADIENT, a.packed_weight,
                              a.outputs,
                              {a.dx + (g * a.group + from) * a.inputs, a.inputs, upto - from,
                               a.inputs, -a.dy_scale[g] - weight_scale, false});
}
// What a group adds to a share of dw's rows.
void add_dw(const Linear& a, int64_t g, int64_t share, int64_t shares) {
    const int64_t last = part_end(a.outputs, share + 1, shares);
    columns_by_columns(a.dy_of(g), a.x_of(g), a.stride, a.rows_of(g),
                       part_end(a.outputs, share, shares), last,
                       {a.dw, a.inputs, last, a.inputs, -a.dy_scale[g] - a.x_scale[g], g > 0});
}

void forward(const Linear& a) {
    const uint32_t most = greatest(a.weight, a.ldw, a.outputs, a.inputs);
    const int weight_scale = exponent(most, OTHER_LIMIT);
    const int64_t groups = a.groups(), parts = a.parts();
#pragma omp parallel num_threads((int)a.threads)
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < a.outputs; n += L)
            transpose(a.weight, a.ldw, a.outputs, a.inputs, n, weight_scale,
                      a.packed_weight + n * a.inputs);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; g++) {
            convert_x(a, g);
            if (parts == 1) multiply_y(a, g, 0, 1, weight_scale);  // still in the cache
        }
        if (parts > 1)
#pragma omp for schedule(static)
            for (int64_t unit = 0; unit < groups * parts; unit++)
                multiply_y(a, unit / parts, unit % parts, parts, weight_scale);
    }
}

void backward(const Linear& a) {
    const uint32_t most = a.dx ? greatest(a.weight, a.ldw, a.outputs, a.inputs) : 0;
    const int weight_scale = exponent(most, OTHER_LIMIT);
    const int64_t groups = a.groups(), parts = a.parts();
#pragma omp parallel num_threads((int)a.threads)
    {
        if (a.dx)
#pragma omp for schedule(static)
            for (int64_t k = 0; k < a.inputs; k += L)
                convert<L>(a.weight + k, a.ldw, a.outputs, a.inputs - k < L ? a.inputs - k : L,
                           a.outputs, weight_scale, a.packed_weight + k * a.outputs, 0);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; g++) {
            convert_dy(a, g);
            if (a.dx && parts == 1) multiply_dx(a, g, 0, 1, weight_scale);
            if (a.dw && a.threads == 1) add_dw(a, g, 0, 1);
        }
        if (a.dx && parts > 1)
#pragma omp for schedule(static)
            for (int64_t unit = 0; unit < groups * parts; unit++)
                multiply_dx(a, unit / parts, unit % parts, parts, weight_scale);
        // Shared by rows of dw, not of dy: the same sums in the same order with any number.
        if (a.dw && a.threads > 1)
#pragma omp for schedule(static)
            for (int64_t share = 0; share < a.threads; share++)
                for (int64_t g = 0; g < groups; g++) add_dw(a, g, share, a.threads);
    }
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {
EXPORT int twin_half_abi(void) { return 1; }
EXPORT void twin_half_forward(const Linear* a) { forward(*a); }
EXPORT void twin_half_backward(const Linear* a) { backward(*a); }
}
