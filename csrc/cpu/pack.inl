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

// Elements of a source row at a time: the part of a panel that is written meanwhile stays in L1.
constexpr int64_t kPackDepth = 16;

// Calls f(panel, column of the panel, its source row or -1, first, last) for pieces of depth [first, last).
template <class C, class RowOf, class F>
LF_INLINE void for_panel_pieces(const Team& team, int64_t panels, int64_t depth, const RowOf& row_of, const F& f) {
  const int64_t pieces = ceil_div(depth, kPackDepth);
  const Share mine = team.share(panels * pieces);
  for (int64_t i = mine.begin; i < mine.end; i++) {
    const int64_t panel = i / pieces, first = i % pieces * kPackDepth, last = min(first + kPackDepth, depth);
    for (int64_t c = 0; c < kPanel<C>; c++) f(panel, c, row_of(panel, c), first, last);
  }
}

// [rows, depth] -> [panel][depth][kPanel], column c of a panel from source row `row_of(panel, c)`.
template <class C, class RowOf>
void pack_panels(const Team& team, const Storage<C>& storage, const ConstMatrix& src, C* dst, int64_t panels,
                 int64_t depth, const RowOf& row_of) {
  for_panel_pieces<C>(team, panels, depth, row_of, [&](int64_t panel, int64_t c, int64_t r, int64_t k0, int64_t k1) {
    C values[kPackDepth] = {};
    if (r >= 0)
      storage.gather(values, storage.at(src.data, r * src.row_stride + k0 * src.col_stride), src.col_stride, k1 - k0);
    C* out = dst + (panel * depth + k0) * kPanel<C> + c;
    for (int64_t k = 0; k < k1 - k0; k++) out[k * kPanel<C>] = values[k];
  });
}

// The way back for weight gradients.
template <class C, class RowOf>
void unpack_panels(const Team& team, const Storage<C>& storage, const C* src, const Matrix& dst, int64_t panels,
                   int64_t depth, const RowOf& row_of) {
  for_panel_pieces<C>(team, panels, depth, row_of, [&](int64_t panel, int64_t c, int64_t r, int64_t k0, int64_t k1) {
    if (r < 0) return;
    C values[kPackDepth];
    const C* in = src + (panel * depth + k0) * kPanel<C> + c;
    for (int64_t k = 0; k < k1 - k0; k++) values[k] = in[k * kPanel<C>];
    storage.scatter(storage.at(dst.data, r * dst.row_stride + k0 * dst.col_stride), dst.col_stride, values, k1 - k0);
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
    if (n > 0)
      storage.gather(out, storage.at(src.data, r * src.row_stride + col * src.col_stride), src.col_stride, n);
    for (int64_t c = n; c < kPanel<C>; c++) out[c] = 0;
  }
}

}  // namespace lstmfast::LF_ISA
