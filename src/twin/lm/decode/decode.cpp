// Decoding of the hybrid network: one call a token for all layers and all streams of a batch.
//
// Shapes: n streams, D width, H heads of K = V channels, Hm heads of P channels with N states,
// Di = Hm * P, C = Di + 2N convolved channels of width W, R rank of the decay, F hidden, VO vocabulary.
// Weights lie in panels of 32 outputs: fp32 [panel][k][32]; bf16 [panel][k][16 pairs of outputs
// j and 16 + j]; int8 [panel][k / 4][32][4], stored as value + 128. All sums are fp32, or exact
// int32. Each stream's sums run in the same order whatever the batch, so that a stream's answer does
// not depend on who else is answered. Nothing here allocates, locks, or knows of Python.

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define PUBLIC __attribute__((visibility("default")))

namespace {

typedef float f16v __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef float f16u __attribute__((vector_size(64), aligned(4)));
typedef int32_t i16u __attribute__((vector_size(64), aligned(1)));

inline f16v load(const float* p) { return (f16v) * (const f16u*)p; }
inline void store(float* p, f16v v) { *(f16u*)p = (f16u)v; }
inline f16v all(float x) { return x - f16v{}; }  // unlike x + 0, the compiler may drop the sum


// Keeps a value in its register: compilers would rather load it again for each use, and here it is
// loads that there are too many of.
inline f16v once(f16v v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

// Halves first: an order that vector units are good at, and the same on every machine.
inline float fold(f16v v) {
#if defined(__AVX512F__)
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#else
    float t[16];
    store(t, v);
    for (int i = 0; i < 8; i++) t[i] += t[i + 8];
    for (int i = 0; i < 4; i++) t[i] += t[i + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
#endif
}

// exp with a relative error under 2e-7; Cephes' polynomial after reduction by powers of two.
inline f16v exp16(f16v x) {
#if defined(__AVX512F__)
    // The variable second: that is the one that comes out where it is no number.
    x = (f16v)_mm512_max_ps(_mm512_set1_ps(-87.0f),
                            _mm512_min_ps(_mm512_set1_ps(88.0f), (__m512)x));
    const f16v n = (f16v)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0x08);
#else
    x = x > 88.0f ? all(88.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    const f16v shifted = x * 1.44269504f + (x < 0.0f ? all(-0.5f) : all(0.5f));
    const i16v whole = __builtin_convertvector(shifted, i16v);
    const f16v n = __builtin_convertvector(whole, f16v);
#endif
    const f16v r = x - n * 0.693359375f + n * 2.12194440e-4f;
    f16v p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
    return (f16v)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (f16v)((whole + 127) << 23);
#endif
}

// 1 / x for x >= 1: a division takes as long as eight products.
inline f16v inverse16(f16v x) {
#if defined(__AVX512F__)
    const f16v guess = (f16v)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}
inline f16v sigmoid16(f16v x) { return inverse16(1.0f + exp16(-x)); }
inline f16v silu16(f16v x) { return x * inverse16(1.0f + exp16(-x)); }
inline f16v tanh16(f16v x) { return 2.0f * inverse16(1.0f + exp16(-2.0f * x)) - 1.0f; }

// log(1 + exp(x)) through 2 atanh(y / (2 + y)) with y = exp(-|x|), whose argument is at most 1/3.
inline f16v softplus16(f16v x) {
    f16v y = exp16(x < 0.0f ? x : -x), z = y / (2.0f + y), zz = z * z, p = all(1.0f / 15);
    for (int odd = 13; odd > 0; odd -= 2) p = p * zz + 1.0f / odd;
    return (x < 0.0f ? all(0.0f) : x) + 2.0f * z * p;
}

}  // namespace

extern "C" {

// A matrix (rows outputs, cols inputs) in panels; kind 0 fp32, 1 bf16, 2 int8 with a scale a row.
struct Matrix {
    const void* weights;
    const float* scales;
    int32_t rows, cols, kind, pad;
};

// Which fusion: the numbers are Python's `Fusion` codes.
enum { GF = 0, HGF = 1, WS = 2, RF = 3, HY = 4, CP = 5, ONLY_RWKV = 6, ONLY_MAMBA = 7 };

struct Layer {
    Matrix rwkv_in, decay_up, rwkv_out, mamba_in, mamba_out, fuse, up, down;
    const float *norm1, *decay_base, *bonus, *group_weight, *group_bias;
    const float *conv_weight, *conv_bias, *dt_bias, *a, *skip, *mamba_norm;  // a = -exp(a_log)
    const float *fuse_a, *fuse_b, *norm2;
    const float *gamma_mix, *gamma_ffn;  // learnt scales of what is added to the stream, or null
};

struct Network {
    int32_t D, H, K, Hm, P, N, W, R, F, VO, layers, fusion;
    float eps, head_eps, logw_min;
    int32_t state_floats, layer_floats, branch_norm;
    // What a token brings of its context: n-grams of 2 .. ngram_max tokens, what followed those of
    // which `looked_up` has the bit length - 1, each an embedding of `part` numbers.
    int32_t recent, window, ngram_max, ngram_rows, part, features;
    uint32_t looked_up, pad;
    const float* context;     // (rows, part)
    Matrix context_projection;
    const float* embed;       // (VO, D)
    const float* final_norm;  // D
    const Layer* layer;
    Matrix head;
};
}

namespace {

int up(int n, int to) { return (n + to - 1) / to * to; }
constexpr int PANEL = 32;
constexpr int MOST_HEADS = 1024;
constexpr int ROWS = 64;  // streams that are worked on together; bounds the scratch

// Quantized inputs of a product: one scale and the sum of its bytes for each row.
struct Rows {
    const float* x;
    int stride;
    int8_t* q;
    int q_stride;
    float* scale;
    int32_t* total;
};

void quantize(const Rows& in, int n, int cols) {
    for (int r = 0; r < n; r++) {
        const float* x = in.x + (size_t)r * in.stride;
        int8_t* q = in.q + (size_t)r * in.q_stride;
        float most = 0;
        f16v m = all(0.0f);
        i16v odd = i16v{};  // not zero where there is a NaN or an infinity
        int c = 0;
        for (; c + 16 <= cols; c += 16) {
            f16v v = load(x + c), a = v < 0.0f ? -v : v;
            m = a > m ? a : m;
            odd |= ((i16v)v & 0x7f800000) == 0x7f800000;
        }
        bool is_finite = true;
        for (int i = 0; i < 16; i++) is_finite = is_finite && odd[i] == 0;
        for (int i = 0; i < 16; i++) most = m[i] > most ? m[i] : most;
        for (; c < cols; c++) {
            most = std::fabs(x[c]) > most ? std::fabs(x[c]) : most;
            is_finite = is_finite && std::isfinite(x[c]);
        }
        if (!is_finite) {  // bytes hold no NaN: the scale carries it to all of the outputs
            std::memset(q, 0, up(cols, 4));
            in.scale[r] = NAN;
            in.total[r] = 0;
            continue;
        }
        float inverse = most > 0 ? 127.0f / most : 0.0f;
        int32_t total = 0;
        i16v totals = i16v{};
        for (c = 0; c + 16 <= cols; c += 16) {
            f16v v = load(x + c) * inverse;
            i16v w = __builtin_convertvector(v + (v < 0.0f ? all(-0.5f) : all(0.5f)), i16v);
            totals += w;
#if defined(__AVX512F__)
            _mm512_mask_cvtepi32_storeu_epi8(q + c, 0xffff, (__m512i)w);
#else
            for (int i = 0; i < 16; i++) q[c + i] = (int8_t)w[i];
#endif
        }
        for (int i = 0; i < 16; i++) total += totals[i];
        for (; c < cols; c++) {
            float v = x[c] * inverse;
            q[c] = (int8_t)(v + (v < 0 ? -0.5f : 0.5f));
            total += q[c];
        }
        for (; c < up(cols, 4); c++) q[c] = 0;
        in.scale[r] = most / 127.0f;
        in.total[r] = total;
    }
}

// Four products of bytes to each of 16 sums. The instruction is written out because the file is
// compiled for all machines with AVX-512, of which not all have it: `has_vnni` asks at run time.
template <bool VNNI>
inline i16v dot4(i16v acc, i16v weights_u8, int32_t inputs_s8) {
#if defined(__AVX512F__)
    if constexpr (VNNI) {
        const i16v inputs = inputs_s8 - i16v{};
        asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights_u8), "v"(inputs));
        return acc;
    }
#endif
    int8_t a[4];
    std::memcpy(a, &inputs_s8, 4);
    const u16v w = (u16v)weights_u8;
    acc += (i16v)(w & 255u) * (int32_t)a[0];
    acc += (i16v)((w >> 8) & 255u) * (int32_t)a[1];
    acc += (i16v)((w >> 16) & 255u) * (int32_t)a[2];
    return acc + (i16v)(w >> 24) * (int32_t)a[3];
}

bool has_vnni() {
#if defined(__AVX512F__)
    static const bool has = __builtin_cpu_supports("avx512vnni");
    return has;
#else
    return false;
#endif
}

// M rows times P panels. The inner loop has one chain for each output, in the order of k.
template <int KIND, bool VNNI, int M, int P>
void tile(const Matrix& w, const Rows& in, int row, int panel, float* out, int out_stride) {
    const int cols = w.cols;
    f16v result[M][2 * P];
    if constexpr (KIND == 2) {
        const int steps = up(cols, 4) / 4;
        const uint8_t* base = (const uint8_t*)w.weights + (size_t)panel * steps * 128;
        i16v acc[M][2 * P] = {};
        for (int k = 0; k < steps; k++) {
            i16v panel_w[2 * P];
            _Pragma("GCC unroll 16")
            for (int p = 0; p < P; p++) {
                const uint8_t* at = base + ((size_t)p * steps + k) * 128;
                panel_w[2 * p] = (i16v) * (const i16u*)at;
                panel_w[2 * p + 1] = (i16v) * (const i16u*)(at + 64);
            }
            _Pragma("GCC unroll 16")
            for (int m = 0; m < M; m++) {
                int32_t four;
                std::memcpy(&four, in.q + (size_t)(row + m) * in.q_stride + 4 * k, 4);
                _Pragma("GCC unroll 16")
                for (int p = 0; p < 2 * P; p++) acc[m][p] = dot4<VNNI>(acc[m][p], panel_w[p], four);
            }
        }
        _Pragma("GCC unroll 16")
        for (int m = 0; m < M; m++)
            _Pragma("GCC unroll 16")
            for (int p = 0; p < 2 * P; p++) {
                i16v exact = acc[m][p] - 128 * in.total[row + m];
                result[m][p] = __builtin_convertvector(exact, f16v) * in.scale[row + m] *
                               load(w.scales + panel * PANEL + p * 16);
            }
    } else {
        _Pragma("GCC unroll 16")
        for (int m = 0; m < M; m++)
            _Pragma("GCC unroll 16")
            for (int p = 0; p < 2 * P; p++) result[m][p] = all(0.0f);
        for (int k = 0; k < cols; k++) {
            f16v panel_w[2 * P];
            _Pragma("GCC unroll 16")
            for (int p = 0; p < P; p++) {
                const size_t at = (size_t)(panel + p) * cols + k;
                if constexpr (KIND == 1) {
                    u16v both = (u16v) * (const i16u*)((const uint32_t*)w.weights + at * 16);
                    panel_w[2 * p] = (f16v)(both << 16);
                    panel_w[2 * p + 1] = (f16v)(both & 0xffff0000u);
                } else {
                    const float* f = (const float*)w.weights + at * PANEL;
                    panel_w[2 * p] = load(f);
                    panel_w[2 * p + 1] = load(f + 16);
                }
            }
            _Pragma("GCC unroll 16")
            for (int m = 0; m < M; m++) {
                f16v x = all(in.x[(size_t)(row + m) * in.stride + k]);
                _Pragma("GCC unroll 16")
                for (int p = 0; p < 2 * P; p++) result[m][p] += x * panel_w[p];
            }
        }
    }
    _Pragma("GCC unroll 16")
    for (int m = 0; m < M; m++)
        _Pragma("GCC unroll 16")
        for (int p = 0; p < 2 * P; p++)
            store(out + (size_t)(row + m) * out_stride + panel * PANEL + p * 16, result[m][p]);
}

// How many rows fit into the registers with one panel.
#if defined(__AVX512F__)
constexpr int MOST = 12;
#else
constexpr int MOST = 2;
#endif

template <int KIND, bool VNNI>
void rows_times(const Matrix& w, const Rows& in, int n, float* out, int stride) {
    const int panels = up(w.rows, PANEL) / PANEL;
    if (n == 1) {  // bound by memory: two panels at once, so that latency does not count
        int p = 0;
        for (; p + 2 <= panels; p += 2) tile<KIND, VNNI, 1, 2>(w, in, 0, p, out, stride);
        if (p < panels) tile<KIND, VNNI, 1, 1>(w, in, 0, p, out, stride);
        return;
    }
    for (int p = 0; p < panels; p++) {
        int r = 0;
        if constexpr (MOST == 12) {
            for (; r + 12 <= n; r += 12) tile<KIND, VNNI, 12, 1>(w, in, r, p, out, stride);
            for (; r + 8 <= n; r += 8) tile<KIND, VNNI, 8, 1>(w, in, r, p, out, stride);
            for (; r + 4 <= n; r += 4) tile<KIND, VNNI, 4, 1>(w, in, r, p, out, stride);
        }
        for (; r + 2 <= n; r += 2) tile<KIND, VNNI, 2, 1>(w, in, r, p, out, stride);
        if (r < n) tile<KIND, VNNI, 1, 1>(w, in, r, p, out, stride);
    }
}

// out (n, stride) = in (n, cols) times the matrix transposed; writes up to a multiple of 32 columns.
void times(const Matrix& w, const Rows& in, int n, float* out, int stride) {
    if (w.kind == 2 && has_vnni())
        rows_times<2, true>(w, in, n, out, stride);
    else if (w.kind == 2)
        rows_times<2, false>(w, in, n, out, stride);
    else if (w.kind == 1)
        rows_times<1, false>(w, in, n, out, stride);
    else
        rows_times<0, false>(w, in, n, out, stride);
}

// out = x / rms(x) * weight; D is a multiple of 16. A null weight counts as ones.
void rmsnorm(const float* x, const float* weight, float eps, int D, float* out) {
    f16v squares = all(0.0f);
    for (int d = 0; d < D; d += 16) squares += load(x + d) * load(x + d);
    float inverse = 1.0f / std::sqrt(fold(squares) / D + eps);
    for (int d = 0; d < D; d += 16) {
        f16v v = load(x + d) * inverse;
        store(out + d, weight ? v * load(weight + d) : v);
    }
}

struct Scratch {
    float *x, *h, *p, *w, *o, *o2, *rm, *f, *scale;
    int8_t* q;
    int32_t* total;
    int p_stride, w_stride, f_stride, q_stride, out_stride;
};

int widest(const Network& g) {
    const int Di = g.Hm * g.P;
    int most = g.F > 2 * g.D ? g.F : 2 * g.D;
    most = most > Di ? most : Di;
    return most > g.features * g.part ? most : g.features * g.part;
}

Scratch lay_out(const Network& g, float* at, int n) {
    const int Di = g.Hm * g.P, C = Di + 2 * g.N;
    Scratch s;
    // `mamba` works on whole vectors of the steps, which begin at Di + C, wherever that is.
    s.p_stride = up(4 * g.D + g.R, PANEL) + up(Di + C + up(g.Hm, 16), PANEL);
    s.w_stride = up(g.D, PANEL);
    s.f_stride = up(widest(g), PANEL);
    s.q_stride = up(widest(g), 64);
    s.out_stride = up(g.D, PANEL);
    auto take = [&](size_t floats) {
        float* mine = at;
        at += (floats * n + 15) / 16 * 16;
        return mine;
    };
    s.x = take(g.D);
    s.h = take(g.D);
    s.p = take(s.p_stride);
    s.w = take(s.w_stride);
    s.o = take(g.D);
    s.o2 = take(Di);
    s.rm = take(2 * s.out_stride);
    s.f = take(s.f_stride);
    s.scale = take(1);
    s.total = (int32_t*)take(1);
    s.q = (int8_t*)take(s.q_stride / 4);
    return s;
}

// One stream's RWKV recurrence; reads p = [r|k|v|g|..] and w (decays before exp(-exp(.)), which
// it overwrites), moves the state by one token. In passes over all heads, so that the latencies of
// one head's sums hide behind the next head's.
void wkv(const Network& g, const Layer& l, const float* p, float* w, float* state, float* o) {
    const int D = g.D, K = g.K;
    const float *r = p, *k = r + D, *v = k + D, *gate = v + D;
    for (int d = 0; d < D; d += 16) {
        f16v logw = -exp16(load(w + d) + load(l.decay_base + d));
        store(w + d, exp16(logw < g.logw_min ? all(g.logw_min) : logw));
    }
    for (int h = 0; h < D; h += K) {  // what the token says to itself: sum_k r_k u_k k_k times v
        f16v bonus = all(0.0f);
        for (int c = h; c < h + K; c += 16) bonus += load(r + c) * load(l.bonus + c) * load(k + c);
        const float own = fold(bonus);
        for (int c = h; c < h + K; c += 16) store(o + c, own * load(v + c));
    }
    for (int h = 0; h < D; h += K) {
        float* S = state + (size_t)h * K;
        int at = 0;
        for (; at + 32 <= K; at += 32) {
            const f16v va = load(v + h + at), vb = load(v + h + at + 16);
            f16v oa = load(o + h + at), ob = load(o + h + at + 16);
            for (int c = 0; c < K; c++) {
                float* row = S + (size_t)c * K + at;
                const f16v sa = once(load(row)), sb = once(load(row + 16));
                const f16v rc = all(r[h + c]), wc = all(w[h + c]), kc = all(k[h + c]);
                oa += rc * sa;
                ob += rc * sb;
                store(row, wc * sa + kc * va);
                store(row + 16, wc * sb + kc * vb);
            }
            store(o + h + at, oa);
            store(o + h + at + 16, ob);
        }
        for (; at < K; at += 16) {
            const f16v va = load(v + h + at);
            f16v oa = load(o + h + at);
            for (int c = 0; c < K; c++) {
                float* row = S + (size_t)c * K + at;
                const f16v sa = load(row);
                oa += r[h + c] * sa;
                store(row, w[h + c] * sa + k[h + c] * va);
            }
            store(o + h + at, oa);
        }
    }
    for (int h = 0; h < D; h += K) {
        f16v total = all(0.0f), squares = all(0.0f);
        for (int c = h; c < h + K; c += 16) total += load(o + c);
        const float mean = fold(total) / K;
        for (int c = h; c < h + K; c += 16) squares += (load(o + c) - mean) * (load(o + c) - mean);
        const float inverse = 1.0f / std::sqrt(fold(squares) / K + g.head_eps);
        for (int c = h; c < h + K; c += 16) {
            f16v y = (load(o + c) - mean) * inverse * load(l.group_weight + c);
            store(o + c, (y + load(l.group_bias + c)) * silu16(load(gate + c)));
        }
    }
}

// The convolution's step over channels c .. c + 15 (or the one channel c): x holds the newest input
// and becomes the mixed one, conv the W - 1 inputs before.
template <typename Lanes>
void convolve(const Network& g, const Layer& l, float* x, float* conv, int C, int c) {
    auto at = [](const float* from) {
        Lanes v;
        std::memcpy(&v, from, sizeof v);
        return v;
    };
    const Lanes now = at(x + c);
    Lanes y = at(l.conv_bias + c) + at(l.conv_weight + (size_t)(g.W - 1) * C + c) * now;
    for (int j = 0; j < g.W - 1; j++) {
        float* slot = conv + (size_t)j * C + c;
        y += at(l.conv_weight + (size_t)j * C + c) * at(slot);
        const Lanes next = j + 2 < g.W ? at(slot + C) : now;
        std::memcpy(slot, &next, sizeof next);
    }
    std::memcpy(x + c, &y, sizeof y);
}

// One stream's convolution and state space; p = [z|x|B|C|dt] is overwritten.
void mamba(const Network& g, const Layer& l, float* p, float* conv, float* ssm, float* o) {
    const int P = g.P, N = g.N, Di = g.Hm * P, C = Di + 2 * N;
    const float* z = p;
    float *x = p + Di, *dt = p + Di + C;
    int c = 0;
    for (; c + 16 <= C; c += 16) {
        convolve<f16v>(g, l, x, conv, C, c);
        store(x + c, silu16(load(x + c)));
    }
    for (; c < C; c++) {
        convolve<float>(g, l, x, conv, C, c);
        x[c] = x[c] / (1.0f + std::exp(-x[c]));
    }
    float kept[MOST_HEADS];
    for (int h = 0; h < g.Hm; h += 16) {  // `lay_out` leaves room
        const f16v step = softplus16(load(dt + h) + load(l.dt_bias + h));
        store(dt + h, step);
        store(kept + h, exp16(load(l.a + h) * step));
    }
    const float *B = x + Di, *Cs = B + N;
    for (int h = 0; h < g.Hm; h++) {
        float* S = ssm + (size_t)h * N * P;
        const float a = kept[h];
        int at = 0;
        for (; at + 32 <= P; at += 32) {
            f16v xa = load(x + h * P + at), xb = load(x + h * P + at + 16);
            f16v ya = xa * l.skip[h], yb = xb * l.skip[h];
            xa *= dt[h];
            xb *= dt[h];
            for (int i = 0; i < N; i++) {
                float* row = S + (size_t)i * P + at;
                const f16v b = all(B[i]), c = all(Cs[i]);
                const f16v sa = a * load(row) + b * xa, sb = a * load(row + 16) + b * xb;
                store(row, sa);
                store(row + 16, sb);
                ya += c * sa;
                yb += c * sb;
            }
            store(o + h * P + at, ya);
            store(o + h * P + at + 16, yb);
        }
        for (; at < P; at += 16) {
            f16v xa = load(x + h * P + at), ya = xa * l.skip[h];
            xa *= dt[h];
            for (int i = 0; i < N; i++) {
                float* row = S + (size_t)i * P + at;
                const f16v sa = a * load(row) + B[i] * xa;
                store(row, sa);
                ya += Cs[i] * sa;
            }
            store(o + h * P + at, ya);
        }
    }
    f16v squares = all(0.0f);
    for (int d = 0; d < Di; d += 16) {
        const f16v y = load(o + d) * silu16(load(z + d));
        store(o + d, y);
        squares += y * y;
    }
    const float inverse = 1.0f / std::sqrt(fold(squares) / Di + g.eps);
    for (int d = 0; d < Di; d += 16) store(o + d, load(o + d) * inverse * load(l.mamba_norm + d));
}

// x += y, times the channel's learnt scale where there is one.
inline void add(float* x, f16v y, const float* gamma, int d) {
    store(x, load(x) + (gamma ? y * load(gamma + d) : y));
}

// x += the two branches together; rm = [r|m] of each stream, normalized in place where asked.
void fuse(const Network& g, const Layer& l, const Scratch& s, int n) {
    const int D = g.D;
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * D, *r = s.rm + (size_t)b * 2 * s.out_stride, *m = r + D;
        if (g.branch_norm) {
            rmsnorm(r, nullptr, g.eps, D, r);
            rmsnorm(m, nullptr, g.eps, D, m);
        }
        f16v share = all(0.0f);
        if (g.fusion == GF) {
            for (int d = 0; d < 2 * D; d += 16) share += load(r + d) * load(l.fuse_a + d);
            share = sigmoid16(all(fold(share) + l.fuse_b[0]));
        }
        for (int d = 0; d < D; d += 16) {
            f16v vr = load(r + d), vm = load(m + d), y;
            switch (g.fusion) {
                case GF: y = vm + share * (vr - vm); break;
                case WS: y = vm + l.fuse_a[0] * (vr - vm); break;
                case RF: y = vr + l.fuse_a[0] * vm; break;
                case HY: y = load(l.fuse_a + d) * vr + load(l.fuse_b + d) * vm; break;
                case ONLY_RWKV: y = vr; break;
                case ONLY_MAMBA: y = vm; break;
                default: continue;  // HGF and CP: below, through a matrix
            }
            add(x + d, y, l.gamma_mix, d);
        }
    }
    if (g.fusion != HGF && g.fusion != CP) return;
    Rows in{s.rm, 2 * s.out_stride, s.q, s.q_stride, s.scale, s.total};
    if (l.fuse.kind == 2) quantize(in, n, 2 * D);
    times(l.fuse, in, n, s.f, s.f_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * D, *r = s.rm + (size_t)b * 2 * s.out_stride, *m = r + D;
        const float* y = s.f + (size_t)b * s.f_stride;
        for (int d = 0; d < D; d += 16) {
            f16v v = load(y + d);
            if (g.fusion == HGF) {
                f16v share = sigmoid16(v + load(l.fuse_b + d));
                v = load(m + d) + share * (load(r + d) - load(m + d));
            }
            add(x + d, v, l.gamma_mix, d);
        }
    }
}

