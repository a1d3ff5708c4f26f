"""Settings: precedence, and errors that name the key, the value and the fix."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edge.settings
from edge.cli import main
from edge.errors import SettingsError
from edge.pipeline.loaded_model import plan_settings
from edge.settings import (
    Section,
    SettingRow,
    Settings,
    describe_settings,
    load_settings,
    service_environment,
    settings_text,
    usual_file,
)
from tests.support.station import hang_below


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, '[broker]\nhost = "file"\nport = 1\nkeepalive_s = 10\n')
    monkeypatch.setenv("EDGE_BROKER__HOST", "environment")
    monkeypatch.setenv("EDGE_BROKER__PORT", "2")
    broker = load_settings(config, {"broker": {"port": 3}}).broker
    assert (broker.host, broker.port, broker.keepalive_s) == ("environment", 3, 10)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[broker]\nprot = 3\n", "unknown setting `broker.prot` = 3", "did you mean `port`?"),
        ("[brokr]\nport = 3\n", "unknown setting `brokr`", "did you mean `broker`?"),
        ('[broker]\nport = "many"\n', "setting `broker.port` = 'many'", "default: 1883"),
        ("[state]\nkeep_days = 1e6\n", "setting `state.keep_days` = 1000000.0", "default: 30.0"),
        ("[folder]\nmax_bytes = 9223372036854775807\n", "setting `folder.max_bytes`", "default: 268_435_456"),
        ("[broker]\nport = 70000\n", "setting `broker.port` = 70000", "default: 1883"),
        ('[folder]\nafter = "move"\n', "`move_to` is not set", "correct the value"),
        ('[folder]\nafter = "delete"\n', "setting `folder.after` = 'delete'", "default"),
        ('[broker]\nca_file = "/ca.pem"\n', "`tls` is false", "correct the value"),
        ('[broker]\ntls = true\ncert_file = "/c.pem"\n', "set both or neither", "correct the value"),
        (f'station = "{"a" * 2000}"\n', "has 2000 bytes: a topic level may have 1000", "name of this station"),
        ('[broker]\nclient_id = "a\\u0007"\n', "holds a control character", "MQTT client id"),
        (f'[broker]\nusername = "{"a" * 70000}"\n', "has 70000 bytes, MQTT takes at most 65535", "user name"),
        ('[folder]\npath = "/a\\u0000b"\n', r"`folder.path` = '/a\u0000b' holds a NUL", "write the value anew"),
        ('station = "line 1"\n', "must be one topic level", "name of this station"),
        ('[topic]\nsite = "a/+"\n', "must be one topic level", "second topic level"),
        ("[naming]\npattern = '('\n", "not a regular expression", "regular expression"),
        ("[naming]\npattern = '(?P<lot>.)'\n", "unknown groups ['lot']", "regular expression"),
        ("[naming]\npattern = '(.*)_(.*).tif'\n", "has no group `part_id`", "regular expression"),
        ("[naming]\npattern = '(?P<bundle>.*)_.*'\n", "has no group `part_id`", "regular expression"),
        ("station = \n", "is not TOML", "correct the line"),
        ("a = " + "[" * 5000, "is not TOML", "correct the line"),
        ("[BROKER]\nport = 3\n", "unknown setting `BROKER`", "write it in small letters: `broker`"),
        ("[broker]\nport = 3\n[BROKER]\nport = 4\n", "unknown setting `BROKER`", "in small letters: `broker`"),
        ("[broker]\nPort = 3\n", "unknown setting `broker.Port`", "write it in small letters: `port`"),
        ('[folder]\ndone_suffix = "done"\n', "is no suffix of a file name: write '.done'", "marker file"),
        ('[folder]\ndone_suffix = ""\n', "is no suffix of a file name: write '.done'", "marker file"),
        ('[folder]\ndone_suffix = ".tif"\n', "is the suffix of a scan, and a marker is none", "marker file"),
        ('[folder]\ndone_suffix = ".done.TIFF"\n', "is the suffix of a scan, and a marker is none", "marker file"),
        (
            '[broker]\nhost = "mqtt://mes"\n',
            'must be a name or an address alone: write host = "mes"',
            "name or address",
        ),
        ('[broker]\nhost = "mqtts://mes:8883/x"\n', 'write host = "mes", port = 8883, tls = true', "name or address"),
        ('[broker]\nhost = "me@mes:1884"\n', 'write host = "mes", port = 1884', "name or address"),
        ('[broker]\nhost = " mes "\n', 'write host = "mes"', "name or address"),
        ('[broker]\nhost = "[::1]"\n', 'write host = "::1"', "name or address"),
        ('[broker]\nhost = "[fe80::1]:1883"\n', 'write host = "fe80::1", port = 1883', "name or address"),
        ('[broker]\nhost = "me s"\n', "is neither the name nor the address of a host", "name or address"),
    ],
)
def test_a_wrong_setting_names_the_key_the_value_and_the_fix(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(written(tmp_path, text))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("move_to", "recursive", "is_refused"),
    [
        ("done", True, True),
        ("day/done", True, True),
        (".", False, True),
        (".", True, True),
        ("link", True, True),
        ("done", False, False),
        (".done", True, False),
        ("../done", True, False),
        ("../scans-done", True, False),
    ],
)
def test_judged_scans_may_not_move_to_where_new_ones_are_looked_for(
    tmp_path: Path, move_to: str, recursive: bool, is_refused: bool
) -> None:
    scans = tmp_path / "scans"
    (scans / "day").mkdir(parents=True)
    (scans / "link").symlink_to("day")
    lines = ["[folder]", f"path = '{scans}'", f"move_to = '{scans}/{move_to}'", f"recursive = {recursive}".lower()]
    config = written(tmp_path, "\n".join([*lines, 'after = "move"', ""]))
    if is_refused:
        with pytest.raises(SettingsError, match="set `move_to` to a folder outside of"):
            load_settings(config)
    else:
        assert load_settings(config).folder.after == "move"


def test_reading_the_settings_asks_the_stations_disk_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share whose server is gone hangs at the first question, and no log and no alarm would be there yet."""
    share = tmp_path / "share"
    config = written(tmp_path, f"[folder]\npath = '{share}/scans'\nmove_to = '{share}/done'\nafter = 'move'\n")
    hang_below(share, monkeypatch)
    assert load_settings(config).folder.after == "move"


