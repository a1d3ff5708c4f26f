"""`edge-worker --replay` on real files: same candidates, same worker, and results that can be relied on."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import jsonschema
import numpy as np
import pytest
import tifffile

import edge
import edge.system.progress
from edge.cli import main
from edge.contract.messages import Verdict, canonical_json
from edge.engines import Batch, EngineOutput
from edge.errors import EdgeError, EngineError, LedgerError, SettingsError, TableError
from edge.pipeline.loaded_model import LoadedModel
from edge.records import Size
from edge.scans.decoder import Decoder, _Child
from edge.settings import FolderSettings, Settings
from edge.store.ledger import Entry, open_ledger
from edge.validation.judging import JudgedFile
from edge.validation.replay import (
    REQUIREMENT_UNMET,
    ReplayOptions,
    ReplayResult,
    check_replay,
    only_one_into,
    replay,
    run_replay,
    summary_lines,
)
from tests.support.fakes import BOOT_ID, write_scan
from tests.support.models import bright_is_abnormal, scripted_model
from tests.support.signed_models import make_signed_model, write_public_key

NORMAL, ABNORMAL = 1900, 2700
"""Counts of scans that are normal and abnormal for the scripted engine."""


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    """Six good scans, one of every bad kind, and labels with two mistakes of the model's making."""
    folder = tmp_path / "lot"
    folder.mkdir()
    for number in range(1, 4):
        write_scan(folder / f"B01_{number:04}.tif", NORMAL, seed=number)
    write_scan(folder / "B02_0001.tif", ABNORMAL)
    write_scan(folder / "B02_0002.TIFF", ABNORMAL, seed=2)
    write_scan(folder / "B02_0003.tif", NORMAL, seed=9)
    write_scan(folder / "B03_0001.tif", NORMAL, size=Size(20, 20))  # too small for the model
    half = np.full((100, 80), NORMAL, np.uint16)
    half[:50] = 2750
    tifffile.imwrite(folder / "B03_0002.tif", half, metadata=None)  # the gate does not know such a step
    whole = (folder / "B01_0001.tif").read_bytes()
    (folder / "B04_0001.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "B04_0002.tif").mkdir()
    (folder / "B04_0003.tif").write_bytes(b"no scan at all")
    (folder / "B04_0004.tif").symlink_to(folder / "B01_0001.tif")
    (folder / "notes.txt").write_text("not a candidate")
    (folder / ".B01_0009.tif").write_bytes(b"hidden: still being copied")
    labels = [("B01_0001.tif", "normal"), ("B01_0002.tif", "normal"), ("B01_0003.tif", "abnormal")]
    labels += [("B02_0001.tif", "abnormal"), ("B02_0002.TIFF", "normal"), ("B02_0003.tif", "normal")]
    labels += [("B03_0001.tif", "abnormal"), ("B04_0001.tif", ""), ("gone.tif", "normal")]
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "bundle", "label", "kinds", "severity"])
        writer.writerows([file, file[:3], label, "", "0.1"] for file, label in labels)
    return folder


def settings(*, recursive: bool = False) -> Settings:
    return Settings(station="xray-1", folder=FolderSettings(recursive=recursive))


def run(
    folder: Path,
    out: Path,
    *requirements: str,
    labels: Path | None = None,
    model: LoadedModel | None = None,
    recursive: bool = False,
    publish_to: object = None,
) -> ReplayResult:
    options = ReplayOptions(folder=folder, labels=labels, out=out, requirements=requirements)
    chosen = settings(recursive=recursive)
    store = publish_to if isinstance(publish_to, Store) else None
    return run_replay(check_replay(options, chosen), chosen, model or scripted_model(), BOOT_ID, publish_to=store)


