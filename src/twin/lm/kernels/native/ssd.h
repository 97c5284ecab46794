// Mamba-2's recurrence in chunks of SEGMENT tokens, with what surrounds it in the network.
//
//   S_t = a_t S_{t-1} + x_t B_t^T;   y_t = S_t C_t
//
// The decay is one number per head and token, so inside a chunk all is small matrix products with
// D[t][j] = a_{j+1} ... a_t. These are made by multiplying (row t is row t-1 times a_t): exact for
// any decay, and no exponential but the one in a_t. States are worked on as (N, P).
#pragma once
#include "kernels.h"

struct Ssd {
    i64 B, T, H, P, N, W, threads;  // W: width of the convolution; 0 for the bare recurrence
    float norm_eps;
    // bare: x (B, T, H, P), loga (B, T, H) float32 contiguous, b and c (B, T, N)
    Tensor x, b, c;
    const float* loga;
    // fused: p (B, T, [z | x | B | C | dt])
    Tensor p;
    const float *conv_weight, *conv_bias, *dt_bias, *a_log, *skip, *norm_weight;
    const float* conv_state;  // (B, W-1, C)
    float* conv_state_out;
    const float* state;  // (B, H, P, N)
    float* state_out;
    Tensor y;      // the output
    float* saved;  // (B, segments, H, N, P); null where not needed
    float* raw;    // (B, T, H P): y before gate and norm; null unless fused and needed
    // backward
    Tensor d_y, dx, db, dc, dp;
    float* dloga;
    const float *d_state_out, *d_conv_state_out;  // null: zero
    float *d_state, *d_conv_state;
    // (B, ...), to be summed over B
    float *d_conv_weight, *d_conv_bias, *d_dt_bias, *d_a_log, *d_skip, *d_norm_weight;
};

// One sequence's working memory, shared by the team that works on it. (Q tokens, channels [x | B | C])
struct SsdShared {
    static constexpr int Q = SEGMENT;
    const int H, P, N, I, C, W, ldh;
    float *mixed, *slope, *inputs, *z, *y, *dt, *raised, *loga, *scores, *bt, *taps, *neg_a, *state;
    float *dy, *dmixed, *ddt, *gate, *db_head, *dc_head, *dg_head, *pending, *d_taps;

    explicit SsdShared(const Ssd& a)
        : H((int)a.H), P((int)a.P), N((int)a.N), I(H * P), C(I + 2 * N), W((int)a.W), ldh((H + 15) & ~15) {}

    static size_t floats(const Ssd& a, bool backward) {
        SsdShared plan(a);
        Scratch none;
        plan.deal(none, backward);
        return none.used / 4;
    }
    void deal(Scratch& s, bool backward) {
        const size_t q = Q, c = C, i = I, w = W, n = N;
        mixed = s.take(q * c);          // after convolution and silu
        inputs = s.take((q + w) * c);   // of the convolution, from W-1 tokens before
        taps = s.take(w * c);           // its weights, (W, C)
        y = s.take(q * i);
        z = s.take(q * i);
        dt = s.take(q * ldh), raised = s.take(q * ldh), loga = s.take(q * ldh), neg_a = s.take(ldh);
        scores = s.take(q * q), bt = s.take(n * q);
        state = s.take((size_t)H * P * n);  // (H, N, P); backward: its gradient
        if (!backward) return;
        slope = s.take(q * c);  // of the silu
        gate = s.take(q * i);   // sigmoid(z)
        dy = s.take(q * i);
        dmixed = s.take((q + w) * c);
        pending = s.take(w * c);  // what the W-1 tokens after this segment say to the convolution
        d_taps = s.take(w * c);
        ddt = s.take(q * ldh);
        db_head = s.take(H * q * n), dc_head = s.take(H * q * n), dg_head = s.take(H * q * q);
    }
};
// A thread's own.
struct SsdOwn {
    float *xd, *xs, *cs, *m, *decay, *dm, *dxd, *dys, *turned, *xt, *total, *dloga;

    static size_t floats(const Ssd& a) {
        SsdOwn plan;
        Scratch none;
        plan.deal(none, a);
        return none.used / 4;
    }
    void deal(Scratch& s, const Ssd& a) {
        const size_t q = SEGMENT, p = a.P, n = a.N;
        xd = s.take(q * p), xs = s.take(q * p), cs = s.take(q * n), m = s.take(q * q);
        decay = s.take(q * q), dm = s.take(q * q), dxd = s.take(q * p), dys = s.take(q * p);
        turned = s.take(p * n), xt = s.take(q * p), total = s.take(q), dloga = s.take(q);
    }
};

