// Products with weights as they lie in the caller's memory, for calls too short to repay packing.
//
// A packed panel is read by the column, these by the row: each lane of a tile's pack is a dot product of its own,
// summed in a pack of partial sums that is reduced at the end. That costs some arithmetic, and reads each weight once.
#pragma once
#include "pack.inl"
#include "plan.h"

namespace lstmfast::LF_ISA {

// A weight matrix in one of two forms.
template <class C>
struct Weights {
  C* packed = nullptr;         // [panel][depth][kPanel]
  const void* rows = nullptr;  // or null: the caller's rows
  int64_t row_stride = 0;      // in elements
  Stored as = Stored::kComputed;
  int64_t cols = 0;  // of the packed ones, padding at the end of the last panel left out

  bool in_place() const { return rows != nullptr; }
};

// Whether the caller's rows can be read by packs.
template <class C>
LF_INLINE bool readable_in_place(const ConstMatrix& m, int64_t depth) {
  return m.col_stride == 1 && depth >= kLanes<C>;
}

// The weight rows behind the lanes of a tile. Padding repeats a real row: its lanes get finite values if the weights
// are finite, and are never stored to a caller's memory.
template <class C, class S>
struct TileRows {
  const S* row[kTileCols][kLanes<C>];
};

// Lanes whose sums are in registers together: with fewer rows in the tile more lanes, so that a pack of weights serves
// all rows and there are sums enough to add to in turn.
template <int M, class C>
constexpr int lanes_at_once() {
  int lanes = kLanes<C>;
  while (lanes * M > kTileRows * kTileCols) lanes /= 2;
  return lanes;
}

// sums[r * kLanes + i] = a[r] * row[i], not yet added up across the pack; depth >= kLanes.
template <int M, int lanes, class C, class S>
LF_INLINE void dot_products(Vec<C>* sums, const C* const (&a)[M], const S* const* row, int64_t depth) {
  constexpr int n = kLanes<C>;
  const int64_t whole = depth / n * n;
  Vec<C> sum[M][lanes] = {};
  for (int64_t k = 0; k < whole; k += n) {
    Vec<C> x[M];
#pragma GCC unroll 8
    for (int r = 0; r < M; r++) x[r] = shared<lanes, M * lanes, M>(load(a[r] + k));
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++) {
      const Vec<C> w = shared<M, M * lanes, M + 1>(load_stored(row[i] + k));
#pragma GCC unroll 8
      for (int r = 0; r < M; r++) sum[r][i] += x[r] * w;
    }
  }
  if (whole < depth) {
    // The last elements with the pack that ends there, less the products that have been counted. These are cut out, not
    // multiplied by zero, which would make a NaN of an infinite weight.
    IntVec<C> fresh{};
    for (int i = 0; i < n; i++) fresh[i] = i < n - (depth - whole) ? 0 : -1;
#pragma GCC unroll 8
    for (int r = 0; r < M; r++)
#pragma GCC unroll 16
      for (int i = 0; i < lanes; i++) {
        const Vec<C> product = load(a[r] + depth - n) * load_stored(row[i] + depth - n);
        sum[r][i] += reinterpret_cast<Vec<C>>(reinterpret_cast<IntVec<C>>(product) & fresh);
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; r++)
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++) sums[r * n + i] = sum[r][i];
}

// acc[r][j] lane i += a[r] . w.row[j][i]; depth >= kLanes.
template <int M, class C, class S>
LF_NOINLINE void multiply_add(Tile<C, M>& acc, const C* const (&a)[M], const TileRows<C, S>& w, int64_t depth) {
  constexpr int n = kLanes<C>, lanes = lanes_at_once<M, C>();
  for (int j = 0; j < kTileCols; j++) {
    Vec<C> sums[M][n];
    for (int i = 0; i < n; i += lanes) dot_products<M, lanes, C>(&sums[0][i], a, w.row[j] + i, depth);
    for (int r = 0; r < M; r++) acc[r][j] += sums_of<C>(sums[r]);
  }
}

// acc += rows a times the rows of w that row_of(column of the tile) names.
template <int M, class C, class RowOf>
LF_INLINE void multiply_in_place(Tile<C, M>& acc, const C* const (&a)[M], const Weights<C>& w, int64_t depth,
                                 const RowOf& row_of) {
  with_stored<C>(w.as, [&](auto stored) {
    using S = decltype(stored);
    TileRows<C, S> rows;
    for (int64_t col = 0; col < kPanel<C>; col++) {
      const int64_t r = row_of(col);
      rows.row[col / kLanes<C>][col % kLanes<C>] = static_cast<const S*>(w.rows) + (r < 0 ? 0 : r) * w.row_stride;
    }
    multiply_add<M, C, S>(acc, a, rows, depth);
  });
}