class Store:
    """A verdict store that keeps what it is given, or fails from the n-th entry on."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.entries: list[Entry] = []
        self._fails_after = fails_after

    def commit(self, entries: Sequence[Entry], now: datetime) -> list[int | None]:
        if self._fails_after is not None and len(self.entries) >= self._fails_after:
            raise LedgerError("disk full", hint="make room")
        self.entries += entries
        return [None] * len(entries)


def verdicts(result: ReplayResult) -> dict[str, Verdict]:
    lines = result.verdicts.read_bytes().splitlines()
    parsed = [Verdict.model_validate_json(line) for line in lines]
    assert [canonical_json(verdict) for verdict in parsed] == lines
    return {verdict.scan.file: verdict for verdict in parsed}


def test_every_candidate_of_the_folder_gets_one_verdict_in_order(lot: Path, tmp_path: Path) -> None:
    result = run(lot, tmp_path / "out")
    found = verdicts(result)
    assert {file: (str(verdict.outcome), verdict.reasons[0]) for file, verdict in found.items()} == {
        "B01_0001.tif": ("normal", "classifier"),
        "B01_0002.tif": ("normal", "classifier"),
        "B01_0003.tif": ("normal", "classifier"),
        "B02_0001.tif": ("abnormal", "classifier"),
        "B02_0002.TIFF": ("abnormal", "classifier"),
        "B02_0003.tif": ("normal", "classifier"),
        "B03_0001.tif": ("review", "out-of-spec"),
        "B03_0002.tif": ("review", "gate-mean"),
        "B04_0001.tif": ("unreadable", "truncated"),
        "B04_0002.tif": ("unreadable", "not-a-file"),
        "B04_0003.tif": ("unreadable", "not-tiff"),
        "B04_0004.tif": ("unreadable", "not-a-file"),
    }
    assert [verdict.seq for verdict in found.values()] == list(range(1, 13))
    assert all(verdict.is_simulated and verdict.boot_id == BOOT_ID for verdict in found.values())


def test_verdicts_obey_the_schema_that_is_shipped(lot: Path, tmp_path: Path) -> None:
    schema = json.loads((Path(edge.__file__).parent / "contract" / "schema" / "verdict-1.schema.json").read_text())
    for line in run(lot, tmp_path / "out").verdicts.read_text().splitlines():
        jsonschema.validate(json.loads(line), schema)


def test_figures_follow_the_labels(lot: Path, tmp_path: Path) -> None:
    result = run(lot, tmp_path / "out", labels=lot / "labels.csv")
    metrics = result.metrics
    assert (metrics.escape_count, metrics.labelled_abnormal_count) == (1, 3)
    assert (metrics.overkill_count, metrics.labelled_normal_count) == (1, 4)
    assert metrics.balanced_accuracy == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert (metrics.unlabelled_count, metrics.labels_without_file_count) == (5, 1)
    summary = json.loads(result.summary.read_text())
    assert summary["metrics"].items() >= metrics.flat().items()
    assert summary["metrics"]["lots_count"] == 3
    assert summary["labels_without_file"] == ["line 10: gone.tif"]
    assert [lot["bundle"] for lot in summary["bundles"]] == ["B01", "B02", "B03", "B04"]
    report = result.report.read_text()
    assert "B01_0003.tif" in report and "line 10: gone.tif" in report
    assert "height 20 px, the model takes 64 to 512 px" in report


def test_the_command_says_what_came_of_it(lot: Path, tmp_path: Path) -> None:
    result = run(lot, tmp_path / "out", "escape_rate<=0.5", "auroc > 0.999", labels=lot / "labels.csv")
    lines = summary_lines(result)
    assert lines[0] == "12 files: 4 normal, 2 abnormal, 2 review, 4 unreadable"
    assert lines[1].startswith("balanced accuracy 62.5% (95 % interval ")
    assert "1 rows of the labels file fit no file of the folder" in lines
    assert "5 files have no label" in lines
    assert "met     escape_rate <= 0.5: observed 0.333333" in lines
    assert any(line.startswith("NOT MET auroc > 0.999: observed 0.") for line in lines)
    assert result.exit_code == REQUIREMENT_UNMET != 0


def test_requirements_that_are_met_end_with_zero(lot: Path, tmp_path: Path) -> None:
    assert run(lot, tmp_path / "out", "unreadable_count==4", "scans_count>=12").exit_code == 0


def test_equal_bytes_under_two_names_are_judged_twice(tmp_path: Path) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    first = write_scan(lot / "a.tif")
    (lot / "b.tif").write_bytes(first.read_bytes())
    found = verdicts(run(lot, tmp_path / "out"))
    assert found["a.tif"].verdict_id == found["b.tif"].verdict_id
    assert found["a.tif"].p_abnormal == found["b.tif"].p_abnormal is not None


def test_sub_folders_count_only_if_the_settings_say_so(tmp_path: Path) -> None:
    lot = tmp_path / "lot"
    (lot / "day1").mkdir(parents=True)
    write_scan(lot / "a.tif")
    write_scan(lot / "day1" / "b.tif", ABNORMAL)
    assert set(verdicts(run(lot, tmp_path / "flat"))) == {"a.tif"}
    assert set(verdicts(run(lot, tmp_path / "deep", recursive=True))) == {"a.tif", "day1/b.tif"}


def test_names_that_are_no_utf_8_are_judged_labelled_and_reported(tmp_path: Path) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    write_scan(lot / "B01_plain.tif", ABNORMAL)
    name = b"B01_\xff<b>.tif"
    os.rename(lot / "B01_plain.tif", lot / os.fsdecode(name))  # noqa: PTH104
    (lot / "labels.csv").write_bytes(b"file,bundle,label\n" + name + b",B01,normal\n")
    result = run(lot, tmp_path / "out", labels=lot / "labels.csv")
    assert result.metrics.overkill_count == 1
    assert list(verdicts(result)) == ["B01_\\xff<b>.tif"]
    assert "B01_\\xff&lt;b&gt;.tif" in result.report.read_text()


def test_a_second_replay_into_the_same_folder_leaves_nothing_of_the_first(lot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(lot, out)
    (lot / "B02_0001.tif").unlink()

    def fail(images: Batch) -> EngineOutput:
        raise EngineError("device lost", hint="reboot")

    with pytest.raises(EngineError, match="device lost"):
        run(lot, out, model=scripted_model(fail))
    assert not any(path.exists() for path in (first.summary, first.report, first.verdicts, out / "run.json"))
    assert len(verdicts(run(lot, out))) == 11


class CountedEngine:
    """Answers as the scripted engine does, and fails at one call."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.images = 0
        self._fails_at = fails_at

    def __call__(self, images: Batch) -> EngineOutput:
        if self.images == self._fails_at:
            raise EngineError("device lost", hint="reboot")
        self.images += len(images)
        return bright_is_abnormal(images)


