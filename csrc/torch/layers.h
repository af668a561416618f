// A whole call: all layers, both directions, dropout between layers. Knows tensors, not devices: a device hands in its
// way to run one layer, in one direction or both.
#pragma once
#include <ATen/core/Tensor.h>

#include <tuple>
#include <vector>

#include "checks.h"

namespace lstmfast {

at::Tensor plain_empty(at::IntArrayRef sizes, const at::TensorOptions& options);

// The directions of a layer. They do not depend on each other, but that dx of the second is added to the first's.
template <class Params>
using Directions = std::vector<Params>;

// Layers of a call in one direction that go at once, from the bottom up: see cuda::RunsOf.
template <class Params>
struct Stack {
  std::vector<Params> layers;
  const unsigned char* kept = nullptr;
  double scale = 1;
};

// `like` is a tensor of the call's dtype and device; without a precision the device asks torch.
struct Device {
  ReserveWidth reserve_width;
  void (*forward)(Directions<ForwardParams>& runs, const at::Tensor& like, std::optional<Float32Precision> precision);
  void (*backward)(Directions<BackwardParams>& runs, const at::Tensor& like, std::optional<Float32Precision> precision);
  at::Tensor (*empty)(at::IntArrayRef sizes, const at::TensorOptions& options) = plain_empty;  // memory for results

  // How many of so many layers like this one are worth doing at once (null: one), and that: false if it cannot be after
  // all, and nothing has been done.
  int64_t (*layers_at_once)(const ForwardParams& layer, int64_t layers, bool backward, const at::Tensor& like,
                            std::optional<Float32Precision> precision) = nullptr;
  bool (*forward_stack)(Stack<ForwardParams>& stack, const at::Tensor& like,
                        std::optional<Float32Precision> precision) = nullptr;
  bool (*backward_stack)(Stack<BackwardParams>& stack, const at::Tensor& like,
                         std::optional<Float32Precision> precision) = nullptr;
};

struct Outputs {
  at::Tensor output;   // [T, N, D*O] or packed rows [R, D*O]
  at::Tensor h_n;      // [L*D, N, O]
  at::Tensor c_n;      // [L*D, N, H]; empty for a cell without a private state
  at::Tensor hidden;   // [L-1, *output.shape], outputs of the lower layers before dropout; empty unless saved
  at::Tensor reserve;  // [L*D, R, reserve_width] in the compute type; empty unless saved
};

struct SavedOutputs {
  const at::Tensor &output, &hidden, &reserve;
};

struct Gradients {
  std::optional<at::Tensor> output, h_n, c_n;
};

// Gradients in the order input, hx..., weights...; an empty tensor where none was wanted.
struct InputGradients {
  at::Tensor input;
  std::vector<at::Tensor> hx, weights;
};

// Results go into the tensors of `given` that are defined, which must be as above and share no memory with an argument.
Outputs forward_layers(const Device& device, const Arguments& a, bool save_for_backward, Outputs given = {});
// With `sums`, as many as weights, the gradients of the weights that are wanted are added there, and not returned: to
// contiguous tensors like the weights, of the compute type.
InputGradients backward_layers(const Device& device, const Arguments& a, const SavedOutputs& saved,
                               const Gradients& grads, const std::vector<bool>& wanted, at::TensorList sums = {});

}  // namespace lstmfast
