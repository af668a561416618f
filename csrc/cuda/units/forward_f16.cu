#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentForward> kForwardFloat16 = ForwardUnit<TensorCores<Float16>>::kTable;
}  // namespace lstmfast::cuda
