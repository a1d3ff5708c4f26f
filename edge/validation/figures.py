"""The report's figures as inline SVG: a few marks each, coloured by the page's own style sheet.

Every figure is 440 units wide, so that its text stays readable when a phone shrinks it and on paper. Colour never
carries a meaning alone: groups are named in the figure and differ in shape. Classes used: `c-normal`, `c-abnormal`,
`c-none` for groups of scans; `axis`, `grid`, `rule`, `band`, `quiet`, `strong` for the rest.

What these functions return is markup: every word in it is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from edge.validation.statistics import Roc

WIDTH = 440
BINS = 40
MAX_POINTS = 1500
"""Points drawn in a scatter; beyond it an even sample stands for all, and every scan beyond a threshold stays."""


@dataclass(frozen=True, slots=True)
class Group:
    """Scans of one label: `values` is float64 (n,) or (n, 2), `style` the class of its colour and shape."""

    name: str
    style: str
    values: npt.NDArray[np.float64]


def score_histogram(groups: Sequence[Group], threshold: float, band: tuple[float, float] | None) -> str:
    """Probabilities per group in 40 bins from 0 to 1, one row each, with the threshold and the review band."""
    left, right, top, panel, gap = 44, WIDTH - 14, 26, 76, 30
    bottom = top + len(groups) * (panel + gap)

    def x(p: float) -> float:
        return left + p * (right - left)

    parts: list[str] = []
    titles: list[str] = []
    if band is not None:
        parts.append(_rect(x(band[0]), top, max(x(band[1]) - x(band[0]), 1.0), bottom - top, "band"))
    for row, group in enumerate(groups):
        base = top + (row + 1) * (panel + gap)
        heights, _ = np.histogram(group.values, bins=BINS, range=(0.0, 1.0))
        tallest = max(int(heights.max()), 1)
        parts.append(_line(left, base - panel, right, base - panel, "grid"))
        titles.append(_text(left, base - panel - 8, f"{group.name}, n = {group.values.size}", "strong halo"))
        parts.append(_text(left - 6, base - panel + 4, str(tallest), "axis", "end"))
        parts.append(_text(left - 6, base + 4, "0", "axis", "end"))
        for bin_index, height in enumerate(heights):
            if height:
                # One scan among thousands is what the reader looks for: it is never thinner than 2 units.
                size = max(panel * int(height) / tallest, 2.0)
                parts.append(
                    _rect(x(bin_index / BINS) + 0.6, base - size, (right - left) / BINS - 1.2, size, group.style)
                )
        parts.append(_line(left, base, right, base, "rule"))
    parts.append(_line(x(threshold), top - 6, x(threshold), bottom, "limit"))
    anchor = "start" if threshold < 0.2 else "end" if threshold > 0.8 else "middle"
    parts.append(_text(x(threshold), top - 11, f"threshold {threshold:.3g}", "strong", anchor))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(x(tick), bottom + 18, f"{tick:g}", "axis", "middle"))
    parts.append(_text((left + right) / 2, bottom + 37, "p(abnormal)", "axis", "middle"))
    counts = "; ".join(f"{group.name} {group.values.size} scans" for group in groups)
    description = f"Histogram of the probability of abnormal by label: {counts}"
    return _figure(bottom + 46, description, [*parts, *titles])


def roc_figure(curve: Roc, fpr: float, tpr: float) -> str:
    """The ROC curve as steps, the diagonal of a guess, and the working point (fpr, tpr) of the threshold."""
    left, top, side = 62, 14, 340
    right, bottom = left + side, top + side

    def at(false_rate: float, true_rate: float) -> tuple[float, float]:
        return left + false_rate * side, bottom - true_rate * side

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(tick, tick)
        parts += [_line(left, y, right, y, "grid"), _line(x, top, x, bottom, "grid")]
        parts.append(_text(x, bottom + 18, f"{tick * 100:g} %", "axis", "middle"))
        parts.append(_text(left - 8, y + 4, f"{tick * 100:g} %", "axis", "end"))
    parts.append(_line(left, bottom, right, top, "quiet"))
    corners = _corners(curve)
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*corner) for corner in corners))
    parts.append(f'<path class="curve" d="{path}"/>')
    x, y = at(fpr, tpr)
    parts.append(f'<circle class="c-abnormal point" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    anchor, beside = ("start", 14) if fpr < 0.5 else ("end", -14)
    below = 22 if tpr > 0.2 else -26
    parts.append(_text(x + beside, y + below, "this threshold:", "strong halo", anchor))
    words = f"{tpr * 100:.1f} % found, {fpr * 100:.1f} % false alarms"
    parts.append(_text(x + beside, y + below + 17, words, "strong halo", anchor))
    parts.append(_text(left + side / 2, bottom + 38, "normal scans called abnormal", "axis", "middle"))
    parts.append(_text(-(top + side / 2), 14, "abnormal scans found", "axis", "middle", "rotate(-90)"))
    return _figure(bottom + 48, f"ROC curve; the threshold finds {tpr:.1%} at {fpr:.1%} false alarms", parts)


def gate_scatter(groups: Sequence[Group]) -> str:
    """Both gate scores of every scan as multiples of their thresholds, on logarithmic axes.

    `values` of each group: float64 (n, 2), mean score / its threshold and deviation score / its threshold,
    finite and above 0. Whatever lies right of or above the lines at 1 went to review.
    """
    left, side = 62, 340
    top = 24 + 20 * ((len(groups) - 1) // 2)
    right, bottom = left + side, top + side
    everything = np.concatenate([group.values for group in groups])
    low, high = _log_range(everything)

    def at(ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (np.log10(ratio) - math.log10(low)) / (math.log10(high) - math.log10(low)) * side

    one = float(at(np.array([1.0]))[0])
    parts = [_rect(left + one, top, side - one, side, "band"), _rect(left, top, one, side - one, "band")]
    for tick in _log_ticks(low, high):
        offset = float(at(np.array([tick]))[0])
        parts += [
            _line(left, bottom - offset, right, bottom - offset, "grid"),
            _line(left + offset, top, left + offset, bottom, "grid"),
            _text(left + offset, bottom + 18, f"{tick:g}\u00d7", "axis", "middle"),
            _text(left - 8, bottom - offset + 4, f"{tick:g}\u00d7", "axis", "end"),
        ]
    parts += [
        _line(left + one, top, left + one, bottom, "limit"),
        _line(left, bottom - one, right, bottom - one, "limit"),
        _text(right - 8, top + 16, "review", "strong halo", "end"),
    ]
    for index, group in enumerate(groups):  # two to a line: fonts differ in width
        x, y = (left if index % 2 == 0 else left + 176.0), 12.0 + 20 * (index // 2)
        parts += [
            _mark(x + 5, y - 4, group.style),
            _text(x + 16, y, f"{group.name}, n = {len(group.values)}", "strong"),
        ]
    drawn = sum(len(group.values) for group in groups)
    for group in groups:
        keep = _sample(group.values, max(MAX_POINTS * len(group.values) // max(drawn, 1), 1))
        for dx, dy in zip(at(group.values[keep, 0]), at(group.values[keep, 1]), strict=True):
            parts.append(_mark(left + float(dx), bottom - float(dy), group.style))
    parts.append(_text(left + side / 2, bottom + 38, "mean score ÷ its threshold", "axis", "middle"))
    parts.append(_text(-(top + side / 2), 14, "deviation score ÷ its threshold", "axis", "middle", "rotate(-90)"))
    beyond = int(np.sum(everything.max(axis=1) > 1.0))
    return _figure(bottom + 48, f"Gate scores of {drawn} scans; {beyond} exceed a threshold", parts)


def pod_figure(
    sizes: npt.NDArray[np.float64],
    pod: npt.NDArray[np.float64],
    pod_low: npt.NDArray[np.float64],
    marks: Sequence[tuple[str, float]],
    unit: str,
) -> str:
    """Detection over size on a logarithmic axis, with its lower 95 % curve and named sizes (a90, a90/95) below it.

    `unit` is that of size, such as " mm"; empty where `sizes` are severities.
    """
    left, right, top, bottom = 62, WIDTH - 14, 14, 254
    low, high = math.log(float(sizes[0])), math.log(float(sizes[-1]))

    def x(size: float) -> float:
        return left + (math.log(size) - low) / (high - low) * (right - left)

    def path(values: npt.NDArray[np.float64], style: str) -> str:
        corners = " L".join(
            f"{x(size):.1f} {bottom - p * (bottom - top):.1f}" for size, p in zip(sizes, values, strict=True)
        )
        return f'<path class="{style}" d="M{corners}"/>'

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        y = bottom - tick * (bottom - top)
        parts.append(_line(left, y, right, y, "grid"))
        if tick != 1.0:
            parts.append(_text(left - 8, y + 4, f"{tick * 100:g} %", "axis", "end"))
    for tick in _size_ticks(float(sizes[0]), float(sizes[-1])):
        parts += [
            _line(x(tick), top, x(tick), bottom, "grid"),
            _text(x(tick), bottom + 18, f"{tick:g}", "axis", "middle"),
        ]
    parts += [path(pod, "curve"), path(pod_low, "curve low")]
    level = bottom - 0.9 * (bottom - top)
    named = []
    for name, size in marks:
        if sizes[0] <= size <= sizes[-1]:
            parts.append(f'<circle class="dot" cx="{x(size):.1f}" cy="{level:.1f}" r="4"/>')
        named.append(f"{name} = {size:.3g}{unit}")
    measure = "area" if unit.endswith("²") else "size"
    axis = f"{measure} of the largest anomaly,{unit}" if unit else "severity of the worst anomaly"
    parts.append(_text((left + right) / 2, bottom + 40, axis, "axis", "middle"))
    over = measure if unit else "severity"
    return _figure(bottom + 50, f"Probability of detection over {over}; " + ", ".join(named), parts)


def cost_figure(
    thresholds: npt.NDArray[np.float64], cost: npt.NDArray[np.float64], threshold: float, cheapest: float
) -> str:
    """Expected cost of one scan over the threshold, from 0 to 1, with the threshold in use and the cheapest one."""
    left, right, top, bottom = 62, WIDTH - 14, 32, 234
    highest = float(cost.max()) or 1.0

    def x(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * (right - left)

    def y(value: float) -> float:
        return bottom - value / highest * (bottom - top)

    steps = [f"{x(0.0):.1f} {y(float(cost[0])):.1f}"]
    for before, value, after in zip([0.0, *thresholds[:-1]], cost, thresholds, strict=True):
        steps += [f"{x(before):.1f} {y(value):.1f}", f"{x(after):.1f} {y(value):.1f}"]
    steps.append(f"{x(1.0):.1f} {y(float(cost[-1])):.1f}")
    parts = [_line(left, bottom, right, bottom, "rule"), _line(left, top, right, top, "grid")]
    parts += [
        _text(left - 8, top + 4, f"{highest:.3g}", "axis", "end"),
        _text(left - 8, bottom + 4, "0", "axis", "end"),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(x(tick), bottom + 18, f"{tick:g}", "axis", "middle"))
    parts.append(f'<path class="curve" d="M{" L".join(steps)}"/>')
    parts.append(_line(x(threshold), top - 6, x(threshold), bottom, "limit"))
    anchor = "start" if threshold < 0.2 else "end" if threshold > 0.8 else "middle"
    parts.append(_text(x(threshold), top - 12, f"threshold {threshold:.3g}", "strong", anchor))
    parts.append(f'<circle class="dot" cx="{x(cheapest):.1f}" cy="{y(float(cost.min())):.1f}" r="5"/>')
    parts.append(_text((left + right) / 2, bottom + 38, "threshold", "axis", "middle"))
    return _figure(bottom + 46, f"Cost over the threshold; cheapest at {cheapest:.3g}, in use {threshold:.3g}", parts)


def interval_bar(share: float, low: float, high: float) -> str:
    """A share with its interval on an axis from 0 to 100 %, small enough for a table cell; all in 0..1."""
    width, height, pad = 120, 16, 5

    def x(value: float) -> float:
        return pad + value * (width - 2 * pad)

    parts = [
        _line(pad, height / 2, width - pad, height / 2, "grid"),
        *(_line(x(end), 4, x(end), height - 4, "grid") for end in (0.0, 0.5, 1.0)),
        f'<line class="whisker" x1="{x(low):.1f}" y1="8" x2="{x(high):.1f}" y2="8"/>',
        f'<circle class="dot" cx="{x(share):.1f}" cy="8" r="4"/>',
    ]
    label = f"{share:.1%}, 95 % interval {low:.1%} to {high:.1%}"
    return _svg("interval", width, height, label, parts)


def _figure(height: float, description: str, parts: Iterable[str]) -> str:
    return _svg("chart", WIDTH, height, description, parts)


def _svg(style: str, width: float, height: float, description: str, parts: Iterable[str]) -> str:
    """The finished figure. `parts` come from the helpers below, which escape every word and format every number."""
    return (
        f'<svg class="{style}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, words: str, style: str, anchor: str = "start", transform: str = "") -> str:
    turned = f' transform="{transform}"' if transform else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _mark(x: float, y: float, style: str) -> str:
    """A dot for normal, a diamond for abnormal, a ring for scans without a label."""
    if style == "c-abnormal":
        return f'<path class="{style} point" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>'
    if style == "c-normal":
        return f'<circle class="{style} point" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    return f'<circle class="{style} ring" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'


def _corners(curve: Roc) -> list[tuple[float, float]]:
    """The points where the curve changes direction: thousands of scores draw as dozens of corners."""
    points = list(zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True))
    kept = points[:1]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        runs_on = (here[0] - before[0]) * (after[1] - here[1]) == (here[1] - before[1]) * (after[0] - here[0])
        if not runs_on:
            kept.append(here)
    return [*kept, points[-1]]


def _sample(values: npt.NDArray[np.float64], limit: int) -> npt.NDArray[np.int64]:
    """Indices of at most about `limit` rows: all beyond a threshold first, the rest evenly."""
    if len(values) <= limit:
        return np.arange(len(values))
    beyond = np.flatnonzero(values.max(axis=1) > 1.0)
    within = np.flatnonzero(values.max(axis=1) <= 1.0)
    chosen = []
    for rows, room in ((beyond, limit), (within, max(limit - len(beyond), limit // 4))):
        picks = np.unique(np.linspace(0, len(rows) - 1, min(room, len(rows))).round().astype(np.int64))
        chosen.append(rows[picks] if len(rows) else rows)
    return np.concatenate(chosen)


def _log_range(ratios: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Limits that hold all values and 1, with some air; at least a factor of 4 apart."""
    low = min(float(ratios.min(initial=1.0)), 0.5) / 1.15
    high = max(float(ratios.max(initial=1.0)), 2.0) * 1.15
    return low, high


def _size_ticks(low: float, high: float) -> list[float]:
    """Marks on an axis of sizes: decades with 2 and 5, or both ends where none of these lies between."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5) if low <= step * 10.0**decade <= high]
    return ticks if len(ticks) >= 2 else [float(f"{low:.2g}"), float(f"{high:.2g}")]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1,)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
