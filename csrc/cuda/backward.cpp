// Backward: for each step dgates W_hh of the step after it and a pointwise kernel, or the persistent kernel for all;
// then dx, dW and db, one product or sum over all rows each. Only what has a destination is computed.
#include "call.h"

namespace lstmfast::cuda {
namespace {

class Backward : public Call {
 public:
  using Params = BackwardParams;
  static constexpr bool kBackward = true;
  static constexpr const char* kName = "backward";
  static bool wants_offsets(const Params& p) { return p.dw_hh.data; }

  Backward(const Params& p, const Common& common, Arena& arena, bool is_fed) : Call(p, common, arena, is_fed), q_(p) {
    const int64_t batch = p.shape.batch, width = gates_ * hidden_;
    if (p.dw_ih.data) x_ = operand(p.x, input_);
    if (p.dx.data) w_ih_ = operand(p.w_ih, width, input_);
    take_recurrent_weights();
    if (is_closed()) {
      dy_ = operand(p.dy, output_);
      dh_n_ = operand(matrix(p.dh_n), batch, output_);
      cell_dy_ = take(rows_ * hidden_ * size_, p.dy.data);
      cell_dh_n_ = take(batch * hidden_ * size_, p.dh_n.data);
      dh_products_ = take(rows_ * output_ * compute_size_, p.dw_hr.data);
    }
    dgates_ = take(rows_ * width * size_);
    dh_ = take(batch * output_ * compute_size_, !is_persistent());
    dc_ = take(batch * hidden_ * compute_size_, has_c_ && !is_persistent());
    projected_dh_ = take(rows_ * output_ * size_, projects_ && (!is_persistent() || p.dw_hr.data));
    cell_dh_ = take(batch * hidden_ * compute_size_, projects_ && !is_persistent());
    if (p.dw_hh.data && finds_h_in_y()) h0_ = operand(matrix(p.h0), batch, output_);
    h_before_ = take(rows_ * output_ * size_, p.dw_hh.data && !finds_h_in_y());
    sums_ = take(sum_chunks(rows_) * width * compute_size_, p.db_ih.data || p.db_hh.data);
  }

  Result begin() {
    if (!is_closed()) return {};
    multiply_recurrent_weights();
    const auto through_projection = [&](int64_t rows, const ConstMatrix& dh, char* to) {
      if (to) gemm("dh w_hr", false, rows, hidden_, output_, dh, w_hr_.source, {to, hidden_, 1});
    };
    if (cell_dy_) through_projection(rows_, readable(dy_), cell_dy_);
    if (cell_dh_n_) through_projection(p_.shape.batch, readable(dh_n_), cell_dh_n_);
    return result_;
  }

  Result recur() {
    w_hh_.source = readable(w_hh_), w_hr_.source = readable(w_hr_);
    for (int64_t i = steps_.count() - 1; i >= 0; i--) take_step_back(steps_.at(i));
    return result_;
  }

  static Result launch(const Common& common, const std::optional<Backward> (&runs)[kMostRuns],
                       const BackwardRuns& call) {
    PersistentBackward b{};
    static_cast<PersistentCall&>(b) = common.persistent_call();
    b.scale = static_cast<float>(call.scale);
    for (int i = 0; i < common.plan.runs; i++) {
      b.runs[i] = runs[i]->persistent_run();
      if (!runs[i]->is_fed_) continue;
      b.runs[i].w_beside = runs[i - 1]->p_.w_ih;
      const int layer = call.count - 1 - i;
      if (call.kept) b.runs[i].kept = call.kept + layer * runs[i]->rows_ * runs[i]->hidden_;
    }
    return persistent_backward(common.like.dtype, common.plan.multiplier)->launch(b, common.context.stream);
  }

  Result end() {
    if (is_closed()) output_gradients();
    input_gradient();
    weight_gradients();
    return result_;
  }

