"""The two equalisations beyond the paper's stretch, each against what its authors say it does."""

import numpy as np
import pytest

from edge.images.conversion import Bounds, convert
from edge.images.equalise import GREYS, clahe, dhe_table
from edge.images.method import Method

BOUNDS = Bounds(1700, 2800)


def counts_of(mean: float, deviation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (120, 90)).clip(0, 65535).astype(np.uint16)


def histogram_of(levels: dict[int, int]) -> np.ndarray:
    hist = np.zeros(GREYS, np.int64)
    for level, pixels in levels.items():
        hist[level] = pixels
    return hist


def test_a_faint_spot_on_an_even_sheet_gains_contrast_by_either() -> None:
    counts = counts_of(2200, 4)
    counts[50:60, 40:50] += 40
    spot, sheet = np.s_[50:60, 40:50], np.s_[0:40, 0:30]

    def contrast(method: Method) -> float:
        grey = convert(counts, method, BOUNDS)[0].astype(float)
        return float(grey[spot].mean() - grey[sheet].mean())

    plain = contrast(Method.GLOBAL)
    assert contrast(Method.CLAHE) > 1.5 * plain
    assert contrast(Method.DHE) > 1.5 * plain


def test_clahe_is_opencvs_on_the_globally_stretched_image() -> None:
    counts = counts_of(2250, 100)
    stretched = convert(counts, Method.GLOBAL, BOUNDS)[0]
    np.testing.assert_array_equal(convert(counts, Method.CLAHE, BOUNDS)[0], clahe(stretched))


def test_dhe_changes_every_pixel_by_one_table_that_never_falls() -> None:
    counts = counts_of(2250, 100)
    stretched, equalised = (convert(counts, method, BOUNDS)[0] for method in (Method.GLOBAL, Method.DHE))
    table = dhe_table(np.bincount(stretched.ravel(), minlength=GREYS))
    np.testing.assert_array_equal(equalised, table[stretched])
    assert (np.diff(table.astype(int)) >= 0).all()
    assert table[-1] == 255


def test_dhe_gives_the_rare_part_of_two_more_levels_than_plain_equalisation() -> None:
    """Plain equalisation would leave 1 % of the pixels 1 % of the levels."""
    hist = histogram_of(dict.fromkeys(range(50, 60), 9900) | dict.fromkeys(range(150, 160), 100))
    table = dhe_table(hist).astype(int)
    assert table[159] - table[149] > 255 * 0.2


def test_a_valley_separates_two_parts_that_are_equalised_on_their_own() -> None:
    lower = {40: 100, 41: 200, 42: 300, 43: 200, 44: 100}
    steps = []
    for upper in ({80: 100, 81: 400, 82: 100}, {80: 200, 81: 200, 82: 200}):
        table = dhe_table(histogram_of(lower | upper)).astype(float)
        steps.append((table[40:45] - table[39]) / (table[44] - table[39]))
    np.testing.assert_allclose(steps[0], steps[1], atol=0.02)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_an_image_of_one_grey_level_keeps_it(level: int) -> None:
    assert dhe_table(histogram_of({level: 100}))[level] == level


def test_a_histogram_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        dhe_table(np.zeros(GREYS, np.int64))


@pytest.mark.parametrize("method", [Method.CLAHE, Method.DHE])
def test_both_need_the_bounds_of_the_training_scans(method: Method) -> None:
    assert method.needs_bounds
    assert method.channels == 1
    with pytest.raises(ValueError, match="needs the bounds"):
        convert(counts_of(2250, 100), method, None)
