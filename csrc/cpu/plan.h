// How one call is cut into blocks of steps and shared among threads: pure functions, tested on their own.
#pragma once
#include <cstdint>

#include "../core/params.h"

namespace lstmfast::cpu {

// Elements of the compute type that backward needs of a row: the same at every ISA level, whose panels differ in width.
inline int64_t reserved_per_row(int64_t gates, int64_t states, int64_t compute_size, int64_t hidden,
                                int64_t projection) {
  constexpr int64_t kTileCols = 4, kWidestVector = 64;
  const int64_t units = kTileCols / gates * kWidestVector / compute_size;
  const int64_t padded = (hidden + units - 1) / units * units;
  return padded * (gates + states - 1) + (projection ? hidden : 0);
}

// What the planner knows about the kernels and the machine.
struct Target {
  int64_t tile_rows = 6;    // rows of a register tile
  int64_t panel_cols = 64;  // columns of a register tile, in elements of the compute type
  int64_t l2_bytes = 1 << 20;
  bool reads_in_place = true;  // the kernels can use weights as the caller keeps them
};

enum class Split {
  kHidden,  // a thread owns hidden units, of all sequences; the threads meet after every step
  kBatch,   // a thread owns sequences, with all hidden units; the threads meet only for weight gradients
};

struct Plan {
  int threads = 1;
  Split split = Split::kHidden;
  // Steps per block. They depend on the batch alone: the reserve's layout is cut by forward_steps and the rounding of
  // weight gradients by backward_steps, and neither may change with the machine's thread count.
  int64_t forward_steps = 1;
  int64_t backward_steps = 1;
  // Weights are read where they lie. Depends on the shape and the use alone.
  bool in_place = false;
  // Weight gradients are written where the caller wants them: a call of one block knows all that there is to add up.
  bool gradients_in_place = false;
  // A step multiplies by W_ih as well as by W_hh, so that x W_ih' is neither stored nor loaded. Bitwise the same, so
  // that it may depend on the threads and on the cache.
  bool fuse_input = false;
};

// Rows per block: few enough that the projected input stays in L2 until its step comes (forward), enough that a
// weight gradient's tile is worth loading and storing (backward).
constexpr int64_t kForwardRows = 96, kBackwardRows = 256;
// What a call is for. Inference keeps its packed weights from call to call.
enum class Use { kInference, kTraining };

// Rows of a whole call up to which packing weights does not pay: a tile is slower over weights in place, the more so
// the more often they are used.
constexpr int64_t in_place_rows(Use use) { return use == Use::kInference ? 24 : 64; }

inline Plan make_plan(const Shape& s, int64_t gates, int64_t compute_size, Use use, int threads, const Target& target) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const auto clamp = [](int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; };
  Plan plan;
  const int64_t batch = s.batch > 0 ? s.batch : 1;
  plan.forward_steps = clamp(kForwardRows / batch, 1, s.steps);
  plan.backward_steps = clamp(kBackwardRows / batch, 1, s.steps);

  const int64_t panels = ceil_div(s.hidden * gates, target.panel_cols), tiles = ceil_div(batch, target.tile_rows);
  const int64_t weights = gates * s.hidden * (s.input + s.output()) + s.projection * s.hidden;
  const int64_t weight_bytes = weights * compute_size;
  plan.in_place = target.reads_in_place && s.rows <= in_place_rows(use);
  plan.gradients_in_place = target.reads_in_place && plan.backward_steps == s.steps && s.rows <= kBackwardRows;

  // Splitting the batch saves a barrier per step, and costs every thread a walk over all weights. A thread alone has
  // nobody to wait for, and may project rows of several steps in one tile.
  const bool weights_fit = weight_bytes <= target.l2_bytes / 2;
  plan.split = threads > 1 && tiles >= threads && (weights_fit || panels < threads) ? Split::kBatch : Split::kHidden;

  // Meeting costs about as much as ten thousand multiplications: below that another thread is a loss.
  constexpr int64_t kWorthAThread = 10000;
  const int64_t work = plan.split == Split::kBatch ? weights * s.rows : weights * batch;
  const int64_t parts = plan.split == Split::kBatch ? tiles : panels;
  plan.threads = static_cast<int>(clamp(threads, 1, clamp(work / kWorthAThread, 1, parts)));

  // Projecting apart reads W_ih once per block instead of once per step: that pays where what a thread reads of both
  // weights does not stay in L2, and where a step alone would not fill a tile.
  const int64_t read_bytes = plan.split == Split::kBatch ? weight_bytes : weight_bytes / plan.threads;
  const bool full_tiles = batch >= target.tile_rows, many_tiles = batch >= 2 * target.tile_rows;
  plan.fuse_input = !plan.in_place && full_tiles && (weights_fit || (many_tiles && read_bytes <= target.l2_bytes));
  return plan;
}

}  // namespace lstmfast::cpu
