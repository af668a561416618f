// A GPU on the CPU: one OS thread, one fiber per CUDA thread. The blocks of a cooperative launch and of a cluster are
// co-resident, so that barriers between them work; other blocks run one after the other, in any order. The schedule is
// random, from a seed, and now and then holds a warp or a whole block back for long; a deadlock, a diverged warp, or a
// block that touches the shared memory of another that has left is reported by block, thread and place.
//
// It is sequentially consistent: a missing fence shows only where order.h watches. Bank conflicts, register limits and
// occupancy never do.
#pragma once
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "order.h"

namespace emulation {

struct Options {
  uint64_t seed = 0;                 // 0: round robin; otherwise a random order in each pass
  int64_t launches = 0, clears = 0;  // counted: kernels, and memory that is set
  bool refuses_cooperation = false;  // cooperative launches fail as if they were too large
  size_t stack = 128 << 10;          // bytes per fiber
};
inline Options& options() {
  static Options o;
  return o;
}

// ---- switching between fibers
#if defined(__x86_64__)
struct Fiber {
  void* sp = nullptr;
  order::Fiber watched = {};
};
extern "C" void lstmfast_switch_fiber(void** save, void* load);
#ifdef LSTMFAST_EMULATION_MAIN
asm(R"(
.text
.globl lstmfast_switch_fiber
.type lstmfast_switch_fiber,@function
lstmfast_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lstmfast_switch_fiber,.-lstmfast_switch_fiber
)");
#endif
inline void make_fiber(Fiber& f, char* stack, size_t n, void (*entry)()) {
  auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + n) & ~uintptr_t{15});
  *--top = nullptr;  // keeps the frame 16-byte aligned at entry
  *--top = reinterpret_cast<void*>(entry);
  top -= 6;
  std::memset(top, 0, 6 * sizeof(void*));
  f.sp = top;
}
LSTMFAST_NOT_WATCHED inline void switch_fiber(Fiber& from, Fiber& to) {
  order::switch_over(from.watched, to.watched);
  lstmfast_switch_fiber(&from.sp, to.sp);
}
#else
struct Fiber {
  ucontext_t context;
  order::Fiber watched = {};
};
inline void make_fiber(Fiber& f, char* stack, size_t n, void (*entry)()) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = stack;
  f.context.uc_stack.ss_size = n;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
}
LSTMFAST_NOT_WATCHED inline void switch_fiber(Fiber& from, Fiber& to) {
  order::switch_over(from.watched, to.watched);
  swapcontext(&from.context, &to.context);
}
#endif

// ---- the machine's state
constexpr int kWarp = 32, kOperandBytes = 64;

// Where threads that meet hand on what they know of each other's writes, for even and odd meetings.
struct Meeting {
  uint64_t place[2];
};

struct Warp {
  alignas(16) unsigned char in[2][kWarp][kOperandBytes];
  alignas(16) unsigned char out[2][kWarp][kOperandBytes];
  uint32_t arrived = 0, generation = 0, live = 0;
  uint64_t held_until = 0;
  const char* operation = nullptr;
  Meeting meeting;
};
struct Barrier {
  uint32_t arrived = 0, generation = 0;
  Meeting meeting;
};
struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes;
};
struct Block {
  unsigned index = 0, cluster_rank = 0;
  Barrier* cluster = nullptr;
  Block* first_of_cluster = nullptr;
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared_memory;
  unsigned char* shared = nullptr;
  unsigned live = 0;
  uint64_t held_until = 0;
};
struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  unsigned index = 0;
  Warp* warp = nullptr;
  const volatile uint32_t* waits_for = nullptr;
  const uint32_t* unsent = nullptr;  // of the words that it polls, one that was not there
  uint32_t wait_value = 0;
  bool wait_while_less = false;  // else: while equal
  const char* where = "start";
  bool done = false;
  bool in_cluster_barrier = false;  // has arrived, not waited
  uint32_t cluster_generation = 0;
  std::vector<std::vector<AsyncCopy>> copies;
  std::vector<AsyncCopy> open_copies;
  unsigned lane() const { return index % kWarp; }
};
struct Machine {
  Fiber scheduler;
  Thread* current = nullptr;
  unsigned blocks = 1, groups = 1, threads = 1, cluster = 1;
  size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  bool watched = false;     // by order.h: only kernels whose threads have something to do with each other
  bool late_copies = true;  // asynchronous copies land when they are waited for, else when they are issued
  std::string error;
};
inline Machine& machine() {
  static Machine m;
  return m;
}
inline Thread& self() {
  const order::Unseen unseen;
  return *machine().current;
}
inline std::string name(const Thread& t) {
  return "block " + std::to_string(t.block->index) + " thread " + std::to_string(t.index);
}
[[noreturn]] inline void fail(const std::string& what) {  // leaves the fiber for good
  const order::Unseen unseen;
  machine().error = name(self()) + ": " + what;
  self().done = true;
  switch_fiber(self().fiber, machine().scheduler);
  std::abort();
}

