"""Commands that write beside the service refuse to leave files of root there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.errors import SettingsError
from edge.system.privilege import refuse_root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a user who is not root."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 61_001, -1)
    return tmp_path


def test_root_is_refused_in_the_folder_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(
        SettingsError, match=r"`edge-worker --check --tune` as root would leave files of root"
    ) as caught:
        refuse_root([home / "state" / "plans"], "edge-worker --check --tune")
    assert "runuser -u " in caught.value.hint
    assert caught.value.hint.endswith(" -- edge-worker --check --tune")
    assert list(home.iterdir()) == []


def test_root_may_write_where_everything_is_roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuse_root([Path("/nowhere/at/all")], "edge-worker --build-engine")


def test_the_user_itself_may_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 61_001)
    refuse_root([home], "edge-worker --build-engine")
