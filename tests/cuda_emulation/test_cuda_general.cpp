// The general path and fused steps on the emulated GPU: every cell and type, sizes around the edges, all layouts of
// memory, random ones.
#define LSTMFAST_EMULATION_MAIN
#include "check_call.h"
#include "cpp/check.h"
#include "random_calls.h"

using namespace lstmfast;

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 400;
  bool tf32 = false;
  Run run;
  run.context.blas = {naive_gemm, &tf32};
  std::mt19937_64 random(1);
  double worst = 0;
  for (int i = 0; i < count; i++) {
    RandomCall call(random,
                    {{DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}, true, false, kCells, true});
    run.seed = static_cast<uint64_t>(i);
    draw_launches(i % 2, run);
    worst = std::max(worst, check_call(call, run));
  }
  for (const bool fused : {false, true}) {
    draw_launches(fused, run);
    for (const RandomCall& call : {long_call(random), call_with_gaps(random, false), call_with_gaps(random, true)})
      worst = std::max(worst, check_call(call, run));
  }
  std::printf("%d calls, the largest error %.2f of what is allowed\n", count, worst);
  ForwardParams p;
  p.cell = kCells;
  CHECK(cuda::forward(p, run.context).status == Status::kUnknownCell);
  p.cell = 0;
  CHECK(cuda::forward(p, run.context).ok() && cuda::forward_workspace_bytes(p, run.context) == 0);  // an empty batch
  return finish();
}
