// The emulation itself: the faults that it is there to find are found.
#define LSTMFAST_EMULATION_MAIN
#include "cpp/check.h"
#include "memory.h"

using namespace lstmfast;
namespace dev = cuda::dev;

namespace {

// What running `body` on so many threads is refused with.
std::string refusal(const emulation::Launch& launch, const std::function<void()>& body) {
  for (const uint64_t seed : {0, 1, 2}) {
    emulation::options().seed = seed;
    try {
      emulation::run(launch, body);
    } catch (const std::exception& e) {
      return e.what();
    }
  }
  return "";
}
bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void finds_deadlocks() {
  const std::string barrier = refusal({1, 64}, [] {
    if (dev::thread_index() < 40) dev::sync_block();
  });
  CHECK(contains(barrier, "deadlock") && contains(barrier, "block barrier"));
  uint32_t flag = 0;
  const std::string blocks = refusal({3, 32, 0, 1, true}, [&] {
    if (dev::block_index() > 0 && dev::thread_index() == 0) dev::add_release(&flag, 1);
    dev::wait_acquire(&flag, 3);
  });
  CHECK(contains(blocks, "deadlock") && contains(blocks, "flag"));
  // Blocks that wait for each other without a cooperative launch are not promised to run together.
  flag = 0;
  CHECK(contains(refusal({2, 32},
                         [&] {
                           if (dev::thread_index() == 0) dev::add_release(&flag, 1);
                           dev::wait_acquire(&flag, 2);
                         }),
                 "deadlock"));
}

void finds_diverged_warps() {
  CHECK(contains(refusal({1, 32},
                         [] {
                           if (dev::thread_index() & 1)
                             dev::shuffle_xor(1, 1);
                           else
                             dev::sync_warp();
                         }),
                 "diverged"));
}

void copies_land_between_issue_and_wait() {
  alignas(16) float source[4] = {1, 1, 1, 1};
  for (const bool waits : {false, true})
    for (const uint64_t seed : {0, 1}) {
      emulation::options().seed = seed;
      bool arrived = false;
      emulation::run({1, 32, 256}, [&] {
        auto* to = reinterpret_cast<float*>(dev::shared_memory());
        if (dev::thread_index() == 0) {
          dev::copy_async16(to, source);
          dev::commit_copies();
          if (waits) dev::wait_copies<0>();
        }
        dev::sync_block();
        if (dev::thread_index() == 1) arrived = to[0] == 1;
      });
      CHECK(arrived == (waits || seed == 1));
    }
}

void schedules_differ() {
  // A race between two warps: which one writes last must depend on the seed.
  int ends[2] = {};
  for (uint64_t seed = 1; seed < 20; seed++) {
    emulation::options().seed = seed;
    unsigned last = 0;
    emulation::run({1, 64}, [&] {
      dev::sync_warp();
      if (dev::thread_index() % 32 == 0) last = dev::thread_index() / 32;
    });
    ends[last]++;
  }
  CHECK(ends[0] > 0 && ends[1] > 0);
}

void clusters() {
  std::vector<unsigned> got(4);
  emulation::run({4, 32, 128, 2}, [&] {
    auto* place = reinterpret_cast<dev::Words*>(dev::shared_memory());
    dev::cluster_arrive(), dev::cluster_wait();
    if (dev::thread_index() == 0) dev::store_remote(place, {{dev::block_index()}}, dev::cluster_rank() ^ 1);
    dev::cluster_arrive(), dev::cluster_wait();
    if (dev::thread_index() == 0) got[dev::block_index()] = place->at[0];
  });
  CHECK((got == std::vector<unsigned>{1, 0, 3, 2}));
  CHECK(contains(refusal({2, 32, 128, 2},
                         [] {
                           if (dev::block_index() == 1) return;
                           for (int i = 0; i < 50; i++) dev::sync_block();
                           dev::store_remote(dev::shared_memory(), {}, 1);
                         }),
                 "has left"));
  CHECK(contains(refusal({2, 32, 0, 2}, [] { dev::cluster_arrive(), dev::cluster_arrive(); }), "twice"));
  CHECK(contains(refusal({2, 32, 0, 2}, [] { dev::cluster_wait(); }), "without having arrived"));
  CHECK(contains(refusal({2, 32, 0, 2},
                         [] {
                           if (dev::block_index() == 0) dev::cluster_arrive(), dev::cluster_wait();
                         }),
                 "deadlock"));
  // A grid of three dimensions has every block once.
  std::vector<unsigned> places(2 * 3 * 2);
  emulation::run({2, 32, 0, 1, false, 3, 2}, [&] {
    const unsigned at = (dev::run_index() * 3 + dev::group_index()) * 2 + dev::block_index();
    if (dev::thread_index() == 0) places[at]++;
  });
  CHECK((places == std::vector<unsigned>(12, 1)));
}

void guards() {
  GuardedMemory memory(12, 4);
  CHECK(memory.intact());
  memory.data()[11] = 1;
  CHECK(memory.intact());
  memory.data()[12] = 1;
  CHECK(!memory.intact());
  memory.data()[12] = static_cast<char>(0xff);
  memory.data()[-1] = 1;
  CHECK(!memory.intact());
}

void rounding() {
  CHECK(dev::from_bfloat16(dev::to_bfloat16(1.00390625f)) == 1);  // a tie goes to even
  CHECK(dev::from_bfloat16(dev::to_bfloat16(1.01171875f)) == 1.015625f);
  CHECK(std::isnan(dev::from_bfloat16(dev::to_bfloat16(NAN))));
  CHECK(dev::to_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f && dev::to_tf32(1 + 0x1p-12f) == 1);
}

}  // namespace

int main() {
  finds_deadlocks();
  finds_diverged_warps();
  copies_land_between_issue_and_wait();
  schedules_differ();
  clusters();
  guards();
  rounding();
  return finish();
}
