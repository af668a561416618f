// The persistent kernels on the emulated GPU. Small GPUs make small problems use several blocks and several groups.
#define LSTMFAST_EMULATION_MAIN
#include <map>

#include "random_calls.h"

using namespace lstmfast;

namespace {
// What the kernels of a call have to deal with, so that a run shows what it has covered.
void note(const RandomCall& call, const Run& run, std::map<std::string, int>& seen) {
  const Problem& problem = call.runs[0];
  for (const bool backward : {false, true}) {
    cuda::Request r;
    r.backward = backward, r.gates = problem.gates(), r.dtype = problem.dtype, r.tf32 = run.tf32;
    r.batch = problem.batch, r.hidden = problem.hidden, r.steps = problem.steps;
    r.projection = problem.projection;
    r.runs = static_cast<int>(call.runs.size()), r.stacked = call.stack.yes;
    const cuda::Plan plan = cuda::make_plan(r, run.context.gpu, run.context.candidate);
    const cuda::Tiling& t = plan.tiling;
    std::string s = backward ? "backward" : "forward ";
    static const char* const kRegimes[] = {", general",   ", one SM", ", cluster",
                                           ", whole GPU", ", stack",  ", fused steps"};
    s += kRegimes[static_cast<int>(plan.regime)];
    s += plan.multiplier == cuda::Multiplier::kFma ? ", fma" : ", mma";
    if (t.slices > 1) s += ", slices";
    if (t.tiles > 1) s += ", tiles";
    if (t.groups > 1) s += ", groups";
    const bool mailed = plan.meeting == cuda::Meeting::kMailbox;
    if (mailed) s += ", mailbox";
    seen[s]++;
    const std::string where =
        (backward ? "backward" : "forward") + std::string(kRegimes[static_cast<int>(plan.regime)]);
    if (plan.regime == cuda::Regime::kStack) {
      seen["stack, " + where + (call.stack.kept.empty() ? "" : ", dropout")]++;
      seen["stack, " + where + (problem.sizes.empty() ? ", padded" : ", packed")]++;
    } else if (plan.runs > 1) {
      seen["both directions at once, " + where]++;
    }
    if (problem.projection) seen["projection, " + where]++;
    if (mailed) {
      const std::string which = backward ? "mailbox, backward" : "mailbox, forward";
      seen[which + (plan.multiplier == cuda::Multiplier::kFma ? ", fma"
                    : size_of(problem.dtype) == 2             ? ", 16"
                                                              : ", 32")]++;
      seen[which + (problem.sizes.empty() ? ", padded" : ", packed")]++;
      seen[which + (problem.h0.empty() ? ", no state" : ", a state")]++;
      seen[which + ", cell " + std::to_string(problem.cell)]++;
      if (plan.runs > 1) seen[which + ", directions"]++;
      if (t.tiles > 1) seen[which + ", tiles"]++;
      if (t.groups > 1) seen[which + ", groups"]++;
      if (t.slices > 1) seen[which + ", slices"]++;
    }
    if (!t.is_split()) continue;
    const std::string split = backward ? "split, backward" : "split, forward";
    seen[split + (plan.multiplier == cuda::Multiplier::kFma ? ", fma" : ", mma")]++;
    seen[split + (t.slices > 1 ? ", slices" : ", one slice")]++;
    if (t.tiles > 1 && t.tiles % 2) seen[split + ", an odd tile"]++;
    if (t.tiles > t.sum_tiles) seen[split + ", several rounds"]++;
    if (!problem.sizes.empty()) seen[split + ", packed"]++;
  }
}
// Weights in registers and in shared memory.
void check_split(std::mt19937_64& random, std::map<std::string, int>& seen) {
  for (int i = 0; i < 60; i++) {
    const RandomCall call(
        random, {{DType::kFloat32, DType::kBFloat16, DType::kFloat16}, true, false, kCells, true, false, true});
    Run run;
    const bool tf32 = random() % 2;
    if (!draw_split_run(random, call, run, tf32)) continue;
    note(call, run, seen);
    check_call(call, run);
  }
  for (const char* direction : {"forward", "backward"})
    for (const char* kind :
         {", fma", ", mma", ", slices", ", one slice", ", an odd tile", ", several rounds", ", packed"})
      CHECK(seen[std::string("split, ") + direction + kind] > 0);
}

// Every way to exchange, in every type; in a cell without activations NaNs are handed on bit by bit.
void check_without_numbers(std::mt19937_64& random) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16})
    for (const bool tf32 : {false, true})
      for (const char* cell : {"LSTM", "LSTM_LINEAR"}) {
        if (tf32 && dtype != DType::kFloat32) continue;
        int mailed = 0;
        for (int candidate = 0; candidate < 12; candidate++) {
          const RandomCall call = call_without_numbers(random, dtype, cell);
          Run run;
          draw_run(random, run, tf32);
          run.context.gpu.sm_count = 8, run.context.candidate = candidate;
          ForwardParams like;
          like.cell = call.runs[0].cell, like.dtype = dtype;
          like.shape.steps = 3, like.shape.batch = 9, like.shape.hidden = 33;
          mailed += cuda::plan_for(like, 1, false, run.context, false).meeting == cuda::Meeting::kMailbox;
          check_call(call, run);
        }
        CHECK(mailed > 0);
      }
}

