// Between the caller's layouts and the kernels': states, weights packed into panels, gradients unpacked from them.
#pragma once
#include "layout.h"
#include "storage.inl"
#include "team.h"

namespace lstmfast::LF_ISA {

// A state [N, width] into rows of `stride`; zeros where there is none.
template <class C>
void import_state(const Team& team, const Storage<C>& storage, const ConstRows& src, C* dst, int64_t batch,
                  int64_t width, int64_t stride) {
  const Share mine = team.share(batch);
  for (int64_t n = mine.begin; n < mine.end; n++) {
    if (src.data)
      storage.gather(dst + n * stride, storage.at(src.data, n * src.row_stride), 1, width);
    else
      std::memset(dst + n * stride, 0, static_cast<size_t>(width) * sizeof(C));
  }
}

template <class C>
void clear(const Team& team, C* p, int64_t n) {
  if (!p) return;
  const Share mine = team.share(n);
  std::memset(p + mine.begin, 0, static_cast<size_t>(mine.end - mine.begin) * sizeof(C));
}

// The row of a [G*H, .] matrix that is column `col` of panel `panel`; -1 for padding.
template <class Cell, class C>
LF_INLINE int64_t gate_row(int64_t panel, int64_t col, int64_t hidden) {
  using P = Panels<Cell, C>;
  const int64_t gate = col / P::kUnits, unit = panel * P::kUnits + col % P::kUnits;
  return unit < hidden ? gate * hidden + unit : -1;
}
// The same for a matrix whose rows are plain columns of the output, cut into panels.
template <class C>
LF_INLINE int64_t plain_row(int64_t panel, int64_t col, int64_t rows) {
  const int64_t r = panel * kPanel<C> + col;
  return r < rows ? r : -1;
}

// A panel is filled and emptied in squares of lanes: source rows [row, row + n) by source columns [k, k + depth).
template <class C>
struct Square {
  int64_t panel, column;  // first column of the panel
  int64_t row, rows;      // source rows behind its lanes; rows < kLanes at the padding's edge, 0 in the padding
  int64_t k, depth;
};

// Calls f(square) for this thread's part of `panels` panels of `depth`. `row_of(panel, column)` is the source row, -1
// for padding; the lanes of one pack come from neighbouring rows.
template <class C, class RowOf, class F>
LF_INLINE void for_squares(const Team& team, int64_t panels, int64_t depth, const RowOf& row_of, const F& f) {
  constexpr int n = kLanes<C>;
  const int64_t pieces = ceil_div(depth, n);
  const Share mine = team.share(panels * pieces);
  for (int64_t i = mine.begin; i < mine.end; i++) {
    const int64_t panel = i / pieces, k = i % pieces * n;
    for (int64_t column = 0; column < kPanel<C>; column += n) {
      int64_t rows = 0;
      while (rows < n && row_of(panel, column + rows) >= 0) rows++;
      f(Square<C>{panel, column, row_of(panel, column), rows, k, min(n, depth - k)});
    }
  }
}
template <class C>
LF_INLINE bool can_move_packs(const Square<C>& s, const Storage<C>& storage, int64_t col_stride) {
  return s.rows == kLanes<C> && s.depth == kLanes<C> && storage.is_compute() && col_stride == 1;
}

// [rows, depth] -> [panel][depth][kPanel], column c of a panel from source row `row_of(panel, c)`.
template <class C, class RowOf>
void pack_panels(const Team& team, const Storage<C>& storage, const ConstMatrix& src, C* dst, int64_t panels,
                 int64_t depth, const RowOf& row_of) {
  constexpr int n = kLanes<C>;
  for_squares<C>(team, panels, depth, row_of, [&](const Square<C>& s) {
    C* out = dst + (s.panel * depth + s.k) * kPanel<C> + s.column;
    Vec<C> v[n];
    for (int i = 0; i < n; i++) {
      const int64_t at = (s.row + i) * src.row_stride + s.k * src.col_stride;
      if (can_move_packs(s, storage, src.col_stride)) {
        v[i] = load(static_cast<const C*>(src.data) + at);
      } else {
        C values[n] = {};
        if (i < s.rows) storage.gather(values, storage.at(src.data, at), src.col_stride, s.depth);
        v[i] = load(values);
      }
    }
    transpose<C>(v);
    for (int k = 0; k < s.depth; k++) store(out + k * kPanel<C>, v[k]);
  });
}

// The way back for weight gradients; `add`: to what is there.
template <class C, class RowOf>
void unpack_panels(const Team& team, const Storage<C>& storage, const C* src, const Matrix& dst, int64_t panels,
                   int64_t depth, const RowOf& row_of, bool add) {
  constexpr int n = kLanes<C>;
  for_squares<C>(team, panels, depth, row_of, [&](const Square<C>& s) {
    const C* in = src + (s.panel * depth + s.k) * kPanel<C> + s.column;
    Vec<C> v[n] = {};
    for (int k = 0; k < s.depth; k++) v[k] = load(in + k * kPanel<C>);
    transpose<C>(v);
    for (int i = 0; i < s.rows; i++) {
      const int64_t at = (s.row + i) * dst.row_stride + s.k * dst.col_stride;
      if (can_move_packs(s, storage, dst.col_stride)) {
        C* to = static_cast<C*>(dst.data) + at;
        store(to, add ? load(to) + v[i] : v[i]);
      } else {
        C values[n] = {};
        if (add) storage.gather(values, storage.at(dst.data, at), dst.col_stride, s.depth), v[i] += load(values);
        store(values, v[i]);
        storage.scatter(storage.at(dst.data, at), dst.col_stride, values, s.depth);
      }
    }
  });
}

// [rows, cols] for the product with a gradient, depth running over rows in the order that `row_of(k)` gives:
// [column panel][depth][kPanel].
template <class C, class RowOf>
void pack_transposed(const Team& team, const Storage<C>& storage, const ConstMatrix& src, C* dst, int64_t depth,
                     int64_t cols, const RowOf& row_of) {
  const Share mine = team.share(ceil_div(cols, kPanel<C>) * depth);
  for (int64_t i = mine.begin; i < mine.end; i++) {
    const int64_t col = i / depth * kPanel<C>, r = row_of(i % depth), n = r < 0 ? 0 : min(kPanel<C>, cols - col);
    C* out = dst + i * kPanel<C>;
    if (n > 0) storage.gather(out, storage.at(src.data, r * src.row_stride + col * src.col_stride), src.col_stride, n);
    for (int64_t c = n; c < kPanel<C>; c++) out[c] = 0;
  }
}

}  // namespace lstmfast::LF_ISA
