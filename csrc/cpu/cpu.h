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
