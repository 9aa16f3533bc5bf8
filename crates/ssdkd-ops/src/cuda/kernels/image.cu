// Images (B, H, W, C): pooling, resolution, crops. Every kernel gathers: a thread makes one number of the result, so that
// nothing is added up in an order of chance.

struct Image { u32 height, width, channels; };

struct Place { u32 image, row, column, channel; };

DEVICE Place place(u32 i, Image of) {
    Place at;
    at.channel = i % of.channels; i /= of.channels;
    at.column = i % of.width; i /= of.width;
    at.row = i % of.height;
    at.image = i / of.height;
    return at;
}

DEVICE u64 index(Image of, u32 image, u32 row, u32 column, u32 channel) {
    return (((u64)image * of.height + row) * of.width + column) * of.channels + channel;
}

#define EACH(i, n)                             \
    u32 i = blockIdx.x * BLOCK + threadIdx.x;  \
    if (i >= (n)) return;

/// Images by their addresses.
KERNEL gather(const float* const* from, float* out, u32 n, u32 size) {
    EACH(i, n)
    out[i] = from[i / size][i % size];
}

KERNEL global_avg_pool(const real* x, real* out, u32 n, u32 pixels, u32 channels) {
    EACH(i, n)
    const real* image = x + (u64)(i / channels) * pixels * channels + i % channels;
    float sum = 0;
#pragma unroll 8
    for (u32 pixel = 0; pixel < pixels; ++pixel) sum += image[(u64)pixel * channels];
    out[i] = sum / (float)pixels;
}

KERNEL global_avg_pool_backward(const real* grad, real* out, u32 n, u32 pixels, u32 channels) {
    EACH(i, n)
    out[i] = grad[i / (pixels * channels) * channels + i % channels] / (float)pixels;
}

struct Windows { Image from, to; u32 kernel[2], stride[2], padding[2]; };

/// The pixels of the input in the window that starts at `at`, along an axis of `size` pixels.
DEVICE void inside(u32 at, const Windows& windows, int axis, u32 size, u32& first, u32& end) {
    u32 start = at * windows.stride[axis], padding = windows.padding[axis];
    first = (start > padding ? start : padding) - padding;
    u32 stop = start + windows.kernel[axis];
    end = (stop < size + padding ? stop : size + padding) - padding;
}

/// The windows that hold the pixel `at`.
DEVICE void covering(u32 at, const Windows& windows, int axis, u32 count, u32& first, u32& end) {
    u32 padded = at + windows.padding[axis], kernel = windows.kernel[axis], stride = windows.stride[axis];
    first = padded < kernel ? 0 : (padded - kernel) / stride + 1;
    end = padded / stride + 1;
    if (end > count) end = count;
}

/// The taps along one axis: where those of each output begin, their pixels, and their weights.
struct Taps { const u32* starts; const u32* pixels; const float* weights; };

DEVICE Taps taps(const u32* table, u32 outputs, u32 count) {
    return {table, table + outputs + 1, reinterpret_cast<const float*>(table + outputs + 1 + count)};
}

/// Sums over rectangles of pixels, with weights that are products of one of the row and one of the column.
KERNEL separable(const real* x, real* out, u32 n, Image from, Image to, const u32* tables, u32 row_taps, u32 column_taps) {
    EACH(i, n)
    Place at = place(i, to);
    Taps rows = taps(tables, to.height, row_taps);
    Taps columns = taps(tables + to.height + 1 + 2 * row_taps, to.width, column_taps);
    float sum = 0;
    for (u32 r = rows.starts[at.row]; r < rows.starts[at.row + 1]; ++r)
        for (u32 c = columns.starts[at.column]; c < columns.starts[at.column + 1]; ++c)
            sum += x[index(from, at.image, rows.pixels[r], columns.pixels[c], at.channel)]
                 * (rows.weights[r] * columns.weights[c]);
    out[i] = sum;
}

