// Validation of a call's arguments, shared by forward and backward and by every device: after it, the kernels trust.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "../core/params.h"

namespace lstmfast {

// The arguments of one call as they come from the dispatcher.
struct Arguments {
  std::string_view cell;
  const at::Tensor& input;                        // [T, N, I], or packed rows [R, I]
  const std::optional<at::Tensor>& batch_sizes;   // [T] int64 on the CPU when packed
  at::TensorList hx;                              // empty, or h0 [L*D, N, O] and the private states [L*D, N, H]
  at::TensorList weights;                         // per layer and direction: w_ih, w_hh, [b_ih, b_hh], [w_hr]
  const std::optional<at::Tensor>& dropout_mask;  // bool [L-1, *output.shape]; nullopt: nothing is dropped
  bool has_biases;
  int64_t num_layers;
  bool bidirectional;
  double dropout;
  // "highest", "high" or "medium", as torch.set_float32_matmul_precision takes; nullopt: as torch is set when the op
  // runs
  std::optional<std::string_view> float32_precision;
  bool reverse = false;  // one direction, from the last step to the first
};

// Elements of the compute type that a device keeps for backward, per row: (cell, dtype, hidden, projection).
using ReserveWidth = int64_t (*)(int, DType, int64_t, int64_t);

// What they mean, once they have been found sound.
struct Problem {
  int cell = 0;
  DType dtype = DType::kFloat32;
  Shape shape;  // of the first layer; without batch_sizes and offsets
  int64_t layers = 0, directions = 0, weights_per_run = 0, states = 0, reserve_width = 0;
  bool biases = false;
  std::optional<Float32Precision> float32_precision;
  std::vector<int64_t> offsets;  // empty when padded

  bool packed() const { return !offsets.empty(); }
  int64_t runs() const { return layers * directions; }
  int64_t output_width() const { return directions * shape.output(); }
  int64_t layer_input(int64_t layer) const { return layer == 0 ? shape.input : output_width(); }
  std::vector<int64_t> rows_shape(int64_t width) const;                     // [T, N, width] or [R, width]
  std::vector<int64_t> stacked_rows_shape(int64_t n, int64_t width) const;  // the same n times
};

// Throws (ValueError for ranks, dtypes and options, RuntimeError for sizes, as torch.nn does) naming the argument, what
// was expected and what came.
Problem check(const Arguments& a, ReserveWidth reserve_width);

// A tensor that must have this dtype, device and shape, like what forward returned or a gradient of it.
void check_like(const at::Tensor& t, const char* name, const at::Tensor& input, at::IntArrayRef shape,
                std::optional<at::ScalarType> dtype = std::nullopt);

}  // namespace lstmfast
