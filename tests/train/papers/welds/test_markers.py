"""What lies on a film beside the weld."""

import cv2
import numpy as np
import numpy.typing as npt

from train.papers.welds.markers import letters, wires

HEIGHT, WIDTH = 300, 600


def plain() -> npt.NDArray[np.float64]:
    return 100 + np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH))


def as_grey(image: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.asarray(image.round(), np.uint8)


def line(slope: float, rows: slice) -> npt.NDArray[np.bool_]:
    at = 300 + (np.arange(HEIGHT)[:, None] - HEIGHT / 2) * slope
    shown = np.abs(np.arange(WIDTH)[None, :] - at) < 3
    shown[: rows.start] = shown[rows.stop :] = False
    return np.asarray(shown)


def test_a_slanting_wire_across_the_film_is_covered() -> None:
    wire = line(0.06, slice(0, HEIGHT))
    found = wires(as_grey(plain() + 3 * wire))
    assert found[wire].mean() > 0.95
    assert found.mean() < 0.05


def test_a_short_bright_line_is_no_wire() -> None:
    assert not wires(as_grey(plain() + 12 * line(0.0, slice(120, 180)))).any()


def test_a_dark_line_across_the_film_is_no_wire_but_may_be_a_crack() -> None:
    assert not wires(as_grey(plain() - 6 * line(0.06, slice(0, HEIGHT)))).any()


def test_letters_are_covered_and_a_pore_is_not() -> None:
    image = as_grey(plain())
    cv2.putText(image, "SLV", (40, 120), cv2.FONT_HERSHEY_SIMPLEX, 3.0, 220, 12)
    cv2.circle(image, (500, 200), 8, 40, -1)
    found = letters(image)
    assert found[image > 200].all()
    assert not found[185:215, 485:515].any()
