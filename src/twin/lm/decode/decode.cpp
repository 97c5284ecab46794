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
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../kernels/native/simd.h"

#define PUBLIC __attribute__((visibility("default")))

namespace {

using namespace simd;

typedef int16_t vw __attribute__((vector_size(TWIN_BYTES), may_alias));
typedef int32_t vi_any __attribute__((vector_size(TWIN_BYTES), aligned(1), may_alias));

// Keeps a value in its register: compilers would rather load it again for each use, and here it is
// loads that there are too many of.
INLINE vf once(vf v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

INLINE vf silu(vf x) { return x * sigmoid(x); }
INLINE vf tanh(vf x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

}  // namespace

extern "C" {

// How weights are kept: the numbers are Python's `FORMS`.
enum { FP32 = 0, BF16 = 1, INT8 = 2 };

// A matrix (rows outputs, cols inputs) in panels; int8 with a scale a row.
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

// Bytes of whole numbers between -127 and 127.
INLINE void put_bytes(int8_t* to, vi whole) {
#if defined(__AVX512F__)
    _mm512_mask_cvtepi32_storeu_epi8(to, 0xffff, (__m512i)whole);
#elif defined(__AVX2__)
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)whole),
                                          _mm256_extracti128_si256((__m256i)whole, 1));
    _mm_storel_epi64((__m128i*)to, _mm_packs_epi16(words, words));
#else
    for (int i = 0; i < L; i++) to[i] = (int8_t)whole[i];
#endif
}

void quantize(const Rows& in, int n, int cols) {
    for (int r = 0; r < n; r++) {
        const float* x = in.x + (size_t)r * in.stride;
        int8_t* q = in.q + (size_t)r * in.q_stride;
        float most = 0;
        vf m = zero();
        vi odd = vi{};  // not zero where there is a NaN or an infinity
        int c = 0;
        for (; c + L <= cols; c += L) {
            const vf v = load(x + c), a = v < 0.0f ? -v : v;
            m = a > m ? a : m;
            odd |= ((vi)v & 0x7f800000) == 0x7f800000;
        }
        bool is_finite = true;
        for (int i = 0; i < L; i++) is_finite = is_finite && odd[i] == 0;
        for (int i = 0; i < L; i++) most = m[i] > most ? m[i] : most;
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
        const float inverse = most > 0 ? 127.0f / most : 0.0f;
        int32_t total = 0;
        vi totals = vi{};
        for (c = 0; c + L <= cols; c += L) {
            const vf v = load(x + c) * inverse;
            const vi whole = __builtin_convertvector(v + (v < 0.0f ? all(-0.5f) : all(0.5f)), vi);
            totals += whole;
            put_bytes(q + c, whole);
        }
        for (int i = 0; i < L; i++) total += totals[i];
        for (; c < cols; c++) {
            const float v = x[c] * inverse;
            q[c] = (int8_t)(v + (v < 0 ? -0.5f : 0.5f));
            total += q[c];
        }
        for (; c < up(cols, 4); c++) q[c] = 0;
        in.scale[r] = most / 127.0f;
        in.total[r] = total;
    }
}

// Four signed bytes of inputs for each sum, and their four products added to it; weights are stored
// as value + 128. TWIN_BYTE_DOTS says that processor and assembler know the instruction for it;
// else bytes are widened.
#if defined(TWIN_BYTE_DOTS)
typedef vi Four;
#else
struct Four {
    vw even, odd;  // the first and the third; the second and the fourth
};

// a * b, neighbours added: 16-bit numbers whose products' sums fit into 32 bits
INLINE vi pair_products(vw a, vw b) {
#if defined(__AVX512BW__) && TWIN_BYTES == 64
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && TWIN_BYTES == 32
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__x86_64__) && TWIN_BYTES == 16
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__) && TWIN_BYTES == 16
    return (vi)vpaddq_s32(vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b)),
                          vmull_high_s16((int16x8_t)a, (int16x8_t)b));
#else
    const vi low = (((vi)a << 16) >> 16) * (((vi)b << 16) >> 16);
    return low + ((vi)a >> 16) * ((vi)b >> 16);
#endif
}
#endif

