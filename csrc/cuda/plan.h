// Which kernel runs a call, and in which launch shape: pure functions of the GPU's description and the sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "../core/params.h"

namespace lstmfast::cuda {

// What the planner knows about a GPU. The binding fills it once per device from cudaDeviceProp.
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
  kWholeGpu,  // persistent: the blocks of a group share W_hh, exchange through L2 and meet at a flag every step
};

struct Plan {
  Regime regime = Regime::kGeneral;
  const char* reason = "";  // why no faster regime, when general
};

std::string describe(const Plan& plan);

}  // namespace lstmfast::cuda
