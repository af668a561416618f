"""The runner of `make gpu-check`, with stages that need no GPU."""

import json
import sys
import time
from pathlib import Path

import gpu_check
import pytest
from gpu_check import Command, Stage

ROOT = Path(__file__).resolve().parent.parent


def python(code, limit=30.0, **environment):
    return Command([sys.executable, "-c", code], environment, limit)


def stage(name, *commands, needs=(), stops=False, limit=60):
    return Stage(name, limit, tuple(needs), lambda out, limit: list(commands), stops)


def check(tmp_path, *stages):
    records = gpu_check.check([s.name for s in stages], tmp_path / "out", {s.name: s for s in stages})
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["stages"] == records
    return records, (tmp_path / "out" / "gpu-check.log").read_text()


def test_stages_run_in_turn_and_are_recorded(tmp_path):
    records, log = check(
        tmp_path,
        stage("one", python("import os; print('said', os.environ['COLOUR'])", COLOUR="green")),
        stage("two", python("import sys; sys.exit(3)"), python("print('still runs')")),
    )
    assert [record["stage"] for record in records] == ["one", "two"]
    assert records[0]["problems"] == []
    assert len(records[1]["problems"]) == 1
    assert records[1]["problems"][0].startswith("exit status 3")
    assert "said green" in log
    assert "still runs" in log


def test_a_failed_build_ends_the_run(tmp_path):
    records, log = check(tmp_path, stage("build", python("raise ValueError"), stops=True), stage("tests", python("1")))
    assert len(records) == 1
    assert "ValueError" in log


def test_a_stage_that_takes_too_long_is_ended_with_its_children(tmp_path, monkeypatch):
    ticks = tmp_path / "ticks"
    child = f"""
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    with open({str(ticks)!r}, "a") as file: file.write(".")
    time.sleep(0.05)
"""
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    records, log = check(tmp_path, stage("slow", python(code, limit=2.0)))
    assert records[0]["problems"][0].startswith("ended after its 2 s")
    assert "begun" in log
    counted = ticks.stat().st_size
    time.sleep(0.5)
    assert counted == ticks.stat().st_size > 0


def test_missing_packages_are_named(tmp_path):
    records, _ = check(tmp_path, stage("tests", python("1"), needs=["torch", "no_such_package"]))
    assert records[0]["problems"] == ["missing: Python packages no_such_package"]


def test_missing_sanitizer_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *a, **k: None)
    with pytest.raises(gpu_check.Missing, match="compute-sanitizer"):
        gpu_check.sanitizer_commands(tmp_path, 60)


def test_no_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "WHOLE_LIMIT", 0.0)
    records, _ = check(tmp_path, stage("late", python("1")))
    assert records[0]["problems"] == ["not begun: the 0 s of the whole run are over"]


def test_long_logs_lose_their_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "LARGEST_LOG", 10)
    path = tmp_path / "log"
    path.write_bytes(b"abcdefghijklmnop")
    gpu_check.shorten(path)
    assert path.read_bytes() == b"abcde\n... cut ...\nlmnop"


def test_limits_leave_room():
    assert sum(s.limit for s in gpu_check.STAGES.values()) <= gpu_check.WHOLE_LIMIT < 9 * 60


@pytest.mark.parametrize("name", ["bench", "candidates", "first"])
def test_stages_that_can_end_by_themselves(tmp_path, name):
    (command,) = gpu_check.STAGES[name].commands(tmp_path, 100)
    assert float(command.arguments[command.arguments.index("--budget") + 1]) < command.limit == 100


def test_what_comes_back_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "compute-sanitizer")
    files = {"gpu-check.log", "summary.json"}
    for stage in gpu_check.STAGES.values():
        for command in stage.commands(tmp_path, 60):
            if "--out" in command.arguments:
                files.add(Path(command.arguments[command.arguments.index("--out") + 1]).name)
    assert len(files) == 2 + 4 <= 8


def test_stages_are_checked(capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main(["build", "fly"])
    assert stopped.value.code == 2
    assert "no stage is called fly" in capsys.readouterr().err


@pytest.mark.parametrize("name", gpu_check.STAGES)
def test_files_that_stages_run_exist(name, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "compute-sanitizer")
    paths = [
        argument
        for command in gpu_check.STAGES[name].commands(tmp_path, 60)
        for argument in command.arguments
        if argument.startswith(("tests/", "bench/", "tools/", "setup"))
    ]
    assert paths
    assert all((ROOT / path).exists() for path in paths)
