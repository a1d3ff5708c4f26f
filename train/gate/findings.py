"""What a trained gate says of scans it has never seen and of images that are no scans.

Beside the gate stands the line's other guard, the spread of the greys (`edge.images.exposure`): a scan either of them
refuses goes to a person.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge.images.conversion import histogram, prepare
from edge.images.exposure import ExposureModel, exposure, fit
from edge.images.spread import MARGIN, SHARE
from edge.records import Image, counts_sha256
from edge.system.progress import Reporter
from edge.validation.statistics import Rate
from train.checkpoint import Checkpoint, load_checkpoint, refuse_lots
from train.dataset import Row, read_frame
from train.device import open_device
from train.errors import DataError
from train.gate.calibration import gate_images, scores_apart
from train.gate.foreign_sets import ForeignImage
from train.gate.network import Gate, gate_of
from train.simulator.fields import Counts

_Image = tuple[str, str, Row | None, Callable[[], Counts]]
"""Name, group, row of the labels and what reads it."""

_AT_ONCE = 64
_TIMED_PASSES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Scores of one image over their thresholds: above 1 in any of them it is refused."""

    name: str
    group: str
    """The lot of a scan, the kind of a foreign image."""
    row: Row | None
    """None for a foreign image."""
    mean: float
    std: float
    exposure: float
    network: float
    """The greater of both by the network with its layouts alone."""
    filter: float
    """The greater of both by the filter alone; 0 without one."""

    @property
    def by_gate(self) -> bool:
        """Whether the gate refuses it."""
        return not (self.mean <= 1 and self.std <= 1)  # so that NaN is refused

    @property
    def by_exposure(self) -> bool:
        """Whether the exposure check refuses it."""
        return not self.exposure <= 1

    @property
    def refused(self) -> bool:
        """Whether the line sends it to a person."""
        return self.by_gate or self.by_exposure


@dataclass(frozen=True, slots=True)
class Findings:
    """All of them, with what they were found by."""

    checkpoint: Checkpoint
    normal: tuple[Finding, ...]
    abnormal: tuple[Finding, ...]
    foreign: tuple[Finding, ...]
    device: str
    pass_ms: float
    """One pass of the gate over one image: the median of five."""


def find(
    run: Path, rows: Sequence[Row], foreign: Iterable[ForeignImage], reporter: Reporter, device: str = "cpu"
) -> Findings:
    """Judge labelled scans and foreign images by `run/gate.pt`.

    Raises CheckpointError, TrainError, and DataError for a scan that cannot be read, or a scan or lot the gate has
    learnt from.
    """
    checkpoint = load_checkpoint(run / "gate.pt", "gate")
    refuse_lots(checkpoint, sorted({row.lot for row in rows}), "report on")
    if not checkpoint.exposures:
        raise DataError(f"{run / 'gate.pt'} says nothing of exposures", hint="train it again with this release")
    gate = gate_of(checkpoint).to(open_device(device))
    learnt_from = frozenset((*checkpoint.scan_sha256s, *checkpoint.scan_pixels_sha256s))
    scans = ((row.file, row.lot, row, partial(_counts_of, row, learnt_from)) for row in rows)
    of_scans = list(_judged(gate, checkpoint, scans, reporter, f"of {len(rows)} scans"))
    images = ((image.name, image.kind, None, partial(_as_it_is, image)) for image in foreign)
    of_foreign = list(_judged(gate, checkpoint, images, reporter, "foreign images"))
    normal = tuple(one for one in of_scans if one.row is not None and one.row.label == 0)
    abnormal = tuple(one for one in of_scans if one.row is not None and one.row.label == 1)
    return Findings(checkpoint, normal, abnormal, tuple(of_foreign), device, pass_ms(gate, checkpoint))


def exposure_model(checkpoint: Checkpoint) -> ExposureModel:
    """The exposures the gate was made for, with the limit that its model will have on the line: lots left out."""
    lots = checkpoint.exposure_lots if len(checkpoint.exposure_lots) == len(checkpoint.exposures) else ()
    return fit(checkpoint.exposures, SHARE, MARGIN, lots)


def refusals(findings: Iterable[Finding]) -> dict[str, Rate]:
    """How many the gate refuses, its network and its filter apart, and how many the exposure check and either do."""
    seen = list(findings)
    return {
        "gate": Rate(sum(one.by_gate for one in seen), len(seen)),
        "network": Rate(sum(not one.network <= 1 for one in seen), len(seen)),
        "filter": Rate(sum(not one.filter <= 1 for one in seen), len(seen)),
        "exposure": Rate(sum(one.by_exposure for one in seen), len(seen)),
        "either": Rate(sum(one.refused for one in seen), len(seen)),
    }


@torch.inference_mode()
def pass_ms(gate: Gate, checkpoint: Checkpoint) -> float:
    """Median time in ms of the gate's pass over one image, on the device where the gate is."""
    device = next(gate.parameters()).device
    image = torch.full((1, 1, *checkpoint.size), 0.5, device=device)
    times = []
    for _ in range(1 + _TIMED_PASSES):  # the first one warms up
        start_s = time.perf_counter()
        float(gate(image).mean)  # waits for the device
        times.append(time.perf_counter() - start_s)
    return 1000 * float(np.median(times[1:]))


def _judged(
    gate: Gate, checkpoint: Checkpoint, images: Iterable[_Image], reporter: Reporter, what: str
) -> Iterator[Finding]:
    """Findings in order, a few images in memory at a time."""
    model = exposure_model(checkpoint)
    limits = [checkpoint.thresholds[name] for name in ("gate_mean_threshold", "gate_std_threshold")]

    def seen(image: _Image) -> tuple[Image, float]:
        counts = image[3]()
        prepared = prepare(counts, checkpoint.method, checkpoint.bounds, checkpoint.size)
        return prepared, model.distance(exposure(histogram(counts))) / model.spread.limit

    done = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for some in _in_parts(images):
            prepared, spreads = zip(*pool.map(seen, some), strict=True)
            apart = scores_apart(gate, gate_images(np.stack(prepared), checkpoint.method))
            network, filtered = (scores / limits for scores in apart)
            # Of NaN and a number the greater is NaN.
            mean, std = np.maximum(network, filtered).T.tolist()
            found = zip(
                some, mean, std, spreads, network.max(axis=1).tolist(), filtered.max(axis=1).tolist(), strict=True
            )
            for (name, group, row, _), *scores in found:
                yield Finding(name, group, row, *scores)
            done += len(some)
            reporter.say(f"{done} {what} judged")


def _counts_of(row: Row, learnt_from: frozenset[str]) -> Counts:
    frame = read_frame(row)
    if learnt_from & {frame.scan.sha256, counts_sha256(frame.counts)}:
        raise DataError(
            f"{row.file} of lot {row.lot} was learnt from, whatever its lot was called then",
            hint="report on scans of other lots, kept back as a whole",
        )
    return frame.counts


def _as_it_is(image: ForeignImage) -> Counts:
    return image.counts


def _in_parts(images: Iterable[_Image]) -> Iterator[list[_Image]]:
    part = []
    for image in images:
        part.append(image)
        if len(part) == _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
