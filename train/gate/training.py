"""Training of the gate, the out-of-distribution detector (Lindgren, Zach 2022, section 3.1).

A small autoencoder learns to reproduce patches of ordinary scans, at the size the line will see them, and to answer a
perturbed patch with the clean one. What it reproduces badly is not ordinary. On the line it runs fully convolutionally
over the whole image (`train.gate.network`); weights, layout and thresholds are set in `train.gate.calibration`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.images.conversion import Bounds
from edge.system.progress import Reporter
from train.bounds import Mode, bounds_needed
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, scans_seen
from train.dataset import LABELS, LoadedScans, data_digest, load_scans, load_split, read_labels, split_by_lot
from train.device import choose_arithmetic, open_device
from train.errors import DataError, DivergedError
from train.gate.calibration import Examples, calibrated, calibrated_filter, filter_maps, gate_images
from train.gate.network import gate_of, state_of
from train.gate.patch_bank import Pairs, PatchBank, draw_perturbations
from train.gate.perturb import PATCH_PX, Patch, read_photos
from train.losses import GateLoss, gate_loss
from train.networks import GateAutoencoder, centre_crop
from train.recipe import GateRecipe, cosine_rate, flat
from train.resume import GATE_FILE as RESUME_FILE
from train.resume import EpochEnd, Resume, digest_of

_LEAST_TURNED_PX = math.ceil(PATCH_PX * math.sqrt(2)) + 2
"""A patch at any angle fits."""
_WARM_STEPS = 50
_REPORT_EVERY_STEPS = 100
_NORMAL = (LABELS.index("normal"),)
"""Classes that training and validation lots must hold: a gate can be had of normal scans alone."""


def train_gate(
    data: Path,
    out: Path,
    recipe: GateRecipe,
    reporter: Reporter,
    *,
    bounds: Bounds | None = None,
    bounds_mode: Mode = "per_scan",
    photos: Path | None = None,
    jobs: int = 1,
) -> Checkpoint:
    """Train on a folder of labelled scans; writes `out/gate.pt`.

    Without `bounds` they come from the training lots. `jobs`: processes that draw perturbations. Raises DataError,
    TrainError, DivergedError.
    """
    # Before the scans are read: a missing GPU fails at once.
    recipe = dataclasses.replace(recipe, amp=choose_arithmetic(recipe.amp, recipe.device, reporter.say))
    where = open_device(recipe.device)
    pictures = read_photos(photos) if photos is not None else []
    _require_fit(recipe, pictures)
    training_rows, validation_rows = split_by_lot(
        read_labels(data), recipe.validation_share, recipe.seed, needs=_NORMAL
    )
    if bounds is None:  # of all training scans, as the classifier finds them
        bounds = bounds_needed(recipe.method, training_rows, bounds_mode, reporter.counter)
    if recipe.patches == "normal":
        training_rows = [row for row in training_rows if row.label == 0]
    scans = load_split(training_rows, validation_rows, recipe.method, bounds, recipe.size, reporter.counter)
    training, validation = scans.training, scans.held_out
    reporter.say(f"training on {len(training.rows)} scans; calibrating on {len(validation.rows)}")
    key = {"recipe": flat(recipe), "bounds": str(bounds), "data": scans.digest, "order": scans.order}
    key["photos"] = digest_of(pictures)
    resume = Resume(out / RESUME_FILE, json.dumps(key))
    torch.manual_seed(recipe.seed)
    model = GateAutoencoder()
    if recipe.start:
        model = gate_of(load_checkpoint(Path(recipe.start), "gate")).autoencoder
    losses = fit(
        model,
        reduced(gate_images(training.images, recipe.method), recipe.reduction),
        recipe,
        reporter,
        photos=pictures,
        names=[row.file for row in training.rows],
        device=where,
        jobs=jobs,
        resume=resume,
    )
    examples = _examples(validation, recipe)
    found = calibrated(model, _examples(training, recipe), examples, recipe, reporter.counter)
    metrics: dict[str, str | int | float | bool | None] = {
        "training_scans": len(training.rows),
        "calibration_scans": int(examples.ordinary.sum()),
        "final_loss": float(np.mean(losses[-_REPORT_EVERY_STEPS:])),
    }
    for label, name in enumerate(LABELS):
        of_class = validation.labels == label
        metrics[f"validation_{name}_scans"] = int(of_class.sum())
        metrics[f"validation_{name}_flagged"] = int((found.flagged & of_class).sum())
    checkpoint = Checkpoint(
        kind="gate",
        state_dict=state_of(found.gate),
        method=recipe.method,
        bounds=bounds,
        size=recipe.size,
        seed=recipe.seed,
        data_digest=scans.digest,
        **scans_seen(scans.rows, scans.facts),
        thresholds={"gate_mean_threshold": found.thresholds.mean, "gate_std_threshold": found.thresholds.std},
        recipe={**flat(recipe), "bounds_mode": bounds_mode, "photos": len(pictures)},
        metrics=metrics,
    )
    save_checkpoint(out / "gate.pt", checkpoint)
    resume.done()
    reporter.say(
        f"thresholds: mean {found.thresholds.mean:.4f}, deviation {found.thresholds.std:.4f}; flagged"
        f" {metrics['validation_normal_flagged']} of {metrics['validation_normal_scans']} normal and"
        f" {metrics['validation_abnormal_flagged']} of {metrics['validation_abnormal_scans']} abnormal scans"
    )
    reporter.say(calibration_sentence(examples))
    return checkpoint


def _require_fit(recipe: GateRecipe, photos: Sequence[Patch]) -> None:
    """Raise DataError where the recipe's options contradict each other."""
    if recipe.perturbation == "sni" and not photos:
        raise DataError("sni perturbations need photographs", hint="give --photos FOLDER, or --perturbation shapes")
    if photos and recipe.perturbation != "sni":
        raise DataError(
            f"photographs are for sni perturbations, not for {recipe.perturbation}",
            hint="leave out --photos or --perturbation",
        )
    least_px = (_LEAST_TURNED_PX if recipe.rotate else PATCH_PX) * recipe.reduction
    if min(recipe.size) < least_px:
        raise DataError(
            f"images of {recipe.size.height_px}x{recipe.size.width_px} px are too small for patches",
            hint=f"use a size from {least_px}x{least_px} up, straight patches (--no-rotate), a smaller --reduction",
        )