// decay[t][j] = a_{j+1} ... a_t for j <= t, else 0; total[t] = a_1 ... a_t
INLINE void ssd_decays(int n, const float* loga, ptrdiff_t ld, float* decay, float* total) {
    constexpr int Q = SEGMENT;
    float a[Q];
    for (int t = 0; t < Q; t++) a[t] = t < n ? loga[t * ld] : 0.f;
    for (int t = 0; t < Q; t += L) store(a + t, exponential(load(a + t)));
    float product = 1.f;
    for (int j = 0; j < Q; j += L) store(decay + j, zero());
    for (int t = 0; t < n; t++) {
        product *= a[t];
        total[t] = product;
        float* row = decay + t * Q;
        if (t)
            for (int j = 0; j < Q; j += L) store(row + j, a[t] * load(row - Q + j));
        row[t] = 1.f;
    }
}

// One head, one chunk. xd: x times dt, (n, P); b, c with their row strides; y += is written whole.
inline void ssd_chunk(const Ssd& a, int n, const SsdOwn& own, const float* g, const float* b, const float* c,
                      ptrdiff_t ldbc, const float* loga, ptrdiff_t ldl, float* s, float* y, ptrdiff_t ldy) {
    constexpr int Q = SEGMENT;
    const int P = a.P, N = a.N;
    ssd_decays(n, loga, ldl, own.decay, own.total);
    for (int t = 0; t < n; t++) {
        for (int j = 0; j < Q; j += L)
            store(own.m + t * Q + j, load(own.decay + t * Q + j) * load(g + t * Q + j));
        const float f = own.total[t], last = own.decay[(n - 1) * Q + t];
        for (int i = 0; i < N; i += L) store(own.cs + t * N + i, f * load(c + t * ldbc + i));
        for (int i = 0; i < P; i += L) store(own.xs + t * P + i, last * load(own.xd + t * P + i));
    }
    product(n, P, N, own.cs, N, 1, s, P, y, ldy, 0.f);
    for (int t = 0; t < n; t += 8) {
        const int rows = std::min(8, n - t);
        product(rows, P, t + rows, own.m + t * Q, Q, 1, own.xd, P, y + t * ldy, ldy, 1.f);
    }
    product(N, P, n, b, 1, ldbc, own.xs, P, s, P, own.total[n - 1]);
}

