// As much of cuBLAS's interface as torch's headers and csrc/torch/cuda_blas.cpp use, for compiling the binding where
// the library is not installed.
#pragma once
#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstdint>

using cublasHandle_t = struct cublasContext*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasMath_t { CUBLAS_DEFAULT_MATH = 0, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };

cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t*);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
const char* cublasGetStatusName(cublasStatus_t);
cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t, cublasOperation_t, int64_t m, int64_t n, int64_t k,
                               const void* alpha, const void* a, cudaDataType, int64_t lda, const void* b, cudaDataType,
                               int64_t ldb, const void* beta, void* c, cudaDataType, int64_t ldc, cublasComputeType_t,
                               cublasGemmAlgo_t);
