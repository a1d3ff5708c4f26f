"""Training of the gate, the out-of-distribution detector (Lindgren, Zach 2022, section 3.1).

A small autoencoder learns to reproduce patches of ordinary scans, at the size the line will see them, and to answer a
perturbed patch with the clean one. What it reproduces badly is not ordinary. On the line it runs fully convolutionally
over the whole image; the two scores are the greatest |mean| and the greatest deviation of the residual over all 9x9
windows. Their thresholds are set here on whole scans of validation bundles, for a chosen share of ordinary scans sent
to review (`image_fpr`); the paper's rate is per patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge.conversion import Bounds, Method
from train.bounds import Mode, find_bounds
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.dataset import LABELS, LoadedScans, data_digest, load_scans, read_labels, split_by_bundle
from train.errors import DataError, DivergedError
from train.losses import GateLoss, gate_loss
from train.metrics import joint_thresholds
from train.networks import GateAutoencoder, centre_crop, residual_statistics
from train.perturb import PATCH_PX, Answer, Patch, Perturbation, perturb, read_photos, turned
from train.progress import Reporter
from train.recipe import GateRecipe, flat

_LEAST_PX = math.ceil(PATCH_PX * math.sqrt(2)) + 1
"""A patch at any angle fits."""
_WARM_STEPS = 50
_REPORT_EVERY_STEPS = 100


@dataclass(frozen=True, slots=True)
class GateThresholds:
    """Above either, a scan is out of distribution; both in units of the image in [0, 1]."""

    mean: float
    std: float


def train_gate(
    data: Path,
    out: Path,
    recipe: GateRecipe,
    reporter: Reporter,
    *,
    bounds: Bounds | None = None,
    bounds_mode: Mode = "per_scan",
    photos: Path | None = None,
) -> Checkpoint:
    """Train on a folder of labelled scans; writes `out/gate.pt`.

    Without `bounds` they come from the training bundles. Raises DataError, TrainError, DivergedError.
    """
    pictures = read_photos(photos) if photos is not None else []
    if recipe.perturbation == "sni" and not pictures:
        raise DataError("sni perturbations need photographs", hint="give --photos FOLDER, or --perturbation shapes")
    if min(recipe.size) < _LEAST_PX:
        raise DataError(
            f"images of {recipe.size.height_px}x{recipe.size.width_px} px are too small for patches",
            hint=f"use a size of at least {_LEAST_PX}x{_LEAST_PX}",
        )
    rows = read_labels(data)
    training_rows, validation_rows = split_by_bundle(rows, recipe.validation_share, recipe.seed)
    if recipe.patches == "normal":
        training_rows = [row for row in training_rows if row.label == 0]
    if bounds is None and recipe.method.needs_bounds:
        bounds = find_bounds(training_rows, bounds_mode, progress=reporter.counter("bounds")).bounds
    training = load_scans(
        training_rows, recipe.method, bounds, recipe.size, progress=reporter.counter("training scans")
    )
    validation = load_scans(
        validation_rows, recipe.method, bounds, recipe.size, progress=reporter.counter("validation scans")
    )
    reporter.say(f"training on {len(training.rows)} scans; calibrating on {len(validation.rows)}")
    torch.manual_seed(recipe.seed)
    model = GateAutoencoder()
    if recipe.start:
        model.load_state_dict(load_checkpoint(Path(recipe.start), "gate").state_dict)
    losses = fit(model, gate_images(training.images, recipe.method), training, recipe, pictures, reporter)
    means, stds = score(model, gate_images(validation.images, recipe.method), reporter.counter("validation"))
    ordinary = np.ones(len(means), np.bool_) if recipe.calibrate_on == "all" else validation.labels == 0
    thresholds = calibrate(means[ordinary], stds[ordinary], recipe.image_fpr, recipe.margin)
    metrics = {
        "training_scans": len(training.rows),
        "calibration_scans": int(ordinary.sum()),
        "final_loss": float(np.mean(losses[-_REPORT_EVERY_STEPS:])),
    }
    for label, name in enumerate(LABELS):
        of_class = validation.labels == label
        flagged = (means > thresholds.mean) | (stds > thresholds.std)
        metrics[f"validation_{name}_scans"] = int(of_class.sum())
        metrics[f"validation_{name}_flagged"] = int((flagged & of_class).sum())
    facts = training.facts + validation.facts
    heights, widths = [fact.height_px for fact in facts], [fact.width_px for fact in facts]
    checkpoint = Checkpoint(
        kind="gate",
        state_dict=model.state_dict(),
        method=recipe.method,
        bounds=bounds,
        size=recipe.size,
        seed=recipe.seed,
        data_digest=data_digest(training.rows + validation.rows, [fact.sha256 for fact in facts]),
        scan_height_px=(min(heights), max(heights)),
        scan_width_px=(min(widths), max(widths)),
        max_clipped_fraction=max(fact.clipped_fraction for fact in facts),
        exposures=tuple(fact.exposure for fact in facts),
        thresholds={"gate_mean_threshold": thresholds.mean, "gate_std_threshold": thresholds.std},
        recipe={**flat(recipe), "bounds_mode": bounds_mode, "photos": len(pictures)},
        metrics=metrics,
    )
    save_checkpoint(out / "gate.pt", checkpoint)
    reporter.say(
        f"thresholds: mean {thresholds.mean:.4f}, deviation {thresholds.std:.4f}; flagged"
        f" {metrics['validation_normal_flagged']} of {metrics['validation_normal_scans']} normal and"
        f" {metrics['validation_abnormal_flagged']} of {metrics['validation_abnormal_scans']} abnormal scans"
    )
    return checkpoint


def gate_images(images: npt.NDArray[np.uint8], method: Method) -> npt.NDArray[np.uint8]:
    """What the gate sees of converted scans (n, channels, h, w): the one channel, or `global` of `mixed`."""
    channel = 1 if method is Method.MIXED else 0
    return images[:, channel : channel + 1]


def fit(
    model: GateAutoencoder,
    images: npt.NDArray[np.uint8],
    training: LoadedScans,
    recipe: GateRecipe,
    photos: list[Patch],
    reporter: Reporter,
) -> list[float]:
    """Run `recipe.steps` batches of patches; returns the loss of every step. Raises DivergedError."""
    torch.set_flush_denormal(True)  # vanishing gradients would otherwise cost a CPU ten times the time
    rng = np.random.default_rng(recipe.seed)
    model.train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    count, losses = reporter.counter("gate steps"), []
    for step in range(recipe.steps):
        if step == recipe.steps - recipe.settle_steps:
            model.eval()  # there is no batch norm: this only ends the dropout
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        indices = rng.integers(len(images), size=recipe.batch)
        # First to reproduce at all: with foreign patches from the start the latent can settle on a constant.
        kind = recipe.perturbation if step >= recipe.plain_steps else "none"
        clean, perturbed, answer = patch_pairs(images, indices, kind, recipe.rotate, rng, photos, recipe.foreign_answer)
        terms = losses_of(model, clean, perturbed, answer, recipe.amp == "bf16")
        loss = terms.total(recipe.per_weight)
        if not math.isfinite(loss.item()):
            files = ", ".join(training.rows[i].file for i in indices)
            raise DivergedError(
                f"the gate's loss is {loss.item()} at step {step}, on patches of {files}", hint="lower --lr"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        count(step + 1, recipe.steps)
        if (step + 1) % _REPORT_EVERY_STEPS == 0:
            reporter.say(
                f"step {step + 1} loss {np.mean(losses[-_REPORT_EVERY_STEPS:]):.5f} (ok {terms.ok.item():.5f},"
                f" perturbed {terms.per.item():.5f}, windows {terms.kern_ok.item():.5f}"
                f" {terms.kern_per.item():.5f}, latent {terms.reg.item():.5f})"
            )
    return losses


def patch_pairs(
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.integer],
    perturbation: Perturbation,
    rotate: bool,
    rng: np.random.Generator,
    photos: list[Patch],
    foreign_answer: Answer = "clean",
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and perturbed patches and the answers to these, float32 (n, 1, 192, 192), of images (n, 1, h, w) uint8.

    With no perturbation all three are the same tensor.
    """
    donors = [images[i, 0] for i in indices]
    pairs = []
    for image in donors:
        clean = cut(image, rng, rotate)
        if rng.random() < 0.5:
            clean = clean[:, ::-1]
        if rng.random() < 0.5:
            clean = clean[::-1]
        clean = np.ascontiguousarray(clean)
        pairs.append((clean, *perturb(clean, perturbation, rng, donors, photos, foreign_answer)))
    clean_batch = torch.from_numpy(np.stack([pair[0] for pair in pairs])[:, None])
    if perturbation == "none":
        return clean_batch, clean_batch, clean_batch
    perturbed, answer = (torch.from_numpy(np.stack([pair[part] for pair in pairs])[:, None]) for part in (1, 2))
    return clean_batch, perturbed, answer


