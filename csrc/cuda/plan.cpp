// The planner: tries every launch shape of the persistent kernels and keeps the one that its model (costs.h) expects to
// be fastest.
#include <algorithm>
#include <cstdio>

#include "../core/cell_info.h"
#include "costs.h"
#include "kernels.h"

namespace lstmfast::cuda {
namespace {

constexpr int64_t kRegistersPerSm = 65536;  // on every GPU from compute capability 8.0 on; launch bounds rely on it

int64_t rows_per_unit(const Request& r) { return r.backward ? 1 : r.gates; }
// The fewest row tiles that hold whole units only.
int row_tiles(const Request& r) {
  int tiles = 1;
  while (2 * tiles % rows_per_unit(r)) tiles++;
  return tiles;
}

const char* unsuited(const Request& r, const GpuInfo& gpu) {
  if (r.dtype == DType::kFloat64) return "float64 has no persistent kernel";
  constexpr int64_t kMost = 1 << 23;  // the kernels count sequences, units, rows and arrivals in 32 bits
  constexpr int64_t kMostRows = int64_t{1} << 31;
  if (r.batch >= kMost || r.hidden >= kMost || r.steps >= kMost || r.batch * r.steps >= kMostRows)
    return "the sizes are too large";
  if (gpu.major < 8) return "the GPU is older than compute capability 8.0";
  if (gpu.registers_per_sm < kRegistersPerSm || gpu.sm_count < 1) return "the GPU has too few registers";
  return nullptr;
}

}  // namespace

int64_t reserve_width(int cell, DType dtype, int64_t hidden, int64_t projection) {
  const CellInfo& info = cell_info(cell);
  const int64_t size = compute_size_of(dtype), aligned = 16 / size;
  const int64_t cell_out = projection ? (hidden * size_of(dtype) + size - 1) / size : 0;
  const int64_t width = hidden * (info.gates + info.states - 1) + cell_out;
  return (width + aligned - 1) / aligned * aligned;
}

int64_t exchange_gate_width(const Request& r) {
  const int64_t chunk = 16 / size_of(r.dtype);
  return ceil_div(r.hidden, chunk) * chunk;
}
int64_t exchange_width(const Request& r) { return exchange_gate_width(r) * (r.backward ? r.gates : 1); }
int64_t mailbox_bytes(const Request& r, int runs) {
  return (r.steps + 1) * runs * r.batch * exchange_width(r) * size_of(r.dtype);
}

namespace {

// `blocks` of each of `runs` groups share W_hh.
bool is_possible(Regime regime, int64_t blocks, int runs, const GpuInfo& gpu) {
  constexpr int64_t kMostOfCluster = 8;  // what every GPU with clusters allows
  switch (regime) {
    case Regime::kOneSm:
      return blocks == 1;
    case Regime::kCluster:
      return blocks > 1 && blocks <= kMostOfCluster && blocks <= gpu.sm_count && gpu.major >= 9;
    case Regime::kWholeGpu:
      return blocks > 1 && blocks * runs <= gpu.sm_count && gpu.cooperative;
    case Regime::kStack:
      return blocks * runs <= gpu.sm_count && gpu.cooperative;
    case Regime::kGeneral:
    case Regime::kFusedSteps:
      break;
  }
  return false;
}

// What a block needs: weights, the operand of two steps, two tiles of it or the pieces under way; the slices' sums; for
// each tile the cell's state; the biases. Before the first step weights pass through shared memory.
int64_t shared_bytes(const Tiling& t, const Request& r, Regime regime, Meeting meeting) {
  const int64_t kept = t.is_split() ? t.weight_bytes() : 0;
  const auto staging = [&](int64_t depth_tiles) { return t.warps() * 8 * (depth_tiles * 32 + 16); };
  const bool through_l2 = regime == Regime::kWholeGpu || regime == Regime::kStack;
  const int64_t operand_tiles = t.is_split()                   ? kPieceStages * t.part_tiles
                                : meeting == Meeting::kMailbox ? 2
                                : through_l2                   ? std::min(2, t.tiles)
                                                               : 2 * int64_t{t.tiles};
  const int64_t sums = int64_t{t.sum_tiles} * t.warps() * t.row_tiles * 4 * 32 * 4;
  const int64_t state = int64_t{t.tiles} * t.unit_warps * (t.warp_units / 8) * 2 * 32 * 4;
  const int64_t biases = r.backward ? 0 : t.unit_warps * t.row_tiles * 16 * 4;
  return std::max({kept + operand_tiles * 8 * t.pitch + sums + state + biases, staging(t.depth_tiles),
                   t.is_split() ? kept + staging(kPieceTiles) : 0});
}

// How many warps there may be side by side: no more than have units, and so many with all of their slices.
int64_t most_unit_warps(const Request& r, const Tiling& t, Multiplier multiplier) {
  const int most_warps = most_threads(t.weight_registers(), r.backward, multiplier == Multiplier::kFma, r.stacked) / 32;
  return std::min<int64_t>(most_warps / t.slices, ceil_div(r.hidden, t.warp_units));
}

// Calls f with every way to cut the product: all weights in registers, or a part of them in shared memory.
template <class F>
void for_each_cut(const Request& r, Multiplier multiplier, const GpuInfo& gpu, const F& f) {
  const int64_t depth = ceil_div(exchange_width(r) * size_of(r.dtype), 64) * 2;
  const auto cut = [&](int registers, int64_t slices) {
    Tiling t;
    t.row_tiles = row_tiles(r);
    t.depth_tiles = registers / 4 / t.row_tiles / 2 * 2;
    t.warp_units = static_cast<int>(16 * t.row_tiles / rows_per_unit(r));
    t.slices = static_cast<int>(slices);
    return t;
  };
  constexpr int64_t kMostSlices = 1 << 10;  // far more than there are warps
  for (const int registers : kWeightRegisters) {
    const int64_t part_slices = std::min(kMostSlices, ceil_div(depth, cut(registers, 1).depth_tiles));
    Tiling t = cut(registers, r.stacked ? 2 * part_slices : part_slices);
    t.own_slice = r.stacked ? static_cast<int>(part_slices) : 0;
    t.pitch = t.slices * t.depth_tiles * 32 + 16;
    for (t.unit_warps = 1; t.unit_warps <= most_unit_warps(r, t, multiplier); t.unit_warps++) f(t);
  }
  if (r.stacked) return;
  for (int64_t slices = 1; most_unit_warps(r, cut(kSplitRegisters, slices), multiplier) > 0; slices++) {
    Tiling t = cut(kSplitRegisters, slices);
    const int64_t tiles = ceil_div(depth, slices * kPieceTiles) * kPieceTiles;
    if (tiles <= t.depth_tiles || tiles * 512 > gpu.shared_per_block_optin) continue;
    t.shared_tiles = static_cast<int>(tiles) - t.depth_tiles;
    t.pitch = t.piece_bytes() + 16;
    for (t.unit_warps = 1; t.unit_warps <= most_unit_warps(r, t, multiplier); t.unit_warps++) f(t);
  }
}

// Pieces of an operand are too small for a thread to have several loads of them under way.
bool can_have_mailbox(const Tiling& t, const Request& r, int runs, Multiplier multiplier) {
  return !t.is_split() && mailbox_bytes(r, runs) <= kMostMailboxBytes &&
         t.threads() <= most_threads(t.weight_registers(), r.backward, multiplier == Multiplier::kFma, true);
}

// Calls f with every plan that the GPU can run with this many runs in a launch: registers, shared memory, and all
// blocks that wait for each other at once.
template <class F>
void for_each_persistent_plan(const Request& r, int runs, const GpuInfo& gpu, const F& f) {
  const Multiplier multiplier = r.dtype == DType::kFloat32 && !r.tf32 ? Multiplier::kFma : Multiplier::kTensorCores;
  const int64_t sequence_tiles = std::max<int64_t>(1, ceil_div(r.batch, 8));
  for_each_cut(r, multiplier, gpu, [&](Tiling t) {
    const int64_t blocks = ceil_div(r.hidden, int64_t{t.unit_warps} * t.warp_units);
    t.group_blocks = static_cast<int>(blocks);
    constexpr struct {
      Regime regime;
      Meeting meeting;
    } kKinds[] = {{Regime::kOneSm, {}},
                  {Regime::kCluster, {}},
                  {Regime::kWholeGpu, Meeting::kFlag},
                  {Regime::kWholeGpu, Meeting::kMailbox},
                  {Regime::kStack, Meeting::kFlag}};
    for (const auto [regime, meeting] : kKinds) {
      if ((regime == Regime::kStack) != r.stacked || (t.is_split() && regime != Regime::kWholeGpu)) continue;
      if (!is_possible(regime, blocks, runs, gpu)) continue;
      if (meeting == Meeting::kMailbox && !can_have_mailbox(t, r, runs, multiplier)) continue;
      const auto fits = [&](int64_t tiles) {
        t.tiles = static_cast<int>(tiles);
        t.sum_tiles = t.slices > 1 ? t.tiles : 0;
        if (t.is_split()) {  // a cell for each slice, of whole parts
          t.part_tiles = std::min(t.tiles, most_tiles(multiplier));
          t.sum_tiles = static_cast<int>(ceil_div(std::min(t.tiles, t.slices), t.part_tiles)) * t.part_tiles;
        }
        t.shared_bytes = shared_bytes(t, r, regime, meeting);
        while (t.is_split() && t.sum_tiles > t.part_tiles && t.shared_bytes > gpu.shared_per_block_optin)
          t.sum_tiles -= t.part_tiles, t.shared_bytes = shared_bytes(t, r, regime, meeting);
        return t.shared_bytes <= gpu.shared_per_block_optin;
      };
      int64_t tiles = ceil_div(sequence_tiles, std::min(sequence_tiles, slots(blocks * runs, regime, gpu)));
      // Where groups need not run at once, what does not fit comes in another wave.
      if (regime == Regime::kOneSm || regime == Regime::kCluster)
        while (tiles > 1 && !fits(tiles)) tiles = (tiles + 1) / 2;
      if (!fits(tiles)) continue;
      t.groups = static_cast<int>(ceil_div(sequence_tiles, tiles));
      if (t.groups > kMostGroups) continue;
      Plan plan{regime, multiplier, t, runs, meeting, 0, ""};
      plan.microseconds = persistent_microseconds(r, plan, gpu);
      f(plan);
    }
  });
}

bool can_fuse_steps(const Request& r) { return !r.backward && !r.stacked && r.batch <= kMostFusedRows; }
Plan of_launches(Regime regime, double microseconds, const char* why) {
  Plan plan;
  plan.regime = regime, plan.microseconds = microseconds, plan.reason = why;
  return plan;
}
const char* why_not_persistent(const Request& r, const GpuInfo& gpu) {
  const char* why = unsuited(r, gpu);
  return why ? why : "no persistent kernel is expected to be faster";
}

// Of all but the general path.
template <class F>
void for_each_plan(const Request& r, const GpuInfo& gpu, const F& f) {
  const bool is_suited = !unsuited(r, gpu);
  for (int runs = r.stacked ? r.runs : 1; runs <= r.runs; runs++)
    if (is_suited && r.runs % runs == 0) for_each_persistent_plan(r, runs, gpu, f);
  if (can_fuse_steps(r)) f(of_launches(Regime::kFusedSteps, fused_microseconds(r, gpu), why_not_persistent(r, gpu)));
}

}  // namespace

Plan plan_of_launches(const Request& r, const GpuInfo& gpu, const char* why, bool may_fuse) {
  const double general = general_microseconds(r, gpu), fused = fused_microseconds(r, gpu);
  const bool fuses = may_fuse && can_fuse_steps(r) && fused < general;
  return fuses ? of_launches(Regime::kFusedSteps, fused, why) : of_launches(Regime::kGeneral, general, why);
}
Plan make_plan(const Request& r, const GpuInfo& gpu, int candidate) {
  Plan best = plan_of_launches(r, gpu, why_not_persistent(r, gpu));
  if (r.stacked) {  // against layer after layer
    Request layer = r;
    layer.stacked = false, layer.runs = 1;
    best = make_plan(layer, gpu, candidate);
  }
  double least = call_microseconds(best, r, gpu);
  if (candidate < 0 && least <= start_microseconds(r, gpu)) return best;
  const int plans = candidate < 0 ? 0 : candidates(r, gpu), wanted = plans ? candidate % plans : -1;
  int index = 0;
  for_each_plan(r, gpu, [&](const Plan& p) {
    const double expected = call_microseconds(p, r, gpu);
    if (wanted < 0 ? expected < least : index == wanted) best = p, least = expected;
    index++;
  });
  return best;
}
int candidates(const Request& r, const GpuInfo& gpu) {
  int plans = 0;
  for_each_plan(r, gpu, [&](const Plan&) { plans++; });
  return plans;
}

Request request_for(const ForwardParams& p, int runs, bool stacked, const Context& context, bool backward) {
  Request r;
  r.backward = backward;
  r.gates = cell_info(p.cell).gates;
  r.dtype = p.dtype;
  r.tf32 = context.allow_tf32;
  r.batch = p.shape.batch, r.hidden = p.shape.hidden, r.projection = p.shape.projection;
  r.steps = p.shape.steps;
  r.runs = runs, r.stacked = stacked;
  return r;
}
Plan plan_for(const ForwardParams& p, int runs, bool stacked, const Context& context, bool backward) {
  const Request r = request_for(p, runs, stacked, context, backward);
  if (context.candidate == kGeneralPath) return plan_of_launches(r, context.gpu, "asked for", false);
  if (!context.persistent) return plan_of_launches(r, context.gpu, "the driver has refused persistent kernels");
  if (p.cell >= kPersistentCells && context.candidate < 0)
    return plan_of_launches(r, context.gpu, "the cell has no persistent kernel");
  return make_plan(r, context.gpu, context.candidate);
}

bool stacks(const ForwardParams& p, int64_t layers, const Context& context, bool backward) {
  return layers > 1 && layers <= kMostRuns && !p.shape.projection && !p.shape.reverse && p.shape.rows &&
         plan_for(p, static_cast<int>(layers), true, context, backward).regime == Regime::kStack;
}

int64_t layers_at_once(const ForwardParams& p, int64_t layers, const Context& context, bool backward) {
  const auto microseconds = [&](int64_t count) {
    if (count == 0) return 0.;
    const int runs = static_cast<int>(count);
    return call_microseconds(plan_for(p, runs, runs > 1, context, backward),
                             request_for(p, runs, runs > 1, context, backward), context.gpu);
  };
  int64_t best = 1;
  double least = static_cast<double>(layers) * microseconds(1);
  for (int64_t count = 2; count <= std::min<int64_t>(layers, kMostRuns); count++) {
    if (!stacks(p, count, context, backward)) continue;
    const double expected = static_cast<double>(layers / count) * microseconds(count) + microseconds(layers % count);
    if (expected < least || context.candidate >= 0) best = count, least = expected;
  }
  return best;
}

std::string describe(const Plan& p) {
  char text[500], runs[60] = "";
  const bool stacked = p.regime == Regime::kStack;
  if (p.runs > 1)
    std::snprintf(runs, sizeof runs,
                  stacked ? ", %d layers in one launch, each" : ", both directions in one launch, each", p.runs);
  if (p.regime == Regime::kGeneral) {
    std::snprintf(text, sizeof text,
                  "general: a product and a pointwise kernel per step (%s); %.2f us a step by a model, not measured",
                  p.reason, p.microseconds);
    return text;
  }
  if (p.regime == Regime::kFusedSteps) {
    std::snprintf(
        text, sizeof text,
        "fused: one kernel per step for its products and the cell (%s); %.2f us a step by a model, not measured",
        p.reason, p.microseconds);
    return text;
  }
  const Tiling& t = p.tiling;
  std::snprintf(
      text, sizeof text,
      "persistent, %s%s: %d group%s of %d block%s, %d sequences each; a block has %d threads, %d hidden "
      "units, depth in %d slice%s%s, %lld bytes of shared memory; %s; %.2f us a step by a model, not measured",
      p.regime == Regime::kOneSm     ? "W_hh in one SM"
      : p.regime == Regime::kCluster ? "W_hh in a cluster, distributed shared memory"
      : p.regime == Regime::kStack   ? "W_ih and W_hh across SMs, flag barriers through L2"
      : p.meeting == Meeting::kFlag  ? "W_hh across SMs, flag barrier through L2"
                                     : "W_hh across SMs, mailbox in L2",
      runs, t.groups, t.groups == 1 ? "" : "s", t.group_blocks, t.group_blocks == 1 ? "" : "s", t.tiles * 8,
      t.threads(), t.unit_warps * t.warp_units, t.slices, t.slices == 1 ? "" : "s",
      t.is_split() ? ", a part of the weights in shared memory" : "", static_cast<long long>(t.shared_bytes),
      p.multiplier == Multiplier::kTensorCores ? "tensor cores" : "float32 arithmetic", p.microseconds);
  return text;
}

namespace {
struct Named {
  const char* name;
  GpuInfo gpu;
};
const Named kGpus[] = {
    {"A100", {108, 8, 0, 166912, kRegistersPerSm, 40 << 20, true}},
    {"RTX 3090", {82, 8, 6, 101376, kRegistersPerSm, 6 << 20, true}},
    {"RTX 4090", {128, 8, 9, 101376, kRegistersPerSm, 72 << 20, true}},
    {"H100", {132, 9, 0, 232448, kRegistersPerSm, 50 << 20, true}},
    {"H200", {132, 9, 0, 232448, kRegistersPerSm, 60 << 20, true}},
    {"B200", {148, 10, 0, 232448, kRegistersPerSm, 126 << 20, true}},
};
}  // namespace

std::vector<std::string> gpu_names() {
  std::vector<std::string> names;
  for (const Named& g : kGpus) names.emplace_back(g.name);
  return names;
}
const GpuInfo* gpu_named(const std::string& name) {
  for (const Named& g : kGpus)
    if (name == g.name) return &g.gpu;
  return nullptr;
}

}  // namespace lstmfast::cuda
