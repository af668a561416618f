// How the time loops multiply with the compute type's own FMA: rows are read where they lie, weights are packed or read
// in place. TileProduct (tile_product.inl) is the other way, with the same members.
#pragma once
#include "direct.inl"
#include "plan.h"

namespace lstmfast::LF_ISA {

template <class C>
class VectorProduct {
 public:
  using Element = C;                      // what rows consist of
  static constexpr bool kRounds = false;  // rows are copied into Elements before they are multiplied
  using Weights = LF_ISA::Weights<C>;
  using Operand = LF_ISA::Operand<C>;
  using Cut = TileCut;  // of rows into tiles
  struct Region {};     // lives as long as a thread multiplies

  template <class F>
  static LF_INLINE void with_height(int64_t rows, F&& f) {
    with_rows(rows, f);
  }

  // ---- weights
  Weights weights(Arena& arena, const cpu::Plan& plan, const Storage<C>& storage, const ConstMatrix& src, int64_t cols,
                  int64_t depth) const {
    if (plan.in_place && readable_in_place<C>(src, depth)) return {nullptr, src.data, src.row_stride, storage.as};
    return packed(arena, cols, depth);
  }
  template <class RowOf>
  void pack(const Team& team, const Storage<C>& storage, const ConstMatrix& src, const Weights& to, int64_t panels,
            int64_t depth, const RowOf& row_of) const {
    if (!to.in_place()) pack_panels(team, storage, src, to.packed, panels, depth, row_of);
  }
  // The same for the way back, where depth runs over rows of the matrix.
  Weights weights_back(Arena& arena, const cpu::Plan& plan, const Storage<C>& storage, const ConstMatrix& src,
                       int64_t cols, int64_t depth) const {
    if (plan.in_place && src.col_stride == 1) return {nullptr, src.data, src.row_stride, storage.as};
    return packed(arena, cols, depth);
  }
  template <class RowOf>
  void pack_back(const Team& team, const Storage<C>& storage, const ConstMatrix& src, const Weights& to, int64_t depth,
                 int64_t cols, const RowOf& row_of) const {
    if (to.packed) pack_transposed(team, storage, src, to.packed, depth, cols, row_of);
  }

  // A piece of a panel, and what to fetch while it is in use.
  struct Pass {
    Piece at;
    const C *weights, *next;
    int packs;
    LF_INLINE Operand tile(int64_t nth) const { return {at, weights, share_of(next, nth, at), packs}; }
  };
  // Works through panel `panel` of the weights piece by piece: f(pass). `following` is the panel that is used after
  // this one, -1 if that is far off. Read in place they are one piece.
  template <class F>
  LF_INLINE void for_pieces_of(const Weights& w, int64_t panel, int64_t following, int64_t depth, const F& f) const {
    const int64_t size = depth * kPanel<C>;
    if (w.in_place())
      f(Pass{{0, depth, true, true}, nullptr, nullptr, kTileCols});
    else
      for_each_piece<C>(w.packed + panel * size, depth, following < 0 ? nullptr : w.packed + following * size,
                        [&](const Piece& piece, const C* weights, const C* next) {
                          f(Pass{piece, weights, next, packs_of<C>(w.cols, panel)});
                        });
  }

  // ---- rows
  static int64_t row_stride(int64_t width) { return width; }
  // Of a state: not a power of two, so that rows fall into different cache sets.
  static int64_t state_stride(int64_t width) { return (ceil_div(width, kLanes<C>) + 1) * kLanes<C>; }
  void import_row(const Storage<C>& storage, C* to, int64_t, const void* from, int64_t width) const {
    storage.gather(to, from, 1, width);
  }
  // The first `left` lanes of v into a row, from element `col` on.
  LF_INLINE void put(C* row, int64_t, int64_t col, Vec<C> v, int64_t left) const { store_first(row + col, v, left); }
  // Rows of a tile, at(r) the first element of each.
  template <class Height>
  struct Rows {
    const C* row[Height::kMost];
    template <class At>
    LF_INLINE Rows(Height height, int64_t, const At& at) {
      for (int r = 0; r < height.value; r++) row[r] = at(r);
    }
  };

  // acc += rows a times a piece of panel `panel`; on the spot in a step, where the cell takes over the accumulators.
  // `narrow`: the last panel may have columns missing at its end.
  template <bool on_the_spot, bool narrow, class Height, class RowOf>
  LF_INLINE void multiply(Tile<C, Height::kMost>& acc, Height, Rows<Height>& a, const Weights& w, int64_t panel,
                          const Operand& piece, const RowOf& row_of) const {
    constexpr int M = Height::kMost;
    const int64_t depth = piece.at.end - piece.at.begin;
    for (int r = 0; r < M; r++) a.row[r] += piece.at.begin;
    if (w.in_place()) {
      multiply_in_place(acc, a.row, w, depth, [&](int64_t col) { return row_of(panel, col); });
    } else if (narrow && piece.packs < kTileCols) {
      multiply_add_narrow<M, C, on_the_spot ? kChains<M> : 1>(acc, a.row, piece.weights, depth, piece.packs);
    } else if constexpr (on_the_spot) {
      multiply_add_inline<M, C>(acc, a.row, piece.weights, depth, piece.ahead);
    } else {
      multiply_add<M, C>(acc, a.row, piece.weights, depth, piece.ahead);
    }
  }
  // acc += rows a times all of panel `panel` of packed weights that are in L2: there is nothing to fetch ahead.
  template <bool one_chain, bool narrow, class Height>
  LF_INLINE void multiply_whole(Tile<C, Height::kMost>& acc, Height, const Rows<Height>& a, const Weights& w,
                                int64_t panel, int64_t depth) const {
    constexpr int M = Height::kMost;
    constexpr int kTheseChains = one_chain ? 1 : kChains<M>;
    const C* from = w.packed + panel * depth * kPanel<C>;
    const int packs = packs_of<C>(w.cols, panel);
    if (narrow && packs < kTileCols)
      multiply_add_narrow<M, C, kTheseChains>(acc, a.row, from, depth, packs);
    else
      multiply_add_inline<M, C, kTheseChains>(acc, a.row, from, depth, {from, 0});
  }

