// Forward: x W_ih' over all rows, then for each step h W_hh' on top of its rows and a pointwise kernel; with a
// projection, W_hr after it.
#include "call.h"

namespace lstmfast::cuda {
namespace {

class Forward : public Call {
 public:
  using Params = ForwardParams;
  static constexpr bool kBackward = false;
  static constexpr const char* kName = "forward";
  static bool wants_offsets(const Params&) { return false; }

  Forward(const Params& p, const Common& common, Arena& arena) : Call(p, common, arena) {
    take_input();
    if (!is_persistent()) take_initial_state();
    w_ih_ = operand(p.w_ih, gates_ * hidden_, input_);
    w_hh_ = is_persistent() ? Operand{p.w_hh} : operand(p.w_hh, gates_ * hidden_, output_);
    w_hr_ = operand(p.w_hr, output_, hidden_);
    b_ih_ = bias(p.b_ih);
    b_hh_ = bias(p.b_hh);
    if (p.reserve) return;
    const int64_t batch = p.shape.batch;
    reserve_.gates = static_cast<char*>(arena_.take(rows_ * gates_ * hidden_ * compute_size_));
    c_state_ = static_cast<char*>(arena_.take(batch * hidden_ * compute_size_, has_c_ && !is_persistent()));
    cell_out_ = static_cast<char*>(arena_.take(batch * hidden_ * size_, projects_));
  }

  Result begin() {
    gemm("x w_ih", true, rows_, gates_ * hidden_, input_, readable_input(), transposed(readable(w_ih_)),
         {reserve_.gates, gates_ * hidden_, 1});
    biases_[0] = readable(b_ih_).data;
    biases_[1] = readable(b_hh_).data;
    return result_;
  }

  Result recur() {
    w_hh_.source = readable(w_hh_), w_hr_.source = readable(w_hr_);
    h0_ = readable_initial_state();
    for (int64_t i = 0; i < steps_.count(); i++) take_step(steps_.at(i));
    return result_;
  }

  static Result launch(const Common& common, const std::optional<Forward> (&runs)[kMostRuns]) {
    PersistentForward f{};
    static_cast<PersistentCall&>(f) = common.persistent_call();
    f.keep = common.like.reserve != nullptr;
    for (int i = 0; i < common.plan.runs; i++) f.runs[i] = runs[i]->persistent_run();
    return persistent_forward(common.like.dtype, common.plan.multiplier)->launch(f, common.context.stream);
  }

  Result end() { return {}; }

 private:
  PersistentForward::Run persistent_run() const {
    PersistentForward::Run r{};
    r.reverse = p_.shape.reverse;
    r.w_hh = p_.w_hh;
    r.b_ih = biases_[0], r.b_hh = biases_[1];
    r.gates = reserve_.gates;
    r.h0 = p_.h0, r.y = p_.y, r.h_n = p_.h_n;
    if (has_c_) r.c = reserve_.c, r.c0 = p_.c0, r.c_n = p_.c_n;
    return r;
  }

  void take_step(int64_t t) {
    const int64_t n = steps_.active(t), started = steps_.started(t), row = steps_.first_row(t);
    const int64_t before = steps_.previous(t);
    char* gates = gates_at(row);
    const auto recur = [&](const ConstRows& h, int64_t first, int64_t rows) {
      if (rows == 0) return;
      gemm("h w_hh", true, rows, gates_ * hidden_, output_, matrix(from_row(h, first)), transposed(w_hh_.source),
           {computed(gates, first * gates_ * hidden_), gates_ * hidden_, 1}, true);
    };
    recur(started ? step(readonly(p_.y), before) : ConstRows{}, 0, started);
    recur(h0_, started, n - started);

    CellForward c{};
    c.cell = p_.cell;
    c.rows = n, c.hidden = hidden_;
    c.started = started, c.continued = steps_.continued(t);
    c.b_ih = biases_[0], c.b_hh = biases_[1];
    c.gates = gates, c.keep = p_.reserve != nullptr;
    if (has_c_) {
      c.c_before = started ? cell_state(before) : nullptr;
      c.c = cell_state(t);
      c.c0 = p_.c0, c.c_n = p_.c_n;
    }
    c.h = projects_ ? cell_output(row) : step(p_.y, t);
    if (!projects_) c.h_n = p_.h_n;
    run(kernels_.cell_forward, c);
    if (projects_) project(t, n, readonly(c.h));
  }

  void project(int64_t t, int64_t n, const ConstRows& cell_out) {
    const Rows y = step(p_.y, t);
    gemm("h w_hr", false, n, output_, hidden_, matrix(cell_out), transposed(w_hr_.source), matrix(y));
    const int64_t continued = steps_.continued(t), ended = n - continued;
    if (ended && p_.h_n.data)
      run(kernels_.copy_rows,
          CopyRows{ended, output_, ended, from_row(readonly(y), continued), 1, from_row(p_.h_n, continued)});
  }

  char* cell_state(int64_t t) const {
    return p_.reserve ? computed(reserve_.c, steps_.first_row(t) * hidden_) : c_state_;
  }
  Rows cell_output(int64_t row) const {
    return {p_.reserve ? offset(reserve_.cell_out, row * hidden_) : cell_out_, 0, hidden_};
  }

  Operand w_ih_, w_hh_, w_hr_, b_ih_, b_hh_;
  const void* biases_[2] = {};
  ConstRows h0_;
  char* c_state_ = nullptr;   // C [N, H], in inference
  char* cell_out_ = nullptr;  // T [N, H], in inference with a projection
};

}  // namespace

size_t forward_workspace_bytes(const ForwardRuns& runs, const Context& context) {
  size_t bytes = 0;
  for_runs<Forward>(runs, context, &bytes);
  return bytes;
}
Result forward(const ForwardRuns& runs, const Context& context) { return for_runs<Forward>(runs, context); }

}  // namespace lstmfast::cuda
