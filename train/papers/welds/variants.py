"""What the networks of the weld benchmark are trained on, and how: the paper's (L 3) and variants of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from train.recipe import option

Network = Literal["autoencoder", "classifier"]

RECIPES = {
    "paper": "Tables 2 and 3",
    "best": "the variant that finds most, beside a short median",
    "readings": "the paper's networks, read otherwise",
    "ablation": "what else a network may learn from",
}
"""What each recipe of `train.papers.welds.recipes` compares, by name: here without torch, for the help of --recipe."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One network of the benchmark: what it sees in training."""

    name: str
    network: Network
    perturbations: tuple[str, ...] = ()
    """Kinds of W * delta: the autoencoder must answer with the clean patch, the classifier calls them defective."""
    defective: bool = False
    """Also whole defective patches: the autoencoder reproduces them (second use case), the classifier calls them so."""
    both_signs: bool = False
    """Half of the perturbations are turned dark; the paper's natural-image indications are bright."""
    relit: bool = False
    """Patches under other exposures (`train.papers.welds.bank.relit`)."""
    noisy: bool = False
    """Signal-dependent noise on the input, not on the target (`train.papers.welds.bank.noisy`)."""
    correlated: bool = False
    """Neighbouring pixels share the noise of `noisy`, as behind a scintillator or a scanner's optics."""
    robust: bool = False
    """Outliers weigh less in the error (`train.losses.huber_error`)."""
    local: bool = False
    """Input with its local mean and contrast taken out (`train.papers.welds.bank.local_contrast`)."""
    levelled: bool = False
    """Input with its local mean taken out, over wide surroundings (`train.papers.welds.bank.normalised`)."""


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast; the same for all networks of a kind."""

    autoencoder_steps: int = 2000
    classifier_steps: int = 1000
    batch: int = option(
        16,
        "accepted patches per step; as many again are perturbed (autoencoder) or defective (classifier)",
        not_zero=True,
    )
    lr: float = option(2e-3, "greatest learning rate of an autoencoder; a patch classifier has half of it")
    plain_share: float = 0.05
    """Share of the autoencoder's steps, the first, without perturbation, until it reproduces anything at all."""
    settle_share: float = 0.3
    """Share of the autoencoder's steps, the last, without dropout. What replaces dropped values is missing later, and a
    network as small as this one answers to that with a shift of all grey levels."""
    classifier_settle_share: float = 1.0
    """Share of the patch classifier's steps, the last, without dropout.

    The paper's dropout before each of its eight convolutions, also of pixels, is louder than most defects. With it 500
    steps teach nothing, without it 200 do. A training to convergence may differ.
    """
    bf16: bool = False

    def steps(self, network: Network) -> int:
        return self.autoencoder_steps if network == "autoencoder" else self.classifier_steps

    def greatest_lr(self, network: Network) -> float:
        return self.lr if network == "autoencoder" else self.lr / 2

    def settles_at(self, network: Network, steps: int) -> int:
        """The first of `steps` without dropout."""
        share = self.settle_share if network == "autoencoder" else self.classifier_settle_share
        return steps - int(share * steps)


NONE = Variant("none", "autoencoder")
D = Variant("d", "autoencoder", ("defects",))
SNI = Variant("sni", "autoencoder", ("sni",))
SIGNS = Variant("sni-signs", "autoencoder", ("sni",), both_signs=True)
"""The paper scales its indications to 0.05 to 0.2, which is bright, and adds them "with the same procedures as for the
real anomalies", whose surroundings are subtracted first, so that they may be dark. Nearly all defects of welds are."""
BOTH = Variant("both", "autoencoder", defective=True)
"""The second use case: accepted and defective patches, no perturbation."""
CLASSIFIERS = (
    Variant("classifier-d", "classifier", ("defects",), defective=True),
    Variant("classifier-d-sc", "classifier", ("defects", "circular-indication"), defective=True),
    Variant("classifier-d-sc-spc", "classifier", ("defects", "circular-indication", "partial-circle"), defective=True),
    Variant("classifier-d-sni", "classifier", ("defects", "sni"), defective=True),
)
PAPER = (NONE, D, SNI, SIGNS, BOTH, *CLASSIFIERS)
