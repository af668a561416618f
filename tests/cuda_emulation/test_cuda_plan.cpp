// The planner over a grid of sizes, types and GPUs: what it chooses can run there, and is what one expects.
#define LSTMFAST_EMULATION_MAIN
#include "core/cell_info.h"
#include "cpp/check.h"
#include "cuda/costs.h"
#include "cuda/kernels.h"
#include "expected_steps.h"
#include "machine.h"

using namespace lstmfast;
using namespace lstmfast::cuda;

namespace {

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

void check_runs(const Request& r, const GpuInfo& gpu, const Plan& p) {
  if (!is_persistent(p.regime)) {
    CHECK(*p.reason && p.runs == 1);
    CHECK(p.regime != Regime::kFusedSteps || (!r.backward && r.batch <= kMostFusedRows));
    return;
  }
  const Tiling& t = p.tiling;
  CHECK(r.dtype != DType::kFloat64);
  CHECK((p.multiplier == Multiplier::kFma) == (r.dtype == DType::kFloat32 && !r.tf32));
  // Registers: the kernel's weights are an instantiation, and its launch bounds hold.
  CHECK(t.weight_registers() == kWeightRegisters[0] || t.weight_registers() == kWeightRegisters[1]);
  CHECK(t.threads() >= 32 && t.threads() <= most_threads(t.weight_registers(), r.backward,
                                                         p.multiplier == Multiplier::kFma, p.regime == Regime::kStack));
  CHECK(t.depth_tiles % 2 == 0);
  CHECK(t.shared_bytes <= gpu.shared_per_block_optin);
  // One block an SM, and blocks that wait for each other all at once.
  CHECK(p.regime != Regime::kOneSm || t.group_blocks == 1);
  CHECK(p.regime != Regime::kCluster || (gpu.major >= 9 && t.group_blocks <= 8 && t.group_blocks <= gpu.sm_count));
  CHECK(p.runs == 1 || p.runs == r.runs);
  CHECK((p.regime == Regime::kStack) == (t.own_slice > 0) && (p.regime != Regime::kStack || r.stacked));
  CHECK(p.regime != Regime::kStack || (gpu.cooperative && p.runs == r.runs && p.runs * t.blocks() <= gpu.sm_count));
  CHECK(p.regime != Regime::kWholeGpu || (gpu.cooperative && p.runs * t.blocks() <= gpu.sm_count));
  CHECK(p.meeting == Meeting::kFlag || p.regime == Regime::kWholeGpu);
  if (p.meeting == Meeting::kMailbox) {
    CHECK(!t.is_split() && mailbox_bytes(r, p.runs) <= kMostMailboxBytes);
    CHECK(t.threads() <= most_threads(t.weight_registers(), r.backward, p.multiplier == Multiplier::kFma, true));
  }
  // Everything is covered: the units, the depth and the sequences; and no group is without work.
  CHECK(static_cast<int64_t>(t.group_blocks) * t.unit_warps * t.warp_units >= r.hidden);
  CHECK(static_cast<int64_t>(t.group_blocks - 1) * t.unit_warps * t.warp_units < r.hidden);
  const int64_t slice_bytes = (t.depth_tiles + t.shared_tiles) * 32;
  CHECK((t.slices - t.own_slice) * slice_bytes >= exchange_width(r) * size_of(r.dtype));
  CHECK(t.own_slice == 0 || t.slices == 2 * t.own_slice);
  CHECK(static_cast<int64_t>(t.groups) * t.tiles * 8 >= r.batch);
  CHECK(static_cast<int64_t>(t.groups - 1) * t.tiles * 8 < r.batch);
  // Rows of the operand are aligned, and eight of them fall into different banks.
  CHECK(t.pitch % 16 == 0 && t.pitch % 128 != 0);
  CHECK(t.pitch >= (t.is_split() ? t.piece_bytes() : t.slices * t.depth_tiles * 32));
  // Slices' sums have room: for all tiles, or for whole pairs of them.
  if (!t.is_split()) {
    CHECK(t.sum_tiles == (t.slices > 1 ? t.tiles : 0));
    return;
  }
  CHECK(p.regime == Regime::kWholeGpu && t.weight_registers() == kSplitRegisters);
  CHECK(t.depth_tiles % kPieceTiles == 0 && t.shared_tiles % kPieceTiles == 0);
  CHECK(t.sum_tiles > 0 && t.sum_tiles % t.part_tiles == 0);
  CHECK(t.weight_bytes() < t.shared_bytes);
}

void everything_that_is_planned_can_run() {
  GpuInfo slice = *gpu_named("H100"), small = *gpu_named("A100"), old_driver = *gpu_named("H100"), none;
  slice.sm_count = 16;
  small.sm_count = 14, small.shared_per_block_optin = 48 << 10;
  old_driver.cooperative = false;
  std::vector<GpuInfo> gpus{slice, small, old_driver, none};
  for (const std::string& name : gpu_names()) gpus.push_back(*gpu_named(name));
  int persistent = 0;
  for (const GpuInfo& gpu : gpus)
    for (const DType dtype : kTypes)
      for (const bool tf32 : {false, true})
        for (const bool backward : {false, true})
          for (const int gates : {1, 4})
            for (const int64_t batch : {1, 2, 7, 8, 16, 64, 100, 256, 1000, 100000})
              for (const int64_t hidden : {1, 3, 33, 64, 128, 129, 200, 256, 512, 650, 768, 1024, 1500, 2048, 8192}) {
                Request r{backward, gates, dtype, tf32, batch, hidden, 0};
                const Plan p = make_plan(r, gpu);
                check_runs(r, gpu, p);
                persistent += is_persistent(p.regime);
                for (const int candidate : {0, 1, 2, 7, 30}) check_runs(r, gpu, make_plan(r, gpu, candidate));
                const int most = candidates(r, gpu);
                CHECK(most > 0 || p.regime == Regime::kGeneral);
                CHECK(describe(make_plan(r, gpu, most)) == describe(make_plan(r, gpu, 0)));
                r.runs = 2;
                for (const int candidate : {-1, 0, 1, 2, 7, 30, 31}) check_runs(r, gpu, make_plan(r, gpu, candidate));
                r.runs = 3, r.stacked = true;
                for (const int candidate : {-1, 0, 1, 2, 7, 30}) check_runs(r, gpu, make_plan(r, gpu, candidate));
                r.runs = 2, r.stacked = false;
                r.projection = hidden / 2;
                check_runs(r, gpu, make_plan(r, gpu));
              }
  CHECK(persistent > 1000);
}

Regime regime(const char* gpu, DType dtype, int64_t batch, int64_t hidden, bool backward = false) {
  return make_plan({backward, 4, dtype, true, batch, hidden, 0}, *gpu_named(gpu)).regime;
}

void choices() {
  for (const char* gpu : {"A100", "RTX 4090", "H100", "H200", "B200"})
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      // GeForce cards multiply slowly: more SMs may help even where one is enough.
      const bool clusters = gpu_named(gpu)->major >= 9, slow = std::string(gpu).find("RTX") == 0;
      CHECK(regime(gpu, dtype, 16, 64) == (slow ? Regime::kWholeGpu : Regime::kOneSm));
      CHECK(regime(gpu, dtype, 64, 128, true) == (slow ? Regime::kWholeGpu : Regime::kOneSm));
      CHECK(regime(gpu, dtype, 64, 128) == (clusters ? Regime::kCluster : Regime::kWholeGpu));
      CHECK(regime(gpu, dtype, 1, 256) == Regime::kWholeGpu);  // more SMs than a cluster has
      CHECK(regime(gpu, dtype, 1, 1024) == Regime::kWholeGpu);
      CHECK(regime(gpu, dtype, 16, 1024, true) == Regime::kWholeGpu);
      // It does not fit into all registers.
      CHECK(regime(gpu, dtype, 1, 4096) == Regime::kFusedSteps && regime(gpu, dtype, 16, 4096) == Regime::kGeneral);
      CHECK(regime(gpu, dtype, 1, 4096, true) == Regime::kGeneral);
      CHECK(regime(gpu, dtype, 100000, 1024) == Regime::kGeneral);
    }
  CHECK(regime("H200", DType::kFloat32, 16, 64) == Regime::kCluster);  // the activations take long enough to be shared
  CHECK(regime("H200", DType::kFloat32, 16, 512) == Regime::kWholeGpu);
  CHECK(regime("H200", DType::kFloat64, 16, 64) == Regime::kGeneral);
  // Rows are counted in 32 bits.
  Request rows{false, 4, DType::kBFloat16, false, 1 << 21, 64, 0};
  rows.steps = 1023;
  CHECK(std::string(make_plan(rows, *gpu_named("H200")).reason).find("too large") == std::string::npos);
  rows.steps = 1024;
  CHECK(std::string(make_plan(rows, *gpu_named("H200")).reason).find("too large") != std::string::npos);
  // W_hh W_hr is as large as W_hh of a layer without projection, and takes time to compute.
  Request projected{false, 4, DType::kBFloat16, false, 16, 1024, 512};
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kWholeGpu);
  projected.steps = 1;
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kGeneral);
  projected.steps = 100, projected.hidden = 4096;
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kGeneral);
  // A few steps are not worth loading the weights of many SMs.
  CHECK(make_plan({false, 4, DType::kBFloat16, false, 16, 512, 0, 1}, *gpu_named("A100")).regime == Regime::kGeneral);
  GpuInfo no_cooperation = *gpu_named("H200");
  no_cooperation.cooperative = false;
  CHECK(make_plan({false, 4, DType::kBFloat16, false, 16, 1024, 0}, no_cooperation).regime == Regime::kGeneral);
  CHECK(!gpu_named("no such GPU"));
}

