// The product of a step inside a warp: weights stay in registers for the whole sequence, the operand (h, or gate
// gradients) comes from shared memory, eight sequences at a time.
//
// A warp's tile is kRowTiles x 16 rows by kDepthTiles x 32 bytes of depth. Rows come in halves of 8: half i of the tile
// belongs to unit group i / P and part P' = i % P, where P rows make up a hidden unit (its gates in forward, 1 in
// backward). So a thread's sums hold all parts of its units and sequences, and the cell needs no exchange between
// threads: lane = 4 g + q has rows g of every half, and sequences 2q and 2q + 1 of the eight.
//
// Tensor cores and plain arithmetic (float32 that may not be rounded to TF32) differ in two things only: which words of
// the depth a thread's registers hold, and multiply().
#pragma once
#include "plan.h"
#include "types.cuh"

namespace lstmfast::cuda {

constexpr int kTileSequences = 8, kTileBytes = 32;

template <int row_tiles, int depth_tiles>
struct WarpShape {
  static constexpr int kRowTiles = row_tiles, kDepthTiles = depth_tiles, kHalves = 2 * row_tiles;
};

// The four words of a row tile and a depth tile that a lane holds: A of an mma.
struct Fragment {
  uint32_t at[4];
};

template <class S>
struct Weights {
  static constexpr int kDepthTiles = S::kDepthTiles;
  uint32_t at[S::kRowTiles][S::kDepthTiles][4];
  LF_DEVICE const uint32_t (&fragment(int row_tile, int depth_tile) const)[4] { return at[row_tile][depth_tile]; }
};
LF_DEVICE const uint32_t (&words_of(const uint32_t (&a)[4]))[4] { return a; }
LF_DEVICE const uint32_t (&words_of(const Fragment& a))[4] { return a.at; }
// Element e of sequence 2q + e in rows g of half i: at[i / 2][i % 2 * 2 + e].
template <class S>
struct Sums {
  float at[S::kRowTiles][4];
  LF_DEVICE float of(int half, int e) const { return at[half / 2][half % 2 * 2 + e]; }
};

LF_DEVICE void mma(Float16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  dev::mma_float16(c, a, b0, b1);
}
LF_DEVICE void mma(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  dev::mma_bfloat16(c, a, b0, b1);
}
LF_DEVICE void mma(float, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  dev::mma_tf32(c, a, b0, b1);
}

// 16-bit types, and float as TF32.
template <class T>
struct TensorCores {
  using Element = T;
  static constexpr int kMostTiles = most_tiles(Multiplier::kTensorCores);  // of sequences at once
  static LF_DEVICE T rounded(T x) {
    if constexpr (sizeof(T) == 4) return dev::to_tf32(x);
    return x;
  }
  // First byte of the depth that word r of a thread's depth tile holds; r and r + 1 are two rows of the same depth.
  static LF_DEVICE int depth_byte(int tile, int r, int q) { return tile * kTileBytes + (r >> 1) * 16 + q * 4; }

  // Even and odd depth tiles have sums of their own: two chains to keep the tensor cores busy with.
  template <class S, class W>
  static LF_DEVICE void multiply(Sums<S>& sums, const W& w, const unsigned char* operand, int pitch, int lane) {
    static_assert(W::kDepthTiles % 2 == 0);
    Sums<S> odd{};
    const unsigned char* row = operand + (lane & 7) * pitch + (lane >> 3) * 16;
#pragma unroll
    for (int k = 0; k < W::kDepthTiles; k += 2) {
      uint32_t b[4];
      dev::load_matrices(b, row + k * kTileBytes);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; m++) {
        mma(T{}, sums.at[m], words_of(w.fragment(m, k)), b[0], b[1]);
        mma(T{}, odd.at[m], words_of(w.fragment(m, k + 1)), b[2], b[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < S::kRowTiles; m++)
#pragma unroll
      for (int r = 0; r < 4; r++) sums.at[m][r] += odd.at[m][r];
  }
  // Two tiles of sequences at once, which are the two chains, so that a fragment is read once for both.
  template <class S, class W>
  static LF_DEVICE void multiply(Sums<S> (&sums)[2], const W& w, const unsigned char* operand, int pitch, int lane) {
    const unsigned char* row = operand + (lane & 7) * pitch + (lane >> 3) * 16;
#pragma unroll
    for (int k = 0; k < W::kDepthTiles; k += 2) {
      uint32_t b[2][4];
#pragma unroll
      for (int tile = 0; tile < 2; tile++)
        dev::load_matrices(b[tile], row + tile * kTileSequences * pitch + k * kTileBytes);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int m = 0; m < S::kRowTiles; m++) {
          const auto& a = w.fragment(m, k + i);
#pragma unroll
          for (int tile = 0; tile < 2; tile++)
            mma(T{}, sums[tile].at[m], words_of(a), b[tile][2 * i], b[tile][2 * i + 1]);
        }
    }
  }
};

// float32 without rounding. A thread multiplies its words with all eight sequences; then the four threads of a row add
// up, each keeping two sequences.
struct Fma {
  using Element = float;
  static constexpr int kMostTiles = most_tiles(Multiplier::kFma);  // two would need too many registers
  static LF_DEVICE float rounded(float x) { return x; }
  // Words of a pair of depth tiles are dealt out four in a row, so that a thread reads them at once.
  static LF_DEVICE int depth_byte(int tile, int r, int q) {
    return tile / 2 * 2 * kTileBytes + q * 16 + ((tile & 1) * 2 + (r >> 1)) * 4;
  }

