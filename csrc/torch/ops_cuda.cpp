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
#include "plan_choice.h"

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

// A launch that the driver cannot place: blocks that must run at once, all or those of a cluster, do not fit into what
// the process has of the GPU.
bool is_refusal(const cuda::Result& result) {
  return result.status == Status::kLaunchFailed &&
         (result.code == cudaErrorCooperativeLaunchTooLarge || result.code == cudaErrorLaunchOutOfResources ||
          result.code == cudaErrorInvalidClusterSize);
}

cuda::Context context_of(const CudaDevice& device, const at::Tensor& like, std::optional<Float32Precision> precision) {
  cuda::Context context;
  context.gpu = device.info();
  context.stream = c10::cuda::getCurrentCUDAStream(like.device().index()).stream();
  context.allow_tf32 =
      precision ? *precision != Float32Precision::kHighest : at::globalContext().allowTF32CuDNN(at::Float32Op::RNN);
  context.persistent = device.persistent();
  return context;
}

template <class Params>
struct Kernels {
  size_t (*workspace_bytes)(const cuda::RunsOf<Params>&, const cuda::Context&);
  cuda::Result (*run)(const cuda::RunsOf<Params>&, const cuda::Context&);
};
constexpr Kernels<ForwardParams> kForward{cuda::forward_workspace_bytes, cuda::forward};
constexpr Kernels<BackwardParams> kBackward{cuda::backward_workspace_bytes, cuda::backward};

// A call on the device and stream of the tensors. False: the driver has refused the launch. Then nothing has been
// computed that a repetition does not compute again; a smaller part of the GPU than its description says is ours, and
// so it will be next time.
template <class Params>
bool attempt(CudaDevice& device, std::vector<Params>& params, const cuda::RunsOf<Params>& runs, const at::Tensor& like,
             std::optional<Float32Precision> precision, const Kernels<Params>& kernels) {
  cuda::Context context = context_of(device, like, precision);
  choose_plan<Params>(context);
  CudaProducts products(context.allow_tf32);
  context.blas = products.blas();
  // Given back to the allocator on return: it hands memory out again in the order of the stream.
  const at::Tensor memory =
      at::empty({static_cast<int64_t>(kernels.workspace_bytes(runs, context))}, like.options().dtype(at::kByte));
  params[0].workspace = memory.mutable_data_ptr();
  const cuda::Result result = kernels.run(runs, context);
  if (context.persistent && is_refusal(result)) {
    static_cast<void>(cudaGetLastError());
    device.refuse_persistent();
    return false;
  }
  if (runs.stacked && result.status == Status::kTooLarge) return false;  // refused to another thread meanwhile
  check(result);
  return true;
}

// One layer.
template <class Params>
void run(Directions<Params>& directions, const at::Tensor& like, std::optional<Float32Precision> precision,
         const Kernels<Params>& kernels) {
  const c10::cuda::CUDAGuard guard(like.device());
  CudaDevice& device = CudaDevice::ready(like.device().index());
  const cuda::RunsOf<Params> runs(directions.data(), static_cast<int>(directions.size()));
  if (!attempt(device, directions, runs, like, precision, kernels))
    attempt(device, directions, runs, like, precision, kernels);
}

int64_t layers_at_once(const ForwardParams& layer, int64_t layers, bool backward, const at::Tensor& like,
                       std::optional<Float32Precision> precision) {
  const c10::cuda::CUDAGuard guard(like.device());
  const CudaDevice& device = CudaDevice::ready(like.device().index());
  return cuda::layers_at_once(layer, layers, context_of(device, like, precision), backward);
}
template <class Params>
bool run_stack(Stack<Params>& stack, const at::Tensor& like, std::optional<Float32Precision> precision,
               const Kernels<Params>& kernels) {
  const c10::cuda::CUDAGuard guard(like.device());
  CudaDevice& device = CudaDevice::ready(like.device().index());
  cuda::RunsOf<Params> runs(stack.layers.data(), static_cast<int>(stack.layers.size()));
  runs.stacked = true, runs.kept = stack.kept, runs.scale = stack.scale;
  return attempt(device, stack.layers, runs, like, precision, kernels);
}

const Device kCuda{cuda::reserve_width,
                   [](Directions<ForwardParams>& runs, const at::Tensor& like,
                      std::optional<Float32Precision> precision) { run(runs, like, precision, kForward); },
                   [](Directions<BackwardParams>& runs, const at::Tensor& like,
                      std::optional<Float32Precision> precision) { run(runs, like, precision, kBackward); },
                   plain_empty,
                   layers_at_once,
                   [](Stack<ForwardParams>& stack, const at::Tensor& like, std::optional<Float32Precision> precision) {
                     return run_stack(stack, like, precision, kForward);
                   },
                   [](Stack<BackwardParams>& stack, const at::Tensor& like, std::optional<Float32Precision> precision) {
                     return run_stack(stack, like, precision, kBackward);
                   }};

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CUDA, m) { implement_ops<kCuda>(m); }

}  // namespace lstmfast
