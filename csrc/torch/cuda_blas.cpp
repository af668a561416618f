#include "cuda_blas.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/util/Exception.h>

#include "column_major.h"

namespace lstmfast {
namespace {

cublasHandle_t handle_of(void* handle) { return static_cast<cublasHandle_t>(handle); }

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return CUDA_R_64F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
    case DType::kFloat32:
      break;
  }
  return CUDA_R_32F;
}

void check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, "lstmfast: ", what, " failed: ", cublasGetStatusName(status));
}

}  // namespace

CudaProducts::CudaProducts(bool allow_tf32) : handle_(at::cuda::getCurrentCUDABlasHandle()), allow_tf32_(allow_tf32) {
  // torch leaves the handle in the mode of its own last product. TF32 is asked for by the compute type here, and split
  // sums of half types stay in float32.
  cublasMath_t mode{};
  check(cublasGetMathMode(handle_of(handle_), &mode), "cublasGetMathMode");
  previous_mode_ = mode;
  mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  check(cublasSetMathMode(handle_of(handle_), mode), "cublasSetMathMode");
}

CudaProducts::~CudaProducts() {
  // It has been set before, and there is nobody to tell.
  static_cast<void>(cublasSetMathMode(handle_of(handle_), static_cast<cublasMath_t>(previous_mode_)));
}

std::string CudaProducts::error_name(int code) { return cublasGetStatusName(static_cast<cublasStatus_t>(code)); }

int CudaProducts::gemm(void* products, const cuda::Gemm& g) {
  const auto& self = *static_cast<const CudaProducts*>(products);
  const ColumnMajorGemm p = column_major(g);
  const auto operation = [](const ColumnMajorOperand& o) { return o.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const cudaDataType_t type = data_type(g.dtype);
  const bool is_double = g.dtype == DType::kFloat64;
  const cudaDataType_t c_type = g.compute_c && !is_double ? CUDA_R_32F : type;
  const cublasComputeType_t compute = is_double                                        ? CUBLAS_COMPUTE_64F
                                      : g.dtype == DType::kFloat32 && self.allow_tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                                       : CUBLAS_COMPUTE_32F;
  const double one = 1, beta = g.beta;
  const float one_f = 1, beta_f = static_cast<float>(g.beta);
  const void* alpha_at = is_double ? static_cast<const void*>(&one) : &one_f;
  const void* beta_at = is_double ? static_cast<const void*>(&beta) : &beta_f;
  return cublasGemmEx_64(handle_of(self.handle_), operation(p.a), operation(p.b), p.m, p.n, p.k, alpha_at, p.a.data,
                         type, p.a.leading, p.b.data, type, p.b.leading, beta_at, p.c, c_type, p.c_leading, compute,
                         CUBLAS_GEMM_DEFAULT);
}

}  // namespace lstmfast
