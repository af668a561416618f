#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentBackward> kBackwardFloat16 = BackwardUnit<TensorCores<Float16>>::kTable;
}  // namespace lstmfast::cuda
