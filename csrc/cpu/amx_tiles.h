// The tile instructions of AMX, and nothing else of it: eight registers of up to 16 rows of 64 bytes, loaded and stored
// by rows a stride apart, and a product of bfloat16 pairs that adds to float32.
//
// With LF_EMULATE_TILES the instructions are plain C++ (tests/amx_emulation), for machines that lack them. Numbers of
// registers are template arguments, as they are part of an instruction.
#pragma once
#include <cstdint>

#include "../core/macros.h"

#if defined(LF_EMULATE_TILES)
#include "amx_emulation/tiles.h"
#else
#include <immintrin.h>
#endif

namespace lstmfast::LF_ISA::amx {

// The operand of LDTILECFG.
struct alignas(64) Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

#if defined(LF_EMULATE_TILES)

LF_INLINE void load_config(const Config& c) { amx_emulation::ldtilecfg(&c); }
LF_INLINE void release() { amx_emulation::tilerelease(); }
template <int tile>
LF_INLINE void load(const void* from, int64_t stride) {
  amx_emulation::tileloadd(tile, from, stride);
}
template <int tile>
LF_INLINE void store(void* to, int64_t stride) {
  amx_emulation::tilestored(tile, to, stride);
}
template <int sum, int a, int b>
LF_INLINE void multiply_add() {
  amx_emulation::tdpbf16ps(sum, a, b);
}

#else

// The compiler's intrinsics do not say that they read memory: what was stored before must not be moved behind them.
LF_INLINE void before_reading(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

LF_INLINE void load_config(const Config& c) {
  before_reading(&c);
  _tile_loadconfig(&c);
}
LF_INLINE void release() { _tile_release(); }

// A macro's argument becomes a part of the instruction's text, so a template argument must be spelled out for it.
#define LF_EACH_TILE(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
template <int tile>
LF_INLINE void load(const void* from, int64_t stride) {
  static_assert(tile >= 0 && tile < 8);
  before_reading(from);
#define LF_LOAD(n) \
  if constexpr (tile == n) _tile_loadd(n, from, stride);
  LF_EACH_TILE(LF_LOAD)
#undef LF_LOAD
}
template <int tile>
LF_INLINE void store(void* to, int64_t stride) {
  static_assert(tile >= 0 && tile < 8);
#define LF_STORE(n) \
  if constexpr (tile == n) _tile_stored(n, to, stride);
  LF_EACH_TILE(LF_STORE)
#undef LF_STORE
}
#undef LF_EACH_TILE

// Sums are tiles 0 to 3, rows 4 and 5, weights 6 and 7.
template <int sum, int a, int b>
LF_INLINE void multiply_add() {
  static_assert(sum >= 0 && sum < 4 && (a == 4 || a == 5) && (b == 6 || b == 7));
#define LF_DOT(s, x, y) \
  if constexpr (sum == s && a == x && b == y) _tile_dpbf16ps(s, x, y);
#define LF_DOTS(s) LF_DOT(s, 4, 6) LF_DOT(s, 4, 7) LF_DOT(s, 5, 6) LF_DOT(s, 5, 7)
  LF_DOTS(0) LF_DOTS(1) LF_DOTS(2) LF_DOTS(3)
#undef LF_DOTS
#undef LF_DOT
}

#endif

}  // namespace lstmfast::LF_ISA::amx
