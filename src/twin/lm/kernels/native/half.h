// Matrix products in half precision that keep float32's range: AVX512-FP16 multiplies and adds, at
// twice float32's rate, within short runs; scales and what is summed for long are float32's.
//
// An operand is converted once into panels, blocks of columns that lie together row after row, times
// a power of two taken from its greatest finite magnitude. The limits below bound every sum, so
// nothing overflows that was finite; a NaN or an infinity stays one.
//
// Errors: an operand is rounded to 11 bits (2e-4 of it, root mean square). A run of r steps adds
// 2e-4 sqrt(r / 2); a chunk's 7 to 10 runs are then added in half precision too, chunks in float32.
// Together 1e-3, where bfloat16's rounding of the operands alone is 2e-3.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace half_products {

typedef _Float16 half;
#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

constexpr int TALL = 12;  // rows of a register tile; 12 x 2 of the 32 registers hold sums
constexpr int L = 32;     // lanes
constexpr int INPUT = 32, GRADIENT = 24;  // columns of a panel: of inputs and weights, of gradients
constexpr int CHUNK = 256;  // steps that are summed in half precision, at most
constexpr int RUN = 36;     // steps of a run over rows; over columns it is a panel
// Powers of two that scaled magnitudes do not exceed. CHUNK * 2^(INPUT + OTHER) = 2^15 leaves a
// factor of two below 65504 for what rounding adds.
constexpr int INPUT_LIMIT = 4, OTHER_LIMIT = 3;

INLINE __mmask16 lanes(ptrdiff_t left) {
    return left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

// The bits of the greatest finite magnitude.
inline uint32_t greatest(const float* x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns) {
    const __m512i sign = _mm512_set1_epi32(0x7fffffff), infinity = _mm512_set1_epi32(0x7f800000);
    __m512i most = _mm512_setzero_si512();
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c += 16) {
            __m512i bits = _mm512_maskz_loadu_epi32(lanes(columns - c), x + r * ld + c);
            bits = _mm512_and_si512(bits, sign);
            __mmask16 finite = _mm512_cmplt_epu32_mask(bits, infinity);
            most = _mm512_mask_max_epu32(most, finite, most, bits);
        }
    return _mm512_reduce_max_epu32(most);
}
// The exponent of the scale that brings the greatest magnitude just below 2^limit.
inline int exponent(uint32_t bits, int limit) {
    if (!bits) return 0;
    int wanted = limit - 1 - ((int)(bits >> 23) - 127);
    return wanted > 126 ? 126 : wanted < -126 ? -126 : wanted;
}
INLINE __m512 power(int exponent) {
    return _mm512_castsi512_ps(_mm512_set1_epi32((exponent + 127) << 23));
}

// Panels of T columns, `stride` halves apart; rows up to `padded` and columns up to T are zeros.
template <int T>
void convert(const float* x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t padded,
             int scale, half* to, ptrdiff_t stride) {
    const __m512 factor = power(scale);
    for (ptrdiff_t r = 0; r < rows; r++) {
        half* out = to + r * T;
        for (ptrdiff_t c = 0; c < columns; c += T, out += stride)
            for (int t = 0; t < T; t += 16) {
                __mmask16 here = lanes(columns - c - t);
                __m512 v = _mm512_maskz_loadu_ps(here, x + r * ld + c + t);
                __m256h low = _mm512_cvtxps_ph(_mm512_mul_ps(v, factor));
                if (T - t >= 16) _mm256_storeu_ph(out + t, low);
                else _mm_storeu_ph(out + t, _mm256_castph256_ph128(low));
            }
    }
    for (ptrdiff_t r = rows; r < padded; r++)
        for (ptrdiff_t c = 0, panel = 0; c < columns; c += T, panel++)
            memset(to + panel * stride + r * T, 0, T * sizeof(half));
}
// The panel of rows [first, first + 32) of w (rows, columns), transposed: (columns, 32).
inline void transpose(const float* w, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns,
                      ptrdiff_t first, int scale, half* to) {
    const __m512 factor = power(scale);
    for (ptrdiff_t k = 0; k < columns; k += 16) {
        alignas(64) half block[L][16];
        for (ptrdiff_t j = 0; j < L; j++) {
            __m512 v = _mm512_setzero_ps();
            if (first + j < rows)
                v = _mm512_maskz_loadu_ps(lanes(columns - k), w + (first + j) * ld + k);
            _mm256_store_ph(block[j], _mm512_cvtxps_ph(_mm512_mul_ps(v, factor)));
        }
        for (ptrdiff_t q = 0; q < 16 && k + q < columns; q++)
            for (ptrdiff_t j = 0; j < L; j++) to[(k + q) * L + j] = block[j][q];
    }
}

// The left operand of a tile: element (row i, step k) of a run at p[i * I + k * S]; a run is
// `length` steps, the next starts `next` halves on.
template <int I, int S>
struct Left {
    static constexpr int row = I, step = S;
    const half* p;
    ptrdiff_t length, next;
};
// The right one: rows of 32 halves, one a step; the panel to the right is `panel` halves away.
struct Right {
    const half* p;
    ptrdiff_t panel;
};
// Where a tile goes, times 2^scale.
struct Out {
    float* p;
    ptrdiff_t ld, rows, columns;
    int scale;
    bool adds;
};

