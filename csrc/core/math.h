// Math policies: what a cell calls for its activations and their derivatives.
//
// A policy is a struct of static function templates over V, a scalar or a pack of lanes. Derivatives are expressed in
// the activation's own output, since that is what is saved. The vector polynomials are in csrc/cpu/vector_math.h.
#pragma once
#include <math.h>

#include "macros.h"

namespace lstmfast::LF_ISA {

// Derivatives shared by every policy that computes the real activations.
struct ActivationGradients {
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V sigmoid_grad(V y) {
    return y * (V{} + 1 - y);
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V tanh_grad(V y) {
    return V{} + 1 - y * y;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V relu(V x) {
    return x < V{} ? V{} : x;  // a NaN compares false and goes through, as in torch
  }
  // A choice and no product: where relu is shut nothing comes through, not even a NaN; and a NaN counts as open.
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V relu_backward(V y, V dy) {
    return y <= V{} ? V{} : dy;
  }
};

// The C library's functions, one value at a time: float64, and the yardstick for everything else.
struct ExactMath : ActivationGradients {
  LF_HOST_DEVICE LF_INLINE static double sigmoid(double x) {
    const double z = ::exp(-::fabs(x));  // never overflows, and keeps its relative accuracy for very negative x
    return (x < 0 ? z : 1.0) / (1.0 + z);
  }
  LF_HOST_DEVICE LF_INLINE static double tanh(double x) { return ::tanh(x); }
};

// Every activation replaced by the identity: with small integers as data the results are exact in any order of
// summation, so that a wrong index, stride or layout shows as a wrong integer instead of hiding under saturation.
struct LinearMath {
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V sigmoid(V x) {
    return x;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V tanh(V x) {
    return x;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V relu(V x) {
    return x;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V sigmoid_grad(V) {
    return V{} + 1;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V tanh_grad(V) {
    return V{} + 1;
  }
  template <class V>
  LF_HOST_DEVICE LF_INLINE static V relu_backward(V, V dy) {
    return dy;
  }
};

}  // namespace lstmfast::LF_ISA
