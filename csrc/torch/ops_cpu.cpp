// The CPU device: memory kept from call to call, threads as torch has them.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../cpu/cpu.h"
#include "../cpu/pool.h"
#include "../cpu/weight_cache.h"
#include "ops.h"
#include "precision.h"
#include "result_memory.h"

namespace lstmfast {
namespace {

void check_status(Status s) {
  TORCH_INTERNAL_ASSERT(s == Status::kOk, "lstmfast: kernel status ", static_cast<int>(s));
}

// Where no level has an arithmetic for less, the precision means nothing, and must not tell packed weights apart.
void set_arithmetic(ForwardParams& p, std::optional<Float32Precision> precision) {
  p.isa = cpu::isa();
  if (p.dtype == DType::kFloat32 && cpu::has_tiles(p.isa))
    p.float32_precision = precision ? *precision : float32_precision_of_torch();
}

void forward(Directions<ForwardParams>& runs, const at::Tensor&, std::optional<Float32Precision> precision) {
  for (ForwardParams& p : runs) {
    set_arithmetic(p, precision);
    // Weights that are trained change with every call: only inference keeps them packed.
    cpu::PackedWeights packed(p, /*wanted=*/p.reserve == nullptr);
    const cpu::Scratch memory(cpu::forward_workspace_bytes(p));
    p.workspace = memory.data();
    check_status(cpu::forward(p));
    packed.keep();
  }
}
void backward(Directions<BackwardParams>& runs, const at::Tensor&, std::optional<Float32Precision> precision) {
  for (BackwardParams& p : runs) {
    set_arithmetic(p, precision);
    const cpu::Scratch memory(cpu::backward_workspace_bytes(p));
    p.workspace = memory.data();
    check_status(cpu::backward(p));
  }
}

const Device kCpu{cpu::reserve_width, forward, backward, empty_result};

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CPU, m) { implement_ops<kCpu>(m); }

}  // namespace lstmfast
