// Calls drawn at random, with a liking for sizes around the edges of warps, tiles and vectors.
#pragma once
#include "check_call.h"
#include "cpp/check.h"

namespace lstmfast {

// What calls are drawn from.
struct Draw {
  std::vector<DType> dtypes;
  bool projections = false, large = false;
  int cells = kCells;
  bool directions = false;  // some calls have both
  bool stacks = false;      // some have several layers
  bool deep = false;        // LSTM whose weights need more than the registers of a few warps
};

struct RandomCall {
  std::vector<Problem> runs;
  Layout layout;
  Stacked stack;

  RandomCall() = default;
  RandomCall(std::mt19937_64& random, const Draw& draw) {
    const auto pick = [&](std::initializer_list<int64_t> list) { return list.begin()[random() % list.size()]; };
    const auto chance = [&](uint64_t in) { return random() % in == 0; };
    Problem p;
    p.cell = static_cast<int>(random() % static_cast<uint64_t>(draw.cells));
    if (draw.deep) p.cell = find_cell(draw.cells > 1 && chance(2) ? "LSTM_LINEAR" : "LSTM");
    p.dtype = draw.dtypes[random() % draw.dtypes.size()];
    p.steps = pick({1, 2, 3, 5});
    p.batch = draw.large ? pick({1, 8, 17, 33}) : pick({1, 2, 7, 8, 9, 17});
    p.input = pick({1, 3, 8, 17});
    p.hidden = draw.large ? pick({48, 72, 129, 150}) : pick({1, 3, 8, 16, 20, 20, 33, 33});
    if (draw.deep) p.hidden = size_of(p.dtype) == 2 ? pick({136, 264, 270}) : pick({72, 136, 264, 264});
    if (draw.deep) p.batch = pick({1, 8, 17, 33}), p.steps = pick({1, 2, 3});
    if (draw.projections && p.has_c() && chance(4)) p.projection = pick({1, 2, 8, 16});
    if (p.projection >= p.hidden) p.projection = 0;
    p.reverse = chance(2);
    if (chance(2)) {
      int64_t n = p.batch;
      for (int64_t t = 0; t < p.steps; t++) {
        p.sizes.push_back(n);
        if (chance(2)) n = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(n));
      }
    }
    fill(p, random, !chance(3), !chance(4));
    if (chance(4)) p.dy.clear();
    if (chance(4)) p.dh_n.clear();
    if (chance(4)) p.dc_n.clear();
    Layout& l = layout;
    l.batch_first = chance(3), l.gaps = chance(3);
    l.transposed_weights = chance(4), l.strided = !l.transposed_weights && chance(4);
    l.one_h0 = !p.h0.empty() && chance(4);
    if (l.one_h0) use_one_h0(p);
    l.shift = chance(2) ? static_cast<int>(random() % 4) : 0;
    l.accumulate_dx = chance(3);
    // Not drawn: the calls in which mutations are known to show stay as they are.
    l.accumulate_dw = (p.steps + p.batch + p.hidden) % 4 == 0;
    if (chance(3)) l.unwanted = static_cast<unsigned>(random()) & ((1u << kGradients) - 1);
    runs.push_back(p);
    if (draw.directions && chance(3))
      runs.push_back(another(random, p, l, !p.reverse));
    else if (draw.stacks && chance(2) && !p.projection && !p.reverse)
      add_layers(random, l);
  }

 private:
  void add_layers(std::mt19937_64& random, const Layout& l) {
    stack.yes = true;
    const int64_t layers = 2 + static_cast<int64_t>(random() % 2);
    while (static_cast<int64_t>(runs.size()) < layers) {
      Problem p = runs[0];
      p.input = p.hidden;
      runs.push_back(another(random, p, l, false));
    }
    if (random() % 2) return;
    stack.scale = 2;
    stack.kept.resize(static_cast<size_t>((layers - 1) * runs[0].rows() * runs[0].hidden));
    for (unsigned char& k : stack.kept) k = random() % 2;
  }
  // Other numbers; what is there is the same.
  static Problem another(std::mt19937_64& random, Problem p, const Layout& l, bool reverse) {
    const bool dy = !p.dy.empty(), dh_n = !p.dh_n.empty(), dc_n = !p.dc_n.empty();
    p.reverse = reverse;
    fill(p, random, !p.h0.empty(), !p.b_ih.empty());
    if (!dy) p.dy.clear();
    if (!dh_n) p.dh_n.clear();
    if (!dc_n) p.dc_n.clear();
    if (l.one_h0) use_one_h0(p);
    return p;
  }
  static void use_one_h0(Problem& p) {
    for (int64_t i = p.output(); i < static_cast<int64_t>(p.h0.size()); i++) p.h0[i] = p.h0[i % p.output()];
  }
};