def cut(image: npt.NDArray[np.uint8], rng: np.random.Generator, rotate: bool) -> Patch:
    """A random patch of a scan uint8 (h, w), float32 (192, 192) in [0, 1]; with `rotate` at any angle.

    Straight patches touch the border of the image as often as a place beyond it would be drawn, so that the border
    of the sheet is not rarer than its middle. Turned ones keep clear of it: there is nothing beyond.
    """
    if rotate:
        clear = PATCH_PX / math.sqrt(2)
        middle = [float(rng.uniform(clear, extent - clear)) for extent in image.shape]
        return turned(image, (middle[0], middle[1]), float(rng.uniform(0, 360)), PATCH_PX)
    beyond = PATCH_PX // 4
    top, left = (
        int(np.clip(rng.integers(-beyond, extent - PATCH_PX + beyond + 1), 0, extent - PATCH_PX))
        for extent in image.shape
    )
    return image[top : top + PATCH_PX, left : left + PATCH_PX].astype(np.float32) / np.float32(255)


def losses_of(model: GateAutoencoder, clean: Tensor, perturbed: Tensor, answer: Tensor, bf16: bool) -> GateLoss:
    """The five terms for one batch of pairs (n, 1, 192, 192)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        z = model.encode(clean if perturbed is clean else torch.cat([clean, perturbed]))
        reconstruction = model.decoder(z).float()
    n = len(clean)
    of_clean, of_perturbed = centre_crop(clean) - reconstruction[:n], centre_crop(answer) - reconstruction[-n:]
    return gate_loss(of_clean, of_perturbed, z.float()[:n])


def learning_rate(recipe: GateRecipe, step: int) -> float:
    """A short linear rise, then half a cosine down to 1 %."""
    rise = min(1.0, (step + 1) / _WARM_STEPS)
    return recipe.lr * rise * (0.01 + 0.99 * (1 + math.cos(math.pi * step / recipe.steps)) / 2)


@torch.inference_mode()
def score(
    model: GateAutoencoder,
    images: npt.NDArray[np.uint8],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Greatest |mean| and greatest deviation of the residual of whole images (n, 1, h, w) uint8: two (n,)."""
    model.eval()
    means, stds = [], []
    for number, image in enumerate(images, 1):
        x = torch.from_numpy(image[None]).float() / 255.0
        mean, std = residual_statistics(centre_crop(x) - model(x))
        means.append(float(mean.abs().max()))
        stds.append(float(std.max()))
        if progress is not None:
            progress(number, len(images))
    return np.array(means), np.array(stds)


def calibrate(
    means: npt.NDArray[np.float64], stds: npt.NDArray[np.float64], image_fpr: float, margin: float = 1.0
) -> GateThresholds:
    """Thresholds that together flag at most `image_fpr` of these ordinary scans, sharing the rate evenly.

    Both are set at the same rank; the rank moves up until the scans flagged by either are few enough. `margin`
    multiplies both: a calibration on few scans says little about the rarest. Raises DataError for too few scans.
    """
    if len(means) == 0:
        raise DataError("no ordinary scans to set the gate's thresholds on", hint="label more validation scans")
    mean, std = joint_thresholds(np.stack([means, stds], axis=1), math.floor(image_fpr * len(means)))
    return GateThresholds(float(mean) * margin, float(std) * margin)
