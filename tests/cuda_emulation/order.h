// What orders memory accesses on a GPU, told to ThreadSanitizer: with -fsanitize=thread every CUDA thread is a fiber of
// its own to it, and nothing but the kernels' own barriers and flags orders what two of them do. It then reports what
// the emulation, which runs one thread at a time, cannot get wrong: accesses of two threads to the same place, one of
// them a write, with no chain of barriers, release and acquire between them. Without such races the order of the
// emulation's steps is the order that the PTX memory model promises.
//
// Warps give no order: lanes that exchange registers are still unordered in memory until sync_warp().
#pragma once

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace emulation::order {

// What a thread did before the release, all see who acquire the same place afterwards.
inline void release(void* place) { __tsan_release(place); }
inline void acquire(void* place) { __tsan_acquire(place); }

// The emulation's own bookkeeping, which is no part of a kernel.
struct Unseen {
  Unseen() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

using Fiber = void*;
inline Fiber current() { return __tsan_get_current_fiber(); }
inline Fiber create() { return __tsan_create_fiber(0); }
inline void destroy(Fiber f) { __tsan_destroy_fiber(f); }
inline void switch_over(Fiber from, Fiber to) {
  if (from != to) __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync);
}
constexpr bool kIsWatched = true;
// Functions that some fibers never come back from: they must not count as called.
#define LSTMFAST_NOT_WATCHED __attribute__((no_sanitize("thread")))

}  // namespace emulation::order
#else
namespace emulation::order {

inline void release(void*) {}
inline void acquire(void*) {}
struct Unseen {
  Unseen() {}  // not trivial, lest it be called unused
};
struct Fiber {};
inline Fiber current() { return {}; }
inline Fiber create() { return {}; }
inline void destroy(Fiber) {}
inline void switch_over(Fiber, Fiber) {}
constexpr bool kIsWatched = false;
#define LSTMFAST_NOT_WATCHED

}  // namespace emulation::order
#endif
