// The CUDA kernels' entry points: torch-free, and free of CUDA headers. Nothing here throws, allocates, synchronises or
// asks the driver for attributes, so a call may be captured in a CUDA graph; memory is handed in (see params.h) and
// everything is put on the context's stream. All pointers of the parameters are device pointers, except
// Shape::batch_sizes and Shape::offsets, which stay on the host: what kernels need of them travels as kernel arguments.
//
// Sizes must have been checked: 1 <= T, I, H, 0 <= N, and products that fit (csrc/torch/checks.h).
// ForwardParams::threads and ::isa are not used.
#pragma once
#include "plan.h"

namespace lstmfast::cuda {

// C[m, n] = A[m, k] B[k, n] + beta C, with accumulation in the compute type. A matrix that is stored transposed is
// given by its strides: one stride of each matrix is 1, the other is at least as large as the extent that it skips.
// Aliasing of C with A or B does not occur. m, n, k >= 1 and may exceed 2^31 only in m or k of a whole-sequence
// product.
struct Gemm {
  DType dtype;     // of A and B
  bool compute_c;  // C in the compute type (float for the half types), else in `dtype`
  int64_t m, n, k;
  ConstMatrix a, b;
  Matrix c;
  double beta;  // 0 (C is not read) or 1
};

// Matrix products, done by the caller's library on the context's stream. `gemm` returns 0 or the library's error.
// In the binding: cublasGemmEx on torch's handle, CUBLAS_COMPUTE_32F, or CUBLAS_COMPUTE_32F_FAST_TF32 where TF32 is
// allowed, or CUBLAS_COMPUTE_64F.
struct Blas {
  int (*gemm)(void* context, const Gemm& gemm) = nullptr;
  void* context = nullptr;
};

// What a call needs beside its parameters. Forward, its workspace size, and the backward of the same call must agree on
// allow_tf32; the two workspace functions and their calls must see equal contexts.
struct Context {
  GpuInfo gpu;
  void* stream = nullptr;  // a cudaStream_t
  Blas blas;
  bool allow_tf32 = false;    // float32 products may round their operands to TF32
  bool persistent = true;     // false: the driver has refused persistent kernels
  int candidate = kPlanners;  // see make_plan(); kGeneralPath: no fused steps either
};

// `code` is a cudaError_t for kLaunchFailed and the library's for kBlasFailed; `where` names the kernel or product.
struct Result {
  Status status = Status::kOk;
  int code = 0;
  const char* where = "";
  bool ok() const { return status == Status::kOk; }
};
inline Result launch_result(int code, const char* where) {
  return code ? Result{Status::kLaunchFailed, code, where} : Result{};
}

// Raises the kernels' limit of dynamic shared memory on the current device: once per device, before its first call,
// not while a stream of the device is being captured.
Result prepare_device();

// Elements of the compute type that forward keeps for backward, per row (t, n). Even the smallest unit, rows *
// reserve_width elements, is a multiple of 16 bytes, so runs can lie one behind the other.
int64_t reserve_width(int cell, DType dtype, int64_t hidden, int64_t projection);

// The runs of one call: a layer in one direction, or in both; or the layers of a stack, from the bottom up. They are
// alike in cell, dtype, shape (but for `reverse`, and the input of a stack's first layer), and in which states and
// gradients of states are there; the workspace is that of the first.
//
// In a stack (see layers_at_once()) a layer's input is y of the one before, after dropout. So of all but the first
// layer x is read in backward alone, and there is no dx; of all but the last there is no dy.
template <class Params>
struct RunsOf {
  const Params* at;
  int count = 1;
  bool stacked = false;
  const unsigned char* kept = nullptr;  // [count - 1][R, H]: what dropout keeps of y on its way up; null: all of it
  double scale = 1;                     // by which it multiplies that

  RunsOf(const Params& one) : at(&one) {}  // NOLINT(google-explicit-constructor): a run is a call
  RunsOf(const Params* runs, int n) : at(runs), count(n) {}
};
using ForwardRuns = RunsOf<ForwardParams>;
using BackwardRuns = RunsOf<BackwardParams>;

// Bytes of device workspace, 256-byte aligned; data pointers count only as present or absent.
size_t forward_workspace_bytes(const ForwardRuns& runs, const Context& context);
size_t backward_workspace_bytes(const BackwardRuns& runs, const Context& context);

Result forward(const ForwardRuns& runs, const Context& context);
// Reads the reserve and leaves it as it is: it may run any number of times after one forward.
Result backward(const BackwardRuns& runs, const Context& context);

// What a call of so many runs like this one asks of the planner, and the choice that forward() or backward() will make;
// describe() puts it into words.
Request request_for(const ForwardParams& like, int runs, bool stacked, const Context& context, bool backward);
Plan plan_for(const ForwardParams& like, int runs, bool stacked, const Context& context, bool backward);
// Whether so many layers like this one go through one launch; otherwise they are calls one after the other. Forward and
// backward decide each for itself.
bool stacks(const ForwardParams& like, int64_t layers, const Context& context, bool backward);
// How many of so many layers are best done at once, before those that are left are asked about in their turn: 1 to
// `layers`. If several, stacks() is true of them.
int64_t layers_at_once(const ForwardParams& like, int64_t layers, const Context& context, bool backward);
// The cells that have persistent kernels: the first of AllCells, without those that exist for tests alone.
constexpr int kPersistentCells = 3;

}  // namespace lstmfast::cuda
