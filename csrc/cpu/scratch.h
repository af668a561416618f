// Scratch memory of kernel calls, kept from call to call.
//
// A call's packed weights and buffers are tens of megabytes. Fresh from the system each of their pages costs a fault
// and each walk over them misses the TLB; huge pages, touched once and used again, cost neither.
#pragma once
#include <cstddef>

namespace lstmfast::cpu {

// 64-byte aligned memory for one call. Throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
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
  struct Header* block_;
};

// What is kept for the next calls, in bytes; and how much may be.
size_t scratch_kept();
void release_scratch();
constexpr size_t kMostScratchKept = size_t{256} << 20;

// Asks for huge pages for memory that has not been touched yet, as far as it is large and aligned enough.
void prefer_huge_pages(void* p, size_t bytes);

}  // namespace lstmfast::cpu
