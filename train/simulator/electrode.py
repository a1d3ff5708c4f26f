"""A normal electrode sheet and the detector that sees it: geometry, coating texture, Beer-Lambert, noise.

The sheet is painted as a *coating thickness* (1 = the lot's nominal one), because that is what the anomalies of
a coating line change. `expose` turns thickness into counts by I = I0 exp(-(sheet + coating * thickness)), with what
the detector adds: scatter and dark pedestal, heel effect, blur, column gain, quantum noise, hot pixels.

Source of sizes and ranges: the electrode scans of the paper (height 2053-2115 px, width 1119-1219 px, most pixels
in 1700-2800 counts). Textures are our invention; figures made with them say nothing about real electrodes.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from train.simulator.fields import Counts, Field, correlated, generator, profile, smooth, white

HEIGHT_RANGE_PX = (2053, 2115)
WIDTH_RANGE_PX = (1119, 1219)
MEAN_SIZE_PX = (2072, 1145)  # the paper's means are far from mid-range: most scans are near the smallest
PEDESTAL_COUNTS = 1560.0  # dark signal and scatter: what is left behind an opaque blob
NOISE_VARIANCE_PER_COUNT = 0.145  # quantum noise: 8-14 counts between thick coating and air
READ_NOISE_COUNTS = 5.0
DETECTOR_BLUR_PX = 0.9
HOT_PIXELS_PER_SCAN = 45  # dozens in 2.4 million: too few to move a 99.99th percentile
ROTATION_MAX_DEG = 0.6
FULL_SCALE_COUNTS = 65535

COATING_METHODS = ("slot-die", "blade", "spray", "screen-print", "inkjet")

_STREAM_LOT, _STREAM_SHEET, _STREAM_DETECTOR, _STREAM_EXPOSURE, _STREAM_TOOL = 11, 12, 13, 14, 15
_STREAM_SPREAD = 16
_DOZEN = 12  # the paper's number of lots: so many cover the range of every parameter evenly


@dataclass(frozen=True)
class LotLook:
    """What the scans of one lot have in common. Lengths in px at full size; `_counts` are standard deviations."""

    method: str
    air_counts: float
    sheet_attenuation: float
    coat_attenuation: float
    grain_counts: float
    grain_length_px: tuple[float, float]
    mottle_counts: float
    mottle_length_px: tuple[float, float]
    stripe_counts: float
    stripe_period_px: float
    rim_px: tuple[float, float, float, float]
    heel: tuple[float, float]

    @property
    def coat_signal_counts(self) -> float:
        """Counts above the pedestal behind nominal coating."""
        bare = self.air_counts - PEDESTAL_COUNTS
        return float(bare * np.exp(-self.sheet_attenuation - self.coat_attenuation))

    @property
    def liveliness(self) -> float:
        """How much stronger than usual (>= 1) the lot's own structure is; anomalies grow with it."""
        own = float(np.hypot(np.hypot(self.grain_counts, self.mottle_counts), self.stripe_counts))
        return max(1.0, own / 14.0)


@dataclass
class Canvas:
    """A sheet being painted: `thickness` float32 (H, W), 0 = bare; `coated` = top, left, bottom, right in px.

    `size` is the scale of the drawing (1 = full format): multiply every length by it.
    """

    look: LotLook
    size: float
    thickness: Field
    coated: tuple[float, float, float, float]

    def darker(self, counts: float) -> float:
        """Extra thickness that darkens nominal coating by `counts` (scaled up on lively lots)."""
        drop = min(counts * self.look.liveliness / self.look.coat_signal_counts, 0.72)
        return float(-np.log1p(-drop) / self.look.coat_attenuation)

    def brighter(self, counts: float) -> float:
        """Thickness lost (positive, at most 1 = bare) that brightens nominal coating by `counts`."""
        rise = counts * self.look.liveliness / self.look.coat_signal_counts
        return float(min(np.log1p(rise) / self.look.coat_attenuation, 1.0))


