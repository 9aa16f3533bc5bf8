// Convolutions by their definition, for those that cuDNN does not compute on channels-last images: right, not fast, but for the
// depthwise ones.
// Weights are (O, C/groups, kh, kw).

struct Convolution {
    u32 batch;
    Image input, output;
    u32 rows, columns;  // of the kernel
    u32 stride[2], padding[2], dilation[2];  // down, across; above, before
    u32 groups;
};

KERNEL direct_forward(const real* x, const float* weight, real* out, u32 n, Convolution conv) {
    EACH(i, n)
    Place at = place(i, conv.output);
    u32 inputs = conv.input.channels / conv.groups, outputs = conv.output.channels / conv.groups;
    u32 group = at.channel / outputs;
    float sum = 0;
    for (u32 row = 0; row < conv.rows; ++row)
        for (u32 column = 0; column < conv.columns; ++column) {
            int y = (int)(at.row * conv.stride[0] + row * conv.dilation[0]) - (int)conv.padding[0];
            int x_ = (int)(at.column * conv.stride[1] + column * conv.dilation[1]) - (int)conv.padding[1];
            if (y < 0 || y >= (int)conv.input.height || x_ < 0 || x_ >= (int)conv.input.width) continue;
            for (u32 c = 0; c < inputs; ++c)
                sum += x[index(conv.input, at.image, y, x_, group * inputs + c)]
                     * weight[((at.channel * inputs + c) * conv.rows + row) * conv.columns + column];
        }
    out[i] = sum;
}

KERNEL direct_input_gradient(const real* grad, const float* weight, real* out, u32 n, Convolution conv) {
    EACH(i, n)
    Place at = place(i, conv.input);
    u32 inputs = conv.input.channels / conv.groups, outputs = conv.output.channels / conv.groups;
    u32 group = at.channel / inputs, c = at.channel % inputs;
    float sum = 0;
    for (u32 row = 0; row < conv.rows; ++row)
        for (u32 column = 0; column < conv.columns; ++column) {
            int y = (int)(at.row + conv.padding[0]) - (int)(row * conv.dilation[0]);
            int x_ = (int)(at.column + conv.padding[1]) - (int)(column * conv.dilation[1]);
            if (y < 0 || y % (int)conv.stride[0] || x_ < 0 || x_ % (int)conv.stride[1]) continue;
            y /= (int)conv.stride[0];
            x_ /= (int)conv.stride[1];
            if (y >= (int)conv.output.height || x_ >= (int)conv.output.width) continue;
            for (u32 o = 0; o < outputs; ++o)
                sum += grad[index(conv.output, at.image, y, x_, group * outputs + o)]
                     * weight[(((group * outputs + o) * inputs + c) * conv.rows + row) * conv.columns + column];
        }
    out[i] = sum;
}

/// A block for each number of the weight.
KERNEL direct_weight_gradient(const real* x, const real* grad, float* out, Convolution conv) {
    u32 i = blockIdx.x;
    u32 column = i % conv.columns, row = i / conv.columns % conv.rows;
    u32 inputs = conv.input.channels / conv.groups, outputs = conv.output.channels / conv.groups;
    u32 c = i / (conv.columns * conv.rows) % inputs, o = i / (conv.columns * conv.rows * inputs);
    u32 pixels = conv.batch * conv.output.height * conv.output.width;
    double sum = 0;
    for (u32 pixel = threadIdx.x; pixel < pixels; pixel += BLOCK) {
        u32 to_column = pixel % conv.output.width, to_row = pixel / conv.output.width % conv.output.height;
        u32 image = pixel / (conv.output.width * conv.output.height);
        int y = (int)(to_row * conv.stride[0] + row * conv.dilation[0]) - (int)conv.padding[0];
        int x_ = (int)(to_column * conv.stride[1] + column * conv.dilation[1]) - (int)conv.padding[1];
        if (y < 0 || y >= (int)conv.input.height || x_ < 0 || x_ >= (int)conv.input.width) continue;
        sum += (double)x[index(conv.input, image, y, x_, o / outputs * inputs + c)] * grad[(u64)pixel * conv.output.channels + o];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[i] = (float)sum;
}

/// Partial gradients [chunk][tap][channel] of a depthwise convolution. A block has 32 channels of one tap, and a chunk of the
/// pixels, which eight threads of each channel share.
KERNEL depthwise_weight_gradient(const real* x, const real* grad, double* sums, u32 chunks, Convolution conv) {
    __shared__ double shared[BLOCK];
    u32 channels = conv.output.channels, channel = blockIdx.x * WARP + threadIdx.x % WARP;
    u32 taps = conv.rows * conv.columns, tap = blockIdx.y % taps, chunk = blockIdx.y / taps;
    u64 pixels = (u64)conv.batch * conv.output.height * conv.output.width;
    u32 first = (u32)(pixels * chunk / chunks), end = (u32)(pixels * (chunk + 1) / chunks);
    int down = (int)(tap / conv.columns * conv.dilation[0]) - (int)conv.padding[0];
    int across = (int)(tap % conv.columns * conv.dilation[1]) - (int)conv.padding[1];
    double sum = 0;
    if (channel < channels) {
        for (u32 pixel = first + threadIdx.x / WARP; pixel < end; pixel += BLOCK / WARP) {
            u32 column = pixel % conv.output.width, row = pixel / conv.output.width % conv.output.height;
            u32 image = pixel / (conv.output.width * conv.output.height);
            int y = (int)(row * conv.stride[0]) + down, x_ = (int)(column * conv.stride[1]) + across;
            if (y < 0 || y >= (int)conv.input.height || x_ < 0 || x_ >= (int)conv.input.width) continue;
            sum += (double)x[index(conv.input, image, y, x_, channel)] * grad[(u64)pixel * channels + channel];
        }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= WARP || channel >= channels) return;
    for (u32 other = WARP; other < BLOCK; other += WARP) sum += shared[other + threadIdx.x];
    sums[((u64)chunk * taps + tap) * channels + channel] = sum;
}

/// Their sums over the chunks, (C, 1, kh, kw).
KERNEL depthwise_weight_total(const double* sums, float* out, u32 n, u32 chunks, u32 taps) {
    EACH(i, n)
    u32 channel = i / taps, tap = i % taps, channels = n / taps;
    double sum = 0;
    for (u32 chunk = 0; chunk < chunks; ++chunk) sum += sums[((u64)chunk * taps + tap) * channels + channel];
    out[i] = (float)sum;
}
