"""The arrays of a fold in files, so that they are made once and every process maps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.errors import TrainError
from train.files import write_json, write_whole
from train.papers.welds.data import FoldData

Arrays = dict[str, npt.NDArray[Any]]
"""Patches of a fold (n, 192, 192): `accepted`, `checked`, `defective` (uint8), `perturbation-KIND` (float16, added to
images in [0, 1]), `test-NAME` (float16 in [0, 1])."""

_FACTS = "fold.json"
_LAYOUT = 2
"""Version of a fold's files; rises when they are others and the patches are not."""


def stored_fold(folder: Path, digest: str, make: Callable[[], FoldData]) -> dict[str, Any]:
    """Make a fold's arrays unless `folder` holds those of this digest; returns its facts: names and counts."""
    try:
        facts = facts_of_fold(folder)
        if facts["digest"] == digest and facts["layout"] == _LAYOUT:
            return facts
    except (OSError, ValueError, KeyError):
        pass
    data = make()
    (folder / _FACTS).unlink(missing_ok=True)  # while arrays of two makings lie beside each other, none of them counts
    arrays = arrays_of(data)
    for name, array in arrays.items():
        with write_whole(folder / f"{name}.npy") as stream:
            np.save(stream, array)
    facts = {
        "digest": digest,
        "layout": _LAYOUT,
        "name": data.name,
        "training": list(data.training),
        "validation": list(data.validation),
        "test": list(data.test),
        "patches": {name: len(array) for name, array in arrays.items()},
        "tested_of": data.tested_of,
        "calibrated_of": data.calibrated_of,
    }
    write_json(folder / _FACTS, facts)
    return facts


def arrays_of(data: FoldData) -> Arrays:
    """A fold's arrays by name."""
    return {
        "accepted": data.accepted,
        "checked": data.checked,
        "defective": data.defective,
        **{f"perturbation-{kind}": deltas for kind, deltas in data.perturbations.items()},
        **{f"test-{name}": images for name, images in data.tests.items()},
    }


def mapped(folder: Path, names: Sequence[str], digest: str) -> Arrays:
    """Some of the arrays of a making, read-only, from the files. Raises TrainError where another took its place."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        found = facts_of_fold(folder)["digest"]  # last: who makes a fold anew removes its facts first
    except FileNotFoundError:
        found = None
    if found != digest:
        raise TrainError(
            f"the patches in {folder} are no longer those that this run made: another run has the same --cache",
            hint="give each its own --cache, or run one after the other; what is trained stays",
        )
    return arrays


def facts_of_fold(folder: Path) -> dict[str, Any]:
    """Facts of a stored fold: names of its welds, and how many patches each array, by name, has of which weld."""
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return facts
