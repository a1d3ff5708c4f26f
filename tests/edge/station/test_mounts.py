"""Which file system a path lives on, and what that says of its writers and its inodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.station.mounts import FileSystem, file_system
from tests.support.station import mounts


@pytest.mark.parametrize(
    ("kind", "is_local"),
    [
        ("ext4", True),
        ("xfs", True),
        ("btrfs", True),
        ("tmpfs", True),
        ("overlay", True),
        ("vfat", True),
        ("cifs", False),
        ("smb3", False),
        ("nfs", False),
        ("nfs4", False),
        ("9p", False),
        ("vboxsf", False),
        ("fuse.sshfs", False),
        ("fuseblk", False),
        ("ceph", False),
        ("a-kind-of-the-future", False),
    ],
)
def test_only_file_systems_whose_writers_are_all_local_are_watched_with_inotify(kind: str, is_local: bool) -> None:
    assert FileSystem(kind, Path("/")).is_local is is_local


@pytest.mark.parametrize(
    ("kind", "options", "is_stable"),
    [
        ("ext4", "rw", True),
        ("nfs4", "rw", True),
        ("cifs", "rw,serverino", True),
        ("cifs", "rw,noserverino", False),
        ("fuse.sshfs", "rw", False),
        ("vfat", "rw", False),
        ("vboxsf", "rw", False),
    ],
)
def test_inodes_are_trusted_where_the_file_system_keeps_them(kind: str, options: str, is_stable: bool) -> None:
    assert FileSystem(kind, Path("/"), frozenset(options.split(","))).has_stable_inodes is is_stable


def test_the_deepest_mount_above_a_path_is_its_file_system(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        mounts(
            "40 27 0:50 / /mnt rw - tmpfs none rw",
            "41 40 0:51 / /mnt/station rw,relatime shared:7 - cifs //xray/scans rw,noserverino,vers=3.1.1",
            "42 27 0:52 / /mnt/station2 rw - nfs4 host:/x rw",
        )
    )

    found = file_system(Path("/mnt/station/2024/lot 7"), mountinfo)

    assert found.kind == "cifs"
    assert found.mount_point == Path("/mnt/station")
    assert "noserverino" in found.options
    assert file_system(Path("/mnt/other"), mountinfo).kind == "tmpfs"
    assert file_system(Path("/mnt/station2"), mountinfo).kind == "nfs4"
    assert file_system(Path("/srv"), mountinfo).kind == "ext4"


def test_of_two_mounts_on_one_point_the_later_one_is_on_top(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        mounts("40 27 0:50 / /mnt/station rw - autofs systemd-1 rw", "41 40 0:51 / /mnt/station rw - nfs4 h:/x rw")
    )

    assert file_system(Path("/mnt/station"), mountinfo).kind == "nfs4"


def test_mount_points_with_spaces_and_backslashes_are_understood(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(mounts(r"40 27 0:50 / /mnt/x\040ray\134scans rw - cifs //x/y rw"))

    assert file_system(Path("/mnt/x ray\\scans/lot"), mountinfo).kind == "cifs"


def test_a_link_is_judged_by_where_it_points(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(mounts("40 27 0:50 / /mnt/station rw - cifs //x/y rw"))
    link = tmp_path / "scans"
    link.symlink_to("/mnt/station")

    assert file_system(link, mountinfo).kind == "cifs"


@pytest.mark.parametrize("content", ["", "garbage\n- - -\n40 27\n", "40 27 0:50 / / rw - \n"])
def test_an_unreadable_mount_table_means_polling(tmp_path: Path, content: str) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(content)

    assert file_system(tmp_path, mountinfo).kind == "unknown"
    assert not file_system(tmp_path, tmp_path / "missing").is_local


def test_the_table_of_this_machine_can_be_read() -> None:
    assert file_system(Path("/proc/self")).kind == "proc"
    assert file_system(Path("/proc/self")).mount_point == Path("/proc")