def add_filter(data: Path, start: Path, out: Path, reporter: Reporter) -> Checkpoint:
    """Write to `out/gate.pt` the gate of `start` as it stands, with a filter calibrated on the scans it learnt from.

    Raises DataError, CheckpointError; the former where `data` is not what it learnt from.
    """
    before = load_checkpoint(start, "gate")
    gate, recipe = gate_of(before), before.recipe
    if gate.mean_weight is None:
        raise DataError(f"{start} scores as the paper does: no filter joins it", hint="train with --scores placed")
    share, rate, margin = (float(str(recipe[name])) for name in ("validation_share", "image_fpr", "margin"))
    training_rows, validation_rows = split_by_lot(read_labels(data), share, before.seed, needs=_NORMAL)
    if recipe["patches"] == "normal":
        training_rows = [row for row in training_rows if row.label == 0]
    rows = training_rows + validation_rows
    digest = data_digest(rows, [_file_sha256(row.path) for row in rows])
    if digest != before.data_digest:
        raise DataError(
            f"{data} is not what {start} learnt from: digest {digest[:16]}, expected {before.data_digest[:16]}",
            hint="give the folder of its training, files and labels unchanged",
        )
    rows = [row for row in rows if row.label == 0]
    scans = load_scans(rows, before.method, before.bounds, before.size, progress=reporter.counter("normal scans"))
    maps = filter_maps(gate, gate_images(scans.images, before.method), reporter.counter("filter"))
    normal, lots = np.ones(len(rows), np.bool_), [row.lot for row in rows]
    stage, beyond = calibrated_filter(maps, lots, normal, rate, margin, gate.map_cell_px)
    stage.limits /= torch.tensor([before.thresholds[name] for name in ("gate_mean_threshold", "gate_std_threshold")])
    gate.filter = stage
    checkpoint = dataclasses.replace(
        before,
        state_dict=state_of(gate),
        recipe={**recipe, "filter": True},
        metrics={**before.metrics, "filter_normal_scans": len(rows), "filter_normal_flagged": int(beyond.sum())},
    )
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out / "gate.pt", checkpoint)
    reporter.say(f"the filter would refuse {int(beyond.sum())} of {len(rows)} normal scans")
    return checkpoint


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def calibration_sentence(examples: Examples) -> str:
    """How many lots the windows' thresholds rest on, and what that excludes (exact one-sided 95 % bound over lots)."""
    lots = {lot for lot, ordinary in zip(examples.lots, examples.ordinary, strict=True) if ordinary}
    return (
        f"the windows' thresholds rest on {int(examples.ordinary.sum())} ordinary scans of {len(lots)} lots: even if"
        f" they refuse none of these lots, they may refuse {1 - 0.05 ** (1 / len(lots)):.0%} of others"
    )


def reduced(images: npt.NDArray[np.uint8], reduction: int) -> npt.NDArray[np.uint8]:
    """Images (n, 1, h, w) as the autoencoder sees them, rounded to grey levels again: patches to learn from."""
    if reduction == 1:
        return images
    small = [F.avg_pool2d(torch.from_numpy(image).float(), reduction).round().byte().numpy() for image in images]
    return np.stack(small)


