"""`edge-worker init`: five answers become a settings file, or nothing does."""

import io
from pathlib import Path

import pytest

from edge.cli import main
from edge.daemon.init import QUESTIONS, write_settings
from edge.errors import SettingsError
from edge.settings import load_settings

ANSWERS = {
    "station": "xray-1",
    "folder": '/srv/x ray/"scans"',
    "broker": "mes.example.com",
    "topic": "acme/lyon/coating/line-2",
    "trusted-key": "/etc/edge-worker/trusted/release.pem",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def check_answers(config: Path) -> None:
    settings = load_settings(config)
    topic = settings.topic
    assert settings.station == "xray-1"
    assert settings.folder.path == Path('/srv/x ray/"scans"')
    assert settings.broker.host == "mes.example.com"
    assert (topic.root, topic.site, topic.area, topic.line) == ("acme", "lyon", "coating", "line-2")
    assert settings.model.trusted_key == Path("/etc/edge-worker/trusted/release.pem")


def test_options_alone_write_the_file_and_say_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "etc" / "edge.toml"
    options = [word for name, answer in ANSWERS.items() for word in (f"--{name}", answer)]
    assert main(["init", "--config", str(config), *options]) == 0
    check_answers(config)
    assert f"next: edge-worker check --config {config}" in capsys.readouterr().out
    assert [file.name for file in config.parent.iterdir()] == ["edge.toml"]


def test_what_no_option_gives_is_read_line_by_line(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    answers = {**dict.fromkeys(ANSWERS), "broker": "mes.example.com"}
    typed = "".join(f"{answer}\n" for name, answer in ANSWERS.items() if name != "broker")
    write_settings(config, answers, replace=False, stdin=io.StringIO(typed))
    check_answers(config)


def test_an_empty_line_takes_the_default(tmp_path: Path) -> None:
    write_settings(tmp_path / "f", dict.fromkeys(ANSWERS), replace=False, stdin=io.StringIO("xray-1\n\n\n\n\n"))
    settings = load_settings(tmp_path / "f")
    assert (settings.broker.host, str(settings.folder.path)) == ("localhost", "/srv/xray/scans")


def test_a_refused_answer_is_asked_again_on_a_terminal_and_ends_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.toml"
    answers = {**ANSWERS, "broker": None}
    write_settings(config, answers, replace=False, stdin=Terminal("mqtt://mes\nmes.example.com\n"))
    check_answers(config)
    assert 'write host = "mes"' in capsys.readouterr().err
    with pytest.raises(SettingsError, match="must be a name or an address alone"):
        write_settings(tmp_path / "other", answers, replace=False, stdin=io.StringIO("mqtt://mes\nmes.example.com\n"))
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(("name", "answer"), [("station", "line 1"), ("topic", "acme/lyon"), ("topic", "a/+/c/d")])
def test_a_wrong_option_writes_nothing(tmp_path: Path, name: str, answer: str) -> None:
    with pytest.raises(SettingsError):
        write_settings(tmp_path / "edge.toml", {**ANSWERS, name: answer}, replace=False)
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_ends_names_the_option_to_give(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no answer to: topic of the line") as caught:
        write_settings(tmp_path / "f", {**ANSWERS, "topic": None}, replace=False, stdin=io.StringIO(""))
    assert caught.value.hint == "give it as --topic"


def test_an_existing_file_stays_unless_it_shall_be_replaced(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text("mine")
    with pytest.raises(SettingsError, match="exists already"):
        write_settings(config, ANSWERS, replace=False)
    assert config.read_text() == "mine"
    write_settings(config, ANSWERS, replace=True)
    check_answers(config)


def test_a_link_to_nowhere_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="exists already"):
        write_settings(tmp_path / "edge.toml", ANSWERS, replace=False)
    assert not (tmp_path / "elsewhere").exists()


def test_five_values_are_asked() -> None:
    assert [question.option for question in QUESTIONS] == list(ANSWERS)
