"""The four anomaly kinds that live on the edges of the coating: cuts, tensions, ink flow, entry and exit bars.

Each is painted as if its edge were the left one, on a view of the canvas turned so that it is.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from train.simulator.electrode import Canvas
from train.simulator.fields import Field, Points, enlarge, polygon, profile, smooth
from train.simulator.severity import count, ramp

_LEFT, _RIGHT, _TOP, _BOTTOM = range(4)


@dataclass(frozen=True)
class _Edge:
    """A turned view of the thickness (float32, writable) whose coated edge is column `at`, rows `first`..`last`."""

    thickness: Field
    at: float
    first: float
    last: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.thickness.shape[0], self.thickness.shape[1]


def edge_cuts(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Notches in the coated edge, with ragged flanks."""
    most = 5
    sides, places = rng.integers(0, 4, size=most), rng.uniform(0.08, 0.92, size=most)
    lengths, depths = rng.uniform(0.7, 1.3, size=most), rng.uniform(0.75, 1.25, size=most)
    ragged, lean = rng.normal(0, 1, size=(most, 24)), rng.uniform(-0.3, 0.3, size=most)
    for number in range(count(severity, 1, most)):
        edge = _edge(canvas, int(sides[number]))
        half = ramp(severity, 9, 120) * lengths[number] * canvas.size
        depth = ramp(severity, 7, 120) * depths[number] * canvas.size
        along = np.linspace(-1, 1, 24)
        inward = depth * np.clip(1 - np.abs(along + lean[number]) ** 2.5 + 0.08 * ragged[number], 0.02, 1.2)
        inward[[0, -1]] = 0
        centre = edge.first + places[number] * (edge.last - edge.first)
        flank = np.stack([edge.at + inward, centre + half * along], axis=1)
        outside = np.array([[edge.at - 8, centre + half], [edge.at - 8, centre - half]])
        found = polygon(edge.shape, [np.concatenate([flank, outside]).astype(np.float32)])
        if found is not None:
            edge.thickness[found[0]] *= np.float32(1) - found[1]


