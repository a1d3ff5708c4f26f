"""What a person types, and what comes back when it cannot be done."""

import subprocess
import sys
from pathlib import Path

import pytest

from train.cli import main, parser


def test_an_error_is_two_lines_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bounds", str(tmp_path / "nowhere")]) == 65
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("edge-train: ")
    assert "nowhere" in lines[0]
    assert lines[1].startswith("  try: ")


def test_a_folder_that_cannot_be_written_is_two_lines_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    options = ["--bundles", "1", "--scans", "1", "--scale", "0.05"]
    assert main(["simulate", "--out", str(tmp_path / "lot"), *options]) == 0
    capsys.readouterr()
    assert main(["bounds", str(tmp_path / "lot"), "--out", str(tmp_path / "file" / "bounds.json")]) == 74
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("edge-train: ") and str(tmp_path / "file") in first
    assert second.startswith("  try: look at the folder")


def test_a_defect_is_logged_and_two_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.commands.bounds.read_labels", lambda _: 1 / 0)
    assert main(["bounds", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first == "edge-train: ZeroDivisionError: division by zero"
    assert second == "  try: report this with the log above"
    assert caplog.records[0].exc_info


@pytest.mark.parametrize("error", [MemoryError("of 149 GiB"), RuntimeError("[CPU] can't allocate memory: of 149 GiB")])
def test_memory_that_does_not_suffice_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def too_much(*_: object) -> None:
        raise error

    monkeypatch.setattr("train.pretraining.backbone.draw_marked_scans", too_much)
    assert main(["pretrain", "--out", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("edge-train: the memory does not suffice for `edge-train pretrain`: ")
    assert first.endswith("of 149 GiB") and "a smaller --size" in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fine-tune scans --out run --seed -1", "--seed: '-1' is no whole number"),
        (f"crossval scans --out run --seed {1 << 64}", f"--seed: '{1 << 64}' is no whole number"),
        ("fine-tune scans --out run --epochs 0", "--epochs: '0' is no number of them: expected 1 or more"),
        ("fit-features scans --out run --cache-gib nan", "--cache-gib: 'nan' is no finite number"),
        ("fine-tune scans --out run --lr 1e38", "--lr: '1e38' is no finite number: expected 0 or more, at most 1e+30"),
        ("gate scans --out run --lr inf", "--lr: 'inf' is no finite number"),
        ("gate scans --out run --batch 0", "--batch: '0' is no number of them"),
        ("gate-report run scans --out report --drawn -3", "--drawn: '-3' is no whole number"),
        ("gate-benchmark welds --out table --steps 0", "--steps: '0' is no number of them"),
        ("gate-benchmark welds --out table --runs 0", "--runs: '0' is no number of them"),
        ("gate-benchmark welds --out table --patch-share nan", "--patch-share: 'nan' is no finite number"),
    ],
)
def test_a_number_that_no_training_can_take_is_a_wrong_word(
    capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    """It was a defect's traceback, or, in place of no steps, all of them."""
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["across", "{}", "{}/x", "--out", "{}", "--refused", "0"], "--refused 0 is no share"),
        (["classifier", "{}", "--out", "{}", "--weights", "none", "--size", "big"], "'big' is not a size"),
        (
            ["across", "{}", "{}/x", "--out", "{}", "--recipes", "best", "{}/best.toml"],
            "several recipes are called best",
        ),
        (["classifier", "{}", "--out", "{}", "--weights", "{}/no.pth"], "no.pth cannot be read"),
        (["gate", "{}", "--out", "{}", "--like", "{}/no.pt"], "no checkpoint at"),
        (["gate", "{}", "--out", "{}", "--bounds", "{}/no.json"], "holds no bounds"),
        (["gate", "{}", "--out", "{}", "--device", "cuda:99"], "torch cannot compute on 'cuda:99'"),
        (["gate-benchmark", "{}", "--natural", "{}", "--out", "{}", "--device", "cuda:99"], "torch cannot compute on"),
        (["transfer", "{}", "--out", "{}", "--weights", "none", "--device", "cuda:99"], "torch cannot compute on"),
    ],
)
def test_a_senseless_request_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([argument.replace("{}", str(tmp_path)) for argument in arguments]) != 0
    assert words in capsys.readouterr().err


_WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "torchvision") else found(name, *rest)
from train.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def test_simulate_and_bounds_run_without_torch(tmp_path: Path) -> None:
    lot = str(tmp_path / "lot")
    made = _without_torch("simulate", "--out", lot, "--bundles", "1", "--scans", "1", "--scale", "0.05")
    assert made.returncode == 0, made.stderr
    found = _without_torch("bounds", lot)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("verb", ["classifier", "gate"])
def test_learning_without_torch_says_what_to_install(tmp_path: Path, verb: str) -> None:
    refused = _without_torch(verb, str(tmp_path), "--out", str(tmp_path))
    assert refused.returncode == 1
    assert "needs torch, which is not installed" in refused.stderr
    assert "pip install electrode-line[train]" in refused.stderr


@pytest.mark.parametrize(("verb", "old"), [("fine-tune", "classifier"), ("fit-features", "learn")])
def test_verbs_and_options_go_by_their_old_names_too(verb: str, old: str) -> None:
    found = [vars(parser().parse_args([name, "DATA", "--out", "RUN"])) for name in (verb, old)]
    assert [options.pop("verb") for options in found] == [verb, old]
    assert found[0] == found[1]
    options = [
        parser().parse_args(["gate", "DATA", "--out", "RUN", name, "local"]) for name in ("--conversion", "--method")
    ]
    assert options[0] == options[1]
