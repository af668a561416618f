// The CUDA device: torch's current stream, caching allocator and cuBLAS handle. Nothing here waits for the GPU, and
// nothing but torch's allocator allocates, so that calls can be captured in a CUDA graph. batch_sizes of packed input
// stays on the CPU; kernels get what they need of it in their arguments, which a graph keeps, not by a copy from memory
// that may be gone when it is replayed.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda_blas.h"
#include "cuda_device.h"
#include "ops.h"

namespace lstmfast {
namespace {

void check(const cuda::Result& result) {
  switch (result.status) {
    case Status::kOk:
      return;
    case Status::kLaunchFailed:
      return check_cuda(result.code, result.where);
    case Status::kBlasFailed:
      TORCH_CHECK(false, "lstmfast: the product ", result.where, " failed: ", CudaProducts::error_name(result.code));
    case Status::kTooLarge:
      TORCH_CHECK(false, "lstmfast: the sizes are too large for the CUDA kernels: ", result.where);
    case Status::kUnknownCell:
      break;
  }
  TORCH_INTERNAL_ASSERT(false, "lstmfast: kernel status ", static_cast<int>(result.status));
}

// A launch that the driver cannot place: blocks that must run at once do not fit into what the process has of the GPU.
bool is_refusal(const cuda::Result& result) {
  return result.status == Status::kLaunchFailed &&
         (result.code == cudaErrorCooperativeLaunchTooLarge || result.code == cudaErrorLaunchOutOfResources);
}

// One run (a layer in one direction) on the device and stream of the tensors.
template <class Params>
void run(Params& p, const at::Tensor& like, std::optional<Float32Precision> precision,
         size_t (*workspace_bytes)(const Params&, const cuda::Context&),
         cuda::Result (*kernels)(const Params&, const cuda::Context&)) {
  const c10::cuda::CUDAGuard guard(like.device());
  CudaDevice& device = CudaDevice::ready(like.device().index());
  cuda::Context context;
  context.gpu = device.info();
  context.stream = c10::cuda::getCurrentCUDAStream(like.device().index()).stream();
  context.allow_tf32 =
      precision ? *precision != Float32Precision::kHighest : at::globalContext().allowTF32CuDNN(at::Float32Op::RNN);
  context.persistent = device.persistent();
  CudaProducts products(context.allow_tf32);
  context.blas = products.blas();

  const auto attempt = [&] {
    // Given back to the allocator on return: it hands memory out again in the order of the stream.
    const at::Tensor memory =
        at::empty({static_cast<int64_t>(workspace_bytes(p, context))}, like.options().dtype(at::kByte));
    p.workspace = memory.mutable_data_ptr();
    return kernels(p, context);
  };
  cuda::Result result = attempt();
  if (context.persistent && is_refusal(result)) {
    // Nothing has been computed that the repetition does not compute again. A smaller part of the GPU than its
    // description says is ours: so it will be next time.
    static_cast<void>(cudaGetLastError());
    device.refuse_persistent();
    context.persistent = false;
    result = attempt();
  }
  check(result);
}

const Device kCuda{cuda::reserve_width,
                   [](ForwardParams& p, const at::Tensor& like, std::optional<Float32Precision> precision) {
                     run(p, like, precision, cuda::forward_workspace_bytes, cuda::forward);
                   },
                   [](BackwardParams& p, const at::Tensor& like, std::optional<Float32Precision> precision) {
                     run(p, like, precision, cuda::backward_workspace_bytes, cuda::backward);
                   }};

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CUDA, m) {
  m.impl("forward", forward_op<kCuda>);
  m.impl("forward_into", forward_into_op<kCuda>);
  m.impl("backward", backward_op<kCuda>);
}

}  // namespace lstmfast
