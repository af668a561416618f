// Math policies over packs of lanes: polynomials in float32, the C library's functions lane by lane in float64.
//
// Both activations are built on exp of a number that is not positive, so nothing overflows and no range needs a guard.
// The polynomials are the classic ones of the Cephes library (S. Moshier), after Cody and Waite's range reduction.
#pragma once
#include "../core/math.h"
#include "simd.h"

namespace lstmfast::LF_ISA {

struct FloatVectorMath : ActivationGradients {
  using V = Vec<float>;
  using I = IntVec<float>;

  // exp(x) for x <= 0, to about 1 ulp, down to the smallest subnormal.
  LF_INLINE static V exp_nonpositive(V x) {
    x = x < -104.f ? splat(-104.f) : x;  // exp(-104) rounds to zero; a NaN compares false and goes through
    const V shift = splat(12582912.f);   // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    const V shifted = x * 1.44269504f + shift;
    const V n = shifted - shift;
    const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first exact in n * part
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    // 2^n in two factors: n reaches -150, beyond what one exponent field holds.
    const I k = reinterpret_cast<I>(shifted) - reinterpret_cast<I>(shift);
    const I half = k >> 1;
    return p * power_of_two(half) * power_of_two(k - half);
  }

  LF_INLINE static V sigmoid(V x) {
    const V z = exp_nonpositive(-magnitude(x));
    return (x < V{} ? z : V{} + 1.f) / (1.f + z);
  }

  LF_INLINE static V tanh(V x) {
    const V a = magnitude(x);
    const V e = exp_nonpositive(a * -2.f);
    const V large = (1.f - e) / (1.f + e);
    // Near zero that difference loses the relative accuracy that a product of many steps needs.
    const V s = x * x;
    V p = s * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    const V small = a + a * (s * p);
    return with_sign_of(a < 0.625f ? small : large, x);
  }

 private:
  static constexpr int32_t kSign = INT32_MIN;
  LF_INLINE static V magnitude(V x) { return reinterpret_cast<V>(reinterpret_cast<I>(x) & ~kSign); }
  LF_INLINE static V with_sign_of(V x, V sign) {
    return reinterpret_cast<V>(reinterpret_cast<I>(x) | (reinterpret_cast<I>(sign) & kSign));
  }
  LF_INLINE static V power_of_two(I n) { return reinterpret_cast<V>((n + 127) << 23); }
};

struct DoubleVectorMath : ActivationGradients {
  using V = Vec<double>;
  LF_INLINE static V sigmoid(V x) {
    V y;
    for (int i = 0; i < kLanes<double>; i++) y[i] = ExactMath::sigmoid(x[i]);
    return y;
  }
  LF_INLINE static V tanh(V x) {
    V y;
    for (int i = 0; i < kLanes<double>; i++) y[i] = ExactMath::tanh(x[i]);
    return y;
  }
};

template <class C>
struct VectorMathOf;
template <>
struct VectorMathOf<float> {
  using type = FloatVectorMath;
};
template <>
struct VectorMathOf<double> {
  using type = DoubleVectorMath;
};
template <class C>
using VectorMath = typename VectorMathOf<C>::type;

}  // namespace lstmfast::LF_ISA
