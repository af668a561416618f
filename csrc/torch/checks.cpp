#include "checks.h"

#include <ATen/ATen.h>
#include <c10/util/safe_numerics.h>

#include "../core/cell_info.h"

namespace lstmfast {
namespace {

DType dtype_of(const at::Tensor& input) {
  switch (input.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      TORCH_CHECK_VALUE(false, "lstmfast: input must be float32, float64, bfloat16 or float16, got ",
                        input.scalar_type());
  }
}

// Products of sizes must fit in 62 bits, so that the kernels' sums of a few of them fit in 63.
int64_t product(std::initializer_list<int64_t> sizes, const char* what) {
  uint64_t n = 1;
  bool overflow = false;
  for (const int64_t s : sizes) overflow |= c10::mul_overflows(n, static_cast<uint64_t>(s), &n);
  TORCH_CHECK(!overflow && n < (uint64_t{1} << 62), "lstmfast: integer overflow: ", what, " is too large");
  return static_cast<int64_t>(n);
}

std::optional<Float32Precision> precision_of(const std::optional<std::string_view>& name) {
  if (!name) return std::nullopt;
  if (*name == "highest") return Float32Precision::kHighest;
  if (*name == "high") return Float32Precision::kHigh;
  TORCH_CHECK_VALUE(*name == "medium", "lstmfast: float32_precision must be 'highest', 'high' or 'medium', got '",
                    *name, "'");
  return Float32Precision::kMedium;
}

void check_plain(const at::Tensor& t, const char* name) {
  TORCH_CHECK_VALUE(t.defined(), "lstmfast: ", name, " is undefined");
  TORCH_CHECK_VALUE(t.layout() == at::kStrided && !t.is_quantized(), "lstmfast: ", name,
                    " must be a dense (strided) tensor, got layout ", t.layout());
}

std::vector<int64_t> check_batch_sizes(const at::Tensor& b, int64_t rows) {
  check_plain(b, "batch_sizes");
  TORCH_CHECK_VALUE(b.device().is_cpu() && b.scalar_type() == at::kLong && b.dim() == 1,
                    "lstmfast: batch_sizes must be a 1-D int64 tensor on the CPU, got ", b.dim(), "-D ",
                    b.scalar_type(), " on ", b.device());
  TORCH_CHECK(b.numel() > 0, "lstmfast: batch_sizes must have at least one step");
  const at::Tensor sizes = b.contiguous();
  const int64_t* s = sizes.const_data_ptr<int64_t>();
  std::vector<int64_t> offsets(b.numel() + 1, 0);
  for (int64_t t = 0; t < b.numel(); t++) {
    TORCH_CHECK(s[t] > 0 && s[t] <= rows && (t == 0 || s[t] <= s[t - 1]),
                "lstmfast: batch_sizes must be positive and must not increase, got ", s[t], " at step ", t);
    TORCH_CHECK(s[t] <= rows - offsets[t], "lstmfast: batch_sizes must sum to the ", rows,
                " rows of the packed input, got more");
    offsets[t + 1] = offsets[t] + s[t];
  }
  TORCH_CHECK(offsets.back() == rows, "lstmfast: batch_sizes must sum to the ", rows, " rows of the packed input, got ",
              offsets.back());
  return offsets;
}

std::string cell_names() {
  std::string names;
  for (int i = 0; i < kCells; i++) names += (i > 0 ? ", " : "") + std::string(cell_info(i).name);
  return names;
}

struct Named {
  const char* name;
  int64_t index;
};
std::ostream& operator<<(std::ostream& out, const Named& n) { return out << n.name << '[' << n.index << ']'; }

void check_matrix(const at::Tensor& t, const Named& name) {
  TORCH_CHECK_VALUE(t.defined(), "lstmfast: ", name, " is undefined");
  TORCH_CHECK_VALUE(t.dim() == 2, "lstmfast: ", name, " must be 2-D, got ", t.dim(), "-D");
}

void check_tensor(const at::Tensor& t, const Named& name, const at::Tensor& input, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(t.defined(), "lstmfast: ", name, " is undefined");
  TORCH_CHECK_VALUE(t.layout() == at::kStrided && !t.is_quantized(), "lstmfast: ", name,
                    " must be a dense (strided) tensor, got layout ", t.layout());
  TORCH_CHECK_VALUE(t.scalar_type() == input.scalar_type(), "lstmfast: ", name, " must have the input's dtype ",
                    input.scalar_type(), ", got ", t.scalar_type());
  TORCH_CHECK(t.device() == input.device(), "lstmfast: ", name, " must be on the input's device ", input.device(),
              ", got ", t.device());
  TORCH_CHECK(t.sizes() == shape, "lstmfast: ", name, " must have shape ", shape, ", got ", t.sizes());
}

}  // namespace

std::vector<int64_t> Problem::rows_shape(int64_t width) const {
  if (packed()) return {shape.rows, width};
  return {shape.steps, shape.batch, width};
}
std::vector<int64_t> Problem::stacked_rows_shape(int64_t n, int64_t width) const {
  std::vector<int64_t> s = rows_shape(width);
  s.insert(s.begin(), n);
  return s;
}

void check_like(const at::Tensor& t, const char* name, const at::Tensor& input, at::IntArrayRef shape,
                std::optional<at::ScalarType> dtype) {
  check_plain(t, name);
  TORCH_CHECK_VALUE(t.scalar_type() == dtype.value_or(input.scalar_type()), "lstmfast: ", name, " must have dtype ",
                    dtype.value_or(input.scalar_type()), ", got ", t.scalar_type());
  TORCH_CHECK(t.device() == input.device(), "lstmfast: ", name, " must be on the input's device ", input.device(),
              ", got ", t.device());
  TORCH_CHECK(t.sizes() == shape, "lstmfast: ", name, " must have shape ", shape, ", got ", t.sizes());
}

Problem check(const Arguments& a, ReserveWidth reserve_width) {
  Problem p;
  p.cell = find_cell(a.cell);
  TORCH_CHECK_VALUE(p.cell >= 0, "lstmfast: unknown cell '", a.cell, "', expected one of ", cell_names());
  const CellInfo& cell = cell_info(p.cell);

  check_plain(a.input, "input");
  p.dtype = dtype_of(a.input);
  const bool packed = a.batch_sizes.has_value();
  TORCH_CHECK_VALUE(a.input.dim() == (packed ? 2 : 3), "lstmfast: input must be ",
                    packed ? "2-D [rows, features] when packed" : "3-D [steps, batch, features]", ", got ",
                    a.input.dim(), "-D");
  p.shape.input = a.input.size(-1);
  if (packed) {
    p.shape.rows = a.input.size(0);
    p.offsets = check_batch_sizes(*a.batch_sizes, p.shape.rows);
    p.shape.steps = static_cast<int64_t>(p.offsets.size()) - 1;
    p.shape.batch = p.offsets[1];
  } else {
    p.shape.steps = a.input.size(0);
    p.shape.batch = a.input.size(1);
    TORCH_CHECK(p.shape.steps > 0, "lstmfast: input must have at least one step, got shape ", a.input.sizes());
    p.shape.rows = product({p.shape.steps, p.shape.batch}, "steps * batch");
  }
  TORCH_CHECK(p.shape.input > 0, "lstmfast: input must have at least one feature, got shape ", a.input.sizes());

  TORCH_CHECK_VALUE(a.num_layers > 0, "lstmfast: num_layers must be positive, got ", a.num_layers);
  TORCH_CHECK_VALUE(a.dropout >= 0 && a.dropout <= 1, "lstmfast: dropout must be a probability, got ", a.dropout);
  p.float32_precision = precision_of(a.float32_precision);
  p.directions = a.bidirectional ? 2 : 1;
  p.shape.reverse = a.reverse;
  const int64_t tensors = static_cast<int64_t>(a.weights.size()), without_projection = a.has_biases ? 4 : 2;
  // Compared by division: num_layers may be anything that an int64 holds.
  const int64_t per_layer = tensors / a.num_layers, per_run = per_layer / p.directions;
  TORCH_CHECK_VALUE(tensors % a.num_layers == 0 && per_layer % p.directions == 0 &&
                        (per_run == without_projection || per_run == without_projection + 1),
                    "lstmfast: weights must hold ", without_projection, " (", without_projection + 1,
                    " with a projection) tensors for each of ", a.num_layers, " layers and ", p.directions,
                    " directions, got ", tensors, " tensors");
  p.layers = a.num_layers;
  p.weights_per_run = per_run;
  p.biases = a.has_biases;
  p.states = cell.states;
  const bool projects = per_run > without_projection;
  TORCH_CHECK_VALUE(!projects || cell.states > 1, "lstmfast: a projection needs a cell with a private state, not ",
                    cell.name);

  check_matrix(a.weights[0], {"weights", 0});
  TORCH_CHECK(a.weights[0].size(0) > 0 && a.weights[0].size(0) % cell.gates == 0, "lstmfast: weights[0] must have ",
              cell.gates, " * hidden_size rows, got ", a.weights[0].size(0));
  p.shape.hidden = a.weights[0].size(0) / cell.gates;
  if (projects) {
    const at::Tensor& w_hr = a.weights[per_run - 1];
    check_matrix(w_hr, {"weights", per_run - 1});
    p.shape.projection = w_hr.size(0);
    TORCH_CHECK(p.shape.projection > 0, "lstmfast: weights[", per_run - 1, "] (w_hr) must have at least one row");
  }

  const int64_t gate_rows = cell.gates * p.shape.hidden;
  for (int64_t run = 0; run < p.runs(); run++) {
    const auto expect = [&](int64_t i, at::IntArrayRef shape) {
      check_tensor(a.weights[run * per_run + i], {"weights", run * per_run + i}, a.input, shape);
    };
    expect(0, {gate_rows, p.layer_input(run / p.directions)});
    expect(1, {gate_rows, p.shape.output()});
    if (p.biases) expect(2, {gate_rows}), expect(3, {gate_rows});
    if (projects) expect(per_run - 1, {p.shape.projection, p.shape.hidden});
  }

  TORCH_CHECK_VALUE(a.hx.empty() || static_cast<int64_t>(a.hx.size()) == cell.states,
                    "lstmfast: hx must be empty or hold ", cell.states, " states for ", cell.name, ", got ",
                    a.hx.size());
  for (size_t i = 0; i < a.hx.size(); i++)
    check_tensor(a.hx[i], {"hx", static_cast<int64_t>(i)}, a.input,
                 {p.runs(), p.shape.batch, i == 0 ? p.shape.output() : p.shape.hidden});

  p.reserve_width = reserve_width(p.cell, p.dtype, p.shape.hidden, p.shape.projection);
  // The largest things that are allocated, in bytes: the reserve, packed weights, a layer's rows.
  product({p.runs(), p.shape.rows, p.reserve_width, 8}, "what backward needs");
  product({gate_rows + 64, p.shape.input + p.output_width() + 128, 16}, "a layer's weights");
  product({p.layers, p.shape.rows + 1, p.output_width() + p.shape.input, 8}, "the outputs of all layers");
  product({p.runs() + 2, p.shape.batch + 1, p.shape.hidden + 64, 64}, "the states");

  if (a.dropout_mask.has_value()) {
    TORCH_CHECK_VALUE(p.layers > 1, "lstmfast: dropout_mask needs more than one layer");
    check_like(*a.dropout_mask, "dropout_mask", a.input, p.stacked_rows_shape(p.layers - 1, p.output_width()),
               at::kBool);
  }
  return p;
}

}  // namespace lstmfast
