"""Docstrings stand alone in an editor's hover."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("edge", "train", "export", "tools", "demo", "tests")
LEANING = ("Of ", "The same", "See ")
"""Beginnings of a first line that says nothing without the code around it."""


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every bare string: of modules, classes, functions, and behind assignments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.lstrip()


def test_no_docstring_begins_with_of_the_same_or_see() -> None:
    read = 0
    leaning = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for line, text in docstrings(path.read_text(encoding="utf-8")):
            read += 1
            if text.startswith(LEANING):
                leaning.append(f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}")
    assert read > 1000, "the walk no longer finds the docstrings"
    assert not leaning, "say what it is or does:\n" + "\n".join(leaning)
