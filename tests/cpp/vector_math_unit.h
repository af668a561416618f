// What each compiled copy of vector_math_unit.cpp offers. n is a multiple of 16.
#pragma once
#include <cstdint>

template <class C>
struct Activations {
  void (*tanh)(const C* x, C* y, int64_t n);
  void (*sigmoid)(const C* x, C* y, int64_t n);
};

struct MathUnit {
  Activations<float> of_float;
  Activations<double> of_double;
};
