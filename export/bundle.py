"""From two checkpoints to a signed bundle, whole or not at all.

Export, compare with torch, store the weights, choose golden scans, sign, write beside the target, open what was
written as the line would, reproduce its golden scores, rename.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from edge import __version__
from edge.bundle import MANIFEST_FILE, SIGNATURE_FILE, Bundle, TrustedKey, verify_bundle
from edge.engines.opening import open_engine
from edge.engines.ort import OrtEngine
from edge.engines.pair import PairOfNetworks
from edge.files import sync_directory
from edge.golden import check_golden
from edge.manifest import (
    CLASSIFIER_FILE,
    GATE_FILE,
    GOLDEN_DIR,
    LABELS,
    SCHEMA_VERSION,
    Conversion,
    FileEntry,
    GateMap,
    Golden,
    Input,
    Manifest,
    Thresholds,
    manifest_json,
)
from edge.records import Policy, Scores
from export.arithmetic import check_arithmetic
from export.comparison import compare, refuse_changed_decisions
from export.errors import ExportError
from export.golden import GoldenScan, choose_golden
from export.graphs import (
    ClassifierGraph,
    GateGraph,
    classifier_onnx,
    gate_onnx,
)
from export.keys import load_private_key
from export.parity import Difference, check_parity, check_storage, engine_scores, noise_image, torch_scores
from export.precision import CALIBRATION_SCANS, Precision, to_precision
from export.scan_range import scan_range
from export.scans import labels_of, load_scans
from export.storage import Storage, store_weights
from train.checkpoint import Checkpoint, load_checkpoint
from train.classifier.models import classifier_of
from train.gate.network import MAP_CELL_PX, gate_of, map_offset_px

TOLERANCE: Final[dict[Precision, float]] = {"fp32": 2e-3, "fp16": 1e-2, "int8": 3e-2}
"""How far another engine's golden scores may be off: between float32 on other CPUs (1e-6) and a decision's worth. With
fewer bits every engine rounds in other places."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how faithful it is."""

    bundle: Bundle
    parity: Difference
    drift: Difference
    """By storing weights in fewer bits, over the golden scans; by computing in fewer, over all of their folder."""


def export_bundle(
    *,
    classifier: Path,
    gate: Path,
    golden: Path,
    key: Path,
    out: Path,
    model_id: str,
    precision: Precision = "fp32",
    storage: Storage | None = None,
    calibrate: Path | None = None,
    review_band: tuple[float, float] | None = None,
    say: Callable[[str], None],
) -> Exported:
    """Write the bundle `out` from two checkpoints of `edge-train`; see the module.

    `precision`: what the graphs compute in; `storage`: how weights lie in the file of an fp32 bundle, None for int8.
    `calibrate`: a folder of scans, for int8 graphs. Without `review_band` the bundle gets the one that
    `edge-train calibrate` found, if it did. Raises ExportError, ParityError, CheckpointError, and BundleError where the
    result is not what the line accepts.
    """
    storage = storage_for(precision, storage)
    private_key = load_private_key(key)
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out} exists already", hint="a bundle never changes: write a new one beside it")
    learnt_classifier, learnt_gate = load_checkpoint(classifier, "classifier"), load_checkpoint(gate, "gate")
    check_pair(learnt_classifier, learnt_gate)
    learnt = learnt_classifier
    size, channels = learnt.size, learnt.channels
    review_band = review_band or learnt.review_band  # what is judged here is what the line will judge by

    network = classifier_of(learnt_classifier)
    gate_network = gate_of(learnt_gate)
    say(f"exporting for {size.height_px} x {size.width_px} px, {channels} channel(s), conversion {learnt.method}")
    graphs = {
        CLASSIFIER_FILE: classifier_onnx(ClassifierGraph(network), channels, size),
        GATE_FILE: gate_onnx(GateGraph(gate_network), channels, size),
    }
    plain = {name: graph.SerializeToString() for name, graph in graphs.items()}
    ranges = load_scans(calibrate, learnt.method, learnt.bounds, size, CALIBRATION_SCANS) if calibrate else []
    computing = to_precision(
        graphs, precision, [scan.image for scan in ranges], lambda done, total: say(f"calibrating: {done} of {total}")
    )
    stored = {
        name: (store_weights(graph, storage) if precision == "fp32" else graph).SerializeToString()
        for name, graph in computing.items()
    }

    engine = OrtEngine(PairOfNetworks(stored[CLASSIFIER_FILE], stored[GATE_FILE], size, channels, precision))
    golden_scans = choose_golden(
        golden,
        engine,
        method=learnt.method,
        bounds=learnt.bounds,
        threshold=learnt.thresholds["threshold"],
        progress=lambda done, total: say(f"golden scans: {done} of {total} candidates scored"),
    )
    images = [scan.image for scan in golden_scans]
    engine.close()
    engine = OrtEngine(PairOfNetworks(plain[CLASSIFIER_FILE], plain[GATE_FILE], size, channels))
    noise = noise_image(channels, *size)
    plain_scores = engine_scores(engine, [*images, noise])
    engine.close()
    parity = check_parity(plain_scores, torch_scores(network, gate_network, learnt.method, [*images, noise]))
    say(f"torch and onnxruntime agree: {parity}")
    if precision == "fp32":
        drift = check_storage([scan.scores for scan in golden_scans], plain_scores[: len(images)], storage)
        say(f"weights stored as {storage} move the golden scores by: {drift}")
    else:
        drift = _check_precision(precision, plain, stored, golden, learnt_classifier, learnt_gate, review_band, say)

    contents = stored | {f"{GOLDEN_DIR}/{scan.name}": scan.tiff for scan in golden_scans}
    manifest = _manifest(
        model_id,
        learnt_classifier,
        learnt_gate,
        precision,
        storage,
        review_band,
        golden_scans,
        contents,
        private_key,
    )
    bundle = write_bundle(out, manifest, contents, private_key)
    return Exported(bundle, parity, drift)


