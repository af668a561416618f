// The CPU kernels through their C++ entry points, without torch: every cell, type and ISA level against a loop over
// scalars, forward, and backward against finite differences of it. Small sizes around the edges of tiles, and every
// buffer exactly as large as promised, so that a sanitizer build of this test sees reads and writes past the end.
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "check.h"
#include "core/cell_info.h"
#include "cpu/cpu.h"

using namespace lstmfast;
using portable::ExactMath;
using portable::LinearMath;

namespace {

std::mt19937 generator(7);

template <class T>
std::vector<T> random_values(int64_t n, double scale = 1) {
  std::normal_distribution<double> normal;
  std::vector<T> v(n);
  for (T& x : v) x = static_cast<T>(scale * normal(generator));
  return v;
}

// Activations of a cell, by its name.
struct Activations {
  std::function<double(double)> sigmoid, tanh;
  explicit Activations(const std::string& name) {
    const bool linear = name.find("LINEAR") != std::string::npos;
    sigmoid = linear ? [](double x) { return x; } : [](double x) { return 1 / (1 + std::exp(-x)); };
    if (linear)
      tanh = [](double x) { return x; };
    else if (name.find("RELU") != std::string::npos)
      tanh = [](double x) { return x > 0 ? x : 0; };
    else
      tanh = [](double x) { return std::tanh(x); };
  }
};

// One layer in one direction and its data.
template <class T>
struct Case {
  int cell;
  Shape shape;
  std::vector<int64_t> sizes, offsets;
  std::vector<T> x, h0, c0, w_ih, w_hh, w_hr, b_ih, b_hh, y, h_n, c_n, dy, dh_n, dc_n;

  Case(int cell_, int64_t t, int64_t n, int64_t i, int64_t h, int64_t p, bool reverse, std::vector<int64_t> packed)
      : cell(cell_), sizes(std::move(packed)) {
    shape.steps = t, shape.batch = n, shape.input = i, shape.hidden = h, shape.projection = p, shape.reverse = reverse;
    shape.rows = t * n;
    if (!sizes.empty()) {
      offsets.push_back(0);
      for (const int64_t s : sizes) offsets.push_back(offsets.back() + s);
      shape.rows = offsets.back();
      shape.batch_sizes = sizes.data(), shape.offsets = offsets.data();
    }
    const int64_t o = shape.output(), g = cell_info(cell).gates;
    const double scale = 1 / std::sqrt(static_cast<double>(h));
    x = random_values<T>(shape.rows * i), h0 = random_values<T>(n * o), c0 = random_values<T>(n * h);
    w_ih = random_values<T>(g * h * i, scale), w_hh = random_values<T>(g * h * o, scale);
    w_hr = random_values<T>(p * h, scale), b_ih = random_values<T>(g * h), b_hh = random_values<T>(g * h);
    dy = random_values<T>(shape.rows * o), dh_n = random_values<T>(n * o), dc_n = random_values<T>(n * h);
    y.resize(shape.rows * o), h_n.resize(n * o), c_n.resize(n * h);
  }
  int64_t active(int64_t t) const { return sizes.empty() ? shape.batch : sizes[t]; }
  int64_t row(int64_t t, int64_t n) const { return sizes.empty() ? t * shape.batch + n : offsets[t] + n; }