 private:
  char* take(int64_t bytes, bool wanted = true) { return static_cast<char*>(arena_.take(bytes, wanted)); }
  ConstMatrix dgates_at(int64_t row) const { return {offset(dgates_, row * gates_ * hidden_), gates_ * hidden_, 1}; }
  // to [n, O] = dgates W_hh
  void gradient_of_h(const ConstMatrix& dgates, int64_t n, const Matrix& to, bool compute) {
    gemm("dgates w_hh", compute, n, output_, gates_ * hidden_, dgates, w_hh_.source, to);
  }

  PersistentBackward::Run persistent_run() const {
    PersistentBackward::Run r{};
    r.reverse = p_.shape.reverse;
    r.w_hh = recurrent_weights();
    r.gates = reserve_.gates;
    if (is_closed()) {
      if (cell_dy_) r.dy = {cell_dy_, p_.shape.batch * hidden_, hidden_};
      if (cell_dh_n_) r.dh_n = {cell_dh_n_, 0, hidden_};
    } else {
      r.dy = q_.dy, r.dh_n = q_.dh_n, r.dh0 = q_.dh0;
    }
    r.dy = stepped(r.dy);
    if (has_c_) r.c = reserve_.c, r.c0 = p_.c0, r.dc_n = q_.dc_n, r.dc0 = q_.dc0;
    r.dgates = dgates_;
    return r;
  }

  void take_step_back(int64_t t) {
    const int64_t n = steps_.active(t), started = steps_.started(t), continued = steps_.continued(t);
    const int64_t row = steps_.first_row(t);
    if (continued) gradient_of_h(dgates_at(steps_.first_row(steps_.following(t))), continued, {dh_, output_, 1}, true);

    CellBackward c{};
    c.cell = p_.cell;
    c.rows = n, c.hidden = hidden_;
    c.started = started, c.continued = continued;
    c.gates = gates_at(row);
    if (has_c_) {
      c.c = computed(reserve_.c, row * hidden_);
      if (started) c.c_before = computed(reserve_.c, steps_.first_row(steps_.previous(t)) * hidden_);
      c.c0 = p_.c0, c.dc_n = q_.dc_n, c.dc0 = q_.dc0;
      c.dc = dc_;
    }
    if (projects_) {
      char* dh = static_cast<char*>(offset(projected_dh_, row * output_));
      run(kernels_.output_gradient, OutputGradient{n, output_, continued, dh_, step(q_.dy, t), q_.dh_n, dh});
      gemm("dh w_hr", true, n, hidden_, output_, {dh, output_, 1}, w_hr_.source, {cell_dh_, hidden_, 1});
      c.dh = cell_dh_, c.dh_rows = n;
    } else {
      c.dh = dh_, c.dh_rows = continued;
      c.dy = step(q_.dy, t), c.dh_n = q_.dh_n;
    }
    c.dgates = offset(dgates_, row * gates_ * hidden_);
    run(kernels_.cell_backward, c);
    initial_gradient(t);
  }
  // dh0 of the sequences that begin at step t.
  void initial_gradient(int64_t t) {
    const int64_t started = steps_.started(t), n = steps_.active(t);
    if (q_.dh0.data && started < n)
      gradient_of_h(dgates_at(steps_.first_row(t) + started), n - started, matrix(from_row(q_.dh0, started)), false);
  }
  // After the recurrence of the cell's output: dh0, and the gradient of every h, which W_hr's takes.
  void output_gradients() {
    for (int64_t t = 0; t < steps_.count(); t++) initial_gradient(t);
    if (!q_.dw_hr.data) return;
    gradient_of_h(dgates_at(0), rows_, {dh_products_, output_, 1}, true);
    run(kernels_.output_gradients, OutputGradients{all_rows(), dh_products_, q_.dy, q_.dh_n, projected_dh_});
  }
  AllRows all_rows() const {
    return {rows_, output_, steps_.count(), p_.shape.batch, p_.shape.reverse, common_.offsets()};
  }

