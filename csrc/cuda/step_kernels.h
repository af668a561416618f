// Arguments of the kernels that the general path is made of, and the table of their launchers for one element type.
// Plain data: the host code that fills it needs no CUDA compiler. T is the element type, C the compute type.
#pragma once
#include "../core/macros.h"
#include "kernels.h"

namespace lstmfast::cuda {

// One step forward: bias, cell, states. Rows are the step's active sequences.
struct CellForward {
  int cell;
  int64_t rows, hidden;
  int64_t started, continued;  // see Steps
  const void *b_ih, *b_hh;     // T [G*H], or null
  void* gates;                 // C [rows, G*H]: pre-activations without bias in; what the cell saves out, if `keep`
  bool keep;
  const void* c_before;  // C [rows, H], valid below `started`
  ConstRows c0;          // T [rows, H], used from `started` on
  void* c;               // C [rows, H], may be c_before
  Rows h;                // T [rows, H], the cell's output
  Rows h_n, c_n;         // T, written from `continued` on
};

// One step forward in one kernel, for a few rows: what the pre-activations get from up to two operands, x and h or one
// of them, and CellForward.
struct FusedStep : CellForward {
  struct Operand {
    const void* row[kMostFusedRows];  // T [depth], of each of `rows`; null: zeros
    ConstMatrix w;                    // T [G*H, depth], any strides
    int64_t depth = 0;                // 0: there is no such operand
    bool wide = false;                // set by the launcher: rows and w may be read 16 bytes at a time
  };
  bool given = false;  // `gates` holds pre-activations, which the products are added to
  Operand operands[2];
  bool from_last_unit = false;  // where the first blocks are: steps go through large weights there and back
};

// One step back through the cell.
struct CellBackward {
  int cell;
  int64_t rows, hidden;
  int64_t started, continued;
  const void* gates;     // C [rows, G*H], saved
  const void* c_before;  // C [rows, H], valid below `started`
  ConstRows c0;          // T
  const void* c;         // C [rows, H]
  const void* dh;        // C [rows, H], the part of the gradient that a product has left, valid below `dh_rows`
  int64_t dh_rows;
  ConstRows dy;    // T, added to it
  ConstRows dh_n;  // T, added from dh_rows on
  ConstRows dc_n;  // T, where a sequence ends: from `continued` on
  void* dc;        // C [N, H], the cell state's gradient: what the following step left, and what this one leaves
  void* dgates;    // T [rows, G*H]
  Rows dc0;        // T, written from `started` on
};

// dh [rows, width] = dy + (n < product_rows ? product : dh_n), rounded to T: what the projection's gradient needs.
struct OutputGradient {
  int64_t rows, width, product_rows;
  const void* product;  // C [rows, width]
  ConstRows dy, dh_n;   // T
  void* dh;             // T [rows, width]
};

// to[r, c] = from[r, c], element by element; a null source gives zeros. Row r is (r / batch, r % batch).
struct CopyRows {
  int64_t rows, columns, batch;
  ConstRows from;
  int64_t from_column_stride;
  Rows to;
};

// All rows (t, n) of a run in one launch.
struct AllRows {
  int64_t rows, columns, steps, batch;
  bool reverse;
  const int64_t* offsets;  // device memory, null when padded
};
// to [R, O]: for every row (t, n) what h was before the step: y of the previous step, or h0 where there is none.
struct PreviousStates : AllRows {
  ConstRows y, h0;
  void* to;
};
// dh [R, O] = dy + the product of the following step's row, or dh_n where there is none: OutputGradient for all rows.
struct OutputGradients : AllRows {
  const void* products;  // C [R, O]
  ConstRows dy, dh_n;    // T
  void* dh;              // T [R, O]
};

// Sums of the columns of a matrix [rows, columns] of T, into up to two columns of T. In two launches, the first of
// which leaves C [chunks, columns] in `partial`; the order of additions depends on the sizes alone.
struct ColumnSums {
  int64_t rows, columns;
  const void* from;
  void* partial;
  Matrix to[2];
};
constexpr int64_t kSumRows = 512;  // rows of a chunk
LF_HOST_DEVICE inline int64_t sum_chunks(int64_t rows) { return (rows + kSumRows - 1) / kSumRows; }

// Offsets of a packed batch as kernel arguments, a piece per launch: nothing on the host has to outlive the call, and a
// captured graph holds them.
struct UploadOffsets {
  static constexpr int kPiece = 448;
  int64_t* to;
  int count;
  int64_t values[kPiece];
};

struct StepKernels {
  Result (*cell_forward)(const CellForward&, void* stream);
  Result (*fused_step)(const FusedStep&, void* stream);
  Result (*cell_backward)(const CellBackward&, void* stream);
  Result (*output_gradient)(const OutputGradient&, void* stream);
  Result (*copy_rows)(const CopyRows&, void* stream);
  Result (*previous_states)(const PreviousStates&, void* stream);
  Result (*output_gradients)(const OutputGradients&, void* stream);
  Result (*column_sums)(const ColumnSums&, void* stream);
};
extern const StepKernels kStepKernelsFloat32, kStepKernelsFloat64, kStepKernelsFloat16, kStepKernelsBFloat16;
const StepKernels& step_kernels(DType dtype);

Result upload_offsets(const UploadOffsets& args, void* stream);
Result fill_memory(void* p, int byte, size_t bytes, void* stream);
Result most_shared_memory(int* bytes);  // that a block of the current device may ask for

}  // namespace lstmfast::cuda
