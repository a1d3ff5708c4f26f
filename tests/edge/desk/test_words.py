"""The wording of the desk: complete in both languages, and nothing in it that no page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from edge.contract.alarm_code import AlarmCode
from edge.contract.reasons import DECISIONS
from edge.desk.words import NOTHING, choose_language, keys, number, percent, seconds, word
from edge.errors import DeskFault, EvidenceFault
from edge.evidence.record import NoteCode
from edge.scans.scan import REASONS
from edge.settings import DeskSettings

DESK = Path(__file__).parents[3] / "edge" / "desk"
SOURCES = [*(DESK / "templates").glob("*.j2"), DESK / "pages.py", DESK / "app.py", DESK / "answer_form.py"]
FAULTS = (*get_args(DeskFault), *get_args(EvidenceFault), "other")
CHOSEN_BY_VALUE = {
    *("normal", "abnormal", "undecided", "review", "unreadable"),
    *("oldest", "newest", "waiting", "all", "open", "second", "arbiter", "decided", "reader", "admin"),
    *("kept_outcome", "kept_sample", "kept_challenge", "read_first", "read_second", "read_third"),
    *("severity_mild", "severity_clear", "severity_severe"),
    *(f"decided_by_{reason}" for reason in (*DECISIONS, *REASONS)),
    *(f"alarm_{code}" for code in AlarmCode),
    *(f"note_{code}" for code in NoteCode),
    *(f"kind_{kind}" for kind in DeskSettings().kinds),
    *(f"fault_{fault}{part}" for fault in FAULTS for part in ("", "_try")),
    *("drift_p_abnormal", "drift_gate_mean_max", "drift_gate_std_max"),
}
"""Words whose key is put together from an outcome, a state, a role and so on."""


def test_every_word_is_said_somewhere_and_every_key_is_a_word() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    asked = set(re.findall(r'\b(?:t|visit\.word)\(\s*"([a-z0-9_]+)"\s*[,)]', text))
    assert asked <= set(keys())
    said = asked | set(re.findall(r'"([a-z0-9_]+)"', (DESK / "pages.py").read_text(encoding="utf-8")))
    for name in ("app.py", "answer_form.py"):
        said |= set(re.findall(r'"([a-z_]+)"', (DESK / name).read_text(encoding="utf-8")))
    assert set(keys()) - said - CHOSEN_BY_VALUE == set()
    assert set(keys()) >= CHOSEN_BY_VALUE


def test_no_template_words_anything_itself() -> None:
    """Else its words are English on a German page."""
    for path in (DESK / "templates").glob("*.j2"):
        text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        labels = re.findall(r'(?:aria-label|title|alt|placeholder)="([^"]*)"', text)
        said = re.findall(r"[A-Za-z]{2,}", " ".join([re.sub(r"""<(?:"[^"]*"|'[^']*'|[^>"'])*>""", " ", text), *labels]))
        assert set(said) <= {"px", "Enter", "Esc", "nbsp", "look"}, path.name  # `look`: a class


def test_figures_are_written_as_the_reader_writes_them() -> None:
    assert [number(language, 0.0512) for language in ("en", "de")] == ["0.0512", "0,0512"]  # type: ignore[arg-type]
    assert [percent(language, 0.125) for language in ("en", "de")] == ["12.5 %", "12,5 %"]  # type: ignore[arg-type]
    assert [seconds(language, 1.25) for language in ("en", "de")] == ["1.2 s", "1,2 s"]  # type: ignore[arg-type]
    assert number("de", None) == number("de", float("inf")) == percent("de", float("nan")) == NOTHING


@pytest.mark.parametrize("key", keys())
def test_both_languages_fill_in_the_same_values(key: str) -> None:
    english, german = (word(language, key) for language in ("en", "de"))  # type: ignore[arg-type]
    assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", german))


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("fr", "en"),
        ("en;q=0.5, de-AT;q=0.9", "de"),
        ("de;q=x, en", "en"),
        (",;q=,", "en"),
    ],
)
def test_the_browsers_first_known_language_is_taken(header: str, language: str) -> None:
    assert choose_language(header) == language
