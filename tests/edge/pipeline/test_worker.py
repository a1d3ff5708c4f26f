"""One turn of the crank: arrivals in, committed verdicts out, whatever fails in between."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

import edge.pipeline.crash_guard
import edge.pipeline.read_ahead
from edge.contract.messages import Verdict
from edge.engines import Batch, EngineOutput
from edge.engines.preprocessor import Preprocessor
from edge.errors import EngineError, LedgerError
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import NEVER_FINAL, Judged, Recall, VerdictStore, Worker
from edge.records import Arrival, Counts, ExpectedFile, FileStamp, Former
from edge.scans.pixels import decode
from edge.scans.scan import Decode, Limits
from edge.scans.tiff import Layout
from edge.store.ledger import Entry, Ledger, open_ledger
from tests.support import fakes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class ListedIntake:
    """Hands out what it is given and remembers what comes back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: deque[Arrival] = deque()
        self.done: list[str] = []
        self.retried: list[str] = []

    def add(self, *files: str, is_final: bool = False, modified_ns: int | None = None) -> None:
        """`modified_ns`: as if the file system had said so; this one may not keep such a time."""
        for file in files:
            stamp = FileStamp.of(file, (self._folder / file).lstat())
            stamp = stamp if modified_ns is None else replace(stamp, modified_ns=modified_ns)
            self._ready.append(Arrival(stamp, NOW, is_final, ExpectedFile(stamp, has_stable_inodes=True)))

    def take(self, limit: int) -> list[Arrival]:
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def finished(self, stamp: FileStamp) -> None:
        self.done.append(stamp.file)

    def retry(self, stamp: FileStamp) -> None:
        self.retried.append(stamp.file)