// Backward of the above. s: the state before the chunk; ds: gradient of the state after it, made that
// of the state before it. own.xd holds x dt, dy the gradient of y; results: own.dxd, db, dc (this
// head's share, (n, N)), dg (this head's, masked) and dloga.
inline void ssd_chunk_back(const Ssd& a, int n, const SsdOwn& own, const float* g, const float* b,
                           const float* c, ptrdiff_t ldbc, const float* loga, ptrdiff_t ldl, const float* s,
                           float* ds, const float* dy, ptrdiff_t ldy, float* db, float* dc, float* dg,
                           float* dloga) {
    constexpr int Q = SEGMENT;
    const int P = a.P, N = a.N;
    ssd_decays(n, loga, ldl, own.decay, own.total);
    float kept[Q], read[Q];  // gradients through what j leaves to the end, and what t reads of the start
    const float* last = own.decay + (n - 1) * Q;
    for (int t = 0; t < n; t++) {
        for (int j = 0; j < Q; j += L)
            store(own.m + t * Q + j, load(own.decay + t * Q + j) * load(g + t * Q + j));
        for (int i = 0; i < P; i += L) {
            store(own.xs + t * P + i, last[t] * load(own.xd + t * P + i));
            store(own.dys + t * P + i, own.total[t] * load(dy + t * ldy + i));
        }
    }
    // through the state after the chunk
    product(n, P, N, b, ldbc, 1, ds, P, own.dxd, P, 0.f);
    for (int j = 0; j < n; j++) {
        kept[j] = dot(own.dxd + j * P, own.xs + j * P, P);
        for (int i = 0; i < P; i += L) store(own.dxd + j * P + i, last[j] * load(own.dxd + j * P + i));
    }
    transpose(ds, P, own.turned, N, N, P);
    product(n, N, P, own.xs, P, 1, own.turned, N, db, N, 0.f);
    // through the state before it
    transpose(s, P, own.turned, N, N, P);
    product(n, N, P, own.dys, P, 1, own.turned, N, dc, N, 0.f);
    for (int t = 0; t < n; t++) read[t] = dot(dc + t * N, c + t * ldbc, N);
    float both = 0.f;
    {
        vf sum_ = zero();
        for (int i = 0; i < N * P; i += L) sum_ += load(s + i) * load(ds + i);
        both = sum(sum_) * own.total[n - 1];
    }
    // inside the chunk
    for (int j = 0; j < n; j += 8) {
        const int rows = std::min(8, n - j);
        product(rows, P, n - j, own.m + j * Q + j, 1, Q, dy + j * ldy, ldy, own.dxd + j * P, P, 1.f);
    }
    for (int t = n; t < Q; t++)
        for (int i = 0; i < P; i += L) store(own.xd + t * P + i, zero());
    transpose(own.xd, P, own.xt, Q, Q, P);
    product(n, Q, P, dy, ldy, 1, own.xt, Q, own.dm, Q, 0.f);
    vf below[Q / L];  // below[j] = sum over t >= i of dM[t][j] M[t][j]
    for (int j = 0; j < Q / L; j++) below[j] = zero();
    float later = both, place[L];
    for (int j = 0; j < L; j++) place[j] = (float)j;
    for (int t = n - 1; t >= 0; t--) {
        later += read[t];
        vf inside = zero();
        for (int j = 0; j < Q / L; j++) {
            vf d = load(own.dm + t * Q + j * L);
            store(dg + t * Q + j * L, d * load(own.decay + t * Q + j * L));
            below[j] += d * load(own.m + t * Q + j * L);
            inside += load(place) < all((float)(t - j * L)) ? below[j] : zero();
        }
        dloga[t] = later + sum(inside);
    }
    float earlier = 0.f;
    for (int t = 0; t < n; t++) {
        dloga[t] += earlier;
        earlier += kept[t];
    }
    product(N, P, n, c, 1, ldbc, own.dys, P, ds, P, own.total[n - 1]);
}

// g[t][j] = C_t . B_j for one chunk; every head uses it
inline void ssd_scores(int n, int N, const float* b, const float* c, ptrdiff_t ld, float* bt, float* g) {
    constexpr int Q = SEGMENT;
    transpose(b, ld, bt, Q, Q, N);
    product(n, Q, N, c, ld, 1, bt, Q, g, Q, 0.f);
}

// One sequence, by one thread or by a team whose members all walk through this together.
struct SsdRun {
    const Ssd& a;
    SsdShared& sh;
    SsdOwn& own;
    const Team team;
    const i64 b;

    i64 segments() const { return (a.T + SEGMENT - 1) / SEGMENT; }
    i64 head(int h) const { return b * a.H + h; }
    Tensor columns(Tensor x, i64 first) const {
        x.p += first * (x.is_bf16 ? 2 : 4);
        return x;
    }

    void start(const float* state) const {
        const int size = sh.P * sh.N;
        for (int h = team.from(sh.H); h < team.to(sh.H); h++)
            if (state)
                transpose(state + head(h) * size, sh.N, sh.state + h * size, sh.P, sh.P, sh.N);
            else
                memset(sh.state + h * size, 0, size * 4);
        if (team.rank == 0 && a.W) {
            for (int w = 0; w < sh.W; w++)
                for (int c = 0; c < sh.C; c++) sh.taps[w * sh.C + c] = a.conv_weight[c * sh.W + w];
            for (int h = 0; h < sh.H; h++) sh.neg_a[h] = -std::exp(a.a_log[h]);
        }
        team.wait();
    }
    void finish(float* state) const {
        const int size = sh.P * sh.N;
        for (int h = team.from(sh.H); h < team.to(sh.H); h++)
            transpose(sh.state + h * size, sh.P, state + head(h) * size, sh.N, sh.N, sh.P);
    }

