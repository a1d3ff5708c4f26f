"""The protocol of a qualification, `plan.toml`: what is claimed, on how many scans, of a set that is fixed beforehand.

title = "Line 2, coating B, spring"
disposition = "assisted"        # a person decides on what is stopped; or "automatic"
prepared_by = "..."
approved_by = "..."
valid_days = 365                # optional
size_scale = "log"              # optional: what curves of detection run over; or "linear"

[samples]                       # at least
abnormal = 59
normal = 100
lots = 8
people = 2                      # optional: label_1, label_2, ...
rescanned_parts = 10            # optional: part_id seen more than once

[plant]                         # optional
defect_rate = 0.02
prices = [500, 10, 1]           # escape, overkill, review

[[claim]]
name = "at most 5 % of defective electrodes pass"
require = "escape_rate_bound<=0.05"

[set]                           # written by `edge-worker qualify DIR --plan plan.toml --fix`
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.errors import SettingsError
from edge.model.manifest import Hex64
from edge.system.files import CHUNK_BYTES, open_regular
from edge.system.names import display_name
from edge.validation.comparison import COMPARISON_MEANINGS
from edge.validation.cost import Prices
from edge.validation.detection import SizeScale
from edge.validation.reliability import Plant
from edge.validation.requirements import Requirement, parse_requirement
from edge.validation.sample_size import scans_to_show
from edge.validation.sources import Source

SHOWN_BY = {"escape_rate_bound": "abnormal", "detection_rate_bound": "abnormal", "false_call_rate_bound": "normal"}
"""Figures whose bound takes a number of scans that can be told beforehand, and of which label."""
ERRORS = (
    "escape_rate",
    "overkill_rate",
    "false_call_rate",
    "review_rate",
    "unreadable_rate",
    "line_miss",
    "line_false",
    "miss_rate",
    "false_alarm_rate",
    "flipped_parts_share",
    "wrong_calls",
)
SUCCESSES = (
    "detection_rate",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "recall",
    "called[",
    "called_low[",
    "called_high[",
    "called_lots_",
    "called_from",
    "line_effectiveness",
    "effectiveness",
    "value_of_",
)
"""How the names of shares begin that a claim bounds from above, and from below."""
SMALL_IS_GOOD = re.compile(
    r"escapes_ppm|cost_per_scan|cheapest_cost|p_repeat_|(escape|overkill|flipped_parts)_count|.*_a[59]0"
)
GREAT_IS_GOOD = re.compile(r"auroc|auprc|kappa_")
"""Names of other figures that say which way is better; `wrong_calls` and the worst lots are shares."""
OF_PLANT = ("escapes_ppm", "value_of_")
OF_PRICES = ("cost_per_scan", "cheapest_")
OF_PEOPLE = ("effectiveness", "miss_rate", "false_alarm_rate")
OF_RESCANS = ("flipped_parts", "p_repeat_")
"""How the names of figures begin that need what a plan may leave out."""
BETTER_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no key of a plan",
    "tuple_type": "expected a list; a claim stands below [[claim]], with two brackets",
}
"""For kinds of mistakes whose own message speaks of Python."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FixedSet(Part):
    """The set, by the digests it had when the plan was made."""

    files: Annotated[int, Field(ge=1)]
    sha256: Hex64
    labels_sha256: Hex64


class Samples(Part):
    """How many of each the set must hold at least."""

    abnormal: Annotated[int, Field(ge=1)]
    normal: Annotated[int, Field(ge=1)]
    lots: Annotated[int, Field(ge=1)]
    people: Annotated[int, Field(ge=0)] = 0
    rescanned_parts: Annotated[int, Field(ge=0)] = 0


class PlantRates(Part):
    """What the set cannot know."""

    defect_rate: Annotated[float, Field(ge=0, le=1)]
    prices: tuple[float, float, float] | None = None


class PlannedClaim(Part):
    """A sentence for people and the rule that decides it."""

    name: Annotated[str, Field(min_length=1)]
    require: str

    @property
    def rule(self) -> Requirement:
        return parse_requirement(self.require)


class Protocol(Part):
    """The whole plan."""

    title: Annotated[str, Field(min_length=1)]
    disposition: Literal["assisted", "automatic"]
    prepared_by: str = ""
    approved_by: str = ""
    valid_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """At most a century: a calendar ends, and the set would have been judged by then."""
    size_scale: SizeScale = SizeScale.LOG
    samples: Samples
    plant: PlantRates | None = None
    claim: Annotated[tuple[PlannedClaim, ...], Field(min_length=1)]
    set: FixedSet | None = None

    @property
    def plant_figures(self) -> Plant:
        if self.plant is None:
            return Plant()
        prices = None if self.plant.prices is None else Prices(*self.plant.prices)
        return Plant(self.plant.defect_rate, prices)


