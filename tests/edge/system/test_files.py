"""The one way to write a file whole."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

import pytest

from edge.system.files import birth_ns, copy_whole, open_regular, read_named, write_whole


def test_a_file_has_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with write_whole(path, durable=True) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), write_whole(path, durable=False) as stream:
        stream.write("text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_under_the_name_of_the_draft_is_replaced_and_what_it_leads_to_is_untouched(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    victim.chmod(0o600)
    for draft in (tmp_path / f".a.json.{os.getpid()}.tmp", tmp_path / ".draft"):
        draft.symlink_to(victim)
    with write_whole(tmp_path / "a.json", durable=True, mode=0o644) as stream:
        stream.write(b"ours")
    with write_whole(tmp_path / "b.json", durable=True, mode=0o644, draft=tmp_path / ".draft") as stream:
        stream.write(b"ours")
    assert victim.read_bytes() == b"theirs"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert not (tmp_path / "a.json").is_symlink() and not (tmp_path / "b.json").is_symlink()


def test_a_link_put_back_after_the_draft_was_cleared_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # who holds the directory is faster
    (tmp_path / ".draft").symlink_to(victim)
    with (
        pytest.raises(FileExistsError),
        write_whole(tmp_path / "a", durable=False, draft=tmp_path / ".draft") as stream,
    ):
        stream.write(b"ours")
    assert victim.read_bytes() == b"theirs"


def test_the_mode_is_exactly_the_one_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with write_whole(tmp_path / "a", durable=False, mode=0o644):
            pass
        with write_whole(tmp_path / "b", durable=False):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def test_a_name_that_is_taken_can_be_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"first")
    with pytest.raises(FileExistsError), write_whole(path, durable=True, replace=False) as stream:
        stream.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=r"symbolic link"):
        copy_whole(tmp_path / "link", tmp_path / ".draft", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_file_that_a_person_names_is_read_through_links_and_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_named(tmp_path / "link", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("a", "more than 4 bytes"), ("pipe", "not a regular file"), (".", "Is a directory")):
        with pytest.raises(OSError, match=words) as caught:
            read_named(tmp_path / name, 4)
        assert caught.value.filename == str(tmp_path / name)


def test_what_is_no_file_keeps_no_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not looked at
    for path in [tmp_path, tmp_path / "pipe"] * 10:
        with pytest.raises(OSError, match=re.escape(str(path))), open_regular(path):
            pass
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


def test_a_file_keeps_its_time_of_birth_under_every_name_and_a_new_one_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    born_ns = birth_ns(file)
    if born_ns is None:
        pytest.skip("this file system does not tell it")
    assert 0 <= file.stat().st_ctime_ns - born_ns < 10**9
    time.sleep(0.01)  # file systems tick slowly
    renamed = file.rename(tmp_path / "b")
    renamed.write_bytes(b"new")
    assert birth_ns(renamed) == born_ns
    file.write_bytes(b"another")
    assert (birth_ns(file) or 0) > born_ns
    assert birth_ns(tmp_path / "none") is None
