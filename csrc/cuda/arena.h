// Hands out pieces of the workspace, 256-byte aligned; without memory it only counts.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lstmfast::cuda {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  void* take(int64_t bytes, bool wanted = true) {
    if (!wanted) return nullptr;
    void* p = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<size_t>(bytes) + 255) / 256 * 256;
    return p;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace lstmfast::cuda
