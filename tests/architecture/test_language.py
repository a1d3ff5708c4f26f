"""Docstrings stand alone in an editor's hover; code and documents are in plain words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools.docs import pages

ROOT = Path(__file__).parents[2]
ROOMS = ("edge", "train", "export", "tools", "demo", "tests")
LEANING = ("Of ", "The same", "See ")
"""Beginnings of a first line that says nothing without the code around it."""


RIDDLES = re.compile(r"\b(nobody|whoever|mend(s|ed|ing)?|which see)\b", re.IGNORECASE)
"""Words behind which a sentence hides who does what: name the user, the process, the repair."""


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


def test_code_and_documents_say_who_does_what() -> None:
    code = [path for room in ROOMS if room != "tests" for path in (ROOT / room).rglob("*.py")]
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *pages(ROOT)]
    assert len(documents) > 10
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted([*code, *documents])
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if RIDDLES.search(line)
    ]
    assert not found, "\n".join(found)


PARTICIPLE = re.compile(r"_?([a-z]+(?<!e)ed|told|said|shown|drawn|written|kept|held|taken|chosen|made|sent|built)")
ADJECTIVES = {"unfinished"}
"""Name a reason, not what a function did."""


def test_a_function_of_edge_is_called_by_what_it_does() -> None:
    names = {
        node.name: path
        for path in (ROOT / "edge").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(names) > 500, "the walk no longer finds the functions"
    done = {f"{path.relative_to(ROOT)}: {name}" for name, path in names.items() if PARTICIPLE.fullmatch(name)}
    assert {each for each in done if each.rpartition(" ")[2] not in ADJECTIVES} == set(), "use the verb"
