// Backward over a whole sequence: one layer, one direction, one parallel region.
//
//   pack the weights -> for each block of steps, last first: step back, step back -> dW, db, dX of the block -> next
//
// A step back multiplies the gate gradients of the following step by W_hh on top of dY and runs the cell's backward on
// the accumulators. Gate gradients exist for one block only, in cache while the weight gradients take them in; the
// first step's are carried to the block before. Only what has a destination is computed.
#pragma once
#include "direct.inl"
#include "plan.h"

namespace lstmfast::LF_ISA {

template <class Cell, class C, class Math>
class Backward {
  using P = Panels<Cell, C>;
  static constexpr int kWidth = kLanes<C>;

 public:
  // Without a workspace only bytes() may be called.
  Backward(const BackwardParams& p, const cpu::Plan& plan, const Storage<C>& storage)
      : p_(p),
        plan_(plan),
        storage_(storage),
        steps_(p.shape),
        input_(p.shape.input),
        hidden_(p.shape.hidden),
        output_(p.shape.output()),
        panels_(P::count(hidden_)),
        depth_(panels_ * kPanel<C>),
        in_panels_(ceil_div(input_, kPanel<C>)),
        out_panels_(ceil_div(output_, kPanel<C>)),
        hidden_panels_(ceil_div(hidden_, kPanel<C>)) {
    Arena arena(p.workspace);
    const int64_t batch = steps_.batch();
    block_rows_ = min(plan.backward_steps * batch, p.shape.rows);
    const bool projects = p.shape.projection > 0;
    if (p.shape.steps > 1 || p.dh0.data) w_hh_ = weights(arena, p.w_hh, out_panels_, depth_);
    if (p.dx.data) w_ih_ = weights(arena, p.w_ih, in_panels_, depth_);
    if (projects) w_hr_.packed = arena.take<C>(hidden_panels_ * output_ * kPanel<C>);
    dgates_ = arena.take<C>(panels_ * block_rows_ * kPanel<C>);
    carry_ = arena.take<C>(panels_ * batch * kPanel<C>);
    zero_ = arena.take<C>(kPanel<C>);
    c_stride_ = P::padded_units(hidden_);
    dc_ = arena.take<C>(batch * c_stride_, P::kPrivate > 0);
    c0_ = arena.take<C>(batch * c_stride_, P::kPrivate > 0);
    dh_n_ = arena.take<C>(batch * output_, p.dh_n.data);
    dh_ = arena.take<C>(out_panels_ * block_rows_ * kPanel<C>, projects);
    dy_block_ = arena.take<C>(block_rows_ * output_, !storage.is_compute && p.dy.data);
    dx_block_ = arena.take<C>(block_rows_ * input_, !storage.is_compute && p.dx.data);
    sums_ = arena.take<C>(max(out_panels_, projects ? hidden_panels_ : 0) * batch * kPanel<C>);
    dx_sums_ = arena.take<C>(block_rows_ * kPanel<C>, p.dx.data);
    direct_ih_ = plan.in_place && p.dw_ih.data && writable_in_place(p.dw_ih);
    direct_hh_ = plan.in_place && p.dw_hh.data && writable_in_place(p.dw_hh);
    const bool packs_ih = p.dw_ih.data && !direct_ih_, packs_hh = p.dw_hh.data && !direct_hh_;
    x_cols_ = arena.take<C>(block_rows_ * input_, packs_ih);
    h_cols_ = arena.take<C>(block_rows_ * output_, packs_hh);
    m_cols_ = arena.take<C>(block_rows_ * hidden_, p.dw_hr.data);
    dw_ih_ = arena.take<C>(panels_ * input_ * kPanel<C>, packs_ih);
    dw_hh_ = arena.take<C>(panels_ * output_ * kPanel<C>, packs_hh);
    dw_hr_ = arena.take<C>(out_panels_ * hidden_ * kPanel<C>, p.dw_hr.data);
    db_ = arena.take<C>(panels_ * kPanel<C>, p.db_ih.data || p.db_hh.data);
    bytes_ = arena.used();

    C* reserve = static_cast<C*>(p.reserve);
    records_ = {reserve, P::kRecord, panels_, plan.forward_steps, &steps_};
    if (projects) cell_out_ = reserve + p.shape.rows * panels_ * P::kRecord;
  }
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;