class Line:
    """A worker on a folder, with everything it needs; only the engine is a fake."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "scans"
        self.folder.mkdir()
        self.state = tmp_path / "state"
        self.intake = ListedIntake(self.folder)
        self.ledger: Ledger = open_ledger(self.state / "ledger.sqlite", "xray-1")
        self.judged: list[Judged] = []
        self.failed: list[tuple[str, str]] = []

    def worker(
        self,
        engine: fakes.ScriptedEngine | None = None,
        *,
        store: VerdictStore | None = None,
        recall: Recall | None = None,
        decode: Decode = decode,
        decode_threads: int = 2,
        is_replay: bool = False,
        model: str = "cd" * 32,
        line: str = "line",
        on_judged: Callable[[Judged], None] | None = None,
    ) -> Worker:
        reader = ReadAhead(
            self.folder,
            limits=Limits(max_px=1_000_000, max_bytes=10_000_000),
            decode=decode,
            marks=DecodeMarks(self.state / "decoding.marks"),
            threads=decode_threads,
        )
        return Worker(
            intake=self.intake,
            reader=reader,
            preprocessor=Preprocessor(engine or fakes.ScriptedEngine(), fakes.INPUT_SPEC),
            store=store or self.ledger,
            recall=None if is_replay else recall or self.ledger.former,
            policy=fakes.POLICY,
            verdicts=replace(fakes.verdict_factory(model=model), topic=f"factory/{line}/xray-1/inspection/verdict"),
            never_final=frozenset() if is_replay else NEVER_FINAL,
            on_judged=on_judged or self.judged.append,
            on_failed=lambda arrival, error: self.failed.append((arrival.stamp.file, error.reason)),
            clock=lambda: NOW,
        )

    def judge(self, *files: str, by: Worker | None = None, is_final: bool = False) -> Verdict | None:
        """What arrives is judged to its end; the verdict on the last of it."""
        self.intake.add(*files, is_final=is_final)
        run_out(by or self.worker())
        return self.judged[-1].verdict

    def outcomes(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        verdicts = [judged.verdict for judged in self.judged if judged.verdict is not None]
        return {verdict.scan.file: (verdict.outcome.value, verdict.reasons) for verdict in verdicts}


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.ledger.close()


def run_out(worker: Worker) -> int:
    finished = worker.step()
    while worker.in_flight:
        finished += worker.step()
    worker.close()
    return finished


def test_scans_become_verdicts_in_order_with_gap_free_numbers(line: Line) -> None:
    for index, level in enumerate([1900, 2700, 1900, 2700, 1900]):
        fakes.write_scan(line.folder / f"B01_{index}.tif", level, seed=index)
        line.intake.add(f"B01_{index}.tif")
    assert run_out(line.worker()) == 5
    assert [judged.verdict.seq for judged in line.judged if judged.verdict] == [1, 2, 3, 4, 5]
    assert [outcome for outcome, _ in line.outcomes().values()] == ["normal", "abnormal"] * 2 + ["normal"]
    verdict = line.judged[1].verdict
    assert verdict is not None
    assert (verdict.bundle, verdict.part_id) == ("B01", "1")
    assert line.ledger.pending().count == 5
    assert line.intake.done == [f"B01_{index}.tif" for index in range(5)]


def test_a_step_without_arrivals_does_nothing(line: Line) -> None:
    worker = line.worker()
    assert worker.step() == 0
    assert worker.in_flight == 0
    worker.close()


def test_one_bad_file_between_good_ones_is_one_unreadable_verdict(line: Line) -> None:
    fakes.write_scan(line.folder / "a.tif")
    (line.folder / "b.tif").write_bytes(b"\xff\xd8\xff\xe0 a JPEG in disguise")
    fakes.write_scan(line.folder / "c.tif", seed=1)
    line.intake.add("a.tif", "b.tif", "c.tif")
    assert run_out(line.worker()) == 3
    assert line.outcomes()["b.tif"] == ("unreadable", ("not-tiff",))
    assert line.outcomes()["c.tif"] == ("normal", ("classifier",))
    assert "b.tif" in (line.judged[1].prepared.detail or "")


def test_a_directory_named_like_a_scan_gets_a_verdict_of_its_own(line: Line) -> None:
    (line.folder / "x.tif").mkdir()
    line.judge("x.tif")
    assert line.outcomes() == {"x.tif": ("unreadable", ("not-a-file",))}


@pytest.mark.parametrize(
    ("modified_ns", "said"),
    [(300_000_000_000 * 10**9, "9999-12-31T23:59:59.999Z"), (-80_000_000_000 * 10**9, "0001-01-01T00:00:00.000Z")],
)
def test_a_file_time_outside_the_calendar_ends_nothing(line: Line, modified_ns: int, said: str) -> None:
    """Only the directory entry is known of a directory, a link or a file that is too large."""
    (line.folder / "x.tif").mkdir()
    fakes.write_scan(line.folder / "good.tif")
    line.intake.add("x.tif", modified_ns=modified_ns)
    line.intake.add("good.tif")
    assert run_out(line.worker()) == 2
    assert line.outcomes() == {"x.tif": ("unreadable", ("not-a-file",)), "good.tif": ("normal", ("classifier",))}
    first = line.ledger.outbox(0, 1)[0]
    assert json.loads(first.payload)["scan"]["modified_at"] == said


@pytest.mark.parametrize(("level", "size"), [(200, (100, 80)), (9000, (100, 80)), (1900, (600, 80)), (1900, (100, 20))])
def test_a_scan_the_model_was_not_made_for_goes_to_review_unscored(
    line: Line, level: int, size: tuple[int, int]
) -> None:
    fakes.write_scan(line.folder / "a.tif", level, size=fakes.Size(*size))
    engine = fakes.ScriptedEngine()
    verdict = line.judge("a.tif", by=line.worker(engine))
    assert line.outcomes() == {"a.tif": ("review", ("out-of-spec",))}
    assert engine.batches == []
    assert verdict is not None and verdict.p_abnormal is None


def copy(line: Line, source: str, target: str) -> None:
    (line.folder / target).write_bytes((line.folder / source).read_bytes())


def test_the_same_bytes_under_another_name_go_to_review_and_name_the_first(line: Line) -> None:
    """A detector that hands out its last frame again."""
    fakes.write_scan(line.folder / "B01_1.tif")
    copy(line, "B01_1.tif", "B01_2.tif")
    engine = fakes.ScriptedEngine()
    first, second = (line.judge(file, by=line.worker(engine)) for file in ("B01_1.tif", "B01_2.tif"))
    assert first is not None and second is not None
    assert (first.outcome, first.repeats) == ("normal", None)
    assert (second.outcome, second.reasons, second.repeats) == ("review", ("repeated-image",), first.verdict_id)
    assert second.part_id == "2" and second.detail is not None and first.verdict_id in second.detail
    assert second.verdict_id != first.verdict_id
    assert engine.batches == [1]
    assert line.ledger.pending().count == 2


def test_the_same_pixels_in_another_file_go_to_review_too(line: Line) -> None:
    """As where the station writes a time into each file."""
    scan = fakes.write_scan(line.folder / "B01_1.tif")
    tifffile.imwrite(line.folder / "B01_2.tif", tifffile.imread(scan), metadata=None, description="10:31")
    first, second = line.judge("B01_1.tif"), line.judge("B01_2.tif")
    assert first is not None and second is not None
    assert first.scan.sha256 != second.scan.sha256
    assert (second.outcome, second.reasons, second.repeats) == ("review", ("repeated-image",), first.verdict_id)


def test_a_fixed_name_whose_bytes_come_back_after_others_gets_a_verdict_at_each_return(line: Line) -> None:
    """Torn, good, torn, good, torn: each arrival is told."""
    for seed, name in enumerate(("good1", "good2")):
        fakes.write_scan(line.folder / name, seed=seed)
    (line.folder / "torn").write_bytes(b"II*")
    verdicts = []
    for source in ("torn", "good1", "torn", "good2", "torn", "good1"):
        copy(line, source, "current.tif")
        verdicts.append(line.judge("current.tif", is_final=True))
    assert [verdict and verdict.outcome.value for verdict in verdicts] == [
        "unreadable", "normal", "unreadable", "normal", "unreadable", "review",
    ]  # fmt: skip
    assert len({verdict.verdict_id for verdict in verdicts if verdict}) == 6


def test_the_same_bytes_copied_again_under_their_name_are_no_arrival_also_when_the_file_was_away(line: Line) -> None:
    fakes.write_scan(line.folder / "a.tif")
    assert line.judge("a.tif") is not None
    line.ledger.prune_files([])
    assert line.judge("a.tif") is None
    assert line.ledger.pending().count == 1


def test_what_one_model_has_judged_is_a_repetition_to_the_next(line: Line) -> None:
    """A detector that had frozen before the model was replaced, and a share that is restored afterwards."""
    scan = fakes.write_scan(line.folder / "B01_1.tif")
    copy(line, "B01_1.tif", "B01_2.tif")
    tifffile.imwrite(line.folder / "B01_3.tif", tifffile.imread(scan), metadata=None, description="10:31")
    first = line.judge("B01_1.tif")
    assert first is not None
    for file in ("B01_2.tif", "B01_3.tif"):
        frozen = line.judge(file, by=line.worker(model="ef" * 32))
        assert frozen is not None
        assert (frozen.outcome, frozen.reasons, frozen.repeats) == ("review", ("repeated-image",), first.verdict_id)
    assert line.judge("B01_1.tif", by=line.worker(model="ef" * 32)) is None


def test_what_was_judged_before_the_topic_was_renamed_is_known_again(line: Line) -> None:
    fakes.write_scan(line.folder / "B01_1.tif")
    copy(line, "B01_1.tif", "B01_2.tif")
    first = line.judge("B01_1.tif")
    frozen = line.judge("B01_2.tif", by=line.worker(line="hall-2"))
    assert first is not None and frozen is not None
    assert (frozen.outcome, frozen.reasons, frozen.repeats) == ("review", ("repeated-image",), first.verdict_id)


def test_the_same_bytes_twice_in_one_batch_are_told_as_a_repetition(line: Line) -> None:
    asked, read_ahead = threading.Event(), threading.Event()
    reads = itertools.count(1)

    def staged(data: bytes, layout: Layout) -> Counts:
        """The second file waits until the first is with the networks, and they wait until the fourth is begun."""
        read = next(reads)
        if read == 2:
            asked.wait(30)
        elif read == 4:
            read_ahead.set()
        return decode(data, layout)

    def script(images: Batch) -> EngineOutput:
        asked.set()
        read_ahead.wait(30)
        return fakes.brightness(images)

    for seed, name in enumerate(("first.tif", "a.tif", "copy.tif", "last.tif")):
        fakes.write_scan(line.folder / name, seed=seed)
    (line.folder / "copy.tif").write_bytes((line.folder / "a.tif").read_bytes())
    engine = fakes.ScriptedEngine(script)
    line.judge("first.tif", "a.tif", "copy.tif", "last.tif", by=line.worker(engine, decode=staged, decode_threads=1))
    assert engine.batches[0] == 1 and sum(engine.batches) == 3
    told = {judged.prepared.scan.file: judged.verdict and judged.verdict.seq for judged in line.judged}
    assert told == {"first.tif": 1, "a.tif": 2, "copy.tif": 3, "last.tif": 4}
    assert line.outcomes()["copy.tif"] == ("review", ("repeated-image",))
    assert len(line.intake.done) == 4
    assert line.ledger.pending().count == 4


def test_empty_files_of_three_parts_get_three_verdicts_in_one_batch_or_in_several(line: Line) -> None:
    """Their bytes are the same: what tells the parts from one another is the name."""
    for index in range(4):
        (line.folder / f"B01_{index}.tif").write_bytes(b"")
    line.judge("B01_0.tif", is_final=True)
    line.judge("B01_1.tif", "B01_2.tif", "B01_3.tif", is_final=True)
    assert line.outcomes() == {f"B01_{index}.tif": ("unreadable", ("empty",)) for index in range(4)}
    assert [judged.verdict and judged.verdict.part_id for judged in line.judged] == ["0", "1", "2", "3"]
    assert line.ledger.pending().count == 4


def test_an_empty_file_that_is_touched_or_copied_again_gets_no_second_verdict(line: Line) -> None:
    path = line.folder / "B01_1.tif"
    path.write_bytes(b"")
    line.judge("B01_1.tif", is_final=True)
    os.utime(path, ns=(1, 1))
    line.judge("B01_1.tif", is_final=True)
    path.unlink()
    path.write_bytes(b"")
    line.judge("B01_1.tif", is_final=True)
    assert [judged.verdict is not None for judged in line.judged] == [True, False, False]
    assert line.ledger.pending().count == 1


def test_a_worker_killed_between_the_commit_and_the_next_step_judges_no_empty_file_twice(line: Line) -> None:
    class Killed(Exception):
        pass

    def kill(_judged: Judged) -> None:
        raise Killed

    (line.folder / "B01_1.tif").write_bytes(b"")
    line.intake.add("B01_1.tif", is_final=True)
    worker = line.worker(on_judged=kill)
    with pytest.raises(Killed):
        run_out(worker)
    worker.close()
    line.judge("B01_1.tif", is_final=True)
    assert [judged.verdict for judged in line.judged] == [None]
    assert line.ledger.pending().count == 1


def test_a_file_has_one_verdict_whether_its_bytes_are_read_at_the_first_or_at_the_second_time(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that dies is not always the file's fault: the same name with the same bytes stays judged."""
    for name in ("a.tif", "b.tif"):
        fakes.write_scan(line.folder / name, seed=ord(name[0]))
    monkeypatch.setattr(edge.pipeline.read_ahead, "kills_its_reader", lambda path, limits, spec: "killed by SIGSEGV")
    for suspect in ("a.tif", "b.tif"):
        monkeypatch.setattr(DecodeMarks, "is_suspect", lambda marks, stamp, name=suspect: stamp.file == name)
        line.judge("a.tif", "b.tif")
    assert line.outcomes() == {"a.tif": ("unreadable", ("decoder-crash",)), "b.tif": ("normal", ("classifier",))}
    assert line.ledger.pending().count == 2