def edge_tensions(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """A wavy, curled edge: the border swings in and out and the coating next to it is pulled thick and thin."""
    most = 2
    sides, places = rng.permutation(2), rng.uniform(0.3, 0.7, size=most)
    periods, phases = rng.uniform(170, 330, size=most), rng.uniform(0, 2 * np.pi, size=most)
    for number in range(count(severity, 1, most)):
        edge = _edge(canvas, int(sides[number]))
        reach = ramp(severity, 110, 260) * canvas.size
        band = int(min(edge.at + 3 * reach, edge.shape[1]))
        rows = np.arange(edge.shape[0], dtype=np.float32)
        columns = np.arange(band, dtype=np.float32)[None, :]
        extent = ramp(severity, 0.2, 1.0) * (edge.last - edge.first)
        centre = edge.first + places[number] * (edge.last - edge.first)
        within = np.exp(-(((rows - np.float32(centre)) / np.float32(extent / 2)) ** 4))
        swing = np.sin(rows * np.float32(2 * np.pi / (periods[number] * canvas.size)) + np.float32(phases[number]))
        swing = (swing * within)[:, None]
        decay = np.exp(-np.maximum(columns - np.float32(edge.at), 0) / np.float32(reach / 2))
        shift = np.float32(ramp(severity, 2.0, 30) * canvas.size) * swing * decay
        strip = np.ascontiguousarray(edge.thickness[:, :band])
        source_x = (columns + shift).astype(np.float32)
        source_y = np.ascontiguousarray(np.broadcast_to(rows[:, None], source_x.shape))
        pulled = cv2.remap(strip, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        contrast = ramp(severity, 8, 120)
        ripple = (np.float32(0.45) * within[:, None] + np.float32(0.55) * swing) * decay
        change = np.where(ripple > 0, canvas.darker(contrast), canvas.brighter(contrast)).astype(np.float32)
        edge.thickness[:, :band] = pulled + ripple * change * np.clip(pulled, 0, 1)


def edge_ink_flow(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Ink that ran over the edge: a thick bead along it and tongues beyond it."""
    most = 9
    side, centre_share = int(rng.integers(0, 3)), rng.uniform(0.25, 0.75)
    offsets, sizes = rng.uniform(-0.5, 0.5, size=most), rng.uniform(0.6, 1.4, size=most)
    unevenness = profile(rng, 400, 12)
    edge = _edge(canvas, side)
    extent = ramp(severity, 0.12, 0.9) * (edge.last - edge.first)
    centre = edge.first + centre_share * (edge.last - edge.first)
    centre = min(max(centre, edge.first + extent / 2), edge.last - extent / 2)
    thick = canvas.darker(ramp(severity, 25, 190))
    along = np.linspace(-1, 1, 400)
    swell = np.clip(1 - along**4, 0, 1) * np.clip(1 + 0.35 * unevenness, 0.3, 1.8)
    bead = ramp(severity, 3, 26) * canvas.size * swell
    spill = ramp(severity, 0.8, 9) * canvas.size * swell
    down = centre + along * extent / 2
    outer, inner = np.stack([edge.at - spill, down], axis=1), np.stack([edge.at + bead, down], axis=1)
    _cover(edge, np.concatenate([outer, inner[::-1]]), thick, canvas.size * ramp(severity, 1.0, 4.0))
    for number in range(count(severity, 1, most)):
        length = ramp(severity, 3, 50) * sizes[number] * canvas.size
        length = min(length, edge.at - 24 * canvas.size)  # the sheet ends there, and ink does not hang in the air
        half = ramp(severity, 7, 50) * sizes[number] * canvas.size
        row = centre + offsets[number] * extent
        angle = np.linspace(-np.pi / 2, np.pi / 2, 32)
        tongue = np.stack([edge.at - length * np.cos(angle), row + half * np.sin(angle)], axis=1)
        root = np.array([[edge.at + bead.max(), row + half * 0.8], [edge.at + bead.max(), row - half * 0.8]])
        _cover(edge, np.concatenate([tongue, root]), 0.8 * thick, ramp(severity, 1.0, 5.0) * canvas.size)


def ink_entry_exit(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """A bar across the start or end of the coating: too much ink where it sets in, too little where it runs out."""
    side = (_TOP, _BOTTOM)[int(rng.integers(0, 2))]
    thick, roughness = rng.uniform() < 0.55, rng.normal(0, 1, size=400).astype(np.float32)
    edge = _edge(canvas, side)
    columns = np.arange(edge.shape[1], dtype=np.float32)[None, :] - np.float32(edge.at)
    ragged = smooth(enlarge(roughness[:, None], (edge.shape[0], 1)), 30 * canvas.size, 0)
    height = ramp(severity, 14, 190) * canvas.size
    front = np.float32(height) * (1 + np.float32(0.8) * ragged)
    cover = 1 / (1 + np.exp(np.clip((columns - front) / np.float32(0.13 * height), -30, 30)))
    contrast = ramp(severity, 16, 190)
    change = canvas.darker(contrast) if thick else -canvas.brighter(contrast)
    view = edge.thickness
    view += (np.float32(change) * cover * np.clip(view, 0, 1)).astype(np.float32)


def _cover(edge: _Edge, ring: Points, extra: float, softness: float) -> None:
    """Ink on top of what is there: nominal coating and `extra` thickness, also beyond the edge."""
    found = polygon(edge.shape, [ring.astype(np.float32)], softness)
    if found is None:
        return
    window, cover = edge.thickness[found[0]], found[1]
    np.maximum(window, cover * np.float32(1.0 + extra), out=window)


def _edge(canvas: Canvas, side: int) -> _Edge:
    """The canvas turned so that the given side of the coating is on the left."""
    top, left, bottom, right = canvas.coated
    height, width = canvas.thickness.shape
    if side == _LEFT:
        return _Edge(canvas.thickness, left, top, bottom)
    if side == _RIGHT:
        return _Edge(canvas.thickness[:, ::-1], width - right, top, bottom)
    if side == _TOP:
        return _Edge(canvas.thickness.T, top, left, right)
    return _Edge(canvas.thickness[::-1].T, height - bottom, left, right)
