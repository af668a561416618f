// One call of the CPU kernels in one type, for the C++ tests: data, parameters, buffers exactly as large as promised,
// and a loop over scalars that says what must come out.
#pragma once
#include <cstring>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "core/cell_info.h"
#include "cpu/cpu.h"

namespace lstmfast {

inline std::mt19937 generator(7);

// As tensors hold it; the tests compute in double.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(double x) {
    const float f = static_cast<float>(x);
    uint32_t b;
    std::memcpy(&b, &f, 4);
    bits = f != f ? uint16_t{0x7fc0} : static_cast<uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16);
  }
  operator double() const {
    const uint32_t b = static_cast<uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &b, 4);
    return f;
  }
};

template <class T>
constexpr DType kDTypeOf = sizeof(T) == 8   ? DType::kFloat64
                           : sizeof(T) == 4 ? DType::kFloat32
                                            : DType::kBFloat16;

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
    p.dtype = kDTypeOf<T>;
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

// Where a call of backward reads the gradients of its results and writes all others.
template <class T>
struct Gradients {
  std::vector<T> x, h0, c0, w_ih, w_hh, w_hr, b_ih, b_hh;

  Gradients(const Case<T>& c, BackwardParams& p)
      : x(c.x.size()),
        h0(c.h0.size()),
        c0(c.c0.size()),
        w_ih(c.w_ih.size()),
        w_hh(c.w_hh.size()),
        w_hr(c.w_hr.size()),
        b_ih(c.b_ih.size()),
        b_hh(c.b_hh.size()) {
    const int64_t i = c.shape.input, h = c.shape.hidden, o = c.shape.output(), n = c.shape.batch;
    p.dy = {c.dy.data(), n * o, o};
    p.dh_n = {c.dh_n.data(), 0, o};
    p.dc_n = {c.dc_n.data(), 0, h};
    p.dx = {x.data(), n * i, i};
    p.dh0 = {h0.data(), 0, o};
    p.dc0 = {c0.data(), 0, h};
    p.dw_ih = {w_ih.data(), i, 1};
    p.dw_hh = {w_hh.data(), o, 1};
    if (c.shape.projection) p.dw_hr = {w_hr.data(), h, 1};
    p.db_ih = {b_ih.data(), 1, 1};
    p.db_hh = {b_hh.data(), 1, 1};
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

}  // namespace lstmfast
