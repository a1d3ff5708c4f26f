"""The drop box: what is taken and once, what is refused and told, who may ask for what."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge.contract.messages import Answer
from edge.errors import LedgerError, RequestError
from edge.evidence.record import open_piece
from edge.store import requests as requests_module
from edge.store.requests import (
    MAX_BYTES,
    DropBox,
    Request,
    RequestKind,
    ResendRequest,
    leave,
    parse_request,
)
from tests.edge.evidence.test_keeper import fill, keeper, verdict_of
from tests.support.samples import sample_answer

NOW = datetime(2026, 3, 1, 7, 0, tzinfo=UTC)
RESEND = ResendRequest(since=NOW)
WORKER, DESK, GROUP = 4710, 4711, 4712

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that other users can reach, as below /var/lib; pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        state = Path(home) / "state"
        state.mkdir(mode=0o700)
        yield state


@pytest.fixture
def box(state: Path) -> DropBox:
    box = DropBox(state)
    box.prepare()
    return box


def taken(box: DropBox) -> list[tuple[str, bytes]]:
    """What the worker carries out in one turn."""
    done: list[tuple[str, bytes]] = []

    def handler(request: Request, content: bytes) -> None:
        done.append((str(request.kind), content))

    box.take({RequestKind.RESEND: handler, RequestKind.DISPOSITION: handler})
    return done


def reasons(box: DropBox) -> list[str]:
    return [path.read_text() for path in sorted(box.refused.glob("*.txt"))]


def test_a_request_is_carried_out_once_and_in_order_of_arrival(state: Path, box: DropBox) -> None:
    leave(state, RequestKind.DISPOSITION, b'{"a": 1}', "f" * 32)
    leave(state, RequestKind.DISPOSITION, b'{"a": 2}', "0" * 32)
    first, second = box.directory / f"disposition-{'f' * 32}.json", box.directory / f"disposition-{'0' * 32}.json"
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(2, 2))
    assert taken(box) == [("disposition", b'{"a": 1}'), ("disposition", b'{"a": 2}')]
    assert taken(box) == []
    assert [path.name for path in box.directory.iterdir()] == ["refused"]


def test_a_request_waits_for_a_worker_that_has_not_run_yet(state: Path) -> None:
    leave(state, RequestKind.RESEND, RESEND)
    box = DropBox(state)
    assert [parse_request(ResendRequest, content).since for _, content in taken(box)] == [NOW]


def test_what_cannot_be_done_now_stays_and_what_never_can_is_refused_with_its_reason(state: Path, box: DropBox) -> None:
    request = leave(state, RequestKind.RESEND, RESEND)

    def disk_full(_: Request, __: bytes) -> None:
        raise LedgerError("disk is full", hint="free some space")

    def never(_: Request, __: bytes) -> None:
        raise RequestError("there is no such verdict", hint="look it up")

    with pytest.raises(LedgerError):
        box.take({RequestKind.RESEND: disk_full})
    assert request.exists()
    assert box.refusals() is None
    assert box.take({RequestKind.RESEND: never}) == 0
    assert not request.exists()
    refusals = box.refusals()
    assert refusals is not None
    assert (refusals.count, refusals.newest) == (1, f"{request.name}: there is no such verdict\nlook it up")
    (kept,) = box.refused.glob("*.json")
    assert ResendRequest.model_validate_json(kept.read_bytes()) == RESEND


def test_a_fault_in_a_request_is_named(state: Path, box: DropBox) -> None:
    for content in (b"{}", b'{"numbers": [1, 2], "verdict_id": "%s"}' % (b"a" * 32)):
        with pytest.raises(RequestError, match="expected one of since, numbers, verdict_id"):
            parse_request(ResendRequest, content)
    with pytest.raises(RequestError, match=r"numbers: .*at least 2"):
        parse_request(ResendRequest, b'{"numbers": [1]}')
    with pytest.raises(RequestError, match="surprise: Extra inputs"):
        parse_request(ResendRequest, b'{"since": "2026-03-01T07:00:00Z", "surprise": 1}')


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_no_calendar_holds_in_utc_and_a_number_no_ledger_holds_are_faults(moment: str) -> None:
    with pytest.raises(RequestError, match=r"since: .*no time of the calendar"):
        parse_request(ResendRequest, b'{"since": "%s"}' % moment.encode())
    with pytest.raises(RequestError, match=r"at: .*no time of the calendar"):
        parse_request(Answer, json.dumps(json.loads(sample_answer(1).model_dump_json()) | {"at": moment}).encode())
    with pytest.raises(RequestError, match=r"numbers\.1: .*less than or equal"):
        parse_request(ResendRequest, b'{"numbers": [1, %d]}' % 2**63)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_bytes(b"{" * 5000),
    "no UTF-8": lambda path: path.write_bytes(b'"\xff"'),
    "empty": lambda path: path.write_bytes(b""),
    "too large": lambda path: path.write_bytes(b" " * (MAX_BYTES + 1)),
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_request_is_refused_once_and_the_others_go_on(state: Path, box: DropBox, kind: str) -> None:
    HOSTILE[kind](box.directory / f"resend-{uuid.uuid4().hex}.json")
    leave(state, RequestKind.RESEND, RESEND)
    assert len(taken(box)) == 1
    assert len(reasons(box)) == 1
    assert taken(box) == []
    assert len(reasons(box)) == 1
    assert Path("/etc/hostname").exists()


@pytest.mark.parametrize("swapped", ["requests", "requests/refused"])
def test_a_folder_of_the_box_that_is_a_link_is_an_error_and_nothing_behind_it_is_touched(
    state: Path, box: DropBox, swapped: str
) -> None:
    """The worker would move, refuse and sweep what is not its own, with its own rights."""
    outside = state.parent / "outside"
    (state / swapped).rename(outside)
    (outside / "refused").mkdir(exist_ok=True)
    (outside / f"resend-{uuid.uuid4().hex}.json").write_text(RESEND.model_dump_json())
    for name in ("theirs.txt", ".draft"):
        (outside / name).write_text("theirs")
        os.utime(outside / name, (0, 0))
    before = sorted(outside.rglob("*"))
    (state / swapped).symlink_to(outside)
    if swapped != "requests":
        (box.directory / "notes.txt").write_text("to be refused")
    for turn in (lambda: taken(box), box.refusals, box.sweep, box.prepare):
        with pytest.raises(LedgerError, match="is a link, expected a folder"):
            turn()
    assert sorted(outside.rglob("*")) == before


def test_a_folder_of_refused_requests_that_was_removed_holds_up_no_request(state: Path, box: DropBox) -> None:
    box.refused.rmdir()
    (box.directory / "notes.txt").write_text("{}")
    leave(state, RequestKind.RESEND, RESEND)
    assert len(taken(box)) == 1
    assert len(reasons(box)) == 1


def test_a_box_of_a_size_that_no_scan_has_is_refused(box: DropBox) -> None:
    """JSON takes integers of 4000 digits; few programs at the MES read them."""
    answer = json.loads(sample_answer().model_dump_json())
    for number in (10**4000, 2**31, -1):
        answer["boxes_px"] = [{"x_px": 0, "y_px": 0, "width_px": number, "height_px": 1}]
        (box.directory / f"disposition-{uuid.uuid4().hex}.json").write_text(json.dumps(answer))

    def dispose(_: Request, content: bytes) -> None:
        parse_request(Answer, content)

    assert box.take({RequestKind.DISPOSITION: dispose}) == 0
    assert len(reasons(box)) == 3
    assert all("boxes_px.0.width_px" in text and len(text) < 400 for text in reasons(box))


def test_a_name_that_is_none_of_a_request_is_refused_by_one_taker(box: DropBox) -> None:
    (box.directory / "resend-1.json").write_text("{}")
    (box.directory / "notes\n.txt").write_text("{}")
    assert box.take({}, with_unknown=False) == 0
    assert reasons(box) == []
    assert taken(box) == []
    assert sorted(text.partition(":")[0] for text in reasons(box)) == [r"notes\u000a.txt", "resend-1.json"]


def test_half_a_request_is_not_taken_and_is_swept_when_its_writer_is_gone(box: DropBox) -> None:
    draft = box.directory / ".disposition-1.json.77.tmp"
    draft.write_text("{")
    assert taken(box) == []
    box.sweep()
    assert draft.exists()
    os.utime(draft, (0, 0))
    box.sweep()
    assert not draft.exists()


def test_a_flood_is_taken_in_turns_and_only_the_newest_refused_are_kept(
    box: DropBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_module, "AT_ONCE", 3)
    monkeypatch.setattr(requests_module, "KEEP_REFUSED", 2)
    for number in range(7):
        (box.directory / f"noise-{number}").touch()
    assert [len(box.waiting([None])), taken(box), len(box.waiting([None]))] == [3, [], 3]
    box.take({})
    box.take({})
    box.sweep()
    assert len(list(box.refused.iterdir())) == 4
    refusals = box.refusals()
    assert refusals is not None
    assert refusals.count == 2


def test_the_modes_let_the_group_leave_requests_and_nothing_else(state: Path, box: DropBox) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, box.directory, box.refused)}
    assert modes == {"state": 0o710, "requests": 0o1770, "refused": 0o700}


def as_user(user: int, act: Callable[[], object], group: int = 0) -> str:
    """What `act` gives, or raises, as another user whose group is the worker's."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.setgroups([GROUP])
            os.setgid(group or user)
            os.setuid(user)
            os.umask(0o077)
            said = str(act())
        except BaseException as error:  # noqa: BLE001, told through the pipe
            said = f"{type(error).__name__}: {error} {getattr(error, 'hint', '')}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    with os.fdopen(reading) as stream:
        return stream.read()