// What the registers cannot hold of W_hh is in shared memory, where there is enough of both.
void split_weights() {
  const auto plan = [](const char* gpu, DType dtype, int64_t batch, int64_t hidden, bool backward, bool tf32 = true) {
    return make_plan({backward, 4, dtype, tf32, batch, hidden, 0}, *gpu_named(gpu));
  };
  for (const bool backward : {false, true}) {
    for (const char* gpu : {"H100", "H200", "B200"})
      for (const DType dtype : {DType::kBFloat16, DType::kFloat16})
        for (const int64_t batch : {1, 16}) {
          const Plan p = plan(gpu, dtype, batch, 2048, backward);
          CHECK(p.regime == Regime::kWholeGpu && p.tiling.is_split());
          CHECK(describe(p).find("a part of the weights in shared memory") != std::string::npos);
        }
    // float32: 132 SMs have registers for 8 units each at H = 1024. 16 need as much again in shared memory.
    for (const bool tf32 : {true, false})
      CHECK(plan("H200", DType::kFloat32, 1, 1088, backward, tf32).tiling.is_split());
    const Regime launches = backward ? Regime::kGeneral : Regime::kFusedSteps;
    CHECK(plan("H200", DType::kFloat32, 1, 1536, backward).regime == launches);
    // Not where nothing is gained: reading them every step takes longer.
    CHECK(!plan("H200", DType::kBFloat16, 1, 1024, backward).tiling.is_split());
    CHECK(plan("A100", DType::kBFloat16, 1, 2048, backward).regime == launches);  // 32 MiB for 108 SMs
  }
  CHECK(plan("A100", DType::kFloat32, 1, 1024, false).tiling.is_split());          // 16 MiB, of which 13 in registers
  CHECK(plan("A100", DType::kFloat32, 1, 1024, true).regime == Regime::kGeneral);  // the operand is four times as wide
}

