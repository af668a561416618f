// The gate arithmetic, written once for every driver (CPU lanes, CUDA threads, tests).
//
// A cell sees registers only: arrays of V, which is a scalar or a pack of lanes. Where the values come from, in which
// type they are stored and who computes them is the driver's business, and so is the gradient of the recurrent
// product: forward() is handed the finished pre-activations, backward() returns their gradient.
//
//   kGates    pre-activations per hidden unit, in PyTorch's order
//   kStates   state[0] is h; the others are private to the cell (c), and carried from step to step
//   kSaved    values kept per hidden unit for backward; at most kGates, because they overwrite the pre-activations
//
//   forward (pre, state_in, state_out, saved)
//     in two halves: activate(pre, saved), where saved[g] is the activation of pre[g], and combine(saved, state_in,
//     state_out); derivatives of what a call has saved start from the second (csrc/cpu/tangents.inl)
//   backward(saved, state_in, state_out, dstate_out, dpre, dstate_in)
//     state_in[0] and state_out[0] are not read in backward; dstate_in[0] holds only what reaches h other than
//     through pre, which is nothing for the cells below, so drivers do not ask for it.
//
// To add a cell: write its struct, append it to AllCells, give it a step in lstmfast/reference.py and a module in
// lstmfast/modules.py. The ops and every driver's instantiations follow the list; see CONTRIBUTING.md for the tests.
#pragma once
#include "macros.h"
#include "math.h"

namespace lstmfast::LF_ISA {

// Long short-term memory: Hochreiter & Schmidhuber (1997) with the forget gate of Gers, Schmidhuber & Cummins (2000).
struct LstmCell {
  static constexpr const char* kName = "LSTM";
  static constexpr const char* kLinearName = "LSTM_LINEAR";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4;

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void activate(const V (&pre)[4], V (&saved)[4]) {
    saved[0] = Math::sigmoid(pre[0]);
    saved[1] = Math::sigmoid(pre[1]);
    saved[2] = Math::tanh(pre[2]);
    saved[3] = Math::sigmoid(pre[3]);
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void combine(const V (&saved)[4], const V (&state_in)[2], V (&state_out)[2]) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V c = f * state_in[1] + i * g;
    state_out[0] = o * Math::tanh(c);
    state_out[1] = c;
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void forward(const V (&pre)[4], const V (&state_in)[2], V (&state_out)[2],
                                               V (&saved)[4]) {
    activate<Math>(pre, saved);
    combine<Math>(saved, state_in, state_out);
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void backward(const V (&saved)[4], const V (&state_in)[2], const V (&state_out)[2],
                                                const V (&dstate_out)[2], V (&dpre)[4], V (&dstate_in)[2]) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V t = Math::tanh(state_out[1]);
    const V dh = dstate_out[0];
    const V dc = dstate_out[1] + dh * o * Math::tanh_grad(t);
    dpre[0] = dc * g * Math::sigmoid_grad(i);
    dpre[1] = dc * state_in[1] * Math::sigmoid_grad(f);
    dpre[2] = dc * i * Math::tanh_grad(g);
    dpre[3] = dh * t * Math::sigmoid_grad(o);
    dstate_in[1] = dc * f;
  }
};

struct Tanh {
  static constexpr const char* kName = "RNN_TANH";
  static constexpr const char* kLinearName = "RNN_LINEAR";
  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static V value(V x) {
    return Math::tanh(x);
  }
  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static V backward(V y, V dy) {
    return dy * Math::tanh_grad(y);
  }
};

struct Relu {
  static constexpr const char* kName = "RNN_RELU";
  static constexpr const char* kLinearName = "RNN_LINEAR";
  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static V value(V x) {
    return Math::relu(x);
  }
  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static V backward(V y, V dy) {
    return Math::relu_backward(y, dy);
  }
};

// The simple recurrent network of Elman (1990).
template <class Activation>
struct RnnCell {
  static constexpr const char* kName = Activation::kName;
  static constexpr const char* kLinearName = Activation::kLinearName;
  static constexpr int kGates = 1, kStates = 1, kSaved = 1;

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void activate(const V (&pre)[1], V (&saved)[1]) {
    saved[0] = Activation::template value<Math, V>(pre[0]);
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void combine(const V (&saved)[1], const V (&)[1], V (&state_out)[1]) {
    state_out[0] = saved[0];
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void forward(const V (&pre)[1], const V (&state_in)[1], V (&state_out)[1],
                                               V (&saved)[1]) {
    activate<Math>(pre, saved);
    combine<Math>(saved, state_in, state_out);
  }

  template <class Math, class V>
  LF_HOST_DEVICE LF_INLINE static void backward(const V (&saved)[1], const V (&)[1], const V (&)[1],
                                                const V (&dstate_out)[1], V (&dpre)[1], V (&)[1]) {
    dpre[0] = Activation::template backward<Math, V>(saved[0], dstate_out[0]);
  }
};

// A cell with its activations taken out, for the tests that check layouts exactly.
template <class Cell>
struct Linear : Cell {
  static constexpr const char* kName = Cell::kLinearName;

  template <class, class... Args>
  LF_HOST_DEVICE LF_INLINE static void activate(Args&... args) {
    Cell::template activate<LinearMath>(args...);
  }
  template <class, class... Args>
  LF_HOST_DEVICE LF_INLINE static void combine(Args&... args) {
    Cell::template combine<LinearMath>(args...);
  }
  template <class, class... Args>
  LF_HOST_DEVICE LF_INLINE static void forward(Args&... args) {
    Cell::template forward<LinearMath>(args...);
  }
  template <class, class... Args>
  LF_HOST_DEVICE LF_INLINE static void backward(Args&... args) {
    Cell::template backward<LinearMath>(args...);
  }
};

template <class... Cells>
struct TypeList {
  static constexpr int kSize = sizeof...(Cells);
};

using AllCells = TypeList<LstmCell, RnnCell<Tanh>, RnnCell<Relu>, Linear<LstmCell>, Linear<RnnCell<Tanh>>>;

}  // namespace lstmfast::LF_ISA
