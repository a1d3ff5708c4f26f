"""One look at every scan before anything is learnt: its hash, its size, its bounds. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.images.conversion import LEVELS, Bounds, Histogram, global_bounds, histogram, pooled_bounds, scan_bounds
from edge.records import counts_sha256
from edge.system.names import display_name
from edge.validation.lots import alike
from train.bounds import Mode
from train.dataset import LABELS, Row, data_digest, read_frame, refuse_copies
from train.errors import DataError
from train.runner import Runner

CHUNK_SCANS = 16
MOST_NAMED = 8
"""Unreadable scans named in an error, odd ones in a warning."""
LEAST_CONTRAST, MOST_CONTRAST = 0.1, 4.0
"""Reach of a scan's greys, relative to the usual one, beyond which it is named."""
MOST_SIZE_DEVIATION = 0.25
"""Relative deviation of a side from the median beyond which a scan is named."""


@dataclass(frozen=True, slots=True)
class SurveyedScan:
    """What was found in one file, or why it could not be read."""

    sha256: str
    """Digest of the file."""
    pixels_sha256: str
    """Digest of its counts, however they were saved."""
    height_px: int
    width_px: int
    bounds: Bounds | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SurveyPart:
    """Some scans of one lot and label, and the histogram of all their pixels: int64 (65536,). Parts are added up."""

    scans: tuple[SurveyedScan, ...]
    merged: Histogram


@dataclass(frozen=True, slots=True)
class Survey:
    """All readable scans of a folder, and what could not be read."""

    rows: tuple[Row, ...]
    scans: tuple[SurveyedScan, ...]
    histograms: dict[tuple[str, int], Histogram]
    """Histogram of all pixels of the scans of a lot and label."""
    unreadable: tuple[str, ...]
    """`file: why` of every scan left out."""

    @property
    def lots(self) -> tuple[str, ...]:
        """Names of the lots, in the natural order: B2 before B10."""
        return tuple(sorted({row.lot for row in self.rows}, key=natural))

    @property
    def digest(self) -> str:
        """SHA-256 over hashes, lots and labels."""
        return data_digest(self.rows, [scan.sha256 for scan in self.scans])

    @property
    def distinct(self) -> list[Row]:
        """Its rows, of scans that are there several times under the same label one."""
        first: dict[tuple[str, int], Row] = {}
        for row, scan in zip(self.rows, self.scans, strict=True):
            first.setdefault((scan.pixels_sha256, row.label), row)
        return list(first.values())

    def labelled(self, labels: Collection[int]) -> Survey:
        """Its scans of these labels. Raises DataError where there are none."""
        numbers = [number for number, row in enumerate(self.rows) if row.label in labels]
        if not numbers:
            named = " or ".join(LABELS[label] for label in labels)
            raise DataError(f"none of {len(self.rows)} scans is {named}", hint="label some, or give another folder")
        return Survey(
            tuple(self.rows[number] for number in numbers),
            tuple(self.scans[number] for number in numbers),
            {key: hist for key, hist in self.histograms.items() if key[1] in labels},
            self.unreadable,
        )

    def refuse_copies(self) -> None:
        """Raise DataError where one scan lies in two lots."""
        refuse_copies(self.rows, [scan.pixels_sha256 for scan in self.scans])

    def histogram_of(self, lot: str) -> Histogram:
        """Histogram of all pixels of a lot: int64 (65536,)."""
        found: Histogram = sum(
            (hist for (name, _), hist in self.histograms.items() if name == lot), np.zeros(LEVELS, np.int64)
        )
        return found

    def bounds_without(self, held_out: Iterable[str], mode: Mode) -> Bounds:
        """Bounds of all scans but those of some lots. Raises DataError where none is left."""
        out = set(held_out)
        if out >= set(self.lots):
            raise DataError(
                f"all {len(self.rows)} scans to learn from are of {', '.join(sorted(out))}",
                hint="add scans of other lots",
            )
        if mode == "pooled":
            kept = [hist for (lot, _), hist in self.histograms.items() if lot not in out]
            return pooled_bounds(np.sum(kept, axis=0, dtype=np.int64))
        own = [scan.bounds for row, scan in zip(self.rows, self.scans, strict=True) if row.lot not in out]
        return global_bounds([bounds for bounds in own if bounds is not None])


