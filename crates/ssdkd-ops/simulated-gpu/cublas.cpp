// Matrix products of a simulated GPU, by their definition.

#include <cstddef>
#include <cstdint>

#include "capture.hpp"
#include "idle.hpp"

namespace {

constexpr int SUCCESS = 0, NOT_SUPPORTED = 15;
constexpr int TRANSPOSED = 1;
constexpr int R_32F = 0;

/// C = alpha · A · B + beta · C, column-major; sums in f64, as which algorithm a GPU takes is not known here.
template <class T>
void product(
    int a_transposed, int b_transposed, int m, int n, int k, T alpha, const T* a, int lda, const T* b, int ldb, T beta,
    T* c, int ldc
) {
    if (idle()) return;
    for (int column = 0; column < n; ++column)
        for (int row = 0; row < m; ++row) {
            double sum = 0;
            for (int i = 0; i < k; ++i) {
                double x = a[a_transposed ? (size_t)row * lda + i : (size_t)i * lda + row];
                double y = b[b_transposed ? (size_t)i * ldb + column : (size_t)column * ldb + i];
                sum += x * y;
            }
            T& out = c[(size_t)column * ldc + row];
            out = (T)(alpha * sum) + (beta == 0 ? T(0) : beta * out);  // what is there may be NaN where it does not count
        }
}

template <class T>
void products(
    int ta, int tb, int m, int n, int k, T alpha, const T* a, int lda, long long step_a, const T* b, int ldb,
    long long step_b, T beta, T* c, int ldc, long long step_c, int batch
) {
    for (int i = 0; i < batch; ++i)
        product(ta, tb, m, n, k, alpha, a + i * step_a, lda, b + i * step_b, ldb, beta, c + i * step_c, ldc);
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) { *handle = new int; return SUCCESS; }
int cublasDestroy_v2(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
int cublasSetStream_v2(void*, void*) { return SUCCESS; }
int cublasSetMathMode(void*, int) { return SUCCESS; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return SUCCESS; }

int cublasSgemm_v2(
    void*, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda, const float* b, int ldb,
    const float* beta, float* c, int ldc
) {
    in_order([=, alpha = *alpha, beta = *beta] {
        product(ta == TRANSPOSED, tb == TRANSPOSED, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    });
    return SUCCESS;
}

int cublasDgemmStridedBatched(
    void*, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda, long long step_a,
    const double* b, int ldb, long long step_b, const double* beta, double* c, int ldc, long long step_c, int batch
) {
    in_order([=, alpha = *alpha, beta = *beta] {
        products(ta, tb, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, batch);
    });
    return SUCCESS;
}

int cublasGemmStridedBatchedEx(
    void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type_a, int lda, long long step_a,
    const void* b, int type_b, int ldb, long long step_b, const void* beta, void* c, int type_c, int ldc,
    long long step_c, int batch, int, int
) {
    if (type_a != R_32F || type_b != R_32F || type_c != R_32F) return NOT_SUPPORTED;
    in_order([=, alpha = *(const float*)alpha, beta = *(const float*)beta] {
        products(
            ta, tb, m, n, k, alpha, (const float*)a, lda, step_a, (const float*)b, ldb, step_b, beta, (float*)c, ldc,
            step_c, batch);
    });
    return SUCCESS;
}

}  // extern "C"
