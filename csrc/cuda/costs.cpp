#include "costs.h"

#include <algorithm>
#include <cmath>

namespace lstmfast::cuda {
namespace {

// Groups that do not wait for anything outside of them may run one after the other.
int64_t waves(const Tiling& t, int runs, Regime regime, const GpuInfo& gpu) {
  return ceil_div(int64_t{runs} * t.groups, slots(t.group_blocks, regime, gpu));
}

// In which an operand comes in through L2, with a barrier for each.
int parts_of(const Tiling& t) { return t.is_split() ? t.parts() : t.tiles; }

// Bytes of device memory that all SMs write per cycle, and read as fast.
double memory_rate(const GpuInfo& gpu, const Costs& c) { return c.memory_bytes * std::max(1, gpu.sm_count); }
constexpr double kKept = 2. / 3;  // of L2, beside what a step reads and writes once

// Of the product: arithmetic, or reading what is in shared memory.
double product_cycles(const Tiling& t, Multiplier multiplier, const Costs& c) {
  const double warps = t.warps(), per_scheduler = std::max(1., warps / 4);
  const double depth = t.depth_tiles + t.shared_tiles, tiles = t.row_tiles * depth;
  const bool fma = multiplier == Multiplier::kFma;
  // Every warp reads its depth of the tile, and its weights once for each part.
  const double weights = t.is_split() ? 1. * t.weight_bytes() * t.parts() / t.pieces() / t.tiles : 0;
  const double reads = (warps * depth * 32 * 8 + weights) / c.shared_bytes;
  if (fma) {
    constexpr double kBusy = .8;  // the share of issue slots that multiply
    return t.tiles * std::max(per_scheduler * tiles * 32 * c.fma / kBusy, weights / c.shared_bytes);
  }
  return t.tiles * std::max({per_scheduler * tiles * c.mma, depth / 2 * c.mma_latency, reads});
}

}  // namespace

// Clocks, arithmetic and memory from the vendor's data sheets: peak rates over SMs and clock. Of the tensor cores'
// rate mma.sync is taken to reach 63 % on compute capability 9.0 and, for want of anything better, as many operations
// per cycle on 10.0; all of it elsewhere. GeForce cards multiply at half the rate where sums are float32. Device memory
// is taken to reach 87 % of its peak.
Costs costs_of(const GpuInfo& gpu) {
  switch (gpu.major * 10 + gpu.minor) {
    case 80:
      return {1410, 8, 2, 11.4};
    case 86:
      return {1700, 32, 1, 5.8};
    case 89:
      return {2520, 32, 1, 2.7};
    case 90:
      return {1830, 6.4, 1, 17.3};
    case 120:
      return {2400, 32, 1, 3.8};
    default:
      return {1850, 6.4, 1, 25};
  }
}

int64_t slots(int64_t group_blocks, Regime regime, const GpuInfo& gpu) {
  return std::max<int64_t>(1, (regime == Regime::kCluster ? gpu.sm_count * 9 / 10 : gpu.sm_count) / group_blocks);
}

namespace {

// A block receives one tile after the other, of the sequences that there are, as many bytes at once as its threads have
// loads under way; while a tile is multiplied there are none. The call has filled every place with what is never sent.
double mailbox_cycles(const Request& r, const Plan& plan, double rest, const GpuInfo& gpu, const Costs& c) {
  const Tiling& t = plan.tiling;
  const double row = static_cast<double>(exchange_width(r) * size_of(r.dtype));
  const double rows = static_cast<double>(std::min<int64_t>(r.batch, int64_t{t.tiles} * 8));
  const double filled = static_cast<double>(mailbox_bytes(r, plan.runs));
  const double under_way = 16. * t.threads() * loads_under_way(t.weight_registers());
  const double rounds = std::ceil(std::min(8., rows) * row / under_way) * t.tiles;
  const double missed = filled > kKept * static_cast<double>(gpu.l2_bytes) ? c.memory_latency : 0;
  return std::max(c.mailbox, rest) + t.tiles * c.block_barrier + missed + (rounds - 1) * (c.l2_latency + missed) +
         rows * row / c.exchange_bytes + filled / static_cast<double>(r.steps) / memory_rate(gpu, c);
}

}  // namespace

double persistent_microseconds(const Request& r, const Plan& plan, const GpuInfo& gpu) {
  const Costs c = costs_of(gpu);
  const Tiling& t = plan.tiling;
  const Regime regime = plan.regime;
  const Multiplier multiplier = plan.multiplier;
  const double cells = static_cast<double>(t.unit_warps) * t.warp_units * t.tiles * 8;
  double cycles = product_cycles(t, multiplier, c) + c.cell + c.block_barrier +
                  cells * (r.dtype == DType::kFloat32 ? c.cell_float : c.cell_half);
  const double rest =
      cells *
      (r.backward ? c.rest_backward : c.rest_forward);  // while others are waited for, or other warps' activations
  if (t.sum_tiles > 0)
    cycles += std::ceil(1. * t.tiles / t.sum_tiles) * c.block_barrier + t.tiles * (8. * t.row_tiles + 4. * t.slices);
  const double parts = t.own_slice ? 2 : 1;  // in a stack, what the layer beside hands on as well
  const int64_t row = t.is_split() ? t.pieces() * t.piece_bytes() : exchange_width(r) * size_of(r.dtype);
  const double operand = parts * t.tiles * 8. * static_cast<double>(row);
  if (regime == Regime::kOneSm) cycles += std::max(0., rest - c.cell);
  if (regime == Regime::kCluster) cycles += std::max(c.cluster_barrier, rest) + operand / c.cluster_bytes;
  const bool through_l2 = regime == Regime::kWholeGpu || regime == Regime::kStack;
  if (through_l2 && plan.meeting == Meeting::kMailbox) cycles += mailbox_cycles(r, plan, rest, gpu, c);
  if (through_l2 && plan.meeting == Meeting::kFlag)
    cycles += std::max(c.flag, rest) + (1 + parts_of(t)) * c.block_barrier + operand / c.exchange_bytes;
  return cycles * static_cast<double>(waves(t, plan.runs, regime, gpu)) / c.megahertz;
}

namespace {
// Multiplications that an SM makes per cycle in a library's product, of which it reaches nearly what the constants say.
double library_rate(const Request& r, const Costs& c) {
  if (size_of(r.dtype) == 2) return .95 * 4 * 2048 / c.mma;
  if (r.tf32 && r.dtype == DType::kFloat32) return .95 * 4 * 1024 / c.mma;
  return .8 * 128 / c.fma;
}
// What a step outside of the persistent kernels multiplies by, W_hh and W_hr.
double weights_of(const Request& r) {
  const double output = static_cast<double>(r.projection ? r.projection : r.hidden);
  return output * static_cast<double>(r.hidden) * (r.gates + (r.projection ? 1 : 0));
}
// An SM's cycles to read its share of them: from L2, if they can stay there from step to step. If they cannot, nothing
// of them does where every step begins with the same ones; else (`in_turns`) as much as can.
double reading_cycles(const Request& r, const GpuInfo& gpu, const Costs& c, bool in_turns = false) {
  const double bytes = weights_of(r) * size_of(r.dtype), kept = kKept * static_cast<double>(gpu.l2_bytes);
  const double from_l2 = bytes < kept ? bytes : in_turns ? kept : 0;
  return (from_l2 / std::max(c.l2_bytes, c.memory_bytes) + (bytes - from_l2) / c.memory_bytes) /
         std::max(1, gpu.sm_count);
}
}  // namespace

// A step of the general path: two launches, with a projection three, and whichever is slower, arithmetic or reading.
double general_microseconds(const Request& r, const GpuInfo& gpu) {
  const Costs c = costs_of(gpu);
  const double arithmetic =
      static_cast<double>(r.batch) * weights_of(r) / library_rate(r, c) / std::max(1, gpu.sm_count);
  return c.launches + (r.projection ? c.projection : 0) + std::max(arithmetic, reading_cycles(r, gpu, c)) / c.megahertz;
}

// One launch less. A lane converts each element of the weights once and multiplies it by all rows; of the rows it
// loads and converts what all gates use.
double fused_microseconds(const Request& r, const GpuInfo& gpu) {
  const Costs c = costs_of(gpu);
  const double rows = static_cast<double>(r.batch), converted = size_of(r.dtype) == 2 ? 1 : 0;
  const double instructions = weights_of(r) * (rows * c.fma + converted + rows * (1 + converted) / r.gates);
  const double arithmetic = instructions / 128 / std::max(1, gpu.sm_count);
  const double reading = reading_cycles(r, gpu, c, true);
  return c.fused_launch + (r.projection ? c.projection : 0) +
         (c.l2_latency + c.cell + std::max(arithmetic, reading)) / c.megahertz;
}

double start_microseconds(const Request& r, const GpuInfo& gpu) {
  const Costs c = costs_of(gpu);
  const double hidden = static_cast<double>(r.hidden);
  const double product = r.gates * hidden * hidden * static_cast<double>(r.projection);
  const double loading = reading_cycles(r, gpu, c),
               multiplying = product / library_rate(r, c) / std::max(1, gpu.sm_count);
  return std::max(c.start, c.fused_launch + loading / c.megahertz) + multiplying / c.megahertz;
}

double call_microseconds(const Plan& plan, const Request& r, const GpuInfo& gpu) {
  // A stack's last layer is runs - 1 steps behind the first.
  const auto steps = static_cast<double>(plan.regime == Regime::kStack ? r.steps + plan.runs - 1 : r.steps);
  const double start = is_persistent(plan.regime) ? start_microseconds(r, gpu) : 0;
  return (start + plan.microseconds * steps) * r.runs / plan.runs;
}

}  // namespace lstmfast::cuda