/// The largest number of each window, and the pixel of its image where it is: the first of equals, and any NaN.
KERNEL max_pool(const real* x, real* out, u32* positions, u32 n, Windows windows) {
    EACH(i, n)
    Place to = place(i, windows.to);
    u32 top, bottom, left, right;
    inside(to.row, windows, 0, windows.from.height, top, bottom);
    inside(to.column, windows, 1, windows.from.width, left, right);
    float largest = -__int_as_float(0x7f800000);
    u32 position = top * windows.from.width + left;
    for (u32 row = top; row < bottom; ++row)
        for (u32 column = left; column < right; ++column) {
            float number = x[index(windows.from, to.image, row, column, to.channel)];
            if (number > largest || number != number) {
                largest = number;
                position = row * windows.from.width + column;
            }
        }
    out[i] = largest;
    positions[i] = position;
}

KERNEL max_pool_backward(const real* grad, const u32* positions, real* out, u32 n, Windows windows) {
    EACH(i, n)
    Place from = place(i, windows.from);
    u32 top, bottom, left, right;
    covering(from.row, windows, 0, windows.to.height, top, bottom);
    covering(from.column, windows, 1, windows.to.width, left, right);
    u32 pixel = from.row * windows.from.width + from.column;
    float sum = 0;
    for (u32 row = top; row < bottom; ++row)
        for (u32 column = left; column < right; ++column) {
            u64 window = index(windows.to, from.image, row, column, from.channel);
            if (positions[window] == pixel) sum += grad[window];
        }
    out[i] = sum;
}

KERNEL upsample(const real* x, real* out, u32 n, Image from, Image to, u32 factor) {
    EACH(i, n)
    Place at = place(i, to);
    out[i] = x[index(from, at.image, at.row / factor, at.column / factor, at.channel)];
}

KERNEL upsample_backward(const real* grad, real* out, u32 n, Image from, Image to, u32 factor) {
    EACH(i, n)
    Place at = place(i, from);
    float sum = 0;
    for (u32 row = 0; row < factor; ++row)
        for (u32 column = 0; column < factor; ++column)
            sum += grad[index(to, at.image, at.row * factor + row, at.column * factor + column, at.channel)];
    out[i] = sum;
}

/// Pixel (row, column) of `out` is pixel (row + down, column + across) of x; zero where that has none.
KERNEL shift_image(const real* x, real* out, u32 n, Image from, Image to, int down, int across) {
    EACH(i, n)
    Place at = place(i, to);
    int row = (int)at.row + down, column = (int)at.column + across;
    bool shown = row >= 0 && row < (int)from.height && column >= 0 && column < (int)from.width;
    out[i] = shown ? (float)x[index(from, at.image, row, column, at.channel)] : 0.f;
}

KERNEL subsample_pad(const real* x, real* out, u32 n, Image from, Image to, u32 stride, u32 pad) {
    EACH(i, n)
    Place at = place(i, to);
    bool kept = at.channel >= pad && at.channel < pad + from.channels;
    out[i] = kept ? (float)x[index(from, at.image, at.row * stride, at.column * stride, at.channel - pad)] : 0.f;
}

KERNEL subsample_pad_backward(const real* grad, real* out, u32 n, Image from, Image to, u32 stride, u32 pad) {
    EACH(i, n)
    Place at = place(i, from);
    bool kept = at.row % stride == 0 && at.column % stride == 0;
    out[i] = kept ? (float)grad[index(to, at.image, at.row / stride, at.column / stride, at.channel + pad)] : 0.f;
}

/// One image's crop: row and column of the offset, and whether it is flipped.
struct View { u32 row, column, flipped; };

/// A row or column beyond `size`, as on a tiled floor.
DEVICE int wrapped(int at, u32 size) { return ((at % (int)size) + (int)size) % (int)size; }

/// The pixel (row, column) of the view shows the image's pixel (row + offset − padding, …), columns flipped first.
KERNEL crop_flip(const float* x, const View* views, float* out, u32 n, Image of, u32 padding, u32 wrap) {
    EACH(i, n)
    Place at = place(i, of);
    View view = views[at.image];
    int row = (int)(at.row + view.row) - (int)padding;
    u32 unflipped = view.flipped ? of.width - 1 - at.column : at.column;
    int column = (int)(unflipped + view.column) - (int)padding;
    if (wrap) row = wrapped(row, of.height), column = wrapped(column, of.width);
    bool shown = row >= 0 && row < (int)of.height && column >= 0 && column < (int)of.width;
    out[i] = shown ? x[index(of, at.image, row, column, at.channel)] : 0.f;
}

