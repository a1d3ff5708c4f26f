"""A fold's patches: complete, apart, and the same for any number of processes."""

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.train.papers.welds.weld_images import photographs, three_welds, weld, write_folder
from train.cli import main
from train.errors import DataError
from train.gate.perturb import PATCH_PX
from train.papers.welds.data import FoldData, PatchCounts, fold_data
from train.papers.welds.folds import Fold, weld_folds
from train.papers.welds.images import Weld

COUNTS = PatchCounts(12, 6, 8, 5, 10, 7, 4, 3)
TESTS = {
    "accepted",
    "defects-high",
    "defects-mid",
    "defects-low",
    *(
        kind + suffix
        for kind in ("circular-hollow-inclusion", "dogbone", "elongated", "partial-circle", "raster")
        for suffix in ("", "-sharp")
    ),
}


def _arrays(data: FoldData) -> dict[str, np.ndarray]:
    named = {name: getattr(data, name) for name in ("accepted", "checked", "defective")}
    return named | {f"W {k}": v for k, v in data.perturbations.items()} | {f"T {k}": v for k, v in data.tests.items()}


@pytest.fixture(scope="module")
def data() -> FoldData:
    welds = three_welds()
    return fold_data(welds, photographs(), weld_folds(welds, 0)[0], COUNTS, 3)


def test_a_fold_holds_what_was_asked_for_in_the_types_that_go_to_the_device(data: FoldData) -> None:
    sizes = {name: len(array) for name, array in _arrays(data).items()}
    assert sizes == {
        "accepted": 12,
        "checked": 6,
        "defective": 10,
        "W defects": 10,
        "W sni": 7,
        "W circular-indication": 4,
        "W partial-circle": 4,
        "T accepted": 8,
        **{f"T defects-{contrast}": 5 for contrast in ("high", "mid", "low")},
        **{f"T {name}": 3 for name in TESTS if not name.startswith(("accepted", "defects"))},
    }
    for name, array in _arrays(data).items():
        assert array.shape[1:] == (PATCH_PX, PATCH_PX)
        assert array.dtype == (np.float16 if name[:2] in ("W ", "T ") else np.uint8)
        assert np.isfinite(array).all()
        if name.startswith("T "):
            assert 0 <= array.min() < array.max() <= 1
        if name.startswith("W "):
            assert -1 <= array.min() < array.max() + 1e-6 <= 1


def test_the_real_test_patches_are_told_apart_by_weld(data: FoldData) -> None:
    assert set(data.tested_of) == {"accepted", "defects-high", "defects-mid", "defects-low"}
    for name, of_welds in data.tested_of.items():
        assert set(of_welds) == set(data.test)
        assert sum(of_welds.values()) == len(data.tests[name])


def test_the_patches_that_set_thresholds_are_told_apart_by_weld(data: FoldData) -> None:
    assert {name: tuple(of_welds) for name, of_welds in data.calibrated_of.items()} == {
        "accepted": data.training,
        "checked": data.validation,
    }
    assert sum(data.calibrated_of["accepted"].values()) == len(data.accepted)
    assert sum(data.calibrated_of["checked"].values()) == len(data.checked)


def test_no_patch_of_a_weld_is_in_two_sets() -> None:
    """Each weld has a grey level of its own, defects included, so that every patch tells where it comes from."""
    welds = []
    for number, grey in enumerate((40, 120, 200)):
        made = weld(f"weld-{number}", number, [(150, 200, 8, 60.0), (150, 640, 8, 60.0)])
        assert made.mask is not None
        level = np.full(made.image.shape, grey, np.uint8)
        level[made.mask] += 10
        welds.append(replace(made, image=level))
    for fold in weld_folds(welds, 1):
        levels = {one.name: int(one.image.min()) for one in welds}
        made_of = fold_data(welds, photographs(), fold, COUNTS, 0)
        for names, arrays in (
            (fold.training, [made_of.accepted, made_of.defective]),
            (fold.validation, [made_of.checked]),
            (
                fold.test,
                [255 * made_of.tests["accepted"].astype(float), 255 * made_of.tests["defects-high"].astype(float)],
            ),
        ):
            allowed = {levels[name] for name in names}
            for array in arrays:
                assert len(array)
                found = {int(np.rint(np.median(patch))) for patch in array}
                assert found <= allowed


def test_the_same_seed_draws_alike_in_one_process_and_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.papers.welds.data._PIECE", 5)  # so that most kinds come in more than one piece
    welds = three_welds()
    fold = weld_folds(welds, 0)[1]
    one, two = (fold_data(welds, photographs(), fold, COUNTS, 5, jobs=jobs) for jobs in (1, 2))
    for (name, first), second in zip(_arrays(one).items(), _arrays(two).values(), strict=True):
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_another_seed_another_fold_and_another_piece_draw_otherwise(data: FoldData) -> None:
    welds = three_welds()
    fold = weld_folds(welds, 0)[0]
    again, other = (fold_data(welds, photographs(), fold, COUNTS, seed) for seed in (3, 4))
    renamed = fold_data(welds, photographs(), replace(fold, name="fold-x"), COUNTS, 3)
    for name, array in _arrays(data).items():
        np.testing.assert_array_equal(array, _arrays(again)[name], err_msg=name)
        for another in (other, renamed):
            assert not np.array_equal(array, _arrays(another)[name]), name
    assert len(np.unique(data.accepted.reshape(12, -1), axis=0)) == 12


