// What a call puts on the stream, in every regime: docs/cuda.md has the table. A small call costs what its launches
// cost.
#define LSTMFAST_EMULATION_MAIN
#include "blas.h"
#include "cpp/check.h"
#include "device.h"

using namespace lstmfast;
using namespace lstmfast::cuda;

namespace {

struct Counts {
  int64_t products = 0, kernels = 0, clears = 0;
  bool operator==(const Counts& o) const {
    return products == o.products && kernels == o.kernels && clears == o.clears;
  }
};

int64_t products;
int counting_gemm(void*, const Gemm& g) {
  static const bool kNoTf32 = false;
  products++;
  return naive_gemm(const_cast<bool*>(&kNoTf32), g);
}

// A float32 LSTM with everything that there may be, and nothing that has to be copied to be read.
class LstmCall {
 public:
  LstmCall(int64_t steps, bool has_state) {
    BackwardParams& p = p_;
    p.shape.steps = steps, p.shape.batch = kBatch, p.shape.rows = steps * kBatch;
    p.shape.input = kInput, p.shape.hidden = kHidden;
    p.x = rows<ConstRows>(steps, kInput), p.y = rows<Rows>(steps, kHidden);
    if (has_state) p.h0 = rows<ConstRows>(1, kHidden), p.c0 = rows<ConstRows>(1, kHidden);
    p.h_n = rows<Rows>(1, kHidden), p.c_n = rows<Rows>(1, kHidden);
    p.w_ih = matrix<ConstMatrix>(kInput), p.w_hh = matrix<ConstMatrix>(kHidden);
    p.b_ih = matrix<ConstMatrix>(1), p.b_hh = matrix<ConstMatrix>(1);
    p.reserve = take(p.shape.rows * reserve_width(0, DType::kFloat32, kHidden, 0));
    p.dy = rows<ConstRows>(steps, kHidden), p.dx = rows<Rows>(steps, kInput);
    p.dh_n = rows<ConstRows>(1, kHidden), p.dc_n = rows<ConstRows>(1, kHidden);
    p.dh0 = rows<Rows>(1, kHidden), p.dc0 = rows<Rows>(1, kHidden);
    p.dw_ih = matrix<Matrix>(kInput), p.dw_hh = matrix<Matrix>(kHidden);
    p.db_ih = matrix<Matrix>(1), p.db_hh = matrix<Matrix>(1);
  }
  const ForwardParams& params() const { return p_; }

  Counts forward(const Context& c) {
    return count(static_cast<ForwardParams&>(p_), c, cuda::forward, forward_workspace_bytes);
  }
  Counts backward(const Context& c) { return count(p_, c, cuda::backward, backward_workspace_bytes); }

 private:
  static constexpr int64_t kBatch = 3, kInput = 4, kHidden = 32;

  float* take(int64_t n) { return memory_.emplace_back(static_cast<size_t>(n + 16), .25f).data(); }
  template <class R>
  R rows(int64_t steps, int64_t width) {
    return {take(steps * kBatch * width), kBatch * width, width};
  }
  template <class M>
  M matrix(int64_t columns) {
    return {take(4 * kHidden * columns), columns, 1};
  }
  template <class Params>
  static Counts count(Params& p, const Context& context, Result (*call)(const RunsOf<Params>&, const Context&),
                      size_t (*bytes)(const RunsOf<Params>&, const Context&)) {
    const GuardedMemory workspace(bytes(p, context));
    p.workspace = workspace.data();
    emulation::options().launches = emulation::options().clears = products = 0;
    CHECK(call(p, context).ok());
    return {products, emulation::options().launches, emulation::options().clears};
  }

  BackwardParams p_;
  std::vector<std::vector<float> > memory_;
};

// The context in which the call runs in a regime.
Context in(Regime regime, const LstmCall& call, bool backward, Meeting meeting = Meeting::kFlag) {
  Context c;
  c.gpu = *gpu_named("H200");
  c.blas = {counting_gemm, nullptr};
  const int most = candidates(request_for(call.params(), 1, false, c, backward), c.gpu);
  const auto is_wanted = [&] {
    const Plan plan = plan_for(call.params(), 1, false, c, backward);
    return plan.regime == regime && plan.meeting == meeting;
  };
  c.candidate = regime == Regime::kGeneral ? kGeneralPath : 0;
  for (; !is_wanted() && c.candidate + 1 < most; c.candidate++) continue;
  CHECK(is_wanted());
  return c;
}

void check(const char* what, Regime regime, int64_t steps, const Counts& got, const Counts& want) {
  if (got == want) return;
  std::printf("%s, regime %d, T=%lld: %lld products, %lld kernels, %lld clears\n", what, static_cast<int>(regime),
              static_cast<long long>(steps), static_cast<long long>(got.products), static_cast<long long>(got.kernels),
              static_cast<long long>(got.clears));
  CHECK(got == want);
}

}  // namespace

int main() {
  for (const int64_t steps : {1, 2, 5}) {
    for (const Regime regime : {Regime::kGeneral, Regime::kOneSm, Regime::kCluster, Regime::kWholeGpu}) {
      const bool general = regime == Regime::kGeneral;
      const int64_t clears = regime == Regime::kWholeGpu;
      LstmCall call(steps, true);
      check("forward", regime, steps, call.forward(in(regime, call, false)),
            general ? Counts{1 + steps, steps, 0} : Counts{1, 1, clears});
      // The products of the steps, and of h0's gradient; dx, dW_ih, dW_hh, which has two: of h0, and of all h after it,
      // where there are any. Two kernels for the biases.
      const int64_t sorts = steps == 1;
      check("backward", regime, steps, call.backward(in(regime, call, true)),
            general ? Counts{steps - 1 + 5 - sorts, steps + 2 + sorts, 0} : Counts{4 - sorts, 3 + sorts, clears});
    }
    LstmCall call(steps, true);
    check("fused forward", Regime::kFusedSteps, steps, call.forward(in(Regime::kFusedSteps, call, false)),
          {steps > 1, steps, 0});
    constexpr Regime kRegime = Regime::kWholeGpu;
    check("forward by mailbox", kRegime, steps, call.forward(in(kRegime, call, false, Meeting::kMailbox)), {1, 1, 1});
    const int64_t sorts = steps == 1;
    check("backward by mailbox", kRegime, steps, call.backward(in(kRegime, call, true, Meeting::kMailbox)),
          {4 - sorts, 3 + sorts, 1});
    LstmCall stateless(steps, false);
    check("forward without a state", Regime::kGeneral, steps, stateless.forward(in(Regime::kGeneral, stateless, false)),
          {1 + steps, steps + 1, 0});
    check("fused forward without a state", Regime::kFusedSteps, steps,
          stateless.forward(in(Regime::kFusedSteps, stateless, false)), {steps > 1, steps, 0});
  }
  return finish();
}