// ---- waiting
inline bool blocked(const Thread& t) {
  if (!t.waits_for) return false;
  const uint32_t x = *t.waits_for;
  return t.wait_while_less ? static_cast<int32_t>(x - t.wait_value) < 0 : x == t.wait_value;
}
inline void wait(const char* where, const volatile uint32_t* p, uint32_t value, bool while_less) {
  const order::Unseen unseen;
  Thread& t = self();
  t.waits_for = p, t.wait_value = value, t.wait_while_less = while_less, t.where = where;
  while (blocked(t)) switch_fiber(t.fiber, machine().scheduler);
  t.waits_for = nullptr;
}
inline uint32_t arrive(Barrier& b, unsigned count) {
  const uint32_t generation = b.generation;
  if (++b.arrived == count) b.arrived = 0, b.generation++;
  return generation;
}
inline void meet(const char* where, Barrier& b, unsigned count) {
  const order::Unseen unseen;
  void* place = &b.meeting.place[b.generation & 1];
  order::release(place);
  wait(where, &b.generation, arrive(b, count), false);
  order::acquire(place);
}
inline void sync_block() { meet("block barrier", self().block->barrier, machine().threads); }
inline void arrive_at_cluster() {
  const order::Unseen unseen;
  Thread& t = self();
  Barrier& b = *t.block->cluster;
  if (t.in_cluster_barrier) fail("arrives at the cluster barrier twice");
  t.in_cluster_barrier = true, t.cluster_generation = b.generation;
  order::release(&b.meeting.place[b.generation & 1]);
  arrive(b, machine().cluster * machine().threads);
}
inline void wait_for_cluster() {
  const order::Unseen unseen;
  Thread& t = self();
  Barrier& b = *t.block->cluster;
  if (!t.in_cluster_barrier) fail("waits for the cluster barrier without having arrived");
  t.in_cluster_barrier = false;
  wait("cluster barrier", &b.generation, t.cluster_generation, false);
  order::acquire(&b.meeting.place[t.cluster_generation & 1]);
}
// The same place in another block's shared memory.
template <class T>
T* map_shared(T* p, unsigned rank) {
  const order::Unseen unseen;
  Block* b = self().block;
  const auto offset = reinterpret_cast<unsigned char*>(p) - b->shared;
  if (offset < 0 || static_cast<size_t>(offset) >= machine().shared_bytes) fail("maps what is not shared memory");
  if (!b->first_of_cluster[rank].live) fail("touches the shared memory of a block that has left");
  return reinterpret_cast<T*>(b->first_of_cluster[rank].shared + offset);
}

// ---- warp operations: every lane leaves its operand, the last one computes for all
template <class In, class Out, class F>
Out warp_operation(const char* operation, const In& operand, F compute) {
  static_assert(sizeof(In) <= kOperandBytes && sizeof(Out) <= kOperandBytes);
  const order::Unseen unseen;
  Thread& t = self();
  Warp& w = *t.warp;
  if (w.live != 0xffffffffu) fail(std::string(operation) + " in a warp that is not whole");
  if (w.arrived && std::strcmp(w.operation, operation) != 0)
    fail(std::string("the warp diverged: ") + operation + " meets " + w.operation);
  w.operation = operation;
  const uint32_t generation = w.generation;
  const unsigned buffer = generation & 1;
  std::memcpy(w.in[buffer][t.lane()], &operand, sizeof(In));
  w.arrived |= 1u << t.lane();
  if (w.arrived == w.live) {
    const auto in = [&](int lane) {
      In x;
      std::memcpy(&x, w.in[buffer][lane], sizeof x);
      return x;
    };
    const auto out = [&](int lane, const Out& x) { std::memcpy(w.out[buffer][lane], &x, sizeof x); };
    compute(in, out);
    w.arrived = 0;
    w.generation++;
  } else {
    wait(operation, &w.generation, generation, false);
  }
  Out result;
  std::memcpy(&result, w.out[buffer][t.lane()], sizeof result);
  return result;
}