def as_desk(act: Callable[[], object]) -> str:
    return as_user(DESK, act)


@pytest.fixture
def shared(state: Path, box: DropBox) -> DropBox:
    """The box of a worker whose group has another member."""
    for path in (state, box.directory, box.refused):
        os.chown(path, -1, GROUP)
    box.prepare()
    return box


@as_root
def test_the_desks_user_sees_the_evidence_and_changes_nothing_of_it(state: Path, shared: DropBox) -> None:
    evidence = state / "evidence"
    fill(keeper(evidence), verdict := verdict_of(1))
    for path in (evidence, *evidence.rglob("*")):
        os.chown(path, -1, GROUP)  # as the worker's own files have its group
    piece = evidence / str(verdict.evidence)

    def look() -> str:
        found = open_piece(evidence, str(verdict.evidence))
        return f"{found.record.verdict_id} {found.counts().shape}"

    assert as_desk(look) == f"{verdict.verdict_id} (40, 20)"
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: (piece / "scan.png").write_bytes(b""),
        "add": lambda: (piece / "disposition.json").touch(),
        "remove": lambda: (piece / "scan.png").unlink(),
        "rename": lambda: piece.rename(piece.with_name("f" * 32)),
        "a day": lambda: (evidence / "2026-03-02").mkdir(),
    }
    for act, attempt in acts.items():
        assert as_desk(attempt).startswith("PermissionError"), act


