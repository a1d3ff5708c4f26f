"""Drawing, turning, perturbing and relighting patches with tensor operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.networks import GateAutoencoder, centre_crop
from train.papers.welds.bank import (
    Bank,
    box_mean,
    draw,
    grainy,
    local_contrast,
    noisy,
    normalised,
    on_device,
    perturbed,
    posed,
    relit,
    short_median,
)
from train.papers.welds.filters import short_median_background
from train.papers.welds.recipes import ABLATION_RECIPE
from train.papers.welds.training import autoencoder_loss
from train.papers.welds.variants import BOTH, NONE, SNI, Variant

torch.set_num_threads(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_eight_poses_are_all_right_angles_and_flips() -> None:
    patch = torch.arange(9.0).view(1, 1, 3, 3)
    found = {tuple(pose.flatten().tolist()) for pose in posed(patch.expand(8, 1, 3, 3), torch.arange(8))}
    square = patch[0, 0].numpy()
    expected = {tuple(np.rot90(side, turn).flatten().tolist()) for side in (square, square.T) for turn in range(4)}
    assert found == expected


def test_drawn_patches_come_from_the_bank_in_0_to_1() -> None:
    bank = torch.stack([torch.full((1, 4, 4), level, dtype=torch.uint8) for level in (0, 51, 255)])
    levels = draw(bank, 200, seeded()).amax(dim=(1, 2, 3)).unique()
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.2, 1.0]))


def test_stored_perturbations_keep_their_units_and_sign() -> None:
    stored = np.full((1, 4, 4), -0.25, np.float16)
    assert float(draw(on_device(stored, torch.device("cpu")), 1, seeded()).min()) == -0.25


def test_every_kind_perturbs_an_equal_part_of_the_batch() -> None:
    kinds = tuple(torch.full((1, 1, 4, 4), amount, dtype=torch.float16) for amount in (0.125, 0.25))
    bank = Bank(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), None, kinds)
    found = perturbed(torch.zeros(6, 1, 4, 4), bank, seeded(), both_signs=False)[:, 0, 0, 0]
    assert found.tolist() == [0.125] * 3 + [0.25] * 3


def test_a_perturbed_patch_stays_an_image() -> None:
    bank = Bank(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), None, (torch.full((1, 1, 4, 4), 0.5),))
    assert float(perturbed(torch.full((2, 1, 4, 4), 0.9), bank, seeded(), both_signs=False).max()) == 1.0
    both = perturbed(torch.full((64, 1, 4, 4), 0.5), bank, seeded(), both_signs=True)[:, 0, 0, 0]
    assert set(both.tolist()) == {0.0, 1.0}


def test_relit_patches_differ_in_level_and_contrast_and_keep_their_shape() -> None:
    patch = torch.linspace(0.4, 0.6, 64).view(1, 1, 8, 8).expand(50, 1, 8, 8)
    lit = relit(patch, seeded())
    spans = lit.amax(dim=(1, 2, 3)) - lit.amin(dim=(1, 2, 3))
    assert 0.13 < float(spans.min()) < 0.16
    assert 0.24 < float(spans.max()) < 0.27
    steps = lit.flatten(1).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0)


def test_noise_grows_with_the_signal() -> None:
    patches = torch.cat([torch.full((200, 1, 16, 16), level) for level in (0.1, 0.9)])
    variances = (noisy(patches, seeded()) - patches).var(dim=(1, 2, 3))
    assert float(variances[200:].mean() / variances[:200].mean()) == pytest.approx(9, rel=0.3)


def test_correlated_noise_is_as_loud_as_white_noise_up_to_the_rim_and_each_patch_has_its_own_grain() -> None:
    noise = grainy((60, 1, 96, 96), seeded())
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    assert float(noise[..., 0, :].var()) == pytest.approx(1, rel=0.04)
    assert float(noise[..., -1].var()) == pytest.approx(1, rel=0.04)
    beside = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3)) / noise.var(dim=(1, 2, 3))
    # Pixels one apart correlate by 0.26 after a blur of 0.5 px, whose taps are 0.135, 1, 0.135; by 0.89 after 1.5 px.
    assert 0.23 < float(beside.min()) < 0.40
    assert 0.83 < float(beside.max()) < 0.93
    patch = torch.full((60, 1, 96, 96), 0.5)
    plain, grain = (noisy(patch, seeded(), correlated=wanted) - patch for wanted in (False, True))
    assert float(grain.std() / plain.std()) == pytest.approx(1, rel=0.02)


def test_a_variant_with_correlated_noise_learns_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(patches: torch.Tensor, generator: torch.Generator, *, correlated: bool) -> torch.Tensor:
        asked.append(correlated)
        return noisy(patches, generator, correlated=correlated)

    monkeypatch.setattr("train.papers.welds.training.noisy", watched)
    bank = Bank(torch.zeros(1, 1, 192, 192, dtype=torch.uint8), None, ())
    learning = [variant for variant in ABLATION_RECIPE.variants if variant.noisy]
    for variant in learning:
        autoencoder_loss(GateAutoencoder(), bank, variant, 1, seeded(), plain=True)
    assert asked == [variant.correlated for variant in learning]
    assert set(asked) == {False, True}


class FakeAutoencoder(torch.nn.Module):
    """A latent that is the image's centre, half as bright, and a reconstruction that is a grey level off; watched."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return 0.5 * centre_crop(x)

    def decoder(self, z: torch.Tensor) -> torch.Tensor:
        return 1.5 * z + 0.1


