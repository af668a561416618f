// The CPU device: workspace from torch's allocator, threads as torch has them.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../cpu/cpu.h"
#include "ops.h"

namespace lstmfast {
namespace {

// 64-byte aligned memory for one kernel call; torch's CPU allocator aligns to 64.
at::Tensor workspace(size_t bytes, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}
void check_status(Status s) {
  TORCH_INTERNAL_ASSERT(s == Status::kOk, "lstmfast: kernel status ", static_cast<int>(s));
}

const Device kCpu{cpu::reserve_width,
                  [](ForwardParams& p, const at::Tensor& like, std::optional<bool>) {
                    p.isa = cpu::isa();
                    const at::Tensor memory = workspace(cpu::forward_workspace_bytes(p), like);
                    p.workspace = memory.mutable_data_ptr();
                    check_status(cpu::forward(p));
                  },
                  [](BackwardParams& p, const at::Tensor& like, std::optional<bool>) {
                    p.isa = cpu::isa();
                    const at::Tensor memory = workspace(cpu::backward_workspace_bytes(p), like);
                    p.workspace = memory.mutable_data_ptr();
                    check_status(cpu::backward(p));
                  }};

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CPU, m) {
  m.impl("forward", forward_op<kCpu>);
  m.impl("backward", backward_op<kCpu>);
}

}  // namespace lstmfast
