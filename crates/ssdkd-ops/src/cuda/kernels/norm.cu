// Sums over rows for each channel of activations (rows, C), channels last, and normalisations with them.
//
// A thread stays with its V channels and walks over rows, so per-channel constants are computed once and neighbouring
// threads read neighbouring numbers. `Lanes` says which channels and rows are a thread's.

struct Lanes {
    u32 channel;  // first of V
    u32 row;
    u32 step;     // rows until the next
    u32 across;   // threads beside each other on one row
    bool idle;
};

template <int V> DEVICE Lanes lanes(u32 channels) {
    u32 packs = channels / V;
    u32 across = packs < BLOCK ? packs : BLOCK;
    u32 down = BLOCK / across;
    u32 x = threadIdx.x % across, y = threadIdx.x / across;
    Lanes at;
    at.channel = (blockIdx.y * across + x) * V;
    at.row = blockIdx.x * down + y;
    at.step = gridDim.x * down;
    at.across = across;
    at.idle = y >= down || at.channel >= channels;
    return at;
}

/// Adds up two numbers for each channel over all rows. `visit(at, k, first, second)` adds those of the number at index
/// `at`, the k-th channel of the thread; `finish(channel, first, second)` is called once for each channel, with the sums.
template <int V, class Visit, class Finish>
DEVICE void reduce_channels(u32 rows, u32 channels, double2* partial, u32* counter, Visit visit, Finish finish) {
    __shared__ double2 shared[BLOCK * V];
    Lanes at = lanes<V>(channels);
    double2 sums[V];
    for (int k = 0; k < V; ++k) sums[k] = make_double2(0, 0);
    if (!at.idle) {
        for (u32 row = at.row; row < rows; row += at.step) visit((u64)row * channels + at.channel, at.channel, sums);
    }
    // Over the rows of the block.
    for (int k = 0; k < V; ++k) shared[threadIdx.x * V + k] = sums[k];
    __syncthreads();
    u32 width = at.across * V;
    u32 first = blockIdx.y * width;
    u32 count = channels - first < width ? channels - first : width;
    for (u32 c = threadIdx.x; c < count; c += BLOCK) {
        double2 sum = make_double2(0, 0);
        for (u32 y = 0; y < BLOCK / at.across; ++y) {
            double2 one = shared[y * width + c];
            sum.x += one.x;
            sum.y += one.y;
        }
        partial[(u64)blockIdx.x * channels + first + c] = sum;
    }
    if (!last_block(counter + blockIdx.y, gridDim.x)) return;
    // Over the blocks: several threads for a channel where there are more threads than channels.
    u32 wide = count < BLOCK ? count : BLOCK;
    u32 parts = BLOCK / wide;
    for (u32 base = 0; base < count; base += wide) {
        u32 c = base + threadIdx.x % wide, part = threadIdx.x / wide;
        double2 sum = make_double2(0, 0);
        if (part < parts && c < count) {
#pragma unroll 8
            for (u32 block = part; block < gridDim.x; block += parts) {
                double2 one = __ldcg(partial + (u64)block * channels + first + c);
                sum.x += one.x;
                sum.y += one.y;
            }
        }
        __syncthreads();
        shared[threadIdx.x] = sum;
        __syncthreads();
        if (part == 0 && c < count) {
            for (u32 other = 1; other < parts; ++other) {
                double2 one = shared[other * wide + threadIdx.x];
                sum.x += one.x;
                sum.y += one.y;
            }
            finish(first + c, sum.x, sum.y);
        }
    }
}

template <int V> DEVICE void add_powers(const Pack<V>& numbers, double2* sums) {
    for (int k = 0; k < V; ++k) {
        double number = numbers.at[k];
        sums[k].x += number;
        sums[k].y += number * number;
    }
}

DEVICE void finish_moments(double sum, double squares, u32 rows, float* mean, float* variance) {
    double middle = sum / rows, spread = squares / rows - middle * middle;
    *mean = (float)middle;
    *variance = spread < 0 ? 0.f : (float)spread;
}

/// Mean and biased variance of each channel.
template <int V>
DEVICE void moments(
    const real* x, u32 rows, u32 channels, double2* partial, u32* counter, float* mean, float* variance
) {
    reduce_channels<V>(
        rows, channels, partial, counter,
        [=](u64 at, u32, double2* sums) {
            Pack<V> numbers = load<V>(x + at);
            add_powers<V>(numbers, sums);
        },
        [=](u32 c, double sum, double squares) { finish_moments(sum, squares, rows, mean + c, variance + c); });
}

/// A normalisation: y = activation((x − mean) · scale + beta + residual), scale = gamma / √(variance + eps).
struct Norm {
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* variance;
    double eps;
    Activation activation;
};

template <int V> struct Affine {
    float mean[V];
    float scale[V];
    float beta[V];
};

template <int V> DEVICE float through(const Affine<V>& affine, int k, float x) {
    return (x - affine.mean[k]) * affine.scale[k] + affine.beta[k];
}

