"""Errors of the export programs; `export/cli.py` turns them into an exit code and two lines of text."""

from __future__ import annotations

from edge.errors import EdgeError


class ExportError(EdgeError):
    """The checkpoints cannot become a model; nothing was written."""

    exit_code = 1


class ParityError(ExportError):
    """The exported graph does not say what the network says; it must not reach the line."""

    exit_code = 70  # EX_SOFTWARE
