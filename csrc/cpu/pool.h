// Memory kept from call to call.
//
// A call's packed weights, buffers and results are tens of megabytes. Fresh from the system each of their pages is a
// fault in which the kernel writes zeros, and ordinary pages miss the TLB besides; huge pages, touched once and used
// again, cost neither.
#pragma once
#include <atomic>
#include <cstddef>

namespace lstmfast::cpu {

struct Block;

// Blocks lie in a few slots, taken and put back by atomic exchange: no lock that a fork could leave locked in the
// child. What two threads look for at the same time one of them may miss; it then gets memory from the system.
class Pool {
 public:
  // Takes a block for a request if it is at most `slack` times as large, and keeps `limit` bytes at most. `lend`: while
  // a block is kept the system may take its pages back, if it needs them.
  constexpr Pool(size_t slack, size_t limit, bool lend) : slack_(slack), limit_(limit), lend_(lend) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // 64-byte aligned; large requests in huge pages where the system has them. Throws std::bad_alloc.
  void* take(size_t bytes);
  void give_back(void* data);

  size_t kept() const { return kept_.load(std::memory_order_relaxed); }
  size_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(size_t bytes);  // gives what is kept back to the system
  void release();

 private:
  Block* pick(size_t bytes);
  void put(Block* block);

  static constexpr int kSlots = 16;
  std::atomic<Block*> slots_[kSlots] = {};
  std::atomic<size_t> kept_{0};
  const size_t slack_;
  std::atomic<size_t> limit_;
  const bool lend_;
};

// Of kernel calls, while they run: any block that is large enough will do.
extern Pool scratch_pool;
// Of tensors: what backward needs, outputs and gradients, for as long as somebody holds them.
extern Pool result_pool;
// Smaller results are the system allocator's business, which keeps them by itself.
constexpr size_t kPooledResult = size_t{2} << 20;

// For one call.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : data_(scratch_pool.take(bytes)) {}
  ~Scratch() { scratch_pool.give_back(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

// Memory of its own, in huge pages if large enough; 64-byte aligned. Throws std::bad_alloc.
class Pages {
 public:
  explicit Pages(size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  void* data() const;
  size_t bytes() const;  // all that it takes from the system

 private:
  Block* block_;
};

}  // namespace lstmfast::cpu
