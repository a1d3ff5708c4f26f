"""The paper's whole experiment at a toy size: its files, its resumption, its repeatability, its workers."""

import dataclasses
import json
import os
import re
import shutil
import signal
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from edge.images.method import Method
from edge.records import Size
from edge.validation.statistics import Confusion
from train.classifier.crossval import experiment_digest
from train.classifier.experiment import BEST, PAPER, read_recipe, replaced
from train.classifier.features import Backbone
from train.classifier.folds import FoldResult, FoldTask, run_fold
from train.classifier.learner import Samples
from train.classifier.results import conditions
from train.classifier.tables import Column, kind_recalls, severity_limit, summary, table_markdown
from train.cli import main
from train.commands.crossval import parse_methods
from train.dataset import Row, read_labels
from train.errors import DataError, TrainError
from train.papers.ablation import WITHOUT_FINE_TUNING, steps, usual_steps
from train.runner import Here, RayCluster
from train.survey import lots_alike, natural, survey

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)

RECIPE = 'base = "best"\nfeatures = "mean"\n'
"""The best recipe but for its tiles, whose fits take most of the time; the steps of the ablation below have them."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(lot: Path, out: Path, cache: Path, *more: str, conversions: str = "local") -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    recipe = out / "recipe.toml"
    recipe.write_text(RECIPE)
    options = ["--size", "64x64", "--weights", "none", "--conversions", conversions, "--cache", str(cache)]
    return ["crossval", str(lot), "--out", str(out), "--recipe", str(recipe), *options, *more]


@pytest.mark.usefixtures("shallow")
def test_one_command_writes_the_table_and_a_second_one_resumes_it(
    tiny_lot: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "short.toml"
    other.write_text('epochs = 2\nbounds_mode = "pooled"\n')  # as `best` has it: its features serve both
    asked = command(tiny_lot, tmp_path, cache, "--beside", str(other), conversions="local,global")
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert "backbone passes: " in printed.err
    table = (tmp_path / "table1.md").read_text()
    assert printed.out == table
    assert "| B0 | 4 (2) |" in table
    assert "| test lot | scans (abnormal) | local | global | short-global |" in table
    assert "| paper, overall (its own 714 scans) | 714 (152) | 85.00 | 85.18 |  |" in table
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["overall"]["conversion"] == "global"
    assert found["overall"]["balanced_accuracy"] == found["conversions"]["global"]["balanced_accuracy"] > 0.7
    assert found["recipe"]["head"] == "logistic"
    assert found["beside"]["short-global"]["epochs"] == 2
    counts = (tmp_path / "table1.csv").read_text()
    assert ",0.500000," in next(line for line in counts.splitlines() if line.startswith("short-global,B0"))
    assert ",0.500000," not in next(line for line in counts.splitlines() if line.startswith("global,B0"))
    assert set(found["bundles"]["local"]) == {"B0", "B1", "B2"}
    for name in ("roc.png", "roc.svg", "table1.csv", "timing.json"):
        assert (tmp_path / name).stat().st_size > 50

    folds = sorted((tmp_path / "folds").glob("*.json"))
    assert len(folds) == 6 and len(list((tmp_path / "beside" / "folds").glob("*.json"))) == 3
    folds[0].write_text(folds[0].read_text().replace('"experiment": "', '"experiment": "of another set'))
    folds[1].write_text(folds[1].read_text()[:50])  # as a kill would never leave it, but a full disk might
    kept = {path: path.stat().st_mtime_ns for path in folds[2:]}
    assert main(asked) == 0
    said = capsys.readouterr().err
    assert "2 folds to do, 4 there already" in said
    assert f"1 results in {tmp_path / 'folds'} are of other scans, labels, weights or choices" in said
    assert (tmp_path / "table1.md").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in folds[2:]} == kept


@pytest.mark.usefixtures("shallow")
def test_the_features_of_one_fold_are_in_memory_at_a_time(
    tiny_lot: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve lots of twenty scans once took more than 2 GB."""
    made: list[weakref.ref[FoldTask]] = []
    alive = []

    def run(task: FoldTask) -> FoldResult:
        made.append(weakref.ref(task))
        alive.append(sum(one() is not None for one in made))
        return run_fold(task)

    monkeypatch.setattr("train.classifier.crossval.run_fold", run)
    assert main(command(tiny_lot, tmp_path, cache)) == 0
    assert alive == [1, 1, 1]


