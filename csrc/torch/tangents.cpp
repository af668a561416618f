// Second derivatives of a layer in one direction, on the CPU: the two walks through time that
// lstmfast/autograd/second_order.py makes between products over the whole sequence. A step is a product with W_hh and
// the cell on dual numbers.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../core/cell_info.h"
#include "../cpu/cpu.h"
#include "../cuda/steps.h"  // the host's, of no device

namespace lstmfast {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// The sequences of a call, and rows of them. In `pairs` of rows each step has those of all its sequences twice, one
// kind and then another.
class Walk : private Shape, public cuda::Steps {  // in this order: Steps keeps a reference
 public:
  Walk(int64_t rows, int64_t batch, int64_t hidden, const OptionalTensor& batch_sizes, bool reverse)
      : cuda::Steps(shape()) {
    Shape& s = *this;
    s.batch = batch, s.rows = rows, s.hidden = hidden, s.reverse = reverse;
    if (!batch_sizes) {
      TORCH_CHECK(batch > 0 && rows % batch == 0, "lstmfast: ", rows, " rows are no steps of ", batch, " sequences");
      s.steps = rows / batch;
      return;
    }
    sizes_ = batch_sizes->contiguous();
    s.steps = sizes_.numel();
    s.batch_sizes = sizes_.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < s.steps; t++) offsets_.push_back(offsets_.back() + active(t));
    s.offsets = offsets_.data();
    TORCH_CHECK(s.steps > 0 && active(0) == batch && offsets_.back() == rows,
                "lstmfast: batch_sizes do not fit the rows");
  }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  const Shape& shape() const { return *this; }
  at::Tensor rows(const at::Tensor& of_all, int64_t t) const { return of_all.narrow(0, first_row(t), active(t)); }
  at::Tensor pairs(const at::Tensor& of_all, int64_t t) const {
    return of_all.narrow(0, 2 * first_row(t), 2 * active(t));
  }
  // The rows before those of step t: of the step before, or of `initial` where a sequence begins.
  at::Tensor before(const at::Tensor& of_all, const at::Tensor& initial, int64_t t) const {
    const int64_t n = active(t), began = started(t);
    if (began == 0) return initial.narrow(0, 0, n);
    const at::Tensor there = of_all.narrow(0, first_row(previous(t)), began);
    return began == n ? there : at::cat({there, initial.narrow(0, began, n - began)});
  }

 private:
  at::Tensor sizes_;
  std::vector<int64_t> offsets_{0};
};

const void* data(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

// `like` has the type that all tensors must have; each tensor of a call passes through here.
void check_tensor(const at::Tensor& t, const char* name, const at::Tensor& like, at::IntArrayRef sizes) {
  TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.sizes() == sizes && t.is_contiguous(), "lstmfast: ", name,
              " must be contiguous, ", like.scalar_type(), " and of the size ", sizes, ", got ", t.scalar_type(), " ",
              t.sizes());
}
void check_tensor(const OptionalTensor& t, const char* name, const at::Tensor& like, at::IntArrayRef sizes) {
  if (t) check_tensor(*t, name, like, sizes);
}

int cell_named(std::string_view cell) {
  const int found = find_cell(cell);
  TORCH_CHECK_VALUE(found >= 0, "lstmfast: unknown cell '", cell, "'");
  return found;
}

// One layer in one direction, about the values that a call had.
struct Linearised {
  const CellInfo& info;
  int64_t hidden, output;
  Walk walk;
  cpu::TangentParams params;

  Linearised(std::string_view cell, const at::Tensor& dpre, const at::Tensor& dc, const OptionalTensor& batch_sizes,
             bool reverse, const at::Tensor& reserve, const at::Tensor& w_hh, const OptionalTensor& w_hr,
             const OptionalTensor& c0, const OptionalTensor& dc0, int64_t batch)
      : info(cell_info(cell_named(cell))),
        hidden(dpre.size(1) / info.gates),
        output(w_hh.size(1)),
        walk(dpre.size(0), batch, hidden, batch_sizes, reverse) {
    TORCH_CHECK(dpre.scalar_type() == at::kFloat || dpre.scalar_type() == at::kDouble,
                "lstmfast: second derivatives are computed in float32 and float64, got ", dpre.scalar_type());
    params.cell = cell_named(cell);
    params.dtype = dpre.scalar_type() == at::kDouble ? DType::kFloat64 : DType::kFloat32;
    params.isa = cpu::isa();
    params.shape = walk.shape();
    const int64_t rows = params.shape.rows, gates = info.gates * hidden;
    check_tensor(dpre, "dpre", dpre, {rows, gates});
    if (info.states > 1) check_tensor(dc, "dc", dpre, {rows, hidden});
    check_tensor(reserve, "reserve", dpre,
                 {rows, cpu::reserve_width(params.cell, params.dtype, hidden, w_hr ? output : 0)});
    TORCH_CHECK(w_hh.size(0) == gates, "lstmfast: w_hh does not fit dpre");
    check_tensor(c0, "c0", dpre, {batch, hidden});
    check_tensor(dc0, "dc0", dpre, {batch, hidden});
    params.reserve = reserve.const_data_ptr();
    params.c0 = data(c0), params.dc0 = data(dc0);
    params.dpre = dpre.mutable_data_ptr(), params.dc = dc.mutable_data_ptr();
  }

