// Forward over a whole sequence: one layer, one direction, one parallel region.
//
//   pack the weights -> for each block of steps: project its input -> step, step, step -> next block
//
// A step multiplies h of the step before by W_hh on top of the projected input and runs the cell on the accumulators.
// Where W_ih stays in L2 as well (Plan::fuse_input), a step projects its own input, and nothing lies between the two.
// The current state lives in small buffers of its own (h twice: read one, write the other), so that a sequence that
// starts late or ends early needs no special case: its rows just wait. With a projection a second product follows.
#pragma once
#include "vector_product.inl"

namespace lstmfast::LF_ISA {

// C is the compute type. Rows stored in another type go through a block's buffer, on their way in and out; so do rows
// that Product rounds.
template <class Cell, class C, class Math, class Product>
class Forward {
  using P = Panels<Cell, C>;
  using E = typename Product::Element;
  using Weights = typename Product::Weights;
  using Operand = typename Product::Operand;
  static constexpr int kWidth = kLanes<C>;
  static constexpr bool kNarrow = P::kPacks == kTileCols;  // the last panel of gates

 public:
  // Without a workspace only bytes() may be called.
  Forward(const ForwardParams& p, const cpu::Plan& plan, const Storage<C>& storage, const Product& product)
      : p_(p),
        plan_(plan),
        storage_(storage),
        product_(product),
        steps_(p.shape),
        input_(p.shape.input),
        hidden_(p.shape.hidden),
        output_(p.shape.output()),
        panels_(P::count(hidden_)),
        out_panels_(ceil_div(output_, kPanel<C>)),
        keep_(p.reserve != nullptr),
        fuse_input_(plan.fuse_input && steps_.use_h(p.h0)) {
    Arena arena(p.workspace);
    const int64_t batch = steps_.batch(), block_rows = plan.forward_steps * batch;
    const bool projects = p.shape.projection > 0;
    Arena packed(p.packed), &home = p.packed ? packed : arena;
    w_ih_ = product.weights(home, plan, storage, p.w_ih, P::columns(hidden_), input_);
    w_hh_ = product.weights(home, plan, storage, p.w_hh, P::columns(hidden_), output_);
    if (projects) w_hr_ = product.weights(home, plan, storage, p.w_hr, output_, hidden_);
    packed_bytes_ = home.used();
    bias_ = arena.take<C>(panels_ * kPanel<C>);
    h_stride_ = product.state_stride(output_);
    h_[0] = arena.take<E>(batch * h_stride_);
    h_[1] = arena.take<E>(batch * h_stride_);
    c_stride_ = P::padded_units(hidden_);
    c_ = arena.take<C>(batch * c_stride_, P::kPrivate > 0);
    x_stride_ = product.row_stride(input_);
    x_block_ = arena.take<E>(block_rows * x_stride_, Product::kRounds || !storage.is_compute());
    y_block_ = arena.take<C>(block_rows * output_, !storage.is_compute());
    C* pre = arena.take<C>(panels_ * block_rows * kPanel<C>, !keep_ && !fuse_input_);
    cell_out_ = arena.take<C>(batch * hidden_, projects && !keep_ && !Product::kRounds);
    if constexpr (Product::kRounds) {
      m_stride_ = product.row_stride(hidden_);
      m_ = arena.take<E>(batch * m_stride_, projects);
      out_sums_ = arena.take<C>(batch * out_panels_ * kPanel<C>, projects);
    }
    bytes_ = arena.used();

    C* reserve = static_cast<C*>(p.reserve);
    records_ = {reserve, P::kRecord, panels_, plan.forward_steps, &steps_};
    block_records_ = {pre, kPanel<C>, plan.forward_steps, by_batch(), &steps_};
    if (keep_ && projects) cell_out_ = reserve + p.shape.rows * panels_ * P::kRecord;
  }
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  size_t bytes() const { return bytes_; }
  size_t packed_bytes() const { return packed_bytes_; }

