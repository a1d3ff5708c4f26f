"""The drop box: what other programs ask of a station's worker, whether it runs or not.

A request is one file `<kind>-<32 hexadecimal digits>.json` in `{state.dir}/requests/`. It is written whole, flushed and
renamed, so it survives a power cut; the worker takes it in its loop, carries it out, and only then removes it: a crash
between the two repeats it, which does no harm.

Who may ask for what is a matter of the file's owner, which the kernel knows. The directory is the worker's, mode 1770:
its group may leave files there, and only their owner and the worker can change or remove them. A disposition is
taken from any of them; `resend` and `backup` from the worker's own user alone. The state directory itself is 0710: the
group passes through and can neither list nor read what else is in it.

What cannot be carried out is moved to `requests/refused/` beside a text that says why, and an alarm stands until
somebody has looked and emptied that folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.contract.messages import Hex32, Seq, Timestamp
from edge.errors import LedgerError, RequestError
from edge.store.ledger_file import map_errors
from edge.system.files import open_regular, write_whole
from edge.system.logs import event
from edge.system.names import display_name
from edge.system.text import first_error, rfc3339

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
"""Largest request file."""
AT_ONCE = 100
"""Requests taken in one turn, oldest first: a flood of them does not hold the others up for long."""
KEEP_REFUSED = 100
"""Refused requests that are kept, newest first."""
ABANDONED_S = 3600.0
"""A half-written request of this age lost its writer."""

DIRECTORY_MODE = 0o1770
REQUEST_MODE = 0o644
"""The worker reads what another user wrote; who else could, the directories above keep out."""


class RequestKind(StrEnum):
    """First word of a request's file name."""

    RESEND = "resend"
    BACKUP = "backup"
    DISPOSITION = "disposition"


OWN_KINDS = frozenset({RequestKind.RESEND, RequestKind.BACKUP})
"""Kinds that only the worker's own user may ask for."""

_NAME = re.compile(rf"({'|'.join(RequestKind)})-([0-9a-f]{{32}})\.json")


class ResendRequest(BaseModel):
    """Send messages again that were sent before: since a moment, of a span of numbers, or of one verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    since: Timestamp | None = None
    numbers: Annotated[tuple[Seq, ...], Field(min_length=2, max_length=2)] | None = None
    """First and last, both included."""
    verdict_id: Hex32 | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> ResendRequest:
        if sum(value is not None for value in (self.since, self.numbers, self.verdict_id)) != 1:
            raise ValueError("expected one of since, numbers, verdict_id")
        return self

    def __str__(self) -> str:
        if self.since is not None:
            return f"verdicts decided or first sent since {rfc3339(self.since)}"
        if self.numbers is not None:
            return f"messages {self.numbers[0]} to {self.numbers[1]}"
        return f"verdict {self.verdict_id}"


class BackupRequest(BaseModel):
    """Copy the ledger; the copy's name ends with the request's id."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Request:
    """A request file that waits in the box."""

    path: Path
    kind: RequestKind | None
    """None where the name is none of a request."""
    id: str


@dataclass(frozen=True, slots=True)
class Refusals:
    """How many refused requests lie there, and why the newest was refused."""

    count: int
    newest: str


Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[Request, bytes], None]
"""Carries out one request, given its content. Raises RequestError if it never can, LedgerError if it cannot now."""


def expect_box(state: Path) -> None:
    """Raises LedgerError where the state directory has no drop box yet, and this user cannot make it."""
    directory = DropBox(state).directory
    if not directory.is_dir() and not (state.is_dir() and _is_own(state)):
        raise LedgerError(
            f"there is no {directory}: the worker has never run here", hint="start the worker: it makes the folder"
        )


def leave(state: Path, kind: RequestKind, content: BaseModel | bytes, request_id: str | None = None) -> Path:
    """Leave a request for the worker of the state directory `state`; it lasts when this returns.

    `request_id`: 32 hexadecimal digits; the same id again replaces the request while it waits.
    Raises LedgerError when there is no box, or the disk fails.
    """
    directory = DropBox(state).directory
    request_id = request_id or uuid.uuid4().hex
    payload = content.model_dump_json().encode() if isinstance(content, BaseModel) else content
    with map_errors(directory):
        if not directory.is_dir():
            expect_box(state)
            DropBox(state).prepare()
        path = directory / f"{kind}-{request_id}.json"
        with write_whole(path, durable=True, mode=REQUEST_MODE) as stream:
            stream.write(payload)
    return path


