"""From two checkpoints to a signed model, whole or not at all.

Export, store the weights, choose golden scans, compare with torch, judge scans as before and after, sign, write beside
the target, open what was written as the line would, reproduce its golden scores, rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from edge import __version__
from edge.engines.choose import open_engine
from edge.engines.cpu import PairOfNetworks
from edge.engines.golden import check_golden
from edge.engines.ort import OrtEngine
from edge.model.manifest import (
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
    LearntFrom,
    Manifest,
    QuickPass,
    ReasonMap,
    Thresholds,
    signed_json,
)
from edge.model.signed_model import MANIFEST_FILE, SIGNATURE_FILE, SignedModel, TrustedKey, verify_model
from edge.system.files import sync_directory, write_whole
from edge.system.progress import Reporter
from export.arithmetic import check_arithmetic
from export.decisions import check_decisions, decision_lines
from export.errors import ExportError, ParityError
from export.golden import GoldenScan, choose_golden
from export.graphs import (
    ClassifierGraph,
    GateGraph,
    classifier_onnx,
    gate_onnx,
)
from export.keys import load_private_key
from export.parity import check_parity, check_reason, check_storage, engine_scores, noise_image, torch_scores
from export.precision import CALIBRATION_SCANS, Precision, to_float16
from export.quick_pass import with_quick_pass
from export.reason import reason_geometry
from export.request import ExportRequest, TrainedPair, load_pair, storage_for
from export.scan_range import ENOUGH_LOTS, clipping_warning, scan_range
from export.scans import ConvertedScan, converted_scans, scan_files
from export.storage import Storage, store_weights
from train.checkpoint import Checkpoint
from train.classifier.models import classifier_of
from train.gate.network import MAP_CELL_PX, gate_of
from train.weights import random_warning

TOLERANCE: Final[dict[Precision, float]] = {"fp32": 2e-3, "fp16": 1e-2, "int8": 3e-2}
"""How far another engine's golden scores may be off: between float32 on other CPUs (1e-6) and a decision's worth. With
fewer bits every engine rounds in other places."""
STORAGE_SCANS: Final = 64
"""Scans of the golden folder, evenly spread, that judge a model whose weights are merely stored in fewer bits.

