#include "layers.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>

namespace lstmfast {
namespace {

at::ScalarType compute_type(const at::Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Rows' features must be contiguous; every other stride is free.
at::Tensor readable(const at::Tensor& t) {
  return t.size(-1) <= 1 || t.stride(-1) == 1 ? t.resolve_neg() : t.contiguous();
}

template <class R, class T>
R rows_of(const T& t, bool packed, int64_t first_column = 0) {
  if (!t.defined()) return {};
  const auto offset = first_column * t.element_size();
  if constexpr (std::is_same_v<R, ConstRows>) {
    const char* data = static_cast<const char*>(t.const_data_ptr()) + offset;
    return packed ? ConstRows{data, 0, t.stride(0)} : ConstRows{data, t.stride(0), t.stride(1)};
  } else {
    char* data = static_cast<char*>(t.mutable_data_ptr()) + offset;
    return packed ? Rows{data, 0, t.stride(0)} : Rows{data, t.stride(0), t.stride(1)};
  }
}
// Run i's state out of [L*D, N, width].
ConstRows state(const at::Tensor& t, int64_t run) {
  if (!t.defined()) return {};
  return {static_cast<const char*>(t.const_data_ptr()) + run * t.stride(0) * t.element_size(), 0, t.stride(1)};
}
Rows mutable_state(const at::Tensor& t, int64_t run) {
  if (!t.defined()) return {};
  return {static_cast<char*>(t.mutable_data_ptr()) + run * t.stride(0) * t.element_size(), 0, t.stride(1)};
}
ConstMatrix matrix(const at::Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.dim() == 2 ? t.stride(1) : 1}; }
Matrix mutable_matrix(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {t.mutable_data_ptr(), t.stride(0), t.dim() == 2 ? t.stride(1) : 1};
}

// The tensors of a call in a form that can be pointed into, and the parameters of one run (a layer in a direction).
class Call {
 public:
  Call(const Device& device, const Arguments& a)
      : device_(device),
        a_(a),
        problem_(check(a, device.reserve_width)),
        input_(readable(a.input)),
        weights_(a.weights.size()) {
    for (const at::Tensor& t : a.hx) hx_.push_back(readable(t));
    for (size_t i = 0; i < weights_.size(); i++) weights_[i] = a.weights[i].resolve_neg();
    if (problem_.packed()) {
      sizes_ = a.batch_sizes->contiguous();
      problem_.shape.batch_sizes = sizes_.const_data_ptr<int64_t>();
      problem_.shape.offsets = problem_.offsets.data();
    }
    if (a.dropout_mask) mask_ = a.dropout_mask->contiguous();
  }

  const Problem& problem() const { return problem_; }
  const at::Tensor& input() const { return input_; }
  int64_t runs() const { return problem_.runs(); }

  at::Tensor rows(int64_t width) const { return device_.empty(problem_.rows_shape(width), input_.options()); }
  at::Tensor states(int64_t width) const { return at::empty({runs(), problem_.shape.batch, width}, input_.options()); }
  at::Tensor nothing() const { return at::empty({0}, input_.options()); }

  // A layer's output on its way to the next layer, or a gradient on its way back.
  at::Tensor drop(const at::Tensor& y, int64_t layer) const {
    if (!mask_.defined()) return y;
    const double kept = 1 - a_.dropout;
    return at::mul(y, mask_[layer]).mul_(kept > 0 ? 1 / kept : 0.);
  }

  // A stack that begins with this layer, and what dropout does between its layers, whose rows are as wide as they are
  // many features.
  template <class Params>
  Stack<Params> stack(int64_t first) const {
    Stack<Params> s;
    if (!mask_.defined()) return s;
    s.kept = static_cast<const unsigned char*>(mask_.const_data_ptr()) + first * mask_.stride(0);
    s.scale = a_.dropout < 1 ? 1 / (1 - a_.dropout) : 0.;
    return s;
  }
  // Of so many layers that are left to do, how many are next.
  int64_t layers_at_once(int64_t left, bool backward) const {
    if (!device_.layers_at_once || left == 1 || problem_.directions > 1 || problem_.shape.reverse) return 1;
    return device_.layers_at_once(params<ForwardParams>(0, input_, {}, {}), left, backward, input_,
                                  problem_.float32_precision);
  }

