// A linear layer in half precision, forward and backward, and the orthogonalisation of many small
// matrices, behind a plain C interface (half.py).
//
// Rows of inputs and gradients are converted in groups, each with its own scale: wide enough that
// sums over a group pay, small enough for the second-level cache. Results do not depend on the number
// of threads.
#include "half.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

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

// ---- Newton-Schulz: X <- a X + (b G + c G^2) X with G = X X^T, for many matrices

struct Newton {
    int64_t matrices, rows, columns, threads, steps;  // rows <= columns
    float* x;  // (matrices, rows, columns), replaced
    const float* coefficients;  // (steps, 3)
};

template <class T>
using Aligned = std::unique_ptr<T[], decltype(&std::free)>;
template <class T>
Aligned<T> aligned(int64_t size) {
    void* p = std::aligned_alloc(64, (size * sizeof(T) + 63) / 64 * 64);
    if (p) memset(p, 0, size * sizeof(T));
    return {(T*)p, &std::free};
}

// What one matrix needs; a few hundred KiB, which stay in the second-level cache.
struct Workplace {
    int64_t rows, columns;
    Aligned<half> by_rows, transposed, square;
    Aligned<float> gram, change;
    // A tile reads whole rows of 12 at the end of the last panel: TALL more.
    Workplace(int64_t m, int64_t n)
        : rows(m), columns(n), by_rows(aligned<half>((n + L - 1) / L * L * m + TALL * L)),
          transposed(aligned<half>((m + L - 1) / L * L * n)),
          square(aligned<half>((m + L - 1) / L * L * m + TALL * L)), gram(aligned<float>(m * m)),
          change(aligned<float>(m * m)) {}
    explicit operator bool() const { return by_rows && transposed && square && gram && change; }
};

// As left and as right operand: panels of 32 columns, every row of the matrix in each.
int packed(const float* x, int64_t rows, int64_t columns, int limit, half* to) {
    const int scale = exponent(greatest(x, columns, rows, columns), limit);
    convert<L>(x, columns, rows, columns, rows, scale, to, rows * L);
    return scale;
}
// The upper triangle of a symmetric product, and its mirror image.
void symmetric(const half* left, int64_t depth, const half* right, int scale, float* to, int64_t m) {
    for (int64_t c = 0; c < m; c += 2 * L) {
        const int64_t width = std::min<int64_t>(2 * L, m - c), rows = std::min(c + width, m);
        rows_by_columns<L>(left, m * L, right + c * depth, depth,
                           {to + c, m, rows, width, scale, false});
    }
    for (int64_t r = 0; r < m; r += 16)
        for (int64_t c = 0; c <= r; c += 16)
            for (int64_t i = r; i < std::min(r + 16, m); i++)
                for (int64_t j = c; j < std::min(c + 16, i); j++) to[i * m + j] = to[j * m + i];
}

void orthogonalize(const Newton& a, Workplace& w, float* x) {
    const int64_t m = a.rows, n = a.columns;
    double squares = 0;
    for (int64_t i = 0; i < m * n; i++) squares += (double)x[i] * x[i];
    const float factor = (float)(1 / std::max(std::sqrt(squares), 1e-7));
    for (int64_t i = 0; i < m * n; i++) x[i] *= factor;
    for (int64_t step = 0; step < a.steps; step++) {
        const float* f = a.coefficients + 3 * step;
        const int of_x = packed(x, m, n, INPUT_LIMIT, w.by_rows.get());
        const int of_t = of_x + OTHER_LIMIT - INPUT_LIMIT;
        for (int64_t r = 0; r < m; r += L)
            transpose(x, n, m, n, r, of_t, w.transposed.get() + r * n);
        symmetric(w.by_rows.get(), n, w.transposed.get(), -of_x - of_t, w.gram.get(), m);
        int of_g = packed(w.gram.get(), m, m, OTHER_LIMIT, w.square.get());
        symmetric(w.square.get(), m, w.square.get(), -2 * of_g, w.change.get(), m);
        for (int64_t i = 0; i < m * m; i++) w.change[i] = f[1] * w.gram[i] + f[2] * w.change[i];
        of_g = packed(w.change.get(), m, m, OTHER_LIMIT, w.square.get());
        for (int64_t i = 0; i < m * n; i++) x[i] *= f[0];
        rows_by_columns<L>(w.square.get(), m * L, w.by_rows.get(), m,
                           {x, n, m, n, -of_g - of_x, true});
    }
}

int newton(const Newton& a) {
    bool has_memory = true;
#pragma omp parallel num_threads((int)a.threads) reduction(&& : has_memory)
    {
        Workplace w(a.rows, a.columns);
        has_memory = (bool)w;
#pragma omp for schedule(dynamic)
        for (int64_t k = 0; k < a.matrices; k++)
            if (w) orthogonalize(a, w, a.x + k * a.rows * a.columns);
    }
    return has_memory ? 0 : 1;
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {
EXPORT int twin_half_abi(void) { return 2; }
EXPORT void twin_half_forward(const Linear* a) { forward(*a); }
EXPORT void twin_half_backward(const Linear* a) { backward(*a); }
EXPORT int twin_half_newton(const Newton* a) { return newton(*a); }
}
