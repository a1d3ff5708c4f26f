"""`edge-worker init`: asks for what an installation needs and writes its settings file."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from edge.errors import SettingsError
from edge.settings import Settings, settings_error, settings_text
from edge.system.files import write_whole

Values = Mapping[str, Mapping[str, str]]
"""By section and key; top-level keys are in section ""."""


def _topic(answer: str) -> Values:
    levels = answer.strip("/").split("/")
    if len(levels) != 4:
        raise SettingsError(f"topic {answer!r} has {len(levels)} levels, expected 4", hint="ROOT/SITE/AREA/LINE")
    return {"topic": dict(zip(("root", "site", "area", "line"), levels, strict=True))}


@dataclass(frozen=True, slots=True)
class Question:
    """One of the five values; `default` is taken for an empty answer."""

    option: str
    text: str
    default: str
    values: Callable[[str], Values]


QUESTIONS = (
    Question("station", "name of this station, as the MES shall know it", "", lambda answer: {"": {"station": answer}}),
    Question(
        "folder",
        "folder the X-ray station writes its scans into",
        "/srv/xray/scans",
        lambda answer: {"folder": {"path": answer}},
    ),
    Question("broker", "name or address of the MQTT broker", "localhost", lambda answer: {"broker": {"host": answer}}),
    Question("topic", "topic of the line: ROOT/SITE/AREA/LINE", "enterprise/site/area/line", _topic),
    Question(
        "trusted-key",
        "public key (PEM) that models must be signed with, or a folder of them",
        "/etc/edge-worker/trusted",
        lambda answer: {"model": {"trusted_key": answer}},
    ),
)


def write_settings(
    target: Path, answers: Mapping[str, str | None], *, replace: bool, stdin: TextIO | None = None
) -> str:
    """Write `target`, whole or not at all; what to tell the operator.

    `answers` by the questions' options; what is None is asked on `stdin`, one line each, and asked again on a terminal
    if it is refused. Raises SettingsError, also where `target` exists and `replace` is False, and OSError.
    """
    source = sys.stdin if stdin is None else stdin
    if not replace and os.path.lexists(target):
        raise _exists(target)
    values: dict[str, dict[str, str]] = {}
    for question in QUESTIONS:
        for section, keys in _answer(question, answers.get(question.option), source).items():
            values.setdefault(section, {}).update(keys)
    text = settings_text(values)
    content = tomllib.loads(text)
    for section, keys in values.items():
        written = content[section] if section else content
        assert all(written[key] == value for key, value in keys.items()), "the text does not say what was answered"
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with write_whole(target, durable=True, mode=0o644, replace=replace) as stream:
            stream.write(text.encode())
    except FileExistsError:
        raise _exists(target) from None
    return (
        f"wrote {target}; every other key is in it, commented, with its default\n"
        f"next: edge-worker check --config {target}"
    )


def _answer(question: Question, given: str | None, source: TextIO) -> Values:
    while True:
        answer = given if given is not None else _ask(question, source)
        try:
            values = question.values(answer)
            _check(values)
        except SettingsError as error:
            if given is not None or not source.isatty():
                raise
            print(f"  {error.message}\n  try: {error.hint}", file=sys.stderr)
        else:
            return values


def _ask(question: Question, source: TextIO) -> str:
    default = f" [{question.default}]" if question.default else ""
    print(f"{question.text}{default}: ", end="", file=sys.stderr, flush=True)
    line = source.readline()
    if not line:
        print(file=sys.stderr)
        raise SettingsError(f"no answer to: {question.text}", hint=f"give it as --{question.option}")
    return line.strip() or question.default


def _check(values: Values) -> None:
    nested = {
        key: value for section, keys in values.items() for key, value in ({section: keys} if section else keys).items()
    }
    try:
        Settings.model_validate(nested)
    except ValidationError as error:
        raise settings_error(error) from None


def _exists(target: Path) -> SettingsError:
    return SettingsError(f"{target} exists already", hint="edit it, or write it anew with --replace")
