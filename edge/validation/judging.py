"""Judges the files of a replay by the line's own worker, part by part; verdicts go to disk as they come.

A part of the file list is a file of lines: the name of a scan as JSON, the hashes of its counts, and the canonical
verdict, with tabs between. What stands there when a replay is killed is not judged again by the
next one into the same folder, if model and program are the same; scans may have been added, or taken away.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edge.contract.messages import Verdict, canonical_json
from edge.engines.preprocessor import Preprocessor
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.loaded_model import LoadedModel
from edge.pipeline.prepare import Prepared
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import Judged, VerdictStore, Worker
from edge.records import Arrival, FileStamp, counts_sha256
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, modified_at
from edge.settings import Settings
from edge.store.ledger import Entry
from edge.system.files import write_whole
from edge.system.names import display_name
from edge.validation.file_list import FileList
from edge.validation.leaks import HASH_DIGITS
from edge.validation.sources import LocalFolder, Served, Source, Todo

KEY_NAME = "key.json"

PATIENCE_S = 600.0
"""On the clock, for the process that unpacks a scan: the line looks at a file again, a replay does not."""


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
    """A file of the list with its verdict."""

    file: str
    """Its name in the list; a verdict shows it as text that JSON can take."""
    verdict: Verdict
    pixels: tuple[str, ...]
    """Shortened hashes of its counts as they are, mirrored both ways, and turned by 180 degrees; none where none could
    be read."""

    def line(self) -> bytes:
        """As a line of a part, with its end."""
        parts = (json.dumps(self.file).encode(), " ".join(self.pixels).encode(), canonical_json(self.verdict))
        return b"\t".join(parts) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> JudgedFile:
        """The file of a line. Raises ValueError for one that is not whole."""
        name, pixels, verdict = line.split(b"\t")
        hashes = tuple(pixels.decode().split())
        bytes.fromhex("".join(hashes))
        return cls(json.loads(name), Verdict.model_validate_json(verdict), hashes)


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
        self._decoder = Decoder(job.limits, wall_s=PATIENCE_S)
        self._marks = DecodeMarks(job.marks / str(os.getpid()), others=job.marks.glob("*"))

    def judge(self, files: Iterable[Todo], on_judged: Callable[[int, JudgedFile], None]) -> None:
        """Judge files of the source: verdicts come in their order, with their places in the list, and numbered by them.

        Raises EngineError, SourceError, and LedgerError of the store.
        """
        with self._job.source.served(files) as served:
            self._judge(served, on_judged)

    def _judge(self, served: Served, on_judged: Callable[[int, JudgedFile], None]) -> None:
        intake = _Files(served, self._job.started_at)

        def hand_on(judged: Judged) -> None:
            assert judged.verdict is not None, "the store knows no verdict, so every file gets one"
            place, file = intake.taken.popleft()
            verdict = judged.verdict.model_copy(update={"seq": place + 1})
            on_judged(place, JudgedFile(file, verdict, _orientations(judged.prepared)))

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
        self._of_list = folder / files.sha256[:16]
        self._files = files
        self._counts = array("I", bytes(4 * files.parts_count))

    @property
    def judged(self) -> int:
        """Files that have their verdict."""
        return sum(self._counts)

    def open(self, key: dict[str, object], source: Source) -> None:
        """Take up what an earlier replay of the same key left, or begin anew. Raises OSError.

        Files that changed since they were judged are judged again.
        """
        text = json.dumps(key, sort_keys=True).encode()
        kept = self.folder / KEY_NAME
        if not (kept.is_file() and kept.read_bytes() == text):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            with write_whole(kept, durable=False) as stream:
                stream.write(text)
        if not self._of_list.is_dir():
            self._take_over()
        for number in range(self._files.parts_count):
            self._count(number, source)

    def unfinished(self) -> list[int]:
        """Parts in which a file has no verdict yet."""
        whole = self._files.part_files
        return [
            number
            for number, count in enumerate(self._counts)
            if count < min(whole, self._files.count - number * whole)
        ]

    def left(self, number: int) -> list[Todo]:
        """Files of a part without a verdict."""
        judged = _lines_by_name(self._path(number))
        return [todo for todo in self._part(number) if todo[1] not in judged]

    def append(self, place: int, line: bytes) -> None:
        """Keep what became of a file, so that it outlives this process. Raises OSError."""
        number = place // self._files.part_files
        with self._path(number).open("ab") as stream:
            stream.write(line)
        self._counts[number] += 1

    def look_again(self, number: int) -> None:
        """Count what another process appended to a part."""
        self._count(number, None)

    def lines(self) -> Iterator[bytes]:
        """Every file's line, in the order of the list. Raises OSError where one is missing."""
        for number in range(self._files.parts_count):
            judged = _lines_by_name(self._path(number))
            for _, file in self._part(number):
                if (line := judged.get(file)) is None:  # the next replay judges it
                    raise OSError(errno.EIO, f"the verdict on {display_name(file)} is gone", str(self._path(number)))
                yield line

    def remove(self) -> None:
        """Delete what is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_over(self) -> None:
        """Make the parts of this list of those of other lists, which it then replaces."""
        draft = self._of_list.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        earlier = [found for found in self.folder.iterdir() if found.is_dir() and not found.suffix]
        draft.mkdir()
        lines = heapq.merge(*map(_in_order, earlier), key=lambda item: item[0])
        name, line = next(lines, (None, b""))
        for number in range(self._files.parts_count):
            kept = []
            for place, file in self._part(number):
                while name is not None and name < file:
                    name, line = next(lines, (None, b""))
                if name == file:
                    with suppress(ValueError):
                        judged = JudgedFile.of_line(line)
                        verdict = judged.verdict.model_copy(update={"seq": place + 1})
                        kept.append(replace(judged, verdict=verdict).line())
            if kept:
                (draft / _part_name(number)).write_bytes(b"".join(kept))
        draft.rename(self._of_list)
        for folder in earlier:
            shutil.rmtree(folder)

    def _count(self, number: int, source: Source | None) -> None:
        """Count the verdicts of a part that hold, by its source if it is named; what else is there goes."""
        path = self._path(number)
        if not path.is_file():
            return
        written, named = path.read_bytes(), {file for _, file in self._part(number)}
        kept = b"".join(
            line
            for file, line in _lines_by_name(path).items()
            if file in named and (source is None or _is_of(line, file, source))
        )
        if kept != written:
            with write_whole(path, durable=False) as stream:
                stream.write(kept)
        self._counts[number] = kept.count(b"\n")

    def _part(self, number: int) -> list[Todo]:
        return list(enumerate(self._files.part(number), number * self._files.part_files))

    def _path(self, number: int) -> Path:
        return self._of_list / _part_name(number)


def judge_parts(judge: Judge, parts: Parts, numbers: Sequence[int], on_verdict: Callable[[Verdict], None]) -> None:
    """Judge what is left of some parts. Raises EngineError, LedgerError, SourceError, OSError."""

    def keep(place: int, judged: JudgedFile) -> None:
        parts.append(place, judged.line())
        on_verdict(judged.verdict)

    # One stream: reading ahead does not stop at the end of a part.
    judge.judge((todo for number in numbers for todo in parts.left(number)), keep)


def _orientations(prepared: Prepared) -> tuple[str, ...]:
    """Hashes as the manifest has those of scans that were learnt from; only one of a scan too large to be kept."""
    if prepared.pixels_sha256 is None:
        return ()
    turned = () if (counts := prepared.counts) is None else (counts[:, ::-1], counts[::-1], counts[::-1, ::-1])
    return tuple(sha256[:HASH_DIGITS] for sha256 in (prepared.pixels_sha256, *map(counts_sha256, turned)))


def _part_name(number: int) -> str:
    return f"{number:06}.jsonl"


def _lines_by_name(part: Path) -> dict[str, bytes]:
    """Whole lines of a part, by the names of their files; none where it was not begun."""
    found: dict[str, bytes] = {}
    if part.is_file():
        for line in part.read_bytes().splitlines(keepends=True):
            with suppress(ValueError, RecursionError):  # of a disk that failed, or a power cut: it left no verdict
                name = json.loads(line.partition(b"\t")[0])
                if line.endswith(b"\n") and isinstance(name, str):
                    found[name] = line
    return found


def _in_order(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All lines of the parts of a list, by the names of their files."""
    for part in sorted(folder.glob("*.jsonl")):
        yield from sorted(_lines_by_name(part).items())


