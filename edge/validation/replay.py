"""`edge-worker replay DIR`: every file of a folder through the line's own worker, then a validation report.

The files are the ones the inbox would find, read, checked, judged and worded by the same code as on the line. What
differs: a file is judged as it is, no writer is waited for; equal bytes are judged each time; and no ledger
remembers anything. Into `--out` go `verdicts.jsonl` (one canonical verdict per line, in the order of the names),
`summary.json`, `report.html`, `scans.csv`, and `run.json`: when, where and how fast. The others hold no time, so that
report, summary and table are the same however many processes judged.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from uuid import UUID, uuid4

from edge import __version__
from edge.contract.messages import ModelCard, Verdict
from edge.errors import SettingsError
from edge.model.manifest import QuickPass
from edge.model.qualification import program_sha256
from edge.pipeline.loaded_model import LoadedModel, load_model
from edge.pipeline.worker import VerdictStore
from edge.records import Outcome
from edge.settings import Settings
from edge.system.files import hold_folder, write_whole
from edge.system.names import SCAN_SUFFIXES, display_name
from edge.system.progress import Reporter
from edge.system.text import visible
from edge.validation.comparison import Changes, Comparison, compare
from edge.validation.detection import SizeScale
from edge.validation.file_list import FileList, write_file_list
from edge.validation.gallery import Gallery
from edge.validation.judging import Job, Judge, JudgedFile, Parts, judge_parts
from edge.validation.labels import LabelRow, MatchedLabels, match_labels, read_labels
from edge.validation.leaks import Leaks
from edge.validation.lots import alike
from edge.validation.measure import measure_reliability
from edge.validation.photographer import Photographer
from edge.validation.reliability import LotError, Plant
from edge.validation.report import report_html
from edge.validation.requirements import (
    Requirement,
    RequirementResult,
    check_requirement,
    parse_requirement,
    sizes_asked,
)
from edge.validation.results import Metrics, validate
from edge.validation.sources import Source, open_source
from edge.validation.speed import Run, cost_line, doubt_line, measure_speed, run_json
from edge.validation.summary import Replay, summary_json
from edge.validation.table import ScanRow, ScanTable
from edge.validation.workers import Workers, judge_elsewhere

REQUIREMENT_UNMET = 1
"""Exit code of a replay that worked and found too little."""

LABELS_NAME = "labels.csv"
MARKS_NAME = ".decoding"
PARTS_NAME, OTHER_PARTS_NAME = ".parts", ".parts-against"
LIST_NAME = ".files.jsonl"
RESULT_NAMES = ("verdicts.jsonl", "summary.json", "report.html", "run.json", "scans.csv")
"""Files that a replay leaves; those of an earlier one are removed first."""
TABLE_COLUMNS = (
    "file", "bundle", "label", "outcome", "reasons", "p_abnormal", "gate_mean_max", "gate_std_max",
    "other_outcome", "other_p_abnormal",
)  # fmt: skip
PICTURES = 12
"""Scans pictured per group of the report."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What the command line asks for."""

    folder: Path | str
    """A folder, or the address of one in a store, such as s3://bucket/scans."""
    labels: Path | None = None
    out: Path | None = None
    publish: bool = False
    requirements: tuple[str, ...] = ()
    plant: Plant = field(default_factory=Plant)
    size_scale: SizeScale = SizeScale.LOG
    """What curves of detection run over."""
    against: Path | None = None
    """Directory of another model to compare with."""
    workers: Workers = field(default_factory=Workers)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found, and where it wrote it."""

    metrics: Metrics
    warning: str | None
    """What a reader of the figures must know first."""
    comparison: Comparison | None
    lot_errors: tuple[LotError, ...]
    lots_alike: tuple[tuple[str, ...], ...]
    """Names of labelled lots that a person may have meant as one: counted as several, intervals are too narrow."""
    requirements: tuple[RequirementResult, ...]
    run: Run
    verdicts: Path
    summary: Path
    report: Path

    @property
    def exit_code(self) -> int:
        """0, or REQUIREMENT_UNMET."""
        return 0 if all(result.met for result in self.requirements) else REQUIREMENT_UNMET


@dataclass(frozen=True, slots=True)
class CheckedReplay:
    """A replay that can begin: everything a person may have mistyped is checked."""

    source: Source
    files: FileList
    labels: Path | None
    labels_sha256: str | None
    matched: MatchedLabels
    out: Path
    requirements: tuple[Requirement, ...]
    plant: Plant
    size_scale: SizeScale
    workers: Workers


Publishing = Callable[[Path, LoadedModel, UUID], AbstractContextManager[VerdictStore]]
"""Opens, for an output folder, a model and a boot id, a store that publishes its entries; leaving it waits for them."""


def replay(options: ReplayOptions, settings: Settings, publishing: Publishing) -> int:
    """The command: check the options, load the model, replay, say what came of it; the exit code.

    `publishing` is used if the options ask for it. Raises EdgeError, OSError.
    """
    with ExitStack() as stack:
        stack.enter_context(only_one_into(_out_of(options)))
        checked = check_replay(options, settings)
        if checked.labels is None and (beside := Path(options.folder) / LABELS_NAME).is_file():
            print(f"not scored: {beside} exists; to compare with it, add --labels")
        model = load_model(settings)
        stack.callback(model.engine.close)
        boot_id, store = uuid4(), None
        other = None
        if options.against is not None:
            other = load_model(
                settings.model_copy(update={"model": settings.model.model_copy(update={"dir": options.against})})
            )
            stack.callback(other.engine.close)
        if options.publish:
            store = stack.enter_context(publishing(checked.out, model, boot_id))
        result = run_replay(checked, settings, model, boot_id, publish_to=store, other=other)
    for line in summary_lines(result):
        print(line)
    return result.exit_code


@contextmanager
def folder_named(out: Path) -> Iterator[None]:
    """Inside, an OSError names at least the folder of results: that of a full disk names nothing by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(out)
        raise


