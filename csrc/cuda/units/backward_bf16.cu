#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentBackward> kBackwardBFloat16 = BackwardUnit<TensorCores<BFloat16>>::kTable;
}  // namespace lstmfast::cuda