void run_layer(const Network& g, const Layer& l, const Scratch& s, int n, float* state) {
    const int D = g.D, Di = g.Hm * g.P, C = Di + 2 * g.N;
    const int mamba_at = up(4 * D + g.R, PANEL);
    const int wkv_floats = g.fusion == ONLY_MAMBA ? 0 : g.H * g.K * g.K;
    const bool has_rwkv = g.fusion != ONLY_MAMBA, has_mamba = g.fusion != ONLY_RWKV;
    Rows in{s.h, D, s.q, s.q_stride, s.scale, s.total};
    for (int b = 0; b < n; b++) rmsnorm(s.x + (size_t)b * D, l.norm1, g.eps, D, s.h + (size_t)b * D);
    if (l.rwkv_in.kind == 2 || l.mamba_in.kind == 2) quantize(in, n, D);
    if (has_rwkv) {
        times(l.rwkv_in, in, n, s.p, s.p_stride);
        for (int b = 0; b < n; b++) {
            float* lora = s.p + (size_t)b * s.p_stride + 4 * D;
            for (int c = 0; c < g.R; c += 16) store(lora + c, tanh16(load(lora + c)));
        }
        Rows lora{s.p + 4 * D, s.p_stride, s.q, s.q_stride, s.scale, s.total};
        times(l.decay_up, lora, n, s.w, s.w_stride);
    }
    if (has_mamba) times(l.mamba_in, in, n, s.p + mamba_at, s.p_stride);
    for (int b = 0; b < n; b++) {
        float *p = s.p + (size_t)b * s.p_stride, *w = s.w + (size_t)b * s.w_stride;
        float* own = state + (size_t)b * g.state_floats;
        if (has_rwkv) {
            wkv(g, l, p, w, own, s.o + (size_t)b * D);
        }
        if (has_mamba)
            mamba(g, l, p + mamba_at, own + wkv_floats, own + wkv_floats + (size_t)(g.W - 1) * C,
                  s.o2 + (size_t)b * Di);
    }
    if (has_rwkv) {
        Rows o{s.o, D, s.q, s.q_stride, s.scale, s.total};
        if (l.rwkv_out.kind == 2) quantize(o, n, D);
        times(l.rwkv_out, o, n, s.rm, 2 * s.out_stride);
    }
    if (has_mamba) {
        Rows o{s.o2, Di, s.q, s.q_stride, s.scale, s.total};
        if (l.mamba_out.kind == 2) quantize(o, n, Di);
        // Its padding, if any, would lie beyond 2D, which the stride leaves room for.
        times(l.mamba_out, o, n, s.rm + D, 2 * s.out_stride);
    }
    fuse(g, l, s, n);
    for (int b = 0; b < n; b++) rmsnorm(s.x + (size_t)b * D, l.norm2, g.eps, D, s.h + (size_t)b * D);
    if (l.up.kind == 2) quantize(in, n, D);
    times(l.up, in, n, s.f, s.f_stride);
    for (int b = 0; b < n; b++) {
        float* f = s.f + (size_t)b * s.f_stride;
        for (int d = 0; d < up(g.F, 16); d += 16) {
            f16v v = load(f + d);
            v = v > 0.0f ? v : all(0.0f);
            store(f + d, v * v);
        }
    }
    Rows hidden{s.f, s.f_stride, s.q, s.q_stride, s.scale, s.total};
    if (l.down.kind == 2) quantize(hidden, n, g.F);
    times(l.down, hidden, n, s.rm, s.out_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * D, *y = s.rm + (size_t)b * s.out_stride;
        for (int d = 0; d < D; d += 16) add(x + d, load(y + d), l.gamma_ffn, d);
    }
}