  void run() const {
    run_team(plan_.threads, [this](const Team& team) {
      [[maybe_unused]] const typename Product::Region region;
      const Share panels = by_batch() ? Share{0, panels_} : team.share(panels_);
      prepare(team);
      team.meet();
      for_each_block(steps_.count(), plan_.forward_steps, steps_.reverse(), [&](const Block& block) {
        if (x_block_) {
          import_x(team, block);
          if (!by_batch()) team.meet();
        }
        if (!fuse_input_) project(team, block, panels);
        for_each_step(block, steps_.reverse(), [&](int64_t t) {
          step(team, block, t, panels);
          if (!by_batch()) team.meet();
          if (p_.shape.projection) {
            project_output(team, block, t);
            if (!by_batch()) team.meet();
          }
        });
        if (y_block_) export_y(team, block);
      });
      team.meet();
      write_final_state(team);
    });
  }

 private:
  bool by_batch() const { return plan_.split == cpu::Split::kBatch; }
  // Tiles of sequences [begin, end) are cut once for the whole batch; a step runs the part of a tile that is active.
  auto tiles() const { return typename Product::Cut(steps_.batch()); }
  Share my_tiles(const Team& team) const { return by_batch() ? team.share(tiles().tiles) : Share{0, tiles().tiles}; }
  // Sequences of step t that this thread converts.
  Share my_rows(const Team& team, int64_t t) const {
    if (!by_batch()) return team.share(steps_.active(t));
    const Share s = my_tiles(team);
    return {min(tiles().begin(s.begin), steps_.active(t)), min(tiles().begin(s.end), steps_.active(t))};
  }
  int parity(int64_t t) const { return static_cast<int>((steps_.reverse() ? steps_.count() - 1 - t : t) & 1); }

  auto gate_rows() const {
    return [this](int64_t panel, int64_t col) { return gate_row<Cell, C>(panel, col, hidden_); };
  }
  auto output_rows() const {
    return [this](int64_t panel, int64_t col) { return plain_row<C>(panel, col, output_); };
  }
  void prepare(const Team& team) const {
    const auto gate = gate_rows();
    if (!p_.packed_before) {
      product_.pack(team, storage_, p_.w_ih, w_ih_, panels_, input_, gate);
      const bool is_kept = p_.packed != nullptr;  // for calls that may need more of it
      if (is_kept || steps_.use_h(p_.h0)) product_.pack(team, storage_, p_.w_hh, w_hh_, panels_, output_, gate);
      if (p_.shape.projection) product_.pack(team, storage_, p_.w_hr, w_hr_, out_panels_, hidden_, output_rows());
    }
    const Share mine = team.share(panels_);
    for (int64_t panel = mine.begin; panel < mine.end; panel++)
      for (int64_t c = 0; c < kPanel<C>; c++) bias_[panel * kPanel<C> + c] = bias(gate(panel, c));
    clear(team, m_, steps_.batch() * m_stride_);  // its padding takes part in products
    if (keep_) clear_rest_of_reserve(team);
    import_h0(team, h_[0]);
    import_h0(team, h_[1]);
    if (P::kPrivate) {
      clear(team, c_, steps_.batch() * c_stride_);
      team.meet();
      import_state(team, storage_, p_.c0, c_, steps_.batch(), hidden_, c_stride_);
    }
  }
  void import_h0(const Team& team, E* to) const {
    const Share mine = team.share(steps_.batch());
    for (int64_t n = mine.begin; n < mine.end; n++) {
      if (p_.h0.data)
        product_.import_row(storage_, to + n * h_stride_, h_stride_, storage_.at(p_.h0.data, n * p_.h0.row_stride),
                            output_);
      else
        std::memset(to + n * h_stride_, 0, static_cast<size_t>(h_stride_) * sizeof(E));
    }
  }
  // Narrow panels leave a rest of what is reserved for the widest. Nobody reads it, but it is a part of a result.
  void clear_rest_of_reserve(const Team& team) const {
    const int64_t cell_out = p_.shape.projection ? hidden_ : 0;
    const int64_t used = p_.shape.rows * (panels_ * P::kRecord + cell_out);
    const int64_t width = cpu::reserved_per_row(Cell::kGates, Cell::kStates, sizeof(C), hidden_, p_.shape.projection);
    clear(team, static_cast<C*>(p_.reserve) + used, p_.shape.rows * width - used);
  }
  C bias(int64_t r) const {
    C b_ih = 0, b_hh = 0;
    if (r >= 0 && p_.b_ih.data) storage_.gather(&b_ih, storage_.at(p_.b_ih.data, r * p_.b_ih.row_stride), 1, 1);
    if (r >= 0 && p_.b_hh.data) storage_.gather(&b_hh, storage_.at(p_.b_hh.data, r * p_.b_hh.row_stride), 1, 1);
    return b_ih + b_hh;
  }

