// Matrix products for the CUDA kernels by cuBLAS, on the handle, workspace and stream that torch has for this thread
// and device. The only file that needs cuBLAS's headers is cuda_blas.cpp.
#pragma once
#include <string>

#include "../cuda/kernels.h"

namespace lstmfast {

// While it lives, torch's handle is in the mode that the kernels' products want. Same sizes, same GPU, same bits: torch
// gives every stream a workspace of its own, and sums are kept in the compute type.
class CudaProducts {
 public:
  // Of the current device, for products on torch's current stream. Throws if cuBLAS cannot be set up.
  explicit CudaProducts(bool allow_tf32);
  ~CudaProducts();
  CudaProducts(const CudaProducts&) = delete;
  CudaProducts& operator=(const CudaProducts&) = delete;

  cuda::Blas blas() { return {&gemm, this}; }
  static std::string error_name(int code);

 private:
  static int gemm(void* products, const cuda::Gemm& g);

  void* handle_;  // cublasHandle_t
  int previous_mode_;
  bool allow_tf32_;
};

}  // namespace lstmfast