INLINE Four four_bytes(const int8_t* q) {
    int32_t all_four;
    std::memcpy(&all_four, q, 4);
    const vi same = all_four - vi{};
#if defined(TWIN_BYTE_DOTS)
    return same;
#else
    return {(vw)(same << 8) >> 8, (vw)same >> 8};
#endif
}

INLINE vi dot4(vi sum, vi weights, const Four& inputs) {
#if defined(TWIN_BYTE_DOTS) && TWIN_BYTES == 64
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
#elif defined(TWIN_BYTE_DOTS)
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(inputs));
    return sum;
#else
    typedef uint16_t vuw __attribute__((vector_size(TWIN_BYTES)));
    sum += pair_products((vw)weights & 0xff, inputs.even);
    return sum + pair_products((vw)((vuw)weights >> 8), inputs.odd);
#endif
}

constexpr int WIDE = PANEL / L;  // vectors of a panel

// M rows times P panels. The inner loop has one chain for each output, in the order of k.
template <int KIND, int M, int P>
void tile(const Matrix& w, const Rows& in, int row, int panel, float* out, int out_stride) {
    const int cols = w.cols;
    constexpr int V = WIDE * P;
    vf result[M][V];
    if constexpr (KIND == INT8) {
        const int steps = up(cols, 4) / 4;
        const uint8_t* base = (const uint8_t*)w.weights + (size_t)panel * steps * 4 * PANEL;
        vi sum[M][V] = {};
        for (int k = 0; k < steps; k++) {
            Four inputs[M];
            UNROLL
            for (int m = 0; m < M; m++)
                inputs[m] = four_bytes(in.q + (size_t)(row + m) * in.q_stride + 4 * k);
            UNROLL
            for (int p = 0; p < P; p++) {
                const uint8_t* at = base + ((size_t)p * steps + k) * 4 * PANEL;
                UNROLL
                for (int v = 0; v < WIDE; v++) {
                    const vi weights = (vi) * (const vi_any*)(at + 4 * L * v);
                    UNROLL
                    for (int m = 0; m < M; m++)
                        sum[m][p * WIDE + v] = dot4(sum[m][p * WIDE + v], weights, inputs[m]);
                }
            }
        }
        UNROLL
        for (int m = 0; m < M; m++)
            UNROLL
            for (int v = 0; v < V; v++) {
                const vi exact = sum[m][v] - 128 * in.total[row + m];
                result[m][v] = __builtin_convertvector(exact, vf) * in.scale[row + m] *
                               load(w.scales + panel * PANEL + v * L);
            }
    } else {
        UNROLL
        for (int m = 0; m < M; m++)
            UNROLL
            for (int v = 0; v < V; v++) result[m][v] = zero();
        for (int k = 0; k < cols; k++) {
            vf weights[V];
            UNROLL
            for (int p = 0; p < P; p++) {
                const size_t at = (size_t)(panel + p) * cols + k;
                if constexpr (KIND == BF16) {
                    const uint32_t* pairs = (const uint32_t*)w.weights + at * (PANEL / 2);
                    UNROLL
                    for (int v = 0; v < WIDE / 2; v++) {
                        const vu both = (vu)(vi) * (const vi_any*)(pairs + v * L);
                        weights[p * WIDE + v] = (vf)(both << 16);
                        weights[p * WIDE + WIDE / 2 + v] = (vf)(both & 0xffff0000u);
                    }
                } else {
                    UNROLL
                    for (int v = 0; v < WIDE; v++)
                        weights[p * WIDE + v] = load((const float*)w.weights + at * PANEL + v * L);
                }
            }
            UNROLL
            for (int m = 0; m < M; m++) {
                const vf x = all(in.x[(size_t)(row + m) * in.stride + k]);
                UNROLL
                for (int v = 0; v < V; v++) result[m][v] += x * weights[v];
            }
        }
    }
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++)
            store(out + (size_t)(row + m) * out_stride + panel * PANEL + v * L, result[m][v]);
}

// How many rows fit into the registers with one panel.
#if defined(__AVX512F__)
constexpr int MOST = 12;
#else
constexpr int MOST = 2;
#endif

