// RWKV-6's recurrence, token by token and exact, with what surrounds it in the network.
//
//   o_t = r_t (S_{t-1} + diag(u) k_t v_t^T);   S_t = diag(w_t) S_{t-1} + k_t v_t^T
//
// Forward walks with the lanes along V, so that o needs no sum across lanes; backward walks with
// the lanes along K for dr, dk and dw, and once more along V for dv: that one is the forward walk
// itself, backwards in time with r and k, v and do exchanged. Register tiles of the state stay in
// place for a whole segment of tokens.
#pragma once
#include "kernels.h"

struct Wkv {
    i64 B, T, H, K, V, threads;
    i64 is_fused;  // w is the network's: log w = max(-exp(w), logw_min); else w is log w itself
    float logw_min, norm_eps;
    Tensor r, k, v, w, g;  // g, norm: null for the bare recurrence
    const float* u;        // (H, K)
    const float *norm_weight, *norm_bias;  // (H V)
    const float* state;    // (B, H, K, V)
    float* state_out;
    Tensor o;      // the output
    float* saved;  // (B, segments, H, K, V) states before each segment; null where not needed
    float* raw;    // (B, T, H, V) o before its norm, float32; null unless fused and needed
    // backward
    Tensor d_o, dr, dk, dv, dw, dg;
    const float* d_state_out;  // null: zero
    float* d_state;
    float* du;     // (B, H, K), to be summed over B
    float *d_norm_weight, *d_norm_bias;  // (B, H V), to be summed over B
};

// o_t += sum_i r_t[i] S[i][:], then S[i][:] = w_t[i] S[i][:] + k_t[i] v_t[:], for R rows and N vectors
template <int R, int N>
INLINE void walk_tile(int tokens, float* s, ptrdiff_t lds, const float* r, const float* k, const float* w,
                      ptrdiff_t ldk, const float* v, float* o, ptrdiff_t ldv) {
    vf state[R][N];
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) state[i][n] = load(s + i * lds + n * L);
    for (int t = 0; t < tokens; t++) {
        vf out[N], value[N];
        UNROLL
        for (int n = 0; n < N; n++) out[n] = load(o + n * L), value[n] = load(v + n * L);
        UNROLL
        for (int i = 0; i < R; i++) {
            vf read = all(r[i]), key = all(k[i]), keep = all(w[i]);
            UNROLL
            for (int n = 0; n < N; n++) {
                out[n] += read * state[i][n];
                state[i][n] = keep * state[i][n] + key * value[n];
            }
        }
        UNROLL
        for (int n = 0; n < N; n++) store(o + n * L, out[n]);
        r += ldk, k += ldk, w += ldk, v += ldv, o += ldv;
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) store(s + i * lds + n * L, state[i][n]);
}
inline void walk(int tokens, int K, int V, float* s, const float* r, const float* k, const float* w,
                 ptrdiff_t ldk, const float* v, float* o, ptrdiff_t ldv) {
    for (int i = 0; i < K; i += TWIN_TALL) {
        int n = 0;
        for (; n + 2 * L <= V; n += 2 * L)
            walk_tile<TWIN_TALL, 2>(tokens, s + i * V + n, V, r + i, k + i, w + i, ldk, v + n, o + n, ldv);
        for (; n + L <= V; n += L)
            walk_tile<TWIN_TALL, 1>(tokens, s + i * V + n, V, r + i, k + i, w + i, ldk, v + n, o + n, ldv);
    }
}

