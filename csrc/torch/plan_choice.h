// For measuring, and for tests: plans that calls take instead of the planner's choice. Of the whole process, since
// backward runs in threads of its own.
#pragma once
#include <atomic>
#include <type_traits>

#include "../cuda/kernels.h"

namespace lstmfast {

struct PlanChoice {
  static constexpr int kPlanners = -1, kGeneralPath = -2;  // else a candidate's number: see cuda::make_plan()
  std::atomic<int> forward{kPlanners}, backward{kPlanners};
};
inline PlanChoice& plan_choice() {
  static PlanChoice choice;
  return choice;
}

inline void choose_plan(cuda::Context& context, int choice) {
  if (choice == PlanChoice::kGeneralPath) context.persistent = false;
  if (choice >= 0) context.candidate = choice;
}
// For a call with these parameters.
template <class Params>
void choose_plan(cuda::Context& context) {
  constexpr bool kBackward = std::is_same_v<Params, BackwardParams>;
  choose_plan(context, kBackward ? plan_choice().backward : plan_choice().forward);
}

}  // namespace lstmfast
