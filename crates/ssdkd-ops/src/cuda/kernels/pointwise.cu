// One number at a time.

/// out[i] = f(i, in[i]...) with four numbers a thread where all pointers allow it.
template <class In, class Out, class F> DEVICE void map1(const In* a, Out* out, u32 n, F f) {
    u32 i = (blockIdx.x * BLOCK + threadIdx.x) * 4;
    if (i >= n) return;
    if (i + 4 <= n && (((u64)a | (u64)out) & 15) == 0) {
        Pack<4> x = load<4>(a + i);
        for (int k = 0; k < 4; ++k) x.at[k] = f(x.at[k]);
        store(out + i, x);
    } else {
        for (u32 k = i; k < n && k < i + 4; ++k) out[k] = f(a[k]);
    }
}

template <class T, class F> DEVICE void map2(const T* a, const T* b, T* out, u32 n, F f) {
    u32 i = (blockIdx.x * BLOCK + threadIdx.x) * 4;
    if (i >= n) return;
    if (i + 4 <= n && (((u64)a | (u64)b | (u64)out) & 15) == 0) {
        Pack<4> x = load<4>(a + i), y = load<4>(b + i);
        for (int k = 0; k < 4; ++k) x.at[k] = f(x.at[k], y.at[k]);
        store(out + i, x);
    } else {
        for (u32 k = i; k < n && k < i + 4; ++k) out[k] = f(a[k], b[k]);
    }
}

KERNEL activate_forward(const real* x, real* out, u32 n, Activation f) {
    map1(x, out, n, [=](float z) { return activate(z, f); });
}

KERNEL activate_backward(const real* z, const real* grad, real* out, u32 n, Activation f) {
    map2(z, grad, out, n, [=](float z, float grad) { return activation_gradient(z, grad, f); });
}

KERNEL sigmoid_forward(const real* x, real* out, u32 n) {
    map1(x, out, n, [](float x) { return sigmoid_of(x); });
}

KERNEL sigmoid_backward(const real* y, const real* grad, real* out, u32 n) {
    map2(y, grad, out, n, [](float y, float grad) { return grad * y * (1.f - y); });
}

KERNEL scale(const float* x, float* out, u32 n, float factor) {
    map1(x, out, n, [=](float x) { return x * factor; });
}

/// out = x · factor · flow, where flow is one number.
KERNEL scale_by(const float* x, const float* flow, float* out, u32 n, double factor) {
    float by = (float)(factor * *flow);
    map1(x, out, n, [=](float x) { return x * by; });
}

/// Every number of out = factor · flow.
KERNEL fill_by(const float* flow, float* out, u32 n, double factor) {
    float by = (float)(factor * *flow);
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) out[i] = by;
}

KERNEL add(const real* a, const real* b, real* out, u32 n) {
    map2(a, b, out, n, [](float a, float b) { return a + b; });
}

KERNEL add_assign(const real* x, real* sum, u32 n) {
    map2(x, sum, sum, n, [](float x, float sum) { return sum + x; });
}

KERNEL lerp_assign(const float* source, float* target, u32 n, float amount) {
    map2(source, target, target, n, [=](float source, float target) { return target + amount * (source - target); });
}

KERNEL copy_assign(const float* source, float* target, u32 n) {
    map1(source, target, n, [](float x) { return x; });
}

KERNEL round_to_u8_levels(const float* x, float* out, u32 n) {
    map1(x, out, n, [](float x) {
        float inside = x < 0.f ? 0.f : x > 1.f ? 1.f : x;
        return roundf(inside * 255.f) / 255.f;
    });
}

/// The gradient of |a − b| times factor · flow.
KERNEL pull(const float* a, const float* b, const float* flow, float* out, u32 n, double factor) {
    float by = (float)(factor * *flow);
    map2(a, b, out, n, [=](float a, float b) { return a > b ? by : a < b ? -by : 0.f; });
}

/// The gradient of a distance: (x − target) · factor · flow / norm, 0 where the norm is.
KERNEL distance_backward(
    const float* x, const float* target, const float* flow, const double* norm, float* out, u32 n
) {
    float by = *norm == 0.0 ? 0.f : (float)(*flow / *norm);
    map2(x, target, out, n, [=](float x, float target) { return (x - target) * by; });
}

/// out = scale[c] · x + shift[c], channels last; without shift, 0 is added.
KERNEL affine(const float* x, const float* scale, const float* shift, float* out, u32 n, u32 channels) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n) return;
    u32 c = i % channels;
    out[i] = x[i] * scale[c] + (shift ? shift[c] : 0.f);
}

/// out = activation(out + bias[c] + residual), in place, what is null left out: what follows a convolution.
template <int V>
DEVICE void finish(real* out, const float* bias, const real* residual, u32 n, u32 channels, Activation f) {
    u32 i = (blockIdx.x * BLOCK + threadIdx.x) * V;
    if (i >= n) return;
    Pack<V> x = load<V>(out + i);
    if (bias) {
        Pack<V> b = load<V>(bias + i % channels);
        for (int k = 0; k < V; ++k) x.at[k] += b.at[k];
    }
    if (residual) {
        Pack<V> r = load<V>(residual + i);
        for (int k = 0; k < V; ++k) x.at[k] += r.at[k];
    }
    for (int k = 0; k < V; ++k) x.at[k] = activate(x.at[k], f);
    store(out + i, x);
}

KERNEL finish_4(real* out, const float* bias, const real* residual, u32 n, u32 channels, Activation f) {
    finish<4>(out, bias, residual, n, channels, f);
}

KERNEL finish_1(real* out, const float* bias, const real* residual, u32 n, u32 channels, Activation f) {
    finish<1>(out, bias, residual, n, channels, f);
}

/// Rows × columns to columns × rows, for each of many matrices.
template <class In, class Out> DEVICE void turn(const In* x, Out* out, u32 n, u32 rows, u32 columns) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n) return;
    u32 matrix = i / (rows * columns), at = i % (rows * columns);
    u32 column = at / rows, row = at % rows;
    out[i] = x[matrix * rows * columns + row * columns + column];
}

/// Of images.
KERNEL transpose(const float* x, float* out, u32 n, u32 rows, u32 columns) { turn(x, out, n, rows, columns); }

/// Of a weight, which a convolution takes as it takes activations; and of the weight's gradient.
KERNEL pack_weight(const float* weight, real* out, u32 n, u32 rows, u32 columns) { turn(weight, out, n, rows, columns); }
KERNEL unpack_weight(const real* grad, float* out, u32 n, u32 rows, u32 columns) { turn(grad, out, n, rows, columns); }

KERNEL to_real(const float* x, real* out, u32 n) {
    map1(x, out, n, [](float x) { return x; });
}

KERNEL to_float(const real* x, float* out, u32 n) {
    map1(x, out, n, [](float x) { return x; });
}

/// The weight (O, n) and bias (O,) of a layer with the normalisation that follows it folded in.
KERNEL fold_norm(
    const float* weight, const float* bias, const float* gamma, const float* beta, const float* mean,
    const float* variance, float* folded, float* shift, u32 outputs, u32 each, double eps
) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= outputs * each) return;
    u32 o = i / each;
    double scale = gamma[o] / sqrt(checked(variance[o]) + eps);
    folded[i] = weight[i] * (float)scale;
    if (i % each == 0) {
        float sum = (float)(beta[o] - mean[o] * scale);
        shift[o] = bias ? sum + bias[o] * (float)scale : sum;
    }
}
