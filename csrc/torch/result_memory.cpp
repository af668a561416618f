#include "result_memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#include "../cpu/pool.h"

namespace lstmfast {
namespace {

struct ResultAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = cpu::result_pool.take(bytes);
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, give_back, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static void give_back(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    cpu::result_pool.give_back(data);
  }
};

// A tensor asks its allocator again if it is resized; threads may outlive static objects.
ResultAllocator* const allocator = new ResultAllocator;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooled = false;  // the sanitizer watches the borders of the system allocator's memory
#else
constexpr bool kPooled = true;
#endif

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  const size_t bytes = at::detail::computeStorageNbytesContiguous(sizes, options.dtype().itemsize());
  if (!kPooled || bytes < cpu::kPooledResult) return at::empty(sizes, options);
  return at::detail::empty_generic(sizes, allocator, c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, std::nullopt);
}

}  // namespace lstmfast
