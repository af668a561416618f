// Matrix products for the emulation: a loop over doubles that checks what it is asked for.
#pragma once
#include "cuda/kernels.h"
#include "memory.h"

namespace lstmfast {

inline int naive_gemm(void* tf32, const cuda::Gemm& g) {
  const auto stored = [](int64_t row_stride, int64_t col_stride, int64_t rows, int64_t columns) {
    return (col_stride == 1 && row_stride >= columns) || (row_stride == 1 && col_stride >= rows);
  };
  if (g.m < 1 || g.n < 1 || g.k < 1 || (g.beta != 0 && g.beta != 1)) return 1;
  if (!stored(g.a.row_stride, g.a.col_stride, g.m, g.k)) return 2;
  if (!stored(g.b.row_stride, g.b.col_stride, g.k, g.n)) return 3;
  if (!stored(g.c.row_stride, g.c.col_stride, g.m, g.n)) return 4;
  const DType c_type = g.compute_c && g.dtype != DType::kFloat64 ? DType::kFloat32 : g.dtype;
  const bool rounds = *static_cast<const bool*>(tf32) && g.dtype == DType::kFloat32;
  const auto load = [&](const ConstMatrix& m, int64_t r, int64_t c) {
    const double x =
        decode(g.dtype, static_cast<const char*>(m.data) + (r * m.row_stride + c * m.col_stride) * size_of(g.dtype));
    return rounds ? cuda::dev::to_tf32(static_cast<float>(x)) : x;
  };
  std::vector<double> b(g.k * g.n);
  for (int64_t k = 0; k < g.k; k++)
    for (int64_t j = 0; j < g.n; j++) b[k * g.n + j] = load(g.b, k, j);
  std::vector<double> row(g.n);
  for (int64_t i = 0; i < g.m; i++) {
    std::fill(row.begin(), row.end(), 0.);
    for (int64_t k = 0; k < g.k; k++) {
      const double a = load(g.a, i, k);
      for (int64_t j = 0; j < g.n; j++) row[j] += a * b[k * g.n + j];
    }
    for (int64_t j = 0; j < g.n; j++) {
      char* c = static_cast<char*>(g.c.data) + (i * g.c.row_stride + j * g.c.col_stride) * size_of(c_type);
      encode(c_type, row[j] + (g.beta == 1 ? decode(c_type, c) : 0), c);
    }
  }
  return 0;
}

}  // namespace lstmfast
