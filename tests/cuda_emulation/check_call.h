// Runs one call on the emulated GPU, forward and backward, and compares every result with the reference.
#pragma once
#include <cstdio>
#include <random>
#include <stdexcept>

#include "blas.h"
#include "reference.h"

namespace lstmfast {

// How the call's tensors lie in memory, and what of them is there.
struct Layout {
  bool batch_first = false;         // x, dy and dx step by step in one sequence after the other (padded only)
  bool gaps = false;                // rows further apart than they are wide
  bool transposed_weights = false;  // weights stored column by column
  bool strided = false;             // weights and biases with no stride of 1
  bool one_h0 = false;              // the same h0 row for all sequences: a stride of 0
  int shift = 0;                    // elements by which memory misses its alignment
  bool accumulate_dx = false;
  bool accumulate_dw = false;  // to gradients of weights in the compute type, as chunks of time do
  unsigned unwanted = 0;       // gradients that are not asked for, a bit each in the order of Gradients
};
enum Gradients { kDx, kDh0, kDc0, kDwIh, kDwHh, kDwHr, kDb, kGradients };

struct Run {
  cuda::Context context;
  uint64_t seed = 0;
  bool tf32 = false;
};

// One run of a call: its tensors, laid out in memory of their own, and what must come out.
class RunCheck {
 public:
  RunCheck(const Problem& p, const Layout& layout, const Run& run) : p_(p), l_(layout), run_(run) {}

  // False if the numbers grow out of the type.
  bool lay_out() {
    const int64_t H = p_.hidden, O = p_.output(), I = p_.input, G = p_.gates();
    p_.tf32 = run_.tf32;
    want_ = reference(p_);
    // Cells without activations may grow with every step: exact up to the type's whole numbers, nothing near infinity.
    const bool linear = std::string(cell_info(p_.cell).name).find("LINEAR") != std::string::npos;
    const double whole = p_.dtype == DType::kBFloat16 ? 256 : p_.dtype == DType::kFloat16 ? 2048 : 1 << 20;
    if (linear && want_.largest > (size_of(p_.dtype) == 2 ? 1e4 : 1e15)) return false;
    exact_ = linear && want_.largest < (run_.tf32 && p_.dtype == DType::kFloat32 ? 1024 : whole);
    scale_ = linear ? std::max(1., want_.largest) : 1;

    x_ = rows(&p_.x, I, true), w_ih_ = weights(&p_.w_ih, G * H, I), w_hh_ = weights(&p_.w_hh, G * H, O);
    w_hr_ = weights(&p_.w_hr, O, H), b_ih_ = weights(&p_.b_ih, G * H, 1), b_hh_ = weights(&p_.b_hh, G * H, 1);
    h0_ = rows(&p_.h0, O, false), c0_ = rows(&p_.c0, H, false);
    if (l_.one_h0 && h0_.defined()) h0_ = fill({p_.dtype, p_.batch, O, p_.batch, 0, 0, 1, shift()}, &p_.h0);
    BackwardParams& b = params_;
    b.cell = p_.cell, b.dtype = p_.dtype;
    Shape& s = b.shape;
    s.steps = p_.steps, s.batch = p_.batch, s.rows = p_.rows(), s.input = I, s.hidden = H, s.projection = p_.projection;
    s.reverse = p_.reverse;
    if (!p_.sizes.empty()) s.batch_sizes = p_.sizes.data(), s.offsets = p_.offsets.data();
    b.x = x_.view<ConstRows>(), b.h0 = h0_.view<ConstRows>(), b.c0 = c0_.view<ConstRows>();
    b.w_ih = w_ih_.matrix<ConstMatrix>(), b.w_hh = w_hh_.matrix<ConstMatrix>(), b.w_hr = w_hr_.matrix<ConstMatrix>();
    b.b_ih = b_ih_.matrix<ConstMatrix>(), b.b_hh = b_hh_.matrix<ConstMatrix>();
    const size_t reserve_bytes = static_cast<size_t>(cuda::reserve_width(p_.cell, p_.dtype, H, p_.projection) *
                                                     p_.rows() * compute_size_of(p_.dtype));
    if (reserve_bytes % 16) complain("reserve_width is not a multiple of 16 bytes");
    reserve_ = GuardedMemory(reserve_bytes);
    return true;
  }

