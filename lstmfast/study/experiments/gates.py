"""What each gate of an LSTM does: the equations, checked at the ends of the gates, and training without one of them."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..claims import Finding, verdict
from ..experiment import Band, Experiment, Key, Literature, Setting, Table
from ..layers import hold_gates, recurrent
from ..models.sequence_regressor import SequenceRegressor
from ..plots import Plot, curves
from ..results import Results, Spread
from ..trainer import Recipe, Training
from . import adding

OPEN, HALF, SHUT = 50.0, 0.0, -50.0
WITHOUT = ["nothing", "input", "forget", "output"]
TASKS = ["sum", "latest"]


@dataclass(frozen=True)
class Budget:
    seeds: int
    recipe: Recipe
    length: int = 30
    batch: int = 64
    hidden_size: int = 32
    test_sequences: int = 1000


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    keys = []
    for seed in seeds:
        keys.append({"part": "equations", "seed": seed})
        keys += [
            {"part": "ablation", "task": task, "without": gate, "seed": seed} for task in TASKS for gate in WITHOUT
        ]
    return keys


def latest(length: int, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (input [T, B, 2], target [T, B]): a number and, at one step in ten, a mark; wanted is, at each step, the
    number that was marked last, and 0 before the first mark."""
    while True:
        numbers = torch.rand(length, batch)
        marks = torch.rand(length, batch) < 0.1
        steps = torch.arange(length)[:, None]
        last = torch.where(marks, steps, -1).cummax(0).values
        target = torch.where(last >= 0, numbers.gather(0, last.clamp(min=0)), 0.0)
        yield torch.stack((numbers, marks.float()), dim=-1).to(device), target.to(device)


def training(key: Key, setting: Setting) -> Training:
    budget = setting.budget
    layer = recurrent("LSTM", 2, budget.hidden_size, init="forget1", provider=setting.provider)
    if key["without"] != "nothing":
        hold_gates(layer, **{key["without"]: OPEN})
    model = SequenceRegressor(layer).to(setting.device)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        input, target = batch
        output = model(input)[..., 0]
        return ((output if key["task"] == "latest" else output[-1]) - target).square().mean()

    return Training(model, _batches(key["task"], budget.batch, setting), loss, budget.recipe)


def _batches(task: str, batch: int, setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    return {"sum": adding.batches, "latest": latest}[task](setting.budget.length, batch, setting.device)


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting).step


def measure(key: Key, setting: Setting) -> dict:
    if key["part"] == "equations":
        return equations(setting)
    test = next(_batches(key["task"], setting.budget.test_sequences, setting))
    trained = training(key, setting)
    curve = trained.run(lambda: {"mse": trained.loss(test).item()}, desc=f"{key['task']} without {key['without']}")
    return {"curve": curve.json()}


def equations(setting: Setting) -> dict:
    """Largest deviations from what the equations say of gates held at their ends or half open, and the gradient of the
    cell with respect to each of its three arguments."""
    budget = setting.budget
    h_0, c_0 = (torch.randn(1, 4, budget.hidden_size, device=setting.device) for _ in range(2))
    input = torch.randn(budget.length, 4, 8, device=setting.device)
    seed = torch.randint(2**31, ()).item()

    def states(steps: int, **gates: float) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        layer = recurrent("LSTM", 8, budget.hidden_size, provider=setting.provider).to(setting.device)
        _, state = hold_gates(layer, **gates)(input[:steps], (h_0, c_0))
        return state

    def apart(a: Tensor, b: Tensor | float) -> float:
        return (a - b).abs().max().item()

    with torch.no_grad():
        added = [states(1, forget=SHUT, input=gate)[1] for gate in (HALF, OPEN)]
        shown = [states(1, output=gate)[0] for gate in (HALF, OPEN)]
        deviations = {
            "f = 1, i = 0: the cell keeps its value": apart(states(budget.length, forget=OPEN, input=SHUT)[1], c_0),
            "f = 0, i = 0: the cell becomes 0": apart(states(budget.length, forget=SHUT, input=SHUT)[1], 0.0),
            "o = 0: the output is 0": apart(states(budget.length, output=SHUT)[0], 0.0),
            "i = 1/2: half is added": apart(2 * added[0], added[1]),
            "o = 1/2: half is shown": apart(2 * shown[0], shown[1]),
        }
    return {"deviations": deviations, "gradients": _gradients(setting, input[:1], h_0, c_0)}


def _gradients(setting: Setting, x: Tensor, h: Tensor, c: Tensor) -> dict[str, float]:
    layer = recurrent("LSTM", 8, setting.budget.hidden_size, provider=setting.provider).to(setting.device)
    arguments = {"c_{t-1}": c, "h_{t-1}": h, "x_t": x}
    c, h, x = leaves = [value.clone().requires_grad_() for value in arguments.values()]
    _, (_, new) = layer(x, (h, c))
    gradients = torch.autograd.grad(new.sum(), leaves)
    return {name: gradient.norm().item() for name, gradient in zip(arguments, gradients, strict=True)}


