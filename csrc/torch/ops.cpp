// Schemas. What the arguments and results are: checks.h and layers.h.
#include <torch/library.h>

TORCH_LIBRARY(lstmfast, m) {
  m.def(
      "forward(str cell, Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, "
      "bool has_biases, int num_layers, bool bidirectional, float dropout, bool save_for_backward, "
      "str? float32_precision=None) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor hidden, Tensor reserve)");
  // The same for inference, in one direction, into memory of the caller's that is no argument's.
  m.def(
      "forward_into(str cell, Tensor input, Tensor[] hx, Tensor[] weights, bool has_biases, int num_layers, "
      "str? float32_precision, Tensor(a!) output, Tensor(b!)[] states) -> ()");
  m.def(
      "backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, str cell, Tensor input, Tensor? batch_sizes, "
      "Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, bool has_biases, int num_layers, bool bidirectional, "
      "float dropout, Tensor output, Tensor hidden, Tensor reserve, bool[] output_mask, "
      "str? float32_precision=None) "
      "-> (Tensor grad_input, Tensor[] grad_hx, Tensor[] grad_weights)");
  // For a sequence in chunks. Whether forward and backward take these arguments; raises what they would raise.
  m.def(
      "check(str cell, Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, "
      "bool has_biases, int num_layers, bool bidirectional, float dropout) -> ()");
  // Layers in one direction, which may be against time. Backward adds the gradients of weights that output_mask wants
  // to sums, contiguous tensors like the weights but in the type that is computed in.
  m.def(
      "forward_chunk(str cell, Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, "
      "bool has_biases, int num_layers, bool reverse, float dropout, str? float32_precision) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor hidden, Tensor reserve)");
  m.def(
      "backward_chunk(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, str cell, Tensor input, "
      "Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, bool has_biases, int num_layers, "
      "bool reverse, float dropout, Tensor output, Tensor hidden, Tensor reserve, bool[] output_mask, "
      "str? float32_precision, Tensor(a!)[] sums) -> (Tensor grad_input, Tensor[] grad_hx)");
  // Second derivatives of one layer in one direction; on the CPU only (tangents.cpp).
  m.def(
      "tangent_walk(str cell, Tensor(a!) dpre, Tensor? batch_sizes, bool reverse, Tensor reserve, Tensor w_hh, "
      "Tensor? w_hr, Tensor? dw_hr, Tensor? c0, Tensor dh0, Tensor? dc0) "
      "-> (Tensor dh, Tensor dm, Tensor m, Tensor dc)");
  m.def(
      "gradient_tangent_walk(str cell, Tensor(a!) by_h, Tensor dpre, Tensor dc, Tensor? batch_sizes, bool reverse, "
      "Tensor reserve, Tensor w_hh, Tensor? dw_hh, Tensor? w_hr, Tensor? dw_hr, Tensor? c0, Tensor? dc0, "
      "Tensor by_h_n, Tensor by_c_n) -> (Tensor by_gates, Tensor by_h0, Tensor by_c0)");
}
