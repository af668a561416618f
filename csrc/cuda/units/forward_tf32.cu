#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentForward> kForwardTf32 = ForwardUnit<TensorCores<float>>::kTable;
}  // namespace lstmfast::cuda