def survey(
    rows: Sequence[Row], runner: Runner, progress: Callable[[int, int], None], *, skip_unreadable: bool | None
) -> Survey:
    """Read every scan once. `skip_unreadable`: None where the command has no such option.

    Raises DataError, naming the first, where some cannot be read and must not be skipped, or none can.
    """
    tasks: list[tuple[Row, ...]] = []
    numbers: list[list[int]] = []
    for key in sorted({(row.lot, row.label) for row in rows}):
        of_key = [number for number, row in enumerate(rows) if (row.lot, row.label) == key]
        for start in range(0, len(of_key), CHUNK_SCANS):
            numbers.append(of_key[start : start + CHUNK_SCANS])
            tasks.append(tuple(rows[number] for number in numbers[-1]))
    scans: dict[int, SurveyedScan] = {}
    merged: dict[tuple[str, int], Histogram] = {}
    for index, part in runner.map(survey_part, tasks):
        scans |= dict(zip(numbers[index], part.scans, strict=True))
        key = tasks[index][0].lot, tasks[index][0].label
        merged[key] = merged.get(key, np.zeros(LEVELS, np.int64)) + part.merged
        progress(len(scans), len(rows))
    unreadable = tuple(f"{display_name(rows[i].file)}: {scans[i].problem}" for i in sorted(scans) if scans[i].problem)
    good = [i for i in sorted(scans) if scans[i].problem is None]
    if unreadable and not (skip_unreadable and good):
        raise DataError(
            f"{len(unreadable)} of {len(rows)} scans cannot be read: {'; '.join(unreadable[:MOST_NAMED])}"
            + (f"; and {len(unreadable) - MOST_NAMED} more" if len(unreadable) > MOST_NAMED else ""),
            hint="`edge-train doctor` lists them all; repair or drop them"
            + (", or leave them out with --skip-unreadable" if skip_unreadable is not None else "")
            if good
            else "a scan is a whole TIFF of 16 bit and one channel",
        )
    return Survey(tuple(rows[i] for i in good), tuple(scans[i] for i in good), merged, unreadable)


def survey_part(rows: tuple[Row, ...]) -> SurveyPart:
    """Read some scans. Runs here, in another process or on another machine."""
    merged = np.zeros(LEVELS, np.int64)
    scans = []
    for row in rows:
        try:
            frame = read_frame(row)
        except DataError as error:
            scans.append(SurveyedScan("", "", 0, 0, None, error.message.removeprefix(f"{row.file}: ")))
            continue
        hist = histogram(frame.counts)
        height_px, width_px = frame.counts.shape
        merged += hist
        pixels_sha256 = counts_sha256(frame.counts)
        scans.append(SurveyedScan(frame.scan.sha256, pixels_sha256, height_px, width_px, scan_bounds(hist)))
    return SurveyPart(tuple(scans), merged)


def lots_alike(lots: Sequence[str]) -> list[str]:
    """A sentence for names that a person may have meant as one: a lot taken for two is learnt from and tested on."""
    return [f"lots of names alike, one lot or several? {', '.join(map(repr, names))}" for names in alike(lots)]


def odd_scans(found: Survey) -> list[str]:
    """A sentence for each scan of another size or of quite other greys than is usual: one alone moves the bounds."""
    return [*_odd_sizes(found), *_odd_greys(found)]


def remarks(found: Survey) -> list[str]:
    """What a person should know before scans are learnt from; of many odd ones the first."""
    odd = odd_scans(found)
    more = [f"and {len(odd) - MOST_NAMED} more; `edge-train doctor` lists them all"] if len(odd) > MOST_NAMED else []
    return [*lots_alike(found.lots), *(f"warning: {sentence}" for sentence in (*odd[:MOST_NAMED], *more))]


def _odd_sizes(found: Survey) -> list[str]:
    """Scans far from the usual size: crops, or scans that lie the other way."""
    sizes = np.array([(scan.height_px, scan.width_px) for scan in found.scans])
    usual = np.median(sizes, axis=0)
    odd = np.flatnonzero((np.abs(sizes / usual - 1) > MOST_SIZE_DEVIATION).any(axis=1))
    return [
        f"{display_name(found.rows[i].file)} is {sizes[i][0]} x {sizes[i][1]} px,"
        f" usual are {usual[0]:.0f} x {usual[1]:.0f}"
        for i in odd
    ]


def _odd_greys(found: Survey) -> list[str]:
    """Scans of no contrast, of far more, or of quite other greys: blank, or of another source; they move the bounds."""
    own = np.array([(scan.bounds.lo_counts, scan.bounds.hi_counts) for scan in found.scans if scan.bounds is not None])
    low, high = np.median(own, axis=0)
    contrast = (own[:, 1] - own[:, 0]) / (high - low)
    is_odd = (contrast < LEAST_CONTRAST) | (contrast > MOST_CONTRAST)
    odd = np.flatnonzero(is_odd | (own[:, 1] < low) | (own[:, 0] > high))
    return [
        f"{display_name(found.rows[i].file)} reaches from {own[i][0]} to {own[i][1]} counts,"
        f" usual are {low:.0f} to {high:.0f}: no scan of an electrode?"
        for i in odd
    ]


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key that takes numbers in a name as numbers; B02 stands before B2, whichever comes first."""
    parts: list[tuple[int, int | str]] = []
    digits = ""
    for letter in [*name, ""]:
        if letter.isdecimal():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits)))
            digits = ""
        parts.append((1, letter))
    return (*parts, (1, name))