  const BackwardParams& before_forward(bool keep) {
    y_ = rows(nullptr, p_.output(), true), h_n_ = rows(nullptr, p_.output(), false);
    c_n_ = p_.has_c() ? rows(nullptr, p_.hidden, false) : Tensor();
    params_.y = y_.view<Rows>(), params_.h_n = h_n_.view<Rows>(), params_.c_n = c_n_.view<Rows>();
    params_.reserve = keep ? reserve_.data() : nullptr;
    return params_;
  }
  void after_forward(bool keep) {
    const char* mode = keep ? "training" : "inference";
    compare(mode, "y", y_, want_.y, y_tolerance());
    compare(mode, "h_n", h_n_, want_.h_n, y_tolerance());
    if (p_.has_c()) compare(mode, "c_n", c_n_, want_.c_n, y_tolerance());
    compare_most("y", y_, want_.y);
    check_intact(reserve_, "reserve");
  }

  const BackwardParams& before_backward() {
    const int64_t H = p_.hidden, O = p_.output(), I = p_.input, G = p_.gates();
    for (const Tensor* t : {&x_, &w_ih_, &w_hh_, &w_hr_, &b_ih_, &b_hh_, &c0_})
      if (!t->intact()) complain("an input's surroundings were written to");
    BackwardParams& b = params_;
    y_before_ = y_.values();
    reserve_before_.assign(reserve_.data(), reserve_.data() + reserve_.size());
    dy_ = rows(&p_.dy, O, true), dh_n_ = rows(&p_.dh_n, O, false), dc_n_ = rows(&p_.dc_n, H, false);
    b.dy = dy_.view<ConstRows>(), b.dh_n = dh_n_.view<ConstRows>(), b.dc_n = dc_n_.view<ConstRows>();
    if (!(l_.unwanted >> kDx & 1)) {
      dx_ = rows(nullptr, I, true);
      if (l_.accumulate_dx)
        for (int64_t r = 0; r < p_.rows(); r++)
          for (int64_t c = 0; c < I; c++) dx_.set(r, c, 1), want_.dx[r * I + c] += 1;
    }
    dh0_ = state_gradient(kDh0, O), dc0_ = p_.has_c() ? state_gradient(kDc0, H) : Tensor();
    dw_ih_ = weight_gradient(kDwIh, G * H, I, want_.dw_ih), dw_hh_ = weight_gradient(kDwHh, G * H, O, want_.dw_hh);
    dw_hr_ = p_.projection ? weight_gradient(kDwHr, O, H, want_.dw_hr) : Tensor();
    db_ih_ = gradient(p_.dtype, kDb, G * H, 1), db_hh_ = gradient(p_.dtype, kDb, G * H, 1);
    b.dx = dx_.view<Rows>(), b.dh0 = dh0_.view<Rows>(), b.dc0 = dc0_.view<Rows>();
    b.accumulate_dx = l_.accumulate_dx, b.accumulate_dw = l_.accumulate_dw;
    b.dw_ih = dw_ih_.matrix<Matrix>(), b.dw_hh = dw_hh_.matrix<Matrix>(), b.dw_hr = dw_hr_.matrix<Matrix>();
    b.db_ih = db_ih_.matrix<Matrix>(), b.db_hh = db_hh_.matrix<Matrix>();
    return b;
  }
  void after_backward() {
    compare("", "dx", dx_, want_.dx, tolerance());
    compare("", "dh0", dh0_, want_.dh0, tolerance());
    compare("", "dc0", dc0_, want_.dc0, tolerance());
    compare("", "dw_ih", dw_ih_, want_.dw_ih, tolerance());
    compare("", "dw_hh", dw_hh_, want_.dw_hh, tolerance());
    compare("", "dw_hr", dw_hr_, want_.dw_hr, tolerance());
    compare("", "db_ih", db_ih_, want_.db, tolerance());
    compare("", "db_hh", db_hh_, want_.db, tolerance());
    if (dh0_.defined()) compare_most("dh0", dh0_, want_.dh0);
    if (std::memcmp(reserve_before_.data(), reserve_.data(), reserve_.size())) complain("backward changed the reserve");
    const Values y = y_.values();  // of which some may be NaN
    if (std::memcmp(y_before_.data(), y.data(), y.size() * sizeof(double))) complain("backward changed y");
  }

