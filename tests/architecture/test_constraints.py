"""The pinned versions in tools/constraints/ satisfy pyproject.toml on every supported Python."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    "line": ("build", "openvino"),
    "desk": ("build", "openvino", "desk"),
    "demo": ("build", "demo", "desk"),
    "audit": ("build", "audit"),
    "test": ("build", "test", "train", "export", "openvino", "ray", "desk"),
}
"""Environment of the Makefile to the extras it installs beside the base."""
PYTHONS = re.findall(r"Programming Language :: Python :: (\d\.\d+)", "\n".join(PROJECT["classifiers"]))
ENTRY = re.compile(r"^(\S.*?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


@cache
def pins(name: str) -> list[Requirement]:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    return [Requirement(entry[1]) for entry in ENTRY.finditer(text)]


def versions(name: str, python: str) -> dict[str, str]:
    """Library to version, as pip installs them with a Python on Linux."""
    where = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
    }
    chosen = [pin for pin in pins(name) if pin.marker is None or pin.marker.evaluate(where)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in chosen}


@pytest.mark.parametrize("name", [*EXTRAS, "headless"])
def test_every_line_is_one_version_with_its_hashes(name: str) -> None:
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert len(pins(name)) == sum(not line.startswith(("#", " ")) for line in lines) > 0
    for pin in pins(name):
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert "*" not in str(pin.specifier)


@pytest.mark.parametrize("name", [*EXTRAS, "headless"])
def test_no_pinned_version_names_where_it_came_from(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in text


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", EXTRAS)
def test_pinned_versions_satisfy_what_the_project_asks_for(name: str, python: str) -> None:
    extras = PROJECT["optional-dependencies"]
    asked = [
        Requirement(text) for text in (*PROJECT["dependencies"], *(t for extra in EXTRAS[name] for t in extras[extra]))
    ]
    pinned = versions(name, python)
    for requirement in asked:
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["line", "desk", "demo", "audit"])
def test_every_environment_holds_the_versions_that_the_tests_ran_with(name: str, python: str) -> None:
    tested = versions("test", python)
    assert {
        library: version
        for library, version in versions(name, python).items()
        if tested.get(library, version) != version
    } == {}


def test_opencv_without_windows_is_the_same_release() -> None:
    (headless,) = pins("headless")
    assert str(headless.specifier) == f"=={versions('test', '3.11')['opencv-python']}"
