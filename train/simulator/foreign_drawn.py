"""Foreign images that are drawn from nothing: photograph-like scenes, weld radiographs, noise, other parts.

Procedural throughout; no photograph or radiograph is stored or read. `train.simulator.foreign` is the way in.
"""

from dataclasses import dataclass

import numpy as np

from train.simulator.fields import Field, Points, correlated, octaves, outline, polygon, profile, smooth, white


@dataclass(frozen=True)
class Frame:
    """What an image is drawn from: a random stream, a shape (H, W) in px, the lot's seed, a scale (1 = full format)."""

    rng: np.random.Generator
    shape: tuple[int, int]
    seed: int
    scale: float


def scene(frame: Frame) -> Field:
    """A photograph's statistics: 1/f background, several shaded and textured things that hide one another."""
    rng, shape, scale = frame.rng, frame.shape, frame.scale
    image = octaves(rng, shape, 500 * scale, 4 * scale)
    image += np.float32(1.5) * _slope(rng, shape)
    for _ in range(int(rng.integers(6, 15))):
        radius = float(rng.uniform(60, 320)) * scale
        where = rng.uniform(0, 1, size=2) * (shape[1], shape[0])
        if rng.uniform() < 0.6:
            ring = outline(rng, radius, float(rng.uniform(0.05, 0.5)), float(rng.uniform(1, 3)))
        else:
            ring = _box(rng, radius)
        found = polygon(shape, [(ring + where).astype(np.float32)], softness=float(rng.uniform(0, 2)) * scale)
        if found is None:
            continue
        window, cover = found
        part = (cover.shape[0], cover.shape[1])
        body = np.float32(rng.uniform(-3, 3)) + np.float32(rng.uniform(0.3, 1.2)) * _slope(rng, part)
        texture = octaves(rng, part, float(rng.uniform(10, 60)) * scale, 3 * scale)
        body += np.float32(rng.uniform(0.1, 0.8)) * texture
        shade = smooth(cover, radius * 0.25, radius * 0.25)  # darker towards the rim, as on a rounded thing
        image[window] += cover * (body * shade - image[window])
    return noisy(rng, _stretched(image))


def weld(frame: Frame) -> Field:
    """A radiograph of a weld: plate, a bright or dark bead with ripples, undercut beside it, pores along it."""
    rng, shape, scale = frame.rng, frame.shape, frame.scale
    height, width = shape
    rows, columns = _axes(shape)
    middle = np.float32(width * rng.uniform(0.35, 0.65)) + np.float32(25 * scale) * profile(rng, height, 260 * scale)
    swell = np.float32(1) + np.float32(0.06) * profile(rng, height, 50 * scale)
    half = np.float32(rng.uniform(120, 260) * scale) * swell
    away = (columns - middle[:, None]) / half[:, None]
    sign = 1.0 if rng.uniform() < 0.5 else -1.0
    bead = np.exp(-(np.abs(away) ** 4))
    undercut = np.exp(-(((np.abs(away) - np.float32(1)) * np.float32(9)) ** 2))
    pitch = np.float32(rng.uniform(18, 45) * scale)
    ripples = np.sin(np.float32(2 * np.pi) * (rows / pitch - np.float32(1.3) * away * away))
    image = np.float32(2.5 * sign) * bead + np.float32(0.45) * bead * ripples - np.float32(0.8) * undercut
    image += np.float32(0.35) * octaves(rng, shape, 300 * scale, 8 * scale)
    for _ in range(int(rng.integers(8, 40))):
        row = int(rng.uniform(0, height))
        centre = float(middle[row] + rng.normal(0, 0.4) * half[row])
        ring = outline(rng, float(rng.lognormal(2.0, 0.5)) * scale, 0.2, float(rng.uniform(1, 2.5)))
        placed = ring + np.array([centre, row], dtype=np.float32)
        found = polygon(shape, [placed.astype(np.float32)], softness=1.5 * scale)
        if found is not None:
            image[found[0]] -= np.float32(sign * rng.uniform(0.6, 2.0)) * found[1]
    return noisy(rng, _stretched(image))


def white_noise(frame: Frame) -> Field:
    """Independent pixels: Gaussian or uniform, weak to full range."""
    rng = frame.rng
    centre, spread = float(rng.uniform(2050, 2450)), float(rng.uniform(40, 300))
    if rng.uniform() < 0.3:
        return (centre + spread * rng.uniform(-1.7, 1.7, size=frame.shape)).astype(np.float32)
    return np.float32(centre) + np.float32(spread) * white(rng, frame.shape)


def correlated_noise(frame: Frame) -> Field:
    """Clouds: noise with a correlation length of 3 to 150 px, isotropic or drawn out."""
    rng = frame.rng
    length = float(np.exp(rng.uniform(np.log(3), np.log(150)))) * frame.scale
    aspect = float(rng.choice([1.0, 1.0, 4.0, 0.25]))
    clouds = correlated(rng, frame.shape, length * aspect**0.5, length / aspect**0.5)
    return noisy(rng, np.float32(rng.uniform(2100, 2400)) + np.float32(rng.uniform(60, 220)) * clouds)


