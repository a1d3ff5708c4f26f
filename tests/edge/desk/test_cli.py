"""`edge-desk` on the command line: accounts, verification, and what it refuses to serve."""

from __future__ import annotations

import io
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edge.desk.app import _server_config, build_app, new_desk
from edge.desk.cli import main
from edge.desk.store import FILE_NAME, DeskStore, now
from edge.errors import SettingsError
from edge.settings import DeskSettings, load_settings
from tests.support.certificates import Authority
from tests.support.desk import PASSWORD, Browser, as_published, put_piece
from tests.support.shift import answer_on


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "desk").mkdir()
    (tmp_path / "state").mkdir()
    file = tmp_path / "edge.toml"
    file.write_text(f'[state]\ndir = "{tmp_path}/state"\n[desk]\ndir = "{tmp_path}/desk"\n', encoding="utf-8")
    return file


def run(config: Path, *words: str) -> int:
    return main([*words, "--config", str(config)])


def test_an_account_is_added_listed_and_disabled(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert run(config, "user", "add", "ann", "--role", "admin") == 0
    settings = load_settings(config)
    with DeskStore(settings.desk.dir / FILE_NAME) as store:
        assert Browser(build_app(new_desk(settings, store))).log_in("ann").status == 303
        assert run(config, "user", "disable", "ann") == 0
        assert Browser(build_app(new_desk(settings, store))).log_in("ann").status == 401
    assert run(config, "user", "list") == 0
    said = capsys.readouterr().out
    assert "account ann (admin) added" in said
    assert said.splitlines()[-1].split() == ["ann", "admin", "disabled"]
    assert run(config, "verify") == 0
    assert "unchanged: 2 entries" in capsys.readouterr().out


def test_verify_names_a_change_and_a_hash_that_is_gone(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    run(config, "user", "add", "ann")
    settings = load_settings(config)
    with DeskStore(settings.desk.dir / FILE_NAME) as store:
        head = store.head()
    assert run(config, "verify", "--head", head) == 0
    piece = put_piece(settings.evidence_dir, 1)
    answer = answer_on(piece.verdict(), "ann").model_copy(update={"disposition_id": "ab" * 16})
    (piece.path / "disposition.json").write_bytes(as_published(answer.model_dump(mode="json")))
    sql = sqlite3.connect(settings.desk.dir / FILE_NAME)
    sql.execute("UPDATE account SET role = 'admin'")
    sql.commit()
    sql.close()
    capsys.readouterr()
    assert run(config, "verify", "--head", "0" * 64) == 65
    said = capsys.readouterr().out
    assert "account ann: it is not as the record says" in said
    assert "no entry has the hash 0000" in said
    assert f"the answer {'ab' * 16} kept there is not in the record" in said
    assert said.splitlines()[-1].startswith("3 problems")


def test_a_copy_on_a_disk_for_reading_only_is_verified_with_its_journal(
    config: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    run(config, "user", "add", "ann")
    file = load_settings(config).desk.dir / FILE_NAME
    with DeskStore(file) as store:  # open: its newest entry stands in the journal alone
        store.add_entry("export", "os:test", now())
        head = store.head()
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            shutil.copyfile(file.with_name(name), small_disk / name)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    config.write_text(config.read_text("utf-8").replace(str(file.parent), str(small_disk)), "utf-8")
    assert run(config, "verify", "--head", head) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("unchanged: 2 entries")
    assert run(config, "verify", "--head", "f" * 64) == 65


@pytest.mark.parametrize("words", [("user", "list"), ("verify",), ("export", "--out", "x"), ("user", "disable", "ann")])
def test_a_desk_that_is_not_there_is_not_made_by_looking(
    config: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, *words) == 74
    assert "there is no desk's file" in capsys.readouterr().err
    (config.parent / "desk").rmdir()
    assert run(config, *words) == 78
    assert "is not there" in capsys.readouterr().err


def test_the_network_is_served_with_a_certificate_or_not_at_all(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="passwords would cross the network in the clear"):
        DeskSettings(host="0.0.0.0")
    certificate, key = Authority(tmp_path, "plant").issue("desk")
    _, other_key = Authority(tmp_path, "elsewhere").issue("other")
    settings = DeskSettings(host="0.0.0.0", cert_file=certificate, key_file=key)
    with DeskStore(tmp_path / FILE_NAME) as store:
        app = build_app(new_desk(load_settings(config), store))
        served = _server_config(settings, app)
        assert served.is_ssl and served.ssl is not None
        with pytest.raises(SettingsError, match="cannot be used"):
            _server_config(settings.model_copy(update={"key_file": other_key}), app)


def test_before_the_worker_ever_ran_the_desk_says_so_and_ends_so_that_systemd_tries_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").rmdir()
    assert run(config, "run") == 74
    said = capsys.readouterr().err
    assert f"there is no {tmp_path / 'state' / 'requests'}: the worker has never run here" in said
    assert "start the worker" in said
    unit = (Path(__file__).parents[3] / "systemd" / "edge-desk.service").read_text(encoding="utf-8").splitlines()
    assert {"Restart=on-failure", "StartLimitIntervalSec=0", "RestartPreventExitStatus=78"} <= set(unit)


def test_a_port_that_is_taken_is_named(config: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(f"{config.read_text()}port = {port}\n")
        command = [sys.executable, "-m", "edge.desk.cli", "run", "--config", str(config)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, f"cannot listen on 127.0.0.1:{port}" in ended.stderr) == (78, True), ended.stderr


SERVICE = 61_001
START = "import sys; del sys.argv[0]; from edge.desk.cli import main; sys.exit(main())"
"""Runs as the program that its first argument names."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led to what the user may not touch")
@pytest.mark.parametrize(
    ("words", "owned"),
    [
        (("user", "add", "eve", "--role", "admin"), "desk"),
        (("verify",), "desk"),
        (("run",), "desk"),
        (("run",), "state"),  # where it leaves the answers
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_root_is_refused_in_the_folder_of_another_user_and_follows_none_of_its_links(
    config: Path, tmp_path: Path, words: tuple[str, ...], owned: str
) -> None:
    victim = tmp_path / "shadow"
    victim.touch(0o600)
    folder = tmp_path / owned
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", "requests"):
        (folder / name).symlink_to(victim)
    os.chown(folder, SERVICE, SERVICE)
    before = sorted((path.name, path.lstat().st_uid) for path in folder.iterdir())
    program = tmp_path / "bin" / "edge-desk"
    done = subprocess.run(
        [sys.executable, "-c", START, str(program), *words, "--config", str(config)],
        capture_output=True,
        text=True,
        input=f"{PASSWORD}\n",
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 78, done.stderr
    typed = f"try: setpriv --reuid={SERVICE} --regid={SERVICE} --clear-groups -- {program} {' '.join(words)} "
    assert typed in done.stderr, "with the program's folder: the other user may not find it by itself"
    assert (victim.read_bytes(), victim.stat().st_uid) == (b"", 0)
    assert sorted((path.name, path.lstat().st_uid) for path in folder.iterdir()) == before
