// The planner's model of time. It counts cycles per step from an SM's throughputs and a few latencies. Every constant
// is an estimate until it has been measured: docs/cuda.md says which program measures which.
#pragma once
#include "plan.h"

namespace lstmfast::cuda {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cycles are an SM's; bytes are per cycle.
struct Costs {
  double megahertz;           // that the SMs keep up
  double mma;                 // a scheduler's cycles for one mma: 16 rows, 8 sequences, 32 bytes of depth
  double fma;                 // a scheduler's cycles for one float32 instruction of a warp
  double memory_bytes;        // of device memory, for each SM
  double mma_latency = 33;    // until another mma can add to the same sums
  double shared_bytes = 128;  // an SM reads from its own shared memory
  double cell = 200;          // the latency of a cell's arithmetic
  // Cycles of an SM's four schedulers for a cell of an LSTM, a hidden unit of a sequence, by the instructions that were
  // counted (docs/cuda.md): until what the next step multiplies by is handed over, and for the rest, reading what the
  // cell needs and storing its results.
  double cell_half = .46, cell_float = .85, rest_forward = .65, rest_backward = .45;
  double block_barrier = 40;
  double cluster_barrier = 400, cluster_bytes = 14;  // with what it waits for; an SM stores into the others
  double flag = 1500;           // from the last block's writes to the first byte that another reads: fence, add, poll
  double mailbox = 660;         // the same of a mailbox, where the data itself is waited for: the design's estimate
  double l2_latency = 263;      // of an SM's load: published for an H800
  double memory_latency = 240;  // on top of that, of what L2 does not have: an estimate
  double exchange_bytes = 48;   // an SM reads from L2 while the others of its group read the same
  double l2_bytes = 21;         // an SM reads from L2 while the others read something else
  double launches = 5;          // microseconds: a product and a pointwise kernel, one after the other
  double fused_launch = 2.5;    // microseconds: one kernel
  double projection = 2.5;      // microseconds: one product more
  double start = 6;             // microseconds: a persistent kernel's launch and the loading of not too many weights
};
Costs costs_of(const GpuInfo& gpu);

// Groups that run at once, of all runs. Clusters do not fill a GPU: they lie within a part of it, and leave SMs over
// there.
int64_t slots(int64_t group_blocks, Regime regime, const GpuInfo& gpu);

// Expected of a step of a launch of a persistent plan, or of the general path, without the products over all rows.
double persistent_microseconds(const Request& r, const Plan& plan, const GpuInfo& gpu);
double general_microseconds(const Request& r, const GpuInfo& gpu);
double fused_microseconds(const Request& r, const GpuInfo& gpu);  // of a fused step, without the input's part
// Before a persistent kernel's first step: its launch, the loading of its weights, and with a projection their product.
double start_microseconds(const Request& r, const GpuInfo& gpu);
// Of all that is asked for, as this plan does it, one launch after the other.
double call_microseconds(const Plan& plan, const Request& r, const GpuInfo& gpu);

}  // namespace lstmfast::cuda