def _examples(scans: LoadedScans, recipe: GateRecipe) -> Examples:
    normal = scans.labels == 0
    ordinary = np.ones_like(normal) if recipe.calibrate_on == "all" else normal
    return Examples(gate_images(scans.images, recipe.method), [row.lot for row in scans.rows], ordinary, normal)


def fit(
    model: GateAutoencoder,
    images: npt.NDArray[np.uint8],
    recipe: GateRecipe,
    reporter: Reporter,
    *,
    photos: list[Patch],
    names: Sequence[str],
    device: torch.device,
    jobs: int = 1,
    resume: Resume | None = None,
) -> list[float]:
    """Run `recipe.steps` batches of patches of images uint8 (n, 1, h, w); returns the loss of every step.

    `names`: of the n scans. With `resume` it goes on where it was stopped, to the same end. Raises DivergedError.
    """
    torch.set_flush_denormal(True)  # vanishing gradients would otherwise cost a CPU ten times the time
    perturbations = draw_perturbations(
        recipe.perturbation,
        recipe.bank,
        images,
        photos,
        answer=recipe.foreign_answer,
        seed=recipe.seed,
        device=device,
        jobs=jobs,
        progress=reporter.counter("perturbations"),
    )
    bank = PatchBank(images, device)
    rng = torch.Generator(device).manual_seed(recipe.seed)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    count = reporter.counter("gate steps")
    losses: list[float] = []
    # Looked at once in a while: asking a GPU for a number makes it wait.
    waiting: list[tuple[Tensor, Tensor]] = []
    if resume is not None and (before := resume.load([model], optimizer, rng, reporter.say)) is not None:
        losses = [figures["loss"] for figures in before.history]
    for step in range(len(losses), recipe.steps):
        if step >= recipe.steps - recipe.settle_steps:
            model.eval()  # there is no batch norm: this only ends the dropout
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        picks = torch.randint(len(images), (recipe.batch,), generator=rng, device=device)
        clean = bank.cut(picks, recipe.rotate, rng)
        # First to reproduce at all: with foreign patches from the start the latent can settle on a constant.
        if perturbations is None or step < recipe.plain_steps:
            pairs = Pairs(clean, clean, clean)
        else:
            pairs = perturbations.on(clean, rng, step)
        terms = losses_of(model, pairs, recipe.amp == "bf16")
        loss = terms.total(recipe.per_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        waiting.append((loss.detach(), picks))
        is_last = step + 1 == recipe.steps
        is_saved = resume is not None and (is_last or resume.is_due)
        is_reported = is_last or (step + 1) % _REPORT_EVERY_STEPS == 0
        if not is_saved and not is_reported:
            continue
        losses += _finite([(float(one), of) for one, of in waiting], len(losses), names)
        waiting.clear()
        count(step + 1, recipe.steps)
        if is_reported:
            reporter.say(
                f"step {step + 1} loss {np.mean(losses[-_REPORT_EVERY_STEPS:]):.5f} (ok {terms.ok.item():.5f},"
                f" perturbed {terms.per.item():.5f}, windows {terms.kern_ok.item():.5f}"
                f" {terms.kern_per.item():.5f}, latent {terms.reg.item():.5f})"
            )
        if resume is not None and is_saved:
            history = [{"loss": one} for one in losses]
            resume.save(EpochEnd(0, step + 1, 0.0, history, math.inf, {}), [model], optimizer, rng)
    return losses


def _finite(losses: Sequence[tuple[float, Tensor]], first_step: int, names: Sequence[str]) -> list[float]:
    """The losses. Raises DivergedError with the first step and the scans where one is not finite."""
    for step, (loss, picks) in enumerate(losses, first_step):
        if not math.isfinite(loss):
            files = ", ".join(names[i] for i in picks.tolist())
            raise DivergedError(f"the gate's loss is {loss} at step {step}, on patches of {files}", hint="lower --lr")
    return [loss for loss, _ in losses]


def losses_of(model: GateAutoencoder, pairs: Pairs, bf16: bool) -> GateLoss:
    """The five terms for one batch of pairs (n, 1, 192, 192)."""
    clean = pairs.clean
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=bf16):
        z = model.encode(clean if pairs.perturbed is clean else torch.cat([clean, pairs.perturbed]))
        reconstruction = model.decoder(z).float()
    n = len(clean)
    of_clean, of_perturbed = centre_crop(clean) - reconstruction[:n], centre_crop(pairs.answer) - reconstruction[-n:]
    return gate_loss(of_clean, of_perturbed, z.float()[:n])


def learning_rate(recipe: GateRecipe, step: int) -> float:
    """The rate of a step."""
    return cosine_rate(recipe.lr, step, recipe.steps, _WARM_STEPS)
