// Which kernel runs a call, and in which launch shape: pure functions of the GPU's description and the sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../core/macros.h"
#include "../core/params.h"

namespace lstmfast::cuda {

// What the planner knows about a GPU. The binding fills it once per device from the device's attributes.
struct GpuInfo {
  int sm_count = 0;                    // of the MIG slice, where there is one
  int major = 0, minor = 0;            // compute capability
  int64_t shared_per_block_optin = 0;  // bytes
  int64_t registers_per_sm = 0;        // 32-bit registers
  int64_t l2_bytes = 0;
  bool cooperative = false;  // cooperative launches work
};

// How one layer in one direction is run.
enum class Regime {
  kGeneral,   // a GEMM and a pointwise kernel per step; any size
  kOneSm,     // persistent: a block holds all of W_hh and owns some sequences; blocks do not meet
  kCluster,   // persistent: the blocks of a cluster share W_hh and write into each other's shared memory (from 9.0 on)
  kWholeGpu,  // persistent: the blocks of a group share W_hh and exchange through L2 every step
  kStack,     // the same for all layers at once, as a wavefront: groups hold W_ih too, and hand on what they compute
  kFusedSteps,  // forward, few sequences: one kernel per step for its products and the cell; any size
};
constexpr bool is_persistent(Regime regime) { return regime != Regime::kGeneral && regime != Regime::kFusedSteps; }
constexpr int kMostFusedRows = 8;  // the sequences of a fused step

// How the blocks of a group exchange through L2.
enum class Meeting {
  kFlag,     // they write, raise a flag, wait for the others', and read
  kMailbox,  // they read until all is there: every step has a place of its own, which no other has used
};

// How the persistent kernels multiply.
enum class Multiplier { kTensorCores, kFma };

// A piece of the depth: depth tiles of each warp. So many pieces of the operand are in shared memory, one of them in
// use.
constexpr int kPieceTiles = 4, kPieceStages = 4;
// Tiles of sequences that share a fragment's read.
LF_HOST_DEVICE constexpr int most_tiles(Multiplier multiplier) {
  return multiplier == Multiplier::kTensorCores ? 2 : 1;
}

// The product of a step, as a persistent kernel cuts it: weights are the rows (all gates of the hidden units in
// forward, hidden units in backward), the depth is what is exchanged (h in forward, gate gradients in backward). A warp
// holds the weights of kRowTiles x 16 rows and a slice of the depth in registers; `slices` warps share their rows and
// split the depth. Depth is counted in tiles of 32 bytes. What registers cannot hold of W_hh may be in shared memory:
// then the product goes through the depth in pieces (pieces.cuh).
struct Tiling {
  int row_tiles = 0;     // 16 rows each, per warp
  int depth_tiles = 0;   // per warp, in registers
  int slices = 0;        // warps that share rows
  int own_slice = 0;     // in a stack, slices before this one multiply by what the layer beside hands on
  int unit_warps = 0;    // warps of a block side by side in hidden units
  int warp_units = 0;    // hidden units of a warp
  int group_blocks = 0;  // blocks that share W_hh
  int groups = 0;        // each has all of W_hh, and a part of the batch
  int tiles = 0;         // 8 sequences each, per group
  int pitch = 0;         // bytes of an operand's row in shared memory
  // Behind what every kernel reads: another order costs some of them registers, which are loaded in pairs.
  int sum_tiles = 0;     // for so many the sums of slices have room at once
  int shared_tiles = 0;  // per warp, in shared memory
  int part_tiles = 1;    // of sequences that go through a piece together
  int64_t shared_bytes = 0;

  LF_HOST_DEVICE int warps() const { return slices * unit_warps; }
  int weight_registers() const { return row_tiles * depth_tiles * 4; }
  int threads() const { return 32 * warps(); }
  LF_HOST_DEVICE int blocks() const { return groups * group_blocks; }  // of a run
  bool is_split() const { return shared_tiles > 0; }
  // Of a split product.
  LF_HOST_DEVICE int pieces() const { return (depth_tiles + shared_tiles) / kPieceTiles; }
  LF_HOST_DEVICE int parts() const { return (tiles + part_tiles - 1) / part_tiles * pieces(); }
  LF_HOST_DEVICE int piece_bytes() const { return slices * kPieceTiles * 32; }  // of a row of the operand
  LF_HOST_DEVICE int weight_bytes() const { return warps() * shared_tiles * row_tiles * 512; }
};

// The second dimension of a grid.
constexpr int kMostGroups = 65535;
// That a launch goes through side by side.
constexpr int kMostRuns = 8;

struct Plan {
  Regime regime = Regime::kGeneral;
  Multiplier multiplier = Multiplier::kTensorCores;
  Tiling tiling;                     // of a persistent regime
  int runs = 1;                      // that share a launch, on SMs of their own; else each has one, after the other
  Meeting meeting = Meeting::kFlag;  // through L2
  double microseconds = 0;  // expected of a launch's step, without the products over all rows; a model, not measured
  const char* reason = "";  // why not a persistent regime
};

// What a plan depends on.
struct Request {
  bool backward = false;
  int gates = 4;
  DType dtype = DType::kFloat32;
  bool tf32 = false;
  int64_t batch = 1, hidden = 1, projection = 0;
  int64_t steps = 100;
  int runs = 1;  // alike: both directions of a layer, or the layers of a stack but for the input of the first
  bool stacked = false;
};

constexpr int kPlanners = -1, kGeneralPath = -2;  // instead of a candidate's number
// The plan that is expected to be fastest; or, for tests and measurements, the candidate of this number (modulo theirs)
// of all plans that the GPU can run, but for the general path: the persistent ones, and then fused steps.
Plan make_plan(const Request& r, const GpuInfo& gpu, int candidate = kPlanners);
// The same without persistent kernels, for this reason.
Plan plan_of_launches(const Request& r, const GpuInfo& gpu, const char* why, bool may_fuse = true);
int candidates(const Request& r, const GpuInfo& gpu);  // how many there are
std::string describe(const Plan& plan);

// Widths in elements of one sequence's row in what blocks exchange: a gate's part, padded to 16 bytes, and all of it.
int64_t exchange_gate_width(const Request& r);
int64_t exchange_width(const Request& r);
// What a mailbox takes for so many runs: a place for every step, and one that backward's product for h0 reads. It is
// filled by the call and read once, so the more of it there is, the less stays in L2; the planner takes a flag beyond
// this.
int64_t mailbox_bytes(const Request& r, int runs);
constexpr int64_t kMostMailboxBytes = 256 << 20;

// Registers in which a thread holds weights, and how many threads a block may have so that the kernel does not spill:
// its launch bounds. Tensor cores in forward need the fewest others; a stack has two addresses more, a mailbox what is
// on its way (`more`).
constexpr int kWeightRegisters[] = {64, 128};
constexpr int kSplitRegisters = 128;  // where more weights are in shared memory
LF_HOST_DEVICE constexpr int most_threads(int weight_registers, bool backward, bool fma, bool more) {
  return weight_registers > 64 ? 256 : backward || fma || more ? 384 : 512;
}

// Loads of 16 bytes that a thread has under way while it waits for a mailbox, as registers allow.
LF_HOST_DEVICE constexpr int loads_under_way(int weight_registers) { return weight_registers > 64 ? 4 : 2; }

// Descriptions of GPUs by name, for explain() and tests; null if unknown.
std::vector<std::string> gpu_names();
const GpuInfo* gpu_named(const std::string& name);

}  // namespace lstmfast::cuda
