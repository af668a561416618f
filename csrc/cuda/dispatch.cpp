// Tables by element type, and what a call keeps.
#include "../core/cell_info.h"
#include "call.h"
#include "persistent.h"

namespace lstmfast::cuda {

const StepKernels& step_kernels(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return kStepKernelsFloat64;
    case DType::kFloat16:
      return kStepKernelsFloat16;
    case DType::kBFloat16:
      return kStepKernelsBFloat16;
    case DType::kFloat32:
      break;
  }
  return kStepKernelsFloat32;
}

int64_t reserve_width(int cell, DType dtype, int64_t hidden, int64_t projection) {
  const CellInfo& info = cell_info(cell);
  const int64_t size = compute_size_of(dtype), aligned = 16 / size;
  const int64_t cell_out = projection ? (hidden * size_of(dtype) + size - 1) / size : 0;
  const int64_t width = hidden * (info.gates + info.states - 1) + cell_out;
  return (width + aligned - 1) / aligned * aligned;
}

}  // namespace lstmfast::cuda