  // Calls f(a part of the step) for parts that together are the step.
  template <class Step, class F>
  void in_parallel(Step step, int64_t t, const F& f) const {
    constexpr int64_t kWorthAThread = 1 << 13;  // units: some ten microseconds
    at::parallel_for(0, walk.active(t), kWorthAThread / hidden + 1, [&](int64_t begin, int64_t end) {
      Step part = step;
      part.t = t, part.begin = begin, part.end = end;
      TORCH_INTERNAL_ASSERT(f(params, part) == Status::kOk);
    });
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tangent_walk(
    std::string_view cell, const at::Tensor& dpre, const OptionalTensor& batch_sizes, bool reverse,
    const at::Tensor& reserve, const at::Tensor& w_hh, const OptionalTensor& w_hr, const OptionalTensor& dw_hr,
    const OptionalTensor& c0, const at::Tensor& dh0, const OptionalTensor& dc0) {
  const int64_t rows = dpre.size(0), batch = dh0.size(0);
  const CellInfo& info = cell_info(cell_named(cell));
  const int64_t hidden = dpre.size(1) / info.gates;
  const auto empty = [&](int64_t n, int64_t width) { return at::empty({n, width}, dpre.options()); };
  const at::Tensor dm = empty(rows, hidden), dc = empty(info.states > 1 ? rows : 0, hidden),
                   m = empty(w_hr ? rows : 0, hidden), dh = w_hr ? empty(rows, w_hh.size(1)) : dm;
  const Linearised run(cell, dpre, dc, batch_sizes, reverse, reserve, w_hh, w_hr, c0, dc0, batch);
  const Walk& walk = run.walk;

  const at::Tensor w_hh_t = w_hh.t(), w_hr_t = w_hr ? w_hr->t() : at::Tensor();
  for (int64_t i = 0; i < walk.count(); i++) {
    const int64_t t = walk.at(i);
    walk.rows(dpre, t).addmm_(walk.before(dh, dh0, t), w_hh_t);
    const at::Tensor here = walk.rows(dm, t);
    cpu::TangentStep step;
    step.dm = here.mutable_data_ptr();
    if (w_hr) step.m = walk.rows(m, t).mutable_data_ptr();
    run.in_parallel(step, t, cpu::tangent_step);
    if (!w_hr) continue;
    at::Tensor to = walk.rows(dh, t);
    at::mm_out(to, here, w_hr_t);
    if (dw_hr) to.addmm_(walk.rows(m, t), dw_hr->t());
  }
  return {dh, dm, m, dc};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gradient_tangent_walk(
    std::string_view cell, const at::Tensor& by_h, const at::Tensor& dpre, const at::Tensor& dc,
    const OptionalTensor& batch_sizes, bool reverse, const at::Tensor& reserve, const at::Tensor& w_hh,
    const OptionalTensor& dw_hh, const OptionalTensor& w_hr, const OptionalTensor& dw_hr, const OptionalTensor& c0,
    const OptionalTensor& dc0, const at::Tensor& by_h_n, const at::Tensor& by_c_n) {
  const int64_t rows = dpre.size(0), batch = by_h_n.size(1);
  const Linearised run(cell, dpre, dc, batch_sizes, reverse, reserve, w_hh, w_hr, c0, dc0, batch);
  const Walk& walk = run.walk;
  check_tensor(by_h, "by_h", dpre, {2 * rows, run.output});
  check_tensor(by_h_n, "by_h_n", dpre, {2, batch, run.output});
  if (run.info.states > 1) check_tensor(by_c_n, "by_c_n", dpre, {2, batch, run.hidden});
  const at::Tensor gates = at::empty({2 * rows, dpre.size(1)}, dpre.options());
  const at::Tensor by_c = by_c_n.clone(), by_h0 = by_h_n.clone();

  // to[2 * n] += gradients of the h before the sequences from `begin` on of step t, which the gates of t imply
  const auto through_h = [&](const at::Tensor& to, int64_t n, int64_t t, int64_t begin) {
    const int64_t active = walk.active(t);
    const at::Tensor from = walk.pairs(gates, t);
    const auto half = [&](int64_t i) { return from.narrow(0, i * active + begin, n); };
    if (n == active && to.size(0) == 2 * n) {
      to.addmm_(from, w_hh);
    } else {
      for (int64_t i = 0; i < 2; i++) to.narrow(0, i * (to.size(0) / 2), n).addmm_(half(i), w_hh);
    }
    if (dw_hh) to.narrow(0, to.size(0) / 2, n).addmm_(half(0), *dw_hh);
  };
  for (int64_t i = walk.count() - 1; i >= 0; i--) {
    const int64_t t = walk.at(i), active = walk.active(t), following = walk.following(t), continued = walk.continued(t),
                  started = walk.started(t);
    const at::Tensor here = walk.pairs(by_h, t);
    if (continued > 0) through_h(here, continued, following, 0);
    if (continued < active)
      here.view({2, active, -1})
          .narrow(1, continued, active - continued)
          .add_(by_h_n.narrow(1, continued, active - continued));
    at::Tensor by_m = here;
    if (w_hr) {
      by_m = at::mm(here, *w_hr);
      if (dw_hr) by_m.narrow(0, active, active).addmm_(here.narrow(0, 0, active), *dw_hr);
    }
    cpu::GradientTangentStep step;
    step.by_m = by_m.const_data_ptr();
    step.by_c = by_c.mutable_data_ptr();
    step.gates = walk.pairs(gates, t).mutable_data_ptr();
    run.in_parallel(step, t, cpu::gradient_tangent_step);
    if (started < active) {
      const at::Tensor begun = at::zeros({2 * (active - started), run.output}, dpre.options());
      through_h(begun, active - started, t, started);
      by_h0.narrow(1, started, active - started).copy_(begun.view({2, active - started, -1}));
    }
  }
  return {gates, by_h0, by_c};
}

}  // namespace

TORCH_LIBRARY_IMPL(lstmfast, CPU, m) {
  m.impl("tangent_walk", tangent_walk);
  m.impl("gradient_tangent_walk", gradient_tangent_walk);
}

}  // namespace lstmfast
