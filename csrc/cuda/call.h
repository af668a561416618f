// What forward and backward have in common: the call's sizes, and ways to put work on its stream. The first error
// stays, and nothing is put on the stream after it.
#pragma once
#include <optional>

#include "../core/cell_info.h"
#include "arena.h"
#include "persistent.h"
#include "step_kernels.h"
#include "steps.h"

namespace lstmfast::cuda {

// What forward keeps, one behind the other: gates C [R, G*H], the private state C [R, H], and where a projection
// follows the cell's output T [R, H].
struct Reserve {
  char *gates = nullptr, *c = nullptr, *cell_out = nullptr;
};

// A matrix for products: `copy` is where it goes first if they cannot read it where it lies.
struct Operand {
  ConstMatrix source;
  int64_t rows = 0, columns = 0;
  void* copy = nullptr;
};

// The same for the rows of all steps as one matrix.
struct RowsOperand {
  ConstRows source;
  int64_t columns = 0;
  void* copy = nullptr;
};

// Whether products can read rows this far apart.
inline bool rows_are_readable(int64_t row_stride, int64_t rows, int64_t columns) {
  return row_stride >= columns || rows == 1;
}

inline bool is_known(const ForwardParams& p) { return p.cell >= 0 && p.cell < kCells; }

// What the runs of a launch share: the plan, and on the device a packed batch's offsets and the memory in which blocks
// meet.
class Common {
 public:
  Common(const ForwardParams& like, const Context& context, const Request& request, const Plan& plan, Arena& arena,
         bool wants_offsets);

  bool is_persistent() const { return cuda::is_persistent(plan.regime); }
  const int64_t* offsets() const { return offsets_; }
  Result prepare() const;  // fills the offsets in, and clears what blocks meet in
  PersistentCall persistent_call() const;

  const ForwardParams& like;
  const Context& context;
  const Request request;
  const Plan plan;

 private:
  int64_t groups() const { return int64_t{plan.runs} * plan.tiling.groups; }
  int64_t flag_bytes() const { return groups() * kFlagStride * static_cast<int64_t>(sizeof(uint32_t)); }
  // Elements of a sequence's row in exchange: whole pieces, where it is read in pieces.
  int64_t row_width() const {
    const Tiling& t = plan.tiling;
    return t.is_split() ? t.pieces() * t.piece_bytes() / size_of(request.dtype) : exchange_width(request);
  }
  int64_t operand_bytes() const {  // of a group
    return plan.tiling.tiles * 8 * row_width() * size_of(request.dtype);
  }
  int64_t exchange_bytes() const { return 2 * groups() * operand_bytes(); }
  int64_t handed_bytes() const {
    if (plan.regime != Regime::kStack) return 0;
    return (plan.runs - 1) * like.shape.steps * plan.tiling.groups * operand_bytes();
  }
  bool has_mailbox() const { return is_persistent() && plan.meeting == Meeting::kMailbox; }
  int64_t meeting_bytes() const {
    return has_mailbox() ? mailbox_bytes(request, plan.runs) : flag_bytes() + exchange_bytes() + handed_bytes();
  }

  int64_t* offsets_;
  char* exchange_;  // a mailbox; or flags, the operands in exchange, and what a stack's layers hand on
};

// One run: a layer in one direction.
class Call {
 protected:
  Call(const ForwardParams& p, const Common& common, Arena& arena, bool is_fed);

  // ---- the layout of the workspace
  Operand operand(const ConstMatrix& m, int64_t rows, int64_t columns);
  Operand bias(const ConstMatrix& column);
  RowsOperand operand(const ConstRows& rows, int64_t columns);
  void take_initial_state();

  // W_hh as the recurrence needs it, and W_hr.
  void take_recurrent_weights();

  // ---- work on the stream
  template <class Args>
  void run(Result (*launcher)(const Args&, void*), const Args& args) {
    if (result_.ok()) result_ = launcher(args, context_.stream);
  }
  void gemm(const char* where, bool compute_c, int64_t m, int64_t n, int64_t k, const ConstMatrix& a,
            const ConstMatrix& b, const Matrix& c, bool accumulate = false);
  ConstMatrix readable(const Operand& m);
  ConstMatrix readable(const RowsOperand& m);  // [R, columns]
  ConstRows readable_initial_state();          // [N, O], never null
  void multiply_recurrent_weights();

  bool is_persistent() const { return common_.is_persistent(); }
  bool is_general() const { return common_.plan.regime == Regime::kGeneral; }
  bool is_fused() const { return common_.plan.regime == Regime::kFusedSteps; }
  // A projection is linear: W_hh h = (W_hh W_hr) m, where m is the cell's output. So the persistent kernels run the
  // recurrence of m as they run that of any h, with one exchange per step; h, and what is known of its gradient, are
  // products over all rows.
  bool is_closed() const { return projects_ && is_persistent(); }

