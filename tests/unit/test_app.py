"""The daemon's threads around a real line, and how they end; only the networks are scripted, and no broker answers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import edge.line
from edge.app import run_app
from edge.ledger import Ledger
from edge.settings import BrokerSettings, FolderSettings, ServiceEnvironment, Settings, StateSettings
from tests.models import scripted_model


def settings_below(root: Path) -> Settings:
    (root / "scans").mkdir()
    return Settings(
        station="xray-1",
        folder=FolderSettings(path=root / "scans"),
        state=StateSettings(dir=root / "state"),
        broker=BrokerSettings(host="127.0.0.1", port=1, flush_s=0.0),
    )


def test_a_defect_of_the_supervision_ends_every_thread_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folder quiet and the broker away no thread would find out by itself, and the process would hang."""
    running: list[str] = []

    def defect(_ledger: Ledger) -> int:
        running.extend(thread.name for thread in threading.enumerate())
        raise RuntimeError("a defect")

    monkeypatch.setattr(edge.line, "take_backup_requests", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        run_app(settings_below(tmp_path), ServiceEnvironment(notify_socket=None), scripted_model())
    assert {"inbox", "worker", "publish"} <= set(running)
    assert not {"inbox", "worker", "publish"} & {thread.name for thread in threading.enumerate()}
