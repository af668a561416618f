// The persistent kernels: one launch runs the recurrence of a whole sequence. Every block holds its part of W_hh in
// registers and goes through the steps; per step and block, one product, the cell, one exchange (exchange.cuh).
//
// A launch goes through several runs, the blocks of one after those of the other: both directions of a layer, which
// share nothing, or the layers of a stack. There layer l is at step t while the next one is at step t - 1: its blocks
// hold W_ih too, and its operand has two parts, what the layer beside handed on (h after dropout going forward, gate
// gradients going backward) and the group's own. Either part has slices of its own, so that backward can apply dropout
// to the sums of the first.
//
// Where W_hh does not fit into the registers, a part of it stays in shared memory, and the product goes through the
// depth in pieces: pieces.cuh.
//
// Geometry: a group of blocks has all of W_hh and owns `tiles` x 8 sequences; block r of a group owns unit_warps x
// warp_units hidden units. `slices` warps share units and split the depth of the product; their sums meet in shared
// memory, and tile j is then finished by slice j % slices. With one slice the sums never leave the registers.
//
// Memory traffic per step and hidden unit, beside the exchange: forward reads G pre-activations and writes y, and what
// backward needs (G values and c); backward reads that, c of the step before and dy, and writes G gate gradients.
// Weights are read once. The cell's private state stays in shared memory.
// Barriers per step: those of the exchange, and with several slices one more of the block.
#pragma once
#include <type_traits>

#include "pieces.cuh"

namespace lstmfast::cuda {

template <class T>
LF_DEVICE T weight_at(const ConstMatrix& w, int r, int c) {
  return static_cast<const T*>(w.data)[r * w.row_stride + c * w.col_stride];
}

// One step's product. `load(j)` starts to read what tile j's cell needs: before the product and, for the first tile,
// before the exchange. `finish(j, loaded, sums)` is the cell. In a stack, `pass(loaded, sums)` applies dropout to the
// product with what the layer beside has handed on.
template <class Multiplier, class S, class Shared, class Exchange, class Load, class Pass, class Finish>
LF_DEVICE void product_and_cell(const Place& at, const Weights<S>& weights, const Shared& shared,
                                const Exchange& exchange, int s, const Load& load, const Pass& pass,
                                const Finish& finish) {
  auto loaded = load(at.slice);
  exchange.acquire(s);
  const int depth = at.slice * S::kDepthTiles * kTileBytes;
  const auto multiply = [&](int j) {
    exchange.arrive(s, j);
    dev::sync_warp();  // lanes may come from different branches of the cell
    Sums<S> sums{};
    Multiplier::multiply(sums, weights, exchange.tile(s, j) + depth, at.t.pitch, at.lane);
    return sums;
  };
  const bool alone = at.t.slices == 1;
  if (!alone) {
#pragma unroll 1
    for (int j = 0; j < at.t.tiles; j++) shared.store(at, j, multiply(j));
    dev::sync_block();
  }
#pragma unroll 1
  for (int j = at.slice; j < at.t.tiles; j += at.t.slices) {
    if (j != at.slice) loaded = load(j);
    if constexpr (Exchange::kStacked) {
      Sums<S> sums{};
      shared.add_slices(sums, at, j, 0, at.t.own_slice);
      pass(loaded, sums);
      shared.add_slices(sums, at, j, at.t.own_slice, at.t.slices);
      finish(j, loaded, sums);
    } else if (alone) {
      finish(j, loaded, multiply(j));
    } else {
      Sums<S> sums{};
      shared.add_slices(sums, at, j, 0, at.t.slices);
      finish(j, loaded, sums);
    }
  }
}

// What both kernels stand on: this block's run, its place, its memory. Threads have `groups` hidden units each.
template <class Params, class Multiplier, class S, int groups, template <class> class ExchangePolicy>
struct PersistentKernel {
  using T = typename Multiplier::Element;
  static constexpr int kGroups = groups;
  static constexpr bool kSplit = std::is_same_v<ExchangePolicy<T>, ThroughL2InPieces<T>>;

