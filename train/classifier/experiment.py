"""The choices of one experiment: what a fold of the cross-validation does, and `edge-train fit-features --recipe` too.

`PAPER` is Jensen et al. 2022, to the letter. `BEST` is what the ablation (`edge-train ablation`) led to. A recipe file
is TOML with some of the fields below and perhaps `base = "best"`; what it leaves out is the base's, `paper` by default.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge.images.method import Method
from edge.system.command import LARGEST
from train.bounds import Mode
from train.classifier.views import FLIPS, WARPED
from train.errors import TrainError
from train.recipe import Adaptation, FineTune

Features = Literal["mean", "mean+max", "layers", "tiles", "sheet"]
Head = Literal["paper", "logistic", "mlp", "neighbours"]
Loss = Literal["plain", "balanced", "real-world"]
Augmentation = Literal["flips", "warps", "none"]
Threshold = Literal["half", "calibrated"]
Undecided = Literal["majority", "drop", "class"]


@dataclass(frozen=True)
class ExperimentRecipe:
    """The defaults are the paper's (J 2.4)."""

    method: Method = Method.GLOBAL
    """The recipe's own conversion: its figure is the recipe's figure. The paper's best was `global`."""
    bounds_mode: Mode = "per_scan"
    fine_tune: FineTune = "head"
    """`layer4` and `all` train these layers too, without the cache; for machines with a GPU."""
    features: Features = "mean"
    """`mean`: the 512 means of layer 4. `mean+max`: their maxima too. `layers`: both of layer 2, 3 and 4.
    `tiles`: how far the tiles of layers 2, 3 and 4 stand out of their places and of each other; `sheet`: the same to
    both sides and in units of the sheet's own spread, of maxima and means (`selection.py`)."""
    head: Head = "paper"
    """`paper`: 1000, 512, 256, 2 fully connected. `logistic`: one layer, regularised. `mlp`: 256 and the classes, with
    dropout; it takes its own rate and batch from `train.classifier.heads`, and `epochs`. `neighbours`: no layers, the
    distance to normal scans (`neighbours.py`)."""
    penalty: float = 0.0
    """L2 penalty of the logistic head, on standardised features, relative to the loss; weight decay of `mlp`."""
    epochs: int = 50
    batch: int = 16
    """Not given in the paper."""
    lr: float = 1e-3
    step_epochs: int = 10
    step_factor: float = 0.1
    """The paper says that the rate decays every 10 epochs, not by how much."""
    flip_p: float = 0.5
    augmentation: Augmentation = "flips"
    """`warps`: half of the views also turned, sheared and shifted a little (Elgendi et al. 2021). `none`: scans as they
    are, so that left and right, entry and exit keep places of their own."""
    loss: Loss = "plain"
    """`balanced`: both classes weigh the same. `real-world`: errors weigh what they cost (Ho, Wookey 2020)."""
    miss_cost: float = 1.0
    """Cost of an abnormal scan called normal, for `real-world`."""
    false_alarm_cost: float = 1.0
    threshold: Threshold = "half"
    """`half`: 0.5, as softmax decides. `calibrated`: of greatest balanced accuracy over training lots held out in
    turn."""
    undecided: Undecided = "majority"
    """Scans on which labellers disagree: take the majority's label, leave them out, or make them a third class."""
    refused: float = Adaptation().refused
    """`neighbours`: share of the normal training scans above the threshold, each judged without its own lot."""
    seed: int = 0

    @property
    def learns_from(self) -> tuple[int, ...]:
        """Labels of the scans it learns from: both, or `normal` alone."""
        return (0,) if self.head == "neighbours" else (0, 1)

    @property
    def views(self) -> tuple[int, ...]:
        """Views of a training scan."""
        return tuple(range({"none": 1, "flips": FLIPS, "warps": FLIPS + WARPED}[self.augmentation]))

    @property
    def classes(self) -> int:
        return 3 if self.undecided == "class" else 2

    def class_weights(self, labels: npt.NDArray[np.int64]) -> Tensor | None:
        """Weight of every class in the loss: float32 (classes,), mean 1 over the scans; None for none."""
        if self.loss == "plain":
            return None
        counts = np.bincount(labels, minlength=self.classes).astype(np.float64)
        if self.loss == "balanced":
            weights = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
        else:
            weights = np.array([self.false_alarm_cost, self.miss_cost, min(self.false_alarm_cost, self.miss_cost)])
            weights = weights[: self.classes]
        return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