def test_new_bytes_under_the_same_name_get_a_new_verdict(line: Line) -> None:
    for seed in (1, 2):
        fakes.write_scan(line.folder / "a.tif", seed=seed)
        line.judge("a.tif")
    assert [judged.verdict.seq for judged in line.judged if judged.verdict] == [1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 7.0])
def test_an_impossible_score_is_a_review_with_a_null_probability(line: Line, bad: float) -> None:
    def script(images: Batch) -> EngineOutput:
        output = fakes.brightness(images)
        output.p_abnormal[:] = bad
        return output

    fakes.write_scan(line.folder / "a.tif")
    verdict = line.judge("a.tif", by=line.worker(fakes.ScriptedEngine(script)))
    assert line.outcomes() == {"a.tif": ("review", ("non-finite-score",))}
    assert verdict is not None and verdict.p_abnormal is None


def test_a_failing_engine_leaves_no_verdict_and_the_file_in_the_folder(line: Line) -> None:
    def script(images: Batch) -> EngineOutput:
        raise EngineError("device lost", hint="restart")

    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif")
    worker = line.worker(fakes.ScriptedEngine(script))
    with pytest.raises(EngineError):
        worker.step()
    worker.close()
    assert line.ledger.pending().count == 0
    assert line.intake.done == []


