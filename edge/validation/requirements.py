"""Bars that a replay must reach: `--require 'balanced_accuracy>=0.9'`. Pure."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.errors import SettingsError
from edge.validation.comparison import COMPARISON_MEANINGS
from edge.validation.leaks import LEAK_MEANINGS
from edge.validation.reliability import RELIABILITY_MEANINGS, ROW_MEANINGS
from edge.validation.results import METRIC_MEANINGS
from edge.validation.speed import SPEED_MEANINGS

FIGURE_MEANINGS = {**METRIC_MEANINGS, **RELIABILITY_MEANINGS, **COMPARISON_MEANINGS, **LEAK_MEANINGS, **SPEED_MEANINGS}
"""Every name `--require` accepts, with its definition."""

FROM_SIZE = ("recall_from", "called_from")
"""Figures whose row is a size that the requirement chooses."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bar that a replay must reach, such as `balanced_accuracy>=0.9`."""

    name: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class RequirementResult:
    """A requirement against what was observed; a figure that could not be measured does not meet it."""

    requirement: Requirement
    observed: int | float | None
    met: bool


_COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}


def parse_requirement(text: str) -> Requirement:
    """`NAME OP NUMBER`, OP one of >= > <= < ==. Raises SettingsError for another form or an unknown name."""
    parts = re.fullmatch(r"\s*(\w+(?:\[.+\])?)\s*(>=|<=|==|>|<)\s*(\S+)\s*", text)
    try:
        bound = float(parts[3]) if parts else math.nan
    except ValueError:
        bound = math.nan
    if parts is None or not math.isfinite(bound):
        raise SettingsError(
            f"requirement {text!r} is not of the form NAME OP NUMBER",
            hint="write for example 'balanced_accuracy>=0.9'; OP is one of " + " ".join(_COMPARISONS),
        )
    family, _, row = parts[1].partition("[")
    if family.startswith(FROM_SIZE) and not _is_size(row[:-1]):
        raise SettingsError(f"requirement {text!r}: expected a size in the brackets", hint="write recall_from[2]>=0.9")
    if meaning_of(parts[1]) is None:
        near = difflib.get_close_matches(parts[1], FIGURE_MEANINGS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"requirement {text!r}: no figure is called {parts[1]!r}",
            hint=f"{guess}Names: {', '.join(FIGURE_MEANINGS)}",
        )
    return Requirement(parts[1], parts[2], bound)


def sizes_asked(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """Sizes that requirements name in brackets, as they write them."""
    names = (requirement.name.partition("[") for requirement in requirements)
    return tuple(dict.fromkeys(row[:-1] for family, _, row in names if family.startswith(FROM_SIZE)))


def _is_size(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def meaning_of(name: str) -> str | None:
    """Definition of a figure; that of its family for a row of a table, such as `recall[cut]`; None of no figure."""
    if "[" in name and name in FIGURE_MEANINGS:
        return None  # the name of a family itself
    family, _, row = name.partition("[")
    named = (known for known in ROW_MEANINGS if row and known.startswith(f"{family}["))
    return FIGURE_MEANINGS.get(name) or next((FIGURE_MEANINGS[known] for known in named), None)


def check_requirement(requirement: Requirement, figures: Mapping[str, int | float | None]) -> RequirementResult:
    """Compare one figure with its bar; a row that its table lacks was not measured."""
    observed = figures.get(requirement.name) if "[" in requirement.name else figures[requirement.name]
    met = observed is not None and bool(_COMPARISONS[requirement.comparison](observed, requirement.bound))
    return RequirementResult(requirement, observed, met)
