"""`edge-worker --replay DIR`: every file of a folder through the line's own worker, then a validation report.

The files are the ones the inbox would find, read, checked, judged and worded by the same code as on the line. What
differs: a file is judged as it is, nobody waits for a writer; equal bytes are judged each time; and no ledger
remembers anything. Into `--out` go `verdicts.jsonl` (one canonical verdict per line, as they come), `summary.json`
and `report.html`.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from edge import __version__
from edge.contract.messages import Verdict, canonical_json
from edge.engines.preprocessor import Preprocessor
from edge.errors import LedgerError, SettingsError
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.loaded_model import LoadedModel, load_model
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import Judged, VerdictStore, Worker
from edge.records import Arrival, FileStamp
from edge.scans.decoder import Decoder
from edge.scans.scan import SUFFIXES, Limits
from edge.settings import Settings
from edge.station.folder import StationFolder
from edge.store.ledger import Entry
from edge.system.files import written_whole
from edge.system.names import display_name
from edge.validation.gallery import Gallery
from edge.validation.labels import MatchedLabels, match_labels, read_labels
from edge.validation.measure import measure_reliability
from edge.validation.progress import ReplayProgress
from edge.validation.reliability import Plant
from edge.validation.report import report_html
from edge.validation.requirements import Requirement, RequirementResult, check_requirement, parse_requirement
from edge.validation.results import Metrics, ScanRow, validate
from edge.validation.summary import Replay, summary_json

REQUIREMENT_UNMET = 1
"""Exit code of a replay that worked and found too little."""

LABELS_NAME = "labels.csv"
MARKS_NAME = ".decoding"
PICTURES = 12
"""Scans pictured per group of the report."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What the command line asks for."""

    folder: Path
    labels: Path | None = None
    out: Path | None = None
    publish: bool = False
    requirements: tuple[str, ...] = ()
    plant: Plant = field(default_factory=Plant)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found, and where it wrote it."""

    metrics: Metrics
    requirements: tuple[RequirementResult, ...]
    verdicts: Path
    summary: Path
    report: Path

    @property
    def exit_code(self) -> int:
        """0, or REQUIREMENT_UNMET."""
        return 0 if all(result.met for result in self.requirements) else REQUIREMENT_UNMET


@dataclass(frozen=True, slots=True)
class Plan:
    """A replay that can begin: everything a person may have mistyped is checked."""

    folder: Path
    stamps: tuple[FileStamp, ...]
    labels: Path | None
    labels_sha256: str | None
    matched: MatchedLabels
    out: Path
    requirements: tuple[Requirement, ...]
    plant: Plant


Publishing = Callable[[Path, LoadedModel, UUID], AbstractContextManager[VerdictStore]]
"""Opens, for an output folder, a model and a boot id, a store that publishes its entries; leaving it waits for them."""


def replay(options: ReplayOptions, settings: Settings, publishing: Publishing) -> int:
    """The command: plan, load the model, replay, say what came of it; the exit code. Raises EdgeError.

    `publishing` is used if the options ask for it.
    """
    plan = plan_replay(options, settings)
    if plan.labels is None and (plan.folder / LABELS_NAME).is_file():
        print(f"not scored: {plan.folder / LABELS_NAME} exists; to compare with it, add --labels")
    with ExitStack() as stack:
        model = load_model(settings)
        stack.callback(model.engine.close)
        boot_id, store = uuid4(), None
        if options.publish:
            store = stack.enter_context(publishing(plan.out, model, boot_id))
        result = run_replay(plan, settings, model, boot_id, publish_to=store)
    for line in told(result):
        print(line)
    return result.exit_code


def plan_replay(options: ReplayOptions, settings: Settings) -> Plan:
    """Check the options, list the folder, match the labels, make the output folder. Raises SettingsError."""
    requirements = tuple(parse_requirement(text) for text in options.requirements)
    stamps = _stamps(options.folder, recursive=settings.folder.recursive)
    matched, digest = MatchedLabels({}, ()), None
    if options.labels is not None:
        rows = read_labels(options.labels)
        matched = match_labels(options.labels, rows, [stamp.file for stamp in stamps])
        digest = hashlib.sha256(options.labels.read_bytes()).hexdigest()
    out = options.out or Path(f"replay-{options.folder.resolve().name}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"results cannot go to {out}: {error.strerror}", hint="name a folder you may write into with --out"
        ) from None
    return Plan(options.folder, stamps, options.labels, digest, matched, out, requirements, options.plant)


def run_replay(
    plan: Plan,
    settings: Settings,
    model: LoadedModel,
    boot_id: UUID,
    *,
    publish_to: VerdictStore | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ReplayResult:
    """Judge the planned files and write the results. The caller closes the engine.

    `publish_to` gets every entry as well, before it is written here: a ledger, which drops equal bytes and counts
    for itself, so the numbers in `verdicts.jsonl` are those of this replay's files, not of its messages. Raises
    EngineError, and LedgerError from `publish_to` or when the results cannot be written; what was judged until
    then stays in `verdicts.jsonl`.
    """
    with _explained_errors(plan.out):
        return _run_replay(plan, settings, model, boot_id, publish_to, clock)


def _run_replay(
    plan: Plan,
    settings: Settings,
    model: LoadedModel,
    boot_id: UUID,
    publish_to: VerdictStore | None,
    clock: Callable[[], datetime],
) -> ReplayResult:
    verdicts, summary, report = (plan.out / name for name in ("verdicts.jsonl", "summary.json", "report.html"))
    for stale in (summary, report):  # results of an earlier replay must not stand beside verdicts of this one
        stale.unlink(missing_ok=True)
    limits = Limits(settings.folder.max_px, settings.folder.max_bytes, settings.folder.expected_zero_px)
    policy, started_at = model.bundle.policy(), clock()
    gallery = Gallery(size=PICTURES, method=model.bundle.method, geometry=model.bundle.map_geometry(), policy=policy)
    decoder = Decoder(limits)
    with closing(decoder), verdicts.open("wb") as stream, ReplayProgress(len(plan.stamps)) as progress:
        rows = _Rows(plan.matched, gallery, stream, progress)
        files = _FileList(plan.stamps, started_at)
        reader = ReadAhead(
            plan.folder,
            limits=limits,
            decode=decoder.decode,
            marks=DecodeMarks(plan.out / MARKS_NAME),
            threads=settings.model.decode_threads,
        )
        worker = Worker(
            intake=files,
            reader=reader,
            preprocessor=Preprocessor(model.engine, model.bundle.input_spec()),
            store=_Numbering(publish_to),
            recall=None,
            policy=model.bundle.policy(),
            verdicts=model.verdict_factory(settings, boot_id, is_simulated=True),
            never_final=frozenset(),
            on_judged=rows.add,
            on_failed=lambda *_: None,
            clock=clock,
        )
        started_s = time.perf_counter()
        try:
            while files.waiting or worker.in_flight:
                worker.step()
        finally:
            worker.close()
        elapsed_s = time.perf_counter() - started_s
        gallery.add_out_of_spec_pictures(plan.folder, limits, decoder.decode)
    with suppress(OSError):  # it keeps the mark of a file whose decoding ended an earlier replay
        (plan.out / MARKS_NAME).rmdir()
    validation = validate(
        rows.rows,
        threshold=policy.threshold,
        labels_without_file=len(plan.matched.without_file),
        elapsed_s=elapsed_s,
    )
    reliability = measure_reliability(rows.rows, plan.matched.by_file, policy, plan.plant)
    figures = {**validation.metrics.flat(), **reliability.figures.flat()}
    found = Replay(
        program=f"edge-worker {__version__}",
        folder=display_name(str(plan.folder)),
        labels=None if plan.labels is None else display_name(str(plan.labels)),
        labels_sha256=plan.labels_sha256,
        started_at=started_at,
        finished_at=clock(),
        elapsed_s=elapsed_s,
        card=model.card(settings.station, boot_id),
        rows=rows.rows,
        validation=validation,
        reliability=reliability,
        requirements=tuple(check_requirement(item, figures) for item in plan.requirements),
        training=model.bundle.manifest.training,
        labels_without_file=[f"line {row.line}: {display_name(row.file)}" for row in plan.matched.without_file],
    )
    _write(summary, summary_json(found))
    _write(report, report_html(found, gallery))
    return ReplayResult(validation.metrics, tuple(found.requirements), verdicts, summary, report)


def told(result: ReplayResult) -> list[str]:
    """What the command says at its end, line by line."""
    metrics = result.metrics
    lines = [
        f"{metrics.scans_count} files: {metrics.normal_count} normal, {metrics.abnormal_count} abnormal, "
        f"{metrics.review_count} review, {metrics.unreadable_count} unreadable"
    ]
    if metrics.balanced_accuracy is not None:
        lines.append(
            f"balanced accuracy {metrics.balanced_accuracy:.1%} (95 % interval {metrics.balanced_accuracy_low:.1%} to "
            f"{metrics.balanced_accuracy_high:.1%}, {metrics.scored_count} scored scans)"
        )
    if metrics.labelled_count:
        lines.append(
            f"escapes {metrics.escape_count} of {metrics.labelled_abnormal_count}, "
            f"overkill {metrics.overkill_count} of {metrics.labelled_normal_count}"
        )
    if metrics.labels_without_file_count:
        lines.append(f"{metrics.labels_without_file_count} rows of the labels file fit no file of the folder")
    if metrics.labelled_count and metrics.unlabelled_count:
        lines.append(f"{metrics.unlabelled_count} files have no label")
    for item in result.requirements:
        observed = "not measured" if item.observed is None else f"{item.observed:.6g}"
        lines.append(f"{'met    ' if item.met else 'NOT MET'} {item.requirement}: observed {observed}")
    return [*lines, f"report: {result.report}"]


class _FileList:
    """An intake that holds everything from the start."""

    def __init__(self, stamps: Sequence[FileStamp], seen_at: datetime) -> None:
        self.waiting = deque(Arrival(stamp, seen_at, is_final=True) for stamp in stamps)
        self._seen_at = seen_at

    def take(self, limit: int) -> list[Arrival]:
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def finished(self, stamp: FileStamp) -> None:
        """Nothing to do: a file is on the list once."""

    def retry(self, stamp: FileStamp) -> None:
        self.waiting.append(Arrival(stamp, self._seen_at, is_final=True))


class _Numbering:
    """A verdict store that only counts, and hands on to another where there is one."""

    def __init__(self, publish_to: VerdictStore | None) -> None:
        self._publish_to = publish_to
        self._last = 0

    def commit(self, entries: Sequence[Entry], now: datetime) -> list[Verdict | None]:
        if self._publish_to is not None:
            self._publish_to.commit(entries, now)
        stored: list[Verdict | None] = []
        for entry in entries:
            self._last += 1
            stored.append(entry.verdict.model_copy(update={"seq": self._last}) if entry.verdict else None)
        return stored


class _Rows:
    """Takes the verdicts as they come: writes each, keeps its figures, offers it to the gallery."""

    def __init__(self, matched: MatchedLabels, gallery: Gallery, stream: BinaryIO, progress: ReplayProgress) -> None:
        self.rows: list[ScanRow] = []
        self._matched = matched
        self._gallery = gallery
        self._stream = stream
        self._progress = progress

    def add(self, judged: Judged) -> None:
        verdict = judged.verdict
        assert verdict is not None, "the store knows no verdict, so every file gets one"
        self._stream.write(canonical_json(verdict) + b"\n")
        self._stream.flush()
        file = judged.prepared.arrival.stamp.file
        truth = self._matched.by_file.get(file)
        times = verdict.durations_ms
        row = ScanRow(
            file=file,
            bundle=truth.lot if truth is not None and truth.lot is not None else verdict.bundle,
            label=None if truth is None else truth.label,
            outcome=verdict.outcome,
            reasons=verdict.reasons,
            p_abnormal=verdict.p_abnormal,
            gate_mean_max=verdict.gate.mean_max,
            gate_std_max=verdict.gate.std_max,
            durations_ms=(times.read, times.convert, times.infer),
        )
        self.rows.append(row)
        self._gallery.offer(judged, verdict, row, truth)
        self._progress.judged(verdict.outcome)


def _stamps(folder: Path, *, recursive: bool) -> tuple[FileStamp, ...]:
    """What the inbox would find in the folder, ordered by path."""
    station = StationFolder(folder, recursive=recursive)
    listing = station.look({}, expects_scans=False)
    if listing.away is not None:
        raise SettingsError(
            f"{folder} is not a folder that can be listed: {listing.detail}",
            hint="name the folder of scans with --replay",
        )
    stamps = []
    for file in sorted(file for file, _ in listing.found):
        status = station.lstat(file)
        if status is not None:
            stamps.append(FileStamp.of(file, status))
    if not stamps:
        below = "" if recursive else "; set folder.recursive to look into sub-folders"
        raise SettingsError(f"{folder} holds no *{' or *'.join(SUFFIXES)}", hint=f"name the folder of scans{below}")
    return tuple(stamps)


@contextmanager
def _explained_errors(out: Path) -> Iterator[None]:
    """Reading scans raises no OSError: what is left is the writing of results."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"results in {out} cannot be written: {error.strerror}", hint="make room there, or name another --out"
        ) from None


def _write(path: Path, text: str) -> None:
    with written_whole(path, durable=False) as stream:
        stream.write(text.encode())
