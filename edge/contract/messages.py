"""The messages the MES receives: their fields, their canonical bytes and their topics.

Every model is frozen, refuses unknown fields and refuses NaN, so a message that exists is one the
schema describes. `edge/contract/schema/` holds the JSON Schema of each and an AsyncAPI 3 document of the whole
interface, both written from these classes by `make docs`.

Within a schema `…/1` fields and words may be added, so the shipped schemas allow unknown ones and consumers ignore
them; a field that changes its meaning or goes makes `…/2`.

Times are RFC 3339 in UTC with milliseconds. Free text keeps what the operating system allows in file
names: bytes that are no UTF-8 appear as `\\udcXX`, because JSON and MQTT cannot carry them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from edge.images.method import Method
from edge.records import Outcome
from edge.settings import Settings
from edge.system.text import rfc3339, speakable
from edge.system.values import MAX_SEQ, check_topic_level


def _to_utc_ms(moment: datetime) -> datetime:
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # hours before the first day of the calendar, or after the last
        raise ValueError("no time of the calendar in UTC") from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def open_enumeration(words: Iterable[str], pattern: str | None = None) -> dict[str, Any]:
    """JSON Schema of a text that is one of `words`, or one that a later release has added."""
    other = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    return {"anyOf": [{"enum": list(words)}, other]}


ENGINES = ("onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")

Timestamp = Annotated[
    AwareDatetime,
    AfterValidator(_to_utc_ms),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
        }
    ),
]
Text = Annotated[str, BeforeValidator(speakable)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
"""A machine-readable reason or code: lower-case words joined by hyphens."""
Engine = Annotated[str, BeforeValidator(speakable), WithJsonSchema(open_enumeration(ENGINES))]
Precision = Annotated[str, BeforeValidator(speakable), WithJsonSchema(open_enumeration(PRECISIONS))]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
EvidencePath = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}/[0-9a-f]{32}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Px = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""Bounded: a person's answer comes from outside, and few programs at the MES read a number of 4000 digits."""
Seq = Annotated[int, Field(ge=1, le=MAX_SEQ)]
Band = Annotated[tuple[Probability, ...], Field(min_length=2, max_length=2)]
BoundsCounts = Annotated[tuple[Annotated[int, Field(ge=0, le=65535)], ...], Field(min_length=2, max_length=2)]
Outcomes = Annotated[
    dict[str, int],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {outcome.value: {"type": "integer", "minimum": 0} for outcome in Outcome},
            "additionalProperties": {"type": "integer", "minimum": 0},
        }
    ),
]
Drift = Annotated[
    dict[str, float | None],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                name: {"anyOf": [{"type": "number"}, {"type": "null"}]}
                for name in ("p_abnormal", "gate_mean_max", "gate_std_max")
            },
            "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        }
    ),
]

STATION_MEANING = "name of the station, one level of its topic"
BOOT_MEANING = "changes whenever the worker starts"
SCHEMA_MEANING = "name and version of this message's schema; the MQTT 5 user property `schema` says the same"


