"""The two networks have the sizes the papers give them."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet34

from train.classifier.training import freeze
from train.networks import (
    GATE_OFFSET_PX,
    ElectrodeClassifier,
    GateAutoencoder,
    centre_crop,
    fold_batch_norms,
    gate_output_px,
    residual_statistics,
)

torch.set_num_threads(1)


def test_the_gate_has_the_papers_41186_parameters() -> None:
    assert sum(p.numel() for p in GateAutoencoder().parameters()) == 41_186


def test_the_gates_layers_have_the_papers_filters_and_a_dropout_of_0_12_at_its_places() -> None:
    """Filters of every convolution, `t` the transposed ones, `/2` a stride, and what stands between them."""

    def listed(layers: torch.nn.Sequential) -> list[str]:
        names = {torch.nn.ReLU: "relu", torch.nn.Hardtanh: "bounded"}
        return [
            f"dropout {layer.p}"
            if isinstance(layer, torch.nn.Dropout)
            else names.get(type(layer))
            or f"{'t' if isinstance(layer, torch.nn.ConvTranspose2d) else ''}{layer.out_channels}"
            f"{'/2' if layer.stride == (2, 2) else ''}"
            for layer in layers
        ]

    gate = GateAutoencoder()
    block = "{0} relu, dropout 0.12, {0} relu, {0}/2 relu, "
    assert " ".join(listed(gate.encoder)) == (block.format(18) + block.format(24) + "1 bounded").replace(",", "")
    block = "dropout 0.12, t{0}/2 relu, {0} relu, {0} relu, "
    assert " ".join(listed(gate.decoder)) == (block.format(24) + block.format(18) + "1").replace(",", "")
    convolutions = [layer for layer in (*gate.encoder, *gate.decoder) if hasattr(layer, "kernel_size")]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    bounded = gate.encoder[-1]
    assert (bounded.min_val, bounded.max_val) == (0.0, 1.0)


def test_a_patch_of_192_gives_a_latent_of_42_and_a_reconstruction_of_156() -> None:
    gate = GateAutoencoder().eval()
    x = torch.rand(2, 1, 192, 192)
    assert gate.encode(x).shape == (2, 1, 42, 42)
    assert gate(x).shape == (2, 1, 156, 156)
    assert centre_crop(x).shape == (2, 1, 156, 156)


def test_the_latent_stays_between_0_and_1() -> None:
    z = GateAutoencoder().eval().encode(100 * torch.randn(2, 1, 64, 64)).detach()
    assert 0.0 <= float(z.min()) <= float(z.max()) <= 1.0


@pytest.mark.parametrize("height", [64, 65, 66, 67, 101])
def test_the_crop_fits_the_reconstruction_at_any_size(height: int) -> None:
    x = torch.rand(1, 1, height, 72)
    reconstruction = GateAutoencoder().eval()(x)
    assert reconstruction.shape == centre_crop(x).shape
    assert reconstruction.shape[2] == gate_output_px(height)


def test_the_crop_starts_18_pixels_in_whatever_the_size() -> None:
    x = torch.arange(101.0).view(1, 1, 101, 1).expand(1, 1, 101, 101)
    assert float(centre_crop(x)[0, 0, 0, 0]) == GATE_OFFSET_PX == 18


def test_the_gate_sees_a_whole_image_as_it_sees_its_patches() -> None:
    """Fully convolutional: a patch on the 4-pixel grid gives the same reconstruction alone."""
    gate = GateAutoencoder().eval()
    image = torch.rand(1, 1, 160, 128)
    whole, part = gate(image), gate(image[..., 40:140, 20:120])
    # The decoder's 'same' convolutions pad with zeros: the outermost pixels of a patch differ.
    inner = part[..., 8:-8, 8:-8]
    same = whole[..., 48 : 48 + inner.shape[2], 28 : 28 + inner.shape[3]]
    torch.testing.assert_close(inner, same, atol=1e-5, rtol=0)


def test_residual_statistics_are_those_of_every_window() -> None:
    residual = np.random.default_rng(0).normal(size=(14, 12)).astype(np.float32)
    mean, std = residual_statistics(torch.from_numpy(residual)[None, None])
    windows = np.lib.stride_tricks.sliding_window_view(residual, (9, 9))
    np.testing.assert_allclose(mean[0, 0].numpy(), windows.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(std[0, 0].numpy(), windows.std(axis=(2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("fine_tune", "trainable"),
    [
        # fc 512->1000, then 1000->512, 512->256, 256->2
        ("head", 513 * 1000 + 1001 * 512 + 513 * 256 + 257 * 2),
        ("layer4", 513 * 1000 + 1001 * 512 + 513 * 256 + 257 * 2 + 13_114_368),
        ("all", 21_797_672 + 1001 * 512 + 513 * 256 + 257 * 2),
    ],
)
def test_fine_tuning_trains_the_layers_it_names(fine_tune: str, trainable: int) -> None:
    model = ElectrodeClassifier()
    freeze(model, fine_tune)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


def test_one_channel_scans_are_normalised_into_three_equal_greys() -> None:
    x = ElectrodeClassifier(channels=1).normalise(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    assert x.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(x[0, :, 0, 0].numpy(), (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225])


def test_an_image_with_the_wrong_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 channels, got 3"):
        ElectrodeClassifier(channels=1).normalise(torch.zeros((1, 3, 2, 2), dtype=torch.uint8))


def test_folded_batch_norms_say_the_same_and_blocks_that_add_nothing_go() -> None:
    torch.manual_seed(0)
    network = resnet34(weights=None).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.bias, 0, 0.1)
    for block in (network.layer3[4], network.layer3[0]):
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(image)
        fold_batch_norms(network)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert isinstance(network.layer3[4], nn.Identity)
    assert not isinstance(network.layer3[0], nn.Identity)  # its shortcut is a convolution
