// Facts about the cells for code that is not templated on them: validation, bindings, planners.
#pragma once
#include <string_view>

#include "cells.h"

namespace lstmfast {

struct CellInfo {
  const char* name;
  int gates, states, saved;
};

namespace detail {
template <class... Cells>
inline const CellInfo* cell_table(portable::TypeList<Cells...>) {
  static constexpr CellInfo table[] = {{Cells::kName, Cells::kGates, Cells::kStates, Cells::kSaved}...};
  return table;
}
}  // namespace detail

constexpr int kCells = portable::AllCells::kSize;

inline const CellInfo& cell_info(int cell) { return detail::cell_table(portable::AllCells{})[cell]; }

// Index of the cell called `name`, -1 if there is none.
inline int find_cell(std::string_view name) {
  for (int i = 0; i < kCells; i++)
    if (name == cell_info(i).name) return i;
  return -1;
}

}  // namespace lstmfast