@pytest.fixture(scope="module")
def table_made_here(tiny_lot: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> bytes:
    out = tmp_path_factory.mktemp("here")
    assert main(command(tiny_lot, out, cache)) == 0
    return (out / "table1.md").read_bytes()


def test_processes_give_the_same_table(tiny_lot: Path, tmp_path: Path, cache: Path, table_made_here: bytes) -> None:
    assert main(command(tiny_lot, tmp_path, cache, "--jobs", "2")) == 0
    assert (tmp_path / "table1.md").read_bytes() == table_made_here


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A Ray cluster of this machine's cores; it takes longer to start than what the tests ask of it."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with RayCluster("local") as cluster:
        yield cluster


def test_a_local_ray_cluster_gives_the_same_table(
    tiny_lot: Path,
    tmp_path: Path,
    cache: Path,
    table_made_here: bytes,
    cluster: RayCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.commands.options.RayCluster", {"local": nullcontext(cluster)}.__getitem__)
    assert main(command(tiny_lot, tmp_path, cache, "--ray", "local")) == 0
    assert (tmp_path / "table1.md").read_bytes() == table_made_here


def test_a_killed_ray_worker_costs_only_its_task(tmp_path: Path, cluster: RayCluster) -> None:
    def die(marker: str) -> tuple[str, int]:  # in here: Ray's workers cannot import this module
        path = Path(marker)
        path.with_suffix(f".{os.getpid()}").touch()
        if path.name == "fatal" and not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return path.name, os.getpid()

    markers = [str(tmp_path / name) for name in ("one", "fatal", "three", "four")]
    found = dict(cluster.map(die, markers))
    assert [found[number][0] for number in range(4)] == ["one", "fatal", "three", "four"]
    tried = {name: len(list(tmp_path.glob(f"{name}.*"))) for name in ("one", "fatal", "three", "four")}
    assert tried == {"one": 1, "fatal": 2, "three": 1, "four": 1}


def test_an_unreadable_scan_is_named_and_skipped_only_on_request(tiny_lot: Path, tmp_path: Path) -> None:
    scan = tifffile.imread(tiny_lot / "B0_0.tif")
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, scan)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and no more")
    (tmp_path / "labels.csv").write_text(
        "file,bundle,label\na.tif,B1,normal\nbroken.tif,B1,normal\nb.tif,B2,abnormal\n"
    )
    rows = read_labels(tmp_path)
    with pytest.raises(DataError, match=r"1 of 3 scans cannot be read: broken\.tif") as caught:
        survey(rows, Here(), lambda *_: None, skip_unreadable=False)
    assert "--skip-unreadable" in caught.value.hint
    kept = survey(rows, Here(), lambda *_: None, skip_unreadable=True)
    assert [row.file for row in kept.rows] == ["a.tif", "b.tif"]
    assert kept.unreadable[0].startswith("broken.tif: ")


def test_of_many_unreadable_scans_the_first_are_named_once_each(tmp_path: Path) -> None:
    rows = ["file,bundle,label"]
    for number in range(10):
        (tmp_path / f"{number}.tif").write_bytes(b"II*\0 and no more")
        rows.append(f"{number}.tif,B1,normal")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"10 of 10 .*; and 2 more$") as caught:
        survey(read_labels(tmp_path), Here(), lambda *_: None, skip_unreadable=False)
    assert caught.value.message.count("7.tif") == 1 and "8.tif" not in caught.value.message
    with pytest.raises(DataError, match=r"10 of 10 .*; and 2 more$") as caught:  # nothing is left to skip to
        survey(read_labels(tmp_path), Here(), lambda *_: None, skip_unreadable=True)
    assert "doctor" not in caught.value.hint


