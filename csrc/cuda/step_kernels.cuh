// The kernels of the general path, templates on the element type, and their launchers. Each is one pass over memory
// without barriers between blocks; a thread handles V neighbouring elements, V > 1 where everything is aligned to it.
#pragma once
#include "../core/cell_info.h"
#include "step_kernels.h"
#include "types.cuh"

namespace lstmfast::cuda {

constexpr int kThreads = 256;

LF_DEVICE int64_t global_thread() { return static_cast<int64_t>(dev::block_index()) * kThreads + dev::thread_index(); }

// The cells of V hidden units of row n, by one thread: what they need is read before the products, where there are
// some, and stored after them.
template <class Cell, class T, int V>
class CellsAt {
 public:
  using C = ComputeType<T>;

  LF_DEVICE CellsAt(const CellForward& p, bool has_gates, int64_t n, int64_t unit) : n_(n), unit_(unit) {
#pragma unroll
    for (int g = 0; g < Cell::kGates; g++) {
      if (has_gates) pre_[g] = load_pack<V>(gates(p) + g * p.hidden);
      const Pack<C, V> b_ih = load_computed<V>(p.b_ih ? static_cast<const T*>(p.b_ih) + g * p.hidden + unit : nullptr);
      const Pack<C, V> b_hh = load_computed<V>(p.b_hh ? static_cast<const T*>(p.b_hh) + g * p.hidden + unit : nullptr);
#pragma unroll
      for (int k = 0; k < V; k++) pre_[g].at[k] += b_ih.at[k] + b_hh.at[k];
    }
    if constexpr (Cell::kStates > 1) {
      if (n < p.started)
        c_ = load_pack<V>(static_cast<const C*>(p.c_before) + n * p.hidden + unit);
      else if (p.c0.data)
        c_ = load_computed<V>(row<T>(p.c0, n) + unit);
    }
  }
  LF_DEVICE void add(int gate, int k, C product) { pre_[gate].at[k] += product; }
  LF_DEVICE void finish(const CellForward& p) {
    Pack<C, V> h, saved[Cell::kSaved];
#pragma unroll
    for (int k = 0; k < V; k++) {
      C x[Cell::kGates], in[Cell::kStates], out[Cell::kStates], keep[Cell::kSaved];
#pragma unroll
      for (int g = 0; g < Cell::kGates; g++) x[g] = pre_[g].at[k];
      in[0] = 0;  // h enters through the product alone
      if constexpr (Cell::kStates > 1) in[1] = c_.at[k];
      Cell::template forward<MathFor<T>>(x, in, out, keep);
#pragma unroll
      for (int s = 0; s < Cell::kSaved; s++) saved[s].at[k] = keep[s];
      h.at[k] = out[0];
      if constexpr (Cell::kStates > 1) c_.at[k] = out[1];
    }
    if (p.keep)
#pragma unroll
      for (int s = 0; s < Cell::kSaved; s++) store_pack(gates(p) + s * p.hidden, saved[s]);
    store_computed<V>(row<T>(p.h, n_) + unit_, h);
    if (n_ >= p.continued && p.h_n.data) store_computed<V>(row<T>(p.h_n, n_) + unit_, h);
    if constexpr (Cell::kStates > 1) {
      store_pack(static_cast<C*>(p.c) + n_ * p.hidden + unit_, c_);
      if (n_ >= p.continued && p.c_n.data) store_computed<V>(row<T>(p.c_n, n_) + unit_, c_);
    }
  }