class Part(BaseModel):
    """A frozen piece of a message."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        json_schema_serialization_defaults_required=True,
    )


class Kind(StrEnum):
    """Last level of the topic."""

    VERDICT = "verdict"
    DISPOSITION = "disposition"
    STATUS = "status"
    MODEL = "model"
    HEALTH = "health"
    ALARM = "alarm"


class Message(Part):
    """A message of its own: the name of its schema, the last level of its topic, and how it is delivered."""

    schema_name: str
    KIND: ClassVar[Kind]
    QOS: ClassVar[Literal[0, 1]] = 1
    RETAINED: ClassVar[bool] = False

    @classmethod
    def schema_id(cls) -> str:
        """`verdict/1`, and so on: the value of the field `schema` in every message of the class."""
        return str(cls.model_fields["schema_name"].default)


class ScanInfo(Part):
    """The file that was judged."""

    file: Text = Field(description="path relative to the station folder")
    sha256: Hex64 = Field(description="of the file's bytes")
    size_bytes: Count = Field(description="of the file")
    width_px: Count | None = Field(description="null when the header is not readable")
    height_px: Count | None = Field(description="null when the header is not readable")
    modified_at: Timestamp = Field(description="of the file, by the clock of what wrote it: the station or its share")


class BoxPx(Part):
    """A window of the scan, in pixels of the original."""

    x_px: Px = Field(description="left edge, from the left")
    y_px: Px = Field(description="upper edge, from the top")
    width_px: Px = Field(description="to the right")
    height_px: Px = Field(description="downwards")


class GateInfo(Part):
    """Does the model know this kind of image? Scores above their thresholds send the scan to review."""

    mean_max: float | None = Field(description="largest |window mean| of the residual; null if not finite or not asked")
    std_max: float | None = Field(description="largest window deviation of the residual; null likewise")
    mean_threshold: float | None = Field(description="a larger `mean_max` goes to review; null: no such limit")
    std_threshold: float | None = Field(description="a larger `std_max` goes to review; null likewise")
    boxes_px: tuple[BoxPx, ...] = Field(description="windows the gate does not know, worst first")

    @property
    def worst_share(self) -> float | None:
        """The larger of both scores, in multiples of its threshold; above 1 the model does not know the image."""
        pairs = ((self.mean_max, self.mean_threshold), (self.std_max, self.std_threshold))
        return max((score / limit for score, limit in pairs if score is not None and limit), default=None)


class ModelInfo(Part):
    """What judged the scan."""

    id: Text = Field(description="the model's own name; one id names one model for ever")
    sha256: Hex64 = Field(description="digest of the signed model's manifest, which holds the digest of every file")
    conversion: Method = Field(description="how 16-bit counts became 8-bit images")
    bounds_counts: BoundsCounts | None = Field(description="[low, high] of the conversion; null where it has none")
    engine: Engine = Field(description="what runs the networks")
    precision: Precision = Field(description="numbers the networks compute with")
    degraded: Text | None = Field(description="why this is not the engine that was asked for; null when it is")


class Times(Part):
    """Moments of the inspection, by the worker's clock."""

    first_seen_at: Timestamp = Field(description="when the worker first saw the file complete")
    decided_at: Timestamp = Field(description="when the outcome was decided")


class DurationsMs(Part):
    """Milliseconds; null for a step that did not run."""

    read: NonNegative | None = Field(description="reading, hashing and unpacking the file")
    convert: NonNegative | None = Field(description="from 16-bit counts to the networks' images; null without pixels")
    infer: NonNegative | None = Field(description="both networks, a batch's time shared; null if not asked")


class Verdict(Message):
    """One per arrival of a scan, delivered at least once with identical bytes.

    Bytes or pixels that were judged before arrive again as a verdict of their own that names the first: `review` with
    the reason `repeated-image`, or `unreadable` again. Only the same name with the same bytes as its last verdict (a
    file copied again, touched or restored) is no arrival.
    """

    KIND = Kind.VERDICT

    schema_name: Literal["verdict/1"] = Field("verdict/1", alias="schema", description=SCHEMA_MEANING)
    verdict_id: Hex32 = Field(
        description="deduplicate by this: hash of the topic, the scan's bytes and the model's digest; where the bytes "
        "were judged before, of the arrival too"
    )
    station: Text = Field(description=STATION_MEANING)
    boot_id: UUID = Field(description=BOOT_MEANING)
    ledger_id: UUID = Field(description="changes with a new or restored ledger; (ledger_id, seq) is unique")
    seq: Count = Field(description="gap-free per ledger_id from 1, across restarts; a gap means a lost message")
    part_id: Text | None = Field(description="from the file name by `naming.pattern`; null where that does not fit")
    bundle: Text | None = Field(description="the coating lot, from the file name likewise")
    scan: ScanInfo = Field(description="the file that was judged")
    outcome: Outcome = Field(description="only `normal` may pass unseen")
    reasons: tuple[Word, ...] = Field(
        min_length=1, description="why, in a fixed order, for programs; words may be added within `verdict/1`"
    )
    detail: Text | None = Field(description="why, as a sentence for people; null where the scores say it all")
    repeats: Hex32 | None = Field(description="verdict_id of the first verdict on these bytes or pixels; null if new")
    p_abnormal: Probability | None = Field(
        description="the classifier's score that the scan is abnormal; null if not finite, not asked or unreadable"
    )
    threshold: Probability | None = Field(description="`p_abnormal` from here on is `abnormal`; null if `unreadable`")
    review_band: Band | None = Field(description="[from, to] of `p_abnormal` that goes to review; null: there is none")
    gate: GateInfo = Field(description="does the model know this kind of image?")
    model: ModelInfo = Field(description="what judged the scan, or would have, had it been readable")
    times: Times = Field(description="moments of the inspection, by the worker's clock")
    durations_ms: DurationsMs = Field(description="how long the steps took, in milliseconds")
    evidence: EvidencePath | None = Field(
        description="folder of the scan's pictures below the worker's `evidence.dir`; named before they are written, "
        "so they may be missing: dropped, or removed since to make room; null where none are kept"
    )
    is_simulated: bool = Field(description="true when a replay publishes")

    @model_validator(mode="after")
    def _outcome_fits_scores(self) -> Verdict:
        scores = (self.p_abnormal, self.gate.mean_max, self.gate.std_max)
        if self.outcome is Outcome.NORMAL and None in scores:
            raise ValueError("outcome `normal` needs a probability and both gate scores")
        if self.outcome is Outcome.UNREADABLE and any(score is not None for score in scores):
            raise ValueError("outcome `unreadable` cannot have scores: there were no pixels")
        return self


