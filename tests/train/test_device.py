"""Which arithmetic a training computes in."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from train import device
from train.cli import main
from train.device import choose_arithmetic, has_bf16
from train.recipe import Amp

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\n{}\n"


def processor(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.format(flags))
    monkeypatch.setattr(device, "_CPUINFO", path)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("flags\t: fpu avx2", False),
        ("flags\t: avx2 avx512_bf16", True),
        ("flags\t: amx_bf16", True),
        ("Features\t: asimd bf16", True),
        ("vmx flags\t: bf16", False),
        ("", False),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it_and_says_so(
    flags: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(flags, tmp_path, monkeypatch)
    said: list[str] = []
    assert has_bf16("cpu") == fast
    assert choose_arithmetic("auto", "cpu", said.append) == ("bf16" if fast else "off")
    assert said == [f"computing in {'bfloat16' if fast else 'float32'} on Some CPU"]


def test_a_forced_bfloat16_without_instructions_is_kept_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("flags\t: avx2", tmp_path, monkeypatch)
    said: list[str] = []
    assert choose_arithmetic("bf16", "cpu", said.append) == "bf16"
    assert "about 7 times slower than float32" in said[0]
    assert choose_arithmetic("off", "cpu", said.append) == "off"


def test_no_cpuinfo_means_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "none")
    assert not has_bf16("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_is_asked_whether_it_has_bfloat16_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: not including_emulation)
    assert has_bf16(name)


@pytest.mark.usefixtures("shallow")
def test_a_training_records_what_it_computed_in(small_lot: Path, tmp_path: Path) -> None:
    from train.checkpoint import load_checkpoint

    command = ["classifier", str(small_lot), "--out", str(tmp_path), "--weights", "none", "--size", "64x64"]
    assert main([*command, "--epochs", "1"]) == 0
    kept: Amp = "bf16" if has_bf16("cpu") else "off"
    assert load_checkpoint(tmp_path / "classifier.pt", "classifier").recipe["amp"] == kept
    assert get_args(Amp)[0] == "auto"
