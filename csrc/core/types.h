// Element types and status codes that cross the boundary between the kernels and their callers.
#pragma once
#include <cstdint>

namespace lstmfast {

enum class DType : int { kFloat32, kFloat64, kBFloat16, kFloat16 };
constexpr int kDTypes = 4;

constexpr int64_t size_of(DType d) { return d == DType::kFloat64 ? 8 : d == DType::kFloat32 ? 4 : 2; }
// Half types are computed in float32: bytes of one element of what is accumulated, saved and kept as cell state.
constexpr int64_t compute_size_of(DType d) { return d == DType::kFloat64 ? 8 : 4; }

// How float32 may be multiplied, as torch.set_float32_matmul_precision says: with all its bits, with 16 bits of
// mantissa or so (bfloat16 in threes, TF32), or as bfloat16. A permission, not a demand; other types do not ask.
enum class Float32Precision : int { kHighest, kHigh, kMedium };

enum class Status : int { kOk, kUnknownCell, kTooLarge, kLaunchFailed, kBlasFailed };

}  // namespace lstmfast