// acc[r] += sum over k of a[r][k] * row(k), for the way back: here depth runs over rows of the weights, row_of(k), and
// the tile's columns over theirs, `left` of which exist. Padding in the depth (row_of(k) < 0) is a row of zeros. The
// sums are chained as those over packed weights are, so that the result does not depend on how the weights lie.
template <int M, class C, class S, class RowOf>
LF_NOINLINE void multiply_add_rows(Tile<C, M>& acc, const PaneledRows<M, C>& a, const S* columns, int64_t row_stride,
                                   int64_t depth, int64_t left, const RowOf& row_of) {
  constexpr int chains = kChains<M>, n = kLanes<C>, kAhead = 8;
  static_assert(kPanel<C> % chains == 0);
  alignas(64) static const S kZeros[kPanel<C>] = {};
  Tile<C, M> sum;  // the first chain
  copy<M, C>(sum, acc);
  const auto add_panel = [&](const S* const* from, int64_t panel, auto at) {
    const C* x[M];
    for (int r = 0; r < M; r++) x[r] = a.base[r] + panel * a.stride[r];
    Tile<C, M> more[chains] = {};
    for (int64_t k = 0; k < kPanel<C>; k += chains)
#pragma GCC unroll 4
      for (int c = 0; c < chains; c++) {
        Vec<C> w[kTileCols];
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; j++) {
          __builtin_prefetch(from[k + c + kAhead] + j * n);  // rows may lie pages apart
          w[j] = shared<M, chains * M * kTileCols, kTileCols>(at(from[k + c], j));
        }
#pragma GCC unroll 8
        for (int r = 0; r < M; r++) {
          const Vec<C> factor = splat(x[r][k + c]);
#pragma GCC unroll 4
          for (int j = 0; j < kTileCols; j++) (c == 0 ? sum : more[c])[r][j] += factor * w[j];
        }
      }
    for (int c = 1; c < chains; c++)
#pragma GCC unroll 8
      for (int r = 0; r < M; r++)
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; j++) sum[r][j] += more[c][r][j];
  };
  for (int64_t begin = 0; begin < depth; begin += kPanel<C>) {
    const S* from[kPanel<C> + kAhead];
    for (int k = 0; k < kPanel<C>; k++) {
      const int64_t row = row_of(begin + k);
      from[k] = row < 0 ? kZeros : columns + row * row_stride;
    }
    for (int k = 0; k < kAhead; k++) from[kPanel<C> + k] = from[kPanel<C> - 1] + (k + 1) * row_stride;
    if (left >= kPanel<C>)
      add_panel(from, begin / kPanel<C>, [](const S* row, int j) { return load_stored(row + j * n); });
    else
      add_panel(from, begin / kPanel<C>,
                [left](const S* row, int j) { return load_first_stored<C>(row + j * n, left - j * n); });
  }
  copy<M, C>(acc, sum);
}

// A weight gradient written where the caller wants it: row row_of(k) of dst = sum over i of g(row[i], k) * x[i], for
// this thread's part of the depth. g(r, k) lies at g + r * kPanel + k in panels `stride` apart.
template <class C, class S>
struct OuterProduct {
  struct Row {
    const S* x;
    int64_t in_g;  // the row's place in g, in elements
  };
  const Row* rows;
  int64_t count, cols;
  const C* g;
  int64_t stride;

  const C* factors(int64_t k) const { return g + k / kPanel<C> * stride + k % kPanel<C>; }
};

// A row of dst, a panel's width of it, of which `left` columns exist. `next` is fetched meanwhile.
template <class C, class S>
LF_INLINE void outer_row(const OuterProduct<C, S>& p, int64_t k, S* to, const S* next, int64_t col) {
  constexpr int n = kLanes<C>;
  const int64_t left = p.cols - col;
  const C* const factors = p.factors(k);
  for (int j = 0; j < kTileCols; j++) __builtin_prefetch(next + j * n, 1);
  Vec<C> sum[kTileCols] = {};
  const auto add_up = [&](auto load_pack) {
    for (int64_t i = 0; i < p.count; i++) {
      const Vec<C> factor = splat(factors[p.rows[i].in_g]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; j++) sum[j] += factor * load_pack(p.rows[i].x + col, j);
    }
  };
  if (left >= kPanel<C>)
    add_up([](const S* from, int j) { return load_stored(from + j * n); });
  else
    add_up([left](const S* from, int j) { return load_first_stored<C>(from + j * n, left - j * n); });
  for (int j = 0; j < kTileCols; j++) store_first_stored<C>(to + j * n, sum[j], left - j * n);
}

