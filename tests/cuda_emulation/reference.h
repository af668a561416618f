// The yardstick: one layer in one direction, forward and backward, as plain loops over doubles. Values are rounded
// where the kernels store them in the element type (h, gate gradients, the gradient that goes through a projection), so
// that what is left between the two is the kernels' own arithmetic.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "core/cell_info.h"
#include "memory.h"

namespace lstmfast {

using Values = std::vector<double>;

struct Problem {
  int cell = 0;
  DType dtype = DType::kFloat32;
  int64_t steps = 1, batch = 1, input = 1, hidden = 1, projection = 0;
  bool reverse = false;
  bool tf32 = false;                                               // products round their operands to TF32
  std::vector<int64_t> sizes, offsets;                             // when packed
  Values x, h0, c0, w_ih, w_hh, w_hr, b_ih, b_hh, dy, dh_n, dc_n;  // empty: absent (zeros)

  int64_t output() const { return projection ? projection : hidden; }
  int64_t gates() const { return cell_info(cell).gates; }
  bool has_c() const { return cell_info(cell).states > 1; }
  int64_t active(int64_t t) const { return t < 0 || t >= steps ? 0 : sizes.empty() ? batch : sizes[t]; }
  int64_t row(int64_t t, int64_t n) const { return sizes.empty() ? t * batch + n : offsets[t] + n; }
  int64_t rows() const { return sizes.empty() ? steps * batch : offsets.back(); }
};

struct Expected {
  Values y, h_n, c_n, dx, dh0, dc0, dw_ih, dw_hh, dw_hr, db;
  double largest = 0;  // of everything that was computed on the way
};

namespace detail {
struct Activations {
  bool linear, relu;
  explicit Activations(const std::string& name)
      : linear(name.find("LINEAR") != std::string::npos), relu(name.find("RELU") != std::string::npos) {}
  double sigmoid(double x) const { return linear ? x : 1 / (1 + std::exp(-x)); }
  double sigmoid_grad(double y) const { return linear ? 1 : y * (1 - y); }
  double tanh(double x) const { return linear ? x : relu ? (x > 0 ? x : 0) : std::tanh(x); }
  double tanh_grad(double y) const { return linear ? 1 : relu ? (y > 0 ? 1 : 0) : 1 - y * y; }
};
inline double at(const Values& v, int64_t i) { return v.empty() ? 0 : v[i]; }
}  // namespace detail

inline Expected reference(const Problem& p) {
  using detail::at;
  const detail::Activations act(cell_info(p.cell).name);
  const int64_t N = p.batch, I = p.input, H = p.hidden, O = p.output(), G = p.gates(), R = p.rows();
  const auto r = [&](double x) { return rounded(p.dtype, x); };
  // A product of two stored numbers.
  const auto mul = [&](double a, double b) {
    if (!p.tf32 || p.dtype != DType::kFloat32) return a * b;
    return double{cuda::dev::to_tf32(static_cast<float>(a))} * cuda::dev::to_tf32(static_cast<float>(b));
  };
  Expected e;
  const auto note = [&](double x) { return e.largest = std::max(e.largest, std::fabs(x)), x; };
  e.y.assign(R * O, 0), e.h_n.assign(N * O, 0), e.c_n.assign(N * H, 0);
  Values gates(R * G * H), c_after(R * H), c_before(R * H), h_before(R * O), cell_out(R * H);
  Values h(N * O), c(N * H);
  for (int64_t i = 0; i < N * O; i++) h[i] = at(p.h0, i);
  for (int64_t i = 0; i < N * H; i++) c[i] = at(p.c0, i);
  for (int64_t s = 0; s < p.steps; s++) {
    const int64_t t = p.reverse ? p.steps - 1 - s : s;
    for (int64_t n = 0; n < p.active(t); n++) {
      const int64_t row = p.row(t, n);
      for (int64_t k = 0; k < O; k++) h_before[row * O + k] = h[n * O + k];
      for (int64_t u = 0; u < H; u++) {
        double pre[4];
        for (int64_t g = 0; g < G; g++) {
          const int64_t w = g * H + u;
          pre[g] = at(p.b_ih, w) + at(p.b_hh, w);
          for (int64_t k = 0; k < I; k++) pre[g] += mul(p.w_ih[w * I + k], p.x[row * I + k]);
          for (int64_t k = 0; k < O; k++) pre[g] += mul(p.w_hh[w * O + k], h_before[row * O + k]);
          note(pre[g]);
        }
        double* a = &gates[row * G * H + u];
        if (p.has_c()) {
          const double before = c_before[row * H + u] = c[n * H + u];
          a[0] = act.sigmoid(pre[0]), a[H] = act.sigmoid(pre[1]), a[2 * H] = act.tanh(pre[2]);
          a[3 * H] = act.sigmoid(pre[3]);
          c[n * H + u] = c_after[row * H + u] = note(a[H] * before + a[0] * a[2 * H]);
          cell_out[row * H + u] = a[3 * H] * act.tanh(c[n * H + u]);
        } else {
          cell_out[row * H + u] = a[0] = act.tanh(pre[0]);
        }
        cell_out[row * H + u] = note(r(cell_out[row * H + u]));
      }
      for (int64_t k = 0; k < O; k++) {
        double out = cell_out[row * H + (p.projection ? 0 : k)];
        if (p.projection) {
          out = 0;
          for (int64_t u = 0; u < H; u++) out += mul(p.w_hr[k * H + u], cell_out[row * H + u]);
        }
        h[n * O + k] = e.y[row * O + k] = note(r(out));
      }
    }
  }
  e.h_n = h, e.c_n = c;

  e.dx.assign(R * I, 0), e.dh0.assign(N * O, 0), e.dc0.assign(N * H, 0), e.db.assign(G * H, 0);
  e.dw_ih.assign(G * H * I, 0), e.dw_hh.assign(G * H * O, 0), e.dw_hr.assign(p.projection * H, 0);
  Values dh(N * O), dc(N * H), dpre(G * H), dout(O), dm(H);
  for (int64_t i = 0; i < N * O; i++) dh[i] = at(p.dh_n, i);
  for (int64_t i = 0; i < N * H; i++) dc[i] = at(p.dc_n, i);
  for (int64_t s = p.steps - 1; s >= 0; s--) {
    const int64_t t = p.reverse ? p.steps - 1 - s : s;
    for (int64_t n = 0; n < p.active(t); n++) {
      const int64_t row = p.row(t, n);
      for (int64_t k = 0; k < O; k++) {
        dout[k] = note(dh[n * O + k] + at(p.dy, row * O + k));
        if (p.projection) dout[k] = r(dout[k]);
      }
      for (int64_t u = 0; u < H; u++) {
        dm[u] = p.projection ? 0 : dout[u];
        for (int64_t k = 0; p.projection && k < O; k++) {
          dm[u] += mul(p.w_hr[k * H + u], dout[k]);
          e.dw_hr[k * H + u] += mul(dout[k], cell_out[row * H + u]);
        }
        const double* a = &gates[row * G * H + u];
        if (p.has_c()) {
          const double tanh_c = act.tanh(c_after[row * H + u]);
          const double d = dc[n * H + u] + dm[u] * a[3 * H] * act.tanh_grad(tanh_c);
          dpre[u] = d * a[2 * H] * act.sigmoid_grad(a[0]);
          dpre[H + u] = d * c_before[row * H + u] * act.sigmoid_grad(a[H]);
          dpre[2 * H + u] = d * a[0] * act.tanh_grad(a[2 * H]);
          dpre[3 * H + u] = dm[u] * tanh_c * act.sigmoid_grad(a[3 * H]);
          dc[n * H + u] = note(d * a[H]);
        } else {
          dpre[u] = dm[u] * act.tanh_grad(a[0]);
        }
      }
      for (int64_t k = 0; k < O; k++) dh[n * O + k] = 0;
      for (int64_t w = 0; w < G * H; w++) {
        const double d = note(r(dpre[w]));
        e.db[w] += d;
        for (int64_t k = 0; k < I; k++) {
          e.dx[row * I + k] += mul(d, p.w_ih[w * I + k]);
          e.dw_ih[w * I + k] += mul(d, p.x[row * I + k]);
        }
        for (int64_t k = 0; k < O; k++) {
          dh[n * O + k] += mul(d, p.w_hh[w * O + k]);
          e.dw_hh[w * O + k] += mul(d, h_before[row * O + k]);
        }
      }
    }
  }
  e.dh0 = dh, e.dc0 = dc;
  for (const Values* v : {&e.dx, &e.dh0, &e.dw_ih, &e.dw_hh, &e.dw_hr, &e.db})
    for (const double x : *v) note(x);
  return e;
}

}  // namespace lstmfast