// A streaming step is one launch, whatever the type; a few of them are not worth a persistent kernel's start, nor are
// products of many sequences worth doing without tensor cores.
void fused_steps() {
  const GpuInfo& gpu = *gpu_named("H200");
  for (const DType dtype : kTypes)
    for (const int64_t hidden : {1, 64, 512, 2048}) {
      Request r{false, 4, dtype, true, 1, hidden, 0, 1};
      const Plan step = make_plan(r, gpu);
      CHECK(step.regime == Regime::kFusedSteps && step.microseconds < general_microseconds(r, gpu));
      CHECK(describe(step).find("fused: one kernel per step") == 0);
      CHECK(!is_persistent(make_plan(r, GpuInfo{}).regime));
      // Where the driver has refused persistent kernels, too; only the general path is the general path.
      ForwardParams p;
      p.dtype = dtype, p.shape.steps = p.shape.batch = p.shape.rows = 1, p.shape.hidden = hidden;
      Context context;
      context.gpu = gpu, context.persistent = false;
      CHECK(plan_for(p, 1, false, context, false).regime == Regime::kFusedSteps);
      context.candidate = kGeneralPath;
      CHECK(plan_for(p, 1, false, context, false).regime == Regime::kGeneral);
      r.batch = kMostFusedRows + 1;
      CHECK(make_plan(r, gpu).regime != Regime::kFusedSteps);
      r.batch = 1, r.steps = 1000;
      CHECK((make_plan(r, gpu).regime == Regime::kFusedSteps) ==
            (dtype == DType::kFloat64 || (hidden == 2048 && dtype == DType::kFloat32)));
      r.backward = true;
      CHECK(make_plan(r, gpu).regime != Regime::kFusedSteps);
    }
  // By hand: 4096 x 1024 weights of bfloat16 are 8 MiB, which 132 SMs read at 21 bytes a cycle out of L2.
  CHECK_NEAR(fused_microseconds({false, 4, DType::kBFloat16, false, 1, 1024, 0}, gpu),
             2.5 + (263 + 200 + (8 << 20) / 21. / 132) / 1830, 1e-9);
  // Going forwards and backwards in turns, a step finds two thirds of a large L2 full of its weights.
  const GpuInfo& large_cache = *gpu_named("RTX 4090");
  const Request r{false, 4, DType::kFloat32, false, 1, 2048, 0};
  CHECK(2 * fused_microseconds(r, large_cache) < general_microseconds(r, large_cache));
}