@pytest.mark.parametrize("value", ["inf", "nan", "1e18"])
@pytest.mark.parametrize("row", [row for row in describe_settings() if isinstance(row.default, float)], ids=str)
def test_no_time_of_the_settings_is_endless(tmp_path: Path, row: SettingRow, value: str) -> None:
    """Calendars, sockets and waits of the operating system overflow on such values, hours after the start."""
    with pytest.raises(SettingsError, match=rf"setting `{row.section}(\.{row.key})?` ="):
        load_settings(written(tmp_path, f"[{row.section}]\n{row.key} = {value}\n"))


PATHS = [
    *("folder.path", "folder.move_to", "model.dir", "model.trusted_key", "tensorrt.plans", "tensorrt.key_file"),
    *("state.dir", "broker.password_file", "broker.ca_file", "broker.cert_file", "broker.key_file"),
    *("desk.dir", "desk.known_labels", "model.qualification"),
]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("where", ["file", "environment"])
def test_an_empty_path_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, where: str
) -> None:
    """Else whoever may write where the program was started could put a key there and sign models."""
    section, name = key.split(".")
    if where == "environment":
        monkeypatch.setenv(f"EDGE_{section}__{name}".upper(), "")
    config = written(tmp_path, f'[{section}]\n{name} = ""\n' if where == "file" else "")
    with pytest.raises(SettingsError, match=rf"setting `{key}` = '': the path is empty: name one or leave the key out"):
        load_settings(config)


def test_every_path_of_the_settings_is_refused_when_empty() -> None:
    sections = [field.annotation for field in Settings.model_fields.values()]
    models = [each for each in sections if isinstance(each, type) and issubclass(each, Section)]
    paths = {name for each in models for name, field in each.model_fields.items() if "Path" in str(field.annotation)}
    assert paths == {key.split(".")[1] for key in PATHS}