  const Params& p;
  const typename Params::Run& r;
  const Place at;
  const SharedMemory<S, kGroups * 2> shared;
  const ExchangePolicy<T> exchange;

  LF_DEVICE explicit PersistentKernel(const Params& params)
      : p(params),
        r(p.runs[run_index(p.plan.tiling)]),
        at(p.plan.tiling),
        shared(p.plan.tiling, kSplit ? p.plan.tiling.weight_bytes() : 0, ExchangePolicy<T>::rows(p.plan.tiling)),
        exchange(p, shared.operand) {}

  LF_DEVICE int unit(int group) const { return at.unit + group * 8; }
  // The weights of the warp's rows and slice; weight(half, unit, depth) is the element of one row: that of a hidden
  // unit in the first group of eight.
  template <bool transposed, class F>
  LF_DEVICE auto take_weights(const F& weight) const {
    constexpr int kTileDepth = kTileBytes / static_cast<int>(sizeof(T));
    const int first = at.unit - at.g;
    if constexpr (kSplit) {
      SplitWeights<S> weights(at);
      weights.template load<Multiplier, transposed>(at, shared.operand, [&](int half, int g, int depth) {
        return weight(half, first + g, SplitWeights<S>::template whole_depth<T>(at, depth));
      });
      dev::sync_block();  // the others' weights have left shared memory
      return weights;
    } else {
      Weights<S> weights;
      const int depth0 = at.slice * S::kDepthTiles * kTileDepth;
      load_weights<Multiplier, transposed>(
          weights, shared.operand + at.warp * Staging<S>::kBytes, at.lane,
          [&](int half, int g, int depth) { return weight(half, first + g, depth0 + depth); });
      dev::sync_block();  // the weights have left shared memory
      return weights;
    }
  }
  // The matrix that element `col` of the operand multiplies, and where in it.
  static LF_DEVICE const ConstMatrix& weights_of(const typename Params::Run& r, const Tiling& t, int& col) {
    if constexpr (ExchangePolicy<T>::kStacked) {
      const int own = t.own_slice * S::kDepthTiles * (kTileBytes / static_cast<int>(sizeof(T)));
      if (col < own) return r.w_beside;
      col -= own;
    }
    return r.w_hh;
  }
};

template <class Cell, class Multiplier, class S, template <class> class ExchangePolicy>
struct PersistentForwardKernel
    : PersistentKernel<PersistentForward, Multiplier, S, S::kHalves / Cell::kGates, ExchangePolicy> {
  using Base = PersistentKernel<PersistentForward, Multiplier, S, S::kHalves / Cell::kGates, ExchangePolicy>;
  using Base::p, Base::r, Base::at, Base::shared, Base::exchange, Base::unit, Base::kGroups;
  using typename Base::T;
  static constexpr int kGates = Cell::kGates;
  static_assert(kGroups * kGates == S::kHalves, "a warp's rows are all gates of its units");

  struct Pre {
    float at[kGroups][2][kGates];
  };
  static constexpr bool kStacked = ExchangePolicy<T>::kStacked;

  using Base::Base;

  LF_DEVICE void run() {
    const auto weights = Base::template take_weights<false>([&](int half, int first, int col) {
      const int u = first + half / kGates * 8;
      const ConstMatrix& w = Base::weights_of(r, at.t, col);
      return u < p.hidden && col < p.hidden && w.data ? weight_at<T>(w, half % kGates * p.hidden + u, col) : T{};
    });
    start();
#pragma unroll 1
    for (int s = 0; s < p.steps; s++) {
      // Looked up anew, not carried over: registers are short.
      const DeviceStep step = device_step(p, r.reverse ? p.steps - 1 - s : s);
      const int go_on = device_step(p, r.reverse ? step.t - 1 : step.t + 1).active;
      product_and_cell<Multiplier>(
          at, weights, shared, exchange, s, [&](int j) { return load(step, j); },
          [](const Pre&, Sums<S>&) {},  // dropout was applied before the product
          [&](int j, const Pre& pre, const Sums<S>& sums) { finish(s, step, go_on, j, pre, sums); });
      exchange.release(s + 1);
    }
  }

  // Biases, the initial state, and h0 as the operand of the first step.
  LF_DEVICE void start() const {
    if (at.slice == 0 && at.q == 0)
#pragma unroll
      for (int half = 0; half < S::kHalves; half++) {
        const int u = unit(half / kGates), row = half % kGates * p.hidden + u;
        float bias = 0;
        if (r.b_ih && u < p.hidden) bias += converted<float>(static_cast<const T*>(r.b_ih)[row]);
        if (r.b_hh && u < p.hidden) bias += converted<float>(static_cast<const T*>(r.b_hh)[row]);
        shared.bias(at, half) = bias;
      }
    if constexpr (Cell::kStates > 1)
      for (int j = at.slice; j < at.t.tiles; j += at.t.slices)
#pragma unroll
        for (int i = 0; i < kGroups * 2; i++) {
          const int n = at.first + at.local(j, i % 2), u = unit(i / 2);
          const bool given = r.c0.data && n < p.batch && u < p.hidden;
          shared.own(at, j, i) = given ? converted<float>(row<T>(r.c0, n)[u]) : 0.f;
        }
    shared.clear_operand();
    dev::sync_block();
    exchange.begin();
    for (int j = at.slice; r.h0.data && j < at.t.tiles; j += at.t.slices)
#pragma unroll
      for (int i = 0; i < kGroups * 2; i++) {
        const int local = at.local(j, i % 2), n = at.first + local, u = unit(i / 2);
        if (n < p.batch && u < p.hidden) exchange.put(0, local, u, Multiplier::rounded(row<T>(r.h0, n)[u]));
      }
    exchange.release(0);
  }

  LF_DEVICE float* gates(const DeviceStep& step, int n) const {
    return static_cast<float*>(r.gates) + (step.row + n) * kGates * p.hidden + at.unit;
  }

  LF_DEVICE Pre load(const DeviceStep& step, int j) const {
    Pre pre{};
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int n = at.first + at.local(j, e);
      if (j >= at.t.tiles || n >= step.active) continue;
      if constexpr (kStacked)
        if (r.w_beside.data) continue;  // they come out of the product
      const float* from = gates(step, n);
#pragma unroll
      for (int group = 0; group < kGroups; group++)
#pragma unroll
        for (int gate = 0; gate < kGates; gate++)
          if (unit(group) < p.hidden) pre.at[group][e][gate] = from[gate * p.hidden + group * 8];
    }
    return pre;
  }

