// Gradients of the weights and biases, added up block by block while a block's gate gradients are in cache:
//
//   pack: columns of x, h and the cell's output side by side -> add: dW' += (columns)' (gate gradients) -> ... ->
//   finish
//
// A call of a single block knows all that there is to add up: it writes the gradients where the caller wants them.
// Where the caller has sums already, finish adds to them.
#pragma once
#include "vector_product.inl"

namespace lstmfast::LF_ISA {

template <class Cell, class C, class Product>
class WeightGradients {
  using P = Panels<Cell, C>;
  using E = typename Product::Element;
  static constexpr int kWidth = kLanes<C>;

 public:
  // What backward leaves of a block, [panel][rows of a block][kPanel] each.
  struct Gradients {
    const C* gates;
    const C* h;  // with a projection only
    int64_t block_rows;
  };

  WeightGradients(const BackwardParams& p, const cpu::Plan& plan, const Storage<C>& storage, const Product& product,
                  const Steps& steps, Arena& arena, const Gradients& from)
      : p_(p),
        storage_(storage),
        product_(product),
        steps_(steps),
        from_(from),
        hidden_(p.shape.hidden),
        output_(p.shape.output()),
        panels_(P::count(hidden_)),
        out_panels_(ceil_div(output_, kPanel<C>)) {
    const int64_t rows = from.block_rows;
    const auto sum = [&](const Matrix& dw, int64_t cols, int64_t gradient_cols, bool in_place) {
      Sum s;
      s.cols = cols, s.gradient_cols = gradient_cols;
      s.in_place = dw.data && in_place && dw.col_stride == 1 && !p.accumulate_dw;
      s.packed = dw.data && !s.in_place;
      s.columns = arena.take<E>(product.columns_size(cols, rows), s.packed);
      s.dw = arena.take<C>(s.panels() * cols * kPanel<C>, s.packed);
      return s;
    };
    ih_ = sum(p.dw_ih, p.shape.input, P::columns(hidden_), plan.gradients_in_place);
    // A single step that starts from zeros has zeros for this gradient.
    hh_ = sum(p.dw_hh, output_, P::columns(hidden_), plan.gradients_in_place || !steps.use_h(p.h0));
    hr_ = sum(p.dw_hr, hidden_, output_, false);
    if constexpr (Product::kRounds) {
      rounded_gates_ = arena.take<E>(product.panels_size(panels_, rows), ih_.packed || hh_.packed);
      rounded_h_ = arena.take<E>(product.panels_size(out_panels_, rows), hr_.packed);
    }
    db_ = arena.take<C>(panels_ * kPanel<C>, p.db_ih.data || p.db_hh.data);
    if (p.shape.projection) cell_out_ = static_cast<const C*>(p.reserve) + p.shape.rows * panels_ * P::kRecord;
  }

  void prepare(const Team& team) const { clear(team, db_, panels_ * kPanel<C>); }

  void pack(const Team& team, const Block& block) const {
    const auto columns = [&](const Sum& s, const Storage<C>& storage, const auto& row_at) {
      if (s.packed) product_.pack_columns(team, storage, steps_, block, s.columns, s.cols, from_.block_rows, row_at);
    };
    columns(ih_, storage_, [this](int64_t t, int64_t n) { return x_at(t, n); });
    columns(hh_, storage_, [this](int64_t t, int64_t n) { return h_before(t, n); });
    columns(hr_, StorageOf<C, C>::kStorage,
            [this](int64_t t, int64_t n) { return cell_out_ + (steps_.first_row(t) + n) * hidden_; });
    if constexpr (Product::kRounds) {
      const int64_t rows = steps_.rows(block.begin, block.end);
      if (rounded_gates_) product_.pack_rows(team, from_.gates, rounded_gates_, panels_, from_.block_rows, rows);
      if (rounded_h_) product_.pack_rows(team, from_.h, rounded_h_, out_panels_, from_.block_rows, rows);
    }
  }

  // `first`: no block has been added before this one.
  void add(const Team& team, const Block& block, bool first) const {
    const int64_t rows = steps_.rows(block.begin, block.end);
    const auto outer_product = [&](const Sum& s, const E* gradients) {
      if (s.packed)
        product_.outer_product(team, s.dw, s.columns, s.cols, gradients, s.gradient_cols, from_.block_rows, rows,
                               first);
    };
    const E *gates = rounded_gates_, *h = rounded_h_;
    if constexpr (!Product::kRounds) gates = from_.gates, h = from_.h;
    outer_product(ih_, gates);
    outer_product(hh_, gates);
    outer_product(hr_, h);
    if (ih_.in_place) write(team, p_.dw_ih, ih_.cols, [this](int64_t t, int64_t n) { return x_at(t, n); });
    if (hh_.in_place) write(team, p_.dw_hh, hh_.cols, [this](int64_t t, int64_t n) { return h_before(t, n); });
    if (db_) add_biases(team, rows);
  }

