// From a plan to the instantiation that runs it. A unit per element type, multiplier and direction instantiates these.
#pragma once
#include <type_traits>

#include "persistent.cuh"

namespace lstmfast::cuda {

// Cells without activations have persistent kernels in the emulation only, where their exact results show any mistake
// in a layout; on a GPU they would nearly double the time of a build.
#if defined(LSTMFAST_EMULATED_CELLS)
using PersistentCells = portable::TypeList<LSTMFAST_EMULATED_CELLS>;
#elif defined(LSTMFAST_CUDA_EMULATION)
using PersistentCells = portable::AllCells;
#else
using PersistentCells =
    portable::TypeList<portable::LstmCell, portable::RnnCell<portable::Tanh>, portable::RnnCell<portable::Relu> >;
static_assert(PersistentCells::kSize == kPersistentCells);
#endif

template <class Kernel, class Params, int threads>
__global__ void __launch_bounds__(threads, 1) persistent_kernel(const __grid_constant__ Params p) {
  Kernel(p).run();
}

// What tells one instantiation of a unit from the others.
struct Instance {
  int cell, registers;  // of weights
  Regime regime;
  bool is_split;  // a part of the weights is in shared memory
  Meeting meeting;
  bool operator==(const Instance& o) const {
    return cell == o.cell && registers == o.registers && regime == o.regime && is_split == o.is_split &&
           meeting == o.meeting;
  }
};

// Calls f with the kernel for each instantiation that `wanted` accepts.
template <class Params, template <class, class, class, template <class> class> class Kernel, class Multiplier,
          bool backward>
struct PersistentInstances {
  using T = typename Multiplier::Element;

  template <class Wanted, class F>
  static void visit(const Wanted& wanted, const F& f) {
    for (int cell = 0; cell < PersistentCells::kSize; cell++)
      visit_cell(cell, PersistentCells{}, [&](auto c) {
        visit_shape<decltype(c), kWeightRegisters[0]>(cell, wanted, f);
        visit_shape<decltype(c), kWeightRegisters[1]>(cell, wanted, f);
      });
  }

 private:
  template <class Cell, int registers, class Wanted, class F>
  static void visit_shape(int cell, const Wanted& wanted, const F& f) {
    constexpr int kRowTiles = backward ? 1 : (Cell::kGates + 1) / 2;
    using S = WarpShape<kRowTiles, registers / 4 / kRowTiles>;
    constexpr bool kFma = std::is_same_v<Multiplier, Fma>;
    constexpr int kThreads = most_threads(registers, backward, kFma, false),
                  kFewerThreads = most_threads(registers, backward, kFma, true);
    constexpr Meeting kFlag = Meeting::kFlag;
    if (wanted({cell, registers, Regime::kOneSm, false, kFlag}))
      f(persistent_kernel<Kernel<Cell, Multiplier, S, InBlock>, Params, kThreads>);
    if (wanted({cell, registers, Regime::kCluster, false, kFlag}))
      f(persistent_kernel<Kernel<Cell, Multiplier, S, InCluster>, Params, kThreads>);
    if (wanted({cell, registers, Regime::kWholeGpu, false, kFlag}))
      f(persistent_kernel<Kernel<Cell, Multiplier, S, ThroughL2>, Params, kThreads>);
    if (wanted({cell, registers, Regime::kWholeGpu, false, Meeting::kMailbox}))
      f(persistent_kernel<Kernel<Cell, Multiplier, S, ThroughMailbox>, Params, kFewerThreads>);
    if constexpr (registers == kSplitRegisters)
      if (wanted({cell, registers, Regime::kWholeGpu, true, kFlag}))
        f(persistent_kernel<Kernel<Cell, Multiplier, S, ThroughL2InPieces>, Params, kThreads>);
    if (wanted({cell, registers, Regime::kStack, false, kFlag}))
      f(persistent_kernel<Kernel<Cell, Multiplier, S, ThroughStack>, Params, kFewerThreads>);
  }
};

template <class Instances, class Params>
Result launch_persistent(const Params& p, void* stream, const char* name) {
  const Tiling& t = p.plan.tiling;
  dev::Launch shape;
  shape.blocks = static_cast<unsigned>(t.group_blocks), shape.groups = static_cast<unsigned>(t.groups);
  shape.runs = static_cast<unsigned>(p.plan.runs);
  shape.threads = static_cast<unsigned>(t.threads());
  shape.shared_bytes = static_cast<size_t>(t.shared_bytes);
  shape.cluster = p.plan.regime == Regime::kCluster ? static_cast<unsigned>(t.group_blocks) : 1;
  shape.cooperative = p.plan.regime == Regime::kWholeGpu || p.plan.regime == Regime::kStack;
  Result result{Status::kUnknownCell, 0, name};
  Instances::visit(
      [&](const Instance& i) {
        return i == Instance{p.cell, t.weight_registers(), p.plan.regime, t.is_split(), p.plan.meeting};
      },
      [&](auto kernel) { result = launch_result(dev::launch<Params>(kernel, shape, p, stream), name); });
  return result;
}
template <class Instances>
Result prepare_persistent(int shared_bytes) {
  Result result;
  Instances::visit([](const Instance&) { return true; },
                   [&](auto kernel) {
                     if (result.ok())
                       result = launch_result(dev::allow_shared_memory(kernel, shared_bytes), "prepare_device");
                   });
  return result;
}

template <class Multiplier>
struct ForwardUnit {
  using Instances = PersistentInstances<PersistentForward, PersistentForwardKernel, Multiplier, false>;
  static Result launch(const PersistentForward& p, void* stream) {
    return launch_persistent<Instances>(p, stream, "persistent_forward");
  }
  static constexpr PersistentUnit<PersistentForward> kTable{launch, prepare_persistent<Instances>};
};
template <class Multiplier>
struct BackwardUnit {
  using Instances = PersistentInstances<PersistentBackward, PersistentBackwardKernel, Multiplier, true>;
  static Result launch(const PersistentBackward& p, void* stream) {
    return launch_persistent<Instances>(p, stream, "persistent_backward");
  }
  static constexpr PersistentUnit<PersistentBackward> kTable{launch, prepare_persistent<Instances>};
};

}  // namespace lstmfast::cuda
