// What cuBLAS is asked for, against the product it stands for: every way in which the three matrices can lie.
#include <vector>

#include "check.h"
#include "torch/column_major.h"

using namespace lstmfast;

namespace {

// The library's contract: matrices column by column, a leading dimension no smaller than a column.
void fortran_gemm(const ColumnMajorGemm& p, float beta) {
  const auto at = [](const ColumnMajorOperand& o, int64_t r, int64_t c) {
    if (o.transposed) std::swap(r, c);
    return static_cast<const float*>(o.data)[r + c * o.leading];
  };
  CHECK(p.a.leading >= (p.a.transposed ? p.k : p.m));
  CHECK(p.b.leading >= (p.b.transposed ? p.n : p.k));
  CHECK(p.c_leading >= p.m);
  for (int64_t i = 0; i < p.m; i++)
    for (int64_t j = 0; j < p.n; j++) {
      float& c = static_cast<float*>(p.c)[i + j * p.c_leading];
      float sum = beta == 0 ? 0 : c;
      for (int64_t k = 0; k < p.k; k++) sum += at(p.a, i, k) * at(p.b, k, j);
      c = sum;
    }
}

struct Stored {
  int64_t rows, columns, row_stride, col_stride;
  std::vector<float> data;

  Stored(int64_t r, int64_t c, bool by_columns, int64_t gap, float first)
      : rows(r),
        columns(c),
        row_stride(by_columns ? 1 : c + gap),
        col_stride(by_columns ? r + gap : 1),
        data(static_cast<size_t>(r * c + gap * (r + c))) {
    for (size_t i = 0; i < data.size(); i++) data[i] = first + static_cast<float>(i * 7 % 11);
  }
  float& at(int64_t r, int64_t c) { return data[static_cast<size_t>(r * row_stride + c * col_stride)]; }
};

void check_product(int64_t m, int64_t n, int64_t k, int layout, int64_t gap, double beta) {
  Stored a(m, k, layout & 1, gap, -5), b(k, n, layout & 2, gap, -3), c(m, n, layout & 4, gap, 2);
  Stored expected = c;
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      float sum = beta == 0 ? 0 : c.at(i, j);
      for (int64_t l = 0; l < k; l++) sum += a.at(i, l) * b.at(l, j);
      expected.at(i, j) = sum;
    }
  const cuda::Gemm g{DType::kFloat32,
                     true,
                     m,
                     n,
                     k,
                     {a.data.data(), a.row_stride, a.col_stride},
                     {b.data.data(), b.row_stride, b.col_stride},
                     {c.data.data(), c.row_stride, c.col_stride},
                     beta};
  fortran_gemm(column_major(g), static_cast<float>(beta));
  CHECK(c.data == expected.data);  // the gaps as well
}

}  // namespace

int main() {
  for (const int64_t m : {1, 2, 5})
    for (const int64_t n : {1, 3, 4})
      for (const int64_t k : {1, 2, 7})
        for (int layout = 0; layout < 8; layout++)
          for (const int64_t gap : {0, 1, 6})
            for (const double beta : {0., 1.}) check_product(m, n, k, layout, gap, beta);
  return finish();
}
