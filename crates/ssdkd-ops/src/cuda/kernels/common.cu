// What all kernels share. The files of this folder are compiled together, in the order of `cuda/program.rs`, by the
// run-time compiler of the CUDA at hand for the GPU at hand: once with `REAL` float, once with bf16. `real` is what activations
// and their gradients are stored as; parameters, statistics, losses and everything that is computed with are float or double.
//
// Launches are in order on one stream, so scratch memory is free again when a kernel ends. Sums are taken in f64 and in
// an order that depends on the shape alone: the same bytes every time.

typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void

#define BLOCK 256
#define WARP 32

/// The upper half of a float, rounded to the nearest, in ties to even.
struct bf16 {
    unsigned short bits;
    bf16() = default;
    __device__ __forceinline__ bf16(float x) {
        u32 whole = __float_as_uint(x);
        // NaN stays one, whatever its bits were: rounding could carry them into infinity.
        bits = x != x ? 0x7fff : (unsigned short)((whole + 0x7fff + (whole >> 16 & 1)) >> 16);
    }
    __device__ __forceinline__ operator float() const { return __uint_as_float((u32)bits << 16); }
};

typedef REAL real;

/// As `cuda/mod.rs` numbers them.
#define NONE 0
#define RELU 1
#define LEAKY 2
#define CLIP 3
#define HARD_SIGMOID 4
#define HARD_SWISH 5
#define SILU 6

/// An activation and its numbers: the slope of a leaky ReLU, both ends of a clip.
struct Activation {
    int kind;
    float first, second;
};

/// Not `fminf` and `fmaxf`, which would hide NaN.
DEVICE float clip(float z, float low, float high) {
    float above = z <= low ? low : z;
    return above >= high ? high : above;
}

DEVICE float sigmoid_of(float z) { return 1.f / (1.f + expf(-z)); }

/// Not `fmaxf`, which would turn NaN into 0 and hide a training run that diverged.
DEVICE float activate(float z, Activation f) {
    if (f.kind == RELU) return z <= 0.f ? 0.f : z;
    if (f.kind == LEAKY) return z > 0.f ? z : z * f.first;
    if (f.kind == CLIP) return clip(z, f.first, f.second);
    if (f.kind == HARD_SIGMOID) return clip(z + 3.f, 0.f, 6.f) * (1.f / 6.f);
    if (f.kind == HARD_SWISH) return z * (clip(z + 3.f, 0.f, 6.f) * (1.f / 6.f));
    if (f.kind == SILU) return z * sigmoid_of(z);
    return z;
}

/// `z` is the input; for the first four it may be the output, which tells as much.
DEVICE float activation_gradient(float z, float grad, Activation f) {
    if (f.kind == RELU) return z <= 0.f ? 0.f : grad;
    if (f.kind == LEAKY) return z > 0.f ? grad : grad * f.first;
    if (f.kind == CLIP) return z <= f.first || z >= f.second ? 0.f : grad;
    if (f.kind == HARD_SIGMOID) return z <= -3.f || z >= 3.f ? 0.f : grad * (1.f / 6.f);
    if (f.kind == HARD_SWISH) return z <= -3.f ? 0.f : z >= 3.f ? grad : grad * (z * (1.f / 3.f) + 0.5f);
    if (f.kind == SILU) {
        float share = sigmoid_of(z);
        return grad * (share * (1.f + z * (1.f - share)));
    }
    return grad;
}

/// A running variance: a negative one is no variance, and is not to pass for one where eps covers it.
DEVICE float checked(float variance) {
    return variance < 0.f ? __int_as_float(0x7fffffff) : variance;
}

/// V numbers that are read or written at once.
template <int V> struct Pack { float at[V]; };

template <int V> DEVICE Pack<V> load(const float* from) {
    Pack<V> pack;
    if (V == 4) {
        float4 four = *reinterpret_cast<const float4*>(from);
        pack.at[0] = four.x; pack.at[1 % V] = four.y; pack.at[2 % V] = four.z; pack.at[3 % V] = four.w;
    } else {
        pack.at[0] = *from;
    }
    return pack;
}

template <int V> DEVICE void store(float* to, const Pack<V>& pack) {
    if (V == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(pack.at[0], pack.at[1 % V], pack.at[2 % V], pack.at[3 % V]);
    } else {
        *to = pack.at[0];
    }
}

template <int V> struct alignas(V * sizeof(bf16)) Halves { bf16 at[V]; };

template <int V> DEVICE Pack<V> load(const bf16* from) {
    Halves<V> halves = *reinterpret_cast<const Halves<V>*>(from);
    Pack<V> pack;
    for (int k = 0; k < V; ++k) pack.at[k] = halves.at[k];
    return pack;
}

template <int V> DEVICE void store(bf16* to, const Pack<V>& pack) {
    Halves<V> halves;
    for (int k = 0; k < V; ++k) halves.at[k] = pack.at[k];
    *reinterpret_cast<Halves<V>*>(to) = halves;
}

/// The sum over the block of `x`, in every thread.
DEVICE double block_sum(double x) {
    __shared__ double sums[BLOCK / WARP];
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    __syncthreads();
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
    __syncthreads();
    double total = 0;
    for (int warp = 0; warp < BLOCK / WARP; ++warp) total += sums[warp];
    return total;
}

DEVICE double warp_sum(double x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

DEVICE double warp_max(double x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x = fmax(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

/// Whether this block is the last of `blocks` to come here: it then sees what the others wrote before. Sets the counter
/// back for the next launch.
DEVICE bool last_block(u32* counter, u32 blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

/// The sum of partial[0..count], in every thread of a block; to be called by the last block.
DEVICE double sum_partials(const double* partial, int count) {
    double sum = 0;
    for (int at = threadIdx.x; at < count; at += BLOCK) sum += __ldcg(partial + at);
    return block_sum(sum);
}
