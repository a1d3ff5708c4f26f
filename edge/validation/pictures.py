"""Thumbnails of scans: as the networks saw them, beside it under the gate's residual and the classifier's reason."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import cv2
import numpy as np
import numpy.typing as npt

from edge.contract.messages import BoxPx
from edge.evidence.colours import HEAT_STOPS, REASON_STOPS, Stops, heat_colours, reason_colours
from edge.images.conversion import prepare
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, Image, Size

THUMBNAIL = Size(height_px=640, width_px=240)
"""Largest picture of a report that shows many."""
JPEG_QUALITY = 85
_GAP_PX = 8
_BOX_AIR_PX = 3


@dataclass(frozen=True, slots=True)
class Frame2d:
    """A rectangle in pixels of the thumbnail."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Overlay:
    """A map over the scan."""

    words: str
    """What it shows, for who cannot see it."""
    style: str
    """Class of its boxes."""
    colours_png: bytes
    """One pixel per cell, transparent where it says nothing."""
    frame: Frame2d
    boxes: tuple[Frame2d, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A scan as the networks saw it, with what they made of it."""

    width_px: int
    height_px: int
    scan_jpeg: bytes
    heat: Overlay | None = None
    reason: Overlay | None = None

    @property
    def overlays(self) -> tuple[Overlay, ...]:
        """Those there are, in the order they are drawn beside the scan."""
        return tuple(overlay for overlay in (self.heat, self.reason) if overlay is not None)


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
    picture = Picture(size.width_px, size.height_px, _jpeg(_shrunk(_shown_channel(image, method), size)))
    if residual_map is None:
        return picture
    return replace(
        picture,
        heat=Overlay(
            "the gate's residual",
            "box",
            _png(heat_colours(residual_map / max(threshold, 1e-9))),
            _map_frame(picture, residual_map.shape, geometry, input_size),
            _box_frames(picture, boxes_px, scan_size),
        ),
    )


def with_reason(
    picture: Picture,
    beyond: npt.NDArray[np.float32],
    geometry: MapGeometry,
    image_size: Size,
    place_px: BoxPx | None,
    scan_size: Size,
) -> Picture:
    """The picture with the classifier's map beside it.

    `beyond`: log odds beyond the threshold (map_height, map_width), over a network's image of `image_size`. `place_px`:
    the strongest place, in pixels of the original scan.
    """
    places = () if place_px is None else (place_px,)
    return replace(
        picture,
        reason=Overlay(
            "what spoke for abnormal",
            "place",
            _png(reason_colours(beyond)),
            _map_frame(picture, beyond.shape, geometry, image_size),
            _box_frames(picture, places, scan_size),
        ),
    )


def plain_picture(counts: Counts, limit: Size = THUMBNAIL) -> Picture:
    """A scan that was never converted for the networks, between its own bounds; counts uint16 (height, width)."""
    size = _size_within(Size(*counts.shape), limit)
    local = prepare(counts, Method.LOCAL, None, size)
    return Picture(size.width_px, size.height_px, _jpeg(local[0]))


def picture_svg(picture: Picture, name: str, number: int | str) -> str:
    """The scan called `name`, and beside it the scan under each of its maps; `number` is unique on the page."""
    width, height = picture.width_px, picture.height_px
    key, label = f"scan-{number}", f"Scan {name}"
    parts = [f'<image id="{key}" width="{width}" height="{height}" href="{_data_uri("jpeg", picture.scan_jpeg)}"/>']
    for place, overlay in enumerate(picture.overlays, start=1):
        label += f"; beside it the same scan with {overlay.words}"
        colours = _data_uri("png", overlay.colours_png)
        parts += [
            f'<g transform="translate({place * (width + _GAP_PX)} 0)"><use href="#{key}"/>',
            f'<image class="heat" {_frame(overlay.frame)} preserveAspectRatio="none" href="{colours}"/>',
            *(f'<rect class="{overlay.style}" {_frame(_around(box))}/>' for box in overlay.boxes),
            "</g>",
        ]
    return (
        f'<svg {_size_and_style(picture)} role="img" aria-label="{escape(label)}">'
        f'<g id="picture-{number}">{"".join(parts)}</g></svg>'
    )


def same_picture_svg(picture: Picture, number: int) -> str:
    """What `picture_svg` drew under this number, once more at another size, without its data again."""
    return f'<svg {_size_and_style(picture)} aria-hidden="true"><use href="#picture-{number}"/></svg>'


def _size_and_style(picture: Picture) -> str:
    beside = len(picture.overlays)
    style = ("picture alone", "picture", "picture wide")[beside]
    return (
        f'class="{style}" viewBox="0 0 {picture.width_px + beside * (picture.width_px + _GAP_PX)} {picture.height_px}"'
    )


def _map_frame(picture: Picture, shape: tuple[int, ...], geometry: MapGeometry, image_size: Size) -> Frame2d:
    """Where a map of (rows, columns) over the network's image lies on the picture."""
    scale_x, scale_y = picture.width_px / image_size.width_px, picture.height_px / image_size.height_px
    offset, cell, (rows, columns) = geometry.offset_px, geometry.cell_px, shape
    return Frame2d(offset * scale_x, offset * scale_y, columns * cell * scale_x, rows * cell * scale_y)


def _box_frames(picture: Picture, boxes_px: Sequence[BoxPx], scan_size: Size) -> tuple[Frame2d, ...]:
    to_x, to_y = picture.width_px / scan_size.width_px, picture.height_px / scan_size.height_px
    return tuple(
        Frame2d(box.x_px * to_x, box.y_px * to_y, box.width_px * to_x, box.height_px * to_y) for box in boxes_px
    )


def _around(box: Frame2d) -> Frame2d:
    """A line around the window that leaves its heat to be seen."""
    return Frame2d(box.x - _BOX_AIR_PX, box.y - _BOX_AIR_PX, box.width + 2 * _BOX_AIR_PX, box.height + 2 * _BOX_AIR_PX)


def _frame(frame: Frame2d) -> str:
    return f'x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}"'


def heat_legend() -> str:
    """A bar of the heat map's colours over a mid grey, with the multiples of the threshold below it."""
    return _legend("heat", HEAT_STOPS, "Colours of the residual, as multiples of the gate's threshold", "{:g}\u00d7")


def reason_legend() -> str:
    """A bar of the reason map's colours over a mid grey, with the shares of the strongest place below it."""
    return _legend(
        "reason", REASON_STOPS, "Colours of what spoke for abnormal, as shares of the strongest place", "{:.0%}"
    )


def _legend(key: str, stops: Stops, label: str, form: str) -> str:
    colours = "".join(
        f'<stop offset="{index / (len(stops) - 1):.3f}" stop-color="rgb{colour}" stop-opacity="{opacity}"/>'
        for index, (_, colour, opacity) in enumerate(stops)
    )
    step = 200 / (len(stops) - 1)
    ticks = "".join(
        f'<text class="axis" x="{20 + index * step:.0f}" y="30" text-anchor="middle">{form.format(stop)}</text>'
        for index, (stop, _, _) in enumerate(stops)
    )
    return (
        f'<svg class="legend" viewBox="0 0 240 34" role="img" aria-label="{escape(label)}">'
        f'<defs><linearGradient id="{key}">{colours}</linearGradient></defs>'
        '<rect x="20" y="2" width="200" height="12" fill="#8a8a8a"/>'
        f'<rect x="20" y="2" width="200" height="12" fill="url(#{key})"/>{ticks}</svg>'
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
    return _encode(".jpg", channel, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _png(colours: npt.NDArray[np.uint8]) -> bytes:
    return _encode(".png", np.ascontiguousarray(colours[..., [2, 1, 0, 3]]), [])  # OpenCV wants blue first


def _encode(suffix: str, pixels: npt.NDArray[np.uint8], settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, settings)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix} of {pixels.dtype} {pixels.shape}")
    return bytes(data)
