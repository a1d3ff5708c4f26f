"""Scores of filters and neighbours on welds: each patch by the greatest response within its middle 156 px.

They are kept weld by weld: a run that is started again takes those that are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt

from edge.system.progress import Reporter
from train.files import write_whole
from train.gate.perturb import PATCH_PX
from train.papers.welds.curves import WeldScores
from train.papers.welds.filters import BACKGROUNDS, NOISES, WINDOWS, Filter, Map, halved, responses
from train.papers.welds.frozen_neighbours import Bank
from train.papers.welds.images import Weld
from train.papers.welds.markers import wires
from train.papers.welds.patches import RIM_PX, Pose
from train.runner import Runner

SIDES: Final = ("dark", "bright", "bright-no-wires")
"""Columns of each filter; the last leaves wires of image quality indicators out."""
FILTERS: Final = tuple(Filter(back, noise, window) for back in BACKGROUNDS for noise in NOISES for window in WINDOWS)
FILTER_COLUMNS: Final = len(FILTERS) * len(SIDES)
FORMAT: Final = 2
"""Version of the stored scores; rises when the same filter would answer otherwise."""
READ_PX: Final = PATCH_PX - 2 * RIM_PX


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """A weld to score, with the poses of its patches by set."""

    weld: Weld
    poses: dict[str, list[Pose]]
    path: Path
    digest: str
    regions: Mapping[str, Sequence[npt.NDArray[np.int32]]] = field(default_factory=dict)
    """By set, flat indices in a map of half the scale of what else is read."""
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    """Scores of filters with other backgrounds are NaN."""
    bank: Bank | None = None
    """Its columns follow those of the filters."""


def score_all(tasks: Sequence[ScoreTask], runner: Runner, reporter: Reporter) -> dict[str, WeldScores]:
    """Scores by weld, made where they are missing."""
    missing = [task for task in tasks if stored_digest(task.path) != task.digest]
    show = reporter.counter("welds")
    for done, (_, line) in enumerate(runner.map(score_weld, missing), 1):
        reporter.say(line)
        show(done, len(missing))
    scores: dict[str, WeldScores] = {}
    for task in tasks:
        with np.load(task.path) as stored:
            scores[task.weld.name] = {name: stored[name] for name in (*task.poses, *task.regions)}
    return scores


def score_weld(task: ScoreTask) -> str:
    """Score every patch of a weld and store the scores; returns one line about it."""
    cv2.setNumThreads(1)
    places: dict[str, Sequence[npt.NDArray[np.int32]]] = {
        name: [places_of(pose, task.weld.image.shape) for pose in poses] for name, poses in task.poses.items()
    }
    places |= task.regions
    width = FILTER_COLUMNS + (task.bank.columns if task.bank else 0)
    scores = {name: np.full((len(found), width), np.nan, np.float32) for name, found in places.items()}

    def read(values: Map, column: int) -> None:
        flat = np.ascontiguousarray(values).ravel()
        for name, found in places.items():
            scores[name][:, column] = [flat[place].max(initial=-np.inf) for place in found]

    off = ~halved(wires(task.weld.image).astype(np.float32)).astype(bool)
    for background in task.backgrounds:
        column = [filter_.background for filter_ in FILTERS].index(background) * len(SIDES)
        for _, bright, dark in responses(task.weld.image, background):
            for values in (dark, bright, bright * off):
                read(values, column)
                column += 1
    for column, values in enumerate(task.bank.maps(task.weld) if task.bank else (), FILTER_COLUMNS):
        read(values, column)
    with write_whole(task.path) as stream:
        np.savez(stream, digest=np.array(task.digest), **scores)  # type: ignore[arg-type]
    return f"{task.weld.name}: {sum(len(found) for found in places.values())} patches"


def places_of(pose: Pose, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Flat indices, in a map of half the scale, of the pixels in the reconstructed part of a patch."""
    side = READ_PX // 2
    steps = np.arange(side) - (side - 1) / 2
    angle = np.deg2rad(pose.angle_deg)
    along, across = steps[None, :], steps[:, None]
    height, width = shape[0] // 2, shape[1] // 2
    columns = np.rint((pose.column - 0.5) / 2 + along * np.cos(angle) - across * np.sin(angle)).astype(np.int32)
    rows = np.rint((pose.row - 0.5) / 2 + along * np.sin(angle) + across * np.cos(angle)).astype(np.int32)
    return np.asarray((np.clip(rows, 0, height - 1) * width + np.clip(columns, 0, width - 1)).ravel(), np.int32)


def scores_digest(
    weld: Weld,
    poses: Mapping[str, Sequence[Pose]],
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
    bank: Bank | None = None,
) -> str:
    """SHA-256 over all that a weld's scores depend on."""
    digest = hashlib.sha256(weld.image.tobytes() + str((weld.image.shape, FORMAT)).encode())
    digest.update(repr({name: [asdict(pose) for pose in found] for name, found in poses.items()}).encode())
    digest.update(repr(([filter_.name for filter_ in FILTERS], list(backgrounds))).encode())
    if bank is not None:
        digest.update(bank.digest().encode())
    return digest.hexdigest()


def stored_digest(path: Path) -> str:
    """Digest of what a file of scores holds; empty where there is none, or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream) as stored:
            return str(stored["digest"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return ""