def other_part(frame: Frame) -> Field:
    """Something else on the belt: a gear, rings, or a printed circuit board."""
    rng, shape, scale = frame.rng, frame.shape, frame.scale
    draw = (_gear, _rings, _board)[int(rng.integers(0, 3))]
    dense = smooth(draw(rng, shape, scale), 1.2 * scale, 1.2 * scale)
    dense *= np.float32(1.0) + np.float32(0.05) * octaves(rng, shape, 200 * scale, 6 * scale)
    return noisy(rng, np.float32(1620) + np.float32(1140) * np.exp(-np.maximum(dense, np.float32(0))))


def noisy(rng: np.random.Generator, counts: Field) -> Field:
    """The detector's noise over a float32 (H, W) image of counts."""
    return counts + np.float32(11) * white(rng, (counts.shape[0], counts.shape[1]))


def _gear(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    dense = np.zeros(shape, dtype=np.float32)
    radius, teeth = float(rng.uniform(330, 520)) * scale, int(rng.integers(12, 40))
    centre = np.array([shape[1] / 2, shape[0] * rng.uniform(0.35, 0.65)])
    angle = np.linspace(0, 2 * np.pi, teeth * 24, endpoint=False)
    reach = radius * (1 + 0.09 * np.tanh(4 * np.sin(teeth * angle)))
    _lay(dense, centre + reach[:, None] * _directions(angle), float(rng.uniform(0.5, 1.1)))
    _lay(dense, centre + radius * 0.2 * _directions(angle), -2.0)
    for place in _directions(np.linspace(0, 2 * np.pi, int(rng.integers(3, 8)), endpoint=False)):
        _lay(dense, centre + radius * (0.58 * place + 0.14 * _directions(angle)), -2.0)
    return np.maximum(dense, np.float32(0))


def _rings(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    dense = np.zeros(shape, dtype=np.float32)
    circle = _directions(np.linspace(0, 2 * np.pi, 200, endpoint=False))
    for _ in range(int(rng.integers(2, 7))):
        centre = rng.uniform(0.15, 0.85, size=2) * (shape[1], shape[0])
        radius, thick = float(rng.uniform(90, 340)) * scale, float(rng.uniform(0.3, 0.9))
        _lay(dense, centre + radius * circle, thick)
        _lay(dense, centre + radius * float(rng.uniform(0.5, 0.85)) * circle, -thick)
    return dense


def _board(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    dense = np.full(shape, 0.12, dtype=np.float32)
    grid = 40 * scale
    pad = 12 * scale * _directions(np.linspace(0, 2 * np.pi, 24, endpoint=False))
    for _ in range(int(rng.integers(60, 140))):  # tracks on a grid, with a pad at the end
        start = np.round(rng.uniform(0, 1, size=2) * (shape[1], shape[0]) / grid) * grid
        reach, across = float(rng.uniform(2, 14)) * grid, float(rng.uniform(2.5, 8)) * scale
        along = np.array([1.0, 0.0]) if rng.uniform() < 0.5 else np.array([0.0, 1.0])
        end, side = start + along * reach, along[::-1] * across
        _lay(dense, np.stack([start - side, end - side, end + side, start + side]), 0.25)
        _lay(dense, end + pad, 0.5)
    for _ in range(int(rng.integers(4, 12))):  # chips
        ring = _box(rng, float(rng.uniform(50, 150)) * scale, upright=True)
        _lay(dense, ring + rng.uniform(0.1, 0.9, size=2) * (shape[1], shape[0]), float(rng.uniform(0.3, 0.8)))
    return dense


def _directions(angle: Points) -> Points:
    """Unit vectors (x, y), float64 (N, 2), for angles (N,) in rad."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _box(rng: np.random.Generator, radius: float, *, upright: bool = False) -> Field:
    """Corners of a rectangle about the origin: float32 (4, 2) px."""
    wide, high = radius, radius * float(rng.uniform(0.4, 1.6))
    corners = np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]])
    turn = 0.0 if upright else float(rng.uniform(0, np.pi))
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(corners @ spin, dtype=np.float32)


def _lay(dense: Field, ring: Points, change: float) -> None:
    """Add attenuation inside an outline, in place."""
    found = polygon((dense.shape[0], dense.shape[1]), [ring.astype(np.float32)])
    if found is not None:
        dense[found[0]] += np.float32(change) * found[1]


def _axes(shape: tuple[int, int]) -> tuple[Field, Field]:
    rows, columns = (np.arange(size, dtype=np.float32) for size in shape)
    return rows[:, None], columns[None, :]


def _slope(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Light falling across (H, W) from a random direction: a plane, about -1..1."""
    rows, columns = _axes(shape)
    angle = float(rng.uniform(0, 2 * np.pi))
    across, down = columns / max(shape[1], 1) - np.float32(0.5), rows / max(shape[0], 1) - np.float32(0.5)
    return np.asarray(np.float32(2 * np.cos(angle)) * across + np.float32(2 * np.sin(angle)) * down, dtype=np.float32)


def _stretched(image: Field) -> Field:
    """Any image over most of the ordinary range of counts, float32."""
    low, high = (float(value) for value in np.percentile(image[::4, ::4], (1, 99)))
    return np.float32(1780) + (image - np.float32(low)) * np.float32(940 / max(high - low, 1e-6))
