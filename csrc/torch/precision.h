// torch's setting for float32 products on the CPU.
#pragma once
#include <ATen/Context.h>

#include "../core/types.h"

namespace lstmfast {

// What torch.set_float32_matmul_precision sets for oneDNN, and torch.backends.mkldnn.matmul.fp32_precision by itself.
// (The setting's own reader raises when it and the latter have been mixed.)
inline Float32Precision float32_precision_of_torch() {
  switch (at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL)) {
    case at::Float32Precision::BF16:
      return Float32Precision::kMedium;
    case at::Float32Precision::TF32:
      return Float32Precision::kHigh;
    default:
      return Float32Precision::kHighest;
  }
}

}  // namespace lstmfast
