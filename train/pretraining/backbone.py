"""A backbone taught by simulated scans, for want of weights from elsewhere or on top of them.

All layers learn to tell, cell by cell, how severe what covers it is: for each kind of anomaly and for any. That is
asked of the outputs of layers 2, 3 and 4, those that the recipes read, by one linear layer each, which is thrown away
in the end. What remains is a file for `--weights`. Plan and figures: docs/experiments/backbone-simulated.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.images.method import Method
from edge.system.progress import Reporter
from train.checkpoint import not_finite
from train.classifier.features import weights_sha256
from train.classifier.pooling import LAYER_CHANNELS, feature_maps
from train.classifier.region_task import flip
from train.classifier.training import build_classifier, draw_flips, take_statistics
from train.device import choose_arithmetic, open_device
from train.errors import DivergedError, TrainError
from train.files import clear_results, write_json, write_whole
from train.losses import finite
from train.networks import normalise
from train.pretraining.marked_scans import MarkedScans, draw_marked_scans
from train.recipe import ClassifierRecipe, Pretraining, cosine_rate
from train.resume import EpochEnd, Resume
from train.runner import Runner
from train.simulator.simulate import KINDS
from train.weights import IMAGENET, NONE

WEIGHTS_FILE: Final = "backbone.pth"
FACTS_FILE: Final = "backbone.json"
RESUME_FILE: Final = "pretraining.pt"
_COVERED_WEIGHT: Final = 5.0
"""Weight of a covered cell: most are not."""
_FIRST_LOGIT: Final = -4.0
_LOWER_BOUND_MOVES: Final = (-0.12, 0.08)
_UPPER_BOUND_MOVES: Final = (-0.08, 0.12)
"""By these shares of their distance bounds are moved: those of a plant are not the simulator's."""
_NOISE_GREYS: Final = 3.0
"""Greatest deviation of the noise that half of the scans get besides."""
_WARM_SHARE: Final = 0.05
_GREATEST_GRADIENT: Final = 1.0
_STATISTICS_SCANS: Final = 480
"""Over so many scans, spread over all lots, batch norms take their statistics in the end."""
_REPORT_EVERY_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What came of it."""

    sha256: str
    """Digest of the weights themselves, as models and tables name them."""
    losses: tuple[float, ...]
    """Loss of every step."""


def pretrain(recipe: Pretraining, out: Path, runner: Runner, reporter: Reporter) -> Pretrained:
    """Teach a backbone; writes `out/backbone.pth`, and `out/backbone.json` with what it was taught by.

    A killed training goes on where it was last saved, to the same weights. Raises TrainError, DivergedError.
    """
    if recipe.weights not in (NONE, IMAGENET) and Path(recipe.weights).resolve() == (out / WEIGHTS_FILE).resolve():
        raise TrainError(
            f"the taught weights would take the place of {recipe.weights}, by which they start",
            hint="name another folder with --out: what taught these stands beside them",
        )
    is_bf16 = choose_arithmetic(recipe.amp, recipe.device, reporter.say) == "bf16"
    torch.manual_seed(recipe.seed)
    # Before the scans are drawn: missing weights fail at once.
    network = build_classifier(
        ClassifierRecipe(method=Method.GLOBAL, weights=recipe.weights, seed=recipe.seed, fine_tune="all")
    )
    started_from = NONE if recipe.weights == NONE else weights_sha256(network)
    scans = draw_marked_scans(
        recipe.simulators,
        recipe.lots,
        recipe.scans_per_lot,
        recipe.seed,
        recipe.size,
        runner,
        reporter.counter("scans drawn"),
    )
    key = {"recipe": _flat(recipe), "bf16": is_bf16, "from": started_from}
    resume = Resume(out / RESUME_FILE, json.dumps(key))
    losses = _teach(network.backbone, scans, recipe, is_bf16, resume, reporter)
    _take_statistics(network.backbone, scans, recipe, is_bf16)
    network = network.cpu().eval()
    if wild := not_finite(network.backbone.state_dict()):
        raise DivergedError(
            f"the training left numbers that are not finite in {len(wild)} tensors, such as {min(wild)}",
            hint="lower --lr",
        )
    sha256 = weights_sha256(network)
    clear_results(out, WEIGHTS_FILE, FACTS_FILE)
    with write_whole(out / WEIGHTS_FILE) as stream:
        torch.save({name: tensor.contiguous() for name, tensor in network.backbone.state_dict().items()}, stream)
    facts = {
        **key,
        "sha256": sha256,
        "scans": len(scans.counts),
        "final_loss": _last(losses),
        "torch": torch.__version__,
    }
    write_json(out / FACTS_FILE, facts)
    resume.done()
    return Pretrained(sha256, tuple(losses))


def _teach(
    backbone: nn.Module, scans: MarkedScans, recipe: Pretraining, is_bf16: bool, resume: Resume, reporter: Reporter
) -> list[float]:
    """Run all steps; returns their losses."""
    torch.set_flush_denormal(True)  # vanishing gradients would otherwise cost a CPU ten times the time
    device = open_device(recipe.device)
    task = CellTask().to(device)
    backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.train()
    taught = [*(p for name, p in backbone.named_parameters() if not name.startswith("fc.")), *task.parameters()]
    optimizer = torch.optim.AdamW(taught, lr=recipe.lr, weight_decay=recipe.weight_decay)
    rng = np.random.default_rng(recipe.seed)
    losses: list[float] = []
    if (before := resume.load([backbone, task], optimizer, rng, reporter.say)) is not None:
        losses = [figures["loss"] for figures in before.history]
    count = reporter.counter("steps")
    rising_steps = max(1, round(_WARM_SHARE * recipe.steps))
    for step in range(len(losses), recipe.steps):
        drawn = rng.integers(0, len(scans.counts), recipe.batch)
        x, severities = shown(scans, drawn, rng, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            loss = task(feature_maps(backbone, x.contiguous(memory_format=torch.channels_last)), severities)
        losses.append(finite(loss, step, (f"simulated scan {number}" for number in drawn)))
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(recipe.lr, step, recipe.steps, rising_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(taught, _GREATEST_GRADIENT)
        optimizer.step()
        count(step + 1, recipe.steps)
        if (step + 1) % _REPORT_EVERY_STEPS == 0:
            reporter.say(f"step {step + 1} loss {_last(losses):.3f}")
        if resume.is_due or step + 1 == recipe.steps:  # what follows the last step takes its time, too
            history: list[dict[str, Any]] = [{"loss": one} for one in losses]
            resume.save(EpochEnd(0, step + 1, 0.0, history, math.inf, {}), [backbone, task], optimizer, rng)
    return losses


class CellTask(nn.Module):
    """One linear layer behind each layer of the backbone that recipes read; its loss is what the backbone learns by."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, len(KINDS) + 1, 1) for width in LAYER_CHANNELS.values())
        for layer in self.layers:
            weight, bias = layer.parameters()
            nn.init.zeros_(weight)
            nn.init.constant_(bias, _FIRST_LOGIT)

    def forward(self, maps: Sequence[Tensor], severities: Tensor) -> Tensor:
        """Loss of feature maps against severities float (n, kinds, rows, columns) in 0..1 of the first map's cells.

        Cross-entropy with the severity as target, mean over scans and cells, sum over kinds, any kind, and layers.
        """
        wanted = torch.cat([severities, severities.amax(dim=1, keepdim=True)], dim=1)
        losses: list[Tensor] = []
        for layer, of_layer in zip(self.layers, maps, strict=True):
            if losses:
                wanted = F.max_pool2d(wanted, 2, ceil_mode=True)  # the next layer's cells are twice as large
            entropy = F.binary_cross_entropy_with_logits(layer(of_layer).float(), wanted, reduction="none")
            weight = 1 + (_COVERED_WEIGHT - 1) * (wanted > 0)
            losses.append((entropy * weight).mean(dim=(0, 2, 3)).sum())
        return torch.stack(losses).sum()


