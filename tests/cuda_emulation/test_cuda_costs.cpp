// The rounds that bench/costs times on a GPU: that they end in every schedule, and that what is exchanged arrives.
#define LSTMFAST_EMULATION_MAIN
#include "bench/costs/rounds.cuh"
#include "cpp/check.h"
#include "memory.h"

using namespace lstmfast::cuda;
using costs::Rounds;

namespace {

constexpr int kThreads = 64, kBlocks = 8, kRounds = 5;

std::vector<float> run(void (*kernel)(Rounds), int group, int bytes, dev::Launch launch, bool in_mailbox = false) {
  launch.blocks = kBlocks, launch.threads = kThreads;
  std::vector<float> sums(kBlocks * kThreads, -1);
  const int unsent = in_mailbox ? kUnsentByte : 0;
  const lstmfast::GuardedMemory meet(
      static_cast<size_t>((in_mailbox ? kRounds * (kBlocks / group) : 2 * kBlocks) * bytes));
  std::memset(meet.data(), unsent, meet.size());
  std::vector<uint32_t> flags(kBlocks * kFlagStride);
  const Rounds p{kRounds, bytes, group, reinterpret_cast<unsigned char*>(meet.data()), flags.data(), sums.data()};
  CHECK(dev::launch<Rounds>(kernel, launch, p, nullptr) == 0);
  return sums;
}

// Each thread has read one word of the operand in every round, of the block that had put it there.
void check_exchange(const std::vector<float>& sums, int group, int bytes) {
  for (int i = 0; i < kBlocks * kThreads; i++) {
    const int at = i % kThreads * 16, rank = at / (bytes / group);
    float expected = 0;
    for (int r = 0; r < kRounds && at < bytes; r++) expected += static_cast<float>(r * 256 + rank);
    CHECK(sums[static_cast<size_t>(i)] == expected);
  }
}

}  // namespace

int main() {
  for (uint64_t seed = 0; seed < 6; seed++) {
    emulation::options().seed = seed;
    for (const int group : {1, 2, 4, 8})
      for (const int bytes : {16 * group, 48 * group, 2048}) {
        dev::Launch cooperative, cluster;
        cooperative.cooperative = true, cooperative.shared_bytes = static_cast<size_t>(bytes);
        check_exchange(run(costs::through_l2, group, bytes, cooperative), group, bytes);
        cooperative.shared_bytes *= 2;
        check_exchange(run(costs::through_mailbox, group, bytes, cooperative, true), group, bytes);
        cluster.cluster = static_cast<unsigned>(group), cluster.shared_bytes = static_cast<size_t>(2 * bytes);
        check_exchange(run(costs::through_cluster, group, bytes, cluster), group, bytes);
      }
    dev::Launch pairs;
    pairs.cluster = 2;
    for (const float sum : run(costs::cluster_barriers, 2, 0, pairs)) CHECK(sum == 1);
    for (const float sum : run(costs::block_barriers, 1, 0, {})) CHECK(sum == 1);
    // Sixteen products of ones for each mma, four sums a chain.
    for (const float sum : run(costs::mma_chains<3>, 1, 0, {})) CHECK(sum == 3 * 4 * 16 * kRounds);
  }
  return finish();
}