def lot_look(seed: int, lot: int) -> LotLook:
    """The look of one lot; neighbouring lots differ widely by construction."""
    rng = generator(_STREAM_LOT, seed, lot)
    # A Latin hypercube over every dozen of lots: each parameter takes 12 different levels, in an order of its own.
    dozen, place = divmod(lot, _DOZEN)
    orders = [generator(_STREAM_SPREAD, seed, dozen, order).permutation(_DOZEN) for order in range(5)]
    spread = [(float(order[place]) + float(rng.uniform())) / _DOZEN for order in orders]
    method = COATING_METHODS[int(orders[4][place]) % len(COATING_METHODS)]
    air = float(rng.uniform(2715, 2778))
    sheet = float(rng.uniform(0.08, 0.17))
    coated_counts = 1860 + 500 * spread[0]
    coat = float(np.log((air - PEDESTAL_COUNTS) / (coated_counts - PEDESTAL_COUNTS)) - sheet)
    grain = (2.0 + 8.0 * spread[3]) * {"spray": 1.6, "screen-print": 1.2}.get(method, 1.0)
    grain_px = float(np.exp(rng.uniform(np.log(1.4), np.log(7.0))))
    aspect = float(rng.uniform(1.0, 1.4) if method == "spray" else rng.uniform(1.3, 5.0))
    mottle_px = float(rng.uniform(40, 160))
    stripe_scale = {"slot-die": 1.0, "blade": 1.1, "spray": 0.15, "screen-print": 0.6, "inkjet": 0.9}[method]
    period = {"slot-die": 90.0, "blade": 50.0, "spray": 200.0, "screen-print": 14.0, "inkjet": 26.0}[method]
    rim = [float(width) for width in rng.uniform(34, 84, size=4)]
    return LotLook(
        method=method,
        air_counts=air,
        sheet_attenuation=sheet,
        coat_attenuation=coat,
        grain_counts=grain,
        grain_length_px=(grain_px * aspect, grain_px),
        mottle_counts=2.0 + 8.0 * spread[1],
        mottle_length_px=(mottle_px * float(rng.uniform(1.0, 3.0)), mottle_px),
        stripe_counts=(2.0 + 11.0 * spread[2]) * stripe_scale,
        stripe_period_px=period * float(rng.uniform(0.6, 1.7)),
        rim_px=(rim[0], rim[1], rim[2], rim[3]),
        heel=(float(rng.uniform(-0.035, 0.035)), float(rng.uniform(0.005, 0.035))),
    )


def blank_sheet(seed: int, lot: int, index: int, scale: float) -> Canvas:
    """A normal coated sheet before anything went wrong, unrotated, at `scale` times full format."""
    look = lot_look(seed, lot)
    rng = generator(_STREAM_SHEET, seed, lot, index)
    height = _skewed(rng, HEIGHT_RANGE_PX, MEAN_SIZE_PX[0])
    width = _skewed(rng, WIDTH_RANGE_PX, MEAN_SIZE_PX[1])
    shape = (max(8, round(height * scale)), max(8, round(width * scale)))
    rims = np.array(look.rim_px) + rng.normal(0, 3, size=4)
    top, left = rims[0] * scale, rims[1] * scale
    bottom, right = shape[0] - rims[2] * scale, shape[1] - rims[3] * scale
    tool = generator(_STREAM_TOOL, seed, lot)  # the same for every sheet of the lot
    thickness = _texture(look, rng, tool, shape, scale)
    np.multiply(thickness, _coated_cover(rng, shape, (top, left, bottom, right), scale), out=thickness)
    return Canvas(look, scale, thickness, (top, left, bottom, right))


def _skewed(rng: np.random.Generator, limits: tuple[int, int], mean: float) -> int:
    """A length (px) within `limits` whose mean is `mean`: beta(1, b), most draws near the lower limit."""
    low, high = limits
    share = (mean - low) / (high - low)
    return low + round(float(rng.beta(1.0, 1.0 / share - 1.0)) * (high - low))


def _texture(
    look: LotLook, rng: np.random.Generator, tool: np.random.Generator, shape: tuple[int, int], scale: float
) -> Field:
    """Coating thickness of a normal sheet, float32 (H, W) about 1."""
    per_count = 1.0 / (look.coat_signal_counts * look.coat_attenuation)  # small-signal Beer-Lambert
    grain_y, grain_x = (length * scale for length in look.grain_length_px)
    mottle_y, mottle_x = (length * scale for length in look.mottle_length_px)
    thickness = correlated(rng, shape, grain_y, grain_x)
    thickness *= np.float32(look.grain_counts * per_count)
    thickness += np.float32(look.mottle_counts * per_count) * correlated(rng, shape, mottle_y, mottle_x)
    stripes, bands = _stripes(look, rng, tool, shape, scale)
    thickness += np.float32(look.stripe_counts * per_count) * stripes
    thickness += np.float32(1.0 + rng.normal(0, 0.012)) + np.float32(look.stripe_counts * per_count) * bands
    return thickness


