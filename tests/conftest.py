"""For the whole suite: the instruction set it runs at, the seed, and one thread unless a test asks for more."""

import pytest
import torch

import lstmfast
from lstmfast import _C
from lstmfast.autograd import chunks


def pytest_addoption(parser):
    parser.addoption(
        "--isa", metavar="NAME", help=f"run the kernels at this level: {', '.join(_C.isa_levels())} (default: the best)"
    )


def pytest_configure(config):
    level = config.getoption("isa")
    if level is not None and level not in _C.isa_levels():
        raise pytest.UsageError(f"--isa {level}: this machine and build have {', '.join(_C.isa_levels())}")
    if level is not None:
        _C.set_isa(level)


def pytest_sessionstart(session):
    # Not pytest_report_header, which -q silences: which kernels ran is the first thing to know about a result.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        info = lstmfast.build_info()
        reporter.write_line(
            f"lstmfast {info['version']}: kernels at {info['cpu_isa']} of {', '.join(info['cpu_isa_supported'])}; "
            f"torch {torch.__version__}, {torch.get_num_threads()} threads at most"
        )


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, whatever the machine: most tests are too small to share. Thread count and level are put back."""
    threads, level = torch.get_num_threads(), _C.isa()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    _C.set_isa(level)


@pytest.fixture(autouse=True)
def seed():
    """Each test draws the same numbers, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture
def chunks_of(monkeypatch):
    """Sets the steps of a chunk, so that recompute=True cuts short sequences."""

    def set_steps(steps):
        monkeypatch.setattr(chunks, "chunk_steps", lambda all_steps, batch, device_type: min(steps, all_steps))

    return set_steps
