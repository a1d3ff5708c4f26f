"""What runs here, for the status message."""

from __future__ import annotations

import importlib.metadata
import platform
import sqlite3
from contextlib import suppress

from edge import __version__


def program_versions() -> dict[str, str]:
    """Name → version of the program and of what it stands on."""
    versions = {"edge-worker": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in ("onnxruntime", "paho-mqtt", "tensorrt"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
