// Tables by element type, and what a call keeps.
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

namespace {
template <class Unit>
const Unit* choose(DType dtype, Multiplier multiplier, const Unit& f16, const Unit& bf16, const Unit& tf32,
                   const Unit& f32) {
  switch (dtype) {
    case DType::kFloat16:
      return &f16;
    case DType::kBFloat16:
      return &bf16;
    case DType::kFloat32:
      return multiplier == Multiplier::kTensorCores ? &tf32 : &f32;
    case DType::kFloat64:
      break;
  }
  return nullptr;
}
}  // namespace

const PersistentUnit<PersistentForward>* persistent_forward(DType dtype, Multiplier multiplier) {
  return choose(dtype, multiplier, kForwardFloat16, kForwardBFloat16, kForwardTf32, kForwardFloat32);
}
const PersistentUnit<PersistentBackward>* persistent_backward(DType dtype, Multiplier multiplier) {
  return choose(dtype, multiplier, kBackwardFloat16, kBackwardBFloat16, kBackwardTf32, kBackwardFloat32);
}

Result prepare_device() {
  int bytes = 0;
  Result result = most_shared_memory(&bytes);
  for (const auto* unit : {&kForwardFloat16, &kForwardBFloat16, &kForwardTf32, &kForwardFloat32})
    if (result.ok()) result = unit->prepare(bytes);
  for (const auto* unit : {&kBackwardFloat16, &kBackwardBFloat16, &kBackwardTf32, &kBackwardFloat32})
    if (result.ok()) result = unit->prepare(bytes);
  return result;
}

}  // namespace lstmfast::cuda