  // The first `go_on` sequences have a step after this one.
  LF_DEVICE void finish(int s, const DeviceStep& step, int go_on, int j, const Pre& pre, const Sums<S>& sums) const {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int local = at.local(j, e), n = at.first + local;
      if (n >= p.batch) continue;
#pragma unroll
      for (int group = 0; group < kGroups; group++) {
        const int u = unit(group);
        if (u >= p.hidden) continue;
        if (n >= step.active) {  // it has ended, or not begun: what it had stays
          exchange.put(s + 1, local, u, exchange.held(s, local, u));
          continue;
        }
        float x[kGates], in[Cell::kStates], out[Cell::kStates], keep[Cell::kSaved];
#pragma unroll
        for (int gate = 0; gate < kGates; gate++)
          x[gate] =
              sums.of(group * kGates + gate, e) + (pre.at[group][e][gate] + shared.bias(at, group * kGates + gate));
        in[0] = 0;  // h enters through the product alone
        if constexpr (Cell::kStates > 1) in[1] = shared.own(at, j, group * 2 + e);
        Cell::template forward<MathFor<T>>(x, in, out, keep);
        const T h = converted<T>(out[0]);
        exchange.put(s + 1, local, u, Multiplier::rounded(h));
        row_at<T>(r.y, p, step, n)[u] = h;
        if constexpr (kStacked) {
          const bool kept = !r.kept || r.kept[(step.row + n) * p.hidden + u];
          const T up = r.kept ? converted<T>(kept ? converted<float>(h) * p.scale : 0.f) : h;
          exchange.hand_on(s, local, u, Multiplier::rounded(up));
        }
        const bool ends = n >= go_on;
        if (ends && r.h_n.data) row<T>(r.h_n, n)[u] = h;
        if (p.keep) {
          float* to = gates(step, n);
#pragma unroll
          for (int i = 0; i < Cell::kSaved; i++) to[i * p.hidden + group * 8] = keep[i];
        }
        if constexpr (Cell::kStates > 1) {
          shared.own(at, j, group * 2 + e) = out[1];
          if (p.keep) static_cast<float*>(r.c)[(step.row + n) * p.hidden + u] = out[1];
          if (ends && r.c_n.data) convert(row<T>(r.c_n, n)[u], out[1]);
        }
      }
    }
  }
};