template <int KIND>
void rows_times(const Matrix& w, const Rows& in, int n, float* out, int stride) {
    const int panels = up(w.rows, PANEL) / PANEL;
    if (n == 1) {  // bound by memory: two panels at once, so that latency does not count
        int p = 0;
        for (; p + 2 <= panels; p += 2) tile<KIND, 1, 2>(w, in, 0, p, out, stride);
        if (p < panels) tile<KIND, 1, 1>(w, in, 0, p, out, stride);
        return;
    }
    for (int p = 0; p < panels; p++) {
        int r = 0;
        if constexpr (MOST == 12) {
            for (; r + 12 <= n; r += 12) tile<KIND, 12, 1>(w, in, r, p, out, stride);
            for (; r + 8 <= n; r += 8) tile<KIND, 8, 1>(w, in, r, p, out, stride);
            for (; r + 4 <= n; r += 4) tile<KIND, 4, 1>(w, in, r, p, out, stride);
        }
        for (; r + 2 <= n; r += 2) tile<KIND, 2, 1>(w, in, r, p, out, stride);
        if (r < n) tile<KIND, 1, 1>(w, in, r, p, out, stride);
    }
}

// out (n, stride) = in (n, cols) times the matrix transposed; writes up to a multiple of 32 columns.
void times(const Matrix& w, const Rows& in, int n, float* out, int stride) {
    switch (w.kind) {
        case INT8: return rows_times<INT8>(w, in, n, out, stride);
        case BF16: return rows_times<BF16>(w, in, n, out, stride);
        default: return rows_times<FP32>(w, in, n, out, stride);
    }
}