def test_what_was_judged_before_a_failure_is_not_judged_again(lot: Path, tmp_path: Path) -> None:
    whole = run(lot, tmp_path / "whole")
    with pytest.raises(EngineError):
        run(lot, tmp_path / "out", model=scripted_model(CountedEngine(fails_at=3), max_batch=1))
    parts = b"".join(path.read_bytes() for path in sorted((tmp_path / "out" / ".parts").glob("*/*.jsonl")))
    judged = [JudgedFile.of_line(line).verdict for line in parts.splitlines()]
    assert [verdict.scan.file for verdict in judged] == [f"B01_000{number}.tif" for number in (1, 2, 3)]
    kept = b"".join(canonical_json(verdict) + b"\n" for verdict in judged)
    again = run(lot, tmp_path / "out", model=scripted_model(CountedEngine(), max_batch=1))
    assert (again.run.resumed, again.run.judged) == (3, 9)
    assert again.verdicts.read_bytes().startswith(kept)
    assert again.report.read_bytes() == whole.report.read_bytes()
    assert again.summary.read_bytes() == whole.summary.read_bytes()


def test_a_line_that_a_kill_cut_and_a_file_that_changed_since_are_judged_again(lot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=4), max_batch=1))
    (part,) = (out / ".parts").glob("*/000000.jsonl")
    part.write_bytes(part.read_bytes()[:-9])
    assert run(lot, out).run.resumed == 3

    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=4), max_batch=1))
    write_scan(lot / "B01_0002.tif", ABNORMAL, seed=77)
    result = run(lot, out)
    assert result.run.resumed == 3, "the others stand"
    assert verdicts(result)["B01_0002.tif"].outcome == "abnormal"


@pytest.mark.parametrize("is_moved", [False, True], ids=["in another folder", "under its name"])
def test_another_file_of_the_same_name_size_and_time_is_judged(lot: Path, tmp_path: Path, is_moved: bool) -> None:
    """As unpacking an archive leaves files, whose times are coarse."""
    for path in lot.iterdir():
        if not path.is_symlink():
            os.utime(path, (1000, 1000))
    out, names = tmp_path / "out", ("B01_0001.tif", "B02_0001.tif")
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=4), max_batch=1))
    images = [(lot / name).read_bytes() for name in names]
    if not is_moved:
        other = tmp_path / "other"
        shutil.copytree(lot, other, symlinks=True)
        for name, image in zip(names, reversed(images), strict=True):
            (other / name).write_bytes(image)
            os.utime(other / name, (1000, 1000))
        lot = other
    else:
        (lot / names[0]).rename(lot / "kept")
        (lot / names[1]).rename(lot / names[0])
        (lot / "kept").rename(lot / names[1])
    found = verdicts(run(lot, out))
    assert [found[name].outcome for name in names] == ["abnormal", "normal"]


