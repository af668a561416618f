// Every cell's backward against finite differences of its forward, and the tangents of both, in double, with neither
// torch nor Python; and the properties by which the gates are known.
#include <random>
#include <vector>

#include "check.h"
#include "core/cell_info.h"
#include "core/dual.h"

using namespace lstmfast;
using namespace lstmfast::portable;

namespace {

// A scalar function of everything that goes into one cell step: a fixed combination of the outgoing states.
template <class Cell>
struct Step {
  double pre[Cell::kGates], state[Cell::kStates];

  double combined(const double (&weights)[Cell::kStates]) const {
    double out[Cell::kStates], saved[Cell::kSaved], sum = 0;
    Cell::template forward<ExactMath>(pre, state, out, saved);
    for (int s = 0; s < Cell::kStates; s++) sum += weights[s] * out[s];
    return sum;
  }
};

template <class Cell>
void check_gradients() {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (int trial = 0; trial < 200; trial++) {
    Step<Cell> step;
    double dout[Cell::kStates];
    for (double& x : step.pre) {
      do x = 2 * normal(random);
      while (std::fabs(x) < 1e-3);  // relu has no derivative at 0
    }
    for (double& x : step.state) x = normal(random);
    for (double& x : dout) x = normal(random);

    double out[Cell::kStates], saved[Cell::kSaved], dpre[Cell::kGates], dstate[Cell::kStates] = {};
    Cell::template forward<ExactMath>(step.pre, step.state, out, saved);
    Cell::template backward<ExactMath>(saved, step.state, out, dout, dpre, dstate);
    const auto numeric = [&](auto member, int i) {
      Step<Cell> moved = step;
      double* x = &(moved.*member)[i];
      constexpr double kStep = 1e-6;
      const double at = *x;
      *x = at + kStep;
      const double above = moved.combined(dout);
      *x = at - kStep;
      return (above - moved.combined(dout)) / (2 * kStep);
    };
    for (int g = 0; g < Cell::kGates; g++)
      CHECK_NEAR(dpre[g], numeric(&Step<Cell>::pre, g), 1e-8 * (1 + std::fabs(dpre[g])));
    // state 0 is h, which reaches the cell only through pre (see cells.h).
    for (int s = 1; s < Cell::kStates; s++)
      CHECK_NEAR(dstate[s], numeric(&Step<Cell>::state, s), 1e-8 * (1 + std::fabs(dstate[s])));
  }
}

// What a step and its backward return, all in one list: a function of numbers, plain or dual.
template <class Cell, class Math, class V>
struct StepBack {
  V pre[Cell::kGates], state[Cell::kStates], dout[Cell::kStates];
  static constexpr int kInputs = Cell::kGates + 2 * Cell::kStates;

  V& input(int i) {
    if (i < Cell::kGates) return pre[i];
    i -= Cell::kGates;
    return i < Cell::kStates ? state[i] : dout[i - Cell::kStates];
  }
  template <class Activations>
  std::vector<V> results() const {
    V out[Cell::kStates], saved[Cell::kSaved], dpre[Cell::kGates], dstate[Cell::kStates] = {};
    Cell::template activate<Activations>(pre, saved);
    Cell::template combine<Math>(saved, state, out);
    Cell::template backward<Math>(saved, state, out, dout, dpre, dstate);
    std::vector<V> all(out, out + Cell::kStates);
    all.insert(all.end(), dpre, dpre + Cell::kGates);
    all.insert(all.end(), dstate + 1, dstate + Cell::kStates);
    return all;
  }
};

// Tangents by dual numbers against finite differences, from the pre-activations and from their known activations.
template <class Cell>
void check_tangents() {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  for (int trial = 0; trial < 200; trial++) {
    StepBack<Cell, ExactMath, double> plain{}, above{}, below{};
    StepBack<Cell, DualMath<ExactMath>, Dual<double>> dual{};
    constexpr double kStep = 1e-5;
    for (int i = 0; i < plain.kInputs; i++) {
      double x;
      do x = normal(random);
      while (i < Cell::kGates && std::fabs(x) < 1e-3);  // relu has no derivative at 0
      const double direction = normal(random);
      plain.input(i) = x, above.input(i) = x + kStep * direction, below.input(i) = x - kStep * direction;
      dual.input(i) = {x, direction};
    }
    auto known = dual;
    double saved[Cell::kSaved];
    Cell::template activate<ExactMath>(plain.pre, saved);
    for (int g = 0; g < Cell::kGates; g++) known.pre[g].value = saved[g];

    const auto values = plain.template results<ExactMath>(), high = above.template results<ExactMath>(),
               low = below.template results<ExactMath>();
    const auto one = dual.template results<DualMath<ExactMath>>(),
               other = known.template results<KnownMath<ExactMath>>();
    for (size_t i = 0; i < values.size(); i++) {
      CHECK_NEAR(one[i].value, values[i], 1e-15 * (1 + std::fabs(values[i])));
      CHECK_NEAR(other[i].value, values[i], 1e-15 * (1 + std::fabs(values[i])));
      // Differences err by the third derivative times kStep^2, and by rounding over kStep: below 1e-9 each, at this
      // size.
      CHECK_NEAR(one[i].tangent, (high[i] - low[i]) / (2 * kStep), 1e-8 * (1 + std::fabs(one[i].tangent)));
      CHECK_NEAR(other[i].tangent, one[i].tangent, 1e-13 * (1 + std::fabs(one[i].tangent)));
    }
  }
}

template <class... Cells>
void check_all(TypeList<Cells...>) {
  (check_gradients<Cells>(), ...);
  (check_tangents<Cells>(), ...);
}

void lstm(double i, double f, double g, double o, double c, double (&out)[2]) {
  const double pre[] = {i, f, g, o}, in[] = {0.0, c};
  double saved[4];
  LstmCell::forward<ExactMath>(pre, in, out, saved);
}

// Saturated gates (biases of +-50): f = 1 and i = 0 remembers, f = 0 and i = 0 forgets, o = 0 says nothing.
void check_gates() {
  double out[2];
  lstm(-50, 50, 1, 0, 0.7, out);
  CHECK_NEAR(out[1], 0.7, 1e-15);
  lstm(-50, -50, 1, 0, 0.7, out);
  CHECK_NEAR(out[1], 0, 1e-15);
  lstm(50, -50, 1, -50, 0.7, out);
  CHECK_NEAR(out[1], std::tanh(1.0), 1e-15);
  CHECK_NEAR(out[0], 0, 1e-15);
}

void check_table() {
  CHECK(kCells == 5);
  CHECK(find_cell("LSTM") == 0 && find_cell("RNN_TANH") == 1 && find_cell("RNN_RELU") == 2);
  CHECK(find_cell("lstm") == -1 && find_cell("") == -1);
  for (int i = 0; i < kCells; i++) CHECK(find_cell(cell_info(i).name) == i);
}

}  // namespace

int main() {
  check_all(AllCells{});
  check_gates();
  check_table();
  return finish();
}
