// Arguments of the persistent kernels, one launch for the recurrence of a whole sequence, and the table of their
// launchers. Plain data. T is the element type, C the compute type (float: float64 has no persistent kernel).
#pragma once
#include "kernels.h"

namespace lstmfast::cuda {

// What both directions of a call's time loop need.
struct PersistentCall {
  int cell;
  Plan plan;
  int steps, batch, hidden;
  bool reverse;
  const int64_t* offsets;          // device memory [T + 1], null when padded
  ConstMatrix w_hh;                // T [G*H, H], any strides
  ConstRows c0;                    // T
  int gate_width, exchange_width;  // see plan.h
  void* exchange;   // T [2][groups][tiles * 8][exchange_width], zeros, where blocks meet in global memory
  uint32_t* flags;  // kFlagStride apart, one a group, zero at launch
};
constexpr int64_t kFlagStride = 32;  // a counter has a cache line of its own

struct PersistentForward : PersistentCall {
  const void *b_ih, *b_hh;  // T [G*H], or null
  void* gates;              // C [R, G*H]: pre-activations without bias in; what the cell saves out, if `c` is kept
  void* c;                  // C [R, H], null in inference or for a cell without private state
  bool keep;
  ConstRows h0;
  Rows y, h_n, c_n;
};

struct PersistentBackward : PersistentCall {
  const void* gates;  // C [R, G*H], saved
  const void* c;      // C [R, H]
  ConstRows dy, dh_n, dc_n;
  void* dgates;  // T [R, G*H]
  Rows dh0, dc0;
};

// The launchers of one element type and multiplier, one direction of time.
template <class Params>
struct PersistentUnit {
  Result (*launch)(const Params&, void* stream);
  Result (*prepare)(int shared_bytes);  // allows its kernels that much shared memory
};
extern const PersistentUnit<PersistentForward> kForwardFloat16, kForwardBFloat16, kForwardTf32, kForwardFloat32;
extern const PersistentUnit<PersistentBackward> kBackwardFloat16, kBackwardBFloat16, kBackwardTf32, kBackwardFloat32;

// Null where there is none.
const PersistentUnit<PersistentForward>* persistent_forward(DType dtype, Multiplier multiplier);
const PersistentUnit<PersistentBackward>* persistent_backward(DType dtype, Multiplier multiplier);

}  // namespace lstmfast::cuda