def read_protocol(path: Path) -> Protocol:
    """The plan of a file. Raises SettingsError: unreadable, a wrong key, an unknown figure, or claims beyond reach."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        protocol = Protocol.model_validate(content)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"the plan {path} cannot be read: {error}", hint="see docs/qualification.md") from None
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {BETTER_WORDS.get(each['type'], each['msg'])}"
            for each in error.errors(include_url=False)
        )
        raise SettingsError(f"the plan {path}: {found}", hint="docs/qualification.md shows a whole plan") from None
    for claim in protocol.claim:
        _check_claim(claim, protocol, path)
    return protocol


def set_sha256(entries: Iterable[tuple[str, str]]) -> str:
    """Digest of a set: names as messages show them, with the SHA-256 of each file, in the order of the names."""
    digest = hashlib.sha256()
    for file, sha256 in entries:
        digest.update(f"{file}\0{sha256}\n".encode())
    return digest.hexdigest()


def fixed_set(source: Source, labels: Path) -> FixedSet:
    """Read the whole set and take its digests. Raises SettingsError for a file that cannot be read."""
    files = sorted(source.names())
    entries = []
    with source.served(enumerate(files)) as served:
        for _, file in served.files:
            try:
                digest = hashlib.sha256()
                with open_regular(served.folder / file) as (stream, _):
                    for chunk in iter(partial(stream.read, CHUNK_BYTES), b""):
                        digest.update(chunk)
                entries.append((display_name(file), digest.hexdigest()))
            except OSError as error:
                raise SettingsError(
                    f"{display_name(file)} of the set cannot be read: {error.strerror}",
                    hint="a set for qualification holds files, no links and no folders named like scans",
                ) from None
    if not files:
        raise SettingsError(f"{source.name} holds no scans", hint="name the folder of the set")
    try:
        labels_sha256 = hashlib.sha256(labels.read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(
            f"labels {labels} cannot be read: {error.strerror}", hint="name the CSV file with --labels"
        ) from None
    return FixedSet(files=len(files), sha256=set_sha256(entries), labels_sha256=labels_sha256)


def fix_set(path: Path, protocol: Protocol, found: FixedSet) -> None:
    """Write the digests of the set into the plan. Raises SettingsError where it names a set already."""
    if protocol.set is not None:
        raise SettingsError(
            f"the plan {path} names a set already", hint="a set is fixed once; write another plan for another set"
        )
    table = f'\n[set]\nfiles = {found.files}\nsha256 = "{found.sha256}"\nlabels_sha256 = "{found.labels_sha256}"\n'
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(table)
    except OSError as error:
        raise SettingsError(f"the plan {path} cannot be written: {error.strerror}", hint="check its rights") from None


def _check_claim(claim: PlannedClaim, protocol: Protocol, path: Path) -> None:
    """Refuse a claim that cannot be decided, that nothing could meet, or that a bad model would meet."""
    where = f"the plan {path}, claim {claim.name!r}"
    try:
        rule = claim.rule
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}", hint=error.hint) from None
    if (lacking := _lacking(rule.name, protocol)) is not None:
        raise SettingsError(f"{where}: {rule.name} could not be measured", hint=lacking)
    is_error, is_success = rule.name.startswith(ERRORS), rule.name.startswith(SUCCESSES)
    if (is_error or is_success) and not 0 <= rule.bound <= 1:
        raise SettingsError(f"{where}: {rule} is no share: expected 0 to 1", hint="write 5 % as 0.05")
    is_small_good = is_error or SMALL_IS_GOOD.match(rule.name) is not None
    is_great_good = is_success or GREAT_IS_GOOD.match(rule.name) is not None
    if (is_small_good and rule.comparison in (">", ">=")) or (is_great_good and rule.comparison in ("<", "<=")):
        raise SettingsError(
            f"{where}: {rule} holds for a bad model", hint=f"turn it: {rule.name} {'<=' if is_small_good else '>='} ..."
        )
    _check_reach(rule, protocol.samples, where)


def _lacking(figure: str, protocol: Protocol) -> str | None:
    """What the plan lacks for a figure; None where nothing is lacking."""
    plant, samples = protocol.plant, protocol.samples
    if figure in COMPARISON_MEANINGS:
        return "it compares two models: use `edge-worker replay --against`"
    if figure.startswith(OF_PLANT) and plant is None:
        return "add the plant's defect rate: [plant] defect_rate = 0.02"
    if figure.startswith(OF_PRICES) and (plant is None or plant.prices is None):
        return "add [plant] with defect_rate and prices = [ESCAPE, OVERKILL, REVIEW]"
    if figure.startswith("kappa_people") and samples.people < 2:
        return "plan labels of two people or more: samples.people = 2"
    of_person = figure.startswith(OF_PEOPLE) or (figure.startswith("kappa_line") and "[" in figure)
    if of_person and samples.people < 1:
        return "plan labels of people: samples.people = 1"
    if figure.startswith(OF_RESCANS) and not samples.rescanned_parts:
        return "plan parts that are scanned twice: samples.rescanned_parts = 10"
    if figure == "p_repeat_range_bound" and samples.rescanned_parts < 29:
        return "of fewer parts that limit has no value: samples.rescanned_parts = 29"
    if "_lots_" in figure and samples.lots < 2:
        return "plan two lots or more: samples.lots = 8"
    return None


def _check_reach(rule: Requirement, samples: Samples, where: str) -> None:
    """Refuse a bound that the planned number of scans could not show even without an error."""
    label = SHOWN_BY.get(rule.name)
    rate = 1 - rule.bound if rule.name.startswith(SUCCESSES) else rule.bound
    if label is None or rule.comparison == "==" or rate >= 1:
        return
    if rate <= 0:
        raise SettingsError(f"{where}: no number of scans shows {rule}", hint="claim 0.01 or 0.99, say")
    planned, needed = getattr(samples, label), scans_to_show(rate)
    if planned < needed:
        raise SettingsError(
            f"{where}: {rule} takes {needed} {label} scans without one error, planned are {planned}",
            hint=f"plan samples.{label} = {needed} or more, or claim less",
        )
