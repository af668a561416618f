#include "../step_launchers.cuh"

namespace lstmfast::cuda {
const StepKernels kStepKernelsBFloat16 = StepLaunchers<BFloat16>::kTable;
}  // namespace lstmfast::cuda
