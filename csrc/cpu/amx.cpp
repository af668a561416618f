#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lstmfast::cpu {

bool offers_tiles(const AmxFacts& f) {
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  constexpr uint64_t kTileConfig = 1u << 17, kTileData = 1u << 18;
  const bool has_instructions = (f.leaf7_edx & kAmxBf16) && (f.leaf7_edx & kAmxTile);
  const bool is_saved = (f.xcr0 & kTileConfig) && (f.xcr0 & kTileData);
  const uint32_t row_bytes = f.palette1_ebx & 0xffff, registers = f.palette1_ebx >> 16, rows = f.palette1_ecx & 0xffff;
  return has_instructions && is_saved && f.palette_leaf_eax >= 1 && row_bytes >= 64 && registers >= 8 && rows >= 16;
}

#if defined(__x86_64__) && defined(__linux__)

namespace {

AmxFacts facts() {
  AmxFacts f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  constexpr uint32_t kOsxsave = 1u << 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return f;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  f.xcr0 = static_cast<uint64_t>(high) << 32 | low;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) f.leaf7_edx = d;
  if (__get_cpuid_count(0x1d, 0, &a, &b, &c, &d)) f.palette_leaf_eax = a;
  if (__get_cpuid_count(0x1d, 1, &a, &b, &c, &d)) f.palette1_ebx = b, f.palette1_ecx = c;
  return f;
}

// The state is large, so Linux (since 5.16) gives it only to who asks. It refuses where a thread has an alternative
// signal stack that could not take it.
bool is_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool amx_bf16_usable() {
  static const bool usable = offers_tiles(facts()) && is_permitted();
  return usable;
}

#else

bool amx_bf16_usable() { return false; }

#endif

}  // namespace lstmfast::cpu
