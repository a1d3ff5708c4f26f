"""No command works as root in a folder that another user can change.

It would leave files that this user cannot replace, and who can change a folder can lead root elsewhere by a link in it.
Refused rather than run as the owner: root may see the settings, the keys and the backups that the owner may not, so
half a command would follow and then fail; and a process that was root keeps what it has opened.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge.errors import SettingsError


def refuse_root(folders: Iterable[Path], command: Sequence[str]) -> None:
    """Raises SettingsError, with the command to type instead, where this is root and another user has a say.

    That is the owner of the folder or of any folder above it, and of a link on the way: who can rename a folder can
    put another in its place. `command`: program and arguments, as they were given.
    """
    if os.geteuid() != 0:
        return
    for folder in folders:
        if (found := _find_other_owner(folder)) is not None:
            status = found.lstat()
            raise SettingsError(
                f"root will not work in {folder}: {found} belongs to {_name_of(status.st_uid)}, who could lead it to "
                "any file of this machine by a link",
                hint=shlex.join([*_as_user(status), *command]),
            )


def _find_other_owner(folder: Path) -> Path | None:
    """The nearest of a path, and of where its links lead, that is not root's."""
    for way in (folder.absolute(), folder.resolve()):
        for path in (way, *way.parents):
            if os.path.lexists(path) and path.lstat().st_uid != 0:
                return path
    return None


def _as_user(status: os.stat_result) -> Sequence[str]:
    name = _name_of(status.st_uid)
    if name.isdecimal():
        return ("setpriv", f"--reuid={name}", f"--regid={status.st_gid}", "--clear-groups", "--")
    return ("runuser", "-u", name, "--")


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
