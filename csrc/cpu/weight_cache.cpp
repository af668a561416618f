#include "weight_cache.h"

#include <array>
#include <list>
#include <mutex>

#include "pool.h"

namespace lstmfast::cpu {

namespace {

// Everything but the content that decides what packed weights look like.
using Key = std::array<int64_t, 13>;

int64_t number(const void* p) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)); }
Key key_of(const ForwardParams& p) {
  return {number(p.w_ih.data),
          number(p.w_hh.data),
          number(p.w_hr.data),
          p.w_ih.row_stride,
          p.w_hh.row_stride,
          p.w_hr.row_stride,
          p.shape.input,
          p.shape.hidden,
          p.shape.projection,
          p.cell,
          static_cast<int64_t>(p.dtype),
          static_cast<int64_t>(p.float32_precision),
          p.isa};
}
bool rows_are_contiguous(const ForwardParams& p) {
  return p.w_ih.col_stride == 1 && p.w_hh.col_stride == 1 && (!p.w_hr.data || p.w_hr.col_stride == 1);
}

}  // namespace

struct PackedWeights::Entry {
  Entry(const Key& k, uint64_t f, size_t bytes) : key(k), fingerprint(f), memory(bytes) {}
  const Key key;
  const uint64_t fingerprint;
  const Pages memory;
};

namespace {

// Most recently used first. Calls that find it in use by another thread do without: they would wait for nothing more
// than to save some packing, and after a fork they might wait forever.
struct Cache {
  std::mutex mutex;
  std::list<std::shared_ptr<PackedWeights::Entry>> entries;
  int64_t bytes = 0, limit = int64_t{256} << 20, hits = 0, misses = 0;

  void drop(std::list<std::shared_ptr<PackedWeights::Entry>>::iterator it) {
    bytes -= static_cast<int64_t>((*it)->memory.bytes());
    entries.erase(it);
  }
  void shrink() {
    while (bytes > limit) drop(std::prev(entries.end()));
  }
  auto find(const Key& key) {
    auto it = entries.begin();
    while (it != entries.end() && (*it)->key != key) ++it;
    return it;
  }
};
Cache& cache() {
  static Cache* const instance = new Cache;  // never destroyed: threads may outlive static objects
  return *instance;
}

}  // namespace

PackedWeights::PackedWeights(ForwardParams& p, bool wanted) {
  if (!wanted || !rows_are_contiguous(p)) return;
  const size_t bytes = packed_weights_bytes(p);
  Cache& c = cache();
  if (bytes == 0) return;
  const Key key = key_of(p);
  {
    const std::unique_lock lock(c.mutex, std::try_to_lock);
    if (!lock || static_cast<int64_t>(bytes) > c.limit) return;
    const auto it = c.find(key);
    if (it != c.entries.end()) entry_ = *it;
  }
  const uint64_t fingerprint = weights_fingerprint(p);
  fresh_ = !entry_ || entry_->fingerprint != fingerprint;
  if (fresh_) entry_ = std::make_shared<Entry>(key, fingerprint, bytes);
  p.packed = entry_->memory.data();
  p.packed_before = !fresh_;
}

void PackedWeights::keep() {
  if (!entry_) return;
  Cache& c = cache();
  const std::unique_lock lock(c.mutex, std::try_to_lock);
  if (!lock) return;
  fresh_ ? c.misses++ : c.hits++;
  const auto it = c.find(entry_->key);
  if (it != c.entries.end() && *it == entry_) {
    c.entries.splice(c.entries.begin(), c.entries, it);
    return;
  }
  if (it != c.entries.end()) c.drop(it);
  c.entries.push_front(entry_);
  c.bytes += static_cast<int64_t>(entry_->memory.bytes());
  c.shrink();
}

WeightCacheInfo weight_cache_info() {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  return {static_cast<int64_t>(c.entries.size()), c.bytes, c.limit, c.hits, c.misses};
}
void set_weight_cache_limit(int64_t bytes) {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  c.limit = bytes;
  c.shrink();
}

}  // namespace lstmfast::cpu
