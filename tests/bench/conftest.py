"""A result file for the tests that read one."""

import pytest
from bench_runs import run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(path, result) of a run with two shapes, two modes and two cells."""
    out = tmp_path_factory.mktemp("bench") / "new" / "tiny.json"
    code, result = run(out, "--shape", "3x2x4x5x1,4x3x4x6x2+", "--cell", "lstm,rnn_tanh")
    assert code == 0
    return out, result