    // Reads a segment: the convolution with silu (channels are shared out), softplus, C . B.
    void prepare(i64 t0, int n, bool backward) const {
        const int C = sh.C, I = sh.I, N = sh.N, P = sh.P, H = sh.H;
        if (!a.W) {
            for (int h = team.from(H); h < team.to(H); h++) read_rows(a.x, b, t0, h, n, P, sh.mixed + h * P, C);
            if (team.rank == 0) {
                read_rows(a.b, b, t0, 0, n, N, sh.mixed + I, C);
                read_rows(a.c, b, t0, 0, n, N, sh.mixed + I + N, C);
                for (int t = 0; t < n; t++)
                    memcpy(sh.loga + t * sh.ldh, a.loga + (b * a.T + t0 + t) * H, H * 4);
            }
        } else {
            sh.W == 4 ? convolve<4>(t0, n, backward) : convolve<0>(t0, n, backward);
            if (team.rank == 0) step_sizes(t0, n);
        }
        for (int t = n; t < SEGMENT; t++)
            if (team.rank == 0) memset(sh.mixed + t * C + I, 0, 2 * N * 4);
        team.wait();
        if (team.rank == 0) ssd_scores(n, N, sh.mixed + I, sh.mixed + I + N, C, sh.bt, sh.scores);
        team.wait();
    }
    template <int WIDTH>  // 0: any
    void convolve(i64 t0, int n, bool backward) const {
        const int C = sh.C, W = WIDTH ? WIDTH : sh.W;
        const int c0 = team.from(C / 16) * 16, c1 = team.to(C / 16) * 16;
        const Tensor in = columns(a.p, sh.I + c0);
        for (int i = 0; i < W - 1; i++) {
            const i64 t = t0 - (W - 1) + i;
            if (t < 0)
                memcpy(sh.inputs + i * C + c0, a.conv_state + (b * (W - 1) + t + W - 1) * C + c0, (c1 - c0) * 4);
            else
                read_rows(in, b, t, 0, 1, c1 - c0, sh.inputs + i * C + c0, C);
        }
        read_rows(in, b, t0, 0, n, c1 - c0, sh.inputs + (W - 1) * C + c0, C);
        for (int t = 0; t < n; t++)
            for (int c = c0; c < c1; c += L) {
                vf x = load(a.conv_bias + c);
                for (int w = 0; w < W; w++) x += load(sh.taps + w * C + c) * load(sh.inputs + (t + w) * C + c);
                vf s = sigmoid(x);
                if (backward) store(sh.slope + t * C + c, s + x * s * (1.f - s));
                store(sh.mixed + t * C + c, x * s);
            }
    }
    void step_sizes(i64 t0, int n) const {
        read_rows(columns(a.p, sh.I + sh.C), b, t0, 0, n, sh.H, sh.raised, sh.ldh);
        for (int t = 0; t < n; t++) {
            float *raised = sh.raised + t * sh.ldh, *dt = sh.dt + t * sh.ldh;
            for (int h = 0; h < sh.H; h++) raised[h] += a.dt_bias[h];
            for (int h = sh.H; h < sh.ldh; h++) raised[h] = 0.f;
            for (int h = 0; h < sh.ldh; h += L) store(dt + h, softplus(load(raised + h)));
            for (int h = 0; h < sh.H; h++) sh.loga[t * sh.ldh + h] = dt[h] * sh.neg_a[h];
        }
    }
    void scale_inputs(int n, int h) const {
        for (int t = 0; t < n; t++) {
            const float dt = a.W ? sh.dt[t * sh.ldh + h] : 1.f;
            for (int i = 0; i < sh.P; i += L)
                store(own.xd + t * sh.P + i, dt * load(sh.mixed + t * sh.C + h * sh.P + i));
        }
    }

