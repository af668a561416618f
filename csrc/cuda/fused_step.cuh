// A step in one kernel, for so few rows that its time is that of reading the weights: products and cell. A warp has one
// hidden unit: its lanes go along the depth of all G rows of weights, side by side in memory, with the sums of all rows
// of the batch in registers, and then add up across lanes. So a call of one step is one launch, unless a projection's
// product follows.
//
// Weights that are larger than L2 are gone through from the first unit on in one step and from the last one on in the
// next (blocks start in their order): what was read last is still there when it is read first.
//
// Traffic: the weights once; every warp reads the operands' rows, which come out of L1. No barrier, and no shared
// memory. The order of a sum depends on its depth and on whether it is read 16 bytes at a time, not on how many rows of
// the batch there are.
#pragma once
#include <type_traits>

#include "step_kernels.cuh"

namespace lstmfast::cuda {

constexpr int kFusedThreads = 64;  // few: so the warps of a small layer are spread over more SMs

// V elements as they are loaded. 16-bit elements stay pairs in words until they are multiplied: one by one they would
// take instructions to take apart and to put together.
template <class T, int V>
struct Loaded {
  static constexpr bool kPairs = sizeof(T) == 2 && V > 1;
  Pack<std::conditional_t<kPairs, uint32_t, T>, kPairs ? V / 2 : V> raw{};

  LF_DEVICE void load(bool there, const T* p) {
    using Raw = decltype(raw);
    if (!there) return;
    dev::check_alignment<alignof(Raw)>(p);
    raw = *reinterpret_cast<const Raw*>(p);
  }
  LF_DEVICE ComputeType<T> operator[](int i) const {
    if constexpr (kPairs)
      return converted<ComputeType<T>>(T{static_cast<uint16_t>(i % 2 ? raw.at[i / 2] >> 16 : raw.at[i / 2])});
    else
      return converted<ComputeType<T>>(raw.at[i]);
  }
};

template <class Cell, class T, int rows>
struct FusedSums {
  using C = ComputeType<T>;
  C at[Cell::kGates][rows] = {};

  // Adds the products with rows of w, V elements at a time: those of `unit`, one for each gate. Some chunks are loaded
  // at once, weights and operands, and without branches, so that a lane waits for memory as rarely as registers allow.
  template <int V>
  LF_DEVICE void add(const FusedStep::Operand& o, int64_t hidden, int64_t unit, int lane) {
    constexpr int kAtOnce = Cell::kGates > 2 ? (rows > 2 ? 1 : 2) : 4;
    const T* w = static_cast<const T*>(o.w.data) + unit * o.w.row_stride;
    const int64_t next_gate = hidden * o.w.row_stride, column = V > 1 ? 1 : o.w.col_stride;
#pragma unroll 1
    for (int64_t first = lane * V; first < o.depth; first += kAtOnce * 32 * V) {
      Loaded<T, V> weights[kAtOnce][Cell::kGates], x[kAtOnce][rows];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const int64_t k = first + i * 32 * V;
        const bool is_inside = k < o.depth;
#pragma unroll
        for (int gate = 0; gate < Cell::kGates; gate++)
          weights[i][gate].load(is_inside, w + gate * next_gate + k * column);
#pragma unroll
        for (int n = 0; n < rows; n++) x[i][n].load(is_inside && o.row[n], static_cast<const T*>(o.row[n]) + k);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++)
#pragma unroll
        for (int j = 0; j < V; j++)
#pragma unroll
          for (int gate = 0; gate < Cell::kGates; gate++)
#pragma unroll
            for (int n = 0; n < rows; n++) at[gate][n] += weights[i][gate][j] * x[i][n][j];
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
