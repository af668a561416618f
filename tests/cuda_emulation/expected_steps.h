// What a step of an LSTM's recurrence was expected to take on an H200, before any kernel was written: the floors that
// the design started from. Estimates, not measurements: at 1.85 GHz, mma.sync at 63 % of the tensor cores' peak, 48
// bytes per cycle and SM from L2, W_hh in 160 KB of registers and 120 KB of shared memory of each SM, clusters of up to
// 16 blocks, the exchange through L2 without a flag (660 cycles), and a step outside of a persistent kernel as one
// launch (3 us). The letters are the regimes of that estimate: one SM (a), cluster (b), SMs that meet in L2 (c),
// launches for each step (d). c at H = 2048 in float32 has half of W_hh on chip and reads the rest every step.
#pragma once
#include "cuda/plan.h"

namespace lstmfast::cuda {

constexpr int64_t kExpectedBatches[] = {1, 16, 32, 64, 128, 256};

struct ExpectedSteps {
  const char* name;
  DType dtype;
  bool tf32, backward;
  int64_t hidden;
  double microseconds[6];  // by kExpectedBatches; 0: not estimated
  const char* regimes;
};

constexpr ExpectedSteps kExpectedSteps[] = {
    {"bf16", DType::kBFloat16, false, false, 64, {.35, .35, .35, .35, .35, .35}, "aaaaaa"},
    {"bf16", DType::kBFloat16, false, false, 128, {.41, .41, .41, .43, .49, .49}, "bbbbbb"},
    {"bf16", DType::kBFloat16, false, false, 256, {.53, .53, .53, .61, .78, .78}, "bbbbbb"},
    {"bf16", DType::kBFloat16, false, false, 512, {.73, .73, .77, 1.0, 1.4, 2.1}, "cccccc"},
    {"bf16", DType::kBFloat16, false, false, 1024, {.97, .97, 1.3, 1.9, 3.3, 4.9}, "cccccc"},
    {"bf16", DType::kBFloat16, false, false, 2048, {1.5, 2.2, 3.9, 6.2, 10.2, 17.3}, "ccccdd"},
    {"tf32", DType::kFloat32, true, false, 64, {.42, .42, 0, .42, 0, .46}, "bb-b-b"},
    {"tf32", DType::kFloat32, true, false, 128, {.5, .5, 0, .56, 0, .66}, "bb-b-b"},
    {"tf32", DType::kFloat32, true, false, 256, {.74, .74, 0, .91, 0, 1.35}, "cc-b-b"},
    {"tf32", DType::kFloat32, true, false, 512, {.9, .9, 0, 1.5, 0, 4.1}, "cc-c-c"},
    {"tf32", DType::kFloat32, true, false, 1024, {1.5, 1.5, 0, 4.0, 0, 10}, "cc-c-d"},
    {"tf32", DType::kFloat32, true, false, 2048, {8, 10, 0, 20, 0, 32}, "cc-c-d"},
    {"f32", DType::kFloat32, false, false, 64, {.42, .49, 0, .49, 0, .6}, "bb-b-b"},
    {"f32", DType::kFloat32, false, false, 128, {.5, .65, 0, .85, 0, 1.2}, "bb-b-b"},
    {"f32", DType::kFloat32, false, false, 256, {.7, 1.1, 0, 1.5, 0, 3.6}, "cc-c-b"},
    {"f32", DType::kFloat32, false, false, 512, {.9, 1.8, 0, 3.7, 0, 13}, "cc-c-c"},
    {"f32", DType::kFloat32, false, false, 1024, {1.5, 3.6, 0, 13, 0, 46}, "cc-c-d"},
    {"f32", DType::kFloat32, false, false, 2048, {8, 19, 0, 46, 0, 175}, "cc-d-d"},
    {"bf16", DType::kBFloat16, false, true, 64, {.35, .35, .35, .35, .35, .35}, "aaaaaa"},
    {"bf16", DType::kBFloat16, false, true, 128, {.62, .62, .62, .62, .62, .62}, "aaaaaa"},
    {"bf16", DType::kBFloat16, false, true, 256, {.8, .8, 0, 1.0, 0, 1.2}, "cc-b-b"},
    {"bf16", DType::kBFloat16, false, true, 512, {1.1, 1.1, 0, 1.6, 0, 3.7}, "cc-c-c"},
    {"bf16", DType::kBFloat16, false, true, 1024, {1.6, 1.6, 0, 3.1, 0, 6.6}, "cc-c-d"},
    {"bf16", DType::kBFloat16, false, true, 2048, {3, 5, 0, 10, 0, 17}, "cc-d-d"},
};

// What the kernels do otherwise than the estimate assumed, as microseconds to add to it.
constexpr double kFlag = .45;  // (c) where they meet at a flag: 1500 cycles instead of 660
constexpr double kLaunch = 2;  // (d) a step of the general path is two launches, 5 us

// Up to here the planner's model may differ from the expectation without a word: a measured step that is further off
// would have to be explained from a profile, too.
constexpr double kFactor = 1.5;

// Where it differs by more, and why. Each must do so: what has been mended is struck off the list.
struct Outlier {
  const char* name;
  bool backward;
  int64_t hidden, least_batch, most_batch;
  const char* reason;
};
constexpr Outlier kOutliers[] = {
    {"tf32", false, 2048, 1, 16, "W_hh does not fit on chip, and no kernel reads a part of it from L2"},
    {"f32", false, 2048, 1, 1, "the same"},
    {"tf32", false, 1024, 1, 1, "one sequence is received, where the estimate has a tile of eight"},
    {"bf16", true, 1024, 1, 1, "the same"},
    {"tf32", false, 1024, 16, 16, "two tiles, received one after the other, each in rounds of as many loads as fit"},
    {"bf16", false, 1024, 256, 256, "mma.sync, where the estimate has wgmma at 0.7 of its cycles from 64 sequences on"},
    {"f32", false, 64, 1, 64, "a warp holds 64 registers of weights at least: one scheduler of four has work"},
    {"f32", false, 128, 1, 1, "a tile of eight sequences takes as long as one"},
};

}  // namespace lstmfast::cuda
