// The planner over a grid of sizes, types and GPUs: what it chooses can run there, and is what one expects.
#define LSTMFAST_EMULATION_MAIN
#include "core/cell_info.h"
#include "cpp/check.h"
#include "cuda/kernels.h"
#include "machine.h"

using namespace lstmfast;
using namespace lstmfast::cuda;

namespace {

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

void check_runs(const Request& r, const GpuInfo& gpu, const Plan& p) {
  if (p.regime == Regime::kGeneral) {
    CHECK(*p.reason);
    return;
  }
  const Tiling& t = p.tiling;
  CHECK(r.dtype != DType::kFloat64);
  CHECK((p.multiplier == Multiplier::kFma) == (r.dtype == DType::kFloat32 && !r.tf32));
  // Registers: the kernel's weights are an instantiation, and its launch bounds hold.
  CHECK(t.weight_registers() == kWeightRegisters[0] || t.weight_registers() == kWeightRegisters[1]);
  CHECK(t.threads() >= 32 &&
        t.threads() <= most_threads(t.weight_registers(), r.backward, p.multiplier == Multiplier::kFma));
  CHECK(t.depth_tiles % 2 == 0);
  CHECK(t.shared_bytes <= gpu.shared_per_block_optin);
  // One block an SM, and blocks that wait for each other all at once.
  CHECK(p.regime != Regime::kOneSm || t.group_blocks == 1);
  CHECK(p.regime != Regime::kCluster || (gpu.major >= 9 && t.group_blocks <= 8 && t.group_blocks <= gpu.sm_count));
  CHECK(p.runs == 1 || p.runs == r.runs);
  CHECK((p.regime == Regime::kStack) == (t.own_slice > 0) && (p.regime != Regime::kStack || r.stacked));
  CHECK(p.regime != Regime::kStack || (gpu.cooperative && p.runs == r.runs && p.runs * t.blocks() <= gpu.sm_count));
  CHECK(p.regime != Regime::kWholeGpu || (gpu.cooperative && p.runs * t.blocks() <= gpu.sm_count));
  // Everything is covered: the units, the depth and the sequences; and no group is without work.
  CHECK(static_cast<int64_t>(t.group_blocks) * t.unit_warps * t.warp_units >= r.hidden);
  CHECK(static_cast<int64_t>(t.group_blocks - 1) * t.unit_warps * t.warp_units < r.hidden);
  CHECK(static_cast<int64_t>(t.slices - t.own_slice) * t.depth_tiles * 32 >= exchange_width(r) * size_of(r.dtype));
  CHECK(t.own_slice == 0 || t.slices == 2 * t.own_slice);
  CHECK(static_cast<int64_t>(t.groups) * t.tiles * 8 >= r.batch);
  CHECK(static_cast<int64_t>(t.groups - 1) * t.tiles * 8 < r.batch);
  // Rows of the operand are aligned, and eight of them fall into different banks.
  CHECK(t.pitch % 16 == 0 && t.pitch % 128 != 0 && t.pitch >= t.slices * t.depth_tiles * 32);
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
                persistent += p.regime != Regime::kGeneral;
                for (const int candidate : {0, 1, 2, 7, 30}) check_runs(r, gpu, make_plan(r, gpu, candidate));
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
      CHECK(regime(gpu, dtype, 16, 64) == Regime::kOneSm);
      CHECK(regime(gpu, dtype, 64, 128, true) == Regime::kOneSm);
      const bool clusters = gpu_named(gpu)->major >= 9;
      CHECK(regime(gpu, dtype, 64, 128) == (clusters ? Regime::kCluster : Regime::kOneSm));
      CHECK(regime(gpu, dtype, 1, 256) == (clusters ? Regime::kCluster : Regime::kWholeGpu));
      CHECK(regime(gpu, dtype, 1, 1024) == Regime::kWholeGpu);
      CHECK(regime(gpu, dtype, 16, 1024, true) == Regime::kWholeGpu);
      CHECK(regime(gpu, dtype, 1, 4096) == Regime::kGeneral);  // does not fit into all registers
      CHECK(regime(gpu, dtype, 100000, 1024) == Regime::kGeneral);
    }
  CHECK(regime("H200", DType::kFloat32, 16, 64) == Regime::kOneSm);
  CHECK(regime("H200", DType::kFloat32, 16, 512) == Regime::kWholeGpu);
  CHECK(regime("H200", DType::kFloat64, 16, 64) == Regime::kGeneral);
  // W_hh W_hr is as large as W_hh of a layer without projection, and takes time to compute.
  Request projected{false, 4, DType::kBFloat16, false, 16, 1024, 512};
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kWholeGpu);
  projected.steps = 1;
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kGeneral);
  projected.steps = 100, projected.hidden = 2048;
  CHECK(make_plan(projected, *gpu_named("H200")).regime == Regime::kGeneral);
  // A few steps are not worth loading the weights of many SMs.
  CHECK(make_plan({false, 4, DType::kBFloat16, false, 16, 512, 0, 1}, *gpu_named("A100")).regime == Regime::kGeneral);
  GpuInfo no_cooperation = *gpu_named("H200");
  no_cooperation.cooperative = false;
  CHECK(make_plan({false, 4, DType::kBFloat16, false, 16, 1024, 0}, no_cooperation).regime == Regime::kGeneral);
  CHECK(!gpu_named("no such GPU"));
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
  r = {false, 4, DType::kBFloat16, false, 16, 768, 0};
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
      CHECK(describe(plan).find("all layers in one launch") != std::string::npos);
      r.hidden = 1024;
      CHECK(make_plan(r, gpu).regime == Regime::kWholeGpu);
    }
  ForwardParams p;
  p.dtype = DType::kBFloat16;
  p.shape.steps = 100, p.shape.batch = 16, p.shape.rows = 1600, p.shape.hidden = p.shape.input = 256;
  Context context;
  context.gpu = gpu;
  CHECK(stacks(p, 2, context, false) && !stacks(p, 1, context, false) && !stacks(p, kMostRuns + 1, context, false));
  p.shape.projection = 8;
  CHECK(!stacks(p, 2, context, false));
  p.shape.projection = 0, context.persistent = false;
  CHECK(!stacks(p, 2, context, false));
}

void words() {
  const GpuInfo& gpu = *gpu_named("H200");
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 64, 0}, gpu)).find("one SM") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 256, 0}, gpu)).find("cluster") != std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kBFloat16, false, 16, 1024, 0}, gpu)).find("across SMs") !=
        std::string::npos);
  CHECK(describe(make_plan({false, 4, DType::kFloat64, false, 16, 512, 0}, gpu)).find("float64") != std::string::npos);
  Context context;
  context.gpu = gpu;
  context.persistent = false;
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
  directions();
  layers();
  words();
  reserve();
  return finish();
}