// Also orders the lanes' memory accesses, which no other operation of a warp does.
inline void sync_warp() {
  const order::Unseen unseen;
  Warp& w = *self().warp;
  void* place = &w.meeting.place[w.generation & 1];
  order::release(place);
  warp_operation<int, int>("warp barrier", 0, [](const auto&, const auto& out) {
    for (int lane = 0; lane < kWarp; lane++) out(lane, 0);
  });
  order::acquire(place);
}

// ---- flags
inline void add_release(uint32_t* flag, uint32_t value) {
  const order::Unseen unseen;
  order::release(flag);
  *flag += value;
}
inline void wait_acquire(const uint32_t* flag, uint32_t value) {
  wait("flag", flag, value, true);
  order::acquire(const_cast<uint32_t*>(flag));
}

// ---- words that are polled until they differ from what memory was filled with
constexpr uint32_t kUnsent = 0xffffffff;

inline void store_relaxed(uint32_t* p, uint32_t x) { __atomic_store_n(p, x, __ATOMIC_RELAXED); }
inline uint32_t load_relaxed(const uint32_t* p) {
  const uint32_t x = __atomic_load_n(p, __ATOMIC_RELAXED);
  const order::Unseen unseen;
  if (x == kUnsent) self().unsent = p;
  return x;
}
// A round that has found all it looks for says so. Else it can only find more when a word has changed.
template <class F>
void poll(const F& round) {
  while (!round()) {
    const order::Unseen unseen;
    const uint32_t* p = self().unsent;
    if (!p) fail("polls what is there");
    self().unsent = nullptr;
    wait("mailbox", p, kUnsent, false);
  }
}

// ---- asynchronous copies
inline void land(const AsyncCopy& c) { std::memcpy(c.to, c.from, c.bytes); }
inline void copy_async(void* to, const void* from, unsigned bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
    fail("misaligned asynchronous copy");
  const AsyncCopy c{to, from, bytes};
  if (machine().late_copies)
    self().open_copies.push_back(c);
  else
    land(c);
}
inline void commit_copies() {
  self().copies.push_back(std::move(self().open_copies));
  self().open_copies.clear();
}
inline void wait_copies(unsigned keep) {
  auto& groups = self().copies;
  while (groups.size() > keep) {
    for (const AsyncCopy& c : groups.front()) land(c);
    groups.erase(groups.begin());
  }
}

// ---- launch
LSTMFAST_NOT_WATCHED inline void entry() {
  (*machine().body)();
  Thread& t = self();
  order::release(&machine());
  t.done = true;
  switch_fiber(t.fiber, machine().scheduler);
  std::abort();
}

// Stacks are kept between launches: fresh ones would cost a page fault each. But who watches takes two threads that
// have had the same stack for one that uses the other's.
inline char* stacks(size_t bytes) {
  static char* memory = nullptr;
  static size_t size = 0;
  if (bytes > size || order::kIsWatched) {
    if (memory) munmap(memory, size);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("no memory for stacks");
    memory = static_cast<char*>(p), size = bytes;
  }
  return memory;
}