 private:
  LF_DEVICE C* gates(const CellForward& p) const {
    return static_cast<C*>(p.gates) + n_ * Cell::kGates * p.hidden + unit_;
  }
  const int64_t n_, unit_;
  Pack<C, V> pre_[Cell::kGates]{}, c_{};
};

// Traffic per hidden unit, float32: reads G pre-activations and c, writes G (if kept), c and h. Biases come from cache.
template <class Cell, class T, int V>
__global__ void __launch_bounds__(kThreads) cell_forward_kernel(const __grid_constant__ CellForward p) {
  const int64_t i = global_thread() * V, n = i / p.hidden, unit = i % p.hidden;
  if (n >= p.rows) return;
  CellsAt<Cell, T, V>(p, true, n, unit).finish(p);
}

// Traffic per hidden unit, float32: reads what the cell saved, c twice, dc, dh and dy, writes G gate gradients and dc.
template <class Cell, class T, int V>
__global__ void __launch_bounds__(kThreads) cell_backward_kernel(CellBackward p) {
  using C = ComputeType<T>;
  const int64_t i = global_thread() * V, n = i / p.hidden, unit = i % p.hidden;
  if (n >= p.rows) return;
  const C* gates = static_cast<const C*>(p.gates) + n * Cell::kGates * p.hidden + unit;
  Pack<C, V> saved[Cell::kSaved], dh{}, c{}, c_before{}, dc{};
#pragma unroll
  for (int s = 0; s < Cell::kSaved; s++) saved[s] = load_pack<V>(gates + s * p.hidden);
  if (n < p.dh_rows)
    dh = load_pack<V>(static_cast<const C*>(p.dh) + n * p.hidden + unit);
  else if (p.dh_n.data)
    dh = load_computed<V>(row<T>(p.dh_n, n) + unit);
  if (p.dy.data) {
    const Pack<C, V> dy = load_computed<V>(row<T>(p.dy, n) + unit);
#pragma unroll
    for (int k = 0; k < V; k++) dh.at[k] += dy.at[k];
  }
  C* dc_state = static_cast<C*>(p.dc) + n * p.hidden + unit;
  if constexpr (Cell::kStates > 1) {
    c = load_pack<V>(static_cast<const C*>(p.c) + n * p.hidden + unit);
    if (n < p.started)
      c_before = load_pack<V>(static_cast<const C*>(p.c_before) + n * p.hidden + unit);
    else if (p.c0.data)
      c_before = load_computed<V>(row<T>(p.c0, n) + unit);
    if (n < p.continued)
      dc = load_pack<V>(dc_state);
    else if (p.dc_n.data)
      dc = load_computed<V>(row<T>(p.dc_n, n) + unit);
  }
  Pack<C, V> dgates[Cell::kGates];
#pragma unroll
  for (int k = 0; k < V; k++) {
    C keep[Cell::kSaved], in[Cell::kStates], out[Cell::kStates], dout[Cell::kStates], dpre[Cell::kGates],
        din[Cell::kStates];
#pragma unroll
    for (int s = 0; s < Cell::kSaved; s++) keep[s] = saved[s].at[k];
    in[0] = out[0] = 0;  // h is not read: see cells.h
    dout[0] = dh.at[k];
    if constexpr (Cell::kStates > 1) in[1] = c_before.at[k], out[1] = c.at[k], dout[1] = dc.at[k];
    Cell::template backward<MathFor<T>>(keep, in, out, dout, dpre, din);
#pragma unroll
    for (int g = 0; g < Cell::kGates; g++) dgates[g].at[k] = dpre[g];
    if constexpr (Cell::kStates > 1) dc.at[k] = din[1];
  }
  T* to = static_cast<T*>(p.dgates) + n * Cell::kGates * p.hidden + unit;
#pragma unroll
  for (int g = 0; g < Cell::kGates; g++) store_computed<V>(to + g * p.hidden, dgates[g]);
  if constexpr (Cell::kStates > 1) {
    store_pack(dc_state, dc);
    if (n >= p.started && p.dc0.data) store_computed<V>(row<T>(p.dc0, n) + unit, dc);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads) output_gradient_kernel(OutputGradient p) {
  using C = ComputeType<T>;
  const int64_t i = global_thread() * V, n = i / p.width, col = i % p.width;
  if (n >= p.rows) return;
  Pack<C, V> dh{};
  if (n < p.product_rows)
    dh = load_pack<V>(static_cast<const C*>(p.product) + i);
  else if (p.dh_n.data)
    dh = load_computed<V>(row<T>(p.dh_n, n) + col);
  if (p.dy.data) {
    const Pack<C, V> dy = load_computed<V>(row<T>(p.dy, n) + col);
#pragma unroll
    for (int k = 0; k < V; k++) dh.at[k] += dy.at[k];
  }
  store_computed<V>(static_cast<T*>(p.dh) + i, dh);
}

template <class T>
__global__ void __launch_bounds__(kThreads) copy_rows_kernel(CopyRows p) {
  const int64_t i = global_thread(), r = i / p.columns, col = i % p.columns;
  if (r >= p.rows) return;
  const int64_t t = r / p.batch, n = r % p.batch;
  T value{};
  if (p.from.data)
    value =
        static_cast<const T*>(p.from.data)[t * p.from.step_stride + n * p.from.row_stride + col * p.from_column_stride];
  static_cast<T*>(p.to.data)[t * p.to.step_stride + n * p.to.row_stride + col] = value;
}

// Row (t, n), and where the same sequence's row of another step is, if it has one.
struct RowPlace {
  int64_t t, n;

  LF_DEVICE RowPlace(const AllRows& p, int64_t r) : t(r / p.batch), n(r % p.batch) {
    if (!p.offsets) return;
    int64_t low = 0, high = p.steps;  // offsets[low] <= r < offsets[high]
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (p.offsets[middle] <= r ? low : high) = middle;
    }
    t = low, n = r - p.offsets[low];
  }
  LF_DEVICE bool exists(const AllRows& p, int64_t step) const {
    return step >= 0 && step < p.steps && (!p.offsets || n < p.offsets[step + 1] - p.offsets[step]);
  }
  LF_DEVICE int64_t row(const AllRows& p, int64_t step) const {
    return p.offsets ? p.offsets[step] + n : step * p.batch + n;
  }
  template <class T>
  LF_DEVICE const T* data(const AllRows& p, const ConstRows& rows, int64_t step) const {
    return static_cast<const T*>(rows.data) +
           (p.offsets ? row(p, step) * rows.row_stride : step * rows.step_stride + n * rows.row_stride);
  }
};

// A block per row: it looks its step up once.
template <class T>
__global__ void __launch_bounds__(kThreads) previous_states_kernel(PreviousStates p) {
  for (int64_t r = dev::block_index(); r < p.rows; r += dev::block_count()) {
    const RowPlace at(p, r);
    const int64_t before = p.reverse ? at.t + 1 : at.t - 1;
    const T* from = at.exists(p, before) ? at.data<T>(p, p.y, before) : row<T>(p.h0, at.n);
    T* to = static_cast<T*>(p.to) + r * p.columns;
    for (int64_t col = dev::thread_index(); col < p.columns; col += kThreads) to[col] = from ? from[col] : T{};
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) output_gradients_kernel(OutputGradients p) {
  using C = ComputeType<T>;
  for (int64_t r = dev::block_index(); r < p.rows; r += dev::block_count()) {
    const RowPlace at(p, r);
    const int64_t after = p.reverse ? at.t - 1 : at.t + 1;
    const bool goes_on = at.exists(p, after);
    const C* product = static_cast<const C*>(p.products) + (goes_on ? at.row(p, after) * p.columns : 0);
    const T* dh_n = row<T>(p.dh_n, at.n);
    const T* dy = p.dy.data ? at.data<T>(p, p.dy, at.t) : nullptr;
    T* to = static_cast<T*>(p.dh) + r * p.columns;
    for (int64_t col = dev::thread_index(); col < p.columns; col += kThreads) {
      C dh = goes_on ? product[col] : dh_n ? converted<C>(dh_n[col]) : C{};
      if (dy) dh += converted<C>(dy[col]);
      convert(to[col], dh);
    }
  }
}

// A block sums 64 columns of one chunk: 4 threads a column, each every fourth row; their sums meet in shared memory.
constexpr int kSumColumns = 64;
template <class T>
__global__ void __launch_bounds__(kThreads) partial_sums_kernel(ColumnSums p) {
  using C = ComputeType<T>;
  constexpr int kParts = kThreads / kSumColumns;
  C* parts = reinterpret_cast<C*>(dev::shared_memory());
  const int64_t tiles = (p.columns + kSumColumns - 1) / kSumColumns;
  const int64_t chunk = dev::block_index() / tiles, in_tile = dev::thread_index() % kSumColumns;
  const int64_t col = dev::block_index() % tiles * kSumColumns + in_tile;
  const int part = static_cast<int>(dev::thread_index()) / kSumColumns;
  const int64_t end = (chunk + 1) * kSumRows < p.rows ? (chunk + 1) * kSumRows : p.rows;
  C sum = 0;
  if (col < p.columns)
    for (int64_t r = chunk * kSumRows + part; r < end; r += kParts)
      sum += converted<C>(static_cast<const T*>(p.from)[r * p.columns + col]);
  parts[part * kSumColumns + in_tile] = sum;
  dev::sync_block();
  if (part != 0 || col >= p.columns) return;
#pragma unroll
  for (int k = 1; k < kParts; k++) sum += parts[k * kSumColumns + in_tile];
  static_cast<C*>(p.partial)[chunk * p.columns + col] = sum;
}
template <class T>
__global__ void __launch_bounds__(kThreads) final_sums_kernel(ColumnSums p) {
  using C = ComputeType<T>;
  const int64_t col = global_thread();
  if (col >= p.columns) return;
  C sum = 0;
  for (int64_t chunk = 0; chunk < sum_chunks(p.rows); chunk++)
    sum += static_cast<const C*>(p.partial)[chunk * p.columns + col];
  for (int k = 0; k < 2; k++)
    if (p.to[k].data) convert(static_cast<T*>(p.to[k].data)[col * p.to[k].row_stride], sum);
}

}  // namespace lstmfast::cuda
