"""Writes the documents that follow from the code: `make docs`, or `python -m tools.docs` from the project's root.

The settings example, the settings table in README.md (between its two markers) and the schemas. A test fails
when any of them is out of date.
"""

from __future__ import annotations

from pathlib import Path

from edge.settings import describe_settings, settings_text, toml_value
from tools.asyncapi import documents

TABLE_BEGIN = "<!-- settings: made by `make docs` -->"
TABLE_END = "<!-- end of settings -->"


def settings_table() -> str:
    """Markdown table of every key."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for row in describe_settings():
        key = f"{row.section}.{row.key}" if row.section else row.key
        default = toml_value(row.default).replace("|", "\\|")
        lines.append(f"| `{key}` | {f'`{default}`' if default else 'not set'} | {row.description} |")
    return "\n".join(lines)


def generated_files(root: Path) -> dict[Path, str]:
    """Every generated file below `root` with the content it should have."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    files = {
        root / "README.md": f"{before}{TABLE_BEGIN}\n{settings_table()}\n{TABLE_END}{after}",
        root / "systemd" / "edge.toml.example": settings_text({}),
    }
    files |= {root / "edge" / "contract" / "schema" / name: text for name, text in documents().items()}
    return files


def main() -> None:
    for path, text in generated_files(Path.cwd()).items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