def test_verdicts_a_full_disk_refused_are_stored_later_without_asking_the_networks_again(line: Line) -> None:
    class FullOnce:
        def __init__(self, ledger: Ledger) -> None:
            self._ledger = ledger
            self._refusals = 1

        def commit(self, entries: Sequence[Entry], now: datetime) -> list[Verdict | None]:
            if self._refusals:
                self._refusals -= 1
                raise LedgerError("disk full", hint="free some space")
            return self._ledger.commit(entries, now)

    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif")
    engine = fakes.ScriptedEngine()
    worker = line.worker(engine, store=FullOnce(line.ledger))
    with pytest.raises(LedgerError):
        worker.step()
    assert (line.intake.done, worker.in_flight) == ([], 1)
    assert worker.step() == 1
    worker.close()
    assert (line.intake.done, engine.batches) == (["a.tif"], [1])


def test_a_disk_that_cannot_be_read_either_loses_no_scan_that_is_in_hand(line: Line) -> None:
    class Away:
        def __init__(self, ledger: Ledger) -> None:
            self._ledger = ledger
            self._refusals = 2

        def __call__(self, file: str, sha256: str, first_id: str, pixels_id: str | None) -> Former:
            if self._refusals:
                self._refusals -= 1
                raise LedgerError("disk I/O error", hint="check the disk")
            return self._ledger.former(file, sha256, first_id, pixels_id)

    for name in ("a.tif", "b.tif"):
        fakes.write_scan(line.folder / name, seed=ord(name[0]))
    line.intake.add("a.tif", "b.tif")
    worker = line.worker(recall=Away(line.ledger))
    for _ in range(2):
        with pytest.raises(LedgerError):
            worker.step()
        assert (line.intake.done, worker.in_flight) == ([], 2)
    finished = worker.step() + worker.step()
    worker.close()
    assert (finished, line.intake.done) == (2, ["a.tif", "b.tif"])


