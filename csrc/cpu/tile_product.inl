// How the time loops multiply on AMX: sums of 16 rows x 64 columns in four tile registers, bfloat16 operands, float32
// accumulation. The members are those of VectorProduct.
//
// Rows are rounded to bfloat16 when they are written or imported, weights when they are packed. With two planes a
// number is kept as the sum of two bfloat16, x = high + low, and a product is high * high + high * low + low * high:
// 16 bits of mantissa, for three times the work. What is infinite has no low part.
//
// The instruction wants pairs: a register of weights has 16 rows of 16 columns of two consecutive depths. Depth comes
// in steps of 32, padded with zeros on both sides: of the rows too, since whatever lies behind them may be a NaN.
//
// A row's sum does not depend on the tile that it is in, so tiles are cut as the tile registers like it best.
#pragma once
#include "amx_tiles.h"
#include "layout.h"
#include "plan.h"
#include "storage.inl"
#include "team.h"

namespace lstmfast::LF_ISA {

static_assert(LF_VECTOR_BYTES == 64, "a register's row is a vector");

constexpr int kAmxRows = 16, kAmxDepth = 32;
constexpr int64_t kAmxTile = kAmxRows * kAmxDepth;  // elements of a register

// The height of a tile that lies in memory and tile registers.
struct AnyHeight {
  int value;
  static constexpr int kMost = kAmxRows;
};

// n rows cut into the fewest tiles of one height, but for the last: a change of height costs a new configuration.
struct AmxCut {
  int64_t n, tiles, height;
  explicit AmxCut(int64_t rows) : n(rows), tiles(ceil_div(rows, kAmxRows)), height(tiles ? ceil_div(rows, tiles) : 0) {}
  LF_INLINE int64_t begin(int64_t i) const { return min(n, i * height); }
};

// ---- registers: sums in 0 to 3, rows in 4 and 5 (two planes), weights in 6 and 7
static thread_local int configured_rows = 0;

LF_INLINE void configure(int rows) {
  if (rows == configured_rows) return;
  amx::Config c{};
  c.palette = 1;
  for (int tile = 0; tile < 8; tile++) {
    c.row_bytes[tile] = 64;
    c.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kAmxRows);
  }
  amx::load_config(c);
  configured_rows = rows;
}
// While a thread multiplies. The registers are part of a thread's state that the system saves while they are in use.
struct AmxRegion {
  AmxRegion() { configured_rows = 0; }
  ~AmxRegion() {
    amx::release();
    configured_rows = 0;
  }
  AmxRegion(const AmxRegion&) = delete;
  AmxRegion& operator=(const AmxRegion&) = delete;
};

template <int tile, int planes>
LF_INLINE void multiply_add_column(const BFloat16* w) {
  constexpr int high = planes == 2 ? 6 : 6 + tile % 2;
  amx::load<high>(w, 64);
  amx::multiply_add<tile, 4, high>();
  if constexpr (planes == 2) {
    amx::multiply_add<tile, 5, high>();
    amx::load<7>(w + kTileCols * kAmxTile, 64);
    amx::multiply_add<tile, 4, 7>();
  }
}
// acc += sum over `steps` steps of depth, whose rows are at(step), `stride` apart, their second plane `plane` behind.
template <int planes, class At>
LF_INLINE void multiply_add(Tile<float, kAmxRows>& acc, int rows, const At& at, int64_t stride, int64_t plane,
                            const BFloat16* w, int64_t steps) {
  configure(rows);
  constexpr int64_t kRow = kPanel<float> * sizeof(float);
  float* sums = reinterpret_cast<float*>(&acc);
  amx::load<0>(sums, kRow);
  amx::load<1>(sums + 16, kRow);
  amx::load<2>(sums + 32, kRow);
  amx::load<3>(sums + 48, kRow);
  for (int64_t s = 0; s < steps; s++, w += planes * kTileCols * kAmxTile) {
    const BFloat16* a = at(s);
    amx::load<4>(a, stride * 2);
    if constexpr (planes == 2) amx::load<5>(a + plane, stride * 2);
    multiply_add_column<0, planes>(w);
    multiply_add_column<1, planes>(w + kAmxTile);
    multiply_add_column<2, planes>(w + 2 * kAmxTile);
    multiply_add_column<3, planes>(w + 3 * kAmxTile);
  }
  amx::store<0>(sums, kRow);
  amx::store<1>(sums + 16, kRow);
  amx::store<2>(sums + 32, kRow);
  amx::store<3>(sums + 48, kRow);
}

