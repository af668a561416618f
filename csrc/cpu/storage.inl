// Types that tensors are stored in, behind two functions: everything else is written for the compute type alone, but
// for weights that are read where they lie.
#pragma once
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "simd.h"

namespace lstmfast::LF_ISA {

// Half types are not computed in; float32 holds each of their values exactly.
struct BFloat16 {
  uint16_t bits;
};
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
using Float16 = __fp16;  // the older name, all that g++ had for Arm: storage and conversion, which is all we want
#else
using Float16 = _Float16;
#endif

LF_INLINE void convert(float& y, float x) { y = x; }
LF_INLINE void convert(double& y, double x) { y = x; }
LF_INLINE void convert(float& y, Float16 x) { y = static_cast<float>(x); }
LF_INLINE void convert(Float16& y, float x) { y = static_cast<Float16>(x); }
LF_INLINE void convert(float& y, BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  std::memcpy(&y, &bits, 4);
}
LF_INLINE void convert(BFloat16& y, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  // Round to nearest, ties to even; a NaN stays one, though its payload may have been in the low half only.
  y.bits = x != x ? uint16_t{0x7fc0} : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A pack of stored numbers in the type that is computed in, and back. What the compiler makes of a loop over convert()
// is good enough for bfloat16; for float16 it converts one number at a time.
template <class C>
LF_INLINE Vec<C> load_stored(const C* p) {
  return load(p);
}
LF_INLINE Vec<float> load_stored(const BFloat16* p) {
  constexpr int n = kLanes<float>;
  typedef uint16_t Bits __attribute__((vector_size(n * sizeof(uint16_t))));
  typedef uint32_t Wide __attribute__((vector_size(n * sizeof(uint32_t))));
  Bits bits;
  std::memcpy(&bits, p, sizeof bits);
  return reinterpret_cast<Vec<float>>(__builtin_convertvector(bits, Wide) << 16);
}
LF_INLINE Vec<float> load_stored(const Float16* p) {
#if defined(__AVX512F__) && LF_VECTOR_BYTES == 64
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && LF_VECTOR_BYTES == 32
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec<float> v{};  // without: a warning of g++ 12 for Arm
  for (int i = 0; i < kLanes<float>; i++) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}
LF_INLINE void store_stored(Float16* p, Vec<float> v) {
#if defined(__AVX512F__) && LF_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && LF_VECTOR_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; i++) p[i] = static_cast<Float16>(v[i]);
#endif
}

template <class C>
LF_INLINE void store_stored(C* p, Vec<C> v) {
  store(p, v);
}
LF_INLINE void store_stored(BFloat16* p, Vec<float> v) {
  for (int i = 0; i < kLanes<float>; i++) convert(p[i], v[i]);
}
// The first n numbers of a pack, as load_first() and store_first().
template <class C, class S>
LF_INLINE Vec<C> load_first_stored(const S* p, int64_t n) {
  if (n >= kLanes<C>) return load_stored(p);
  Vec<C> v{};
  for (int64_t i = 0; i < n; i++) {
    C number;
    convert(number, p[i]);
    v[i] = number;
  }
  return v;
}
template <class C, class S>
LF_INLINE void store_first_stored(S* p, Vec<C> v, int64_t n) {
  if (n >= kLanes<C>) return store_stored(p, v);
  for (int64_t i = 0; i < n; i++) convert(p[i], v[i]);
}

// Rows side by side in both.
template <class C, class S>
LF_INLINE void copy_row(C* to, const S* from, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<S, Float16>)
    for (; i + kLanes<C> <= n; i += kLanes<C>) store(to + i, load_stored(from + i));
  if constexpr (std::is_same_v<C, Float16>)
    for (; i + kLanes<S> <= n; i += kLanes<S>) store_stored(to + i, load(from + i));
  for (; i < n; i++) convert(to[i], from[i]);
}

enum class Stored { kComputed, kBFloat16, kFloat16 };

// Calls f with a number of the type that is stored.
template <class C, class F>
LF_INLINE void with_stored(Stored as, const F& f) {
  if constexpr (std::is_same_v<C, float>) {
    if (as == Stored::kBFloat16) return f(BFloat16{});
    if (as == Stored::kFloat16) return f(Float16{});
  }
  f(C{});
}

// Rows of n elements, `stride` apart in storage, side by side in the compute type C.
template <class C>
struct Storage {
  int64_t size;  // bytes of an element
  Stored as;
  void (*gather)(C* dst, const void* src, int64_t stride, int64_t n);
  void (*scatter)(void* dst, int64_t stride, const C* src, int64_t n);

  // Rows of stride 1 can be used where they are.
  LF_INLINE bool is_compute() const { return as == Stored::kComputed; }
  LF_INLINE const void* at(const void* p, int64_t i) const { return static_cast<const char*>(p) + i * size; }
  LF_INLINE void* at(void* p, int64_t i) const { return static_cast<char*>(p) + i * size; }
};

template <class C, class S>
struct StorageOf {
  static void gather(C* dst, const void* src, int64_t stride, int64_t n) {
    const S* from = static_cast<const S*>(src);
    if (stride == 1)
      copy_row(dst, from, n);
    else
      for (int64_t i = 0; i < n; i++) convert(dst[i], from[i * stride]);
  }
  static void scatter(void* dst, int64_t stride, const C* src, int64_t n) {
    S* to = static_cast<S*>(dst);
    if (stride == 1)
      copy_row(to, src, n);
    else
      for (int64_t i = 0; i < n; i++) convert(to[i * stride], src[i]);
  }
  static constexpr Stored kStored = std::is_same_v<S, C>          ? Stored::kComputed
                                    : std::is_same_v<S, BFloat16> ? Stored::kBFloat16
                                                                  : Stored::kFloat16;
  static constexpr Storage<C> kStorage{sizeof(S), kStored, gather, scatter};
};

}  // namespace lstmfast::LF_ISA