KERNEL crop_flip_backward(const float* grad, const View* views, float* out, u32 n, Image of, u32 padding, u32 wrap) {
    EACH(i, n)
    Place at = place(i, of);
    View view = views[at.image];
    int row = (int)(at.row + padding) - (int)view.row;
    int unflipped = (int)(at.column + padding) - (int)view.column;
    if (wrap) row = wrapped(row, of.height), unflipped = wrapped(unflipped, of.width);
    bool shown = row >= 0 && row < (int)of.height && unflipped >= 0 && unflipped < (int)of.width;
    int column = view.flipped ? (int)of.width - 1 - unflipped : unflipped;
    out[i] = shown ? grad[index(of, at.image, row, column, at.channel)] : 0.f;
}

KERNEL color_lines(const float* x, const float* lines, float* out, u32 n, Image of) {
    EACH(i, n)
    Place at = place(i, of);
    const float* line = lines + at.image * (1 + of.channels);
    float y = (x[i] - 0.5f) * line[0] + line[1 + at.channel];
    out[i] = y < 0.f ? 0.f : y > 1.f ? 1.f : y; // what is not a number stays so
}

KERNEL color_lines_backward(const float* grad, const float* lines, const float* seen, float* out, u32 n, Image of) {
    EACH(i, n)
    out[i] = seen[i] > 0.f && seen[i] < 1.f ? grad[i] * lines[place(i, of).image * (1 + of.channels)] : 0.f;
}

/// Down and right to the neighbours that total variation compares a pixel with.
__constant__ int NEIGHBOURS[4][2] = {{0, 1}, {1, 0}, {1, -1}, {1, 1}};

DEVICE bool neighbour(Image of, Place at, int which, int sign, u32& row, u32& column) {
    int r = (int)at.row + sign * NEIGHBOURS[which][0], c = (int)at.column + sign * NEIGHBOURS[which][1];
    row = (u32)r;
    column = (u32)c;
    return r >= 0 && r < (int)of.height && c >= 0 && c < (int)of.width;
}

/// The norms of the differences in the four directions, and their sum.
KERNEL total_variation(const float* x, u32 n, Image of, double* partial, u32* counter, double* norms, float* out) {
    double sums[4] = {0, 0, 0, 0};
    for (u32 i = blockIdx.x * BLOCK + threadIdx.x; i < n; i += gridDim.x * BLOCK) {
        Place at = place(i, of);
        for (int which = 0; which < 4; ++which) {
            u32 row, column;
            if (!neighbour(of, at, which, 1, row, column)) continue;
            double apart = x[i] - x[index(of, at.image, row, column, at.channel)];
            sums[which] += apart * apart;
        }
    }
    for (int which = 0; which < 4; ++which) {
        double sum = block_sum(sums[which]);
        if (threadIdx.x == 0) partial[which * gridDim.x + blockIdx.x] = sum;
    }
    if (!last_block(counter, gridDim.x)) return;
    double total = 0;
    for (int which = 0; which < 4; ++which) {
        double norm = sqrt(sum_partials(partial + which * gridDim.x, gridDim.x));
        if (threadIdx.x == 0) norms[which] = norm;
        total += norm;
    }
    if (threadIdx.x == 0) *out = (float)total;
}

KERNEL total_variation_backward(const float* x, const double* norms, const float* flow, float* out, u32 n, Image of) {
    EACH(i, n)
    Place at = place(i, of);
    float sum = 0;
    for (int which = 0; which < 4; ++which) {
        float factor = norms[which] == 0.0 ? 0.f : (float)(*flow / norms[which]);
        for (int sign = -1; sign <= 1; sign += 2) {
            u32 row, column;
            if (neighbour(of, at, which, sign, row, column))
                sum += factor * (x[i] - x[index(of, at.image, row, column, at.channel)]);
        }
    }
    out[i] = sum;
}