// ---- rounding, 16 lanes at a time
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
typedef uint16_t UnalignedHalfBits __attribute__((vector_size(32), aligned(2), may_alias));

// To nearest, ties to even, in the upper half of each lane; a NaN stays one. Like convert() in storage.inl.
LF_INLINE Bits rounded(Vec<float> x) {
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits nearest = bits + 0x7fff + ((bits >> 16) & 1);
  return (x != x ? Bits{} + 0x7fc00000 : nearest) & 0xffff0000;
}
struct Planes {
  Bits high, low;
};
LF_INLINE Planes planes_of(Vec<float> x) {
  const Bits high = rounded(x);
  const Bits low = rounded(x - reinterpret_cast<Vec<float>>(high));
  return {high, (high & 0x7f800000) == 0x7f800000 ? Bits{} : low};
}
// Lane i: the pair (first[i], second[i]) as it lies in memory.
LF_INLINE Bits paired(Bits first, Bits second) { return first >> 16 | second; }

// ---- weights
// [panel][step of 32 depths][plane][tile of 16 columns][pair of depths][column][2]
struct AmxWeights {
  BFloat16* packed = nullptr;
};

class TileProduct {
 public:
  using Element = BFloat16;
  static constexpr bool kRounds = true;
  using Weights = AmxWeights;
  using Cut = AmxCut;
  using Region = AmxRegion;
  struct Operand {
    Piece at;
    const BFloat16* weights;
  };

  explicit TileProduct(int planes) : planes_(planes) {}

  template <class F>
  static LF_INLINE void with_height(int64_t rows, F&& f) {
    f(AnyHeight{static_cast<int>(rows)});
  }

