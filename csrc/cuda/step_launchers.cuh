// From arguments to launches: chooses the cell and the vector width. A unit per element type instantiates it.
#pragma once
#include <algorithm>

#include "fused_step.cuh"

namespace lstmfast::cuda {

inline dev::Launch covering(int64_t threads) {
  return {static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads};
}

template <class T>
struct StepLaunchers {
  using C = ComputeType<T>;
  static constexpr int kVector = 16 / sizeof(C);

  // Whether rows of T can be read kVector elements at a time.
  static bool aligned(const void* data, int64_t stride = 0, int64_t size = sizeof(T)) {
    return reinterpret_cast<uintptr_t>(data) % (size * kVector) == 0 && (!data || stride % kVector == 0);
  }
  template <class P>
  static bool aligned(const RowsOf<P>& rows) {
    return aligned(rows.data, rows.row_stride);
  }
  static bool aligned_computed(const void* data) { return aligned(data, 0, sizeof(C)); }

  static Result cell_forward(const CellForward& p, void* stream) {
    const bool wide = p.hidden % kVector == 0 && aligned(p.b_ih) && aligned(p.b_hh) && aligned_computed(p.gates) &&
                      aligned_computed(p.c_before) && aligned(p.c0) && aligned_computed(p.c) && aligned(p.h) &&
                      aligned(p.h_n) && aligned(p.c_n);
    int error = 0;
    const bool known = visit_cell(p.cell, portable::AllCells{}, [&](auto cell) {
      using Cell = decltype(cell);
      error = wide
                  ? dev::launch(cell_forward_kernel<Cell, T, kVector>, covering(p.rows * p.hidden / kVector), p, stream)
                  : dev::launch(cell_forward_kernel<Cell, T, 1>, covering(p.rows * p.hidden), p, stream);
    });
    return known ? launch_result(error, "cell_forward") : Result{Status::kUnknownCell, 0, "cell_forward"};
  }
  static bool is_wide(const FusedStep::Operand& o, int64_t rows) {
    constexpr int64_t kWide = 16 / sizeof(T);
    const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
    return o.depth % kWide == 0 && o.w.col_stride == 1 && o.w.row_stride % kWide == 0 && aligned(o.w.data) &&
           std::all_of(o.row, o.row + rows, aligned);
  }
  static Result fused_step(const FusedStep& call, void* stream) {
    FusedStep p = call;
    for (FusedStep::Operand& o : p.operands) o.wide = is_wide(o, p.rows);
    const dev::Launch shape{static_cast<unsigned>((p.hidden * 32 + kFusedThreads - 1) / kFusedThreads), kFusedThreads};
    int error = 0;
    const bool known = visit_cell(p.cell, portable::AllCells{}, [&](auto cell) {
      using Cell = decltype(cell);
      const auto launch = [&](auto kernel) { error = dev::launch<FusedStep>(kernel, shape, p, stream); };
      if (p.rows == 1)
        launch(fused_step_kernel<Cell, T, 1>);
      else if (p.rows == 2)
        launch(fused_step_kernel<Cell, T, 2>);
      else if (p.rows <= 4)
        launch(fused_step_kernel<Cell, T, 4>);
      else
        launch(fused_step_kernel<Cell, T, kMostFusedRows>);
    });
    return known ? launch_result(error, "fused_step") : Result{Status::kUnknownCell, 0, "fused_step"};
  }
  static Result cell_backward(const CellBackward& p, void* stream) {
    const bool wide = p.hidden % kVector == 0 && aligned_computed(p.gates) && aligned_computed(p.c_before) &&
                      aligned(p.c0) && aligned_computed(p.c) && aligned_computed(p.dh) && aligned(p.dy) &&
                      aligned(p.dh_n) && aligned(p.dc_n) && aligned_computed(p.dc) && aligned(p.dgates) &&
                      aligned(p.dc0);
    int error = 0;
    const bool known = visit_cell(p.cell, portable::AllCells{}, [&](auto cell) {
      using Cell = decltype(cell);
      error =
          wide ? dev::launch(cell_backward_kernel<Cell, T, kVector>, covering(p.rows * p.hidden / kVector), p, stream)
               : dev::launch(cell_backward_kernel<Cell, T, 1>, covering(p.rows * p.hidden), p, stream);
    });
    return known ? launch_result(error, "cell_backward") : Result{Status::kUnknownCell, 0, "cell_backward"};
  }
  static Result output_gradient(const OutputGradient& p, void* stream) {
    const bool wide =
        p.width % kVector == 0 && aligned_computed(p.product) && aligned(p.dy) && aligned(p.dh_n) && aligned(p.dh);
    return launch_result(
        wide ? dev::launch(output_gradient_kernel<T, kVector>, covering(p.rows * p.width / kVector), p, stream)
             : dev::launch(output_gradient_kernel<T, 1>, covering(p.rows * p.width), p, stream),
        "output_gradient");
  }
  static Result copy_rows(const CopyRows& p, void* stream) {
    return launch_result(dev::launch(copy_rows_kernel<T>, covering(p.rows * p.columns), p, stream), "copy_rows");
  }
  static dev::Launch block_per_row(const AllRows& p) {
    constexpr int64_t kMostBlocks = 1 << 20;
    return {static_cast<unsigned>(p.rows < kMostBlocks ? p.rows : kMostBlocks), kThreads};
  }
  static Result previous_states(const PreviousStates& p, void* stream) {
    return launch_result(dev::launch(previous_states_kernel<T>, block_per_row(p), p, stream), "previous_states");
  }
  static Result output_gradients(const OutputGradients& p, void* stream) {
    return launch_result(dev::launch(output_gradients_kernel<T>, block_per_row(p), p, stream), "output_gradients");
  }
  static Result column_sums(const ColumnSums& p, void* stream) {
    const int64_t tiles = (p.columns + kSumColumns - 1) / kSumColumns;
    const dev::Launch shape{static_cast<unsigned>(tiles * sum_chunks(p.rows)), kThreads, kThreads * sizeof(C)};
    if (const int error = dev::launch(partial_sums_kernel<T>, shape, p, stream))
      return launch_result(error, "partial_sums");
    return launch_result(dev::launch(final_sums_kernel<T>, covering(p.columns), p, stream), "final_sums");
  }

  static constexpr StepKernels kTable{cell_forward, fused_step,      cell_backward,    output_gradient,
                                      copy_rows,    previous_states, output_gradients, column_sums};
};

}  // namespace lstmfast::cuda