  // x is the layer's input, y its output, reserve what this run keeps for backward (undefined: nothing).
  template <class Params>
  Params params(int64_t run, const at::Tensor& x, const at::Tensor& y, const at::Tensor& reserve) const {
    const int64_t layer = run / problem_.directions, direction = run % problem_.directions;
    Params p;
    p.cell = problem_.cell;
    p.dtype = problem_.dtype;
    p.shape = problem_.shape;
    p.shape.input = problem_.layer_input(layer);
    if (direction == 1) p.shape.reverse = true;
    p.threads = at::get_num_threads();
    p.x = rows_of<ConstRows>(x, problem_.packed());
    p.y = rows_of<Rows>(y, problem_.packed(), direction * problem_.shape.output());
    if (!hx_.empty()) p.h0 = state(hx_[0], run);
    if (hx_.size() > 1) p.c0 = state(hx_[1], run);
    const at::Tensor* w = weights(run);
    p.w_ih = matrix(w[0]);
    p.w_hh = matrix(w[1]);
    if (problem_.biases) p.b_ih = matrix(w[2]), p.b_hh = matrix(w[3]);
    if (problem_.shape.projection) p.w_hr = matrix(w[problem_.weights_per_run - 1]);
    if (reserve.defined()) p.reserve = reserve[run].mutable_data_ptr();
    return p;
  }
  const at::Tensor* weights(int64_t run) const { return &weights_[run * problem_.weights_per_run]; }

