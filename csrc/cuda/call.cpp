#include "call.h"

namespace lstmfast::cuda {
namespace {

bool rows_are_readable(int64_t row_stride, int64_t rows, int64_t columns) { return row_stride >= columns || rows == 1; }

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

Call::Call(const ForwardParams& p, const Context& context, bool backward)
    : p_(p),
      context_(context),
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
      request_(request_for(p, context, backward)),
      plan_(plan_for(p, context, backward)),
      arena_(p.workspace) {
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
void Call::take_input() {
  const bool as_it_is = is_one_matrix(p_.x, p_.shape) && rows_are_readable(p_.x.row_stride, rows_, input_);
  x_ = {matrix(p_.x), rows_, input_, arena_.take(rows_ * input_ * size_, !as_it_is)};
}
void Call::take_initial_state() {
  const bool as_it_is = p_.h0.data && rows_are_readable(p_.h0.row_stride, p_.shape.batch, output_);
  h0_copy_ = arena_.take(p_.shape.batch * output_ * size_, !as_it_is);
}
void Call::take_offsets(bool wanted) {
  offsets_ = static_cast<int64_t*>(
      arena_.take((p_.shape.steps + 1) * static_cast<int64_t>(sizeof(int64_t)), wanted && p_.shape.offsets));
}

void Call::take_exchange() {
  exchange_ = static_cast<char*>(arena_.take(flag_bytes() + exchange_bytes(), plan_.regime == Regime::kWholeGpu));
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
void Call::clear(void* p, int64_t bytes) {
  if (result_.ok()) result_ = clear_memory(p, static_cast<size_t>(bytes), context_.stream);
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
ConstMatrix Call::readable_input() {
  if (!x_.copy) return x_.source;
  const int64_t batch = p_.shape.offsets ? rows_ : p_.shape.batch;
  run(kernels_.copy_rows, CopyRows{rows_, input_, batch, p_.x, 1, {x_.copy, batch * input_, input_}});
  return {x_.copy, input_, 1};
}
ConstRows Call::readable_initial_state() {
  if (!h0_copy_) return p_.h0;
  const int64_t n = p_.shape.batch;
  run(kernels_.copy_rows, CopyRows{n, output_, n, p_.h0, 1, {h0_copy_, 0, output_}});
  return {h0_copy_, 0, output_};
}
void Call::upload_offsets_if_packed() {
  for (int64_t i = 0; offsets_ && i <= p_.shape.steps; i += UploadOffsets::kPiece) {
    UploadOffsets piece{};
    piece.to = offsets_ + i;
    piece.count = static_cast<int>(std::min<int64_t>(UploadOffsets::kPiece, p_.shape.steps + 1 - i));
    std::copy_n(p_.shape.offsets + i, piece.count, piece.values);
    run(upload_offsets, piece);
  }
}

PersistentCall Call::persistent_call(const ConstMatrix& w_hh) {
  upload_offsets_if_packed();
  if (exchange_) clear(exchange_, flag_bytes() + exchange_bytes());
  PersistentCall c{};
  c.cell = p_.cell;
  c.plan = plan_;
  c.steps = static_cast<int>(p_.shape.steps);
  c.batch = static_cast<int>(p_.shape.batch);
  c.hidden = static_cast<int>(hidden_);
  c.reverse = p_.shape.reverse;
  c.offsets = offsets_;
  c.w_hh = w_hh;
  c.c0 = has_c_ ? p_.c0 : ConstRows{};
  c.gate_width = static_cast<int>(exchange_gate_width(request_));
  c.exchange_width = static_cast<int>(exchange_width(request_));
  c.flags = reinterpret_cast<uint32_t*>(exchange_);
  c.exchange = exchange_ ? exchange_ + flag_bytes() : nullptr;
  return c;
}

}  // namespace lstmfast::cuda
