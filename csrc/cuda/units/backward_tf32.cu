#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentBackward> kBackwardTf32 = BackwardUnit<TensorCores<float>>::kTable;
}  // namespace lstmfast::cuda