// The embeddings that go with a token into `out`, one after the other, and the token into the
// `recent` ones, oldest first, which are kept plus 1: 0 stands before the first. As in layers.py.
void remember(const Network& g, int64_t token, float* recent, float* out) {
    constexpr uint64_t STEP = 0x9e3779b1, MIX = 0x2c1b3c6d, MASK = (1ull << 31) - 1;
    const int N = g.recent, longest = g.looked_up ? 32 - __builtin_clz(g.looked_up) : 0;
    const float own = (float)(token + 1);
    float after[32] = {};
    uint32_t missing = g.looked_up;
    for (int back = 1; back <= g.window && missing; back += 16) {
        if (back + 15 <= N) {  // sixteen places at once
            const i16v hits = load(recent + N - back - 15) == own;
            bool any = false;
            for (int i = 0; i < 16; i++) any |= hits[i] != 0;
            if (!any) continue;
        }
        for (int b = back; b < back + 16 && b <= g.window && missing; b++) {
            const int at = N - b;
            if (recent[at] != own) continue;
            const float follower = b == 1 ? own : recent[at + 1];
            for (int length = 1;; length++) {
                const uint32_t bit = 1u << (length - 1);
                if (missing & bit) after[length - 1] = follower;
                missing &= ~bit;
                if (length == longest || recent[N - length] == 0.0f ||
                    recent[at - length] != recent[N - length])
                    break;
            }
        }
    }
    uint64_t code = token + 1;
    const int most = g.ngram_max > longest ? g.ngram_max : longest;
    for (int length = 1; length <= most; length++) {
        if (length > 1 && length <= g.ngram_max) {
            code = (code * STEP + (uint64_t)recent[N + 1 - length]) & MASK;
            uint64_t mixed = ((code ^ (code >> 15)) * MIX) & MASK;
            mixed = (mixed ^ (mixed >> 13)) % g.ngram_rows + (uint64_t)(length - 2) * g.ngram_rows;
            std::memcpy(out, g.context + mixed * g.part, g.part * sizeof(float));
            out += g.part;
        }
        if (length <= longest && (g.looked_up >> (length - 1) & 1)) {
            const size_t before = g.ngram_max > 1 ? (size_t)(g.ngram_max - 1) * g.ngram_rows : 0;
            const size_t row = before + (size_t)after[length - 1];
            std::memcpy(out, g.context + row * g.part, g.part * sizeof(float));
            out += g.part;
        }
    }
    std::memmove(recent, recent + 1, (N - 1) * sizeof(float));
    recent[N - 1] = own;
}

