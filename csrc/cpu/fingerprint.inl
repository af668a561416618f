// 64 bits that stand for the content of a weight matrix: equal content, equal bits; anything else, other bits but for
// one chance in 2^64. Read at the speed of memory, which is a small part of what packing costs.
#pragma once
#include <atomic>

#include "kernels.h"
#include "simd.h"
#include "team.h"

namespace lstmfast::LF_ISA {

// A round is xor, multiplication, xor-shift: the shift brings the high bits back down, without which a change of sign
// in an even number of weights would cancel out. A finished lane is 32 bits of a state of eight packs.
class Fingerprint {
  typedef uint32_t U __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef uint32_t UnalignedU __attribute__((vector_size(LF_VECTOR_BYTES), aligned(1), may_alias));
  static constexpr int kPacks = 8;
  static constexpr int64_t kRound = kPacks * LF_VECTOR_BYTES, kPiece = 64 << 10;

 public:
  // The sum over pieces of fixed size, each stirred with its place: threads may take them in any order.
  static uint64_t of(const Team& team, const cpu::Bytes& m, uint64_t seed) {
    const bool solid = m.stride == m.row_bytes;
    const int64_t rows = solid ? 1 : m.rows, row_bytes = solid ? m.row_bytes * m.rows : m.row_bytes;
    const int64_t per_row = ceil_div(row_bytes, kPiece);
    const Share mine = team.share(rows * per_row);
    uint64_t sum = 0;
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t at = i % per_row * kPiece;
      const char* p = static_cast<const char*>(m.data) + i / per_row * m.stride + at;
      sum += stir(piece(p, min(kPiece, row_bytes - at)) ^ stir(seed << 56 | static_cast<uint64_t>(i)));
    }
    return sum;
  }

 private:
  // The finalizer of SplitMix64 (Steele, Lea & Flood, 2014).
  static LF_INLINE uint64_t stir(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  static LF_INLINE U round(U state, U x) {
    state = (state ^ x) * 0x9e3779b1u;
    return state ^ (state >> 15);
  }
  static uint64_t piece(const char* p, int64_t bytes) {
    U state[kPacks];
    for (int i = 0; i < kPacks; i++) state[i] = U{} + static_cast<uint32_t>(i + 1);
    int64_t at = 0;
    for (; at + kRound <= bytes; at += kRound)
#pragma GCC unroll 8
      for (int i = 0; i < kPacks; i++)
        state[i] = round(state[i], *reinterpret_cast<const UnalignedU*>(p + at + i * LF_VECTOR_BYTES));
    if (at < bytes) {
      U last[kPacks] = {};
      std::memcpy(last, p + at, static_cast<size_t>(bytes - at));
      for (int i = 0; i < kPacks; i++) state[i] = round(state[i], last[i]);
    }
    U all = state[0];
    for (int i = 1; i < kPacks; i++) all = round(all, state[i]);
    uint64_t sum = static_cast<uint64_t>(bytes);
    for (size_t i = 0; i < LF_VECTOR_BYTES / 4; i++) sum = stir(sum + all[i]);
    return sum;
  }
};

inline uint64_t fingerprint(const cpu::Bytes* matrices, int count, int threads) {
  std::atomic<uint64_t> sum{0};
  run_team(threads, [&](const Team& team) {
    uint64_t mine = 0;
    for (int i = 0; i < count; i++) mine += Fingerprint::of(team, matrices[i], static_cast<uint64_t>(i));
    sum.fetch_add(mine, std::memory_order_relaxed);
  });
  return sum.load();
}

}  // namespace lstmfast::LF_ISA
