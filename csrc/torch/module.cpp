// lstmfast._C: introspection only. Loading it registers the ops.
#include <ATen/Context.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/function.h>

#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "../core/cell_info.h"
#include "../cpu/cpu.h"
#include "../cpu/pool.h"
#include "../cpu/weight_cache.h"
#include "../cuda/kernels.h"
#include "plan_choice.h"
#include "precision.h"
#if defined(LSTMFAST_HAS_CUDA)
#include "cuda_device.h"
#endif

namespace py = pybind11;
using namespace lstmfast;

namespace {

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (int i = 0; i < cpu::isa_count(); i++)
    if (cpu::isa_supported(i)) names.emplace_back(cpu::isa_name(i));
  return names;
}

void set_isa(const std::string& name) {
  for (int i = 0; i < cpu::isa_count(); i++)
    if (name == cpu::isa_name(i) && cpu::set_isa(i)) return;
  throw std::invalid_argument("this machine has no ISA level '" + name + "'");
}

py::dict cells() {
  py::dict all;
  for (int i = 0; i < kCells; i++) {
    const CellInfo& c = cell_info(i);
    py::dict facts;
    facts["gates"] = c.gates;
    facts["states"] = c.states;
    facts["saved"] = c.saved;
    all[c.name] = facts;
  }
  return all;
}

