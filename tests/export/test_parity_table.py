"""`edge-export model --precision` and `edge-export parity`, by their commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.model.signed_model import read_model
from edge.records import Size
from export.cli import main
from tests.export.networks import make_place, model_command

pytestmark = pytest.mark.timeout(600)  # torch exports two networks, twice
SIZE = Size(96, 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, a key, labelled scans, and a model of each precision."""
    place = tmp_path_factory.mktemp("parity")
    make_place(place, SIZE, [(1900, "normal"), (2300, "abnormal"), (2000, "normal")])
    assert export(place, "fp32", "fp32") == 0
    assert export(place, "int8", "int8", "--calibrate", str(place / "scans")) == 0
    return place


def export(place: Path, precision: str, out: str, *more: str) -> int:
    # Everything lies in the review band: what untrained networks decide is left to chance.
    options = ["--precision", precision, "--review-band", "0", "1", *more]
    return main(model_command(place / "run", place, place / out, *options))


def parity_command(place: Path, *precisions: str) -> list[str]:
    models = [str(place / precision) for precision in precisions]
    key = place / "keys" / "signing-key.pub.pem"
    return ["parity", *models, "--key", str(key), "--scans", str(place / "scans")]


def test_the_manifest_says_what_the_graphs_compute_in(place: Path) -> None:
    for precision in ("fp32", "int8"):
        manifest = read_model(place / precision, place / "keys" / "signing-key.pub.pem").manifest
        assert (manifest.precision, manifest.weights_storage) == (precision, "int8")


def test_the_manifest_says_where_the_quick_pass_does_not_decide(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = place / "keys" / "signing-key.pub.pem"
    assert read_model(place / "fp32", key).manifest.quick_pass is None
    where = read_model(place / "int8", key).manifest.quick_pass
    assert where is not None
    assert any(low < 0.5 < high for low, high in where.p_abnormal)
    assert 0 < where.gate_mean_from < 0.2 and 0 < where.gate_std_from < 0.1
    assert main(["verify", str(place / "int8"), "--trusted-key", str(key)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"computes again: p {where.p_abnormal[0][0]:.4f}..{where.p_abnormal[0][1]:.4f}" in printed


def test_int8_without_scans_is_refused_before_any_graph_is_made(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.signed_model.load_pair", lambda _: pytest.fail("it read the checkpoints"))
    assert export(place, "int8", "other") == 1
    assert "--calibrate DIR" in capsys.readouterr().err
    assert export(place, "int8", "other", "--calibrate", str(tmp_path)) == 1
    assert f"{tmp_path} holds no TIFF files" in capsys.readouterr().err
    assert not (place / "other").exists()


def test_storage_of_weights_is_no_matter_of_an_int8_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(place, "int8", "other", "--weights-storage", "fp16") == 1
    assert "it changes the file, not the arithmetic" in capsys.readouterr().err


def test_parity_compares_precisions_engines_and_torch(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "run"
    torch = ["--classifier", str(run / "classifier.pt"), "--gate", str(run / "gate.pt")]
    assert main([*parity_command(place, "fp32", "int8"), *torch]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for fact in (
        "differences from torch fp32",
        "lively-1 fp32 on",
        "lively-1 int8 on",
        "layers that differ most: ",
    ):
        assert fact in printed
    assert "classifier.onnx" in printed and "gate.onnx" in printed


def test_parity_runs_the_engines_it_is_told_to(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*parity_command(place, "fp32", "int8"), "--engines", "onnxruntime"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "differences from lively-1 fp32 on onnxruntime" in printed and "openvino" not in printed


def test_parity_without_any_engine_says_which_were_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*parity_command(place, "fp32"), "--engines", "tensorrt"]) == 1
    assert "none of these engines opens: tensorrt" in capsys.readouterr().err


def test_parity_over_no_scans_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    command = parity_command(place, "fp32")
    command[-1] = str(tmp_path / "empty")
    assert main(command) == 1
    assert "holds no TIFF files" in capsys.readouterr().err