// M rows of dst (null: of padding) likewise, from `count` rows of x a panel wide, side by side; added to what is there
// if `add`. `next` are fetched meanwhile: a store waits for its line to come from L3.
template <int M, class C, class S, class Row>
LF_NOINLINE void outer_tile(const C* x, const Row* rows, int64_t count, const C* const (&factors)[M], S* const (&to)[M],
                            const S* const (&next)[M], int64_t left, bool add) {
  constexpr int n = kLanes<C>;
  const S* line[M * kTileCols];
  for (int i = 0; i < M * kTileCols; i++) line[i] = next[i / kTileCols] + i % kTileCols * n;
  Tile<C, M> sum = {};
  for (int64_t i = 0; i < count; i++, x += kPanel<C>) {
    __builtin_prefetch(line[min(i, M * kTileCols - 1)], 1);
    Vec<C> pack[kTileCols];
#pragma GCC unroll 4
    for (int j = 0; j < kTileCols; j++) pack[j] = shared<M, M * kTileCols, kTileCols>(load(x + j * n));
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Vec<C> factor = splat(factors[m][rows[i].in_g]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; j++) sum[m][j] += factor * pack[j];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
    if (!to[m]) continue;
#pragma GCC unroll 4
    for (int j = 0; j < kTileCols; j++) {
      S* const at = to[m] + j * n;
      if (add) sum[m][j] += load_first_stored<C>(at, left - j * n);
      store_first_stored<C>(at, sum[m][j], left - j * n);
    }
  }
}

// Few rows of x leave little to do but to store: a row of dst after the other, one stream. With more, M rows of dst
// share what is loaded of x, of which a panel's width is copied into L1 before the rows of dst pass by: rows of a
// matrix may lie a power of two apart and would fight for one cache set.
constexpr int64_t kRowsOfOneStream = 16;
template <class C, class S, class RowOf>
void write_outer(const Team& team, const Matrix& dst, const OuterProduct<C, S>& p, int64_t depth, const RowOf& row_of) {
  constexpr int64_t kAhead = 1024 / sizeof(S);
  const Share mine = team.share(depth);
  const auto row_at = [&](int64_t k) {
    const int64_t at = k < mine.end ? row_of(k) : -1;
    return at < 0 ? nullptr : static_cast<S*>(dst.data) + at * dst.row_stride;
  };
  if (p.count <= kRowsOfOneStream) {
    for (int64_t k = mine.begin; k < mine.end; k++)
      if (S* const row = row_at(k))
        for (int64_t col = 0; col < p.cols; col += kPanel<C>) outer_row(p, k, row + col, row + col + kAhead, col);
    return;
  }
  // Narrow types are added up before they are rounded.
  constexpr int64_t kRows = sizeof(S) < sizeof(C) ? cpu::kBackwardRows : (32 << 10) / (kPanel<C> * sizeof(C));
  alignas(64) C panel[kRows * kPanel<C>];
  for (int64_t begin = 0; begin < p.count; begin += kRows)
    for (int64_t col = 0; col < p.cols; col += kPanel<C>) {
      const int64_t count = min(kRows, p.count - begin), left = p.cols - col;
      for (int64_t i = 0; i < count; i++)
        for (int64_t at = 0; at < kPanel<C>; at += kLanes<C>)
          store(panel + i * kPanel<C> + at, load_first_stored<C>(p.rows[begin + i].x + col + at, left - at));
      for (int64_t k = mine.begin; k < mine.end; k += kTileRows)
        with_rows(min(kTileRows, mine.end - k), [&](auto m) {
          constexpr int M = decltype(m)::value;
          const C* factors[M];
          const S* next[M];
          S* to[M];
          for (int i = 0; i < M; i++) {
            factors[i] = p.factors(k + i);
            to[i] = row_at(k + i);
            if (to[i]) to[i] += col;
            const S* const following = row_at(k + i + kTileRows);
            next[i] = following ? following + col : static_cast<const S*>(dst.data);  // something that can be fetched
          }
          outer_tile<M, C, S>(panel, p.rows + begin, count, factors, to, next, left, begin > 0);
        });
    }
}

}  // namespace lstmfast::LF_ISA
