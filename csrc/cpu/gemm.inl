// The one register tile: up to kTileRows rows by kTileCols packs of lanes, every product of the CPU path.
//
// Rows come by pointer, so they may lie anywhere (strides, sequences that start late, a zero row); the other operand is
// a packed panel: for each k, kTileCols packs side by side. The sum over k runs in one fixed order, which may depend on
// the number of rows in the tile only where tiles are cut independently of the number of threads: results are bitwise
// the same for every thread count.
#pragma once
#include "simd.h"

namespace lstmfast::LF_ISA {

constexpr int kTileRows = LF_TILE_ROWS;
constexpr int kTileCols = 4;
template <class C>
constexpr int kPanel = kTileCols * kLanes<C>;  // columns of a panel

// The height of a tile: its rows as a constant, for tiles in registers.
template <int N>
struct Int {
  static constexpr int value = N, kMost = N;
};

// Calls f(Int<rows>) for 1 <= rows <= kTileRows: from a number to a tile of that many rows.
template <int N = kTileRows, class F>
LF_INLINE void with_rows(int64_t rows, F&& f) {
  if constexpr (N > 1) {
    if (rows < N) return with_rows<N - 1>(rows, f);
  }
  f(Int<N>{});
}

// Independent chains of sums per accumulator: few rows alone would leave the FMA units waiting for their own results.
template <int M>
constexpr int kChains = M == 1   ? kRegisters / 8
                        : M == 2 ? kRegisters / 16
                                 : 1;

template <class C, int M>
using Tile = Vec<C>[M][kTileCols];

template <int M, class C>
LF_INLINE void copy(Tile<C, M>& to, const Tile<C, M>& from) {
#pragma GCC unroll 8
  for (int r = 0; r < M; r++)
#pragma GCC unroll 4
    for (int j = 0; j < kTileCols; j++) to[r][j] = from[r][j];
}

// What a tile fetches into L2 on its way, one cache line per k: a share of the weights that are needed next.
template <class C>
struct Ahead {
  const C* line;
  int64_t step;  // elements; 0 to fetch nothing
};

// The depth of a panel is worked off in pieces that stay in L2 while all row tiles pass over them. Weights beyond L2
// would otherwise stop the first tile of every pass, and leave the way to L3 idle during the others: so the first
// tiles each fetch a part of the piece that comes next. Pieces do not depend on threads or caches, nor do the sums.
struct Piece {
  int64_t begin, end;
  bool first, last;
};
template <class C>
constexpr int64_t kPieceDepth = (128 << 10) / (kPanel<C> * sizeof(C));

// Calls f(piece, weights of the piece, weights of the piece after it) over a packed panel; `following` is the panel
// that comes after this one, or null.
template <class C, class F>
LF_INLINE void for_each_piece(const C* panel, int64_t depth, const C* following, const F& f) {
  int64_t begin = 0;
  do {
    const int64_t end = min(depth, begin + kPieceDepth<C>);
    f(Piece{begin, end, begin == 0, end == depth}, panel + begin * kPanel<C>,
      end < depth ? panel + end * kPanel<C> : following);
    begin = end;
  } while (begin < depth);
}

// Tile number `tile` of a pass fetches the lines that no tile before it has fetched.
template <class C>
LF_INLINE Ahead<C> share_of(const C* next, int64_t tile, const Piece& piece) {
  constexpr int64_t kLine = 64 / sizeof(C), kTiles = kPanel<C> / kLine;
  const int64_t depth = piece.end - piece.begin;
  return next && tile < kTiles ? Ahead<C>{next + tile * depth * kLine, kLine} : Ahead<C>{next, 0};
}

// Packs of a panel that are not padding alone, which there is at the end of the last one.
template <class C>
LF_INLINE int packs_of(int64_t cols, int64_t panel) {
  return static_cast<int>(min(kTileCols, ceil_div(cols - panel * kPanel<C>, kLanes<C>)));
}
// Calls f(Int<packs>) for fewer packs than a tile has.
template <int J = kTileCols - 1, class F>
LF_INLINE void with_packs(int packs, F&& f) {
  if constexpr (J > 1) {
    if (packs < J) return with_packs<J - 1>(packs, f);
  }
  f(Int<J>{});
}

// A piece of a panel as one tile sees it.
template <class C>
struct Operand {
  Piece at;
  const C* weights;
  Ahead<C> ahead;
  int packs;
};

// acc[r] += sum over k of a[r][k] * w[k], k in [0, depth), in the first J packs
//
// Inline where the accumulators go straight on to the cell; the functions below are the same behind a call, one per
// tile height and type instead of one per use and cell, since a tile through memory costs a few dozen cycles only.
template <int M, class C, int chains = kChains<M>, int J = kTileCols>
LF_INLINE void multiply_add_inline(Tile<C, M>& acc, const C* const (&a)[M], const C* w, int64_t depth, Ahead<C> ahead) {
  constexpr int kWidth = kLanes<C>, kStep = kPanel<C>;
  int64_t k = 0;
  if constexpr (chains > 1) {
    constexpr int kMore = chains - 1;
    Vec<C> more[kMore][M][J] = {};
    for (; k + kMore < depth; k += kMore + 1, w += (kMore + 1) * kStep) {
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) {
        Vec<C> b[chains];
#pragma GCC unroll 4
        for (int m = 0; m < chains; m++) b[m] = shared<M, chains * M * J, chains>(load(w + m * kStep + j * kWidth));
#pragma GCC unroll 8
        for (int r = 0; r < M; r++) {
          acc[r][j] += a[r][k] * b[0];
#pragma GCC unroll 4
          for (int m = 0; m < kMore; m++) more[m][r][j] += a[r][k + m + 1] * b[m + 1];
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < M; r++)
#pragma GCC unroll 4
      for (int j = 0; j < J; j++)
#pragma GCC unroll 4
        for (int m = 0; m < kMore; m++) acc[r][j] += more[m][r][j];
  }
  for (; k < depth; k++, w += kStep, ahead.line += ahead.step) {
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) __builtin_prefetch(w + 8 * kStep + j * kWidth);
    __builtin_prefetch(ahead.line, 0, 2);
    Vec<C> b[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) b[j] = shared<M, M * J, J>(load(w + j * kWidth));
#pragma GCC unroll 8
    for (int r = 0; r < M; r++) {
      const Vec<C> x = splat(a[r][k]);
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) acc[r][j] += x * b[j];
    }
  }
}