class Answer(Part):
    """What a person decided of a verdict, as it is handed to the worker."""

    disposition_id: Hex32 = Field(description="deduplicate by this; one answer of one person")
    verdict_id: Hex32 = Field(description="the verdict that was looked at; of this station, however old")
    part_id: Text | None = Field(description="as in the verdict; null where it has none")
    decision: Literal["normal", "abnormal", "undecided"] = Field(description="of the person, whatever the line said")
    kinds: Annotated[tuple[Annotated[Text, Field(max_length=64)], ...], Field(max_length=32)] = Field(
        description="kinds of defect the person saw, in the plant's own words"
    )
    boxes_px: Annotated[tuple[BoxPx, ...], Field(max_length=100)] = Field(
        description="where, in pixels of the original scan"
    )
    comment: Annotated[Text, Field(max_length=4000)] | None = Field(description="in the person's words; null: none")
    by: Annotated[Text, Field(min_length=1, max_length=200)] = Field(description="account of the person")
    at: Timestamp = Field(description="when the answer was given, by the clock of the desk")
    read: Literal["first", "second", "third"] = Field(
        description="which look of a person at this scan; the third decides where two disagree"
    )
    is_blind: bool = Field(description="true when the person had not seen the verdict, nor another person's answer")
    stands: Literal["normal", "abnormal"] | None = Field(
        description="what all answers on the verdict say together, this one among them; null while another is asked for"
    )
    seconds_looked: NonNegative | None = Field(
        description="from the first sight of the scan to the answer; null if not known"
    )
    previous: Hex64 | None = Field(
        description="hash of the record before it at the desk, whose chain shows any change; null without a chain"
    )


class Disposition(Answer, Message):
    """What a person decided of a verdict: the same outbox as the verdicts, the same promises.

    The verdict stays as it is. One verdict may have several answers, of one or more readers; what they decide together
    is `stands` of the one with the highest `seq`.
    """

    KIND = Kind.DISPOSITION

    schema_name: Literal["disposition/1"] = Field("disposition/1", alias="schema", description=SCHEMA_MEANING)
    station: Text = Field(description=STATION_MEANING)
    ledger_id: UUID = Field(description="as in verdicts; (ledger_id, seq) is unique")
    seq: Count = Field(description="from the same gap-free count as the verdicts")


class Status(Message):
    """Retained. `offline` is the last will, left with the broker at connection time; `refused` never started."""

    KIND = Kind.STATUS
    RETAINED = True

    schema_name: Literal["status/1"] = Field("status/1", alias="schema", description=SCHEMA_MEANING)
    station: Text = Field(description=STATION_MEANING)
    boot_id: UUID = Field(description=BOOT_MEANING)
    ledger_id: UUID | None = Field(description="whose sequence numbers follow; null where no ledger could be opened")
    state: Literal["online", "stopped", "offline", "refused"] = Field(
        description="`stopped` was asked for; `offline`: process or network are gone; `refused`: it must not start"
    )
    reason: Text | None = Field(description="why the worker did not start; null unless `refused`")
    hint: Text | None = Field(description="what to try; null likewise")
    at: Timestamp = Field(
        description="by the worker's clock; for `offline`: when the will was left, not when the link broke"
    )
    versions: dict[str, str] = Field(description="program and libraries")
    degraded: Text | None = Field(description="why the station does not run as configured; null when it does")