  // ---- the caller's rows, or a block's copy of them in the compute type
  template <class F>
  void for_my_rows(const Team& team, const Block& block, const F& f) const {
    for (int64_t t = block.begin; t < block.end; t++) {
      const Share mine = my_rows(team, t);
      for (int64_t n = mine.begin; n < mine.end; n++) f(t, n);
    }
  }
  void import_x(const Team& team, const Block& block) const {
    for_my_rows(team, block, [&](int64_t t, int64_t n) {
      product_.import_row(storage_, x_block_row(block, t, n), x_stride_, x_at(t, n), input_);
    });
  }
  void export_y(const Team& team, const Block& block) const {
    for_my_rows(team, block, [&](int64_t t, int64_t n) {
      storage_.scatter(y_at(t, n), 1, y_block_ + block_index(block, t, n) * output_, output_);
    });
  }
  const void* x_at(int64_t t, int64_t n) const { return storage_.at(p_.x.data, row_offset(p_.x, steps_, t, n)); }
  void* y_at(int64_t t, int64_t n) const { return storage_.at(p_.y.data, row_offset(p_.y, steps_, t, n)); }
  // As in BlockRecords: a place of its own where threads own sequences, else rows of a tile side by side.
  LF_INLINE int64_t block_index(const Block& block, int64_t t, int64_t n) const {
    return (by_batch() ? (t - block.begin) * steps_.batch() : steps_.rows(block.begin, t)) + n;
  }
  LF_INLINE E* x_block_row(const Block& block, int64_t t, int64_t n) const {
    return x_block_ + block_index(block, t, n) * x_stride_;
  }
  LF_INLINE const E* x_row(const Block& block, int64_t t, int64_t n) const {
    if constexpr (Product::kRounds)
      return x_block_row(block, t, n);
    else
      return x_block_ ? x_block_row(block, t, n) : static_cast<const C*>(x_at(t, n));
  }
  LF_INLINE C* y_row(const Block& block, int64_t t, int64_t n) const {
    return y_block_ ? y_block_ + block_index(block, t, n) * output_ : static_cast<C*>(y_at(t, n));
  }

  C* record_at(int64_t t, int64_t panel, int64_t n) const {
    return keep_ ? records_.at(t, panel, n) : block_records_.at(t, panel, n);
  }
  int64_t record_width() const { return keep_ ? records_.width : block_records_.width; }