// With the lanes along K: forwards for dr, keeping each token's state in `kept`; backwards for dk
// and dw. All three are added to. s and d are rows of V, lanes of K.
template <int R, int N>
INLINE void return_tile(int tokens, const float* s, float* d, ptrdiff_t K, const float* r, const float* k,
                        const float* w, const float* v, const float* d_o, ptrdiff_t V, float* dr, float* dk,
                        float* dw, float* kept) {
    vf state[R][N];
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) state[i][n] = load(s + i * K + n * L);
    for (int t = 0; t < tokens; t++) {
        vf sum[N], key[N], keep[N];
        UNROLL
        for (int n = 0; n < N; n++) {
            sum[n] = load(dr + t * K + n * L);
            key[n] = load(k + t * K + n * L);
            keep[n] = load(w + t * K + n * L);
        }
        UNROLL
        for (int i = 0; i < R; i++) {
            vf value = all(v[t * V + i]), wish = all(d_o[t * V + i]);
            UNROLL
            for (int n = 0; n < N; n++) {
                store(kept + ((t * R + i) * N + n) * L, state[i][n]);
                sum[n] += wish * state[i][n];
                state[i][n] = keep[n] * state[i][n] + key[n] * value;
            }
        }
        UNROLL
        for (int n = 0; n < N; n++) store(dr + t * K + n * L, sum[n]);
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) state[i][n] = load(d + i * K + n * L);
    for (int t = tokens - 1; t >= 0; t--) {
        vf to_k[N], to_w[N], read[N], keep[N];
        UNROLL
        for (int n = 0; n < N; n++) {
            to_k[n] = load(dk + t * K + n * L);
            to_w[n] = load(dw + t * K + n * L);
            read[n] = load(r + t * K + n * L);
            keep[n] = load(w + t * K + n * L);
        }
        UNROLL
        for (int i = 0; i < R; i++) {
            vf value = all(v[t * V + i]), wish = all(d_o[t * V + i]);
            UNROLL
            for (int n = 0; n < N; n++) {
                to_k[n] += value * state[i][n];
                to_w[n] += load(kept + ((t * R + i) * N + n) * L) * state[i][n];
                state[i][n] = keep[n] * state[i][n] + read[n] * wish;
            }
        }
        UNROLL
        for (int n = 0; n < N; n++) store(dk + t * K + n * L, to_k[n]), store(dw + t * K + n * L, to_w[n]);
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int n = 0; n < N; n++) store(d + i * K + n * L, state[i][n]);
}
// Half as tall as the forward tile, so that `kept` and what is streamed past it stay in the first cache
constexpr int RETURN_TALL = TWIN_TALL / 2;
inline void walk_back(int tokens, int K, int V, const float* s, float* d, const float* r, const float* k,
                      const float* w, const float* v, const float* d_o, float* dr, float* dk, float* dw,
                      float* kept) {
    for (int n = 0; n < K;) {
        bool pair = n + 2 * L <= K;
        for (int i = 0; i < V; i += RETURN_TALL)
            if (pair)
                return_tile<RETURN_TALL, 2>(tokens, s + i * K + n, d + i * K + n, K, r + n, k + n, w + n, v + i,
                                          d_o + i, V, dr + n, dk + n, dw + n, kept);
            else
                return_tile<RETURN_TALL, 1>(tokens, s + i * K + n, d + i * K + n, K, r + n, k + n, w + n, v + i,
                                          d_o + i, V, dr + n, dk + n, dw + n, kept);
        n += pair ? 2 * L : L;
    }
}

// w: what was read; leaves the decay there and, where asked, log w
INLINE void decays(const Wkv& a, int n, float* w, float* logw) {
    for (int i = 0; i < n; i += L) {
        vf x = load(w + i);
        if (a.is_fused) {
            x = -exponential(x);
            x = at_least(x, a.logw_min);
        }
        if (logw) store(logw + i, x);
        store(w + i, exponential(x));
    }
}

// to[t] = sum over i of x[t][i] y[t][i] (z[i]), for all tokens of a segment; those beyond `tokens` are
// whatever the scratch holds
INLINE void row_dots(int tokens, int width, const float* x, const float* y, const float* z, float* to) {
    for (int t = 0; t < tokens; t += L)
        store(to + t, row_sums([&](int j) {
                  const float *a = x + (t + j) * width, *b = y + (t + j) * width;
                  vf s = zero();
                  for (int i = 0; i < width; i += L) {
                      vf c = load(a + i) * load(b + i);
                      s += z ? c * load(z + i) : c;
                  }
                  return s;
              }));
}

