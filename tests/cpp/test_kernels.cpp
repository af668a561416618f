// The CPU kernels through their C++ entry points, without torch: every cell, type and ISA level against a loop over
// scalars, forward, and backward against finite differences of it. Small sizes around the edges of tiles, and every
// buffer exactly as large as promised, so that a sanitizer build of this test sees reads and writes past the end.
#include "check.h"
#include "layer_case.h"

using namespace lstmfast;
using portable::ExactMath;
using portable::LinearMath;

namespace {

template <class T>
void check_case(Case<T>& c, int isa, int threads) {
  const double exact = sizeof(T) == 8 ? 1e-12 : 2e-5;
  std::vector<double> expected;
  const double loss = c.loss(&expected);

  auto p = c.template params<BackwardParams>(isa, threads);
  const int64_t width = cpu::reserve_width(c.cell, p.dtype, c.shape.hidden, c.shape.projection);
  const Memory reserve(static_cast<size_t>(width * c.shape.rows) * sizeof(T));
  for (const bool keep : {false, true}) {
    p.reserve = keep ? reserve.data : nullptr;
    const Memory workspace(cpu::forward_workspace_bytes(p));
    p.workspace = workspace.data;
    std::fill(c.y.begin(), c.y.end(), T(NAN));
    CHECK(cpu::forward(p) == Status::kOk);
    for (size_t k = 0; k < expected.size(); k++) CHECK_NEAR(c.y[k], expected[k], exact * (1 + std::fabs(expected[k])));
  }
  CHECK_NEAR(loss, c.loss(), 0);

  Gradients<T> gradients(c, p);
  const Memory workspace(cpu::backward_workspace_bytes(p));
  p.workspace = workspace.data;
  CHECK(cpu::backward(p) == Status::kOk);

  // A few elements of every gradient against finite differences of the loss.
  const bool lstm = cell_info(c.cell).states > 1;
  const auto compare = [&](std::vector<T>& values, const std::vector<T>& gradient) {
    for (size_t k = 0; k < values.size(); k += 1 + values.size() / 5) {
      const T at = values[k];
      const double step = sizeof(T) == 8 ? 1e-6 : 1e-3;  // the loss is summed in double
      values[k] = static_cast<T>(at + step);
      const double above = c.loss(), up = double(values[k]) - double(at);
      values[k] = static_cast<T>(at - step);
      const double below = c.loss(), down = double(at) - double(values[k]);
      values[k] = at;
      CHECK_NEAR(gradient[k], (above - below) / (up + down),
                 (sizeof(T) == 8 ? 1e-6 : 1e-3) * (1 + std::fabs(gradient[k])));
    }
  };
  compare(c.x, gradients.x);
  compare(c.h0, gradients.h0);
  if (lstm) compare(c.c0, gradients.c0);
  compare(c.w_ih, gradients.w_ih);
  compare(c.w_hh, gradients.w_hh);
  compare(c.b_ih, gradients.b_ih);
  CHECK(gradients.b_ih == gradients.b_hh);
  if (c.shape.projection) compare(c.w_hr, gradients.w_hr);
}

template <class T>
void check_all(int isa) {
  // The linear cells grow with T and are checked exactly from Python; relu's kinks spoil finite differences in float32.
  for (int cell = 0; cell < 3; cell++)
    for (const bool reverse : {false, true})
      for (const int threads : {1, 3})
        for (const int64_t p : {0, 3}) {
          if (p && cell_info(cell).states == 1) continue;
          if (sizeof(T) == 4 && cell == 2) continue;
          Case<T> dense(cell, 5, 7, 3, 19, p, reverse, {}), one(cell, 3, 1, 17, 5, p, reverse, {}),
              packed(cell, 5, 8, 2, 18, p, reverse, {8, 8, 5, 2, 1}), long_one(cell, 120, 2, 1, 4, p, reverse, {});
          check_case(dense, isa, threads);
          check_case(one, isa, threads);
          check_case(packed, isa, threads);
          check_case(long_one, isa, threads);
        }
  // Large enough that the planner takes every thread: split by hidden units, and by sequences.
  for (const bool reverse : {false, true})
    for (const int64_t p : {0, 3}) {
      Case<T> hidden(0, 3, 5, 30, 70, p, reverse, {}), batch(0, 3, 19, 20, 40, p, reverse, {}),
          packed(0, 3, 19, 20, 40, p, reverse, {19, 14, 3});
      for (Case<T>* c : {&hidden, &batch, &packed}) {
        CHECK(cpu::plan(c->template params<ForwardParams>(isa, 3)).threads == 3);
        check_case(*c, isa, 3);
      }
    }
}

}  // namespace

int main() {
  for (int isa = 0; isa < cpu::isa_count(); isa++) {
    if (!cpu::isa_supported(isa)) continue;
    std::printf("%s\n", cpu::isa_name(isa));
    check_all<double>(isa);
    check_all<float>(isa);
  }
  ForwardParams unknown;
  unknown.cell = kCells;
  CHECK(cpu::forward(unknown) == Status::kUnknownCell);
  CHECK(!cpu::set_isa(-1) && !cpu::set_isa(cpu::isa_count()));
  return finish();
}