// In the last panel, whose rest is padding.
template <int M, class C, int chains>
LF_NOINLINE void multiply_add_narrow_call(Tile<C, M>& acc, const C* const (&a)[M], const C* w, int64_t depth,
                                          int packs) {
  with_packs(packs, [&](auto j) {
    Tile<C, M> sum;
    copy<M, C>(sum, acc);
    multiply_add_inline<M, C, chains, decltype(j)::value>(sum, a, w, depth, Ahead<C>{w, 0});
    copy<M, C>(acc, sum);
  });
}
// The call gets a tile of its own: accumulators whose address is taken would stay in memory on the other path as well.
template <int M, class C, int chains>
LF_INLINE void multiply_add_narrow(Tile<C, M>& acc, const C* const (&a)[M], const C* w, int64_t depth, int packs) {
  Tile<C, M> sum;
  copy<M, C>(sum, acc);
  multiply_add_narrow_call<M, C, chains>(sum, a, w, depth, packs);
  copy<M, C>(acc, sum);
}

// One chain whatever the height: the projection of a block is cut into tiles across steps or within them, depending on
// how threads split the work, and a row must come out the same from either.
template <int M, class C>
LF_NOINLINE void multiply_add(Tile<C, M>& acc, const C* const (&a)[M], const C* w, int64_t depth,
                              const Ahead<C>& ahead) {
  Tile<C, M> sum;
  copy<M, C>(sum, acc);
  multiply_add_inline<M, C, 1>(sum, a, w, depth, ahead);
  copy<M, C>(acc, sum);
}