@pytest.mark.parametrize(
    "left", [bytes(400), b"5", b"[1]", b"{}", b"[" * 100_000, b"no hash"], ids=lambda left: str(left[:4])
)
@pytest.mark.parametrize("is_other_list", [False, True])
def test_a_verdict_that_a_failing_disk_damaged_is_judged_again(
    lot: Path, tmp_path: Path, left: bytes, is_other_list: bool
) -> None:
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=4), max_batch=1))
    (part,) = (out / ".parts").glob("*/000000.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    if left == b"no hash":
        name, _, verdict = lines[2].rstrip(b"\n").split(b"\t")
        left = b"\t".join((name, left, verdict))
    part.write_bytes(b"".join([*lines[:2], left + b"\n", *lines[3:]]))
    if is_other_list:
        write_scan(lot / "Z00_0001.tif", NORMAL)
    result = run(lot, out)
    assert result.run.resumed == 3
    assert len(verdicts(result)) == 12 + is_other_list


def test_files_that_came_or_went_since_a_replay_was_ended_cost_no_verdict_on_the_others(
    lot: Path, tmp_path: Path
) -> None:
    """They stand before, between and behind those that were judged, over more parts than before."""
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=4), max_batch=1))
    (lot / "B01_0002.tif").unlink()
    for number in range(6):
        write_scan(lot / f"A00_{number:04}.tif", (NORMAL, ABNORMAL)[number % 2], seed=number)
    write_scan(lot / "B01_0003a.tif", NORMAL)
    (lot / "B01_0001.tif").rename(lot / os.fsdecode(b"B01_0001\xff\ttab.tif"))
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=5), max_batch=1))

    assert len(list((out / ".parts").glob("*/"))) == 1
    write_scan(lot / "Z00_0001.tif", NORMAL)
    resumed, whole = run(lot, out), run(lot, tmp_path / "whole")

    assert (resumed.run.resumed, resumed.run.judged) == (7, 12)
    assert [verdict.seq for verdict in verdicts(resumed).values()] == list(range(1, 20))
    assert resumed.report.read_bytes() == whole.report.read_bytes()
    assert resumed.summary.read_bytes() == whole.summary.read_bytes()


