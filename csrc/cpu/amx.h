// Whether this process may use AMX for bfloat16.
#pragma once
#include <cstdint>

namespace lstmfast::cpu {

// What cpuid and XCR0 say.
struct AmxFacts {
  uint32_t leaf7_edx = 0;         // features: leaf 7, subleaf 0
  uint32_t palette_leaf_eax = 0;  // leaf 0x1d, subleaf 0: the highest palette
  uint32_t palette1_ebx = 0;      // leaf 0x1d, subleaf 1: bytes of a row, number of registers
  uint32_t palette1_ecx = 0;      // the same: rows
  uint64_t xcr0 = 0;              // parts of a thread's state that the system saves
};
// The tile registers that the kernels are written for are there, and the system saves them.
bool offers_tiles(const AmxFacts& facts);

// The same for this machine; also asks the system for permission, which Linux wants once per process. The answer is
// kept.
bool amx_bf16_usable();

}  // namespace lstmfast::cpu
