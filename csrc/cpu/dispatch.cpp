// Chooses the ISA level at run time. This unit is compiled without ISA flags.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "../core/cell_info.h"
#include "amx.h"
#include "cpu.h"
#include "kernels.h"

namespace lstmfast {
namespace baseline {
const cpu::KernelTable& kernel_table();
}
#if defined(LF_HAS_X86_UNITS)
namespace avx2 {
const cpu::KernelTable& kernel_table();
}
namespace avx512 {
const cpu::KernelTable& kernel_table();
}
#endif
#if defined(LF_HAS_AMX_UNIT)
namespace avx512_amx {
const cpu::TileKernelTable& tile_kernel_table();
}
#endif
}  // namespace lstmfast

namespace lstmfast::cpu {
namespace {

struct Level {
  const char* name;
  const KernelTable& (*table)();
  bool (*supported)();
  const TileKernelTable& (*tiles)() = nullptr;  // used before `table` for what it has
  bool by_default = true;
};

#if defined(LF_HAS_X86_UNITS)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

// __builtin_cpu_supports looks at the operating system's part (XCR0) as well as at cpuid.
const Level kLevels[] = {
    {"baseline", baseline::kernel_table, [] { return true; }},
#if defined(LF_HAS_X86_UNITS)
    {"avx2", avx2::kernel_table,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }},
    {"avx512", avx512::kernel_table, has_avx512},
#endif
#if defined(LF_HAS_AMX_UNIT) && defined(LF_EMULATE_TILES)
    {"avx512_amx_emulated", avx512::kernel_table, has_avx512, avx512_amx::tile_kernel_table, false},
#elif defined(LF_HAS_AMX_UNIT)
    {"avx512_amx", avx512::kernel_table, [] { return has_avx512() && amx_bf16_usable(); },
     avx512_amx::tile_kernel_table},
#endif
};
constexpr int kLevelCount = sizeof(kLevels) / sizeof(kLevels[0]);

int initial_level() {
  const char* name = std::getenv("LSTMFAST_CPU_ISA");
  int best = 0;
  for (int i = 0; i < kLevelCount; i++) {
    if (!kLevels[i].supported()) continue;
    if (name && std::strcmp(name, kLevels[i].name) == 0) return i;
    if (kLevels[i].by_default) best = i;
  }
  return best;
}

std::atomic<int>& level() {
  static std::atomic<int> value{initial_level()};
  return value;
}

int64_t l2_bytes() {
  static const int64_t value = [] {
    long n = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    n = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return n > 0 ? n : 1L << 20;
  }();
  return value;
}

// Which of the tile kernels these parameters want, -1 for none.
int tiled(const ForwardParams& p) {
  if (p.dtype == DType::kBFloat16) return static_cast<int>(Tiled::kBFloat16);
  if (p.dtype != DType::kFloat32 || p.float32_precision == Float32Precision::kHighest) return -1;
  return static_cast<int>(p.float32_precision == Float32Precision::kHigh ? Tiled::kFloat32High : Tiled::kFloat32Medium);
}

Use use_of(const ForwardParams& p) { return p.reserve ? Use::kTraining : Use::kInference; }

struct Choice {
  const Kernel& kernel;
  Plan plan;
};
// The kernel and the plan that the vector units have for these parameters.
template <class Params>
Choice choose_vectors(const Params& p, Use use, int threads) {
  const KernelTable& table = kLevels[p.isa].table();
  const int64_t size = compute_size_of(p.dtype);
  const Target target{table.tile_rows, 4 * table.vector_bytes / size, l2_bytes()};
  return {table.kernels[p.cell][static_cast<int>(p.dtype)],
          make_plan(p.shape, cell_info(p.cell).gates, size, use, threads, target)};
}
Choice choose(const ForwardParams& p) {
  const int column = has_tiles(p.isa) ? tiled(p) : -1;
  // Tiles of a few rows do not repay packing: float32 weights are then read where they lie, and multiplied exactly.
  constexpr int64_t kFewRows = 8;
  const bool too_short = p.dtype == DType::kFloat32 && p.shape.rows <= kFewRows;
  if (column < 0 || too_short) return choose_vectors(p, use_of(p), p.threads);
  const TileKernelTable& tiles = kLevels[p.isa].tiles();
  const int64_t weight_size = column == static_cast<int>(Tiled::kFloat32High) ? 4 : 2;
  const Target target{tiles.tile_rows, tiles.panel_cols, l2_bytes(), false};
  const Plan plan = make_plan(p.shape, cell_info(p.cell).gates, weight_size, use_of(p), p.threads, target);
  return {tiles.kernels[p.cell][column], plan};
}

bool known(const ForwardParams& p) { return p.cell >= 0 && p.cell < kCells; }
bool nothing_to_do(const ForwardParams& p) { return p.shape.rows == 0; }

}  // namespace

