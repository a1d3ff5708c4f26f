"""Training of one network of the weld benchmark on a bank of patches (L 3.1, 3.2), all of it on one device."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.errors import DivergedError
from train.losses import LATENT_AS_PRINTED, gate_loss, huber_error, patch_loss
from train.networks import GateAutoencoder, PatchClassifier, centre_crop
from train.papers.welds.bank import Bank, draw, noisy, normalised, perturbed, relit
from train.papers.welds.variants import Training, Variant
from train.recipe import cosine_rate

_WARM_STEPS = 200
"""At the full rate the first steps drive the one-channel latent to a flat side of its bounds, from some initial weights
for good: with 50 steps one of nine networks came out constant."""
_KERNEL_WEIGHT = 0.2
"""Weight of L_kern beside the errors per pixel: L_kern,per then is about L_per.

At 1 it is five times that, and every patch is reproduced too dark by half of what a natural indication adds, which
halves the greatest error of perturbed ones."""
_BETAS = (0.9, 0.99)
"""Momentum coefficients of Adam.

With its usual 0.999 the first steps, whose gradients are a hundred times greater than what follows, would slow down the
next two thousand."""
_CHECK_EVERY_STEPS = 100
"""A look at the losses makes the CPU wait for the device."""
_SEEN_PATCHES = 8
_STARTS = 5
"""Initial weights tried at the full rate, and as many more at half of it."""
_LEAST_SPREAD = 1e-4
"""Least spread of what a network makes of a batch; below it the network is constant.

One whose bounded latent, or last ReLU, is flat for every patch has no gradient left, and stays as it is."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that has learnt, in eval mode, on its device."""

    model: GateAutoencoder | PatchClassifier
    losses: npt.NDArray[np.float32]
    """Loss of every step (steps,)."""
    seconds: float
    spread: float
    """`spread_of` the network; near 0 it says the same of every patch."""
    starts: int
    """Initial weights tried; those before the last came out constant."""


def train_network(bank: Bank, variant: Variant, training: Training, seed: int, steps: int, where: str) -> Trained:
    """Train for `steps` batches; initial weights that lead to a constant are replaced by others, then at a lower rate.

    Raises DivergedError, which names `where`, and the step where the loss is not finite.
    """
    if bank.accepted.device.type == "cpu":
        torch.set_flush_denormal(True)  # vanishing gradients would otherwise cost a CPU ten times the time
    started = time.perf_counter()
    slower = replace(training, lr=training.lr / 2)
    for start, tried in enumerate([training] * _STARTS + [slower] * _STARTS):
        trained = trained_from(bank, variant, tried, seed + start, steps, where)
        if trained is not None:
            return replace(trained, starts=start + 1, seconds=time.perf_counter() - started)
    raise DivergedError(
        f"{where}: the same answer to every patch, from each of {2 * _STARTS} initial weights", hint="lower --lr"
    )