def storage_for(precision: Precision, storage: Storage | None) -> Storage:
    """How weights are stored: as asked for in an fp32 bundle, else in what computes. Raises ExportError."""
    if precision == "fp32":
        return storage or "int8"
    if storage is not None:
        raise ExportError(
            f"weights of an {precision} bundle are stored as {precision}, not as {storage}",
            hint="--weights-storage is for --precision fp32: it changes the file, not the arithmetic",
        )
    return precision


def _check_precision(
    precision: Precision,
    plain: Mapping[str, bytes],
    stored: Mapping[str, bytes],
    folder: Path,
    classifier: Checkpoint,
    gate: Checkpoint,
    review_band: tuple[float, float] | None,
    say: Callable[[str], None],
) -> Difference:
    """Judge all scans of the golden folder in float32 and in `precision`. Raises ParityError where decisions change."""
    scans = load_scans(folder, classifier.method, classifier.bounds, classifier.size)
    scores: dict[str, list[Scores]] = {}
    for graphs, computes_in in ((plain, "fp32"), (stored, precision)):
        pair = (graphs[CLASSIFIER_FILE], graphs[GATE_FILE])
        engine = OrtEngine(PairOfNetworks(*pair, classifier.size, classifier.channels, computes_in))
        scores[computes_in] = engine_scores(engine, [scan.image for scan in scans])
        engine.close()
    policy = Policy(
        threshold=classifier.thresholds["threshold"],
        gate_mean_threshold=gate.thresholds["gate_mean_threshold"],
        gate_std_threshold=gate.thresholds["gate_std_threshold"],
        review_band=review_band,
    )
    files = [scan.file for scan in scans]
    found = compare(precision, files, scores["fp32"], scores[precision], policy, labels_of(scans))
    say(f"{precision} moves the scores of {found.scans} scans by at most: {found.worst}; {len(found.flips)} flips")
    refuse_changed_decisions(found, precision)
    return found.worst


def check_pair(classifier: Checkpoint, gate: Checkpoint) -> None:
    """Raises ExportError unless both networks look at the same image and have their thresholds."""
    for what, of_classifier, of_gate in (
        ("conversion", classifier.method, gate.method),
        ("bounds", classifier.bounds, gate.bounds),
        ("size", tuple(classifier.size), tuple(gate.size)),
    ):
        if of_classifier != of_gate:
            raise ExportError(
                f"the classifier was trained with {what} {of_classifier}, the gate with {of_gate}",
                hint="one scan is converted once for both: train them with the same --method, --bounds and --size",
            )
    for learnt, names in ((classifier, ("threshold",)), (gate, ("gate_mean_threshold", "gate_std_threshold"))):
        for name in names:
            if not math.isfinite(learnt.thresholds.get(name, math.nan)):
                raise ExportError(
                    f"the {learnt.kind}'s {name} is {learnt.thresholds.get(name)}, expected a number",
                    hint=f"train the {learnt.kind} again with this release",
                )


