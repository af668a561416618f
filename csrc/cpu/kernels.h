// The table that every ISA unit exports: one row per cell and element type.
#pragma once
#include "../core/types.h"
#include "cpu.h"

namespace lstmfast::cpu {

struct Kernel {
  void (*forward)(const ForwardParams&, const Plan&);
  void (*backward)(const BackwardParams&, const Plan&);
  size_t (*forward_bytes)(const ForwardParams&, const Plan&);
  size_t (*backward_bytes)(const BackwardParams&, const Plan&);
};

struct KernelTable {
  int vector_bytes;
  int tile_rows;
  int cells;
  const Kernel (*kernels)[kDTypes];  // [cells]
};

}  // namespace lstmfast::cpu