  size_t bytes() const { return bytes_; }

  void run() const {
    run_team(plan_.threads, [this](const Team& team) {
      prepare(team);
      team.meet();
      const bool against = !steps_.reverse();  // backward walks against the forward's order
      for_each_block(steps_.count(), plan_.backward_steps, against, [&](const Block& block) {
        if (dy_block_) {
          import_dy(team, block);
          team.meet();
        }
        for_each_step(block, against, [&](int64_t t) {
          step_back(team, block, t);
          if (!by_batch()) team.meet();
          initial_state_gradient(team, block, t);
        });
        team.meet();
        pack_columns(team, block);
        team.meet();
        weight_gradients(team, block);
        input_gradient(team, block);
        if (dx_block_) {
          team.meet();
          export_dx(team, block);
        }
        carry(team, block);
        team.meet();
      });
      finish(team);
    });
  }

 private:
  bool by_batch() const { return plan_.split == cpu::Split::kBatch; }
  TileCut tiles() const { return TileCut(steps_.batch()); }

  Weights<C> weights(Arena& arena, const ConstMatrix& src, int64_t col_panels, int64_t depth) const {
    if (plan_.in_place && storage_.is_compute && src.col_stride == 1)
      return {nullptr, static_cast<const C*>(src.data), src.row_stride};
    return {arena.take<C>(col_panels * depth * kPanel<C>), nullptr, 0};
  }
  bool writable_in_place(const Matrix& m) const {
    static_assert(cpu::kInPlaceRows <= kMostDirectRows);
    return storage_.is_compute && m.col_stride == 1;
  }
  // The row of W_ih, W_hh behind place k of the gate gradients.
  auto gate_at() const {
    return [this](int64_t k) { return gate_row<Cell, C>(k / kPanel<C>, k % kPanel<C>, hidden_); };
  }
  // acc += gate gradients a times a piece of column panel `panel` of W_ih or W_hh, which has `cols` columns
  template <int M>
  LF_INLINE void multiply(Tile<C, M>& acc, const PaneledRows<M, C>& a, const Weights<C>& w, int64_t panel, int64_t cols,
                          const Operand<C>& piece) const {
    const int64_t col = panel * kPanel<C>;
    if (w.in_place())
      multiply_add_rows<M, C>(acc, a, w.rows + col, w.row_stride, depth_, cols - col, gate_at());
    else
      multiply_add<M, C>(acc, a, piece.weights, piece.at, piece.ahead);
  }

  void prepare(const Team& team) const {
    if (w_hh_.packed) pack_transposed(team, storage_, p_.w_hh, w_hh_.packed, depth_, output_, gate_at());
    if (w_ih_.packed) pack_transposed(team, storage_, p_.w_ih, w_ih_.packed, depth_, input_, gate_at());
    if (w_hr_.packed)
      pack_transposed(team, storage_, p_.w_hr, w_hr_.packed, output_, hidden_, [](int64_t k) { return k; });
    clear(team, dgates_, panels_ * block_rows_ * kPanel<C>);  // padded units are never written, and must be zero
    clear(team, zero_, kPanel<C>);
    clear(team, db_, panels_ * kPanel<C>);
    if (P::kPrivate) {
      clear(team, dc_, steps_.batch() * c_stride_);
      clear(team, c0_, steps_.batch() * c_stride_);
      team.meet();
      import_state(team, storage_, p_.dc_n, dc_, steps_.batch(), hidden_, c_stride_);
      import_state(team, storage_, p_.c0, c0_, steps_.batch(), hidden_, c_stride_);
    }
    if (p_.dh_n.data) import_state(team, storage_, p_.dh_n, dh_n_, steps_.batch(), output_, output_);
  }

