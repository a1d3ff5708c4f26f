"""Figures of the overview: what the line did today by its own health messages, and how line and people agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path, PurePosixPath
from statistics import median

from pydantic import ValidationError

from edge.contract.messages import Health
from edge.desk.readings import Choice, State, disagrees, standing
from edge.desk.store import Answer, DeskStore, by_verdict
from edge.desk.words import NOTHING, Language, clock, name_code, number, short_moment
from edge.errors import SettingsError, TableError
from edge.records import Outcome
from edge.system.files import open_regular
from edge.validation.labels import Label, read_labels
from edge.validation.statistics import Rate

MAX_HEALTH_BYTES = 1 << 18
DRIFT_DAYS = 7
OLD_S = 180.0
"""Health of this age is not of a running line."""


@dataclass(frozen=True, slots=True)
class ReaderFacts:
    """How one account reads."""

    account: str
    answers: int
    median_s: float
    agrees: Rate
    """With the line, where it took a side."""
    known: Rate
    """Right answers on scans whose truth is known."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the page shows."""

    health: Health | None
    """The newest; None where the worker has left none."""
    is_old: bool
    today: Mapping[str, int] | None
    """Verdicts since midnight by outcome."""
    last_verdict: str
    """When the line last judged, in the reader's words."""
    drift: Mapping[str, str]
    """A curve as SVG by the name of its score, in the reader's words."""
    agreement: Mapping[str, Mapping[str, int]]
    """Decided scans: outcome of the line, then what stands of the people."""
    escapes: Rate
    """Controls drawn by lot that the line called normal: abnormal ones of those decided."""
    readers: tuple[ReaderFacts, ...]
    unhanded: int


def note_health(store: DeskStore, path: Path) -> None:
    """Keep the worker's newest health message, if it is a new one. Raises DeskError when the desk's file fails."""
    try:
        with open_regular(path) as (stream, _):
            payload = stream.read(MAX_HEALTH_BYTES)
        health = Health.model_validate_json(payload)
    except (OSError, ValidationError):
        return  # no worker has run yet, or not one of this release: the page says that there is none
    at_ms = int(health.at.timestamp() * 1000)
    if payload not in store.health_since(at_ms):
        store.add_health(at_ms, payload)


def overview_facts(store: DeskStore, known_labels: Path | None, at: datetime, language: Language) -> Facts:
    """The figures at a moment, the curves labelled in `language`.

    Raises SettingsError where the labels of the known scans cannot be read.
    """
    since = at - timedelta(days=DRIFT_DAYS)
    messages = list(_messages(store.health_since(int(since.timestamp() * 1000))))
    newest = messages[-1] if messages else None
    answers = store.answers()
    agreement = {str(outcome): dict.fromkeys(map(str, Choice), 0) for outcome in Outcome}
    controls = {Choice.NORMAL: 0, Choice.ABNORMAL: 0, Choice.UNDECIDED: 0}
    for given in by_verdict(answers).values():
        outcome = given[0].outcome
        stands = standing(outcome, [answer.vote for answer in given])
        if stands.state is State.DECIDED and stands.choice is not None:
            agreement[outcome][stands.choice] += 1
            if outcome is Outcome.NORMAL and given[0].kept == "sample":
                controls[stands.choice] += 1
    return Facts(
        health=newest,
        is_old=newest is not None and abs((at - newest.at).total_seconds()) > OLD_S,  # a clock may have been set back
        today=_counts_of_day(messages, at),
        last_verdict=_last_verdict(messages, at, language),
        drift=_curves(messages, language),
        agreement=agreement,
        escapes=Rate(controls[Choice.ABNORMAL], controls[Choice.ABNORMAL] + controls[Choice.NORMAL]),
        readers=_readers(answers, _truth(known_labels)),
        unhanded=len(store.unhanded()),
    )


def _messages(payloads: Iterable[bytes]) -> Iterable[Health]:
    for payload in payloads:
        try:
            yield Health.model_validate_json(payload)
        except ValidationError:
            continue  # of an older release


def _counts_of_day(messages: Sequence[Health], at: datetime) -> dict[str, int] | None:
    """Verdicts since local midnight: counters of each start of the worker, less what they showed before."""
    midnight = at.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    counts: dict[str, int] = dict.fromkeys(map(str, Outcome), 0)
    last: dict[object, Mapping[str, int]] = {}
    is_known = False
    for message in messages:
        if message.at >= midnight:
            is_known = True
            before = last.get(message.boot_id, {})
            for outcome, count in message.outcomes.items():
                counts[outcome] = counts.get(outcome, 0) + count - before.get(outcome, 0)
        last[message.boot_id] = message.outcomes
    return counts if is_known else None


