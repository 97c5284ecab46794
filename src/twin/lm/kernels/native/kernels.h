// What every kernel shares: tensors as Python hands them over, small matrix products, scratch memory.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <type_traits>

#include "simd.h"

#if defined(_OPENMP)
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_num_threads(void);
static inline int team_size() { return omp_get_num_threads(); }
#else
static inline int omp_get_thread_num() { return 0; }
static inline int team_size() { return 1; }
#endif

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// Decays bring numbers below 1e-38, with which processors are a hundred times slower: they are 0
// while this object lives, on this thread.
struct NoDenormals {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    NoDenormals() { _mm_setcsr(before | 0x8040); }
    ~NoDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    NoDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    }
    ~NoDenormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#else
    NoDenormals() {}
    ~NoDenormals() {}
#endif
    NoDenormals(const NoDenormals&) = delete;
};

using namespace simd;
typedef int64_t i64;

constexpr int SEGMENT = 32;  // tokens that are worked on together; their states stay in the caches

// A tensor (batch, time, head, channel) whose last axis has a stride of one; p is null where absent.
struct Tensor {
    char* p;
    i64 batch, time, head;  // strides in elements
    i64 is_bf16;
};

INLINE char* at(const Tensor& x, i64 b, i64 t, i64 h) {
    return x.p + (b * x.batch + t * x.time + h * x.head) * (x.is_bf16 ? 2 : 4);
}

template <class To, class From>
INLINE void copy_rows(To* to, ptrdiff_t ldt, const From* from, ptrdiff_t ldf, int rows, int columns) {
    for (int t = 0; t < rows; t++) {
        int c = 0;
        for (; c + L <= columns; c += L) store(to + t * ldt + c, load(from + t * ldf + c));
        for (; c < columns; c++) put(to + t * ldt + c, one(from + t * ldf + c));
    }
}
// rows of one head, from a tensor into float32 scratch and back
inline void read_rows(const Tensor& x, i64 b, i64 t, i64 h, int rows, int columns, float* to, ptrdiff_t ldt) {
    if (x.is_bf16)
        copy_rows(to, ldt, (const uint16_t*)at(x, b, t, h), x.time, rows, columns);
    else
        copy_rows(to, ldt, (const float*)at(x, b, t, h), x.time, rows, columns);
}
inline void write_rows(const Tensor& x, i64 b, i64 t, i64 h, int rows, int columns, const float* from, ptrdiff_t ldf) {
    if (x.is_bf16)
        copy_rows((uint16_t*)at(x, b, t, h), x.time, from, ldf, rows, columns);
    else
        copy_rows((float*)at(x, b, t, h), x.time, from, ldf, rows, columns);
}
// All heads of a segment between tensors' rows and scratch (head, token, column) with room for
// SEGMENT tokens a head. Token after token through all tensors, which stand side by side in memory as
// a rule: twice as fast as head after head.
struct Moved {
    const Tensor* x;
    int columns;
    float* scratch;
};
template <class To, class From>
INLINE void move_row(To* to, ptrdiff_t t_head, const From* from, ptrdiff_t f_head, int heads, int columns) {
    for (int h = 0; h < heads; h++)
        for (int c = 0; c < columns; c += L) store(to + h * t_head + c, load(from + h * f_head + c));
}
template <class Element>
INLINE void read_token(const Moved& m, const char* row, ptrdiff_t next, int heads, float* to) {
    const Element* from = (const Element*)row;
    for (int h = 0; h < heads; h++)
        for (int c = 0; c < m.columns; c += L) {
            const Element* x = from + h * m.x->head + c;
            __builtin_prefetch((const char*)x + next);
            store(to + (ptrdiff_t)h * SEGMENT * m.columns + c, load(x));
        }
}
inline void read_heads(std::initializer_list<Moved> all_of, i64 b, i64 t0, int h0, int h1, int rows) {
    for (int t = 0; t < rows; t++)
        for (const Moved& m : all_of) {
            const ptrdiff_t next = t + 1 < rows ? m.x->time * (m.x->is_bf16 ? 2 : 4) : 0;
            if (!m.x->p) continue;
            if (m.x->is_bf16)
                read_token<uint16_t>(m, at(*m.x, b, t0 + t, h0), next, h1 - h0, m.scratch + t * m.columns);
            else
                read_token<float>(m, at(*m.x, b, t0 + t, h0), next, h1 - h0, m.scratch + t * m.columns);
        }
}
inline void write_heads(std::initializer_list<Moved> all_of, i64 b, i64 t0, int h0, int h1, int rows) {
    for (int t = 0; t < rows; t++)
        for (const Moved& m : all_of) {
            const float* from = m.scratch + t * m.columns;
            const ptrdiff_t size = (ptrdiff_t)SEGMENT * m.columns;
            char* to = at(*m.x, b, t0 + t, h0);
            if (!m.x->p) continue;
            if (m.x->is_bf16)
                move_row((uint16_t*)to, m.x->head, from, size, h1 - h0, m.columns);
            else
                move_row((float*)to, m.x->head, from, size, h1 - h0, m.columns);
        }
}