  // ---- between storage and compute types, a block at a time (half types only)
  template <class F>
  void for_my_rows(const Team& team, const Block& block, const F& f) const {
    for (int64_t t = block.begin; t < block.end; t++) {
      const Share mine = team.share(steps_.active(t));
      for (int64_t n = mine.begin; n < mine.end; n++) f(t, n, steps_.rows(block.begin, t) + n);
    }
  }
  void import_dy(const Team& team, const Block& block) const {
    for_my_rows(team, block, [&](int64_t t, int64_t n, int64_t i) {
      storage_.gather(dy_block_ + i * output_, dy_at(t, n), 1, output_);
    });
  }
  void export_dx(const Team& team, const Block& block) const {
    for_my_rows(team, block, [&](int64_t t, int64_t n, int64_t i) {
      C* sum = dx_block_ + i * input_;
      if (p_.accumulate_dx) add_row(sum, dx_at(t, n), input_);
      storage_.scatter(dx_at(t, n), 1, sum, input_);
    });
  }
  void add_row(C* sum, const void* src, int64_t n) const {
    C values[kPanel<C>];
    for (int64_t i = 0; i < n; i += kPanel<C>) {
      const int64_t width = min(kPanel<C>, n - i);
      storage_.gather(values, storage_.at(src, i), 1, width);
      for (int64_t k = 0; k < width; k++) sum[i + k] += values[k];
    }
  }
  const void* dy_at(int64_t t, int64_t n) const { return storage_.at(p_.dy.data, row_offset(p_.dy, steps_, t, n)); }
  void* dx_at(int64_t t, int64_t n) const { return storage_.at(p_.dx.data, row_offset(p_.dx, steps_, t, n)); }
  LF_INLINE const C* dy_row(const Block& block, int64_t t, int64_t n) const {
    return dy_block_ ? dy_block_ + (steps_.rows(block.begin, t) + n) * output_ : static_cast<const C*>(dy_at(t, n));
  }

  // ---- one step back
  // Gate gradients of step t: [panel][row of the block][kPanel], behind the block in `carry_` for the step that
  // follows.
  struct GateGradients {
    C* base;
    int64_t panel_stride;
  };
  GateGradients gate_gradients(const Block& block, int64_t t) const {
    if (t < block.begin || t >= block.end) return {carry_, steps_.batch() * kPanel<C>};
    return {dgates_ + steps_.rows(block.begin, t) * kPanel<C>, block_rows_ * kPanel<C>};
  }

  // Works through this thread's part of a step's tiles: [column panels] x [tiles of sequences] of a product with packed
  // weights of the given depth. Calls f(Int<rows>, column panel, first sequence, piece of the depth).
  template <class F>
  void for_my_tiles(const Team& team, int64_t t, int64_t col_panels, const Weights<C>& weights, int64_t depth,
                    const F& f) const {
    const TileCut cut = tiles();
    const int64_t active = steps_.active(t);
    const Share mine = by_batch() ? Share{0, col_panels * cut.tiles} : team.share(col_panels * cut.tiles);
    const Share rows_of_me = by_batch() ? team.share(cut.tiles) : Share{0, cut.tiles};
    const int64_t begin = mine.begin / cut.tiles, end = ceil_div(mine.end, cut.tiles);
    // Back and forth, as in forward: what was used last is used first.
    const auto panel_at = [&](int64_t i) { return (t & 1) ? end - 1 - i : begin + i; };
    for (int64_t i = 0; i < end - begin; i++) {
      const int64_t panel = panel_at(i), before = panel * cut.tiles;
      const Share here{max(rows_of_me.begin, mine.begin - before), min(rows_of_me.end, mine.end - before)};
      for_pieces_of(weights, panel, i + 1 < end - begin ? panel_at(i + 1) : -1, depth,
                    [&](const Piece& piece, const C* w, const C* next) {
                      for (int64_t tile = here.begin; tile < here.end; tile++) {
                        const int64_t n = cut.begin(tile), rows = min(cut.begin(tile + 1), active) - n;
                        if (rows <= 0) break;
                        const Operand<C> operand{piece, w, share_of(next, tile - here.begin, piece)};
                        with_rows(rows, [&](auto m) { f(m, panel, n, operand); });
                      }
                    });
    }
  }
  // Where a tile of a step keeps its sums between two pieces.
  C* sums_at(int64_t panel, int64_t n) const { return sums_ + (panel * steps_.batch() + n) * kPanel<C>; }
  template <int M>
  static LF_INLINE void load_sums(Tile<C, M>& acc, const C* from) {
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(from + r * kPanel<C> + j * kWidth);
  }
  template <int M>
  static LF_INLINE void store_sums(C* to, const Tile<C, M>& acc) {
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++) store(to + r * kPanel<C> + j * kWidth, acc[r][j]);
  }