int cell_named(const std::string& name) {
  const int cell = find_cell(name);
  if (cell < 0) throw std::invalid_argument("unknown cell '" + name + "'");
  return cell;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

py::dict build_info() {
  py::dict info;
  info["version"] = LSTMFAST_VERSION;
  info["compiler"] = __VERSION__;
  info["torch"] = LSTMFAST_TORCH_VERSION;
  const std::string cuda = LSTMFAST_CUDA_VERSION;  // of the toolkit; empty in a build without CUDA
  if (cuda.empty())
    info["cuda"] = py::none();
  else
    info["cuda"] = cuda;
  info["cuda_architectures"] = split(LSTMFAST_CUDA_ARCHITECTURES, ';');
  std::vector<std::string> compiled;
  for (int i = 0; i < cpu::isa_count(); i++) compiled.emplace_back(cpu::isa_name(i));
  info["cpu_isa_compiled"] = compiled;
  info["cpu_isa_supported"] = isa_levels();
  info["cpu_isa"] = cpu::isa_name(cpu::isa());
  return info;
}

DType dtype_named(const std::string& name) {
  static const std::map<std::string, DType> all{{"float32", DType::kFloat32},
                                                {"float64", DType::kFloat64},
                                                {"bfloat16", DType::kBFloat16},
                                                {"float16", DType::kFloat16}};
  const auto found = all.find(name);
  if (found == all.end()) throw std::invalid_argument("no kernel computes in dtype '" + name + "'");
  return found->second;
}

int64_t reserve_width(const std::string& cell, const std::string& dtype, int64_t hidden, int64_t projection,
                      const std::string& device) {
  const auto width = device == "cuda" ? cuda::reserve_width : cpu::reserve_width;
  return width(cell_named(cell), dtype_named(dtype), hidden, projection);
}

// A GPU by its name, or the device with an index as calls would find it now.
cuda::Context context_of(const std::variant<std::string, int>& gpu) {
  cuda::Context context;
  if (const auto* name = std::get_if<std::string>(&gpu)) {
    const cuda::GpuInfo* info = cuda::gpu_named(*name);
    if (!info) throw std::invalid_argument("no GPU is described as '" + *name + "'");
    context.gpu = *info;
    return context;
  }
#if defined(LSTMFAST_HAS_CUDA)
  const CudaDevice& device = CudaDevice::described(static_cast<c10::DeviceIndex>(std::get<int>(gpu)));
  context.gpu = device.info();
  context.persistent = device.persistent();
  return context;
#else
  throw std::invalid_argument("this build has no CUDA: name a GPU instead of a device");
#endif
}

py::dict gpu_info(const std::variant<std::string, int>& gpu) {
  const cuda::Context context = context_of(gpu);
  py::dict d;
  d["multiprocessors"] = context.gpu.sm_count;
  d["capability"] = py::make_tuple(context.gpu.major, context.gpu.minor);
  d["shared_per_block"] = context.gpu.shared_per_block_optin;
  d["registers_per_multiprocessor"] = context.gpu.registers_per_sm;
  d["l2_bytes"] = context.gpu.l2_bytes;
  d["cooperative"] = context.gpu.cooperative;
  d["persistent"] = context.persistent;
  return d;
}

int plan_choice_of(int choice) {
  if (choice < cuda::kGeneralPath)
    throw std::invalid_argument("a choice of plans is at least -2, got " + std::to_string(choice));
  return choice;
}

py::dict cuda_plan(const std::string& cell, const std::string& dtype, int64_t steps, int64_t batch, int64_t input,
                   int64_t hidden, int64_t projection, int directions, int layers, bool backward, bool allow_tf32,
                   const std::variant<std::string, int>& gpu, int choice) {
  cuda::Context context = context_of(gpu);
  context.allow_tf32 = allow_tf32;
  context.candidate = plan_choice_of(choice);
  BackwardParams p;
  p.cell = cell_named(cell);
  p.dtype = dtype_named(dtype);
  p.shape.steps = steps;
  p.shape.batch = batch;
  p.shape.rows = steps * batch;
  p.shape.input = input;
  p.shape.hidden = hidden;
  p.shape.projection = projection;
  const int at_once = directions == 1 ? static_cast<int>(cuda::layers_at_once(p, layers, context, backward)) : 1;
  const bool stacked = at_once > 1;
  const int runs = stacked ? at_once : directions;
  const cuda::Plan plan = cuda::plan_for(p, runs, stacked, context, backward);
  static const char* const kRegimes[] = {"general", "one SM", "cluster", "whole GPU", "stack", "fused steps"};
  py::dict d;
  d["regime"] = kRegimes[static_cast<int>(plan.regime)];
  d["microseconds"] = plan.microseconds;
  d["text"] = cuda::describe(plan);
  d["layers"] = at_once;
  d["candidates"] = cuda::candidates(cuda::request_for(p, runs, stacked, context, backward), context.gpu);
  return d;
}
void choose_cuda_plans(int forward, int backward) {
  forward = plan_choice_of(forward), backward = plan_choice_of(backward);
  plan_choice().forward = forward;
  plan_choice().backward = backward;
}

py::dict plan(const std::string& cell, int64_t steps, int64_t batch, int64_t input, int64_t hidden, int64_t projection,
              int threads, const std::string& dtype, bool training) {
  ForwardParams p;
  p.cell = cell_named(cell);
  p.dtype = dtype_named(dtype);
  p.isa = cpu::isa();
  p.threads = threads;
  p.shape.steps = steps;
  p.shape.batch = batch;
  p.shape.rows = steps * batch;
  p.shape.input = input;
  p.shape.hidden = hidden;
  p.shape.projection = projection;
  char kept;  // what training leaves for backward; planning does not look into it
  if (training) p.reserve = &kept;
  const cpu::Plan plan = cpu::plan(p);
  py::dict d;
  d["threads"] = plan.threads;
  d["split"] = plan.split == cpu::Split::kBatch ? "batch" : "hidden";
  d["forward_steps"] = plan.forward_steps;
  d["backward_steps"] = plan.backward_steps;
  d["in_place"] = plan.in_place;
  d["gradients_in_place"] = plan.gradients_in_place;
  d["fuse_input"] = plan.fuse_input;
  return d;
}

py::dict weight_cache_info() {
  const cpu::WeightCacheInfo c = cpu::weight_cache_info();
  py::dict d;
  d["entries"] = c.entries;
  d["bytes"] = c.bytes;
  d["limit"] = c.limit;
  d["hits"] = c.hits;
  d["misses"] = c.misses;
  return d;
}
void require_not_negative(int64_t bytes) {
  if (bytes < 0) throw std::invalid_argument("bytes must not be negative, got " + std::to_string(bytes));
}
void set_weight_cache_limit(int64_t bytes) {
  require_not_negative(bytes);
  cpu::set_weight_cache_limit(bytes);
}

py::dict kept_memory_info() {
  py::dict d;
  d["results"] = cpu::result_pool.kept();
  d["results_limit"] = cpu::result_pool.limit();
  d["scratch"] = cpu::scratch_pool.kept();
  return d;
}
void set_kept_memory_limit(int64_t bytes) {
  require_not_negative(bytes);
  cpu::result_pool.set_limit(static_cast<size_t>(bytes));
  cpu::scratch_pool.release();
}

std::optional<std::vector<bool>> asked_for() {
  const auto node = torch::autograd::get_current_node();
  if (!node) return std::nullopt;
  std::vector<bool> asked(node->num_outputs());
  for (size_t i = 0; i < asked.size(); i++) asked[i] = node->task_should_compute_output(i);
  return asked;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Introspection of lstmfast's kernels. Importing it registers torch.ops.lstmfast.";
  m.def("build_info", &build_info,
        "What this build is: a dict of version, compiler, torch, cuda (None without), cuda_architectures, "
        "cpu_isa_compiled, cpu_isa_supported by this machine, and cpu_isa, the level that kernels run at.");
  m.def("cells", &cells);
  m.def("isa_levels", &isa_levels);
  m.def("isa", [] { return std::string(cpu::isa_name(cpu::isa())); });
  m.def("set_isa", &set_isa, py::arg("name"));
  m.def("reserve_width", &reserve_width, py::arg("cell"), py::arg("dtype"), py::arg("hidden_size"),
        py::arg("proj_size"), py::arg("device") = "cpu");
  m.def(
      "weight_cache_info", &weight_cache_info,
      "Packed weights that inference on the CPU keeps between calls: a dict of entries, bytes, limit (bytes), hits and "
      "misses. An entry counts only while the weights' content is what it was packed from.");
  m.def("set_weight_cache_limit", &set_weight_cache_limit, py::arg("bytes"),
        "How many bytes of packed weights inference on the CPU may keep (256 MiB at first), the least recently used "
        "going first; 0 keeps nothing. Raises ValueError if negative.");
  m.def(
      "kept_memory_info", &kept_memory_info,
      "Memory on the CPU that freed results have left to later ones (results, of at most results_limit), and calls to "
      "later calls (scratch): a dict of numbers of bytes. The system may take back what results have left, if it needs "
      "it, without anything here being told.");
  m.def("set_kept_memory_limit", &set_kept_memory_limit, py::arg("bytes"),
        "How many bytes freed results may leave to later ones (1 GiB at first; 0: nothing), and gives all that is kept "
        "back to the system. Raises ValueError if negative.");
  m.def("plan", &plan, py::arg("cell"), py::arg("steps"), py::arg("batch"), py::arg("input_size"),
        py::arg("hidden_size"), py::arg("proj_size") = 0, py::arg("threads") = 1, py::arg("dtype") = "float32",
        py::arg("training") = false);
  m.def(
      "cuda_plan", &cuda_plan, py::arg("cell"), py::arg("dtype"), py::arg("steps"), py::arg("batch"),
      py::arg("input_size"), py::arg("hidden_size"), py::arg("proj_size"), py::arg("directions"), py::arg("layers"),
      py::arg("backward"), py::arg("allow_tf32"), py::arg("gpu"), py::arg("choice") = cuda::kPlanners,
      "What runs a call: a dict of regime, microseconds (a step, by the planner's model), text, and candidates: how "
      "many launch shapes there are. choice: -1 for the planner's, -2 for the general path, or a candidate's number.");
  m.def("choose_cuda_plans", &choose_cuda_plans, py::arg("forward") = cuda::kPlanners,
        py::arg("backward") = cuda::kPlanners,
        "For measuring: the plans that CUDA calls of this process take from now on, as `choice` of cuda_plan().");
  m.def("gpu_info", &gpu_info, py::arg("gpu"));
  m.def("gpu_names", &cuda::gpu_names);
  m.def("has_tiles", [] {
    for (int i = 0; i < cpu::isa_count(); i++)
      if (cpu::isa_supported(i) && cpu::has_tiles(i)) return true;
    return false;
  });
  m.def("float32_precision", [] {
    constexpr const char* kNames[] = {"highest", "high", "medium"};
    return std::string(kNames[static_cast<int>(float32_precision_of_torch())]);
  });
  m.def("asked_for", &asked_for,
        "Within the backward of a torch.autograd.Function: for each of its tensor arguments, whether the call of "
        "torch.autograd that is running wants its gradient; None elsewhere. ctx.needs_input_grad tells what requires "
        "one.");
  m.def("allow_tf32", [] { return at::globalContext().allowTF32CuDNN(at::Float32Op::RNN); });
}