class ModelCard(Message):
    """Retained: what judges scans now."""

    KIND = Kind.MODEL
    RETAINED = True

    schema_name: Literal["model/1"] = Field("model/1", alias="schema", description=SCHEMA_MEANING)
    station: Text = Field(description=STATION_MEANING)
    boot_id: UUID = Field(description=BOOT_MEANING)
    id: Text = Field(description="the model's own name; one id names one model for ever")
    sha256: Hex64 = Field(description="digest of the signed model's manifest, which holds the digest of every file")
    created_at: Timestamp = Field(description="when the model was made, as signed in its manifest")
    loaded_at: Timestamp = Field(description="when the worker took it, by its clock")
    conversion: Method = Field(description="how 16-bit counts become 8-bit images")
    bounds_counts: BoundsCounts | None = Field(description="[low, high] of the conversion; null where it has none")
    height_px: Count = Field(description="of the networks' images")
    width_px: Count = Field(description="of the networks' images")
    channels: Count = Field(description="of the networks' images: 1 or 3")
    threshold: Probability = Field(description="`p_abnormal` from here on is `abnormal`")
    review_band: Band | None = Field(description="[from, to] of `p_abnormal` that goes to review; null: there is none")
    gate_mean_threshold: float = Field(description="a larger window mean of the residual goes to review")
    gate_std_threshold: float = Field(description="a larger window deviation of the residual goes to review")
    engine: Engine = Field(description="what runs the networks")
    precision: Precision = Field(description="numbers the networks compute with")
    degraded: Text | None = Field(description="why this is not the engine that was asked for; null when it is")


class Gpu(Part):
    """The GPU that judges, with all that runs on it."""

    name: Text = Field(description="as its driver calls it")
    memory_used_bytes: Count = Field(description="by all programs")
    memory_total_bytes: Count = Field(description="of the card")
    temperature_c: float | None = Field(description="null where the GPU does not measure it")
    utilization_percent: NonNegative | None = Field(description="null likewise")


class Evidence(Part):
    """Pictures for people, kept on the station's computer."""

    kept: Count = Field(description="verdicts since the start whose evidence was written")
    dropped: Count = Field(description="verdicts since the start that lack pictures or all evidence; the log says why")
    used_bytes: Count = Field(description="what all evidence takes on the disk")


class Latency(Part):
    """How long the newest scans waited: from the moment each was first seen complete to its verdict."""

    p50_s: NonNegative = Field(description="half of them took no longer, in seconds")
    p99_s: NonNegative = Field(description="99 of 100 took no longer, in seconds")
    scans: Count = Field(description="how many these are: the newest 1000 at most, since the start")


class Health(Message):
    """Retained, every minute, QoS 0."""

    KIND = Kind.HEALTH
    QOS = 0
    RETAINED = True

    schema_name: Literal["health/1"] = Field("health/1", alias="schema", description=SCHEMA_MEANING)
    station: Text = Field(description=STATION_MEANING)
    boot_id: UUID = Field(description=BOOT_MEANING)
    at: Timestamp = Field(description="when this was written, by the worker's clock")
    uptime_s: NonNegative = Field(description="seconds since the start")
    backlog_scans: Count = Field(description="files seen in the folder without a verdict, unmarked ones too")
    unsent_verdicts: Count | None = Field(
        description="messages the broker has not taken yet, dispositions included; null while the ledger cannot be read"
    )
    oldest_unsent_s: NonNegative | None = Field(
        description="seconds since the oldest of them was decided; null when none waits"
    )
    last_scan_at: Timestamp | None = Field(description="when the newest scan was first seen; null before the first one")
    last_verdict_at: Timestamp | None = Field(description="when the newest verdict was decided; null likewise")
    outcomes: Outcomes = Field(description="verdicts since the start, by outcome; left out: none yet")
    latency: Latency | None = Field(description="of the newest scans; null before the first verdict")
    repeated: Count = Field(
        description="files since the start that came again under their name with the bytes of their last verdict"
    )
    overwritten: Count = Field(
        description="files since the start that were replaced or written over before they were read; as far as was seen"
    )
    removed: Count = Field(
        description="whole files since the start that went, deleted or moved away, before they were read"
    )
    unnamed: Count = Field(
        description="verdicts since the start whose file name did not fit, so that `part_id` is null"
    )
    resident_bytes: Count | None = Field(
        description="memory of the worker's process that is in RAM; null where the kernel does not tell"
    )
    clock_synchronised: bool | None = Field(
        description="whether the machine's clock follows a reference such as NTP; null where it is not known"
    )
    disk_free_bytes: Count | None = Field(description="null while the disk of the state directory does not answer")
    evidence: Evidence | None = Field(description="null where none is kept")
    gpu: Gpu | None = Field(description="null on a CPU, and where nvidia-smi does not tell or lists several GPUs")
    drift: Drift = Field(
        description="running mean of each score over about the last 50 scans, to be watched for change; null = none yet"
    )
    alarms: tuple[Word, ...] = Field(description="codes of the alarms that stand")


