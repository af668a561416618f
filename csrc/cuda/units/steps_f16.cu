#include "../step_launchers.cuh"

namespace lstmfast::cuda {
const StepKernels kStepKernelsFloat16 = StepLaunchers<Float16>::kTable;
}  // namespace lstmfast::cuda
