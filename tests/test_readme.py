"""The examples of the README and of docs/ run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, page.name, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S))
]


@pytest.mark.parametrize(("code", "page"), EXAMPLES)
def test_example_runs(code, page):
    exec(compile(code, page, "exec"), {})


def test_there_are_examples():
    assert {"README.md", "autograd.md", "ecosystem.md", "serving.md"} <= {p.values[1] for p in EXAMPLES}


def test_tests_that_the_readme_names_are_there():
    named = re.findall(r"\[[^]]*\]\((tests/[^)#]+)\)", PAGES[0].read_text())
    assert named
    assert all((ROOT / name).is_file() for name in named)