_FINE_TUNED = ("mean", "paper", "half", "majority", "flips")
PAPER = ExperimentRecipe()
BEST = ExperimentRecipe(
    features="tiles", head="logistic", penalty=1e-2, loss="balanced", threshold="calibrated", bounds_mode="pooled"
)
NEIGHBOURS = ExperimentRecipe(
    head="neighbours", features="sheet", augmentation="none", bounds_mode="pooled", undecided="drop"
)
"""What a reader called abnormal is not known as normal: nothing else would ever tell it from a normal scan."""
SHEET = dataclasses.replace(BEST, features="sheet")
NAMED = {"paper": PAPER, "best": BEST, "sheet": SHEET, "neighbours": NEIGHBOURS}


def read_recipe(name: str) -> ExperimentRecipe:
    """A recipe of `NAMED`, or of a TOML file. Raises TrainError naming the key that is unknown or senseless."""
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(
            f"no recipe {name!r}: {error}", hint=f"give one of {', '.join(NAMED)}, or a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainError(f"the recipe {path} is not TOML: {error}", hint="write lines such as `epochs = 50`") from error
    base = content.pop("base", "paper")
    if base not in NAMED:
        raise TrainError(f"{path}: base {base!r}", hint=f"a base is one of {', '.join(NAMED)}")
    return replaced(NAMED[base], content, str(path))


def replaced(base: ExperimentRecipe, values: dict[str, Any], where: str) -> ExperimentRecipe:
    """A recipe with some values changed, each checked against its field's type. Raises TrainError."""
    types = get_type_hints(ExperimentRecipe)
    for key, value in values.items():
        if key not in types:
            raise TrainError(f"{where}: there is no {key!r} in a recipe", hint=f"there are {', '.join(types)}")
        kind = types[key]
        choices = [str(m) for m in Method] if kind is Method else list(get_args(kind))
        if choices and value not in choices:
            raise TrainError(f"{where}: {key} = {value!r}", hint=f"choose one of {', '.join(map(str, choices))}")
        if kind in (int, float) and (
            isinstance(value, bool) or not isinstance(value, int | kind) or not 0 <= value <= LARGEST
        ):
            raise TrainError(
                f"{where}: {key} = {value!r}", hint=f"expected a finite number, not negative, at most {LARGEST:g}"
            )
    if "method" in values:
        values = values | {"method": Method(values["method"])}
    recipe = dataclasses.replace(base, **values)
    if recipe.epochs < 1 or recipe.batch < 1 or recipe.step_epochs < 1:
        raise TrainError(f"{where}: epochs, batch and step_epochs are at least 1", hint="leave them out for 50, 16, 10")
    if not 0 < recipe.refused < 1:
        raise TrainError(f"{where}: refused = {recipe.refused:g} is no share", hint="give one such as 0.05")
    if recipe.head == "paper" and recipe.features in ("tiles", "sheet"):
        raise TrainError(f"{where}: the paper's head takes no features of tiles", hint='add head = "logistic"')
    if recipe.head == "paper" and recipe.augmentation == "none":
        raise TrainError(f"{where}: the paper's head learns from mirrored scans", hint="leave augmentation out")
    if recipe.head == "neighbours" and recipe.undecided == "class":
        raise TrainError(f"{where}: neighbours know one class", hint="leave undecided out")
    plain = (recipe.features, recipe.head, recipe.threshold, recipe.undecided, recipe.augmentation)
    if recipe.fine_tune != "head" and (plain != _FINE_TUNED or recipe.loss == "real-world"):
        raise TrainError(
            f"{where}: fine_tune = {recipe.fine_tune!r} goes with the paper's other choices and loss = 'balanced' only",
            hint='leave base = "best" out, and the choices with it',
        )
    return recipe


def recipe_values(recipe: ExperimentRecipe) -> dict[str, str | int | float | bool | None]:
    """All of it, flat, as checkpoints and results record it."""
    return {key: str(value) if isinstance(value, Method) else value for key, value in vars(recipe).items()}
