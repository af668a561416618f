// Forward over a whole sequence: one layer, one direction, one parallel region.
//
//   pack the weights -> for each block of steps: project its input -> step, step, step -> next block
//
// A step multiplies h of the step before by W_hh on top of the projected input and runs the cell on the accumulators.
// Where W_ih stays in L2 as well (Plan::fuse_input), a step projects its own input, and nothing lies between the two.
// The current state lives in small buffers of its own (h twice: read one, write the other), so that a sequence that
// starts late or ends early needs no special case: its rows just wait. With a projection a second product follows.
#pragma once
#include "direct.inl"
#include "plan.h"

namespace lstmfast::LF_ISA {

// C is the compute type. Rows stored in another type go through a block's buffer, on their way in and out.
template <class Cell, class C, class Math>
class Forward {
  using P = Panels<Cell, C>;
  static constexpr int kWidth = kLanes<C>;

 public:
  // Without a workspace only bytes() may be called.
  Forward(const ForwardParams& p, const cpu::Plan& plan, const Storage<C>& storage)
      : p_(p),
        plan_(plan),
        storage_(storage),
        steps_(p.shape),
        input_(p.shape.input),
        hidden_(p.shape.hidden),
        output_(p.shape.output()),
        panels_(P::count(hidden_)),
        out_panels_(ceil_div(output_, kPanel<C>)),
        keep_(p.reserve != nullptr) {
    Arena arena(p.workspace);
    const int64_t batch = steps_.batch(), block_rows = plan.forward_steps * batch;
    const bool projects = p.shape.projection > 0;
    Arena packed(p.packed), &home = p.packed ? packed : arena;
    w_ih_ = weights(home, p.w_ih, panels_, input_);
    w_hh_ = weights(home, p.w_hh, panels_, output_);
    if (projects) w_hr_ = weights(home, p.w_hr, out_panels_, hidden_);
    packed_bytes_ = home.used();
    bias_ = arena.take<C>(panels_ * kPanel<C>);
    h_stride_ = ceil_div(output_, kWidth) * kWidth + kWidth;  // not a power of two: rows fall into different cache sets
    h_[0] = arena.take<C>(batch * h_stride_);
    h_[1] = arena.take<C>(batch * h_stride_);
    c_stride_ = P::padded_units(hidden_);
    c_ = arena.take<C>(batch * c_stride_, P::kPrivate > 0);
    x_block_ = arena.take<C>(block_rows * input_, !storage.is_compute);
    y_block_ = arena.take<C>(block_rows * output_, !storage.is_compute);
    C* pre = arena.take<C>(panels_ * block_rows * kPanel<C>, !keep_ && !plan.fuse_input);
    cell_out_ = arena.take<C>(batch * hidden_, projects && !keep_);
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
      const Share panels = by_batch() ? Share{0, panels_} : team.share(panels_);
      prepare(team);
      team.meet();
      for_each_block(steps_.count(), plan_.forward_steps, steps_.reverse(), [&](const Block& block) {
        if (x_block_) {
          import_x(team, block);
          if (!by_batch()) team.meet();
        }
        if (!plan_.fuse_input) project(team, block, panels);
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
  TileCut tiles() const { return TileCut(steps_.batch()); }
  Share my_tiles(const Team& team) const { return by_batch() ? team.share(tiles().tiles) : Share{0, tiles().tiles}; }
  // Sequences of step t that this thread converts.
  Share my_rows(const Team& team, int64_t t) const {
    if (!by_batch()) return team.share(steps_.active(t));
    const Share s = my_tiles(team);
    return {min(tiles().begin(s.begin), steps_.active(t)), min(tiles().begin(s.end), steps_.active(t))};
  }
  int parity(int64_t t) const { return static_cast<int>((steps_.reverse() ? steps_.count() - 1 - t : t) & 1); }

  Weights<C> weights(Arena& arena, const ConstMatrix& src, int64_t panels, int64_t depth) const {
    if (plan_.in_place && readable_in_place(src, storage_, depth))
      return {nullptr, static_cast<const C*>(src.data), src.row_stride};
    return {arena.take<C>(panels * depth * kPanel<C>), nullptr, 0};
  }
  auto gate_rows() const {
    return [this](int64_t panel, int64_t col) { return gate_row<Cell, C>(panel, col, hidden_); };
  }
  auto output_rows() const {
    return [this](int64_t panel, int64_t col) { return plain_row<C>(panel, col, output_); };
  }
  // acc += rows a times a piece of panel `panel`; on the spot in a step, where the cell takes over the accumulators
  template <int M, bool on_the_spot, class RowOf>
  LF_INLINE void multiply(Tile<C, M>& acc, const C* (&a)[M], const Weights<C>& w, int64_t panel,
                          const Operand<C>& piece, const RowOf& row_of) const {
    const int64_t depth = piece.at.end - piece.at.begin;
    for (int r = 0; r < M; r++) a[r] += piece.at.begin;
    if (w.in_place()) {
      TileRows<C> rows;
      for (int64_t col = 0; col < kPanel<C>; col++) {
        const int64_t r = row_of(panel, col);
        rows.row[col / kWidth][col % kWidth] = w.rows + (r < 0 ? 0 : r) * w.row_stride;
      }
      multiply_add<M, C>(acc, a, rows, depth);
    } else if constexpr (on_the_spot) {
      multiply_add_inline<M, C>(acc, a, piece.weights, depth, piece.ahead);
    } else {
      multiply_add<M, C>(acc, a, piece.weights, depth, piece.ahead);
    }
  }

  void prepare(const Team& team) const {
    const auto gate = gate_rows();
    const bool pack = !p_.packed_before;
    if (pack && !w_ih_.in_place()) pack_panels(team, storage_, p_.w_ih, w_ih_.packed, panels_, input_, gate);
    if (pack && !w_hh_.in_place()) pack_panels(team, storage_, p_.w_hh, w_hh_.packed, panels_, output_, gate);
    if (pack && p_.shape.projection && !w_hr_.in_place())
      pack_panels(team, storage_, p_.w_hr, w_hr_.packed, out_panels_, hidden_, output_rows());
    const Share mine = team.share(panels_);
    for (int64_t panel = mine.begin; panel < mine.end; panel++)
      for (int64_t c = 0; c < kPanel<C>; c++) bias_[panel * kPanel<C> + c] = bias(gate(panel, c));
    import_state(team, storage_, p_.h0, h_[0], steps_.batch(), output_, h_stride_);
    import_state(team, storage_, p_.h0, h_[1], steps_.batch(), output_, h_stride_);
    if (P::kPrivate) {
      clear(team, c_, steps_.batch() * c_stride_);
      team.meet();
      import_state(team, storage_, p_.c0, c_, steps_.batch(), hidden_, c_stride_);
    }
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
      storage_.gather(block_row(x_block_, input_, block, t, n), x_at(t, n), 1, input_);
    });
  }
  void export_y(const Team& team, const Block& block) const {
    for_my_rows(team, block, [&](int64_t t, int64_t n) {
      storage_.scatter(y_at(t, n), 1, block_row(y_block_, output_, block, t, n), output_);
    });
  }
  const void* x_at(int64_t t, int64_t n) const { return storage_.at(p_.x.data, row_offset(p_.x, steps_, t, n)); }
  void* y_at(int64_t t, int64_t n) const { return storage_.at(p_.y.data, row_offset(p_.y, steps_, t, n)); }
  C* block_row(C* base, int64_t width, const Block& block, int64_t t, int64_t n) const {
    return base + ((t - block.begin) * steps_.batch() + n) * width;  // a place of its own, as in BlockRecords
  }
  LF_INLINE const C* x_row(const Block& block, int64_t t, int64_t n) const {
    return x_block_ ? block_row(x_block_, input_, block, t, n) : static_cast<const C*>(x_at(t, n));
  }
  LF_INLINE C* y_row(const Block& block, int64_t t, int64_t n) const {
    return y_block_ ? block_row(y_block_, output_, block, t, n) : static_cast<C*>(y_at(t, n));
  }

  C* record_at(int64_t t, int64_t panel, int64_t n) const {
    return keep_ ? records_.at(t, panel, n) : block_records_.at(t, panel, n);
  }
  int64_t record_width() const { return keep_ ? records_.width : block_records_.width; }

  // ---- the input projection of a block: x W_ih' + b, into the records
  void project(const Team& team, const Block& block, const Share& panels) const {
    const Share mine = my_tiles(team);
    const TileCut all(steps_.rows(block.begin, block.end));
    for (int64_t panel = panels.begin; panel < panels.end; panel++) {
      const int64_t following = panel + 1 < panels.end ? panel + 1 : -1;
      for_pieces_of(w_ih_, panel, following, input_, [&](const Piece& piece, const C* weights, const C* next) {
        int64_t count = 0;
        RowCursor cursor{steps_, block.begin};
        const auto tile = [&](int64_t rows) {
          const Operand<C> operand{piece, weights, share_of(next, count++, piece)};
          with_rows(rows, [&](auto m) { project_tile<decltype(m)::value>(block, cursor, panel, operand); });
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
  template <int M>
  LF_NOINLINE void project_tile(const Block& block, RowCursor& cursor, int64_t panel, const Operand<C>& piece) const {
    C* out = record_at(cursor.t, panel, cursor.n);  // the rows of a block lie side by side
    const C* x[M];
    for (int r = 0; r < M; r++, cursor.next()) x[r] = x_row(block, cursor.t, cursor.n);
    Tile<C, M> acc;
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++)
        acc[r][j] = load((piece.at.first ? bias_ + panel * kPanel<C> : out + r * record_width()) + j * kWidth);
    multiply<M, false>(acc, x, w_ih_, panel, piece, gate_rows());
    store_sums<M>(out, acc);
  }
  template <int M>
  LF_INLINE void store_sums(C* record, const Tile<C, M>& acc) const {
    for (int r = 0; r < M; r++)
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
      if (plan_.fuse_input) {
        const C *x = w_ih_.packed + panel * input_ * kPanel<C>, *h = w_hh_.packed + panel * output_ * kPanel<C>;
        for_tiles(mine, active,
                  [&](auto m, int64_t n, int64_t) { fused_step_tile<decltype(m)::value>(block, t, panel, n, x, h); });
        continue;
      }
      for_pieces_of(w_hh_, panel, following, output_, [&](const Piece& piece, const C* weights, const C* next) {
        for_tiles(mine, active, [&](auto m, int64_t n, int64_t nth) {
          step_tile<decltype(m)::value>(block, t, panel, n, Operand<C>{piece, weights, share_of(next, nth, piece)});
        });
      });
    }
  }
  // Calls f(Int<rows>, first sequence, how many calls there were before) for tiles of the first `active` sequences.
  template <class F>
  LF_INLINE void for_tiles(const Share& tiles_of, int64_t active, const F& f) const {
    const TileCut cut = tiles();
    for (int64_t i = tiles_of.begin; i < tiles_of.end; i++) {
      const int64_t n = cut.begin(i), rows = min(cut.begin(i + 1), active) - n;
      if (rows <= 0) break;
      with_rows(rows, [&](auto m) { f(m, n, i - tiles_of.begin); });
    }
  }
  template <int M>
  LF_NOINLINE void step_tile(const Block& block, int64_t t, int64_t panel, int64_t n, const Operand<C>& piece) const {
    C* record = record_at(t, panel, n);
    const C* h[M];
    Tile<C, M> acc;
    for (int r = 0; r < M; r++) {
      h[r] = h_[parity(t)] + (n + r) * h_stride_;
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(record + r * record_width() + j * kWidth);
    }
    multiply<M, true>(acc, h, w_hh_, panel, piece, gate_rows());
    if (!piece.at.last) return store_sums<M>(record, acc);
    run_cell<M>(block, t, panel, n, acc);
  }
  // The whole step on accumulators that start from the bias: x W_ih' is neither stored nor loaded.
  template <int M>
  LF_NOINLINE void fused_step_tile(const Block& block, int64_t t, int64_t panel, int64_t n, const C* w_x,
                                   const C* w_h) const {
    const C *x_rows[M], *h_rows[M];
    Tile<C, M> acc;
    for (int r = 0; r < M; r++) {
      x_rows[r] = x_row(block, t, n + r);
      h_rows[r] = h_[parity(t)] + (n + r) * h_stride_;
      for (int j = 0; j < kTileCols; j++) acc[r][j] = load(bias_ + panel * kPanel<C> + j * kWidth);
    }
    // One chain for x whatever the height, as in project(). Both weights are in L2: nothing to fetch ahead.
    multiply_add_inline<M, C, 1>(acc, x_rows, w_x, input_, {w_x, 0});
    multiply_add_inline<M, C>(acc, h_rows, w_h, output_, {w_h, 0});
    run_cell<M>(block, t, panel, n, acc);
  }
  template <int M>
  LF_INLINE void run_cell(const Block& block, int64_t t, int64_t panel, int64_t n, const Tile<C, M>& acc) const {
    C* record = keep_ ? record_at(t, panel, n) : nullptr;
    for (int pack = 0; pack < P::kPacks; pack++) {
      const int64_t unit = panel * P::kUnits + pack * kWidth, left = hidden_ - unit;
      if (left <= 0) break;
      for (int r = 0; r < M; r++) {
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
          store_first(cell_out_row(t, n + r) + unit, out[0], left);
        } else {
          store_first(h_[parity(t) ^ 1] + (n + r) * h_stride_ + unit, out[0], left);
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
      for_pieces_of(w_hr_, panel, following, hidden_, [&](const Piece& piece, const C* weights, const C* next) {
        for_tiles(mine, steps_.active(t), [&](auto m, int64_t n, int64_t nth) {
          const Operand<C> operand{piece, weights, share_of(next, nth, piece)};
          project_output_tile<decltype(m)::value>(block, t, panel, n, operand);
        });
      });
    }
  }
  template <int M>
  LF_NOINLINE void project_output_tile(const Block& block, int64_t t, int64_t panel, int64_t n,
                                       const Operand<C>& piece) const {
    const int64_t col = panel * kPanel<C>;
    const C* in[M];
    C* out[M];  // h, and until the last piece its partial sums
    for (int r = 0; r < M; r++) in[r] = cell_out_row(t, n + r), out[r] = h_[parity(t) ^ 1] + (n + r) * h_stride_ + col;
    Tile<C, M> acc = {};
    if (!piece.at.first)
      for (int r = 0; r < M; r++)
        for (int j = 0; j < kTileCols; j++) acc[r][j] = load_first(out[r] + j * kWidth, output_ - col - j * kWidth);
    multiply<M, false>(acc, in, w_hr_, panel, piece, output_rows());
    for (int r = 0; r < M; r++)
      for (int j = 0; j < kTileCols; j++) {
        const int64_t left = output_ - col - j * kWidth;
        store_first(out[r] + j * kWidth, acc[r][j], left);
        if (piece.at.last) store_first(y_row(block, t, n + r) + col + j * kWidth, acc[r][j], left);
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
  const Steps steps_;
  const int64_t input_, hidden_, output_, panels_, out_panels_;
  const bool keep_;
  Weights<C> w_ih_, w_hh_, w_hr_;
  C* bias_;                        // [panel][kPanel]
  C* h_[2];                        // [N][h_stride]: before and after the step, by the step's parity
  C* c_;                           // [N][c_stride]
  C *x_block_, *y_block_;          // [rows of a block][I | O], half types only
  C* cell_out_;                    // [N][H], or [R][H] in the reserve; with a projection only
  Records<C> records_;             // in the reserve, or
  BlockRecords<C> block_records_;  // in the workspace when nothing is kept
  int64_t h_stride_, c_stride_;
  size_t packed_bytes_, bytes_;
};

}  // namespace lstmfast::LF_ISA
