"""Settings: precedence, and errors that name the key, the value and the fix."""

import re
from pathlib import Path

import pytest

from edge.cli import main
from edge.errors import SettingsError
from edge.pipeline.loaded_model import plan_settings
from edge.sections import Section
from edge.settings import SettingRow, Settings, describe_settings, load_settings, service_environment


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
        ('[folder]\nafter = "move"\n', "`move_to` is not set", "mend the value"),
        ('[folder]\nafter = "delete"\n', "setting `folder.after` = 'delete'", "default"),
        ('[broker]\nca_file = "/ca.pem"\n', "`tls` is false", "mend the value"),
        ('[broker]\ntls = true\ncert_file = "/c.pem"\n', "set both or neither", "mend the value"),
        ('station = "line 1"\n', "must be one topic level", "name of this station"),
        ('[topic]\nsite = "a/+"\n', "must be one topic level", "second topic level"),
        ("[naming]\npattern = '('\n", "not a regular expression", "regular expression"),
        ("[naming]\npattern = '(?P<lot>.)'\n", "unknown groups ['lot']", "regular expression"),
        ("station = \n", "is not TOML", "mend the line"),
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


@pytest.mark.parametrize("value", ["inf", "nan", "1e18"])
@pytest.mark.parametrize("row", [row for row in describe_settings() if isinstance(row.default, float)], ids=str)
def test_no_time_of_the_settings_is_endless(tmp_path: Path, row: SettingRow, value: str) -> None:
    """Calendars, sockets and waits of the operating system overflow on such values, hours after the start."""
    with pytest.raises(SettingsError, match=rf"setting `{row.section}(\.{row.key})?` ="):
        load_settings(written(tmp_path, f"[{row.section}]\n{row.key} = {value}\n"))


PATHS = [
    *("folder.path", "folder.move_to", "model.bundle", "model.trusted_key", "tensorrt.plans", "tensorrt.key_file"),
    *("state.dir", "broker.password_file", "broker.ca_file", "broker.cert_file", "broker.key_file"),
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
    assert f"argument {option}: the path is empty" in capsys.readouterr().err


def test_no_description_calls_a_key_empty_that_has_to_be_left_out() -> None:
    assert [row.key for row in describe_settings() if "empty =" in row.description] == []


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml")


def test_a_misspelt_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_BROKER__HOTS", "mes")
    with pytest.raises(SettingsError, match="EDGE_BROKER__HOTS") as caught:
        load_settings()
    assert "EDGE_BROKER__HOST" in caught.value.hint


def test_a_whole_section_may_come_as_json_and_broken_json_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_BROKER", '{"host": "mes", "port": 8883}')
    assert load_settings().broker.port == 8883
    monkeypatch.setenv("EDGE_BROKER", "{")
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
