// Two tensors, the smaller of which is repeated over the larger one of images × pixels × channels.

/// As `cuda/arithmetic.rs` numbers them.
#define ADD 0
#define SUBTRACT 1
#define MULTIPLY 2
#define DIVIDE 3
#define PRELU 4

struct Spread {
    u32 pixels, channels;
    u32 steps[3];  // of the smaller tensor for the next image, pixel and channel; 0 where it is repeated
    int operation, swapped;
};

/// Which number of the smaller tensor belongs to number `i` of the larger.
DEVICE u32 partner(u32 i, const Spread& spread) {
    u32 channel = i % spread.channels, pixel = i / spread.channels % spread.pixels;
    return i / (spread.channels * spread.pixels) * spread.steps[0] + pixel * spread.steps[1] + channel * spread.steps[2];
}

DEVICE float pair_of(float l, float s, int operation, int swapped) {
    if (operation == ADD) return l + s;
    if (operation == SUBTRACT) return swapped ? s - l : l - s;
    if (operation == MULTIPLY) return l * s;
    if (operation == DIVIDE) return swapped ? s / l : l / s;
    return l > 0.f ? l : l * s;
}

DEVICE float to_large(float g, float l, float s, int operation, int swapped) {
    if (operation == SUBTRACT) return swapped ? -g : g;
    if (operation == MULTIPLY) return g * s;
    if (operation == DIVIDE) return swapped ? -g * s / (l * l) : g / s;
    if (operation == PRELU) return l > 0.f ? g : g * s;
    return g;
}

DEVICE float to_small(float g, float l, float s, int operation, int swapped) {
    if (operation == SUBTRACT) return swapped ? g : -g;
    if (operation == MULTIPLY) return g * l;
    if (operation == DIVIDE) return swapped ? g / l : -g * l / (s * s);
    if (operation == PRELU) return l > 0.f ? 0.f : g * l;
    return g;
}

KERNEL elementwise(const real* a, const real* b, real* out, u32 n, int operation) {
    map2(a, b, out, n, [=](float a, float b) { return pair_of(a, b, operation, 0); });
}

KERNEL negative(const real* x, real* out, u32 n) {
    map1(x, out, n, [](float x) { return -x; });
}

KERNEL pair_forward(const real*, const real* large, const real* small, real* out, u32 n, Spread spread) {
    EACH(i, n)
    out[i] = pair_of(large[i], small[partner(i, spread)], spread.operation, spread.swapped);
}

/// `small` is null where the gradient does not take it.
KERNEL pair_to_large(const real* grad, const real* large, const real* small, real* out, u32 n, Spread spread) {
    EACH(i, n)
    float s = small ? (float)small[partner(i, spread)] : 0.f;
    out[i] = to_large(grad[i], large[i], s, spread.operation, spread.swapped);
}

/// The sums over the pixels of an image, for 32 channels each block: as many threads beside each other, which eight times
/// share the pixels.
KERNEL pair_sums(const real* grad, const real* large, const real* small, double* sums, Spread spread) {
    __shared__ double shared[BLOCK];
    u32 channel = blockIdx.x * WARP + threadIdx.x % WARP, image = blockIdx.y;
    double sum = 0;
    if (channel < spread.channels) {
        float s = small ? (float)small[image * spread.steps[0] + channel * spread.steps[2]] : 0.f;
        for (u32 pixel = threadIdx.x / WARP; pixel < spread.pixels; pixel += BLOCK / WARP) {
            u64 i = ((u64)image * spread.pixels + pixel) * spread.channels + channel;
            sum += to_small(grad[i], large[i], s, spread.operation, spread.swapped);
        }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= WARP || channel >= spread.channels) return;
    for (u32 other = WARP; other < BLOCK; other += WARP) sum += shared[other + threadIdx.x];
    sums[(u64)image * spread.channels + channel] = sum;
}

/// A block for each number of the smaller tensor: the sum of those of `sums` (images, channels) that belong to it.
KERNEL pair_total(const double* sums, float* out, u32 images, Spread spread) {
    u32 i = blockIdx.x, of = spread.steps[2] ? spread.channels : 1;
    u32 channel = spread.steps[2] ? i % of : 0, image = spread.steps[0] ? i / of : 0;
    u32 channels = spread.steps[2] ? 1 : spread.channels, count = (spread.steps[0] ? 1 : images) * channels;
    double sum = 0;
    for (u32 k = threadIdx.x; k < count; k += BLOCK)
        sum += sums[(u64)(image + k / channels) * spread.channels + channel + k % channels];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[i] = (float)sum;
}

/// A thread for each number of a smaller tensor that has pixels of its own.
KERNEL pair_sums_by_pixel(
    const real* grad, const real* large, const real* small, float* out, u32 n, u32 images, Spread spread
) {
    EACH(i, n)
    u32 of = spread.steps[2] ? spread.channels : 1;
    u32 first = spread.steps[2] ? i % of : 0, pixel = i / of % spread.pixels;
    u32 image = spread.steps[0] ? i / (of * spread.pixels) : 0;
    u32 end = spread.steps[0] ? image + 1 : images, stop = spread.steps[2] ? first + 1 : spread.channels;
    float s = small ? (float)small[i] : 0.f;
    double sum = 0;
    for (; image < end; ++image)
        for (u32 channel = first; channel < stop; ++channel) {
            u64 at = ((u64)image * spread.pixels + pixel) * spread.channels + channel;
            sum += to_small(grad[at], large[at], s, spread.operation, spread.swapped);
        }
    out[i] = (float)sum;
}

/// Some channels of each row to some of another row.
KERNEL copy_channels(
    const real* x, real* out, u32 n, u32 width, u32 start, u32 step, u32 to_start, u32 to_step
) {
    EACH(i, n)
    u32 row = i / width, channel = i % width;
    out[(u64)row * to_step + to_start + channel] = x[(u64)row * step + start + channel];
}

KERNEL zero(real* out, u32 n) {
    EACH(i, n)
    out[i] = 0.f;
}

/// Channel k of group g becomes channel k · groups + g.
KERNEL shuffle_channels(const real* x, real* out, u32 n, u32 channels, u32 groups) {
    EACH(i, n)
    u32 row = i / channels, channel = i % channels;
    out[i] = x[(u64)row * channels + channel % groups * (channels / groups) + channel / groups];
}