  // ---- the way back
  static int64_t panel_row_width() { return kPanel<C>; }
  LF_INLINE void put_in_panel(C* row, int64_t col, Vec<C> v) const { store(row + col, v); }
  // Row r at base + r * row_stride, a panel's width at a time; from row `valid` on a row of zeros that does not
  // advance.
  template <class Height>
  struct PaneledRows : LF_ISA::PaneledRows<Height::kMost, C> {
    LF_INLINE PaneledRows(Height height, const C* first, int64_t panel_stride, int64_t row_stride, int64_t valid,
                          const C* zero) {
      for (int r = 0; r < height.value; r++) {
        this->base[r] = r < valid ? first + r * row_stride : zero;
        this->stride[r] = r < valid ? panel_stride : 0;
      }
    }
  };
  // acc += rows times a piece of column panel `panel` of weights that have `cols` columns; row_of as for packing
  template <class Height, class RowOf>
  LF_INLINE void multiply_back(Tile<C, Height::kMost>& acc, const PaneledRows<Height>& a, const Weights& w,
                               int64_t panel, int64_t cols, int64_t depth, const Operand& piece,
                               const RowOf& row_of) const {
    constexpr int M = Height::kMost;
    const int64_t col = panel * kPanel<C>;
    if (!w.in_place()) return multiply_panels(acc, a, piece);
    with_stored<C>(w.as, [&](auto stored) {
      using S = decltype(stored);
      multiply_add_rows<M, C, S>(acc, a, static_cast<const S*>(w.rows) + col, w.row_stride, depth, cols - col, row_of);
    });
  }
  template <class Height>
  LF_INLINE void multiply_panels(Tile<C, Height::kMost>& acc, const PaneledRows<Height>& a,
                                 const Operand& piece) const {
    constexpr int M = Height::kMost;
    if (piece.packs < kTileCols)
      multiply_add_narrow<M, C>(acc, a, piece);
    else
      multiply_add<M, C>(acc, a, piece);
  }

  // ---- weight gradients: dW' = (columns of x, h or the cell's output)' (gate gradients)
  // The columns are packed [chunk of rows][tile of columns][row][column of the tile]: rows of a matrix may lie a power
  // of two apart and would then fight for one cache set, and half types are converted on the way.
  static constexpr int64_t kChunk = cpu::kBackwardRows;

  static int64_t columns_size(int64_t cols, int64_t rows) { return cols * rows; }
  template <class RowAt>
  void pack_columns(const Team& team, const Storage<C>& storage, const Steps& steps, const Block& block, C* dst,
                    int64_t cols, int64_t, const RowAt& row_at) const {
    const TileCut cut(cols);
    const Share mine = team.share(cut.tiles);
    const int64_t rows = steps.rows(block.begin, block.end);
    RowCursor cursor{steps, block.begin};
    for (int64_t i = 0; i < rows; i++, cursor.next()) {
      const void* src = row_at(cursor.t, cursor.n);
      const int64_t chunk = i / kChunk * kChunk, in_chunk = min(kChunk, rows - chunk);
      for (int64_t tile = mine.begin; tile < mine.end; tile++) {
        const int64_t c0 = cut.begin(tile), width = cut.begin(tile + 1) - c0;
        C* to = dst + chunk * cols + c0 * in_chunk + (i - chunk) * width;
        if (!src)
          for (int64_t c = 0; c < width; c++) to[c] = 0;
        else if (storage.is_compute())
          with_rows(width, [&](auto w) { std::memcpy(to, static_cast<const C*>(src) + c0, sizeof(C) * w.value); });
        else
          storage.gather(to, storage.at(src, c0), 1, width);
      }
    }
  }
  // g has `g_cols` columns in its panels.
  void outer_product(const Team& team, C* dst, const C* x, int64_t cols, const C* g, int64_t g_cols, int64_t block_rows,
                     int64_t rows, bool first) const {
    const TileCut cut(cols);
    const Share mine = team.share(ceil_div(g_cols, kPanel<C>) * cut.tiles);
    for (int64_t chunk = 0; chunk < rows; chunk += kChunk) {
      const int64_t depth = min(kChunk, rows - chunk);
      for (int64_t i = mine.begin; i < mine.end; i++) {
        const int64_t panel = i / cut.tiles, c0 = cut.begin(i % cut.tiles), c1 = cut.begin(i % cut.tiles + 1);
        const int packs = packs_of<C>(g_cols, panel);
        C* to = dst + (panel * cols + c0) * kPanel<C>;
        const C *from_x = x + chunk * cols + c0 * depth, *from_g = g + (panel * block_rows + chunk) * kPanel<C>;
        with_rows(c1 - c0, [&](auto m) {
          constexpr int M = decltype(m)::value;
          if (packs < kTileCols)
            accumulate_outer_narrow<M, C>(to, from_x, from_g, depth, first && chunk == 0, packs);
          else
            accumulate_outer<M, C>(to, from_x, from_g, depth, first && chunk == 0);
        });
      }
    }
  }

 private:
  static Weights packed(Arena& arena, int64_t cols, int64_t depth) {
    return {arena.take<C>(ceil_div(cols, kPanel<C>) * depth * kPanel<C>), nullptr, 0, Stored::kComputed, cols};
  }
};

}  // namespace lstmfast::LF_ISA
