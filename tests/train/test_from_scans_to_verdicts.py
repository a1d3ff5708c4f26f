"""The commands of docs/train.md from labelled scans to verdicts, read from its text and typed in its order."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.cli import main as edge_worker
from edge.desk.app import build_app, new_desk
from edge.desk.cli import main as edge_desk
from edge.desk.store import FILE_NAME, DeskStore
from edge.images.conversion import prepare
from edge.settings import load_settings
from export.cli import main as edge_export
from tests.support.desk import Browser, put_account, put_piece
from tests.support.lots import write_brighter
from train.checkpoint import CLASSIFIER_FILE, load_checkpoint
from train.classifier.models import classifier_of
from train.cli import main as edge_train
from train.dataset import read_frame, read_labels
from train.networks import p_abnormal_of

torch.set_num_threads(1)

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "edge-train": edge_train,
    "edge-export": edge_export,
    "edge-worker": edge_worker,
}
SMALL = {
    "fine-tune": "--size 208x200 --weights none --epochs 1 --batch 4",
    "fit-features": "--size 208x200 --weights none --recipe recipe.toml",
    "calibrate": "--alpha 0.34",  # what three lots can carry
    "adapt": "--refused 0.1",  # what twelve scans can carry
    "gate": "--no-rotate --bank 16 --steps 3 --plain-steps 1 --settle-steps 1 --batch 2",
}
"""Added to the page's words, so that learning takes seconds; the last word on an option counts."""


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def block(heading: str) -> list[list[str]]:
    """The words of each command in the section's first block."""
    found = re.search(r"(?:^    .*\n)+", section(heading), flags=re.MULTILINE)
    assert found is not None
    commands = found[0].replace("\\\n", " ").splitlines()
    return [shlex.split(command, comments=True) for command in commands]


def in_the_text(heading: str, verb: str) -> list[str]:
    """The words of the one command of this verb in the section's text."""
    (found,) = re.findall(rf"`(edge-train {verb} [^`]+)`", section(heading))
    return shlex.split(found)


def of_the_block(heading: str, verb: str) -> list[str]:
    """The words of the one command of this verb in the section's first block."""
    (found,) = [words for words in block(heading) if words[1] == verb]
    return found


def commands(classifier: str) -> list[list[str]]:
    """What to type, in order: the block, with the classifier of that verb, calibrated before export."""
    training = "Train on your own scans"
    install, *typed = block(training)
    assert install[:2] == ["pip", "install"]
    verbs = [words[1] for words in typed]
    if classifier == "fine-tune":
        typed[verbs.index("fit-features")] = in_the_text(training, classifier)
    typed.insert(verbs.index("model"), in_the_text(training, "calibrate"))
    return [*typed, in_the_text(training, "bounds"), *block("Validate")]


def label_at_the_desk(lot: Path, folder: Path, out: Path) -> None:
    """Scans that the line sent to review, answered by a reader on the desk's pages, exported by its command."""
    evidence = folder / "state" / "evidence"
    evidence.mkdir(parents=True)
    config = folder / "edge.toml"
    config.write_text(f'[state]\ndir = "{folder.absolute()}/state"\n[desk]\ndir = "{folder.absolute()}/desk"\n')
    (folder / "desk").mkdir()
    asked = {
        put_piece(evidence, number, counts=read_frame(row).counts, lot=row.lot, file=row.file).record.verdict_id: row
        for number, row in enumerate(read_labels(lot))
    }
    with DeskStore(folder / "desk" / FILE_NAME) as store:
        put_account(store, "ann")
        reader = Browser(build_app(new_desk(load_settings(config), store)))
        reader.log_in("ann")
        for verdict_id, row in asked.items():
            answered = reader.answer(verdict_id, "abnormal" if row.label else "normal")
            assert answered.status == 303, answered.text
    assert edge_desk(["export", "--out", str(out), "--config", str(config)]) == 0


def test_the_page_goes_from_scans_to_verdicts() -> None:
    verbs = [words[1] for words in commands("fine-tune")]
    named = "doctor, fine-tune, gate, keygen, calibrate, model, verify, bounds, replay"
    assert ", ".join(verbs) == named


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("classifier", "conversion", "labels"),
    [
        ("fine-tune", "global", "own"),
        ("fit-features", "dhe", "desk"),
        *(pytest.param("fit-features", name, "own", marks=pytest.mark.slow) for name in ("local", "clahe")),
    ],
)
def test_what_was_learnt_from_scans_by_the_pages_commands_judges_them(
    small_lot: Path,
    held_back: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classifier: str,
    conversion: str,
    labels: str,
) -> None:
    """Labels of the lot's own list, or of people: then what the line asked them comes back as its next model."""
    monkeypatch.chdir(tmp_path)
    if labels == "desk":
        label_at_the_desk(small_lot, Path("desk"), Path("scans"))
    else:
        shutil.copytree(small_lot, "scans")
    shutil.copytree(held_back, "held-back")
    Path("recipe.toml").write_text(f'base = "best"\nmethod = "{conversion}"\n')
    for program, verb, *rest in commands(classifier):
        code = PROGRAMS[program]([verb, *rest, *shlex.split(SMALL.get(verb, ""))])
        if program == "edge-worker":
            summary = json.loads(Path("validation/summary.json").read_text())
            figures = summary["metrics"]
            is_met = figures["escape_rate_high"] <= 0.05 and figures["review_rate"] <= 0.1
            assert (code == 0) == is_met  # bars that so few scans cannot reach
        else:
            assert code == 0, (program, verb)

    verdicts = [json.loads(line) for line in Path("validation/verdicts.jsonl").read_text().splitlines()]
    rows = {row.file: row for row in read_labels(Path("scans"))}
    assert len(rows) == len(read_labels(small_lot))
    assert {verdict["scan"]["file"] for verdict in verdicts} == set(rows)
    checkpoint = load_checkpoint(Path("run") / CLASSIFIER_FILE, "classifier")
    assert checkpoint.review_band is not None
    network = classifier_of(checkpoint).eval()
    judged = [verdict for verdict in verdicts if verdict["p_abnormal"] is not None]  # the rest was out of spec
    assert len(judged) > len(verdicts) / 2
    for verdict in judged[:4]:
        assert verdict["threshold"] == checkpoint.thresholds["threshold"]
        counts = read_frame(rows[verdict["scan"]["file"]]).counts
        image = prepare(counts, checkpoint.method, checkpoint.bounds, checkpoint.size)
        with torch.inference_mode():
            p = p_abnormal_of(network(network.normalise(torch.from_numpy(image[np.newaxis]))))
        assert verdict["p_abnormal"] == pytest.approx(float(p[0]), abs=1e-3)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shallow")