@contextmanager
def only_one_into(out: Path) -> Iterator[None]:
    """Inside, no other replay takes this folder: each would write its list and its verdicts over the other's.

    Raises SettingsError where one has it.
    """
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_folder(out))
        except BlockingIOError:
            raise SettingsError(
                f"another replay writes into {out}", hint="wait for it, or name another folder with --out"
            ) from None
        except OSError:
            pass  # `check_replay` says what is wrong with it
        yield


def _out_of(options: ReplayOptions) -> Path:
    return options.out or Path(f"replay-{Path(options.folder).resolve().name}")


def check_replay(options: ReplayOptions, settings: Settings) -> CheckedReplay:
    """Check the options, make the output folder, list the files, match the labels. Raises SettingsError."""
    requirements = tuple(parse_requirement(text) for text in options.requirements)
    if options.publish and not options.workers.is_here:
        raise SettingsError("--publish is for one process", hint="leave out --jobs and --ray, or --publish")
    source = open_source(options.folder, recursive=settings.folder.recursive)
    label_rows = None if options.labels is None else read_labels(options.labels)
    out = _out_of(options)
    if options.labels is not None and options.labels.resolve() in [(out / name).resolve() for name in RESULT_NAMES]:
        raise SettingsError(
            f"the results would take the place of the labels {options.labels}",
            hint="name another folder with --out, or give the labels another name",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = write_file_list(source.names(), out / LIST_NAME)
    except OSError as error:
        raise SettingsError(
            f"results cannot go to {out}: {error.strerror}", hint="name a folder you may write into with --out"
        ) from None
    if not files:
        below = "" if settings.folder.recursive else "; set folder.recursive to look into sub-folders"
        raise SettingsError(
            f"{source.name} holds no *{' or *'.join(SCAN_SUFFIXES)}", hint=f"name the folder of scans{below}"
        )
    matched, digest = MatchedLabels({}, ()), None
    if options.labels is not None and label_rows is not None:
        matched = match_labels(options.labels, label_rows, files)
        digest = hashlib.sha256(options.labels.read_bytes()).hexdigest()
    return CheckedReplay(
        source,
        files,
        options.labels,
        digest,
        matched,
        out,
        requirements,
        options.plant,
        options.size_scale,
        options.workers,
    )


def run_replay(
    checked: CheckedReplay,
    settings: Settings,
    model: LoadedModel,
    boot_id: UUID,
    *,
    publish_to: VerdictStore | None = None,
    other: LoadedModel | None = None,
) -> ReplayResult:
    """Judge the planned files and write the results. The caller closes the engine.

    `other`: another model that judges the same files, to compare with.

    `publish_to` gets every entry as well, before it is kept here: a ledger, which drops equal bytes and counts for
    itself, so the numbers in `verdicts.jsonl` are those of this replay's files, not of its messages. Raises
    EngineError, LedgerError from `publish_to`, and OSError when the results cannot be written; what was judged until
    then is not judged again by the next replay into the same folder.
    """
    with folder_named(checked.out):
        files = _Files.cleared(checked.out)
        job = Job(checked.source, settings, boot_id, datetime.now(UTC), checked.out / MARKS_NAME)
        parts, other_parts = Parts(checked.out / PARTS_NAME, checked.files), None
        work = _judge(checked, job, model, parts, publish_to)
        if other is not None:
            other_parts = Parts(checked.out / OTHER_PARTS_NAME, checked.files)
            _judge(checked, job, other, other_parts, None)
        reading = _read(checked, model, parts, other_parts, files)
        with closing(Photographer(checked.source, model, job.limits)) as photographer:
            reading.gallery.add_pictures(photographer.picture_of)
            changed = reading.changes.kept(photographer.picture_of)
        comparison = None
        if other is not None:
            card = other.card(settings.station, boot_id)
            comparison = compare(reading.rows, reading.other_rows, card, changed, reading.changes.count)
        run = _run_of(job, work, reading.rows, datetime.now(UTC), model.signed.manifest.quick_pass)
        found = _found(checked, model, reading, comparison, run, model.card(settings.station, boot_id))
        _write(files.run, run_json(run))
        _write(files.summary, summary_json(found))
        _write(files.report, report_html(found, reading.gallery))
        parts.remove()
        shutil.rmtree(checked.out / OTHER_PARTS_NAME, ignore_errors=True)  # of a comparison that was ended, too
        checked.files.path.unlink(missing_ok=True)
        shutil.rmtree(job.marks, ignore_errors=True)  # each file has its verdict by now
        return ReplayResult(
            metrics=found.validation.metrics,
            warning=reading.leaks.sentence if reading.leaks.is_void else None,
            comparison=comparison,
            lot_errors=tuple(found.reliability.lot_errors.values()),
            lots_alike=tuple(map(tuple, alike({row.lot_name for row in reading.rows if row.label is not None}))),
            requirements=tuple(found.requirements),
            run=run,
            verdicts=files.verdicts,
            summary=files.summary,
            report=files.report,
        )


@dataclass(frozen=True, slots=True)
class _Files:
    """What a replay leaves in its folder."""

    verdicts: Path
    summary: Path
    report: Path
    run: Path
    table: Path

    @classmethod
    def cleared(cls, out: Path) -> _Files:
        """Their paths; those of an earlier replay are removed."""
        paths = [out / name for name in RESULT_NAMES]
        for stale in paths:
            stale.unlink(missing_ok=True)
        return cls(*paths)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one pass over all verdicts gathers."""

    gallery: Gallery
    leaks: Leaks
    changes: Changes = field(default_factory=Changes)
    rows: ScanTable = field(default_factory=ScanTable)
    other_rows: ScanTable = field(default_factory=ScanTable)


def _read(
    checked: CheckedReplay, model: LoadedModel, parts: Parts, other_parts: Parts | None, files: _Files
) -> _Reading:
    """Write verdicts and table in the order of the names; gather what the report is made of."""
    gallery, manifest = Gallery(size=PICTURES, policy=model.signed.policy()), model.signed.manifest
    reading = _Reading(gallery, Leaks(manifest.learnt_from, manifest.calibrated_on))
    other_lines = repeat(b"") if other_parts is None else other_parts.lines()
    with write_whole(files.verdicts, durable=False) as stream, write_whole(files.table, durable=False) as cells:
        csv_rows = csv.writer(codecs.getwriter("utf-8")(cells), lineterminator="\n")
        csv_rows.writerow(TABLE_COLUMNS)
        for line, other_line in zip(parts.lines(), other_lines, strict=False):
            judged = JudgedFile.of_line(line)
            file, verdict = judged.file, judged.verdict
            stream.write(line.rpartition(b"\t")[2])
            truth = checked.matched.by_file.get(file)
            row = _row(file, verdict, truth)
            reading.rows.append(row)
            gallery.offer(verdict, row, truth)
            reading.leaks.offer(row, verdict, judged.pixels)
            other_row = None
            if other_line:
                other_row = _row(file, JudgedFile.of_line(other_line).verdict, truth)
                reading.other_rows.append(other_row)
                reading.changes.offer(row, verdict, other_row)
            csv_rows.writerow(_cells(row, other_row))
    return reading


def _run_of(job: Job, work: _Work, rows: ScanTable, finished_at: datetime, quick_pass: QuickPass | None) -> Run:
    """When, where and how fast."""
    judged = len(rows) - work.resumed
    return Run(
        program=f"edge-worker {__version__}",
        boot_id=job.boot_id,
        started_at=job.started_at,
        finished_at=finished_at,
        elapsed_s=work.elapsed_s,
        judged=judged,
        resumed=work.resumed,
        workers=work.workers,
        cores=work.cores,
        speed=measure_speed(rows, judged=judged, elapsed_s=work.elapsed_s, cores=work.cores, quick_pass=quick_pass),
    )


def _found(
    checked: CheckedReplay,
    model: LoadedModel,
    reading: _Reading,
    comparison: Comparison | None,
    run: Run,
    card: ModelCard,
) -> Replay:
    """All that report and summary say, requirements included."""
    policy, without_file = model.signed.policy(), checked.matched.without_file
    found = Replay(
        program=run.program,
        folder=display_name(checked.source.name),
        labels=None if checked.labels is None else display_name(str(checked.labels)),
        labels_sha256=checked.labels_sha256,
        card=card,
        rows=reading.rows,
        validation=validate(
            reading.rows,
            threshold=policy.threshold,
            labels_without_file=None if checked.labels is None else len(without_file),
        ),
        reliability=measure_reliability(
            reading.rows,
            checked.matched.by_file,
            policy,
            checked.plant,
            checked.size_scale,
            sizes_asked(checked.requirements),
        ),
        comparison=comparison,
        leaks=reading.leaks,
        requirements=(),
        training=model.signed.manifest.training,
        labels_without_file=[f"line {row.line}: {display_name(row.file)}" for row in without_file],
    )
    figures = {**found.figures, **run.speed.flat()}
    return replace(found, requirements=tuple(check_requirement(item, figures) for item in checked.requirements))


def _judge(
    checked: CheckedReplay,
    job: Job,
    model: LoadedModel,
    parts: Parts,
    publish_to: VerdictStore | None,
) -> _Work:
    """Bring every file to its verdict."""
    parts.open(_key(job, model), checked.source)
    resumed, total = parts.judged, len(checked.files)
    workers, cores = 1, job.settings.model.threads or len(os.sched_getaffinity(0))
    started_s = time.perf_counter()
    with Reporter() as reporter:
        if resumed:
            reporter.say(f"{resumed} of {total} were judged before the last replay was ended")
        show = _outcome_counter(reporter, resumed, total)
        if checked.workers.is_here:
            with closing(Judge(job, model, publish_to)) as judge:
                judge_parts(judge, parts, parts.unfinished(), lambda verdict: show(Counter([verdict.outcome])))
        else:
            workers = cores = judge_elsewhere(checked.workers, job, model, checked.files, parts, show)
    return _Work(resumed, time.perf_counter() - started_s, workers, cores)


@dataclass(frozen=True, slots=True)
class _Work:
    """What judging took."""

    resumed: int
    elapsed_s: float
    workers: int
    cores: int


def _key(job: Job, model: LoadedModel) -> dict[str, object]:
    """What must be equal for verdicts of an earlier replay to stand."""
    engine = model.engine.spec
    return {
        "program": program_sha256(),
        "lines": "name, pixels in every orientation, verdict",
        "folder": job.source.place,
        "model": model.signed.digest,
        "engine": f"{engine.name} {engine.precision} {engine.degraded}",
        "settings": job.settings.model_dump(mode="json", include={"station", "topic", "folder", "naming"}),
    }


def _cells(row: ScanRow, other: ScanRow | None) -> tuple[object, ...]:
    """A line of scans.csv; text that a spreadsheet would take for a formula is kept from it."""
    texts = (display_name(row.file), row.lot or "", row.label or "", row.outcome, " ".join(row.reasons))
    safe = (f"'{text}" if text.startswith(("=", "+", "-", "@")) else text for text in texts)
    others = ("", "") if other is None else (other.outcome, other.p_abnormal)
    return (*safe, row.p_abnormal, row.gate_mean_max, row.gate_std_max, *others)


def _row(file: str, verdict: Verdict, truth: LabelRow | None) -> ScanRow:
    times = verdict.durations_ms
    return ScanRow(
        file=file,
        lot=truth.lot if truth is not None and truth.lot is not None else verdict.bundle,
        label=None if truth is None else truth.label,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        p_abnormal=verdict.p_abnormal,
        gate_mean_max=verdict.gate.mean_max,
        gate_std_max=verdict.gate.std_max,
        durations_ms=(times.read, times.convert, times.infer),
    )


def summary_lines(result: ReplayResult) -> list[str]:
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
            f"escapes {metrics.escape_count or 0} of {metrics.labelled_abnormal_count}, "
            f"overkill {metrics.overkill_count or 0} of {metrics.labelled_normal_count}"
        )
    for error in result.lot_errors:
        if error.interval is not None and error.interval.lots > 1:
            worst = error.worst and f"; worst {visible(error.worst.lot)}: {error.worst.errors} of {error.worst.scans}"
            span = f"{error.interval.low:.1%} to {error.interval.high:.1%} over {error.interval.lots} lots"
            lines.append(f"{error.name.lower()}: 95 % interval {span}{worst or ''}")
    for names in result.lots_alike:
        lines.append(f"lots of names alike, one lot or several? {', '.join(map(visible, sorted(names)))}")
    if metrics.labels_without_file_count:
        lines.append(f"{metrics.labels_without_file_count} rows of the labels file fit no file of the folder")
    if metrics.labelled_count and metrics.unlabelled_count:
        lines.append(f"{metrics.unlabelled_count} files have no label")
    for item in result.requirements:
        observed = "not measured" if item.observed is None else f"{item.observed:.6g}"
        lines.append(f"{'met    ' if item.met else 'NOT MET'} {item.requirement}: observed {observed}")
    if result.comparison is not None:
        figures = result.comparison.figures
        lines.append(f"{figures.changed_count} decisions differ from those of {result.comparison.other.id}")
        for share in result.comparison.shares:
            low, high = share.difference.lots_low, share.difference.lots_high
            over = "" if low is None or high is None else f" ({low:+.1%} to {high:+.1%} over lots)"
            lines.append(f"{share.name}: {share.difference.difference:+.1%}{over}, McNemar p {share.table.p_value:.3g}")
    if result.warning is not None:
        lines = [result.warning.upper(), *lines, result.warning.upper()]
    lines += filter(None, (doubt_line(result.run), cost_line(result.run)))
    return [*lines, f"report: {result.report}"]


def _outcome_counter(reporter: Reporter, done: int, total: int) -> Callable[[Counter[Outcome]], None]:
    """Count outcomes as they come, after the `done` of an earlier replay."""
    show, outcomes = reporter.counter("scans"), Counter[Outcome]()
    show(done, total)

    def judged(new: Counter[Outcome]) -> None:
        outcomes.update(new)
        counts = ", ".join(f"{outcomes[one]} {one}" for one in Outcome if outcomes[one])
        show(done + outcomes.total(), total, counts)

    return judged


def _write(path: Path, text: str) -> None:
    with write_whole(path, durable=False) as stream:
        stream.write(text.encode())
