#include "scratch.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace lstmfast::cpu {

// A block begins with its own size; the memory handed out begins a cache line later.
struct Header {
  size_t bytes;  // of the mapping
};

namespace {

constexpr size_t kHugePage = size_t{2} << 20, kHeader = 64;
size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
size_t with_header(size_t bytes) { return round_up(bytes + kHeader, bytes >= kHugePage ? kHugePage : 4096); }
void* data_of(Header* block) { return reinterpret_cast<char*>(block) + kHeader; }

// Blocks lie in a few slots, taken and put back by atomic exchange: no lock that a fork could leave locked in the
// child.
constexpr int kSlots = 4;
std::atomic<Header*> slots[kSlots];
std::atomic<size_t> kept{0};

// Takes what lies in a slot out of the account.
Header* take(std::atomic<Header*>& slot) {
  Header* block = slot.exchange(nullptr, std::memory_order_acquire);
  if (block) kept.fetch_sub(block->bytes, std::memory_order_relaxed);
  return block;
}
void unmap(Header* block) { munmap(block, block->bytes); }

Header* map(size_t bytes) {
  // Large blocks begin on a huge page: map more than is needed and cut both ends off.
  const size_t align = bytes >= kHugePage ? kHugePage : 0;
  void* p = mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(p);
  if (align) {
    char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(p), align));
    if (aligned != begin) munmap(begin, static_cast<size_t>(aligned - begin));
    if (aligned + bytes != begin + bytes + align)
      munmap(aligned + bytes, static_cast<size_t>(begin + bytes + align - (aligned + bytes)));
    begin = aligned;
    prefer_huge_pages(begin, bytes);
  }
  Header* block = reinterpret_cast<Header*>(begin);
  block->bytes = bytes;
  return block;
}

void give_back(Header* block) {
  if (kept.fetch_add(block->bytes, std::memory_order_relaxed) + block->bytes <= kMostScratchKept)
    for (auto& slot : slots) {
      Header* empty = nullptr;
      if (slot.compare_exchange_strong(empty, block, std::memory_order_release)) return;
    }
  kept.fetch_sub(block->bytes, std::memory_order_relaxed);
  unmap(block);
}

}  // namespace

Scratch::Scratch(size_t bytes) {
  const size_t wanted = with_header(bytes);
  Header* block = nullptr;
  for (auto& slot : slots) {
    if (!slot.load(std::memory_order_relaxed)) continue;
    Header* found = take(slot);
    if (!found) continue;
    if (!block && found->bytes >= wanted) {
      block = found;
      continue;
    }
    // Too small for this call, and so probably for the ones to come: its place is better used by a larger one.
    if (found->bytes < wanted)
      unmap(found);
    else
      give_back(found);
  }
  if (!block) block = map(wanted);
  data_ = data_of(block);
}
Scratch::~Scratch() { give_back(reinterpret_cast<Header*>(static_cast<char*>(data_) - kHeader)); }

Pages::Pages(size_t bytes) : block_(map(with_header(bytes))) {}
Pages::~Pages() { unmap(block_); }
void* Pages::data() const { return data_of(block_); }
size_t Pages::bytes() const { return block_->bytes; }

size_t scratch_kept() { return kept.load(std::memory_order_relaxed); }
void release_scratch() {
  for (auto& slot : slots)
    if (Header* block = take(slot)) unmap(block);
}

void prefer_huge_pages(void* p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(p), kHugePage);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / kHugePage * kHugePage;
  // Advice only: where the system declines, ordinary pages serve.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace lstmfast::cpu
