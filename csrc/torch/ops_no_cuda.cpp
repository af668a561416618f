// A build without CUDA kernels says so, where the dispatcher would only list the devices that it knows.
#include <torch/library.h>

namespace lstmfast {
namespace {

void refuse(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().name(),
      " was called with CUDA tensors, but lstmfast was built without CUDA: install it again with "
      "a CUDA build of torch and nvcc (LSTMFAST_CUDA=1 tells what is missing)");
}

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CUDA, m) {
  m.impl("forward", torch::CppFunction::makeFromBoxedFunction<&refuse>());
  m.impl("backward", torch::CppFunction::makeFromBoxedFunction<&refuse>());
}

}  // namespace lstmfast
