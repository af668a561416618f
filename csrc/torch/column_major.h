// A product of row-major matrices, said in the words of the Fortran interface that cuBLAS has.
#pragma once
#include <cstdint>
#include <utility>

#include "../cuda/kernels.h"

namespace lstmfast {

// One operand: its memory, read column by column, is the operand or, if transposed, the operand's transpose.
struct ColumnMajorOperand {
  const void* data;
  bool transposed;
  int64_t leading;
};

// C[m, n] = op(A)[m, k] op(B)[k, n] + beta C, C column by column.
struct ColumnMajorGemm {
  int64_t m, n, k;
  ColumnMajorOperand a, b;
  void* c;
  int64_t c_leading;
};

namespace detail {
// Whether a matrix lies in memory row by row, so that it may be given a leading dimension. Of both strides being 1
// follows that one extent is 1, but not which; the stride that nothing else explains decides.
template <class M>
bool is_row_major(const M& m, int64_t columns) {
  return m.col_stride == 1 && m.row_stride >= columns;
}
inline ColumnMajorOperand operand(const ConstMatrix& m, int64_t columns) {
  return is_row_major(m, columns) ? ColumnMajorOperand{m.data, true, m.row_stride}
                                  : ColumnMajorOperand{m.data, false, m.col_stride};
}
}  // namespace detail

inline ColumnMajorGemm column_major(const cuda::Gemm& g) {
  ColumnMajorOperand a = detail::operand(g.a, g.k), b = detail::operand(g.b, g.n);
  if (!detail::is_row_major(g.c, g.n)) return {g.m, g.n, g.k, a, b, g.c.data, g.c.col_stride};
  // Column by column the memory of C is C', and C' = B' A'.
  std::swap(a, b);
  a.transposed = !a.transposed, b.transposed = !b.transposed;
  return {g.n, g.m, g.k, a, b, g.c.data, g.c.row_stride};
}

}  // namespace lstmfast
