"""A sheet of carbon with its coat, before any X-ray: where its edges lie and how much mass each pixel holds.

Mass is relative: 1 is the nominal mass per area of the lot, of substrate and of coat. The coat was laid along the
height, from the top edge to the bottom edge. Lengths are pixels of a scan of full size, times `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from train.second_simulator.fields import Map, blurred, power_law_field, smooth_curve, smooth_step

HEIGHTS = (2053, 2115)
WIDTHS = (1119, 1219)
"""Least and greatest size of a scan in pixels (Jensen 2022, 2.2.1); the means there are 2072.1 and 1145."""


class Side(StrEnum):
    """Edge of the sheet as it lies in the scan."""

    LEFT = "left"
    RIGHT = "right"
    TOP = "top"
    BOTTOM = "bottom"


LONG_SIDES = (Side.LEFT, Side.RIGHT)


@dataclass(frozen=True, slots=True)
class Look:
    """What all sheets of a lot have in common: one coating method, one mixture."""

    height: int
    width: int
    texture: float
    """Deviation of the coat's mottle, share of its mass."""
    texture_exponent: float
    texture_longest: float
    texture_stretch: float
    ribs: float
    """Amplitude of the ribs that a slot die leaves along the coat, share of its mass."""
    rib_pitch: float
    cracks: float
    """Share of the coat that is missing where mud cracks run."""
    crack_cell: float
    weave: float
    """Deviation of the substrate's mass: carbon cloth where `is_cloth`, else felt."""
    weave_pitch: float
    is_cloth: bool
    bead: float
    """Surplus of coat along the long edges, share of its mass; negative where the coat thins out."""
    bead_width: float
    crown: float
    """Surplus of coat in the middle of the width."""
    inset_sides: float
    inset_ends: float
    """Width of the uncoated margin along the long and the short edges."""


def draw_look(rng: np.random.Generator) -> Look:
    """Look of a new lot."""
    return Look(
        height=round(HEIGHTS[0] + (HEIGHTS[1] - HEIGHTS[0]) * rng.beta(1.6, 3.6)),
        width=round(WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * rng.beta(1.3, 3.7)),
        texture=rng.uniform(0.008, 0.028),
        texture_exponent=rng.uniform(1.2, 3.0),
        texture_longest=rng.uniform(60, 400),
        texture_stretch=rng.uniform(1.0, 3.5),
        ribs=rng.choice([0.0, rng.uniform(0.003, 0.018)]),
        rib_pitch=rng.uniform(14, 60),
        cracks=rng.choice([0.0, 0.0, rng.uniform(0.02, 0.08)]),
        crack_cell=rng.uniform(30, 80),
        weave=rng.uniform(0.01, 0.05),
        weave_pitch=rng.uniform(5, 11),
        is_cloth=bool(rng.random() < 0.4),
        bead=rng.uniform(-0.05, 0.08),
        bead_width=rng.uniform(12, 60),
        crown=rng.uniform(-0.03, 0.03),
        inset_sides=rng.choice([0.0, rng.uniform(2, 14)]),
        inset_ends=rng.choice([0.0, rng.uniform(2, 20)]),
    )


@dataclass(slots=True)
class Sheet:
    """Mass of substrate and coat in every pixel of one scan. Anomalies change `substrate` and `coat`."""

    scale: float
    left: Map
    right: Map
    """Column of the edge in each row."""
    top: Map
    bottom: Map
    """Row of the edge in each column."""
    substrate: Map
    coat: Map

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the scan."""
        return len(self.left), len(self.top)

    def inward(self, side: Side) -> Map:
        """Distance of each pixel from an edge, positive on the sheet."""
        rows = np.arange(len(self.left), dtype=np.float32)[:, None]
        columns = np.arange(len(self.top), dtype=np.float32)[None, :]
        match side:
            case Side.LEFT:
                return columns - self.left[:, None]
            case Side.RIGHT:
                return self.right[:, None] - columns
            case Side.TOP:
                return rows - self.top[None, :]
            case Side.BOTTOM:
                return self.bottom[None, :] - rows

    def along(self, side: Side) -> Map:
        """Position of each pixel along an edge, broadcastable to the scan: the row or the column."""
        if side in LONG_SIDES:
            return np.arange(len(self.left), dtype=np.float32)[:, None]
        return np.arange(len(self.top), dtype=np.float32)[None, :]

    def across(self) -> Map:
        """Position of each pixel across the sheet: 0 at the left edge, 1 at the right one."""
        return self.inward(Side.LEFT) / (self.right - self.left)[:, None]


def draw_sheet(look: Look, scale: float, rng: np.random.Generator) -> Sheet:
    """Sheet without anomalies, as the lot's look and chance have it; its scan has the size the paper names."""
    height, width = _size(look, scale, rng)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    tilt = np.tan(np.deg2rad(rng.uniform(-0.3, 0.3)))
    lean = [abs(tilt) * half + rng.uniform(2, 8) * scale for half in (width / 2, height / 2)]  # the frame is cropped so
    wobble = [rng.uniform(0.2, 1.0) * scale * smooth_curve(size, rng, 500 * scale) for size in (height, width) * 2]
    sheet = Sheet(
        scale=scale,
        left=lean[1] + tilt * (rows - height / 2) + wobble[0],
        right=width - 1 - lean[1] + tilt * (rows - height / 2) + wobble[2],
        top=lean[0] - tilt * (columns - width / 2) + wobble[1],
        bottom=height - 1 - lean[0] - tilt * (columns - width / 2) + wobble[3],
        substrate=np.empty((0, 0), np.float32),
        coat=np.empty((0, 0), np.float32),
    )
    sheet.substrate = _covered(sheet, 0, 0, 0.5) * _substrate(sheet, look, rng)
    ragged = rng.uniform(0.3, 1.5) * scale
    sheet.coat = _covered(sheet, look.inset_sides * scale, look.inset_ends * scale, ragged) * _coat(sheet, look, rng)
    return sheet


