"""Log lines cannot be forged, and systemd hears the worker."""

import io
import json
import logging
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.system.logs import (
    JournalHandler,
    JsonFormatter,
    PipeHandler,
    PrefixedFormatter,
    TextFormatter,
    configure_logging,
    event,
    leads_to_journal,
)
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


def logfmt(line: str) -> dict[str, str]:
    """The fields of a text line, read as a machine would."""
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)', line.partition("  ")[2])
    return {key: re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value for key, value in pairs}


def test_a_line_for_people_has_utc_readable_numbers_and_fields_that_parse() -> None:
    fields = {"file": 'a "b" c\\d.tif', "reasons": ["gate-mean", "gate-std"], "p": 0.0009433922823518515, "none": None}
    line = TextFormatter().format(record(**fields, seq=12, ok=True, empty=""))
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    scan judged  file=", line)
    assert logfmt(line) == {
        "file": 'a "b" c\\d.tif',
        "reasons": "gate-mean,gate-std",
        "p": "0.0009434",
        "seq": "12",
        "ok": "true",
        "empty": "",
    }
    assert "\x1b" not in line


def test_colour_is_for_terminals_that_want_it() -> None:
    reader, terminal = os.openpty()
    with open(terminal, "w") as stream:  # noqa: PTH123
        for has_colour in (True, False):
            configure_logging("info", "auto", stream=stream, has_colour=has_colour)
            event(logging.getLogger("edge.test").warning, "told", file="a")
            said = os.read(reader, 1000).decode()
            assert "told" in said and ("\x1b[33mWARNING" in said) is has_colour
    os.close(reader)


def read_entry(data: bytes) -> dict[str, str]:
    """One entry of the journal's native protocol."""
    entry = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        entry[name.decode()] = value.decode()
        data = rest
    return entry


def test_the_journal_gets_the_program_the_priority_and_each_field(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        handler = JournalHandler("edge-desk", logging.NullHandler(), str(tmp_path / "socket"))
        handler.handle(record(part_id="0003", seq=12, outcome="review", p_abnormal=0.25, message="x\ny", none=None))
        entry = read_entry(journald.recv(100_000))
        handler.close()
    assert entry.pop("MESSAGE") == r'scan judged  part_id=0003 seq=12 outcome=review p_abnormal=0.25 message="x\ny"'
    assert entry == {
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "edge-desk",
        "LOGGER": "edge.pipeline.worker",
        "EVENT": "scan judged",
        "PART_ID": "0003",
        "SEQ": "12",
        "OUTCOME": "review",
        "P_ABNORMAL": "0.25",
        "EVENT_MESSAGE": "x\ny",
    }


def require_no_wait(handler: logging.Handler, read: Callable[[], bytes]) -> None:
    """A handler whose reader stands still: 3,000 records pass in a moment, and the reader learns how many it missed."""
    began_s = time.monotonic()
    for number in range(3000):
        handler.handle(record(number=number))
    assert time.monotonic() - began_s < 10, "the line waited for the reader of its log"
    before = read()
    handler.handle(record(read="again"))
    after = read()
    taken = set(re.findall(rb'(?i)number"?[=:] ?(\d+)', before))
    lost = re.search(rb'(?i)log lines lost.*?lines"?[=:] ?(\d+)', after, re.DOTALL)
    assert lost is not None
    assert 0 < len(taken) == 3000 - int(lost[1])
    assert b"again" in after


def test_a_pipe_that_nobody_reads_stops_nobody() -> None:
    reader, writer = os.pipe()
    handler = PipeHandler(writer)
    handler.setFormatter(JsonFormatter())
    require_no_wait(handler, lambda: os.read(reader, 1 << 20))
    os.close(reader)
    os.close(writer)


def test_a_line_that_a_full_pipe_cut_off_does_not_swallow_the_next() -> None:
    reader, writer = os.pipe()
    handler = PipeHandler(writer)
    handler.setFormatter(JsonFormatter())
    handler.handle(record(long="x" * 200_000))
    os.read(reader, 1 << 20)
    handler.handle(record(read="again"))
    torn, *lines = os.read(reader, 1 << 20).decode().splitlines()
    assert torn == ""
    assert [json.loads(line)["event"] for line in lines] == ["log lines lost", "scan judged"]
    os.close(reader)
    os.close(writer)


def test_a_journal_that_stands_still_stops_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.setblocking(False)
        handler = JournalHandler("edge-worker", logging.NullHandler(), str(tmp_path / "socket"))

        def read() -> bytes:
            said = b""
            while True:
                try:
                    said += journald.recv(100_000)
                except BlockingIOError:
                    return said

        require_no_wait(handler, read)
        handler.close()


def test_what_the_journal_does_not_take_goes_to_standard_error(tmp_path: Path) -> None:
    stream = io.StringIO()
    fallback = logging.StreamHandler(stream)
    fallback.setFormatter(PrefixedFormatter(TextFormatter()))
    handler = JournalHandler("edge-worker", fallback, str(tmp_path / "nowhere"))
    handler.handle(record(file="a.tif"))
    handler.close()
    assert re.match(r"<6>\S+ INFO    scan judged  file=a\.tif\n$", stream.getvalue())


def test_each_line_on_a_stream_that_the_journal_reads_bears_its_priority(tmp_path: Path) -> None:
    """Where the settings ask for JSON or text, `journalctl -p` works all the same."""
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        configure_logging("info", "json", stream=stream, journal_stream=f"{status.st_dev}:{status.st_ino}")
        event(logging.getLogger("edge.test").error, "alarm", file="a\nb")
        configure_logging("info", "text", stream=stream, journal_stream=f"{status.st_dev}:{status.st_ino}")
        try:
            raise ValueError("boom")
        except ValueError:
            event(logging.getLogger("edge.test").exception, "loop died")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert json.loads(lines[0].removeprefix("<3>"))["event"] == "alarm"
    assert len(lines) > 3 and all(line.startswith("<3>") for line in lines[1:])


def test_only_the_stream_that_systemd_named_leads_to_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as read, (tmp_path / "b").open("w") as redirected:
        status = os.fstat(read.fileno())
        named = f"{status.st_dev}:{status.st_ino}"
        assert leads_to_journal(read, named)
        assert not leads_to_journal(redirected, named)
        assert not leads_to_journal(read, None)
    assert not leads_to_journal(io.StringIO(), named)


def test_an_event_is_a_constant_message_with_fields_and_the_place_that_logged_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event(logging.getLogger("edge.test").warning, "told", message="x", say=1)
    (said,) = caplog.records
    assert (said.getMessage(), said.__dict__["fields"], said.filename) == (
        "told",
        {"message": "x", "say": 1},
        "test_logs.py",
    )


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