  template <class S, class W>
  static LF_DEVICE void multiply(Sums<S>& sums, const W& w, const unsigned char* operand, int pitch, int lane) {
    static_assert(W::kDepthTiles % 2 == 0);
    const int q = lane & 3;
    float part[S::kHalves][kTileSequences] = {};
#pragma unroll
    for (int k = 0; k < W::kDepthTiles; k += 2)
#pragma unroll
      for (int n = 0; n < kTileSequences; n++) {
        const auto x = load_pack<4>(reinterpret_cast<const float*>(operand + n * pitch + k * kTileBytes + q * 16));
#pragma unroll
        for (int i = 0; i < S::kHalves; i++) {
          const auto &a = w.fragment(i / 2, k), &b = w.fragment(i / 2, k + 1);
          const uint32_t (&even)[4] = words_of(a), (&odd)[4] = words_of(b);
          part[i][n] += dev::float_of(even[i % 2]) * x.at[0] + dev::float_of(even[i % 2 + 2]) * x.at[1] +
                        dev::float_of(odd[i % 2]) * x.at[2] + dev::float_of(odd[i % 2 + 2]) * x.at[3];
        }
      }
#pragma unroll
    for (int i = 0; i < S::kHalves; i++) {
      float four[4];
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const float keep = q & 2 ? part[i][n + 4] : part[i][n], send = q & 2 ? part[i][n] : part[i][n + 4];
        four[n] = keep + dev::shuffle_xor(send, 2);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float keep = q & 1 ? four[e + 2] : four[e], send = q & 1 ? four[e] : four[e + 2];
        sums.at[i / 2][i % 2 * 2 + e] += keep + dev::shuffle_xor(send, 1);
      }
    }
  }
};

// Fills a warp's registers. `weight(half, g, depth)` is the element at row g of a half and at an element of the depth,
// zero outside the matrix. Rows pass through `stage`, 8 x pitch bytes of the warp's own, a half at a time, so that
// memory is read side by side: along the depth, or along rows where the matrix is used transposed.
template <class S>
struct Staging {
  static constexpr int kPitch = S::kDepthTiles * kTileBytes + 16;
  static constexpr int kBytes = 8 * kPitch;
};
template <class Multiplier, bool transposed, class S, class F>
LF_DEVICE void load_weights(Weights<S>& w, unsigned char* stage, int lane, const F& weight) {
  using T = typename Multiplier::Element;
  constexpr int kPitch = Staging<S>::kPitch, kDepth = S::kDepthTiles * kTileBytes / static_cast<int>(sizeof(T));
  constexpr int kRowStep = transposed ? 8 : 1, kDepthStep = transposed ? 4 : 32;
  const int first_row = transposed ? lane & 7 : 0, first_depth = transposed ? lane >> 3 : lane;
#pragma unroll
  for (int half = 0; half < S::kHalves; half++) {
#pragma unroll 1
    for (int g = first_row; g < 8; g += kRowStep)
#pragma unroll 4
      for (int depth = first_depth; depth < kDepth; depth += kDepthStep)
        reinterpret_cast<T*>(stage + g * kPitch)[depth] = Multiplier::rounded(weight(half, g, depth));
    dev::sync_warp();
    const unsigned char* mine = stage + (lane >> 2) * kPitch;
#pragma unroll
    for (int k = 0; k < S::kDepthTiles; k++)
#pragma unroll
      for (int r = 0; r < 2; r++)
        w.at[half / 2][k][half % 2 + 2 * r] =
            *reinterpret_cast<const uint32_t*>(mine + Multiplier::depth_byte(k, 2 * r, lane & 3));
    dev::sync_warp();
  }
}

}  // namespace lstmfast::cuda
