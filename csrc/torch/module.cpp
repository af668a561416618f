// lstmfast._C: introspection only. Loading it registers the ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/cell_info.h"
#include "../cpu/cpu.h"
#include "../cpu/weight_cache.h"

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

py::dict build_info() {
  py::dict info;
  info["version"] = LSTMFAST_VERSION;
  info["compiler"] = __VERSION__;
  info["torch"] = LSTMFAST_TORCH_VERSION;
  info["cuda"] = false;
  std::vector<std::string> compiled;
  for (int i = 0; i < cpu::isa_count(); i++) compiled.emplace_back(cpu::isa_name(i));
  info["cpu_isa_compiled"] = compiled;
  info["cpu_isa_supported"] = isa_levels();
  info["cpu_isa"] = cpu::isa_name(cpu::isa());
  return info;
}

int64_t reserve_width(const std::string& cell, bool is_double, int64_t hidden, int64_t projection) {
  return cpu::reserve_width(cell_named(cell), is_double ? DType::kFloat64 : DType::kFloat32, hidden, projection);
}

py::dict plan(const std::string& cell, int64_t steps, int64_t batch, int64_t input, int64_t hidden, int64_t projection,
              int threads, bool is_double) {
  ForwardParams p;
  p.cell = cell_named(cell);
  p.dtype = is_double ? DType::kFloat64 : DType::kFloat32;
  p.isa = cpu::isa();
  p.threads = threads;
  p.shape.steps = steps;
  p.shape.batch = batch;
  p.shape.rows = steps * batch;
  p.shape.input = input;
  p.shape.hidden = hidden;
  p.shape.projection = projection;
  const cpu::Plan plan = cpu::plan(p);
  py::dict d;
  d["threads"] = plan.threads;
  d["split"] = plan.split == cpu::Split::kBatch ? "batch" : "hidden";
  d["forward_steps"] = plan.forward_steps;
  d["backward_steps"] = plan.backward_steps;
  d["in_place"] = plan.in_place;
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
void set_weight_cache_limit(int64_t bytes) {
  if (bytes < 0) throw std::invalid_argument("bytes must not be negative, got " + std::to_string(bytes));
  cpu::set_weight_cache_limit(bytes);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Introspection of lstmfast's kernels. Importing it registers torch.ops.lstmfast.";
  m.def("build_info", &build_info);
  m.def("cells", &cells);
  m.def("isa_levels", &isa_levels);
  m.def("isa", [] { return std::string(cpu::isa_name(cpu::isa())); });
  m.def("set_isa", &set_isa, py::arg("name"));
  m.def("reserve_width", &reserve_width, py::arg("cell"), py::arg("is_double"), py::arg("hidden_size"),
        py::arg("proj_size"));
  m.def(
      "weight_cache_info", &weight_cache_info,
      "Packed weights that inference on the CPU keeps between calls: a dict of entries, bytes, limit (bytes), hits and "
      "misses. An entry counts only while the weights' content is what it was packed from.");
  m.def("set_weight_cache_limit", &set_weight_cache_limit, py::arg("bytes"),
        "How many bytes of packed weights inference on the CPU may keep (256 MiB at first), the least recently used "
        "going first; 0 keeps nothing. Raises ValueError if negative.");
  m.def("plan", &plan, py::arg("cell"), py::arg("steps"), py::arg("batch"), py::arg("input_size"),
        py::arg("hidden_size"), py::arg("proj_size") = 0, py::arg("threads") = 1, py::arg("is_double") = false);
}
