// Backward over a whole sequence: one layer, one direction, one parallel region.
//
//   pack the weights -> for each block of steps, last first: step back, step back -> dW, db, dX of the block -> next
//
// A step back multiplies the gate gradients of the following step by W_hh on top of dY and runs the cell's backward on
// the accumulators. Gate gradients exist for one block only, in cache while the weight gradients take them in; the
// first step's are carried to the block before. Only what has a destination is computed.
#pragma once
#include "weight_gradients.inl"

namespace lstmfast::LF_ISA {

// Rows that Product rounds are kept beside the numbers that they were rounded from, which biases and the cell take.
template <class Cell, class C, class Math, class Product>
class Backward {
  using P = Panels<Cell, C>;
  using E = typename Product::Element;
  using Weights = typename Product::Weights;
  using Operand = typename Product::Operand;
  template <class Height>
  using PaneledRows = typename Product::template PaneledRows<Height>;
  static constexpr int kWidth = kLanes<C>;

 public:
  // Without a workspace only bytes() may be called.
  Backward(const BackwardParams& p, const cpu::Plan& plan, const Storage<C>& storage, const Product& product)
      : p_(p),
        plan_(plan),
        storage_(storage),
        product_(product),
        steps_(p.shape),
        input_(p.shape.input),
        hidden_(p.shape.hidden),
        output_(p.shape.output()),
        panels_(P::count(hidden_)),
        depth_(panels_ * kPanel<C>),
        in_panels_(ceil_div(input_, kPanel<C>)),
        out_panels_(ceil_div(output_, kPanel<C>)),
        hidden_panels_(ceil_div(hidden_, kPanel<C>)),
        row_width_(product.panel_row_width()),
        block_rows_(min(plan.backward_steps * steps_.batch(), p.shape.rows)),
        arena_(p.workspace),
        dgates_(arena_.take<C>(panels_ * block_rows_ * kPanel<C>)),
        dh_(arena_.take<C>(out_panels_ * block_rows_ * kPanel<C>, p.shape.projection > 0)),
        weight_gradients_(p, plan, storage, product_, steps_, arena_, {dgates_, dh_, block_rows_}) {
    const int64_t batch = steps_.batch();
    const bool projects = p.shape.projection > 0;
    if (p.shape.steps > 1 || p.dh0.data) w_hh_ = product.weights_back(arena_, plan, storage, p.w_hh, output_, depth_);
    if (p.dx.data) w_ih_ = product.weights_back(arena_, plan, storage, p.w_ih, input_, depth_);
    if (projects) w_hr_ = product.weights_back(arena_, cpu::Plan{}, storage, p.w_hr, hidden_, output_);
    carry_ = arena_.take<E>(panels_ * batch * row_width_);
    zero_ = arena_.take<C>(kPanel<C>, !Product::kRounds);
    c_stride_ = P::padded_units(hidden_);
    dc_ = arena_.take<C>(batch * c_stride_, P::kPrivate > 0);
    c0_ = arena_.take<C>(batch * c_stride_, P::kPrivate > 0);
    dh_n_ = arena_.take<C>(batch * output_, p.dh_n.data);
    if constexpr (Product::kRounds) {
      dgate_rows_ = arena_.take<E>(panels_ * block_rows_ * row_width_);
      dh_rows_ = arena_.take<E>(out_panels_ * block_rows_ * row_width_, projects);
    } else {
      dgate_rows_ = dgates_, dh_rows_ = dh_;
    }
    dy_block_ = arena_.take<C>(block_rows_ * output_, !storage.is_compute() && p.dy.data);
    dx_block_ = arena_.take<C>(block_rows_ * input_, !storage.is_compute() && p.dx.data);
    sums_ = arena_.take<C>(max(out_panels_, projects ? hidden_panels_ : 0) * batch * kPanel<C>);
    dx_sums_ = arena_.take<C>(block_rows_ * kPanel<C>, p.dx.data);

    records_ = {static_cast<C*>(p.reserve), P::kRecord, panels_, plan.forward_steps, &steps_};
  }
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;

