// Memory of a call's results on the CPU: large ones are taken from what earlier results have left.
#pragma once
#include <ATen/core/Tensor.h>

namespace lstmfast {

// As at::empty.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options);

}  // namespace lstmfast
