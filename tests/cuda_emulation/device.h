// csrc/cuda/device.cuh for the emulated machine: the same functions, in plain C++.
#pragma once
#include <cmath>

#include "machine.h"

#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define LF_DEVICE inline

namespace lstmfast::cuda::dev {

inline unsigned char* shared_memory() { return emulation::self().block->shared; }
inline unsigned thread_index() { return emulation::self().index; }
inline unsigned block_index() { return emulation::self().block->index % emulation::machine().blocks; }
inline unsigned block_count() { return emulation::machine().blocks; }
inline unsigned group_index() {
  return emulation::self().block->index / emulation::machine().blocks % emulation::machine().groups;
}
inline unsigned run_index() {
  return emulation::self().block->index / emulation::machine().blocks / emulation::machine().groups;
}
inline unsigned thread_count() { return emulation::machine().threads; }
inline int anew(int x) { return x; }
inline void sync_block() { emulation::sync_block(); }
inline void sync_warp() { emulation::sync_warp(); }

template <class T>
T shuffle_xor(T v, int mask) {
  return emulation::warp_operation<T, T>("shuffle", v, [mask](const auto& in, const auto& out) {
    for (int lane = 0; lane < emulation::kWarp; lane++) out(lane, in(lane ^ mask));
  });
}

inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t from) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t x = 0;
  for (unsigned i = 0; i < 4; i++) x |= static_cast<uint32_t>(bytes >> (from >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return x;
}

template <int bytes>
void check_alignment(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) emulation::fail("misaligned access");
}

// ---- conversions
inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline uint16_t to_bfloat16(float x) {
  const uint32_t u = bits_of(x);
  return x != x ? uint16_t{0x7fff} : static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bfloat16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
inline uint16_t to_float16(float x) {
  const _Float16 h = static_cast<_Float16>(x);
  uint16_t u;
  std::memcpy(&u, &h, 2);
  return u;
}
inline float from_float16(uint16_t x) {
  _Float16 h;
  std::memcpy(&h, &x, 2);
  return static_cast<float>(h);
}
// Rounds to 10 bits of mantissa, to nearest, ties away from zero.
inline float to_tf32(float x) { return x != x ? x : float_of((bits_of(x) + 0x1000) & ~uint32_t{0x1fff}); }

// ---- approximate functions, with about the GPU's error
inline float exp2_approx(float x) { return std::exp2(x); }
inline float reciprocal_approx(float x) { return 1 / x; }
inline float tanh_approx(float x) { return float_of((bits_of(std::tanh(x)) + 0x800) & ~uint32_t{0xfff}); }

// ---- tensor cores. Fragments as in the PTX ISA: a word holds two 16-bit values or one 32-bit value, and in units of
// words the layouts of m16n8k16 and m16n8k8 are the same.
namespace detail {
struct MmaIn {
  uint32_t a[4], b[2];
  float c[4];
};
struct MmaOut {
  float d[4];
};
template <int per_word, class Decode>
inline void mma(const char* operation, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Decode decode) {
  MmaIn mine;
  std::memcpy(mine.a, a, sizeof a);
  mine.b[0] = b0, mine.b[1] = b1;
  std::memcpy(mine.c, c, sizeof c);
  const MmaOut result = emulation::warp_operation<MmaIn, MmaOut>(operation, mine, [&](const auto& in, const auto& out) {
    constexpr int kDepth = 8 * per_word;
    float A[16][kDepth], B[kDepth][8], D[16][8];
    for (int lane = 0; lane < 32; lane++) {
      const MmaIn x = in(lane);
      const int g = lane / 4, q = lane % 4;
      for (int r = 0; r < 4; r++)
        for (int e = 0; e < per_word; e++) A[g + r % 2 * 8][(q + r / 2 * 4) * per_word + e] = decode(x.a[r], e);
      for (int r = 0; r < 2; r++)
        for (int e = 0; e < per_word; e++) B[(q + r * 4) * per_word + e][g] = decode(x.b[r], e);
      for (int r = 0; r < 4; r++) D[g + r / 2 * 8][q * 2 + r % 2] = x.c[r];
    }
    for (int i = 0; i < 16; i++)
      for (int k = 0; k < kDepth; k++)
        for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
    for (int lane = 0; lane < 32; lane++) {
      MmaOut o;
      for (int r = 0; r < 4; r++) o.d[r] = D[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
      out(lane, o);
    }
  });
  std::memcpy(c, result.d, sizeof c);
}
}  // namespace detail
inline void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  detail::mma<2>("mma bfloat16", c, a, b0, b1,
                 [](uint32_t word, int e) { return from_bfloat16(static_cast<uint16_t>(word >> (16 * e))); });
}
inline void mma_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  detail::mma<2>("mma float16", c, a, b0, b1,
                 [](uint32_t word, int e) { return from_float16(static_cast<uint16_t>(word >> (16 * e))); });
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  // The hardware drops the low bits: what was not rounded before is cut.
  detail::mma<1>("mma tf32", c, a, b0, b1, [](uint32_t word, int) { return float_of(word & ~uint32_t{0x1fff}); });
}
// Four 8 x 16-byte matrices: lane l gives the address of row l % 8 of matrix l / 8 and gets word l % 4 of row l / 4 of
// each.
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  struct Words {
    uint32_t at[4];
  };
  if (reinterpret_cast<uintptr_t>(row) % 16) emulation::fail("misaligned row of a matrix");
  Words mine;
  std::memcpy(&mine, row, sizeof mine);
  const auto words = emulation::warp_operation<Words, Words>("ldmatrix", mine, [](const auto& in, const auto& out) {
    for (int lane = 0; lane < 32; lane++) {
      Words w;
      for (int m = 0; m < 4; m++) w.at[m] = in(m * 8 + lane / 4).at[lane % 4];
      out(lane, w);
    }
  });
  std::memcpy(r, words.at, sizeof r);
}

