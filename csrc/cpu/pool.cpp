#include "pool.h"

#include <sys/mman.h>

#include <cstdint>
#include <limits>
#include <new>

namespace lstmfast::cpu {

// A block begins with its own size; the memory handed out begins a cache line later.
struct Block {
  size_t bytes;  // of the mapping
};

Pool scratch_pool{std::numeric_limits<size_t>::max(), size_t{256} << 20, /*lend=*/false};
Pool result_pool{2, size_t{1} << 30, /*lend=*/true};

namespace {

constexpr size_t kPage = 4096, kHugePage = size_t{2} << 20, kHeader = 64;
size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
// Sizes that differ by little are made equal, so that the calls of a loop over similar batches share blocks.
size_t block_bytes(size_t data_bytes) {
  const size_t bytes = data_bytes + kHeader;
  return round_up(bytes, bytes >= 8 * kHugePage ? kHugePage : bytes >= kHugePage ? kHugePage / 8 : kPage);
}
void* data_of(Block* block) { return reinterpret_cast<char*>(block) + kHeader; }
Block* block_of(void* data) { return reinterpret_cast<Block*>(static_cast<char*>(data) - kHeader); }

// Advice only: where the system declines, ordinary pages serve.
void prefer_huge_pages(char* begin, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(begin, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

void unmap(Block* block) { munmap(block, block->bytes); }

Block* map(size_t bytes) {
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
  Block* block = reinterpret_cast<Block*>(begin);
  block->bytes = bytes;
  return block;
}

// Until a page is written to again the system may take it; no fault if it did not.
void lend_to_system(Block* block) {
#if defined(MADV_FREE)
  const size_t bytes = block->bytes;
  madvise(block, bytes, MADV_FREE);
  block->bytes = bytes;
#else
  (void)block;
#endif
}

}  // namespace

// The smallest block that will do. If there is none, the largest that is too small goes: what takes its place serves
// those requests as well.
Block* Pool::pick(size_t bytes) {
  Block* found[kSlots] = {};
  int best = -1, small = -1;
  for (int i = 0; i < kSlots; i++) {
    if (!slots_[i].load(std::memory_order_relaxed)) continue;
    Block* block = found[i] = slots_[i].exchange(nullptr, std::memory_order_acquire);
    if (!block) continue;
    kept_.fetch_sub(block->bytes, std::memory_order_relaxed);
    const auto larger_than = [&](int other) { return other < 0 || block->bytes > found[other]->bytes; };
    if (block->bytes < bytes) {
      if (larger_than(small)) small = i;
    } else if (block->bytes / slack_ <= bytes) {
      if (best < 0 || !larger_than(best)) best = i;
    }
  }
  for (int i = 0; i < kSlots; i++)
    if (found[i] && i != best && (best >= 0 || i != small)) put(found[i]);
  if (best >= 0) return found[best];
  if (small >= 0) unmap(found[small]);
  return nullptr;
}

void Pool::put(Block* block) {
  const size_t others = kept_.fetch_add(block->bytes, std::memory_order_relaxed);
  if (others + block->bytes <= limit())
    for (auto& slot : slots_) {
      Block* empty = nullptr;
      if (slot.compare_exchange_strong(empty, block, std::memory_order_release)) return;
    }
  kept_.fetch_sub(block->bytes, std::memory_order_relaxed);
  unmap(block);
}

void* Pool::take(size_t bytes) {
  const size_t wanted = block_bytes(bytes);
  Block* block = pick(wanted);
  return data_of(block ? block : map(wanted));
}

void Pool::give_back(void* data) {
  Block* block = block_of(data);
  if (lend_) lend_to_system(block);
  put(block);
}

void Pool::release() {
  for (auto& slot : slots_)
    if (Block* block = slot.exchange(nullptr, std::memory_order_acquire)) {
      kept_.fetch_sub(block->bytes, std::memory_order_relaxed);
      unmap(block);
    }
}

void Pool::set_limit(size_t bytes) {
  limit_.store(bytes, std::memory_order_relaxed);
  release();
}

Pages::Pages(size_t bytes) : block_(map(block_bytes(bytes))) {}
Pages::~Pages() { unmap(block_); }
void* Pages::data() const { return data_of(block_); }
size_t Pages::bytes() const { return block_->bytes; }

}  // namespace lstmfast::cpu
