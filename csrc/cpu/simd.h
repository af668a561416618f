// Packs of lanes in GCC's vector extensions: one source for SSE2, AVX2, AVX-512 and NEON, whose width the unit sets.
#pragma once
#include <cstdint>
#include <cstring>

#include "../core/macros.h"

#ifndef LF_VECTOR_BYTES
#error "define LF_VECTOR_BYTES before including simd.h"
#endif

namespace lstmfast::LF_ISA {

template <class C>
struct Pack;
template <>
struct Pack<float> {
  typedef float V __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(LF_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Pack<double> {
  typedef double V __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(LF_VECTOR_BYTES), aligned(8), may_alias));
};

template <class C>
using Vec = typename Pack<C>::V;
template <class C>
using IntVec = typename Pack<C>::I;
template <class C>
constexpr int kLanes = LF_VECTOR_BYTES / sizeof(C);

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// v in a register, whatever comes: a load that two or three products share would else be folded into each of them, and
// there are two loads to a cycle.
template <class V>
LF_INLINE V in_register(V v) {
#if defined(__x86_64__)
  __asm__("" : "+v"(v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(v));
#endif
  return v;
}
// The same for one of `count` packs that products for `sums` accumulators share, if there are registers left for them.
template <int users, int sums, int count, class V>
LF_INLINE V shared(V v) {
  if constexpr (users > 1 && sums + count < kRegisters) return in_register(v);
  return v;
}

template <class C>
LF_INLINE Vec<C> load(const C* p) {
  return *reinterpret_cast<const typename Pack<C>::Unaligned*>(p);
}
template <class C>
LF_INLINE void store(C* p, Vec<C> v) {
  *reinterpret_cast<typename Pack<C>::Unaligned*>(p) = v;
}
template <class C>
LF_INLINE Vec<C> splat(C x) {
  return x - Vec<C>{};
}

// The first n lanes (all of them if n >= kLanes); the others are zero, and their memory is not touched.
template <class C>
LF_INLINE Vec<C> load_first(const C* p, int64_t n) {
  if (n >= kLanes<C>) return load(p);
  Vec<C> v{};
  if (n > 0) std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(C));
  return v;
}
template <class C>
LF_INLINE void store_first(C* p, Vec<C> v, int64_t n) {
  if (n >= kLanes<C>)
    store(p, v);
  else if (n > 0)
    std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(C));
}
// Lanes from n on replaced by zero, whatever they held (a NaN too).
template <class C>
LF_INLINE Vec<C> keep_first(Vec<C> v, int64_t n) {
  if (n >= kLanes<C>) return v;
  for (int i = 0; i < kLanes<C>; i++)
    if (i >= n) v[i] = 0;
  return v;
}

// Lane permutations of two packs, spelled as index vectors that the compiler turns into the unit's shuffles.
enum class Pairing { kLow, kHigh, kEven, kOdd };
template <class C, Pairing kind>
LF_INLINE Vec<C> pair(Vec<C> a, Vec<C> b) {
  constexpr int n = kLanes<C>;
  IntVec<C> from{};
  for (int i = 0; i < n; i++) {
    if (kind == Pairing::kLow) from[i] = i / 2 + (i % 2) * n;
    if (kind == Pairing::kHigh) from[i] = n / 2 + i / 2 + (i % 2) * n;
    if (kind == Pairing::kEven) from[i] = 2 * i;
    if (kind == Pairing::kOdd) from[i] = 2 * i + 1;
  }
#if defined(__clang__)
  Vec<C> r;
  for (int i = 0; i < n; i++) r[i] = from[i] < n ? a[from[i]] : b[from[i] - n];
  return r;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// A square of lanes transposed. Interleaving row i with row i + n/2 rotates the bits of (row, column) by one; after
// log2(n) rounds rows and columns have changed places.
template <class C>
LF_INLINE void transpose(Vec<C> (&v)[kLanes<C>]) {
  constexpr int n = kLanes<C>;
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    Vec<C> w[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; i++) {
      w[2 * i] = pair<C, Pairing::kLow>(v[i], v[i + n / 2]);
      w[2 * i + 1] = pair<C, Pairing::kHigh>(v[i], v[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) v[i] = w[i];
  }
}

// Lane i of the result is the sum of v[i]'s lanes.
template <class C>
LF_INLINE Vec<C> sums_of(Vec<C> (&v)[kLanes<C>]) {
  constexpr int n = kLanes<C>;
#pragma GCC unroll 4
  for (int left = n / 2; left > 0; left /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < left; i++)
      v[i] = pair<C, Pairing::kEven>(v[2 * i], v[2 * i + 1]) + pair<C, Pairing::kOdd>(v[2 * i], v[2 * i + 1]);
  return v[0];
}

// std::min and std::max are templates of their own, outside this unit's namespace (see macros.h).
LF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
LF_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
LF_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace lstmfast::LF_ISA
