"""Built engines on this machine's disk, sealed with its key: `NAME-KEY.plan`.

    magic (8 bytes) | length of the facts (4) | facts, JSON | seal (32) | payload

A plan is native code: deserialising one that somebody changed is running what they wrote. So each file is read once,
its seal (HMAC-SHA256 over all the rest) is checked, and those bytes are what the caller gets; what happens to the file
afterwards has no effect. The key is made on first use, 32 random bytes that only its owner may read. As a credential
that systemd shows to the service it may be root's with mode 0440: there the group's bit is the mask of an access list
that names the service's user alone.

KEY is the hash of the facts: the ONNX graph's SHA-256, GPU, driver, CUDA, TensorRT, precision, batch profile. When one
of them changes, no plan is found and a new one is built; the one before stays until the new one has proven itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import stat
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge.errors import EngineError
from edge.system.files import write_whole
from edge.system.logs import event

log = logging.getLogger(__name__)

MAGIC = b"EDGEPLN1"
SEAL_BYTES = 32
KEY_BYTES = 32
MAX_FACTS_BYTES = 64 << 10
MAX_PLAN_BYTES = 4 << 30
BUILD_PREFIX = ".build-"
"""Prefix of the folders in which builds work, beside the plans: their disk has the room."""

Facts = Mapping[str, str]

_HEAD = struct.Struct("<8sI")
_BUILD_AGAIN = "run `edge-worker model build` (systemd: edge-engine-build.service) to build it again"


class PlanRefused(EngineError):
    """A plan exists and must not be loaded, does not load, or computes something else than it should."""


class KernelsRefused(PlanRefused):
    """The compiled kernels do not load on this GPU; nothing is said against the networks' plans."""


