// Vectors of floats of the machine's own width, and the few functions that the kernels need.
//
// Written with the compilers' vector extensions, so that one source serves AVX-512, AVX2 and the
// baseline of any architecture. Nothing here loses a NaN: clamps are written so that a comparison
// with NaN keeps it. No -ffast-math: `exponential` relies on the order of its additions.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#define TWIN_BYTES 64
#define TWIN_TALL 8  // rows of a register tile: 8 x 2 of 32 registers stay in place
#elif defined(__AVX__)
#define TWIN_BYTES 32
#define TWIN_TALL 4
#else
#define TWIN_BYTES 16
#define TWIN_TALL 4
#endif

namespace simd {

constexpr int L = TWIN_BYTES / 4;  // lanes
typedef float vf __attribute__((vector_size(TWIN_BYTES)));
typedef int32_t vi __attribute__((vector_size(TWIN_BYTES)));
typedef uint32_t vu __attribute__((vector_size(TWIN_BYTES)));
typedef uint16_t vh __attribute__((vector_size(TWIN_BYTES / 2)));
typedef float vf_any __attribute__((vector_size(TWIN_BYTES), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(TWIN_BYTES / 2), aligned(2), may_alias));

#define INLINE inline __attribute__((always_inline))
// Register tiles are arrays that live in registers only where every loop over them is unrolled.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf load(const float* p) { return (vf) * (const vf_any*)p; }
INLINE void store(float* p, vf x) { *(vf_any*)p = (vf_any)x; }
INLINE vf all(float x) { return x - (vf){}; }
INLINE vf zero() { return (vf){}; }

INLINE vf load(const uint16_t* p) {
    vu wide = __builtin_convertvector((vh) * (const vh_any*)p, vu) << 16;
    return (vf)wide;
}
INLINE void store(uint16_t* p, vf x) {  // to nearest even, a NaN stays one
    vu bits = (vu)x;
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vi nan = x != x;
    rounded = (rounded & ~(vu)nan) | ((vu)nan & 0x7fc0);
    *(vh_any*)p = (vh_any)__builtin_convertvector(rounded, vh);
}
INLINE float one(const float* p) { return *p; }
INLINE float one(const uint16_t* p) {
    uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(uint16_t* p, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *p = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <int... I>
INLINE vf pick(vf a, vf b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, (vi){I...});
#endif
}
template <int S, int... J>
INLINE vf low_halves(vf a, vf b, std::integer_sequence<int, J...>) {
    return pick(a, b, std::integer_sequence<int, ((J & S) ? L + J - S : J)...>{});
}
template <int S, int... J>
INLINE vf high_halves(vf a, vf b, std::integer_sequence<int, J...>) {
    return pick(a, b, std::integer_sequence<int, ((J & S) ? L + J : J + S)...>{});
}
using lanes = std::make_integer_sequence<int, L>;

template <int S>
INLINE void exchange(vf* rows) {
    UNROLL
    for (int i = 0; i < L; i++)
        if (!(i & S)) {
            vf a = rows[i], b = rows[i + S];
            rows[i] = low_halves<S>(a, b, lanes{});
            rows[i + S] = high_halves<S>(a, b, lanes{});
        }
}
// to[c][r] = from[r][c]; both sizes are multiples of 16
inline void transpose(const float* from, ptrdiff_t ldf, float* to, ptrdiff_t ldt, int rows, int columns) {
    for (int r = 0; r < rows; r += L)
        for (int c = 0; c < columns; c += L) {
            vf block[L];
            UNROLL
            for (int i = 0; i < L; i++) block[i] = load(from + (r + i) * ldf + c);
            exchange<1>(block);
            exchange<2>(block);
            if constexpr (L > 4) exchange<4>(block);
            if constexpr (L > 8) exchange<8>(block);
            UNROLL
            for (int i = 0; i < L; i++) store(to + (c + i) * ldt + r, block[i]);
        }
}

template <int S, int... J>
INLINE vf rotated(vf a, std::integer_sequence<int, J...>) {
    return pick(a, a, std::integer_sequence<int, ((J + S) % L)...>{});
}
INLINE float sum(vf x) {
    if constexpr (L > 8) x += rotated<8>(x, lanes{});
    if constexpr (L > 4) x += rotated<4>(x, lanes{});
    x += rotated<2>(x, lanes{});
    x += rotated<1>(x, lanes{});
    return x[0];
}

// The smaller and the larger, x where it is not a number
INLINE vf at_most(vf x, float limit) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)all(limit), (__m512)x);
#else
    return x > limit ? all(limit) : x;
#endif
}
INLINE vf at_least(vf x, float limit) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)all(limit), (__m512)x);
#else
    return x < limit ? all(limit) : x;
#endif
}

// e^x to about 1 ulp (Cephes' expf); at most 3e38, at least 1.2e-38
INLINE vf exponential(vf x) {
    x = at_most(at_least(x, -87.33f), 88.72f);
    const vf magic = all(12582912.f);  // 1.5 * 2^23: the sum's low bits are the rounded integer
    vf shifted = x * 1.44269504088896341f + magic;
    vf n = shifted - magic;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
#if defined(__AVX512F__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    // 2^n in two factors: n may be 128
    vi whole = (vi)shifted - (vi)magic;
    vi half = whole >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
#endif
}
INLINE vf reciprocal(vf x) {  // of a number of ordinary size
#if defined(__AVX512F__)
    // A division of 16 lanes takes 16 cycles; 14 bits and one Newton step take 3.
    vf y = (vf)_mm512_rcp14_ps((__m512)x);
    return y * (2.f - x * y);
#else
    return 1.f / x;
#endif
}
INLINE vf sigmoid(vf x) { return reciprocal(1.f + exponential(-x)); }
// sums[t] = the sum over the lanes of row(t), for L rows t at once: a tree of L - 1 additions in
// place of log2(L) a row
template <int S>
INLINE void add_halves(vf* rows) {
    UNROLL
    for (int i = 0; i < L; i += 2 * S)
        rows[i] = low_halves<S>(rows[i], rows[i + S], lanes{}) + high_halves<S>(rows[i], rows[i + S], lanes{});
}
template <class Row>
INLINE vf row_sums(Row row) {
    vf rows[L];
    UNROLL
    for (int i = 0; i < L; i++) rows[i] = row(i);
    add_halves<1>(rows);
    add_halves<2>(rows);
    if constexpr (L > 4) add_halves<4>(rows);
    if constexpr (L > 8) add_halves<8>(rows);
    return rows[0];
}
INLINE vf root(vf x) {
    vf y;
    for (int i = 0; i < L; i++) y[i] = __builtin_sqrtf(x[i]);
    return y;
}

// log(1 + y) for 0 <= y <= 1 by the series of 2 atanh(y / (2 + y))
INLINE vf log_one_plus(vf y) {
    vf z = y / (y + 2.f), q = z * z;
    vf p = q * (1.f / 17) + 1.f / 15;
    p = p * q + 1.f / 13;
    p = p * q + 1.f / 11;
    p = p * q + 1.f / 9;
    p = p * q + 1.f / 7;
    p = p * q + 1.f / 5;
    p = p * q + 1.f / 3;
    return 2.f * (z + z * q * p);
}
INLINE vf softplus(vf x) {
    vf positive = x < 0.f ? zero() : x;
    vf magnitude = x < 0.f ? -x : x;
    return positive + log_one_plus(exponential(-magnitude));
}

}  // namespace simd
