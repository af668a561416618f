"""The study's machinery: what runs, what is kept, what is said about it, and how the command ends."""

import json
import math
import os
import sys
from dataclasses import dataclass, replace

import pytest
import study_samples
import torch
from subprocesses import ROOT, run_module, run_python

import lstmfast
from lstmfast.__main__ import main
from lstmfast.study import comparison, plots, registry, trainer
from lstmfast.study.claims import CLAIMS, Finding, Verdict, verdict
from lstmfast.study.data.source import Missing, Source
from lstmfast.study.experiment import Band, Experiment, Literature, Setting, Table
from lstmfast.study.experiments import (
    adding,
    cost,
    forecast,
    gates,
    gradient_flow,
    sentiment,
    speech_gap,
    stability,
    text,
    translate,
    words,
)
from lstmfast.study.trainer import Recipe

COMMON = ("--seeds", "1")
RECIPE = Recipe(lr=1e-2, steps=4, evaluate_every=2)

# Every experiment with a budget that only shows that it runs.
TINY = {
    "gradient-flow": gradient_flow.Budget(seeds=1, steps=60, batch=2, input_size=4, hidden_size=8),
    "gates": gates.Budget(1, RECIPE, length=10, batch=4, hidden_size=8, test_sequences=10),
    "adding": adding.Budget(1, (10,), RECIPE, batch=4, hidden_size=8, test_sequences=10),
    "speech-gap": speech_gap.Budget(1, (0, 3), RECIPE, batch=9, hidden_size=8),
    "stability": stability.Budget(1, 20, (("sgd", 1.0), ("adam", 0.1)), 4, 10, 4, 8),
    "cost": cost.Budget(1, (8, 16), 1, RECIPE, hidden_size=8, embedding_size=4, test_characters=2000),
    "forecast": forecast.Budget(1, RECIPE, hidden_size=4),
    "text": text.Budget(1, 1, 2, 4, 20, 8, 8, ngram_order=2, sample=5, characters=3000),
    "words": words.Budget(
        1, characters=3000, epochs=1, batch=4, length=10, embedding_size=4, hidden_size=8, ngram_order=2
    ),
    "translate": translate.Budget(1, pairs=40, steps=4, batch=8, embedding_size=4, hidden_size=8),
    "sentiment": sentiment.Budget(1, tested=20, epochs=1, embedding_size=4, hidden_size=8),
}


