"""Nearest neighbours: normal scans alone say how far from normal a scan may lie."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.images.conversion import prepare
from edge.records import Size
from train.checkpoint import load_checkpoint
from train.classifier import neighbours
from train.classifier.models import classifier_of
from train.classifier.neighbours import Neighbours, fit_neighbours, kept
from train.classifier.pooling import TILE_SHAPE, Pooled
from train.cli import main
from train.dataset import read_frame, read_labels
from train.errors import DataError
from train.networks import p_abnormal_of

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("shallow")]

LOTS = tuple(f"B{number // 10}" for number in range(60))


def normal_tiles(seed: int, scans: int = 60) -> np.ndarray:
    """Scans that differ in three ways, the same three for every seed, and a little noise."""
    ways = np.random.default_rng(9).normal(0, 0.3, (3, *TILE_SHAPE))
    rng = np.random.default_rng(seed)
    mixed = np.tensordot(rng.uniform(-1, 1, (scans, 3)), ways, axes=1)
    return (3 + mixed + rng.normal(0, 0.02, mixed.shape)).astype(np.float16)


def p_of(found: Neighbours, tiles: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = found(Pooled(torch.zeros(len(tiles)), torch.from_numpy(tiles)))
    return p_abnormal_of(logits.double()).numpy()


def test_a_single_normal_scan_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="1 normal scan to learn from, at least 2 are needed"):
        fit_neighbours(normal_tiles(0, 1), ("B1",), 0.15)


def test_one_tile_far_from_all_normal_ones_is_enough() -> None:
    found = fit_neighbours(normal_tiles(0), LOTS, 0.05).neighbours
    new = normal_tiles(1, 40)
    odd = new.copy()
    odd[:, 1, 7, :300] -= 2  # fainter, which no maximum would show
    assert (p_of(found, odd) > 0.5).all()
    assert (p_of(found, new) > 0.5).mean() <= 0.2


def test_one_faint_answer_of_a_channel_that_is_silent_in_normal_scans_is_not() -> None:
    """In deviations of that channel it would be farther away than anything else."""
    tiles, new = np.split(np.random.default_rng(0).normal(3, 0.2, (100, *TILE_SHAPE)).astype(np.float16), [60])
    tiles[:, :, 5, 17] = new[:, :, 5, 17] = 0
    found = fit_neighbours(tiles, LOTS, 0.05).neighbours
    before = p_of(found, new)
    new[:, :, 5, 17] = 0.3
    assert np.abs(p_of(found, new) - before).max() < 0.05


def test_the_limit_is_set_on_lots_that_were_not_learnt_from() -> None:
    """Each lot answers in channels of its own, in which the others are all alike."""
    tiles = normal_tiles(0, 70)
    lots = [f"B{number // 10}" for number in range(70)]
    for number, lot in enumerate(lots):
        first = 100 * int(lot[1:])
        tiles[number, :, :, first : first + 100] += 1
    found = fit_neighbours(tiles[:60], lots[:60], 0.05).neighbours
    assert (p_of(found, tiles[60:]) < 0.6).all()
    assert fit_neighbours(tiles[:60], ["B0"] * 60, 0.05).neighbours.limit < 0.8 * found.limit


def test_the_share_asked_for_lies_above_the_limit() -> None:
    for refused, above in ((0.05, 3), (0.2, 12)):
        found = fit_neighbours(normal_tiles(0), LOTS, refused)
        assert (found.p_left_out >= 0.5).sum() == above


def test_a_distance_is_that_to_the_nearest_scan_at_the_tiles_own_place() -> None:
    found = fit_neighbours(normal_tiles(0), LOTS, 0.05).neighbours
    new = torch.from_numpy(normal_tiles(1, 5))
    apart = new.float().unsqueeze(1) - torch.from_numpy(normal_tiles(0)).float()
    # No channel of these lies 6 deviations away, so that nothing is cut.
    units = apart / found.tile_scale / neighbours.LIMIT
    expected = units.square().sum(dim=(2, 4)).amin(dim=1).sqrt()
    torch.testing.assert_close(found.distances(new), expected, rtol=5e-3, atol=0)


def test_of_too_many_scans_as_many_of_each_lot_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(["a", "a", "a", "a", "b", "c", "c"], 5) == [0, 1, 4, 5, 6]
    assert kept(["b", "a"], 5) == [0, 1]
    monkeypatch.setattr(neighbours, "MOST_SCANS", 12)
    found = fit_neighbours(normal_tiles(0), LOTS, 0.05)
    assert found.neighbours.known.shape[1] == 12
    assert (found.p_left_out >= 0.5).sum() == 3  # the limit, too, by what so many show


def test_features_that_are_not_finite_are_refused() -> None:
    tiles = normal_tiles(0)
    tiles[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="distances between normal scans are no finite numbers"):
        fit_neighbours(tiles, LOTS, 0.05)


def test_copies_of_one_scan_in_every_lot_are_refused() -> None:
    """Every other scan would be far from them, and their like of the next day abnormal."""
    tiles = normal_tiles(0)
    tiles[3:] = tiles[3]
    with pytest.raises(DataError, match="of 60 normal scans of 6 lots nearly all are alike"):
        fit_neighbours(tiles, LOTS, 0.15)


SIZE = ["--size", "64x64", "--weights", "none", "--recipe", "neighbours"]


@pytest.fixture(scope="module")
def normals(small_lot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The normal scans of `small_lot` alone."""
    folder = tmp_path_factory.mktemp("normals") / "normals"
    shutil.copytree(small_lot, folder)
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(line for line in lines if not line.endswith(",abnormal")) + "\n")
    return folder


