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
  size_t (*packed_bytes)(const ForwardParams&, const Plan&);
  void (*tangent_step)(const TangentParams&, const TangentStep&, const Plan&);
  void (*gradient_tangent_step)(const TangentParams&, const GradientTangentStep&, const Plan&);
};

// A matrix as bytes: rows of row_bytes, `stride` bytes apart.
struct Bytes {
  const void* data;
  int64_t rows, row_bytes, stride;
};

struct KernelTable {
  int vector_bytes;
  int tile_rows;
  int cells;
  const Kernel (*kernels)[kDTypes];  // [cells]
  uint64_t (*fingerprint)(const Bytes* matrices, int count, int threads);
};

// What a unit with tile registers multiplies there, and exports instead of a KernelTable. Second derivatives are the
// vector units': the reserve is the same.
enum class Tiled : int { kBFloat16, kFloat32High, kFloat32Medium };
constexpr int kTiled = 3;

struct TileKernelTable {
  int tile_rows, panel_cols;
  const Kernel (*kernels)[kTiled];  // [cells]
};

}  // namespace lstmfast::cpu
