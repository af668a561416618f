// What does not depend on the element type.
#include "../step_kernels.cuh"

namespace lstmfast::cuda {

namespace {
__global__ void __launch_bounds__(kThreads) upload_offsets_kernel(UploadOffsets p) {
  for (int i = static_cast<int>(dev::thread_index()); i < p.count; i += kThreads) p.to[i] = p.values[i];
}

}  // namespace

Result upload_offsets(const UploadOffsets& args, void* stream) {
  return launch_result(dev::launch(upload_offsets_kernel, dev::Launch{1, kThreads}, args, stream), "upload_offsets");
}
Result fill_memory(void* p, int byte, size_t bytes, void* stream) {
  return launch_result(dev::set_memory(p, byte, bytes, stream), "fill_memory");
}

Result most_shared_memory(int* bytes) { return launch_result(dev::most_shared_memory(bytes), "prepare_device"); }

}  // namespace lstmfast::cuda