  void set_fused(bool fused) { is_fused_ = fused; }

  const std::string& errors() const { return errors_; }
  uint64_t digest() const { return digest_; }
  double worst() const { return worst_; }

 private:
  Tensor rows(const Values* v, int64_t width, bool per_row) {
    const int64_t n = per_row ? p_.rows() : p_.batch, gap = l_.gaps ? 3 : 0;
    if (v && v->empty()) return {};
    if (per_row && l_.batch_first && p_.sizes.empty())
      return fill({p_.dtype, n, width, p_.batch, width + gap, p_.steps * (width + gap), 1, shift()}, v);
    const int64_t batch = per_row && !p_.sizes.empty() ? std::max<int64_t>(n, 1) : p_.batch;
    return fill({p_.dtype, n, width, batch, batch * (width + gap), width + gap, 1, shift()}, v);
  }
  Tensor weights(const Values* v, int64_t n, int64_t columns) {
    if (v && v->empty()) return {};
    if (l_.strided) return fill({p_.dtype, n, columns, n, 0, 2 * columns + 1, 2, shift()}, v);
    if (l_.transposed_weights) return fill({p_.dtype, n, columns, n, 0, 1, n, shift()}, v);
    return fill({p_.dtype, n, columns, n, 0, columns + (l_.gaps && columns > 1 ? 3 : 0), 1, shift()}, v);
  }
  Tensor gradient(DType type, Gradients which, int64_t n, int64_t columns) {
    if (l_.unwanted >> which & 1) return {};
    if (l_.transposed_weights) return fill({type, n, columns, n, 0, 1, n, shift()}, nullptr);
    return fill({type, n, columns, n, 0, columns, 1, shift()}, nullptr);
  }
  Tensor weight_gradient(Gradients which, int64_t n, int64_t columns, Values& want) {
    if (!l_.accumulate_dw) return gradient(p_.dtype, which, n, columns);
    Tensor sum = gradient(p_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32, which, n, columns);
    if (!sum.defined()) return sum;
    for (double& w : want) w += 1;
    const Values ones(want.size(), 1);
    return fill(std::move(sum), &ones);
  }
  Tensor state_gradient(Gradients which, int64_t columns) {
    return l_.unwanted >> which & 1 ? Tensor() : rows(nullptr, columns, false);
  }
  size_t shift() const { return static_cast<size_t>(l_.shift); }
  Tensor fill(Tensor t, const Values* v) {
    for (int64_t r = 0; v && r < t.rows(); r++)
      for (int64_t c = 0; c < t.columns(); c++) t.set(r, c, (*v)[r * t.columns() + c]);
    return t;
  }

  void check_intact(const GuardedMemory& m, const char* name) {
    if (!m.intact()) complain(std::string(name) + ": written outside");
  }
  // Allowed, relative to 1 + |exact|: a few units of the type for what was rounded to it on the way.
  double y_tolerance() const {
    switch (p_.dtype) {
      case DType::kFloat64:
        return 1e-12;
      case DType::kFloat32:
        return run_.tf32 ? 1e-3 : 5e-6;
      case DType::kFloat16:
        return 3e-3;
      case DType::kBFloat16:
        return 2.5e-2;
    }
    return 0;
  }
  double tolerance() const { return y_tolerance() * 4; }

