// The body of an ISA unit: every cell in every element type, as a table. The unit that includes this sets
//   LF_ISA           its namespace
//   LF_VECTOR_BYTES  the width of a pack
//   LF_TILE_ROWS     rows of the register tile: what the registers hold beside kTileCols packs of the panel
#include "fingerprint.inl"
#include "runner.inl"
#include "tangents.inl"
#include "vector_product.inl"

namespace lstmfast::LF_ISA {

template <class Cell, class C>
struct TangentRunner {
  using T = Tangents<Cell, C, VectorMath<C>>;
  static LF_NOINLINE void step(const cpu::TangentParams& p, const cpu::TangentStep& s, const cpu::Plan& plan) {
    T(p, plan).forward(s);
  }
  static LF_NOINLINE void gradient_step(const cpu::TangentParams& p, const cpu::GradientTangentStep& s,
                                        const cpu::Plan& plan) {
    T(p, plan).backward(s);
  }
};

template <class Cell, class C, class T>
constexpr cpu::Kernel vector_kernel() {
  cpu::Kernel k = Entry<Cell, C, T, VectorProduct<C>>::kKernel;
  k.tangent_step = TangentRunner<Cell, C>::step;
  k.gradient_tangent_step = TangentRunner<Cell, C>::gradient_step;
  return k;
}

template <class... Cells>
const cpu::KernelTable& table_of(TypeList<Cells...>) {
  // In the order of DType.
  static constexpr cpu::Kernel kernels[][kDTypes] = {
      {vector_kernel<Cells, float, float>(), vector_kernel<Cells, double, double>(),
       vector_kernel<Cells, float, BFloat16>(), vector_kernel<Cells, float, Float16>()}...};
  static constexpr cpu::KernelTable table{LF_VECTOR_BYTES, LF_TILE_ROWS, sizeof...(Cells), kernels, fingerprint};
  return table;
}

const cpu::KernelTable& kernel_table() { return table_of(AllCells{}); }

}  // namespace lstmfast::LF_ISA