  void step_back(const Team& team, const Block& block, int64_t t) const {
    for_my_tiles(team, t, out_panels_, w_hh_, depth_, [&](auto m, int64_t panel, int64_t n, const Operand<C>& piece) {
      hidden_tile<decltype(m)::value>(block, t, panel, n, piece);
    });
    if (!p_.shape.projection) return;
    if (!by_batch()) team.meet();
    for_my_tiles(team, t, hidden_panels_, w_hr_, output_,
                 [&](auto m, int64_t panel, int64_t n, const Operand<C>& piece) {
                   projected_tile<decltype(m)::value>(block, t, panel, n, piece);
                 });
  }

  // dh = dY + dh_n where the sequence ends here + (gate gradients of the following step) W_hh where it goes on
  template <int M>
  LF_NOINLINE void hidden_tile(const Block& block, int64_t t, int64_t panel, int64_t n, const Operand<C>& piece) const {
    const int64_t continued = steps_.continued(t);
    Tile<C, M> acc;
    if (n < continued) {
      if (piece.at.first)
        incoming<M>(acc, block, t, panel, n);
      else
        load_sums<M>(acc, sums_at(panel, n));
      multiply<M>(acc, rows_of(gate_gradients(block, steps_.following(t)), n, continued, Int<M>{}), w_hh_, panel,
                  output_, piece);
    }
    if (!piece.at.last) {
      if (n < continued) store_sums<M>(sums_at(panel, n), acc);
      return;
    }
    if (n + M > continued) {
      // Sequences that end here have nothing to multiply; zeros would turn an infinite weight into a NaN.
      Tile<C, M> ended;
      incoming<M>(ended, block, t, panel, n);
      for (int r = static_cast<int>(max(0, continued - n)); r < M; r++)
        for (int j = 0; j < kTileCols; j++) acc[r][j] = ended[r][j];
    }
    if (!p_.shape.projection)
      cell_tile<M>(block, t, panel, n, acc);
    else
      store_sums<M>(dh_ + (panel * block_rows_ + steps_.rows(block.begin, t) + n) * kPanel<C>, acc);
  }
  // What reaches h other than through the following step.
  template <int M>
  LF_INLINE void incoming(Tile<C, M>& acc, const Block& block, int64_t t, int64_t panel, int64_t n) const {
    const int64_t continued = steps_.continued(t);
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++) {
        const int64_t col = panel * kPanel<C> + j * kWidth, left = output_ - col;
        acc[r][j] = p_.dy.data ? load_first(dy_row(block, t, n + r) + col, left) : Vec<C>{};
        if (p_.dh_n.data && n + r >= continued) acc[r][j] += load_first(dh_n_ + (n + r) * output_ + col, left);
      }
  }
  // Sequences from `valid` on have no gate gradients there: a row of zeros that does not advance stands in.
  template <int M>
  PaneledRows<M, C> rows_of(const GateGradients& g, int64_t n, int64_t valid, Int<M>) const {
    PaneledRows<M, C> rows;
    for (int r = 0; r < M; r++) {
      rows.base[r] = n + r < valid ? g.base + (n + r) * kPanel<C> : zero_;
      rows.stride[r] = n + r < valid ? g.panel_stride : 0;
    }
    return rows;
  }
  // Through the projection: gradient of the cell's output = dh W_hr
  template <int M>
  LF_NOINLINE void projected_tile(const Block& block, int64_t t, int64_t panel, int64_t n,
                                  const Operand<C>& piece) const {
    PaneledRows<M, C> dh;
    for (int r = 0; r < M; r++) {
      dh.base[r] = dh_ + (steps_.rows(block.begin, t) + n + r) * kPanel<C>;
      dh.stride[r] = block_rows_ * kPanel<C>;
    }
    Tile<C, M> acc = {};
    if (!piece.at.first) load_sums<M>(acc, sums_at(panel, n));
    multiply_add<M, C>(acc, dh, piece.weights, piece.at, piece.ahead);
    if (piece.at.last)
      cell_tile<M>(block, t, panel, n, acc);
    else
      store_sums<M>(sums_at(panel, n), acc);
  }

  // The cell's backward on a tile of gradients of h: kTileCols packs of neighbouring units.
  template <int M>
  LF_INLINE void cell_tile(const Block& block, int64_t t, int64_t col_panel, int64_t n, const Tile<C, M>& dh) const {
    const GateGradients to = gate_gradients(block, t);
    const int64_t started = steps_.started(t), before = steps_.previous(t);
    for (int j = 0; j < kTileCols; j++) {
      const int64_t unit = col_panel * kPanel<C> + j * kWidth, left = hidden_ - unit;
      if (left <= 0) break;
      const int64_t panel = unit / P::kUnits;
      const int pack = static_cast<int>(unit % P::kUnits) / kWidth;
      const C* record = records_.at(t, panel, n);
      const C* record_before = n < started ? records_.at(before, panel, n) : nullptr;
      for (int r = 0; r < M; r++) {
        Vec<C> saved[Cell::kSaved], in[Cell::kStates], out[Cell::kStates], dout[Cell::kStates], dpre[Cell::kGates],
            din[Cell::kStates];
        const C* from = record + r * P::kRecord;
        for (int s = 0; s < Cell::kSaved; s++) saved[s] = load(from + P::offset(s, pack));
        in[0] = out[0] = Vec<C>{};  // h is not read: see cells.h
        dout[0] = dh[r][j];
        C* dc = dc_ + (n + r) * c_stride_ + unit;
        if constexpr (P::kPrivate > 0) {
          const int64_t at = kPanel<C> + pack * kWidth;
          out[1] = load(from + at);
          in[1] = n + r < started ? load(record_before + r * P::kRecord + at) : load(c0_ + (n + r) * c_stride_ + unit);
          dout[1] = load(dc);
        }
        Cell::template backward<Math>(saved, in, out, dout, dpre, din);
        C* dgates = to.base + panel * to.panel_stride + (n + r) * kPanel<C>;
        for (int g = 0; g < Cell::kGates; g++) store(dgates + P::offset(g, pack), keep_first<C>(dpre[g], left));
        if constexpr (P::kPrivate > 0) store(dc, din[1]);
      }
    }
  }

  // ---- sequences that start in step t hand their gradient to h0
  void initial_state_gradient(const Team& team, const Block& block, int64_t t) const {
    const int64_t started = steps_.started(t);
    if (!p_.dh0.data || started == steps_.active(t)) return;
    for_my_tiles(team, t, out_panels_, w_hh_, depth_, [&](auto m, int64_t panel, int64_t n, const Operand<C>& piece) {
      initial_state_tile<decltype(m)::value>(block, t, panel, n, started, piece);
    });
  }
  template <int M>
  LF_NOINLINE void initial_state_tile(const Block& block, int64_t t, int64_t panel, int64_t n, int64_t started,
                                      const Operand<C>& piece) const {
    if (n + M <= started) return;
    Tile<C, M> acc = {};
    if (!piece.at.first) load_sums<M>(acc, sums_at(panel, n));
    multiply<M>(acc, rows_of(gate_gradients(block, t), n, n + M, Int<M>{}), w_hh_, panel, output_, piece);
    if (!piece.at.last) return store_sums<M>(sums_at(panel, n), acc);
    for (int r = 0; r < M; r++) {
      if (n + r < started) continue;
      C values[kPanel<C>];
      for (int j = 0; j < kTileCols; j++) store(values + j * kWidth, acc[r][j]);
      const int64_t col = panel * kPanel<C>;
      storage_.scatter(storage_.at(p_.dh0.data, (n + r) * p_.dh0.row_stride + col), 1, values,
                       min(kPanel<C>, output_ - col));
    }
  }

  // ---- weight gradients of a block: dW' = (columns of x, h or the cell's output)' (gate gradients)
  // The columns are packed [chunk of rows][tile of columns][row][column of the tile]: rows of a matrix may lie a power
  // of two apart and would then fight for one cache set, and half types are converted on the way.
  static constexpr int64_t kChunk = cpu::kBackwardRows;

  void pack_columns(const Team& team, const Block& block) const {
    if (x_cols_) pack_side(team, storage_, block, x_cols_, input_, [this](int64_t t, int64_t n) { return x_at(t, n); });
    if (h_cols_)
      pack_side(team, storage_, block, h_cols_, output_, [this](int64_t t, int64_t n) { return h_before(t, n); });
    if (m_cols_)
      pack_side(team, StorageOf<C, C>::kStorage, block, m_cols_, hidden_,
                [this](int64_t t, int64_t n) { return cell_out_ + (steps_.first_row(t) + n) * hidden_; });
  }
  const void* x_at(int64_t t, int64_t n) const { return storage_.at(p_.x.data, row_offset(p_.x, steps_, t, n)); }
  const void* h_before(int64_t t, int64_t n) const {
    if (n < steps_.started(t)) return storage_.at(p_.y.data, row_offset(p_.y, steps_, steps_.previous(t), n));
    return p_.h0.data ? storage_.at(p_.h0.data, n * p_.h0.row_stride) : nullptr;
  }

  template <class RowAt>
  void pack_side(const Team& team, const Storage<C>& storage, const Block& block, C* dst, int64_t cols,
                 const RowAt& row_at) const {
    const TileCut cut(cols);
    const Share mine = team.share(cut.tiles);
    const int64_t rows = steps_.rows(block.begin, block.end);
    RowCursor cursor{steps_, block.begin};
    for (int64_t i = 0; i < rows; i++, cursor.next()) {
      const void* src = row_at(cursor.t, cursor.n);
      const int64_t chunk = i / kChunk * kChunk, in_chunk = min(kChunk, rows - chunk);
      for (int64_t tile = mine.begin; tile < mine.end; tile++) {
        const int64_t c0 = cut.begin(tile), width = cut.begin(tile + 1) - c0;
        C* to = dst + chunk * cols + c0 * in_chunk + (i - chunk) * width;
        if (!src)
          for (int64_t c = 0; c < width; c++) to[c] = 0;
        else if (storage.is_compute)
          with_rows(width, [&](auto w) { std::memcpy(to, static_cast<const C*>(src) + c0, sizeof(C) * w.value); });
        else
          storage.gather(to, storage.at(src, c0), 1, width);
      }
    }
  }

  void weight_gradients(const Team& team, const Block& block) const {
    const int64_t rows = steps_.rows(block.begin, block.end);
    const bool first = steps_.reverse() ? block.begin == 0 : block.end == steps_.count();
    if (x_cols_) outer_product(team, dw_ih_, x_cols_, input_, dgates_, panels_, rows, first);
    if (h_cols_) outer_product(team, dw_hh_, h_cols_, output_, dgates_, panels_, rows, first);
    if (m_cols_) outer_product(team, dw_hr_, m_cols_, hidden_, dh_, out_panels_, rows, first);
    if (direct_ih_) write_gradient(team, p_.dw_ih, input_, [this](int64_t t, int64_t n) { return x_at(t, n); });
    if (direct_hh_) write_gradient(team, p_.dw_hh, output_, [this](int64_t t, int64_t n) { return h_before(t, n); });
    if (!db_) return;
    const Share mine = team.share(panels_);
    for (int64_t panel = mine.begin; panel < mine.end; panel++) {
      const C* from = dgates_ + panel * block_rows_ * kPanel<C>;
      Vec<C> sum[kTileCols] = {};
      for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < kTileCols; j++) sum[j] += load(from + i * kPanel<C> + j * kWidth);
      C* to = db_ + panel * kPanel<C>;
      for (int j = 0; j < kTileCols; j++) store(to + j * kWidth, load(to + j * kWidth) + sum[j]);
    }
  }
  // The whole gradient at once: a call that is in place is one block.
  template <class RowAt>
  void write_gradient(const Team& team, const Matrix& dw, int64_t cols, const RowAt& row_at) const {
    const C* x[kMostDirectRows];
    RowCursor cursor{steps_, 0};
    for (int64_t i = 0; i < p_.shape.rows; i++, cursor.next()) x[i] = static_cast<const C*>(row_at(cursor.t, cursor.n));
    write_outer(team, dw, cols, x, p_.shape.rows, dgates_, block_rows_ * kPanel<C>, depth_, gate_at());
  }
  void outer_product(const Team& team, C* dst, const C* x, int64_t cols, const C* g, int64_t panels, int64_t rows,
                     bool first) const {
    const TileCut cut(cols);
    const Share mine = team.share(panels * cut.tiles);
    for (int64_t chunk = 0; chunk < rows; chunk += kChunk) {
      const int64_t depth = min(kChunk, rows - chunk);
      for (int64_t i = mine.begin; i < mine.end; i++) {
        const int64_t panel = i / cut.tiles, c0 = cut.begin(i % cut.tiles), c1 = cut.begin(i % cut.tiles + 1);
        with_rows(c1 - c0, [&](auto m) {
          accumulate_outer<decltype(m)::value, C>(dst + (panel * cols + c0) * kPanel<C>, x + chunk * cols + c0 * depth,
                                                  g + (panel * block_rows_ + chunk) * kPanel<C>, depth,
                                                  first && chunk == 0);
        });
      }
    }
  }

  // ---- dX of a block = (gate gradients) W_ih
  void input_gradient(const Team& team, const Block& block) const {
    if (!p_.dx.data) return;
    const TileCut cut(steps_.rows(block.begin, block.end));
    const Share mine = team.share(cut.tiles);
    RowCursor first{steps_, block.begin};
    for (int64_t i = 0; i < cut.begin(mine.begin); i++) first.next();
    for (int64_t panel = 0; panel < in_panels_; panel++)
      for_pieces_of(w_ih_, panel, panel + 1 < in_panels_ ? panel + 1 : -1, depth_,
                    [&](const Piece& piece, const C* weights, const C* next) {
                      RowCursor cursor = first;
                      for (int64_t i = mine.begin; i < mine.end; i++) {
                        const Operand<C> operand{piece, weights, share_of(next, i - mine.begin, piece)};
                        with_rows(cut.begin(i + 1) - cut.begin(i), [&](auto m) {
                          input_tile<decltype(m)::value>(cursor, panel, cut.begin(i), operand);
                        });
                      }
                    });
  }
  template <int M>
  LF_NOINLINE void input_tile(RowCursor& cursor, int64_t panel, int64_t first, const Operand<C>& piece) const {
    PaneledRows<M, C> dgates;
    C* dx[M];
    for (int r = 0; r < M; r++, cursor.next()) {
      dgates.base[r] = dgates_ + (first + r) * kPanel<C>;
      dgates.stride[r] = block_rows_ * kPanel<C>;
      dx[r] = dx_block_ ? dx_block_ + (first + r) * input_ : static_cast<C*>(dx_at(cursor.t, cursor.n));
    }
    Tile<C, M> acc = {};
    if (!piece.at.first) load_sums<M>(acc, dx_sums_ + first * kPanel<C>);
    multiply<M>(acc, dgates, w_ih_, panel, input_, piece);
    if (!piece.at.last) return store_sums<M>(dx_sums_ + first * kPanel<C>, acc);
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++) {
        const int64_t col = panel * kPanel<C> + j * kWidth, left = input_ - col;
        if (left <= 0) break;
        if (!dx_block_ && p_.accumulate_dx) acc[r][j] += load_first(dx[r] + col, left);
        store_first(dx[r] + col, acc[r][j], left);
      }
  }

  // ---- the gate gradients that the next block's first step needs
  void carry(const Team& team, const Block& block) const {
    const int64_t t = steps_.reverse() ? block.end - 1 : block.begin;
    const GateGradients from = gate_gradients(block, t);
    const Share mine = team.share(panels_);
    for (int64_t panel = mine.begin; panel < mine.end; panel++)
      std::memcpy(carry_ + panel * steps_.batch() * kPanel<C>, from.base + panel * from.panel_stride,
                  static_cast<size_t>(steps_.active(t) * kPanel<C>) * sizeof(C));
  }

  void finish(const Team& team) const {
    const auto gate = [this](int64_t panel, int64_t col) { return gate_row<Cell, C>(panel, col, hidden_); };
    if (dw_ih_) unpack_panels(team, storage_, dw_ih_, p_.dw_ih, panels_, input_, gate);
    if (dw_hh_) unpack_panels(team, storage_, dw_hh_, p_.dw_hh, panels_, output_, gate);
    if (dw_hr_)
      unpack_panels(team, storage_, dw_hr_, p_.dw_hr, out_panels_, hidden_,
                    [this](int64_t panel, int64_t col) { return plain_row<C>(panel, col, output_); });
    const Matrix biases[] = {p_.db_ih, p_.db_hh};
    for (const Matrix& db : biases)
      if (db.data) unpack_panels(team, storage_, db_, db, panels_, 1, gate);
    if (P::kPrivate && p_.dc0.data) {
      const Share mine = team.share(steps_.batch());
      for (int64_t n = mine.begin; n < mine.end; n++)
        storage_.scatter(storage_.at(p_.dc0.data, n * p_.dc0.row_stride), 1, dc_ + n * c_stride_, hidden_);
    }
  }

  const BackwardParams& p_;
  const cpu::Plan& plan_;
  const Storage<C>& storage_;
  const Steps steps_;
  const int64_t input_, hidden_, output_, panels_, depth_, in_panels_, out_panels_, hidden_panels_;
  Weights<C> w_hh_, w_ih_, w_hr_;     // packed for the way back: [column panel][depth][kPanel]
  bool direct_ih_, direct_hh_;        // dW is written where the caller wants it
  C *dgates_, *carry_, *zero_;        // [panel][rows of a block][kPanel], [panel][N][kPanel], [kPanel]
  C *dc_, *c0_, *dh_n_;               // [N][c_stride], [N][c_stride], [N][O]
  C* dh_;                             // [column panel of O][rows of a block][kPanel], with a projection only
  C *dy_block_, *dx_block_;           // [rows of a block][O | I], half types only
  C *sums_, *dx_sums_;                // [column panel][N][kPanel], [rows of a block][kPanel]: sums between two pieces
  C *x_cols_, *h_cols_, *m_cols_;     // packed columns of a block
  C *dw_ih_, *dw_hh_, *dw_hr_, *db_;  // [panel][I | O | H][kPanel], [panel][kPanel]
  const C* cell_out_ = nullptr;       // [R][H] in the reserve, with a projection only
  Records<C> records_;
  int64_t block_rows_, c_stride_;
  size_t bytes_;
};

}  // namespace lstmfast::LF_ISA
