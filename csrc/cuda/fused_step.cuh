// A step in one kernel, for so few rows that its time is that of reading the weights: products and cell. A warp has one
// hidden unit: its lanes go along the depth of all G rows of weights, side by side in memory, with the sums of all rows
// of the batch in registers, and then add up across lanes. So a call of one step is one launch, and no other step of
// the general path has more than one beside a projection's product.
//
// Weights that are larger than L2 are gone through from the first unit on in one step and from the last one on in the
// next (blocks start in their order): what was read last is still there when it is read first.
//
// Traffic: the weights once; every warp reads the operands' rows, which come out of L1. No barrier, and no shared
// memory. A sum's order depends on its depth and on whether it is read 16 bytes at a time, not on how many rows there
// are.
#pragma once
#include "step_kernels.cuh"

namespace lstmfast::cuda {

constexpr int kFusedThreads = 128;  // few: a small layer's warps are spread over more SMs

template <class Cell, class T, int rows>
struct FusedSums {
  using C = ComputeType<T>;
  C at[Cell::kGates][rows] = {};

  // Adds the products with rows of w, V elements at a time: those of `unit`, one for each gate.
  template <int V>
  LF_DEVICE void add(const FusedStep::Operand& o, int64_t hidden, int64_t unit, int lane) {
    const T* w = static_cast<const T*>(o.w.data) + unit * o.w.row_stride;
    const int64_t next_gate = hidden * o.w.row_stride, column = V > 1 ? 1 : o.w.col_stride;
#pragma unroll 2
    for (int64_t k = lane * V; k < o.depth; k += 32 * V) {
      Pack<C, V> weights[Cell::kGates];
#pragma unroll
      for (int gate = 0; gate < Cell::kGates; gate++)
        weights[gate] = load_computed<V>(w + gate * next_gate + k * column);
#pragma unroll
      for (int n = 0; n < rows; n++) {
        if (!o.row[n]) continue;
        const Pack<C, V> x = load_computed<V>(static_cast<const T*>(o.row[n]) + k);
#pragma unroll
        for (int gate = 0; gate < Cell::kGates; gate++)
#pragma unroll
          for (int i = 0; i < V; i++) at[gate][n] += weights[gate].at[i] * x.at[i];
      }
    }
  }

  // The row of the batch whose sums a lane has after add_lanes(), in at[..][0]. So many lanes have the same.
  static constexpr int kLanes = 32 / rows;
  static LF_DEVICE int row_of(int lane) { return lane / kLanes; }
  // Lanes first share the rows out, each half of them handing the other half its sums of the rows that those get.
  LF_DEVICE void add_lanes(int lane) {
#pragma unroll
    for (int half = rows / 2, mask = 16; half > 0; half /= 2, mask /= 2)
#pragma unroll
      for (int gate = 0; gate < Cell::kGates; gate++)
#pragma unroll
        for (int n = 0; n < half; n++) {
          C &low = at[gate][n], &high = at[gate][n + half];
          const bool gets_high = lane & mask;
          const C keep = gets_high ? high : low, send = gets_high ? low : high;
          low = keep + dev::shuffle_xor(send, mask);
        }
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2)
#pragma unroll
      for (int gate = 0; gate < Cell::kGates; gate++) at[gate][0] += dev::shuffle_xor(at[gate][0], mask);
  }
};

template <class Cell, class T, int rows>
__global__ void __launch_bounds__(kFusedThreads) fused_step_kernel(const __grid_constant__ FusedStep p) {
  const int lane = static_cast<int>(dev::thread_index() % 32);
  const int64_t warp = (static_cast<int64_t>(dev::block_index()) * kFusedThreads + dev::thread_index()) / 32;
  if (warp >= p.hidden) return;
  const int64_t unit = p.from_last_unit ? p.hidden - 1 - warp : warp;
  using Sums = FusedSums<Cell, T, rows>;
  const int n = Sums::row_of(lane);
  const bool works = n < p.rows;
  CellsAt<Cell, T, 1> cell(p, p.given, works ? n : 0, unit);
  Sums sums;
#pragma unroll
  for (const FusedStep::Operand& o : p.operands) {
    if (o.wide)
      sums.template add<16 / sizeof(T)>(o, p.hidden, unit, lane);
    else
      sums.template add<1>(o, p.hidden, unit, lane);
  }
  sums.add_lanes(lane);
#pragma unroll
  for (int gate = 0; gate < Cell::kGates; gate++) cell.add(gate, 0, sums.at[gate][0]);
  if (works && lane % Sums::kLanes == 0) cell.finish(p);
}

}  // namespace lstmfast::cuda