    void forward() const {
        const int C = sh.C, I = sh.I, N = sh.N, P = sh.P, H = sh.H, size = P * N;
        start(a.state);
        for (i64 seg = 0; seg < segments(); seg++) {
            const i64 t0 = seg * SEGMENT;
            const int n = (int)std::min<i64>(SEGMENT, a.T - t0);
            prepare(t0, n, false);
            for (int h = team.from(H); h < team.to(H); h++) {
                float *s = sh.state + h * size, *y = sh.y + h * P;
                if (a.saved) memcpy(a.saved + ((b * segments() + seg) * H + h) * size, s, size * 4);
                scale_inputs(n, h);
                ssd_chunk(a, n, own, sh.scores, sh.mixed + I, sh.mixed + I + N, C, sh.loga + h, sh.ldh, s, y, I);
                if (!a.W) {
                    write_rows(a.y, b, t0, h, n, P, y, I);
                    continue;
                }
                for (int t = 0; t < n; t++)
                    for (int i = 0; i < P; i += L)
                        store(y + t * I + i,
                              load(y + t * I + i) + a.skip[h] * load(sh.mixed + t * C + h * P + i));
            }
            team.wait();
            if (a.W)
                for (int t = team.from(n); t < team.to(n); t++) gate_and_norm(t0 + t, sh.y + t * I, sh.z + t * I);
            team.wait();
        }
        finish(a.state_out);
        if (a.W && team.rank == 0)
            for (i64 i = 0; i < a.W - 1; i++) {
                const i64 t = a.T - (a.W - 1) + i;
                float* to = a.conv_state_out + (b * (a.W - 1) + i) * C;
                if (t < 0)
                    memcpy(to, a.conv_state + (b * (a.W - 1) + t + a.W - 1) * C, C * 4);
                else
                    read_rows(columns(a.p, I), b, t, 0, 1, C, to, C);
            }
    }
    void gate_and_norm(i64 t, float* y, float* z) const {
        const int I = sh.I;
        if (a.raw) memcpy(a.raw + (b * a.T + t) * I, y, I * 4);
        read_rows(a.p, b, t, 0, 1, I, z, I);
        vf squares = zero();
        for (int i = 0; i < I; i += L) {
            vf gate = load(z + i), x = load(y + i) * gate * sigmoid(gate);
            store(y + i, x);
            squares += x * x;
        }
        const float scale = 1.f / std::sqrt(sum(squares) / I + a.norm_eps);
        for (int i = 0; i < I; i += L) store(y + i, scale * load(y + i) * load(a.norm_weight + i));
        write_rows(a.y, b, t, 0, 1, I, y, I);
    }

