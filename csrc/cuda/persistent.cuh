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

#include "mailbox.cuh"
#include "pieces.cuh"

namespace lstmfast::cuda {

template <class T>
LF_DEVICE T weight_at(const ConstMatrix& w, int r, int c) {
  return static_cast<const T*>(w.data)[r * w.row_stride + c * w.col_stride];
}

// One step's product. `load(j)` starts to read what tile j's cell needs: before the product and, for the first tile,
// before the exchange. In a stack, `pass(loaded, sums)` applies dropout to the product with what the layer beside has
// handed on. `finish` and `store`: run_cells() in block.cuh.
template <class Multiplier, class S, class Shared, class Exchange, class Load, class Pass, class Finish, class Store>
LF_DEVICE void product_and_cell(const Place& at, const Weights<S>& weights, const Shared& shared,
                                const Exchange& exchange, int s, const Load& load, const Pass& pass,
                                const Finish& finish, const Store& store) {
  auto loaded = load(at.slice);
  exchange.acquire(s);
  const auto multiply = [&](int j) {
    exchange.template arrive<S>(s, j);
    dev::sync_warp();  // lanes may come from different branches of the cell
    Sums<S> sums{};
    // Where a lane reads is found anew for each tile, not kept in a register.
    const int depth = dev::anew(at.slice) * S::kDepthTiles * kTileBytes;
    Multiplier::multiply(sums, weights, exchange.tile(s, j) + depth, at.t.pitch, dev::anew(at.lane));
    return sums;
  };
  const bool alone = at.t.slices == 1;
  if (!alone) {
    int j = 0;  // not counted beforehand, which would take a register
#pragma unroll 1
    do shared.store(at, j, multiply(j));
    while ((j = dev::anew(j + 1)) < at.t.tiles);
    dev::sync_block();
  }
  const auto cell = [&](int j) {
    if (j != at.slice) loaded = load(j);
    Sums<S> sums{};
    if constexpr (Exchange::kStacked) {
      shared.add_slices(sums, at, j, 0, at.t.own_slice);
      pass(loaded, sums);
      shared.add_slices(sums, at, j, at.t.own_slice, at.t.slices);
    } else if (alone) {
      sums = multiply(j);
    } else {
      shared.add_slices(sums, at, j, 0, at.t.slices);
    }
    return finish(j, loaded, sums);
  };
  run_cells(at, exchange, s, 0, at.t.tiles, cell, store);
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
  const SharedMemory<S, kGroups * 2, std::is_same_v<Params, PersistentForward>> shared;
  const ExchangePolicy<T> exchange;

  LF_DEVICE explicit PersistentKernel(const Params& params)
      : p(params),
        r(p.runs[dev::run_index()]),
        at(p.plan.tiling),
        shared(p.plan.tiling, kSplit ? p.plan.tiling.weight_bytes() : 0, ExchangePolicy<T>::shared_bytes(p)),
        exchange(p, shared.operand) {}

  LF_DEVICE int unit(int group) const { return at.unit + group * 8; }
  // Whether a step has sequence n, and the layer the thread's unit of a group.
  LF_DEVICE bool works(const DeviceStep& step, int n, int group) const {
    return n < step.active && unit(group) < p.hidden;
  }
  // Memory [R, parts * H] at the first of the thread's units in the row of sequence n; part() is i parts further on.
  template <class E>
  LF_DEVICE E* cell(E* data, const DeviceStep& step, int n, int parts = 1) const {
    return rows_on(data + at.unit, step.row + n, parts * p.hidden * static_cast<int>(sizeof(E)));
  }
  template <class E>
  LF_DEVICE E* part(E* data, int i) const {
    return rows_on(data, i, p.hidden * static_cast<int>(sizeof(E)));
  }
  // The first of the thread's units in the row of sequence n.
  template <class E, class P>
  LF_DEVICE auto* units(const RowsOf<P>& rows, const DeviceStep& step, int n) const {
    using Units = std::conditional_t<std::is_const_v<P>, const E, E>;
    return static_cast<Units*>(rows.data) + (p.offsets ? step.row : step.t) * rows.step_stride + n * rows.row_stride +
           at.unit;
  }
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
  using Base::p, Base::r, Base::at, Base::shared, Base::exchange, Base::unit, Base::works, Base::kGroups;
  using typename Base::T;
  static constexpr int kGates = Cell::kGates;
  static_assert(kGroups * kGates == S::kHalves, "a warp's rows are all gates of its units");

  // What the cell needs of one step, for the thread's units and sequences, and what it leaves.
  struct Pre {
    float at[kGroups][2][kGates];
    unsigned kept;  // in a stack: what goes on of y to the layer above, a bit each
  };
  struct Results {
    T h[kGroups][2];
    float saved[kGroups][2][Cell::kSaved], c[kGroups][2];
  };
  static constexpr bool kStacked = ExchangePolicy<T>::kStacked, kMailed = ExchangePolicy<T>::kMailed;

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
      product_and_cell<Multiplier>(
          at, weights, shared, exchange, s, [&](int j) { return load(step, j); },
          [](const Pre&, Sums<S>&) {},  // dropout was applied before the product
          [&](int j, const Pre& pre, const Sums<S>& sums) { return finish(s, step, j, pre, sums); },
          [&](int j, const Results& results) { store(step, j, results); });
    }
    exchange.end();
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
    for (int j = at.slice; r.h0.data && j < at.t.tiles; j += at.t.slices) {
      if constexpr (kMailed)
        mail(0, DeviceStep{}, j, {});
      else
        place_initial_state(j);
    }
    exchange.release(0);
  }

  LF_DEVICE void place_initial_state(int j) const {
#pragma unroll
    for (int i = 0; i < kGroups * 2; i++) {
      const int local = at.local(j, i % 2), n = at.first + local, u = unit(i / 2);
      if (n < p.batch && u < p.hidden) *exchange.place(0, local, u) = Multiplier::rounded(row<T>(r.h0, n)[u]);
    }
    exchange.template send<kGroups * 8, 1>(0, j, at.unit);
  }

  LF_DEVICE Pre load(const DeviceStep& step, int j) const {
    Pre pre{};
    if (j >= at.t.tiles) return pre;
    const int n = at.first + at.local(j, 0);
    if constexpr (kStacked) {
      if (r.kept) {
        const unsigned char* kept = Base::cell(r.kept, step, n);
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
          for (int group = 0; group < kGroups; group++)
            if (works(step, n + e, group) && Base::part(kept, e)[group * 8]) pre.kept |= 1u << (group * 2 + e);
      }
      if (r.w_beside.data) return pre;  // they come out of the product
    }
    const float* from = Base::cell(static_cast<const float*>(r.gates), step, n, kGates);
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int gate = 0; gate < kGates; gate++)
#pragma unroll
        for (int group = 0; group < kGroups; group++)
          if (works(step, n + e, group)) pre.at[group][e][gate] = Base::part(from, e * kGates + gate)[group * 8];
    return pre;
  }

  // Every lane computes, whether there is something for it or not: so the cells of a thread need no branches, and the
  // latencies of their activations overlap.
  LF_DEVICE Results finish(int s, const DeviceStep& step, int j, const Pre& pre, const Sums<S>& sums) const {
    Results results;
#pragma unroll
    for (int group = 0; group < kGroups; group++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float x[kGates], in[Cell::kStates], out[Cell::kStates];
#pragma unroll
        for (int gate = 0; gate < kGates; gate++)
          x[gate] =
              sums.of(group * kGates + gate, e) + (pre.at[group][e][gate] + shared.bias(at, group * kGates + gate));
        in[0] = 0;  // h enters through the product alone
        if constexpr (Cell::kStates > 1) in[1] = shared.own(at, j, group * 2 + e);
        Cell::template forward<MathFor<T>>(x, in, out, results.saved[group][e]);
        results.h[group][e] = converted<T>(out[0]);
        if constexpr (Cell::kStates > 1) results.c[group][e] = out[1];
      }
    if constexpr (kMailed) mail(s + 1, step, j, results.h);
    const int local = at.local(j, 0), n = at.first + local;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      T* to = nullptr;
      if constexpr (!kMailed) to = exchange.place(s + 1, local + e, at.unit);
#pragma unroll
      for (int group = 0; group < kGroups; group++) {
        if (!works(step, n + e, group)) continue;
        const T h = results.h[group][e];
        if constexpr (!kMailed) to[group * 8] = Multiplier::rounded(h);
        if constexpr (Cell::kStates > 1) shared.own(at, j, group * 2 + e) = results.c[group][e];
        if constexpr (kStacked) {
          const bool kept = pre.kept >> (group * 2 + e) & 1;
          const T up = r.kept ? converted<T>(kept ? converted<float>(h) * p.scale : 0.f) : h;
          if (exchange.feeds) *exchange.handed_on(s, local + e, unit(group)) = Multiplier::rounded(up);
        }
      }
    }
    if constexpr (!kMailed) {
      if (step.active < p.batch) stay(s, step, j);
      exchange.template send<kGroups * 8, 1>(s + 1, j, at.unit);
    }
    return results;
  }
  // Where the step has computed nothing, what a sequence begins with: one that has not begun needs it, one that has
  // ended needs nothing, and units that do not exist are zero.
  LF_DEVICE void mail(int s, const DeviceStep& step, int j, const T (&h)[kGroups][2]) const {
    const int local = at.local(j, 0), n = at.first + local;
    exchange.template mail<kGroups, 1>(s, local, at.unit, [&](int group, int, int e) {
      if (works(step, n + e, group)) return Multiplier::rounded(h[group][e]);
      const bool given = r.h0.data && n + e < p.batch && unit(group) < p.hidden;
      return given ? Multiplier::rounded(row<T>(r.h0, n + e)[unit(group)]) : T{};
    });
  }
  // Sequences that have ended, or not begun: what they had stays.
  LF_DEVICE void stay(int s, const DeviceStep& step, int j) const {
#pragma unroll
    for (int i = 0; i < kGroups * 2; i++) {
      const int local = at.local(j, i % 2), n = at.first + local, u = unit(i / 2);
      if (n >= step.active && n < p.batch && u < p.hidden)
        *exchange.place(s + 1, local, u) = *exchange.place(s, local, u);
    }
  }

  LF_DEVICE void store(const DeviceStep& step, int j, const Results& x) const {
    const int n = at.first + at.local(j, 0);
    T* y = Base::template units<T>(r.y, step, n);
#pragma unroll
    for (int e = 0; e < 2; e++, y += r.y.row_stride)
#pragma unroll
      for (int group = 0; group < kGroups; group++)
        if (works(step, n + e, group)) y[group * 8] = x.h[group][e];
    if (p.keep) {
      float* to = Base::cell(static_cast<float*>(r.gates), step, n, kGates);
#pragma unroll
      for (int e = 0; e < 2; e++)
#pragma unroll
        for (int i = 0; i < kGates; i++)
#pragma unroll
          for (int group = 0; group < kGroups; group++)
            if (i < Cell::kSaved && works(step, n + e, group))
              Base::part(to, e * kGates + i)[group * 8] = x.saved[group][e][i];
      if constexpr (Cell::kStates > 1) {
        float* c = Base::cell(static_cast<float*>(r.c), step, n);
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
          for (int group = 0; group < kGroups; group++)
            if (works(step, n + e, group)) Base::part(c, e)[group * 8] = x.c[group][e];
      }
    }
    // So many sequences have a step after this one.
    const int go_on = device_step(p, r.reverse ? step.t - 1 : step.t + 1).active;
    if (go_on < step.active) store_final_state(step, go_on, j, x);
  }
  LF_DEVICE void store_final_state(const DeviceStep& step, int go_on, int j, const Results& x) const {
#pragma unroll
    for (int i = 0; i < kGroups * 2; i++) {
      const int n = at.first + at.local(j, i % 2), group = i / 2, u = unit(group);
      if (n < go_on || !works(step, n, group)) continue;
      if (r.h_n.data) row<T>(r.h_n, n)[u] = x.h[group][i % 2];
      if constexpr (Cell::kStates > 1)
        if (r.c_n.data) convert(row<T>(r.c_n, n)[u], x.c[group][i % 2]);
    }
  }
};