int64_t reserve_width(int cell, DType dtype, int64_t hidden, int64_t projection) {
  const CellInfo& info = cell_info(cell);
  return reserved_per_row(info.gates, info.states, compute_size_of(dtype), hidden, projection);
}

Plan plan(const ForwardParams& p) { return choose(p).plan; }

size_t forward_workspace_bytes(const ForwardParams& p) {
  if (!known(p) || nothing_to_do(p)) return 0;
  const Choice c = choose(p);
  return c.kernel.forward_bytes(p, c.plan);
}
size_t backward_workspace_bytes(const BackwardParams& p) {
  if (!known(p) || nothing_to_do(p)) return 0;
  const Choice c = choose(p);
  return c.kernel.backward_bytes(p, c.plan);
}
size_t packed_weights_bytes(const ForwardParams& p) {
  if (!known(p) || nothing_to_do(p)) return 0;
  const Choice c = choose(p);
  return c.plan.in_place ? 0 : c.kernel.packed_bytes(p, c.plan);
}
uint64_t weights_fingerprint(const ForwardParams& p) {
  const int64_t gate_rows = cell_info(p.cell).gates * p.shape.hidden, size = size_of(p.dtype);
  Bytes matrices[3];
  int count = 0;
  int64_t total = 0;
  const auto add = [&](const ConstMatrix& m, int64_t rows, int64_t cols) {
    matrices[count++] = {m.data, rows, cols * size, m.row_stride * size};
    total += rows * cols * size;
  };
  add(p.w_ih, gate_rows, p.shape.input);
  add(p.w_hh, gate_rows, p.shape.output());
  if (p.shape.projection) add(p.w_hr, p.shape.projection, p.shape.hidden);
  constexpr int64_t kWorthAThread = 256 << 10;
  const auto threads = std::clamp<int64_t>(total / kWorthAThread, 1, std::max(p.threads, 1));
  return kLevels[p.isa].table().fingerprint(matrices, count, static_cast<int>(threads));
}
Status forward(const ForwardParams& p) {
  if (!known(p)) return Status::kUnknownCell;
  if (nothing_to_do(p)) return Status::kOk;
  const Choice c = choose(p);
  c.kernel.forward(p, c.plan);
  return Status::kOk;
}
Status backward(const BackwardParams& p) {
  if (!known(p)) return Status::kUnknownCell;
  if (nothing_to_do(p)) return Status::kOk;
  const Choice c = choose(p);
  c.kernel.backward(p, c.plan);
  return Status::kOk;
}
// Of the plan only the blocks by which the reserve is laid out count here: they depend on the sequences alone.
Status tangent_step(const TangentParams& p, const TangentStep& s) {
  const Choice c = choose_vectors(p, Use::kTraining, 1);
  c.kernel.tangent_step(p, s, c.plan);
  return Status::kOk;
}
Status gradient_tangent_step(const TangentParams& p, const GradientTangentStep& s) {
  const Choice c = choose_vectors(p, Use::kTraining, 1);
  c.kernel.gradient_tangent_step(p, s, c.plan);
  return Status::kOk;
}

int isa_count() { return kLevelCount; }
bool has_tiles(int i) { return kLevels[i].tiles != nullptr; }
const char* isa_name(int i) { return kLevels[i].name; }
bool isa_supported(int i) { return i >= 0 && i < kLevelCount && kLevels[i].supported(); }
int isa() { return level(); }
bool set_isa(int i) {
  if (!isa_supported(i)) return false;
  level() = i;
  return true;
}

}  // namespace lstmfast::cpu
