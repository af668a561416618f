// Calls from several threads at once: the weight cache and the scratch memory that they share, each call with a team
// of its own. Made for the thread sanitizer (`make sanitize-threads`); the results are checked as well.
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "core/cell_info.h"
#include "cpu/cpu.h"
#include "cpu/pool.h"
#include "cpu/weight_cache.h"

using namespace lstmfast;

namespace {

constexpr int kThreads = 4, kCalls = 12;
constexpr int64_t kSteps = 6, kBatch = 13, kInput = 5, kHidden = 33;

struct Model {
  std::vector<float> x, w_ih, w_hh;
  explicit Model(unsigned seed) : x(kSteps * kBatch * kInput), w_ih(4 * kHidden * kInput), w_hh(4 * kHidden * kHidden) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> value(-1, 1);
    for (auto* v : {&x, &w_ih, &w_hh})
      for (float& e : *v) e = value(random);
  }
};

std::vector<float> call(const Model& m, int threads, bool cached) {
  std::vector<float> y(kSteps * kBatch * kHidden, NAN);
  ForwardParams p;
  p.cell = 0;
  p.dtype = DType::kFloat32;
  p.shape.steps = kSteps, p.shape.batch = kBatch, p.shape.rows = kSteps * kBatch;
  p.shape.input = kInput, p.shape.hidden = kHidden;
  p.threads = threads;
  p.isa = cpu::isa();
  p.x = {m.x.data(), kBatch * kInput, kInput};
  p.w_ih = {m.w_ih.data(), kInput, 1};
  p.w_hh = {m.w_hh.data(), kHidden, 1};
  p.y = {y.data(), kBatch * kHidden, kHidden};
  cpu::PackedWeights packed(p, cached);
  const cpu::Scratch workspace(cpu::forward_workspace_bytes(p));
  p.workspace = workspace.data();
  CHECK(cpu::forward(p) == Status::kOk);
  packed.keep();
  return y;
}

}  // namespace

int main() {
  const Model shared(1);
  const std::vector<float> expected = call(shared, 1, false);
  std::vector<std::vector<float>> own_expected;
  for (int i = 0; i < kThreads; i++) own_expected.push_back(call(Model(10 + i), 1, false));

  bool right[kThreads] = {};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      const Model own(10 + i);
      right[i] = true;
      for (int k = 0; k < kCalls; k++) {
        // One model that everyone uses, one that nobody else does, and a limit that changes under them.
        right[i] &= call(shared, 1 + (i + k) % 3, true) == expected;
        right[i] &= call(own, 2, k % 2 == 0) == own_expected[i];
        if (i == 0) cpu::set_weight_cache_limit(k % 3 == 0 ? 0 : 1 << 20);
        if (i == 1 && k % 4 == 3) cpu::scratch_pool.release();
      }
    });
  for (std::thread& t : threads) t.join();
  for (int i = 0; i < kThreads; i++) CHECK(right[i]);
  const cpu::WeightCacheInfo info = cpu::weight_cache_info();
  CHECK(info.hits + info.misses > 0 && info.bytes <= info.limit);
  return finish();
}
