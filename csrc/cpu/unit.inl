// The body of an ISA unit: every cell in every element type, as a table. The unit that includes this sets
//   LF_ISA           its namespace
//   LF_VECTOR_BYTES  the width of a pack
//   LF_TILE_ROWS     rows of the register tile: what the registers hold beside kTileCols packs of the panel
#include "fingerprint.inl"
#include "runner.inl"
#include "vector_product.inl"

namespace lstmfast::LF_ISA {

template <class Cell, class C, class T>
constexpr cpu::Kernel kVectorKernel = Entry<Cell, C, T, VectorProduct<C>>::kKernel;

template <class... Cells>
const cpu::KernelTable& table_of(TypeList<Cells...>) {
  // In the order of DType.
  static constexpr cpu::Kernel kernels[][kDTypes] = {
      {kVectorKernel<Cells, float, float>, kVectorKernel<Cells, double, double>, kVectorKernel<Cells, float, BFloat16>,
       kVectorKernel<Cells, float, Float16>}...};
  static constexpr cpu::KernelTable table{LF_VECTOR_BYTES, LF_TILE_ROWS, sizeof...(Cells), kernels, fingerprint};
  return table;
}

const cpu::KernelTable& kernel_table() { return table_of(AllCells{}); }

}  // namespace lstmfast::LF_ISA
