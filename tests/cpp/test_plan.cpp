// The planner over a grid of sizes and machines: what every plan must satisfy, and the decisions that were meant.
#include <initializer_list>

#include "check.h"
#include "cpu/plan.h"

using namespace lstmfast;
using namespace lstmfast::cpu;

namespace {

Shape shape(int64_t t, int64_t n, int64_t i, int64_t h, int64_t p = 0) {
  Shape s;
  s.steps = t, s.batch = n, s.rows = t * n, s.input = i, s.hidden = h, s.projection = p;
  return s;
}

void check_invariants() {
  const int64_t sizes[] = {1, 2, 7, 31, 96, 97, 256, 1000, 70000};
  const Target targets[] = {{3, 16, 256 << 10}, {6, 64, 1 << 20}, {6, 64, 2 << 20}};
  for (const Target& target : targets)
    for (const int64_t t : sizes)
      for (const int64_t n : sizes)
        for (const int64_t h : {1, 17, 64, 650, 2048})
          for (const int64_t gates : {1, 4})
            for (const Use use : {Use::kInference, Use::kTraining}) {
              const Shape s = shape(t, n, 33, h);
              const Plan one = make_plan(s, gates, 4, use, 1, target);
              CHECK(one.threads == 1);
              for (const int threads : {1, 2, 3, 64}) {
                const Plan plan = make_plan(s, gates, 4, use, threads, target);
                CHECK(plan.threads >= 1 && plan.threads <= threads);
                const int64_t parts = plan.split == Split::kBatch
                                          ? (n + target.tile_rows - 1) / target.tile_rows
                                          : (h * gates + target.panel_cols - 1) / target.panel_cols;
                CHECK(plan.threads <= parts);
                CHECK(!(plan.fuse_input && plan.in_place));
                CHECK(!plan.gradients_in_place || plan.backward_steps == t);
                CHECK(plan.forward_steps >= 1 && plan.forward_steps <= t);
                CHECK(plan.backward_steps >= 1 && plan.backward_steps <= t);
                // Blocks cut the reserve and the rounding: the same for every number of threads and every machine.
                CHECK(plan.forward_steps == one.forward_steps && plan.backward_steps == one.backward_steps);
                CHECK(plan.forward_steps == make_plan(s, gates, 4, use, threads, targets[0]).forward_steps);
              }
            }
}

void check_decisions() {
  const Target machine{6, 64, 1 << 20};
  const auto plan = [&](const Shape& s, int threads, Use use = Use::kTraining) {
    return make_plan(s, 4, 4, use, threads, machine);
  };
  // A tiny call is not worth a second thread.
  CHECK(plan(shape(10, 1, 8, 8), 2).threads == 1);
  // One sequence can only be split by its hidden units.
  CHECK(plan(shape(100, 1, 512, 512), 2).split == Split::kHidden);
  CHECK(plan(shape(100, 1, 512, 512), 2).threads == 2);
  // Many sequences and small weights: no barrier per step.
  CHECK(plan(shape(512, 32, 64, 64), 2).split == Split::kBatch);
  // Weights far beyond the cache: a thread keeps its part of them.
  CHECK(plan(shape(50, 64, 1024, 1024), 2).split == Split::kHidden);
  // The input is projected within the step where a step fills tiles and both weights stay in L2.
  CHECK(plan(shape(512, 32, 64, 64), 1).fuse_input);
  CHECK(!plan(shape(512, 4, 64, 64), 1).fuse_input);
  CHECK(!plan(shape(50, 64, 1024, 1024), 1).fuse_input);
  // Weights that leave less than half of L2 free want many rows.
  CHECK(plan(shape(100, 32, 160, 160), 1).fuse_input);
  CHECK(!plan(shape(100, 8, 160, 160), 1).fuse_input);
  // A thread that owns hidden units reads its part of the weights alone.
  CHECK(!plan(shape(100, 32, 240, 240), 1).fuse_input);
  CHECK(plan(shape(100, 32, 240, 240), 2).fuse_input);
  CHECK(!plan(shape(100, 32, 320, 320), 2).fuse_input);
  // Few rows do not repay packing, more of them where packed weights are not kept.
  CHECK(plan(shape(3, 8, 512, 512), 1, Use::kInference).in_place);
  CHECK(!plan(shape(4, 8, 512, 512), 1, Use::kInference).in_place);
  CHECK(plan(shape(8, 8, 64, 64), 1).in_place);
  CHECK(!plan(shape(1, 65, 64, 64), 1).in_place);
  // One block knows the whole gradient.
  CHECK(plan(shape(4, 64, 64, 64), 1).gradients_in_place);
  CHECK(!plan(shape(4, 65, 64, 64), 1).gradients_in_place);
  Shape packed = shape(100, 129, 64, 64);  // of which most sequences are one step long
  packed.rows = 228;
  CHECK(!plan(packed, 1).gradients_in_place);
  // Register tiles of AMX want their own layout.
  CHECK(!make_plan(shape(1, 1, 512, 512), 4, 4, Use::kTraining, 1, {6, 64, 1 << 20, false}).in_place);
  // An empty batch is planned without a division by it.
  CHECK(plan(shape(5, 0, 8, 8), 4).threads == 1);
}

}  // namespace

int main() {
  check_invariants();
  check_decisions();
  return finish();
}