def key_of(facts: Facts) -> str:
    """Equal for equal facts only: 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(facts)).hexdigest()


class PlanCache:
    """The plans of one folder, written by the holder of the device key."""

    def __init__(
        self, folder: Path, key_file: Path, credentials: Path | None = None, *, is_read_only: bool = False
    ) -> None:
        """`credentials`: the folder in which systemd shows this service its secrets."""
        self._is_read_only = is_read_only
        self._folder = folder
        self._key_file = key_file
        self._is_credential = credentials is not None and key_file.parent == credentials

    @property
    def folder(self) -> Path:
        return self._folder

    def is_writable(self) -> bool:
        """Whether a build could be kept here; makes the folder if it may."""
        if self._is_read_only:
            return False
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        return os.access(self._folder, os.W_OK | os.X_OK)

    def path_of(self, name: str, facts: Facts) -> Path:
        return self._folder / f"{name}-{key_of(facts)[:32]}.plan"

    def load(self, name: str, facts: Facts) -> bytes | None:
        """The payload stored for exactly these facts, None where there is none.

        Raises PlanRefused for a file that is truncated, empty, changed, or was made for something else.
        """
        path = self.path_of(name, facts)
        data = self._read(path)
        if data is None:
            return None
        if len(data) < _HEAD.size:
            raise PlanRefused(f"{path} has {len(data)} bytes, it is no plan", hint=_BUILD_AGAIN)
        magic, length = _HEAD.unpack_from(data)
        begin = _HEAD.size + length + SEAL_BYTES
        if magic != MAGIC or length > MAX_FACTS_BYTES or len(data) <= begin:
            raise PlanRefused(f"{path} is truncated or no plan: {len(data)} bytes", hint=_BUILD_AGAIN)
        head, seal, payload = data[: begin - SEAL_BYTES], data[begin - SEAL_BYTES : begin], data[begin:]
        if not hmac.compare_digest(seal, self._seal(name, head, payload)):
            raise PlanRefused(
                f"{path} was not sealed by this machine, or was changed afterwards",
                hint=f"{_BUILD_AGAIN}; if it was not copied here, find out who can write there",
            )
        stored = json.loads(head[_HEAD.size :])
        if stored != dict(facts):
            changed = [fact for fact, value in facts.items() if stored.get(fact) != value]
            differ = "; ".join(f"{fact} is {stored.get(fact)}, here {facts[fact]}" for fact in changed)
            raise PlanRefused(f"{path} was built for something else: {differ}", hint=_BUILD_AGAIN)
        return payload

    def store(self, name: str, facts: Facts, payload: bytes) -> Path:
        """Seal and write, whole or not at all. Raises EngineError."""
        path = self.path_of(name, facts)
        described = _canonical(facts)
        head = _HEAD.pack(MAGIC, len(described)) + described
        seal = self._seal(name, head, payload)
        try:
            with write_whole(path, durable=True, mode=0o640) as stream:
                for part in (head, seal, payload):
                    stream.write(part)
        except OSError as error:
            raise EngineError(
                f"the plan {path} cannot be written: {error.strerror}", hint="check the folder's rights and the disk"
            ) from error
        return path

    def prune(self, name: str, keep: Iterable[Facts], previous: int = 1) -> None:
        """Delete all plans of `name` but those of `keep` and the `previous` newest others: the last good ones."""
        kept = {self.path_of(name, facts) for facts in keep}
        others = [path for path in self._folder.glob(f"{name}-*.plan") if path not in kept]
        for path in sorted(others, key=_modified_ns, reverse=True)[previous:]:
            with contextlib.suppress(OSError):
                path.unlink()
                event(log.info, "old plan deleted", plan=path.name)

    def sweep(self, older_than_s: float) -> None:
        """Delete what builds left behind that were killed; no build that still runs is `older_than_s`."""
        for left in (*self._folder.glob(f"{BUILD_PREFIX}*"), *self._folder.glob("*.tmp")):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > older_than_s:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                    event(log.info, "leftover of a build deleted", name=left.name)

    def _read(self, path: Path) -> bytes | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as stream:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PLAN_BYTES:
                    raise PlanRefused(f"{path} is no regular file of a plan's size", hint=_BUILD_AGAIN)
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PlanRefused(f"the plan {path} cannot be read: {error.strerror}", hint=_BUILD_AGAIN) from error

    def _seal(self, name: str, head: bytes, payload: bytes) -> bytes:
        """HMAC-SHA256; the lengths are in `head` and the file's size, so no two contents sign alike."""
        sealing = hmac.new(self._key(), name.encode() + b"\0" + head, hashlib.sha256)
        sealing.update(payload)
        return sealing.digest()

    def _key(self) -> bytes:
        """The device key, made where there is none. Raises EngineError for one that others may read."""
        try:
            if not self._is_read_only:
                with contextlib.suppress(FileExistsError):
                    self._create_key()
            with self._key_file.open("rb") as stream:
                found = os.fstat(stream.fileno())
                key = stream.read(KEY_BYTES + 1)
        except OSError as error:
            raise EngineError(
                f"the device key {self._key_file} cannot be used: {error.strerror}",
                hint="`tensorrt.key_file` names it; the service's unit hands it over as a credential",
            ) from error
        others = 0o077
        if self._is_credential and found.st_uid in (0, os.geteuid()):
            others &= ~stat.S_IRGRP
        if found.st_mode & others or len(key) != KEY_BYTES:
            raise EngineError(
                f"the device key {self._key_file} has mode {found.st_mode & 0o777:o} and {len(key)} bytes, "
                f"expected {'400 or 440' if self._is_credential else '600'} and {KEY_BYTES}",
                hint="start edge-engine-build.service, which makes the key, then this service again"
                if self._is_credential
                else "delete it and the plans it sealed: both are made again",
            )
        return key

    def _create_key(self) -> None:
        """Raises FileExistsError where another process was first."""
        if self._key_file.exists():
            return
        self._key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with write_whole(self._key_file, durable=True, mode=0o600, replace=False) as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))


def _canonical(facts: Facts) -> bytes:
    return json.dumps(dict(facts), sort_keys=True, separators=(",", ":")).encode()


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
