// Products with weights as they lie in the caller's memory, for calls too short to repay packing.
//
// A packed panel is read by the column, these by the row: each lane of a tile's pack is a dot product of its own,
// summed in a pack of partial sums that is reduced at the end. That costs some arithmetic, and reads each weight once.
#pragma once
#include "pack.inl"

namespace lstmfast::LF_ISA {

// A weight matrix in one of two forms.
template <class C>
struct Weights {
  C* packed = nullptr;      // [panel][depth][kPanel]
  const C* rows = nullptr;  // or null: the caller's rows
  int64_t row_stride = 0;

  bool in_place() const { return rows != nullptr; }
};

// Whether the caller's rows can be read by packs.
template <class C>
LF_INLINE bool readable_in_place(const ConstMatrix& m, const Storage<C>& storage, int64_t depth) {
  return storage.is_compute && m.col_stride == 1 && depth >= kLanes<C>;
}

// The weight rows behind the lanes of a tile. Padding repeats a real row: its lanes get finite values if the weights
// are finite, and are never stored to a caller's memory.
template <class C>
struct TileRows {
  const C* row[kTileCols][kLanes<C>];
};

// acc[r][j] lane i += a[r] . w.row[j][i]; depth >= kLanes.
template <int M, class C>
LF_NOINLINE void multiply_add(Tile<C, M>& acc, const C* const (&a)[M], const TileRows<C>& w, int64_t depth) {
  constexpr int n = kLanes<C>;
  const int64_t whole = depth / n * n;
  for (int j = 0; j < kTileCols; j++) {
    const auto& row = w.row[j];
    for (int r = 0; r < M; r++) {
      Vec<C> sums[n] = {};
      for (int64_t k = 0; k < whole; k += n) {
        const Vec<C> x = load(a[r] + k);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) sums[i] += x * load(row[i] + k);
      }
      if (whole < depth) {
        // The last elements with the pack that ends there, less the products that have been counted. These are cut out,
        // not multiplied by zero, which would make a NaN of an infinite weight.
        const Vec<C> x = load(a[r] + depth - n);
        IntVec<C> fresh{};
        for (int i = 0; i < n; i++) fresh[i] = i < n - (depth - whole) ? 0 : -1;
        for (int i = 0; i < n; i++) {
          const Vec<C> product = x * load(row[i] + depth - n);
          sums[i] += reinterpret_cast<Vec<C>>(reinterpret_cast<IntVec<C>>(product) & fresh);
        }
      }
      acc[r][j] += sums_of<C>(sums);
    }
  }
}

// acc[r] += sum over k of a[r][k] * row(k), for the way back: here depth runs over rows of the weights, row_of(k), and
// the tile's columns over theirs, `left` of which exist. Padding in the depth (row_of(k) < 0) has no gradient. The sums
// are chained as those over packed weights are, so that the result does not depend on how the weights lie.
template <int M, class C, class RowOf>
LF_NOINLINE void multiply_add_rows(Tile<C, M>& acc, const PaneledRows<M, C>& a, const C* columns, int64_t row_stride,
                                   int64_t depth, int64_t left, const RowOf& row_of) {
  constexpr int chains = kChains<M>;
  static_assert(kPanel<C> % chains == 0);
  const C* row[M];
  for (int r = 0; r < M; r++) row[r] = a.base[r];
  for (int64_t begin = 0; begin < depth; begin += kPanel<C>) {
    Tile<C, M> more[chains] = {};  // the first chain is acc itself
    for (int64_t k = 0; k < kPanel<C>; k += chains)
#pragma GCC unroll 4
      for (int c = 0; c < chains; c++) {
        const int64_t at = row_of(begin + k + c);
        if (at < 0) continue;
        const C* from = columns + at * row_stride;
        for (int j = 0; j < kTileCols; j++) {
          __builtin_prefetch(from + 8 * row_stride + j * kLanes<C>);  // rows may lie pages apart
          const Vec<C> w = load_first(from + j * kLanes<C>, left - j * kLanes<C>);
          for (int r = 0; r < M; r++) (c == 0 ? acc : more[c])[r][j] += row[r][k + c] * w;
        }
      }
    for (int r = 0; r < M; r++) {
      for (int j = 0; j < kTileCols; j++)
        for (int c = 1; c < chains; c++) acc[r][j] += more[c][r][j];
      row[r] += a.stride[r];
    }
  }
}

// A weight gradient written where the caller wants it: row row_of(k) of dst = sum over r of g(r, k) * x[r], for this
// thread's part of the depth. g(r, k) lies at g + r * kPanel + k in panels `stride` apart; a null x[r] is a row of
// zeros.
constexpr int kMostDirectRows = 8;
template <class C, class RowOf>
void write_outer(const Team& team, const Matrix& dst, int64_t cols, const C* const (&x)[kMostDirectRows], int64_t rows,
                 const C* g, int64_t stride, int64_t depth, const RowOf& row_of) {
  constexpr int64_t kAhead = 1024 / sizeof(C);
  constexpr int kPacks = 4, n = kLanes<C>;  // a factor serves four packs
  const Share mine = team.share(depth);
  for (int64_t k = mine.begin; k < mine.end; k++) {
    const int64_t at = row_of(k);
    if (at < 0) continue;
    C* to = static_cast<C*>(dst.data) + at * dst.row_stride;
    const C* factors = g + k / kPanel<C> * stride + k % kPanel<C>;
    for (int64_t c = 0; c < cols; c += kPacks * n) {
      Vec<C> sum[kPacks] = {};
      for (int64_t r = 0; r < rows; r++) {
        if (!x[r]) continue;
        const Vec<C> factor = splat(factors[r * kPanel<C>]);
#pragma GCC unroll 4
        for (int j = 0; j < kPacks; j++) sum[j] += factor * load_first(x[r] + c + j * n, cols - c - j * n);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kPacks; j++) {
        __builtin_prefetch(to + c + j * n + kAhead, 1);  // a store waits for its line to come from L3
        store_first(to + c + j * n, sum[j], cols - c - j * n);
      }
    }
  }
}

}  // namespace lstmfast::LF_ISA
