// Forward: x W_ih' over all rows, then for each step h W_hh' on top of its rows and a pointwise kernel; with a
// projection, W_hr after it. Or both in one kernel, with x W_ih' too if there is but one step. Or the persistent kernel
// instead of the steps, with W_hr after all of them.
#include "call.h"

namespace lstmfast::cuda {
namespace {

class Forward : public Call {
 public:
  using Params = ForwardParams;
  static constexpr bool kBackward = false;
  static constexpr const char* kName = "forward";
  static bool wants_offsets(const Params&) { return false; }

  Forward(const Params& p, const Common& common, Arena& arena, bool is_fed) : Call(p, common, arena, is_fed) {
    if (multiplies_input()) x_ = operand(p.x, input_);
    if (is_general() || (is_closed() && p.h0.data)) take_initial_state();
    if (multiplies_input()) w_ih_ = operand(p.w_ih, gates_ * hidden_, input_);
    take_recurrent_weights();
    b_ih_ = bias(p.b_ih);
    b_hh_ = bias(p.b_hh);
    if (p.reserve) return;
    const int64_t batch = p.shape.batch;
    reserve_.gates = static_cast<char*>(arena_.take(rows_ * gates_ * hidden_ * compute_size_, multiplies_input()));
    c_state_ = static_cast<char*>(arena_.take(batch * hidden_ * compute_size_, has_c_ && !is_persistent()));
    cell_out_ = static_cast<char*>(arena_.take((is_persistent() ? rows_ : batch) * hidden_ * size_, projects_));
  }

  Result begin() {
    if (multiplies_input())
      gemm("x w_ih", true, rows_, gates_ * hidden_, input_, readable(x_), transposed(readable(w_ih_)),
           {reserve_.gates, gates_ * hidden_, 1});
    biases_[0] = readable(b_ih_).data;
    biases_[1] = readable(b_hh_).data;
    if (is_closed()) {
      multiply_recurrent_weights();
      if (p_.h0.data) enter_initial_state();
    }
    return result_;
  }

  Result recur() {
    w_hh_.source = readable(w_hh_), w_hr_.source = readable(w_hr_);
    h0_ = readable_initial_state();
    for (int64_t i = 0; i < steps_.count(); i++) take_step(i);
    return result_;
  }

  static Result launch(const Common& common, const std::optional<Forward> (&runs)[kMostRuns], const ForwardRuns& call) {
    PersistentForward f{};
    static_cast<PersistentCall&>(f) = common.persistent_call();
    f.keep = common.like.reserve != nullptr;
    f.scale = static_cast<float>(call.scale);
    for (int i = 0; i < common.plan.runs; i++) {
      f.runs[i] = runs[i]->persistent_run();
      if (call.kept && i + 1 < call.count) f.runs[i].kept = call.kept + i * runs[i]->rows_ * runs[i]->hidden_;
    }
    return persistent_forward(common.like.dtype, common.plan.multiplier)->launch(f, common.context.stream);
  }

  Result end() {
    if (is_closed()) project_all();
    return result_;
  }

 private:
  // x W_ih' over all rows: not in a stack, where x comes step by step, nor where the only step has it in its kernel.
  bool multiplies_input() const { return !is_fed_ && !has_whole_step(); }
  bool has_whole_step() const { return is_fused() && steps_.count() == 1; }

  // Before its first step a sequence has no output of the cell, but h0.
  void enter_initial_state() {
    const ConstRows h0 = readable_initial_state();
    for (int64_t t = 0; t < steps_.count(); t++) recur(t, h0, steps_.started(t), steps_.active(t));
  }
  void project_all() {
    if (is_one_matrix(p_.y, p_.shape))
      project(0, rows_, p_.y);
    else
      for (int64_t t = 0; t < steps_.count(); t++) project(steps_.first_row(t), steps_.active(t), step(p_.y, t));
    for (int64_t t = 0; t < steps_.count(); t++) keep_final_state(t);
  }

  PersistentForward::Run persistent_run() const {
    PersistentForward::Run r{};
    r.reverse = p_.shape.reverse;
    r.w_hh = recurrent_weights();
    if (is_fed_) r.w_beside = p_.w_ih;
    r.b_ih = biases_[0], r.b_hh = biases_[1];
    r.gates = reserve_.gates;
    if (is_closed())
      r.y = cell_output(0), r.y.step_stride = p_.shape.batch * hidden_;
    else
      r.h0 = p_.h0, r.y = p_.y, r.h_n = p_.h_n;
    r.y = stepped(r.y);
    if (has_c_) r.c = reserve_.c, r.c0 = p_.c0, r.c_n = p_.c_n;
    return r;
  }