def test_the_pages_commands_for_another_line_make_a_model_that_knows_its_scans(
    small_lot: Path, held_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other line is brighter; nothing abnormal of it is known when the model is made."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_lot, "scans")
    Path("recipe.toml").write_text('base = "best"\n')
    for folder, labels in (("normals", ("normal",)), ("line-2", ("normal", "abnormal"))):
        write_brighter(held_back, Path(folder), labels)
    fit, keygen = (of_the_block("Train on your own scans", verb) for verb in ("fit-features", "keygen"))
    for program, verb, *rest in (fit, keygen, *block("Another line")):
        assert PROGRAMS[program]([verb, *rest, *shlex.split(SMALL.get(verb, ""))]) == 0, (program, verb)
    judge = ["line-2", "--trusted-key", "keys/signing-key.pub.pem", "--labels", "line-2/labels.csv", "--out", "judged"]
    assert edge_worker(["replay", *judge, "--model", "my-model-line-2"]) == 0
    verdicts = [json.loads(line) for line in Path("judged/verdicts.jsonl").read_text().splitlines()]
    labels_of = {row.file: row.label for row in read_labels(Path("line-2"))}
    in_spec = [verdict for verdict in verdicts if verdict["p_abnormal"] is not None]
    assert {verdict["scan"]["file"] for verdict in in_spec} >= {file for file, label in labels_of.items() if not label}
    called = [(v["p_abnormal"] >= v["threshold"]) == labels_of[v["scan"]["file"]] for v in in_spec]
    assert sum(called) >= 0.8 * len(called)
    manifest = json.loads(Path("my-model-line-2/manifest.json").read_text())
    assert {"B0", "B1", "B2", "H0", "H1", "H2"} == set(manifest["learnt_from"]["lots"])


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shallow")
def test_the_pages_commands_for_the_first_day_make_a_model_of_normal_scans_alone(
    small_lot: Path,
    held_back: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It judges abnormal scans of other lots, none of which anything has seen, and labels tell how well."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_lot, "normals", ignore=lambda folder, names: [name for name in names if name[3] in "1357"])
    listed = [line for line in Path("normals/labels.csv").read_text().splitlines() if not line.endswith(",abnormal")]
    Path("normals/labels.csv").write_text("\n".join(listed) + "\n")
    shutil.copytree(held_back, "scans")
    small = {**SMALL, "fit-features": "--size 208x200 --weights none --refused 0.1"}
    small["crossval"] = "--size 208x200 --weights none"
    crossval = in_the_text("The first day: normal scans alone", "crossval")
    for program, verb, *rest in (*block("The first day: normal scans alone"), crossval):
        assert PROGRAMS[program]([verb, *rest, *shlex.split(small.get(verb, ""))]) == 0, (program, verb)
    assert "warning: 12 of 12 golden scans are among those it learnt from" in capsys.readouterr().err
    manifest = json.loads(Path("first-day/manifest.json").read_text())
    assert [golden["file"] for golden in manifest["golden"]] == ["golden/normal.tif", "golden/normal-2.tif"]
    assert manifest["learnt_from"]["lots"] == ["B0", "B1", "B2"] and manifest["reason_map"] is not None
    judge = ["scans", "--trusted-key", "keys/signing-key.pub.pem", "--labels", "scans/labels.csv", "--out", "judged"]
    assert edge_worker(["replay", *judge, "--model", "first-day"]) == 0
    summary = json.loads(Path("judged/summary.json").read_text())
    assert summary["learnt_from"] == {"is_known": True, "files": []}
    verdicts = [json.loads(line) for line in Path("judged/verdicts.jsonl").read_text().splitlines()]
    labels_of = {row.file: row.label for row in read_labels(Path("scans"))}
    in_spec = [verdict for verdict in verdicts if verdict["p_abnormal"] is not None]
    called = [(v["p_abnormal"] >= v["threshold"]) == labels_of[v["scan"]["file"]] for v in in_spec]
    assert len(called) >= 12 and sum(called) >= 0.8 * len(called)
