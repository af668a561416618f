// Schemas. What the arguments and results are: checks.h and layers.h.
#include <torch/library.h>

TORCH_LIBRARY(lstmfast, m) {
  m.def(
      "forward(str cell, Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, "
      "bool has_biases, int num_layers, bool bidirectional, float dropout, bool save_for_backward, "
      "str? float32_precision=None) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor hidden, Tensor reserve)");
  m.def(
      "backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, str cell, Tensor input, Tensor? batch_sizes, "
      "Tensor[] hx, Tensor[] weights, Tensor? dropout_mask, bool has_biases, int num_layers, bool bidirectional, "
      "float dropout, Tensor output, Tensor hidden, Tensor reserve, bool[] output_mask, "
      "str? float32_precision=None) "
      "-> (Tensor grad_input, Tensor[] grad_hx, Tensor[] grad_weights)");
}
