"""The eleven kinds of anomalies that the paper names (Jensen 2022, 2.2.2), as changes of mass.

Each kind is a function of the sheet, the severity and chance that changes `sheet.coat`, and `sheet.substrate` where
material is gone or folded. Severity 0 changes next to nothing, 1 is never overlooked, and there is no step between. The
paper names the kinds and shows few of them: the shapes are ours, from how slot dies and blades fail. `px` is a pixel
of a scan of full size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from train.second_simulator.fields import Map, blurred, power_law_field, smooth_curve, smooth_step
from train.second_simulator.sheet import LONG_SIDES, Sheet, Side

LEAST_CHANGE = 0.004
"""Share of the nominal mass below which a change counts as none, and is not made."""
CORE_SHARE = 0.25
"""Share of an anomaly's greatest change from which a pixel is of its core (`Anomaly.mask`)."""
MM_PER_PIXEL = 0.085
"""Pixel pitch of a scan of full size, mm. The paper gives no scale: this makes the sheet 97 mm x 176 mm."""

Paint = Callable[[Sheet, float, np.random.Generator], None]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What one anomaly changed."""

    kind: str
    severity: float
    box: tuple[int, int, int, int]
    """First row, first column, row and column behind the last, of all it changed."""
    length: float
    """Long side of the smallest rectangle, at any angle, around its largest connected part; pixels of this scan."""
    area: int
    """Pixels it changed."""
    mask: npt.NDArray[np.bool_] = field(repr=False, compare=False)
    """Its core, bool of the scan's shape: where it changed the sheet by more than `CORE_SHARE` of its greatest."""


def add_anomaly(sheet: Sheet, kind: str, severity: float, rng: np.random.Generator) -> Anomaly | None:
    """Change the sheet by one anomaly; None where it is too mild to change anything."""
    coat, substrate = sheet.coat.copy(), sheet.substrate.copy()
    KINDS[kind](sheet, severity, rng)
    np.maximum(sheet.coat, 0, out=sheet.coat)
    of_coat, of_substrate = np.abs(sheet.coat - coat), np.abs(sheet.substrate - substrate)
    changed = (of_coat > LEAST_CHANGE) | (of_substrate > LEAST_CHANGE)
    sheet.coat = np.where(changed, sheet.coat, coat).astype(np.float32)
    sheet.substrate = np.where(changed, sheet.substrate, substrate).astype(np.float32)
    if not changed.any():
        return None
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    change = of_coat + of_substrate
    return Anomaly(kind, severity, box, _length(changed), int(changed.sum()), change > CORE_SHARE * change.max())


def _length(changed: npt.NDArray[np.bool_]) -> float:
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8))
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    points = cv2.findNonZero((parts == largest).astype(np.uint8))
    return 1 + max(cv2.minAreaRect(points)[1])


def _between(severity: float, mild: float, severe: float) -> float:
    return mild + (severe - mild) * severity


def _stretch(position: Map, middle: float, length: float, softness: float) -> Map:
    """1 within `length` around `middle`, 0 outside, soft at both ends."""
    return smooth_step((length / 2 - np.abs(position - middle)) / softness + 0.5)


