"""What a traced worker asked of the kernel, in order, and what a disk would hold if the power had gone at a moment.

strace writes down every write, flush, truncation and rename of the state directory with its bytes, and every
piece sent to the broker. From that the disk is rebuilt as of any moment: what was flushed stands, what was
not flushed may have reached the platters or not, whole or in part, in any order.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = "pwrite64,fdatasync,fsync,ftruncate,rename,unlink,sendto"
SECTOR_BYTES = 512
_LINE = re.compile(r"^(\d+) +(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += +(-?\d+)")
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_VERDICT = b'{"boot_id":'


def strace_command(output: Path) -> tuple[str, ...]:
    """What to put before the worker's command."""
    base = ("strace", "-f", "-yy", "-xx", "-qqq", "--seccomp-bpf", "-e", "signal=none", "-s", "4000000")
    return (*base, "-e", f"trace={CALLS}", "-o", str(output))


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded; `began` and `ended` are places in the order of all begins and ends."""

    name: str
    path: str
    data: bytes
    offset: int
    target: str
    began: int
    ended: int


def read_trace(file: Path) -> list[Call]:
    """In order of their ends."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[str, int]] = {}
    with file.open(encoding="ascii", errors="replace") as lines:
        for place, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:
                continue
            thread, text = found.groups()
            began = place
            if text.endswith("<unfinished ...>"):
                open_calls[thread] = (text.removesuffix("<unfinished ...>").rstrip(), place)
                continue
            if text.startswith("<... "):
                start, began = open_calls.pop(thread, ("", place))
                text = start + text.partition("resumed>")[2]
            call = _parse(text, began, place)
            if call is not None:
                calls.append(call)
    return calls


def published(calls: list[Call]) -> list[tuple[Call, dict[str, Any], bytes]]:
    """Every verdict that was handed to the network: the call, its content, its bytes."""
    found = []
    decoder = json.JSONDecoder()
    for call in calls:
        if call.name != "sendto":
            continue
        at = call.data.find(_VERDICT)
        while at >= 0:
            text = call.data[at:].decode("utf-8", "replace")
            content, length = decoder.raw_decode(text)
            if "verdict_id" in content:
                found.append((call, content, text[:length].encode()))
            at = call.data.find(_VERDICT, at + 1)
    return found


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)


def disk_after_power_cut(calls: list[Call], moment: int, chance: random.Random, home: Path) -> dict[str, bytes]:
    """Files of `home` by name, as a power cut before place `moment` may leave them. Renames and deletions count
    as durable: the ledger is whole before it gets its name, and a deleted log was written back before."""
    files: dict[str, _File] = {}
    for call in calls:
        if call.ended >= moment and not (call.name == "pwrite64" and call.began < moment):
            continue
        if not call.path.startswith(f"{home}/"):
            continue
        name = call.path.removeprefix(f"{home}/")
        file = files.setdefault(name, _File())
        match call.name:
            case "pwrite64" | "ftruncate":
                file.pending.append(call)
            case "fdatasync" | "fsync":
                for write in file.pending:
                    _apply(file.durable, write, len(write.data))
                file.pending.clear()
            case "rename":
                files[call.target.removeprefix(f"{home}/")] = files.pop(name)
            case "unlink":
                del files[name]
    disk = {}
    for name, file in files.items():
        for write in _survivors(file.pending, chance):
            torn = chance.random() < 0.3
            kept = chance.randrange(0, len(write.data) + 1, SECTOR_BYTES) if torn and write.data else len(write.data)
            _apply(file.durable, write, kept)
        disk[name] = bytes(file.durable)
    return disk


def _survivors(pending: list[Call], chance: random.Random) -> Iterator[Call]:
    """None, all, a first part, or any of the writes that were not flushed."""
    manner = chance.randrange(4)
    keep = chance.randint(0, len(pending))
    for index, write in enumerate(pending):
        if manner == 1 or (manner == 2 and index < keep) or (manner == 3 and chance.random() < 0.5):
            yield write


def _apply(content: bytearray, write: Call, length: int) -> None:
    if write.name == "ftruncate":
        del content[write.offset :]
        content.extend(bytes(write.offset - len(content)))
        return
    end = write.offset + length
    content.extend(bytes(max(0, end - len(content))))
    content[write.offset : end] = write.data[:length]


def _parse(text: str, began: int, ended: int) -> Call | None:
    found = _CALL.match(text)
    if found is None or found[3].startswith("-"):
        return None
    name, arguments = found[1], found[2]
    words = [_unhex(word) for word in _HEX.findall(arguments)]
    numbers = re.findall(r", (\d+)", arguments)
    path = words[0].decode("utf-8", "surrogateescape") if words and name != "sendto" else ""
    match name:
        case "pwrite64":
            return Call(name, path, words[1][: int(found[3])], int(numbers[-1]), "", began, ended)
        case "ftruncate":
            return Call(name, path, b"", int(numbers[-1]), "", began, ended)
        case "rename":
            return Call(name, path, b"", 0, words[1].decode("utf-8", "surrogateescape"), began, ended)
        case "sendto":
            return Call(name, "", words[-1][: int(found[3])] if words else b"", 0, "", began, ended)
        case _:
            return Call(name, path, b"", 0, "", began, ended)


def _unhex(word: str) -> bytes:
    return bytes.fromhex(word.replace("\\x", ""))
