#include "cuda_device.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/util/Exception.h>

#include <deque>

namespace lstmfast {
namespace {

constexpr int kOldestMajor = 8;

template <class T>
void read(T& value, cudaDeviceAttr attribute, c10::DeviceIndex index) {
  int n = 0;
  check_cuda(cudaDeviceGetAttribute(&n, attribute, index), "cudaDeviceGetAttribute");
  value = static_cast<T>(n);
}

}  // namespace

void check_cuda(int code, const char* what) {
  if (code == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(code);
  static_cast<void>(cudaGetLastError());  // or the next check of anybody's would find this error again
  TORCH_CHECK(error != cudaErrorNoKernelImageForDevice, "lstmfast: ", what, ": this build has no code for this GPU (",
              LSTMFAST_CUDA_ARCHITECTURES, "): rebuild with TORCH_CUDA_ARCH_LIST set to its compute capability");
  TORCH_CHECK(false, "lstmfast: ", what, " failed: ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
}

CudaDevice& CudaDevice::at(c10::DeviceIndex index) {
  static std::deque<CudaDevice> devices(c10::cuda::device_count());
  TORCH_CHECK(index >= 0 && index < static_cast<int64_t>(devices.size()), "lstmfast: there is no CUDA device ",
              static_cast<int>(index));
  return devices[index];
}

void CudaDevice::describe(c10::DeviceIndex index) {
  read(info_.sm_count, cudaDevAttrMultiProcessorCount, index);
  read(info_.major, cudaDevAttrComputeCapabilityMajor, index);
  read(info_.minor, cudaDevAttrComputeCapabilityMinor, index);
  read(info_.shared_per_block_optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  read(info_.registers_per_sm, cudaDevAttrMaxRegistersPerMultiprocessor, index);
  read(info_.l2_bytes, cudaDevAttrL2CacheSize, index);
  read(info_.cooperative, cudaDevAttrCooperativeLaunch, index);
}

void CudaDevice::prepare(c10::DeviceIndex index) {
  TORCH_CHECK_NOT_IMPLEMENTED(info_.major >= kOldestMajor, "lstmfast: CUDA device ", static_cast<int>(index),
                              " has compute capability ", info_.major, ".", info_.minor,
                              "; lstmfast needs 8.0 or newer");
  // Loading the kernels is no stream's work; another thread, or this one, may be capturing a graph meanwhile.
  const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
  const cuda::Result result = cuda::prepare_device();
  check_cuda(result.code, result.where);
}

CudaDevice& CudaDevice::described(c10::DeviceIndex index) {
  CudaDevice& device = at(index);
  std::call_once(device.described_, [&] { device.describe(index); });
  return device;
}

CudaDevice& CudaDevice::ready(c10::DeviceIndex index) {
  CudaDevice& device = described(index);
  std::call_once(device.prepared_, [&] { device.prepare(index); });
  return device;
}

}  // namespace lstmfast
