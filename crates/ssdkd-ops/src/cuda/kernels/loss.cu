// Losses over rows of logits (B, K), a warp for each row, in f64. The gradient is computed with the loss, and only scaled
// on the way back.

#define ROWS_PER_BLOCK (BLOCK / WARP)

#define EACH_ROW(row, lane)                                              \
    u32 row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP;          \
    u32 lane = threadIdx.x % WARP;

DEVICE double log_sum_exp(const float* logits, u32 classes, u32 lane, double temperature) {
    double largest = -__longlong_as_double(0x7ff0000000000000ll);
    for (u32 c = lane; c < classes; c += WARP) largest = fmax(largest, logits[c] / temperature);
    largest = warp_max(largest);
    double sum = 0;
    for (u32 c = lane; c < classes; c += WARP) sum += exp(logits[c] / temperature - largest);
    return largest + log(warp_sum(sum));
}

/// The sum over all rows into `out`, by the last block. The first lane of each warp brings the `loss` of its row, all others 0.
DEVICE void finish_rows(double loss, double* partial, u32* counter, float* out) {
    double sum = block_sum(loss);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!last_block(counter, gridDim.x)) return;
    double total = sum_partials(partial, gridDim.x);
    if (threadIdx.x == 0) *out = (float)total;
}

KERNEL cross_entropy(
    const float* logits, const u32* targets, const float* weights, u32 rows, u32 classes, double smoothing, float* grad,
    double* partial, u32* counter, float* out
) {
    EACH_ROW(row, lane)
    double of_row = 0;
    if (row < rows) {
        const float* at = logits + (u64)row * classes;
        double log_sum = log_sum_exp(at, classes, lane, 1.0);
        double factor = (weights ? (double)weights[row] : 1.0) / rows, spread = smoothing / classes;
        u32 target = targets[row];
        double others = 0;
        for (u32 c = lane; c < classes; c += WARP) {
            double wanted = spread + (c == target ? 1.0 - smoothing : 0.0);
            if (grad) grad[(u64)row * classes + c] = (float)(factor * (exp(at[c] - log_sum) - wanted));
            others += log_sum - at[c];
        }
        others = warp_sum(others);
        double loss = (1.0 - smoothing) * (log_sum - at[target]);
        if (smoothing > 0.0) loss += spread * others;
        if (lane == 0) of_row = factor * loss;
    }
    finish_rows(of_row, partial, counter, out);
}

/// KL(p ‖ q) of one row, p = softmax(target / T) and q = softmax(logits / T), and what their logarithms are computed with.
struct Divergence { double target_log_sum, log_sum, divergence; };

DEVICE Divergence divergence_of(const float* target, const float* at, u32 classes, u32 lane, double temperature) {
    Divergence of;
    of.target_log_sum = log_sum_exp(target, classes, lane, temperature);
    of.log_sum = log_sum_exp(at, classes, lane, temperature);
    double divergence = 0;
    for (u32 c = lane; c < classes; c += WARP) {
        double log_p = target[c] / temperature - of.target_log_sum, log_q = at[c] / temperature - of.log_sum;
        divergence += exp(log_p) * (log_p - log_q);
    }
    divergence = warp_sum(divergence);
    // Rounding can leave a little less than nothing; NaN stays.
    of.divergence = divergence < 0.0 ? 0.0 : divergence;
    return of;
}

/// KL(softmax(target / T) ‖ softmax(logits / T)) of each row, weighted; gradients into both where wanted.
KERNEL kl_divergence(
    const float* target_logits, const float* logits, const float* weights, u32 rows, u32 classes, double temperature,
    float* grad, float* target_grad, double* partial, u32* counter, float* out
) {
    EACH_ROW(row, lane)
    double of_row = 0;
    if (row < rows) {
        const float* target = target_logits + (u64)row * classes;
        const float* at = logits + (u64)row * classes;
        Divergence of = divergence_of(target, at, classes, lane, temperature);
        double factor = (weights ? (double)weights[row] : 1.0) / rows;
        for (u32 c = lane; c < classes; c += WARP) {
            double log_p = target[c] / temperature - of.target_log_sum, log_q = at[c] / temperature - of.log_sum;
            u64 i = (u64)row * classes + c;
            if (grad) grad[i] = (float)(factor * (exp(log_q) - exp(log_p)) / temperature);
            if (target_grad) target_grad[i] = (float)(factor * exp(log_p) * (log_p - log_q - of.divergence) / temperature);
        }
        if (lane == 0) of_row = factor * of.divergence;
    }
    finish_rows(of_row, partial, counter, out);
}

KERNEL softmax(const float* logits, float* out, u32 rows, u32 classes) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    const float* at = logits + (u64)row * classes;
    double log_sum = log_sum_exp(at, classes, lane, 1.0);
    for (u32 c = lane; c < classes; c += WARP) out[(u64)row * classes + c] = (float)exp(at[c] - log_sum);
}