  void compare(const char* mode, const char* name, const Tensor& t, const Values& want, double tolerance) {
    if (!t.defined()) return;
    if (!t.intact()) complain(std::string(mode) + " " + name + ": written outside");
    const Values got = t.values();
    for (const double x : got) {
      uint64_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      digest_ = (digest_ ^ bits) * 0x100000001b3;
    }
    for (size_t i = 0; i < got.size(); i++) {
      if (std::isnan(got[i]) && std::isnan(want[i])) continue;
      const double error = std::fabs(got[i] - want[i]);
      const double allowed = exact_ ? 0 : tolerance * (1 + std::fabs(want[i])) * scale_;
      if (allowed > 0) worst_ = std::max(worst_, error / allowed);
      if (error <= allowed) continue;
      char text[160];
      std::snprintf(text, sizeof text, "%s %s[%zu] = %.9g, want %.9g +- %.2g", mode, name, i, got[i], want[i], allowed);
      return complain(text);
    }
  }
  // TF32 rounds where the reference does. Where a value lies between two roundings the two may differ by one, with all
  // that follows in this sequence; but most elements must agree much better than that. With a projection, persistent
  // kernels round other numbers: W_hh W_hr, and not h.
  void compare_most(const char* name, const Tensor& t, const Values& want) {
    if (!run_.tf32 || p_.dtype != DType::kFloat32 || p_.batch < 7 || exact_ || p_.projection || is_fused_) return;
    const Values got = t.values();
    size_t apart = 0;
    for (size_t i = 0; i < got.size(); i++)
      apart += std::fabs(got[i] - want[i]) > 2e-5 * (1 + std::fabs(want[i])) * scale_;
    if (apart > got.size() / 2) complain(std::string(name) + ": rounded to TF32 elsewhere than expected");
  }
  void complain(const std::string& what) { errors_ += (errors_.empty() ? "" : "; ") + what; }

  Problem p_;
  const Layout l_;
  const Run run_;
  Expected want_;
  BackwardParams params_;
  GuardedMemory reserve_;
  Tensor x_, w_ih_, w_hh_, w_hr_, b_ih_, b_hh_, h0_, c0_, y_, h_n_, c_n_;
  Tensor dy_, dh_n_, dc_n_, dx_, dh0_, dc0_, dw_ih_, dw_hh_, dw_hr_, db_ih_, db_hh_;
  Values y_before_;
  std::vector<char> reserve_before_;
  bool exact_ = false;
  bool is_fused_ = false;  // forward went by fused steps, which do not round to TF32
  double scale_ = 1, worst_ = 0;
  uint64_t digest_ = 0xcbf29ce484222325;
  std::string errors_;
};

// The layers of a stack, and dropout between them.
struct Stacked {
  bool yes = false;
  std::vector<unsigned char> kept;  // [layers - 1][R, H], empty: no dropout
  double scale = 1;
};

// Gives every layer but the first its input, y of the one below after dropout, and every layer but the last its dy.
inline void link_layers(std::vector<Problem>& layers, const Stacked& stack, bool tf32) {
  const auto drop = [&](const Values& v, size_t layer, bool rounds) {
    Values dropped = v;
    for (size_t i = 0; i < v.size() && !stack.kept.empty(); i++) {
      dropped[i] = stack.kept[layer * v.size() + i] ? v[i] * stack.scale : 0;
      if (rounds) dropped[i] = rounded(layers[0].dtype, dropped[i]);
    }
    return dropped;
  };
  for (Problem& p : layers) p.tf32 = tf32;
  for (size_t l = 1; l < layers.size(); l++) layers[l].x = drop(reference(layers[l - 1]).y, l - 1, true);
  for (size_t l = layers.size() - 1; l > 0; l--) layers[l - 1].dy = drop(reference(layers[l]).dx, l - 1, false);
}

// A call of one run or several. What is wrong, empty if nothing.
class CallCheck {
 public:
  CallCheck(std::vector<Problem> problems, const Layout& layout, const Run& run, const Stacked& stack = {})
      : run_(run), stack_(stack) {
    if (stack.yes) link_layers(problems, stack, run.tf32);
    Layout l = layout;
    for (const Problem& p : problems) {
      runs_.emplace_back(p, l, run);
      if (stack.yes) l.unwanted |= 1u << kDx;
    }
  }

