"""Judges the files of a replay by the line's own worker, part by part; verdicts go to disk as they come.

A part of the file list is a file of lines, in the order of the list: the hash of a scan's counts, or `-` where a file
has none, a space, the canonical verdict. What stands there when a replay is killed is not judged again by the next one
into the same folder, if files, model and program are the same.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edge.contract.messages import Verdict, canonical_json
from edge.engines.preprocessor import Preprocessor
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.loaded_model import LoadedModel
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import Judged, VerdictStore, Worker
from edge.records import Arrival, FileStamp
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, modified_at
from edge.settings import Settings
from edge.store.ledger import Entry
from edge.system.files import write_whole
from edge.validation.file_list import FileList
from edge.validation.sources import LocalFolder, Served, Source, Todo

KEY_NAME = "key.json"


@dataclass(frozen=True, slots=True)
class Job:
    """What every process that judges files of one replay has to know."""

    source: Source
    settings: Settings
    boot_id: UUID
    started_at: datetime
    marks: Path
    """Folder that says which file was being read when a process died: see edge/pipeline/crash_guard.py."""

    @property
    def limits(self) -> Limits:
        """What is read of the folder."""
        folder = self.settings.folder
        return Limits(folder.max_px, folder.max_bytes, folder.expected_zero_px)


@dataclass(frozen=True, slots=True)
class JudgedFile:
    """A file's verdict, and the hash of its counts: None where it has none that could be read."""

    verdict: Verdict
    pixels_sha256: str | None

    def line(self) -> bytes:
        """As a line of a part, without its end."""
        return (self.pixels_sha256 or "-").encode() + b" " + canonical_json(self.verdict)

    @classmethod
    def of_line(cls, line: bytes) -> JudgedFile:
        """The file of a line."""
        pixels, _, verdict = line.partition(b" ")
        return cls(Verdict.model_validate_json(verdict), None if pixels == b"-" else pixels.decode())


class Judge:
    """A model that judges files in the order they are given."""

    def __init__(
        self,
        job: Job,
        model: LoadedModel,
        publish_to: VerdictStore | None = None,
    ) -> None:
        """`publish_to` gets every verdict before it is handed on here."""
        self._job = job
        self._model = model
        self._store = _Store(publish_to)
        self._decoder = Decoder(job.limits)
        self._marks = DecodeMarks(job.marks / str(os.getpid()), others=job.marks.glob("*"))

    def judge(self, files: Iterable[Todo], on_judged: Callable[[int, JudgedFile], None]) -> None:
        """Judge files of the source: verdicts come in their order, numbered by their places in the list.

        Raises EngineError, SourceError, and LedgerError of the store.
        """
        with self._job.source.served(files) as served:
            self._judge(served, on_judged)

    def _judge(self, served: Served, on_judged: Callable[[int, JudgedFile], None]) -> None:
        intake = _Files(served, self._job.started_at)

        def hand_on(judged: Judged) -> None:
            assert judged.verdict is not None, "the store knows no verdict, so every file gets one"
            place = intake.places.popleft()
            verdict = judged.verdict.model_copy(update={"seq": place + 1})
            on_judged(place, JudgedFile(verdict, judged.prepared.pixels_sha256))

        reader = ReadAhead(
            served.folder,
            limits=self._job.limits,
            decode=self._decoder.decode,
            marks=self._marks,
            threads=self._job.settings.model.decode_threads,
        )
        worker = Worker(
            intake=intake,
            reader=reader,
            preprocessor=Preprocessor(self._model.engine, self._model.signed.input_spec()),
            store=self._store,
            recall=None,
            policy=self._model.signed.policy(),
            verdicts=self._model.verdict_factory(self._job.settings, self._job.boot_id, is_simulated=True),
            never_final=frozenset(),
            on_judged=hand_on,
            on_failed=lambda *_: None,
            clock=lambda: datetime.now(UTC),
        )
        with closing(worker):
            while not intake.is_empty or worker.in_flight:
                worker.step()

    def close(self) -> None:
        """Release the decoder; the model stays open."""
        self._decoder.close()


