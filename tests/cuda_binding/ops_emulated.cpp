// The op for CPU tensors on the CUDA kernels, which run on the emulated GPU: what the Python tests see of the CUDA path
// where there is no GPU. Takes the place of ops_cpu.cpp in a build with LSTMFAST_EMULATE_CUDA.
//
// LSTMFAST_EMULATED_SMS=n: the GPU has n multiprocessors, else 4, since a fiber for every thread of a real one takes
// long. LSTMFAST_EMULATED_SEED: of the order in which threads run, else 1.
#define LSTMFAST_EMULATION_MAIN
#include <ATen/ATen.h>
#include <torch/library.h>

#include "cuda/kernels.h"
#include "cuda_emulation/device.h"
#include "torch/column_major.h"
#include "torch/ops.h"
#include "torch/plan_choice.h"

namespace lstmfast {
namespace {

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

cuda::GpuInfo gpu() {
  static const int sms = from_environment("LSTMFAST_EMULATED_SMS", 4);
  cuda::GpuInfo info = *cuda::gpu_named("H200");
  info.sm_count = sms;
  return info;
}

at::ScalarType scalar_type(DType dtype) {
  static constexpr at::ScalarType types[kDTypes] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf};
  return types[static_cast<int>(dtype)];
}

// What cuBLAS makes of the arguments that the binding gives it, by torch's product.
int gemm(void*, const cuda::Gemm& g) {
  const ColumnMajorGemm p = column_major(g);
  const at::ScalarType type = scalar_type(g.dtype);
  const at::ScalarType compute = g.dtype == DType::kFloat64 ? at::kDouble : at::kFloat;
  const auto operand = [&](const ColumnMajorOperand& o, int64_t rows, int64_t columns) {
    if (o.transposed) std::swap(rows, columns);
    if (o.leading < rows) return at::Tensor();
    const at::Tensor t = at::from_blob(const_cast<void*>(o.data), {rows, columns}, {1, o.leading}, type);
    return o.transposed ? t.t() : t;
  };
  const at::Tensor a = operand(p.a, p.m, p.k), b = operand(p.b, p.k, p.n);
  if (!a.defined() || !b.defined() || p.c_leading < p.m) return 1;
  at::Tensor c = at::from_blob(p.c, {p.m, p.n}, {1, p.c_leading}, g.compute_c ? compute : type);
  at::Tensor product = at::mm(a.to(compute), b.to(compute));
  if (g.beta != 0) product.add_(c);
  c.copy_(product);
  return 0;
}

cuda::Context context_of(std::optional<Float32Precision> precision) {
  cuda::Context context;
  context.gpu = gpu();
  context.blas = {&gemm, nullptr};
  context.allow_tf32 = precision.value_or(Float32Precision::kHighest) != Float32Precision::kHighest;
  return context;
}

// Fused steps have a warp for every hidden unit, and a fiber for every lane takes long: here they are taken where units
// and steps are few, else the general path.
template <class Params>
void limit_fused_steps(cuda::Context& context, const cuda::RunsOf<Params>& runs) {
  constexpr bool kBackward = std::is_same_v<Params, BackwardParams>;
  constexpr int64_t kMostUnits = 8;
  const Params& like = runs.at[0];
  if (context.candidate != cuda::kPlanners || like.shape.steps * like.shape.hidden <= kMostUnits) return;
  if (cuda::plan_for(like, runs.count, runs.stacked, context, kBackward).regime == cuda::Regime::kFusedSteps)
    context.candidate = cuda::kGeneralPath;
}

template <class Params>
void run(std::vector<Params>& params, const cuda::RunsOf<Params>& runs, const at::Tensor& like,
         std::optional<Float32Precision> precision,
         size_t (*workspace_bytes)(const cuda::RunsOf<Params>&, const cuda::Context&),
         cuda::Result (*kernels)(const cuda::RunsOf<Params>&, const cuda::Context&)) {
  emulation::options().seed = static_cast<uint64_t>(from_environment("LSTMFAST_EMULATED_SEED", 1));
  cuda::Context context = context_of(precision);
  choose_plan<Params>(context);
  limit_fused_steps(context, runs);
  // Not zeros, that memory which nobody writes is found; aligned as torch's CUDA allocator aligns.
  const size_t bytes = workspace_bytes(runs, context);
  const at::Tensor memory = at::full({static_cast<int64_t>(bytes) + 512}, 0xff, like.options().dtype(at::kByte));
  params[0].workspace =
      reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.mutable_data_ptr()) + 511) / 512 * 512);
  const cuda::Result result = kernels(runs, context);
  TORCH_CHECK(result.ok(), "lstmfast, emulated: status ", static_cast<int>(result.status), ", code ", result.code,
              " at ", result.where);
}
template <class Params>
cuda::RunsOf<Params> runs_of(const std::vector<Params>& params) {
  return {params.data(), static_cast<int>(params.size())};
}
template <class Params>
cuda::RunsOf<Params> runs_of(const Stack<Params>& stack) {
  auto runs = runs_of(stack.layers);
  runs.stacked = true, runs.kept = stack.kept, runs.scale = stack.scale;
  return runs;
}

const Device kEmulated{
    cuda::reserve_width,
    [](Directions<ForwardParams>& runs, const at::Tensor& like, std::optional<Float32Precision> precision) {
      run(runs, runs_of(runs), like, precision, cuda::forward_workspace_bytes, cuda::forward);
    },
    [](Directions<BackwardParams>& runs, const at::Tensor& like, std::optional<Float32Precision> precision) {
      run(runs, runs_of(runs), like, precision, cuda::backward_workspace_bytes, cuda::backward);
    },
    plain_empty,
    [](const ForwardParams& layer, int64_t layers, bool backward, const at::Tensor&,
       std::optional<Float32Precision> precision) {
      return cuda::layers_at_once(layer, layers, context_of(precision), backward);
    },
    [](Stack<ForwardParams>& stack, const at::Tensor& like, std::optional<Float32Precision> precision) {
      run(stack.layers, runs_of(stack), like, precision, cuda::forward_workspace_bytes, cuda::forward);
      return true;
    },
    [](Stack<BackwardParams>& stack, const at::Tensor& like, std::optional<Float32Precision> precision) {
      run(stack.layers, runs_of(stack), like, precision, cuda::backward_workspace_bytes, cuda::backward);
      return true;
    }};

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CPU, m) { implement_ops<kEmulated>(m); }

}  // namespace lstmfast