// What all streams' contexts add to their tokens' embeddings in s.x.
void add_context(const Network& g, const Scratch& s, const int64_t* tokens, int n, float* state) {
    const int width = g.features * g.part;
    for (int b = 0; b < n; b++) {
        float* own = state + (size_t)b * g.state_floats + (size_t)g.layers * g.layer_floats;
        remember(g, tokens[b], own, s.f + (size_t)b * s.f_stride);
    }
    Rows in{s.f, s.f_stride, s.q, s.q_stride, s.scale, s.total};
    if (g.context_projection.kind == 2) quantize(in, n, width);
    times(g.context_projection, in, n, s.rm, s.out_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * g.D, *y = s.rm + (size_t)b * s.out_stride;
        for (int d = 0; d < g.D; d += 16) store(x + d, load(x + d) + load(y + d));
    }
}

// splitmix64: the n-th number of a seed, without a state, so that a stream's draws are its own.
double uniform(uint64_t seed, uint64_t place) {
    uint64_t z = seed + (place + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (double)((z ^ (z >> 31)) >> 11) * (1.0 / 9007199254740992.0);
}

int64_t draw(const float* logits, int n, double temperature, double u) {
    int best = 0;
    for (int i = 1; i < n; i++) best = logits[i] > logits[best] ? i : best;
    if (temperature <= 0) return best;
    double total = 0;
    for (int i = 0; i < n; i++) total += std::exp((logits[i] - logits[best]) / temperature);
    double left = u * total;
    for (int i = 0; i < n; i++) {
        left -= std::exp((logits[i] - logits[best]) / temperature);
        if (left < 0) return i;
    }
    return best;
}

}  // namespace