@as_root
def test_another_user_of_the_group_may_leave_a_disposition_and_nothing_else(state: Path, shared: DropBox) -> None:
    (state / "ledger.sqlite").touch(mode=0o600)
    leave(state, RequestKind.RESEND, RESEND)
    for kind, content in (
        (RequestKind.DISPOSITION, b'{"a": 1}'),
        (RequestKind.RESEND, RESEND.model_dump_json().encode()),
        (RequestKind.BACKUP, b"{}"),
    ):
        assert str(kind) in as_desk(lambda kind=kind, content=content: leave(state, kind, content).name)
    assert taken(shared) == [("resend", RESEND.model_dump_json().encode()), ("disposition", b'{"a": 1}')]
    shared.take({RequestKind.BACKUP: lambda *_: pytest.fail("a backup for the desk")})
    assert [f"left by user {DESK}, expected user {os.geteuid()}" in reason for reason in reasons(shared)] == [True] * 2

    waiting = leave(state, RequestKind.RESEND, RESEND)
    forbidden = {
        "remove": lambda: waiting.unlink(),
        "rename": lambda: waiting.rename(waiting.with_name("x")),
        "change": lambda: waiting.write_text("{}"),
        "read the ledger": lambda: (state / "ledger.sqlite").read_bytes(),
        "replace the ledger": lambda: (state / "ledger.sqlite").unlink(),
        "list the state": lambda: list(state.iterdir()),
        "read the refused": lambda: list(shared.refused.iterdir()),
        "swap the box": lambda: shared.directory.rename(state / "away"),
    }
    for name, act in forbidden.items():
        assert "PermissionError" in as_desk(act), name
    assert waiting.exists()


@as_root
def test_a_worker_that_is_not_root_takes_what_another_user_left_and_tells_once_of_what_it_cannot_move(
    state: Path, shared: DropBox
) -> None:
    for path in (state, shared.directory, shared.refused):
        os.chown(path, WORKER, GROUP)
    shared.directory.chmod(0o1770)

    def plant() -> None:
        leave(state, RequestKind.DISPOSITION, b'{"a": 1}')
        folder = shared.directory / "disposition-x"
        folder.mkdir()
        (folder / "inside").touch()

    assert as_desk(plant) == "None"
    said = as_user(WORKER, lambda: (taken(shared), taken(shared), taken(shared), len(reasons(shared))), GROUP)
    assert said == str(([("disposition", b'{"a": 1}')], [], [], 1))


@as_root
def test_without_a_box_another_user_is_told_to_start_the_worker(state: Path) -> None:
    state.chmod(0o755)
    assert "start the worker" in as_desk(lambda: leave(state, RequestKind.DISPOSITION, b"{}"))


def test_a_box_that_was_removed_by_hand_is_made_anew_and_takes_what_comes_next(state: Path, box: DropBox) -> None:
    shutil.rmtree(box.directory)
    assert taken(box) == []
    assert stat.S_IMODE(box.directory.stat().st_mode) == requests_module.DIRECTORY_MODE, "others may leave files again"
    leave(state, RequestKind.RESEND, RESEND)
    assert [kind for kind, _ in taken(box)] == ["resend"]
