// Times the rounds of rounds.cuh on device 0 and prints a JSON object: the GPU, its clock while busy, and nanoseconds a
// round. bench/costs.py builds and runs it, and makes constants of the planner's model out of what it prints.
//
// A round's time is the difference between two launches of different length over the difference of their rounds, so
// that what a launch costs is not in it; the median of several, with the quartiles.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "rounds.cuh"

namespace lstmfast::cuda::costs {
namespace {

constexpr int kRepetitions = 9, kRounds = 2000, kThreads = 256;

void check(int error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(static_cast<cudaError_t>(error)));
  std::exit(1);
}

__global__ void spin(long long cycles, long long* out) {
  const long long began = clock64();
  while (clock64() - began < cycles) {
  }
  *out = clock64() - began;
}

class Bench {
 public:
  explicit Bench(int sms) {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
    check(cudaMalloc(&memory_, kMeetBytes + kFlagBytes), "cudaMalloc");
    check(cudaMalloc(&sums_, sizeof(float) * 1024 * static_cast<size_t>(sms)), "cudaMalloc");
  }

  template <class Kernel>
  void measure(const char* what, Kernel* kernel, dev::Launch launch, int group, int bytes, int per_round = 1,
               int rounds = kRounds) {
    if (launch.shared_bytes > 48 << 10)
      check(dev::allow_shared_memory(kernel, static_cast<int>(launch.shared_bytes)), "allow_shared_memory");
    std::vector<double> times;
    for (int i = 0; i <= kRepetitions; i++) {
      const double few = milliseconds(kernel, launch, group, bytes, rounds),
                   many = milliseconds(kernel, launch, group, bytes, 3 * rounds);
      if (i) times.push_back((many - few) * 1e6 / (2 * rounds) / per_round);  // the first is to warm up
    }
    std::sort(times.begin(), times.end());
    std::printf(
        "%s\n  {\"what\": \"%s\", \"blocks\": %u, \"group\": %d, \"threads\": %u, \"bytes\": %d, "
        "\"median\": %.3f, \"low\": %.3f, \"high\": %.3f}",
        first_ ? "" : ",", what, launch.blocks, group, launch.threads, bytes, times[kRepetitions / 2],
        times[kRepetitions / 4], times[kRepetitions * 3 / 4]);
    first_ = false;
  }

  // Every round has a place of its own: as many as there is memory for.
  void measure_mailbox(const dev::Launch& launch, int group, int bytes) {
    const size_t place = static_cast<size_t>(launch.blocks) / static_cast<size_t>(group) * static_cast<size_t>(bytes);
    fills_ = true;
    measure("mailbox", through_mailbox, launch, group, bytes, 1,
            static_cast<int>(std::min<size_t>(kRounds, kMeetBytes / 3 / place)));
    fills_ = false;
  }

  // Of the SMs while they work.
  double megahertz() {
    long long *device, cycles;
    check(cudaMalloc(&device, sizeof cycles), "cudaMalloc");
    double best = 0;
    for (int i = 0; i < 5; i++) {
      check(cudaEventRecord(begin_), "cudaEventRecord");
      spin<<<1, 32>>>(20'000'000, device);
      check(cudaGetLastError(), "spin");
      const double milliseconds = elapsed();
      check(cudaMemcpy(&cycles, device, sizeof cycles, cudaMemcpyDeviceToHost), "cudaMemcpy");
      best = std::max(best, static_cast<double>(cycles) / (milliseconds * 1e3));
    }
    check(cudaFree(device), "cudaFree");
    return best;
  }

 private:
  static constexpr size_t kMeetBytes = 256 << 20, kFlagBytes = 64 << 10;

  double elapsed() {
    check(cudaEventRecord(end_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }
  template <class Kernel>
  double milliseconds(Kernel* kernel, const dev::Launch& launch, int group, int bytes, int rounds) {
    Rounds p{rounds, bytes, group, memory_ + kFlagBytes, reinterpret_cast<uint32_t*>(memory_), sums_};
    check(dev::set_memory(memory_, 0, kFlagBytes, nullptr), "set_memory");
    if (fills_) check(dev::set_memory(memory_ + kFlagBytes, kUnsentByte, kMeetBytes, nullptr), "set_memory");
    check(cudaEventRecord(begin_), "cudaEventRecord");
    check(dev::launch<Rounds>(kernel, launch, p, nullptr), "launch");
    return elapsed();
  }

  cudaEvent_t begin_, end_;
  unsigned char* memory_;
  float* sums_;
  bool first_ = true, fills_ = false;  // whether the next rounds meet in a mailbox
};

int run() {
  cudaDeviceProp gpu;
  check(cudaGetDeviceProperties(&gpu, 0), "cudaGetDeviceProperties");
  Bench bench(gpu.multiProcessorCount);
  const unsigned sms = static_cast<unsigned>(gpu.multiProcessorCount);
  std::printf("{\"gpu\": \"%s\", \"capability\": [%d, %d], \"multiprocessors\": %u, \"megahertz\": %.1f, \"rounds\": [",
              gpu.name, gpu.major, gpu.minor, sms, bench.megahertz());
  for (const unsigned threads : {128u, 256u, 512u}) {
    dev::Launch launch;
    launch.blocks = sms, launch.threads = threads;
    bench.measure("block barrier", block_barriers, launch, 1, 0);
  }
  for (const unsigned warps : {4u, 8u, 16u}) {
    dev::Launch launch;
    launch.blocks = sms, launch.threads = 32 * warps;
    bench.measure("mma, 1 chain", mma_chains<1>, launch, 1, 0);
    bench.measure("mma, 8 chains", mma_chains<8>, launch, 1, 0, 8);
  }
  // All SMs at work, in groups of so many blocks: as in a call with enough sequences.
  for (const unsigned group : {2u, 4u, 8u, 16u, 32u, 64u, sms}) {
    for (const int kilobytes : {1, 4, 16, 64}) {
      const int step = static_cast<int>(16 * group), bytes = std::max(1, kilobytes * 1024 / step) * step;
      dev::Launch launch;
      launch.blocks = sms / group * group, launch.threads = kThreads;
      launch.shared_bytes = static_cast<size_t>(bytes), launch.cooperative = true;
      if (static_cast<size_t>(bytes) <= gpu.sharedMemPerBlockOptin)
        bench.measure("through L2", through_l2, launch, static_cast<int>(group), bytes);
      launch.shared_bytes *= 2;
      if (launch.shared_bytes <= gpu.sharedMemPerBlockOptin)
        bench.measure_mailbox(launch, static_cast<int>(group), bytes);
    }
  }
  if (gpu.major >= 9) {
    for (const unsigned group : {2u, 4u, 8u}) {
      dev::Launch launch;
      // Clusters need not all run at once, but then a round would take several times as long.
      launch.blocks = sms * 3 / 4 / group * group, launch.threads = kThreads, launch.cluster = group;
      bench.measure("cluster barrier", cluster_barriers, launch, static_cast<int>(group), 0);
      for (const int kilobytes : {1, 4, 16, 64}) {
        launch.shared_bytes = static_cast<size_t>(2 * kilobytes * 1024);
        bench.measure("through cluster", through_cluster, launch, static_cast<int>(group), kilobytes * 1024);
      }
    }
  }
  std::printf("\n]}\n");
  return 0;
}

}  // namespace
}  // namespace lstmfast::cuda::costs

int main() { return lstmfast::cuda::costs::run(); }