template <int Z, class A>
INLINE void multiply(__m512h (&sum)[TALL][Z], const half* a, const half* b, ptrdiff_t panel) {
    __m512h right[Z];
    UNROLL for (int z = 0; z < Z; z++) right[z] = _mm512_load_ph(b + z * panel);
    UNROLL for (int i = 0; i < TALL; i++)
        UNROLL for (int z = 0; z < Z; z++)
            // Spelt out: from intrinsics compilers make a broadcast apart, which competes for a port.
            asm("vfmadd231ph %1%{1to32%}, %2, %0"
                : "+v"(sum[i][z])
                : "m"(a[i * A::row]), "v"(right[z]));
}

// 12 x (Z * 32) of the product over `steps` <= CHUNK.
template <int Z, class A>
__attribute__((noinline)) void tile(A left, Right right, ptrdiff_t steps, Out out) {
    alignas(64) half kept[TALL][Z][L];
    __m512h sum[TALL][Z];
    const ptrdiff_t rows = out.rows < TALL ? out.rows : TALL;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (int c = 0; c < Z * L && c < out.columns; c += 16)
            __builtin_prefetch(out.p + i * out.ld + c, 1, 3);
    for (bool is_first = true;; is_first = false) {
        UNROLL for (int i = 0; i < TALL; i++)
            UNROLL for (int z = 0; z < Z; z++) sum[i][z] = _mm512_setzero_ph();
        const ptrdiff_t run = steps < left.length ? steps : left.length;
        const half* a = left.p;
        ptrdiff_t k = 0;
        for (; k + 4 <= run; k += 4, a += 4 * A::step, right.p += 4 * L) {
            multiply<Z, A>(sum, a, right.p, right.panel);
            multiply<Z, A>(sum, a + A::step, right.p + L, right.panel);
            multiply<Z, A>(sum, a + 2 * A::step, right.p + 2 * L, right.panel);
            multiply<Z, A>(sum, a + 3 * A::step, right.p + 3 * L, right.panel);
        }
        for (; k < run; k++, a += A::step, right.p += L)
            multiply<Z, A>(sum, a, right.p, right.panel);
        left.p += left.next;
        steps -= run;
        if (!is_first)
            UNROLL for (int i = 0; i < TALL; i++)
                UNROLL for (int z = 0; z < Z; z++)
                    sum[i][z] = _mm512_add_ph(sum[i][z], _mm512_load_ph(kept[i][z]));
        if (!steps) break;
        UNROLL for (int i = 0; i < TALL; i++)
            UNROLL for (int z = 0; z < Z; z++) _mm512_store_ph(kept[i][z], sum[i][z]);
    }
    const __m512 scale = _mm512_set1_ps((float)out.scale);
    UNROLL for (int i = 0; i < TALL; i++) {
        if (i >= rows) break;
        UNROLL for (int z = 0; z < Z; z++)
            UNROLL for (int part = 0; part < 2; part++) {
                __m512d whole = _mm512_castph_pd(sum[i][z]);
                __m256d some = part ? _mm512_extractf64x4_pd(whole, 1) : _mm512_castpd512_pd256(whole);
                __m512 v = _mm512_cvtxph_ps(_mm256_castpd_ph(some));
                v = _mm512_scalef_ps(v, scale);
                const int c = z * L + part * 16;
                float* p = out.p + i * out.ld + c;
                __mmask16 here = lanes(out.columns - c);
                if (out.adds) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(here, p));
                _mm512_mask_storeu_ps(p, here, v);
            }
    }
}

template <int N>
struct Width {
    static constexpr int panels = N;
};
// Calls `f(width, column)` for every pair of panels and the panel that may be left.
template <class F>
INLINE void over_columns(ptrdiff_t columns, F f) {
    ptrdiff_t c = 0;
    for (; columns - c > L; c += 2 * L) f(Width<2>{}, c);
    if (c < columns) f(Width<1>{}, c);
}

// rows x columns = (panels of T columns, `stride` apart) times (panels of 32, `depth` rows each).
template <int T>
void rows_by_columns(const half* left, ptrdiff_t stride, const half* right, ptrdiff_t depth,
                     Out out) {
    constexpr ptrdiff_t chunk = CHUNK / T * T;
    for (ptrdiff_t k = 0; k < depth; k += chunk) {
        const ptrdiff_t steps = depth - k < chunk ? depth - k : chunk;
        over_columns(out.columns, [&](auto width, ptrdiff_t c) {
            constexpr int Z = decltype(width)::panels;
            const Right b{right + (c * depth + k * L), depth * L};
            for (ptrdiff_t r = 0; r < out.rows; r += TALL)
                tile<Z>(Left<T, 1>{left + k / T * stride + r * T, T, stride}, b, steps,
                        {out.p + r * out.ld + c, out.ld, out.rows - r, out.columns - c, out.scale,
                         out.adds || k > 0});
        });
    }
}

// columns [first, last) of the gradient by all of the input, summed over rows of a group.
inline void columns_by_columns(const half* gradient, const half* input, ptrdiff_t stride,
                               ptrdiff_t rows, ptrdiff_t first, ptrdiff_t last, Out out) {
    over_columns(out.columns, [&](auto width, ptrdiff_t c) {
        constexpr int Z = decltype(width)::panels;
        const Right b{input + c * stride, stride * L};
        for (ptrdiff_t n = first; n < last; n += TALL) {
            const half* a = gradient + n / GRADIENT * GRADIENT * stride + n % GRADIENT;
            tile<Z>(Left<1, GRADIENT>{a, RUN, RUN * GRADIENT}, b, rows,
                    {out.p + n * out.ld + c, out.ld, last - n, out.columns - c, out.scale,
                     out.adds});
        }
    });
}

}  // namespace half_products
