"""Who may look and answer: passwords, sessions, and a limit on guessing.

Sessions live in this process alone and are timed by the monotonic clock: a restart ends them, a jump of the wall clock
does not touch them. Whether an account is disabled is asked of the file at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge.desk.store import Account, DeskStore, Role, now
from edge.errors import DeskError

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256
SESSION_MAX_S: Final = 12 * 3600.0
"""A session ends after a long shift, however busy it is."""
MOST_SESSIONS: Final = 200

FREE_GUESSES: Final = 5
"""Wrong passwords for one account, or from one address times `ADDRESS_SHARE`, before waiting begins."""
ADDRESS_SHARE: Final = 4
WAIT_S: Final = 30.0
"""First wait; it doubles with each further wrong password."""
MAX_WAIT_S: Final = 900.0
FORGET_S: Final = 3600.0

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 15, 8, 1  # 32 MiB and about 0.1 s a guess
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.ASCII)
_hashing = threading.BoundedSemaphore(2)
"""Passwords hashed at a time: 32 MiB each."""


def hash_password(password: str, salt: bytes | None = None) -> str:
    """`scrypt$n$r$p$salt$hash` of a password, with a salt of its own."""
    salt = salt or secrets.token_bytes(16)
    return f"scrypt${_SCRYPT_N}${_SCRYPT_R}${_SCRYPT_P}${salt.hex()}${_scrypt(password, salt).hex()}"


def is_password(password: str, secret: str) -> bool:
    """Whether the password is the one that was hashed."""
    _, n, r, p, salt, expected = secret.split("$")
    found = _scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, bytes.fromhex(expected))


def _scrypt(password: str, salt: bytes, n: int = _SCRYPT_N, r: int = _SCRYPT_R, p: int = _SCRYPT_P) -> bytes:
    with _hashing:
        data = password.encode("utf-8", "surrogatepass")
        return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=1 << 26, dklen=32)


NO_ACCOUNT: Final = "scrypt$32768$8$1$" + "00" * 16 + "$" + "00" * 32
"""Compared with where there is no account, so that the time of an answer does not tell which names exist."""


def add_account(store: DeskStore, name: str, password: str, role: Role, by: str) -> str:
    """Add an account, or give one a new password and role and enable it again; says which.

    Raises DeskError for a name or a password that will not do.
    """
    if not _NAME.fullmatch(name):
        raise DeskError(
            f"{name!r} is no name of an account", hint="1 to 40 of a-z 0-9 . _ -, beginning with a letter or digit"
        )
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise DeskError(
            f"the password has {len(password)} characters, {MIN_PASSWORD} to {MAX_PASSWORD} are needed",
            hint="a few unrelated words are easy to remember and hard to guess",
        )
    action = "add" if store.account(name) is None else "change"
    store.put_account(Account(name, hash_password(password), role, is_disabled=False), action, by, now())
    return f"account {name} ({role}) " + ("added" if action == "add" else "has a new password and is enabled")


def disable_account(store: DeskStore, name: str, by: str) -> str:
    """Disable an account; its sessions end at their next request. Raises DeskError if there is none."""
    account = store.account(name)
    if account is None:
        raise DeskError(f"there is no account {name!r}", hint="edge-desk user list")
    disabled = Account(account.name, account.secret, account.role, is_disabled=True)
    store.put_account(disabled, "disable", by, now())
    return f"account {name} is disabled"


@dataclass(slots=True)
class Session:
    """A logged-in browser. `csrf` is the word that its forms must repeat, `secret` the hash of the password it gave."""

    account: str
    secret: str
    csrf: str
    begun_s: float
    seen_s: float


class Sessions:
    """The sessions of this process, by the hash of their cookie."""

    def __init__(self, clock: Callable[[], float], idle_s: float) -> None:
        """`clock`: monotonic, in seconds. `idle_s`: a session ends after so long without a request."""
        self._clock = clock
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def begin(self, account: str, secret: str) -> str:
        """A new session: the value of its cookie. It ends when the account's `secret` is another one."""
        token = secrets.token_urlsafe(32)
        at_s = self._clock()
        with self._lock:
            self._sessions = {key: each for key, each in self._sessions.items() if self._lives(each)}
            while len(self._sessions) >= MOST_SESSIONS:
                self._sessions.pop(min(self._sessions, key=lambda key: self._sessions[key].seen_s))
            self._sessions[_key(token)] = Session(account, secret, secrets.token_urlsafe(24), at_s, at_s)
        return token

    def find(self, token: str, *, is_active: bool = True) -> Session | None:
        """The session of a cookie, if it lives. `is_active`: it lives on from now; False for what asks by itself."""
        with self._lock:
            session = self._sessions.get(_key(token))
            if session is None or not self._lives(session):
                self._sessions.pop(_key(token), None)
                return None
            if is_active:
                session.seen_s = self._clock()
            return session

    def end(self, token: str) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(_key(token), None)

    def _lives(self, session: Session) -> bool:
        at_s = self._clock()
        return at_s - session.seen_s <= self._idle_s and at_s - session.begun_s <= SESSION_MAX_S


@dataclass(slots=True)
class _Guesses:
    wrong: int = 0
    last_s: float = 0.0


class LoginLimit:
    """How long a name or an address must wait before its next password is looked at."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._guesses: dict[str, _Guesses] = {}

    def admit(self, name: str, address: str) -> float:
        """Seconds to wait; 0 where a password may be looked at now, which counts as wrong until `note_success`.

        Counted before the password is looked at, so that of a thousand at once only a few are.
        """
        at_s = self._clock()
        with self._lock:
            self._guesses = {key: each for key, each in self._guesses.items() if at_s - each.last_s < FORGET_S}
            wait_s = max(self._wait(f"name {name}", FREE_GUESSES), self._wait(address, FREE_GUESSES * ADDRESS_SHARE))
            if wait_s == 0:
                for key in (f"name {name}", address):
                    guesses = self._guesses.setdefault(key, _Guesses())
                    guesses.wrong, guesses.last_s = guesses.wrong + 1, at_s
        return wait_s

    def note_success(self, name: str, address: str) -> None:
        """The password was right: forget the wrong ones of its name; an address only gets this one back.

        Else a guesser with an account of his own could guess on for others.
        """
        with self._lock:
            self._guesses.pop(f"name {name}", None)
            if (guesses := self._guesses.get(address)) is not None:
                guesses.wrong -= 1

    def _wait(self, key: str, free: int) -> float:
        guesses = self._guesses.get(key)
        if guesses is None or guesses.wrong < free:
            return 0.0
        wait_s = min(WAIT_S * 2.0 ** min(guesses.wrong - free, 10), MAX_WAIT_S)
        return max(guesses.last_s + wait_s - self._clock(), 0.0)


def _key(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
