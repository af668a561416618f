#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentBackward> kBackwardFloat32 = BackwardUnit<Fma>::kTable;
}  // namespace lstmfast::cuda
