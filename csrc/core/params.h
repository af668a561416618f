// What one call of a kernel needs: one layer, one direction, a whole sequence. Plain data; strides in elements, 64-bit.
//
// Names of sizes, here and everywhere:
//   T steps, N sequences, I input features, H hidden units, O = features of h (H, or the projection's size P if there
//   is one), G gates of the cell, R = rows = sum over t of the sequences active at step t (T * N when nothing is
//   packed)
#pragma once
#include "types.h"

namespace lstmfast {

// Rows (t, n) of features; the features of a row are contiguous.
//   padded:  row (t, n) at data + t * step_stride + n * row_stride
//   packed:  row (t, n) at data + (offsets[t] + n) * row_stride
// States, which have no time, use row_stride alone. A null pointer means "absent": zeros when read, unwanted when
// written.
template <class T>
struct RowsOf {
  T* data = nullptr;
  int64_t step_stride = 0;
  int64_t row_stride = 0;
};
using Rows = RowsOf<void>;
using ConstRows = RowsOf<const void>;

template <class T>
struct MatrixOf {
  T* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};
using Matrix = MatrixOf<void>;
using ConstMatrix = MatrixOf<const void>;

struct Shape {
  int64_t steps = 0;                     // T
  int64_t batch = 0;                     // N; when packed, the sequences of the first step
  int64_t rows = 0;                      // R
  int64_t input = 0;                     // I
  int64_t hidden = 0;                    // H
  int64_t projection = 0;                // P, 0 without projection
  const int64_t* batch_sizes = nullptr;  // [T], not increasing; null when padded
  const int64_t* offsets = nullptr;      // [T + 1], running sum of batch_sizes; null when padded
  bool reverse = false;                  // walk the steps from T - 1 to 0

  int64_t output() const { return projection ? projection : hidden; }
};

struct ForwardParams {
  int cell = 0;  // index into AllCells (cells.h)
  DType dtype = DType::kFloat32;
  Shape shape;
  int threads = 1;
  Float32Precision float32_precision = Float32Precision::kHighest;  // CPU; the same in backward
  int isa = 0;  // level from cpu::isa(), read once per call: workspace and kernel must agree on it

  ConstRows x;       // [T, N, I]
  ConstRows h0, c0;  // [N, O], [N, H]; null: zeros
  ConstMatrix w_ih;  // [G*H, I], gates in PyTorch's order
  ConstMatrix w_hh;  // [G*H, O]
  ConstMatrix w_hr;  // [P, H], null without projection
  ConstMatrix b_ih;  // [G*H] as a column, null without bias
  ConstMatrix b_hh;  // [G*H] as a column, null without bias

  Rows y;         // [T, N, O]; may not alias any input
  Rows h_n, c_n;  // [N, O], [N, H]

  void* reserve = nullptr;  // rows * reserve_width() elements of the compute type, kept for backward; null in inference
  // forward_workspace_bytes() / backward_workspace_bytes(), 64-byte aligned, free afterwards
  void* workspace = nullptr;
  // CPU forward only: memory for packed weights that outlives the call, packed_weights_bytes(); null: in the workspace.
  void* packed = nullptr;
  bool packed_before = false;  // it holds these very weights already
};

// In backward y and reserve are inputs, as forward left them; h_n and c_n are not used.
struct BackwardParams : ForwardParams {
  ConstRows dy;          // [T, N, O], null: zeros
  ConstRows dh_n, dc_n;  // [N, O], [N, H], null: zeros

  Rows dx;  // [T, N, I]
  bool accumulate_dx = false;
  Rows dh0, dc0;               // [N, O], [N, H]
  Matrix dw_ih, dw_hh, dw_hr;  // like the weights
  bool accumulate_dw = false;  // they are of the compute type, and added to; the biases' are neither
  Matrix db_ih, db_hh;         // [G*H] as columns; both get the same values
};

}  // namespace lstmfast
