// Where things lie: steps in walking order, panels of hidden units, records of what backward needs, scratch memory.
#pragma once
#include <cstddef>

#include "../core/params.h"
#include "gemm.inl"

namespace lstmfast::LF_ISA {

// Hands out 64-byte aligned pieces of one block of memory; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t n, bool wanted = true) {
    if (!wanted) return nullptr;
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return p;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// The steps of a sequence, padded or packed, in either direction. "previous" and "following" are in walking order.
class Steps {
 public:
  explicit Steps(const Shape& s) : s_(s) {}
  LF_INLINE int64_t count() const { return s_.steps; }
  LF_INLINE int64_t batch() const { return s_.batch; }
  LF_INLINE int64_t active(int64_t t) const { return s_.batch_sizes ? s_.batch_sizes[t] : s_.batch; }
  LF_INLINE int64_t first_row(int64_t t) const { return s_.offsets ? s_.offsets[t] : t * s_.batch; }
  LF_INLINE int64_t rows(int64_t begin, int64_t end) const { return first_row(end) - first_row(begin); }
  LF_INLINE int64_t previous(int64_t t) const { return s_.reverse ? t + 1 : t - 1; }
  LF_INLINE int64_t following(int64_t t) const { return s_.reverse ? t - 1 : t + 1; }
  // Sequences [0, n) of step t that also ran in the previous (will run in the following) step; the others of step t
  // start from the initial state (end with the final state) there.
  LF_INLINE int64_t active_both(int64_t t, int64_t other) const {
    return other < 0 || other >= s_.steps ? 0 : min(active(t), active(other));
  }
  LF_INLINE int64_t started(int64_t t) const { return active_both(t, previous(t)); }
  LF_INLINE int64_t continued(int64_t t) const { return active_both(t, following(t)); }
  // Whether any product with a state before a step is due, a single step without h0 having none.
  LF_INLINE bool use_h(const ConstRows& h0) const { return s_.steps > 1 || h0.data; }
  LF_INLINE bool reverse() const { return s_.reverse; }
  LF_INLINE const Shape& shape() const { return s_; }

 private:
  const Shape& s_;
};

// Where row (t, n) of the caller's memory begins, in elements.
template <class T>
LF_INLINE int64_t row_offset(const RowsOf<T>& rows, const Steps& steps, int64_t t, int64_t n) {
  return steps.shape().offsets ? (steps.first_row(t) + n) * rows.row_stride
                               : t * rows.step_stride + n * rows.row_stride;
}

// Goes through the rows of consecutive steps.
struct RowCursor {
  const Steps& steps;
  int64_t t, n = 0;
  LF_INLINE void next() {
    if (++n == steps.active(t)) n = 0, t++;
  }
};

// Blocks of consecutive steps, in walking order or against it.
struct Block {
  int64_t begin, end;
};
template <class F>
LF_INLINE void for_each_block(int64_t steps, int64_t size, bool descending, const F& f) {
  const int64_t blocks = ceil_div(steps, size);
  for (int64_t i = 0; i < blocks; i++) {
    const int64_t b = descending ? blocks - 1 - i : i;
    f(Block{b * size, min(steps, (b + 1) * size)});
  }
}
template <class F>
LF_INLINE void for_each_step(const Block& block, bool descending, const F& f) {
  for (int64_t i = 0; i < block.end - block.begin; i++) f(descending ? block.end - 1 - i : block.begin + i);
}

// A panel is one tile wide: all gates of the same hidden units side by side, [gate][unit], so that the cell can work
// on the accumulators. Units beyond H are padding: weights zero, never stored to a caller's memory.
template <class Cell, class C>
struct Panels {
  static_assert(kTileCols % Cell::kGates == 0, "a tile holds all gates of its units");
  static_assert(Cell::kStates <= 2 && Cell::kSaved <= Cell::kGates);
  static constexpr int kPacks = kTileCols / Cell::kGates;  // packs of units in a panel
  static constexpr int kUnits = kPacks * kLanes<C>;
  static constexpr int kPrivate = Cell::kStates - 1;
  // One record per panel and row: the saved values where the pre-activations were, and behind them the private state.
  static constexpr int kRecord = kPanel<C> + kPrivate * kUnits;
  static LF_INLINE int64_t count(int64_t hidden) { return ceil_div(hidden, kUnits); }
  // Of all panels, padding at the end of the last one left out.
  static LF_INLINE int64_t columns(int64_t hidden) { return kPacks == kTileCols ? hidden : count(hidden) * kPanel<C>; }
  static LF_INLINE int64_t padded_units(int64_t hidden) { return count(hidden) * kUnits; }
  static LF_INLINE int64_t offset(int gate, int pack) { return (gate * kPacks + pack) * kLanes<C>; }
};

// [block][panel][row of the block][width]: a thread that owns panels writes contiguous memory, a step reads what the
// projection of its block has just written.
template <class C>
struct Records {
  C* base;
  int64_t width, panels, block_steps;
  const Steps* steps;

  LF_INLINE C* at(int64_t t, int64_t panel, int64_t n) const {
    const int64_t begin = t / block_steps * block_steps, end = min(begin + block_steps, steps->count());
    C* block = base + steps->first_row(begin) * panels * width;
    return block + (panel * steps->rows(begin, end) + steps->rows(begin, t) + n) * width;
  }
};

// The same for one block's memory that all blocks share. Where threads own sequences they do not wait for each other
// between blocks, so a sequence's place may depend on nothing that differs from block to block: each step has room for
// the whole batch. (Where they own panels they do wait, and the rows of a tile may straddle steps: see Forward.)
template <class C>
struct BlockRecords {
  C* base;
  int64_t width, block_steps;
  bool room_for_all;
  const Steps* steps;

  LF_INLINE C* at(int64_t t, int64_t panel, int64_t n) const {
    const int64_t begin = t / block_steps * block_steps;
    const int64_t row = (room_for_all ? (t - begin) * steps->batch() : steps->rows(begin, t)) + n;
    return base + (panel * block_steps * steps->batch() + row) * width;
  }
};

}  // namespace lstmfast::LF_ISA