  // A fixed combination of all results, computed step by step in double.
  double loss(std::vector<double>* y_out = nullptr) const {
    const Activations act(cell_info(cell).name);
    const bool lstm = cell_info(cell).states > 1;
    const int64_t h_size = shape.hidden, o = shape.output();
    std::vector<double> h(h0.begin(), h0.end()), c(c0.begin(), c0.end());
    if (y_out) y_out->assign(y.size(), 0);
    double sum = 0;
    for (int64_t s = 0; s < shape.steps; s++) {
      const int64_t t = shape.reverse ? shape.steps - 1 - s : s;
      for (int64_t n = 0; n < active(t); n++) {
        std::vector<double> m(h_size), out(o);
        for (int64_t u = 0; u < h_size; u++) {
          double pre[4];
          for (int64_t g = 0; g < cell_info(cell).gates; g++) {
            const int64_t r = g * h_size + u;
            pre[g] = double(b_ih[r]) + double(b_hh[r]);
            for (int64_t k = 0; k < shape.input; k++)
              pre[g] += double(w_ih[r * shape.input + k]) * x[row(t, n) * shape.input + k];
            for (int64_t k = 0; k < o; k++) pre[g] += double(w_hh[r * o + k]) * h[n * o + k];
          }
          if (lstm) {
            double& cell_state = c[n * h_size + u];
            cell_state = act.sigmoid(pre[1]) * cell_state + act.sigmoid(pre[0]) * act.tanh(pre[2]);
            m[u] = act.sigmoid(pre[3]) * act.tanh(cell_state);
          } else {
            m[u] = act.tanh(pre[0]);
          }
        }
        for (int64_t k = 0; k < o; k++) {
          out[k] = shape.projection ? 0 : m[k];
          if (shape.projection)
            for (int64_t u = 0; u < h_size; u++) out[k] += double(w_hr[k * h_size + u]) * m[u];
          h[n * o + k] = out[k];
          sum += out[k] * dy[row(t, n) * o + k];
          if (y_out) (*y_out)[row(t, n) * o + k] = out[k];
        }
      }
    }
    for (size_t k = 0; k < h.size(); k++) sum += h[k] * dh_n[k];
    if (lstm)
      for (size_t k = 0; k < c.size(); k++) sum += c[k] * dc_n[k];
    return sum;
  }

  template <class Params>
  Params params(int isa, int threads) {
    const int64_t i = shape.input, h = shape.hidden, o = shape.output(), n = shape.batch;
    Params p;
    p.cell = cell;
    p.dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
    p.shape = shape;
    p.threads = threads;
    p.isa = isa;
    p.x = {x.data(), n * i, i};
    p.h0 = {h0.data(), 0, o};
    p.c0 = {c0.data(), 0, h};
    p.w_ih = {w_ih.data(), i, 1};
    p.w_hh = {w_hh.data(), o, 1};
    if (shape.projection) p.w_hr = {w_hr.data(), h, 1};
    p.b_ih = {b_ih.data(), 1, 1};
    p.b_hh = {b_hh.data(), 1, 1};
    p.y = {y.data(), n * o, o};
    p.h_n = {h_n.data(), 0, o};
    p.c_n = {c_n.data(), 0, h};
    return p;
  }
};

// Memory of exactly n bytes, 64-byte aligned, filled with NaNs: what is read before it is written shows.
struct Memory {
  void* data;
  explicit Memory(size_t n) : data(::operator new(n + 1, std::align_val_t{64})) { std::memset(data, 0xff, n); }
  ~Memory() { ::operator delete(data, std::align_val_t{64}); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

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

  const int64_t i = c.shape.input, h = c.shape.hidden, o = c.shape.output(), n = c.shape.batch;
  std::vector<T> dx(c.x.size()), dh0(c.h0.size()), dc0(c.c0.size()), dw_ih(c.w_ih.size()), dw_hh(c.w_hh.size()),
      dw_hr(c.w_hr.size()), db(c.b_ih.size()), db2(c.b_hh.size());
  p.dy = {c.dy.data(), n * o, o};
  p.dh_n = {c.dh_n.data(), 0, o};
  p.dc_n = {c.dc_n.data(), 0, h};
  p.dx = {dx.data(), n * i, i};
  p.dh0 = {dh0.data(), 0, o};
  p.dc0 = {dc0.data(), 0, h};
  p.dw_ih = {dw_ih.data(), i, 1};
  p.dw_hh = {dw_hh.data(), o, 1};
  if (c.shape.projection) p.dw_hr = {dw_hr.data(), h, 1};
  p.db_ih = {db.data(), 1, 1};
  p.db_hh = {db2.data(), 1, 1};
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
  compare(c.x, dx);
  compare(c.h0, dh0);
  if (lstm) compare(c.c0, dc0);
  compare(c.w_ih, dw_ih);
  compare(c.w_hh, dw_hh);
  compare(c.b_ih, db);
  CHECK(db == db2);
  if (c.shape.projection) compare(c.w_hr, dw_hr);
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