@pytest.mark.usefixtures("shallow")
def test_normal_scans_alone_are_refused_where_a_recipe_needs_both_labels(
    tiny_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table said 100 % of a classifier that had learnt nothing."""
    lot = tmp_path / "lot"
    shutil.copytree(tiny_lot, lot)
    (lot / "labels.csv").write_text((lot / "labels.csv").read_text().replace("abnormal", "normal"))
    assert main(command(lot, tmp_path / "out", tmp_path / "cache")) == DataError.exit_code
    assert "none of 12 scans is abnormal: no fold has anything to learn" in capsys.readouterr().err


def test_a_scan_in_two_lots_is_refused_and_no_earlier_table_stays(
    tiny_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lot, out = tmp_path / "lot", tmp_path / "out"
    shutil.copytree(tiny_lot, lot)
    shutil.copy(lot / "B0_0.tif", lot / "B2_2.tif")
    for name in ("table1.md", "kinds_local.png", "recipe.toml"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("of another set")
    assert main(command(lot, out, tmp_path / "cache")) == DataError.exit_code
    assert "B0_0.tif of lot B0 and B2_2.tif of lot B2 are the same scan" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["recipe.toml"]


def test_an_ablation_that_fails_leaves_no_table_of_an_earlier_one(tiny_lot: Path, tmp_path: Path) -> None:
    lot, out = tmp_path / "lot", tmp_path / "out"
    shutil.copytree(tiny_lot, lot)
    shutil.copy(lot / "B0_0.tif", lot / "B2_2.tif")
    out.mkdir()
    (out / "ablation.md").write_text("of another set")
    assert main(["ablation", str(lot), "--out", str(out), "--size", "64x64", "--weights", "none", "--rows", "12"]) == 65
    assert not (out / "ablation.md").exists()


def test_lots_of_names_alike_stand_below_the_table(tiny_lot: Path) -> None:
    """A lot taken for two is learnt from and tested on: who reads the table must know."""
    rows = [
        dataclasses.replace(row, lot=row.lot.replace("B2", "b-01").replace("B1", "B01"))
        for row in read_labels(tiny_lot)
    ]
    found = survey(rows, Here(), lambda *_: None, skip_unreadable=False)
    said = conditions(found, Backbone("none", "5" * 64, Size(64, 64), False, "cpu", 0), 0)
    assert said.endswith(" Lots of names alike, one lot or several? 'B01', 'b-01'.")


def test_two_scans_that_swap_their_names_are_another_experiment(tiny_lot: Path, tmp_path: Path) -> None:
    """Contents, lots and labels are as before, and so are the names: a fold kept from before names the wrong file."""
    lot = tmp_path / "lot"
    shutil.copytree(tiny_lot, lot)
    backbone = Backbone("none", "5" * 64, Size(64, 64), False, "cpu", 0)

    def digests() -> tuple[str, str]:
        found = survey(read_labels(lot), Here(), lambda *_: None, skip_unreadable=False)
        return found.digest, experiment_digest(found, BEST, backbone)

    before = digests()
    assert digests() == before
    (lot / "B0_0.tif").rename(tmp_path / "aside")
    (lot / "B0_2.tif").rename(lot / "B0_0.tif")
    (tmp_path / "aside").rename(lot / "B0_2.tif")
    data, experiment = digests()
    assert data == before[0] and experiment != before[1]


def rows_of(lot: Path) -> list[str]:
    return (lot / "labels.csv").read_text().splitlines()


def fold(lot: str, labels: tuple[int, ...], p: tuple[float, ...], threshold: float = 0.5) -> FoldResult:
    files = tuple(f"{lot}_{number}.tif" for number in range(len(labels)))
    return FoldResult("x", "global", lot, (1700, 2800), threshold, files, labels, p, (), None, 1.0)


def test_a_fold_whose_only_abnormal_scans_are_disputed_and_left_out_has_learnt_one_class() -> None:
    features = np.zeros((3, 1, 3, 1), np.float32), np.zeros((3, 1, 2, 1, 1), np.float16)
    training = Samples(*features, np.array([0, 0, 1]), np.array([False, False, True]), ("B1", "B2", "B2"), ("x",) * 3)
    dropped = replaced(PAPER, {"undecided": "drop"}, "a test")
    found = run_fold(FoldTask("global", "B3", None, dropped, {}, training, training, "x", 1))
    assert (found.one_class, found.p_abnormal) == ("normal", (0.0, 0.0, 0.0))


def test_overall_adds_up_the_decisions_of_all_lots_each_at_its_own_threshold() -> None:
    column = Column(
        "global",
        (fold("B1", (1, 0, 0, 0), (0.9, 0.1, 0.1, 0.6)), fold("B2", (0, 0), (0.6, 0.1), threshold=0.7)),
    )
    counts = column.overall
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == (1, 1, 4, 0)
    assert counts.balanced_accuracy == pytest.approx((1 + 4 / 5) / 2)
    table = table_markdown([column], [])
    assert "Paired over lots" not in table
    assert "| B2 ¹ | 2 (0) | 100.00 |" in table
    assert "| **overall** | 6 (1) | **90.00** |" in table


def test_columns_are_compared_lot_by_lot() -> None:
    right = tuple(fold(f"B{lot}", (1, 0), (0.9, 0.1)) for lot in range(6))
    blind = tuple(fold(f"B{lot}", (1, 0), (0.1, 0.1)) for lot in range(6))
    table = table_markdown([Column("mixed", right), Column("global", blind)], [])
    assert "mixed less global 50.0 (17.5 to 82.5)." in table
    for figure in ("95 %, over lots", "AUROC, 95 % over lots", "AUPRC, 95 % over lots"):
        row = next(line for line in table.splitlines() if line.startswith(f"| {figure} |"))
        assert re.search(r"\| [4-9]\d\.\d to 100\.0, 6 lots \| [1-4]?\d\.\d to [5-9]\d\.\d, 6 lots \|$", row), row
    (first, second) = (
        next(line for line in table.splitlines() if line.startswith(f"| {name}, 95 % over lots |"))
        for name in ("escapes", "overkill")
    )
    assert re.search(r"\| 0\.0 to [1-9][\d.]*, 6 lots \| [1-9][\d.]* to 100\.0, 6 lots \|$", first), "none and all of 6"
    assert re.search(r"\| 0\.0 to [1-9][\d.]*, 6 lots \| 0\.0 to [1-9][\d.]*, 6 lots \|$", second)


def test_the_worst_lot_of_each_column_is_named() -> None:
    right = tuple(fold(f"B{lot}", (1, 0), (0.9, 0.1)) for lot in range(3))
    worse = (*right[:2], fold("B2", (1, 0), (0.2, 0.1)))
    columns = [Column("mixed", right), Column("global", worse)]

    assert "| worst lot, decided wrongly |  | none | B2: 1 of 2 |" in table_markdown(columns, [])
    scans = [
        Row(Path(file), file, each.lot, label)
        for each in right
        for file, label in zip(each.files, each.labels, strict=True)
    ]
    found = summary(columns, "global", scans, {})
    assert found["overall"]["worst_lot"] == {"lot": "B2", "errors": 1, "scans": 2}
    assert found["conversions"]["mixed"]["worst_lot"] is None


def test_the_limit_is_what_the_severity_alone_could_decide(tmp_path: Path) -> None:
    """B2 calls 0.4 abnormal, which the threshold of B1 and B3 calls normal: even an oracle misses it."""

    def row(lot: str, severity: float | None, label: int) -> Row:
        return Row(tmp_path / "x.tif", "x.tif", lot, label, severity=severity)

    clear = [row(lot, severity, int(severity > 0.5)) for lot in ("B1", "B3") for severity in (0.0, 0.45, 0.6)]
    blurred = [row("B2", 0.0, 0), row("B2", 0.4, 1)]
    limit = severity_limit(clear + blurred)
    assert limit is not None
    assert (limit.tp, limit.fn, limit.fp) == (2, 1, 2)
    assert severity_limit([*clear, *blurred, row("B3", None, 0)]) is None
    assert severity_limit([*blurred, row("B1", 0.9, 1)]) is None
    grades = [row(lot, grade, int(grade > 2)) for lot in ("B1", "B2") for grade in (0, 1, 3, 5)]
    limit = severity_limit(grades)
    assert limit is not None and (limit.tp, limit.tn) == (4, 4)
    table = table_markdown([Column("global", (fold("B1", (1, 0), (0.9, 0.6)),))], [], Confusion(1, 0, 1, 0))
    assert "| limit: severity known |  | 50.00 below 100.00 |" in table


def test_recall_by_kind_counts_a_scan_of_two_kinds_for_both(tmp_path: Path) -> None:
    lines = ["file,bundle,label,kinds,severity"]
    for number, kinds in enumerate(("scratches", "scratches;bubbles", "bubbles", "")):
        (tmp_path / f"B1_{number}.tif").touch()
        label = "abnormal" if kinds else "normal"
        lines.append(f"B1_{number}.tif,B1,{label},{kinds},{0.6 + number / 10}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    found = kind_recalls(Column("global", (fold("B1", (1, 1, 1, 0), (0.1, 0.9, 0.9, 0.9)),)), read_labels(tmp_path))
    assert {kind: (entry["hits"], entry["total"]) for kind, entry in found.items()} == {
        "bubbles": (2, 2),
        "scratches": (1, 2),
    }
    assert [third["share"] for third in found["scratches"]["by_severity"]] == [0.0, 1.0, None]


def test_lots_are_in_their_natural_order() -> None:
    assert sorted(["B10", "B2", "A", "B1"], key=natural) == ["A", "B1", "B2", "B10"]
    for names in (["B2", "B02"], ["B02", "B2"]):  # as a set gives them, in another order each time
        assert sorted(names, key=natural) == ["B02", "B2"]


def test_lots_that_a_person_may_have_meant_as_one_are_named() -> None:
    assert lots_alike(["B1", "b01", "B 1", "B11", "B1.1", "B+", "B-"]) == [
        "lots of names alike, one lot or several? 'B1', 'b01', 'B 1'"
    ]


def test_conversions_are_taken_in_the_order_they_are_named() -> None:
    assert parse_methods("local, own,local,dhe", Method.GLOBAL) == [Method.LOCAL, Method.GLOBAL, Method.DHE]
    with pytest.raises(TrainError, match="no conversion 'blue'"):
        parse_methods("blue", Method.GLOBAL)


def test_a_recipe_file_changes_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "best"\npenalty = 0.5\nmethod = "dhe"\n')
    recipe = read_recipe(str(path))
    assert (recipe.features, recipe.penalty, recipe.method) == (BEST.features, 0.5, Method.DHE)
    assert read_recipe("paper") == PAPER


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3\n", "there is no 'epoch'"),
        ('loss = "cheap"\n', "loss = 'cheap'"),
        ("lr = -1\n", "lr = -1"),
        ("penalty = nan\n", "penalty = nan"),
        ("lr = inf\n", "lr = inf"),
        ("epochs = true\n", "epochs = True"),
        ("epochs = 0\n", "at least 1"),
        ('features = "tiles"\n', "takes no features of tiles"),
        ("epochs\n", "is not TOML"),
        ('base = "worst"\n', "base 'worst'"),
    ],
)
def test_a_senseless_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(TrainError, match=words):
        read_recipe(str(path))


def test_the_ablation_leads_from_the_paper_to_the_best_recipe() -> None:
    rows = steps(seed=0)
    assert rows[0].recipe == PAPER
    assert BEST in [row.recipe for row in rows]
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.recipe.fine_tune == "head" for row in rows[:WITHOUT_FINE_TUNING])
    assert [row.recipe.fine_tune for row in rows[WITHOUT_FINE_TUNING:]] == ["layer4", "all", "head", "head"]
    for row in rows:  # every step is a recipe that a file could hold
        values = {key: value for key, value in vars(row.recipe).items() if value != getattr(PAPER, key)}
        assert replaced(PAPER, values, row.name) == row.recipe


def test_votes_are_a_matter_of_the_ablation_only_where_labellers_disagree(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).touch()
    head = "file,bundle,label_1,label_2\n"
    (tmp_path / "labels.csv").write_text(head + "a.tif,B1,normal,normal\nb.tif,B1,abnormal,abnormal\n")
    agreed = usual_steps(read_labels(tmp_path))
    (tmp_path / "labels.csv").write_text(head + "a.tif,B1,normal,normal\nb.tif,B1,abnormal,normal\n")
    assert [steps(0)[number - 1].recipe.undecided for number in agreed] == ["majority"] * WITHOUT_FINE_TUNING
    of_votes = usual_steps(read_labels(tmp_path))[WITHOUT_FINE_TUNING:]
    assert [steps(0)[number - 1].recipe.undecided for number in of_votes] == ["drop", "class"]


@pytest.mark.usefixtures("shallow")
def test_each_step_of_the_ablation_is_a_row(
    tiny_lot: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", "64x64", "--weights", "none", "--cache", str(cache), "--rows", "12", "13"]
    assert main(["ablation", str(tiny_lot), "--out", str(tmp_path), *options]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == [step.name for step in steps(0)[11:13]]
    assert table[7].startswith("Data ") and "64 x 64 px" in table[7]
    assert (tmp_path / "ablation.md").read_text().splitlines() == table
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert found[1]["recipe"]["threshold"] == "calibrated"
    low, high = found[0]["overall"]["balanced_accuracy_interval_over_lots"]
    assert f"| {100 * low:.1f} to {100 * high:.1f}, {found[0]['overall']['lots']} lots |" in table[2]
    low, high = found[0]["overall"]["escape_rate_over_lots"]
    assert f"| {found[0]['overall']['fn']} ({100 * low:.1f} to {100 * high:.1f}) |" in table[2]
    assert main(["ablation", str(tiny_lot), "--out", str(tmp_path), *options[:-2], "10", "12"]) == 0
    said = capsys.readouterr()
    assert "step 12, 2 of 2" in said.err and said.err.count("3 there already") == 1  # a step keeps its folder
    assert {path.name for path in tmp_path.glob("[0-9]*")} == {"10", "12", "13"}
    names = [line.split("|")[1].strip() for line in said.out.splitlines()[2:5]]
    assert names == [steps(0)[number - 1].name for number in (10, 12, 13)]
    assert said.out.splitlines()[3:] == table[2:]
    told = tmp_path / "told"  # of what kind the anomalies are: the recall by kind of the rows before is of other labels
    shutil.copytree(tiny_lot, told)
    labels = [f"{line},{'bubbles' if line.endswith(',abnormal') else ''}" for line in rows_of(told)[1:]]
    (told / "labels.csv").write_text("\n".join(["file,bundle,label,kinds", *labels]))
    assert main(["ablation", str(told), "--out", str(tmp_path), *options[:-2], "12"]) == 0
    said = capsys.readouterr()
    assert said.err.count("3 there already") == 1
    assert [row["number"] for row in json.loads((tmp_path / "ablation.json").read_text())] == [12]
    assert main(["ablation", str(tiny_lot), "--out", str(tmp_path), *options[:-2], "99"]) == 1