That rounds little, and each scan takes an engine's time. Where the graphs compute in fewer bits, all scans are judged.
"""


def export_model(request: ExportRequest, reporter: Reporter) -> SignedModel:
    """Write the model `request.out` from two checkpoints of `edge-train`; see the module.

    Raises ExportError, ParityError, CheckpointError, and ModelError where the result is not what the line accepts.
    """
    storage = storage_for(request.precision, request.storage)
    if request.precision == "int8" and request.calibrate is None:
        raise ExportError(
            "int8 takes its ranges from real scans, none were given",
            hint="name a folder of ordinary and anomalous scans: --calibrate DIR",
        )
    for folder in filter(None, (request.golden, request.calibrate)):
        scan_files(folder)
    private_key = load_private_key(request.key)
    if request.out.exists() or request.out.is_symlink():
        raise ExportError(f"{request.out} exists already", hint="a model never changes: write a new one beside it")
    pair = load_pair(request)
    lots = {*pair.classifier.lots, *pair.gate.lots}
    if len(lots) < ENOUGH_LOTS:
        reporter.say(
            f"warning: {len(lots)} lots say little about the exposure of others, so its limit is wide; expect some good"
            f" scans of new lots to be sent to a person, and train on {ENOUGH_LOTS} lots or more"
        )
    for warning in (clipping_warning(pair.classifier, pair.gate), random_warning(pair.classifier.recipe)):
        if warning is not None:
            reporter.say(warning)
    size, channels, method = pair.classifier.size, pair.classifier.channels, pair.classifier.method

    network, gate_network = classifier_of(pair.classifier), gate_of(pair.gate)
    reporter.say(f"exporting for {size.height_px} x {size.width_px} px, {channels} channel(s), conversion {method}")
    graphs = {
        CLASSIFIER_FILE: classifier_onnx(ClassifierGraph(network), channels, size),
        GATE_FILE: gate_onnx(GateGraph(gate_network), channels, size),
    }
    plain = {name: graph.SerializeToString() for name, graph in graphs.items()}
    # A small golden folder cannot show that int8 loses nothing, one scan of it is more than may be lost.
    tried: list[Storage] = ["fp16"] if request.precision == "fp32" and request.storage is None else []
    while True:
        try:
            stored, quick_pass, golden = _store_and_compare(graphs, plain, request, storage, pair, reporter)
            break
        except ParityError as error:
            if not tried:
                raise
            reporter.say(f"{error.message}; storing the weights as {tried[0]} instead, which takes twice the space")
            storage = tried.pop()
    _say_decisions(stored, request, pair, reporter)

    contents = stored | {f"{GOLDEN_DIR}/{scan.name}": scan.tiff for scan in golden}
    manifest = _manifest(request, storage, quick_pass, pair, golden, contents, private_key)
    return write_model(request.out, manifest, contents, private_key)


def _store_and_compare(
    graphs: dict[str, onnx.ModelProto],
    plain: Mapping[str, bytes],
    request: ExportRequest,
    storage: Storage,
    pair: TrainedPair,
    reporter: Reporter,
) -> tuple[dict[str, bytes], QuickPass | None, tuple[GoldenScan, GoldenScan]]:
    """The graphs as they go into the model, and its golden scans. Raises ParityError where they say otherwise."""
    size, channels, method = pair.classifier.size, pair.classifier.channels, pair.classifier.method
    stored, quick_pass = _stored(graphs, request, storage, pair, reporter)

    golden = _golden(stored, request, pair, reporter)
    pictures = [*(scan.image for scan in golden), noise_image(channels, *size)]
    classifier = classifier_of(pair.classifier)
    has_reason = reason_geometry(classifier) is not None
    engine = OrtEngine(PairOfNetworks(plain[CLASSIFIER_FILE], plain[GATE_FILE], size, channels, has_reason=has_reason))
    plain_scores = engine_scores(engine, pictures)
    if has_reason:
        check_reason(engine, classifier, pictures[1:])
    engine.close()
    parity = check_parity(plain_scores, torch_scores(classifier, gate_of(pair.gate), method, pictures))
    reporter.say(f"torch and onnxruntime agree: {parity}")
    if request.precision == "fp32":
        drift = check_storage([scan.scores for scan in golden], plain_scores[: len(golden)], storage)
        reporter.say(f"weights stored as {storage} move the golden scores by: {drift}")
    if stored != plain:
        _check_decisions(stored, plain, request, storage, pair, reporter)
    return stored, quick_pass, golden


def _say_decisions(stored: Mapping[str, bytes], request: ExportRequest, pair: TrainedPair, reporter: Reporter) -> None:
    """Say how scans of the golden folder would be decided, and warn where most would go to a person."""
    of = pair.classifier
    scans = _scans(request.golden, pair, STORAGE_SCANS)
    networks = PairOfNetworks(stored[CLASSIFIER_FILE], stored[GATE_FILE], of.size, of.channels, request.precision)
    engine = OrtEngine(networks)
    try:
        scores = engine_scores(engine, [scan.image for scan in scans])
    finally:
        engine.close()
    for line in decision_lines(scores, pair.policy):
        reporter.say(line)
    known = len({scan.sha256 for scan in scans} & {*of.scan_sha256s})
    if known and of.recipe.get("head") == "neighbours":
        reporter.say(
            f"warning: {known} of {len(scans)} golden scans are among those it learnt from, at distance 0, where no"
            " rounding changes a decision: keep a lot back for --golden, or ask `edge-export parity` of other scans"
        )


def _stored(
    graphs: dict[str, onnx.ModelProto],
    request: ExportRequest,
    storage: Storage,
    pair: TrainedPair,
    reporter: Reporter,
) -> tuple[dict[str, bytes], QuickPass | None]:
    """The graphs as they go into the model, and where its quick pass does not decide, None without one."""
    quick_pass = None
    if request.precision == "int8":
        assert request.calibrate is not None, "asked for before"
        ranges = [scan.image for scan in _scans(request.calibrate, pair, CALIBRATION_SCANS)]
        progress = reporter.counter("calibrating")
        computing, quick_pass = with_quick_pass(graphs, ranges, pair.policy, reporter.say, progress)
    elif request.precision == "fp16":
        computing = {name: to_float16(graph) for name, graph in graphs.items()}
    else:
        computing = {name: store_weights(graph, storage) for name, graph in graphs.items()}
    return {name: graph.SerializeToString() for name, graph in computing.items()}, quick_pass


def _golden(
    stored: Mapping[str, bytes], request: ExportRequest, pair: TrainedPair, reporter: Reporter
) -> tuple[GoldenScan, GoldenScan]:
    of = pair.classifier
    networks = PairOfNetworks(stored[CLASSIFIER_FILE], stored[GATE_FILE], of.size, of.channels, request.precision)
    engine = OrtEngine(networks)
    try:
        return choose_golden(
            request.golden,
            engine,
            method=of.method,
            bounds=of.bounds,
            threshold=pair.policy.threshold,
            progress=reporter.counter("golden scans"),
        )
    finally:
        engine.close()


def _check_decisions(
    stored: Mapping[str, bytes],
    plain: Mapping[str, bytes],
    request: ExportRequest,
    storage: Storage,
    pair: TrainedPair,
    reporter: Reporter,
) -> None:
    """Raises ParityError where the graphs of the model decide otherwise than the plain ones; see STORAGE_SCANS."""
    if request.precision == "fp32":
        what, scans = f"storing the weights as {storage}", _scans(request.golden, pair, STORAGE_SCANS)
    else:
        what, scans = request.precision, _scans(request.golden, pair)
    check_decisions(what, stored, plain, request.precision, scans, pair.policy, reporter.say)


def _scans(folder: Path, pair: TrainedPair, at_most: int | None = None) -> list[ConvertedScan]:
    of = pair.classifier
    return converted_scans(folder, of.method, of.bounds, of.size, at_most)


def write_model(out: Path, manifest: Manifest, contents: Mapping[str, bytes], key: Ed25519PrivateKey) -> SignedModel:
    """Sign and write; the folder appears under its name only after it was opened and its golden scores repeated."""
    manifest_bytes = signed_json(manifest)
    files = {MANIFEST_FILE: manifest_bytes, SIGNATURE_FILE: key.sign(manifest_bytes), **contents}
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (temporary / GOLDEN_DIR).mkdir(parents=True)
        for name, data in files.items():
            with write_whole(temporary / name, durable=True) as stream:
                stream.write(data)
        model = verify_model(temporary, [TrustedKey("the signing key", key.public_key())])
        check_arithmetic(model)
        engine = open_engine(model)
        try:
            check_golden(model, engine)
        finally:
            engine.close()
        temporary.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise ExportError(
            f"the model {out} cannot be written: {error}", hint="check the folder and the disk"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _manifest(
    request: ExportRequest,
    storage: Storage,
    quick_pass: QuickPass | None,
    pair: TrainedPair,
    golden: Sequence[GoldenScan],
    contents: Mapping[str, bytes],
    key: Ed25519PrivateKey,
) -> Manifest:
    classifier, gate = pair.classifier, pair.gate
    bounds = classifier.bounds
    cells = reason_geometry(classifier_of(classifier))
    try:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model_id=request.model_id,
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
            policy=Thresholds.model_validate(asdict(pair.policy)),
            scan_spec=scan_range(classifier, gate),
            gate_map=GateMap(cell_px=MAP_CELL_PX, offset_px=gate_of(gate).map_offset_px),
            reason_map=None if cells is None else ReasonMap(cell_px=cells.cell_px, offset_px=cells.offset_px),
            precision=request.precision,
            quick_pass=quick_pass,
            weights_storage=storage,
            training=_training(classifier, gate),
            learnt_from=LearntFrom(
                lots=tuple(sorted({*classifier.lots, *gate.lots})),
                scans=_short({*classifier.scan_sha256s, *gate.scan_sha256s}),
                pixels=_short({*classifier.scan_pixels_sha256s, *gate.scan_pixels_sha256s}),
            ),
            calibrated_on=LearntFrom(
                lots=classifier.calibrated_lots,
                scans=_short(classifier.calibrated_sha256s),
                pixels=_short(classifier.calibrated_pixels_sha256s),
            ),
            tools=_tools(),
            golden=tuple(
                Golden(file=f"{GOLDEN_DIR}/{scan.name}", **asdict(scan.scores), tolerance=TOLERANCE[request.precision])
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
            hint="train again, or correct the option it names",
        ) from None


def _short(sha256s: Iterable[str]) -> tuple[str, ...]:
    """Digests as the manifest holds them: their first 16 digits, sorted."""
    return tuple(sorted({sha256[:16] for sha256 in sha256s}))


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