@pytest.mark.parametrize("change", ["model", "program"])
def test_verdicts_of_another_model_or_program_do_not_stand(
    lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        run(lot, out, model=scripted_model(CountedEngine(fails_at=3), max_batch=1))
    if change == "program":
        monkeypatch.setattr("edge.validation.replay.program_sha256", lambda: "ef" * 32)
    model = scripted_model()
    if change == "model":
        model = replace(model, signed=replace(model.signed, digest="cd" * 32))
    assert run(lot, out, model=model).run.resumed == 0


def test_a_store_that_publishes_gets_every_verdict_before_the_file_does(lot: Path, tmp_path: Path) -> None:
    store = Store()
    found = verdicts(run(lot, tmp_path / "out", publish_to=store))
    handed = [entry.verdict for entry in store.entries]
    assert [verdict.scan.file for verdict in handed if verdict is not None] == list(found)
    assert all(verdict is not None and verdict.seq == 0 and verdict.is_simulated for verdict in handed)


def test_a_store_that_fails_stops_the_replay(lot: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="disk full"):
        run(lot, tmp_path / "out", publish_to=Store(fails_after=4), model=scripted_model(max_batch=1))
    (part,) = (tmp_path / "out" / ".parts").glob("*/000000.jsonl")
    assert len(part.read_bytes().splitlines()) == 4


def test_a_disk_that_takes_no_more_is_named_and_is_no_defect(lot: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*out'"):
            run(lot, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_finished_replay_leaves_its_results_and_nothing_else(lot: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".parts-against").mkdir(parents=True)  # of a comparison that was ended
    run(lot, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"verdicts.jsonl", "summary.json", "report.html", "run.json", "scans.csv"}


def test_report_and_summary_hold_no_time_and_the_run_does(lot: Path, tmp_path: Path) -> None:
    first, second = (run(lot, tmp_path / name, labels=lot / "labels.csv") for name in ("first", "second"))
    assert first.report.read_bytes() == second.report.read_bytes()
    assert first.summary.read_bytes() == second.summary.read_bytes()
    told_of = json.loads((tmp_path / "first" / "run.json").read_text())
    assert told_of["judged"] == 12 and told_of["speed"]["scans_per_s"] > 0
    assert re.match(r"[\d,]+ scans an hour and core; 10,000,000 take ", told_of["archive"])
    assert told_of["archive"] in summary_lines(first)


def test_a_real_ledger_can_take_the_verdicts(lot: Path, tmp_path: Path) -> None:
    chosen = settings()
    checked = check_replay(ReplayOptions(folder=lot, out=tmp_path / "out"), chosen)
    with open_ledger(tmp_path / "out" / "ledger.sqlite", "xray-1") as ledger:
        run_replay(checked, chosen, scripted_model(), BOOT_ID, publish_to=ledger)
        assert ledger.pending().count == 12
        assert [row.seq for row in ledger.outbox(0, 99)] == list(range(1, 13))


def test_a_folder_of_any_length_costs_the_memory_of_a_few_pictures(tmp_path: Path) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    scan = write_scan(lot / "B01_0000.tif", ABNORMAL).read_bytes()
    for number in range(1, 80):
        (lot / f"B01_{number:04}.tif").write_bytes(scan)
    report = run(lot, tmp_path / "out").report.read_text()
    assert report.count("data:image/jpeg") == 12
    assert "12 of 80 are shown" in report


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"requirements": ("balanced_accuracy>=0.9", "speed>1")}, SettingsError, "no figure is called 'speed'"),
        ({"labels": Path("no-such.csv")}, TableError, "no-such.csv cannot be read"),
        ({"folder": Path("no-such-folder")}, SettingsError, "no-such-folder is not a folder"),
        ({"out": Path("/proc/version/out")}, SettingsError, "results cannot go to"),
    ],
)
def test_what_was_mistyped_is_said_before_anything_is_judged(
    lot: Path, tmp_path: Path, arguments: dict[str, object], error: type[EdgeError], complaint: str
) -> None:
    options = {"folder": lot, "out": tmp_path / "out", **arguments}
    with pytest.raises(error, match=re.escape(complaint)):
        check_replay(ReplayOptions(**options), settings())  # type: ignore[arg-type]


def test_a_folder_without_scans_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(SettingsError, match=r"holds no \*\.tif") as caught:
        check_replay(ReplayOptions(folder=tmp_path, out=tmp_path / "out"), settings())
    assert "folder.recursive" in caught.value.hint


def test_results_go_beside_the_caller_unless_told_otherwise(
    lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in lot.iterdir())
    checked = check_replay(ReplayOptions(folder=lot), settings())
    result = run_replay(checked, settings(), scripted_model(), BOOT_ID)
    assert result.report.resolve() == tmp_path / "replay-lot" / "report.html"
    assert sorted(path.name for path in lot.iterdir()) == before  # the folder itself is never written to


