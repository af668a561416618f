// Products with weights as they lie in the caller's memory, for calls too short to repay packing.
//
// A packed panel is read by the column, these by the row: each lane of a tile's pack is a dot product of its own,
// summed in a pack of partial sums that is reduced at the end. That costs some arithmetic, and reads each weight once.
#pragma once
#include "pack.inl"

namespace lstmfast::LF_ISA {

// A weight matrix in one of two forms.
template <class C>
struct Weights {
  C* packed = nullptr;      // [panel][depth][kPanel]
  const C* rows = nullptr;  // or null: the caller's rows
  int64_t row_stride = 0;

  bool in_place() const { return rows != nullptr; }
};

// Whether the caller's rows can be read by packs.
template <class C>
LF_INLINE bool readable_in_place(const ConstMatrix& m, const Storage<C>& storage, int64_t depth) {
  return storage.is_compute && m.col_stride == 1 && depth >= kLanes<C>;
}

// The weight rows behind the lanes of a tile. Padding repeats a real row: its lanes get finite values if the weights
// are finite, and are never stored to a caller's memory.
template <class C>
struct TileRows {
  const C* row[kTileCols][kLanes<C>];
};

// acc[r][j] lane i += a[r] . w.row[j][i]; depth >= kLanes.
template <int M, class C>
LF_NOINLINE void multiply_add(Tile<C, M>& acc, const C* const (&a)[M], const TileRows<C>& w, int64_t depth) {
  constexpr int n = kLanes<C>;
  const int64_t whole = depth / n * n;
  for (int j = 0; j < kTileCols; j++) {
    const auto& row = w.row[j];
    for (int r = 0; r < M; r++) {
      Vec<C> sums[n] = {};
      for (int64_t k = 0; k < whole; k += n) {
        const Vec<C> x = load(a[r] + k);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) sums[i] += x * load(row[i] + k);
      }
      if (whole < depth) {
        // The last elements with the pack that ends there, less the products that have been counted. These are cut out,
        // not multiplied by zero, which would make a NaN of an infinite weight.
        const Vec<C> x = load(a[r] + depth - n);
        IntVec<C> fresh{};
        for (int i = 0; i < n; i++) fresh[i] = i < n - (depth - whole) ? 0 : -1;
        for (int i = 0; i < n; i++) {
          const Vec<C> product = x * load(row[i] + depth - n);
          sums[i] += reinterpret_cast<Vec<C>>(reinterpret_cast<IntVec<C>>(product) & fresh);
        }
      }
      acc[r][j] += sums_of<C>(sums);
    }
  }
}

}  // namespace lstmfast::LF_ISA
