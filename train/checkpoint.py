"""Checkpoints: one file that says what was learnt, from which data, by which recipe.

Written to a temporary file, synced and renamed, so that a killed training leaves the previous checkpoint
whole. Loaded with `weights_only=True`: a checkpoint is never unpickled into code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from edge.images.conversion import Bounds
from edge.images.exposure import Exposure
from edge.images.method import Method
from edge.images.sharpness import Sharpness
from edge.records import Size
from train.dataset import Row, ScanFacts
from train.errors import CheckpointError, DataError, DivergedError
from train.files import clear_results, load_torch, write_whole

Kind = Literal["classifier", "gate"]
Value = str | int | float | bool | None
_Network = TypeVar("_Network", bound=nn.Module)

VERBS: Final[dict[Kind, str]] = {"classifier": "fit-features", "gate": "gate"}
"""Which verb of edge-train makes a checkpoint."""

FORMAT = 1
CLASSIFIER_FILE = "classifier.pt"
"""Name of the classifier's checkpoint in a run's folder, whichever verb learnt it."""
TRAINING_REPORT = "metrics.json"
CALIBRATION_REPORT = "calibration.json"
CALIBRATION_PLOT = "reliability"
"""What lies beside a classifier and speaks of it: how its training went, what its calibration found."""


class ScansSeen(TypedDict):
    """The fields of a checkpoint that say which scans it was made for."""

    scan_height_px: tuple[int, int]
    scan_width_px: tuple[int, int]
    max_clipped_fraction: float
    exposures: tuple[Exposure, ...]
    sharpnesses: tuple[Sharpness, ...]
    exposure_lots: tuple[str, ...]
    scan_sha256s: tuple[str, ...]
    scan_pixels_sha256s: tuple[str, ...]
    lots: tuple[str, ...]


def scans_seen(rows: Sequence[Row], facts: Sequence[ScanFacts]) -> ScansSeen:
    """What a checkpoint says of all scans that were learnt from or validated on."""
    heights, widths = [fact.height_px for fact in facts], [fact.width_px for fact in facts]
    return {
        "scan_height_px": (min(heights), max(heights)),
        "scan_width_px": (min(widths), max(widths)),
        "max_clipped_fraction": max(fact.clipped_fraction for fact in facts),
        "exposures": tuple(fact.exposure for fact in facts),
        "sharpnesses": tuple(fact.sharpness for fact in facts),
        "exposure_lots": tuple(row.lot for row in rows),
        "scan_sha256s": tuple(sorted({fact.sha256 for fact in facts})),
        "scan_pixels_sha256s": tuple(sorted({fact.pixels_sha256 for fact in facts})),
        "lots": tuple(sorted({row.lot for row in rows})),
    }


@dataclass(frozen=True)
class Checkpoint:
    """What `edge-train fit-features`, `fine-tune` and `gate` leave behind and `edge-export` starts from."""

    kind: Kind
    state_dict: dict[str, Tensor]
    method: Method
    bounds: Bounds | None
    """None where the method needs none (`naive`, `local`)."""
    size: Size
    """The size scans are resized to before the network."""
    seed: int
    data_digest: str
    """SHA-256 over the labels and the file hashes of the training folder."""
    scan_height_px: tuple[int, int]
    """Smallest and largest height of the scans it learnt from."""
    scan_width_px: tuple[int, int]
    max_clipped_fraction: float = 0.0
    """Largest share of pixels outside the bounds in any of those scans."""
    exposures: tuple[Exposure, ...] = ()
    """Exposures of all those scans; a checkpoint of an earlier release has none."""
    sharpnesses: tuple[Sharpness, ...] = ()
    """Sharpness of all those scans, in the order of `exposures`; a checkpoint of an earlier release has none."""
    exposure_lots: tuple[str, ...] = ()
    """Lot of the scan of each exposure."""
    scan_sha256s: tuple[str, ...] = ()
    """Digests of all those scans' files, sorted: none of them may calibrate or test the network."""
    scan_pixels_sha256s: tuple[str, ...] = ()
    """Digests of their counts, sorted: nor may one that was saved anew."""
    lots: tuple[str, ...] = ()
    """Names of their lots, sorted."""
    calibrated_sha256s: tuple[str, ...] = ()
    """Classifier: digests of the files that a calibration set its thresholds on, sorted; none before one."""
    calibrated_pixels_sha256s: tuple[str, ...] = ()
    """Digests of their counts, sorted."""
    calibrated_lots: tuple[str, ...] = ()
    """Names of their lots, sorted."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Classifier: `threshold`, and `review_low`, `review_high` once calibrated with a level. Gate:
    `gate_mean_threshold`, `gate_std_threshold`."""
    recipe: dict[str, Value] = field(default_factory=dict)
    """Every choice of the training, flat."""
    metrics: dict[str, Value] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Channels of a scan converted by this checkpoint's method."""
        return self.method.channels

    @property
    def review_band(self) -> tuple[float, float] | None:
        """Probabilities of abnormal that a person decides, ends included; None without a calibration."""
        if "review_low" not in self.thresholds:
            return None
        return self.thresholds["review_low"], self.thresholds["review_high"]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path` whole or not at all.

    What lies beside it and speaks of the classifier before goes first: a kill must not leave it beside this one.
    Raises DivergedError, before anything is written, for weights that are not finite.
    """
    if wild := not_finite(checkpoint.state_dict):
        raise DivergedError(
            f"the training left numbers that are not finite in {len(wild)} tensors of the {checkpoint.kind}, such as"
            f" {min(wild)}: {path} is not written",
            hint="lower --lr",
        )
    content: dict[str, Any] = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}
    content["format"] = FORMAT
    content["state_dict"] = {k: v.detach().cpu().contiguous() for k, v in checkpoint.state_dict.items()}
    content["method"] = checkpoint.method.value
    content["bounds"] = None if checkpoint.bounds is None else asdict(checkpoint.bounds)
    content["sharpnesses"] = tuple(tuple(one) for one in checkpoint.sharpnesses)  # plain, to load without code
    content["size"] = tuple(checkpoint.size)
    with write_whole(path) as stream:
        torch.save(content, stream)
        if checkpoint.kind == "classifier":
            clear_results(path.parent, CALIBRATION_REPORT, f"{CALIBRATION_PLOT}.*")
            if not checkpoint.calibrated_sha256s:  # one that was just learnt
                clear_results(path.parent, TRAINING_REPORT)


def load_checkpoint(path: Path, kind: Kind) -> Checkpoint:
    """Read a checkpoint of the given kind.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one of the other kind.
    """
    try:
        content = load_torch(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint at {path}", hint=f"train one with `edge-train {VERBS[kind]} DATA --out RUN`"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}",
            hint="the file may be damaged or cut short; train again or copy it again",
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of format {FORMAT}",
            hint="give the classifier.pt or gate.pt that `edge-train` wrote",
        )
    if content.get("kind") != kind:
        raise CheckpointError(
            f"{path} holds a {content.get('kind')}, expected a {kind}",
            hint=f"give the {kind}.pt of the run",
        )
    try:
        return _checkpoint_of(content, kind)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} lacks something, or holds something else in its place: {error!r}",
            hint="train again with this release, or copy it again",
        ) from error


def fitting(build: Callable[[Checkpoint], _Network]) -> Callable[[Checkpoint], _Network]:
    """Let what makes a checkpoint's network raise CheckpointError where its tensors or recipe fit none."""

    @wraps(build)
    def checked(checkpoint: Checkpoint) -> _Network:
        try:
            return build(checkpoint)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"tensors and recipe of the {checkpoint.kind} fit no network: {' '.join(str(error).split())[:300]}",
                hint=f"copy the {checkpoint.kind}.pt again, or train again with this release",
            ) from error

    return checked


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a number that is none, or an infinite one."""
    return [name for name, each in state.items() if each.is_floating_point() and not each.isfinite().all()]


def _refuse_senseless(content: dict[str, Any]) -> None:
    """Raise ValueError for a field that holds something else than its name says: it would show hours later."""
    state, sides = content["state_dict"], [*content["size"], *content["scan_height_px"], *content["scan_width_px"]]
    lists = ["exposure_lots", "scan_sha256s", "scan_pixels_sha256s", "lots"]
    lists += ["calibrated_sha256s", "calibrated_pixels_sha256s", "calibrated_lots"]
    expected = {
        "state_dict": isinstance(state, dict) and all(isinstance(each, Tensor) for each in state.values()),
        "size, scan_height_px, scan_width_px": all(isinstance(side, int) and side > 0 for side in sides),
        "seed": isinstance(content["seed"], int),
        "data_digest": isinstance(content["data_digest"], str),
        "thresholds": isinstance(content["thresholds"], dict)
        and all(isinstance(each, float) for each in content["thresholds"].values()),
        "bounds": not Method(content["method"]).needs_bounds or content["bounds"] is not None,
        **{name: isinstance(content[name], dict) for name in ("recipe", "metrics")},
        **{
            name: all(isinstance(each, str) for each in content[name]) and not isinstance(content[name], str)
            for name in lists
            if name in content
        },
    }
    if wrong := [name for name, is_right in expected.items() if not is_right]:
        raise ValueError(f"no sense in {', '.join(wrong)}")
    if wild := not_finite(state):
        raise ValueError(f"numbers that are not finite in {len(wild)} tensors, such as {min(wild)}")


def _checkpoint_of(content: dict[str, Any], kind: Kind) -> Checkpoint:
    _refuse_senseless(content)
    bounds = content["bounds"]
    return Checkpoint(
        kind=kind,
        state_dict=content["state_dict"],
        method=Method(content["method"]),
        bounds=None if bounds is None else Bounds(**bounds),
        size=Size(*content["size"]),
        seed=content["seed"],
        data_digest=content["data_digest"],
        scan_height_px=tuple(content["scan_height_px"]),
        scan_width_px=tuple(content["scan_width_px"]),
        max_clipped_fraction=content["max_clipped_fraction"],
        exposures=tuple(tuple(one) for one in content.get("exposures", ())),
        sharpnesses=tuple(Sharpness(*one) for one in content.get("sharpnesses", ())),
        exposure_lots=tuple(content.get("exposure_lots", ())),
        scan_sha256s=tuple(content.get("scan_sha256s", ())),
        scan_pixels_sha256s=tuple(content.get("scan_pixels_sha256s", ())),
        lots=tuple(content.get("lots", ())),
        calibrated_sha256s=tuple(content.get("calibrated_sha256s", ())),
        calibrated_pixels_sha256s=tuple(content.get("calibrated_pixels_sha256s", ())),
        calibrated_lots=tuple(content.get("calibrated_lots", ())),
        thresholds=content["thresholds"],
        recipe=content["recipe"],
        metrics=content["metrics"],
    )


def refuse_lots(learnt: Checkpoint, lots: Sequence[str], what: str = "calibrate on") -> None:
    """Raise DataError where the network knows one of the lots, or cannot say which it knows."""
    if not learnt.scan_sha256s:
        raise DataError(
            "the checkpoint does not say which scans it learnt from", hint="train it again with this release"
        )
    if known := [lot for lot in lots if lot in learnt.lots]:
        raise DataError(
            f"it learnt from lots of these names: {', '.join(known)}",
            hint=f"{what} scans of other lots, kept back as a whole; where only the names are alike, change them",
        )