def test_what_a_defect_adds_belongs_to_the_patch_beside_it(data: FoldData) -> None:
    """Where W * delta is deep, the patch is darker than its surroundings by as much."""
    deep = [
        (patch, delta)
        for patch, delta in zip(data.defective, data.perturbations["defects"], strict=True)
        if delta.min() < -0.15
    ]
    assert deep
    for patch, delta in deep:
        inside = delta < -0.15
        around = (cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0) & (delta > -0.01)
        gap = (patch[around].astype(float).mean() - patch[inside].astype(float).mean()) / 255
        assert gap == pytest.approx(-delta[inside].astype(float).mean(), abs=0.06)


def test_an_anomaly_is_on_an_accepted_test_patch(data: FoldData) -> None:
    for name, most in (("raster-sharp", 0.2), ("partial-circle", 0.1)):
        for image in data.tests[name].astype(np.float32):
            rest = image - data.tests["accepted"].astype(np.float32)
            nearest = rest[np.abs(rest).mean(axis=(1, 2)).argmin()]
            assert nearest.min() > -2e-3
            assert 0.004 < nearest.max() < most + 2e-3
            assert np.median(nearest) == 0


def test_progress_counts_every_piece() -> None:
    welds, told = three_welds(), []
    fold_data(welds, photographs(), weld_folds(welds, 0)[0], COUNTS, 0, progress=lambda *at: told.append(at))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


def test_a_contrast_that_no_test_weld_has_gives_no_patch_and_the_others_theirs() -> None:
    welds = [weld(f"weld-{number}", number, [(150, 200, 8, 60.0)]) for number in range(3)]
    data = fold_data(welds, photographs(), weld_folds(welds, 0)[0], COUNTS, 0)
    assert [len(data.tests[f"defects-{contrast}"]) for contrast in ("high", "mid", "low")] == [5, 0, 0]


def test_welds_without_room_for_an_accepted_patch_are_named() -> None:
    welds = three_welds()
    mask = np.zeros(welds[0].image.shape, np.bool_)
    mask[::50, ::50] = True
    welds[1] = Weld("crowded", welds[1].image, mask)
    fold = Fold("fold-1", ("weld-0",), ("crowded",), ("weld-2",))
    with pytest.raises(DataError, match="no place for a patch of 192 px clear of all defects in crowded"):
        fold_data(welds, photographs(), fold, COUNTS, 0)


def test_defects_at_the_very_end_of_the_training_welds_are_not_reached() -> None:
    """A turned patch that shows a corner pixel where it is reconstructed would reach beyond the weld."""
    welds = [*three_welds()[:2], weld("corner", 3, [])]
    assert welds[2].mask is not None
    welds[2].mask[:2, :2] = True
    fold = Fold("fold-1", ("corner",), ("weld-0",), ("weld-1",))
    with pytest.raises(DataError, match="no place for a patch of 192 px with a defect in corner"):
        fold_data(welds, photographs(), fold, COUNTS, 0)


def test_the_default_counts_are_those_of_a_full_run() -> None:
    assert {field.name: field.default for field in fields(PatchCounts)} == {
        "accepted": 8000,
        "validation": 4000,
        "test_accepted": 3480,
        "test_defects": 600,
        "defects": 4000,
        "sni": 8000,
        "synthetic": 5000,
        "test_synthetic": 200,
    }


def test_preview_writes_a_sheet_of_every_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.papers.welds.sheets.ROWS", 1)
    (tmp_path / "welds").mkdir()
    folder = write_folder(tmp_path / "welds", three_welds())
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, photo in enumerate(photographs()):
        cv2.imwrite(str(photos / f"{number}.png"), np.rint(photo * 255))
    out = tmp_path / "sheets"
    assert main(["patches", "preview", str(folder), "--natural", str(photos), "--out", str(out), "--seed", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    kinds = {"accepted", "defective", *(f"test-{name}" for name in TESTS)}
    for name in ("defects", "sni", "circular-indication", "partial-circle"):
        kinds |= {f"perturbation-{name}", f"perturbed-{name}"}
    assert {path.name for path in out.iterdir()} == {*(f"{kind}.png" for kind in kinds), "contrasts.md"}
    for kind in kinds:
        sheet = cv2.imread(str(out / f"{kind}.png"), cv2.IMREAD_UNCHANGED)
        assert sheet.shape[1] == 8 * (PATCH_PX + 4) + 4
        patches = sheet[40 : 40 + PATCH_PX, 4 : 4 + PATCH_PX].astype(float)
        assert patches.std() > 0.5
    assert "| weld-0 |" in (out / "contrasts.md").read_text()


def test_preview_without_photographs_or_welds_says_what_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    arguments = ["patches", "preview", str(tmp_path), "--natural", str(tmp_path / "photos"), "--out", str(tmp_path)]
    assert main(arguments) == 65
    assert "no photographs of 192 px" in capsys.readouterr().err
