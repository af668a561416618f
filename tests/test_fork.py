"""Other processes: fork after use, spawn, workers. A hang would be OpenMP's, whose threads a fork leaves behind."""

import pytest
from subprocesses import run_python

# Sizes at which every plan shares: by hidden units, by sequences.
COMMON = """
import multiprocessing, os, sys
import torch
import lstmfast

torch.set_num_threads(3)
torch.manual_seed(0)
module = lstmfast.LSTM(33, 200)
wide, batched = torch.randn(4, 20, 33), torch.randn(20, 64, 33)


def results():
    x = wide.clone().requires_grad_()
    output, _ = module(x)
    with torch.no_grad():
        other, _ = module(batched)
    grads = torch.autograd.grad(output.sum(), [x, *module.parameters()])
    # Bytes, since torch's own parallel operations, to compare large tensors among them, do hang after a fork.
    return [t.detach().numpy().tobytes() for t in (output, other, *grads)]


def same_bits(expected):
    assert results() == expected


def kernel_threads():
    # Threads of this process besides the one that asks.
    return len(os.listdir("/proc/self/task")) - 1
"""

FORK = """
expected = results()
{before}
child = os.fork()
if child == 0:
    try:
        assert torch.get_num_threads() == 3
        same_bits(expected)
        {inside}
        os._exit(0)
    finally:
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
same_bits(expected)
print("done")
"""

GRANDCHILD = """
        again = os.fork()
        if again == 0:
            try:
                same_bits(expected)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(again, 0)[1] == 0
"""


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        ("", ""),
        ("torch.randn(600, 600) @ torch.randn(600, 600)", ""),  # torch has started the threads
        ("", GRANDCHILD.strip("\n").lstrip()),
        ("", "same_bits(expected); assert kernel_threads() == 0"),
    ],
    ids=["after use", "after torch's own threads", "child of a child", "nothing stays behind"],
)
def test_fork_after_use(before, inside):
    assert run_python(COMMON + FORK.format(before=before, inside=inside)).strip() == "done"


def test_many_forks_at_once():
    code = """
expected = results()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        try:
            for _ in range(5):
                same_bits(expected)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
print("done")
"""
    assert run_python(COMMON + code).strip() == "done"


def test_the_child_has_threads_of_its_own():
    code = """
results()
child = os.fork()
if child == 0:
    try:
        import threading, time
        most = [0]
        def watch():
            while most[0] >= 0:
                most[0] = max(most[0], kernel_threads())
                time.sleep(0.0005)
        threading.Thread(target=watch, daemon=True).start()
        with torch.no_grad():
            for _ in range(20):
                module(torch.randn(100, 64, 33))
        # The watcher, and two beside the caller.
        os._exit(0 if most[0] >= 3 else 1)
    finally:
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    assert run_python(COMMON + code).strip() == "done"


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_worker_of_multiprocessing(tmp_path, method):
    # A module and its results go to the worker and back.
    script = tmp_path / "worker.py"
    script.write_text(
        COMMON
        + """
def work(module, x, queue, received):
    output, _ = module(x)
    queue.put((output.detach().numpy(), module))
    received.wait(60)  # the module's memory is shared, and must live as long


if __name__ == "__main__":
    results()
    context = multiprocessing.get_context(sys.argv[1])
    queue, received = context.Queue(), context.Event()
    process = context.Process(target=work, args=(module, wide, queue, received))
    process.start()
    output, back = queue.get(timeout=60)
    received.set()
    process.join(60)
    assert process.exitcode == 0
    assert output.tobytes() == back(wide)[0].detach().numpy().tobytes() == module(wide)[0].detach().numpy().tobytes()
    print("done")
"""
    )
    assert run_python(script, method).strip() == "done"


def test_workers_of_a_data_loader(tmp_path):
    # A dataset that runs a layer (features of a frozen model, say), in workers forked after the layer was used.
    script = tmp_path / "loader.py"
    script.write_text(
        COMMON
        + """
from torch.utils.data import DataLoader, Dataset


class Features(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return module(wide[:, i])[0]


if __name__ == "__main__":
    results()
    expected = [module(wide[:, i])[0].detach() for i in range(6)]
    for method in "fork", "spawn":
        loader = DataLoader(Features(), batch_size=3, num_workers=2, multiprocessing_context=method)
        found = [row for batch in loader for row in batch]
        assert [a.numpy().tobytes() for a in found] == [e.numpy().tobytes() for e in expected]
    print("done")
"""
    )
    assert run_python(script).strip() == "done"
