// Arguments of the persistent kernels, one launch for the recurrence of a whole sequence, and the table of their
// launchers. Plain data. T is the element type, C the compute type (float: float64 has no persistent kernel).
#pragma once
#include "kernels.h"

namespace lstmfast::cuda {

// What both directions of a call's time loop need.
struct PersistentCall {
  int cell;
  Plan plan;
  bool tf32;
  int64_t steps, batch, hidden;
  bool reverse;
  const int64_t* offsets;  // device memory [T + 1], null when padded
  ConstMatrix w_hh;        // T [G*H, H], any strides
  ConstRows c0;            // T
  void* exchange;          // exchange_bytes(), where blocks exchange through global memory
  uint32_t* flags;         // kFlagStride apart, one a group, zero at launch
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

struct PersistentKernels {
  Result (*forward)(const PersistentForward&, void* stream);
  Result (*backward)(const PersistentBackward&, void* stream);
  Result (*prepare)(int shared_bytes);
};
extern const PersistentKernels kPersistentFloat32, kPersistentFloat16, kPersistentBFloat16;
const PersistentKernels* persistent_kernels(DType dtype);  // null for float64

}  // namespace lstmfast::cuda
