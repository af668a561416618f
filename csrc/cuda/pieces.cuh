// Weights that registers alone cannot hold: a warp has the first part of its depth in registers and the rest in shared
// memory, in the order in which an mma takes them. A lane reads its four words of a fragment at once, the lanes of a
// warp 512 bytes side by side: no bank conflicts, and no ldmatrix.
//
// There is no room for a whole operand beside them. So the product goes through the depth in pieces, kPieceTiles tiles
// of each slice, and the operand comes in piece by piece, kPieceStages - 1 ahead of the product. With tensor cores two
// tiles of sequences go through a piece together, so that a fragment is read once for both; the last may be alone.
// Slices' sums have room for `sum_tiles` tiles: that many go through the product and then the cell, before those after
// them.
//
// Shared memory read per step: the weights once for `part_tiles` tiles, the operand once by each warp of a slice.
#pragma once
#include "block.cuh"
#include "exchange.cuh"

namespace lstmfast::cuda {

constexpr int kFragmentBytes = 512;  // of a warp

// Weights of a piece, out of the registers and out of shared memory.
template <class S>
struct RegisterPiece {
  static constexpr int kDepthTiles = kPieceTiles;
  const Weights<S>& weights;
  int first;
  LF_DEVICE const uint32_t (&fragment(int row_tile, int depth_tile) const)[4] {
    return weights.at[row_tile][first + depth_tile];
  }
};
template <class S>
struct SharedPiece {
  static constexpr int kDepthTiles = kPieceTiles;
  unsigned char* at;  // the lane's words of the first fragment
  LF_DEVICE uint32_t* words(int row_tile, int depth_tile) const {
    return reinterpret_cast<uint32_t*>(at + (depth_tile * S::kRowTiles + row_tile) * kFragmentBytes);
  }
  LF_DEVICE Fragment fragment(int row_tile, int depth_tile) const {
    const Pack<uint32_t, 4> a = load_pack<4>(words(row_tile, depth_tile));
    return {{a.at[0], a.at[1], a.at[2], a.at[3]}};
  }
  LF_DEVICE void store(int row_tile, int depth_tile, const uint32_t (&a)[4]) const {
    store_pack(words(row_tile, depth_tile), Pack<uint32_t, 4>{a[0], a[1], a[2], a[3]});
  }
};

template <class S>
struct SplitWeights {
  using Piece = WarpShape<S::kRowTiles, kPieceTiles>;
  static constexpr int kRegisterPieces = S::kDepthTiles / kPieceTiles;
  static_assert(S::kDepthTiles % kPieceTiles == 0);

  Weights<S> in_registers;
  unsigned char* in_shared;  // the lane's
  int shared_pieces;

  LF_DEVICE explicit SplitWeights(const Place& at)
      : in_shared(dev::shared_memory() + at.warp * at.t.shared_tiles * S::kRowTiles * kFragmentBytes + at.lane * 16),
        shared_pieces(at.t.shared_tiles / kPieceTiles) {}
  LF_DEVICE SharedPiece<S> shared_piece(int i) const {
    return {in_shared + i * kPieceTiles * S::kRowTiles * kFragmentBytes};
  }
  // Element `depth` of the warp's own, counted through its pieces, in the whole depth.
  template <class T>
  static LF_DEVICE int whole_depth(const Place& at, int depth) {
    constexpr int kDepth = kPieceTiles * kTileBytes / static_cast<int>(sizeof(T));
    return (depth / kDepth * at.t.slices + at.slice) * kDepth + depth % kDepth;
  }
  // As load_weights() does; `stage` is the block's, beyond the weights.
  template <class Multiplier, bool transposed, class F>
  LF_DEVICE void load(const Place& at, unsigned char* stage, const F& weight) {
    constexpr int kPieceDepth = kPieceTiles * kTileBytes / static_cast<int>(sizeof(typename Multiplier::Element));
    // The place of those that stay in shared memory is free as yet.
    load_weights<Multiplier, transposed>(in_registers, dev::shared_memory() + at.warp * Staging<S>::kBytes, at.lane,
                                         weight);
    dev::sync_block();
#pragma unroll 1
    for (int i = 0; i < shared_pieces; i++) {
      Weights<Piece> piece;
      load_weights<Multiplier, transposed>(
          piece, stage + at.warp * Staging<Piece>::kBytes, at.lane,
          [&](int half, int g, int depth) { return weight(half, g, (kRegisterPieces + i) * kPieceDepth + depth); });
#pragma unroll
      for (int k = 0; k < kPieceTiles; k++)
#pragma unroll
        for (int m = 0; m < S::kRowTiles; m++) shared_piece(i).store(m, k, piece.at[m][k]);
    }
  }
};

// ThroughL2, but that a part of the operand, one piece of `part_tiles` tiles, comes in at a time: arrive(s, i) and
// part(i) count parts, the pieces of the first tiles, then those of the next. Barriers per step: two of the block and
// one more for each part, one of the group. Traffic: a block reads all of the group's operand.
template <class T>
struct ThroughL2InPieces : ThroughL2<T> {
  const Tiling& t;