def test_a_line_without_abnormal_scans_gets_a_classifier(
    normals: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["fit-features", str(normals), "--out", str(run), *SIZE, "--refused", "0.1"]) == 0
    assert "above it are 2 of 12 normal scans, each judged without its own lot" in capsys.readouterr().err
    loaded = load_checkpoint(run / "classifier.pt", "classifier")
    assert (len(loaded.scan_sha256s), len(loaded.exposures), loaded.lots) == (12, 12, ("B0", "B1", "B2"))
    assert loaded.recipe["refused"] == 0.1
    network = classifier_of(loaded)
    rows = read_labels(held_back)
    images = [prepare(read_frame(row).counts, loaded.method, loaded.bounds, Size(64, 64)) for row in rows]
    with torch.inference_mode():
        p = p_abnormal_of(network(network.normalise(torch.from_numpy(np.stack(images)))).double()).numpy()
    right = (p >= loaded.thresholds["threshold"]) == [row.label == 1 for row in rows]
    assert right.mean() > 0.8


def test_abnormal_scans_are_counted_and_change_nothing(
    normals: Path, small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for data, out in ((small_lot, tmp_path / "mixed"), (normals, tmp_path / "run")):
        assert main(["fit-features", str(data), "--out", str(out), *SIZE, "--refused", "0.1"]) == 0
        found.append((load_checkpoint(out / "classifier.pt", "classifier"), capsys.readouterr().err))
    (mixed, said), (alone, said_of_none) = found
    assert "of 12 abnormal scans, from which nothing was learnt, 12 are above it" in said
    assert "abnormal scans, from which" not in said_of_none
    assert {*mixed.metrics} - {*alone.metrics} == {"abnormal_scans", "abnormal_found", "abnormal_found_over_lots"}
    for name in ("bounds", "data_digest", "scan_sha256s", "exposures", "thresholds", "recipe"):
        assert getattr(mixed, name) == getattr(alone, name), name
    assert all(torch.equal(value, alone.state_dict[name]) for name, value in mixed.state_dict.items())


def test_what_cannot_carry_a_threshold_is_refused_with_what_is_needed(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str, code: int = 65, size: list[str] = SIZE) -> str:
        assert main(["fit-features", str(small_lot), "--out", str(tmp_path / "out"), *size, *words]) == code
        return capsys.readouterr().err

    assert "12 normal scans of 3 lots, at least 20 of 2 lots" in refused("--refused", "0.05")
    assert "--refused 1 is no share" in refused("--refused", "1", code=1)
    assert "best learns from both labels" in refused("--refused", "0.1", "--recipe", "best", code=1)
    assert not (tmp_path / "out" / "classifier.pt").exists()


def test_scans_that_people_do_not_agree_on_are_not_known_unless_the_recipe_says_so(
    normals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe = tmp_path / "voted", tmp_path / "recipe.toml"
    shutil.copytree(normals, folder)
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    voted = [f"{line},normal,{'abnormal' if number == 5 else 'normal'}" for number, line in enumerate(lines)]
    (folder / "labels.csv").write_text("\n".join(["file,bundle,label_1,label_2,label_3", *voted]) + "\n")
    known = {}
    for undecided, refused in (("majority", 0.1), ("", 0.1), ("", 0.09)):
        recipe.write_text('base = "neighbours"\n' + (f'undecided = "{undecided}"\n' if undecided else ""))
        out = tmp_path / f"run-{undecided}"
        asked = ["fit-features", str(folder), "--out", str(out), *SIZE[:-1], str(recipe)]
        code = main([*asked, "--refused", str(refused)])
        if refused == 0.09:
            assert code == 65 and "11 normal scans of 3 lots, at least 12" in capsys.readouterr().err
            continue
        assert code == 0
        checkpoint = load_checkpoint(out / "classifier.pt", "classifier")
        known[undecided] = (checkpoint.state_dict["selection.known"].shape[1], checkpoint.metrics["left_out_scans"])
    assert known == {"majority": (12, 12), "": (11, 11)}
    recipe.write_text('base = "neighbours"\nundecided = "class"\n')
    assert main(["fit-features", str(folder), "--out", str(tmp_path / "class"), *SIZE[:-1], str(recipe)]) == 1
    assert "neighbours know one class" in capsys.readouterr().err


def test_cross_validation_needs_no_abnormal_scans_either(
    normals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["crossval", str(normals), "--out", str(tmp_path / "table"), "--conversions", "own", *SIZE]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert "| B0 ¹ | 4 (0) |" in table and "Nothing to learn" not in table


def test_a_fold_without_normal_scans_is_refused_by_name(
    normals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(normals, mixed)
    labels = (mixed / "labels.csv").read_text()
    (mixed / "labels.csv").write_text(labels.replace("B1,normal", "B1,abnormal").replace("B2,normal", "B2,abnormal"))
    asked = ["crossval", str(mixed), "--out", str(tmp_path / "table"), "--conversions", "own", *SIZE]
    assert main(asked) == 65
    assert "all 4 scans to learn from are of B0" in capsys.readouterr().err


def test_another_line_fits_its_own_in_place_of_adapting_them(
    small_lot: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["fit-features", str(small_lot), "--out", str(run), *SIZE, "--refused", "0.1"]) == 0
    assert main(["adapt", str(run), str(held_back), "--out", str(tmp_path / "adapted"), "--refused", "0.1"]) == 1
    assert "--recipe neighbours" in capsys.readouterr().err