// A block of memory that a thread keeps from call to call and deals out in pieces.
struct Scratch {
    char* base = nullptr;
    size_t size = 0, used = 0;
    ~Scratch() { free(base); }
    bool reserve(size_t bytes) {
        used = 0;
        if (bytes <= size) return true;
        free(base);
        size = (bytes + 4095) & ~(size_t)4095;
        base = (char*)aligned_alloc(4096, size);
        if (!base) size = 0;
        return base != nullptr;
    }
    float* take(size_t floats) {
        float* p = (float*)(base + used);
        // A line more than asked: arrays of 4 KiB would all begin in the same cache set.
        used += ((floats * 4 + 63) & ~(size_t)63) + 64;
        return p;
    }
};

// C (rows x columns) = keep * C + A B. A's element (i, k) stands at a[i * row + k * next], so that a
// transposed A costs nothing; columns are a multiple of 16. keep = 0 does not read C.
template <int R, int N>
INLINE void product_tile(int depth, const float* a, ptrdiff_t row, ptrdiff_t next, const float* b,
                         ptrdiff_t ldb, float* c, ptrdiff_t ldc, float keep) {
    vf sum[R][N];
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) sum[i][n] = keep == 0.f ? zero() : keep * load(c + i * ldc + n * L);
    for (int k = 0; k < depth; k++) {
        vf line[N];
        UNROLL
        for (int n = 0; n < N; n++) line[n] = load(b + k * ldb + n * L);
        UNROLL
        for (int i = 0; i < R; i++) {
            vf x = all(a[i * row + k * next]);
            UNROLL
            for (int n = 0; n < N; n++) sum[i][n] += x * line[n];
        }
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) store(c + i * ldc + n * L, sum[i][n]);
}
template <int N>
INLINE void product_rows(int rows, int depth, const float* a, ptrdiff_t row, ptrdiff_t next, const float* b,
                         ptrdiff_t ldb, float* c, ptrdiff_t ldc, float keep) {
    int i = 0;
    for (; i + TWIN_TALL <= rows; i += TWIN_TALL)
        product_tile<TWIN_TALL, N>(depth, a + i * row, row, next, b, ldb, c + i * ldc, ldc, keep);
    for (; i < rows; i++) product_tile<1, N>(depth, a + i * row, row, next, b, ldb, c + i * ldc, ldc, keep);
}
inline void product(int rows, int columns, int depth, const float* a, ptrdiff_t row, ptrdiff_t next,
                    const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc, float keep) {
    int n = 0;
    for (; n + 2 * L <= columns; n += 2 * L)
        product_rows<2>(rows, depth, a, row, next, b + n, ldb, c + n, ldc, keep);
    for (; n + L <= columns; n += L)
        product_rows<1>(rows, depth, a, row, next, b + n, ldb, c + n, ldc, keep);
}

INLINE float dot(const float* a, const float* b, int n) {
    vf s = zero();
    for (int i = 0; i < n; i += L) s += load(a + i) * load(b + i);
    return sum(s);
}

// Threads that work on one sequence together, or one alone.
struct Team {
    int rank, size;
    void wait() const {
#if defined(_OPENMP)
        if (size > 1) {
#pragma omp barrier
        }
#endif
    }
    int from(int n) const { return (int)((i64)n * rank / size); }
    int to(int n) const { return (int)((i64)n * (rank + 1) / size); }
};