  // ---- places
  template <class T>
  RowsOf<T> step(const RowsOf<T>& rows, int64_t t) const {  // the rows of one step
    if (!rows.data) return {};
    return {offset(rows.data, row_offset(rows, p_.shape, t, 0)), 0, rows.row_stride};
  }
  template <class T>
  RowsOf<T> from_row(const RowsOf<T>& rows, int64_t n) const {
    if (!rows.data) return {};
    return {offset(rows.data, n * rows.row_stride), rows.step_stride, rows.row_stride};
  }
  const void* offset(const void* base, int64_t i) const { return static_cast<const char*>(base) + i * size_; }
  void* offset(void* base, int64_t i) const { return static_cast<char*>(base) + i * size_; }
  char* computed(char* base, int64_t i) const { return base ? base + i * compute_size_ : nullptr; }
  char* gates_at(int64_t row) const { return computed(reserve_.gates, row * gates_ * hidden_); }
  // As a persistent kernel takes a step's rows: when packed, so many rows on.
  template <class T>
  RowsOf<T> stepped(RowsOf<T> rows) const {
    if (p_.shape.offsets) rows.step_stride = rows.row_stride;
    return rows;
  }
  static Matrix matrix(const Rows& rows) { return {rows.data, rows.row_stride, 1}; }
  static ConstMatrix matrix(const ConstRows& rows) { return {rows.data, rows.row_stride, 1}; }
  static ConstRows readonly(const Rows& rows) { return {rows.data, rows.step_stride, rows.row_stride}; }
  ConstMatrix recurrent_weights() const {  // of the persistent kernels
    return is_closed() ? ConstMatrix{recurrent_weights_, hidden_, 1} : p_.w_hh;
  }
  static ConstMatrix transposed(const ConstMatrix& m) { return {m.data, m.col_stride, m.row_stride}; }

  const ForwardParams& p_;
  const Common& common_;
  const Context& context_;
  const StepKernels& kernels_;
  const Steps steps_;
  const int64_t gates_, input_, hidden_, output_, rows_, size_, compute_size_;
  const bool has_c_, projects_;
  const bool is_fed_;  // in a stack: another layer hands on what is the input, or the gradient of the output
  Arena& arena_;
  Reserve reserve_;
  char* recurrent_weights_ = nullptr;  // T [G*H, H]: W_hh W_hr, where the recurrence is closed
  Operand w_hh_, w_hr_;
  void* h0_copy_ = nullptr;
  Result result_;
};

// Goes through the runs of a call, as many side by side as the plan puts into a launch. A Run has begin(), what it does
// before the recurrence; recur(), the recurrence by the general path, or, for the persistent kernels, a static launch()
// of several; and end(). With `bytes`, nothing is done, and they become the size of the workspace: runs that come one
// after the other have the same.
template <class Run>
Result for_runs(const RunsOf<typename Run::Params>& runs, const Context& context, size_t* bytes = nullptr) {
  const auto& like = runs.at[0];
  if (!is_known(like)) return {Status::kUnknownCell, 0, Run::kName};
  if (like.shape.rows == 0) return {};
  const Request request = request_for(like, runs.count, runs.stacked, context, Run::kBackward);
  const Plan plan = plan_for(like, runs.count, runs.stacked, context, Run::kBackward);
  if (runs.stacked && plan.regime != Regime::kStack) return {Status::kTooLarge, 0, "a stack that does not fit"};
  for (int first = 0; first < runs.count; first += plan.runs) {
    Arena arena(like.workspace);
    const Common common(runs.at[first], context, request, plan, arena, Run::wants_offsets(runs.at[first]));
    std::optional<Run> run[kMostRuns];
    // A stack's layers in the order in which they hand on.
    const auto at = [&](int i) { return runs.stacked && Run::kBackward ? runs.count - 1 - i : first + i; };
    for (int i = 0; i < plan.runs; i++) run[i].emplace(runs.at[at(i)], common, arena, runs.stacked && i > 0);
    if (bytes) {
      *bytes = std::max(*bytes, arena.used());
      continue;
    }
    Result result = common.prepare();
    for (int i = 0; i < plan.runs && result.ok(); i++) result = run[i]->begin();
    if (result.ok()) result = common.is_persistent() ? Run::launch(common, run, runs) : run[0]->recur();
    for (int i = 0; i < plan.runs && result.ok(); i++) result = run[i]->end();
    if (!result.ok()) return result;
  }
  return {};
}

}  // namespace lstmfast::cuda