  void finish(const Team& team) const {
    const auto gate = [this](int64_t panel, int64_t col) { return gate_row<Cell, C>(panel, col, hidden_); };
    const bool add = p_.accumulate_dw;
    const Storage<C>& stored = add ? StorageOf<C, C>::kStorage : storage_;
    const auto unpack = [&](const Sum& s, const Matrix& to, const auto& row_of) {
      if (s.packed) unpack_panels(team, stored, s.dw, to, s.panels(), s.cols, row_of, add);
    };
    unpack(ih_, p_.dw_ih, gate);
    unpack(hh_, p_.dw_hh, gate);
    unpack(hr_, p_.dw_hr, [this](int64_t panel, int64_t col) { return plain_row<C>(panel, col, output_); });
    const Matrix biases[] = {p_.db_ih, p_.db_hh};
    for (const Matrix& db : biases)
      if (db.data) unpack_panels(team, storage_, db_, db, panels_, 1, gate, false);
  }

 private:
  // The gradient of one weight matrix.
  struct Sum {
    int64_t cols = 0, gradient_cols = 0;
    int64_t panels() const { return ceil_div(gradient_cols, kPanel<C>); }
    bool in_place = false;  // written where the caller wants it, in add(), or
    bool packed = false;    // added up in panels; neither if it is not wanted
    E* columns = nullptr;   // packed, of a block
    C* dw = nullptr;        // [panel][cols][kPanel]
  };

  const void* x_at(int64_t t, int64_t n) const { return storage_.at(p_.x.data, row_offset(p_.x, steps_, t, n)); }
  const void* h_before(int64_t t, int64_t n) const {
    if (n < steps_.started(t)) return storage_.at(p_.y.data, row_offset(p_.y, steps_, steps_.previous(t), n));
    return p_.h0.data ? storage_.at(p_.h0.data, n * p_.h0.row_stride) : nullptr;
  }

  void add_biases(const Team& team, int64_t rows) const {
    const Share mine = team.share(panels_);
    for (int64_t panel = mine.begin; panel < mine.end; panel++) {
      const C* from = from_.gates + panel * from_.block_rows * kPanel<C>;
      Vec<C> sum[kTileCols] = {};
      for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < kTileCols; j++) sum[j] += load(from + i * kPanel<C> + j * kWidth);
      C* to = db_ + panel * kPanel<C>;
      for (int j = 0; j < kTileCols; j++) store(to + j * kWidth, load(to + j * kWidth) + sum[j]);
    }
  }

  // The whole gradient at once, of the one block that there is; without states before its only step, zeros.
  template <class RowAt>
  void write(const Team& team, const Matrix& dw, int64_t cols, const RowAt& row_at) const {
    with_stored<C>(storage_.as, [&](auto stored) {
      using Outer = OuterProduct<C, decltype(stored)>;
      typename Outer::Row rows[cpu::kBackwardRows];
      int64_t count = 0;
      RowCursor cursor{steps_, 0};
      for (int64_t i = 0; i < p_.shape.rows; i++, cursor.next())
        if (const void* x = row_at(cursor.t, cursor.n))
          rows[count++] = {static_cast<const decltype(stored)*>(x), i * kPanel<C>};
      const Outer product{rows, count, cols, from_.gates, from_.block_rows * kPanel<C>};
      write_outer(team, dw, product, P::columns(hidden_),
                  [this](int64_t k) { return gate_row<Cell, C>(k / kPanel<C>, k % kPanel<C>, hidden_); });
    });
  }

  const BackwardParams& p_;
  const Storage<C>& storage_;
  const Product& product_;
  const Steps& steps_;
  const Gradients from_;
  const int64_t hidden_, output_, panels_, out_panels_;
  Sum ih_, hh_, hr_;
  E *rounded_gates_ = nullptr, *rounded_h_ = nullptr;  // where Product rounds: panels of it, made from `from_`
  C* db_;                                              // [panel][kPanel]
  const C* cell_out_ = nullptr;                        // [R][H] in the reserve, with a projection only
};

}  // namespace lstmfast::LF_ISA