  // ---- the input projection of a block: x W_ih' + b, into the records
  void project(const Team& team, const Block& block, const Share& panels) const {
    const Share mine = my_tiles(team);
    const typename Product::Cut all(steps_.rows(block.begin, block.end));
    for (int64_t panel = panels.begin; panel < panels.end; panel++) {
      const int64_t following = panel + 1 < panels.end ? panel + 1 : -1;
      product_.for_pieces_of(w_ih_, panel, following, input_, [&](const auto& pass) {
        int64_t count = 0;
        RowCursor cursor{steps_, block.begin};
        const auto tile = [&](int64_t rows) {
          const Operand operand = pass.tile(count++);
          Product::with_height(rows, [&](auto height) { project_tile(height, block, cursor, panel, operand); });
        };
        if (by_batch()) {
          for (int64_t t = block.begin; t < block.end; t++)
            for (int64_t i = mine.begin; i < mine.end; i++) {
              const int64_t n = tiles().begin(i), rows = min(tiles().begin(i + 1), steps_.active(t)) - n;
              if (rows <= 0) break;
              cursor.t = t, cursor.n = n;
              tile(rows);
            }
        } else {
          for (int64_t i = 0; i < all.tiles; i++) tile(all.begin(i + 1) - all.begin(i));
        }
      });
    }
  }
  template <class Height>
  LF_NOINLINE void project_tile(Height height, const Block& block, RowCursor& cursor, int64_t panel,
                                const Operand& piece) const {
    C* out = record_at(cursor.t, panel, cursor.n);  // the rows of a block lie side by side
    typename Product::template Rows<Height> x(height, x_stride_, [&](int) {
      const E* row = x_row(block, cursor.t, cursor.n);
      cursor.next();
      return row;
    });
    Tile<C, Height::kMost> acc;
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++)
        acc[r][j] = load((piece.at.first ? bias_ + panel * kPanel<C> : out + r * record_width()) + j * kWidth);
    product_.template multiply<false, kNarrow>(acc, height, x, w_ih_, panel, piece, gate_rows());
    store_sums(height, out, acc);
  }
  template <class Height>
  LF_INLINE void store_sums(Height height, C* record, const Tile<C, Height::kMost>& acc) const {
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) store(record + r * record_width() + j * kWidth, acc[r][j]);
  }

  // ---- one step
  void step(const Team& team, const Block& block, int64_t t, const Share& panels) const {
    const Share mine = my_tiles(team);
    const int64_t active = steps_.active(t), count = panels.end - panels.begin;
    // Back and forth: the weights used last in one step, still in cache, are used first in the next.
    const auto panel_at = [&](int64_t i) { return (t & 1) ? panels.end - 1 - i : panels.begin + i; };
    for (int64_t i = 0; i < count; i++) {
      const int64_t panel = panel_at(i), following = i + 1 < count ? panel_at(i + 1) : -1;
      if (fuse_input_) {
        for_tiles(mine, active, [&](auto height, int64_t n, int64_t) { fused_step_tile(height, block, t, panel, n); });
        continue;
      }
      product_.for_pieces_of(w_hh_, panel, following, output_, [&](const auto& pass) {
        for_tiles(mine, active,
                  [&](auto height, int64_t n, int64_t nth) { step_tile(height, block, t, panel, n, pass.tile(nth)); });
      });
    }
  }
  // Calls f(height, first sequence, how many calls there were before) for tiles of the first `active` sequences.
  template <class F>
  LF_INLINE void for_tiles(const Share& tiles_of, int64_t active, const F& f) const {
    const auto cut = tiles();
    for (int64_t i = tiles_of.begin; i < tiles_of.end; i++) {
      const int64_t n = cut.begin(i), rows = min(cut.begin(i + 1), active) - n;
      if (rows <= 0) break;
      Product::with_height(rows, [&](auto height) { f(height, n, i - tiles_of.begin); });
    }
  }
  template <class Height>
  LF_NOINLINE void step_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                             const Operand& piece) const {
    const bool starts = starts_from_zeros(t);
    if (starts && !piece.at.last) return;
    C* record = record_at(t, panel, n);
    auto h = h_rows(height, t, n);
    Tile<C, Height::kMost> acc;
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(record + r * record_width() + j * kWidth);
    if (!starts) product_.template multiply<true, kNarrow>(acc, height, h, w_hh_, panel, piece, gate_rows());
    if (!piece.at.last) return store_sums(height, record, acc);
    run_cell(height, block, t, panel, n, acc);
  }
  // Whether no sequence of step t has a state before it: there is nothing to multiply.
  bool starts_from_zeros(int64_t t) const { return !p_.h0.data && steps_.started(t) == 0; }
  template <class Height>
  auto h_rows(Height height, int64_t t, int64_t n) const {
    return typename Product::template Rows<Height>(height, h_stride_,
                                                   [&](int r) { return h_[parity(t)] + (n + r) * h_stride_; });
  }
  // The whole step on accumulators that start from the bias: x W_ih' is neither stored nor loaded.
  template <class Height>
  LF_NOINLINE void fused_step_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n) const {
    const typename Product::template Rows<Height> x(height, x_stride_, [&](int r) { return x_row(block, t, n + r); });
    const auto h = h_rows(height, t, n);
    Tile<C, Height::kMost> acc;
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(bias_ + panel * kPanel<C> + j * kWidth);
    // One chain for x whatever the height, as in project().
    product_.template multiply_whole<true, kNarrow>(acc, height, x, w_ih_, panel, input_);
    product_.template multiply_whole<false, kNarrow>(acc, height, h, w_hh_, panel, output_);
    run_cell(height, block, t, panel, n, acc);
  }
  template <class Height>
  LF_INLINE void run_cell(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                          const Tile<C, Height::kMost>& acc) const {
    C* record = keep_ ? record_at(t, panel, n) : nullptr;
    for (int pack = 0; pack < P::kPacks; pack++) {
      const int64_t unit = panel * P::kUnits + pack * kWidth, left = hidden_ - unit;
      if (left <= 0) {  // of padding alone: not computed, but a part of what is kept
        if (keep_)
          for (int r = 0; r < height.value; r++)
            for (int s = 0; s < Cell::kSaved; s++) store(record + r * record_width() + P::offset(s, pack), Vec<C>{});
        continue;
      }
      for (int r = 0; r < height.value; r++) {
        Vec<C> pre[Cell::kGates], saved[Cell::kSaved], in[Cell::kStates], out[Cell::kStates];
        for (int g = 0; g < Cell::kGates; g++) pre[g] = acc[r][g * P::kPacks + pack];
        C* c = c_ + (n + r) * c_stride_ + unit;
        in[0] = Vec<C>{};  // h enters through the product alone
        if constexpr (P::kPrivate > 0) in[1] = load(c);
        Cell::template forward<Math>(pre, in, out, saved);
        if constexpr (P::kPrivate > 0) store(c, out[1]);
        if (keep_) {
          C* to = record + r * record_width();
          for (int s = 0; s < Cell::kSaved; s++) store(to + P::offset(s, pack), saved[s]);
          if constexpr (P::kPrivate > 0) store(to + kPanel<C> + pack * kWidth, out[1]);
        }
        if (p_.shape.projection) {
          if (!Product::kRounds || keep_) store_first(cell_out_row(t, n + r) + unit, out[0], left);
          if constexpr (Product::kRounds) product_.put(m_ + (n + r) * m_stride_, m_stride_, unit, out[0], left);
        } else {
          product_.put(h_[parity(t) ^ 1] + (n + r) * h_stride_, h_stride_, unit, out[0], left);
          store_first(y_row(block, t, n + r) + unit, out[0], left);
        }
      }
    }
  }

  // ---- h = W_hr (cell's output), where there is a projection
  C* cell_out_row(int64_t t, int64_t n) const { return cell_out_ + ((keep_ ? steps_.first_row(t) : 0) + n) * hidden_; }

  void project_output(const Team& team, const Block& block, int64_t t) const {
    const Share panels = by_batch() ? Share{0, out_panels_} : team.share(out_panels_);
    const Share mine = my_tiles(team);
    for (int64_t panel = panels.begin; panel < panels.end; panel++) {
      const int64_t following = panel + 1 < panels.end ? panel + 1 : -1;
      product_.for_pieces_of(w_hr_, panel, following, hidden_, [&](const auto& pass) {
        for_tiles(mine, steps_.active(t), [&](auto height, int64_t n, int64_t nth) {
          project_output_tile(height, block, t, panel, n, pass.tile(nth));
        });
      });
    }
  }
  template <class Height>
  LF_NOINLINE void project_output_tile(Height height, const Block& block, int64_t t, int64_t panel, int64_t n,
                                       const Operand& piece) const {
    const int64_t col = panel * kPanel<C>;
    typename Product::template Rows<Height> in(height, m_stride_, [&](int r) {
      if constexpr (Product::kRounds)
        return m_ + (n + r) * m_stride_;
      else
        return cell_out_row(t, n + r);
    });
    E* h[Height::kMost];
    C* sums[Height::kMost];  // until the last piece; in h where that keeps them
    for (int r = 0; r < height.value; r++) {
      h[r] = h_[parity(t) ^ 1] + (n + r) * h_stride_;
      if constexpr (Product::kRounds)
        sums[r] = out_sums_ + (n + r) * out_panels_ * kPanel<C> + col;
      else
        sums[r] = h[r] + col;
    }
    Tile<C, Height::kMost> acc = {};
    if (!piece.at.first)
      for (int r = 0; r < height.value; r++)
        for (int j = 0; j < kTileCols; j++) acc[r][j] = load_first(sums[r] + j * kWidth, output_ - col - j * kWidth);
    product_.template multiply<false, true>(acc, height, in, w_hr_, panel, piece, output_rows());
    for (int r = 0; r < height.value; r++)
      for (int j = 0; j < kTileCols; j++) {
        const int64_t to = col + j * kWidth, left = output_ - to;
        if (!piece.at.last) {
          store_first(sums[r] + j * kWidth, acc[r][j], left);
        } else {
          product_.put(h[r], h_stride_, to, acc[r][j], left);
          store_first(y_row(block, t, n + r) + to, acc[r][j], left);
        }
      }
  }

  // ---- h_n is the output of each sequence's last step, c_n what its cell state was left at
  void write_final_state(const Team& team) const {
    const Share mine = team.share(steps_.batch());
    int64_t last = steps_.reverse() ? 0 : steps_.count() - 1;
    for (int64_t n = mine.begin; n < mine.end; n++) {
      while (steps_.active(last) <= n) last--;
      if (p_.h_n.data)
        std::memcpy(storage_.at(p_.h_n.data, n * p_.h_n.row_stride), y_at(last, n),
                    static_cast<size_t>(output_ * storage_.size));
      if (P::kPrivate && p_.c_n.data)
        storage_.scatter(storage_.at(p_.c_n.data, n * p_.c_n.row_stride), 1, c_ + n * c_stride_, hidden_);
    }
  }

  const ForwardParams& p_;
  const cpu::Plan& plan_;
  const Storage<C>& storage_;
  const Product product_;
  const Steps steps_;
  const int64_t input_, hidden_, output_, panels_, out_panels_;
  const bool keep_, fuse_input_;
  Weights w_ih_, w_hh_, w_hr_;
  C* bias_;                        // [panel][kPanel]
  E* h_[2];                        // [N][h_stride]: before and after the step, by the step's parity
  C* c_;                           // [N][c_stride]
  E* x_block_;                     // [rows of a block][x_stride], half types and rounded rows only
  C* y_block_;                     // [rows of a block][O], half types only
  C* cell_out_;                    // [N][H], or [R][H] in the reserve; with a projection only
  E* m_ = nullptr;                 // [N][m_stride]: the same as rounded rows
  C* out_sums_ = nullptr;          // [N][panels of O][kPanel]: the projection between two pieces, beside rounded rows
  Records<C> records_;             // in the reserve, or
  BlockRecords<C> block_records_;  // in the workspace when nothing is kept
  int64_t h_stride_, c_stride_, x_stride_, m_stride_ = 0;
  size_t packed_bytes_, bytes_;
};

}  // namespace lstmfast::LF_ISA
