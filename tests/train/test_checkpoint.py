"""Checkpoints: whole or not there, and never code."""

import dataclasses
import errno
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.sharpness import Sharpness
from edge.records import Size
from train.checkpoint import Checkpoint, Kind, load_checkpoint, save_checkpoint
from train.classifier.models import classifier_of
from train.cli import parser
from train.errors import CheckpointError, DivergedError
from train.gate.network import gate_of
from train.networks import GateAutoencoder


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        kind="gate",
        state_dict=GateAutoencoder().state_dict(),
        method=Method.GLOBAL,
        bounds=Bounds(1700, 2800),
        size=Size(1000, 500),
        seed=3,
        data_digest="ab" * 32,
        scan_height_px=(2053, 2115),
        scan_width_px=(1119, 1219),
        max_clipped_fraction=0.001,
        exposures=((2000, 2010, 2020, 2030, 2040, 2050, 2060, 2300, 2400),),
        sharpnesses=(Sharpness(3.0, 3.1, 10.0, 0.99),),
        thresholds={"gate_mean_threshold": 0.1, "gate_std_threshold": 0.2},
        recipe={"steps": 10, "photos": None, "rotate": False},
        metrics={"final_loss": 0.5},
    )


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = _checkpoint()
    save_checkpoint(tmp_path / "run" / "gate.pt", saved)
    loaded = load_checkpoint(tmp_path / "run" / "gate.pt", "gate")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state_dict":
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    assert loaded.state_dict.keys() == saved.state_dict.keys()
    assert all(torch.equal(loaded.state_dict[key], saved.state_dict[key]) for key in saved.state_dict)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["gate.pt"]


@pytest.mark.parametrize(
    ("kind", "calibrated", "left"),
    [
        ("classifier", (), {"other.json"}),
        ("classifier", ("c" * 64,), {"metrics.json", "other.json"}),
        ("gate", (), {"calibration.json", "metrics.json", "other.json", "reliability.png", "reliability.svg"}),
    ],
)
def test_reports_on_the_classifier_before_do_not_stay_beside_another(
    tmp_path: Path, kind: Kind, calibrated: tuple[str, ...], left: set[str]
) -> None:
    """Whatever kills the program between the checkpoint and its own report."""
    for name in ("calibration.json", "reliability.png", "reliability.svg", "metrics.json", "other.json"):
        (tmp_path / name).write_text("of the one before")
    saved = dataclasses.replace(_checkpoint(), kind=kind, calibrated_sha256s=calibrated)
    save_checkpoint(tmp_path / f"{kind}.pt", saved)
    assert {path.name for path in tmp_path.iterdir()} == left | {f"{kind}.pt"}


def test_a_classifier_that_cannot_be_written_leaves_the_one_before_with_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("classifier.pt", "calibration.json", "metrics.json"):
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "classifier.pt", dataclasses.replace(_checkpoint(), kind="classifier"))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"before"} and len([*tmp_path.iterdir()]) == 3


def test_a_checkpoint_of_an_earlier_release_does_not_say_how_sharp_its_scans_were(tmp_path: Path) -> None:
    path = tmp_path / "gate.pt"
    save_checkpoint(path, _checkpoint())
    content = torch.load(path, weights_only=True)
    del content["sharpnesses"]
    torch.save(content, path)
    assert load_checkpoint(path, "gate").sharpnesses == ()


def test_a_checkpoint_without_bounds_keeps_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "gate.pt", dataclasses.replace(_checkpoint(), method=Method.LOCAL, bounds=None))
    assert load_checkpoint(tmp_path / "gate.pt", "gate").bounds is None


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "gate.pt", _checkpoint())
    with pytest.raises(CheckpointError, match="holds a gate, expected a classifier"):
        load_checkpoint(tmp_path / "gate.pt", "classifier")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_missing_file_is_refused_with_the_command_that_makes_it(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "gone.pt", kind)
    command = shlex.split(caught.value.hint.split("`")[1])
    assert parser().parse_args(command[1:]).verb in ("fit-features", "gate")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.pt"
    save_checkpoint(path, _checkpoint())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path, "gate")


def test_a_bit_that_was_turned_over_in_the_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.pt"
    saved = _checkpoint()
    save_checkpoint(path, saved)
    data = bytearray(path.read_bytes())
    weight = max(saved.state_dict.values(), key=torch.Tensor.numel)
    data[data.index(weight.detach().numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"gate\.pt cannot be read as a checkpoint: .* is damaged"):
        load_checkpoint(path, "gate")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state_dict", None),
        ("state_dict", {"encoder": "none"}),
        ("recipe", ["global"]),
        ("metrics", 3),
        ("thresholds", {"gate_mean_threshold": "0.1"}),
        ("seed", None),
        ("data_digest", None),
        ("size", (0, 500)),
        ("size", ("1000", "500")),
        ("scan_width_px", (-1, 500)),
        ("bounds", None),
        ("lots", (1, 2)),
        ("scan_sha256s", "abc"),
    ],
)
def test_a_field_that_holds_something_else_is_named(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "gate.pt"
    save_checkpoint(path, _checkpoint())
    torch.save({**torch.load(path, weights_only=True), field: value}, path)
    with pytest.raises(CheckpointError, match=f"gate.pt lacks something, .*{field}"):
        load_checkpoint(path, "gate")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, number: float) -> None:
    state = _checkpoint().state_dict
    name = sorted(state)[0]
    state[name] = torch.full_like(state[name], number)
    path = tmp_path / "gate.pt"
    with pytest.raises(DivergedError, match=f"1 tensors of the gate, such as {name}: .* is not written"):
        save_checkpoint(path, dataclasses.replace(_checkpoint(), state_dict=state))
    assert not path.exists()
    save_checkpoint(path, _checkpoint())
    torch.save({**torch.load(path, weights_only=True), "state_dict": state}, path)
    with pytest.raises(CheckpointError, match=f"not finite in 1 tensors, such as {name}"):
        load_checkpoint(path, "gate")


def _without(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(state.items())[1:])


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (gate_of, {"state_dict": _without(GateAutoencoder().state_dict())}),
        (gate_of, {"state_dict": {**GateAutoencoder().state_dict(), "further": torch.zeros(1)}}),
        (classifier_of, {"kind": "classifier"}),
        (classifier_of, {"kind": "classifier", "recipe": {"form": "pooled", "head": "neighbours"}}),
        (classifier_of, {"kind": "classifier", "recipe": {"form": "pooled", "head": "logistic", "features": "none"}}),
    ],
)
def test_tensors_that_fit_no_network_of_the_recipe_are_refused(
    build: Callable[[Checkpoint], object], changes: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"tensors and recipe of the .* fit no network"):
        build(dataclasses.replace(_checkpoint(), **changes))


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "gate.pt"
    torch.save({"format": 1, "kind": _Payload()}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path, "gate")


def test_another_torch_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(GateAutoencoder().state_dict(), tmp_path / "gate.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of format 1"):
        load_checkpoint(tmp_path / "gate.pt", "gate")


@pytest.mark.parametrize(
    ("field", "value"), [("recipe", None), ("size", [1]), ("bounds", {"lo_counts": 5}), ("method", "none such")]
)
def test_a_checkpoint_that_lacks_something_is_refused_in_words(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "gate.pt"
    save_checkpoint(path, _checkpoint())
    content = torch.load(path, weights_only=True)
    del content[field]
    torch.save(content if value is None else {**content, field: value}, path)
    with pytest.raises(CheckpointError, match=r"gate\.pt lacks something"):
        load_checkpoint(path, "gate")
