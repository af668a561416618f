// What forward and backward have in common: the call's sizes, and ways to put work on its stream. The first error
// stays, and nothing is put on the stream after it.
#pragma once
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

inline bool is_known(const ForwardParams& p) { return p.cell >= 0 && p.cell < kCells; }

class Call {
 public:
  size_t workspace_bytes() const { return arena_.used(); }

 protected:
  Call(const ForwardParams& p, const Context& context, bool backward);

  // ---- the layout of the workspace
  Operand operand(const ConstMatrix& m, int64_t rows, int64_t columns);
  Operand bias(const ConstMatrix& column);
  void take_input();
  void take_initial_state();
  void take_offsets(bool wanted);
  void take_exchange();

  // ---- work on the stream
  template <class Args>
  void run(Result (*launcher)(const Args&, void*), const Args& args) {
    if (result_.ok()) result_ = launcher(args, context_.stream);
  }
  void gemm(const char* where, bool compute_c, int64_t m, int64_t n, int64_t k, const ConstMatrix& a,
            const ConstMatrix& b, const Matrix& c, bool accumulate = false);
  void clear(void* p, int64_t bytes);
  ConstMatrix readable(const Operand& m);
  ConstMatrix readable_input();        // [R, I]
  ConstRows readable_initial_state();  // [N, O], never null
  void upload_offsets_if_packed();
  PersistentCall persistent_call(const ConstMatrix& w_hh);  // clears what blocks meet in

  bool is_persistent() const { return plan_.regime != Regime::kGeneral; }
  int64_t flag_bytes() const { return plan_.tiling.groups * kFlagStride * static_cast<int64_t>(sizeof(uint32_t)); }
  int64_t exchange_bytes() const {
    return 2 * plan_.tiling.groups * plan_.tiling.tiles * 8 * exchange_width(request_) * size_;
  }

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
  static Matrix matrix(const Rows& rows) { return {rows.data, rows.row_stride, 1}; }
  static ConstMatrix matrix(const ConstRows& rows) { return {rows.data, rows.row_stride, 1}; }
  static ConstRows readonly(const Rows& rows) { return {rows.data, rows.step_stride, rows.row_stride}; }
  static ConstMatrix transposed(const ConstMatrix& m) { return {m.data, m.col_stride, m.row_stride}; }

  const ForwardParams& p_;
  const Context& context_;
  const StepKernels& kernels_;
  const Steps steps_;
  const int64_t gates_, input_, hidden_, output_, rows_, size_, compute_size_;
  const bool has_c_, projects_;
  const Request request_;
  const Plan plan_;
  Arena arena_;
  Reserve reserve_;
  Operand x_;
  void* h0_copy_ = nullptr;
  int64_t* offsets_ = nullptr;
  char* exchange_ = nullptr;  // flags, then the operands in exchange
  Result result_;
};

}  // namespace lstmfast::cuda
