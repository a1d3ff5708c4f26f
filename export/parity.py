"""Whether an exported graph says what the trained network says. No model is written where it does not.

The reference is the network as training ran it, on torch, with nothing folded: so this compares the folding of the
normalisation and of batch norm, the exporter, and onnxruntime's own rewriting of the graph, all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from edge.engines import Engine
from edge.engines.golden import score_one
from edge.images.method import Method
from edge.records import Image, Scores
from export.errors import ParityError
from export.reason import explain
from train.classifier.models import Classifier
from train.gate.calibration import gate_images
from train.gate.calibration import score as gate_score
from train.gate.network import Gate
from train.networks import p_abnormal_of

MAX_DIFFERENCE: Final = 1e-4
"""Greatest difference of any score between torch and the exported graph; rounding explains 1e-6."""
MAX_STORAGE_DRIFT: Final = 0.05
"""Greatest change of any golden score by weights stored as fp16 or int8; golden scans are doubtful ones."""
MAX_REASON_DIFFERENCE: Final = 0.01
"""Greatest mean difference of a reason map between torch and the exported graph, relative to how far its cells lie from
their mean. Not of a cell: where two tiles stand out equally, rounding says which one counts."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Greatest difference of each score over some images."""

    p_abnormal: float
    gate_mean_max: float
    gate_std_max: float

    @property
    def worst(self) -> float:
        return max(self.p_abnormal, self.gate_mean_max, self.gate_std_max)

    def __str__(self) -> str:
        return f"p {self.p_abnormal:.1e}, gate mean {self.gate_mean_max:.1e}, gate std {self.gate_std_max:.1e}"


def torch_scores(classifier: Classifier, gate: Gate, method: Method, images: Sequence[Image]) -> list[Scores]:
    """What the networks in torch say of images uint8 (channels, height_px, width_px), one at a time."""
    classifier.eval()
    scores = []
    for image in images:
        batch = image[np.newaxis]
        with torch.inference_mode():
            logits = classifier(classifier.normalise(torch.from_numpy(batch)))
            p_abnormal = float(p_abnormal_of(logits)[0])
        means, stds = gate_score(gate, gate_images(batch, method))
        scores.append(Scores(p_abnormal, float(means[0]), float(stds[0])))
    return scores


def engine_scores(engine: Engine, images: Iterable[Image]) -> list[Scores]:
    """What an engine says of the same images."""
    return [score_one(engine, image) for image in images]


def difference(observed: Sequence[Scores], expected: Sequence[Scores]) -> Difference:
    """Greatest |observed - expected| of each score; NaN where either is NaN."""
    return Difference(*gaps(observed, expected).max(axis=0).tolist())


def gaps(observed: Sequence[Scores], expected: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """|observed - expected| of each score, one row per scan."""
    pairs = zip(map(astuple, observed), map(astuple, expected), strict=True)
    return np.array([[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in pairs])


def check_parity(observed: Sequence[Scores], expected: Sequence[Scores]) -> Difference:
    """Raises ParityError unless the exported graph's scores equal torch's within MAX_DIFFERENCE."""
    found = difference(observed, expected)
    if not found.worst <= MAX_DIFFERENCE:  # written so that NaN fails
        raise ParityError(
            f"the exported graphs differ from torch {torch.__version__} by {found}, allowed are {MAX_DIFFERENCE:g}",
            hint="the exporter of this torch release breaks the networks: export with another release",
        )
    return found


def check_reason(engine: Engine, classifier: Classifier, images: Iterable[Image]) -> None:
    """Raises ParityError unless an engine's reason maps of images are those of the network in torch."""
    for image in images:
        observed = engine.infer(image[np.newaxis]).reason_map
        with torch.inference_mode():
            _, maps = explain(classifier.eval(), classifier.normalise(torch.from_numpy(image[np.newaxis])))
        expected = maps.numpy()
        allowed = MAX_REASON_DIFFERENCE * (1 + float(np.abs(expected - expected.mean()).mean()))
        found = np.inf if observed is None else float(np.abs(observed - expected).mean())
        if not found <= allowed:  # written so that NaN fails
            raise ParityError(
                f"the exported reason map differs from torch {torch.__version__} by {found:.1e}, allowed {allowed:.1e}",
                hint="the exporter of this torch release breaks the networks: export with another release",
            )


def check_storage(observed: Sequence[Scores], expected: Sequence[Scores], storage: str) -> Difference:
    """Raises ParityError where rounding the stored weights moves a score by more than MAX_STORAGE_DRIFT."""
    found = difference(observed, expected)
    if not found.worst <= MAX_STORAGE_DRIFT:
        raise ParityError(
            f"storing the weights as {storage} moves the golden scores by {found}, allowed are {MAX_STORAGE_DRIFT:g}",
            hint="store them more finely: --weights-storage fp16, or fp32",
        )
    return found


def noise_image(channels: int, height_px: int, width_px: int) -> Image:
    """Seeded uniform noise: every grey level next to every other, which no scan has."""
    return np.random.default_rng(0).integers(0, 256, (channels, height_px, width_px), dtype=np.uint8)
