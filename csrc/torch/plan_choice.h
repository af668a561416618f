// For measuring, and for tests: plans that calls take instead of the planner's choice. Of the whole process, since
// backward runs in threads of its own.
#pragma once
#include <atomic>
#include <type_traits>

#include "../cuda/kernels.h"

namespace lstmfast {

struct PlanChoice {
  std::atomic<int> forward{cuda::kPlanners}, backward{cuda::kPlanners};  // see cuda::Context::candidate
};
inline PlanChoice& plan_choice() {
  static PlanChoice choice;
  return choice;
}

// For a call with these parameters.
template <class Params>
void choose_plan(cuda::Context& context) {
  constexpr bool kBackward = std::is_same_v<Params, BackwardParams>;
  context.candidate = kBackward ? plan_choice().backward : plan_choice().forward;
}

}  // namespace lstmfast
