// What needs no recurrence: residual addition with dropout and norm, the gate, the squared relu.
//
// Sums over all rows (gradients of weights) are made in BLOCKS fixed groups of rows, so that they do
// not depend on the number of threads.
#pragma once
#include "kernels.h"

constexpr i64 BLOCKS = 64;

struct Norm {
    i64 rows, D, threads;
    float eps, dropout;
    i64 seed;
    Tensor x, y, s, n;  // (1, rows, 1, D); y null: s is x itself and not written
    const float* weight;
    Tensor d_s, d_n, dx, dy;  // d_s null: zero; dy null where there is no y
    float* d_weight;          // (BLOCKS, D), to be summed
};

struct Gate {
    i64 rows, D, threads, normed;  // normed: r and m are taken over their root mean square
    Tensor r, m, out;
    const float *weight, *bias;  // (2 D), (1)
    float eps;
    float* kept;                 // (rows, 3): the gate, and what r and m are multiplied by
    Tensor d_out, dr, dm;
    float* d_weight;  // (BLOCKS, 2 D + 1), to be summed
};

struct Flat {
    i64 size, threads;
    Tensor x, y, d_y, dx;
};

// Uniform in [0, 2^32) from a counter: "lowbias32" by C. Wellons, keyed by row.
INLINE vu scrambled(vu x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}
INLINE uint32_t row_key(i64 seed, i64 row) {  // splitmix64
    uint64_t z = (uint64_t)seed * 0x9e3779b97f4a7c15ull + (uint64_t)row * 0xbf58476d1ce4e5b9ull + 0x94d049bb133111ebull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)(z ^ (z >> 31));
}
struct Mask {
    uint32_t limit;
    float scale;
    vu place;
    Mask(float dropout) : limit((uint32_t)((double)dropout * 4294967296.0)), scale(1.f / (1.f - dropout)) {
        for (int j = 0; j < L; j++) place[j] = (uint32_t)j;
    }
    INLINE vf operator()(uint32_t key, int i) const {  // 0, or 1 / (1 - dropout)
        vu drawn = scrambled((place + (uint32_t)i) * 0x9e3779b9u ^ key);
        return drawn >= limit ? all(scale) : zero();
    }
};

template <class Work>
inline int over_rows(i64 rows, i64 threads, size_t floats, Work work) {
    int failed = 0;
    const i64 size = (rows + BLOCKS - 1) / BLOCKS;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (i64 block = 0; block < BLOCKS; block++) {
        static thread_local Scratch scratch;
        if (!scratch.reserve(floats * 4)) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        work(block, std::min(rows, block * size), std::min(rows, (block + 1) * size), scratch);
    }
    return failed;
}

template <class F>
INLINE void typed(bool is_bf16, F f) {
    if (is_bf16)
        f((uint16_t*)nullptr);
    else
        f((float*)nullptr);
}