def _stripes(
    look: LotLook, rng: np.random.Generator, tool: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[Field, Field]:
    """The coating method's own marks: along the coating direction (1, W) and across it (H, 1), sd up to 1."""
    height, width = shape
    x = (np.arange(width, dtype=np.float32) / np.float32(scale) + np.float32(rng.normal(0, 2.0)))[None, :]
    y = (np.arange(height, dtype=np.float32) / np.float32(scale))[:, None]
    phase = np.float32(tool.uniform(0, 2 * np.pi))
    turn = np.float32(2 * np.pi / look.stripe_period_px)
    wave = np.sin(turn * x + phase) + np.float32(0.5) * np.sin(np.float32(2.7) * turn * x + 2 * phase)
    streaks = profile(tool, WIDTH_RANGE_PX[1], look.stripe_period_px / 8)
    position = np.clip(x[0].astype(np.int64), 0, streaks.size - 1)
    irregular = streaks[position][None, :]
    quiet = np.zeros((height, 1), dtype=np.float32)
    if look.method == "blade":
        chatter = np.sin(turn * np.float32(0.31) * y + np.float32(rng.uniform(0, 6.28)))
        return irregular.astype(np.float32), (np.float32(0.35) * chatter).astype(np.float32)
    if look.method == "screen-print":
        mesh = np.sin(turn * y + np.float32(rng.uniform(0, 6.28)))
        return wave.astype(np.float32), mesh.astype(np.float32)
    if look.method == "inkjet":
        return (np.float32(0.7) * wave + np.float32(0.5) * irregular).astype(np.float32), quiet
    return (np.float32(0.8) * wave + np.float32(0.35) * irregular).astype(np.float32), quiet


def _coated_cover(
    rng: np.random.Generator,
    shape: tuple[int, int],
    coated: tuple[float, float, float, float],
    scale: float,
) -> Field:
    """Where the coating lies: float32 (H, W), 0..1, four slightly rough edges."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape[1], dtype=np.float32)[None, :]
    top, left, bottom, right = coated
    rough = [np.float32(0.7 * scale) * profile(rng, size, 14 * scale) for size in (*shape, *shape)]
    half = np.float32(0.5)
    cover = np.clip(columns - np.float32(left) + rough[0][:, None] + half, 0, 1)
    cover *= np.clip(np.float32(right) - columns + rough[2][:, None] + half, 0, 1)
    cover *= np.clip(rows - np.float32(top) + rough[1][None, :] + half, 0, 1)
    cover *= np.clip(np.float32(bottom) - rows + rough[3][None, :] + half, 0, 1)
    return np.asarray(cover, dtype=np.float32)


def expose(canvas: Canvas, seed: int, lot: int, index: int) -> Counts:
    """The scan of a painted sheet: uint16 (H, W) counts, most of them in 1700-2800."""
    look, scale = canvas.look, canvas.size
    rng = generator(_STREAM_EXPOSURE, seed, lot, index)
    attenuation = np.maximum(canvas.thickness, np.float32(0)) * np.float32(look.coat_attenuation)
    height, width = attenuation.shape
    margins = [max(1, int(margin * scale)) for margin in rng.uniform(10, 22, size=4)]
    sheet = attenuation[margins[0] : height - margins[1], margins[2] : width - margins[3]]
    fibre = correlated(rng, (sheet.shape[0], sheet.shape[1]), 9 * scale, 9 * scale)
    sheet += np.float32(look.sheet_attenuation) + np.float32(0.0025) * fibre
    pose = cv2.getRotationMatrix2D(
        (width / 2, height / 2), float(rng.uniform(-ROTATION_MAX_DEG, ROTATION_MAX_DEG)), 1.0
    )
    pose[:, 2] = pose[:, 2] + rng.uniform(-5, 5, size=2) * scale
    seen = np.asarray(
        cv2.warpAffine(attenuation, pose, (width, height), flags=cv2.INTER_LINEAR, borderValue=(0.0,)),
        dtype=np.float32,
    )
    np.negative(seen, out=seen)
    signal = np.exp(seen, out=seen)
    signal *= np.float32((look.air_counts - PEDESTAL_COUNTS) * rng.uniform(0.992, 1.0))
    signal = smooth(signal, DETECTOR_BLUR_PX * scale, DETECTOR_BLUR_PX * scale)
    _illuminate(signal, look, seed)
    noise = white(rng, (height, width))
    noise *= np.sqrt(signal * np.float32(NOISE_VARIANCE_PER_COUNT) + np.float32(READ_NOISE_COUNTS**2))
    signal += noise
    signal += np.float32(PEDESTAL_COUNTS + 0.5)  # the half rounds the truncating cast
    counts = np.clip(signal, 0, FULL_SCALE_COUNTS).astype(np.uint16)
    _hot_pixels(counts, seed, rng, scale)
    return counts


def _illuminate(signal: Field, look: LotLook, seed: int) -> None:
    """Heel effect along the sheet, fall-off across it and what flat-fielding left of the column gains, in place."""
    height, width = signal.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    slope, falloff = np.float32(look.heel[0]), np.float32(look.heel[1])
    detector = generator(_STREAM_DETECTOR, seed)
    columns = np.float32(1.0) + np.float32(0.0012) * white(detector, (1, width))
    signal *= np.float32(1.0) - abs(slope) + slope * y - np.float32(0.3) * falloff * y * y
    signal *= columns * (np.float32(1.0) - falloff * x * x)


def _hot_pixels(counts: Counts, seed: int, rng: np.random.Generator, scale: float) -> None:
    """Hot pixels in place: half belong to the detector and stay put, half come and go; some read full scale."""
    height, width = counts.shape
    expected = HOT_PIXELS_PER_SCAN * scale * scale / 2
    for source in (generator(_STREAM_DETECTOR, seed, 1), rng):
        number = int(source.poisson(expected))
        place = source.uniform(size=(number, 2))
        level = 2900.0 + source.lognormal(7.5, 1.6, size=number)
        rows, columns = (place[:, 0] * height).astype(np.int64), (place[:, 1] * width).astype(np.int64)
        counts[rows, columns] = np.minimum(level, FULL_SCALE_COUNTS).astype(np.uint16)