// Mean and 1 / standard deviation of each token's row
INLINE void moments(int tokens, int width, float eps, const float* x, float* mean, float* scale) {
    for (int t = 0; t < tokens; t += L) {
        const float* rows = x + t * width;
        store(mean + t, row_sums([&](int j) {
                            vf s = zero();
                            for (int i = 0; i < width; i += L) s += load(rows + j * width + i);
                            return s;
                        }) * (1.f / width));
        vf spread = row_sums([&](int j) {
            vf s = zero();
            for (int i = 0; i < width; i += L) {
                vf y = load(rows + j * width + i) - mean[t + j];
                s += y * y;
            }
            return s;
        });
        store(scale + t, 1.f / root(spread * (1.f / width) + eps));
    }
}

// The norm of one head's output, times silu(g), in place
INLINE void norm_forward(const Wkv& a, int h, int tokens, float* o, const float* g) {
    const int V = a.V;
    const float *weight = a.norm_weight + h * V, *bias = a.norm_bias + h * V;
    float mean[SEGMENT], scale[SEGMENT];
    moments(tokens, V, a.norm_eps, o, mean, scale);
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < V; i += L) {
            vf x = (load(o + t * V + i) - mean[t]) * scale[t], z = load(g + t * V + i);
            x = x * load(weight + i) + load(bias + i);
            store(o + t * V + i, x * z * sigmoid(z));
        }
}

// Heads h0 to h1 of sequence b, from the first token to the last
inline void wkv_forward_heads(const Wkv& a, i64 b, int h0, int h1, Scratch& scratch) {
    const int K = a.K, V = a.V, H = a.H;
    const size_t rk = SEGMENT * K, rv = SEGMENT * V, heads = h1 - h0;
    float *rs = scratch.take(heads * rk), *ks = scratch.take(heads * rk), *ws = scratch.take(heads * rk),
          *vs = scratch.take(heads * rv), *gs = scratch.take(heads * rv), *os = scratch.take(heads * rv);
    const i64 segments = (a.T + SEGMENT - 1) / SEGMENT, size = (i64)K * V;
    const Tensor raw{(char*)a.raw, a.T * H * V, (i64)H * V, V, 0};
    for (int h = h0; h < h1; h++)
        memcpy(a.state_out + (b * H + h) * size, a.state + (b * H + h) * size, size * 4);
    for (i64 seg = 0; seg < segments; seg++) {
        const i64 t0 = seg * SEGMENT;
        const int n = (int)std::min<i64>(SEGMENT, a.T - t0);
        read_heads({{&a.r, K, rs}, {&a.k, K, ks}, {&a.v, V, vs}, {&a.g, V, gs}, {&a.w, K, ws}}, b, t0, h0, h1, n);
        if (a.saved)
            memcpy(a.saved + ((b * segments + seg) * H + h0) * size, a.state_out + (b * H + h0) * size,
                   heads * size * 4);
        for (int h = h0; h < h1; h++) {
            float *r = rs + (h - h0) * rk, *k = ks + (h - h0) * rk, *w = ws + (h - h0) * rk,
                  *v = vs + (h - h0) * rv, *o = os + (h - h0) * rv;
            decays(a, n * K, w, nullptr);
            float bonus[SEGMENT];
            row_dots(n, K, r, k, a.u + h * K, bonus);
            for (int t = 0; t < n; t++)
                for (int i = 0; i < V; i += L) store(o + t * V + i, bonus[t] * load(v + t * V + i));
            walk(n, K, V, a.state_out + (b * H + h) * size, r, k, w, K, v, o, V);
        }
        if (a.g.p) {
            write_heads({{&raw, V, os}}, b, t0, h0, h1, n);
            for (int h = h0; h < h1; h++) norm_forward(a, h, n, os + (h - h0) * rv, gs + (h - h0) * rv);
        }
        write_heads({{&a.o, V, os}}, b, t0, h0, h1, n);
    }
}

