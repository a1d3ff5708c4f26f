"""The recipes of the weld benchmark: which networks are trained and by which statistics they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from train.errors import TrainError
from train.papers.welds.evaluation import CHECKED, Detector
from train.papers.welds.variants import CLASSIFIERS, NONE, PAPER, RECIPES, SIGNS, SNI, D, Variant

_PAPERS: Final = ("mean9", "std9")
_SIGNED: Final = ("bright9", "dark9", "std9")
_WIDE: Final = ("mean9", "std9", "mean17", "mean33")
_SIGNED_WIDE: Final = (*_SIGNED, "bright17", "dark17", "bright33", "dark33")
_RELATIVE: Final = ("relative-mean9", "relative-std9")
_DETRENDED: Final = ("detrended-mean9", "detrended-std9")
_DETRENDED_SIGNED: Final = ("detrended-bright9", "detrended-dark9")
_LEVEL_FREE: Final = tuple(f"detrended-{name}" for name in _SIGNED_WIDE)
_LEVEL_AND_NOISE_FREE: Final = tuple(f"detrended-relative-{name}" for name in _SIGNED_WIDE)
_WITHOUT_NETWORK: Final = tuple(f"input-{name}" for name in (*_SIGNED, "bright17", "dark17"))

BEST_VARIANT: Final = replace(D, name="d-local", local=True)
"""Decided on figures of the first fold, by what it finds there and by what it refuses of a weld of another brightness,
after a result of all three folds was known: no weld is free of this choice."""
BEST_COLUMNS: Final = ("detrended-bright5", "detrended-dark5")
"""The fewest: wider windows and deviations find no more, and share the same 0.1 % of false alarms."""
_BEST_DARK: Final = ("detrended-dark5",)
"""By the middle weld: what is dark on an accepted patch is an undercut or an unmarked pore, on one weld or
another. What is bright are wires of image quality indicators, which the next weld has too: all welds count."""


@dataclass(frozen=True, slots=True)
class BenchmarkRecipe:
    """Networks and their detectors, in the order of the tables."""

    name: str
    variants: tuple[Variant, ...]
    detectors: tuple[Detector, ...]
    shown: str
    """Name of the variant that the pictures show."""
    beside: str = ""
    """Name of the detector that those with thresholds of all welds are compared with at equal refusal; empty: none."""


PAPER_RECIPE: Final = BenchmarkRecipe(
    "paper",
    PAPER,
    (
        Detector("AE, none", "none"),
        Detector("AE, D", "d"),
        Detector("AE, SNI", "sni"),
        Detector("AE, SNI of both signs", "sni-signs"),
        Detector("AE, accepted and defective", "both"),
        *(
            Detector(f"classifier, {name}", variant.name, columns=(), calibrated_on=(CHECKED,))
            for name, variant in zip(("D", "D + SC", "D + SC + SPC", "D + SNI"), CLASSIFIERS, strict=True)
        ),
    ),
    shown=SNI.name,
)

READINGS_RECIPE: Final = BenchmarkRecipe(
    "readings",
    (NONE, D, SNI, SIGNS),
    (
        Detector("no network: image against its surroundings", "none", _WITHOUT_NETWORK),
        Detector("none", "none"),
        Detector("none, detrended, signs, windows", "none", _LEVEL_FREE),
        Detector("D", "d"),
        Detector("D, detrended, signs, windows", "d", _LEVEL_FREE),
        Detector("SNI", "sni"),
        Detector("SNI, detrended, signs, windows", "sni", _LEVEL_FREE),
        Detector("SNI of both signs", "sni-signs"),
        Detector("SNI of both signs, thresholds from validation welds alone", "sni-signs", calibrated_on=(CHECKED,)),
        Detector("SNI of both signs, a threshold for each sign", "sni-signs", _SIGNED),
        Detector("SNI of both signs, windows of 9, 17, 33 px", "sni-signs", _WIDE),
        Detector("SNI of both signs, relative to the noise", "sni-signs", _RELATIVE),
        Detector("SNI of both signs, detrended", "sni-signs", _DETRENDED),
        Detector("SNI of both signs, detrended, signs", "sni-signs", _DETRENDED_SIGNED),
        Detector("SNI of both signs, detrended, signs, windows", "sni-signs", _LEVEL_FREE),
        Detector("SNI of both signs, detrended, signs, windows, relative", "sni-signs", _LEVEL_AND_NOISE_FREE),
        Detector("SNI of both signs, detrended, signs, windows, all runs", "sni-signs", _LEVEL_FREE, ensemble=True),
    ),
    shown=SIGNS.name,
)
"""The paper's networks, read otherwise than the paper does."""