def test_progress_is_plain_lines_where_nobody_watches(
    lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = iter(range(0, 10_000, 40))
    monkeypatch.setattr(edge.system.progress, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    run(lot, tmp_path / "out")
    said = capsys.readouterr().err.splitlines()
    assert said[2] == "scans: 2 of 12 (17%), 0.025/s: 2 normal"
    assert said[-1] == "scans: 12 of 12 (100%), 0.025/s: 4 normal, 2 abnormal, 2 review, 4 unreadable"


def test_progress_is_a_bar_on_a_terminal(lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run(lot, tmp_path / "out")
    assert "12/12" in terminal.getvalue()


def not_published(out: Path, model: LoadedModel, boot_id: UUID) -> NoReturn:
    raise AssertionError("nobody asked for it")


def test_the_command_loads_the_model_after_the_plan_and_closes_it(
    lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted_model()
    monkeypatch.setattr("edge.validation.replay.load_model", lambda _settings: model)
    options = ReplayOptions(folder=lot, out=tmp_path / "out", requirements=("normal_count==4",))
    code = replay(options, settings(), not_published)
    assert code == 0
    assert model.engine.is_closed  # type: ignore[attr-defined]
    assert "--labels" in capsys.readouterr().out  # labels.csv lies in the folder and was not asked for


def test_publishing_spans_the_replay(lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story: list[str] = []

    class Publishing:
        def __init__(self, out: Path, model: LoadedModel, boot_id: UUID) -> None:
            self.store = Store()
            story.append(f"opened in {out.name}")

        def __enter__(self) -> Store:
            return self.store

        def __exit__(self, *_: object) -> None:
            story.append(f"delivered {len(self.store.entries)}")

    monkeypatch.setattr("edge.validation.replay.load_model", lambda _settings: scripted_model())
    options = ReplayOptions(folder=lot, out=tmp_path / "out", publish=True)
    replay(options, settings(), Publishing)  # type: ignore[arg-type]
    assert story == ["opened in out", "delivered 12"]


def test_the_command_line_replays_with_a_signed_model(
    lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, key = make_signed_model(tmp_path / "model"), write_public_key(tmp_path / "key.pem")
    given = ["--replay", str(lot), "--model", str(model), "--trusted-key", str(key), "--out", str(tmp_path / "out")]
    code = main([*given, "--labels", str(lot / "labels.csv"), "--require", "escape_rate<=0.1"])
    said = capsys.readouterr().out
    assert code == REQUIREMENT_UNMET
    assert "NOT MET escape_rate <= 0.1: observed 0.333333" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["model"]["engine"] == "onnxruntime"
    assert summary["model"]["id"] == "bright-is-abnormal"
    assert summary["metrics"]["scans_count"] == 12


def test_the_command_line_refuses_an_unknown_figure_before_it_loads_the_model(
    lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--replay", str(lot), "--model", str(tmp_path / "no-model"), "--require", "recall>=1"])
    assert code == SettingsError.exit_code
    assert "no figure is called 'recall'" in capsys.readouterr().err


def test_two_replays_never_write_into_one_folder_at_the_same_time(lot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with only_one_into(out), pytest.raises(SettingsError, match="another replay writes into"):
        replay(ReplayOptions(folder=lot, out=out), settings(), publishing=lambda *_: pytest.fail("not asked for"))
    assert not list(out.iterdir()), "the second one has touched nothing"


def test_lots_that_a_person_may_have_meant_as_one_are_named(lot: Path, tmp_path: Path) -> None:
    labels = lot / "labels.csv"
    labels.write_text(labels.read_text().replace("B01_0001.tif,B01", "B01_0001.tif,b 1"))
    result = run(lot, tmp_path / "out", labels=labels)
    assert "lots of names alike, one lot or several? B01, b 1" in summary_lines(result)
    assert json.loads(result.summary.read_text())["metrics"]["lots_alike_count"] == 1


def test_labels_that_the_results_would_replace_are_refused_and_stay(lot: Path) -> None:
    labels = (lot / "labels.csv").rename(lot / "scans.csv")
    with pytest.raises(SettingsError, match=r"take the place of the labels .*scans\.csv"):
        run(lot, lot / "." / "notes" / "..", labels=labels)
    assert labels.read_text().startswith("file,bundle,label")


@pytest.mark.parametrize("reference", ["", "normal"])
def test_the_report_says_where_people_are_held_against_their_own_majority(tmp_path: Path, reference: str) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    write_scan(lot / "B01_0001.tif", NORMAL)
    votes = f"file,bundle,label,label_1,label_2\nB01_0001.tif,B01,{reference},normal,normal\n"
    (lot / "labels.csv").write_text(votes)
    report = run(lot, tmp_path / "out", labels=lot / "labels.csv").report.read_text()
    assert ("held against a part of themselves" in report) == (not reference)


def test_a_scan_whose_unpacker_gets_no_processor_for_a_while_is_judged_and_pictured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line would wait and look again, after a time that is short here."""
    monkeypatch.setitem(Decoder.__init__.__kwdefaults__, "wall_s", 0.0)
    (tmp_path / "lot").mkdir()
    write_scan(tmp_path / "lot" / "B01_0001.tif", NORMAL)
    counts = tifffile.imread(tmp_path / "lot" / "B01_0001.tif")
    tifffile.imwrite(tmp_path / "lot" / "B01_0001.tif", counts, compression="zlib", metadata=None)
    unpack, stopped = _Child.unpack, []

    def stop_for_two_seconds(child: _Child, *wanted: Any) -> Any:
        child.stop()
        threading.Timer(2.0, child.go_on).start()
        stopped.append(child)
        return unpack(child, *wanted)

    monkeypatch.setattr(_Child, "unpack", stop_for_two_seconds)
    result = run(tmp_path / "lot", tmp_path / "out")

    assert stopped
    assert "data:image" in result.report.read_text()
    assert (result.metrics.normal_count, result.metrics.unreadable_count) == (1, 0)