  // Adds h W_hh' to the gates of rows [first, last) of step t.
  void recur(int64_t t, const ConstRows& h, int64_t first, int64_t last) {
    if (first == last) return;
    const int64_t width = gates_ * hidden_;
    gemm("h w_hh", true, last - first, width, output_, matrix(from_row(h, first)), transposed(w_hh_.source),
         {gates_at(steps_.first_row(t) + first), width, 1}, true);
  }

  void take_step(int64_t i) {
    const int64_t t = steps_.at(i);
    const int64_t n = steps_.active(t), started = steps_.started(t), row = steps_.first_row(t);
    const int64_t before = steps_.previous(t);
    const ConstRows h = started ? step(readonly(p_.y), before) : ConstRows{};
    if (!is_fused()) {
      recur(t, h, 0, started);
      recur(t, h0_, started, n);
    }

    FusedStep c{};
    c.cell = p_.cell;
    c.rows = n, c.hidden = hidden_;
    c.started = started, c.continued = steps_.continued(t);
    c.b_ih = biases_[0], c.b_hh = biases_[1];
    c.gates = gates_at(row), c.keep = p_.reserve != nullptr;
    if (has_c_) {
      c.c_before = started ? cell_state(before) : nullptr;
      c.c = cell_state(t);
      c.c0 = p_.c0, c.c_n = p_.c_n;
    }
    c.h = projects_ ? cell_output(row) : step(p_.y, t);
    if (!projects_) c.h_n = p_.h_n;
    if (is_fused()) {
      add_operands(c, t, h);
      c.from_last_unit = i % 2;
      run(kernels_.fused_step, c);
    } else {
      run<CellForward>(kernels_.cell_forward, c);
    }
    if (!projects_) return;
    project(row, n, step(p_.y, t));
    keep_final_state(t);
  }

  // What a fused step multiplies: h, and the rows of x if those are not in the gates already.
  void add_operands(FusedStep& f, int64_t t, const ConstRows& h) const {
    f.given = !has_whole_step();
    FusedStep::Operand &of_x = f.operands[0], &of_h = f.operands[1];
    if (!f.given) of_x.w = p_.w_ih, of_x.depth = input_;
    if (f.started || p_.h0.data) of_h.w = p_.w_hh, of_h.depth = output_;
    const ConstRows x = step(p_.x, t);
    for (int64_t n = 0; n < f.rows; n++) {
      of_x.row[n] = f.given ? nullptr : from_row(x, n).data;
      of_h.row[n] = from_row(n < f.started ? h : p_.h0, n).data;
    }
  }

  // y of n rows, the first of which is `row` of all.
  void project(int64_t row, int64_t n, const Rows& y) {
    gemm("h w_hr", false, n, output_, hidden_, matrix(readonly(cell_output(row))), transposed(w_hr_.source), matrix(y));
  }
  void keep_final_state(int64_t t) {
    const int64_t continued = steps_.continued(t), ended = steps_.active(t) - continued;
    if (ended && p_.h_n.data)
      run(kernels_.copy_rows, CopyRows{ended, output_, ended, from_row(step(readonly(p_.y), t), continued), 1,
                                       from_row(p_.h_n, continued)});
  }

  char* cell_state(int64_t t) const {
    return p_.reserve ? computed(reserve_.c, steps_.first_row(t) * hidden_) : c_state_;
  }
  Rows cell_output(int64_t row) const {
    if (p_.reserve) return {offset(reserve_.cell_out, row * hidden_), 0, hidden_};
    return {is_persistent() ? offset(cell_out_, row * hidden_) : cell_out_, 0, hidden_};
  }

  RowsOperand x_;
  Operand w_ih_, b_ih_, b_hh_;
  const void* biases_[2] = {};
  ConstRows h0_;
  char* c_state_ = nullptr;   // C [N, H], in inference
  char* cell_out_ = nullptr;  // T [N, H], or [R, H] for the persistent kernels, in inference with a projection
};

}  // namespace

size_t forward_workspace_bytes(const ForwardRuns& runs, const Context& context) {
  size_t bytes = 0;
  for_runs<Forward>(runs, context, &bytes);
  return bytes;
}
Result forward(const ForwardRuns& runs, const Context& context) { return for_runs<Forward>(runs, context); }

}  // namespace lstmfast::cuda