// Both ways to exchange through L2 are there to be measured, and a mailbox has its limit.
void mailboxes() {
  const GpuInfo& gpu = *gpu_named("H200");
  const auto count = [&](const Request& r, Meeting meeting) {
    int found = 0;
    for (int i = 0; i < candidates(r, gpu); i++) {
      const Plan p = make_plan(r, gpu, i);
      found += p.regime == Regime::kWholeGpu && !p.tiling.is_split() && p.meeting == meeting;
    }
    return found;
  };
  for (const bool backward : {false, true})
    for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
      Request r{backward, 4, dtype, true, 16, 512, 0};
      CHECK(count(r, Meeting::kFlag) > 0 && count(r, Meeting::kMailbox) > 0);
      CHECK(make_plan(r, gpu).meeting == Meeting::kMailbox);
      // A place for every step and one more, of 16 sequences x 512 elements, times four gates going backward.
      const int64_t place = 16 * 512 * size_of(dtype) * (backward ? 4 : 1);
      r.steps = kMostMailboxBytes / place - 1;
      CHECK(mailbox_bytes(r, 1) == kMostMailboxBytes && count(r, Meeting::kMailbox) > 0);
      r.steps++;
      CHECK(mailbox_bytes(r, 1) > kMostMailboxBytes && count(r, Meeting::kMailbox) == 0);
      CHECK(make_plan(r, gpu).meeting == Meeting::kFlag);
    }
}

// Both directions go on at once where they fit, which is never slower by the model: half of the SMs are enough for
// each, or a group of each has all of them.
void directions() {
  const GpuInfo& gpu = *gpu_named("H200");
  Request r{false, 4, DType::kBFloat16, false, 16, 256, 0};
  for (const bool backward : {false, true})
    for (const int64_t hidden : {64, 256, 512, 1024}) {
      r.backward = backward, r.hidden = hidden, r.runs = 1;
      const Plan one = make_plan(r, gpu);
      r.runs = 2;
      const Plan both = make_plan(r, gpu);
      CHECK(both.runs == 2 && both.microseconds < 2 * one.microseconds);
      CHECK(describe(both).find("both directions in one launch") != std::string::npos);
      CHECK(describe(one).find("directions") == std::string::npos);
    }
  // W_hh of one direction fits, that of two does not.
  GpuInfo small = gpu;
  small.sm_count = 60;
  r = {false, 4, DType::kBFloat16, false, 16, 1024, 0};
  r.runs = 2;
  const Plan plan = make_plan(r, small);
  CHECK(plan.regime == Regime::kWholeGpu && plan.runs == 1);
}

