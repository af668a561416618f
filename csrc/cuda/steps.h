// The steps of a sequence in walking order, as the host sees them. "previous" and "following" are in walking order.
#pragma once
#include <algorithm>

#include "../core/params.h"

namespace lstmfast::cuda {

class Steps {
 public:
  explicit Steps(const Shape& s) : s_(s) {}
  int64_t count() const { return s_.steps; }
  // The i-th step that forward takes.
  int64_t at(int64_t i) const { return s_.reverse ? s_.steps - 1 - i : i; }
  int64_t active(int64_t t) const { return s_.batch_sizes ? s_.batch_sizes[t] : s_.batch; }
  int64_t first_row(int64_t t) const { return s_.offsets ? s_.offsets[t] : t * s_.batch; }
  int64_t previous(int64_t t) const { return s_.reverse ? t + 1 : t - 1; }
  int64_t following(int64_t t) const { return s_.reverse ? t - 1 : t + 1; }
  bool exists(int64_t t) const { return t >= 0 && t < s_.steps; }
  // Sequences [0, n) of step t that also ran in the previous (will run in the following) step; the others of step t
  // start from the initial state (end with the final state) there.
  int64_t started(int64_t t) const { return both(t, previous(t)); }
  int64_t continued(int64_t t) const { return both(t, following(t)); }

 private:
  int64_t both(int64_t t, int64_t other) const { return exists(other) ? std::min(active(t), active(other)) : 0; }
  const Shape& s_;
};

// Whether the rows of all steps lie one stride apart, so that they are one matrix.
template <class T>
bool is_one_matrix(const RowsOf<T>& rows, const Shape& s) {
  return s.offsets || s.steps == 1 || rows.step_stride == s.batch * rows.row_stride;
}
// Elements from the first row to row n of step t.
template <class T>
int64_t row_offset(const RowsOf<T>& rows, const Shape& s, int64_t t, int64_t n) {
  return s.offsets ? (s.offsets[t] + n) * rows.row_stride : t * rows.step_stride + n * rows.row_stride;
}

}  // namespace lstmfast::cuda
