// The cell's part of a step in second derivatives: the tangent of a step, and the gradient and its tangent together.
//
// What a call has saved is the value, the tangents are the caller's; the cell runs on dual numbers. Products with
// weights are the caller's as well (csrc/torch/tangents.cpp).
#pragma once
#include "../core/dual.h"
#include "layout.h"
#include "plan.h"

namespace lstmfast::LF_ISA {

template <class Cell, class C, class Math>
class Tangents {
  using P = Panels<Cell, C>;
  using D = Dual<Vec<C>>;
  static constexpr int kWidth = kLanes<C>;

 public:
  Tangents(const cpu::TangentParams& p, const cpu::Plan& plan)
      : p_(p),
        steps_(p.shape),
        hidden_(p.shape.hidden),
        records_{static_cast<C*>(const_cast<void*>(p.reserve)), P::kRecord, P::count(hidden_), plan.forward_steps,
                 &steps_} {}
  Tangents(const Tangents&) = delete;
  Tangents& operator=(const Tangents&) = delete;

  // dm, dc <- dpre
  void forward(const cpu::TangentStep& s) const {
    for_points(s, [&](int64_t n, int64_t unit, const Point& at) {
      store_first(row(s.dm, n) + unit, at.out[0].tangent, hidden_ - unit);
      if (s.m) store_first(row(s.m, n) + unit, at.out[0].value, hidden_ - unit);
      if constexpr (P::kPrivate > 0)
        store_first(row(p_.dc, steps_.first_row(s.t) + n) + unit, at.out[1].tangent, hidden_ - unit);
    });
  }

  // gates <- by_m, by_c; by_c of the step before
  void backward(const cpu::GradientTangentStep& s) const {
    const int64_t active = steps_.active(s.t), batch = steps_.batch();
    for_points(s, [&](int64_t n, int64_t unit, const Point& at) {
      const int64_t left = hidden_ - unit;
      D dout[Cell::kStates], dpre[Cell::kGates], din[Cell::kStates];
      dout[0] = {load_first(row(s.by_m, n) + unit, left), load_first(row(s.by_m, active + n) + unit, left)};
      C *by_c = nullptr, *d_by_c = nullptr;
      if constexpr (P::kPrivate > 0) {
        by_c = row(s.by_c, n) + unit, d_by_c = row(s.by_c, batch + n) + unit;
        dout[1] = {load_first(by_c, left), load_first(d_by_c, left)};
      }
      Cell::template backward<DualMath<Math>>(at.saved, at.in, at.out, dout, dpre, din);
      for (int g = 0; g < Cell::kGates; g++) {
        store_first(gate(s.gates, n, g) + unit, dpre[g].value, left);
        store_first(gate(s.gates, active + n, g) + unit, dpre[g].tangent, left);
      }
      if constexpr (P::kPrivate > 0) store_first(by_c, din[1].value, left), store_first(d_by_c, din[1].tangent, left);
    });
  }

 private:
  // A pack of units of one sequence in one step.
  struct Point {
    D saved[Cell::kSaved], in[Cell::kStates], out[Cell::kStates];
  };
  C* row(void* base, int64_t n) const { return static_cast<C*>(base) + n * hidden_; }
  const C* row(const void* base, int64_t n) const { return static_cast<const C*>(base) + n * hidden_; }
  C* gate(void* base, int64_t n, int g) const { return row(base, n * Cell::kGates + g); }

  template <class F>
  void for_points(const cpu::TangentStep& s, const F& f) const {
    const int64_t started = steps_.started(s.t), before = steps_.previous(s.t), first = steps_.first_row(s.t);
    const auto state = [&](const void* initial, int64_t n, int64_t unit) {
      return initial ? load_first(row(initial, n) + unit, hidden_ - unit) : Vec<C>{};
    };
    for (int64_t n = s.begin; n < s.end; n++)
      for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
        const int64_t panel = unit / P::kUnits;
        const int pack = static_cast<int>(unit % P::kUnits) / kWidth;
        const C* record = records_.at(s.t, panel, n);
        Point at;
        D pre[Cell::kGates];
        for (int g = 0; g < Cell::kGates; g++)
          pre[g] = {load(record + P::offset(g, pack)), load_first(gate(p_.dpre, first + n, g) + unit, hidden_ - unit)};
        Cell::template activate<KnownMath<Math>>(pre, at.saved);
        at.in[0] = D{};  // h enters through the product alone
        if constexpr (P::kPrivate > 0) {
          if (n < started)
            at.in[1] = {load(records_.at(before, panel, n) + kPanel<C> + pack * kWidth),
                        load_first(row(p_.dc, steps_.first_row(before) + n) + unit, hidden_ - unit)};
          else
            at.in[1] = {state(p_.c0, n, unit), state(p_.dc0, n, unit)};
        }
        Cell::template combine<DualMath<Math>>(at.saved, at.in, at.out);
        f(n, unit, at);
      }
  }

  const cpu::TangentParams& p_;
  const Steps steps_;
  const int64_t hidden_;
  const Records<C> records_;
};

}  // namespace lstmfast::LF_ISA
