"""Cached features: the training that uses them is the uncached one, and what lies on disk is always whole."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

import train.classifier.feature_cache
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.files import write_whole
from edge.system.progress import Reporter
from train.classifier.crossval import make_schedule, samples_of
from train.classifier.experiment import PAPER
from train.classifier.feature_cache import FeatureCache, FeatureKey, Features
from train.classifier.features import Conversion, compute_features, open_backbone
from train.classifier.heads import TrainingSet, paper_layers, starting_layers, train_layers
from train.classifier.pooling import CHANNELS, TILE_SHAPE, TILES, feature_maps, pool
from train.classifier.training import build_classifier, fit
from train.classifier.views import view, view_of_flips
from train.dataset import Row, load_scans, read_labels
from train.errors import DataError, DivergedError
from train.recipe import ClassifierRecipe
from train.runner import Here
from train.survey import Survey, SurveyedScan, survey

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("shallow")

SIZE = Size(64, 64)
BOUNDS = Bounds(1900, 2700)
SHAPE = (2, 3)
LOSS_TOLERANCE = 1e-4
"""Relative, of every epoch's loss with and without the cache: the batches are others, so sums are rounded elsewhere."""


def key(scan: str = "a", shown: int = 0) -> FeatureKey:
    return FeatureKey(scan, "global 1..2", "64x64", shown, "w", "s", "float32 on cpu")


def features(value: float) -> Features:
    return Features(np.full((3, 3), value, np.float32), np.full((2, *SHAPE), value, np.float16))


def test_training_on_cached_features_has_the_losses_of_training_on_images(small_lot: Path, tmp_path: Path) -> None:
    rows = read_labels(small_lot)[:10]
    recipe = ClassifierRecipe(size=SIZE, weights="none", epochs=3, batch=4, seed=5)
    scans = load_scans(rows, Method.GLOBAL, BOUNDS, SIZE)
    torch.manual_seed(5)
    history, _ = fit(build_classifier(recipe), scans, scans, recipe, recipe.stages(), Reporter())

    backbone = open_backbone("none", SIZE, seed=5, amp=False, device="cpu")
    conversion = Conversion.of(Method.GLOBAL, BOUNDS)
    wanted = {conversion: dict.fromkeys(range(len(rows)), (0, 1, 2, 3))}
    sha256s = [fact.sha256 for fact in scans.facts]
    cache = FeatureCache(tmp_path, (TILES, CHANNELS))
    table = compute_features(wanted, rows, sha256s, backbone, cache, Here(), lambda *_: None)[conversion]
    samples = samples_of(table, rows, range(len(rows)), (0, 1, 2, 3))
    data = TrainingSet(np.ascontiguousarray(samples.whole[:, :, 0, -512:]), samples.labels, samples.files)
    paper = dataclasses.replace(PAPER, epochs=3, batch=4, seed=5)
    losses = train_layers(paper_layers(512, paper, starting_layers("none", 5)), data, paper)
    assert losses == pytest.approx([epoch.loss for epoch in history], rel=LOSS_TOLERANCE)
    assert losses[-1] != pytest.approx(losses[0], rel=1e-2)


def test_a_second_run_takes_every_feature_from_the_cache(small_lot: Path, tmp_path: Path) -> None:
    rows = read_labels(small_lot)[:2]
    backbone = open_backbone("none", SIZE, seed=5, amp=False, device="cpu")
    wanted = {Conversion(Method.NAIVE, None): {0: (0, 1), 1: (0,)}}
    surveyed = survey(rows, Here(), lambda *_: None, skip_unreadable=False)
    sha256s = [scan.sha256 for scan in surveyed.scans]

    class Forbidden(Here):
        def map(self, function: object, tasks: list) -> object:  # type: ignore[override]
            assert not tasks
            return iter(())

    tables = [
        compute_features(wanted, rows, sha256s, backbone, FeatureCache(tmp_path, (TILES, CHANNELS)), runner, print)
        for runner in (Here(), Forbidden())
    ]
    first, second = (next(iter(table.values())) for table in tables)
    np.testing.assert_array_equal(first.wholes([0], [0, 1]), second.wholes([0], [0, 1]))
    np.testing.assert_array_equal(first.tiles([0, 1], [0]), second.tiles([0, 1], [0]))


