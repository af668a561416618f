// The body of an ISA unit: every cell in every element type, as a table. The unit that includes this sets
//   LF_ISA           its namespace
//   LF_VECTOR_BYTES  the width of a pack
//   LF_TILE_ROWS     rows of the register tile: what the registers hold beside kTileCols packs of the panel
#include "../core/cells.h"
#include "backward.inl"
#include "fingerprint.inl"
#include "forward.inl"
#include "kernels.h"
#include "tangents.inl"
#include "vector_math.h"

namespace lstmfast::LF_ISA {

template <class Cell, class C>
struct Runner {
  using F = Forward<Cell, C, VectorMath<C>>;
  using B = Backward<Cell, C, VectorMath<C>>;
  static LF_NOINLINE void forward(const ForwardParams& p, const cpu::Plan& plan, const Storage<C>& s) {
    F(p, plan, s).run();
  }
  static LF_NOINLINE void backward(const BackwardParams& p, const cpu::Plan& plan, const Storage<C>& s) {
    B(p, plan, s).run();
  }
  static LF_NOINLINE size_t forward_bytes(const ForwardParams& p, const cpu::Plan& plan, const Storage<C>& s) {
    return F(p, plan, s).bytes();
  }
  static LF_NOINLINE size_t backward_bytes(const BackwardParams& p, const cpu::Plan& plan, const Storage<C>& s) {
    return B(p, plan, s).bytes();
  }
  static LF_NOINLINE size_t packed_bytes(const ForwardParams& p, const cpu::Plan& plan, const Storage<C>& s) {
    return F(p, plan, s).packed_bytes();
  }
  using T = Tangents<Cell, C, VectorMath<C>>;
  static LF_NOINLINE void tangent_step(const cpu::TangentParams& p, const cpu::TangentStep& s, const cpu::Plan& plan) {
    T(p, plan).forward(s);
  }
  static LF_NOINLINE void gradient_tangent_step(const cpu::TangentParams& p, const cpu::GradientTangentStep& s,
                                                const cpu::Plan& plan) {
    T(p, plan).backward(s);
  }
};

// Compute type C, storage type S.
template <class Cell, class C, class S>
struct Entry {
  using R = Runner<Cell, C>;
  static constexpr const Storage<C>& kStorage = StorageOf<C, S>::kStorage;
  static void forward(const ForwardParams& p, const cpu::Plan& plan) { R::forward(p, plan, kStorage); }
  static void backward(const BackwardParams& p, const cpu::Plan& plan) { R::backward(p, plan, kStorage); }
  static size_t forward_bytes(const ForwardParams& p, const cpu::Plan& plan) {
    return R::forward_bytes(p, plan, kStorage);
  }
  static size_t backward_bytes(const BackwardParams& p, const cpu::Plan& plan) {
    return R::backward_bytes(p, plan, kStorage);
  }
  static size_t packed_bytes(const ForwardParams& p, const cpu::Plan& plan) {
    return R::packed_bytes(p, plan, kStorage);
  }
  static constexpr cpu::Kernel kKernel{forward,      backward,        forward_bytes,           backward_bytes,
                                       packed_bytes, R::tangent_step, R::gradient_tangent_step};
};

template <class... Cells>
const cpu::KernelTable& table_of(TypeList<Cells...>) {
  // In the order of DType.
  static constexpr cpu::Kernel kernels[][kDTypes] = {
      {Entry<Cells, float, float>::kKernel, Entry<Cells, double, double>::kKernel,
       Entry<Cells, float, BFloat16>::kKernel, Entry<Cells, float, Float16>::kKernel}...};
  static constexpr cpu::KernelTable table{LF_VECTOR_BYTES, LF_TILE_ROWS, sizeof...(Cells), kernels, fingerprint};
  return table;
}

const cpu::KernelTable& kernel_table() { return table_of(AllCells{}); }

}  // namespace lstmfast::LF_ISA