@pytest.fixture(autouse=True)
def flush_denormal():
    """The command sets it for its process; other tests are to find it as torch has it at the start."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def use(monkeypatch):
    """Makes these experiments the only ones there are."""

    def register(*experiments):
        by_name = {experiment.name: experiment for experiment in experiments}
        monkeypatch.setattr(registry, "names", lambda: list(by_name))
        monkeypatch.setattr(registry, "get", by_name.__getitem__)

    return register


@dataclass(frozen=True)
class ToyBudget:
    seeds: int = 2
    scale: float = 1.0


def toy(**changes) -> Experiment:
    """Two runs per seed without any model; each leaves its seed times a scale as its figure."""
    experiment = Experiment(
        name="toy",
        title="A toy & its <figures>",
        about="about",
        claims=("C1", "C2", "C3"),
        budgets={"quick": ToyBudget(), "full": ToyBudget(seeds=3)},
        runs=lambda budget, seeds: [{"layer": layer, "seed": seed} for seed in seeds for layer in ("RNN", "LSTM")],
        measure=lambda key, setting: {"figure": setting.budget.scale * (key["seed"] + (key["layer"] == "LSTM"))},
        findings=lambda results: [
            Finding("C1", verdict(results.mean("figure", layer="LSTM") > 0), "rule one", "measured one"),
            Finding("C2", verdict(False, True), "rule two", "measured two"),
            Finding("C3", verdict(False), "rule three", "measured three"),
        ],
        tables=lambda results: [Table("figures", ("layer",), [(str(results.spread("figure", layer="LSTM")),)])],
        plots=(plots.Plot("line", "a line", lambda results, figure: figure.subplots().plot([1, 2])),),
        bands=(Band("the figure", lambda results: results.mean("figure", layer="LSTM"), 0, 2),),
        literature=(Literature("a published figure", "somebody 1999"),),
    )
    return replace(experiment, **changes)


def study(action, *names, out, options=()):
    return main(["study", action, *names, "--out", str(out), *options])


def files(out, kind="run"):
    return sorted((out / "results").rglob(f"{kind} *.json"))


# What is run, and what is kept


def test_finished_runs_are_kept_over_an_interruption(tmp_path, use, capsys):
    done = []

    def measure(key, setting):
        if len(done) == 3 and "again" not in done:
            raise KeyboardInterrupt
        done.append(key)
        return {"figure": 1.0}

    use(toy(measure=measure))
    assert study("run", "toy", out=tmp_path) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert len(files(tmp_path)) == 3
    done.append("again")
    assert study("run", "toy", out=tmp_path) == 0
    assert done[4:] == [{"layer": "LSTM", "seed": 1}], "only the run that was interrupted is repeated"
    assert not list(tmp_path.rglob("*.unfinished"))


def test_more_seeds_add_to_those_there_are(tmp_path, use):
    measured = []
    use(toy(measure=lambda key, setting: measured.append(key["seed"]) or {"figure": 1.0}))
    study("run", "toy", out=tmp_path, options=["--seeds", "1"])
    study("run", "toy", out=tmp_path, options=["--seeds", "2", "--seed", "0"])
    study("run", "toy", out=tmp_path, options=["--seeds", "1", "--seed", "7"])
    assert measured == [0, 0, 1, 1, 7, 7]


def test_another_budget_is_another_result(tmp_path, use, capsys):
    use(toy())
    study("run", "toy", out=tmp_path)
    use(toy(budgets={"quick": ToyBudget(scale=100.0)}))
    study("run", "toy", out=tmp_path)
    assert "150" in capsys.readouterr().out, "100 for seed 0 and 200 for seed 1, nothing of the old budget"


def test_each_run_has_its_own_random_numbers(tmp_path, use):
    use(toy(measure=lambda key, setting: {"figure": torch.rand(()).item()}))
    study("run", "toy", out=tmp_path)
    drawn = {(c["key"]["layer"], c["key"]["seed"]): c["figures"]["figure"] for c in map(load, files(tmp_path))}
    assert drawn["RNN", 0] == drawn["LSTM", 0] != drawn["RNN", 1], "by the seed alone, whatever ran before"


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_files_are_strict_json(tmp_path, use):
    use(toy(measure=lambda key, setting: {"figure": math.inf, "list": [math.nan, 1.0]}, findings=lambda results: []))
    study("run", "toy", out=tmp_path)
    assert load(files(tmp_path)[0])["figures"] == {"figure": None, "list": [None, 1.0]}


# What is said about it


def test_report_of_all_verdicts(tmp_path, use, capsys):
    use(toy())
    assert study("run", "toy", out=tmp_path) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for one in Verdict:
        assert one.value in printed
        assert f">{one.value}</span>" in page
    for expected in ("rule two", "measured three", "somebody 1999", "A toy &amp; its &lt;figures&gt;", "1.5 (1 to 2)"):
        assert expected in page
    assert page.count("data:image/png;base64,iVBOR") == 1
    assert "http" not in page, "the page needs nothing beside it"
    assert page.count("not measured") == len(CLAIMS) - 3
    claims = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert f"| C2 {CLAIMS['C2']} | toy | 2 | only with forget bias | measured two |" in claims
    assert (tmp_path / "toy-line.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_with_runs_missing_is_left_out(tmp_path, use):
    use(toy())
    study("run", "toy", out=tmp_path)
    (tmp_path / "results/toy/quick-lstmfast/run layer=RNN,seed=1.json").unlink()
    study("report", out=tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1.5 (1 to 2)" not in page
    assert "seeds: 1" in page


def test_report_without_results(tmp_path, use):
    use(toy())
    assert study("report", out=tmp_path) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No results yet" in page
    assert "supported<" not in page


@pytest.mark.parametrize(
    ("high", "options", "code"), [(2, ["--check"], 0), (1, ["--check"], 1), (1, [], 0)], ids=["in", "out", "unchecked"]
)
def test_check_decides_the_exit_code(tmp_path, use, capsys, high, options, code):
    use(toy(bands=(Band("the figure", lambda results: results.mean("figure", layer="LSTM"), 0, high),)))
    assert study("run", "toy", out=tmp_path, options=options) == code
    assert ("OUTSIDE" in capsys.readouterr().out) == bool(code)


# What may be missing


def test_missing_package_skips_the_experiment(tmp_path, use, capsys, monkeypatch):
    monkeypatch.setattr(Source, "folder", lambda self: None)
    use(replace(speech_gap.EXPERIMENT, budgets={"quick": TINY["speech-gap"]}), toy())
    assert study("run", "all", out=tmp_path, options=["--check", "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    missing = "JapaneseVowels (UCI), in the package aeon is missing: pip install --no-deps aeon"
    assert f"speech-gap: skipped. {missing}" in printed
    assert "C1 supported" in printed, "the other experiment runs"
    main(["study", "list"])
    assert "is missing: pip install --no-deps aeon" in capsys.readouterr().out


def test_missing_matplotlib_leaves_the_tables(tmp_path, use, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    use(toy())
    assert study("run", "toy", out=tmp_path) == 0
    assert "pip install 'lstmfast[study]'" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "matplotlib is missing" in page
    assert "1.5 (1 to 2)" in page


def test_data_from_a_folder_or_a_wheel(tmp_path):
    study_samples.write(tmp_path)
    for source in (*speech_gap.EXPERIMENT.sources, *forecast.EXPERIMENT.sources):
        assert source.present(tmp_path)
        assert all(source.read(file, tmp_path) for file in source.files)
    with pytest.raises(Missing, match="get it"):
        Source("nothing", "none", "no_such_package", "get it").read("file", tmp_path)
    assert not Source("nothing", "none", "no_such_package", "get it", ("file",)).present(tmp_path)


@pytest.mark.parametrize(
    "arguments", [["run", "no-such"], ["run"], ["run", "toy", "--seeds", "0"], ["report", "--device", "no-such"], []]
)
def test_bad_arguments_are_refused(use, arguments):
    use(toy())
    with pytest.raises(SystemExit) as end:
        main(["study", *arguments])
    assert end.value.code == 2


def test_lstmfast_does_not_import_the_study():
    code = "import lstmfast, sys; print([m for m in sys.modules if m.startswith(('lstmfast.study', 'matplotlib'))])"
    assert run_python(code).strip() == "[]"


def test_command_of_its_own():
    assert "gradient-flow" in run_module("lstmfast", "study", "list")
    assert 'lstmfast = "lstmfast.__main__:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# The experiments


@pytest.mark.parametrize("name", registry.names())
def test_every_experiment_runs_from_end_to_end(name, tmp_path, use, capsys):
    """With a budget that teaches no model anything: it runs, is reported, and torch's layers do the same steps."""
    experiment = replace(registry.get(name), budgets={"quick": TINY[name]})
    use(experiment)
    data = study_samples.write(tmp_path)
    assert study("run", name, out=tmp_path, options=[*COMMON, "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = {claim for claim in CLAIMS if f"  {claim} " in printed}
    assert found == set(experiment.claims)
    assert page.count("<figure>") == len(experiment.plots) > 0
    compared = [load(path)["figures"] for path in files(tmp_path, "torch")]
    assert len(compared) == len(experiment.compared) > 0
    for figures in compared:
        # Twenty steps in float32 from the same weights: the first differ by some roundings of 6e-8, and training at the
        # rates used here makes little more of them in so few.
        assert figures["relative_difference"] < 1e-4
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert study("run", name, out=tmp_path, options=[*COMMON, "--data", str(data)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in files(tmp_path)}, "nothing runs twice"


@pytest.mark.parametrize("name", ["adding", "speech-gap"])
def test_layers_of_torch(name, tmp_path, use):
    use(replace(registry.get(name), budgets={"quick": TINY[name]}))
    options = [*COMMON, "--layer", "torch", "--data", str(study_samples.write(tmp_path))]
    assert study("run", name, out=tmp_path, options=options) == 0
    assert {path.parent.name for path in files(tmp_path)} == {"quick-torch"}
    assert not files(tmp_path, "torch"), "there is nothing to compare torch's layers with"


def test_claims_and_bands_of_every_experiment():
    claimed = set()
    for name in registry.names():
        experiment = registry.get(name)
        assert experiment.name == name
        assert set(experiment.budgets) == {"quick", "full"}
        assert experiment.bands
        claimed |= set(experiment.claims)
        keys = experiment.runs(experiment.budgets["quick"], range(2))
        assert len({json.dumps(key) for key in keys}) == len(keys)
        assert all(key in keys for key in experiment.compared), "what is compared is one of the runs"
    assert claimed <= set(CLAIMS)


def test_comparison_sees_another_layer(monkeypatch):
    setting = Setting(TINY["adding"])
    key = {"layer": "RNN", "init": "default", "length": 10, "seed": 0}

    class Other(torch.nn.RNN):
        def __init__(self, *sizes):
            super().__init__(*sizes, nonlinearity="relu")

    monkeypatch.setitem(comparison.PROVIDERS["torch"], "RNN", Other)
    assert comparison.compare(adding.EXPERIMENT, key, setting, steps=3)["relative_difference"] > 1e-3


def test_gates_do_what_the_equations_say():
    torch.manual_seed(0)
    figures = gates.equations(Setting(TINY["gates"]))
    deviations = figures["deviations"]
    assert deviations["f = 1, i = 0: the cell keeps its value"] == 0
    # sigmoid(-50) is 2e-22, and the states have size 1.
    assert deviations["f = 0, i = 0: the cell becomes 0"] < 1e-20
    assert deviations["o = 0: the output is 0"] < 1e-20
    assert all(norm > 0 for norm in figures["gradients"].values())


def test_latest_marked_number():
    torch.manual_seed(0)
    input, target = next(gates.latest(30, 5, torch.device("cpu")))
    for sequence in range(5):
        wanted = 0.0
        for step in range(30):
            number, mark = input[step, sequence].tolist()
            wanted = number if mark else wanted
            assert target[step, sequence].item() == wanted


def test_sum_of_two_marked_numbers():
    torch.manual_seed(0)
    input, target = next(adding.batches(11, 50, torch.device("cpu")))
    numbers, marks = input.unbind(-1)
    assert torch.equal(marks[:5].sum(0), torch.ones(50))
    assert torch.equal(marks[5:].sum(0), torch.ones(50))
    torch.testing.assert_close((numbers * marks).sum(0), target)


def series(name, tmp_path):
    return forecast.Series.load({"series": name}, Setting(TINY["forecast"], data=study_samples.write(tmp_path)))


def test_baselines_of_the_forecast_of_years(tmp_path):
    sunspots = series("sunspots", tmp_path)
    predicted = forecast.baseline("linear", sunspots)
    assert len(predicted) == len(sunspots.levels) - 1
    assert torch.isnan(predicted[:8]).all()
    # A pure cycle is a linear recurrence; its values are given to 1e-6 and kept in float32, of size 1.
    torch.testing.assert_close(predicted[8:], sunspots.levels[9:], rtol=0, atol=1e-5)
    assert torch.equal(forecast.baseline("naive", sunspots), sunspots.levels[:-1])
    years = sunspots.times[1:]
    assert years[sunspots.parts["test"]] == list(range(1921, 1956))
    assert years[sunspots.parts["validation"]] == list(range(1881, 1921))
    assert years[sunspots.parts["train"]] == list(range(1701, 1881))


def test_baselines_of_the_forecast_of_months(tmp_path):
    passengers = series("passengers", tmp_path)
    assert passengers.times[1:][passengers.parts["test"]] == [1959 + month / 12 for month in range(24)]
    changes = passengers.inputs
    assert changes[0] == 0
    # The logarithm of 1.01 in units of 0.1, from levels of size 60 in float32.
    torch.testing.assert_close(changes[1:], torch.full((143,), math.log(1.01) / 0.1), rtol=0, atol=1e-5)
    for name, first in (("naive", 12), ("linear", 12)):
        predicted = forecast.baseline(name, passengers)
        assert torch.isnan(predicted[:first]).all()
        # Passengers, of size 400: a relative 1e-5 is what float32 leaves of a logarithm of 6.
        assert passengers.rmse(predicted, "test") < 0.01


def test_same_parameters_for_the_wider_rnn():
    torch.manual_seed(0)
    setting = Setting(replace(TINY["cost"], hidden_size=32))
    sizes = {name: trainer.parameters(cost.model({"model": name, "seed": 0}, setting, 50)) for name in cost.MODELS}
    assert 0.95 * sizes["LSTM"] < sizes["RNN, same parameters"] <= sizes["LSTM"]


def test_gap_is_silence_after_the_voice():
    (frames,) = speech_gap.with_gap([torch.ones(7, 12)], 4)
    assert frames.shape == (11, 13)
    assert frames[:7].eq(1).all()
    assert frames[7:].eq(0).all()


# The trainer


def training(recipe, loss=None, target=3.0):
    model = torch.nn.Linear(1, 1)

    def square(batch):
        return (model(batch) - target).square().mean()

    batches = iter(lambda: torch.ones(4, 1), None)
    return trainer.Training(model, batches, loss or square, recipe)


def test_curve_and_end_of_training():
    run = training(Recipe(lr=0.1, steps=25, evaluate_every=10))
    curve = run.run(lambda: {"weight": run.model.weight.item()})
    assert curve.step == [10, 20, 25]
    assert curve.seconds == sorted(curve.seconds)
    assert curve.loss[-1] < curve.loss[0]
    assert curve.json()["weight"][-1] == run.model.weight.item()
    assert not curve.diverged


def test_training_ends_when_solved():
    curve = training(Recipe(lr=0.1, steps=1000, evaluate_every=5)).run(lambda: {"a": 1.0}, lambda metrics: True)
    assert curve.step == [5]


def test_training_ends_in_time():
    curve = training(Recipe(lr=0.1, seconds=0.05, evaluate_every=10**6)).run()
    assert len(curve.step) == 1
    assert 0.05 <= curve.seconds[0] < 1


def test_annealing_ends_at_rest():
    run = training(Recipe(lr=0.1, steps=10, anneal=True))
    rates = []
    step = run.step
    run.step = lambda: rates.append(run.optimizer.param_groups[0]["lr"]) or step()
    run.run()
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01


def test_a_loss_that_is_not_finite_ends_the_training():
    run = training(Recipe(lr=1e30, steps=1000, optimizer="sgd", clip=None))
    assert run.run().diverged


def test_clipping_limits_the_step():
    run = training(Recipe(lr=1.0, steps=1, optimizer="sgd", clip=0.1), target=1e3)
    before = torch.cat([parameter.detach().clone().flatten() for parameter in run.model.parameters()])
    run.step()
    after = torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])
    # The difference of weights of size 1, rounded to float32.
    assert (after - before).norm().item() == pytest.approx(0.1, abs=1e-6)
    assert run.gradient_norm > 100


def test_evaluation_is_in_eval_mode_and_leaves_no_graph():
    run = training(Recipe(lr=0.1, steps=2, evaluate_every=1))
    seen = []
    run.run(lambda: seen.append((run.model.training, torch.is_grad_enabled())) or {})
    assert seen == [(False, False)] * 2


def test_a_recipe_needs_an_end():
    with pytest.raises(ValueError, match="steps, seconds"):
        training(Recipe(lr=0.1)).run()


def test_threads_and_flag_of_the_command(tmp_path, use):
    threads = []
    use(toy(measure=lambda key, setting: threads.append(torch.get_num_threads()) or {"figure": 1.0}))
    study("run", "toy", out=tmp_path, options=["--threads", "2"])
    assert threads == [2] * 4
    if os.uname().machine == "x86_64":
        assert (torch.tensor([1e-39]) * 1.0).item() == 0


def test_version_is_in_every_result(tmp_path, use):
    use(toy())
    study("run", "toy", out=tmp_path)
    assert {load(path)["circumstances"]["lstmfast"] for path in files(tmp_path)} == {lstmfast.__version__}
