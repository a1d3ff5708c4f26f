"""The wheel holds the three packages as they lie in the tree, nothing else, and always the same bytes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("edge", "train", "export")
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
MORNING = "1767225600"

pytest.importorskip("setuptools", minversion="77")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that git would hold: a build leaves files in its source tree."""
    copy = tmp_path_factory.mktemp("wheel") / "source"
    ignore = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info", "replay-*")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def build(source: Path, out: Path) -> tuple[Path, str]:
    """A wheel, with no network and no other environment, and what was printed."""
    out.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": MORNING, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", BUILD, out]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.iterdir()
    return wheel, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(source: Path) -> tuple[Path, str]:
    return build(source, source.parent / "first")


def files_of_the_tree() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                yield path.relative_to(ROOT).as_posix()


def test_the_wheel_holds_every_module_and_data_file_of_the_tree_and_nothing_else(built: tuple[Path, str]) -> None:
    with ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(files_of_the_tree())


def test_building_the_wheel_prints_no_warning(built: tuple[Path, str]) -> None:
    assert "creating" in built[1]
    assert [line for line in built[1].splitlines() if "warn" in line.lower() or "absent" in line] == []


def test_two_builds_of_one_commit_are_identical(source: Path, built: tuple[Path, str]) -> None:
    first = built[0].read_bytes()
    shutil.rmtree(source / "build")
    for path in source.rglob("*"):
        os.utime(path)  # a later checkout
    assert build(source, source.parent / "second")[0].read_bytes() == first
