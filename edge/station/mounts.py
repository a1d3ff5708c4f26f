"""The file system a path lives on, as `/proc/self/mountinfo` tells it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

# fmt: off
LOCAL_KINDS = frozenset({
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jfs", "msdos", "nilfs2", "ntfs3",
    "overlay", "ramfs", "reiserfs", "tmpfs", "ubifs", "udf", "vfat", "xfs", "zfs",
})
# fmt: on
"""File systems whose every writer is on this machine, so that inotify sees them all."""

# fmt: off
SHARE_KINDS = frozenset({
    "9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs",
    "vboxsf",
})
# fmt: on
"""File systems of another machine whose locks and flushes a database cannot build on."""

VOLATILE_KINDS = frozenset({"aufs", "fuse.fuse-overlayfs", "overlay", "ramfs", "rootfs", "tmpfs"})
"""File systems that end with the machine's power, or with a container."""

UNSTABLE_INODE_KINDS = frozenset({"exfat", "fuse", "fuseblk", "msdos", "vboxsf", "vfat"})
"""File systems that invent inode numbers and may invent others for the same file later."""


@dataclass(frozen=True, slots=True)
class StateTrouble:
    """Why a file system is none for the ledger: `edge-worker check` fails, the start warns or refuses."""

    message: str
    """Goes on a sentence that begins with the directory."""
    hint: str
    is_refused: bool = False
    """Whether the worker does not start there: the ledger would be damaged, and not only lost."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a path lives."""

    kind: str
    """As the kernel names it: `ext4`, `cifs`, `fuse.sshfs`; `unknown` where mountinfo does not tell."""
    mount_point: Path
    options: frozenset[str] = frozenset()

    @property
    def is_local(self) -> bool:
        """Whether inotify sees every writer."""
        return self.kind in LOCAL_KINDS

    @property
    def state_trouble(self) -> StateTrouble | None:
        """Why the state directory should not lie here; None where it may."""
        where = f"on {self.kind} ({self.mount_point})"
        if self.kind in SHARE_KINDS:
            hint = "a share can damage the ledger: move the whole state directory to a disk of this machine"
            return StateTrouble(f"{where}, expected a local disk", hint, is_refused=True)
        if self.kind in VOLATILE_KINDS:
            said = f"{where}: lost with the power or the container, with verdicts that were published"
            return StateTrouble(said, "put `state.dir` on a disk of this machine, or on a volume")
        if not self.is_local:
            hint = "the ledger needs a local disk: move the whole state directory to one of this machine"
            return StateTrouble(f"{where}, which may be anything: expected a local disk", hint)
        return None

    @property
    def has_stable_inodes(self) -> bool:
        """Whether a file keeps its inode number for as long as it exists."""
        return self.kind.split(".")[0] not in UNSTABLE_INODE_KINDS and "noserverino" not in self.options


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a folder was when it was last seen, in words that hold after a restart: device numbers do not."""

    path: str
    kind: str
    mount_point: str
    inode: int

    @classmethod
    def of(cls, path: Path, home: FileSystem, inode: int) -> Whereabouts:
        return cls(str(path), home.kind, str(home.mount_point), inode)

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> Whereabouts | None:
        """What `text` says of `path`; None if nothing, or of another path."""
        try:
            found = cls(**json.loads(text or "{}"))
        except (TypeError, ValueError):
            return None
        return found if found.path == str(path) else None

    def as_text(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    def is_unmounted(self, home: FileSystem) -> bool:
        """Whether `home` is what shows once the file system that was seen there is unmounted."""
        former = Path(self.mount_point)
        return home.mount_point != former and former.is_relative_to(home.mount_point)


def file_system(path: Path, mountinfo: Path = MOUNTINFO) -> FileSystem:
    """The file system `path` lives on, or would live on: it need not exist. Never raises."""
    target = Path(os.path.realpath(path))
    found = FileSystem("unknown", Path("/"))
    try:
        lines = os.fsdecode(mountinfo.read_bytes()).splitlines()
    except OSError:
        return found
    for line in lines:
        mounted, _, source = line.partition(" - ")
        fields, source_fields = mounted.split(" "), source.split(" ")
        if len(fields) < 6 or len(source_fields) < 3:
            continue
        mount_point = Path(_unescape(fields[4]))
        # Mounts are listed in the order they were made: of two on one point the later one is on top.
        if target.is_relative_to(mount_point) and len(mount_point.parts) >= len(found.mount_point.parts):
            options = frozenset((*fields[5].split(","), *source_fields[2].split(",")))
            found = FileSystem(source_fields[0], mount_point, options)
    return found


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits after a backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
