"""The form of an answer, read strictly: what a browser sends is whatever anybody may send."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edge.desk.readings import Choice
from edge.evidence.record import Record

MAX_COMMENT: Final = 2000
MAX_BOXES: Final = 50
SEVERITIES: Final = {"mild": 0.25, "clear": 0.5, "severe": 0.9}
"""Words of the page for numbers of labels.csv, on the scale of 0 to 1 that training uses."""

Form = Mapping[str, list[str]]

_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SIDES = ("x_px", "y_px", "width_px", "height_px")


class FormRefusedError(ValueError):
    """A form that is no answer; its text is the key of the word that says why."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a reader says of a scan."""

    choice: Choice
    said: Mapping[str, Any]
    """Fields of the record beside the decision."""
    nonce: str
    """Drawn for each page that shows the form."""
    others_seen: int
    """Answers of other people that there were when the page was made."""
    own_seen: int
    """The reader's own answers by then."""

    def key(self, account: str, verdict_id: str) -> str:
        """By which a form that is sent twice is one answer, and one that was changed in between (Back in the browser)
        is another."""
        said = [self.said[field] for field in ("kinds", "severity", "boxes_px", "comment")]
        text = json.dumps([self.nonce, account, verdict_id, self.choice.value, *said])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_form(form: Form, record: Record, kinds: Collection[str]) -> AnswerForm:
    """The answer on the scan of `record`; `kinds`: those that may be named. Raises FormRefusedError."""

    def value(key: str) -> str:
        return next(iter(form.get(key, [])), "")

    try:
        choice = Choice(value("decision"))
    except ValueError:
        raise FormRefusedError("choose") from None
    boxes = _boxes(value("boxes"), record.height_px or 0, record.width_px or 0)
    comment = value("comment").replace("\r\n", "\n").strip()
    named, severity, nonce = sorted(set(form.get("kinds", []))), value("severity"), value("nonce")
    seconds = _seconds(value("seconds"))
    if len(boxes) > MAX_BOXES or len(comment) > MAX_COMMENT:
        raise FormRefusedError("too_large")
    if not set(named) <= set(kinds) or (severity and severity not in SEVERITIES) or not _NONCE.fullmatch(nonce):
        raise FormRefusedError("bad_request")
    window = [whole(value(f"window_{end}")) for end in ("low", "high")]
    said = {
        "kinds": named,
        "severity": SEVERITIES.get(severity),
        "boxes_px": boxes,
        "comment": comment,
        "seconds_looked": seconds,
        "window_counts": window if all(end is not None and end <= 65535 for end in window) else None,
    }
    return AnswerForm(choice, said, nonce, _seen(value("seen")), _seen(value("own_seen")))


def whole(text: str) -> int | None:
    """A whole number of up to nine digits; None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else None


def _seen(text: str) -> int:
    """Where the form does not tell, all was seen."""
    seen = whole(text)
    return seen if seen is not None else 1 << 30


def _boxes(text: str, height_px: int, width_px: int) -> list[dict[str, int]]:
    """Boxes that lie on the scan and enclose something of it."""
    try:
        boxes = json.loads(text or "[]")
    except (ValueError, RecursionError):
        raise FormRefusedError("bad_request") from None
    if not isinstance(boxes, list) or not all(_lies_on(box, height_px, width_px) for box in boxes):
        raise FormRefusedError("bad_request")
    return [{side: box[side] for side in _SIDES} for box in boxes]


def _lies_on(box: object, height_px: int, width_px: int) -> bool:
    if not isinstance(box, dict) or sorted(box) != sorted(_SIDES) or not all(type(box[side]) is int for side in _SIDES):
        return False
    x, y, width, height = (int(box[side]) for side in _SIDES)
    return 0 <= x < x + width <= width_px and 0 <= y < y + height <= height_px


def _seconds(text: str) -> float:
    """How long the reader looked: 0 to a day, in tenths."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise FormRefusedError("bad_request")
    return round(min(max(seconds, 0.0), 86_400.0), 1)