extern "C" {

// Bytes of the structs, for the caller to compare with its own idea of them.
PUBLIC int64_t decode_sizes(int which) {
    return which == 0 ? sizeof(Matrix) : which == 1 ? sizeof(Layer) : sizeof(Network);
}

PUBLIC double decode_uniform(uint64_t seed, uint64_t place) { return uniform(seed, place); }

PUBLIC int32_t decode_multiplies_bytes(void) { return has_vnni(); }

// Floats that one call needs beside the state, and logits' stride: the caller allocates both.
PUBLIC int64_t decode_scratch(const Network* g, int64_t n) {
    n = n < ROWS ? n : ROWS;
    Scratch s = lay_out(*g, nullptr, (int)n);
    return (int64_t)((float*)s.q - (float*)nullptr) + s.q_stride / 4 * n + 64;
}
PUBLIC int64_t decode_logits_stride(const Network* g) { return up(g->VO, PANEL); }

// tokens (n) -> logits (n, stride); state (n, state_floats) moves by one token.
PUBLIC void decode_step(const Network* network, const int64_t* tokens, float* state, float* logits,
                 float* scratch, int64_t n) {
    const Network& g = *network;
    const int stride = up(g.VO, PANEL);
    for (int64_t from = 0; from < n; from += ROWS) {
        const int rows = (int)(n - from < ROWS ? n - from : ROWS);
        Scratch s = lay_out(g, scratch, rows);
        for (int b = 0; b < rows; b++)
            rmsnorm(g.embed + (size_t)tokens[from + b] * g.D, nullptr, g.eps, g.D,
                    s.x + (size_t)b * g.D);
        float* own = state + (size_t)from * g.state_floats;
        if (g.recent) add_context(g, s, tokens + from, rows, own);
        for (int i = 0; i < g.layers; i++)
            run_layer(g, g.layer[i], s, rows, own + (size_t)i * g.layer_floats);
        for (int b = 0; b < rows; b++)
            rmsnorm(s.x + (size_t)b * g.D, g.final_norm, g.eps, g.D, s.h + (size_t)b * g.D);
        Rows in{s.h, g.D, s.q, s.q_stride, s.scale, s.total};
        if (g.head.kind == 2) quantize(in, rows, g.D);
        times(g.head, in, rows, logits + (size_t)from * stride, stride);
    }
}

// Token after token without a word from Python: out (n, steps). `tokens` are the ones to begin
// with; draws are greedy at temperature 0, else with uniform(seed of the stream, place + step).
PUBLIC void decode_run(const Network* network, const int64_t* tokens, float* state, float* logits,
                float* scratch, int64_t n, int64_t steps, double temperature, const uint64_t* seeds,
                int64_t place, int64_t* current, int64_t* out) {
    const int stride = up(network->VO, PANEL);
    for (int64_t b = 0; b < n; b++) current[b] = tokens[b];
    for (int64_t t = 0; t < steps; t++) {
        decode_step(network, current, state, logits, scratch, n);
        for (int64_t b = 0; b < n; b++) {
            current[b] = draw(logits + b * stride, network->VO, temperature,
                              temperature > 0 ? uniform(seeds[b], place + t) : 0.0);
            out[b * steps + t] = current[b];
        }
    }
}
}