// Longer than what one launch takes of a packed batch's offsets, and more rows than a chunk of the bias sums.
inline RandomCall long_call(std::mt19937_64& random) {
  RandomCall call;
  Problem& p = call.runs.emplace_back();
  p.steps = 460, p.batch = 2, p.hidden = 3;
  p.sizes.assign(static_cast<size_t>(p.steps), 2);
  std::fill(p.sizes.begin() + 455, p.sizes.end(), 1);
  fill(p, random, true, true);
  return call;
}

// float32 rows of weights that begin at a multiple of 16 bytes, but end between two (true), or whose next row does not.
inline RandomCall call_with_gaps(std::mt19937_64& random, bool ends_between) {
  RandomCall call;
  Problem& p = call.runs.emplace_back();
  p.cell = find_cell("RNN_TANH");
  p.steps = 1, p.batch = 1, p.input = ends_between ? 33 : 20, p.hidden = 33;
  fill(p, random, true, true);
  call.layout.gaps = true, call.layout.shift = ends_between ? 3 : 0;
  return call;
}

// Anything that the planner may choose, and more: GPUs of a few multiprocessors, so that small problems need several
// blocks and groups, and all of the planner's candidates.
inline void draw_run(std::mt19937_64& random, Run& run, const bool& tf32) {
  run.context.blas = {naive_gemm, const_cast<bool*>(&tf32)};
  run.context.allow_tf32 = run.tf32 = tf32;
  run.context.gpu = *cuda::gpu_named(random() % 2 ? "H100" : "RTX 4090");
  run.context.gpu.sm_count = static_cast<int>(1 + random() % 8);  // large problems then have several tiles a group
  run.context.candidate = random() % 4 ? static_cast<int>(random() % 128) : -1;
  run.seed = random() % 5;
}

// Outside of the persistent kernels, forward in fused steps where there are few enough sequences, if so wanted.
inline void draw_launches(bool fused, Run& run) {
  run.context.gpu = {};  // no persistent kernel runs there
  run.context.candidate = fused ? 0 : cuda::kGeneralPath;
}

// As draw_run(), where a part of the weights is in shared memory, forward or backward. False if this call needs none.
inline bool draw_split_run(std::mt19937_64& random, const RandomCall& call, Run& run, const bool& tf32) {
  draw_run(random, run, tf32);
  run.context.gpu.sm_count = static_cast<int>(3 + random() % 16);
  ForwardParams like;
  const Problem& p = call.runs[0];
  like.cell = p.cell, like.dtype = p.dtype;
  like.shape.steps = p.steps, like.shape.batch = p.batch, like.shape.hidden = p.hidden;
  like.shape.projection = p.projection;
  for (int i = 0; i < 200; i++) {
    run.context.candidate = static_cast<int>(random() % 400);
    for (const bool backward : {false, true})
      if (cuda::plan_for(like, static_cast<int>(call.runs.size()), false, run.context, backward).tiling.is_split())
        return true;
  }
  return false;
}

// Initial states with NaNs, some of which have the bits of what a mailbox is filled with, and an infinity: they come
// through, to where the equations take them and not further, and nobody waits for them for ever.
inline RandomCall call_without_numbers(std::mt19937_64& random, DType dtype, const char* cell) {
  RandomCall call;
  Problem& p = call.runs.emplace_back();
  p.cell = find_cell(cell), p.dtype = dtype;
  p.steps = 3, p.batch = 9, p.input = 3, p.hidden = 33;
  if (random() % 2) p.sizes = {9, 7, 4};
  fill(p, random, true, true);
  double unsent;
  std::memset(&unsent, 0xff, sizeof unsent);
  const auto h0 = [&](int64_t n, int64_t u) -> double& { return p.h0[static_cast<size_t>(n * p.hidden + u)]; };
  h0(1, 6) = h0(1, 7) = h0(8, 32) = unsent;  // two that are one word in 16-bit types; the last of a row
  h0(2, 9) = unsent, h0(3, 0) = std::nan("");
  if (cell == std::string("LSTM")) h0(4, 5) = HUGE_VAL;
  p.reverse = random() % 2;
  return call;
}

inline double check_call(const RandomCall& call, const Run& run) {
  CallCheck check(call.runs, call.layout, run, call.stack);
  const std::string errors = check();
  if (!errors.empty()) {
    std::printf("%s%s seed=%llu: %s\n", to_string(call.runs[0], call.layout).c_str(),
                call.stack.yes         ? " stacked"
                : call.runs.size() > 1 ? " both directions"
                                       : "",
                static_cast<unsigned long long>(run.seed), errors.c_str());
    failures()++;
  }
  return check.worst();
}

}  // namespace lstmfast
