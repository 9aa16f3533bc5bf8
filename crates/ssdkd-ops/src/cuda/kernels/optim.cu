// Optimiser steps over many parameters in one launch: a network has dozens of small ones, and a launch costs as much as
// updating a hundred thousand numbers. A block takes a piece of `PIECE` numbers of one parameter.

#define PIECE (BLOCK * 4)

/// One parameter: its numbers, their gradient, and what the optimiser remembers.
struct Slot {
    float* parameter;
    const float* grad;
    float* first;
    float* second;
    u32 n;
    u32 block;  // the first block that works on it
};

DEVICE const Slot* slot_of(const Slot* slots, u32 count, u32 block) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (slots[middle].block <= block) low = middle;
        else high = middle;
    }
    return slots + low;
}

/// `rates`: the learning rate.
KERNEL sgd(const Slot* slots, u32 count, const float* rates, float momentum, float decay, int nesterov) {
    float rate = rates[0];
    Slot slot = *slot_of(slots, count, blockIdx.x);
    u32 start = (blockIdx.x - slot.block) * PIECE;
    for (u32 i = start + threadIdx.x; i < slot.n && i < start + PIECE; i += BLOCK) {
        float grad = slot.grad[i] + decay * slot.parameter[i];
        float velocity = momentum * slot.first[i] + grad;
        slot.first[i] = velocity;
        slot.parameter[i] -= rate * (nesterov ? grad + momentum * velocity : velocity);
    }
}

/// `rates`: the learning rate over the first moment's bias correction, and one over the root of the second moment's.
KERNEL adam(
    const Slot* slots, u32 count, const float* rates, float beta1, float beta2, float eps, float decay
) {
    float rate = rates[0], correction = rates[1];
    Slot slot = *slot_of(slots, count, blockIdx.x);
    u32 start = (blockIdx.x - slot.block) * PIECE;
    for (u32 i = start + threadIdx.x; i < slot.n && i < start + PIECE; i += BLOCK) {
        float grad = slot.grad[i] + decay * slot.parameter[i];
        float first = slot.first[i] + (grad - slot.first[i]) * (1.f - beta1);
        float second = beta2 * slot.second[i] + (1.f - beta2) * grad * grad;
        slot.first[i] = first;
        slot.second[i] = second;
        slot.parameter[i] -= rate * first / (sqrtf(second) * correction + eps);
    }
}

/// √ Σ grad² over all slots, partial sums by block.
KERNEL norm(const Slot* slots, u32 count, double* partial, u32* counter, float* out) {
    Slot slot = *slot_of(slots, count, blockIdx.x);
    u32 start = (blockIdx.x - slot.block) * PIECE;
    double sum = 0;
    for (u32 i = start + threadIdx.x; i < slot.n && i < start + PIECE; i += BLOCK) sum += (double)slot.grad[i] * slot.grad[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!last_block(counter, gridDim.x)) return;
    double total = sum_partials(partial, gridDim.x);
    if (threadIdx.x == 0) *out = (float)sqrt(total);
}
