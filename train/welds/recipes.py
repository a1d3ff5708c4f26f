"""The recipes of the weld benchmark: which networks are trained and by which statistics they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from train.errors import TrainError
from train.welds.evaluation import CHECKED, Detector
from train.welds.variants import CLASSIFIERS, NONE, PAPER, SIGNS, SNI, Variant

_SIGNED: Final = ("bright9", "dark9", "std9")
_WIDE: Final = ("mean9", "std9", "mean17", "mean33")
_SIGNED_WIDE: Final = (*_SIGNED, "bright17", "dark17", "bright33", "dark33")
_RELATIVE: Final = ("relative-mean9", "relative-std9")
_DETRENDED: Final = ("detrended-mean9", "detrended-std9")
_LEVEL_FREE: Final = tuple(f"detrended-{name}" for name in _SIGNED_WIDE)
_LEVEL_AND_NOISE_FREE: Final = tuple(f"detrended-relative-{name}" for name in _SIGNED_WIDE)
_WITHOUT_NETWORK: Final = tuple(f"input-{name}" for name in (*_SIGNED, "bright17", "dark17"))

RELIT: Final = replace(SIGNS, name="sni-signs-relit", relit=True)
BEST_VARIANT: Final = RELIT
BEST_COLUMNS: Final = _LEVEL_FREE


@dataclass(frozen=True, slots=True)
class BenchmarkRecipe:
    """Networks and their detectors, in the order of the tables."""

    name: str
    variants: tuple[Variant, ...]
    detectors: tuple[Detector, ...]
    shown: str
    """Name of the variant that the pictures show."""


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

ABLATION_RECIPE: Final = BenchmarkRecipe(
    "ablation",
    (
        NONE,
        SNI,
        SIGNS,
        RELIT,
        replace(SIGNS, name="sni-signs-noise", noisy=True),
        replace(SIGNS, name="sni-signs-grain", noisy=True, correlated=True),
        replace(SIGNS, name="sni-signs-robust", robust=True),
        replace(SIGNS, name="sni-signs-local", local=True),
    ),
    (
        Detector("no network: image against its surroundings", "none", _WITHOUT_NETWORK),
        Detector("none", "none"),
        Detector("SNI, the paper's", "sni"),
        Detector("SNI, thresholds from validation welds alone", "sni", calibrated_on=(CHECKED,)),
        Detector("SNI, a threshold for each sign", "sni", _SIGNED),
        Detector("SNI, windows of 9, 17, 33 px", "sni", _WIDE),
        Detector("SNI, relative to the noise", "sni", _RELATIVE),
        Detector("SNI, detrended", "sni", _DETRENDED),
        Detector("SNI, detrended, signs, windows", "sni", _LEVEL_FREE),
        Detector("bright and dark SNI", "sni-signs"),
        Detector("bright and dark SNI, detrended, signs, windows", "sni-signs", _LEVEL_FREE),
        Detector("+ other exposures", "sni-signs-relit"),
        Detector("+ other exposures, detrended, signs, windows", "sni-signs-relit", _LEVEL_FREE),
        Detector("+ other exposures, detrended, signs, windows, relative", "sni-signs-relit", _LEVEL_AND_NOISE_FREE),
        Detector(
            "+ other exposures, detrended, signs, windows, three runs", "sni-signs-relit", _LEVEL_FREE, ensemble=True
        ),
        Detector(
            "+ other exposures, detrended, signs, windows, relative, three runs",
            "sni-signs-relit",
            _LEVEL_AND_NOISE_FREE,
            ensemble=True,
        ),
        Detector("+ signal-dependent noise, detrended, signs, windows", "sni-signs-noise", _LEVEL_FREE),
        Detector("+ correlated noise, detrended, signs, windows", "sni-signs-grain", _LEVEL_FREE),
        Detector("+ robust loss, detrended, signs, windows", "sni-signs-robust", _LEVEL_FREE),
        Detector("+ local contrast, detrended, signs, windows", "sni-signs-local", _LEVEL_FREE),
    ),
    shown=SNI.name,
)
"""`+`: what is added to bright and dark SNI."""

BEST_RECIPE: Final = BenchmarkRecipe(
    "best",
    (BEST_VARIANT,),
    (
        Detector("one run", BEST_VARIANT.name, BEST_COLUMNS),
        Detector("three runs together", BEST_VARIANT.name, BEST_COLUMNS, ensemble=True),
    ),
    shown=BEST_VARIANT.name,
)

RECIPES: Final = ("paper", "best", "ablation")


def benchmark_recipe(name: str) -> BenchmarkRecipe:
    """The recipe of this name. Raises TrainError."""
    for recipe in (PAPER_RECIPE, BEST_RECIPE, ABLATION_RECIPE):
        if recipe.name == name:
            return recipe
    raise TrainError(f"there is no recipe {name!r}", hint=f"choose from {', '.join(RECIPES)}")
