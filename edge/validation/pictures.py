"""Thumbnails of scans: as the networks saw them, and beside it under the heat map of the gate's residual."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
import numpy.typing as npt

from edge.contract.messages import BoxPx
from edge.images.conversion import Method, prepare
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, Image, Size

THUMBNAIL = Size(height_px=640, width_px=240)
"""Largest picture of a report that shows many."""
JPEG_QUALITY = 85
_GAP_PX = 8
_BOX_AIR_PX = 3

HEAT_STOPS: tuple[tuple[float, tuple[int, int, int], float], ...] = (
    (0.5, (255, 221, 87), 0.0),
    (1.0, (255, 176, 46), 0.55),
    (2.0, (226, 73, 51), 0.75),
    (4.0, (110, 0, 120), 0.9),
)
"""Residual as a multiple of the gate's threshold, colour (red, green, blue), opacity; straight lines between.

From light to dark and from clear to solid, so that it reads in grey and by the colour-blind.
"""


@dataclass(frozen=True, slots=True)
class Frame2d:
    """A rectangle in pixels of the thumbnail."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A scan as the networks saw it, with what the gate made of it."""

    width_px: int
    height_px: int
    scan_jpeg: bytes
    heat_png: bytes | None
    """One pixel per cell of the residual map, transparent where the gate saw nothing strange."""
    heat_frame: Frame2d | None
    boxes: tuple[Frame2d, ...]


def scan_picture(
    image: Image,
    method: Method,
    residual_map: npt.NDArray[np.float32] | None,
    geometry: MapGeometry,
    threshold: float,
    boxes_px: Sequence[BoxPx],
    scan_size: Size,
    limit: Size = THUMBNAIL,
) -> Picture:
    """A judged scan: the converted image, its residual map as heat in multiples of `threshold`, its worst windows.

    `boxes_px` are in pixels of the original scan, whose size is `scan_size`. `limit`: largest size of the picture.
    """
    input_size = Size(*image.shape[1:])
    size = _size_within(input_size, limit)
    scale_x, scale_y = size.width_px / input_size.width_px, size.height_px / input_size.height_px
    heat_frame = heat_png = None
    if residual_map is not None:
        offset, cell = geometry.offset_px, geometry.cell_px
        rows, columns = residual_map.shape
        heat_frame = Frame2d(offset * scale_x, offset * scale_y, columns * cell * scale_x, rows * cell * scale_y)
        heat_png = _png(heat_colours(residual_map / max(threshold, 1e-9)))
    to_x, to_y = size.width_px / scan_size.width_px, size.height_px / scan_size.height_px
    return Picture(
        width_px=size.width_px,
        height_px=size.height_px,
        scan_jpeg=_jpeg(_shrunk(_shown_channel(image, method), size)),
        heat_png=heat_png,
        heat_frame=heat_frame,
        boxes=tuple(
            Frame2d(box.x_px * to_x, box.y_px * to_y, box.width_px * to_x, box.height_px * to_y) for box in boxes_px
        ),
    )


def plain_picture(counts: Counts, limit: Size = THUMBNAIL) -> Picture:
    """A scan that was never converted for the networks, between its own bounds; counts uint16 (height, width)."""
    size = _size_within(Size(*counts.shape), limit)
    local = prepare(counts, Method.LOCAL, None, size)
    return Picture(size.width_px, size.height_px, _jpeg(local[0]), None, None, ())