def trained_from(bank: Bank, variant: Variant, training: Training, seed: int, steps: int, where: str) -> Trained | None:
    """The network trained from the initial weights of this seed; none where it has become a constant."""
    device = bank.accepted.device
    torch.manual_seed(seed)  # initial weights and dropout
    generator = torch.Generator(device).manual_seed(seed)
    model = GateAutoencoder() if variant.network == "autoencoder" else PatchClassifier()
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    greatest_lr, settles_at = training.greatest_lr(variant.network), training.settles_at(variant.network, steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=greatest_lr, betas=_BETAS, fused=device.type == "cuda")
    losses = torch.zeros(steps, device=device)
    model.train()
    for step in range(steps):
        if step == settles_at:
            model.eval()  # there is no batch norm: this only ends the dropout
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(greatest_lr, step, steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bf16):
            if isinstance(model, GateAutoencoder):
                plain = step < int(training.plain_share * steps)
                loss = autoencoder_loss(model, bank, variant, training.batch, generator, plain=plain)
            else:
                loss = classifier_loss(model, bank, variant, training.batch, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        if (step + 1) % _CHECK_EVERY_STEPS == 0 or step + 1 == steps:
            check(losses[: step + 1], where)
            if step >= _WARM_STEPS and spread_of(model, bank, variant) < _LEAST_SPREAD:
                return None
    model.eval()
    return Trained(model, losses.cpu().numpy(), 0.0, spread_of(model, bank, variant), starts=1)


@torch.inference_mode()
def spread_of(model: GateAutoencoder | PatchClassifier, bank: Bank, variant: Variant) -> float:
    """Deviation of an autoencoder's latent, or of a classifier's logits, over the first accepted patches of the bank.

    Always the same patches, so that a look changes nothing of the training.
    """
    was_training = model.training
    patches = bank.accepted[:_SEEN_PATCHES].float() / 255
    seen, _ = normalised(patches, patches, variant)
    answers = model.eval().encode(seen) if isinstance(model, GateAutoencoder) else model(seen)
    model.train(was_training)
    return float(answers.std())


def autoencoder_loss(
    model: GateAutoencoder, bank: Bank, variant: Variant, batch: int, generator: torch.Generator, *, plain: bool
) -> Tensor:
    """The five terms of L 3.1 on a batch drawn from the bank; `plain` leaves the perturbation out."""
    clean = draw(bank.accepted, batch, generator)
    if bank.defective is not None:
        clean = torch.cat([clean[batch // 2 :], draw(bank.defective, batch // 2, generator)])
    if variant.relit:
        clean = relit(clean, generator)
    seen = clean
    if bank.perturbations and not plain:
        seen = torch.cat([clean, perturbed(clean, bank, generator, both_signs=variant.both_signs)])
    if variant.noisy:
        seen = noisy(seen, generator, correlated=variant.correlated)
    seen, wanted = normalised(seen, clean.repeat(len(seen) // len(clean), 1, 1, 1), variant)
    z = model.encode(seen)
    residual = centre_crop(wanted) - model.decoder(z).float()
    residual_ok, residual_per = residual[:batch], residual[-batch:]
    terms = gate_loss(residual_ok, residual_per, z.float()[:batch])
    if variant.robust:
        terms = replace(terms, ok=huber_error(residual_ok), per=huber_error(residual_per))
    # Printed as sums, the terms weigh the latent 14 times less; at full weight it learns little but to be small.
    return terms.total(latent_weight=LATENT_AS_PRINTED, kernel_weight=_KERNEL_WEIGHT)


def classifier_loss(
    model: PatchClassifier, bank: Bank, variant: Variant, batch: int, generator: torch.Generator
) -> Tensor:
    """Cross-entropy on accepted patches and as many defective ones, these in equal parts from every source.

    Sources are each kind of perturbation, added to accepted patches, and whole defective patches. What is perturbed are
    the accepted patches of the same batch: nothing but the perturbation tells the two apart.
    """
    accepted = draw(bank.accepted, batch, generator)
    whole = batch // (len(bank.perturbations) + 1) if bank.defective is not None else 0
    defective = perturbed(accepted[whole:], bank, generator, both_signs=variant.both_signs)
    if bank.defective is not None:
        defective = torch.cat([defective, draw(bank.defective, whole, generator)])
    truth = torch.cat([torch.zeros(batch, device=accepted.device), torch.ones(batch, device=accepted.device)])
    images = torch.cat([accepted, defective])
    return patch_loss(model(images).float(), truth)


def learning_rate(greatest: float, step: int, steps: int) -> float:
    """The rate of a step; a short training rises for a quarter of its steps."""
    return cosine_rate(greatest, step, steps, min(_WARM_STEPS, 1 + steps // 4))


def check(losses: Tensor, where: str) -> None:
    """Raise DivergedError where one of the losses (n,) so far is not finite."""
    wrong = ~torch.isfinite(losses)
    if bool(wrong.any()):
        step = int(wrong.int().argmax())
        raise DivergedError(
            f"{where}: the loss is {float(losses[step])} at step {step}", hint="lower --lr; without bf16 if it is on"
        )
