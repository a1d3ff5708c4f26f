"""Writes the documents that follow from the code: `make docs`, or `python -m tools.docs` from the project's root.

The settings example, the example of a verdict, the settings table in docs/settings.md, the figures in
docs/qualification.md, the table of contents of each page in docs/ and docs/results/, and the schemas. Tables stand
between two markers. A test fails when any of them is out of date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from edge.settings import describe_settings, settings_text
from edge.system.values import toml_value
from edge.validation.requirements import FIGURE_MEANINGS
from tools.asyncapi import documents
from tools.examples import ABNORMAL

TABLE_BEGIN = "<!-- settings: made by `make docs` -->"
TABLE_END = "<!-- end of settings -->"
FIGURES_BEGIN = "<!-- figures: made by `make docs` -->"
FIGURES_END = "<!-- end of figures -->"
LINE_WIDTH = 115
VERDICT_BEGIN = "<!-- verdict: made by `make docs` -->"
VERDICT_END = "<!-- end of verdict -->"
CONTENTS_BEGIN = "<!-- contents: made by `make docs` -->"
CONTENTS_END = "<!-- end of contents -->"


def settings_table() -> str:
    """Markdown table of every key."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for row in describe_settings():
        key = f"{row.section}.{row.key}" if row.section else row.key
        default = toml_value(row.default).replace("|", "\\|")
        lines.append(f"| `{key}` | {f'`{default}`' if default else 'not set'} | {row.description} |")
    return "\n".join(lines)


def figures_table() -> str:
    """Markdown table of every figure that a rule takes."""
    lines = ["| figure | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {meaning} |" for name, meaning in FIGURE_MEANINGS.items())])


def example_verdict() -> str:
    """The verdict of the schema's example as an indented block, its fields in the order of the message."""
    plain = ABNORMAL.model_dump(mode="json", by_alias=True)
    fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
    lines = [""]
    for field in fields:
        if len(lines[-1]) + len(field) > LINE_WIDTH:
            lines.append("")
        lines[-1] += f" {field},"
    return "\n" + "\n".join(f"    {line}" for line in ["{" + lines[0][1:], *lines[1:]])[:-1] + "}\n"


def contents(page: str) -> str:
    """Markdown list of links to the page's second-level headings; code blocks do not count."""
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)
    return "\n".join(f"- [{heading}](#{anchor(heading)})" for heading in headings)


def anchor(heading: str) -> str:
    """Name under which GitHub links a heading: lower case, punctuation removed, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def pages(root: Path) -> list[Path]:
    """Pages with a table of contents: those of docs/ and docs/results/, not the plans of experiments."""
    return sorted([*(root / "docs").glob("*.md"), *(root / "docs" / "results").glob("*.md")])


def generated_files(root: Path) -> dict[Path, str]:
    """Every generated file below `root` with the content it should have."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    files = {
        root / "systemd" / "edge.toml.example": settings_text({}),
        root / "README.md": _between(readme, VERDICT_BEGIN, VERDICT_END, example_verdict()),
    }
    for path in pages(root):
        page = path.read_text(encoding="utf-8")
        if path.name == "settings.md":
            page = _between(page, TABLE_BEGIN, TABLE_END, settings_table())
        if path.name == "qualification.md":
            page = _between(page, FIGURES_BEGIN, FIGURES_END, figures_table())
        if path.name == "mes.md":
            page = _between(page, VERDICT_BEGIN, VERDICT_END, example_verdict())
        files[path] = _between(page, CONTENTS_BEGIN, CONTENTS_END, contents(page))
    files |= {root / "edge" / "contract" / "schema" / name: text for name, text in documents().items()}
    return files


def _between(text: str, begin: str, end: str, inner: str) -> str:
    """The text with `inner` between the two markers. Raises ValueError where one is missing."""
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"a page without the markers {begin} and {end}: put both where its contents belong")
    return f"{before}{begin}\n{inner}\n{end}{after}"


def main() -> None:
    for path, text in generated_files(Path.cwd()).items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
