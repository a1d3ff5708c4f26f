"""Small welds made for the tests: a bright seam with noise, and defects drawn into it."""

from pathlib import Path

import cv2
import numpy as np

from train.papers.welds.images import Weld

HEIGHT_PX, WIDTH_PX = 300, 900


def seam(seed: int, noise: float = 2.0) -> np.ndarray:
    """A weld without defects, float (300, 900) in grey levels."""
    rows = np.arange(HEIGHT_PX)[:, None]
    profile = 60 + 80 * np.exp(-(((rows - HEIGHT_PX / 2) / 80) ** 2))
    return profile + np.random.default_rng(seed).normal(0, noise, (HEIGHT_PX, WIDTH_PX))


def weld(name: str, seed: int, spots: list[tuple[int, int, int, float]]) -> Weld:
    """A weld with round defects (row, column, radius, depth in grey levels), and their mask."""
    image, mask = seam(seed), np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for row, column, radius, depth in spots:
        spot = cv2.circle(np.zeros_like(mask), (column, row), radius, 1, -1)
        image -= depth * spot
        mask |= spot
    return Weld(name, np.clip(np.rint(image), 0, 255).astype(np.uint8), mask.astype(np.bool_))


def three_welds() -> list[Weld]:
    """Each with a plain, a middling and a weak defect far from the others."""
    return [
        weld(f"weld-{number}", number, [(150, 200, 8, 60.0), (150, 420, 6, 9.0), (150, 640, 5, 3.0)])
        for number in range(3)
    ]


def write_folder(folder: Path, welds: list[Weld]) -> Path:
    """A folder as `read_welds` takes it."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for made in welds:
        assert made.mask is not None
        cv2.imwrite(str(folder / "images" / f"{made.name}.png"), made.image)
        cv2.imwrite(str(folder / "masks" / f"{made.name}.png"), made.mask.astype(np.uint8) * 255)
    return folder


def photographs(count: int = 4) -> list[np.ndarray]:
    """Grey textures float32 (200, 240) in [0, 1]."""
    rng = np.random.default_rng(9)
    return [cv2.resize(rng.random((20, 24), np.float32), (240, 200)) for _ in range(count)]