def test_a_folder_for_features_may_hold_other_files_which_stay(tmp_path: Path) -> None:
    for name in ("B1/normal.tif", "ab/notes.txt", "ab/.ab12.features.77.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    FeatureCache(tmp_path, (TILES, CHANNELS))
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["B1/normal.tif", "ab/notes.txt"]  # the third was a killed run's draft


def test_a_scan_that_changes_while_the_command_runs_is_an_error(small_lot: Path, tmp_path: Path) -> None:
    backbone = open_backbone("none", SIZE, seed=5, amp=False, device="cpu")
    wanted = {Conversion(Method.NAIVE, None): {0: (0,)}}
    cache = FeatureCache(tmp_path, (TILES, CHANNELS))
    with pytest.raises(DataError, match=r"B0_0\.tif has changed"):
        compute_features(wanted, read_labels(small_lot)[:1], ["0" * 64], backbone, cache, Here(), lambda *_: None)


def test_pooling_keeps_mean_maximum_deviation_and_of_tiles_maximum_and_mean() -> None:
    maps = [torch.rand(2, channels, 9, 5) for channels in (128, 256, 512)]
    pooled = pool(maps)
    x = torch.cat(maps, dim=1)
    torch.testing.assert_close(pooled.whole[:, 0], x.mean(dim=(2, 3)))
    torch.testing.assert_close(pooled.whole[:, 1], x.amax(dim=(2, 3)))
    torch.testing.assert_close(pooled.whole[:, 2], x.std(dim=(2, 3), correction=0))
    assert pooled.tiles.shape == (2, *TILE_SHAPE)
    torch.testing.assert_close(pooled.tiles[:, 0, 0], x[:, :, :2, :2].amax(dim=(2, 3)))
    torch.testing.assert_close(pooled.tiles[:, 1, 0], x[:, :, :2, :2].mean(dim=(2, 3)))
    torch.testing.assert_close(pooled.tiles[:, 1, 18], x[:, :, 8, 4])  # of a tile at the border only what is there
    torch.testing.assert_close(pooled.tiles[:, 0].amax(dim=1), pooled.whole[:, 1])


def test_the_layer_4_means_are_what_the_backbones_own_last_layer_takes() -> None:
    model = build_classifier(ClassifierRecipe(weights="none")).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        mean = pool(feature_maps(model.backbone, x)).whole[:, 0, -512:]
        torch.testing.assert_close(model.backbone.fc(mean), model.backbone(x))


def test_the_first_four_views_are_the_flip_states_and_the_others_repeat_for_the_same_scan() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    np.testing.assert_array_equal(view(image, 0, "0"), image)
    np.testing.assert_array_equal(view(image, 1, "0"), image[:, :, ::-1])
    np.testing.assert_array_equal(view(image, 2, "0"), image[:, ::-1])
    np.testing.assert_array_equal(view(image, 3, "0"), image[:, ::-1, ::-1])
    assert view_of_flips(np.array([False, True, False, True]), np.array([False, False, True, True])).tolist() == [
        *range(4)
    ]
    picture = np.random.default_rng(0).integers(0, 256, (1, 60, 40)).astype(np.uint8)
    np.testing.assert_array_equal(view(picture, 5, "ab" * 32), view(picture, 5, "ab" * 32))
    assert not np.array_equal(view(picture, 5, "ab" * 32), view(picture, 5, "cd" * 32))


class TestCache:
    def test_what_is_put_in_comes_out_also_of_a_new_one(self, tmp_path: Path) -> None:
        FeatureCache(tmp_path, SHAPE).put(key(), features(2.5))
        found = FeatureCache(tmp_path, SHAPE).get(key())
        assert found is not None
        np.testing.assert_array_equal(found.whole, features(2.5).whole)
        np.testing.assert_array_equal(found.tiles, features(2.5).tiles)

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FeatureKey)])
    def test_features_of_anything_else_are_not_found(self, tmp_path: Path, field: str) -> None:
        cache = FeatureCache(tmp_path, SHAPE)
        cache.put(key(), features(1))
        other = dataclasses.replace(key(), **{field: 3 if field == "view" else "other"})
        assert cache.get(other) is None

    @pytest.mark.parametrize("damage", ["cut short", "one bit", "empty"])
    def test_a_damaged_file_is_as_good_as_none(self, tmp_path: Path, damage: str) -> None:
        cache = FeatureCache(tmp_path, SHAPE)
        cache.put(key(), features(1))
        (path,) = tmp_path.glob("*/*.features")
        data = bytearray(path.read_bytes())
        data[-1] ^= damage == "one bit"
        path.write_bytes(data if damage == "one bit" else data[: 0 if damage == "empty" else 40])
        assert cache.get(key()) is None

    def test_what_a_killed_run_had_begun_to_write_is_cleared_away_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "ab").mkdir()
        (tmp_path / "ab" / "notes.txt").write_bytes(b"of somebody else")
        with write_whole(tmp_path / "ab" / "abcd.features", durable=False):
            (draft,) = tmp_path.glob("ab/.*")
        (tmp_path / "ab" / "abcd.features").unlink()
        draft.write_bytes(b"half")  # a kill would have left it
        FeatureCache(tmp_path, SHAPE)
        assert [path.name for path in tmp_path.glob("*/*")] == ["notes.txt"]

    def test_a_full_disk_ends_the_caching_and_leaves_nothing_broken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        cache = FeatureCache(tmp_path, SHAPE, say=said.append)
        cache.put(key("before"), features(1))

        @contextmanager
        def full(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
            with write_whole(path, durable=durable) as stream:
                stream.write(b"partial")
                yield stream
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(train.classifier.feature_cache, "write_whole", full)
        cache.put(key("a"), features(1))
        cache.put(key("b"), features(1))
        assert [path.suffix for path in tmp_path.glob("*/*")] == [".features"]
        assert cache.get(key("a")) is None
        assert cache.get(key("before")) is not None
        assert len(said) == 1
        assert "No space left" in said[0]

    def test_beyond_its_bound_the_longest_unused_goes_first(self, tmp_path: Path) -> None:
        one_file = 32 + 4 * 9 + 2 * 12
        old = FeatureCache(tmp_path, SHAPE)
        for number in range(10):
            old.put(key(str(number)), features(number))
        for place, path in enumerate(sorted(tmp_path.glob("*/*"))):
            os.utime(path, (1000 + place, 1000 + place))
        oldest = min(tmp_path.glob("*/*"), key=lambda path: path.stat().st_mtime)
        cache = FeatureCache(tmp_path, SHAPE, max_bytes=10 * one_file)
        cache.put(key("new"), features(1))
        assert cache.get(key("new")) is not None
        assert not oldest.exists()
        assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 10 * one_file

    def test_what_this_run_uses_is_never_dropped(self, tmp_path: Path) -> None:
        said: list[str] = []
        cache = FeatureCache(tmp_path, SHAPE, max_bytes=100, say=said.append)
        cache.put(key("a"), features(1))
        cache.put(key("b"), features(2))
        assert cache.get(key("a")) is not None
        assert cache.get(key("b")) is None
        assert "raise --cache-gib" in said[0]


def paper_sized_survey(bounds_of: dict[int, Bounds]) -> Survey:
    """714 scans in 12 lots, all with the same bounds but for those of some lots."""
    lots = [f"B{1 + number * 12 // 714}" for number in range(714)]
    rows = tuple(Row(Path("x"), f"{n}.tif", lot, int(n % 5 == 0)) for n, lot in enumerate(lots))
    scans = [SurveyedScan("0", "0", 2072, 1145, bounds_of.get(int(lot[1:]), Bounds(1730, 2790))) for lot in lots]
    return Survey(rows, tuple(scans), {}, ())


def test_the_papers_experiment_takes_a_hundred_times_fewer_passes() -> None:
    sizes = paper_sized_survey({1: Bounds(1710, 2750), 7: Bounds(1800, 2840)})
    schedule = make_schedule(sizes.rows, sizes, [Method.NAIVE, Method.GLOBAL, Method.LOCAL, Method.MIXED], PAPER, set())
    assert len(schedule.folds) == 48
    assert len(schedule.wanted) == 4  # rounded to hundreds, all folds have the same bounds
    assert schedule.passes == 4 * 4 * 714
    assert schedule.passes_uncached == 4 * (50 * 11 + 1) * 714
    assert schedule.passes_uncached / schedule.passes > 100


def test_a_lot_that_alone_sets_a_bound_costs_the_passes_of_one_more_set() -> None:
    sizes = paper_sized_survey({1: Bounds(1500, 2750)})
    schedule = make_schedule(sizes.rows, sizes, [Method.NAIVE, Method.GLOBAL], PAPER, set())
    held_out = sum(row.lot == "B1" for row in sizes.rows)
    own = 4 * (714 - held_out) + held_out  # the fold without B1
    others = 4 * 714
    assert schedule.passes == 4 * 714 + own + others


def test_a_loss_that_is_no_number_stops_with_step_and_files() -> None:
    recipe = dataclasses.replace(PAPER, epochs=1, batch=2)
    bad = np.full((2, 4, 512), np.nan, np.float32)
    data = TrainingSet(bad, np.array([0, 1]), ("one.tif", "two.tif"))
    with pytest.raises(DivergedError, match=r"step 0, on .*two\.tif"):
        train_layers(paper_layers(512, recipe, starting_layers("none", 0)), data, recipe)