def test_a_half_written_scan_is_looked_at_again_and_judged_once_it_is_final(line: Line) -> None:
    path = fakes.write_scan(line.folder / "a.tif", size=fakes.Size(200, 100))
    data = path.read_bytes()
    path.write_bytes(data[:-8000] + bytes(8000))
    worker = line.worker()
    line.intake.add("a.tif")
    assert worker.step() == 0
    assert line.intake.retried == ["a.tif"]
    line.intake.add("a.tif", is_final=True)
    assert worker.step() == 1
    worker.close()
    assert line.outcomes() == {"a.tif": ("unreadable", ("zero-tail",))}


@pytest.mark.parametrize("is_final", [False, True])
def test_a_vanished_scan_is_never_called_unreadable_by_the_line(line: Line, is_final: bool) -> None:
    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif", is_final=is_final)
    (line.folder / "a.tif").unlink()
    assert run_out(line.worker()) == 0
    assert line.intake.retried == ["a.tif"]
    assert line.outcomes() == {}
    assert line.failed == ([("a.tif", "vanished")] if is_final else [])


@pytest.mark.parametrize("is_final", [False, True])
def test_a_scan_that_is_being_overwritten_when_its_turn_comes_gets_no_verdict_on_torn_bytes(
    line: Line, is_final: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = fakes.write_scan(line.folder / "a.tif"), fakes.write_scan(line.folder.parent / "other.tif", 2700)
    line.intake.add("a.tif", is_final=is_final)
    with path.open("r+b") as file:
        file.write(other.read_bytes()[: path.stat().st_size // 2])
    assert run_out(line.worker()) == 0
    assert (line.intake.retried, line.outcomes()) == (["a.tif"], {})
    assert "overwritten before it was read" in caplog.text


def test_a_scan_replaced_before_it_was_read_is_reported_with_both_stamps(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = fakes.write_scan(line.folder / "a.tif"), fakes.write_scan(line.folder.parent / "other.tif", 2700)
    inodes = path.stat().st_ino, other.stat().st_ino
    line.intake.add("a.tif")
    other.rename(path)
    assert run_out(line.worker()) == 0
    assert line.intake.retried == ["a.tif"]
    (record,) = [record for record in caplog.records if record.msg == "overwritten before it was read"]
    fields = record.fields  # type: ignore[attr-defined]
    assert (fields["file"], fields["expected"]["inode"], fields["observed"]["inode"]) == ("a.tif", *inodes)


def test_a_suspect_is_not_condemned_for_what_was_written_over_it(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif")

    def dies_and_is_overwritten(path: Path, limits: Limits, spec: object) -> str:
        fakes.write_scan(path, 2700)
        return "killed by SIGSEGV"

    monkeypatch.setattr(edge.pipeline.read_ahead, "kills_its_reader", dies_and_is_overwritten)
    monkeypatch.setattr(DecodeMarks, "is_suspect", lambda marks, stamp: True)
    assert run_out(line.worker()) == 0
    assert (line.intake.retried, line.outcomes()) == (["a.tif"], {})


def test_a_suspect_is_never_hashed_through_a_link_that_took_its_place(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a pipe hold the line up: both are opened as neither."""
    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif", is_final=True)
    (secret := tmp_path / "secret").write_text("correct horse battery staple")

    def dies_and_is_replaced(path: Path, limits: Limits, spec: object) -> str:
        path.unlink()
        path.symlink_to(secret)
        return "killed by SIGSEGV"

    monkeypatch.setattr(edge.pipeline.read_ahead, "kills_its_reader", dies_and_is_replaced)
    monkeypatch.setattr(DecodeMarks, "is_suspect", lambda marks, stamp: True)
    run_out(line.worker(is_replay=True))
    assert line.outcomes() == {"a.tif": ("unreadable", ("changed-while-reading",))}
    assert line.judged[0].prepared.scan.sha256 != hashlib.sha256(secret.read_bytes()).hexdigest()


def test_a_replay_judges_every_file_as_it_is(line: Line) -> None:
    fakes.write_scan(line.folder / "a.tif")
    line.intake.add("a.tif", is_final=True)
    (line.folder / "a.tif").unlink()
    run_out(line.worker(is_replay=True))
    assert line.outcomes() == {"a.tif": ("unreadable", ("vanished",))}


def test_a_suspect_that_kills_its_reader_again_is_condemned_and_the_line_goes_on(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tif", "b.tif"):
        fakes.write_scan(line.folder / name, seed=ord(name[0]))
        line.intake.add(name)
    monkeypatch.setattr(edge.pipeline.read_ahead, "kills_its_reader", lambda path, limits, spec: "killed by SIGSEGV")
    monkeypatch.setattr(DecodeMarks, "is_suspect", lambda marks, stamp: stamp.file == "a.tif")
    run_out(line.worker())
    assert line.outcomes() == {"a.tif": ("unreadable", ("decoder-crash",)), "b.tif": ("normal", ("classifier",))}
    assert "SIGSEGV" in (line.judged[0].prepared.detail or "")


def test_a_suspect_waits_while_no_process_can_be_started_to_try_it_in(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tif", "b.tif"):
        fakes.write_scan(line.folder / name, seed=ord(name[0]))
        line.intake.add(name, is_final=True)
    monkeypatch.setattr(edge.pipeline.crash_guard.sys, "executable", str(line.folder / "no-such-program"))
    monkeypatch.setattr(DecodeMarks, "is_suspect", lambda marks, stamp: stamp.file == "a.tif")
    run_out(line.worker())
    assert line.outcomes() == {"b.tif": ("normal", ("classifier",))}
    assert line.intake.retried == ["a.tif"]


def test_the_pool_alone_has_threads_for_scans(line: Line) -> None:
    cv2.setNumThreads(4)
    line.worker(decode_threads=2).close()
    assert cv2.getNumThreads() == 1