class Alarm(Message):
    """Not retained; sent when an alarm starts, when it ends, and again after each new connection while it stands.

    A status `online` of another boot_id ends what stood before it. The codes: docs/operate.md.
    """

    KIND = Kind.ALARM

    schema_name: Literal["alarm/1"] = Field("alarm/1", alias="schema", description=SCHEMA_MEANING)
    station: Text = Field(description=STATION_MEANING)
    boot_id: UUID = Field(description=BOOT_MEANING)
    at: Timestamp = Field(description="when it started or ended, by the worker's clock")
    code: Word = Field(description="which alarm, for programs; codes may be added within `alarm/1`")
    active: bool = Field(description="false when the alarm ends")
    message: Text = Field(
        description="what, where, observed against expected; later words than at its start may follow"
    )
    hint: Text = Field(description="what to try")


MESSAGES: tuple[type[Message], ...] = (Verdict, Disposition, Status, ModelCard, Health, Alarm)


@dataclass(frozen=True, slots=True)
class Topics:
    """ISA-95 levels of the unified namespace; every level is checked, ValueError otherwise."""

    root: str
    site: str
    area: str
    line: str
    station: str

    def __post_init__(self) -> None:
        for level in fields(self):
            check_topic_level(getattr(self, level.name))

    @classmethod
    def of_station(cls, settings: Settings) -> Topics:
        """The station of the settings at its place in the namespace."""
        names = settings.topic
        return cls(names.root, names.site, names.area, names.line, settings.station)

    @property
    def client_id(self) -> str:
        """The default MQTT client id, made from all levels: stations of one name in two lines must not share it.

        A hash, because mosquitto denies access lists with patterns to ids that hold `/`.
        """
        levels = "/".join(getattr(self, level.name) for level in fields(self))
        return f"edge-worker-{self.station}-{hashlib.sha256(levels.encode()).hexdigest()[:8]}"

    def of(self, kind: Kind) -> str:
        """`{root}/{site}/{area}/{line}/{station}/inspection/{kind}`."""
        return f"{self.root}/{self.site}/{self.area}/{self.line}/{self.station}/inspection/{kind}"


def canonical_json(message: Message) -> bytes:
    """The one byte form of a message: keys sorted, no white space, UTF-8, no NaN."""
    plain = message.model_dump(mode="json", by_alias=True)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


@lru_cache(maxsize=64)  # a scan's ids are asked for by who looks up, who judges and who stores
def verdict_id(topic: str, sha256: str, model_sha256: str, arrival: tuple[str, ...] = ()) -> str:
    """32 hexadecimal digits that repeat for the same bytes, topic and model, and for nothing else.

    `arrival`: what tells this arrival from an earlier one of the same bytes; empty for the first.
    """
    text = json.dumps([topic, sha256, model_sha256, *arrival])  # quoted, so that no two lists share a text
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def finite_or_none(value: float, lowest: float = -math.inf, highest: float = math.inf) -> float | None:
    """A score as messages carry it: None when it is not finite or outside its range."""
    return float(value) if math.isfinite(value) and lowest <= value <= highest else None
