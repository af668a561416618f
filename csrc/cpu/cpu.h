// The CPU kernels' entry points. Nothing here throws or allocates; memory is handed in (see params.h).
// Sizes must have been checked: 1 <= T, I, H, 0 <= N, and products that fit (csrc/torch/checks.h).
#pragma once
#include <cstddef>

#include "../core/params.h"
#include "plan.h"

namespace lstmfast::cpu {

// Elements of the compute type that forward keeps for backward, per row (t, n). The same at every ISA level, so that a
// graph traced at one level runs at another.
int64_t reserve_width(int cell, DType dtype, int64_t hidden, int64_t projection);

// Bytes of workspace for these parameters; data pointers count only as present or absent.
size_t forward_workspace_bytes(const ForwardParams& p);
size_t backward_workspace_bytes(const BackwardParams& p);

// Bytes of packed weights if the caller is to keep them (ForwardParams::packed); 0 if this call packs none.
size_t packed_weights_bytes(const ForwardParams& p);
// 64 bits that stand for the weights' content, however it changed. Weights' rows must be contiguous.
uint64_t weights_fingerprint(const ForwardParams& p);

Status forward(const ForwardParams& p);
Status backward(const BackwardParams& p);

Plan plan(const ForwardParams& p);

// Second derivatives, one layer, one direction: what surrounds the products with weights (csrc/torch/tangents.cpp).
// Everything is in the compute type and contiguous. Tangents are derivatives along one direction in which all arguments
// of the call move.
struct TangentParams {
  int cell = 0;
  DType dtype = DType::kFloat32;
  Shape shape;
  int isa = 0;
  const void* reserve = nullptr;             // as forward left it
  const void *c0 = nullptr, *dc0 = nullptr;  // [N, H]: the private state before the first step, and its tangent
  void *dpre = nullptr, *dc = nullptr;       // [R, G*H], [R, H]: tangents of pre-activations and private state
};
// Sequences [begin, end) of step t. `pairs`: values of all sequences of the step, then tangents of all.
struct TangentStep {
  int64_t t = 0, begin = 0, end = 0;
  void* dm = nullptr;  // [active, H]: tangent of the cell's output
  void* m = nullptr;   // [active, H]: the output itself, null if unwanted
};
struct GradientTangentStep : TangentStep {
  const void* by_m = nullptr;  // pairs [2, active, H]: gradient of the cell's output
  void* by_c = nullptr;        // pairs [2, N, H]: gradient of the private state, behind the step and then before it
  void* gates = nullptr;       // pairs [2, active, G*H]: gradient of the pre-activations
};
// dm and dc of a step from its dpre.
Status tangent_step(const TangentParams& p, const TangentStep& s);
// gates and by_c of a step from by_m and by_c.
Status gradient_tangent_step(const TangentParams& p, const GradientTangentStep& s);

// Whether this level multiplies bfloat16 in tile registers, and float32 too where its precision may be reduced.
bool has_tiles(int level);

// ISA levels, worst to best: "baseline" always exists. The level in use is the best that the processor has, lowered by
// the environment variable LSTMFAST_CPU_ISA (read once) or by set_isa().
int isa_count();
const char* isa_name(int level);
bool isa_supported(int level);  // compiled in, and this processor runs it
int isa();
bool set_isa(int level);  // false, and no change, if the level is not supported

}  // namespace lstmfast::cpu