def shown(
    scans: MarkedScans, drawn: npt.NDArray[np.int64], rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Some scans as they are shown in a step: normalised images (n, 3, h, w), and their severities in 0..1.

    Converted with bounds moved a little, half of them with noise, mirrored at random.
    """
    n = len(drawn)
    lower, upper = scans.bounds[drawn, 0], scans.bounds[drawn, 1]
    moved = (
        lower + (upper - lower) * rng.uniform(*_LOWER_BOUND_MOVES, n),
        upper + (upper - lower) * rng.uniform(*_UPPER_BOUND_MOVES, n),
    )
    noise = rng.uniform(0, _NOISE_GREYS, n) * (rng.random(n) < 0.5)
    images = greys(scans.counts[drawn], *moved)
    images += rng.standard_normal(images.shape, np.float32) * noise[:, None, None].astype(np.float32)
    flips = draw_flips(n, 0.5, rng, device)
    x = _normalised(images, device)
    severities = torch.from_numpy(scans.severities[drawn]).to(device).float() / 255
    return flip(x, flips), flip(severities, flips)


def greys(
    counts: npt.NDArray[np.uint16], lower: npt.NDArray[np.floating], upper: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """Counts (n, h, w) stretched between bounds (n,): 0 to 255, not rounded yet."""
    share = (counts - lower[:, None, None]) / (upper - lower)[:, None, None]
    return (255 * share.clip(0, 1)).astype(np.float32)


def _take_statistics(backbone: nn.Module, scans: MarkedScans, recipe: Pretraining, is_bf16: bool) -> None:
    """Batch norm statistics over scans as they are, with the simulators' own bounds."""
    device = torch.device(recipe.device)
    drawn = np.linspace(0, len(scans.counts) - 1, min(_STATISTICS_SCANS, len(scans.counts))).astype(np.int64)

    def images_of(numbers: npt.NDArray[np.int64]) -> Tensor:
        return _normalised(greys(scans.counts[numbers], *scans.bounds[numbers].T), device)

    take_statistics(backbone, drawn, images_of, recipe.batch, is_bf16)


def _normalised(images: npt.NDArray[np.float32], device: torch.device) -> Tensor:
    rounded = np.rint(images).clip(0, 255).astype(np.uint8)
    return normalise(torch.from_numpy(rounded).to(device)[:, None], channels=1)


def _flat(recipe: Pretraining) -> dict[str, Any]:
    size = recipe.size
    return {**asdict(recipe), "size": f"{size.height_px}x{size.width_px}", "weights": Path(recipe.weights).name}


def _last(losses: Sequence[float]) -> float:
    return float(np.mean(losses[-_REPORT_EVERY_STEPS:]))