template <int V> DEVICE Affine<V> affine_of(const Norm& norm, u32 channel) {
    Affine<V> affine;
    for (int k = 0; k < V; ++k) {
        // In f32: every thread computes its own, and roots and quotients in f64 would take longer than the rows.
        affine.mean[k] = norm.mean[channel + k];
        affine.scale[k] = norm.gamma[channel + k] / sqrtf(checked(norm.variance[channel + k]) + (float)norm.eps);
        affine.beta[k] = norm.beta[channel + k];
    }
    return affine;
}

template <int V>
DEVICE Pack<V> normalised(const Norm& norm, const Affine<V>& affine, Pack<V> x, const real* residual, u64 at) {
    for (int k = 0; k < V; ++k) x.at[k] = through(affine, k, x.at[k]);
    if (residual) {
        Pack<V> r = load<V>(residual + at);
        for (int k = 0; k < V; ++k) x.at[k] += r.at[k];
    }
    for (int k = 0; k < V; ++k) x.at[k] = activate(x.at[k], norm.activation);
    return x;
}

template <int V> DEVICE void normalise(const real* x, const real* residual, real* out, u32 rows, u32 channels, Norm norm) {
    Lanes at = lanes<V>(channels);
    if (at.idle) return;
    Affine<V> affine = affine_of<V>(norm, at.channel);
    for (u32 row = at.row; row < rows; row += at.step) {
        u64 i = (u64)row * channels + at.channel;
        store(out + i, normalised<V>(norm, affine, load<V>(x + i), residual, i));
    }
}

/// The same, with mean and variance of x on the way.
template <int V>
DEVICE void normalise_tapped(
    const real* x, const real* residual, real* out, u32 rows, u32 channels, Norm norm, double2* partial, u32* counter,
    float* mean, float* variance
) {
    Lanes lane = lanes<V>(channels);
    Affine<V> affine;
    if (!lane.idle) affine = affine_of<V>(norm, lane.channel);
    reduce_channels<V>(
        rows, channels, partial, counter,
        [=](u64 at, u32, double2* sums) {
            Pack<V> numbers = load<V>(x + at);
            add_powers<V>(numbers, sums);
            store(out + at, normalised<V>(norm, affine, numbers, residual, at));
        },
        [=](u32 c, double sum, double squares) { finish_moments(sum, squares, rows, mean + c, variance + c); });
}

/// Where the activation's input is read from: nowhere, computed from x, or the output or the input itself.
#define GATE_OPEN 0
#define GATE_INPUT 1
#define GATE_OUTPUT 2

/// Σ dz and Σ dz · (x − mean), dz the gradient before the activation, which `before` gets where it is not null; and from
/// them the gradients of gamma and beta, and slope and offset of the line that the batch's statistics add to x's.
template <int V>
DEVICE void norm_reduce(
    const real* grad, const real* x, const real* gate, int gated, u32 rows, u32 channels, Norm norm, double2* partial,
    u32* counter, real* before, float* to_gamma, float* to_beta, float* slope, float* offset
) {
    Lanes lane = lanes<V>(channels);
    Affine<V> affine;
    float middle[V];
    if (!lane.idle) {
        affine = affine_of<V>(norm, lane.channel);
        for (int k = 0; k < V; ++k) middle[k] = norm.mean[lane.channel + k];
    }
    reduce_channels<V>(
        rows, channels, partial, counter,
        [=](u64 at, u32, double2* sums) {
            Pack<V> dz = load<V>(grad + at), numbers = dz;
            if (x) numbers = load<V>(x + at);
            if (gated == GATE_INPUT) {
                for (int k = 0; k < V; ++k) {
                    float z = through(affine, k, numbers.at[k]);
                    dz.at[k] = activation_gradient(z, dz.at[k], norm.activation);
                }
            } else if (gated == GATE_OUTPUT) {
                Pack<V> y = load<V>(gate + at);
                for (int k = 0; k < V; ++k) dz.at[k] = activation_gradient(y.at[k], dz.at[k], norm.activation);
            }
            if (before) store(before + at, dz);
            for (int k = 0; k < V; ++k) {
                sums[k].x += dz.at[k];
                sums[k].y += (double)dz.at[k] * (double)(numbers.at[k] - middle[k]);
            }
        },
        [=](u32 c, double sum, double products) {
            double inverse = 1.0 / sqrt(checked(norm.variance[c]) + norm.eps), scale = norm.gamma[c] * inverse;
            if (to_gamma) to_gamma[c] = (float)(products * inverse);
            if (to_beta) to_beta[c] = (float)sum;
            if (slope) slope[c] = (float)(-scale * inverse * inverse * products / rows);
            if (offset) offset[c] = (float)(-scale * sum / rows);
        });
}

/// How x's gradient depends on each of its numbers: slope · slopes · (x − mean) + offset · offsets. Null: 0.
struct Line {
    const float* mean;
    const float* slope;
    const float* offset;
    double slopes;
    double offsets;
};

