"""Reading welds and their masks, and folds over them."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.train.papers.welds.weld_images import three_welds, weld, write_folder
from train.errors import DataError
from train.papers.welds.folds import weld_folds
from train.papers.welds.images import read_welds


def test_welds_are_read_with_their_masks_and_those_without_come_last(tmp_path: Path) -> None:
    made = three_welds()
    folder = write_folder(tmp_path, made)
    (folder / "unlabelled").mkdir()
    cv2.imwrite(str(folder / "unlabelled" / "aaa.png"), made[0].image)
    read = read_welds(folder)
    assert [one.name for one in read] == ["weld-0", "weld-1", "weld-2", "aaa"]
    assert read[3].mask is None
    for one, original in zip(read, made, strict=False):
        np.testing.assert_array_equal(one.image, original.image)
        np.testing.assert_array_equal(one.mask, original.mask)


def test_a_mask_of_another_size_names_both_files_and_both_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    cv2.imwrite(str(folder / "masks" / "weld-1.png"), np.full((300, 899), 255, np.uint8))
    with pytest.raises(DataError, match=r"masks/weld-1\.png is 300 x 899 px, its image weld-1\.png 300 x 900 px"):
        read_welds(folder)


def test_an_empty_mask_says_how_bright_its_brightest_pixel_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    cv2.imwrite(str(folder / "masks" / "weld-2.png"), np.full((300, 900), 7, np.uint8))
    with pytest.raises(DataError, match=r"weld-2\.png: no pixel of the mask is above 127, the brightest is 7"):
        read_welds(folder)


def test_a_mask_that_leaves_no_sound_weld_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    cv2.imwrite(str(folder / "masks" / "weld-2.png"), np.full((300, 900), 255, np.uint8))
    with pytest.raises(DataError, match=r"weld-2\.png: every pixel of the mask is above 127") as caught:
        read_welds(folder)
    assert "255 on 0" in caught.value.hint


def test_a_weld_of_16_bit_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    cv2.imwrite(str(folder / "images" / "weld-0.png"), np.full((300, 900), 2345, np.uint16))
    with pytest.raises(DataError, match=r"images/weld-0\.png holds uint16 up to 2345, expected 8 bit"):
        read_welds(folder)


def test_a_weld_smaller_than_a_patch_is_refused_with_both_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    cv2.imwrite(str(folder / "images" / "weld-0.png"), np.full((191, 900), 90, np.uint8))
    with pytest.raises(DataError, match=r"191 x 900 px, smaller than a patch of 192 x 192 px"):
        read_welds(folder)


def test_a_colour_image_a_broken_one_and_a_mask_astray_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, three_welds())
    path = folder / "images" / "weld-1.png"
    cv2.imwrite(str(path), np.zeros((300, 900, 3), np.uint8))
    with pytest.raises(DataError, match=r"weld-1\.png has 3 channels"):
        read_welds(folder)
    path.write_bytes(b"\x89PNG and no more")
    with pytest.raises(DataError, match=r"weld-1\.png: not an image"):
        read_welds(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"masks/weld-1\.png: no image of the same name"):
        read_welds(folder)


@pytest.mark.parametrize("double", ["images/weld-1.bmp", "masks/weld-1.bmp", "unlabelled/weld-1.png"])
def test_two_files_of_one_name_are_no_weld(tmp_path: Path, double: str) -> None:
    folder = write_folder(tmp_path, three_welds())
    (folder / double).parent.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / double), np.zeros((300, 900), np.uint8))
    with pytest.raises(DataError, match="have the same name") as caught:
        read_welds(folder)
    assert double in caught.value.message


def test_a_folder_without_images_says_what_was_expected_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in") as caught:
        read_welds(tmp_path)
    assert "DIR/images/NAME.png" in caught.value.hint


@pytest.mark.parametrize(("welds", "count"), [(3, 3), (7, 3), (8, 3), (7, 4), (7, 7)])
@pytest.mark.parametrize("seed", [0, 5])
def test_every_weld_is_tested_once_and_in_one_set_of_a_fold_only(welds: int, count: int, seed: int) -> None:
    made = [weld(f"w{number}", 0, [(100, 100, 4 + number, 50.0)]) for number in range(welds)]
    folds = weld_folds(made, seed, count)
    names = sorted(one.name for one in made)
    assert sorted(name for fold in folds for name in fold.test) == names
    for fold in folds:
        sets = (fold.training, fold.validation, fold.test)
        assert all(sets)
        assert all(not set(a) & set(b) for a, b in combinations(sets, 2))
        assert sorted(name for part in sets for name in part) == names


def test_the_largest_defects_are_tested_in_different_folds_dealt_by_the_seed() -> None:
    made = [weld(f"w{number}", 0, [(100, 100, 4 + number, 50.0)]) for number in range(9)]
    deals = set()
    for seed in range(8):
        folds = weld_folds(made, seed)
        assert folds == weld_folds(made, seed)
        for largest in ({"w8", "w7", "w6"}, {"w5", "w4", "w3"}, {"w2", "w1", "w0"}):
            assert [len(largest & set(fold.test)) for fold in folds] == [1, 1, 1]
        deals.add(tuple(fold.test for fold in folds))
    assert len(deals) > 1


def test_too_few_masked_welds_for_the_folds_are_counted() -> None:
    with pytest.raises(DataError, match="2 masked welds cannot be split into 3 folds"):
        weld_folds(three_welds()[:2], 0)
