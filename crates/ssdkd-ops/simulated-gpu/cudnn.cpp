// Convolutions of a simulated GPU, by their definition, on channels-last images. As cuDNN, it does not compute all: those
// in groups or with dilation are refused here, so that what is done then is tested, too.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "capture.hpp"
#include "idle.hpp"

namespace {

constexpr int SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000;
constexpr int FLOAT = 0, BFLOAT16 = 9, NHWC = 1;
constexpr int TENSOR_OP_MATH = 1, FMA_MATH = 3;

struct Tensor { int format, type, n, c, h, w; };
struct Filter { int type, format, k, c, h, w; };
struct Convolution { int pad[2], stride[2], dilation[2], mode, type, groups = 1, math = 0; };

struct Answer {
    int algorithm, status;
    float time;
    size_t memory;
    int deterministic, math, reserved[3];
};

/// What cuDNN would take: the types and sizes fit.
int check(const Tensor& x, const Filter& w, const Convolution& c, const Tensor& y) {
    auto size = [&](int in, int pad, int kernel, int stride) { return (in + 2 * pad - kernel) / stride + 1; };
    if (w.type != x.type || y.type != x.type || (x.type != FLOAT && x.type != BFLOAT16) || x.format != NHWC || w.format != NHWC || y.format != NHWC)
        return BAD_PARAM;
    if (c.groups != 1 || c.dilation[0] != 1 || c.dilation[1] != 1) return NOT_SUPPORTED;
    bool fits = x.n == y.n && x.c == w.c && y.c == w.k && y.h == size(x.h, c.pad[0], w.h, c.stride[0]) &&
                y.w == size(x.w, c.pad[1], w.w, c.stride[1]);
    return fits ? SUCCESS : BAD_PARAM;
}

/// Two algorithms that compute the same: one with tensor cores and other sums each time, and one without.
int answer(int status, const Convolution& c, int asked, int* found, Answer* answers) {
    if (status != SUCCESS) return *found = 0, status;
    int count = 0;
    if (c.math != FMA_MATH && asked > count) answers[count++] = {1, SUCCESS, 1.f, 1 << 12, 0, TENSOR_OP_MATH, {}};
    if (asked > count) answers[count++] = {0, SUCCESS, 2.f, 0, 1, FMA_MATH, {}};
    *found = count;
    return SUCCESS;
}

/// `x` without its last bits, rounded to the nearest, in ties to even. TF32 leaves 13 away, bf16 16.
float rounded(float x, int away) {
    uint32_t bits = std::bit_cast<uint32_t>(x), last = 1u << away;
    if ((bits & 0x7f800000) == 0x7f800000) return x;
    return std::bit_cast<float>((bits + last / 2 - 1 + (bits >> away & 1)) & ~(last - 1));
}

/// The numbers of a tensor as a convolution multiplies them.
std::vector<float> factors(const void* from, size_t count, int type, const Convolution& c) {
    std::vector<float> factors(count);
    for (size_t i = 0; i < count; ++i) {
        if (type == BFLOAT16) {
            factors[i] = std::bit_cast<float>((uint32_t)static_cast<const uint16_t*>(from)[i] << 16);
        } else {
            factors[i] = static_cast<const float*>(from)[i];
            if (c.math == TENSOR_OP_MATH) factors[i] = rounded(factors[i], 13);
        }
    }
    return factors;
}

void finish(const std::vector<float>& sums, int type, void* to) {
    for (size_t i = 0; i < sums.size(); ++i) {
        if (type == BFLOAT16) {
            static_cast<uint16_t*>(to)[i] = std::bit_cast<uint32_t>(rounded(sums[i], 16)) >> 16;
        } else {
            static_cast<float*>(to)[i] = sums[i];
        }
    }
}

/// For each tap of each output's pixel: visit(output pixel, input pixel, tap).
template <class Visit> void taps(const Tensor& x, const Filter& w, const Convolution& c, const Tensor& y, Visit visit) {
    for (int n = 0; n < y.n; ++n)
        for (int i = 0; i < y.h; ++i)
            for (int j = 0; j < y.w; ++j)
                for (int r = 0; r < w.h; ++r)
                    for (int s = 0; s < w.w; ++s) {
                        int row = i * c.stride[0] + r - c.pad[0], column = j * c.stride[1] + s - c.pad[1];
                        if (row < 0 || row >= x.h || column < 0 || column >= x.w) continue;
                        visit(((size_t)n * y.h + i) * y.w + j, ((size_t)n * x.h + row) * x.w + column, r * w.w + s);
                    }
}

size_t numbers(const Tensor& t) { return (size_t)t.n * t.c * t.h * t.w; }
size_t numbers(const Filter& f) { return (size_t)f.k * f.c * f.h * f.w; }

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 91000; }
int cudnnCreate(void** handle) { *handle = new int; return SUCCESS; }
int cudnnDestroy(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
int cudnnSetStream(void*, void*) { return SUCCESS; }

int cudnnCreateTensorDescriptor(Tensor** out) { *out = new Tensor{}; return SUCCESS; }
int cudnnCreateFilterDescriptor(Filter** out) { *out = new Filter{}; return SUCCESS; }
int cudnnCreateConvolutionDescriptor(Convolution** out) { *out = new Convolution{}; return SUCCESS; }
int cudnnSetTensor4dDescriptor(Tensor* t, int format, int type, int n, int c, int h, int w) {
    *t = {format, type, n, c, h, w};
    return n > 0 && c > 0 && h > 0 && w > 0 ? SUCCESS : BAD_PARAM;
}
int cudnnSetFilter4dDescriptor(Filter* f, int type, int format, int k, int c, int h, int w) {
    *f = {type, format, k, c, h, w};
    return k > 0 && c > 0 && h > 0 && w > 0 ? SUCCESS : BAD_PARAM;
}
int cudnnSetConvolution2dDescriptor(Convolution* c, int ph, int pw, int u, int v, int dh, int dw, int mode, int type) {
    *c = {{ph, pw}, {u, v}, {dh, dw}, mode, type};
    return SUCCESS;
}
int cudnnSetConvolutionGroupCount(Convolution* c, int groups) { c->groups = groups; return SUCCESS; }
int cudnnSetConvolutionMathType(Convolution* c, int math) { c->math = math; return SUCCESS; }

int cudnnGetConvolutionForwardAlgorithm_v7(
    void*, Tensor* x, Filter* w, Convolution* c, Tensor* y, int asked, int* found, Answer* answers
) {
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(
    void*, Filter* w, Tensor* y, Convolution* c, Tensor* x, int asked, int* found, Answer* answers
) {
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    void*, Tensor* x, Tensor* y, Convolution* c, Filter* w, int asked, int* found, Answer* answers
) {
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}

int cudnnFindConvolutionForwardAlgorithmEx(
    void*, Tensor* x, const void*, Filter* w, const void*, Convolution* c, Tensor* y, void*, int asked, int* found,
    Answer* answers, void*, size_t
) {
    if (simulated_breaks_capture()) return EXECUTION_FAILED; // a trial is timed
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}
int cudnnFindConvolutionBackwardDataAlgorithmEx(
    void*, Filter* w, const void*, Tensor* y, const void*, Convolution* c, Tensor* x, void*, int asked, int* found,
    Answer* answers, void*, size_t
) {
    if (simulated_breaks_capture()) return EXECUTION_FAILED; // a trial is timed
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}
int cudnnFindConvolutionBackwardFilterAlgorithmEx(
    void*, Tensor* x, const void*, Tensor* y, const void*, Convolution* c, Filter* w, void*, int asked, int* found,
    Answer* answers, void*, size_t
) {
    if (simulated_breaks_capture()) return EXECUTION_FAILED; // a trial is timed
    return answer(check(*x, *w, *c, *y), *c, asked, found, answers);
}

int cudnnConvolutionForward(
    void*, const float*, Tensor* x, const void* x_at, Filter* w, const void* w_at, Convolution* c, int, void*, size_t,
    const float*, Tensor* y, void* y_at
) {
    if (int status = check(*x, *w, *c, *y); status || idle()) return status;
    in_order([=, x = *x, w = *w, c = *c, y = *y] {
        auto input = factors(x_at, numbers(x), x.type, c), weight = factors(w_at, numbers(w), w.type, c);
        std::vector<float> out(numbers(y));
        taps(x, w, c, y, [&](size_t to, size_t from, int tap) {
            const float* in = &input[from * x.c];
            for (int k = 0; k < w.k; ++k) {
                const float* row = &weight[((size_t)k * w.h * w.w + tap) * x.c];
                float sum = 0;
                for (int i = 0; i < x.c; ++i) sum += in[i] * row[i];
                out[to * y.c + k] += sum;
            }
        });
        finish(out, y.type, y_at);
    });
    return SUCCESS;
}

int cudnnConvolutionBackwardData(
    void*, const float*, Filter* w, const void* w_at, Tensor* y, const void* y_at, Convolution* c, int, void*, size_t,
    const float*, Tensor* x, void* x_at
) {
    if (int status = check(*x, *w, *c, *y); status || idle()) return status;
    in_order([=, x = *x, w = *w, c = *c, y = *y] {
        auto gradient = factors(y_at, numbers(y), y.type, c), weight = factors(w_at, numbers(w), w.type, c);
        std::vector<float> to_x(numbers(x));
        taps(x, w, c, y, [&](size_t to, size_t from, int tap) {
            float* out = &to_x[from * x.c];
            for (int k = 0; k < w.k; ++k) {
                const float* row = &weight[((size_t)k * w.h * w.w + tap) * x.c];
                float factor = gradient[to * y.c + k];
                for (int i = 0; i < x.c; ++i) out[i] += factor * row[i];
            }
        });
        finish(to_x, x.type, x_at);
    });
    return SUCCESS;
}

int cudnnConvolutionBackwardFilter(
    void*, const float*, Tensor* x, const void* x_at, Tensor* y, const void* y_at, Convolution* c, int, void*, size_t,
    const float*, Filter* w, void* w_at
) {
    if (int status = check(*x, *w, *c, *y); status || idle()) return status;
    in_order([=, x = *x, w = *w, c = *c, y = *y] {
        auto input = factors(x_at, numbers(x), x.type, c), gradient = factors(y_at, numbers(y), y.type, c);
        std::vector<float> to_w(numbers(w));
        taps(x, w, c, y, [&](size_t to, size_t from, int tap) {
            const float* in = &input[from * x.c];
            for (int k = 0; k < w.k; ++k) {
                float* row = &to_w[((size_t)k * w.h * w.w + tap) * x.c];
                float factor = gradient[to * y.c + k];
                for (int i = 0; i < x.c; ++i) row[i] += factor * in[i];
            }
        });
        finish(to_w, w.type, w_at);
    });
    return SUCCESS;
}

}  // extern "C"
