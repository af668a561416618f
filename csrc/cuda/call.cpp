#include "call.h"

namespace lstmfast::cuda {
namespace {

bool is_readable(const ConstMatrix& m, int64_t rows, int64_t columns) {
  return ((m.col_stride == 1 || columns == 1) && rows_are_readable(m.row_stride, rows, columns)) ||
         ((m.row_stride == 1 || rows == 1) && rows_are_readable(m.col_stride, columns, rows));
}

// Strides that are never used become what libraries expect of them.
template <class T>
MatrixOf<T> normalized(MatrixOf<T> m, int64_t rows, int64_t columns) {
  if (columns == 1 && m.row_stride != 1) m.col_stride = 1;
  if (rows == 1 && m.col_stride != 1) m.row_stride = 1;
  if (m.col_stride == 1)
    m.row_stride = rows == 1 ? std::max(m.row_stride, columns) : m.row_stride;
  else
    m.col_stride = columns == 1 ? std::max(m.col_stride, rows) : m.col_stride;
  return m;
}

}  // namespace

Common::Common(const ForwardParams& like, const Context& context, const Request& request, const Plan& plan,
               Arena& arena, bool wants_offsets)
    : like(like), context(context), request(request), plan(plan) {
  const int64_t offset_bytes = (like.shape.steps + 1) * static_cast<int64_t>(sizeof(int64_t));
  offsets_ = static_cast<int64_t*>(arena.take(offset_bytes, like.shape.offsets && (wants_offsets || is_persistent())));
  exchange_ = static_cast<char*>(
      arena.take(meeting_bytes(), plan.regime == Regime::kWholeGpu || plan.regime == Regime::kStack));
}
Result Common::prepare() const {
  for (int64_t i = 0; offsets_ && i <= like.shape.steps; i += UploadOffsets::kPiece) {
    UploadOffsets piece{};
    piece.to = offsets_ + i;
    piece.count = static_cast<int>(std::min<int64_t>(UploadOffsets::kPiece, like.shape.steps + 1 - i));
    std::copy_n(like.shape.offsets + i, piece.count, piece.values);
    const Result result = upload_offsets(piece, context.stream);
    if (!result.ok()) return result;
  }
  if (!exchange_) return {};
  return fill_memory(exchange_, has_mailbox() ? kUnsentByte : 0, static_cast<size_t>(meeting_bytes()), context.stream);
}
PersistentCall Common::persistent_call() const {
  PersistentCall c{};
  c.cell = like.cell;
  c.plan = plan;
  c.steps = static_cast<int>(like.shape.steps);
  c.batch = static_cast<int>(like.shape.batch);
  c.hidden = static_cast<int>(like.shape.hidden);
  c.offsets = offsets_;
  c.gate_width = static_cast<int>(exchange_gate_width(request));
  c.exchange_width = static_cast<int>(row_width());
  c.flags = reinterpret_cast<uint32_t*>(exchange_);
  c.exchange = exchange_ && !has_mailbox() ? exchange_ + flag_bytes() : exchange_;
  c.row_bytes = static_cast<int>(row_width() * size_of(request.dtype));
  // Forward begins with h0, where there is one, backward with zeros, which need not be sent.
  c.first_mailed = !request.backward && like.h0.data && !like.shape.projection ? 0 : 1;
  c.operand_bytes = plan.tiling.tiles * 8 * plan.tiling.pitch;
  c.exchange_groups = static_cast<int>(groups());
  c.group_bytes = static_cast<int>(operand_bytes());
  c.handed_bytes = plan.tiling.groups * operand_bytes();
  c.handed = exchange_ ? exchange_ + flag_bytes() + exchange_bytes() : nullptr;
  return c;
}

Call::Call(const ForwardParams& p, const Common& common, Arena& arena, bool is_fed)
    : p_(p),
      common_(common),
      context_(common.context),
      kernels_(step_kernels(p.dtype)),
      steps_(p.shape),
      gates_(cell_info(p.cell).gates),
      input_(p.shape.input),
      hidden_(p.shape.hidden),
      output_(p.shape.output()),
      rows_(p.shape.rows),
      size_(size_of(p.dtype)),
      compute_size_(compute_size_of(p.dtype)),
      has_c_(cell_info(p.cell).states > 1),
      projects_(p.shape.projection > 0),
      is_fed_(is_fed),
      arena_(arena) {
  if (!p.reserve) return;
  reserve_.gates = static_cast<char*>(p.reserve);
  reserve_.c = computed(reserve_.gates, rows_ * gates_ * hidden_);
  reserve_.cell_out = computed(reserve_.c, has_c_ ? rows_ * hidden_ : 0);
}

Operand Call::operand(const ConstMatrix& m, int64_t rows, int64_t columns) {
  return {m, rows, columns, arena_.take(rows * columns * size_, m.data && !is_readable(m, rows, columns))};
}
Operand Call::bias(const ConstMatrix& column) {  // kernels read it side by side
  const int64_t n = gates_ * hidden_;
  return {column, n, 1, arena_.take(n * size_, column.data && column.row_stride != 1)};
}
RowsOperand Call::operand(const ConstRows& rows, int64_t columns) {
  const bool as_it_is = is_one_matrix(rows, p_.shape) && rows_are_readable(rows.row_stride, rows_, columns);
  return {rows, columns, arena_.take(rows_ * columns * size_, rows.data && !as_it_is)};
}
void Call::take_recurrent_weights() {
  w_hr_ = operand(p_.w_hr, output_, hidden_);
  if (is_general() || is_closed()) w_hh_ = operand(p_.w_hh, gates_ * hidden_, output_);
  recurrent_weights_ = static_cast<char*>(arena_.take(gates_ * hidden_ * hidden_ * size_, is_closed()));
}
void Call::take_initial_state() {
  const bool as_it_is = p_.h0.data && rows_are_readable(p_.h0.row_stride, p_.shape.batch, output_);
  h0_copy_ = arena_.take(p_.shape.batch * output_ * size_, !as_it_is);
}
void Call::gemm(const char* where, bool compute_c, int64_t m, int64_t n, int64_t k, const ConstMatrix& a,
                const ConstMatrix& b, const Matrix& c, bool accumulate) {
  if (!result_.ok()) return;
  const Gemm g{p_.dtype,
               compute_c,
               m,
               n,
               k,
               normalized(a, m, k),
               normalized(b, k, n),
               normalized(c, m, n),
               accumulate ? 1. : 0.};
  if (const int code = context_.blas.gemm(context_.blas.context, g)) result_ = {Status::kBlasFailed, code, where};
}

ConstMatrix Call::readable(const Operand& m) {
  if (!m.copy) return m.source;
  run(kernels_.copy_rows, CopyRows{m.rows,
                                   m.columns,
                                   m.rows,
                                   {m.source.data, 0, m.source.row_stride},
                                   m.source.col_stride,
                                   {m.copy, 0, m.columns}});
  return {m.copy, m.columns, 1};
}
ConstMatrix Call::readable(const RowsOperand& m) {
  if (!m.copy) return matrix(m.source);
  const int64_t batch = p_.shape.offsets ? rows_ : p_.shape.batch;
  run(kernels_.copy_rows, CopyRows{rows_, m.columns, batch, m.source, 1, {m.copy, batch * m.columns, m.columns}});
  return {m.copy, m.columns, 1};
}
ConstRows Call::readable_initial_state() {
  if (!h0_copy_) return p_.h0;
  const int64_t n = p_.shape.batch;
  run(kernels_.copy_rows, CopyRows{n, output_, n, p_.h0, 1, {h0_copy_, 0, output_}});
  return {h0_copy_, 0, output_};
}

void Call::multiply_recurrent_weights() {
  w_hh_.source = readable(w_hh_), w_hr_.source = readable(w_hr_);
  gemm("w_hh w_hr", false, gates_ * hidden_, hidden_, output_, w_hh_.source, w_hr_.source,
       {recurrent_weights_, hidden_, 1});
}

}  // namespace lstmfast::cuda
