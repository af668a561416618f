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
    const unsigned thread = dev::thread_index();
    warp = static_cast<int>(thread / 32), lane = static_cast<int>(thread % 32);
    g = static_cast<int>(thread % 32 / 4), q = static_cast<int>(thread % 4);
    slice = warp % t.slices, unit_warp = warp / t.slices;
    unit = (static_cast<int>(dev::block_index()) * t.unit_warps + unit_warp) * t.warp_units + g;
    first = static_cast<int>(dev::group_index()) * t.tiles * kTileSequences;
  }
  // Sequence e of the thread's two in tile j, within the group.
  LF_DEVICE int local(int j, int e) const { return j * kTileSequences + q * 2 + e; }
};

// The steps as the device sees them: a step's sequences are the first `active`, its rows begin at `row`. A step that
// does not exist has none.
struct DeviceStep {
  int t, active, row;
};
LF_DEVICE DeviceStep device_step(const PersistentCall& p, int t) {
  if (t < 0 || t >= p.steps) return {t, 0, 0};
  if (!p.offsets) return {t, p.batch, t * p.batch};
  const int row = static_cast<int>(p.offsets[t]);
  return {t, static_cast<int>(p.offsets[t + 1]) - row, row};
}

// A block's shared memory: weights, where registers are not enough (pieces.cuh); the operand's tiles, the cell's
// private state, in forward the biases, and the sums of slices. Before the first step weights pass through it.
template <class S, int values, bool has_biases>
struct SharedMemory {
  unsigned char* operand;
  float *state, *biases, *sums;

  LF_DEVICE SharedMemory(const Tiling& t, int weight_bytes, int operand_bytes) {
    operand = dev::shared_memory() + weight_bytes;
    state = reinterpret_cast<float*>(operand + operand_bytes);
    biases = state + t.tiles * t.unit_warps * values * 32;
    // Last: of how many there are depends no address, which would take a register.
    sums = biases + (has_biases ? t.unit_warps * S::kHalves * 8 : 0);
  }
  // Value i of the state that this thread keeps for tile j: a place that no other thread touches.
  LF_DEVICE float& own(const Place& at, int j, int i) const {
    return state[((j * at.t.unit_warps + at.unit_warp) * values + i) * 32 + at.lane];
  }
  // Of the thread's row in a half of the warp's tile: registers are short.
  LF_DEVICE float& bias(const Place& at, int half) const {
    return biases[(at.unit_warp * S::kHalves + half) * 8 + at.g];
  }
  // The place of the warp's own is found by its number, not by its units and slice as the others': a register less.
  LF_DEVICE void store(const Place& at, int j, const Sums<S>& x) const {
    float* to = sums + (j * at.t.warps() + at.warp) * S::kRowTiles * 4 * 32 + at.lane;
#pragma unroll
    for (int i = 0; i < S::kRowTiles * 4; i++) to[i * 32] = x.at[i / 4][i % 4];
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
    const int bytes = static_cast<int>(reinterpret_cast<unsigned char*>(state) - operand);
    for (int i = static_cast<int>(dev::thread_index()) * 16; i < bytes; i += static_cast<int>(dev::thread_count()) * 16)
      store_pack(reinterpret_cast<float*>(operand + i), Pack<float, 4>{});
  }
};

// The cells of tiles [first, last) of a step, each by the slice whose turn it is: `cell(j)` computes, and sends what
// the next step multiplies by; `store(j, results)` puts the results into memory. The last ones are stored when the
// block has released its part of the operand: the release waits for all stores before it, and the next step for the
// release.
template <class Exchange, class Cell, class Store>
LF_DEVICE void run_cells(const Place& at, const Exchange& exchange, int s, int first, int last, const Cell& cell,
                         const Store& store) {
#pragma unroll 1
  for (; first < last; first += at.t.slices) {
    const int j = first + at.slice;
    decltype(cell(j)) results;
    if (j < last) results = cell(j);
    if (first + at.t.slices >= last && last == at.t.tiles) exchange.release(s + 1);
    if (j < last) store(j, results);
  }
}

}  // namespace lstmfast::cuda
