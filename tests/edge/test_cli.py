"""`edge-worker VERB`: the grammar, the aliases of earlier command lines, and what each help says."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import edge.settings
from edge.cli import OLD_FLAGS, _parser, in_verbs, main
from edge.errors import ModelError, RequestError
from edge.store.ledger import open_ledger
from edge.system.command import EXITS, moment
from tests.support import signed_models
from tests.support.samples import sample_entry


def test_an_age_and_a_time_are_points_in_time() -> None:
    assert abs(datetime.now(UTC) - timedelta(hours=12) - moment("12h")) < timedelta(minutes=1)
    assert moment("2026-03-01T06:00+00:00") == datetime(2026, 3, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize("text", ["99999999999d", f"{'9' * 5000}d", "0001-01-01T00:00+12:00", "²d", "12w", ""])
def test_what_no_calendar_holds_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["resend", text])
    assert "argument SINCE: " in (told := capsys.readouterr().err)
    assert "neither a time like 2026-03-01T06:00 nor an age like 12h" in told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "run"),
        ("--config c", "run --config c"),
        ("--config run", "run --config run"),
        ("--replay D", "replay D"),
        ("--replay=D --out o", "replay D --out o"),
        ("--config c --replay D --labels l", "replay --config c D --labels l"),
        ("--labels replay --replay D", "replay --labels replay D"),
        ("--check", "check"),
        ("--bundle b --check", "check --bundle b"),
        ("--check --tune", "model tune"),
        ("--config c --tune --check", "model tune --config c"),
        ("--resend 12h", "resend 12h"),
        ("--backup f", "backup f"),
        ("--restore f --next-seq 3", "restore f --next-seq 3"),
        ("--next-seq 3 --restore f", "restore --next-seq 3 f"),
        ("--build-engine", "model build"),
        ("--accept-older-model --bundle b", "model accept-older --bundle b"),
        ("--help", "--help"),
        ("--version", "--version"),
        ("--print-completion bash", "--print-completion bash"),
        ("check --config c", "check --config c"),
        ("--config c model show", "--config c model show"),
        ("--config=check check", "--config=check check"),
        ("chekc", "chekc"),
    ],
)
def test_each_earlier_command_line_means_a_verb(old: str, new: str) -> None:
    assert in_verbs(old.split()) == new.split()


@pytest.mark.parametrize("flag", OLD_FLAGS)
def test_every_alias_leads_to_a_verb_that_exists(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parser().parse_args(in_verbs([flag, "--help"]))
    assert caught.value.code == 0
    assert f"usage: edge-worker {' '.join(OLD_FLAGS[flag])} " in capsys.readouterr().out


def test_two_modes_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--check", "--build-engine"])
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_an_option_means_the_same_before_and_after_the_verb() -> None:
    before = _parser().parse_args(["--config", "c", "--model", "m", "check"])
    after = _parser().parse_args(["check", "--config", "c", "--bundle", "m"])
    assert before == after
    assert (str(after.config), str(after.model_dir)) == ("c", "m")


def test_every_error_of_the_program_has_its_exit_code_in_the_help() -> None:
    import edge.errors

    raised = {
        kind.exit_code
        for kind in vars(edge.errors).values()
        if isinstance(kind, type) and issubclass(kind, edge.errors.EdgeError)
    }
    assert raised <= EXITS.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_verbs_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert "--require" in script and "accept-older" in script


def test_a_command_without_config_says_which_file_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = tmp_path / "edge.toml"
    monkeypatch.setattr(edge.settings, "DEFAULT_FILE", usual)
    usual.write_text(f'station = "xray-1"\n[state]\ndir = "{tmp_path}"\n')
    open_ledger(tmp_path / "ledger.sqlite", "xray-1").close()
    assert main(["resend", "12h"]) == 0
    assert capsys.readouterr().err == f"settings: {usual}\n"
    assert main(["export"]) == 0
    said = capsys.readouterr()
    assert said.err == f"settings: {usual}\n" and "settings" not in said.out, "a table stays a table"
    (tmp_path / "other.toml").write_text("")
    assert main(["--config", str(tmp_path / "other.toml"), "resend", "12h"]) == 74, "another ledger"


def test_the_command_line_alone_starts_no_thread() -> None:
    """The worker holds the stop signals before it imports what starts threads: one that began earlier, as NumPy's
    OpenBLAS does, would take a SIGTERM while the main thread is busy, and the process would end there and then."""
    code = "import os, sys, edge.cli; print('numpy' in sys.modules, len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


def test_a_resend_asks_for_a_time_or_numbers_or_one_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edge.toml").write_text(f'station = "xray-1"\n[state]\ndir = "{tmp_path}"\n')
    with open_ledger(tmp_path / "ledger.sqlite", "xray-1") as ledger:
        stored = ledger.commit([sample_entry(number, station="xray-1") for number in range(1, 16)], datetime.now(UTC))
    verdict_id = stored[0].verdict_id if stored[0] else ""
    given = ["--config", str(tmp_path / "edge.toml")]
    assert main([*given, "resend", "--seq", "12-15"]) == 0
    assert main([*given, "resend", "--seq", "7"]) == 0
    assert main([*given, "resend", "--verdict", verdict_id]) == 0
    said = capsys.readouterr().out
    assert "messages 12 to 15: 4 will" in said and "messages 7 to 7: 1 will" in said
    assert f"verdict {verdict_id}: 1 will" in said
    assert main([*given, "resend"]) == main([*given, "resend", "1h", "--seq", "1-2"]) == 78
    for wrong in (["--seq", "15-12"], ["--seq", "0-3"], ["--seq", "a-b"], ["--verdict", "B01_0001.tif"]):
        with pytest.raises(SystemExit):
            main([*given, "resend", *wrong])


def test_a_resend_of_what_the_ledger_does_not_hold_is_refused_and_of_a_part_says_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edge.toml").write_text(f'station = "xray-1"\n[state]\ndir = "{tmp_path}"\n')
    with open_ledger(tmp_path / "ledger.sqlite", "xray-1") as ledger:
        ledger.skip_to(12)
        ledger.commit([sample_entry(number, station="xray-1") for number in (1, 2)], datetime.now(UTC))
    given = ["--config", str(tmp_path / "edge.toml"), "resend"]
    for asked in (["--seq", "1-11"], ["--verdict", "ab" * 16]):
        assert main([*given, *asked]) == RequestError.exit_code
        assert "nothing to send again, the ledger holds messages 12 to 13" in capsys.readouterr().err
    assert main([*given, "2099-01-01T00:00"]) == 0
    assert ": 0 will be sent again" in capsys.readouterr().out
    assert not list(tmp_path.glob("requests/*.json"))
    assert main([*given, "--seq", "10-12"]) == 0
    assert "messages 10 to 12: 1 will be sent again" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "0", "-1", "²"])
def test_a_number_that_no_ledger_can_give_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["resend", f"--seq=1-{number}"])
    assert "argument --seq: " in (told := capsys.readouterr().err) and "is no span of numbers" in told
    with pytest.raises(SystemExit):
        main(["restore", "backup.sqlite", f"--next-seq={number}"])
    assert "is no sequence number: expected 1 to 9007199254740991" in capsys.readouterr().err


def test_model_show_says_what_would_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = signed_models.make_signed_model(tmp_path / "model")
    key = signed_models.write_public_key(tmp_path / "key.pem")
    (tmp_path / "edge.toml").write_text(f'[state]\ndir = "{tmp_path}/state"\n')
    given = ["--config", str(tmp_path / "edge.toml"), "--trusted-key", str(key)]
    assert main(["model", "show", "--model", str(model), *given]) == 0
    said = capsys.readouterr().out
    assert "bright-is-abnormal" in said and "newest run here  none yet" in said
    (model / "classifier.onnx").write_bytes(b"other")
    assert main(["model", "show", "--model", str(model), *given]) == ModelError.exit_code
