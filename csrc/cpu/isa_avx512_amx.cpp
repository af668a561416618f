// x86-64 with AVX-512 F, BW, DQ and VL and AMX for bfloat16: what is multiplied in tile registers. Everything else that
// this level computes is the AVX-512 unit's.
#define LF_ISA avx512_amx
#define LF_VECTOR_BYTES 64
#define LF_TILE_ROWS 6
#include "runner.inl"
#include "tile_product.inl"

namespace lstmfast::LF_ISA {

template <class... Cells>
const cpu::TileKernelTable& tile_table_of(TypeList<Cells...>) {
  // In the order of Tiled. A product's argument is the number of planes.
  static constexpr cpu::Kernel kernels[][cpu::kTiled] = {{Entry<Cells, float, BFloat16, TileProduct, 1>::kKernel,
                                                          Entry<Cells, float, float, TileProduct, 2>::kKernel,
                                                          Entry<Cells, float, float, TileProduct, 1>::kKernel}...};
  static constexpr cpu::TileKernelTable table{kAmxRows, kPanel<float>, kernels};
  return table;
}

const cpu::TileKernelTable& tile_kernel_table() { return tile_table_of(AllCells{}); }

}  // namespace lstmfast::LF_ISA
