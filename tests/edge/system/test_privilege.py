"""Commands refuse to work as root where another user could lead them astray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import LedgerError, SettingsError
from edge.store.ledger_file import take_lock
from edge.system.privilege import refuse_root

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led to what the user may not touch")
SERVICE = 61_001
COMMAND = ("edge-worker", "--backup", "a b.sqlite")
MODEL_OF_2099 = '{"model_id": "x", "sha256": "y", "created_at": "2099-01-01T00:00:00Z"}'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a user who is not root."""
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() == 0:
        os.chown(home, SERVICE, SERVICE)
    return home


def test_root_is_refused_in_the_folder_of_another_user_and_told_what_to_type(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SettingsError, match=f"{home} belongs to ") as caught:
        refuse_root([home / "state" / "plans"], COMMAND)
    assert caught.value.hint.startswith(("runuser -u ", "setpriv --reuid="))
    assert caught.value.hint.endswith(" -- edge-worker --backup 'a b.sqlite'")
    assert list(home.iterdir()) == []


@as_root
def test_a_folder_of_roots_below_one_of_another_user_or_behind_their_link_is_no_better(
    home: Path, tmp_path: Path
) -> None:
    (home / "state").mkdir()
    (tmp_path / "state").mkdir()
    (home / "link").symlink_to(tmp_path / "state")
    (tmp_path / "link").symlink_to(home / "state")
    os.chown(home / "link", SERVICE, SERVICE, follow_symlinks=False)
    refuse_root([tmp_path / "state"], COMMAND)
    for folder in (home / "state", home / "link", tmp_path / "link"):
        with pytest.raises(SettingsError):
            refuse_root([folder], COMMAND)


@as_root
def test_what_root_is_told_to_type_runs_as_the_owner(home: Path) -> None:
    (home.parent / "state").mkdir()
    with pytest.raises(SettingsError) as caught:
        refuse_root([home], ("/usr/bin/id", "-u"))
    done = subprocess.run(caught.value.hint, shell=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(SERVICE), done.stderr


def test_root_may_write_where_everything_is_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuse_root([Path("/nowhere/at/all")], COMMAND)


def test_the_user_itself_may_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SERVICE)
    refuse_root([home], COMMAND)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that only root may read and write."""
    victim = tmp_path / "etc" / "shadow"
    victim.parent.mkdir()
    victim.write_text("root:x:0:0\n")
    victim.chmod(0o600)
    return victim


COMMANDS = {
    "backup": ["backup", "{home}/../backup.sqlite"],
    "restore": ["restore", "{home}/../none.sqlite"],
    "check": ["check"],
    "tune": ["model", "tune"],
    "resend": ["resend", "1d"],
    "accept-older": ["model", "accept-older"],
    "build": ["model", "build"],
    "show": ["model", "show"],
    "the worker itself": ["run"],
}


@as_root
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_of_roots_follows_the_links_of_the_service(name: str, home: Path, victim: Path) -> None:
    """Every name that any of them writes, drafts and locks, leads to a file of root's."""
    state = home / "state"
    state.mkdir(0o700)
    (state / "newest-model.json").write_text(MODEL_OF_2099)
    (state / "ledger.sqlite").touch()
    for link in (
        *("ledger.sqlite.lock", ".newest-model.json.new", "ledger.sqlite.new", "ledger.sqlite.restored"),
        *("plans", "device.key"),
    ):
        (state / link).symlink_to(victim)
    for path in (state, *state.iterdir()):
        os.chown(path, SERVICE, SERVICE, follow_symlinks=False)
    config = home.parent / "edge.toml"
    config.write_text(
        f'station = "x"\n[folder]\npath = "{home.parent}"\n[state]\ndir = "{state}"\n'
        f'[tensorrt]\nplans = "{state}/plans"\nkey_file = "{state}/device.key"\n'
    )
    before = sorted((path.name, path.lstat().st_size, path.lstat().st_uid) for path in state.iterdir())
    arguments = [argument.format(home=home) for argument in COMMANDS[name]]
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli", *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78, done.stdout + done.stderr
    assert f"try: setpriv --reuid={SERVICE} --regid={SERVICE} --clear-groups -- edge-worker" in done.stderr
    assert (victim.read_text(), victim.stat().st_mode & 0o777, victim.stat().st_uid) == ("root:x:0:0\n", 0o600, 0)
    assert sorted((path.name, path.lstat().st_size, path.lstat().st_uid) for path in state.iterdir()) == before


@pytest.mark.parametrize("plant", ["symbolic", "hard", "fifo"])
def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_written_to_by_nobody(tmp_path: Path, plant: str) -> None:
    """Also where the folder is one's own: whoever else got in may have left it."""
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    lock = tmp_path / "state" / "ledger.sqlite.lock"
    lock.parent.mkdir(0o700)
    if plant == "symbolic":
        lock.symlink_to(victim)
    elif plant == "hard":
        lock.hardlink_to(victim)
    else:
        os.mkfifo(lock)
    with pytest.raises(LedgerError, match="is no lock of this user"):
        take_lock(lock.with_suffix(""))
    assert victim.read_text() == "theirs"


@as_root
def test_a_lock_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    (state / "ledger.sqlite.lock").write_text("theirs")
    os.chown(state / "ledger.sqlite.lock", SERVICE, SERVICE)
    with pytest.raises(LedgerError, match=f"user {SERVICE}"):
        take_lock(state / "ledger.sqlite")
    assert (state / "ledger.sqlite.lock").read_text() == "theirs"