  size_t bytes() const { return arena_.used(); }

  void run() const {
    run_team(plan_.threads, [this](const Team& team) {
      [[maybe_unused]] const typename Product::Region region;
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
        weight_gradients_.pack(team, block);
        team.meet();
        weight_gradients_.add(team, block, is_last(block));
        input_gradient(team, block);
        if (dx_block_) {
          team.meet();
          export_dx(team, block);
        }
        carry(team, block);
        team.meet();
      });
      weight_gradients_.finish(team);
      write_initial_state(team);
    });
  }

 private:
  bool by_batch() const { return plan_.split == cpu::Split::kBatch; }
  auto tiles() const { return typename Product::Cut(steps_.batch()); }

  // In walking order: where the way back begins.
  bool is_last(const Block& block) const { return steps_.reverse() ? block.begin == 0 : block.end == steps_.count(); }
  // The row of W_ih, W_hh behind place k of the gate gradients.
  auto gate_at() const {
    return [this](int64_t k) { return gate_row<Cell, C>(k / kPanel<C>, k % kPanel<C>, hidden_); };
  }
  void prepare(const Team& team) const {
    product_.pack_back(team, storage_, p_.w_hh, w_hh_, depth_, output_, gate_at());
    product_.pack_back(team, storage_, p_.w_ih, w_ih_, depth_, input_, gate_at());
    product_.pack_back(team, storage_, p_.w_hr, w_hr_, output_, hidden_, [](int64_t k) { return k; });
    clear(team, dgates_, panels_ * block_rows_ * kPanel<C>);  // padded units are never written, and must be zero
    if constexpr (Product::kRounds) clear(team, dgate_rows_, panels_ * block_rows_ * row_width_);
    clear(team, zero_, kPanel<C>);
    weight_gradients_.prepare(team);
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
  // Gate gradients of step t as rows of a product: [panel][row of the block][row_width], behind the block in `carry_`
  // for the step that follows.
  struct GateGradients {
    E* base;
    int64_t panel_stride;
  };
  GateGradients gate_gradients(const Block& block, int64_t t) const {
    if (t < block.begin || t >= block.end) return {carry_, steps_.batch() * row_width_};
    return {dgate_rows_ + steps_.rows(block.begin, t) * row_width_, block_rows_ * row_width_};
  }

  // Works through this thread's part of a step's tiles: [column panels] x [tiles of sequences] of a product with packed
  // weights of the given depth. Calls f(height, column panel, first sequence, piece of the depth).
  template <class F>
  void for_my_tiles(const Team& team, int64_t t, int64_t col_panels, const Weights& weights, int64_t depth,
                    const F& f) const {
    const auto cut = tiles();
    const int64_t active = steps_.active(t);
    const Share mine = by_batch() ? Share{0, col_panels * cut.tiles} : team.share(col_panels * cut.tiles);
    const Share rows_of_me = by_batch() ? team.share(cut.tiles) : Share{0, cut.tiles};
    const int64_t begin = mine.begin / cut.tiles, end = ceil_div(mine.end, cut.tiles);
    // Back and forth, as in forward: what was used last is used first.
    const auto panel_at = [&](int64_t i) { return (t & 1) ? end - 1 - i : begin + i; };
    for (int64_t i = 0; i < end - begin; i++) {
      const int64_t panel = panel_at(i), before = panel * cut.tiles;
      const Share here{max(rows_of_me.begin, mine.begin - before), min(rows_of_me.end, mine.end - before)};
      product_.for_pieces_of(weights, panel, i + 1 < end - begin ? panel_at(i + 1) : -1, depth, [&](const auto& pass) {
        for (int64_t tile = here.begin; tile < here.end; tile++) {
          const int64_t n = cut.begin(tile), rows = min(cut.begin(tile + 1), active) - n;
          if (rows <= 0) break;
          const Operand operand = pass.tile(tile - here.begin);
          Product::with_height(rows, [&](auto height) { f(height, panel, n, operand); });
        }
      });
    }
  }
  // Where a tile of a step keeps its sums between two pieces.
  C* sums_at(int64_t panel, int64_t n) const { return sums_ + (panel * steps_.batch() + n) * kPanel<C>; }
  template <class Height>
  static LF_INLINE void load_sums(Height height, Tile<C, Height::kMost>& acc, const C* from) {
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(from + r * kPanel<C> + j * kWidth);
  }
  template <class Height>
  static LF_INLINE void store_sums(Height height, C* to, const Tile<C, Height::kMost>& acc) {
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) store(to + r * kPanel<C> + j * kWidth, acc[r][j]);
  }

  void step_back(const Team& team, const Block& block, int64_t t) const {
    for_my_tiles(team, t, out_panels_, w_hh_, depth_, [&](auto height, int64_t panel, int64_t n, const Operand& piece) {
      hidden_tile(height, block, t, panel, n, piece);
    });
    if (!p_.shape.projection) return;
    if (!by_batch()) team.meet();
    for_my_tiles(team, t, hidden_panels_, w_hr_, output_,
                 [&](auto height, int64_t panel, int64_t n, const Operand& piece) {
                   projected_tile(height, block, t, panel, n, piece);
                 });
  }

  // dh = dY + dh_n where the sequence ends here + (gate gradients of the following step) W_hh where it goes on
  template <class Height>
  LF_NOINLINE void hidden_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                               const Operand& piece) const {
    const int64_t continued = steps_.continued(t);
    Tile<C, Height::kMost> acc;
    if (n < continued) {
      if (piece.at.first)
        incoming(height, acc, block, t, panel, n);
      else
        load_sums(height, acc, sums_at(panel, n));
      multiply(acc, height, rows_of(height, gate_gradients(block, steps_.following(t)), n, continued), w_hh_, panel,
               output_, piece);
    }
    if (!piece.at.last) {
      if (n < continued) store_sums(height, sums_at(panel, n), acc);
      return;
    }
    if (n + height.value > continued) {
      // Sequences that end here have nothing to multiply; zeros would turn an infinite weight into a NaN.
      Tile<C, Height::kMost> ended;
      incoming(height, ended, block, t, panel, n);
      for (int r = static_cast<int>(max(0, continued - n)); r < height.value; r++)
        for (int j = 0; j < kTileCols; j++) acc[r][j] = ended[r][j];
    }
    if (!p_.shape.projection) return cell_tile(height, block, t, panel, n, acc);
    const int64_t row = panel * block_rows_ + steps_.rows(block.begin, t) + n;
    store_sums(height, dh_ + row * kPanel<C>, acc);
    if constexpr (Product::kRounds)
      for (int r = 0; r < height.value; r++)
        for (int j = 0; j < kTileCols; j++)
          product_.put_in_panel(dh_rows_ + (row + r) * row_width_, j * kWidth,
                                keep_first<C>(acc[r][j], output_ - panel * kPanel<C> - j * kWidth));
  }
  // acc += gate gradients times a piece of column panel `panel` of W_ih or W_hh, which has `cols` columns
  template <class Height>
  LF_INLINE void multiply(Tile<C, Height::kMost>& acc, Height, const PaneledRows<Height>& rows, const Weights& w,
                          int64_t panel, int64_t cols, const Operand& piece) const {
    product_.multiply_back(acc, rows, w, panel, cols, depth_, piece, gate_at());
  }
  // What reaches h other than through the following step.
  template <class Height>
  LF_INLINE void incoming(Height height, Tile<C, Height::kMost>& acc, const Block& block, int64_t t, int64_t panel,
                          int64_t n) const {
    const int64_t continued = steps_.continued(t);
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) {
        const int64_t col = panel * kPanel<C> + j * kWidth, left = output_ - col;
        acc[r][j] = p_.dy.data ? load_first(dy_row(block, t, n + r) + col, left) : Vec<C>{};
        if (p_.dh_n.data && n + r >= continued) acc[r][j] += load_first(dh_n_ + (n + r) * output_ + col, left);
      }
  }
  // Sequences from `valid` on have no gate gradients there.
  template <class Height>
  PaneledRows<Height> rows_of(Height height, const GateGradients& g, int64_t n, int64_t valid) const {
    return {height, g.base + n * row_width_, g.panel_stride, row_width_, valid - n, zero_};
  }
  // Through the projection: gradient of the cell's output = dh W_hr
  template <class Height>
  LF_NOINLINE void projected_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                                  const Operand& piece) const {
    const PaneledRows<Height> dh{height,
                                 dh_rows_ + (steps_.rows(block.begin, t) + n) * row_width_,
                                 block_rows_ * row_width_,
                                 row_width_,
                                 height.value,
                                 zero_};
    Tile<C, Height::kMost> acc = {};
    if (!piece.at.first) load_sums(height, acc, sums_at(panel, n));
    product_.multiply_panels(acc, dh, piece);
    if (piece.at.last)
      cell_tile(height, block, t, panel, n, acc);
    else
      store_sums(height, sums_at(panel, n), acc);
  }

  // The cell's backward on a tile of gradients of h: kTileCols packs of neighbouring units.
  template <class Height>
  LF_INLINE void cell_tile(Height height, const Block& block, int64_t t, int64_t col_panel, int64_t n,
                           const Tile<C, Height::kMost>& dh) const {
    const GateGradients to = gate_gradients(block, t);
    const int64_t started = steps_.started(t), before = steps_.previous(t);
    for (int j = 0; j < kTileCols; j++) {
      const int64_t unit = col_panel * kPanel<C> + j * kWidth, left = hidden_ - unit;
      if (left <= 0) break;
      const int64_t panel = unit / P::kUnits;
      const int pack = static_cast<int>(unit % P::kUnits) / kWidth;
      const C* record = records_.at(t, panel, n);
      const C* record_before = n < started ? records_.at(before, panel, n) : nullptr;
      for (int r = 0; r < height.value; r++) {
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
        E* dgates = to.base + panel * to.panel_stride + (n + r) * row_width_;
        for (int g = 0; g < Cell::kGates; g++) {
          const Vec<C> v = keep_first<C>(dpre[g], left);
          product_.put_in_panel(dgates, P::offset(g, pack), v);
          if constexpr (Product::kRounds)
            store(
                dgates_ + (panel * block_rows_ + steps_.rows(block.begin, t) + n + r) * kPanel<C> + P::offset(g, pack),
                v);
        }
        if constexpr (P::kPrivate > 0) store(dc, din[1]);
      }
    }
  }

  // ---- sequences that start in step t hand their gradient to h0
  void initial_state_gradient(const Team& team, const Block& block, int64_t t) const {
    const int64_t started = steps_.started(t);
    if (!p_.dh0.data || started == steps_.active(t)) return;
    for_my_tiles(team, t, out_panels_, w_hh_, depth_, [&](auto height, int64_t panel, int64_t n, const Operand& piece) {
      initial_state_tile(height, block, t, panel, n, started, piece);
    });
  }
  template <class Height>
  LF_NOINLINE void initial_state_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                                      int64_t started, const Operand& piece) const {
    if (n + height.value <= started) return;
    Tile<C, Height::kMost> acc = {};
    if (!piece.at.first) load_sums(height, acc, sums_at(panel, n));
    multiply(acc, height, rows_of(height, gate_gradients(block, t), n, n + height.value), w_hh_, panel, output_, piece);
    if (!piece.at.last) return store_sums(height, sums_at(panel, n), acc);
    for (int r = 0; r < height.value; r++) {
      if (n + r < started) continue;
      C values[kPanel<C>];
      for (int j = 0; j < kTileCols; j++) store(values + j * kWidth, acc[r][j]);
      const int64_t col = panel * kPanel<C>;
      storage_.scatter(storage_.at(p_.dh0.data, (n + r) * p_.dh0.row_stride + col), 1, values,
                       min(kPanel<C>, output_ - col));
    }
  }

  // ---- dX of a block = (gate gradients) W_ih
  void input_gradient(const Team& team, const Block& block) const {
    if (!p_.dx.data) return;
    const typename Product::Cut cut(steps_.rows(block.begin, block.end));
    const Share mine = team.share(cut.tiles);
    RowCursor first{steps_, block.begin};
    for (int64_t i = 0; i < cut.begin(mine.begin); i++) first.next();
    for (int64_t panel = 0; panel < in_panels_; panel++)
      product_.for_pieces_of(w_ih_, panel, panel + 1 < in_panels_ ? panel + 1 : -1, depth_, [&](const auto& pass) {
        RowCursor cursor = first;
        for (int64_t i = mine.begin; i < mine.end; i++) {
          const Operand operand = pass.tile(i - mine.begin);
          Product::with_height(cut.begin(i + 1) - cut.begin(i),
                               [&](auto height) { input_tile(height, cursor, panel, cut.begin(i), operand); });
        }
      });
  }
  template <class Height>
  LF_NOINLINE void input_tile(Height height, RowCursor& cursor, int64_t panel, int64_t first,
                              const Operand& piece) const {
    const PaneledRows<Height> dgates{
        height, dgate_rows_ + first * row_width_, block_rows_ * row_width_, row_width_, height.value, zero_};
    C* dx[Height::kMost];
    for (int r = 0; r < height.value; r++, cursor.next())
      dx[r] = dx_block_ ? dx_block_ + (first + r) * input_ : static_cast<C*>(dx_at(cursor.t, cursor.n));
    Tile<C, Height::kMost> acc = {};
    if (!piece.at.first) load_sums(height, acc, dx_sums_ + first * kPanel<C>);
    multiply(acc, height, dgates, w_ih_, panel, input_, piece);
    if (!piece.at.last) return store_sums(height, dx_sums_ + first * kPanel<C>, acc);
    for (int r = 0; r < height.value; r++)
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
      std::memcpy(carry_ + panel * steps_.batch() * row_width_, from.base + panel * from.panel_stride,
                  static_cast<size_t>(steps_.active(t) * row_width_) * sizeof(E));
  }

  void write_initial_state(const Team& team) const {
    if (!P::kPrivate || !p_.dc0.data) return;
    const Share mine = team.share(steps_.batch());
    for (int64_t n = mine.begin; n < mine.end; n++)
      storage_.scatter(storage_.at(p_.dc0.data, n * p_.dc0.row_stride), 1, dc_ + n * c_stride_, hidden_);
  }

  const BackwardParams& p_;
  const cpu::Plan& plan_;
  const Storage<C>& storage_;
  const Product product_;
  const Steps steps_;
  const int64_t input_, hidden_, output_, panels_, depth_, in_panels_, out_panels_, hidden_panels_, row_width_;
  const int64_t block_rows_;
  Arena arena_;
  C *const dgates_, *const dh_;  // [panel][rows of a block][kPanel]; dh_ of columns of O, with a projection only
  const WeightGradients<Cell, C, Product> weight_gradients_;
  Weights w_hh_, w_ih_, w_hr_;  // packed for the way back: [column panel][depth][kPanel]
  E* carry_;                    // [panel][N][row_width]
  E *dgate_rows_, *dh_rows_;    // dgates_ and dh_ as rows of a product: [panel][rows of a block][row_width]
  C* zero_;                     // [kPanel]
  C *dc_, *c0_, *dh_n_;         // [N][c_stride], [N][c_stride], [N][O]
  C *dy_block_, *dx_block_;     // [rows of a block][O | I], half types only
  C *sums_, *dx_sums_;          // [column panel][N][kPanel], [rows of a block][kPanel]: sums between two pieces
  Records<C> records_;
  int64_t c_stride_;
};

}  // namespace lstmfast::LF_ISA