/// x's gradient: scale · dz and the line. Without `grad`, the line alone.
template <int V>
DEVICE void norm_backward(
    const real* grad, const real* x, const real* gate, int gated, u32 rows, u32 channels, Norm norm, Line line, real* out
) {
    Lanes at = lanes<V>(channels);
    if (at.idle) return;
    Affine<V> affine;
    if (grad) affine = affine_of<V>(norm, at.channel);
    float middle[V], slope[V], offset[V];
    for (int k = 0; k < V; ++k) {
        u32 c = at.channel + k;
        middle[k] = line.mean ? line.mean[c] : 0.f;
        slope[k] = line.slope ? (float)(line.slope[c] * line.slopes) : 0.f;
        offset[k] = line.offset ? (float)(line.offset[c] * line.offsets) : 0.f;
    }
    for (u32 row = at.row; row < rows; row += at.step) {
        u64 i = (u64)row * channels + at.channel;
        Pack<V> numbers, result;
        for (int k = 0; k < V; ++k) numbers.at[k] = result.at[k] = 0.f;
        if (x) numbers = load<V>(x + i);
        if (grad) {
            Pack<V> dz = load<V>(grad + i), sign = numbers;
            if (gated == GATE_OUTPUT) sign = load<V>(gate + i);
            for (int k = 0; k < V; ++k) {
                float z = gated == GATE_INPUT ? through(affine, k, sign.at[k]) : sign.at[k];
                float passed = gated == GATE_OPEN ? dz.at[k] : activation_gradient(z, dz.at[k], norm.activation);
                result.at[k] = passed * affine.scale[k];
            }
        }
        if (x) {
            for (int k = 0; k < V; ++k) result.at[k] += slope[k] * (numbers.at[k] - middle[k]) + offset[k];
        }
        store(out + i, result);
    }
}

/// Running statistics, moved towards those of a batch.
KERNEL follow(
    float* mean, float* variance, long long* batches, const float* of_batch, const float* spread, u32 channels, float unbiased,
    float momentum
) {
    u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if (c == 0) *batches += 1;
    if (c >= channels) return;
    mean[c] += momentum * (of_batch[c] - mean[c]);
    variance[c] += momentum * (spread[c] * unbiased - variance[c]);
}

/// Σ over rows of each channel: the gradient of a bias.
template <int V>
DEVICE void sum_rows(const real* x, u32 rows, u32 channels, double2* partial, u32* counter, float* out) {
    reduce_channels<V>(
        rows, channels, partial, counter,
        [=](u64 at, u32, double2* sums) {
            Pack<V> numbers = load<V>(x + at);
            for (int k = 0; k < V; ++k) sums[k].x += numbers.at[k];
        },
        [=](u32 c, double sum, double) { out[c] = (float)sum; });
}

#define FOR_CHANNELS(V)                                                                                                   \
    KERNEL moments_##V(                                                                                                    \
        const real* x, u32 rows, u32 channels, double2* partial, u32* counter, float* mean, float* variance               \
    ) {                                                                                                                    \
        moments<V>(x, rows, channels, partial, counter, mean, variance);                                                   \
    }                                                                                                                      \
    KERNEL normalise_##V(const real* x, const real* residual, real* out, u32 rows, u32 channels, Norm norm) {           \
        normalise<V>(x, residual, out, rows, channels, norm);                                                              \
    }                                                                                                                      \
    KERNEL normalise_tapped_##V(                                                                                           \
        const real* x, const real* residual, real* out, u32 rows, u32 channels, Norm norm, double2* partial,            \
        u32* counter, float* mean, float* variance                                                                         \
    ) {                                                                                                                    \
        normalise_tapped<V>(x, residual, out, rows, channels, norm, partial, counter, mean, variance);                     \
    }                                                                                                                      \
    KERNEL norm_reduce_##V(                                                                                                \
        const real* grad, const real* x, const real* gate, int gated, u32 rows, u32 channels, Norm norm,                \
        double2* partial, u32* counter, real* before, float* to_gamma, float* to_beta, float* slope, float* offset        \
    ) {                                                                                                                    \
        norm_reduce<V>(                                                                                                    \
            grad, x, gate, gated, rows, channels, norm, partial, counter, before, to_gamma, to_beta, slope, offset);       \
    }                                                                                                                      \
    KERNEL norm_backward_##V(                                                                                              \
        const real* grad, const real* x, const real* gate, int gated, u32 rows, u32 channels, Norm norm, Line line,     \
        real* out                                                                                                         \
    ) {                                                                                                                    \
        norm_backward<V>(grad, x, gate, gated, rows, channels, norm, line, out);                                           \
    }                                                                                                                      \
    KERNEL sum_rows_##V(const real* x, u32 rows, u32 channels, double2* partial, u32* counter, float* out) {              \
        sum_rows<V>(x, rows, channels, partial, counter, out);                                                             \
    }

FOR_CHANNELS(4)
FOR_CHANNELS(1)
