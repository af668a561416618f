"""The examples of the README and of docs/ run; that of docs/cuda.md, which needs a GPU, is run in tests/cuda."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)


EXAMPLES = [
    pytest.param(code, page.name, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(examples_of(page))
    if page.name != "cuda.md"
]


@pytest.mark.parametrize(("code", "page"), EXAMPLES)
def test_example_runs(code, page):
    exec(compile(code, page, "exec"), {})


def test_the_cuda_example_is_python():
    (code,) = examples_of(ROOT / "docs" / "cuda.md")
    compile(code, "cuda.md", "exec")


def test_there_are_examples():
    assert {"README.md", "autograd.md", "ecosystem.md", "serving.md"} <= {p.values[1] for p in EXAMPLES}


def test_tests_that_the_readme_names_are_there():
    named = re.findall(r"\[[^]]*\]\((tests/[^) ]+)([^)]*)\)", PAGES[0].read_text())
    assert named
    for path, title in named:
        (test,) = re.findall(r'^ "(test_\w+)"$', title)
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), flags=re.M), f"{path} has no {test}"


def test_every_yes_of_ours_names_a_test():
    (table,) = re.findall(r"(?:^\|.*\n)+(?=\n\[1\])", PAGES[0].read_text(), flags=re.M)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert head[1] == "lstmfast"
    assert len(rows) > 10
    for row in rows:
        assert re.fullmatch(r"\[(yes|by to_torch)\]\(tests/.*\)", row[1]), row
