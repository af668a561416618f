// What is known about each GPU, found out once.
#pragma once
#include <c10/core/Device.h>

#include <atomic>
#include <mutex>

#include "../cuda/kernels.h"

namespace lstmfast {

class CudaDevice {
 public:
  // The device, ready for kernels; it must be the current one. Thread-safe. Throws if the GPU is too old for lstmfast
  // or for what this build was compiled for, or CUDA fails; then the next call tries again.
  static CudaDevice& ready(c10::DeviceIndex index);
  // The device as it is, described but perhaps not ready. Throws if there is no such device.
  static CudaDevice& described(c10::DeviceIndex index);

  const cuda::GpuInfo& info() const { return info_; }
  // Whether kernels that need all their blocks at once may be tried: not any more, once the driver has refused one
  // because another process holds a part of the GPU.
  bool persistent() const { return persistent_.load(std::memory_order_relaxed); }
  void refuse_persistent() { persistent_.store(false, std::memory_order_relaxed); }

 private:
  static CudaDevice& at(c10::DeviceIndex index);
  void describe(c10::DeviceIndex index);
  void prepare(c10::DeviceIndex index);

  std::once_flag described_, prepared_;
  cuda::GpuInfo info_;
  std::atomic<bool> persistent_{true};
};

// Throws for an error of the CUDA runtime; `what` says what failed.
void check_cuda(int code, const char* what);

}  // namespace lstmfast