def heat_colours(ratio: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Residual over threshold (h, w) to red, green, blue, opacity uint8 (h, w, 4); NaN shows as the worst."""
    stops = np.array([stop for stop, _, _ in HEAT_STOPS])
    channels = np.array([[*colour, 255.0 * opacity] for _, colour, opacity in HEAT_STOPS])
    safe = np.nan_to_num(ratio.astype(np.float64), nan=np.inf)
    return np.stack([np.interp(safe, stops, channel) for channel in channels.T], axis=-1).round().astype(np.uint8)


def picture_svg(picture: Picture, name: str, number: int | str) -> str:
    """The scan called `name`, and beside it the scan under its heat map; `number` is unique on the page."""
    width, height, heat = picture.width_px, picture.height_px, picture.heat_frame
    key, label, style = f"scan-{number}", f"Scan {name}", "picture alone"
    scan = _data_uri("jpeg", picture.scan_jpeg)
    parts = [f'<image id="{key}" width="{width}" height="{height}" href="{scan}"/>']
    if heat is not None and picture.heat_png is not None:
        label += "; beside it the same scan with the gate's residual"
        colours = _data_uri("png", picture.heat_png)
        parts += [
            f'<g transform="translate({width + _GAP_PX} 0)"><use href="#{key}"/>',
            f'<image class="heat" {_frame(heat)} preserveAspectRatio="none" href="{colours}"/>',
            *(f'<rect class="box" {_frame(_around(box))}/>' for box in picture.boxes),
            "</g>",
        ]
        style, width = "picture", 2 * width + _GAP_PX
    return (
        f'<svg class="{style}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<g id="picture-{number}">{"".join(parts)}</g></svg>'
    )


def same_picture_svg(picture: Picture, number: int) -> str:
    """What `picture_svg` drew under this number, once more at another size, without its data again."""
    is_pair = picture.heat_png is not None
    width = 2 * picture.width_px + _GAP_PX if is_pair else picture.width_px
    return (
        f'<svg class="picture{"" if is_pair else " alone"}" viewBox="0 0 {width} {picture.height_px}" '
        f'aria-hidden="true"><use href="#picture-{number}"/></svg>'
    )


def _around(box: Frame2d) -> Frame2d:
    """A line around the window that leaves its heat to be seen."""
    return Frame2d(box.x - _BOX_AIR_PX, box.y - _BOX_AIR_PX, box.width + 2 * _BOX_AIR_PX, box.height + 2 * _BOX_AIR_PX)


def _frame(frame: Frame2d) -> str:
    return f'x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}"'


def heat_legend() -> str:
    """A bar of the heat map's colours over a mid grey, with the multiples of the threshold below it."""
    stops = "".join(
        f'<stop offset="{index / (len(HEAT_STOPS) - 1):.3f}" stop-color="rgb{colour}" stop-opacity="{opacity}"/>'
        for index, (_, colour, opacity) in enumerate(HEAT_STOPS)
    )
    step = 200 / (len(HEAT_STOPS) - 1)
    ticks = "".join(
        f'<text class="axis" x="{20 + index * step:.0f}" y="30" text-anchor="middle">{stop:g}\u00d7</text>'
        for index, (stop, _, _) in enumerate(HEAT_STOPS)
    )
    return (
        '<svg class="legend" viewBox="0 0 240 34" role="img" aria-label="Colours of the residual, as multiples of the '
        f'gate\'s threshold"><defs><linearGradient id="heat">{stops}</linearGradient></defs>'
        '<rect x="20" y="2" width="200" height="12" fill="#8a8a8a"/>'
        f'<rect x="20" y="2" width="200" height="12" fill="url(#heat)"/>{ticks}</svg>'
    )


def _size_within(size: Size, limit: Size) -> Size:
    scale = min(limit.width_px / size.width_px, limit.height_px / size.height_px)
    return Size(max(round(size.height_px * scale), 1), max(round(size.width_px * scale), 1))


def _shown_channel(image: Image, method: Method) -> npt.NDArray[np.uint8]:
    """The channel a person can read: of `mixed` the global one; `naive` is stretched, it is nearly black."""
    channel = image[method.gate_channel]
    if method is not Method.NAIVE:
        return np.asarray(channel, np.uint8)
    low, high = (float(level) for level in np.percentile(channel, (0.1, 99.9)))
    levels = (np.arange(256) - low) / max(high - low, 1.0) * 255
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(table[channel], np.uint8)


def _shrunk(channel: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    target = (size.width_px, size.height_px)
    return np.asarray(cv2.resize(np.ascontiguousarray(channel), target, interpolation=cv2.INTER_AREA), np.uint8)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _jpeg(channel: npt.NDArray[np.uint8]) -> bytes:
    return _encoded(".jpg", channel, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _png(colours: npt.NDArray[np.uint8]) -> bytes:
    return _encoded(".png", np.ascontiguousarray(colours[..., [2, 1, 0, 3]]), [])  # OpenCV wants blue first


def _encoded(suffix: str, pixels: npt.NDArray[np.uint8], settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, settings)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix} of {pixels.dtype} {pixels.shape}")
    return bytes(data)
