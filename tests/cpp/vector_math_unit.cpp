// The activations of one ISA level behind plain functions; compiled once per level, with the flags of the level's unit.
#include "vector_math_unit.h"

#include "cpu/vector_math.h"

namespace lstmfast::LF_ISA {
namespace {

template <class C, class F>
void map(const C* x, C* y, int64_t n, const F& f) {
  for (int64_t i = 0; i + kLanes<C> <= n; i += kLanes<C>) store(y + i, f(load(x + i)));
}
template <class C>
void tanh(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return VectorMath<C>::tanh(v); });
}
template <class C>
void sigmoid(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return VectorMath<C>::sigmoid(v); });
}

}  // namespace

extern const MathUnit kMathUnit{{tanh<float>, sigmoid<float>}, {tanh<double>, sigmoid<double>}};

}  // namespace lstmfast::LF_ISA