// Runs blocks [first, first + count) to their end, side by side.
inline void run_together(std::vector<Block>& blocks, size_t first, size_t count, std::mt19937_64& random) {
  Machine& m = machine();
  const size_t stack = options().stack;
  char* memory = stacks(count * m.threads * stack);
  std::vector<Thread> threads(count * m.threads);
  std::vector<uint32_t> order(threads.size());
  for (size_t i = 0; i < threads.size(); i++) {
    Thread& t = threads[i];
    t.block = &blocks[first + i / m.threads];
    t.index = static_cast<unsigned>(i % m.threads);
    t.block->live++;
    t.warp = &t.block->warps[t.index / kWarp];
    t.warp->live |= 1u << t.lane();
    make_fiber(t.fiber, memory + i * stack, stack, entry);
    t.fiber.watched = m.watched ? order::create() : m.scheduler.watched;
    order[i] = static_cast<uint32_t>(i);
  }
  bool holding = false;
  size_t alive = threads.size();
  for (uint64_t pass = 1; alive; pass++) {
    if (options().seed) {
      std::shuffle(order.begin(), order.end(), random);
      if (count > 1 && random() % 16 == 0)
        blocks[first + random() % count].held_until = pass + random() % 4096, holding = true;
      if (random() % 8 == 0) threads[random() % threads.size()].warp->held_until = pass + random() % 64, holding = true;
    }
    bool progress = false;
    for (const uint32_t i : order) {
      Thread& t = threads[i];
      if (t.done || t.block->held_until > pass || t.warp->held_until > pass || blocked(t)) continue;
      progress = true;
      m.current = &t;
      switch_fiber(m.scheduler, t.fiber);
      if (!m.error.empty()) throw std::runtime_error(m.error);
      if (!t.done) continue;
      alive--, t.block->live--;
      if (m.watched) order::destroy(t.fiber.watched);
    }
    if (progress) continue;
    if (holding) {
      for (size_t b = 0; b < count; b++) {
        blocks[first + b].held_until = 0;
        for (Warp& w : blocks[first + b].warps) w.held_until = 0;
      }
      holding = false;
      continue;
    }
    std::string what = "deadlock:";
    int shown = 0;
    for (const Thread& t : threads)
      if (!t.done && shown++ < 4) what += " [" + name(t) + " at " + t.where + "]";
    throw std::runtime_error(what + " (" + std::to_string(alive) + " threads wait)");
  }
}

struct Launch {
  unsigned blocks = 1, threads = 32;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool cooperative = false;
  unsigned groups = 1, runs = 1;  // a grid of blocks x groups x runs
};

inline void run(const Launch& launch, const std::function<void()>& body) {
  const order::Unseen unseen;
  Machine& m = machine();
  m.scheduler.watched = order::current();
  m.blocks = launch.blocks, m.groups = launch.groups, m.threads = launch.threads, m.cluster = launch.cluster;
  m.shared_bytes = launch.shared_bytes, m.body = &body;
  m.watched = launch.shared_bytes > 0;
  m.late_copies = options().seed % 2 == 0;  // both may happen
  m.error.clear();
  if (launch.threads % kWarp || launch.threads > 1024) throw std::runtime_error("a block of broken warps");
  if (launch.blocks % launch.cluster) throw std::runtime_error("a grid of broken clusters");
  const size_t count = size_t{launch.blocks} * launch.groups * launch.runs;
  std::mt19937_64 random(options().seed + 977 * static_cast<uint64_t>(options().launches));
  std::vector<Barrier> clusters(count / launch.cluster);
  const size_t together = launch.cooperative ? count : launch.cluster;
  std::vector<size_t> waves(count / together);
  for (size_t i = 0; i < waves.size(); i++) waves[i] = i;
  if (options().seed) std::shuffle(waves.begin(), waves.end(), random);
  std::vector<Block> blocks(count);
  for (const size_t wave : waves) {
    for (size_t i = wave * together; i < (wave + 1) * together; i++) {
      Block& b = blocks[i];
      b.index = static_cast<unsigned>(i), b.cluster_rank = static_cast<unsigned>(i % launch.cluster);
      b.cluster = &clusters[i / launch.cluster];
      b.first_of_cluster = &blocks[i / launch.cluster * launch.cluster];
      b.warps.resize(launch.threads / kWarp);
      b.shared_memory.reset(new unsigned char[launch.shared_bytes + 128]);
      b.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(b.shared_memory.get()) + 127) &
                                                  ~uintptr_t{127});
      std::memset(b.shared, 0xff, launch.shared_bytes);  // a NaN in every type
    }
    run_together(blocks, wave * together, together, random);
    for (size_t i = wave * together; i < (wave + 1) * together; i++)
      blocks[i].shared_memory.reset(), blocks[i].warps = {};
  }
  order::acquire(&m);  // blocks that ran one after the other stay unordered until here
}

}  // namespace emulation
