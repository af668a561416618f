// The ops' signatures in C++, as templates on the device that runs them.
#pragma once
#include <ATen/MemoryOverlap.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "layers.h"

namespace lstmfast {

using OptionalTensor = std::optional<at::Tensor>;
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using BackwardResult = std::tuple<at::Tensor, std::vector<at::Tensor>, std::vector<at::Tensor>>;

template <const Device& device>
ForwardResult forward_op(std::string_view cell, const at::Tensor& input, const OptionalTensor& batch_sizes,
                         at::TensorList hx, at::TensorList weights, const OptionalTensor& dropout_mask, bool has_biases,
                         int64_t num_layers, bool bidirectional, double dropout, bool save_for_backward,
                         std::optional<std::string_view> float32_precision) {
  const Arguments a{cell,       input,      batch_sizes,   hx,      weights,          dropout_mask,
                    has_biases, num_layers, bidirectional, dropout, float32_precision};
  Outputs o = forward_layers(device, a, save_for_backward);
  return {o.output, o.h_n, o.c_n, o.hidden, o.reserve};
}

template <const Device& device>
void forward_into_op(std::string_view cell, const at::Tensor& input, at::TensorList hx, at::TensorList weights,
                     bool has_biases, int64_t num_layers, std::optional<std::string_view> float32_precision,
                     const at::Tensor& output, at::TensorList states) {
  const OptionalTensor none;
  const Arguments a{cell, input, none, hx, weights, none, has_biases, num_layers, false, 0., float32_precision};
  TORCH_CHECK_VALUE(!states.empty() && states.size() == hx.size(), "lstmfast: expected as many states as hx has, got ",
                    states.size());
  // Kernels write before they have read everything.
  at::assert_no_overlap(output, input);
  for (const at::Tensor& written : states) {
    at::assert_no_overlap(written, output);
    for (const at::Tensor& read : hx) at::assert_no_overlap(written, read);
  }
  Outputs given;
  given.output = output, given.h_n = states[0];
  if (states.size() > 1) given.c_n = states[1];
  forward_layers(device, a, false, given);
}

template <const Device& device>
BackwardResult backward_op(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                           const OptionalTensor& grad_c_n, std::string_view cell, const at::Tensor& input,
                           const OptionalTensor& batch_sizes, at::TensorList hx, at::TensorList weights,
                           const OptionalTensor& dropout_mask, bool has_biases, int64_t num_layers, bool bidirectional,
                           double dropout, const at::Tensor& output, const at::Tensor& hidden,
                           const at::Tensor& reserve, const c10::List<bool>& output_mask,
                           std::optional<std::string_view> float32_precision) {
  const Arguments a{cell,       input,      batch_sizes,   hx,      weights,          dropout_mask,
                    has_biases, num_layers, bidirectional, dropout, float32_precision};
  const std::vector<bool> wanted(output_mask.begin(), output_mask.end());
  InputGradients g = backward_layers(device, a, {output, hidden, reserve}, {grad_output, grad_h_n, grad_c_n}, wanted);
  return {g.input, g.hx, g.weights};
}

// ---- A sequence in chunks: what the parts of a call in one direction do

template <const Device& device>
void check_op(std::string_view cell, const at::Tensor& input, const OptionalTensor& batch_sizes, at::TensorList hx,
              at::TensorList weights, const OptionalTensor& dropout_mask, bool has_biases, int64_t num_layers,
              bool bidirectional, double dropout) {
  check({cell, input, batch_sizes, hx, weights, dropout_mask, has_biases, num_layers, bidirectional, dropout,
         std::nullopt},
        device.reserve_width);
}

template <const Device& device>
ForwardResult forward_chunk_op(std::string_view cell, const at::Tensor& input, const OptionalTensor& batch_sizes,
                               at::TensorList hx, at::TensorList weights, const OptionalTensor& dropout_mask,
                               bool has_biases, int64_t num_layers, bool reverse, double dropout,
                               std::optional<std::string_view> float32_precision) {
  const Arguments a{cell,       input,      batch_sizes, hx,      weights,           dropout_mask,
                    has_biases, num_layers, false,       dropout, float32_precision, reverse};
  Outputs o = forward_layers(device, a, true);
  return {o.output, o.h_n, o.c_n, o.hidden, o.reserve};
}

template <const Device& device>
std::tuple<at::Tensor, std::vector<at::Tensor>> backward_chunk_op(
    const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
    std::string_view cell, const at::Tensor& input, const OptionalTensor& batch_sizes, at::TensorList hx,
    at::TensorList weights, const OptionalTensor& dropout_mask, bool has_biases, int64_t num_layers, bool reverse,
    double dropout, const at::Tensor& output, const at::Tensor& hidden, const at::Tensor& reserve,
    const c10::List<bool>& output_mask, std::optional<std::string_view> float32_precision, at::TensorList sums) {
  const Arguments a{cell,       input,      batch_sizes, hx,      weights,           dropout_mask,
                    has_biases, num_layers, false,       dropout, float32_precision, reverse};
  TORCH_CHECK_VALUE(sums.size() == weights.size(), "lstmfast: sums must be as many as weights, ", weights.size(),
                    ", got ", sums.size());
  const std::vector<bool> wanted(output_mask.begin(), output_mask.end());
  const Gradients grads{grad_output, grad_h_n, grad_c_n};
  InputGradients g = backward_layers(device, a, {output, hidden, reserve}, grads, wanted, sums);
  return {g.input, g.hx};
}

// All of them, for the dispatch key of `m`.
template <const Device& device>
void implement_ops(torch::Library& m) {
  m.impl("forward", forward_op<device>);
  m.impl("forward_into", forward_into_op<device>);
  m.impl("backward", backward_op<device>);
  m.impl("check", check_op<device>);
  m.impl("forward_chunk", forward_chunk_op<device>);
  m.impl("backward_chunk", backward_chunk_op<device>);
}

}  // namespace lstmfast