// Layers go through one launch where W_ih and W_hh of all of them fit, and there are steps enough.
void layers() {
  const GpuInfo& gpu = *gpu_named("H200");
  Request r{false, 4, DType::kBFloat16, false, 16, 256, 0};
  r.stacked = true;
  for (const bool backward : {false, true})
    for (const int layers : {2, 4}) {
      r.backward = backward, r.runs = layers, r.hidden = 256;
      const Plan plan = make_plan(r, gpu);
      CHECK(plan.regime == Regime::kStack && plan.runs == layers);
      CHECK(describe(plan).find(std::to_string(layers) + " layers in one launch") != std::string::npos);
      r.hidden = 1024;
      CHECK(make_plan(r, gpu).regime == Regime::kWholeGpu);
    }
  ForwardParams p;
  p.dtype = DType::kBFloat16;
  p.shape.steps = 100, p.shape.batch = 16, p.shape.rows = 1600, p.shape.hidden = p.shape.input = 256;
  Context context;
  context.gpu = gpu;
  CHECK(stacks(p, 2, context, false) && !stacks(p, 1, context, false) && !stacks(p, kMostRuns + 1, context, false));
  // More layers than fit go in as many launches as are expected to take the least time together, of equal size or
  // nearly; the more they fill the GPU, the fewer at once.
  for (const bool backward : {false, true}) {
    CHECK(layers_at_once(p, 4, context, backward) == 4);
    CHECK(layers_at_once(p, kMostRuns + 2, context, backward) <= kMostRuns);
    CHECK(layers_at_once(p, kMostRuns + 2, context, backward) > 1);
    p.shape.hidden = 512;
    CHECK(layers_at_once(p, 2, context, backward) == 2 && !stacks(p, 8, context, backward));
    const int64_t some = layers_at_once(p, 8, context, backward);
    CHECK(some > 1 && some < 8 && stacks(p, some, context, backward));
    CHECK(layers_at_once(p, 1, context, backward) == 1);
    p.shape.hidden = 2048;
    CHECK(layers_at_once(p, 8, context, backward) == 1);
    p.shape.hidden = 256;
  }
  p.shape.projection = 8;
  CHECK(!stacks(p, 2, context, false) && layers_at_once(p, 2, context, false) == 1);
  p.shape.projection = 0, context.persistent = false;
  CHECK(!stacks(p, 2, context, false) && layers_at_once(p, 2, context, false) == 1);
}

// ---- the model of time

// The best that the model finds in a regime, infinite where there is nothing.
double best_of(Regime regime, const Request& r, const GpuInfo& gpu) {
  if (regime == Regime::kGeneral) return general_microseconds(r, gpu) * static_cast<double>(r.steps);
  double best = HUGE_VAL;
  for (int i = 0; i < candidates(r, gpu); i++) {
    const Plan p = make_plan(r, gpu, i);
    if (p.regime == regime) best = std::min(best, call_microseconds(p, r, gpu));
  }
  return best;
}

// Against the estimates that the design started from: the times, and the regimes, unless the model finds the one it
// chooses no slower than the one expected.
void expectations() {
  const GpuInfo& gpu = *gpu_named("H200");
  const auto listed = [](const ExpectedSteps& e, int64_t batch) -> const Outlier* {
    for (const Outlier& o : kOutliers)
      if (std::string(o.name) == e.name && o.backward == e.backward && o.hidden == e.hidden && o.least_batch <= batch &&
          batch <= o.most_batch)
        return &o;
    return nullptr;
  };
  for (const ExpectedSteps& e : kExpectedSteps)
    for (int i = 0; i < 6; i++) {
      if (e.microseconds[i] == 0) continue;
      const Request r{e.backward, 4, e.dtype, e.tf32, kExpectedBatches[i], e.hidden, 0};
      const Plan p = make_plan(r, gpu);
      const char letter = "dabc?d"[static_cast<int>(p.regime)], expected = e.regimes[i];
      const bool at_flag = expected == 'c' && p.meeting == Meeting::kFlag;
      const double most = e.microseconds[i] + (at_flag ? kFlag : expected == 'd' ? kLaunch : 0);
      const double factor = p.microseconds / most;
      const bool is_close = factor <= kFactor && factor >= 1 / kFactor;
      const Regime wanted = static_cast<Regime>(std::string("dabc").find(expected));
      const bool is_chosen = letter == expected || call_microseconds(p, r, gpu) <= best_of(wanted, r, gpu);
      if (!is_chosen || is_close != !listed(e, r.batch))
        std::printf("%s %s H=%lld B=%lld: (%c) %.2f us, expected (%c) %.2f\n", e.name,
                    e.backward ? "backward" : "forward", static_cast<long long>(e.hidden),
                    static_cast<long long>(r.batch), letter, p.microseconds, expected, most);
      CHECK(is_chosen);
      CHECK(is_close == !listed(e, r.batch));
    }
}

