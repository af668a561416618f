#include "../step_launchers.cuh"

namespace lstmfast::cuda {
const StepKernels kStepKernelsFloat64 = StepLaunchers<double>::kTable;
}  // namespace lstmfast::cuda