/// The mean probability p̄ of each class.
KERNEL mean_probabilities(
    const float* probabilities, u32 rows, u32 classes, double2* partial, u32* counter, double* mean
) {
    reduce_channels<1>(
        rows, classes, partial, counter, [=](u64 at, u32, double2* sums) { sums[0].x += probabilities[at]; },
        [=](u32 c, double sum, double) { mean[c] = sum / rows; });
}

/// Σ p̄ ln p̄ by one block, and ln p̄ in the place of p̄.
KERNEL mean_negentropy(double* mean, u32 classes, float* out) {
    double negentropy = 0;
    for (u32 c = threadIdx.x; c < classes; c += BLOCK) {
        double logarithm = log(fmax(mean[c], 2.2250738585072014e-308));
        negentropy += mean[c] * logarithm;
        mean[c] = logarithm;
    }
    double total = block_sum(negentropy);
    if (threadIdx.x == 0) *out = (float)total;
}

KERNEL mean_negentropy_backward(
    const float* probabilities, const double* log_mean, const float* flow, float* out, u32 rows, u32 classes
) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    const float* at = probabilities + (u64)row * classes;
    double expected = 0;
    for (u32 c = lane; c < classes; c += WARP) expected += at[c] * log_mean[c];
    expected = warp_sum(expected);
    for (u32 c = lane; c < classes; c += WARP)
        out[(u64)row * classes + c] = (float)(at[c] * (log_mean[c] - expected) / rows * *flow);
}

/// Rows of features (B, F) divided by their norms; a row of zeros stays.
KERNEL unit_rows(const float* x, float* out, double* inverses, u32 rows, u32 columns) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    double squares = 0;
    for (u32 c = lane; c < columns; c += WARP) {
        double number = x[(u64)row * columns + c];
        squares += number * number;
    }
    double norm = sqrt(warp_sum(squares));
    double inverse = norm == 0.0 ? 0.0 : 1.0 / norm;
    for (u32 c = lane; c < columns; c += WARP) out[(u64)row * columns + c] = (float)(x[(u64)row * columns + c] * inverse);
    if (lane == 0) inverses[row] = inverse;
}

KERNEL unit_rows_backward(
    const float* unit, const float* grad, const double* inverses, float* out, u32 rows, u32 columns
) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    double along = 0;
    for (u32 c = lane; c < columns; c += WARP) along += (double)unit[(u64)row * columns + c] * grad[(u64)row * columns + c];
    along = warp_sum(along);
    for (u32 c = lane; c < columns; c += WARP) {
        u64 i = (u64)row * columns + c;
        out[i] = (float)((grad[i] - unit[i] * along) * inverses[row]);
    }
}

/// The class with the largest logit, the first of equals, in every lane. NaN is larger than nothing.
DEVICE u32 argmax_of(const float* at, u32 classes, u32 lane) {
    float largest = at[0];
    u32 best = 0;
    for (u32 c = lane; c < classes; c += WARP)
        if (at[c] > largest) {
            largest = at[c];
            best = c;
        }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, largest, distance);
        u32 of_other = __shfl_xor_sync(0xffffffffu, best, distance);
        if (other > largest || (other == largest && of_other < best)) {
            largest = other;
            best = of_other;
        }
    }
    return best;
}

KERNEL argmax_rows(const float* logits, u32* out, u32 rows, u32 classes) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    u32 best = argmax_of(logits + (u64)row * classes, classes, lane);
    if (lane == 0) out[row] = best;
}

/// 1 where both networks name the same class, else 0.
KERNEL same_argmax(const float* a, const float* b, float* out, u32 rows, u32 classes) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    u32 of_a = argmax_of(a + (u64)row * classes, classes, lane), of_b = argmax_of(b + (u64)row * classes, classes, lane);
    if (lane == 0) out[row] = of_a == of_b ? 1.f : 0.f;
}

KERNEL kl_per_sample(
    const float* target_logits, const float* logits, float* out, u32 rows, u32 classes, double temperature
) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    double divergence = divergence_of(
        target_logits + (u64)row * classes, logits + (u64)row * classes, classes, lane, temperature).divergence;
    if (lane == 0) out[row] = (float)divergence;
}

/// of_class · (1 − p)^γ, p the largest probability of a row.
KERNEL focal_weights(
    const float* logits, const float* of_class, float* out, u32 rows, u32 classes, double gamma
) {
    EACH_ROW(row, lane)
    if (row >= rows) return;
    const float* at = logits + (u64)row * classes;
    u32 best = argmax_of(at, classes, lane);
    float confidence = (float)exp(at[best] - log_sum_exp(at, classes, lane, 1.0));
    double doubt = (double)(1.f - confidence);
    // Not `fmax`, which would hide NaN.
    if (doubt < 0.0) doubt = 0.0;
    if (lane == 0) out[row] = of_class[best] * (float)pow(doubt, gamma);
}

/// The mean of every `size` numbers, a warp for each.
KERNEL group_means(const float* x, float* out, u32 groups, u32 size) {
    EACH_ROW(group, lane)
    if (group >= groups) return;
    double sum = 0;
    for (u32 i = lane; i < size; i += WARP) sum += x[(u64)group * size + i];
    sum = warp_sum(sum);
    if (lane == 0) out[group] = (float)(sum / size);
}