// One step by hand, at 1830 cycles a microsecond.
void counted_steps() {
  const GpuInfo& gpu = *gpu_named("H200");
  // A block of 8 warps with 8 units each; a warp has 2 x 4 tiles: 2 warps a scheduler, 16 mma of 6.4 cycles. The cell:
  // 200, a barrier: 40, and 64 units x 8 sequences at .46; .65 for the rest, unless something takes longer meanwhile.
  Tiling t;
  t.row_tiles = 2, t.depth_tiles = 4, t.slices = 1, t.unit_warps = 8, t.warp_units = 8, t.group_blocks = 1;
  t.groups = 1, t.tiles = 1;
  const Request r{false, 4, DType::kBFloat16, false, 8, 64, 0};
  const auto cycles = [&](const Request& q, Regime regime, Multiplier m = Multiplier::kTensorCores,
                          Meeting meeting = Meeting::kFlag) {
    return persistent_microseconds(q, {regime, m, t, 1, meeting}, gpu) * 1830;
  };
  CHECK_NEAR(cycles(r, Regime::kOneSm), 2 * 8 * 6.4 + 40 + 64 * 8 * (.46 + .65), 1e-9);
  // The exchange of 8 sequences x 64 units x 2 bytes.
  const double alone = 2 * 8 * 6.4 + 200 + 40 + 64 * 8 * .46;
  CHECK_NEAR(cycles(r, Regime::kCluster), alone + 400 + 1024. / 14, 1e-9);
  CHECK_NEAR(cycles(r, Regime::kWholeGpu), alone + 1500 + 2 * 40 + 1024. / 48, 1e-9);
  // A mailbox has no barrier before it. It is filled, 101 places for 100 steps, at 17.3 bytes for each of 132 SMs.
  const auto mailed = [&](const Request& q, const Tiling& tiling) {
    const Plan plan{Regime::kWholeGpu, Multiplier::kTensorCores, tiling, 1, Meeting::kMailbox};
    return persistent_microseconds(q, plan, gpu) * 1830;
  };
  const double filled = 1.01 / (17.3 * 132);
  CHECK_NEAR(mailed(r, t), alone + 660 + 40 + 1024. / 48 + 1024 * filled, 1e-9);
  // Of two tiles, the second is not on its way before the first is multiplied; nor is a second round of 256 x 2 loads
  // of 16 bytes before the first is there. Of nine sequences, nine are received.
  Tiling two = t;
  two.tiles = 2;
  CHECK_NEAR(mailed({false, 4, DType::kBFloat16, false, 9, 64, 0}, two) - 9 * 128 * filled,
             2 * 2 * 8 * 6.4 + 200 + 40 + 64 * 16 * .46 + std::max(660., 64 * 16 * .65) + 2 * 40 + 263 + 9 * 128. / 48,
             1e-9);
  CHECK_NEAR(mailed({false, 4, DType::kBFloat16, false, 8, 1024, 0}, t),
             alone + 660 + 40 + 263 + 8 * 2048. / 48 + 8 * 2048 * filled, 1e-9);
  // Where L2 cannot keep it, the first look at a place takes longer: half of 60 MiB is more than 40.
  Request large{false, 4, DType::kBFloat16, false, 8, 64, 0};
  large.steps = 50000;
  CHECK_NEAR(mailed(large, t), alone + 660 + 40 + 240 + 1024. / 48 + 1024 * (50001. / 50000) / (17.3 * 132), 1e-9);
  // W_hh in shared memory too: 8 warps x 8 tiles of 2 x 512 bytes, once for both tiles of sequences, beside 8 x 12 x
  // 256 bytes of the operand for each, take longer at 128 than 2 x 2 x 24 mma. Three pieces, once for both tiles.
  Tiling split = t;
  split.shared_tiles = 8, split.tiles = 2, split.part_tiles = 2, split.sum_tiles = 2;
  const double reads = (8 * 8 * 2 * 512 + 2 * 8 * 12 * 256) / 128.;
  CHECK_NEAR(persistent_microseconds(r, {Regime::kWholeGpu, Multiplier::kTensorCores, split}, gpu) * 1830,
             reads + 200 + 40 + 64 * 16 * .46 + 40 + 2 * (8 * 2 + 4) + 1500 + 4 * 40 + 2 * 8 * 3 * 128 / 48., 1e-9);
  // One row tile for each read of the operand: 12 warps x 4 x 256 bytes at 128 take longer than 3 x 4 mma.
  t.row_tiles = 1, t.unit_warps = 12;
  CHECK_NEAR(cycles(r, Regime::kOneSm), 12 * 4 * 2 + 40 + 96 * 8 * (.46 + .65), 1e-9);
  CHECK_NEAR(cycles(r, Regime::kCluster), 12 * 4 * 2 + 200 + 40 + 96 * 8 * (.46 + .65) + 1024. / 14, 1e-9);
  // float32: 32 instructions a tile, four fifths of the issue slots; two groups too many for the SMs go twice.
  const Request f{false, 4, DType::kFloat32, false, 8 * 134, 64, 0};
  t.unit_warps = 8, t.groups = 134;
  CHECK_NEAR(cycles(f, Regime::kOneSm, Multiplier::kFma), 2 * (2 * 4 * 32 / .8 + 40 + 64 * 8 * (.85 + .65)), 1e-9);
  // The general path reads W_hh from L2 where it stays there: 32 MiB of bfloat16 at 21 bytes a cycle and SM do.
  CHECK_NEAR(general_microseconds({false, 4, DType::kBFloat16, false, 1, 2048, 0}, gpu),
             5 + (8 << 22) / (21. * 132 * 1830), 1e-9);
  CHECK_NEAR(general_microseconds({false, 4, DType::kFloat32, false, 1, 2048, 0}, gpu),
             5 + (16 << 22) / (17.3 * 132 * 1830), 1e-9);
  CHECK_NEAR(general_microseconds({false, 4, DType::kBFloat16, false, 1024, 2048, 0}, gpu),
             5 + 1024. * (4 << 22) / (.95 * 4 * 2048 / 6.4 * 132 * 1830), 1e-9);
}