 private:
  const Device& device_;
  const Arguments& a_;
  Problem problem_;
  at::Tensor input_, sizes_, mask_;
  std::vector<at::Tensor> hx_, weights_;
};

}  // namespace

at::Tensor plain_empty(at::IntArrayRef sizes, const at::TensorOptions& options) { return at::empty(sizes, options); }

Outputs forward_layers(const Device& device, const Arguments& a, bool save_for_backward, Outputs out) {
  const Call call(device, a);
  const Problem& problem = call.problem();
  const int64_t width = problem.output_width();
  const auto result = [&](at::Tensor& t, const char* name, at::IntArrayRef shape, auto&& make) {
    if (!t.defined()) return static_cast<void>(t = make());
    check_like(t, name, call.input(), shape);
    TORCH_CHECK(t.is_contiguous(), "lstmfast: ", name, " must be contiguous");
  };
  const int64_t batch = problem.shape.batch;
  result(out.output, "output", problem.rows_shape(width), [&] { return call.rows(width); });
  result(out.h_n, "h_n", {call.runs(), batch, problem.shape.output()},
         [&] { return call.states(problem.shape.output()); });
  if (problem.states > 1)
    result(out.c_n, "c_n", {call.runs(), batch, problem.shape.hidden},
           [&] { return call.states(problem.shape.hidden); });
  else
    out.c_n = call.nothing();
  if (save_for_backward) {
    out.hidden = device.empty(problem.stacked_rows_shape(problem.layers - 1, width), call.input().options());
    out.reserve = device.empty({call.runs(), problem.shape.rows, problem.reserve_width},
                               call.input().options().dtype(compute_type(call.input())));
  }

  const auto params = [&](int64_t run, const at::Tensor& x, const at::Tensor& y) {
    auto p = call.params<ForwardParams>(run, x, y, out.reserve);
    p.h_n = mutable_state(out.h_n, run);
    if (problem.states > 1) p.c_n = mutable_state(out.c_n, run);
    return p;
  };
  const auto output_of = [&](int64_t layer) {
    return layer == problem.layers - 1 ? out.output : save_for_backward ? out.hidden[layer] : call.rows(width);
  };
  // One layer, or several at once: from x to the last one's output.
  const auto one = [&](int64_t layer, const at::Tensor& x) {
    const at::Tensor y = output_of(layer);
    Directions<ForwardParams> runs;
    for (int64_t d = 0; d < problem.directions; d++) runs.push_back(params(layer * problem.directions + d, x, y));
    device.forward(runs, call.input(), problem.float32_precision);
    return y;
  };
  const auto several = [&](int64_t first, int64_t count, const at::Tensor& x) {
    auto stack = call.stack<ForwardParams>(first);
    std::vector<at::Tensor> y{x};  // kept until the work has been put on the stream
    for (int64_t layer = first; layer < first + count; layer++) {
      y.push_back(output_of(layer));
      stack.layers.push_back(params(layer, y[y.size() - 2], y.back()));
    }
    return device.forward_stack(stack, call.input(), problem.float32_precision) ? y.back() : at::Tensor();
  };
  at::Tensor x = call.input();
  for (int64_t layer = 0; layer < problem.layers;) {
    int64_t count = call.layers_at_once(problem.layers - layer, false);
    at::Tensor y;
    if (count > 1) y = several(layer, count, x);
    if (!y.defined()) y = one(layer, x), count = 1;
    layer += count;
    if (layer < problem.layers) x = call.drop(y, layer - 1);
  }
  if (!save_for_backward) out.hidden = call.nothing(), out.reserve = call.nothing();
  return out;
}

InputGradients backward_layers(const Device& device, const Arguments& a, const SavedOutputs& saved,
                               const Gradients& grads, const std::vector<bool>& wanted, at::TensorList sums) {
  const Call call(device, a);
  const Problem& problem = call.problem();
  const int64_t width = problem.output_width(), packed = problem.packed();
  const size_t states = a.hx.size(), first_weight = 1 + states;
  TORCH_CHECK_VALUE(wanted.size() == first_weight + a.weights.size(), "lstmfast: output_mask must have ",
                    first_weight + a.weights.size(), " entries (input, hx, weights), got ", wanted.size());

  const at::Tensor& input = call.input();
  check_like(saved.output, "output", input, problem.rows_shape(width));
  check_like(saved.hidden, "hidden", input, problem.stacked_rows_shape(problem.layers - 1, width));
  check_like(saved.reserve, "reserve", input, {call.runs(), problem.shape.rows, problem.reserve_width},
             compute_type(input));
  const auto gradient = [&](const std::optional<at::Tensor>& g, const char* name, at::IntArrayRef shape) {
    if (!g || !g->defined()) return at::Tensor();
    check_like(*g, name, input, shape);
    return readable(*g);
  };
  at::Tensor dy = gradient(grads.output, "grad_output", problem.rows_shape(width));
  const at::Tensor dh_n = gradient(grads.h_n, "grad_h_n", {call.runs(), problem.shape.batch, problem.shape.output()});
  const at::Tensor dc_n =
      problem.states > 1 ? gradient(grads.c_n, "grad_c_n", {call.runs(), problem.shape.batch, problem.shape.hidden})
                         : at::Tensor();
  const at::Tensor output = saved.output.contiguous(), hidden = saved.hidden.contiguous(),
                   reserve = saved.reserve.contiguous();

  InputGradients out;
  // Zeros where no kernel writes: an empty batch, or a layer below everything that is wanted.
  for (size_t i = 0; i < states; i++)
    out.hx.push_back(wanted[1 + i] ? at::zeros_like(a.hx[i], at::MemoryFormat::Contiguous) : at::Tensor());
  const auto weight_gradient = [&](size_t i) {
    const at::Tensor& w = a.weights[i];
    if (!wanted[first_weight + i]) return at::Tensor();
    if (!sums.empty()) {
      check_like(sums[i], "sums", input, w.sizes(), compute_type(input));
      TORCH_CHECK(sums[i].is_contiguous(), "lstmfast: sums must be contiguous");
      // Kernels add to sums while they still read everything else.
      for (const at::TensorList& others : {at::TensorList(a.weights), at::TensorList(a.hx), sums.slice(0, i)})
        for (const at::Tensor& other : others) at::assert_no_overlap(sums[i], other);
      for (const at::Tensor& other : {input, output, hidden, reserve, dy, dh_n, dc_n})
        if (other.defined()) at::assert_no_overlap(sums[i], other);
      if (w.dim() > 1) return sums[i];  // the kernels add
    }
    return problem.shape.rows == 0 ? at::zeros_like(w, at::MemoryFormat::Contiguous)
                                   : device.empty(w.sizes(), w.options());
  };
  for (size_t i = 0; i < a.weights.size(); i++) out.weights.push_back(weight_gradient(i));

  // Whether anything at or below a layer is wanted, other than the input's gradient.
  const auto wanted_in = [&](int64_t layer) {
    for (size_t i = 0; i < states; i++)
      if (wanted[1 + i]) return true;
    const int64_t per_layer = problem.weights_per_run * problem.directions;
    for (int64_t i = layer * per_layer; i < (layer + 1) * per_layer; i++)
      if (wanted[first_weight + i]) return true;
    return false;
  };
  std::vector<bool> below(problem.layers + 1, wanted[0]);  // below[l]: the gradient of layer l's input is needed
  for (int64_t layer = 0; layer < problem.layers; layer++) below[layer + 1] = below[layer] || wanted_in(layer);

  const auto params = [&](int64_t run, const at::Tensor& x, const at::Tensor& dx) {
    const int64_t layer = run / problem.directions, d = run % problem.directions;
    auto p = call.params<BackwardParams>(run, x, layer == problem.layers - 1 ? output : hidden[layer], reserve);
    p.dh_n = state(dh_n, run);
    p.dc_n = state(dc_n, run);
    p.dx = rows_of<Rows>(dx, packed);
    p.accumulate_dx = d > 0;
    if (states > 0) p.dh0 = mutable_state(out.hx[0], run);
    if (states > 1) p.dc0 = mutable_state(out.hx[1], run);
    const at::Tensor* dw = &out.weights[run * problem.weights_per_run];
    p.dw_ih = mutable_matrix(dw[0]);
    p.dw_hh = mutable_matrix(dw[1]);
    p.accumulate_dw = !sums.empty();
    if (problem.biases) p.db_ih = mutable_matrix(dw[2]), p.db_hh = mutable_matrix(dw[3]);
    if (problem.shape.projection) p.dw_hr = mutable_matrix(dw[problem.weights_per_run - 1]);
    return p;
  };
  const auto input_of = [&](int64_t layer) { return layer == 0 ? input : call.drop(hidden[layer - 1], layer - 1); };
  const auto gradient_of_input = [&](int64_t layer) {
    return below[layer] ? call.rows(problem.layer_input(layer)) : at::Tensor();
  };
  // One layer, or several at once: from dy of the last to dx of the first, if that is needed.
  const auto one = [&](int64_t layer, const at::Tensor& dx) {
    const at::Tensor x = input_of(layer);
    Directions<BackwardParams> runs;
    for (int64_t d = 0; d < problem.directions; d++) {
      runs.push_back(params(layer * problem.directions + d, x, dx));
      runs.back().dy = rows_of<ConstRows>(dy, packed, d * problem.shape.output());
    }
    device.backward(runs, input, problem.float32_precision);
  };
  const auto several = [&](int64_t first, int64_t count, const at::Tensor& dx) {
    auto stack = call.stack<BackwardParams>(first);
    std::vector<at::Tensor> x;  // kept until the work has been put on the stream
    for (int64_t layer = first; layer < first + count; layer++) {
      x.push_back(input_of(layer));
      stack.layers.push_back(params(layer, x.back(), layer == first ? dx : at::Tensor()));
    }
    stack.layers.back().dy = rows_of<ConstRows>(dy, packed);
    return device.backward_stack(stack, input, problem.float32_precision);
  };
  int64_t lowest = 0;  // of the layers at or below which something is wanted
  while (lowest < problem.layers && !below[lowest + 1]) lowest++;
  for (int64_t left = problem.layers; left > lowest;) {
    int64_t count = call.layers_at_once(left - lowest, true);
    at::Tensor dx = gradient_of_input(left - count);
    if (count > 1 && !several(left - count, count, dx)) count = 1, dx = gradient_of_input(left - 1);
    if (count == 1) one(left - 1, dx);
    left -= count;
    if (left > 0) dy = dx.defined() ? call.drop(dx, left - 1) : dx;
    if (left == 0 && wanted[0]) out.input = dx;
  }

  // Those of biases are small, and come as ever.
  for (size_t i = 0; i < sums.size(); i++)
    if (wanted[first_weight + i] && a.weights[i].dim() == 1) sums[i].add_(out.weights[i]);
  if (!sums.empty()) out.weights.clear();
  if (!out.input.defined()) out.input = call.nothing();
  for (auto* list : {&out.hx, &out.weights})
    for (at::Tensor& t : *list)
      if (!t.defined()) t = call.nothing();
  return out;
}

}  // namespace lstmfast