struct alignas(16) Words {
  uint32_t at[4];
};

// ---- between blocks
inline void copy_async16(void* shared, const void* global) { emulation::copy_async(shared, global, 16); }
inline void commit_copies() { emulation::commit_copies(); }
template <int keep>
void wait_copies() {
  emulation::wait_copies(keep);
}
inline void add_release(uint32_t* flag, uint32_t value) { emulation::add_release(flag, value); }
inline void wait_acquire(const uint32_t* flag, uint32_t value) { emulation::wait_acquire(flag, value); }

inline void store_relaxed(uint32_t* p, uint32_t x) { emulation::store_relaxed(p, x); }
inline Words load_relaxed(const uint32_t* p) {
  check_alignment<16>(p);
  Words x;
  for (int i = 0; i < 4; i++) x.at[i] = emulation::load_relaxed(p + i);
  return x;
}
template <class F>
void poll(const F& round) {
  emulation::poll(round);
}

inline unsigned cluster_rank() { return emulation::self().block->cluster_rank; }
inline void cluster_arrive() { emulation::arrive_at_cluster(); }
inline void cluster_wait() { emulation::wait_for_cluster(); }
inline void store_remote(void* local, const Words& x, unsigned rank) {
  if (reinterpret_cast<uintptr_t>(local) % 16) emulation::fail("misaligned store to another block");
  *static_cast<Words*>(static_cast<void*>(emulation::map_shared(static_cast<unsigned char*>(local), rank))) = x;
}

// ---- the host's side
struct Launch {
  unsigned blocks = 1, threads = 32;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool cooperative = false;
  unsigned groups = 1, runs = 1;
};
constexpr int kErrorCooperativeLaunchTooLarge = 720;

template <class Params>
int launch(void (*kernel)(Params), const Launch& shape, const Params& params, void* /*stream*/) {
  static_assert(sizeof(Params) <= 4096, "kernel arguments are limited");
  emulation::options().launches++;
  if (shape.cooperative && emulation::options().refuses_cooperation) return kErrorCooperativeLaunchTooLarge;
  emulation::run(
      {shape.blocks, shape.threads, shape.shared_bytes, shape.cluster, shape.cooperative, shape.groups, shape.runs},
      [&] { kernel(params); });
  return 0;
}
template <class Params>
int allow_shared_memory(void (*)(Params), int /*bytes*/) {
  return 0;
}
inline int most_shared_memory(int* bytes) {
  *bytes = 232448;
  return 0;
}
inline int set_memory(void* p, int value, size_t bytes, void* /*stream*/) {
  emulation::options().clears++;
  std::memset(p, value, bytes);
  return 0;
}

}  // namespace lstmfast::cuda::dev