void words() {
  const GpuInfo& gpu = *gpu_named("H200");
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 64, 0}, gpu)).find("one SM") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 128, 0}, gpu)).find("cluster") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 256, 0}, gpu)).find("mailbox") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 1, 2048, 0}, gpu)).find("flag") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 1024, 0}, gpu)).find("across SMs") !=
        std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kFloat64, false, 16, 512, 0}, gpu)).find("float64") != std::string::npos);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat64})
    CHECK(describe(make_plan({false, 4, dtype, false, 16, 64, 0}, gpu)).find("us a step by a model, not measured") !=
          std::string::npos);
  Context context;
  context.gpu = gpu;
  context.persistent = false;
  CHECK(describe(plan_for({}, 1, false, context, false)).find("the driver has refused") != std::string::npos);
  context.candidate = kGeneralPath;
  CHECK(describe(plan_for({}, 1, false, context, false)).find("asked for") != std::string::npos);
}

void reserve() {
  for (int cell = 0; cell < kCells; cell++)
    for (const DType dtype : kTypes)
      for (const int64_t hidden : {1, 3, 16, 33})
        for (const int64_t projection : {0, 1, 2}) {
          const int64_t bytes = reserve_width(cell, dtype, hidden, projection) * compute_size_of(dtype);
          const CellInfo& info = cell_info(cell);
          const int64_t needed = hidden * (info.gates + info.states - 1) * compute_size_of(dtype) +
                                 (projection ? hidden * size_of(dtype) : 0);
          CHECK(bytes % 16 == 0 && bytes >= needed && bytes < needed + 32);
        }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {  // prints the table of plans for a GPU
    const GpuInfo* gpu = gpu_named(argv[1]);
    for (const DType dtype : {DType::kBFloat16, DType::kFloat32})
      for (const bool tf32 : {true, false})
        for (const bool backward : {false, true})
          for (const int64_t hidden : {64, 128, 256, 512, 1024, 2048})
            for (const int64_t batch : {1, 16, 64, 256})
              if (gpu && (dtype == DType::kFloat32 || tf32))
                std::printf("%s %s H=%lld B=%lld: %s\n",
                            dtype == DType::kBFloat16 ? "bf16"
                            : tf32                    ? "tf32"
                                                      : "f32",
                            backward ? "backward" : "forward", static_cast<long long>(hidden),
                            static_cast<long long>(batch),
                            describe(make_plan({backward, 4, dtype, tf32, batch, hidden, 0}, *gpu)).c_str());
    return gpu ? 0 : 1;
  }
  everything_that_is_planned_can_run();
  choices();
  split_weights();
  fused_steps();
  mailboxes();
  directions();
  layers();
  expectations();
  counted_steps();
  words();
  reserve();
  return finish();
}
