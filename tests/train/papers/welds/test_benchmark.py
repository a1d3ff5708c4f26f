"""The weld benchmark from the command line, on three small welds and networks that learn for two steps."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge.validation.statistics import Rate
from train.cli import main
from train.errors import TrainError
from train.papers.welds.benchmark import Benchmark, experiment_digest, scaled
from train.papers.welds.data import FoldData, PatchCounts
from train.papers.welds.evaluation import Entry, Outcome
from train.papers.welds.fold_cache import facts_of_fold, mapped, stored_fold
from train.papers.welds.plan import Request
from train.papers.welds.recipes import (
    ABLATION_RECIPE,
    BEST_RECIPE,
    PAPER_RECIPE,
    READINGS_RECIPE,
    BenchmarkRecipe,
    benchmark_recipe,
)
from train.papers.welds.tables import PAPER, REAL_SETS, SHARP_SETS, SYNTHETIC_SETS, cell, tables_csv, tables_markdown
from train.papers.welds.task import (
    Task,
    is_finished,
    load_scores,
    network_seed,
    save_scores,
    spread,
    weld_by_weld,
    with_defects,
)
from train.papers.welds.variants import BOTH, CLASSIFIERS, RECIPES, SNI, Training

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def welds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three welds of 310 x 900 px with a dark pore and a paler one each, and grey photographs."""
    folder = tmp_path_factory.mktemp("welds")
    rng = np.random.default_rng(0)
    for part in ("images", "masks", "natural"):
        (folder / part).mkdir()
    for number in range(3):
        bead = 90 + 80 * np.exp(-(((np.arange(310) - 150) / 70.0) ** 2))
        image = bead[:, None] + rng.normal(0, 2, (310, 900))
        mask = np.zeros((310, 900), np.uint8)
        for column, radius, depth in ((170, 9, 30), (400, 6, 9)):
            pore = cv2.circle(np.zeros_like(mask), (column + 20 * number, 150), radius, 255, -1)
            image[pore > 0] -= depth
            mask |= pore
        cv2.imwrite(str(folder / "images" / f"W{number}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"W{number}.png"), mask)
        photo = cv2.resize(rng.integers(0, 256, (12, 12)).astype(np.uint8), (220, 210))
        cv2.imwrite(str(folder / "natural" / f"{number}.png"), photo)
    return folder


@pytest.fixture(scope="module")
def alike(welds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the same names and masks, as after another exposure."""
    folder = tmp_path_factory.mktemp("alike")
    for part, brighter in (("images", 1), ("masks", 0)):
        (folder / part).mkdir()
        for path in (welds / part).iterdir():
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert image is not None
            cv2.imwrite(str(folder / part / path.name), image + np.uint8(brighter))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


def command(welds: Path, cache: Path, out: Path, *more: str) -> list[str]:
    start = ["gate-benchmark", str(welds), "--natural", str(welds / "natural"), "--out", str(out)]
    return [
        *start,
        "--cache",
        str(cache),
        "--patch-share",
        "0.0004",
        "--steps",
        "2",
        "--batch",
        "2",
        "--seed",
        "1",
        *more,
    ]


BEST = ("--recipe", "best", "--runs", "2", "--folds", "1")


FEW = replace(
    PAPER_RECIPE,
    variants=(SNI, BOTH, CLASSIFIERS[0]),
    detectors=tuple(d for d in PAPER_RECIPE.detectors if d.variant in (SNI.name, BOTH.name, CLASSIFIERS[0].name)),
)
"""Three of the paper's networks, enough for all figures."""
FIGURES = (
    "figure-05-defects-high",
    "figure-06-defects-mid",
    "figure-07-partial-circle",
    "figure-08-raster",
    "figure-09-histograms",
    "figure-10-roc",
    "figure-11-whole-weld",
    "figure-12-second-use-case",
    "figure-13-second-use-case-raster",
)


@pytest.mark.timeout(600)
def test_the_papers_recipe_writes_tables_and_figures(
    welds: Path,
    alike: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.papers.welds.recipes.PAPER_RECIPE", FEW)
    again = ["--test-welds", str(alike)]
    assert main(command(welds, cache, tmp_path, "--runs", "1", "--folds", "1", *again)) == 0
    table, elsewhere = ((tmp_path / name).read_text() for name in ("tables.md", "elsewhere.md"))
    said = capsys.readouterr()
    assert said.out == f"{table}\n{elsewhere}"
    assert "| detector | defects-high, 1 | defects-mid, 1 | defects-low, 1 | accepted, refused (FPR), 1 |" in elsewhere
    assert elsewhere.count("| AE, SNI |") == 1
    assert "Known welds have these names, too: W" in elsewhere
    assert "| AE, SNI | " in table
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables.csv").read_text())))
    assert {line["detector"] for line in lines} == {detector.name for detector in FEW.detectors}
    found = json.loads((tmp_path / "tables.json").read_text())
    assert found["facts"]["networks"] == 3
    assert found["facts"]["autoencoder_steps"] == found["facts"]["classifier_steps"] == 2
    assert found["detectors"]["AE, SNI"]["raster"]["patches"] == 1
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}


def test_a_benchmark_that_is_killed_leaves_no_table_or_figure_of_an_earlier_one(
    welds: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.papers.welds.benchmark.run_benchmark", killed)
    (tmp_path / "figures").mkdir()
    for name in ("tables.md", "tables.csv", "tables.json", "curves.csv", "elsewhere.md", "films.md"):
        (tmp_path / name).write_text("of other networks")
    (tmp_path / "figures" / "figure-10-roc.png").write_text("of other networks")
    assert main(command(welds, cache, tmp_path, *BEST)) == 130
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_welds_that_networks_learn_from_are_no_other_welds_by_any_name(
    welds: Path, alike: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored = tmp_path / "mirrored"
    for part in ("images", "masks"):
        (mirrored / part).mkdir(parents=True)
        shutil.copy(alike / part / "W0.png", mirrored / part / "X0.png")
        image = cv2.imread(str(welds / part / "W1.png"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        cv2.imwrite(str(mirrored / part / "X1.png"), image[:, ::-1])
    for recipe in (BEST, ("--recipe", "baselines")):
        out = tmp_path / recipe[1]
        assert main(command(welds, tmp_path / "cache", out, *recipe, "--test-welds", str(mirrored))) == 65
        assert "1 of 2 welds are among those that are learnt from or calibrated on: X1 is W1" in capsys.readouterr().err
        assert list(out.iterdir()) == []


def test_other_welds_that_defects_cover_are_refused_before_anything_is_cut_or_learnt(
    welds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covered = tmp_path / "covered"
    for part in ("images", "masks"):
        (covered / part).mkdir(parents=True)
        grey = np.full((300, 900), 255, np.uint8)
        grey[:40] = 0  # sound metal, narrower than a patch
        cv2.imwrite(str(covered / part / "full.png"), grey)
    cache = tmp_path / "cache"
    assert main(command(welds, cache, tmp_path / "out", *BEST, "--test-welds", str(covered))) == 65
    assert "no place for a patch clear of all defects in full" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.timeout(600)
def test_a_benchmark_cut_off_between_networks_goes_on_in_processes_and_ends_with_the_same_table(
    welds: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.papers.welds.figures.draw_figures", lambda *_: [])
    assert main(command(welds, cache, tmp_path, *BEST)) == 0
    assert "all runs together" in capsys.readouterr().out
    table = (tmp_path / "tables.csv").read_text()
    networks = tmp_path / "networks"
    first, second = sorted(networks.glob("*_run-*.json"))
    checkpoint = first.with_suffix(".pt")
    trained_at = checkpoint.stat().st_mtime_ns
    first.with_suffix(".npz").unlink()  # cut off while it was scored
    second.unlink()  # its checkpoint and scores are there, but whether they are whole nobody can tell
    next(networks.glob("*_ensemble.json")).write_text("{")
    assert main(command(welds, cache, tmp_path, *BEST, "--jobs", "2")) == 0
    said = capsys.readouterr().err
    assert "2 networks to do, 0 there already" in said
    assert "1 ensembles to do" in said
    assert (tmp_path / "tables.csv").read_text() == table
    assert checkpoint.stat().st_mtime_ns == trained_at
    scores = first.with_suffix(".npz")
    with np.load(scores) as stored:  # as an earlier version left them
        np.savez(scores, **{name: stored[name] for name in stored.files if name != "format"})
    assert main(command(welds, cache, tmp_path, *BEST)) == 0
    assert "1 networks to do, 1 there already" in capsys.readouterr().err
    assert (tmp_path / "tables.csv").read_text() == table
    assert checkpoint.stat().st_mtime_ns == trained_at
    other = tmp_path / "other"
    assert main(command(welds, cache, other, *BEST, "--networks", str(networks))) == 0
    assert "to do" not in capsys.readouterr().err
    assert (other / "tables.csv").read_text() == table


@pytest.mark.timeout(600)
def test_the_best_recipe_says_what_is_found_more_than_by_the_short_median(
    welds: Path, alike: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.papers.welds.figures.draw_figures", lambda *_: [])
    best = ("--recipe", "best", "--runs", "1", "--folds", "1", "--test-welds", str(alike))
    assert main(command(welds, cache, tmp_path, *best)) == 0
    median = BEST_RECIPE.beside
    held = {"each run, thresholds of all welds together", "each run, dark, thresholds of all welds together"}
    for name in ("tables.md", "elsewhere.md"):
        more = (tmp_path / name).read_text().partition(f"## Found more than by {median}, at equal refusal\n")[2]
        assert all(f"| {detector} | " in more for detector in held) and f"| {median} | " not in more
        assert "| all runs together | " not in more  # the middle weld's thresholds have no such curve
    lines = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert {line["filter"] for line in lines} >= {median, *held}


def request(out: Path) -> Request:
    return Request(
        welds=out,
        natural=out,
        out=out,
        cache=out,
        networks=out,
        recipe=PAPER_RECIPE,
        training=Training(),
        counts=PatchCounts(),
        runs=3,
        seed=0,
        device="cpu",
        jobs=1,
        folds=(),
    )


def test_whatever_changes_a_network_changes_its_digest_and_nothing_else_does(tmp_path: Path) -> None:
    training = Training()
    ours = request(tmp_path)
    digest = experiment_digest("data", SNI, training, ours)
    changed = [
        experiment_digest("other data", SNI, training, ours),
        experiment_digest("data", replace(SNI, noisy=True), training, ours),
        experiment_digest("data", replace(SNI, noisy=True, correlated=True), training, ours),
        experiment_digest("data", SNI, replace(training, lr=1e-3), ours),
        experiment_digest("data", SNI, replace(training, autoencoder_steps=7), ours),
        experiment_digest("data", SNI, training, replace(ours, seed=1)),
        experiment_digest("data", SNI, training, replace(ours, device="cuda")),
    ]
    assert len({digest, *changed}) == 8
    same = [
        experiment_digest("data", SNI, replace(training, classifier_steps=7, classifier_settle_share=0.5), ours),
        experiment_digest("data", SNI, training, replace(ours, jobs=4, runs=5, recipe=BEST_RECIPE)),
    ]
    assert set(same) == {digest}


def test_a_share_of_the_patches_leaves_one_of_each() -> None:
    counts = scaled(PatchCounts(), 0.001)
    assert (counts.accepted, counts.validation, counts.test_synthetic) == (8, 4, 1)


def test_a_fold_that_is_not_there_is_refused(
    welds: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(welds, cache, tmp_path, "--folds", "4")) == 65
    assert "there is no fold 4" in capsys.readouterr().err


def fold_of(level: int) -> FoldData:
    grey = np.full((2, 192, 192), level, np.uint8)
    delta = np.zeros((2, 192, 192), np.float16)
    tests = {"accepted": delta}
    return FoldData("fold-1", ("a",), ("b",), ("c",), grey, grey, grey, {"defects": delta, "sni": delta}, tests, {}, {})


@pytest.mark.parametrize("words", [["best", "--weights", "none"], ["baselines", "--folds", "1"]])
def test_an_option_that_a_recipe_would_not_heed_is_refused(
    words: list[str], welds: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(welds, cache, tmp_path, "--recipe", *words)) == 1
    assert f"{words[1]} " in capsys.readouterr().err


def test_a_folds_arrays_are_made_once_and_again_when_they_are_others(tmp_path: Path) -> None:
    made = []

    def make(level: int) -> FoldData:
        made.append(level)
        return fold_of(level)

    for digest, level in (("x", 1), ("x", 2), ("y", 3)):
        facts = stored_fold(tmp_path, digest, lambda level=level: make(level))
    assert made == [1, 3]
    assert facts["test"] == ["c"]
    assert list(facts_of_fold(tmp_path)["patches"]) == [
        "accepted",
        "checked",
        "defective",
        "perturbation-defects",
        "perturbation-sni",
        "test-accepted",
    ]
    with pytest.raises(TrainError, match="another run has the same --cache"):
        mapped(tmp_path, ["checked"], "x")
    stored = mapped(tmp_path, ["checked", "test-accepted"], "y")
    assert stored["checked"].dtype == np.uint8 and int(stored["checked"].max()) == 3
    assert stored["test-accepted"].dtype == np.float16
    facts_file = tmp_path / "fold.json"
    facts_file.write_text(json.dumps({key: value for key, value in facts.items() if key != "layout"}))
    stored_fold(tmp_path, "y", lambda: make(4))
    assert made == [1, 3, 4]


def test_every_network_has_a_seed_of_its_own(tmp_path: Path) -> None:
    task = Task("fold-1", tmp_path, SNI, 1, Training(), 0, "cpu", 1, tmp_path, "x", "y")
    others = [replace(task, run=2), replace(task, fold="fold-2"), replace(task, seed=1)]
    others.append(replace(task, variant=replace(SNI, name="other")))
    assert len({network_seed(one) for one in (task, *others)}) == 5
    assert network_seed(task) == network_seed(replace(task, device="cuda", threads=3))


def test_scores_of_another_run_in_the_same_folder_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    task = Task("fold-1", tmp_path, SNI, 1, Training(), 0, "cpu", 1, tmp_path, "x", "y")
    task.stem.with_suffix(".json").write_text('{"experiment": "x"}')
    save_scores(task.stem, {"accepted": np.zeros((1, 2), np.float32)})
    assert load_scores(task)["accepted"].shape == (1, 2)
    with pytest.raises(TrainError, match="another one has the same --networks"):
        load_scores(replace(task, experiment="z"))
    assert is_finished(task)
    for damaged in (b"", b"PK\3\4 and no more"):
        task.stem.with_suffix(".npz").write_bytes(damaged)
        assert not is_finished(task)


def test_validation_defects_are_accepted_patches_with_defects_added_within_0_to_1() -> None:
    checked = np.full((3, 4, 4), 250, np.uint8)
    defects = np.stack([np.full((4, 4), amount, np.float16) for amount in (0.5, -0.25)])
    found = with_defects(checked, defects)
    assert found.shape == (2, 4, 4)
    np.testing.assert_allclose(found[:, 0, 0], [1.0, 250 / 255 - 0.25], atol=1e-6)


def test_patches_that_lie_weld_by_weld_are_taken_from_every_weld() -> None:
    assert spread(np.arange(9), 3).tolist() == [0, 4, 8]
    assert spread(np.arange(2), 3).tolist() == [0, 1]
    assert len(spread(np.zeros((0, 4, 4)), 3)) == 0


def test_a_set_of_patches_can_be_told_apart_by_weld() -> None:
    patches = np.arange(10)
    of_welds = weld_by_weld("learnt", patches, {"a": 2, "none": 0, "b": 8}, at_most=4)
    assert {name: found.tolist() for name, found in of_welds.items()} == {
        "learnt/a": [0],
        "learnt/none": [],
        "learnt/b": [3, 6, 9],
    }
    whole = weld_by_weld("checked", patches, {"a": 2, "b": 8})
    assert [len(found) for found in whole.values()] == [2, 8]


@pytest.mark.parametrize("recipe", [benchmark_recipe(name) for name in RECIPES])
def test_every_detector_of_a_recipe_reads_a_network_of_it(recipe: BenchmarkRecipe) -> None:
    names = [variant.name for variant in recipe.variants]
    assert len(names) == len(set(names))
    detectors = recipe.detectors
    assert {detector.variant for detector in detectors} <= set(names)
    assert len({detector.name for detector in detectors}) == len(detectors)
    assert recipe.shown in names


def test_every_recipe_can_be_asked_for() -> None:
    assert [benchmark_recipe(name).name for name in RECIPES] == list(RECIPES)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(TrainError, match="no recipe 'other'"):
        benchmark_recipe("other")


def outcome(hits: int) -> Outcome:
    """A run that finds `hits` of 200 patches of every set, and of 100 where accepted test patches set the threshold."""
    names = (*REAL_SETS, *SYNTHETIC_SETS, *SHARP_SETS, "accepted", "checked-defects")
    rates, own = ({name: Rate(part, 200) for name in names} for part in (hits, 100))
    by_weld = {"accepted": {"one": Rate(0, 150), "other": Rate(hits // 4, 50)}}
    own_by_weld = {"defects-low": {"one": Rate(100, 100), "other": Rate(0, 100)}}
    return Outcome(rates, own, {name: 0.75 for name in names if name != "accepted"}, by_weld, own_by_weld)


def test_tables_give_mean_and_half_spread_of_the_runs_beside_the_papers_figures() -> None:
    runs = (outcome(160), outcome(180), outcome(176))
    outcomes = {detector.name: runs for detector in PAPER_RECIPE.detectors}
    benchmark = Benchmark(outcomes, (), Training(), "digest", (), {})
    text = tables_markdown(benchmark, PAPER_RECIPE.detectors, ["a note"])
    low, high = (100 * limit for limit in Rate(172, 200).interval)
    ours = f"86.0 (5.0) [{low:.1f}, {high:.1f}]"
    assert f"| defects-low | 200 | {ours} | 0 (1) | {ours} | 16 (6) | {ours} | 26 (7) |" in text
    assert f"| raster | 200 | {ours} | 71 (27) | {ours} | 98 (3) |" in text
    assert f"| raster-sharp | 200 | {ours} |  | {ours} |" in text
    assert "| AE, SNI | 75.0 (0.0) |" in text
    assert "| *accepted, refused (FPR)* | 200 | 86.00 (5.00) [0.04, 99.30; 2 welds] |" in text, (
        "over welds, not patches"
    )
    assert "| defects-low | 200 | 50.0 (0.0) [0.2, 99.8; 2 welds] |" in text
    assert "a note" in text
    columns = len(PAPER_RECIPE.detectors)
    assert "| accepted, refused | other | 50 |" + " 86.0 |" * columns in text
    assert "| accepted, refused | *95 %, other welds* |  |" + " 0.0 to 99.3, 2 welds |" * columns in text
    assert "| accepted, refused | *worst weld* |  |" + " other |" * columns in text
    lines = list(csv.DictReader(io.StringIO(tables_csv(benchmark, PAPER_RECIPE.detectors))))
    line = next(line for line in lines if (line["detector"], line["set"]) == ("AE, SNI", "defects-low"))
    assert (line["share"], line["half_spread"], line["own_share"], line["paper"]) == ("0.86", "0.05", "0.5", "0.26")


@pytest.mark.parametrize("recipe", [READINGS_RECIPE, ABLATION_RECIPE, BEST_RECIPE])
def test_other_recipes_have_a_line_for_each_way_to_read_a_network(recipe: BenchmarkRecipe) -> None:
    benchmark = Benchmark({d.name: (outcome(180),) for d in recipe.detectors}, (), Training(), "digest", (), {})
    text = tables_markdown(benchmark, recipe.detectors, [])
    assert "## Variants" in text
    for detector in recipe.detectors:
        assert f"| {detector.name} | 90.0 (0.0)" in text


def test_a_table_of_variants_gives_the_synthetic_set_that_is_found_least() -> None:
    found = outcome(180)
    found.flagged["dogbone"] = Rate(20, 200)
    benchmark = Benchmark({d.name: (found,) for d in BEST_RECIPE.detectors}, (), Training(), "digest", (), {})
    row = next(
        line for line in tables_markdown(benchmark, BEST_RECIPE.detectors, []).splitlines() if "each run" in line
    )
    cells = [text.strip().split(" ")[0] for text in row.strip("|").split("|")[1:]]
    assert cells == ["90.0", "90.0", "90.0", "90.0", "10.0", "90.0", "90.00", "50.0", "50.0", "50.0"]


def test_the_papers_figures_stand_beside_ours() -> None:
    assert len(PAPER) == 7 * 8
    assert (PAPER["sni", "defects-low"], PAPER["classifier-d-sni", "elongated"]) == ((26, 7), (86, 7))


def test_a_cell_says_mean_half_spread_and_interval() -> None:
    low, high = Rate(94, 100).interval
    assert cell(Entry(0.941, 0.012, 100, low, high)) == f"94.1 (1.2) [{100 * low:.1f}, {100 * high:.1f}]"
    assert cell(Entry(0.941, 0.012, 100, 0.9, 0.95, welds=7)) == "94.1 (1.2) [90.0, 95.0; 7 welds]"
    assert cell(Entry(0.941, 0.012, 100, 0.0, 1.0, welds=1)) == "94.1 (1.2) [no interval: 1 weld]"
    assert cell(Entry(float("nan"), float("nan"), 0, 0.0, 1.0)) == "-"
