"""tools/gpu_first.py: what hangs or crashes costs itself only. With processes that pretend, and no GPU."""

import sys
import time

import gpu_first

from lstmfast import _C

PRETEND = """
import json, sys, time
def say(**what): print(json.dumps(what), flush=True)
print("torch greets", file=sys.stderr)
for number in map(int, sys.argv[1:]):
    print("some other line", flush=True)
    say(begin=number)
    what = {1: "hang", 3: "crash", 4: "wrong"}.get(number)
    if what == "hang": time.sleep(60)
    if what == "crash": sys.exit("CUDA error: an illegal memory access")
    say(end=number, result="ok" if what is None else "outputs differ", process=len(sys.argv))
    if what: break
"""


def watch(code, count, **limits):
    seen = []
    times = {"start": 20.0, "case": 1.0, "end": time.monotonic() + 60} | limits
    records = gpu_first.watch(
        [sys.executable, "-c", code], count, **times, on_result=lambda number, record: seen.append(number)
    )
    assert sorted(seen) == list(range(count))
    return [record["result"] for record in records]


def test_every_case_has_its_result():
    assert watch(PRETEND, 7) == [
        "ok",
        "did not end within 1 s",
        "ok",
        "crashed: CUDA error: an illegal memory access",
        "outputs differ",
        "ok",
        "ok",
    ]


def test_what_does_not_begin_is_not_tried_again():
    began = time.monotonic()
    missing = "not run: crashed: ModuleNotFoundError: No module named 'no_such_module'"
    assert watch("import no_such_module", 50) == [missing] * 50
    assert watch("import time; time.sleep(60)", 2, start=0.5) == ["not run: did not end within 0 s"] * 2
    assert time.monotonic() - began < 30


def test_the_whole_ends_in_time():
    slow = "import json, time; print(json.dumps({'begin': 0}), flush=True); time.sleep(60)"
    assert watch(slow, 3, case=60.0, end=time.monotonic() + 3.0) == ["no time left", *["not run: no time left"] * 2]


def test_every_regime_has_a_size_on_a_gpu_with_clusters():
    for case in gpu_first.CASES:
        hidden, forward, backward = gpu_first.plans(case, "H200")
        for choice, is_backward in ((forward, False), (backward, True)):
            sizes = (gpu_first.STEPS, case.batch, gpu_first.INPUT, hidden, 0)
            tf32 = case.precision != "highest"
            plan = _C.cuda_plan("LSTM", case.dtype, *sizes, 1, case.layers, is_backward, tf32, "H200", choice)
            fused_backward = is_backward and case.regime == "fused steps"  # which there is not
            assert plan["regime"] == ("general" if fused_backward else case.regime)
    assert gpu_first.plans(gpu_first.Case("cluster", "bfloat16", "highest"), "A100") is None