def _size(look: Look, scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels of one scan of a lot."""
    height = int(np.clip(look.height + rng.integers(-5, 6), *HEIGHTS))
    width = int(np.clip(look.width + rng.integers(-5, 6), *WIDTHS))
    return max(round(height * scale), 32), max(round(width * scale), 32)


def _covered(sheet: Sheet, inset_sides: float, inset_ends: float, softness: float) -> Map:
    """Share of each pixel that lies on the sheet, inside a margin."""
    covered = np.ones(sheet.shape, np.float32)
    for side in Side:
        inset = inset_sides if side in LONG_SIDES else inset_ends
        reach = max(softness, 0.5)
        covered *= smooth_step((sheet.inward(side) - inset) / (2 * reach) + 0.5)
    return covered


def _substrate(sheet: Sheet, look: Look, rng: np.random.Generator) -> Map:
    """Carbon felt, or cloth: warp and weft that pass over and under each other."""
    pitch = max(look.weave_pitch * sheet.scale, 2.0)
    if not look.is_cloth:
        felt = power_law_field(sheet.shape, rng, exponent=2, longest=4 * pitch, shortest=0.3 * pitch)
        return 1 + np.float32(look.weave) * felt
    warp = sheet.inward(Side.LEFT) / pitch + 0.1 * smooth_curve(sheet.shape[0], rng, 300 * sheet.scale)[:, None]
    weft = sheet.inward(Side.TOP) / pitch + 0.1 * smooth_curve(sheet.shape[1], rng, 300 * sheet.scale)[None, :]
    cloth = np.sin(2 * np.pi * warp) * np.sin(2 * np.pi * weft) + 0.5 * np.cos(4 * np.pi * warp)
    return (1 + np.float32(look.weave) * cloth).astype(np.float32)


def _coat(sheet: Sheet, look: Look, rng: np.random.Generator) -> Map:
    """Coat with the marks of its method: mottle, ribs of the die, mud cracks, beads along the edges, drift."""
    scale, shape = sheet.scale, sheet.shape
    coat = 1 + np.float32(look.texture) * power_law_field(
        shape,
        rng,
        exponent=look.texture_exponent,
        longest=look.texture_longest * scale,
        shortest=max(1.5 * scale, 0.5),
        stretch=look.texture_stretch,
    )
    if look.ribs:
        pitch = look.rib_pitch * scale
        position = sheet.inward(Side.LEFT) / pitch + 0.25 * smooth_curve(shape[1], rng, 4 * pitch)[None, :]
        strength = 1 + 0.4 * power_law_field(
            shape, rng, exponent=3, longest=600 * scale, shortest=60 * scale, stretch=3
        )
        coat += look.ribs * strength * np.cos(2 * np.pi * position)
    if look.cracks:
        cell = look.crack_cell * scale
        ground = power_law_field(shape, rng, exponent=1, longest=cell, shortest=0.2 * cell)
        coat *= 1 - look.cracks * np.exp(-((ground / 0.06) ** 2))
    edge = np.minimum(sheet.inward(Side.LEFT), sheet.inward(Side.RIGHT))
    coat += look.bead * np.exp(-np.maximum(edge, 0) / (look.bead_width * scale))
    coat += look.crown * (1 - (2 * sheet.across() - 1) ** 2)
    drift = rng.normal(0, 0.012) + rng.uniform(0, 0.008) * smooth_curve(shape[0], rng, 1200 * scale)
    coat += drift[:, None]
    return np.maximum(blurred(coat.astype(np.float32), max(0.6 * scale, 0.3)), 0)