def numpys_loss(clean: np.ndarray, seen: np.ndarray) -> float:
    """The total of L 3.1 for the fake, of clean patches (n, 192, 192) and all that was seen, the perturbed last."""
    centre = slice(18, 192 - 18)
    target = clean[:, centre, centre]
    total = 0.0
    for part in (seen[: len(clean)], seen[-len(clean) :]):
        residual = target - (0.75 * part[:, centre, centre] + 0.1)
        windows = np.lib.stride_tricks.sliding_window_view(residual, (9, 9), axis=(1, 2)).mean(axis=(3, 4))
        total += np.square(residual).mean() + 0.2 * np.square(windows).max(axis=(1, 2)).mean()
    # The latent of the clean patches alone, a sum of 42 x 42 values beside a sum of 156 x 156 squares.
    return float(total + 0.01 * (0.5 * target).mean() * 42**2 / 156**2)


@pytest.mark.parametrize("variant", [SNI, BOTH, NONE], ids=lambda variant: variant.name)
def test_the_autoencoders_loss_is_the_papers_in_plain_numpy(variant: Variant) -> None:
    def greys(low: int, seed: int) -> torch.Tensor:
        return torch.randint(low, low + 40, (3, 1, 192, 192), dtype=torch.uint8, generator=seeded(seed))

    delta = torch.rand((2, 1, 192, 192), generator=seeded(7)).half() * 0.1
    bank = Bank(greys(40, 1), greys(140, 2) if variant.defective else None, (delta,) if variant.perturbations else ())
    model = FakeAutoencoder()
    for plain in (False, True):
        loss = autoencoder_loss(model, bank, variant, 2, seeded(3), plain=plain)  # type: ignore[arg-type]
        seen = model.seen[:, 0].double().numpy()
        levels = seen.mean(axis=(1, 2)) * 255
        assert len(seen) == (4 if variant is SNI and not plain else 2)
        assert levels[0] == pytest.approx(59.5, abs=1)
        assert levels[1] == pytest.approx(159.5 if variant is BOTH else 59.5, abs=1)  # half of them defective
        if len(seen) == 4:
            assert np.all(seen[2:] >= seen[:2]) and (seen[2:] - seen[:2]).mean() == pytest.approx(0.05, abs=0.005)
        assert float(loss) == pytest.approx(numpys_loss(seen[:2], seen), rel=1e-4)


def test_local_contrast_does_not_know_the_exposure() -> None:
    image = torch.rand(1, 1, 96, 96, generator=seeded()) * 0.8
    torch.testing.assert_close(local_contrast(image), local_contrast(image + 0.2), atol=1e-4, rtol=0)
    louder, quieter = (local_contrast(gain * image).std() for gain in (1.0, 0.5))
    assert 1.0 < float(louder / quieter) < 1.2


def test_box_means_are_those_of_every_window() -> None:
    image = np.random.default_rng(0).random((20, 17)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5))
    found = box_mean(torch.from_numpy(image)[None, None], 5)[0, 0].numpy()
    np.testing.assert_allclose(found, windows.mean(axis=(2, 3)), atol=1e-6)


def test_a_network_without_levels_sees_no_exposure_and_is_to_answer_without_the_defect() -> None:
    clean = torch.rand((2, 1, 192, 192), generator=torch.Generator().manual_seed(0)) * 0.1 + 0.5
    darker, defective = clean - 0.3, clean.clone()
    defective[..., 90:100, 90:100] -= 0.2
    levelled = replace(SNI, levelled=True)
    seen, wanted = normalised(clean, clean, levelled)
    torch.testing.assert_close(seen, wanted)
    torch.testing.assert_close(normalised(darker, darker, levelled)[0], seen, atol=1e-5, rtol=0)
    assert float(seen.mean()) == pytest.approx(0.5, abs=0.01)
    seen, wanted = normalised(defective, clean, levelled)
    torch.testing.assert_close(wanted - seen, clean - defective)


def test_the_short_median_is_that_of_the_filters() -> None:
    image = np.random.default_rng(1).integers(0, 256, (192, 192)).astype(np.uint8)
    found = short_median(torch.from_numpy(image)[None, None].float())[0, 0].numpy()
    inside = slice(18, -18)  # at the border one replicates, the other mirrors
    np.testing.assert_allclose(found[inside, inside], short_median_background(image, 4, 7)[inside, inside], atol=0.01)
