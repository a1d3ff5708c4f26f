"""Starting weights from files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet34

from train.errors import TrainError
from train.weights import load_weights, random_warning


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return resnet34(weights=None).state_dict()


def test_weights_are_read_from_every_format(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.save(state, tmp_path / "w.pth")
    safetensors.save_file(state, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{key: value.half().numpy() for key, value in state.items()})
    for name, atol in (("w.pth", 0.0), ("w.safetensors", 0.0), ("w.npz", 1e-3)):
        backbone = resnet34(weights=None)
        assert load_weights(backbone, str(tmp_path / name)) == name
        torch.testing.assert_close(backbone.fc.weight.detach(), state["fc.weight"], atol=atol, rtol=0)
        torch.testing.assert_close(
            backbone.layer4[2].conv2.weight.detach(), state["layer4.2.conv2.weight"], atol=2e-3, rtol=0
        )


@pytest.mark.parametrize(
    ("recipe", "is_warned_of"),
    [
        ({"weights": "none"}, True),
        ({"weights": "none", "fine_tune": "layer4", "start": ""}, True),
        ({"weights": "none", "fine_tune": "all", "start": ""}, False),
        ({"weights": "none", "fine_tune": "head", "start": "old/classifier.pt"}, False),
        ({"weights": "imagenet", "fine_tune": "head", "start": ""}, False),
        ({}, False),
    ],
)
def test_what_stays_frozen_at_random_weights_is_warned_of(recipe: dict[str, object], is_warned_of: bool) -> None:
    assert (random_warning(recipe) is not None) == is_warned_of


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc.weight"), "lack 1 tensors, such as fc.weight"),
        (
            lambda s: s.update({"fc.weight": torch.zeros(10, 512)}),
            "have another shape for 1 tensors, such as fc.weight",
        ),
        (lambda s: s.update({"extra": torch.zeros(1)}), "have unknown 1 tensors, such as extra"),
        (lambda s: s.update({"fc.bias": s["fc.bias"] * torch.inf}), "not finite in 1 tensors, such as fc.bias"),
        (lambda s: s.update({"fc.bias": 1}), "hold no tensors by name"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_tensor(
    tmp_path: Path, state: dict[str, torch.Tensor], change: object, words: str
) -> None:
    changed = dict(state)
    change(changed)  # type: ignore[operator]
    torch.save(changed, tmp_path / "w.pth")
    with pytest.raises(TrainError, match=words):
        load_weights(resnet34(weights=None), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("suffix", ["pth", "npz", "safetensors"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, suffix: str) -> None:
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    whole = io.BytesIO()
    np.savez(whole, **{"conv1.weight": np.zeros(1000)})
    contents = (
        b"",
        b"PK\3\4",
        whole.getvalue()[:900],
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x80\x02]q\0.",
    )
    for content in contents:
        (tmp_path / f"w.{suffix}").write_bytes(content)
        with pytest.raises(TrainError, match=r"w\.\w+ (cannot be read|hold no tensors)"):
            load_weights(resnet34(weights=None), str(tmp_path / f"w.{suffix}"))


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="cannot be read"):
        load_weights(resnet34(weights=None), str(tmp_path / "no.pth"))
    with pytest.raises(TrainError, match=r"unknown format '\.h5'"):
        load_weights(resnet34(weights=None), str(tmp_path / "w.h5"))


def test_imagenet_weights_that_cannot_be_had_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, and a download that finds nobody: the message names the folder, the hint the ways out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(TrainError) as caught:
        load_weights(resnet34(weights=None), "imagenet")
    assert str(tmp_path) in caught.value.message
    assert "edge-train pretrain" in caught.value.hint
