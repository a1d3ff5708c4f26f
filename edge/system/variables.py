"""Environment variables of this program: their names, and which foreign one can only be a misspelt setting."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge.errors import SettingsError
from edge.system.names import display_name
from edge.system.values import display

PREFIX = "EDGE_"
DELIMITER = "__"
TYPO_RATIO = 0.8
"""Similarity, by difflib, from which on an unknown variable counts as a misspelt setting."""


def variable(section: str, key: str) -> str:
    """Name of the environment variable that sets a key; `section` is empty for top-level keys."""
    return f"{PREFIX}{section + DELIMITER if section else ''}{key}".upper()


def json_section(name: str, section: str, value: str) -> dict[str, Any]:
    """A whole section as a JSON object. Raises SettingsError for anything else."""
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):  # the latter: brackets in brackets
        content = None
    if not isinstance(content, dict):
        raise SettingsError(
            f"environment variable {name} sets the section `{section}` and is no JSON object: {display(value)}",
            hint=f'write {name}=\'{{"key": "value"}}\', or one variable {name}{DELIMITER}KEY for each key',
        )
    return content


def is_of_kubernetes(name: str, present: Iterable[str]) -> bool:
    """Whether the variable describes a Service: each has NAME_SERVICE_HOST, and with it NAME_PORT and others."""
    services = [each.removesuffix("_SERVICE_HOST") for each in present if each.endswith("_SERVICE_HOST")]
    return any(
        name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
        for service in services
    )


def suggest_setting(name: str, known: set[str]) -> str | None:
    """What to write instead, where the variable can only be meant for this program."""
    plain = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=TYPO_RATIO)
    if near:
        return f"did you mean `{plain[near[0]]}`?"
    section, delimiter, _ = name.partition(DELIMITER)
    is_meant = delimiter and section in known
    return f"unset it; names are {PREFIX}SECTION{DELIMITER}KEY" if is_meant else None


def _plain(variable: str) -> str:
    """Without what all have in common, and however many underscores there are."""
    return re.sub("_+", "_", variable.removeprefix(PREFIX))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key within each section; later layers win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            is_section = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
            merged[name] = {**merged[name], **value} if is_section else value
    return merged


def expect_text(content: dict[str, Any]) -> dict[str, Any]:
    """The settings, each text of which can be the name of a file, and stand in a message. Raises SettingsError.

    What the environment and the command line hold are bytes: Python keeps those that are no UTF-8 as lone surrogates.
    """
    for key, value in _texts(content):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SettingsError(
                f"setting `{key}` = '{display_name(value)}' is not UTF-8",
                hint="write it in UTF-8, or into the settings file, saved as UTF-8",
            ) from None
        if "\0" in value:
            raise SettingsError(
                f"setting `{key}` = '{display_name(value)}' holds a NUL character",
                hint="no path, name or pattern has one: write the value anew",
            )
    return content


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text and path in nested settings, with the key it belongs to."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str | Path):
        yield key, str(value)