// The same call has the same bits in every schedule.
void check_determinism(std::mt19937_64& random) {
  for (int i = 0; i < 20; i++) {
    const RandomCall call(random, {{DType::kFloat32, DType::kBFloat16}, true, i % 4 == 3, kCells, true, true});
    const bool tf32 = random() % 2;
    Run run;
    draw_run(random, run, tf32);
    uint64_t first = 0;
    for (uint64_t seed = 0; seed < 4; seed++) {
      run.seed = seed;
      CallCheck check(call.runs, call.layout, run, call.stack);
      CHECK(check().empty());
      if (seed == 0) first = check.digest();
      CHECK(check.digest() == first);
    }
  }
}

// A GPU that has less room than its description says: the driver's error is reported, and the general path still works.
void check_refusal() {
  std::mt19937_64 random(4);
  const RandomCall call(random, {{DType::kFloat32}, false, true, 1});
  const bool tf32 = true;
  Run run;
  draw_run(random, run, tf32);
  run.context.gpu = *cuda::gpu_named("A100");
  run.context.candidate = 0;
  emulation::options().refuses_cooperation = true;
  const std::string errors = CallCheck(call.runs, call.layout, run)();
  CHECK(errors.find("code 720 from persistent_forward") != std::string::npos);
  run.context.persistent = false;
  CHECK(CallCheck(call.runs, call.layout, run)().empty());
  emulation::options().refuses_cooperation = false;
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 300;
  const int only = argc > 2 ? std::atoi(argv[2]) : -1;
  std::mt19937_64 random(2);
  std::map<std::string, int> seen;
  double worst = 0;
  for (int i = 0; i < count; i++) {
    RandomCall call(random,
                    {{DType::kFloat32, DType::kBFloat16, DType::kFloat16}, true, i % 6 == 5, kCells, true, true});
    Run run;
    const bool tf32 = random() % 2;
    draw_run(random, run, tf32);
    if (only >= 0 && i != only) continue;
    note(call, run, seen);
    worst = std::max(worst, check_call(call, run));
  }
  if (only < 0) check_split(random, seen);
  if (only < 0) check_without_numbers(random);
  for (const auto& [plan, n] : seen) std::printf("%5d  %s\n", n, plan.c_str());
  std::printf("%d calls, the largest error %.2f of what is allowed\n", count, worst);
  // Nothing that is to be covered here goes without.
  for (const char* what : {"both directions at once", "projection"})
    for (const char* direction : {"forward", "backward"})
      for (const char* regime : {"one SM", "cluster", "whole GPU"})
        CHECK(count < 300 || only >= 0 || seen[std::string(what) + ", " + direction + ", " + regime] > 0);
  for (const char* direction : {"forward", "backward"})
    for (const char* kind : {", dropout", ", packed", ", padded"})
      CHECK(count < 300 || only >= 0 || seen[std::string("stack, ") + direction + ", stack" + kind] > 4);
  for (const char* direction : {"forward", "backward"})
    for (const char* kind : {", fma", ", 16", ", 32", ", padded", ", packed", ", no state", ", a state", ", directions",
                             ", tiles", ", groups", ", slices", ", cell 0", ", cell 1", ", cell 2"})
      CHECK(count < 300 || only >= 0 || seen[std::string("mailbox, ") + direction + kind] > 0);
  Run run;
  const bool tf32 = false;
  draw_run(random, run, tf32);
  check_call(long_call(random), run);
  check_determinism(random);
  check_refusal();
  return finish();
}
