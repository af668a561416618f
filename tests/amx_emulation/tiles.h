// AMX's tile registers and five of its instructions in plain C++, after the operation sections of Intel's Software
// Developer's Manual (volume 2: LDTILECFG, TILELOADD, TILESTORED, TILERELEASE, TDPBF16PS).
//
// What the processor answers with a fault ends the program here, with a line that says which rule was broken. Each
// thread has registers of its own, and they are gone after a release, as on the processor.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/macros.h"

namespace lstmfast::LF_ISA::amx_emulation {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;  // palette 1

struct State {
  bool configured = false;
  uint8_t rows[kTiles] = {};
  uint16_t row_bytes[kTiles] = {};
  alignas(64) uint8_t data[kTiles][kRows][kRowBytes] = {};
};
inline State& state() {
  static thread_local State s;
  return s;
}

inline void require(bool condition, const char* rule) {
  if (condition) return;
  std::fprintf(stderr, "emulated AMX: fault: %s\n", rule);
  std::abort();
}
inline void require_configured(int tile) {
  const State& s = state();
  require(s.configured, "no tile is configured");
  require(tile >= 0 && tile < kTiles && s.rows[tile] > 0, "a tile that the configuration leaves out");
}

inline void tilerelease() { state() = State{}; }

inline void ldtilecfg(const void* memory) {
  uint8_t b[64];
  std::memcpy(b, memory, 64);
  State fresh;
  if (b[0] == 0) {
    state() = fresh;
    return;
  }
  require(b[0] == 1, "the palette is unknown");
  require(b[1] == 0, "start_row is for instructions that were interrupted");  // legal, and never wanted here
  for (int i = 2; i < 16; i++) require(b[i] == 0, "a reserved byte of the configuration is set");
  for (int t = 0; t < 16; t++) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, b + 16 + 2 * t, 2);
    const uint8_t rows = b[48 + t];
    if (t >= kTiles) {
      require(rows == 0 && row_bytes == 0, "a tile beyond the eighth is configured");
      continue;
    }
    require(rows <= kRows && row_bytes <= kRowBytes, "a tile is larger than the palette's");
    require((rows == 0) == (row_bytes == 0), "a tile has rows without bytes, or bytes without rows");
    fresh.rows[t] = rows, fresh.row_bytes[t] = row_bytes;
  }
  fresh.configured = true;
  state() = fresh;
}

inline void tileloadd(int tile, const void* from, int64_t stride) {
  require_configured(tile);
  State& s = state();
  std::memset(s.data[tile], 0, sizeof(s.data[tile]));  // the rest of a row, and the rows that there are not
  for (int r = 0; r < s.rows[tile]; r++)
    std::memcpy(s.data[tile][r], static_cast<const char*>(from) + r * stride, s.row_bytes[tile]);
}

inline void tilestored(int tile, void* to, int64_t stride) {
  require_configured(tile);
  const State& s = state();
  for (int r = 0; r < s.rows[tile]; r++)
    std::memcpy(static_cast<char*>(to) + r * stride, s.data[tile][r], s.row_bytes[tile]);
}

// Subnormal numbers become zero, of the same sign: on the way in and on the way out, whatever MXCSR says.
inline float flushed(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float element(const uint8_t* row, int i) {
  uint32_t bits = 0;
  std::memcpy(reinterpret_cast<char*>(&bits) + 2, row + 2 * i, 2);
  float x;
  std::memcpy(&x, &bits, 4);
  return flushed(x);
}

// sum[m][n] += sum over k of a[m][k] . b[k][n], where an element of a and of b is a pair: first and second members are
// summed apart, each with fused multiplications, and meet at the end.
inline void tdpbf16ps(int sum, int a, int b) {
  require_configured(sum), require_configured(a), require_configured(b);
  require(sum != a && sum != b && a != b, "a tile is used twice");
  State& s = state();
  require(s.row_bytes[sum] % 4 == 0 && s.row_bytes[a] % 4 == 0 && s.row_bytes[b] % 4 == 0, "a row ends within a pair");
  require(s.row_bytes[a] / 4 == s.rows[b], "the pairs in a row of A are not the rows of B");
  require(s.row_bytes[sum] == s.row_bytes[b], "the columns of B are not those of the sum");
  require(s.rows[sum] == s.rows[a], "the rows of A are not those of the sum");
  constexpr int kColumns = kRowBytes / 4;
  const int columns = s.row_bytes[sum] / 4;
  for (int m = 0; m < s.rows[sum]; m++) {
    float part[2][kColumns] = {};
    for (int k = 0; k < s.row_bytes[a] / 4; k++)
      for (int p = 0; p < 2; p++) {
        const float x = element(s.data[a][m], 2 * k + p);
        for (int n = 0; n < columns; n++)
          part[p][n] = flushed(__builtin_fmaf(x, element(s.data[b][k], 2 * n + p), part[p][n]));
      }
    float row[kColumns];
    std::memcpy(row, s.data[sum][m], sizeof(row));
    for (int n = 0; n < columns; n++) row[n] = flushed(flushed(row[n]) + flushed(part[0][n] + part[1][n]));
    std::memcpy(s.data[sum][m], row, static_cast<size_t>(columns) * 4);
  }
}

}  // namespace lstmfast::LF_ISA::amx_emulation