// out = x / rms(x) * weight; D is a multiple of 16. A null weight counts as ones.
void rmsnorm(const float* x, const float* weight, float eps, int D, float* out) {
    vf squares = zero();
    for (int d = 0; d < D; d += L) squares += load(x + d) * load(x + d);
    float inverse = 1.0f / std::sqrt(sum(squares) / D + eps);
    for (int d = 0; d < D; d += L) {
        vf v = load(x + d) * inverse;
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

// Columns of a state that are moved at once, so that they stay in registers. Every head has a
// multiple of 16.
constexpr int BLOCK = L > 4 ? 32 : 16;

// V vectors of columns of one head of RWKV: o += r S, S = diag(w) S + k v'.
template <int V>
INLINE void wkv_columns(const float* r, const float* w, const float* k, const float* v, int K,
                        float* S, float* o) {
    vf value[V], out[V];
    UNROLL
    for (int i = 0; i < V; i++) {
        value[i] = load(v + i * L);
        out[i] = load(o + i * L);
    }
    for (int c = 0; c < K; c++) {
        float* row = S + (size_t)c * K;
        const vf rc = all(r[c]), wc = all(w[c]), kc = all(k[c]);
        UNROLL
        for (int i = 0; i < V; i++) {
            const vf s = once(load(row + i * L));
            out[i] += rc * s;
            store(row + i * L, wc * s + kc * value[i]);
        }
    }
    UNROLL
    for (int i = 0; i < V; i++) store(o + i * L, out[i]);
}

// One stream's RWKV recurrence; reads p = [r|k|v|g|..] and w (decays before exp(-exp(.)), which
// it overwrites), moves the state by one token. In passes over all heads, so that the latencies of
// one head's sums hide behind the next head's.
void wkv(const Network& g, const Layer& l, const float* p, float* w, float* state, float* o) {
    const int D = g.D, K = g.K;
    const float *r = p, *k = r + D, *v = k + D, *gate = v + D;
    for (int d = 0; d < D; d += L) {
        vf logw = -exponential(load(w + d) + load(l.decay_base + d));
        store(w + d, exponential(logw < g.logw_min ? all(g.logw_min) : logw));
    }
    for (int h = 0; h < D; h += K) {  // what the token says to itself: sum_k r_k u_k k_k times v
        vf bonus = zero();
        for (int c = h; c < h + K; c += L) bonus += load(r + c) * load(l.bonus + c) * load(k + c);
        const float own = sum(bonus);
        for (int c = h; c < h + K; c += L) store(o + c, own * load(v + c));
    }
    for (int h = 0; h < D; h += K) {
        float* S = state + (size_t)h * K;
        int at = 0;
        for (; at + BLOCK <= K; at += BLOCK)
            wkv_columns<BLOCK / L>(r + h, w + h, k + h, v + h + at, K, S + at, o + h + at);
        for (; at < K; at += 16)
            wkv_columns<16 / L>(r + h, w + h, k + h, v + h + at, K, S + at, o + h + at);
    }
    for (int h = 0; h < D; h += K) {
        vf total = zero(), squares = zero();
        for (int c = h; c < h + K; c += L) total += load(o + c);
        const float mean = sum(total) / K;
        for (int c = h; c < h + K; c += L) squares += (load(o + c) - mean) * (load(o + c) - mean);
        const float inverse = 1.0f / std::sqrt(sum(squares) / K + g.head_eps);
        for (int c = h; c < h + K; c += L) {
            vf y = (load(o + c) - mean) * inverse * load(l.group_weight + c);
            store(o + c, (y + load(l.group_bias + c)) * silu(load(gate + c)));
        }
    }
}

// The convolution's step over a vector of channels from c on (or the one channel c): x holds the
// newest input and becomes the mixed one, conv the W - 1 inputs before.
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

// V vectors of channels of one head of Mamba: S = a S + dt B x', y = C S + skip x.
template <int V>
INLINE void ssd_columns(float a, float dt, float skip, const float* B, const float* C,
                        const float* x, int N, int P, float* S, float* y) {
    vf step[V], out[V];
    UNROLL
    for (int i = 0; i < V; i++) {
        step[i] = load(x + i * L);
        out[i] = step[i] * skip;
        step[i] *= dt;
    }
    const vf kept = all(a);
    for (int n = 0; n < N; n++) {
        float* row = S + (size_t)n * P;
        const vf b = all(B[n]), c = all(C[n]);
        UNROLL
        for (int i = 0; i < V; i++) {
            const vf s = kept * load(row + i * L) + b * step[i];
            store(row + i * L, s);
            out[i] += c * s;
        }
    }
    UNROLL
    for (int i = 0; i < V; i++) store(y + i * L, out[i]);
}

// One stream's convolution and state space; p = [z|x|B|C|dt] is overwritten.
void mamba(const Network& g, const Layer& l, float* p, float* conv, float* ssm, float* o) {
    const int P = g.P, N = g.N, Di = g.Hm * P, C = Di + 2 * N;
    const float* z = p;
    float *x = p + Di, *dt = p + Di + C;
    int c = 0;
    for (; c + L <= C; c += L) {
        convolve<vf>(g, l, x, conv, C, c);
        store(x + c, silu(load(x + c)));
    }
    for (; c < C; c++) {
        convolve<float>(g, l, x, conv, C, c);
        x[c] = x[c] / (1.0f + std::exp(-x[c]));
    }
    float kept[MOST_HEADS];
    for (int h = 0; h < g.Hm; h += L) {  // `lay_out` leaves room
        const vf step = softplus(load(dt + h) + load(l.dt_bias + h));
        store(dt + h, step);
        store(kept + h, exponential(load(l.a + h) * step));
    }
    const float *B = x + Di, *Cs = B + N;
    for (int h = 0; h < g.Hm; h++) {
        float *S = ssm + (size_t)h * N * P, *xh = x + h * P, *oh = o + h * P;
        int at = 0;
        for (; at + BLOCK <= P; at += BLOCK)
            ssd_columns<BLOCK / L>(kept[h], dt[h], l.skip[h], B, Cs, xh + at, N, P, S + at, oh + at);
        for (; at < P; at += 16)
            ssd_columns<16 / L>(kept[h], dt[h], l.skip[h], B, Cs, xh + at, N, P, S + at, oh + at);
    }
    vf squares = zero();
    for (int d = 0; d < Di; d += L) {
        const vf y = load(o + d) * silu(load(z + d));
        store(o + d, y);
        squares += y * y;
    }
    const float inverse = 1.0f / std::sqrt(sum(squares) / Di + g.eps);
    for (int d = 0; d < Di; d += L) store(o + d, load(o + d) * inverse * load(l.mamba_norm + d));
}

// x += y, times the channel's learnt scale where there is one.
inline void add(float* x, vf y, const float* gamma, int d) {
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
        vf share = zero();
        if (g.fusion == GF) {
            for (int d = 0; d < 2 * D; d += L) share += load(r + d) * load(l.fuse_a + d);
            share = sigmoid(all(sum(share) + l.fuse_b[0]));
        }
        for (int d = 0; d < D; d += L) {
            vf vr = load(r + d), vm = load(m + d), y;
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
    if (l.fuse.kind == INT8) quantize(in, n, 2 * D);
    times(l.fuse, in, n, s.f, s.f_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * D, *r = s.rm + (size_t)b * 2 * s.out_stride, *m = r + D;
        const float* y = s.f + (size_t)b * s.f_stride;
        for (int d = 0; d < D; d += L) {
            vf v = load(y + d);
            if (g.fusion == HGF) {
                vf share = sigmoid(v + load(l.fuse_b + d));
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
    if (l.rwkv_in.kind == INT8 || l.mamba_in.kind == INT8) quantize(in, n, D);
    if (has_rwkv) {
        times(l.rwkv_in, in, n, s.p, s.p_stride);
        for (int b = 0; b < n; b++) {
            float* lora = s.p + (size_t)b * s.p_stride + 4 * D;
            for (int c = 0; c < g.R; c += L) store(lora + c, tanh(load(lora + c)));
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
        if (l.rwkv_out.kind == INT8) quantize(o, n, D);
        times(l.rwkv_out, o, n, s.rm, 2 * s.out_stride);
    }
    if (has_mamba) {
        Rows o{s.o2, Di, s.q, s.q_stride, s.scale, s.total};
        if (l.mamba_out.kind == INT8) quantize(o, n, Di);
        // Its padding, if any, would lie beyond 2D, which the stride leaves room for.
        times(l.mamba_out, o, n, s.rm + D, 2 * s.out_stride);
    }
    fuse(g, l, s, n);
    for (int b = 0; b < n; b++) rmsnorm(s.x + (size_t)b * D, l.norm2, g.eps, D, s.h + (size_t)b * D);
    if (l.up.kind == INT8) quantize(in, n, D);
    times(l.up, in, n, s.f, s.f_stride);
    for (int b = 0; b < n; b++) {
        float* f = s.f + (size_t)b * s.f_stride;
        for (int d = 0; d < up(g.F, 16); d += L) {
            vf v = load(f + d);
            v = v > 0.0f ? v : zero();
            store(f + d, v * v);
        }
    }
    Rows hidden{s.f, s.f_stride, s.q, s.q_stride, s.scale, s.total};
    if (l.down.kind == INT8) quantize(hidden, n, g.F);
    times(l.down, hidden, n, s.rm, s.out_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * D, *y = s.rm + (size_t)b * s.out_stride;
        for (int d = 0; d < D; d += L) add(x + d, load(y + d), l.gamma_ffn, d);
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
    for (int back = 1; back <= g.window && missing; back += L) {
        if (back + L - 1 <= N) {  // as many places at once as a vector has
            const vi hits = load(recent + N - back - L + 1) == own;
            bool any = false;
            for (int i = 0; i < L; i++) any |= hits[i] != 0;
            if (!any) continue;
        }
        for (int b = back; b < back + L && b <= g.window && missing; b++) {
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
    if (g.context_projection.kind == INT8) quantize(in, n, width);
    times(g.context_projection, in, n, s.rm, s.out_stride);
    for (int b = 0; b < n; b++) {
        float *x = s.x + (size_t)b * g.D, *y = s.rm + (size_t)b * s.out_stride;
        for (int d = 0; d < g.D; d += L) store(x + d, load(x + d) + load(y + d));
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

// Floats that one call needs beside the state, and logits' stride: the caller allocates both.
PUBLIC int64_t decode_scratch(const Network* g, int64_t n) {
    n = n < ROWS ? n : ROWS;
    Scratch s = lay_out(*g, nullptr, (int)n);
    return (int64_t)((uintptr_t)s.q / sizeof(float)) + s.q_stride / 4 * n + 64;
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
        if (g.head.kind == INT8) quantize(in, rows, g.D);
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
