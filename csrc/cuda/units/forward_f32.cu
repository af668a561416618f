#include "../persistent_launchers.cuh"

namespace lstmfast::cuda {
const PersistentUnit<PersistentForward> kForwardFloat32 = ForwardUnit<Fma>::kTable;
}  // namespace lstmfast::cuda