  LF_DEVICE ThroughL2InPieces(const PersistentCall& p, unsigned char* memory)
      : ThroughL2<T>(p, memory), t(p.plan.tiling) {}
  static LF_DEVICE int part_rows(const Tiling& t) { return t.part_tiles * kTileSequences; }
  static LF_DEVICE int shared_bytes(const PersistentCall& p) {
    return kPieceStages * part_rows(p.plan.tiling) * p.plan.tiling.pitch;
  }
  LF_DEVICE unsigned char* part(int i) const { return this->shared + i % kPieceStages * part_rows(t) * this->pitch; }

  LF_DEVICE void acquire(int s) const {
    if (dev::thread_index() == 0)
      dev::wait_acquire(this->flag(), static_cast<uint32_t>(dev::anew(s) + 1) * this->blocks);
    dev::sync_block();
#pragma unroll 1
    for (int i = 0; i < kPieceStages - 1; i++) fetch(s, i);
  }
  // The barrier shows every thread's copies to all, and that the part before is no longer read.
  LF_DEVICE void arrive(int s, int i) const {
    dev::wait_copies<kPieceStages - 2>();
    dev::sync_block();
    fetch(s, i + kPieceStages - 1);
  }

 private:
  // Beyond the last part there is an empty group of copies, so that as many as ever are under way.
  LF_DEVICE void fetch(int s, int i) const {
    if (i < t.parts()) {
      const int pieces = t.pieces(), first = i / pieces * t.part_tiles, bytes = t.piece_bytes();
      const int count = first + 2 <= t.tiles ? t.part_tiles : 1;
      unsigned char* to = part(i);
      const unsigned char* from = this->row(s, first * kTileSequences) + i % pieces * bytes;
      this->copy_rows(to, from, bytes, count);
    }
    dev::commit_copies();
  }
};

// The sums of one tile of sequences, or of two, which begin with part `i`.
template <class Multiplier, class S, class Tiles, class Exchange>
LF_DEVICE void multiply_pieces(Tiles& sums, const Place& at, const SplitWeights<S>& weights, const Exchange& exchange,
                               int s, int i) {
  const auto operand = [&](int part) {
    exchange.arrive(s, part);
    dev::sync_warp();
    return exchange.part(part) + at.slice * kPieceTiles * kTileBytes;
  };
#pragma unroll
  for (int piece = 0; piece < SplitWeights<S>::kRegisterPieces; piece++)
    Multiplier::multiply(sums, RegisterPiece<S>{weights.in_registers, piece * kPieceTiles}, operand(i + piece),
                         at.t.pitch, at.lane);
#pragma unroll 1
  for (int piece = 0; piece < weights.shared_pieces; piece++)
    Multiplier::multiply(sums, weights.shared_piece(piece), operand(i + SplitWeights<S>::kRegisterPieces + piece),
                         at.t.pitch, at.lane);
}

// One step, as product_and_cell() in persistent.cuh.
template <class Multiplier, class S, class Shared, class Exchange, class Load, class Pass, class Finish, class Store>
LF_DEVICE void product_and_cell(const Place& at, const SplitWeights<S>& weights, const Shared& shared,
                                const Exchange& exchange, int s, const Load& load, const Pass&, const Finish& finish,
                                const Store& store) {
  const Tiling& t = at.t;
  // Float32 arithmetic takes long, and leaves no registers for what has been loaded ahead of it.
  constexpr bool kAhead = Multiplier::kMostTiles > 1;
  auto loaded = load(at.slice);
  exchange.acquire(s);
#pragma unroll 1
  for (int first = 0; first < t.tiles; first += t.sum_tiles) {
    const int last = first + t.sum_tiles < t.tiles ? first + t.sum_tiles : t.tiles;
    if (first > 0) loaded = load(first + at.slice);
    // What lies in the sums' place has been read before the first part arrives.
#pragma unroll 1
    for (int j = first; j < last; j += t.part_tiles) {
      const int part = j / t.part_tiles * t.pieces();
      if constexpr (Multiplier::kMostTiles == 2)
        if (j + 1 < last) {
          Sums<S> sums[2]{};
          multiply_pieces<Multiplier>(sums, at, weights, exchange, s, part);
          shared.store(at, j - first, sums[0]);
          shared.store(at, j + 1 - first, sums[1]);
          continue;
        }
      Sums<S> sums{};
      multiply_pieces<Multiplier>(sums, at, weights, exchange, s, part);
      shared.store(at, j - first, sums);
    }
    dev::sync_block();
    const auto cell = [&](int j) {
      if (!kAhead || j != first + at.slice) loaded = load(j);
      Sums<S> sums{};
      shared.add_slices(sums, at, j - first, 0, t.slices);
      return finish(j, loaded, sums);
    };
    run_cells(at, exchange, s, first, last, cell, store);
  }
}

}  // namespace lstmfast::cuda