// One head's do of the fused op to do of the recurrence, in place; g becomes dg. `raw` is overwritten.
INLINE void norm_backward(const Wkv& a, int h, int tokens, float* raw, float* d_o, float* g, float* d_weight,
                          float* d_bias) {
    const int V = a.V;
    const float *weight = a.norm_weight + h * V, *bias = a.norm_bias + h * V;
    float mean[SEGMENT], scale[SEGMENT], mean_d[SEGMENT], mean_dx[SEGMENT];
    moments(tokens, V, a.norm_eps, raw, mean, scale);
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < V; i += L) {
            const int at = t * V + i;
            vf x = (load(raw + at) - mean[t]) * scale[t];
            vf z = load(g + at), s = sigmoid(z), d = load(d_o + at), wt = load(weight + i);
            store(raw + at, x);
            store(g + at, d * (x * wt + load(bias + i)) * (s + z * s * (1.f - s)));
            d = d * z * s;
            store(d_weight + i, load(d_weight + i) + d * x);
            store(d_bias + i, load(d_bias + i) + d);
            store(d_o + at, d * wt);
        }
    row_dots(tokens, V, d_o, raw, nullptr, mean_dx);
    for (int t = 0; t < tokens; t += L)
        store(mean_d + t, row_sums([&](int j) {
                  vf s = zero();
                  for (int i = 0; i < V; i += L) s += load(d_o + (t + j) * V + i);
                  return s;
              }));
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < V; i += L) {
            const int at = t * V + i;
            store(d_o + at, scale[t] * (load(d_o + at) - mean_d[t] / V - load(raw + at) * (mean_dx[t] / V)));
        }
}

inline void wkv_backward_heads(const Wkv& a, i64 b, int h0, int h1, Scratch& scratch) {
    const int K = a.K, V = a.V, H = a.H;
    const size_t rk = SEGMENT * K, rv = SEGMENT * V, heads = h1 - h0;
    float *rs = scratch.take(heads * rk), *ks = scratch.take(heads * rk), *ws = scratch.take(heads * rk),
          *vs = scratch.take(heads * rv), *gs = scratch.take(heads * rv), *raws = scratch.take(heads * rv),
          *d_os = scratch.take(heads * rv), *logw = scratch.take(rk), *dr = scratch.take(rk),
          *dk = scratch.take(rk), *dw = scratch.take(rk), *dv = scratch.take(rv),
          *kept = scratch.take(SEGMENT * RETURN_TALL * 2 * L), *turned = scratch.take((size_t)K * V);
    const i64 segments = (a.T + SEGMENT - 1) / SEGMENT, size = (i64)K * V;
    const Tensor raw{(char*)a.raw, a.T * H * V, (i64)H * V, V, 0};
    float* carried = scratch.take(heads * size);  // dS turned: rows of V
    for (int h = h0; h < h1; h++) {
        float* ds = a.d_state + (b * H + h) * size;
        if (a.d_state_out)
            memcpy(ds, a.d_state_out + (b * H + h) * size, size * 4);
        else
            memset(ds, 0, size * 4);
        transpose(ds, V, carried + (h - h0) * size, K, K, V);
        memset(a.du + (b * H + h) * K, 0, K * 4);
        if (a.g.p) {
            memset(a.d_norm_weight + (b * H + h) * V, 0, V * 4);
            memset(a.d_norm_bias + (b * H + h) * V, 0, V * 4);
        }
    }
    for (i64 seg = segments - 1; seg >= 0; seg--) {
        const i64 t0 = seg * SEGMENT;
        const int n = (int)std::min<i64>(SEGMENT, a.T - t0);
        read_heads({{&a.r, K, rs}, {&a.k, K, ks}, {&a.v, V, vs}, {&a.g, V, gs}, {&a.w, K, ws},
                    {&raw, V, raws}, {&a.d_o, V, d_os}}, b, t0, h0, h1, n);
        for (int h = h0; h < h1; h++) {
            float *r = rs + (h - h0) * rk, *k = ks + (h - h0) * rk, *w = ws + (h - h0) * rk,
                  *v = vs + (h - h0) * rv, *g = gs + (h - h0) * rv, *d_o = d_os + (h - h0) * rv;
            const float* u = a.u + h * K;
            float* du = a.du + (b * H + h) * K;
            decays(a, n * K, w, logw);
            if (a.g.p)
                norm_backward(a, h, n, raws + (h - h0) * rv, d_o, g, a.d_norm_weight + (b * H + h) * V,
                              a.d_norm_bias + (b * H + h) * V);
            float bonus[SEGMENT], wish[SEGMENT];
            row_dots(n, K, r, k, u, bonus);
            row_dots(n, V, d_o, v, nullptr, wish);
            for (int t = 0; t < n; t++) {
                const float x = bonus[t], y = wish[t];
                for (int i = 0; i < V; i += L) store(dv + t * V + i, x * load(d_o + t * V + i));
                for (int i = 0; i < K; i += L) {
                    vf uy = y * load(u + i), rt = load(r + t * K + i), kt = load(k + t * K + i);
                    store(dr + t * K + i, uy * kt);
                    store(dk + t * K + i, uy * rt);
                    store(dw + t * K + i, zero());
                    store(du + i, load(du + i) + y * (rt * kt));
                }
            }
            transpose(a.saved + ((b * segments + seg) * H + h) * size, V, turned, K, K, V);
            walk_back(n, K, V, turned, carried + (h - h0) * size, r, k, w, v, d_o, dr, dk, dw, kept);
            // dv: the forward walk from the last token to the first, r and k, v and do exchanged
            const ptrdiff_t last = n - 1;
            walk(n, K, V, a.d_state + (b * H + h) * size, k + last * K, r + last * K, w + last * K, -K,
                 d_o + last * V, dv + last * V, -V);
            // the results take the place of what was read
            for (int i = 0; i < n * K; i += L) {
                vf d = load(dw + i) * load(w + i);  // with respect to log w
                vf lw = load(logw + i);
                if (a.is_fused) d = lw > a.logw_min ? d * lw : (lw == lw ? zero() : lw);
                store(w + i, d);
                store(r + i, load(dr + i));
                store(k + i, load(dk + i));
            }
            memcpy(v, dv, n * V * 4);
        }
        write_heads({{&a.dr, K, rs}, {&a.dk, K, ks}, {&a.dv, V, vs}, {&a.dg, V, gs}, {&a.dw, K, ws}}, b, t0,
                    h0, h1, n);
    }
}