@pytest.mark.parametrize("option", ["--trusted-key", "--bundle", "--config"])
def test_an_empty_path_on_the_command_line_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a script passes it whose variable is not set."""
    with pytest.raises(SystemExit):
        main(["--check", option, ""])
    assert re.search(rf"argument (--model/)?{option}: the path is empty", capsys.readouterr().err)


def test_no_description_calls_a_key_empty_that_has_to_be_left_out() -> None:
    assert [row.key for row in describe_settings() if "empty =" in row.description] == []


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("host", ["mes", "mes.plant.example.com", "10.1.2.3", "::1", "fe80::1%eth0", "mes_1"])
def test_names_and_addresses_of_brokers_stay_as_they_are(tmp_path: Path, host: str) -> None:
    assert load_settings(written(tmp_path, f'[broker]\nhost = "{host}"\n')).broker.host == host


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('station = "Prüfplatz"\n'.encode("latin-1"), "is not UTF-8 (byte 0xfc in line 1)"),
        ('\n\nstation = "Prüfplatz"\n'.encode("cp1252"), "is not UTF-8 (byte 0xfc in line 3)"),
        ('station = "a"\n'.encode("utf-16"), "is UTF-16, not UTF-8"),
        ('station = "a"\n'.encode("utf-16-le"), "is UTF-16, not UTF-8"),
    ],
    ids=["latin-1", "line 3", "utf-16", "utf-16 without a mark"],
)
def test_a_settings_file_in_another_encoding_stops_the_start_with_the_encoding(
    tmp_path: Path, data: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.toml"
    config.write_bytes(data)
    assert main(["--check", "--config", str(config)]) == 78
    said = capsys.readouterr().err
    assert f"settings file {config} {message}" in said
    assert "try: save it as UTF-8" in said


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({b"EDGE_STATION": b"Pr\xfcfplatz"}, "station"),
        ({b"EDGE_BROKER__USERNAME": b"M\xfcller"}, "broker.username"),
        ({b"EDGE_STATE__DIR": b"/srv/pr\xfcf"}, "state.dir"),
        ({b"EDGE_NAMING__PATTERN": b"(?P<part_id>\xfc)"}, "naming.pattern"),
        ({b"EDGE_DESK__NAMES": b"desk,pr\xfcf"}, "desk.names"),
        ({b"EDGE_TOPIC": b'{"line": "pr\\udcfcf"}'}, "topic.line"),
    ],
)
def test_a_setting_of_the_environment_in_another_encoding_is_refused_before_it_is_used(
    variables: dict[bytes, bytes], key: str
) -> None:
    """Else it stops whatever first writes it: the ledger, a message, on every start anew."""
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli"],
        env={**os.environb, b"EDGE_STATE__DIR": b"/nowhere", **variables},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 78
    first, second = done.stderr.decode().splitlines()
    assert f"setting `{key}` = '" in first and r"\xfc" in first and first.endswith("' is not UTF-8")
    assert "UTF-8" in second


def test_the_mark_that_windows_editors_write_is_skipped(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_bytes('station = "Prüfplatz"\r\n'.encode("utf-8-sig"))
    assert load_settings(config).station == "Prüfplatz"


KUBERNETES = {
    "EDGE_SERVICE_HOST": "10.0.0.7",
    "EDGE_SERVICE_PORT": "1883",
    "EDGE_PORT": "tcp://10.0.0.7:1883",
    "EDGE_PORT_1883_TCP_ADDR": "10.0.0.7",
    "EDGE_BROKER_SERVICE_HOST": "10.0.0.8",
    "EDGE_BROKER_PORT": "tcp://10.0.0.8:1883",
    "EDGE_DEVICE_ID": "17",
    "EDGE_AGENT__URL": "http://agent",
}


def test_variables_of_other_programs_do_not_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes describes every Service called edge or edge-broker in variables like these."""
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.broker.host, settings.broker.port) == ("localhost", 1883)
    assert set(settings.ignored_variables) == set(KUBERNETES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EDGE_BROKER_PORT", "did you mean `EDGE_BROKER__PORT`?"),
        ("EDGE_STATOIN", "did you mean `EDGE_STATION`?"),
        ("EDGE_BROKR__HOST", "did you mean `EDGE_BROKER__HOST`?"),
        ("EDGE_BROKER__HOTS", "did you mean `EDGE_BROKER__HOST`?"),
        ("EDGE_BROKER__SOMETHING_ELSE", "unset it; names are EDGE_SECTION__KEY"),
    ],
)
def test_a_variable_that_can_only_be_a_misspelt_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"environment variable {name} is no setting") as caught:
        load_settings()
    assert caught.value.hint == hint


def test_a_key_of_the_environment_wins_over_its_section_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_BROKER", '{"host": "mes", "port": 8883}')
    monkeypatch.setenv("edge_broker__port", "1884")
    assert (load_settings().broker.host, load_settings().broker.port) == ("mes", 1884)


def test_the_usual_settings_file_is_read_where_it_is_there_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.settings, "DEFAULT_FILE", tmp_path / "edge.toml")
    assert usual_file() is None
    assert load_settings(usual_file()).origin == f"no file, {tmp_path}/edge.toml is not there: defaults"
    config = written(tmp_path, 'station = "xray-1"\n')
    settings = load_settings(usual_file())
    assert (settings.station, settings.origin) == ("xray-1", str(config))


def test_what_the_settings_text_sets_is_read_back_from_it(tmp_path: Path) -> None:
    values = {"": {"station": "x"}, "folder": {"path": "/a 'b' \"c\" \\d"}, "broker": {"host": "mes", "port": 8883}}
    settings = load_settings(written(tmp_path, settings_text(values)))
    assert (settings.station, str(settings.folder.path)) == ("x", "/a 'b' \"c\" \\d")
    assert (settings.broker.host, settings.broker.port) == ("mes", 8883)


def test_a_whole_section_may_come_as_json_and_broken_json_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_BROKER", '{"host": "mes", "port": 8883}')
    assert load_settings().broker.port == 8883
    for value in ("{", "[" * 5000):
        monkeypatch.setenv("EDGE_BROKER", value)
        with pytest.raises(SettingsError, match="broker"):
            load_settings()


def test_every_key_is_documented() -> None:
    rows = describe_settings()
    assert len(rows) > 40
    assert [row.key for row in rows if len(row.description) < 8] == []


def test_the_service_managers_socket_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    assert service_environment().notify_socket == "/run/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert service_environment().notify_socket is None


def test_the_folder_of_systemds_secrets_reaches_the_device_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert plan_settings(load_settings()).credentials is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/edge-worker.service")
    assert plan_settings(load_settings()).credentials == Path("/run/credentials/edge-worker.service")


@pytest.mark.parametrize("file", ["B01_0003.tif", "B01_0003.TIF", "day/B01_0003.Tiff"])
def test_the_bundle_and_part_are_read_from_every_name_the_inbox_takes(file: str) -> None:
    found = re.search(Settings().naming.pattern, file)
    assert found is not None and found.groupdict() == {"bundle": "B01", "part_id": "0003"}