// Rows that are themselves cut into panels: piece q of row r at base[r] + q * stride[r], kPanel wide (the last one
// shorter when depth is no multiple).
template <int M, class C>
struct PaneledRows {
  const C* base[M];
  int64_t stride[M];
};

template <int M, class C, int J>
LF_INLINE void multiply_add_paneled(Tile<C, M>& acc, const PaneledRows<M, C>& a, const Operand<C>& piece) {
  Tile<C, M> sum;
  copy<M, C>(sum, acc);
  const C* row[M];
  for (int r = 0; r < M; r++) row[r] = a.base[r] + piece.at.begin / kPanel<C> * a.stride[r];
  const int64_t depth = piece.at.end - piece.at.begin;
  for (int64_t k = 0; k < depth; k += kPanel<C>) {
    multiply_add_inline<M, C, kChains<M>, J>(sum, row, piece.weights + k * kPanel<C>, min(kPanel<C>, depth - k),
                                             Ahead<C>{piece.ahead.line + k * piece.ahead.step, piece.ahead.step});
    for (int r = 0; r < M; r++) row[r] += a.stride[r];
  }
  copy<M, C>(acc, sum);
}
template <int M, class C>
LF_NOINLINE void multiply_add(Tile<C, M>& acc, const PaneledRows<M, C>& a, const Operand<C>& piece) {
  multiply_add_paneled<M, C, kTileCols>(acc, a, piece);
}
template <int M, class C>
LF_NOINLINE void multiply_add_narrow(Tile<C, M>& acc, const PaneledRows<M, C>& a, const Operand<C>& piece) {
  with_packs(piece.packs, [&](auto j) { multiply_add_paneled<M, C, decltype(j)::value>(acc, a, piece); });
}

// dst[r] (+)= sum over k of x[k][r] * g[k]: a weight gradient's tile. x is packed with M columns side by side, g is a
// panel of gradients, of which the first J packs count. The sum starts from zero and is added once, so that rounding
// errors of a long sequence grow with the length of a block and the number of blocks, not with their product. The next
// tile's dst lies behind this one's, its x behind this x.
template <int M, class C, int J>
LF_INLINE void accumulate_outer_inline(C* dst, const C* x, const C* g, int64_t depth, bool overwrite) {
  constexpr int kWidth = kLanes<C>, kLine = 64 / sizeof(C);
  Vec<C> acc[M][J] = {};
  const C *next_dst = dst + M * kPanel<C>, *next_x = x + depth * M;
  for (int64_t k = 0; k < depth; k++, g += kPanel<C>, x += M) {
    __builtin_prefetch(next_dst + min(k, M * kPanel<C> / kLine) * kLine);
    __builtin_prefetch(next_x + k * M);
    Vec<C> b[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) b[j] = shared<M, M * J, J>(load(g + j * kWidth));
#pragma GCC unroll 8
    for (int r = 0; r < M; r++) {
      const Vec<C> a = splat(x[r]);
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) acc[r][j] += a * b[j];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; r++)
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      C* p = dst + r * kPanel<C> + j * kWidth;
      store(p, overwrite ? acc[r][j] : load(p) + acc[r][j]);
    }
}
template <int M, class C>
LF_NOINLINE void accumulate_outer(C* dst, const C* x, const C* g, int64_t depth, bool overwrite) {
  accumulate_outer_inline<M, C, kTileCols>(dst, x, g, depth, overwrite);
}
template <int M, class C>
LF_NOINLINE void accumulate_outer_narrow(C* dst, const C* x, const C* g, int64_t depth, bool overwrite, int packs) {
  with_packs(packs, [&](auto j) { accumulate_outer_inline<M, C, decltype(j)::value>(dst, x, g, depth, overwrite); });
}

// n rows cut into the fewest tiles, as even as can be (32 = 6+5+5+5+5+6, not 5*6+2).
struct TileCut {
  int64_t n, tiles;
  explicit TileCut(int64_t rows) : n(rows), tiles(ceil_div(rows, kTileRows)) {}
  LF_INLINE int64_t begin(int64_t i) const { return n * i / tiles; }
};

}  // namespace lstmfast::LF_ISA