  void input_gradient() {
    if (!q_.dx.data) return;
    const ConstMatrix w_ih = readable(w_ih_);
    const auto product = [&](int64_t row, int64_t n, const Rows& dx) {
      gemm("dgates w_ih", false, n, input_, gates_ * hidden_, dgates_at(row), w_ih, matrix(dx), q_.accumulate_dx);
    };
    if (is_one_matrix(q_.dx, p_.shape))
      product(0, rows_, q_.dx);
    else
      for (int64_t t = 0; t < steps_.count(); t++) product(steps_.first_row(t), steps_.active(t), step(q_.dx, t));
  }

  void weight_gradients() {
    const int64_t width = gates_ * hidden_;
    const ConstMatrix dgates = transposed(dgates_at(0));
    const bool add = q_.accumulate_dw;
    if (q_.dw_ih.data) gemm("dgates x", add, width, input_, rows_, dgates, readable(x_), q_.dw_ih, add);
    if (q_.dw_hh.data) recurrent_weight_gradient();
    if (q_.dw_hr.data)
      gemm("dh cell_out", add, output_, hidden_, rows_, transposed({projected_dh_, output_, 1}),
           {reserve_.cell_out, hidden_, 1}, q_.dw_hr, add);
    if (sums_) run(kernels_.column_sums, ColumnSums{rows_, width, dgates_, sums_, {q_.db_ih, q_.db_hh}});
  }

  // Whether the h that a row's step began with is a row of y as it lies there, the sequence's row of the step before.
  // Then nothing has to be copied, and only h0 is a product of its own: not in 16 bits, where the sum would be rounded
  // twice, nor where y has no step for h.
  bool finds_h_in_y() const {
    return !p_.shape.offsets && is_one_matrix(p_.y, p_.shape) && rows_are_readable(p_.y.row_stride, rows_, output_) &&
           steps_.count() > 1 && (!p_.h0.data || size_ > 2);
  }
  void recurrent_weight_gradient() {
    const int64_t width = gates_ * hidden_, batch = p_.shape.batch;
    const bool add = q_.accumulate_dw;
    const auto product = [&](int64_t row, int64_t rows, const ConstMatrix& h, bool accumulate) {
      gemm("dgates h", add, width, output_, rows, transposed(dgates_at(row)), h, q_.dw_hh, add || accumulate);
    };
    if (h_before_) {
      run(kernels_.previous_states, PreviousStates{all_rows(), readonly(p_.y), p_.h0, h_before_});
      return product(0, rows_, {h_before_, output_, 1}, false);
    }
    // All rows but those of the first step that forward takes, and y without its last.
    const bool reverse = p_.shape.reverse;
    product(reverse ? 0 : batch, rows_ - batch, matrix(from_row(readonly(p_.y), reverse ? batch : 0)), false);
    if (p_.h0.data) product(reverse ? rows_ - batch : 0, batch, readable(h0_), true);
  }

  const BackwardParams& q_;
  RowsOperand x_, dy_;
  Operand w_ih_, dh_n_, h0_;
  char* dgates_;        // T [R, G*H]
  char* dh_;            // C [N, O], the product that a step begins with
  char* dc_;            // C [N, H]
  char* projected_dh_;  // T [R, O], with a projection: the gradient of every h
  char* cell_dh_;       // C [N, H], with a projection, on the general path
  // With a projection, for the persistent kernels: dy W_hr, dh_n W_hr, and dgates W_hh of every row.
  char* cell_dy_ = nullptr;      // T [R, H]
  char* cell_dh_n_ = nullptr;    // T [N, H]
  char* dh_products_ = nullptr;  // C [R, O]
  char* h_before_;               // T [R, O], if not in y
  char* sums_;                   // C [chunks, G*H]
};

}  // namespace

size_t backward_workspace_bytes(const BackwardRuns& runs, const Context& context) {
  size_t bytes = 0;
  for_runs<Backward>(runs, context, &bytes);
  return bytes;
}
Result backward(const BackwardRuns& runs, const Context& context) { return for_runs<Backward>(runs, context); }

}  // namespace lstmfast::cuda
