"""The choices of a training, flat, so that a checkpoint can record every one of them.

What an `option` says is its only description: `edge-train` makes its command line of it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

from edge.images.method import Method
from edge.records import Size
from train.errors import TrainError

FineTune = Literal["head", "layer4", "all"]
Amp = Literal["auto", "off", "bf16"]
Reduction = Literal[1, 2, 4]

_FULL_FORMAT_PX = 2000 * 1000
_Value = TypeVar("_Value")
_STAGE = re.compile(r"(\d+)x(\d+):(\d+)")


def option(default: _Value, about: str, metavar: str | None = None, *, not_zero: bool = False) -> _Value:
    """A field with a default and what the help of its option says."""
    described: _Value = field(default=default, metadata={"help": about, "metavar": metavar, "not_zero": not_zero})
    return described


@dataclass(frozen=True, slots=True)
class Stage:
    """Epochs at one image size."""

    size: Size
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What both trainings choose."""

    method: Method = option(Method.GLOBAL, "how 16 bit become 8")
    size: Size = option(Size(2000, 1000), "height and width of the network's input, px")
    validation_share: float = option(0.2, "share of the lots that is held out for validation")
    amp: Amp = option("auto", "arithmetic: bfloat16 where the device has it (auto), never (off), or always (bf16)")
    device: str = option("cpu", "cpu, cuda, or one of several GPUs: cuda:1")
    seed: int = option(0, "seed of the split, of first weights and of all that is drawn")


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """How the classifier is trained; the defaults are the paper's (J 2.4), which names no optimizer and no batch."""

    weights: str = option("imagenet", "first weights: none, imagenet, or a .pth, .safetensors or .npz file")
    start: str = option("", "a classifier.pt to go on from, instead of --weights", "FILE")
    fine_tune: FineTune = option("head", "what is trained: the layers from fc on, layer4 too, or all")
    epochs: int = option(50, "passes over the training scans", not_zero=True)
    batch: int = option(16, "scans per step", not_zero=True)
    optimizer: Literal["adam", "adamw"] = option("adam", "the paper names none")
    lr: float = option(1e-3, "learning rate; of one-cycle the greatest")
    weight_decay: float = option(0.0, "weight decay of the optimizer")
    schedule: Literal["step", "one-cycle"] = option("step", "how the learning rate changes; the paper's is step")
    step_epochs: int = option(10, "epochs between two steps of the learning rate", not_zero=True)
    # The paper says that the rate decays every 10 epochs, not by how much.
    step_factor: float = option(0.1, "factor on the learning rate at each step")
    flip_p: float = option(0.5, "probability of each of the two flips")
    label_smoothing: float = option(0.0, "share of a label given to the other class")
    jitter: float = option(0.0, "greatest relative change of brightness and contrast, drawn per image and step")
    balanced: bool = option(False, "draw both classes equally often")
    learn_regions: bool = option(
        False, "also learn where anomalies lie, from DATA/regions; the trained network is the same"
    )
    size_schedule: str = option(
        "", "first epochs at smaller sizes, as in 250x125:8,500x250:4; the rest of --epochs is at --size", "HxW:N,..."
    )
    recalibrate_scans: int = option(
        0,
        "training scans over which batch norm statistics are taken anew after the last step, 0 to leave them;"
        " with --weights none and --fine-tune all",
    )

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
    """What the gate takes for a size unasked: about 1000 x 500 px to look at, by the study in docs/results/gate.md."""
    return 2 if size.height_px * size.width_px >= _FULL_FORMAT_PX else 1


@dataclass(frozen=True, kw_only=True)
class GateRecipe(Recipe):
    """How the gate is trained (L 3.1)."""

    start: str = option("", "a gate.pt to go on from", "FILE")
    patches: Literal["normal", "all"] = option(
        "normal", "learn patches of normal scans (the paper's), or of all ordinary scans (its second use case)"
    )
    perturbation: Literal["sni", "shapes", "foreign", "none"] = option(
        "shapes", "what is put on patches and must not be reproduced"
    )
    foreign_answer: Literal["clean", "black"] = option("clean", "what it is taught to answer to foreign content")
    calibrate_on: Literal["normal", "all"] = option("normal", "whose scores on the validation lots set the thresholds")
    scores: Literal["placed", "paper"] = option(
        "placed", "windows weighed by place and joined by the layout, or the plain extremes (the paper's)"
    )
    filter: bool = option(
        False,
        "a short median filter beside the network, with placed scores; it may refuse a quarter of --image-fpr of the"
        " normal scans besides",
    )
    reduction: Reduction = option(1, "how many times smaller the autoencoder sees the image")
    image_fpr: float = option(
        0.01,
        "greatest share of these scans above a threshold, half by windows, half by layouts, each rounded"
        " down: with fewer than 200 scans at 0.01 none is, and the greatest score is the threshold",
    )
    margin: float = option(
        1.2, "factor on all thresholds: what is rarest in the lots at hand is not the rarest there is"
    )
    rotate: bool = option(True, "patches lie as the scans do, and the gate may learn that electrodes lie straight")
    steps: int = option(4000, "batches of patches", not_zero=True)
    plain_steps: int = option(200, "the first steps, without perturbation")
    # What replaces dropped values in training is missing on the line, and a network as small as this one answers to
    # that with a shift of all grey levels.
    settle_steps: int = option(0, "the last steps, without dropout")
    per_weight: float = option(1.0, "weight of the two loss terms of perturbed patches")
    bank: int = option(2048, "perturbations drawn before the training, each used many times, turned and flipped")
    batch: int = option(16, "patches per step", not_zero=True)
    lr: float = option(1e-3, "greatest learning rate")


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a classifier is adapted to another line, by normal scans of it."""

    refused: float = option(0.15, "share of the normal scans, each judged without its own lot, above the threshold")
    amp: Amp = option("auto", "arithmetic: bfloat16 where the device has it (auto), never (off), or always (bf16)")
    device: str = option("cpu", "cpu, cuda, or one of several GPUs: cuda:1")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a backbone is taught by simulated scans."""

    simulator: Literal["both", "first", "second"] = option("both", "whose scans teach")
    lots: int = option(60, "lots of each simulator", not_zero=True)
    scans_per_lot: int = option(20, "scans of each lot", not_zero=True)
    size: Size = option(Size(250, 125), "height and width of the scans it learns from, px")
    weights: str = option("none", "first weights: none, imagenet, or a .pth, .safetensors or .npz file")
    steps: int = option(2000, "batches of scans", not_zero=True)
    batch: int = option(16, "scans per step", not_zero=True)
    lr: float = option(1e-3, "greatest learning rate; a third of it fits weights that have learnt before")
    weight_decay: float = option(0.01, "weight decay of the optimizer")
    amp: Amp = option("auto", "arithmetic: bfloat16 where the device has it (auto), never (off), or always (bf16)")
    device: str = option("cpu", "cpu, cuda, or one of several GPUs: cuda:1")
    seed: int = option(0, "seed of the scans, of first weights and of all that is drawn")

    @property
    def simulators(self) -> tuple[Literal["first", "second"], ...]:
        return ("first", "second") if self.simulator == "both" else (self.simulator,)


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
    for choice in fields(recipe):
        value = getattr(recipe, choice.name)
        if isinstance(value, Size):
            value = f"{value.height_px}x{value.width_px}"
        values[choice.name] = value.value if isinstance(value, Method) else value
    return values
