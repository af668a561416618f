#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentForward> kForwardBFloat16 = ForwardUnit<TensorCores<BFloat16>>::kTable;
}  // namespace lstmfast::cuda
