// Math policies over packs of lanes, one algorithm for float32 and float64.
//
// Both activations are built on exp of a number that is not positive, so nothing overflows and no range needs a guard:
//   exp(x) = 2^n (1 + p),   n = round(x / ln 2),   p = expm1(r),   r = x - n ln 2,   |r| <= ln 2 / 2
// (Cody & Waite's reduction). p is kept apart from the 1, because near zero it is all that tanh consists of.
// Errors, checked by tests/cpp/test_vector_math.cpp over every float: below 3 units in the last place.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "../core/math.h"
#include "simd.h"

namespace lstmfast::LF_ISA {

template <class C>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -104;     // exp rounds to zero from here on
  static constexpr float kShift = 12582912;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n times the first is exact
  static constexpr int kBias = 127, kMantissa = 23;
  // expm1(r) = r + r^2 (c[0] + c[1] r + ...): the Cephes library's minimax polynomial (S. Moshier).
  static constexpr float kTail[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                                    8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -746;
  static constexpr double kShift = 6755399441055744;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kBias = 1023, kMantissa = 52;
  // Taylor's, 1 / k! from k = 2: for |r| < 0.35 the first term left out is below 2^-56 of r.
  static constexpr double kTail[] = {1. / 2,       1. / 6,        1. / 24,        1. / 120,
                                     1. / 720,     1. / 5040,     1. / 40320,     1. / 362880,
                                     1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
};

template <class C>
struct VectorMath : ActivationGradients {
  using V = Vec<C>;
  using I = IntVec<C>;

  LF_INLINE static V sigmoid(V x) {
    const Exponential e = exponential(minus_magnitude(x));
    const V z = times_power_of_two(1 + e.p, e);
    return quotient(x < V{} ? z : splat(C{1}), 1 + z);
  }

  // With t = 1 - exp(-2|x|): tanh |x| = t / (2 - t), accurate for small x as well.
  LF_INLINE static V tanh(V x) {
    const Exponential e = exponential(minus_magnitude(x) * 2);
    const V s = times_power_of_two(splat(C{1}), e);
    const V t = (1 - s) - s * e.p;
    return with_sign_of(quotient(t, 2 - t), x);
  }

 private:
  using K = ExpConstants<C>;
  struct Exponential {
    V p;        // expm1 of the remainder
    V n;        // the power of two,
    V shifted;  // and n in the low bits
  };

  // x <= 0, or NaN, which goes through.
  LF_INLINE static Exponential exponential(V x) {
    x = at_least(splat(K::kLowest), x);
    Exponential e;
    e.shifted = x * C(1.44269504088896340736) + K::kShift;
    e.n = e.shifted - K::kShift;
    const V r = (x - e.n * K::kLn2High) - e.n * K::kLn2Low;
    constexpr int kTerms = sizeof(K::kTail) / sizeof(C);
    V tail = splat(K::kTail[kTerms - 1]);
#pragma GCC unroll 16
    for (int k = kTerms - 2; k >= 0; k--) tail = tail * r + K::kTail[k];
    e.p = r * r * tail + r;
    return e;
  }

#if defined(__AVX512F__)
  LF_INLINE static V times_power_of_two(V x, const Exponential& e) { return scale(x, e.n); }
  // 0 <= a, 1 <= b <= 2. The divider is busy for 16 cycles per pack; an estimate of 14 bits, Newton's step (two for
  // float64) and a correction by the remainder come out as exact.
  LF_INLINE static V quotient(V a, V b) {
    V y = estimate(b);
#pragma GCC unroll 2
    for (int bits = 14; bits < K::kMantissa; bits *= 2) y += y * (1 - b * y);
    const V q = a * y;
    return q + y * (a - b * q);
  }

  // The forms with a mask of all lanes: the others start from an undefined register, which gcc 12 warns of.
  static constexpr __mmask16 kAll16 = 0xffff;
  static constexpr __mmask8 kAll8 = 0xff;
  LF_INLINE static Vec<float> scale(Vec<float> x, Vec<float> n) { return _mm512_maskz_scalef_ps(kAll16, x, n); }
  LF_INLINE static Vec<double> scale(Vec<double> x, Vec<double> n) { return _mm512_maskz_scalef_pd(kAll8, x, n); }
  LF_INLINE static Vec<float> estimate(Vec<float> x) { return _mm512_maskz_rcp14_ps(kAll16, x); }
  LF_INLINE static Vec<double> estimate(Vec<double> x) { return _mm512_maskz_rcp14_pd(kAll8, x); }
  // The larger; x if that is a NaN.
  LF_INLINE static Vec<float> at_least(Vec<float> low, Vec<float> x) { return _mm512_maskz_max_ps(kAll16, low, x); }
  LF_INLINE static Vec<double> at_least(Vec<double> low, Vec<double> x) { return _mm512_maskz_max_pd(kAll8, low, x); }
#else
  // In two factors: n goes below what one exponent field holds.
  LF_INLINE static V times_power_of_two(V x, const Exponential& e) {
    const I n = reinterpret_cast<I>(e.shifted) - reinterpret_cast<I>(splat(K::kShift)), half = n >> 1;
    return x * power_of_two(half) * power_of_two(n - half);
  }
  LF_INLINE static V power_of_two(I n) { return reinterpret_cast<V>((n + K::kBias) << K::kMantissa); }
  LF_INLINE static V quotient(V a, V b) { return a / b; }
  LF_INLINE static V at_least(V low, V x) { return x < low ? low : x; }  // x if that is a NaN
#endif

  LF_INLINE static V minus_magnitude(V x) { return reinterpret_cast<V>(reinterpret_cast<I>(x) | sign_bits()); }
  LF_INLINE static V with_sign_of(V x, V sign) {
    return reinterpret_cast<V>(reinterpret_cast<I>(x) | (reinterpret_cast<I>(sign) & sign_bits()));
  }
  LF_INLINE static I sign_bits() { return reinterpret_cast<I>(splat(C{-0.})); }
};

}  // namespace lstmfast::LF_ISA
