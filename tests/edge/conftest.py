"""What unit tests share. A test module with a `folder` or `line` of its own hides these."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.station import Line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scans"
    path.mkdir()
    return path


@pytest.fixture
def line(folder: Path) -> Line:
    return Line(folder)


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """Permissions mean nothing to root: what happens in here happens as another user."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        folder = Path(home) / "scans"
        folder.mkdir()
        yield folder
        folder.chmod(0o700)
        if is_root:
            os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """A command that a test runs in this process sends the log to a stream that ends with the test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