def _last_verdict(messages: Sequence[Health], at: datetime, language: Language) -> str:
    """A worker that has judged nothing since its start does not know: an earlier message does."""
    last = next((each.last_verdict_at for each in reversed(messages) if each.last_verdict_at is not None), None)
    if last is None:
        return NOTHING
    return (clock if last.astimezone().date() == at.astimezone().date() else short_moment)(language, last)


def _readers(answers: Sequence[Answer], truth: Mapping[str, Label]) -> tuple[ReaderFacts, ...]:
    by_reader: dict[str, list[Answer]] = {}
    for answer in answers:
        by_reader.setdefault(answer.vote.account, []).append(answer)
    return tuple(_reader(account, given, truth) for account, given in sorted(by_reader.items()))


def _reader(account: str, answers: Sequence[Answer], truth: Mapping[str, Label]) -> ReaderFacts:
    first = {answer.verdict_id: answer for answer in reversed(answers)}.values()  # before the line's verdict was seen
    sided = [
        answer
        for answer in first
        if answer.outcome in (Outcome.NORMAL, Outcome.ABNORMAL) and answer.vote.choice is not Choice.UNDECIDED
    ]
    known = [(answer, truth[name]) for answer in first if (name := PurePosixPath(answer.file).name) in truth]
    return ReaderFacts(
        account=account,
        answers=len(first),
        median_s=median(answer.seconds_looked for answer in first),
        agrees=Rate(sum(not disagrees(answer.outcome, answer.vote.choice) for answer in sided), len(sided)),
        known=Rate(sum(str(answer.vote.choice) == str(label) for answer, label in known), len(known)),
    )


def _truth(labels: Path | None) -> dict[str, Label]:
    """Label of each known scan, by the file's own name. Raises SettingsError."""
    if labels is None:
        return {}
    try:
        return {PurePosixPath(row.file).name: row.label for row in read_labels(labels) if row.label is not None}
    except TableError as error:
        raise SettingsError(f"`desk.known_labels`: {error.message}", hint=error.hint) from None


# -- curves --------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 440, 150, 52, 12, 122


def _curves(messages: Sequence[Health], language: Language) -> dict[str, str]:
    names = sorted({name for message in messages for name in message.drift})
    curves = {}
    for name in names:
        points = [(message.at, value) for message in messages if (value := message.drift.get(name)) is not None]
        if len(points) >= 2:
            title = name_code(language, "drift_", name)
            curves[title] = _curve(title, _thin(points), language)
    return curves


def _thin(points: list[tuple[datetime, float]], most: int = 300) -> list[tuple[datetime, float]]:
    """Every n-th point, and the last."""
    step = -(-len(points) // most)
    return points[:-1:step] + points[-1:]


def _curve(title: str, points: Sequence[tuple[datetime, float]], language: Language) -> str:
    """A curve over time as inline SVG; a gap of more than an hour breaks it. Colours come from the style sheet."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) * 0.1 or max(abs(high), 1e-6) * 0.1
    low, high = low - room, high + room
    begin, span_s = points[0][0], max((points[-1][0] - points[0][0]).total_seconds(), 1.0)

    def x(moment: datetime) -> float:
        return _LEFT + (_WIDTH - _LEFT - 8) * (moment - begin).total_seconds() / span_s

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    path, last = [], None
    for moment, value in points:
        is_gap = last is None or (moment - last).total_seconds() > max(3600.0, span_s / 100)
        path.append(f"{'M' if is_gap else 'L'}{x(moment):.1f} {y(value):.1f}")
        last = moment
    ticks = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]
    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(language, tick)}</text>'
        for tick in ticks
    ]
    ends = [
        f'<text x="{place}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{short_moment(language, moment)}</text>'
        for place, anchor, moment in ((_LEFT, "start", begin), (_WIDTH - 8, "end", points[-1][0]))
    ]
    words = escape(f"{title}: {number(language, values[0])} … {number(language, values[-1])}")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}">{"".join(lines)}'
        f'<path class="curve" d="{"".join(path)}"/>{"".join(ends)}</svg>'
    )
