"""`edge-train adapt`: a trained classifier for another line, from normal scans of that line alone.

What carries over from one line to another is which features tell an anomaly; what does not is what is normal: how grey
the scans are, what each place of a sheet looks like, how far p(abnormal) of normal scans goes. These are taken anew
(bounds, place statistics, threshold, and the facts by which the line recognises its scans); backbone, weights and the
standardisation of the features stay, and the graph with them. Measured in docs/experiments/classifier-adapted.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
import numpy.typing as npt
import torch

from edge.system.progress import Reporter
from train.bounds import MODES, Mode
from train.checkpoint import (
    CLASSIFIER_FILE,
    Checkpoint,
    load_checkpoint,
    refuse_lots,
    save_checkpoint,
    scans_seen,
)
from train.classifier import left_out
from train.classifier.crossval import samples_of
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, Conversion, compute_features, weights_sha256
from train.classifier.learner import HALF, Learnt, Samples
from train.classifier.left_out import figures, refuse_few
from train.classifier.models import PooledClassifier, classifier_of
from train.classifier.neighbours import Neighbours
from train.classifier.selection import Selection
from train.dataset import LABELS, Row, scan_facts
from train.device import choose_arithmetic, open_device
from train.errors import CheckpointError, DataError, TrainError
from train.recipe import Adaptation
from train.runner import Here
from train.survey import Survey, remarks, survey

_VIEWS = (0,)


@dataclass(frozen=True)
class Adapted:
    """What came of it."""

    learnt: Learnt
    p_left_out: npt.NDArray[np.float64]
    """p(abnormal) (scans,) of each normal scan, by the place statistics of the other lots."""


def adapt_to(learnt: Learnt, normal: Samples, refused: float) -> Adapted:
    """Take what is normal from these scans of two lots or more; the share `refused` of them is above the threshold.

    `learnt` must hold place statistics. Raises DataError where scores are not finite, or all alike.
    """
    lots = np.array(normal.lots)
    p_left_out = np.empty(len(lots))
    for lot in np.unique(lots):
        others, own = np.flatnonzero(lots != lot), np.flatnonzero(lots == lot)
        p_left_out[own] = _with_places(learnt, normal.take(others)).predict(normal.take(own))
    if not np.isfinite(p_left_out).all():
        raise DataError(
            f"p(abnormal) of {np.sum(~np.isfinite(p_left_out))} of {len(lots)} normal scans is not finite,"
            f" {normal.files[int(np.argmin(np.isfinite(p_left_out)))]} among them",
            hint="the network overflows on them: look at these scans, or learn the run again",
        )
    threshold = float(np.quantile(p_left_out, 1 - refused))
    if (above := int((p_left_out >= threshold).sum())) > 2 * (refused * (len(lots) - 1) + 1):
        raise DataError(
            f"{above} of {len(lots)} normal scans are above any threshold that refuses {refused:g} of them: most have"
            f" the same p(abnormal), {threshold:.4g}",
            hint="give scans of electrodes, of the contrast that the line's have; `edge-train doctor` looks at them",
        )
    return Adapted(replace(_with_places(learnt, normal), threshold=threshold), p_left_out)


def _with_places(learnt: Learnt, normal: Samples) -> Learnt:
    """Put the layers behind place statistics of these scans."""
    assert has_places(learnt.selection)
    selection = copy.deepcopy(learnt.selection)
    selection.fit_places(torch.from_numpy(normal.tiles).flatten(0, 1))
    return replace(learnt, selection=selection)


def adapt_run(
    run: Path, rows: Sequence[Row], wish: Adaptation, cache: FeatureCache, out: Path, reporter: Reporter
) -> Checkpoint:
    """Write the classifier of `run`, adapted to the normal scans among `rows`, to `out/classifier.pt`.

    Backbone passes resume from the cache. Raises CheckpointError; TrainError for a classifier without place
    statistics or the same folder twice; DataError for too few scans or lots, or such as the run has learnt from.
    """
    if out.resolve() == run.resolve():
        raise TrainError(f"{out} is the run itself", hint="give another folder: what is normal there stays known")
    before = load_checkpoint(run / CLASSIFIER_FILE, "classifier")
    network = classifier_of(before)
    if before.recipe.get("head") == "neighbours":
        raise TrainError(
            f"{run / CLASSIFIER_FILE} knows normal scans alone: nothing of it carries over",
            hint="fit the other line's own with `edge-train fit-features NORMALS --recipe neighbours`",
        )
    if not isinstance(network, PooledClassifier) or not has_places(network.selection):
        raise TrainError(
            f"{run / CLASSIFIER_FILE} does not know what is normal at which place: nothing of it can be adapted",
            hint="fit one that does with `edge-train fit-features DATA --recipe sheet`",
        )
    if (mode := cast(Mode, before.recipe.get("bounds_mode"))) not in MODES:
        raise CheckpointError(
            f"{run / CLASSIFIER_FILE} says that its bounds were found by {mode}, expected {' or '.join(MODES)}",
            hint="copy the classifier.pt again, or train again with this release",
        )
    normal = [row for row in rows if row.label == 0]
    if len(normal) < len(rows):
        reporter.say(f"left out: {len(rows) - len(normal)} scans that are labelled {LABELS[1]}")
    refuse_few(normal, wish.refused)
    refuse_lots(before, sorted({row.lot for row in normal}), "adapt to")
    open_device(wish.device)
    found = survey(normal, Here(), reporter.counter("scans read"), skip_unreadable=None)
    for sentence in remarks(found):
        reporter.say(sentence)
    found.refuse_copies()
    refuse_few(found.distinct, wish.refused)
    conversion = Conversion.of(before.method, found.bounds_without((), mode))
    facts = scan_facts(found.rows, conversion.bounds, progress=reporter.counter("scans measured"))
    seen = {*before.scan_sha256s, *before.scan_pixels_sha256s}
    known = [row.file for row, one in zip(found.rows, facts, strict=True) if seen & {one.sha256, one.pixels_sha256}]
    if known:
        raise DataError(
            f"{len(known)} of {len(facts)} scans were learnt from, {known[0]} among them",
            hint="give scans that the run has not seen; after more scans of the line adapt the first run anew",
        )
    samples = _samples(before, network, found, conversion, wish, cache, reporter)
    learnt = Learnt(network.selection, network.head, HALF, ())
    came = adapt_to(learnt, samples, wish.refused)
    network.selection = came.learnt.selection
    here = scans_seen(found.rows, facts)
    checkpoint = replace(
        before,
        state_dict=network.state_dict(),
        bounds=conversion.bounds,
        data_digest=found.digest,
        **here,
        calibrated_sha256s=(),
        calibrated_pixels_sha256s=(),
        calibrated_lots=(),
        thresholds={"threshold": came.learnt.threshold},
        recipe={**before.recipe, "refused": wish.refused},
        metrics={
            **figures(came.p_left_out, came.learnt.threshold, samples.lots),
            "learnt_data_digest": before.data_digest,
        },
    )
    # The line knows its scans by those of NORMALS alone; what may test the network is neither these nor those before.
    checkpoint = replace(
        checkpoint,
        scan_sha256s=_both(before.scan_sha256s, here["scan_sha256s"]),
        scan_pixels_sha256s=_both(before.scan_pixels_sha256s, here["scan_pixels_sha256s"]),
        lots=_both(before.lots, here["lots"]),
    )
    save_checkpoint(out / CLASSIFIER_FILE, checkpoint)
    return checkpoint


def has_places(selection: Selection | Neighbours) -> TypeGuard[Selection]:
    """Whether it holds what is normal at each place beside what tells an anomaly there."""
    return isinstance(selection, Selection) and selection.has_places


def _both(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other}))


def _samples(
    before: Checkpoint,
    network: PooledClassifier,
    found: Survey,
    conversion: Conversion,
    wish: Adaptation,
    cache: FeatureCache,
    reporter: Reporter,
) -> Samples:
    """Features of the normal scans as they lie, by the run's own backbone: mirrored views of them add nothing."""
    amp = choose_arithmetic(wish.amp, wish.device, reporter.say) == "bf16"
    backbone = Backbone("", weights_sha256(network), before.size, amp, wish.device, before.seed)
    numbers = range(len(found.rows))
    table = compute_features(
        {conversion: dict.fromkeys(numbers, _VIEWS)},
        found.rows,
        [scan.sha256 for scan in found.scans],
        backbone,
        cache,
        Here(),
        reporter.counter("backbone passes"),
        network,
    )[conversion]
    return samples_of(table, found.rows, numbers, _VIEWS)


def sentences(checkpoint: Checkpoint) -> list[str]:
    """What `adapt` found, for a person."""
    bounds = checkpoint.bounds
    return [
        f"bounds {bounds.lo_counts} to {bounds.hi_counts} counts" if bounds else "the conversion takes no bounds",
        *left_out.sentences(checkpoint.metrics, checkpoint.thresholds["threshold"]),
    ]
