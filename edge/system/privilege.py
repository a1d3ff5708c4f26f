"""Commands beside the service: as root they would leave files that its user cannot replace, and may do more than it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from edge.errors import SettingsError


def refuse_root(folders: Iterable[Path], command: str) -> None:
    """Raises SettingsError where root would write into a folder of another user, or make one there.

    Not for the owner alone: who may write a folder could also lead root elsewhere by a link in it.
    """
    for folder in folders:
        if (name := other_owner(folder)) is not None:
            found = _existing(folder)
            raise SettingsError(
                f"`{command}` as root would leave files of root in {folder}, and {found} belongs to {name}",
                hint=f"runuser -u {name} -- {command}",
            )


def other_owner(folder: Path) -> str | None:
    """Where this is root: whose the folder is, or would be made in, if it is somebody else's."""
    owner = _existing(folder).stat().st_uid
    return _name_of(owner) if os.geteuid() == 0 and owner != 0 else None


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