// One piece of work is a sequence, or a share of its heads where there are few sequences. Every head
// is computed alone, so that the result does not depend on the number of threads.
template <class Work>
inline int over_sequences(i64 B, i64 H, i64 threads, size_t floats_a_piece, Work work) {
    if (!B) return 0;
    i64 shares = 1;
    if (B % threads && B < 4 * threads) shares = std::min<i64>(H, threads);
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (i64 piece = 0; piece < B * shares; piece++) {
        NoDenormals quick;
        static thread_local Scratch scratch;
        if (!scratch.reserve(floats_a_piece * 4)) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        i64 share = piece % shares;
        work(piece / shares, (int)(H * share / shares), (int)(H * (share + 1) / shares), scratch);
    }
    return failed;
}

inline int wkv_forward(const Wkv& a) {
    size_t floats = a.H * SEGMENT * 3 * (a.K + a.V) + 4096;
    return over_sequences(a.B, a.H, a.threads, floats, [&](i64 b, int h0, int h1, Scratch& scratch) {
        wkv_forward_heads(a, b, h0, h1, scratch);
    });
}
inline int wkv_backward(const Wkv& a) {
    size_t floats = a.H * SEGMENT * (3 * a.K + 4 * a.V) + SEGMENT * (4 * a.K + a.V + TWIN_TALL * 2 * L) +
                    (a.H + 1) * a.K * a.V + 4096;
    return over_sequences(a.B, a.H, a.threads, floats, [&](i64 b, int h0, int h1, Scratch& scratch) {
        wkv_backward_heads(a, b, h0, h1, scratch);
    });
}
