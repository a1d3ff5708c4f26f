"""Commands that write beside the service: as root they would leave files there that its user cannot replace."""

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
    if os.geteuid() != 0:
        return
    for folder in folders:
        found = next(parent for parent in (folder, *folder.parents) if parent.exists())
        owner = found.stat().st_uid
        if owner != 0:
            name = _name_of(owner)
            raise SettingsError(
                f"`{command}` as root would leave files of root in {folder}, and {found} belongs to {name}",
                hint=f"runuser -u {name} -- {command}",
            )


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