def _is_of(line: bytes, file: str, source: Source) -> bool:
    """Whether the line is whole and, but of a store, the file by size and times still the one that was judged.

    A copy may have size and time of the file that it replaced, and so may one that took its name: its change time, the
    kernel's own, is later than the replay.
    """
    try:
        verdict = JudgedFile.of_line(line).verdict
        scan = verdict.scan
        if not isinstance(source, LocalFolder):
            return True
        status = (source.path / file).lstat()
    except (OSError, ValueError):
        return False
    if modified_at(status.st_ctime_ns) > verdict.times.first_seen_at:
        return False
    # Messages carry milliseconds.
    age_s = abs((modified_at(status.st_mtime_ns) - scan.modified_at).total_seconds())
    return status.st_size == scan.size_bytes and age_s < 1e-3


class _Files:
    """An intake of files that are final: each is taken once."""

    def __init__(self, served: Served, seen_at: datetime) -> None:
        self.taken: deque[Todo] = deque()
        """Files that were taken and have no verdict."""
        self._served = served
        self._seen_at = seen_at
        self._next = next(served.files, None)

    @property
    def is_empty(self) -> bool:
        return self._next is None

    def take(self, limit: int) -> list[Arrival]:
        taken: list[Arrival] = []
        while self._next is not None and len(taken) < limit:
            self.taken.append(self._next)
            taken.append(Arrival(self._stamp(self._next[1]), self._seen_at, is_final=True))
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
