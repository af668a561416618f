// Arguments of the persistent kernels, one launch for the recurrence of a whole sequence, and the table of their
// launchers. Plain data. T is the element type, C the compute type (float: float64 has no persistent kernel).
#pragma once
#include "kernels.h"

namespace lstmfast::cuda {

// A launch goes through its runs (a layer in one direction each) side by side, on blocks of their own. They are alike
// in everything but what is in their `Run`. In a stack each run reads what the one before it in the launch hands on:
// forward goes up the layers, backward down.

// What forward's and backward's time loop need, and all runs share.
struct PersistentCall {
  int cell;
  Plan plan;
  int steps, batch, hidden;
  const int64_t* offsets;          // device memory [T + 1], null when padded
  int gate_width, exchange_width;  // see plan.h; a split product's rows are padded to whole pieces
  // Where blocks meet in global memory: T [2][runs][groups][tiles * 8][exchange_width], zeros; or a mailbox, T
  // [steps + 1][runs][batch][exchange_width], nothing but kUnsent
  void* exchange;
  uint32_t* flags;       // [runs][groups], kFlagStride apart, zero at launch; a mailbox has none
  int exchange_groups;   // of one of the two: all runs'
  int group_bytes;       // of a group
  void* handed;          // a stack: T [runs - 1][steps][groups][tiles * 8][exchange_width], zeros
  int64_t handed_bytes;  // of a step
  int operand_bytes;     // of a step in shared memory, where all of its tiles are there
  float scale;           // a stack: of what dropout keeps between layers
  int row_bytes;         // of a mailbox
  int first_mailed;      // a mailbox: the first step whose operand is sent; that of those before it is zero
};
constexpr uint32_t kUnsent = 0xffffffff;  // what a mailbox is filled with: a NaN, of two elements in the 16-bit types
constexpr int kUnsentByte = 0xff;
constexpr int64_t kFlagStride = 32;  // a counter has a cache line of its own

struct PersistentForward : PersistentCall {
  struct Run {
    bool reverse;
    ConstMatrix w_hh;         // T [G*H, H], any strides; with a projection, W_hh W_hr, and h is the cell's output
    const void *b_ih, *b_hh;  // T [G*H], or null
    void* gates;              // C [R, G*H]: pre-activations without bias in; what the cell saves out, if `keep`
    void* c;                  // C [R, H], null in inference or for a cell without private state
    ConstRows h0, c0;         // T
    Rows y, h_n, c_n;
    ConstMatrix w_beside;       // a stack: T [G*H, H], W_ih, which multiplies what is handed on; null in the first run
    const unsigned char* kept;  // a stack: [R, H], what dropout keeps of y on its way up; null: all
  };
  bool keep;
  Run runs[kMostRuns];
};

struct PersistentBackward : PersistentCall {
  struct Run {
    bool reverse;
    ConstMatrix w_hh;
    const void* gates;  // C [R, G*H], saved
    const void* c;      // C [R, H]
    ConstRows c0, dy, dh_n, dc_n;
    void* dgates;  // T [R, G*H]
    Rows dh0, dc0;
    ConstMatrix w_beside;       // a stack: W_ih of the layer above; null in the first run, the top
    const unsigned char* kept;  // a stack: what dropout kept of this layer's y
  };
  Run runs[kMostRuns];
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
