// Types that tensors are stored in, behind two functions: everything else is written for the compute type alone.
#pragma once
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

// Rows of n elements, `stride` apart in storage, side by side in the compute type C.
template <class C>
struct Storage {
  int64_t size;     // bytes of an element
  bool is_compute;  // rows of stride 1 can be used where they are
  void (*gather)(C* dst, const void* src, int64_t stride, int64_t n);
  void (*scatter)(void* dst, int64_t stride, const C* src, int64_t n);

  LF_INLINE const void* at(const void* p, int64_t i) const { return static_cast<const char*>(p) + i * size; }
  LF_INLINE void* at(void* p, int64_t i) const { return static_cast<char*>(p) + i * size; }
};

template <class C, class S>
struct StorageOf {
  static void gather(C* dst, const void* src, int64_t stride, int64_t n) {
    const S* from = static_cast<const S*>(src);
    if (stride == 1)
      for (int64_t i = 0; i < n; i++) convert(dst[i], from[i]);
    else
      for (int64_t i = 0; i < n; i++) convert(dst[i], from[i * stride]);
  }
  static void scatter(void* dst, int64_t stride, const C* src, int64_t n) {
    S* to = static_cast<S*>(dst);
    if (stride == 1)
      for (int64_t i = 0; i < n; i++) convert(to[i], src[i]);
    else
      for (int64_t i = 0; i < n; i++) convert(to[i * stride], src[i]);
  }
  static constexpr Storage<C> kStorage{sizeof(S), sizeof(S) == sizeof(C), gather, scatter};
};

}  // namespace lstmfast::LF_ISA
