"""Tests that need a GPU: skipped without one, unless LSTMFAST_REQUIRE_CUDA=1 says that there must be one.

Under LSTMFAST_REQUIRE_CUDA=1 a missing GPU is an error, a skipped test is a failed test, and tests for several GPUs are
left out on a machine with one.
"""

import os
from pathlib import Path

import pytest
import torch

import lstmfast

REQUIRED = os.environ.get("LSTMFAST_REQUIRE_CUDA") == "1"
HERE = Path(__file__).parent


def what_is_missing() -> str | None:
    if lstmfast.build_info()["cuda"] is None:
        return "lstmfast was built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return None


def pytest_configure(config):
    config.addinivalue_line("markers", "several_gpus: needs two GPUs")
    config.addinivalue_line("markers", "alone: looks at the whole GPU, so nothing may run beside it")
    missing = what_is_missing()
    if REQUIRED and missing is not None:
        raise pytest.UsageError(f"LSTMFAST_REQUIRE_CUDA=1, but {missing}")


def pytest_collection_modifyitems(config, items):
    own = [item for item in items if HERE in item.path.parents]
    missing = what_is_missing()
    if missing is not None:
        for item in own:
            item.add_marker(pytest.mark.skip(reason=missing))
        return
    if torch.cuda.device_count() < 2:
        lone = [item for item in own if item.get_closest_marker("several_gpus")]
        if REQUIRED:
            config.hook.pytest_deselected(items=lone)
            items[:] = [item for item in items if item not in lone]
        else:
            for item in lone:
                item.add_marker(pytest.mark.skip(reason="this machine has one GPU"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if REQUIRED and report.skipped and HERE in item.path.parents and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be skipped: {report.longrepr}"


@pytest.fixture(autouse=True)
def strict_float32():
    """float32 without TF32, for torch.nn and for lstmfast, unless a test says otherwise; put back afterwards."""
    rnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = rnn, matmul
