"""bench/costs.py and bench/candidates.py: what they make of measurements, with figures and calls that need no GPU."""

import contextlib
import json
from pathlib import Path

import candidates
import costs
import pytest
from lstmfast_bench import cuda

from lstmfast import _C

ROOT = Path(__file__).resolve().parents[2]

MEGAHERTZ = 2000.0
BARRIER, MMA, LATENCY, FLAG, CLUSTER = 30.0, 6.0, 32.0, 1400.0, 350.0  # cycles
L2_BYTES, CLUSTER_BYTES = 40.0, 16.0  # per cycle


def measured():
    """What the program would print on a GPU with these constants; groups differ a little from each other."""

    def entry(what, cycles, group=1, threads=256, size=0):
        nanoseconds = cycles / MEGAHERTZ * 1000
        spread = {"median": nanoseconds, "low": nanoseconds * 0.9, "high": nanoseconds * 1.2}
        return {"what": what, "blocks": 128, "group": group, "threads": threads, "bytes": size} | spread

    rounds = [entry("block barrier", BARRIER * threads / 256, threads=threads) for threads in (128, 256, 512)]
    for warps in (4, 8, 16):
        rounds.append(entry("mma, 1 chain", max(LATENCY, warps / 4 * MMA), threads=32 * warps))
        rounds.append(entry("mma, 8 chains", warps / 4 * MMA, threads=32 * warps))
    for group, factor in ((4, 0.9), (8, 1.0), (16, 1.1)):
        for size in (1024, 4096, 65536):
            through_l2 = factor * (FLAG + size / L2_BYTES) + 4 * BARRIER
            through_cluster = factor * (CLUSTER + size / CLUSTER_BYTES) + BARRIER
            rounds.append(entry("through L2", through_l2, group, size=size))
            rounds.append(entry("through cluster", through_cluster, group, size=size))
    gpu = {"gpu": "NVIDIA H200", "capability": [9, 0], "multiprocessors": 132}
    return gpu | {"megahertz": MEGAHERTZ, "rounds": rounds}


def test_constants_are_found_again():
    assert costs.constants(measured()) == pytest.approx(
        {
            "megahertz": MEGAHERTZ,
            "block_barrier": BARRIER,
            "mma": MMA,
            "mma_latency": LATENCY,
            "flag": FLAG,
            "exchange_bytes": L2_BYTES,
            "cluster_barrier": CLUSTER,
            "cluster_bytes": CLUSTER_BYTES,
        }
    )


def test_constants_are_fields_of_the_model():
    header = (ROOT / "csrc" / "cuda" / "costs.h").read_text()
    assert all(f" {name}" in header for name in costs.constants(measured()))


def test_a_gpu_without_clusters():
    file = measured()
    file["rounds"] = [r for r in file["rounds"] if "cluster" not in r["what"]]
    assert "cluster_bytes" not in costs.constants(file)


def test_constants_of_an_earlier_run(tmp_path, capsys):
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(measured()))
    assert costs.main(["--from", str(path), "--out", str(tmp_path / "new" / "costs.json")]) == 0
    assert "NVIDIA H200, 132 multiprocessors; for case 90" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "costs.json").read_text())["constants"]["flag"] == pytest.approx(FLAG)


def test_without_nvcc(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert costs.main([]) == 2
    assert "there is no bin/nvcc" in capsys.readouterr().err


def test_without_a_gpu(monkeypatch, capsys, tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch()  # there, and not to be called
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(costs.torch.cuda, "is_available", lambda: False)
    assert costs.main([]) == 2
    assert capsys.readouterr().err == (
        "torch sees no GPU of compute capability 8.0 or newer: there is nothing to measure\n"
    )


# Candidates, planned for an H200 and run by the CPU, which has no choice


def sweep(out, *arguments):
    fast = ("--device", "cpu", "--gpu", "H200", "--pairs", "2", "--min-time", "1e-4", "--out", str(out))
    code = candidates.main(["--shape", "2x2x4x32x1", *fast, *arguments])
    return code, json.loads(out.read_text())["sweeps"]


def test_candidates_are_measured(tmp_path, monkeypatch, capsys):
    choices = set()
    choose = _C.choose_cuda_plans
    monkeypatch.setattr(candidates._C, "choose_cuda_plans", lambda *c: (choices.add(c), choose(*c)))
    code, (forward, backward) = sweep(tmp_path / "out.json")
    assert code == 0
    assert (forward["mode"], backward["mode"]) == ("inference", "training")
    count = _C.cuda_plan("LSTM", "bfloat16", 2, 2, 4, 32, 0, 1, 1, False, True, "H200")["candidates"]
    assert {entry["choice"] for entry in forward["candidates"]} == {-2, *range(count)}
    gains = [entry["gain"]["median"] for entry in forward["candidates"]]
    assert gains == sorted(gains, reverse=True)
    assert sum(entry["is_planned"] for entry in forward["candidates"]) == 1
    assert {(-1, -1), (-2, -1), (-1, -2)} <= choices
    listed = capsys.readouterr().out
    assert listed.count("  * ") == 2
    assert "WRONG" not in listed


def test_no_time_for_candidates(tmp_path, capsys):
    code, (forward, _) = sweep(tmp_path / "out.json", "--budget", "0")
    assert code == 0
    assert forward["cut"] == len(forward["candidates"])
    assert forward["best_gain"] is None


def test_wrong_candidates_are_told(tmp_path, monkeypatch, capsys):
    current = [-1]
    monkeypatch.setattr(candidates._C, "choose_cuda_plans", lambda f=-1, b=-1: current.__setitem__(0, f))
    results = candidates.sides.Side.results

    def wrong(self):
        outputs, gradients = results(self)
        if current[0] == 1:
            raise RuntimeError("lstmfast: persistent_forward failed")
        return [o * (1.5 if current[0] == 0 else 1.0) for o in outputs], gradients

    monkeypatch.setattr(candidates.sides.Side, "results", wrong)
    code, (forward, _) = sweep(tmp_path / "out.json")
    assert code == 1
    errors = {entry["choice"]: entry["error"] for entry in forward["candidates"] if "error" in entry}
    assert errors.keys() == {0, 1}
    assert "differs by 5.00e-01" in errors[0]
    assert "persistent_forward failed" in errors[1]
    assert capsys.readouterr().out.count("WRONG") == 2


def test_refused_launches_are_told(monkeypatch):
    monkeypatch.setattr(cuda.torch.cuda, "current_device", lambda: 0)
    for works in (True, False):
        monkeypatch.setattr(cuda._C, "gpu_info", lambda gpu, works=works: {"persistent": works})
        with contextlib.nullcontext() if works else pytest.raises(RuntimeError, match="refused a launch"):
            cuda.check_regime()


def test_stacks_are_refused(capsys):
    with pytest.raises(SystemExit):
        candidates.main(["--device", "cpu", "--shape", "3x2x8x8x2"])
    assert "one layer and one direction" in capsys.readouterr().err
