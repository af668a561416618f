#include "own_threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>

namespace lstmfast::cpu {
namespace {

std::atomic<bool> forked{false};
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

constexpr int kMostThreads = 1024;

struct Job {
  void (*work)(void* context, int size, int me);
  void* context;
  std::atomic<int> size{0};  // 0 until it is known how many threads there are
};
struct Worker {
  Job* job;
  int me;
  pthread_t thread;
};

void* run(void* argument) {
  const Worker& worker = *static_cast<Worker*>(argument);
  Job& job = *worker.job;
  int size;
  while ((size = job.size.load(std::memory_order_acquire)) == 0) sched_yield();
  job.work(job.context, size, worker.me);
  return nullptr;
}

}  // namespace

bool is_forked_child() { return forked.load(std::memory_order_relaxed); }

void run_on_own_threads(int threads, void (*work)(void* context, int size, int me), void* context) {
  Job job{work, context};
  Worker workers[kMostThreads];
  int size = 1;
  for (; size < threads && size < kMostThreads; size++) {
    workers[size].job = &job;
    workers[size].me = size;
    if (pthread_create(&workers[size].thread, nullptr, run, &workers[size]) != 0) break;
  }
  job.size.store(size, std::memory_order_release);
  work(context, size, 0);
  for (int i = 1; i < size; i++) pthread_join(workers[i].thread, nullptr);
}

}  // namespace lstmfast::cpu
