// From a cell, a compute type, a storage type and a way to multiply to a row of the kernel tables.
#pragma once
#include "../core/cells.h"
#include "backward.inl"
#include "forward.inl"
#include "kernels.h"
#include "vector_math.h"

namespace lstmfast::LF_ISA {

template <class Cell, class C, class Product>
struct Runner {
  using F = Forward<Cell, C, VectorMath<C>, Product>;
  using B = Backward<Cell, C, VectorMath<C>, Product>;
  using S = const Storage<C>&;
  static LF_NOINLINE void forward(const ForwardParams& p, const cpu::Plan& plan, S s, Product product) {
    F(p, plan, s, product).run();
  }
  static LF_NOINLINE void backward(const BackwardParams& p, const cpu::Plan& plan, S s, Product product) {
    B(p, plan, s, product).run();
  }
  static LF_NOINLINE size_t forward_bytes(const ForwardParams& p, const cpu::Plan& plan, S s, Product product) {
    return F(p, plan, s, product).bytes();
  }
  static LF_NOINLINE size_t backward_bytes(const BackwardParams& p, const cpu::Plan& plan, S s, Product product) {
    return B(p, plan, s, product).bytes();
  }
  static LF_NOINLINE size_t packed_bytes(const ForwardParams& p, const cpu::Plan& plan, S s, Product product) {
    return F(p, plan, s, product).packed_bytes();
  }
};

// Compute type C, storage type T, Product made of the arguments.
template <class Cell, class C, class T, class Product, auto... arguments>
struct Entry {
  using R = Runner<Cell, C, Product>;
  static constexpr const Storage<C>& kStorage = StorageOf<C, T>::kStorage;
  static Product product() { return Product(arguments...); }
  static void forward(const ForwardParams& p, const cpu::Plan& plan) { R::forward(p, plan, kStorage, product()); }
  static void backward(const BackwardParams& p, const cpu::Plan& plan) { R::backward(p, plan, kStorage, product()); }
  static size_t forward_bytes(const ForwardParams& p, const cpu::Plan& plan) {
    return R::forward_bytes(p, plan, kStorage, product());
  }
  static size_t backward_bytes(const BackwardParams& p, const cpu::Plan& plan) {
    return R::backward_bytes(p, plan, kStorage, product());
  }
  static size_t packed_bytes(const ForwardParams& p, const cpu::Plan& plan) {
    return R::packed_bytes(p, plan, kStorage, product());
  }
  static constexpr cpu::Kernel kKernel{forward,      backward, forward_bytes, backward_bytes,
                                       packed_bytes, nullptr,  nullptr};
};

}  // namespace lstmfast::LF_ISA
