// The persistent kernels on the emulated GPU. Small GPUs make small problems use several blocks and several groups.
#define LSTMFAST_EMULATION_MAIN
#include <map>

#include "random_calls.h"

using namespace lstmfast;

namespace {
// What the kernels of a call have to deal with, so that a run shows what it has covered.
void note(const Problem& problem, const Run& run, std::map<std::string, int>& seen) {
  for (const bool backward : {false, true}) {
    cuda::Request r;
    r.backward = backward, r.gates = problem.gates(), r.dtype = problem.dtype, r.tf32 = run.tf32;
    r.batch = problem.batch, r.hidden = problem.hidden;
    const cuda::Plan plan = cuda::make_plan(r, run.context.gpu, run.context.candidate);
    const cuda::Tiling& t = plan.tiling;
    std::string s = backward ? "backward" : "forward ";
    static const char* const kRegimes[] = {", general", ", one SM", ", cluster", ", whole GPU"};
    s += kRegimes[static_cast<int>(plan.regime)];
    s += plan.multiplier == cuda::Multiplier::kFma ? ", fma" : ", mma";
    if (t.slices > 1) s += ", slices";
    if (t.tiles > 1) s += ", tiles";
    if (t.groups > 1) s += ", groups";
    seen[s]++;
  }
}
}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 200;
  const int only = argc > 2 ? std::atoi(argv[2]) : -1;
  std::mt19937_64 random(2);
  std::map<std::string, int> seen;
  double worst = 0;
  for (int i = 0; i < count; i++) {
    RandomCall call(random, {{DType::kFloat32, DType::kBFloat16, DType::kFloat16}, false, i % 8 == 7});
    Run run;
    const bool tf32 = random() % 2;
    draw_run(random, run, tf32);
    if (only >= 0 && i != only) continue;
    note(call.problem, run, seen);
    worst = std::max(worst, check_call(call, run));
  }
  for (const auto& [plan, n] : seen) std::printf("%5d  %s\n", n, plan.c_str());
  std::printf("%d calls, the largest error %.2f of what is allowed\n", count, worst);
  return finish();
}
