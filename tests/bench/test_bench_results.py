"""bench/: result files, and what compare.py, table.py and plot.py make of them."""

import copy
from pathlib import Path

import compare
import matplotlib.image
import plot
import pytest
import table
import torch
from bench_runs import run
from lstmfast_bench import points, results


def altered(result, path, change):
    """A copy of a result file in which `change` was called with every record."""
    result = copy.deepcopy(result)
    for record in result["points"]:
        change(record)
    results.save(result, path)
    return path


def scaled(factor):
    def change(record):
        record["ratio"] = {key: value * factor for key, value in record["ratio"].items()}

    return change


def narrow(record):
    record["ratio"] = {"median": 2.0, "low": 1.99, "high": 2.01}


def test_compare(tiny, tmp_path, capsys):
    _, result = tiny
    before = altered(result, tmp_path / "before.json", narrow)
    base = results.load(before)
    for factor, code, mark in [(1.0, 0, None), (0.96, 0, None), (0.9, 1, "worse"), (1.2, 0, "better")]:
        after = altered(base, tmp_path / "after.json", scaled(factor))
        assert compare.main([str(before), str(after)]) == code
        lines = capsys.readouterr().out.splitlines()
        changes = [line for line in lines if f"{factor:6.2f}" in line and "LSTM" in line]
        assert len(changes) == 4
        assert all(mark in line if mark else "worse" not in line + "better" for line in changes)
    assert compare.main([str(before), str(after), "--threshold", "0.5"]) == 0
    after = altered(base, tmp_path / "after.json", scaled(0.9))
    assert compare.main([str(before), str(after), "--threshold", "0.89"]) == 0


def test_compare_allows_for_the_spread(tiny, tmp_path):
    def wide(record):
        record["ratio"] = {"median": 1.8, "low": 1.6, "high": 2.0}

    before = altered(tiny[1], tmp_path / "before.json", narrow)
    assert compare.main([str(before), str(altered(tiny[1], tmp_path / "after.json", wide))]) == 0


def test_compare_tells_failures_and_strangers(tiny, tmp_path, capsys):
    path, result = tiny
    failing = copy.deepcopy(result) | {"failures": [{"point": "some point", "reason": "some reason"}]}
    failing["machine"]["cpu"] = "another"
    results.save(failing, tmp_path / "failing.json")
    assert compare.main([str(path), str(tmp_path / "failing.json")]) == 1
    output = capsys.readouterr().out
    assert "failed: some point: some reason" in output
    assert "CPU differs" in output
    _, other = run(tmp_path / "other.json", "--shape", "2x2x3x4x1", "--mode", "inference")
    assert other["points"]
    assert compare.main([str(path), str(tmp_path / "other.json")]) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', '{"schema": 1, "points": [{}]}'])
@pytest.mark.parametrize(
    "read", [lambda p: compare.main([p, p]), lambda p: table.main([p]), lambda p: plot.main([p, "--out", "x"])]
)
def test_other_files_are_refused(tmp_path, capsys, read, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        read(str(path))
    assert stopped.value.code == 2
    assert "other.json" in capsys.readouterr().err


def test_table(tiny, tmp_path):
    def set_ratio(record):
        record["ratio"]["median"] = {"inference": 2.0, "training": 0.5}[record["mode"]]

    path = altered(tiny[1], tmp_path / "result.json", set_ratio)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):  # replacing what it generated itself as well
        assert table.main([str(path), "--readme", str(readme)]) == 0
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[1], lines[-2], lines[-1]) == ("before", table.BEGIN, table.END, "after")
    assert "old" not in lines
    assert lines.count("| 3x2x4x5x1 | 2.00 | **0.50** |") == 2, "losses are in bold, and each cell has a table"
    assert lines.count("| geometric mean | 2.00 | **0.50** |") == 2
    assert any("torch.nn.RNN over time of lstmfast.RNN" in line and "tanh" in line for line in lines)
    assert any(torch.__version__ in line and tiny[1]["machine"]["isa"] in line for line in lines)


@pytest.mark.parametrize(
    "text", ["", table.BEGIN, f"{table.END}{table.BEGIN}", f"{table.BEGIN}{table.BEGIN}{table.END}"]
)
def test_table_needs_its_markers(tiny, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        table.main([str(tiny[0]), "--readme", str(readme)])
    assert stopped.value.code == 2
    assert readme.read_text() == text


def test_heat_maps(tiny, tmp_path, capsys):
    assert plot.main([str(tiny[0]), "--out", str(tmp_path / "plots")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.name for p in paths] == ["speedup-LSTM.png", "speedup-RNN_TANH.png"]
    check_picture(paths[0])


def test_scaling(tmp_path, monkeypatch):
    monkeypatch.setattr(points, "SWEEPS", {"T": (1, 4), "B": (2, 3), "H": (8, 16)})
    code, result = run(tmp_path / "scaling.json", "scaling", "--shape", "4x2x8x8x1", "--mode", "training")
    assert code == 0
    assert len(result["points"]) == 4
    paths = plot.draw(result, tmp_path)
    assert [p.name for p in paths] == [f"scaling-LSTM-{size}.png" for size in "TBH"], "one thread count is no sweep"
    check_picture(paths[0])


def check_picture(path):
    height, width, _ = matplotlib.image.imread(path).shape
    assert height > 250
    assert width > 600