template <class Cell, class Multiplier, class S, template <class> class ExchangePolicy>
struct PersistentBackwardKernel
    : PersistentKernel<PersistentBackward, Multiplier, S, S::kHalves, ExchangePolicy> {  // a hidden unit is one row
  using Base = PersistentKernel<PersistentBackward, Multiplier, S, S::kHalves, ExchangePolicy>;
  using Base::p, Base::r, Base::at, Base::shared, Base::exchange, Base::unit, Base::kGroups;
  using typename Base::T;
  static constexpr int kGates = Cell::kGates;

  static constexpr bool kStacked = ExchangePolicy<T>::kStacked;

  // What the cell needs of one step, for the thread's units and sequences.
  struct Saved {
    float gates[kGroups][2][Cell::kSaved], c[kGroups][2], c_before[kGroups][2], dy[kGroups][2];
    unsigned kept;  // in a stack: what goes on of the gradient from the layer above, a bit each
  };

  using Base::Base;

  LF_DEVICE void run() {
    const auto weights = Base::template take_weights<true>([&](int half, int first, int col) {
      const ConstMatrix& w = Base::weights_of(r, at.t, col);
      const int u = first + half * 8, gate = col / p.gate_width, from = col % p.gate_width;
      const bool inside = u < p.hidden && gate < kGates && from < p.hidden && w.data;
      return inside ? weight_at<T>(w, gate * p.hidden + from, u) : T{};
    });
    shared.clear_operand();
    dev::sync_block();
    exchange.begin();
    exchange.release(0);  // zeros: the product of the first step is not used
    // Against forward's order. After the last step one more product gives the gradient of h0.
    DeviceStep after = device_step(p, -1), step = device_step(p, r.reverse ? 0 : p.steps - 1);
    const int products = p.steps + (r.dh0.data || r.dc0.data ? 1 : 0);
#pragma unroll 1
    for (int s = 0; s < products; s++) {
      const DeviceStep before = device_step(p, r.reverse ? step.t + 1 : step.t - 1);
      product_and_cell<Multiplier>(
          at, weights, shared, exchange, s, [&](int j) { return load(step, before, j); },
          [&](const Saved& saved, Sums<S>& sums) { pass(saved, sums); },
          [&](int j, const Saved& saved, const Sums<S>& sums) { finish(s, after, step, j, saved, sums); });
      exchange.release(s + 1);
      after = step, step = before;
    }
  }

  // Selected, not multiplied: where there is no gradient from above, there may be anything.
  LF_DEVICE void pass(const Saved& saved, Sums<S>& x) const {
    const float scale = r.kept ? p.scale : 1.f;
#pragma unroll
    for (int i = 0; i < S::kRowTiles * 4; i++) {
      float& sum = x.at[i / 4][i % 4];
      sum = saved.kept >> i & 1 ? sum * scale : 0.f;
    }
  }

  LF_DEVICE Saved load(const DeviceStep& step, const DeviceStep& before, int j) const {
    Saved saved{};
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int n = at.first + at.local(j, e);
      if (j >= at.t.tiles || n >= step.active) continue;
      const int64_t at_row = step.row + n;
      const float* gates = static_cast<const float*>(r.gates) + at_row * kGates * p.hidden + at.unit;
#pragma unroll
      for (int group = 0; group < kGroups; group++) {
        if (unit(group) >= p.hidden) continue;
        if constexpr (kStacked)
          if (r.w_beside.data && (!r.kept || r.kept[at_row * p.hidden + unit(group)]))
            saved.kept |= 1u << (group * 2 + e);
#pragma unroll
        for (int i = 0; i < Cell::kSaved; i++) saved.gates[group][e][i] = gates[i * p.hidden + group * 8];
        if (r.dy.data) saved.dy[group][e] = converted<float>(row_at<T>(r.dy, p, step, n)[unit(group)]);
        if constexpr (Cell::kStates > 1) {
          const float* c = static_cast<const float*>(r.c) + unit(group);
          saved.c[group][e] = c[at_row * p.hidden];
          if (n < before.active)
            saved.c_before[group][e] = c[(before.row + n) * p.hidden];
          else if (r.c0.data)
            saved.c_before[group][e] = converted<float>(row<T>(r.c0, n)[unit(group)]);
        }
      }
    }
    return saved;
  }

  LF_DEVICE void finish(int s, const DeviceStep& after, const DeviceStep& step, int j, const Saved& saved,
                        const Sums<S>& sums) const {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int local = at.local(j, e), n = at.first + local;
      if (n >= p.batch) continue;
      const bool goes_on = n < after.active;  // in forward's order; else this is the sequence's last step, or none
#pragma unroll
      for (int group = 0; group < kGroups; group++) {
        const int u = unit(group);
        if (u >= p.hidden) continue;
        float dh = sums.of(group, e);
        if (n >= step.active) {
          if (goes_on) {  // the step after this one was the sequence's first
            if (r.dh0.data) convert(row<T>(r.dh0, n)[u], dh);
            if constexpr (Cell::kStates > 1)
              if (r.dc0.data) convert(row<T>(r.dc0, n)[u], shared.own(at, j, group * 2 + e));
          }
          continue;
        }
        if (!goes_on) {
          // In a stack the sums are then those of the layer above alone: of its own the sequence has put nothing yet.
          const float dh_n = r.dh_n.data ? converted<float>(row<T>(r.dh_n, n)[u]) : 0.f;
          dh = kStacked ? dh + dh_n : dh_n;
        }
        float keep[Cell::kSaved], in[Cell::kStates], out[Cell::kStates], dout[Cell::kStates], dpre[kGates],
            din[Cell::kStates];
#pragma unroll
        for (int i = 0; i < Cell::kSaved; i++) keep[i] = saved.gates[group][e][i];
        in[0] = out[0] = 0;  // h is not read: see cells.h
        dout[0] = dh + saved.dy[group][e];
        if constexpr (Cell::kStates > 1) {
          in[1] = saved.c_before[group][e], out[1] = saved.c[group][e];
          dout[1] = goes_on       ? shared.own(at, j, group * 2 + e)
                    : r.dc_n.data ? converted<float>(row<T>(r.dc_n, n)[u])
                                  : 0.f;
        }
        Cell::template backward<MathFor<T>>(keep, in, out, dout, dpre, din);
        if constexpr (Cell::kStates > 1) shared.own(at, j, group * 2 + e) = din[1];
        T* dgates = static_cast<T*>(r.dgates) + (step.row + n) * kGates * p.hidden + u;
#pragma unroll
        for (int gate = 0; gate < kGates; gate++) {
          const T d = converted<T>(dpre[gate]);
          dgates[gate * p.hidden] = d;
          exchange.put(s + 1, local, gate * p.gate_width + u, Multiplier::rounded(d));
          if constexpr (kStacked) exchange.hand_on(s, local, gate * p.gate_width + u, Multiplier::rounded(d));
        }
      }
    }
  }
};

}  // namespace lstmfast::cuda