template <class Cell, class Multiplier, class S, template <class> class ExchangePolicy>
struct PersistentBackwardKernel
    : PersistentKernel<PersistentBackward, Multiplier, S, S::kHalves, ExchangePolicy> {  // a hidden unit is one row
  using Base = PersistentKernel<PersistentBackward, Multiplier, S, S::kHalves, ExchangePolicy>;
  using Base::p, Base::r, Base::at, Base::shared, Base::exchange, Base::unit, Base::works, Base::kGroups;
  using typename Base::T;
  static constexpr int kGates = Cell::kGates;

  static constexpr bool kStacked = ExchangePolicy<T>::kStacked, kMailed = ExchangePolicy<T>::kMailed;

  // What the cell needs of one step, for the thread's units and sequences.
  struct Saved {
    float gates[kGroups][2][Cell::kSaved], c[kGroups][2], c_before[kGroups][2], dy[kGroups][2];
    unsigned kept;  // in a stack: what goes on of the gradient from the layer above, a bit each
  };
  struct Results {
    T dgates[kGroups][2][kGates];
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
    // Against forward's order. After the last step one more product gives the gradient of h0: asked anew at each step,
    // since the number of products would take a register.
    DeviceStep after = device_step(p, -1), step = device_step(p, r.reverse ? 0 : p.steps - 1);
    const auto goes_on = [&](int s) { return s < p.steps || (s == p.steps && (r.dh0.data || r.dc0.data)); };
#pragma unroll 1
    for (int s = 0; goes_on(s); s++) {
      const DeviceStep before = device_step(p, r.reverse ? step.t + 1 : step.t - 1);
      product_and_cell<Multiplier>(
          at, weights, shared, exchange, s, [&](int j) { return load(step, before, j); },
          [&](const Saved& saved, Sums<S>& sums) { pass(saved, sums); },
          [&](int j, const Saved& saved, const Sums<S>& sums) { return finish(s, after, step, j, saved, sums); },
          [&](int j, const Results& results) { store(step, j, results); });
      after = step, step = before;
    }
    exchange.end();
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
    if (j >= at.t.tiles) return saved;
    const int n = at.first + at.local(j, 0);
    if constexpr (kStacked)
      if (r.w_beside.data) {
        const unsigned char* kept = r.kept ? Base::cell(r.kept, step, n) : nullptr;
#pragma unroll
        for (int i = 0; i < kGroups * 2; i++)
          if (works(step, n + i % 2, i / 2) && (!kept || kept[i % 2 * p.hidden + i / 2 * 8])) saved.kept |= 1u << i;
      }
    const float* gates = Base::cell(static_cast<const float*>(r.gates), step, n, kGates);
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int i = 0; i < kGates; i++)
#pragma unroll
        for (int group = 0; group < kGroups; group++)
          if (i < Cell::kSaved && works(step, n + e, group))
            saved.gates[group][e][i] = Base::part(gates, e * kGates + i)[group * 8];
    if (r.dy.data) {
      const T* dy = Base::template units<T>(r.dy, step, n);
#pragma unroll
      for (int e = 0; e < 2; e++, dy += r.dy.row_stride)
#pragma unroll
        for (int group = 0; group < kGroups; group++)
          if (works(step, n + e, group)) saved.dy[group][e] = converted<float>(dy[group * 8]);
    }
    if constexpr (Cell::kStates > 1) {
      const float* c = Base::cell(static_cast<const float*>(r.c), step, n);
      const float* c_before = Base::cell(static_cast<const float*>(r.c), before, n);
#pragma unroll
      for (int e = 0; e < 2; e++)
#pragma unroll
        for (int group = 0; group < kGroups; group++) {
          if (works(step, n + e, group)) saved.c[group][e] = Base::part(c, e)[group * 8];
          if (works(before, n + e, group)) saved.c_before[group][e] = Base::part(c_before, e)[group * 8];
        }
      if (before.active < step.active && r.c0.data)
#pragma unroll
        for (int i = 0; i < kGroups * 2; i++)
          if (n + i % 2 >= before.active && works(step, n + i % 2, i / 2))
            saved.c_before[i / 2][i % 2] = converted<float>(row<T>(r.c0, n + i % 2)[unit(i / 2)]);
    }
    return saved;
  }

  // As in forward, every lane computes.
  LF_DEVICE Results finish(int s, const DeviceStep& after, const DeviceStep& step, int j, const Saved& saved,
                           const Sums<S>& sums) const {
    const int local = at.local(j, 0), n = at.first + local;
    if (step.active < after.active) store_initial_gradients(after, step, j, sums);
    Results results;
#pragma unroll
    for (int group = 0; group < kGroups; group++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float in[Cell::kStates], out[Cell::kStates], dout[Cell::kStates], dpre[kGates], din[Cell::kStates];
        in[0] = out[0] = 0;  // h is not read: see cells.h
        dout[0] = sums.of(group, e);
        if constexpr (Cell::kStates > 1) {
          in[1] = saved.c_before[group][e], out[1] = saved.c[group][e];
          dout[1] = shared.own(at, j, group * 2 + e);
        }
        // In forward's order; else this is the sequence's last step.
        if (after.active < step.active && n + e >= after.active) take_final_gradients(step, n + e, group, dout);
        dout[0] += saved.dy[group][e];
        Cell::template backward<MathFor<T>>(saved.gates[group][e], in, out, dout, dpre, din);
#pragma unroll
        for (int gate = 0; gate < kGates; gate++) results.dgates[group][e][gate] = converted<T>(dpre[gate]);
        if constexpr (Cell::kStates > 1)
          if (works(step, n + e, group)) shared.own(at, j, group * 2 + e) = din[1];
      }
    if constexpr (kMailed) {
      if (s < p.steps) mail(s + 1, step, local, results);  // the product for h0 is the last one
    } else {
      place(s, step, local, results);
      exchange.template send<kGroups * 8, kGates>(s + 1, j, at.unit);
    }
    return results;
  }
  LF_DEVICE void place(int s, const DeviceStep& step, int local, const Results& results) const {
    const int n = at.first + local;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      T* to = exchange.place(s + 1, local + e, at.unit);
#pragma unroll
      for (int gate = 0; gate < kGates; gate++, to += p.gate_width)
#pragma unroll
        for (int group = 0; group < kGroups; group++)
          if (works(step, n + e, group)) to[group * 8] = Multiplier::rounded(results.dgates[group][e][gate]);
      if constexpr (kStacked) {
        if (!exchange.feeds) continue;
        T* on = exchange.handed_on(s, local + e, at.unit);
#pragma unroll
        for (int gate = 0; gate < kGates; gate++, on += p.gate_width)
#pragma unroll
          for (int group = 0; group < kGroups; group++)
            if (works(step, n + e, group)) on[group * 8] = Multiplier::rounded(results.dgates[group][e][gate]);
      }
    }
  }
  // Zeros where the step has no cell.
  LF_DEVICE void mail(int s, const DeviceStep& step, int local, const Results& results) const {
    exchange.template mail<kGroups, kGates>(s, local, at.unit, [&](int group, int gate, int e) {
      return works(step, at.first + local + e, group) ? Multiplier::rounded(results.dgates[group][e][gate]) : T{};
    });
  }
  // In a stack the sums are then those of the layer above alone: of its own the sequence has put nothing yet.
  LF_DEVICE void take_final_gradients(const DeviceStep& step, int n, int group, float (&dout)[Cell::kStates]) const {
    if (!works(step, n, group)) return;
    const float dh_n = r.dh_n.data ? converted<float>(row<T>(r.dh_n, n)[unit(group)]) : 0.f;
    dout[0] = kStacked ? dout[0] + dh_n : dh_n;
    if constexpr (Cell::kStates > 1) dout[1] = r.dc_n.data ? converted<float>(row<T>(r.dc_n, n)[unit(group)]) : 0.f;
  }
  // Of sequences whose first step was the one after this.
  LF_DEVICE void store_initial_gradients(const DeviceStep& after, const DeviceStep& step, int j,
                                         const Sums<S>& sums) const {
#pragma unroll
    for (int i = 0; i < kGroups * 2; i++) {
      const int n = at.first + at.local(j, i % 2), u = unit(i / 2);
      if (n < step.active || !works(after, n, i / 2)) continue;
      if (r.dh0.data) convert(row<T>(r.dh0, n)[u], sums.of(i / 2, i % 2));
      if constexpr (Cell::kStates > 1)
        if (r.dc0.data) convert(row<T>(r.dc0, n)[u], shared.own(at, j, i));
    }
  }

  LF_DEVICE void store(const DeviceStep& step, int j, const Results& x) const {
    const int n = at.first + at.local(j, 0);
    T* to = Base::cell(static_cast<T*>(r.dgates), step, n, kGates);
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int gate = 0; gate < kGates; gate++)
#pragma unroll
        for (int group = 0; group < kGroups; group++)
          if (works(step, n + e, group)) Base::part(to, e * kGates + gate)[group * 8] = x.dgates[group][e][gate];
  }
};

}  // namespace lstmfast::cuda
