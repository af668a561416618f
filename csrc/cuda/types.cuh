// Element types on the device: how they are stored, converted and computed in, and each type's activations.
#pragma once
#include "../core/cells.h"
#include "../core/params.h"
#include "device.cuh"

namespace lstmfast::cuda {

using portable::ActivationGradients;

// Half types are stored only; float holds each of their values exactly.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct ComputeTypeOf {
  using Type = float;
};
template <>
struct ComputeTypeOf<double> {
  using Type = double;
};
template <class T>
using ComputeType = typename ComputeTypeOf<T>::Type;

LF_DEVICE void convert(float& y, float x) { y = x; }
LF_DEVICE void convert(double& y, double x) { y = x; }
LF_DEVICE void convert(float& y, Float16 x) { y = dev::from_float16(x.bits); }
LF_DEVICE void convert(float& y, BFloat16 x) { y = dev::from_bfloat16(x.bits); }
LF_DEVICE void convert(Float16& y, float x) { y.bits = dev::to_float16(x); }
LF_DEVICE void convert(BFloat16& y, float x) { y.bits = dev::to_bfloat16(x); }
template <class To, class From>
LF_DEVICE To converted(From x) {
  To y;
  convert(y, x);
  return y;
}

// V elements that are loaded and stored as one, where everything is aligned to them.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};
template <int V, class T>
LF_DEVICE Pack<T, V> load_pack(const T* p) {
  dev::check_alignment<alignof(Pack<T, V>)>(p);
  return *reinterpret_cast<const Pack<T, V>*>(p);
}
template <int V, class T>
LF_DEVICE void store_pack(T* p, const Pack<T, V>& v) {
  dev::check_alignment<alignof(Pack<T, V>)>(p);
  *reinterpret_cast<Pack<T, V>*>(p) = v;
}
// The same in the compute type; zeros where there is no memory.
template <int V, class T>
LF_DEVICE Pack<ComputeType<T>, V> load_computed(const T* p) {
  Pack<ComputeType<T>, V> y{};
  if (!p) return y;
  const Pack<T, V> x = load_pack<V>(p);
#pragma unroll
  for (int i = 0; i < V; i++) convert(y.at[i], x.at[i]);
  return y;
}
template <int V, class T>
LF_DEVICE void store_computed(T* p, const Pack<ComputeType<T>, V>& x) {
  Pack<T, V> y;
#pragma unroll
  for (int i = 0; i < V; i++) convert(y.at[i], x.at[i]);
  store_pack(p, y);
}

// `rows` rows of so many bytes further on: 32 bits each, 64 together, which is one instruction.
template <class T>
LF_DEVICE T* rows_on(T* p, int rows, int row_bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<char*>(p) +
                              uint64_t{static_cast<uint32_t>(rows)} * static_cast<uint32_t>(row_bytes));
}
template <class T>
LF_DEVICE const T* rows_on(const T* p, int rows, int row_bytes) {
  return rows_on(const_cast<T*>(p), rows, row_bytes);
}

// Row n of a matrix of states; null if there is none.
template <class T>
LF_DEVICE T* row(const RowsOf<void>& rows, int64_t n) {
  return rows.data ? static_cast<T*>(rows.data) + n * rows.row_stride : nullptr;
}
template <class T>
LF_DEVICE const T* row(const RowsOf<const void>& rows, int64_t n) {
  return rows.data ? static_cast<const T*>(rows.data) + n * rows.row_stride : nullptr;
}

// ---- activations
constexpr float kLog2E = 1.44269504f;

// float32: exp to two ulps, the C library's tanh. What sigmoid divides by is 1 or more, or infinite: the special
// function's reciprocal, right to one ulp, needs no branch for other numbers, and what it takes for zero is below
// 1e-37.
struct FloatMath : ActivationGradients {
  static LF_DEVICE float sigmoid(float x) { return dev::reciprocal_approx(1 + expf(-x)); }
  static LF_DEVICE float tanh(float x) { return tanhf(x); }
};
// float16: absolute errors below a tenth of its unit at 1, at two special-function operations each.
struct Float16Math : ActivationGradients {
  static LF_DEVICE float sigmoid(float x) { return dev::reciprocal_approx(1 + dev::exp2_approx(-kLog2E * x)); }
  static LF_DEVICE float tanh(float x) { return 1 - 2 * dev::reciprocal_approx(1 + dev::exp2_approx(2 * kLog2E * x)); }
};
// bfloat16: one special-function operation each, right to 11 bits where the type has 8.
struct BFloat16Math : ActivationGradients {
  static LF_DEVICE float sigmoid(float x) { return 0.5f * dev::tanh_approx(0.5f * x) + 0.5f; }
  static LF_DEVICE float tanh(float x) { return dev::tanh_approx(x); }
};

template <class T>
struct MathOf;
template <>
struct MathOf<float> {
  using Type = FloatMath;
};
template <>
struct MathOf<double> {
  using Type = portable::ExactMath;
};
template <>
struct MathOf<Float16> {
  using Type = Float16Math;
};
template <>
struct MathOf<BFloat16> {
  using Type = BFloat16Math;
};
template <class T>
using MathFor = typename MathOf<T>::Type;

// Calls f with a value of the cell of this index.
template <class F, class... Cells>
bool visit_cell(int index, portable::TypeList<Cells...>, const F& f) {
  int i = 0;
  return ((i++ == index && (f(Cells{}), true)) || ...);
}

}  // namespace lstmfast::cuda
