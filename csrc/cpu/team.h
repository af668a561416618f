// The threads of one call: shares of work, a light barrier, and the floating-point mode they run in.
#pragma once
#include <omp.h>
#include <sched.h>

#include <cstdint>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "../core/macros.h"
#include "own_threads.h"

namespace lstmfast::LF_ISA {

// Counts arrivals in one word; the last one turns the generation. Waiting spins, because a step takes microseconds,
// then yields, because the thread it waits for may not even be running: soon, since spinning keeps that one from its
// core.
class Barrier {
 public:
  LF_INLINE void wait(int threads) {
    if (threads == 1) return;
    const int generation = __atomic_load_n(&generation_, __ATOMIC_RELAXED);
    if (__atomic_fetch_add(&arrived_, 1, __ATOMIC_ACQ_REL) == threads - 1) {
      __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&generation_, generation + 1, __ATOMIC_RELEASE);
      return;
    }
    constexpr int kSpins = 300;
    for (int spins = 0; __atomic_load_n(&generation_, __ATOMIC_ACQUIRE) == generation;)
      if (++spins < kSpins) {
#if defined(__SSE2__)
        _mm_pause();
#endif
      } else {
        sched_yield();
      }
  }

 private:
  alignas(64) int arrived_ = 0;
  alignas(64) int generation_ = 0;
};

struct Share {
  int64_t begin, end;
};

class Team {
 public:
  Team(int threads, int me, Barrier& barrier) : threads_(threads), me_(me), barrier_(barrier) {}
  // This thread's part of n items.
  LF_INLINE Share share(int64_t n) const { return {n * me_ / threads_, n * (me_ + 1) / threads_}; }
  LF_INLINE int threads() const { return threads_; }
  LF_INLINE int me() const { return me_; }
  LF_INLINE void meet() const { barrier_.wait(threads_); }

 private:
  int threads_, me_;
  Barrier& barrier_;
};

// Subnormal numbers flushed to zero while this lives, in this thread: a vanishing gradient becomes subnormal, and
// subnormal arithmetic is an order of magnitude slower. The mode is per thread, so every worker sets its own.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // FTZ and DAZ
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (1ul << 24)));
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  uint64_t before_;
#else
  FlushSubnormals() {}
  ~FlushSubnormals() {}
#endif
 public:
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;
};

// The thread sanitizer knows pthreads; how OpenMP's runtime orders its threads it cannot see.
#if defined(__SANITIZE_THREAD__)
constexpr bool kOpenMp = false;
#else
constexpr bool kOpenMp = true;
#endif

// Runs f(team) on `threads` threads, or fewer where the system gives fewer.
template <class F>
void run_team(int threads, const F& f) {
  struct Work {
    const F& f;
    Barrier barrier;
    void run(int size, int me) {
      const FlushSubnormals mode;
      f(Team(size, me, barrier));
    }
  } work{f, {}};
  if (threads == 1) {
    work.run(1, 0);
  } else if (!kOpenMp || cpu::is_forked_child()) {
    cpu::run_on_own_threads(threads, [](void* w, int size, int me) { static_cast<Work*>(w)->run(size, me); }, &work);
  } else {
#pragma omp parallel num_threads(threads)
    work.run(omp_get_num_threads(), omp_get_thread_num());
  }
}

}  // namespace lstmfast::LF_ISA
