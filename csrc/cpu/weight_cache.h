// Packed weights kept between inference calls.
//
// An entry belongs to the addresses and shapes of the weights it was packed from, and counts only while their content
// has the fingerprint that it had then. So it cannot go stale: not by an optimizer, by edits through .data or numpy
// that no version counter sees, by another process that shares the memory, nor by new weights at an old address.
#pragma once
#include <memory>

#include "cpu.h"

namespace lstmfast::cpu {

// Lends a forward call its packed weights.
class PackedWeights {
 public:
  // Sets p.packed and p.packed_before; leaves them alone if not wanted, if the call packs nothing, or if the weights
  // are too large for the cache or have no contiguous rows.
  PackedWeights(ForwardParams& p, bool wanted);
  // After the call: what it has packed is there for the next ones.
  void keep();

  struct Entry;

 private:
  std::shared_ptr<Entry> entry_;
  bool fresh_ = false;
};

struct WeightCacheInfo {
  int64_t entries, bytes, limit, hits, misses;
};
WeightCacheInfo weight_cache_info();
// In bytes; the least recently used entries go first. 0 keeps nothing.
void set_weight_cache_limit(int64_t bytes);

}  // namespace lstmfast::cpu
