// Sums over all numbers of a tensor, and what is made of one number.

/// How `sum_pairs` measures a pair.
#define SUM 0
#define SQUARES 1
#define ABSOLUTE 2
#define DIFFERENCE_SQUARES 3

/// out = factor · Σ f(a, b), or its root; `root`, where it is not null, gets the root without the factor, in f64.
KERNEL sum_pairs(
    const float* a, const float* b, u32 n, int how, int rooted, double factor, double* partial, u32* counter, float* out,
    double* root
) {
    double sum = 0;
    auto measure = [=](float x, float y) -> double {
        double apart = (double)x - (double)y;
        return how == SUM ? (double)x : how == SQUARES ? (double)x * x : how == ABSOLUTE ? fabs(apart) : apart * apart;
    };
    u32 threads = gridDim.x * BLOCK, thread = blockIdx.x * BLOCK + threadIdx.x;
    if ((((u64)a | (u64)b) & 15) == 0) {
        for (u32 i = thread; i < n / 4; i += threads) {
            Pack<4> x = load<4>(a + 4 * (u64)i), y = load<4>(b + 4 * (u64)i);
            for (int k = 0; k < 4; ++k) sum += measure(x.at[k], y.at[k]);
        }
        u32 rest = n / 4 * 4 + thread;
        if (rest < n) sum += measure(a[rest], b[rest]);
    } else {
        for (u32 i = thread; i < n; i += threads) sum += measure(a[i], b[i]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!last_block(counter, gridDim.x)) return;
    double total = sum_partials(partial, gridDim.x);
    if (rooted) total = sqrt(total);
    if (threadIdx.x == 0) {
        *out = (float)(factor * total);
        if (root) *root = total;
    }
}

/// `Σ factor · term`, terms of one number each.
struct Terms {
    const float* term[48];
    double factor[48];
    int count;
};

/// out = base + Σ factor · term; base may be null.
KERNEL weighted_sum(Terms terms, const double* base, double* whole, float* out) {
    double sum = 0;
    for (int i = threadIdx.x; i < terms.count; i += WARP) sum += terms.factor[i] * (double)*terms.term[i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) {
        if (base) sum += *base;
        *whole = sum;
        *out = (float)sum;
    }
}

/// out[i] = factor[i] · flow.
KERNEL weighted_flow(Terms terms, const float* flow, float* out) {
    int i = threadIdx.x;
    if (i < terms.count) out[i] = (float)((double)*flow * terms.factor[i]);
}

/// ratio = distance / norm of the target, and what the gradient has to be multiplied with.
KERNEL relative(const double* distance, const double* norm, float* ratio, double* denominator) {
    *ratio = (float)(*distance / *norm);
    *denominator = *distance * *norm;
}

/// Tensors that are put together, and where each starts in the result.
struct Pieces {
    const float* from[48];
    u32 start[49];
};

/// A row of blocks for each piece.
KERNEL pack(Pieces pieces, float* out) {
    u32 piece = blockIdx.y, i = blockIdx.x * BLOCK + threadIdx.x, start = pieces.start[piece];
    if (i < pieces.start[piece + 1] - start) out[start + i] = pieces.from[piece][i];
}