def parse_request(model: type[Model], content: bytes) -> Model:
    """The content of a request as its model. Raises RequestError that names the first fault."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise RequestError(first_error(error, "the file"), hint="the schemas are in edge/contract/schema") from None


class DropBox:
    """The requests of one station. Methods may be called from any thread, for different kinds at the same time."""

    def __init__(self, state: Path) -> None:
        self.directory = state / "requests"
        self.refused = self.directory / "refused"
        self._state = state
        self._told: set[str] = set()  # names that can be neither taken nor moved
        self._prepared_in: tuple[int, int] | None = None
        """Device and inode of the state directory."""

    def prepare(self) -> None:
        """Make the directories, with the modes that say who may ask. Raises LedgerError."""
        with map_errors(self.directory):
            self._expect_own()
            status = self._state.stat()
            self._prepared_in = status.st_dev, status.st_ino
            mode = stat.S_IMODE(status.st_mode)
            if not mode & stat.S_IXGRP and _is_own(self._state):
                self._state.chmod(mode | stat.S_IXGRP)
            for directory, expected in ((self.directory, DIRECTORY_MODE), (self.refused, 0o700)):
                directory.mkdir(mode=0o700, exist_ok=True)
                handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if stat.S_IMODE(os.fstat(handle).st_mode) != expected:
                        os.fchmod(handle, expected)
                finally:
                    os.close(handle)

    def _expect_own(self) -> None:
        """Raises LedgerError where a folder of the box is a link: what is behind it is not the worker's to move."""
        for directory in (self.directory, self.refused):
            with suppress(FileNotFoundError):
                mode = directory.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    found = "link" if stat.S_ISLNK(mode) else "file"
                    raise LedgerError(
                        f"{directory} is a {found}, expected a folder: no request is taken",
                        hint="nothing of this program makes that: find out who did, remove it and restart the worker",
                    )

    def waiting(self, kinds: Collection[RequestKind | None]) -> list[Request]:
        """Requests of these kinds, oldest first, at most AT_ONCE; None stands for what is no request at all."""
        found = []
        with map_errors(self.directory):
            self._expect_own()
            try:
                entries = list(os.scandir(self.directory))
            except FileNotFoundError:  # removed by hand, where its folder `refused` was to be emptied
                status = self._state.stat()
                if self._prepared_in not in (None, (status.st_dev, status.st_ino)):
                    return []  # another directory under this name, which the ledger tells: nothing is made in it
                event(log.warning, "drop box made anew", folder=str(self.directory))
                self.prepare()
                return []
            for entry in entries:
                request = _request(Path(entry.path))
                if request is not None and request.kind in kinds and entry.name not in self._told:
                    with suppress(FileNotFoundError):  # taken back in this moment
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name, request))
        return [request for _, _, request in sorted(found, key=lambda each: each[:2])[:AT_ONCE]]

    def take(self, handlers: Mapping[RequestKind, Handler], *, with_unknown: bool = True) -> int:
        """Carry out what waits; how many requests were. Raises LedgerError: what was not done yet stays.

        `with_unknown`: refuse files whose name is none of a request. One caller does so, where several share the box.
        """
        done = 0
        for request in self.waiting({*handlers, *([None] if with_unknown else [])}):
            try:
                if request.kind is None:
                    raise RequestError(
                        "the name is none of a request", hint=f"expected {'|'.join(RequestKind)}-<32 hex digits>.json"
                    )
                handlers[request.kind](request, _content(request))
            except RequestError as error:
                self._refuse(request, error)
            else:
                done += 1
                # After the commit, never before it.
                with map_errors(self.directory):
                    request.path.unlink(missing_ok=True)
        return done

    def refusals(self) -> Refusals | None:
        """What lies among the refused; None if nothing does. Raises LedgerError."""
        with map_errors(self.refused):
            self._expect_own()
            reasons = list(_reasons(self.refused))
            if not reasons:
                return None
            with open_regular(max(reasons)) as (stream, _):
                return Refusals(len(reasons), stream.read(1000).decode("utf-8", "replace").strip())

    def sweep(self) -> None:
        """Remove half-written requests that lost their writer, and all but the newest refused ones."""
        with map_errors(self.directory):
            self._expect_own()
            for draft in self.directory.glob(".*"):
                if time.time() - draft.lstat().st_mtime > ABANDONED_S:
                    with suppress(OSError):
                        draft.unlink()
            for reason in sorted(_reasons(self.refused), reverse=True)[KEEP_REFUSED:]:
                reason.with_suffix(".json").unlink(missing_ok=True)
                reason.unlink(missing_ok=True)

    def _refuse(self, request: Request, error: RequestError) -> None:
        name = display_name(request.path.name)
        event(log.warning, "request refused", file=name, error=error.message, hint=error.hint)
        kept = self.refused / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}.json"
        text = f"{name}: {error.message}\n{error.hint}\n"
        with map_errors(self.directory):
            self.refused.mkdir(mode=0o700, exist_ok=True)  # who emptied it may have removed it
            with write_whole(kept.with_suffix(".txt"), durable=False, mode=0o600) as stream:
                stream.write(text.encode("utf-8", "backslashreplace"))
            try:
                if stat.S_ISREG(request.path.lstat().st_mode) and request.path.lstat().st_size <= MAX_BYTES:
                    request.path.rename(kept)
                else:
                    _remove(request.path)
            except FileNotFoundError:
                pass
            except OSError:  # a folder of another user that is not empty: it stays, and is told once
                self._told.add(request.path.name)


def _request(path: Path) -> Request | None:
    """None for drafts, and for the folder of the refused."""
    if path.name.startswith(".") or path.name == "refused":
        return None
    match = _NAME.fullmatch(path.name)
    return Request(path, RequestKind(match[1]) if match else None, match[2] if match else "")


def _content(request: Request) -> bytes:
    """The bytes of a request whose owner may ask for it. Raises RequestError."""
    try:
        with open_regular(request.path) as (stream, status):
            if request.kind in OWN_KINDS and status.st_uid != os.geteuid():
                raise RequestError(
                    f"left by user {status.st_uid}, expected user {os.geteuid()}",
                    hint=f"ask as the worker's user: `edge-worker {request.kind}`",
                )
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", hint="expected a regular file, mode 0644") from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"more than {MAX_BYTES} bytes", hint=f"a request has at most {MAX_BYTES} bytes")
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"no JSON: {str(error)[:200]}", hint="write one JSON object, in UTF-8") from None
    return content


def _reasons(refused: Path) -> Iterator[Path]:
    return (path for path in refused.glob("*.txt") if not path.name.startswith("."))


def _remove(path: Path) -> None:
    """Whatever it is; a folder only if it is empty. Raises OSError."""
    if stat.S_ISDIR(path.lstat().st_mode):
        path.rmdir()
    else:
        path.unlink()


def _is_own(directory: Path) -> bool:
    return directory.stat().st_uid == os.geteuid()
