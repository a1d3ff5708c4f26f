"""The 11 anomaly kinds of the paper, painted on a sheet's coating thickness.

Every kind takes a severity in 0..1 that raises size, number and contrast together, never one down as another goes
up. All random draws come before severity is used, so one stream gives the same anomaly at every severity, only
weaker or stronger. Contrasts are asked for in counts and turned into thickness by the canvas.

The curve of `ramp` leaves a real gap between what is mild (0.30) and what is severe (0.55).
"""

from collections.abc import Callable

import numpy as np

from train.simulator.defects_edge import edge_cuts, edge_ink_flow, edge_tensions, ink_entry_exit
from train.simulator.electrode import Canvas
from train.simulator.fields import Field, Points, correlated, generator, outline, polygon, profile, ribbon
from train.simulator.severity import count, ramp

Painter = Callable[[Canvas, float, np.random.Generator], None]


def scratches(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Thin curved strokes that took the coating off: bright, tapered polylines."""
    most = 6
    starts, headings = rng.uniform(0.08, 0.92, size=(most, 2)), rng.uniform(0, 2 * np.pi, size=most)
    bends = rng.normal(0, 1, size=(most, 40))
    lengths = rng.uniform(0.7, 1.3, size=most)
    depth = min(1.0, canvas.brighter(1000)) * ramp(severity, 0.25, 1.0)
    for number in range(count(severity, 1, most)):
        steps = 40
        length = ramp(severity, 70, 950) * lengths[number] * canvas.size
        heading = headings[number] + np.cumsum(np.cumsum(bends[number]) * 0.004 + 0.01 * bends[number])
        stride = length / steps * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        path = (_inside(canvas, starts[number]) + np.cumsum(stride, axis=0)).astype(np.float32)
        taper = np.sin(np.linspace(0.15, np.pi - 0.15, steps)).astype(np.float32)
        _lose(canvas, [ribbon(path, taper * np.float32(ramp(severity, 0.7, 3.8) * canvas.size))], depth)


def lines(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Straight streaks along the coating direction, as a nick or a crumb in the coating tool draws them."""
    most = 5
    centres = rng.uniform(0.06, 0.94, size=most)
    spans = np.sort(rng.uniform(0, 1, size=(most, 2)), axis=1)
    dark, widths = rng.uniform(size=most) < 0.5, rng.uniform(0.7, 1.4, size=most)
    fading = rng.integers(0, 1 << 31, size=most)
    top, left, bottom, right = canvas.coated
    rows = np.arange(canvas.thickness.shape[0], dtype=np.float32)[:, None]
    for number in range(count(severity, 1, most)):
        sigma = ramp(severity, 1.6, 6.5) * widths[number] * canvas.size
        centre = left + centres[number] * (right - left)
        first, last = max(0, int(centre - 4 * sigma)), int(centre + 4 * sigma) + 2
        across = np.arange(first, min(last, canvas.thickness.shape[1]), dtype=np.float32)[None, :]
        # From a short streak to nearly the whole coating.
        reach = ramp(severity, 0.25, 1.0)
        middle = spans[number].mean() * (1 - reach) + 0.5 * reach
        begin, end = (top + (middle + side * reach / 2) * (bottom - top) for side in (-1, 1))
        ends = np.clip((rows - begin) / (60 * canvas.size), 0, 1) * np.clip((end - rows) / (60 * canvas.size), 0, 1)
        uneven = profile(generator(int(fading[number])), rows.size, 120 * canvas.size)
        strength = ends * np.clip(1 + 0.2 * uneven, 0.4, 1.6)[:, None]
        contrast = ramp(severity, 14, 150)
        change = canvas.darker(contrast) if dark[number] else -canvas.brighter(contrast)
        window = canvas.thickness[:, first : first + across.size]
        streak = np.exp(-(((across - np.float32(centre)) / np.float32(sigma)) ** 2) / 2)
        window += (strength * streak * change).astype(np.float32) * np.minimum(window, 1)


def smudges(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Broad soft blots, mostly darker: something touched or dripped on the wet coating."""
    most = 4
    places, thin = rng.uniform(0.12, 0.88, size=(most, 2)), rng.uniform(size=most) < 0.25
    radii = rng.uniform(0.8, 1.25, size=most)
    shapes = [[outline(rng, 1.0, 0.5, float(rng.uniform(1, 2.2))) for _ in range(3)] for _ in range(most)]
    for number in range(count(severity, 1, most)):
        radius = ramp(severity, 32, 190) * radii[number] * canvas.size
        contrast = ramp(severity, 10, 150)
        change = -canvas.brighter(contrast) if thin[number] else canvas.darker(contrast)
        for layer, shape in enumerate(shapes[number]):
            placed = shape * np.float32(radius * (1 - 0.27 * layer)) + _inside(canvas, places[number])
            _add(canvas, [placed.astype(np.float32)], change / 3, softness=radius * 0.16)


def bubbles(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Burst gas bubbles: small bright discs with a darker rim of displaced ink, in clusters."""
    most = 80
    nests, nest = rng.uniform(0.12, 0.88, size=(4, 2)), rng.integers(0, 4, size=most)
    scatter, radii = rng.normal(0, 1, size=(most, 2)), rng.lognormal(0, 0.35, size=most)
    shapes = [outline(rng, 1.0, 0.05) for _ in range(most)]
    depth, rim = ramp(severity, 0.35, 0.95), canvas.darker(ramp(severity, 15, 90))
    for number in range(count(severity, 2, most)):
        radius = ramp(severity, 2.0, 13) * radii[number] * canvas.size
        where = _inside(canvas, nests[nest[number]]) + scatter[number] * ramp(severity, 30, 95) * canvas.size
        _add(canvas, [_at(shapes[number], radius * 1.5, where)], rim, softness=radius * 0.12)
        _lose(canvas, [_at(shapes[number], radius, where)], depth, softness=radius * 0.1)


def missing_ink(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Patches the ink never reached: ragged holes down to the bare sheet."""
    most = 3
    places, radii = rng.uniform(0.1, 0.9, size=(most, 2)), rng.uniform(0.75, 1.25, size=most)
    shapes = [outline(rng, 1.0, 0.4, float(rng.uniform(1, 2.2))) for _ in range(most)]
    for number in range(count(severity, 1, most)):
        radius = ramp(severity, 3.0, 110) * radii[number] * canvas.size
        hole = _at(shapes[number], radius, _inside(canvas, places[number]))
        _lose(canvas, [hole], ramp(severity, 0.7, 1.0), softness=0.8 * canvas.size)


def agglomerate(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """Catalyst lumps that were never dispersed: small, dense, dark."""
    most = 40
    places, radii = rng.uniform(0.04, 0.96, size=(most, 2)), rng.lognormal(0, 0.35, size=most)
    shapes = [outline(rng, 1.0, 0.45, float(rng.uniform(1, 1.6))) for _ in range(most)]
    change = canvas.darker(ramp(severity, 45, 230))
    for number in range(count(severity, 2, most)):
        radius = ramp(severity, 1.8, 18) * radii[number] * canvas.size
        lump = _at(shapes[number], radius, _inside(canvas, places[number]))
        _add(canvas, [lump], change, softness=radius * 0.25)


def ink_fluctuations(canvas: Canvas, severity: float, rng: np.random.Generator) -> None:
    """The pump breathes: low-frequency waves of thickness, mainly along the coating direction."""
    height, width = canvas.thickness.shape
    period, phase = rng.uniform(170, 420) * canvas.size, rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(-0.25, 0.25)
    bend = correlated(rng, (height, width), 500 * canvas.size, 350 * canvas.size)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    turn = np.float32(2 * np.pi / period)
    wave = np.sin(turn * (rows + np.float32(tilt) * columns) + np.float32(1.5) * bend + np.float32(phase))
    contrast = ramp(severity, 4, 100)
    change = np.where(wave > 0, np.float32(canvas.darker(contrast)), np.float32(canvas.brighter(contrast)))
    canvas.thickness += wave * change * np.minimum(canvas.thickness, 1)


def _inside(canvas: Canvas, share: Points) -> Field:
    """A point (x, y) px of the coated area from its shares (down, across) in 0..1."""
    top, left, bottom, right = canvas.coated
    return np.array([left + share[1] * (right - left), top + share[0] * (bottom - top)], dtype=np.float32)


def _at(shape: Field, radius: float, where: Points | Field) -> Field:
    """A unit outline enlarged to `radius` px and moved to the point `where` (x, y) px."""
    return np.asarray(shape * np.float32(radius) + where, dtype=np.float32)


def _lose(canvas: Canvas, outlines: list[Field], share: float, softness: float = 0.0) -> None:
    """Take a share (0..1) of the coating away inside outlines."""
    found = polygon(_shape(canvas), outlines, softness)
    if found is not None:
        canvas.thickness[found[0]] *= np.float32(1) - np.float32(min(share, 1.0)) * found[1]


def _add(canvas: Canvas, outlines: list[Field], change: float, softness: float = 0.0) -> None:
    """Add thickness inside outlines, where there is coating to carry it."""
    found = polygon(_shape(canvas), outlines, softness)
    if found is not None:
        window = canvas.thickness[found[0]]
        window += np.float32(change) * found[1] * np.clip(window, 0, 1)


def _shape(canvas: Canvas) -> tuple[int, int]:
    return canvas.thickness.shape[0], canvas.thickness.shape[1]


PAINTERS: dict[str, Painter] = {
    "scratches": scratches,
    "lines": lines,
    "edge-cuts": edge_cuts,
    "edge-tensions": edge_tensions,
    "smudges": smudges,
    "edge-ink-flow": edge_ink_flow,
    "bubbles": bubbles,
    "missing-ink": missing_ink,
    "agglomerate": agglomerate,
    "ink-fluctuations": ink_fluctuations,
    "ink-entry-exit": ink_entry_exit,
}