  std::string operator()() {
    try {
      check();
    } catch (const std::exception& e) {
      complain(e.what());
    }
    for (const RunCheck& r : runs_)
      if (!r.errors().empty()) complain(r.errors());
    return errors_;
  }
  // Of every bit of every result.
  uint64_t digest() const {
    uint64_t all = 0;
    for (const RunCheck& r : runs_) all = all * 31 + r.digest();
    return all;
  }
  // The largest error over what was allowed.
  double worst() const {
    double worst = 0;
    for (const RunCheck& r : runs_) worst = std::max(worst, r.worst());
    return worst;
  }

 private:
  void check() {
    emulation::options().seed = run_.seed;
    for (RunCheck& r : runs_)
      if (!r.lay_out()) return;
    for (const bool keep : {false, true}) {
      std::vector<ForwardParams> params;
      for (RunCheck& r : runs_) params.push_back(r.before_forward(keep));
      const bool at_once = goes_at_once(params[0], false);
      for (size_t l = 1; at_once && l < params.size(); l++) params[l].x = {};
      call(params, at_once, cuda::forward_workspace_bytes, cuda::forward);
      const int together = stack_.yes && !at_once ? 1 : static_cast<int>(runs_.size());
      const cuda::Plan plan = cuda::plan_for(params[0], together, at_once, run_.context, false);
      for (RunCheck& r : runs_) {
        r.set_fused(plan.regime == cuda::Regime::kFusedSteps);
        r.after_forward(keep);
      }
      if (failed()) return;
    }
    std::vector<BackwardParams> params;
    for (RunCheck& r : runs_) params.push_back(r.before_backward());
    const bool at_once = goes_at_once(params[0], true);
    for (size_t l = 0; at_once && l + 1 < params.size(); l++) params[l].dy = {};
    call(params, at_once, cuda::backward_workspace_bytes, cuda::backward);
    for (RunCheck& r : runs_) r.after_backward();
  }

  bool goes_at_once(const ForwardParams& first, bool backward) const {
    return stack_.yes && cuda::stacks(first, static_cast<int64_t>(runs_.size()), run_.context, backward);
  }
  template <class Params>
  void call(std::vector<Params>& params, bool at_once,
            size_t (*bytes)(const cuda::RunsOf<Params>&, const cuda::Context&),
            cuda::Result (*kernels)(const cuda::RunsOf<Params>&, const cuda::Context&)) {
    if (stack_.yes && !at_once) {
      for (Params& p : params) call(p, cuda::RunsOf<Params>(p), bytes, kernels);
      return;
    }
    cuda::RunsOf<Params> runs(params.data(), static_cast<int>(params.size()));
    const GuardedMemory kept(stack_.kept.size());
    std::copy(stack_.kept.begin(), stack_.kept.end(), kept.data());
    if (at_once) runs.stacked = true, runs.scale = stack_.scale;
    if (at_once && !stack_.kept.empty()) runs.kept = reinterpret_cast<const unsigned char*>(kept.data());
    call(params[0], runs, bytes, kernels);
  }
  template <class Params>
  void call(Params& first, const cuda::RunsOf<Params>& runs,
            size_t (*bytes)(const cuda::RunsOf<Params>&, const cuda::Context&),
            cuda::Result (*kernels)(const cuda::RunsOf<Params>&, const cuda::Context&)) {
    const GuardedMemory workspace(bytes(runs, run_.context));
    // Where another call has been before, as in a CUDA graph that is replayed, or nothing but NaNs.
    if (run_.seed % 2) std::memset(workspace.data(), 0x3c, workspace.size());
    first.workspace = workspace.data();
    const cuda::Result r = kernels(runs, run_.context);
    if (!r.ok())
      complain("status " + std::to_string(static_cast<int>(r.status)) + " code " + std::to_string(r.code) + " from " +
               r.where);
    if (!workspace.intact()) complain("workspace: written outside");
  }
  bool failed() const {
    for (const RunCheck& r : runs_)
      if (!r.errors().empty()) return true;
    return !errors_.empty();
  }
  void complain(const std::string& what) { errors_ += (errors_.empty() ? "" : "; ") + what; }