    void backward() const {
        const int C = sh.C, I = sh.I, N = sh.N, P = sh.P, H = sh.H, W = sh.W, size = P * N;
        start(a.d_state_out);
        if (a.W && team.rank == 0) {
            for (float* x : {a.d_dt_bias, a.d_a_log, a.d_skip}) memset(x + b * H, 0, H * 4);
            memset(a.d_norm_weight + b * I, 0, I * 4);
            memset(a.d_conv_bias + b * C, 0, C * 4);
            memset(sh.d_taps, 0, W * C * 4);
            memset(sh.pending, 0, W * C * 4);
        }
        team.wait();
        for (i64 seg = segments() - 1; seg >= 0; seg--) {
            const i64 t0 = seg * SEGMENT;
            const int n = (int)std::min<i64>(SEGMENT, a.T - t0);
            prepare(t0, n, true);
            if (a.W)
                for (int t = team.from(n); t < team.to(n); t++) gate_and_norm_back(t0 + t, t);
            else
                for (int h = team.from(H); h < team.to(H); h++)
                    read_rows(a.d_y, b, t0, h, n, P, sh.dy + h * P, I);
            team.wait();
            for (int h = team.from(H); h < team.to(H); h++) {
                scale_inputs(n, h);
                ssd_chunk_back(a, n, own, sh.scores, sh.mixed + I, sh.mixed + I + N, C, sh.loga + h, sh.ldh,
                               a.saved + ((b * segments() + seg) * H + h) * size, sh.state + h * size,
                               sh.dy + h * P, I, sh.db_head + h * SEGMENT * N, sh.dc_head + h * SEGMENT * N,
                               sh.dg_head + h * SEGMENT * SEGMENT, own.dloga);
                if (a.W)
                    head_back(h, n);
                else {
                    write_rows(a.dx, b, t0, h, n, P, own.dxd, P);
                    for (int t = 0; t < n; t++) a.dloga[(b * a.T + t0 + t) * H + h] = own.dloga[t];
                }
            }
            team.wait();
            if (team.rank == 0) shared_back(t0, n);
            team.wait();
            if (a.W) sh.W == 4 ? convolve_back<4>(t0, n) : convolve_back<0>(t0, n);
            team.wait();
        }
        finish(a.d_state);
        if (a.W && team.rank == 0) convolution_ends();
    }
    // dy of the recurrence; what the norm's weight gets is left in z, summed by columns later on
    void gate_and_norm_back(i64 t, int row) const {
        const int I = sh.I;
        float *z = sh.z + row * I, *dy = sh.dy + row * I, *x = sh.y + row * I, *gate = sh.gate + row * I;
        const float* y = a.raw + (b * a.T + t) * I;
        read_rows(a.p, b, t, 0, 1, I, z, I);
        read_rows(a.d_y, b, t, 0, 1, I, dy, I);
        vf squares = zero(), along = zero();
        for (int i = 0; i < I; i += L) {
            vf zi = load(z + i), si = sigmoid(zi), g = load(y + i) * zi * si;
            store(x + i, g);
            store(gate + i, si);
            squares += g * g;
            along += g * load(dy + i) * load(a.norm_weight + i);
        }
        const float scale = 1.f / std::sqrt(sum(squares) / I + a.norm_eps);
        const float share = sum(along) / I * scale * scale;
        for (int i = 0; i < I; i += L) {
            vf g = load(x + i), d = load(dy + i), zi = load(z + i), si = load(gate + i);
            store(z + i, d * g * scale);
            d = scale * (d * load(a.norm_weight + i) - g * share);
            store(x + i, d * load(y + i) * (si + zi * si * (1.f - si)));
            store(dy + i, d * zi * si);
        }
        write_rows(a.dp, b, t, 0, 1, I, x, I);
    }
    void head_back(int h, int n) const {
        float d_skip = 0.f, d_a = 0.f, d_bias = 0.f;
        for (int t = 0; t < n; t++) {
            const float dt = sh.dt[t * sh.ldh + h];
            const float *x = sh.mixed + t * sh.C + h * sh.P, *dy = sh.dy + t * sh.I + h * sh.P;
            float* dx = sh.dmixed + t * sh.C + h * sh.P;
            vf to_dt = zero(), to_skip = zero();
            for (int i = 0; i < sh.P; i += L) {
                vf d = load(own.dxd + t * sh.P + i), xi = load(x + i), di = load(dy + i);
                to_dt += d * xi;
                to_skip += di * xi;
                store(dx + i, dt * d + a.skip[h] * di);
            }
            d_skip += sum(to_skip);
            d_a += own.dloga[t] * sh.loga[t * sh.ldh + h];
            sh.ddt[t * sh.ldh + h] = sum(to_dt) + own.dloga[t] * sh.neg_a[h];
        }
        // through the softplus: 1 - exp(-dt) is its slope, sigmoid(raised)
        for (int t = 0; t < n; t++) {
            float& d = sh.ddt[t * sh.ldh + h];
            d *= 1.f / (1.f + std::exp(-sh.raised[t * sh.ldh + h]));
            d_bias += d;
        }
        a.d_skip[head(h)] += d_skip;
        a.d_a_log[head(h)] += d_a;
        a.d_dt_bias[head(h)] += d_bias;
    }
    // B and C belong to all heads: summed in the heads' order, whoever computed them
    void shared_back(i64 t0, int n) const {
        constexpr int Q = SEGMENT;
        const int C = sh.C, I = sh.I, N = sh.N;
        float *db = sh.db_head, *dc = sh.dc_head, *dg = sh.dg_head;
        for (int h = 1; h < sh.H; h++) {
            for (int i = 0; i < n * N; i += L) {
                store(db + i, load(db + i) + load(db + h * Q * N + i));
                store(dc + i, load(dc + i) + load(dc + h * Q * N + i));
            }
            for (int i = 0; i < n * Q; i += L) store(dg + i, load(dg + i) + load(dg + h * Q * Q + i));
        }
        product(n, N, n, dg, 1, Q, sh.mixed + I + N, C, db, N, 1.f);
        product(n, N, n, dg, Q, 1, sh.mixed + I, C, dc, N, 1.f);
        if (!a.W) {
            write_rows(a.db, b, t0, 0, n, N, db, N);
            write_rows(a.dc, b, t0, 0, n, N, dc, N);
            return;
        }
        copy_rows(sh.dmixed + I, C, (const float*)db, N, n, N);
        copy_rows(sh.dmixed + I + N, C, (const float*)dc, N, n, N);
        write_rows(columns(a.dp, I + C), b, t0, 0, n, sh.H, sh.ddt, sh.ldh);
    }
    template <int WIDTH>
    void convolve_back(i64 t0, int n) const {
        const int C = sh.C, I = sh.I, W = WIDTH ? WIDTH : sh.W;
        for (int t = 0; t < n; t++)
            for (int c = team.from(I / 16) * 16; c < team.to(I / 16) * 16; c += L) {
                float* sum_ = a.d_norm_weight + b * I + c;
                store(sum_, load(sum_) + load(sh.z + t * I + c));
            }
        const int c0 = team.from(C / 16) * 16, c1 = team.to(C / 16) * 16;
        for (int t = 0; t < n; t++)
            for (int c = c0; c < c1; c += L) {
                float *sum_ = a.d_conv_bias + b * C + c, *d = sh.dmixed + t * C + c;
                vf x = load(d) * load(sh.slope + t * C + c);
                store(d, x);
                store(sum_, load(sum_) + x);
                for (int w = 0; w < W; w++) {
                    float* tap = sh.d_taps + w * C + c;
                    store(tap, load(tap) + x * load(sh.inputs + (t + w) * C + c));
                }
            }
        for (int i = 0; i < W - 1; i++) {
            memcpy(sh.dmixed + (n + i) * C + c0, sh.pending + i * C + c0, (c1 - c0) * 4);
            memcpy(sh.pending + i * C + c0, sh.dmixed + i * C + c0, (c1 - c0) * 4);
        }
        // row t hears from t .. t+W-1, in place from the first row on
        for (int t = 0; t < n; t++) {
            const i64 end = t0 + t - (a.T - (W - 1));
            for (int c = c0; c < c1; c += L) {
                const float* later = sh.dmixed + t * C + c;
                vf s = zero();
                for (int w = 0; w < W; w++) s += load(later + (W - 1 - w) * C) * load(sh.taps + w * C + c);
                if (a.d_conv_state_out && end >= 0) s += load(a.d_conv_state_out + (b * (W - 1) + end) * C + c);
                store(sh.dmixed + t * C + c, s);
            }
        }
        write_rows(columns(a.dp, I + c0), b, t0, 0, n, c1 - c0, sh.dmixed + c0, C);
    }
    // The convolution's weights and what reaches the inputs before the first token
    void convolution_ends() const {
        const int C = sh.C, W = sh.W;
        for (int w = 0; w < W; w++)
            for (int c = 0; c < C; c++) a.d_conv_weight[(b * C + c) * W + w] = sh.d_taps[w * C + c];
        for (int i = 0; i < W - 1; i++)
            for (int c = 0; c < C; c += L) {
                vf s = zero();
                for (int w = 0; w <= i; w++) s += load(sh.pending + (i - w) * C + c) * load(sh.taps + w * C + c);
                if (a.d_conv_state_out && i - a.T >= 0)
                    s += load(a.d_conv_state_out + (b * (W - 1) + i - a.T) * C + c);
                store(a.d_conv_state + (b * (W - 1) + i) * C + c, s);
            }
    }
};