def write_bundle(out: Path, manifest: Manifest, contents: Mapping[str, bytes], key: Ed25519PrivateKey) -> Bundle:
    """Sign and write; the folder appears under its name only after it was opened and its golden scores repeated."""
    manifest_bytes = manifest_json(manifest)
    files = {MANIFEST_FILE: manifest_bytes, SIGNATURE_FILE: key.sign(manifest_bytes), **contents}
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (temporary / GOLDEN_DIR).mkdir(parents=True)
        for name, data in files.items():
            _write(temporary / name, data)
        sync_directory(temporary / GOLDEN_DIR)
        sync_directory(temporary)
        bundle = verify_bundle(temporary, [TrustedKey("the signing key", key.public_key())])
        check_arithmetic(bundle)
        engine = open_engine(bundle)
        try:
            check_golden(bundle, engine)
        finally:
            engine.close()
        temporary.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise ExportError(
            f"the bundle {out} cannot be written: {error}", hint="check the folder and the disk"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle


def _manifest(
    model_id: str,
    classifier: Checkpoint,
    gate: Checkpoint,
    precision: Precision,
    storage: Storage,
    review_band: tuple[float, float] | None,
    golden: tuple[GoldenScan, ...],
    contents: Mapping[str, bytes],
    key: Ed25519PrivateKey,
) -> Manifest:
    bounds = classifier.bounds
    try:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model_id=model_id,
            created_at=datetime.now(UTC).replace(microsecond=0),
            signing_key=TrustedKey("", key.public_key()).fingerprint,
            input=Input(
                height_px=classifier.size.height_px,
                width_px=classifier.size.width_px,
                channels=3 if classifier.channels == 3 else 1,
            ),
            conversion=Conversion(
                method=classifier.method,
                lo_counts=bounds.lo_counts if bounds else None,
                hi_counts=bounds.hi_counts if bounds else None,
            ),
            labels=LABELS,
            policy=Thresholds(
                threshold=classifier.thresholds["threshold"],
                review_band=review_band,
                gate_mean_threshold=gate.thresholds["gate_mean_threshold"],
                gate_std_threshold=gate.thresholds["gate_std_threshold"],
            ),
            scan_spec=scan_range(classifier, gate),
            gate_map=GateMap(cell_px=MAP_CELL_PX, offset_px=map_offset_px(int(gate.recipe.get("reduction") or 1))),
            precision=precision,
            weights_storage=storage,
            training=_training(classifier, gate),
            tools=_tools(),
            golden=tuple(
                Golden(
                    file=f"{GOLDEN_DIR}/{scan.name}",
                    p_abnormal=scan.scores.p_abnormal,
                    gate_mean_max=scan.scores.gate_mean_max,
                    gate_std_max=scan.scores.gate_std_max,
                    tolerance=TOLERANCE[precision],
                )
                for scan in golden
            ),
            files={
                name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
                for name, data in contents.items()
            },
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ExportError(
            f"the checkpoints make no valid manifest: {error.title} {where}: {first['msg']}, got {first['input']!r}",
            hint="train again, or mend the option it names",
        ) from None


def _training(classifier: Checkpoint, gate: Checkpoint) -> dict[str, str]:
    facts = {"data_digest": classifier.data_digest}
    for name, learnt in (("classifier", classifier), ("gate", gate)):
        facts[f"{name}_data_digest"] = learnt.data_digest
        facts[f"{name}_seed"] = str(learnt.seed)
        facts[f"{name}_recipe"] = json.dumps(learnt.recipe, sort_keys=True)
        facts[f"{name}_metrics"] = json.dumps(learnt.metrics, sort_keys=True)
    return facts


def _tools() -> dict[str, str]:
    return {
        "electrode-line": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
