"""Two processes that train together do what one does on the joined batch; checkpoints of shards; a killed worker."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from subprocesses import ROOT, run_module

HERE = Path(__file__).resolve().parent
needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")


@needs_gloo
@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one(mode, tmp_path):
    printed = torchrun(HERE / "distributed_worker.py", mode, tmp_path)
    # Not by line: two processes that print at once may end their lines together.
    assert all(f"{mode} {rank} agrees" in printed for rank in range(2)), printed


def torchrun(script, *arguments, restarts=0):
    return run_module(
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        f"--max-restarts={restarts}",
        script,
        *arguments,
        timeout=150,
        OMP_NUM_THREADS="1",
    )


@needs_gloo
@pytest.mark.slow
def test_char_lm_goes_on_after_a_killed_worker(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    options = ("--text", text, "--steps", 12, "--hidden", 16, "--length", 16, "--batch", 4, "--checkpoint-every", 4)
    script = ROOT / "examples" / "char_lm_distributed.py"
    torchrun(script, *options, "--out", tmp_path / "whole")
    printed = torchrun(script, *options, "--out", tmp_path / "killed", "--die-at-step", 6, restarts=3)
    assert "resuming after step 4" in printed
    whole, killed = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed"))
    assert whole["step"] == killed["step"] == 12
    for name, weight in whole["model"].items():
        assert torch.equal(weight, killed["model"][name]), name
    assert whole["losses"] == killed["losses"]
    assert whole["losses"][-1] < whole["losses"][0]