template <class X, class Y, class N>
INLINE void norm_row(const Norm& a, i64 row, const Mask& mask) {
    const X* x = (const X*)at(a.x, 0, row, 0);
    const Y* y = (const Y*)at(a.y, 0, row, 0);
    X* s = (X*)at(a.s, 0, row, 0);
    N* n = (N*)at(a.n, 0, row, 0);
    const uint32_t key = row_key(a.seed, row);
    vf squares = zero();
    for (int i = 0; i < a.D; i += L) {
        vf v = load(x + i);
        if (a.y.p) {
            vf added = load(y + i);
            if (a.dropout > 0.f) added = added * mask(key, i);
            v += added;
            store(s + i, v);
        }
        squares += v * v;
    }
    const float scale = 1.f / std::sqrt(sum(squares) / a.D + a.eps);
    const X* from = a.y.p ? s : x;
    for (int i = 0; i < a.D; i += L) store(n + i, load(from + i) * scale * load(a.weight + i));
}
inline int norm_forward(const Norm& a) {
    const Mask mask(a.dropout);
    return over_rows(a.rows, a.threads, 0, [&](i64, i64 from, i64 to, Scratch&) {
        typed(a.x.is_bf16, [&](auto* x) {
            typed(a.y.is_bf16, [&](auto* y) {
                typed(a.n.is_bf16, [&](auto* n) {
                    for (i64 row = from; row < to; row++)
                        norm_row<std::remove_pointer_t<decltype(x)>, std::remove_pointer_t<decltype(y)>,
                                 std::remove_pointer_t<decltype(n)>>(a, row, mask);
                });
            });
        });
    });
}
// a.s is the sum that was normalised; its type is also that of d_s and dx
template <class X, class Y, class N>
INLINE void norm_row_back(const Norm& a, i64 row, const Mask& mask, float* d_weight) {
    const X *s = (const X*)at(a.s, 0, row, 0), *d_s = (const X*)at(a.d_s, 0, row, 0);
    const N* d_n = (const N*)at(a.d_n, 0, row, 0);
    X* dx = (X*)at(a.dx, 0, row, 0);
    Y* dy = (Y*)at(a.dy, 0, row, 0);
    const uint32_t key = row_key(a.seed, row);
    vf squares = zero(), along = zero();
    for (int i = 0; i < a.D; i += L) {
        vf v = load(s + i);
        squares += v * v;
        along += v * load(d_n + i) * load(a.weight + i);
    }
    const float scale = 1.f / std::sqrt(sum(squares) / a.D + a.eps);
    const float share = sum(along) / a.D * scale * scale;
    for (int i = 0; i < a.D; i += L) {
        vf v = load(s + i), d = load(d_n + i);
        store(d_weight + i, load(d_weight + i) + d * v * scale);
        d = scale * (d * load(a.weight + i) - v * share);
        if (a.d_s.p) d += load(d_s + i);
        store(dx + i, d);
        if (a.dy.p) store(dy + i, a.dropout > 0.f ? d * mask(key, i) : d);
    }
}
inline int norm_backward(const Norm& a) {
    const Mask mask(a.dropout);
    return over_rows(a.rows, a.threads, 0, [&](i64 block, i64 from, i64 to, Scratch&) {
        float* d_weight = a.d_weight + block * a.D;
        memset(d_weight, 0, a.D * 4);
        typed(a.s.is_bf16, [&](auto* x) {
            typed(a.dy.is_bf16, [&](auto* y) {
                typed(a.d_n.is_bf16, [&](auto* n) {
                    for (i64 row = from; row < to; row++)
                        norm_row_back<std::remove_pointer_t<decltype(x)>, std::remove_pointer_t<decltype(y)>,
                                      std::remove_pointer_t<decltype(n)>>(a, row, mask, d_weight);
                });
            });
        });
    });
}

