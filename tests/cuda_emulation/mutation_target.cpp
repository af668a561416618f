// All of the CUDA code for one type in one program, quick to compile: what mutate.py breaks and runs. It stops at the
// first call that is wrong. TEST_GENERAL, TEST_PERSISTENT, TEST_SPLIT, TEST_TF32 or TEST_HALF (bfloat16) says which
// kernels run; TEST_ORDER, those of TF32, directions and stacks too, for a program that ThreadSanitizer watches
// (order.h).
#define LSTMFAST_EMULATION_MAIN
// clang-format off
#include "cuda/plan.cpp"
#include "cuda/costs.cpp"
#include "cuda/call.cpp"
#include "cuda/forward.cpp"
#include "cuda/backward.cpp"
#include "cuda/dispatch.cpp"
#include "cuda/units/shared.cu"
#ifdef TEST_HALF
#include "cuda/units/steps_bf16.cu"
#else
#include "cuda/units/steps_f32.cu"
#endif
#include "cuda/persistent_launchers.cuh"
#include "random_calls.h"
// clang-format on

namespace lstmfast::cuda {
#ifdef TEST_HALF
const StepKernels kStepKernelsFloat64{}, kStepKernelsFloat32{}, kStepKernelsFloat16{};
#else
const StepKernels kStepKernelsFloat64{}, kStepKernelsFloat16{}, kStepKernelsBFloat16{};
#endif
#ifdef TEST_GENERAL
const PersistentUnit<PersistentForward> kForwardFloat16{}, kForwardBFloat16{}, kForwardTf32{}, kForwardFloat32{};
const PersistentUnit<PersistentBackward> kBackwardFloat16{}, kBackwardBFloat16{}, kBackwardTf32{}, kBackwardFloat32{};
#elif defined(TEST_HALF)
const PersistentUnit<PersistentForward> kForwardFloat16{}, kForwardTf32{}, kForwardFloat32{},
    kForwardBFloat16 = ForwardUnit<TensorCores<BFloat16> >::kTable;
const PersistentUnit<PersistentBackward> kBackwardFloat16{}, kBackwardTf32{}, kBackwardFloat32{},
    kBackwardBFloat16 = BackwardUnit<TensorCores<BFloat16> >::kTable;
#elif defined(TEST_ORDER)
const PersistentUnit<PersistentForward> kForwardFloat16{}, kForwardBFloat16{}, kForwardFloat32{},
    kForwardTf32 = ForwardUnit<TensorCores<float> >::kTable;
const PersistentUnit<PersistentBackward> kBackwardFloat16{}, kBackwardBFloat16{}, kBackwardFloat32{},
    kBackwardTf32 = BackwardUnit<TensorCores<float> >::kTable;
#else
const PersistentUnit<PersistentForward> kForwardFloat16{}, kForwardBFloat16{},
    kForwardTf32 = ForwardUnit<TensorCores<float> >::kTable, kForwardFloat32 = ForwardUnit<Fma>::kTable;
const PersistentUnit<PersistentBackward> kBackwardFloat16{}, kBackwardBFloat16{},
    kBackwardTf32 = BackwardUnit<TensorCores<float> >::kTable, kBackwardFloat32 = BackwardUnit<Fma>::kTable;
#endif
}  // namespace lstmfast::cuda

using namespace lstmfast;

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 100;
  std::mt19937_64 random(3);
  for (int i = 0; i < count && failures() == 0; i++) {
#ifdef TEST_GENERAL
    const bool tf32 = false;
    RandomCall call(random, {{DType::kFloat32}, true, i % 16 == 15});
#elif defined(TEST_ORDER)
    const bool tf32 = true;
    RandomCall call(random, {{DType::kFloat32}, true, i % 4 == 3, 1, true, true});
#elif defined(TEST_HALF)
    const bool tf32 = false;
    RandomCall call(random, {{DType::kBFloat16}, true, i % 2 == 1, 1, true, true});
#elif defined(TEST_TF32)
    const bool tf32 = true;
    RandomCall call(random, {{DType::kFloat32}, false, i % 2 == 1, 1});
#elif defined(TEST_SPLIT)
    if (i >= count / 3) break;  // they are large
    const bool tf32 = random() % 2;
    RandomCall call(random, {{DType::kFloat32}, false, false, 1, true, false, true});
#else
    const bool tf32 = random() % 2;
    RandomCall call(random, {{DType::kFloat32}, true, i % 2 == 1, 1, true, true});
#endif
    Run run;
#ifdef TEST_SPLIT
    if (!draw_split_run(random, call, run, tf32)) continue;
#else
    draw_run(random, run, tf32);
#endif
#ifdef TEST_GENERAL
    draw_launches(i % 2, run);
#endif
    check_call(call, run);
  }
#if defined(TEST_HALF)
  constexpr DType kTested = DType::kBFloat16;
#else
  constexpr DType kTested = DType::kFloat32;
#endif
#if defined(TEST_PERSISTENT) || defined(TEST_HALF)
  for (int i = 0; i < 8 && failures() == 0; i++) {
    Run run;
    const bool tf32 = true;
    draw_run(random, run, tf32);
    run.context.gpu.sm_count = 8, run.context.candidate = i * 3;
    check_call(call_without_numbers(random, kTested, "LSTM"), run);
  }
#endif
#if !defined(TEST_ORDER) && !defined(TEST_HALF)
  if (failures() == 0) {
    Run run;
    const bool tf32 = false;
    draw_run(random, run, tf32);
#ifdef TEST_GENERAL
    draw_launches(true, run);
    for (const bool ends_between : {false, true}) check_call(call_with_gaps(random, ends_between), run);
    draw_launches(false, run);
#endif
    check_call(long_call(random), run);
  }
#endif
  return finish();
}
