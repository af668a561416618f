// What a block of a persistent kernel knows and has: its place among the others, the steps, its shared memory.
#pragma once
#include "persistent.h"
#include "product.cuh"

namespace lstmfast::cuda {

// Where a thread stands.
struct Place {
  const Tiling& t;
  int warp, lane, g, q, slice, unit_warp;
  int unit, first;  // the warp's first hidden unit, the group's first sequence

  LF_DEVICE explicit Place(const Tiling& tiling) : t(tiling) {
    warp = static_cast<int>(dev::thread_index()) / 32;
    lane = static_cast<int>(dev::thread_index()) % 32;
    g = lane / 4, q = lane % 4;
    slice = warp % t.slices, unit_warp = warp / t.slices;
    const int block = static_cast<int>(dev::block_index());
    unit = (block % t.group_blocks * t.unit_warps + unit_warp) * t.warp_units + g;
    first = block / t.group_blocks % t.groups * t.tiles * kTileSequences;
  }
  // Sequence e of the thread's two in tile j, within the group.
  LF_DEVICE int local(int j, int e) const { return j * kTileSequences + q * 2 + e; }
};

// Which of the launch's runs this block works on.
LF_DEVICE int run_index(const Tiling& t) { return static_cast<int>(dev::block_index()) / t.blocks(); }

// The steps as the device sees them: a step's sequences are the first `active`, its rows begin at `row`. A step that
// does not exist has none.
struct DeviceStep {
  int t, active;
  int64_t row;
};
LF_DEVICE DeviceStep device_step(const PersistentCall& p, int t) {
  if (t < 0 || t >= p.steps) return {t, 0, 0};
  if (!p.offsets) return {t, p.batch, static_cast<int64_t>(t) * p.batch};
  return {t, static_cast<int>(p.offsets[t + 1] - p.offsets[t]), p.offsets[t]};
}
template <class T, class P>
LF_DEVICE auto* row_at(const RowsOf<P>& rows, const PersistentCall& p, const DeviceStep& step, int n) {
  return row<T>(rows, 0) +
         (p.offsets ? (step.row + n) * rows.row_stride : step.t * rows.step_stride + n * rows.row_stride);
}

// A block's shared memory: weights, where registers are not enough (pieces.cuh); the operand's tiles, the sums of
// slices, the cell's private state, and in forward the biases. Before the first step weights pass through it.
template <class S, int values>
struct SharedMemory {
  unsigned char* operand;
  float *sums, *state, *biases;

  LF_DEVICE SharedMemory(const Tiling& t, int weight_bytes, int operand_rows) {
    operand = dev::shared_memory() + weight_bytes;
    sums = reinterpret_cast<float*>(operand + operand_rows * t.pitch);
    // sum_tiles says the same of what is not split, but the kernels with the fewest registers would spill over it.
    state = sums + (weight_bytes   ? t.sum_tiles * t.warps() * S::kRowTiles * 4 * 32
                    : t.slices > 1 ? t.tiles * t.warps() * S::kRowTiles * 4 * 32
                                   : 0);
    biases = state + t.tiles * t.unit_warps * values * 32;
  }
  // Value i of the state that this thread keeps for tile j: a place that no other thread touches.
  LF_DEVICE float& own(const Place& at, int j, int i) const {
    return state[((j * at.t.unit_warps + at.unit_warp) * values + i) * 32 + at.lane];
  }
  // Of the thread's row in a half of the warp's tile: registers are short.
  LF_DEVICE float& bias(const Place& at, int half) const {
    return biases[(at.unit_warp * S::kHalves + half) * 8 + at.g];
  }
  LF_DEVICE void store(const Place& at, int j, const Sums<S>& x) const {
#pragma unroll
    for (int i = 0; i < S::kRowTiles * 4; i++) slot(at, j, at.slice)[i * 32] = x.at[i / 4][i % 4];
  }
  // The slices' sums, added up in their order.
  LF_DEVICE void add_slices(Sums<S>& x, const Place& at, int j, int first, int last) const {
#pragma unroll 1
    for (int slice = first; slice < last; slice++)
#pragma unroll
      for (int i = 0; i < S::kRowTiles * 4; i++) x.at[i / 4][i % 4] += slot(at, j, slice)[i * 32];
  }
  LF_DEVICE float* slot(const Place& at, int j, int slice) const {
    return sums + ((j * at.t.unit_warps + at.unit_warp) * at.t.slices + slice) * S::kRowTiles * 4 * 32 + at.lane;
  }
  // Zeros in the operand: where there is no sequence, no unit, or no state yet.
  LF_DEVICE void clear_operand() const {
    const int bytes = static_cast<int>(reinterpret_cast<unsigned char*>(sums) - operand);
    for (int i = static_cast<int>(dev::thread_index()) * 16; i < bytes; i += static_cast<int>(dev::thread_count()) * 16)
      store_pack(reinterpret_cast<float*>(operand + i), Pack<float, 4>{});
  }
};

}  // namespace lstmfast::cuda
