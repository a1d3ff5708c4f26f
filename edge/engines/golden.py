"""Golden scans: small scans in the model, with the scores every engine must repeat before it judges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from edge.engines import Engine, RawEngine
from edge.engines.preprocessor import Preprocessor
from edge.errors import ModelError, ScanError
from edge.images.conversion import prepare
from edge.model.manifest import Golden
from edge.model.signed_model import SignedModel
from edge.records import Counts, Image, Scores
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from edge.scans.tiff import read_layout


def golden_counts(model: SignedModel, golden: Golden) -> Counts:
    """The golden scan, decoded from the verified bytes. Raises ModelError."""
    data = model.contents[golden.file]
    try:
        layout = read_layout(lambda start, length: data[start : start + length], len(data), Limits().max_px)
        return decode(data, layout)
    except ScanError as error:
        raise ModelError(
            f"golden scan {golden.file} of model {model.model_id} cannot be read: {error.message}",
            hint="export the model again",
        ) from error


def golden_image(model: SignedModel, golden: Golden) -> Image:
    """The golden scan as the networks see it. Raises ModelError."""
    return prepare(golden_counts(model, golden), model.method, model.bounds, model.size)


def golden_scores(model: SignedModel, engine: Engine) -> tuple[Scores, ...]:
    """What `engine` says of the golden scans, in the manifest's order. Raises ModelError, EngineError."""
    return tuple(score_one(engine, golden_image(model, golden)) for golden in model.manifest.golden)


def score_one(engine: Engine, image: Image) -> Scores:
    """Scores of one converted scan uint8 (channels, height_px, width_px). Raises EngineError."""
    return engine.infer(image[np.newaxis]).scores()[0]


def check_golden(model: SignedModel, engine: Engine) -> None:
    """Score the golden scans and compare: an engine that cannot repeat them must not judge electrodes.

    An engine that converts on its device must repeat them that way too, for that is how the line will use it.
    Raises ModelError naming the scan, the score, observed and expected; EngineError when the engine fails.
    """
    compare_golden(model, golden_scores(model, engine), engine.spec.name)
    if isinstance(engine, RawEngine):
        preprocessor = Preprocessor(engine, model.input_spec())
        scans = [preprocessor.prepare(golden_counts(model, golden)) for golden in model.manifest.golden]
        observed = [preprocessor.infer([scan]).scores()[0] for scan in scans]
        compare_golden(model, observed, f"{engine.spec.name}, raw scans")


def check_full_batch(model: SignedModel, engine: Engine) -> None:
    """Score the golden scans in one batch as large as the engine takes: a GPU may run other code for it.

    Raises as `check_golden`.
    """
    golden = list(islice(cycle(model.manifest.golden), engine.spec.max_batch))
    batch = f"batch of {len(golden)}"
    output = engine.infer(np.stack([golden_image(model, one) for one in golden]))
    _compare(model, golden, output.scores(), f"{engine.spec.name}, {batch}")
    if isinstance(engine, RawEngine):
        preprocessor = Preprocessor(engine, model.input_spec())
        output = preprocessor.infer([preprocessor.prepare(golden_counts(model, one)) for one in golden])
        _compare(model, golden, output.scores(), f"{engine.spec.name}, raw scans, {batch}")


def compare_golden(model: SignedModel, observed: Sequence[Scores], engine_name: str) -> None:
    """Raises ModelError unless all scores are within tolerance of the manifest's; a NaN never is."""
    _compare(model, model.manifest.golden, observed, engine_name)


def _compare(model: SignedModel, expected_of: Sequence[Golden], observed: Sequence[Scores], engine_name: str) -> None:
    for golden, scores in zip(expected_of, observed, strict=True):
        for name in ("p_abnormal", "gate_mean_max", "gate_std_max"):
            value, expected = getattr(scores, name), getattr(golden, name)
            if not abs(value - expected) <= golden.tolerance:
                raise ModelError(
                    f"model {model.model_id} on {engine_name}: {name} of {golden.file} is {value:.6g}, "
                    f"expected {expected:.6g} within {golden.tolerance:g}",
                    hint="the engine computes something else than what was signed: try another engine or another "
                    "release of it; `edge-export verify` shows all scores",
                )
