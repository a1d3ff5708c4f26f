"""The choices of a training, flat, so that a checkpoint can record every one of them."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from edge.images.conversion import Method
from edge.records import Size
from train.errors import TrainError

FineTune = Literal["head", "layer4", "all"]
Schedule = Literal["step", "one-cycle"]
Optimizer = Literal["adam", "adamw"]
Amp = Literal["auto", "off", "bf16"]
"""Arithmetic of a training: `auto` is bfloat16 where the device has it, else float32."""
AMPS: tuple[Amp, ...] = get_args(Amp)
AMP_HELP = "arithmetic: bfloat16 where the device has it (auto), never (off), always (bf16) (default %(default)s)"
Reduction = Literal[1, 2, 4]

_FULL_FORMAT_PX = 2000 * 1000
_STAGE = re.compile(r"(\d+)x(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Stage:
    """Epochs at one image size."""

    size: Size
    epochs: int


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained; the defaults are the paper's (J 2.4), the rest are options beyond it."""

    method: Method = Method.GLOBAL
    size: Size = Size(2000, 1000)  # noqa: RUF009 - a NamedTuple cannot change
    weights: str = "imagenet"
    start: str = ""
    """A classifier.pt to go on from; `weights` then only says where that one came from."""
    fine_tune: FineTune = "head"
    epochs: int = 50
    batch: int = 16
    optimizer: Optimizer = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "step"
    step_epochs: int = 10
    step_factor: float = 0.1
    """The paper says that the rate decays every 10 epochs, not by how much."""
    flip_p: float = 0.5
    label_smoothing: float = 0.0
    jitter: float = 0.0
    """Greatest relative change of brightness and of contrast, drawn per image and step."""
    balanced: bool = False
    """Draw both classes equally often."""
    learn_regions: bool = False
    """Also learn where the anomalies lie (`train.classifier.region_task`); the trained network is the same."""
    size_schedule: str = ""
    """Epochs at smaller sizes before the rest at `size`: `250x125:8,500x250:4`."""
    recalibrate_scans: int = 0
    """Training scans over which batch norm statistics are taken anew after the last step; 0 leaves them."""
    amp: Amp = "auto"
    device: str = "cpu"
    """`cpu` or `cuda`."""
    validation_share: float = 0.2
    seed: int = 0

    def stages(self) -> list[Stage]:
        """The sizes in the order they are trained at. Raises TrainError for a schedule that does not add up."""
        early = parse_size_schedule(self.size_schedule)
        left = self.epochs - sum(stage.epochs for stage in early)
        if left < 1:
            raise TrainError(
                f"the size schedule {self.size_schedule!r} uses all {self.epochs} epochs",
                hint=f"leave at least one epoch for the full size {self.size.height_px}x{self.size.width_px}",
            )
        for stage in early:
            if stage.size.height_px > self.size.height_px or stage.size.width_px > self.size.width_px:
                raise TrainError(
                    f"the size schedule {self.size_schedule!r} exceeds the full size",
                    hint="early epochs are at smaller sizes",
                )
        return [*early, Stage(self.size, left)]


def usual_reduction(size: Size) -> Reduction:
    """What the gate takes for a size unasked: about 1000 x 500 px to look at, by the study in docs/results.md."""
    return 2 if size.height_px * size.width_px >= _FULL_FORMAT_PX else 1


@dataclass(frozen=True)
class GateRecipe:
    """How the gate is trained (L 3.1)."""

    method: Method = Method.GLOBAL
    size: Size = Size(2000, 1000)  # noqa: RUF009 - a NamedTuple cannot change
    start: str = ""
    """A gate.pt to go on from."""
    patches: Literal["normal", "all"] = "normal"
    """Patches of accepted scans (the paper's), or of all ordinary scans (its second use case)."""
    perturbation: Literal["sni", "shapes", "foreign", "none"] = "shapes"
    foreign_answer: Literal["clean", "black"] = "clean"
    """What the gate is taught to answer to foreign content; see `train.gate.perturb`."""
    calibrate_on: Literal["normal", "all"] = "normal"
    """Whose scores on the validation bundles set the thresholds."""
    scores: Literal["placed", "paper"] = "placed"
    """Windows weighed by place and joined by the layout, or the plain extremes (L 3.1); see `train.gate.network`."""
    reduction: Reduction = 1
    """How many times smaller the autoencoder sees the image; see `usual_reduction`."""
    image_fpr: float = 0.01
    margin: float = 1.2
    """All thresholds are multiplied by it: what is rarest in the bundles at hand is not the rarest there is."""
    rotate: bool = True
    """Patches at any angle (the paper's); off, the gate may learn that electrodes lie straight."""
    steps: int = 4000
    plain_steps: int = 200
    """The first steps, without perturbation."""
    settle_steps: int = 0
    """The last steps, without dropout. What replaces dropped values in training is missing on the line, and a network
    as small as this one answers to that with a shift of all grey levels."""
    per_weight: float = 1.0
    """Weight of the two loss terms of perturbed patches; see `train.losses`."""
    bank: int = 2048
    """Perturbations drawn before the training, each used many times, turned and flipped."""
    batch: int = 16
    lr: float = 1e-3
    amp: Amp = "auto"
    validation_share: float = 0.2
    seed: int = 0


def cosine_rate(greatest: float, step: int, steps: int, rising_steps: int) -> float:
    """Learning rate of a step: a linear rise, times half a cosine down to 1 % of the greatest."""
    rise = min(1.0, (step + 1) / rising_steps)
    return greatest * rise * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def parse_size(text: str) -> Size:
    """`1000x500` -> height 1000, width 500 px. Raises TrainError."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(int(found[1]), int(found[2])) < 64:
        raise TrainError(f"{text!r} is not a size", hint="write HEIGHTxWIDTH in pixels, at least 64x64: 2000x1000")
    return Size(int(found[1]), int(found[2]))


def parse_size_schedule(text: str) -> list[Stage]:
    """`250x125:8,500x250:4` -> stages; empty -> none. Raises TrainError."""
    stages = []
    for part in filter(None, text.split(",")):
        found = _STAGE.fullmatch(part.strip())
        if not found or int(found[3]) < 1:
            raise TrainError(f"{part!r} is no part of a size schedule", hint="write HEIGHTxWIDTH:EPOCHS,...")
        stages.append(Stage(parse_size(f"{found[1]}x{found[2]}"), int(found[3])))
    return stages


def flat(recipe: ClassifierRecipe | GateRecipe) -> dict[str, str | int | float | bool | None]:
    """The recipe as a flat dictionary for the checkpoint."""
    values: dict[str, str | int | float | bool | None] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, Size):
            value = f"{value.height_px}x{value.width_px}"
        values[field.name] = value.value if isinstance(value, Method) else value
    return values