def _mse(results: Results, task: str, without: str) -> Spread:
    """The error at the end of training, over the seeds: of each the geometric mean of its last five evaluations, since
    errors that small jump about from one to the next."""
    curves = [record.figures["curve"]["mse"] for record in results.select(task=task, without=without)]
    return Spread.of([statistics.geometric_mean(curve[-5:]) for curve in curves])


def _needed(results: Results, gate: str) -> float:
    """By what factor the error is larger without the gate, on the task that needs it more."""
    return max(_mse(results, task, gate).mean / _mse(results, task, "nothing").mean for task in TASKS)


def tables(results: Results) -> list[Table]:
    deviations = [record.figures["deviations"] for record in results.select(part="equations")]
    gradients = [record.figures["gradients"] for record in results.select(part="equations")]
    equations = [(name, f"{max(one[name] for one in deviations):.1e}") for name in deviations[0]]
    arguments = [(name, f"{min(one[name] for one in gradients):.2g}") for name in gradients[0]]
    ablations = [
        (
            "all gates" if gate == "nothing" else f"without {gate} gate (held at 1)",
            *(str(_mse(results, task, gate)) for task in TASKS),
        )
        for gate in WITHOUT
    ]
    return [
        Table("Largest deviation from the equations", ("gates", "deviation"), equations),
        Table("Smallest norm of the gradient of the cell", ("with respect to", "norm"), arguments),
        Table(
            f"Mean squared error after training (knowing nothing: {1 / 6:.3f} and about {1 / 12:.3f})",
            ("LSTM", "sum of two marked", "last marked"),
            ablations,
        ),
    ]


def findings(results: Results) -> list[Finding]:
    records = [record.figures for record in results.select(part="equations")]
    worst = max(max(figures["deviations"].values()) for figures in records)
    smallest = min(min(figures["gradients"].values()) for figures in records)
    gates = [gate for gate in WITHOUT if gate != "nothing"]
    needed = {gate: _needed(results, gate) for gate in gates}
    return [
        Finding(
            "C5",
            # Numbers of size 1 in float32: a few roundings of 6e-8 each.
            verdict(worst < 1e-6),
            "With gates held at 0, 1/2 and 1 the states differ by less than 1e-6 from what the equations say.",
            f"largest deviation {worst:.1e}",
        ),
        Finding(
            "C5",
            verdict(min(needed.values()) > 2),
            "Each gate is needed: without it the error on one of the two tasks is more than twice as large.",
            "error without it, over that with all gates, on the worse of two tasks: "
            + ", ".join(f"{gate} {factor:.1f}" for gate, factor in needed.items()),
        ),
        Finding(
            "C6",
            verdict(smallest > 0),
            "The gradient of the cell with respect to each of the three is not 0.",
            f"smallest norm {smallest:.2g}",
        ),
    ]


def draw(results: Results, figure) -> None:
    panels = figure.subplots(1, len(TASKS), sharey=True)
    colors = dict(zip(WITHOUT, ("#000000", "#E69F00", "#0072B2", "#009E73"), strict=True))
    titles = {"sum": "sum of two marked numbers", "latest": "number marked last"}
    for axes, task in zip(panels, TASKS, strict=True):
        for gate in WITHOUT:
            text = "all gates" if gate == "nothing" else f"without {gate} gate"
            records = results.select(task=task, without=gate)
            curves(axes, records, "step", "mse", color=colors[gate], label=text)
        axes.set(yscale="log", xlabel="steps", title=titles[task])
    panels[0].set_ylabel("mean squared error")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(WITHOUT))


EXPERIMENT = Experiment(
    name="gates",
    title="What each gate does",
    about="First the equations: gates held at 0, 1/2 and 1 by their biases must do exactly what is said of them. Then "
    "two tasks are learnt without one of the gates, which is held at 1: the sum of two marked numbers, which must be "
    "kept and added, and the number that was marked last, which must replace the one before.",
    claims=("C5", "C6"),
    budgets={
        "quick": Budget(3, Recipe(lr=5e-3, steps=2000)),
        "full": Budget(5, Recipe(lr=5e-3, steps=8000), length=60),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"part": "ablation", "task": task, "without": "nothing", "seed": 0} for task in TASKS),
    findings=findings,
    tables=tables,
    plots=(Plot("ablation", "Error on 1000 sequences; one line per seed.", draw),),
    bands=(
        Band(
            "largest deviation from the equations",
            lambda results: max(
                max(record.figures["deviations"].values()) for record in results.select(part="equations")
            ),
            0,
            1e-6,
        ),
        Band(
            "error without forget gate over that with all gates",
            lambda results: _needed(results, "forget"),
            1,
            math.inf,
        ),
    ),
    literature=(
        Literature(
            "The forget gate and the output activation are the most critical parts, of eight variants compared",
            "Greff 2015, arXiv:1503.04069",
        ),
    ),
)
