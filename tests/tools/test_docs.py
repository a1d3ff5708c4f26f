"""What documentation says of the code is what the code says."""

import tomllib
from pathlib import Path

import pytest

from edge.settings import describe_settings, load_settings
from tools.docs import generated_files

ROOT = Path(__file__).parents[2]
GENERATED = generated_files(ROOT)


@pytest.mark.parametrize("path", sorted(GENERATED), ids=lambda path: path.name)
def test_generated_documentation_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == GENERATED[path], "run `make docs`"


def test_the_settings_example_is_valid_and_means_the_defaults() -> None:
    loaded = load_settings(ROOT / "systemd" / "edge.toml.example")
    assert loaded.model_dump() == load_settings().model_dump()


def test_every_line_of_the_settings_example_is_valid_when_uncommented(tmp_path: Path) -> None:
    example = (ROOT / "systemd" / "edge.toml.example").read_text(encoding="utf-8")
    keys = {row.key for row in describe_settings()}
    lines = []
    for line in example.splitlines():
        key, equals, value = line.removeprefix("# ").partition(" = ")
        lines.append(f"{key} = {value}" if equals and key in keys else line)
    written = tmp_path / "edge.toml"
    written.write_text("\n".join(lines))
    assert len([line for line in lines if not line.startswith(("#", "[")) and line]) > 30
    load_settings(written)


def test_the_project_declares_what_the_readme_promises() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["scripts"]) == {"edge-worker", "edge-train", "edge-export", "edge-desk"}
    assert {"gpu", "train", "export", "test", "demo"} <= set(project["optional-dependencies"])
    assert project["license"] == "Apache-2.0"
    assert all((ROOT / room / "py.typed").exists() for room in ("edge", "train", "export"))