  Weights weights(Arena& arena, const cpu::Plan&, const Storage<float>&, const ConstMatrix&, int64_t cols,
                  int64_t depth) const {
    return {arena.take<BFloat16>(ceil_div(cols, kPanel<float>) * steps_of(depth) * step_size())};
  }
  // Columns of a panel are rows of the matrix: 32 neighbours of each, paired, then turned by squares of lanes.
  template <class RowOf>
  void pack(const Team& team, const Storage<float>& storage, const ConstMatrix& src, const Weights& to, int64_t panels,
            int64_t depth, const RowOf& row_of) const {
    const Share mine = team.share(panels * steps_of(depth));
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t panel = i / steps_of(depth), k = i % steps_of(depth) * kAmxDepth, n = min(kAmxDepth, depth - k);
      for (int64_t tile = 0; tile < kTileCols; tile++) {
        Vec<float> high[kAmxRows], low[kAmxRows];
        for (int c = 0; c < kAmxRows; c++) {
          const int64_t r = row_of(panel, tile * kAmxRows + c);
          float values[kAmxDepth] = {};
          if (r >= 0)
            storage.gather(values, storage.at(src.data, r * src.row_stride + k * src.col_stride), src.col_stride, n);
          const Planes p = pairs_of(values);
          high[c] = reinterpret_cast<Vec<float>>(p.high), low[c] = reinterpret_cast<Vec<float>>(p.low);
        }
        store_turned(to.packed + i * step_size() + tile * kAmxTile, high);
        if (planes_ == 2) store_turned(to.packed + i * step_size() + (kTileCols + tile) * kAmxTile, low);
      }
    }
  }

  struct Pass {
    Piece at;
    const BFloat16* weights;
    LF_INLINE Operand tile(int64_t) const { return {at, weights}; }
  };
  // Pieces of 128 KiB, as in for_each_piece. Nothing is fetched ahead: whether that pays here has not been measured.
  template <class F>
  LF_INLINE void for_pieces_of(const Weights& w, int64_t panel, int64_t, int64_t depth, const F& f) const {
    const int64_t piece = (128 << 10) / (2 * step_size()) * kAmxDepth;
    const BFloat16* from = w.packed + panel * steps_of(depth) * step_size();
    int64_t begin = 0;
    do {
      const int64_t end = min(depth, begin + piece);
      f(Pass{{begin, end, begin == 0, end == depth}, from + begin / kAmxDepth * step_size()});
      begin = end;
    } while (begin < depth);
  }

  // ---- rows: [plane][width, padded with zeros], and a cache line so that rows fall into different cache sets
  int64_t row_stride(int64_t width) const { return planes_ * steps_of(width) * kAmxDepth + kAmxDepth; }
  int64_t state_stride(int64_t width) const { return row_stride(width); }
  void import_row(const Storage<float>& storage, BFloat16* to, int64_t stride, const void* from, int64_t width) const {
    for (int64_t k = 0; k < width; k += kAmxDepth) {
      float values[kAmxDepth] = {};
      storage.gather(values, storage.at(from, k), 1, min(kAmxDepth, width - k));
      const Planes p = pairs_of(values);
      store_bits(to + k, p.high);
      if (planes_ == 2) store_bits(to + plane_of(stride) + k, p.low);
    }
  }
  // The padding behind a row's width must be zero already.
  LF_INLINE void put(BFloat16* row, int64_t stride, int64_t col, Vec<float> v, int64_t left) const {
    const Planes p = planes_of(v);
    put_first(row + col, p.high, left);
    if (planes_ == 2) put_first(row + plane_of(stride) + col, p.low, left);
  }
  template <class>
  struct Rows {
    const BFloat16* first;
    int64_t stride;
    // The rows of a tile lie side by side; at() is called for each, as VectorProduct does.
    template <class At>
    LF_INLINE Rows(AnyHeight height, int64_t row_stride, const At& at) : first(at(0)), stride(row_stride) {
      for (int r = 1; r < height.value; r++) at(r);
    }
  };

  template <bool, bool, class RowOf>
  LF_INLINE void multiply(Tile<float, kAmxRows>& acc, AnyHeight height, const Rows<AnyHeight>& a, const Weights&,
                          int64_t, const Operand& piece, const RowOf&) const {
    const BFloat16* from = a.first + piece.at.begin;
    const int64_t steps = steps_of(piece.at.end - piece.at.begin);
    (planes_ == 2 ? multiply_rows<2> : multiply_rows<1>)(acc, height.value, from, a.stride, plane_of(a.stride),
                                                         piece.weights, steps);
  }
  template <bool, bool>
  LF_INLINE void multiply_whole(Tile<float, kAmxRows>& acc, AnyHeight height, const Rows<AnyHeight>& a,
                                const Weights& w, int64_t panel, int64_t depth) const {
    const BFloat16* from = w.packed + panel * steps_of(depth) * step_size();
    (planes_ == 2 ? multiply_rows<2> : multiply_rows<1>)(acc, height.value, a.first, a.stride, plane_of(a.stride), from,
                                                         steps_of(depth));
  }

  // ---- the way back: depth runs over rows of the matrix, two of which make the pairs
  Weights weights_back(Arena& arena, const cpu::Plan& plan, const Storage<float>& storage, const ConstMatrix& src,
                       int64_t cols, int64_t depth) const {
    return weights(arena, plan, storage, src, cols, depth);
  }
  template <class RowOf>
  void pack_back(const Team& team, const Storage<float>& storage, const ConstMatrix& src, const Weights& to,
                 int64_t depth, int64_t cols, const RowOf& row_of) const {
    if (!to.packed) return;
    const Share mine = team.share(ceil_div(cols, kPanel<float>) * steps_of(depth));
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t col = i / steps_of(depth) * kPanel<float>, k = i % steps_of(depth) * kAmxDepth;
      const int64_t n = min(kPanel<float>, cols - col);
      pack_step(to.packed + i * step_size(), [&](int64_t row, float* values) {
        const int64_t r = k + row < depth ? row_of(k + row) : -1;
        if (r >= 0)
          storage.gather(values, storage.at(src.data, r * src.row_stride + col * src.col_stride), src.col_stride, n);
      });
    }
  }

  // Rows in panels: [plane][kPanel].
  int64_t panel_row_width() const { return planes_ * kPanel<float>; }
  LF_INLINE void put_in_panel(BFloat16* row, int64_t col, Vec<float> v) const {
    const Planes p = planes_of(v);
    put_first(row + col, p.high, kAmxRows);
    if (planes_ == 2) put_first(row + kPanel<float> + col, p.low, kAmxRows);
  }
  template <class>
  struct PaneledRows {
    const BFloat16* first;
    int64_t panel_stride, row_stride;
    int rows;  // those that are there; the others' sums stay as they are
    LF_INLINE PaneledRows(AnyHeight height, const BFloat16* from, int64_t panels_apart, int64_t rows_apart,
                          int64_t valid, const float*)
        : first(from),
          panel_stride(panels_apart),
          row_stride(rows_apart),
          rows(static_cast<int>(min(height.value, valid))) {}
  };
  template <class RowOf>
  LF_INLINE void multiply_back(Tile<float, kAmxRows>& acc, const PaneledRows<AnyHeight>& a, const Weights&, int64_t,
                               int64_t, int64_t, const Operand& piece, const RowOf&) const {
    multiply_panels(acc, a, piece);
  }
  LF_INLINE void multiply_panels(Tile<float, kAmxRows>& acc, const PaneledRows<AnyHeight>& a,
                                 const Operand& piece) const {
    (planes_ == 2 ? multiply_paneled<2> : multiply_paneled<1>)(acc, a, piece);
  }

  // ---- weight gradients: the columns are rows of a product whose depth runs over a block's rows
  int64_t columns_size(int64_t cols, int64_t rows) const { return cols * row_stride(rows); }
  template <class RowAt>
  void pack_columns(const Team& team, const Storage<float>& storage, const Steps& steps, const Block& block,
                    BFloat16* dst, int64_t cols, int64_t block_rows, const RowAt& row_at) const {
    const int64_t rows = steps.rows(block.begin, block.end), stride = row_stride(block_rows);
    const Share mine = team.share(ceil_div(cols, kAmxRows));
    RowCursor cursor{steps, block.begin};
    for (int64_t k = 0; k < rows; k += kAmxDepth) {
      const void* src[kAmxDepth] = {};
      for (int64_t i = 0; i < min(kAmxDepth, rows - k); i++, cursor.next()) src[i] = row_at(cursor.t, cursor.n);
      for (int64_t tile = mine.begin; tile < mine.end; tile++) {
        const int64_t col = tile * kAmxRows, width = min(kAmxRows, cols - col);
        const auto row = [&](int i) {
          float values[kAmxRows] = {};
          if (src[i]) storage.gather(values, storage.at(src[i], col), 1, width);
          return planes_of(load(values));
        };
        Vec<float> high[kAmxRows], low[kAmxRows];
        for (int i = 0; i < kAmxRows; i++) {
          const Planes first = row(2 * i), second = row(2 * i + 1);
          high[i] = reinterpret_cast<Vec<float>>(paired(first.high, second.high));
          low[i] = reinterpret_cast<Vec<float>>(paired(first.low, second.low));
        }
        store_turned(dst + col * stride + k, high, stride, width);
        if (planes_ == 2) store_turned(dst + col * stride + plane_of(stride) + k, low, stride, width);
      }
    }
  }
  int64_t panels_size(int64_t panels, int64_t rows) const { return panels * steps_of(rows) * step_size(); }
  // [panel][row of the block][kPanel] into panels as of weights.
  void pack_rows(const Team& team, const float* src, BFloat16* dst, int64_t panels, int64_t block_rows,
                 int64_t rows) const {
    const Share mine = team.share(panels * steps_of(rows));
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t panel = i / steps_of(rows), step = i % steps_of(rows), k = step * kAmxDepth;
      pack_step(dst + (panel * steps_of(block_rows) + step) * step_size(), [&](int64_t row, float* values) {
        if (k + row < rows)
          std::memcpy(values, src + (panel * block_rows + k + row) * kPanel<float>, sizeof(float) * kPanel<float>);
      });
    }
  }
  void outer_product(const Team& team, float* dst, const BFloat16* x, int64_t cols, const BFloat16* g, int64_t g_cols,
                     int64_t block_rows, int64_t rows, bool first) const {
    const AmxCut cut(cols);
    const Share mine = team.share(ceil_div(g_cols, kPanel<float>) * cut.tiles);
    const int64_t stride = row_stride(block_rows);
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t panel = i / cut.tiles, col = cut.begin(i % cut.tiles), width = cut.begin(i % cut.tiles + 1) - col;
      // From zero, and added once: rounding errors then do not grow with the length of the sequence times the block's.
      Tile<float, kAmxRows> acc = {};
      (planes_ == 2 ? multiply_rows<2>
                    : multiply_rows<1>)(acc, static_cast<int>(width), x + col * stride, stride, plane_of(stride),
                                        g + panel * steps_of(block_rows) * step_size(), steps_of(rows));
      for (int64_t c = 0; c < width; c++)
        for (int j = 0; j < kTileCols; j++) {
          float* to = dst + (panel * cols + col + c) * kPanel<float> + j * kLanes<float>;
          store(to, first ? acc[c][j] : load(to) + acc[c][j]);
        }
    }
  }

 private:
  static int64_t steps_of(int64_t depth) { return ceil_div(depth, kAmxDepth); }
  int64_t step_size() const { return planes_ * kTileCols * kAmxTile; }
  int64_t plane_of(int64_t stride) const { return (stride - kAmxDepth) / planes_; }

  template <int planes>
  static LF_NOINLINE void multiply_rows(Tile<float, kAmxRows>& acc, int rows, const BFloat16* a, int64_t stride,
                                        int64_t plane, const BFloat16* w, int64_t steps) {
    multiply_add<planes>(acc, rows, [&](int64_t s) { return a + s * kAmxDepth; }, stride, plane, w, steps);
  }

  template <int planes>
  static LF_NOINLINE void multiply_paneled(Tile<float, kAmxRows>& acc, const PaneledRows<AnyHeight>& a,
                                           const Operand& piece) {
    const BFloat16* from = a.first + piece.at.begin / kPanel<float> * a.panel_stride;
    constexpr int64_t kSteps = kPanel<float> / kAmxDepth;  // a panel's
    const auto at = [&](int64_t s) { return from + s / kSteps * a.panel_stride + s % kSteps * kAmxDepth; };
    multiply_add<planes>(acc, a.rows, at, a.row_stride, kPanel<float>, piece.weights,
                         steps_of(piece.at.end - piece.at.begin));
  }

  // A step of weights from its 32 rows: fill(row, values) sets the columns that there are.
  template <class Fill>
  void pack_step(BFloat16* to, const Fill& fill) const {
    for (int pair = 0; pair < kAmxRows; pair++) {
      float first[kPanel<float>] = {}, second[kPanel<float>] = {};
      fill(2 * pair, first);
      fill(2 * pair + 1, second);
      for (int tile = 0; tile < kTileCols; tile++) {
        const Planes a = planes_of(load(first + tile * kAmxRows)), b = planes_of(load(second + tile * kAmxRows));
        BFloat16* at = to + tile * kAmxTile + pair * kAmxDepth;
        store_bits(at, paired(a.high, b.high));
        if (planes_ == 2) store_bits(at + kTileCols * kAmxTile, paired(a.low, b.low));
      }
    }
  }

  // 32 neighbours as 16 pairs.
  static LF_INLINE Planes pairs_of(const float (&values)[kAmxDepth]) {
    const Vec<float> a = load(values), b = load(values + 16);
    const Planes even = planes_of(pair<float, Pairing::kEven>(a, b)), odd = planes_of(pair<float, Pairing::kOdd>(a, b));
    return {paired(even.high, odd.high), paired(even.low, odd.low)};
  }
  static LF_INLINE void store_bits(BFloat16* to, Bits bits) {
    store(reinterpret_cast<float*>(to), reinterpret_cast<Vec<float>>(bits));
  }
  static LF_INLINE void store_turned(BFloat16* to, Vec<float> (&v)[kAmxRows], int64_t stride = kAmxDepth,
                                     int64_t rows = kAmxRows) {
    transpose<float>(v);
    for (int i = 0; i < rows; i++) store(reinterpret_cast<float*>(to + i * stride), v[i]);
  }
  static LF_INLINE void put_first(BFloat16* to, Bits bits, int64_t n) {
    const HalfBits half = __builtin_convertvector(bits >> 16, HalfBits);
    if (n >= kAmxRows)
      *reinterpret_cast<UnalignedHalfBits*>(to) = half;
    else if (n > 0)
      std::memcpy(to, &half, static_cast<size_t>(n) * 2);
  }

  int planes_;
};

}  // namespace lstmfast::LF_ISA
