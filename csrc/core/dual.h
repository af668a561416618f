// Dual numbers: a value and its derivative along some direction. A cell that is run on them computes the tangents of
// what it returns, so that derivatives of a cell, and of its backward, need no equations of their own.
#pragma once
#include "math.h"

namespace lstmfast::LF_ISA {

template <class V>
struct Dual {
  V value, tangent;

  LF_INLINE friend Dual operator+(const Dual& a, const Dual& b) { return {a.value + b.value, a.tangent + b.tangent}; }
  LF_INLINE friend Dual operator-(const Dual& a, const Dual& b) { return {a.value - b.value, a.tangent - b.tangent}; }
  LF_INLINE friend Dual operator*(const Dual& a, const Dual& b) {
    return {a.value * b.value, a.tangent * b.value + a.value * b.tangent};
  }
  // A small whole number. A pack takes no int that is not a constant.
  LF_INLINE friend Dual operator+(const Dual& a, float b) { return {a.value + b, a.tangent}; }
};

// What derivatives of activations, in terms of their output, have in common.
template <class Math>
struct DualGradients : ActivationGradients {
  template <class V>
  LF_INLINE static Dual<V> relu_backward(const Dual<V>& y, const Dual<V>& dy) {
    return {Math::relu_backward(y.value, dy.value), Math::relu_backward(y.value, dy.tangent)};
  }

 protected:
  template <class V>
  LF_INLINE static Dual<V> sigmoid_of(V y, V tangent) {
    return {y, Math::sigmoid_grad(y) * tangent};
  }
  template <class V>
  LF_INLINE static Dual<V> tanh_of(V y, V tangent) {
    return {y, Math::tanh_grad(y) * tangent};
  }
  template <class V>
  LF_INLINE static Dual<V> relu_of(V y, V tangent) {
    return {y, Math::relu_backward(y, tangent)};
  }
};

// Activations of dual numbers by a policy of their values.
template <class Math>
struct DualMath : DualGradients<Math> {
  template <class V>
  LF_INLINE static Dual<V> sigmoid(const Dual<V>& x) {
    return DualMath::sigmoid_of(Math::sigmoid(x.value), x.tangent);
  }
  template <class V>
  LF_INLINE static Dual<V> tanh(const Dual<V>& x) {
    return DualMath::tanh_of(Math::tanh(x.value), x.tangent);
  }
  template <class V>
  LF_INLINE static Dual<V> relu(const Dual<V>& x) {
    return DualMath::relu_of(Math::relu(x.value), x.tangent);
  }
};

// The same where the activation's output is known, and stands in the argument in place of its value.
template <class Math>
struct KnownMath : DualGradients<Math> {
  template <class V>
  LF_INLINE static Dual<V> sigmoid(const Dual<V>& x) {
    return KnownMath::sigmoid_of(x.value, x.tangent);
  }
  template <class V>
  LF_INLINE static Dual<V> tanh(const Dual<V>& x) {
    return KnownMath::tanh_of(x.value, x.tangent);
  }
  template <class V>
  LF_INLINE static Dual<V> relu(const Dual<V>& x) {
    return KnownMath::relu_of(x.value, x.tangent);
  }
};

}  // namespace lstmfast::LF_ISA
