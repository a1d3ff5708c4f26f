"""Log lines cannot be forged, and systemd hears the worker."""

import io
import json
import logging
import socket
from pathlib import Path

import pytest

from edge.system.logs import JsonFormatter, TextFormatter
from edge.system.service_manager import Notifier


def record(**fields: object) -> logging.LogRecord:
    made = logging.LogRecord("edge.pipeline.worker", logging.INFO, "worker.py", 1, "scan judged", None, None)
    made.__dict__["fields"] = fields
    return made


def test_a_json_line_has_stable_keys_and_the_events_own() -> None:
    line = json.loads(JsonFormatter().format(record(file="a.tif", p_abnormal=0.25)))
    assert list(line) == ["time", "level", "logger", "event", "file", "p_abnormal"]
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_file_name_cannot_forge_a_line_or_move_the_cursor(formatter: logging.Formatter) -> None:
    line = formatter.format(record(file="x\nlevel=error \x1b[2J\udcff.tif"))
    assert "\n" not in line
    assert "\x1b" not in line
    line.encode("utf-8")


def test_an_exception_is_part_of_the_entry() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("edge.test")
    logger.addHandler(handler)
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert "ValueError: boom" in json.loads(stream.getvalue())["exception"]


def test_the_service_manager_receives_each_state(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier(address)
        notifier.ready("judging")
        notifier.watchdog()
        notifier.stopping()
        assert [manager.recv(200) for _ in range(3)] == [b"READY=1\nSTATUS=judging", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_or_with_a_dead_service_manager_the_line_goes_on(tmp_path: Path) -> None:
    Notifier(None).watchdog()
    Notifier(str(tmp_path / "gone")).watchdog()
