"""Two models on one folder, and a model that has seen the test before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.cli import main
from edge.model.manifest import LearntFrom
from edge.pipeline.loaded_model import LoadedModel
from edge.records import Outcome, counts_sha256
from edge.settings import Settings
from edge.validation.comparison import CHANGES_LISTED, Changes, compare
from edge.validation.labels import Label
from edge.validation.replay import ReplayOptions, ReplayResult, check_replay, run_replay, summary_lines
from edge.validation.table import ScanRow
from tests.support.fakes import BOOT_ID, write_scan
from tests.support.models import scripted_model
from tests.support.samples import sample_model_card, sample_verdict
from tests.support.signed_models import make_signed_model, write_public_key

NORMAL, ABNORMAL, REVIEW = Outcome.NORMAL, Outcome.ABNORMAL, Outcome.REVIEW
SETTINGS = Settings(station="xray-1")


def row(file: str, label: Label | None, outcome: Outcome, p: float = 0.5, lot: str = "L1") -> ScanRow:
    return ScanRow(file, lot, label, outcome, ("classifier",), p, 0.1, 0.1, (1.0, 1.0, 1.0))


def test_a_review_of_an_abnormal_scan_is_right_and_of_a_normal_one_is_not() -> None:
    labels = [Label.ABNORMAL] * 3 + [Label.NORMAL] * 3 + [None]
    this = [REVIEW, NORMAL, ABNORMAL, NORMAL, REVIEW, NORMAL, NORMAL]
    other = [NORMAL, ABNORMAL, ABNORMAL, NORMAL, NORMAL, ABNORMAL, ABNORMAL]
    rows, others = (
        [row(f"{at}.tif", label, outcome) for at, (label, outcome) in enumerate(zip(labels, outcomes, strict=True))]
        for outcomes in (this, other)
    )
    found = compare(rows, others, sample_model_card(), (), 5)
    right, stopped, passed = (share.table for share in found.shares)
    assert (right.both, right.only_first, right.only_second, right.neither) == (2, 2, 2, 0)
    assert (stopped.both, stopped.only_first, stopped.only_second, stopped.neither) == (1, 1, 1, 0)
    assert (passed.both, passed.only_first, passed.only_second, passed.neither) == (1, 1, 1, 0)
    assert found.figures.right_difference == 0.0 and found.figures.right_p_value == 1.0
    assert found.figures.right_difference_lots_low is None  # one lot says nothing of others


def test_new_mistakes_stand_before_gone_ones_and_those_before_changes_nobody_labelled() -> None:
    changes = Changes()
    pairs = [
        (row("gone.tif", Label.NORMAL, NORMAL, 0.4), row("gone.tif", Label.NORMAL, ABNORMAL, 0.9)),
        (row("open.tif", None, NORMAL, 0.0), row("open.tif", None, ABNORMAL, 1.0)),
        (row("overkill.tif", Label.NORMAL, ABNORMAL, 0.6), row("overkill.tif", Label.NORMAL, NORMAL, 0.4)),
        (row("escape.tif", Label.ABNORMAL, NORMAL, 0.4), row("escape.tif", Label.ABNORMAL, REVIEW, 0.5)),
        (row("same.tif", Label.ABNORMAL, NORMAL, 0.1), row("same.tif", Label.ABNORMAL, NORMAL, 0.4)),
    ]
    pairs += [(row(f"{n}.tif", None, NORMAL, 0.5), row(f"{n}.tif", None, REVIEW, 0.5)) for n in range(CHANGES_LISTED)]
    for this, other in pairs:
        changes.offer(this, sample_verdict(), other)
    kept = changes.kept(lambda file, verdict: None)
    assert [change.row.file for change in kept[:5]] == ["escape.tif", "overkill.tif", "gone.tif", "open.tif", "0.tif"]
    assert (changes.count, len(kept)) == (CHANGES_LISTED + 4, CHANGES_LISTED)


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    """Three lots of dark, middling and bright scans; people call the middling ones abnormal."""
    folder = tmp_path / "lot"
    folder.mkdir()
    lines = ["file,bundle,label"]
    for number in range(12):
        level = (1900, 2200, 2700)[number % 3]
        name = f"B0{number // 4 + 1}_{number:04}.tif"
        write_scan(folder / name, level, seed=number)
        lines.append(f"{name},B0{number // 4 + 1},{'normal' if level == 1900 else 'abnormal'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def run(lot: Path, out: Path, model: LoadedModel, *rules: str, other: LoadedModel | None = None) -> ReplayResult:
    options = ReplayOptions(folder=lot, labels=lot / "labels.csv", out=out, requirements=rules)
    return run_replay(check_replay(options, SETTINGS), SETTINGS, model, BOOT_ID, other=other)


def test_the_report_shows_what_a_lower_threshold_changes(lot: Path, tmp_path: Path) -> None:
    lower = scripted_model(threshold=0.4, model_id="lower")
    rules = ("stopped_difference>=0.5", "stopped_difference_low>0", "changed_count==4", "passed_p_value==1")
    result = run(lot, tmp_path / "out", lower, *rules, other=scripted_model())
    assert [item.met for item in result.requirements] == [True] * 4
    assert "4 decisions differ from those of scripted-1" in summary_lines(result)
    against = json.loads(result.summary.read_text())["against"]
    assert against["tables"][1] == {
        "name": "Abnormal and stopped", "both": 4, "only_other": 0, "only_this": 4, "neither": 0, "worst": None
    }  # fmt: skip
    assert {change["this"] for change in against["changes"]} == {"abnormal"}
    report = result.report.read_text()
    section = report[report.index("Against the model scripted-1") : report.index("Scans to look at")]
    assert section.count("data:image/jpeg") == 4 and "B01_0001.tif" in section
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "verdicts.jsonl", "summary.json", "report.html", "run.json", "scans.csv"
    }  # fmt: skip


def test_without_another_model_its_figures_are_not_measured(lot: Path, tmp_path: Path) -> None:
    result = run(lot, tmp_path / "out", scripted_model(), "changed_count==0")
    assert not result.requirements[0].met
    assert "Against the model" not in result.report.read_text()


def test_the_command_line_judges_by_two_signed_models(
    lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lower(content: dict[str, object]) -> None:
        content["model_id"] = "lower"
        content["policy"] = {
            "threshold": 0.4,
            "review_band": None,
            "gate_mean_threshold": 9.0,
            "gate_std_threshold": 9.0,
        }

    new, old = make_signed_model(tmp_path / "new", edit=lower), make_signed_model(tmp_path / "old")
    key = write_public_key(tmp_path / "key.pem")
    words = ["replay", str(lot), "--labels", str(lot / "labels.csv"), "--model", str(new), "--against", str(old)]
    assert main([*words, "--trusted-key", str(key), "--out", str(tmp_path / "out")]) == 0
    assert "differ from those of bright-is-abnormal" in capsys.readouterr().out


def learnt(*files: Path, lots: tuple[str, ...] = ()) -> LoadedModel:
    model = scripted_model()
    scans = tuple(hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files)
    manifest = model.signed.manifest.model_copy(update={"learnt_from": LearntFrom(lots=lots, scans=scans)})
    return replace(model, signed=replace(model.signed, manifest=manifest))


def test_a_test_the_model_learnt_from_is_loudly_no_qualification(lot: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "elsewhere.tif", 1900, seed=0)  # the bytes of one scan under another name
    result = run(lot, tmp_path / "out", learnt(tmp_path / "elsewhere.tif", lot / "B02_0005.tif"), "learnt_count==0")
    lines = summary_lines(result)
    assert lines[0] == "THIS IS NO QUALIFICATION: THE MODEL LEARNT FROM 2 SCANS OF THIS FOLDER."
    assert not result.requirements[0].met and result.requirements[0].observed == 2
    assert json.loads(result.summary.read_text())["learnt_from"]["files"] == ["B01_0000.tif", "B02_0005.tif"]
    head = result.report.read_text().split("<h2>")[0]
    assert "✕ This is no qualification: the model learnt from 2 scans of this folder." in head
    assert "B02_0005.tif" in head


def test_a_scan_that_was_saved_anew_is_known_again_by_its_pixels(lot: Path, tmp_path: Path) -> None:
    counts = tifffile.imread(lot / "B02_0005.tif")
    anew = tmp_path / "anew.tif"
    tifffile.imwrite(anew, counts, byteorder=">", photometric="minisblack", rowsperstrip=7, software="another program")
    assert anew.read_bytes() != (lot / "B02_0005.tif").read_bytes()
    model = learnt(anew)
    learnt_from = LearntFrom(scans=model.signed.manifest.learnt_from.scans, pixels=(counts_sha256(counts)[:16],))
    manifest = model.signed.manifest.model_copy(update={"learnt_from": learnt_from})
    model = replace(model, signed=replace(model.signed, manifest=manifest))
    result = run(lot, tmp_path / "out", model, "learnt_count==0")
    assert result.requirements[0].observed == 1
    assert json.loads(result.summary.read_text())["learnt_from"]["files"] == ["B02_0005.tif"]


def test_a_test_that_the_thresholds_were_set_on_is_loudly_no_qualification(lot: Path, tmp_path: Path) -> None:
    """`edge-train calibrate` chose them for the best figures on just these scans; one was saved anew since."""
    write_scan(tmp_path / "elsewhere.tif", 1900, seed=99)
    model = learnt(tmp_path / "elsewhere.tif")
    scan, pixels = lot / "B01_0000.tif", tifffile.imread(lot / "B02_0005.tif")
    calibrated_on = LearntFrom(
        lots=("B01",),
        scans=(hashlib.sha256(scan.read_bytes()).hexdigest()[:16],),
        pixels=(counts_sha256(pixels)[:16],),
    )
    manifest = model.signed.manifest.model_copy(update={"calibrated_on": calibrated_on})
    model = replace(model, signed=replace(model.signed, manifest=manifest))
    result = run(lot, tmp_path / "out", model, "learnt_count==0", "calibrated_count==0", "learnt_lot_count>=1")
    assert summary_lines(result)[0] == "THIS IS NO QUALIFICATION: ITS THRESHOLDS WERE SET ON 2 SCANS OF THIS FOLDER."
    assert [item.met for item in result.requirements] == [True, False, True]
    assert json.loads(result.summary.read_text())["calibrated_on"]["files"] == ["B01_0000.tif", "B02_0005.tif"]
    head = result.report.read_text().split("<h2>")[0]
    assert "Thresholds set on: B01_0000.tif, B02_0005.tif." in head and "Learnt from:" not in head


def test_what_is_known_again_of_a_planted_leak_and_what_is_not(lot: Path, tmp_path: Path) -> None:
    """docs/qualification.md says so: copies by bytes and counts, mirrored ones too, nothing that changed a count."""
    counts = tifffile.imread(lot / "B01_0000.tif")
    planted = {
        "renamed": counts,
        "deflated": counts,
        "mirrored": counts[:, ::-1],
        "turned": counts[::-1, ::-1],
        "upside down": counts[::-1],
        "turned by 90": counts.T,
        "cropped": counts[:-2, :],
        "one count more": counts + np.eye(*counts.shape, dtype=np.uint16),
        "eight bit": (counts >> 8).astype(np.uint8),
    }
    (folder := tmp_path / "set").mkdir()
    for name, pixels in planted.items():
        compression = "deflate" if name == "deflated" else None
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", compression=compression)
    model = learnt(lot / "B01_0000.tif")
    learnt_from = LearntFrom(scans=model.signed.manifest.learnt_from.scans, pixels=(counts_sha256(counts)[:16],))
    manifest = model.signed.manifest.model_copy(update={"learnt_from": learnt_from})
    model = replace(model, signed=replace(model.signed, manifest=manifest))
    options = ReplayOptions(folder=folder, out=tmp_path / "out", requirements=("learnt_count==5", "copies_count==4"))
    settings = Settings(station="xray-1")
    result = run_replay(check_replay(options, settings), settings, model, BOOT_ID)
    assert [item.met for item in result.requirements] == [True, True]
    found = json.loads(result.summary.read_text())["learnt_from"]["files"]
    assert found == ["deflated.tif", "mirrored.tif", "renamed.tif", "turned.tif", "upside down.tif"]
    assert (
        "4 files hold the counts of another file of this folder, mirrored or not, and count twice"
        in result.report.read_text()
    )


def test_that_nothing_was_learnt_from_is_said_with_the_number_of_scans_known(lot: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "elsewhere.tif", 1900, seed=99)
    result = run(lot, tmp_path / "out", learnt(tmp_path / "elsewhere.tif", lots=("L7",)), "learnt_count==0")
    assert result.requirements[0].met and result.warning is None
    assert "No scan of this folder is among the 1 scans the model learnt from" in result.report.read_text()


def test_lots_with_the_names_of_training_lots_are_named(lot: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "elsewhere.tif", 1900, seed=99)
    result = run(lot, tmp_path / "out", learnt(tmp_path / "elsewhere.tif", lots=("B02", "L7")), "learnt_lot_count==4")
    assert result.requirements[0].met
    assert "4 labelled scans are of lots with the names of training lots" in result.report.read_text()


def test_a_model_that_does_not_say_what_it_learnt_from_proves_nothing(lot: Path, tmp_path: Path) -> None:
    result = run(lot, tmp_path / "out", scripted_model(), "learnt_count==0")
    assert not result.requirements[0].met
    assert "The model does not say what it learnt from" in result.report.read_text()