_ABLATION: Final = (
    ("SNI of both signs", SIGNS),
    ("+ level taken out", replace(SIGNS, name="sni-signs-levelled", levelled=True)),
    ("+ other exposures", replace(SIGNS, name="sni-signs-relit", relit=True)),
    ("+ signal-dependent noise", replace(SIGNS, name="sni-signs-noise", noisy=True)),
    ("+ correlated noise", replace(SIGNS, name="sni-signs-grain", noisy=True, correlated=True)),
    ("+ robust loss", replace(SIGNS, name="sni-signs-robust", robust=True)),
    ("+ local contrast", replace(SIGNS, name="sni-signs-local", local=True)),
    ("+ local contrast, D", replace(SIGNS, name="d-sni-local", perturbations=("defects", "sni"), local=True)),
    ("local contrast, D", BEST_VARIANT),
    ("local contrast, D, correlated noise", replace(BEST_VARIANT, name="d-local-grain", noisy=True, correlated=True)),
)
ABLATION_RECIPE: Final = BenchmarkRecipe(
    "ablation",
    tuple(variant for _, variant in _ABLATION),
    tuple(
        Detector(f"{name}{reading}", variant.name, columns)
        for name, variant in _ABLATION
        for reading, columns in (
            ("", _PAPERS),
            (", detrended, signs", _DETRENDED_SIGNED),
            (", detrended, signs, windows", _LEVEL_FREE),
        )
    ),
    shown=SIGNS.name,
)
"""What else a network may learn from. `+`: added to SNI of both signs; without it: in place of it.

Local contrast without perturbation is not here: that network became a constant from each of five initial weights."""

_MEDIAN: Final = "short median, no network"
BEST_RECIPE: Final = BenchmarkRecipe(
    "best",
    (BEST_VARIANT,),
    (
        Detector("each run", BEST_VARIANT.name, BEST_COLUMNS, middle_weld=_BEST_DARK),
        Detector("all runs together", BEST_VARIANT.name, BEST_COLUMNS, ensemble=True, middle_weld=_BEST_DARK),
        Detector("each run, dark indications alone", BEST_VARIANT.name, _BEST_DARK, middle_weld=_BEST_DARK),
        Detector("each run, thresholds of all welds together", BEST_VARIANT.name, BEST_COLUMNS),
        Detector("each run, windows of 9 px, thresholds of all welds together", BEST_VARIANT.name, _DETRENDED_SIGNED),
        Detector("each run, dark, thresholds of all welds together", BEST_VARIANT.name, _BEST_DARK),
        Detector(_MEDIAN, BEST_VARIANT.name, ("median-dark5",)),
    ),
    shown=BEST_VARIANT.name,
    beside=_MEDIAN,
)
"""The last row needs no network; fused with the network's residual it found less: docs/experiments/gate-fusion.md."""


def benchmark_recipe(name: str) -> BenchmarkRecipe:
    """The recipe of this name. Raises TrainError."""
    for recipe in (PAPER_RECIPE, BEST_RECIPE, READINGS_RECIPE, ABLATION_RECIPE):
        if recipe.name == name:
            return recipe
    raise TrainError(f"there is no recipe {name!r}", hint=f"choose from {', '.join(RECIPES)}")