// Whole sequences to each thread while there is one for everybody; those left over by all together.
inline int ssd_run(const Ssd& a, bool backward) {
    if (!a.B) return 0;
    const size_t shared = SsdShared::floats(a, backward) * 4, own_size = SsdOwn::floats(a) * 4;
    const i64 alone = a.B >= 4 * a.threads ? a.B : a.B / a.threads * a.threads;
    static thread_local Scratch common;
    SsdShared together(a);
    if (alone < a.B) {
        if (!common.reserve(shared)) return 1;
        together.deal(common, backward);
    }
    int failed = 0;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
    {
        NoDenormals quick;
        static thread_local Scratch scratch;
        SsdShared sh(a);
        SsdOwn own;
        if (!scratch.reserve(shared + own_size)) {
#pragma omp atomic write
            failed = 1;
        }
#if defined(_OPENMP)
#pragma omp barrier
#endif
        int stop;
#pragma omp atomic read
        stop = failed;
        if (!stop) {
            own.deal(scratch, a);
            sh.deal(scratch, backward);
#pragma omp for schedule(dynamic, 1)
            for (i64 b = 0; b < alone; b++) {
                SsdRun run{a, sh, own, Team{0, 1}, b};
                backward ? run.backward() : run.forward();
            }
            for (i64 b = alone; b < a.B; b++) {
                SsdRun run{a, together, own, Team{omp_get_thread_num(), team_size()}, b};
                backward ? run.backward() : run.forward();
                run.team.wait();
            }
        }
    }
    return failed;
}
