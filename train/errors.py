"""Errors of the training programs; `edge/system/command.py` turns them into an exit code and two lines of text."""

from __future__ import annotations

from edge.errors import EdgeError


class TrainError(EdgeError):
    """Training cannot go on; the hint says what to try."""

    exit_code = 1


class DataError(TrainError):
    """The labelled scans are not what the command needs; the message names the row or the file."""

    exit_code = 65  # EX_DATAERR


class CheckpointError(TrainError):
    """A checkpoint is missing, damaged, or of another kind than asked for."""

    exit_code = 66  # EX_NOINPUT


class DivergedError(TrainError):
    """The loss is no longer a number; the message names the step and the files of its batch."""

    exit_code = 70  # EX_SOFTWARE