class Parts:
    """Verdicts on disk, by parts of the file list."""

    def __init__(self, folder: Path, files: FileList) -> None:
        self.folder = folder
        self._files = files
        self._counts = array("I", bytes(4 * files.parts_count))

    @property
    def judged(self) -> int:
        """Files that have their verdict."""
        return sum(self._counts)

    def open(self, key: dict[str, object], source: Source) -> None:
        """Take up what an earlier replay of the same key left, or begin anew. Raises OSError.

        A file that changed since it was judged is judged again, and so are those after it in its part.
        """
        text = json.dumps(key, sort_keys=True).encode()
        kept = self.folder / KEY_NAME
        if not (kept.is_file() and kept.read_bytes() == text):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            with write_whole(kept, durable=False) as stream:
                stream.write(text)
        for number in range(self._files.parts_count):
            if (part := self._path(number)).is_file():
                self._counts[number] = _standing(part, self._files.part(number), source)

    def unfinished(self) -> list[int]:
        """Parts in which a file has no verdict yet."""
        whole = self._files.part_files
        return [
            number
            for number, count in enumerate(self._counts)
            if count < min(whole, self._files.count - number * whole)
        ]

    def left(self, number: int) -> list[tuple[int, str]]:
        """Files of a part without a verdict, each with its place in the list."""
        first = number * self._files.part_files
        named = self._files.part(number)
        return [(first + at, named[at]) for at in range(self._counts[number], len(named))]

    def append(self, place: int, line: bytes) -> None:
        """Keep what became of the next file of its part, so that it outlives this process. Raises OSError."""
        number = place // self._files.part_files
        with self._path(number).open("ab") as stream:
            stream.write(line + b"\n")
        self._counts[number] += 1

    def look_again(self, number: int) -> None:
        """Count what another process appended to a part."""
        if (part := self._path(number)).is_file():
            self._counts[number] = _standing(part, self._files.part(number), None)

    def lines(self) -> Iterator[bytes]:
        """Every file's line, in the order of the list."""
        for number in range(self._files.parts_count):
            with self._path(number).open("rb") as stream:
                yield from stream

    def remove(self) -> None:
        """Delete what is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.jsonl"


def judge_parts(judge: Judge, parts: Parts, numbers: Sequence[int], on_verdict: Callable[[Verdict], None]) -> None:
    """Judge what is left of some parts. Raises EngineError, LedgerError, SourceError, OSError."""

    def keep(place: int, judged: JudgedFile) -> None:
        parts.append(place, judged.line())
        on_verdict(judged.verdict)

    # One stream: reading ahead does not stop at the end of a part.
    judge.judge((todo for number in numbers for todo in parts.left(number)), keep)


def _standing(part: Path, files: Sequence[str], source: Source | None) -> int:
    """How many verdicts at the start of a part hold; what follows them is cut off."""
    count, end = 0, 0
    with part.open("r+b") as stream:
        for line, file in zip(stream, files, strict=False):
            if not line.endswith(b"\n") or (source is not None and not _is_of(line, file, source)):
                break
            count, end = count + 1, end + len(line)
        stream.truncate(end)
    return count


def _is_of(line: bytes, file: str, source: Source) -> bool:
    """Whether the line is whole and, but of a store, the file by size and time still the one that was judged."""
    try:
        scan = JudgedFile.of_line(line).verdict.scan
        if not isinstance(source, LocalFolder):
            return True
        status = (source.path / file).lstat()
    except (OSError, ValueError):  # of a disk that failed, or a power cut: what it left is no verdict
        return False
    # Messages carry milliseconds.
    age_s = abs((modified_at(status.st_mtime_ns) - scan.modified_at).total_seconds())
    return status.st_size == scan.size_bytes and age_s < 1e-3


class _Files:
    """An intake of files that are final: each is taken once."""

    def __init__(self, served: Served, seen_at: datetime) -> None:
        self.places: deque[int] = deque()
        """Places of the files that were taken and have no verdict."""
        self._served = served
        self._seen_at = seen_at
        self._next = next(served.files, None)

    @property
    def is_empty(self) -> bool:
        return self._next is None

    def take(self, limit: int) -> list[Arrival]:
        taken: list[Arrival] = []
        while self._next is not None and len(taken) < limit:
            place, file = self._next
            self.places.append(place)
            taken.append(Arrival(self._stamp(file), self._seen_at, is_final=True))
            self._next = next(self._served.files, None)
        return taken

    def finished(self, stamp: FileStamp) -> None:
        self._served.release(stamp.file)

    def retry(self, stamp: FileStamp) -> None:
        raise AssertionError(f"{stamp.file} is final: another look at it would be out of order")

    def _stamp(self, file: str) -> FileStamp:
        try:
            # Inode 0: a poison file of a store must be known again, and each copy of it has another.
            return replace(FileStamp.of(file, (self._served.folder / file).lstat()), inode=0)
        except OSError:
            return FileStamp(file, 0, 0, 0)  # reading it says what is wrong


class _Store:
    """A verdict store that keeps nothing, and hands on to another where there is one."""

    def __init__(self, publish_to: VerdictStore | None) -> None:
        self._publish_to = publish_to

    def commit(self, entries: Sequence[Entry], now: datetime) -> list[Verdict | None]:
        if self._publish_to is not None:
            self._publish_to.commit(entries, now)
        return [entry.verdict for entry in entries]