def scratches(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Furrows through the coat, often near an edge, with what was pushed aside heaped along them."""
    px, (height, width) = sheet.scale, sheet.shape
    furrow = np.zeros(sheet.shape, np.uint8)
    near_edge = rng.random() < 0.6
    centre = rng.uniform(0.12, 0.88, 2) * (height, width)
    if near_edge:
        inset = rng.uniform(50, 130) * px
        centre[1] = rng.choice([inset, width - inset])
    bearing = rng.uniform(0, np.pi)
    for _ in range(1 + rng.poisson(5 * severity)):
        length = _between(severity, 90, 420) * px * rng.lognormal(0, 0.3)
        steps = max(int(length / (6 * px)), 3)
        turn = (
            bearing
            + rng.normal(0, 0.25)
            + np.cumsum(rng.normal(0, 0.03, steps))
            + np.linspace(0, rng.normal(0, 0.4), steps)
        )
        path = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], 1), 0) * length / steps
        path += centre - path.mean(0) + rng.normal(0, 45 * px, 2)
        pressure = (
            np.clip(0.85 + 0.3 * smooth_curve(steps, rng, 12), 0, 1) * np.sin(np.linspace(0.15, 2.9, steps)) ** 0.5
        )
        thickness = max(round(rng.uniform(1.4, 3.6) * px), 1)
        points = np.rint(path[:, ::-1] * 8).astype(int)
        for start, end, force in zip(points, points[1:], pressure, strict=False):
            cv2.line(furrow, start.tolist(), end.tolist(), int(255 * force), thickness, cv2.LINE_AA, shift=3)
    removed = blurred(furrow.astype(np.float32) / 255, max(0.5 * px, 0.3))
    heaped = np.maximum(blurred(removed, max(2.2 * px, 0.8)) - removed, 0)
    depth = _between(severity, 0.0, 0.95)
    sheet.coat *= 1 - depth * np.minimum(removed, 1) + 0.5 * depth * heaped


def lines(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Streaks along the coating direction where a lip is nicked or clogged: thin coat between two small ridges."""
    px, height = sheet.scale, sheet.shape[0]
    across = sheet.inward(Side.LEFT)
    position = sheet.along(Side.LEFT)
    change = np.zeros(sheet.shape, np.float32)
    for _ in range(1 + rng.poisson(2 * severity)):
        middle = rng.uniform(0.04, 0.96) * sheet.shape[1] + 1.5 * px * smooth_curve(height, rng, 700 * px)[:, None]
        spread = rng.uniform(1.2, 5.0) * px
        distance = ((across - middle) / spread) ** 2
        profile = np.exp(-distance / 2) - 0.35 * np.exp(-distance / 12)
        reach = _stretch(position, rng.uniform(0.2, 0.8) * height, _between(severity, 0.3, 1.7) * height, 80 * px)
        broken = smooth_step(0.9 + _between(severity, 0.8, 0.2) * smooth_curve(height, rng, 250 * px)[:, None])
        change += rng.choice([-1.0, -1.0, 1.0]) * rng.uniform(0.7, 1.0) * profile * reach * broken
    sheet.coat *= 1 + _between(severity, 0.0, 0.45) * change


def edge_cuts(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Material gone from the edge: a notch, a cut that runs askew, or a tear; the coat flakes beside it."""
    px = sheet.scale
    for _ in range(1 + rng.poisson(0.8 * severity)):
        side = Side(rng.choice(list(Side)))
        inward, along = sheet.inward(side), sheet.along(side)
        extent = along.size
        middle = rng.uniform(0.05, 0.95) * extent
        depth = _between(severity, 0.5, 60) * px * rng.uniform(0.7, 1.2)
        form = rng.choice(["notch", "askew", "tear"])
        rough = 1 + 0.12 * smooth_curve(extent, rng, 12 * px).reshape(along.shape)
        if form == "notch":
            half = _between(severity, 6, 70) * px * rng.uniform(0.7, 1.3)
            lean = np.where(along < middle, rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4))
            bottom = depth * np.clip(1.4 * (1 - np.abs(along - middle) * lean / half), 0, 1) * rough
        elif form == "askew":
            length = _between(severity, 150, 900) * px
            run = (along - middle) / length * rng.choice([-1.0, 1.0]) + 0.5
            bottom = 0.8 * depth * np.clip(run, 0, 1) * (run < 1) * rough
        else:
            slit = middle + 0.3 * inward * rng.normal(0, 1) + 2 * px * smooth_step(inward / (30 * px))
            gap = _between(severity, 0.5, 10) * px * np.clip(1 - inward / (2.5 * depth), 0, 1)
            open_share = np.clip(gap - np.abs(along - slit) + 0.5, 0, 1) * (inward < 2.5 * depth)
            _remove(sheet, open_share.astype(np.float32), px)
            continue
        _remove(sheet, np.clip(bottom - inward + 0.5, 0, 1).astype(np.float32) * (bottom > 0.5 * px), px)


def _remove(sheet: Sheet, gone: Map, px: float) -> None:
    """Take material away, and loosen the coat within a few pixels of the cut."""
    loose = np.minimum(2 * blurred(gone, 3 * px), 1) * (1 - gone)
    sheet.substrate *= 1 - gone
    sheet.coat *= (1 - gone) * (1 - 0.35 * loose)


def edge_tensions(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Folds that fan out from a long edge where the web was pulled unevenly, and die away; the edge draws in."""
    px = sheet.scale
    side = Side(rng.choice(LONG_SIDES))
    inward, along = sheet.inward(side), sheet.along(side)
    middle = rng.uniform(0.1, 0.9) * along.size
    length = _between(severity, 250, 1000) * px
    reach = _between(severity, 40, 170) * px * rng.uniform(0.8, 1.2)
    pitch = rng.uniform(35, 110) * px
    here = _stretch(along, middle, length, 0.8 * length)
    fan = (along - middle) / (1 + 0.35 * inward / reach) + 6 * px * smooth_curve(along.size, rng, 4 * pitch)[:, None]
    folds = 1 - 2 * np.abs(np.sin(np.pi * fan / pitch + rng.uniform(0, np.pi))) ** 0.7
    fading = np.exp(-((np.maximum(inward, 0) / reach) ** 1.5)) * here
    height = _between(severity, 0.0, 0.3)
    drawn_in = np.clip(_between(severity, 0, 9) * px * here - inward + 0.5, 0, 1) * (here > 0.05)
    sheet.coat *= (1 + height * folds * fading) * (1 - drawn_in)
    sheet.substrate *= (1 + 0.6 * height * folds * fading) * (1 - drawn_in)


def smudges(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Soft patches where wet coat was wiped: streaky along the wipe, light at its start and dark at its end."""
    px, (height, width) = sheet.scale, sheet.shape
    rows, columns = (grid.astype(np.float32) for grid in np.ogrid[:height, :width])
    for _ in range(1 + rng.poisson(0.8 * severity)):
        centre = rng.uniform(0.1, 0.9, 2) * (height, width)
        angle = rng.uniform(0, 2 * np.pi)
        along = (rows - centre[0]) * np.sin(angle) + (columns - centre[1]) * np.cos(angle)
        aside = (columns - centre[1]) * np.sin(angle) - (rows - centre[0]) * np.cos(angle)
        size = _between(severity, 50, 190) * px * rng.uniform(0.8, 1.2)
        shape = power_law_field(sheet.shape, rng, exponent=3.5, longest=2 * size, shortest=0.3 * size)
        radius = np.sqrt((along / (1.7 * size)) ** 2 + (aside / size) ** 2) + 0.22 * shape
        patch = smooth_step(1.25 - 1.25 * radius + 0.25)
        track = smooth_curve(4 * int(size) + 8, rng, 0.12 * size)
        streaks = np.interp(aside + 2 * size + 0.05 * along, np.arange(track.size), track).astype(np.float32)
        wiped = np.clip(along / size, -1.3, 1.3) * rng.choice([-1.0, 1.0]) + rng.choice([-0.7, 0.7])
        sheet.coat *= 1 + _between(severity, 0.0, 0.26) * patch * (0.75 * wiped + 0.3 * streaks)


def edge_ink_flow(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Ink that ran along and over a long edge: thick tongues with a dark front, drained coat behind them."""
    px = sheet.scale
    for side in rng.permutation(np.array(LONG_SIDES))[: 1 + int(rng.random() < 0.5 * severity)]:
        inward, along = sheet.inward(Side(side)), sheet.along(Side(side))
        length = _between(severity, 150, 1300) * px
        here = _stretch(along, rng.uniform(0.1, 0.9) * along.size, length, 0.4 * length)
        tongues = 1 + 0.7 * smooth_curve(along.size, rng, 190 * px) + 0.12 * smooth_curve(along.size, rng, 60 * px)
        front = _between(severity, 8, 60) * px * np.maximum(tongues[:, None], 0.1) * here
        soft = 4 * px
        flow = smooth_step((front - inward) / soft + 0.5)
        rim = np.exp(-(((inward - front) / (1.5 * soft)) ** 2))
        drained = smooth_step((inward - front) / soft) * np.exp(-np.maximum(inward - front, 0) / (0.8 * front + 1))
        surplus = (0.6 * flow + 0.4 * rim - 0.3 * drained) * here
        sheet.coat += _between(severity, 0.0, 0.75) * surplus * np.minimum(sheet.substrate, 1)


def bubbles(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Craters of burst bubbles in loose clusters: thin inside, a rim around, some run out to one side."""
    px, (height, width) = sheet.scale, sheet.shape
    clusters = rng.uniform(0.08, 0.92, (1 + rng.poisson(1.2 * severity), 2)) * (height, width)
    depth = _between(severity, 0.0, 0.9)
    for _ in range(2 + rng.poisson(14 * severity)):
        radius = max(_between(severity, 3.5, 9) * px * rng.lognormal(0, 0.4), 1.0)
        row, column = clusters[rng.integers(len(clusters))] + rng.normal(0, 90 * px, 2)
        reach = int(4 * radius) + 2
        top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
        window = np.s_[top : max(int(row) + reach, 0), left : max(int(column) + reach, 0)]
        part = sheet.coat[window]
        if not part.size:
            continue
        rows, columns = (grid.astype(np.float32) for grid in np.ogrid[: part.shape[0], : part.shape[1]])
        y, x = rows + top - row, columns + left - column
        angle, oval = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
        distance = (
            np.hypot((y * np.sin(angle) + x * np.cos(angle)) / oval, y * np.cos(angle) - x * np.sin(angle)) / radius
        )
        inside = smooth_step(2.2 - 2 * distance)
        rim = np.exp(-(((distance - 1.15) / 0.22) ** 2))
        if rng.random() < 0.25:
            rim = rim * smooth_step(0.5 + (y * np.sin(angle) + x * np.cos(angle)) / radius)
        part *= 1 - depth * rng.uniform(0.6, 1.0) * (inside - 0.45 * rim)


def missing_ink(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Bare patches with a ragged border, islands of coat left within them."""
    px, (height, width) = sheet.scale, sheet.shape
    rows, columns = (grid.astype(np.float32) for grid in np.ogrid[:height, :width])
    for _ in range(1 + rng.poisson(0.8 * severity)):
        size = _between(severity, 6, 130) * px * rng.lognormal(0, 0.25)
        row, column = rng.uniform(0.05, 0.95, 2) * (height, width)
        oval = rng.uniform(0.6, 1.6)
        ground = power_law_field(sheet.shape, rng, exponent=2.6, longest=1.5 * size + 4, shortest=max(1.5 * px, 0.6))
        hollow = 1 - np.hypot((rows - row) * oval, (columns - column) / oval) / size + 0.32 * ground
        hollow = np.where(np.hypot(rows - row, columns - column) < 2.6 * size, hollow, 0).astype(np.float32)
        sheet.coat *= 1 - _between(severity, 0.05, 1.0) * smooth_step(5 * hollow)


def agglomerate(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Clumps of platinum that were not ground: dark, compact, knobbly, some with a thin streak dragged behind them."""
    px, (height, width) = sheet.scale, sheet.shape
    clump = np.zeros(sheet.shape, np.float32)
    streak = np.zeros(sheet.shape, np.float32)
    for _ in range(1 + rng.poisson(3.5 * severity)):
        size = _between(severity, 2.5, 11) * px * rng.lognormal(0, 0.35)
        row, column = rng.uniform(0.05, 0.95, 2) * (height, width)
        for _ in range(rng.integers(4, 10)):
            offset = rng.normal(0, 0.55 * size, 2)
            centre = np.rint(((column + offset[0]) * 8, (row + offset[1]) * 8)).astype(int)
            knob = np.zeros_like(clump, np.uint8)
            cv2.circle(
                knob, centre.tolist(), max(round(size * rng.uniform(0.3, 0.7) * 8), 6), 255, -1, cv2.LINE_AA, shift=3
            )
            clump = np.maximum(clump, knob.astype(np.float32) * np.float32(rng.uniform(0.5, 1.0) / 255))
        if rng.random() < 0.5:
            behind = sheet.along(Side.LEFT) - row
            tail = np.exp(-np.maximum(behind, 0) / (_between(severity, 20, 160) * px)) * (behind > 0)
            streak += tail * np.exp(-(((sheet.along(Side.TOP) - column) / (0.6 * size + 0.5)) ** 2))
    sheet.coat *= 1 - _between(severity, 0.0, 0.3) * np.minimum(streak, 1)
    sheet.coat += _between(severity, 0.0, 1.5) * blurred(clump, max(1.2 * px, 0.4)) * (sheet.coat > 0)


def ink_fluctuations(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Bands across the whole width from a pump that pulsates; their pitch drifts, their fronts bow."""
    px, height = sheet.scale, sheet.shape[0]
    along = sheet.along(Side.LEFT) - sheet.top[None, :].mean()
    bow = rng.normal(0, 50) * px * (2 * sheet.across() - 1) ** 2 + rng.normal(0, 20) * px * sheet.across()
    pitch = rng.uniform(70, 260) * px
    drift = 0.12 * smooth_curve(height, rng, 4 * pitch)[:, None] * pitch
    phase = 2 * np.pi * (along + bow + drift) / pitch + rng.uniform(0, 2 * np.pi)
    wave = np.sin(phase) + rng.uniform(0.1, 0.5) * np.sin(2 * phase + rng.uniform(0, 2 * np.pi))
    length = _between(severity, 0.35, 1.8) * height
    here = _stretch(along, rng.uniform(0.1, 0.9) * height, length, 2 * pitch)
    sheet.coat *= 1 + _between(severity, 0.0, 0.13) * (wave * here).astype(np.float32)


def ink_entry_exit(sheet: Sheet, severity: float, rng: np.random.Generator) -> None:
    """Start or end of the coat at a short edge: a heavy bar behind a scalloped start, or a taper torn into fingers."""
    px = sheet.scale
    depth = _between(severity, 14, 150) * px * rng.uniform(0.8, 1.2)
    amount = _between(severity, 0.0, 0.85)
    if rng.random() < 0.5:
        inward = sheet.inward(Side.TOP)
        scallop = smooth_curve(sheet.shape[1], rng, 160 * px) + 0.4 * smooth_curve(sheet.shape[1], rng, 40 * px)
        start = 0.2 * depth * np.maximum(1 + 0.6 * scallop, 0)[None, :]
        bare = smooth_step((start - inward) / (4 * px) + 0.5)
        bar = np.exp(-np.maximum(inward - start, 0) / (0.45 * depth)) * (1 - bare)
        sheet.coat *= (1 - amount * bare) * (1 + 0.55 * amount * bar)
    else:
        inward = sheet.inward(Side.BOTTOM)
        fingers = smooth_curve(sheet.shape[1], rng, 55 * px) + 0.5 * smooth_curve(sheet.shape[1], rng, 300 * px)
        length = depth * np.maximum(0.55 + 0.4 * fingers, 0.05)[None, :]
        taper = np.exp(-((np.maximum(inward, 0) / length) ** 2))
        sheet.coat *= 1 - amount * taper


KINDS: dict[str, Paint] = {
    "agglomerate": agglomerate,
    "bubbles": bubbles,
    "edge-cuts": edge_cuts,
    "edge-ink-flow": edge_ink_flow,
    "edge-tensions": edge_tensions,
    "ink-entry-exit": ink_entry_exit,
    "ink-fluctuations": ink_fluctuations,
    "lines": lines,
    "missing-ink": missing_ink,
    "scratches": scratches,
    "smudges": smudges,
}
"""The kinds by the names that the column `kinds` of labels.csv gives them."""
