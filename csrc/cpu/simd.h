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

// std::min is a template of its own, outside this unit's namespace (see macros.h).
LF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
LF_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace lstmfast::LF_ISA