template <class T>
INLINE void gate_rows(const Gate& a, i64 from, i64 to) {
    for (i64 row = from; row < to; row++) {
        const T *r = (const T*)at(a.r, 0, row, 0), *m = (const T*)at(a.m, 0, row, 0);
        T* out = (T*)at(a.out, 0, row, 0);
        vf by_r = zero(), by_m = zero(), r2 = zero(), m2 = zero();
        for (int i = 0; i < a.D; i += L) {
            vf ri = load(r + i), mi = load(m + i);
            by_r += ri * load(a.weight + i);
            by_m += mi * load(a.weight + a.D + i);
            r2 += ri * ri;
            m2 += mi * mi;
        }
        const float for_r = a.normed ? 1.f / std::sqrt(sum(r2) / a.D + a.eps) : 1.f;
        const float for_m = a.normed ? 1.f / std::sqrt(sum(m2) / a.D + a.eps) : 1.f;
        const float score = for_r * sum(by_r) + for_m * sum(by_m) + a.bias[0];
        const float g = 1.f / (1.f + std::exp(-score));
        if (a.kept) {
            a.kept[3 * row] = g;
            a.kept[3 * row + 1] = for_r;
            a.kept[3 * row + 2] = for_m;
        }
        const float of_r = g * for_r, of_m = (1.f - g) * for_m;
        for (int i = 0; i < a.D; i += L) store(out + i, of_r * load(r + i) + of_m * load(m + i));
    }
}
inline int gate_forward(const Gate& a) {
    return over_rows(a.rows, a.threads, 0, [&](i64, i64 from, i64 to, Scratch&) {
        typed(a.r.is_bf16, [&](auto* t) { gate_rows<std::remove_pointer_t<decltype(t)>>(a, from, to); });
    });
}
template <class T>
INLINE void gate_rows_back(const Gate& a, i64 from, i64 to, float* d_weight) {
    for (i64 row = from; row < to; row++) {
        const T *r = (const T*)at(a.r, 0, row, 0), *m = (const T*)at(a.m, 0, row, 0);
        const T* d_out = (const T*)at(a.d_out, 0, row, 0);
        T *dr = (T*)at(a.dr, 0, row, 0), *dm = (T*)at(a.dm, 0, row, 0);
        const float g = a.kept[3 * row], for_r = a.kept[3 * row + 1], for_m = a.kept[3 * row + 2];
        vf o_r = zero(), o_m = zero(), w_r = zero(), w_m = zero();
        for (int i = 0; i < a.D; i += L) {
            vf o = load(d_out + i), ri = for_r * load(r + i), mi = for_m * load(m + i);
            o_r += o * ri;
            o_m += o * mi;
            w_r += load(a.weight + i) * ri;
            w_m += load(a.weight + a.D + i) * mi;
        }
        const float along_r = sum(o_r), along_m = sum(o_m);
        const float d = (along_r - along_m) * g * (1.f - g);
        d_weight[2 * a.D] += d;
        // What a norm takes away: the part of the gradient along what it normalised.
        const float less_r = a.normed ? (g * along_r + d * sum(w_r)) / a.D : 0.f;
        const float less_m = a.normed ? ((1.f - g) * along_m + d * sum(w_m)) / a.D : 0.f;
        for (int i = 0; i < a.D; i += L) {
            vf o = load(d_out + i), ri = for_r * load(r + i), mi = for_m * load(m + i);
            float *wr = d_weight + i, *wm = d_weight + a.D + i;
            store(wr, load(wr) + d * ri);
            store(wm, load(wm) + d * mi);
            store(dr + i, for_r * (g * o + d * load(a.weight + i) - less_r * ri));
            store(dm + i, for_m * ((1.f - g) * o + d * load(a.weight + a.D + i) - less_m * mi));
        }
    }
}
inline int gate_backward(const Gate& a) {
    return over_rows(a.rows, a.threads, 0, [&](i64 block, i64 from, i64 to, Scratch&) {
        float* d_weight = a.d_weight + block * (2 * a.D + 1);
        memset(d_weight, 0, (2 * a.D + 1) * 4);
        typed(a.r.is_bf16, [&](auto* t) { gate_rows_back<std::remove_pointer_t<decltype(t)>>(a, from, to, d_weight); });
    });
}

// Written so that a NaN is not taken for a negative number
template <class T>
INLINE void relu2_span(const T* x, T* y, i64 n) {
    i64 i = 0;
    for (; i + L <= n; i += L) {
        vf v = load(x + i);
        v = v < 0.f ? zero() : v;
        store(y + i, v * v);
    }
    for (; i < n; i++) {
        float v = one(x + i);
        v = v < 0.f ? 0.f : v;
        put(y + i, v * v);
    }
}
template <class T>
INLINE void relu2_span_back(const T* x, const T* d_y, T* dx, i64 n) {
    i64 i = 0;
    for (; i + L <= n; i += L) {
        vf v = load(x + i);
        v = v < 0.f ? zero() : v;
        store(dx + i, 2.f * v * load(d_y + i));
    }
    for (; i < n; i++) {
        float v = one(x + i);
        v = v < 0.f ? 0.f : v;
        put(dx + i, 2.f * v * one(d_y + i));
    }
}
template <class Work>
inline int over_flat(i64 size, i64 threads, Work work) {
    return over_rows((size + 63) / 64, threads, 0, [&](i64, i64 from, i64 to, Scratch&) {
        work(std::min(size, from * 64), std::min(size, to * 64));
    });
}
inline int relu2_forward(const Flat& a) {
    return over_flat(a.size, a.threads, [&](i64 from, i64 to) {
        typed(a.x.is_bf16, [&](auto* t) {
            using T = std::remove_pointer_t<decltype(t)>;
            relu2_span((const T*)a.x.p + from, (T*)a.y.p + from, to - from);
        });
    });
}
inline int relu2_backward(const Flat& a) {
    return over_flat(a.size, a.threads, [&](i64 from, i64 to) {
        typed(a.x.is_bf16, [&](auto* t) {
            using T = std::remove_pointer_t<decltype(t)>;
            relu2_span_back((const T*)a.x.p + from, (const T*)a.d_y.p + from, (T*)a.dx.p + from, to - from);
        });
    });
}