  const Run run_;
  const Stacked stack_;
  std::vector<RunCheck> runs_;
  std::string errors_;
};

// Random values for a problem whose sizes are set. Cells without activations get small whole numbers, and few of them,
// so that every sum is exact.
inline void fill(Problem& p, std::mt19937_64& random, bool states, bool biases) {
  const bool linear = std::string(cell_info(p.cell).name).find("LINEAR") != std::string::npos;
  const auto values = [&](int64_t n, double scale) {
    std::normal_distribution<double> normal;
    Values v(n);
    for (double& x : v)
      x = linear ? (random() % 4 == 0 ? static_cast<double>(random() % 3) - 1 : 0)
                 : rounded(p.dtype, scale * normal(random));
    return v;
  };
  p.offsets.clear();
  if (!p.sizes.empty()) {
    p.offsets.push_back(0);
    for (const int64_t n : p.sizes) p.offsets.push_back(p.offsets.back() + n);
  }
  const int64_t R = p.rows(), O = p.output(), W = p.gates() * p.hidden;
  const double scale = 1 / std::sqrt(static_cast<double>(p.hidden));
  p.x = values(R * p.input, 1), p.w_ih = values(W * p.input, scale), p.w_hh = values(W * O, scale);
  p.w_hr = values(p.projection * p.hidden, scale);
  if (biases) p.b_ih = values(W, .3), p.b_hh = values(W, .3);
  if (states) p.h0 = values(p.batch * O, .5);
  if (states && p.has_c()) p.c0 = values(p.batch * p.hidden, .5);
  p.dy = values(R * O, 1), p.dh_n = values(p.batch * O, 1);
  if (p.has_c()) p.dc_n = values(p.batch * p.hidden, 1);
}

inline std::string to_string(const Problem& p, const Layout& l) {
  static const char* const kNames[] = {"f32", "f64", "bf16", "f16"};
  std::string s =
      std::string(cell_info(p.cell).name) + " " + kNames[static_cast<int>(p.dtype)] + " T=" + std::to_string(p.steps) +
      " N=" + std::to_string(p.batch) + " I=" + std::to_string(p.input) + " H=" + std::to_string(p.hidden) +
      " P=" + std::to_string(p.projection) + (p.reverse ? " reverse" : "") + (p.sizes.empty() ? "" : " packed") +
      (p.h0.empty() ? " no-state" : "") + (p.b_ih.empty() ? " no-bias" : "") + (l.batch_first ? " batch-first" : "") +
      (l.gaps ? " gaps" : "") + (l.transposed_weights ? " transposed" : "") + (l.strided ? " strided" : "") +
      (l.one_h0 ? " one-h0" : "") + (l.accumulate_dx ? " accumulate" : "") + (l.accumulate_dw ? " add-dw" : "");
  return s + " shift=" + std::to_string(l.shift) + " unwanted=" + std::to_string(l.unwanted);
}

}  // namespace lstmfast
