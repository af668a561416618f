#include "../step_launchers.cuh"

namespace lstmfast::cuda {
const StepKernels kStepKernelsFloat32 = StepLaunchers<float>::kTable;
}  // namespace lstmfast::cuda
