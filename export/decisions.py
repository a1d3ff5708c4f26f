"""Whether the graphs of a model decide as the plain float32 ones do, on every engine of the CPU that is installed.

The line may run any of them, and fewer bits round in other places on each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

import onnx

from edge.contract.reasons import GATE_MEAN, GATE_STD
from edge.engines.choose import CPU_ENGINES, CpuEngine, open_on_cpu
from edge.engines.cpu import PairOfNetworks
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.pipeline.decide import decide
from edge.records import Image, Outcome, Policy, Scores, Size
from export.comparison import Comparison, compare, refuse_changed_decisions
from export.errors import ParityError
from export.layers import worst_layers
from export.parity import Difference, difference, engine_scores
from export.scans import ConvertedScan, labels_of

SHOWN_LAYERS: Final = 3
"""Layers of each graph that a refusal names; `edge-export parity` shows more."""
LAYER_SCANS: Final = 2

Graphs = Mapping[str, bytes]
"""The two graphs of a model, serialised, by their names in it."""


def check_decisions(
    what: str,
    graphs: Graphs,
    plain: Graphs,
    precision: str,
    scans: Sequence[ConvertedScan],
    policy: Policy,
    say: Callable[[str], None],
) -> Difference:
    """Judge `scans` by `plain` in float32, on onnxruntime, and by `graphs`, which compute in `precision`, everywhere.

    The greatest difference of each score on any engine. Raises ParityError where decisions change, naming the engine
    and the layers that differ most on scans that flip; EngineError where an engine is installed but does not open.
    """
    images, files = [scan.image for scan in scans], [scan.file for scan in scans]
    size, channels = Size(*images[0].shape[1:]), images[0].shape[0]

    def judged(name: CpuEngine, pair: Graphs, computes_in: str) -> list[Scores]:
        networks = PairOfNetworks(pair[CLASSIFIER_FILE], pair[GATE_FILE], size, channels, computes_in)
        engine = open_on_cpu(networks, name)
        try:
            return engine_scores(engine, images)
        finally:
            engine.close()

    expected = judged("onnxruntime", plain, "fp32")
    missing = "" if find_spec("openvino") else " (OpenVINO is not installed here and was not asked)"
    scored = {name: judged(name, graphs, precision) for name in (CPU_ENGINES[:1] if missing else CPU_ENGINES)}
    for name, observed in scored.items():
        found = compare(f"{what} on {name}", files, expected, observed, policy, labels_of(scans))
        say(f"{found.name} moves {len(files)} scans by at most: {found.worst}; {len(found.flips)} flips{missing}")
        try:
            refuse_changed_decisions(found)
        except ParityError as error:
            layers = _layers(graphs, plain, _flipped(found, scans))
            raise ParityError(f"{error.message}{missing}; layers that differ most: {layers}", hint=error.hint) from None
    return difference([one for observed in scored.values() for one in observed], expected * len(scored))


def decision_lines(scores: Sequence[Scores], policy: Policy) -> list[str]:
    """How the line would decide scans with these scores; a warning where the gate refuses most of them."""
    decisions = [decide(one, policy) for one in scores]
    refused = sum(not {GATE_MEAN, GATE_STD}.isdisjoint(decision.reasons) for decision in decisions)
    counts = Counter(decision.outcome for decision in decisions)
    parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    lines = [f"of {len(scores)} golden scans the line would decide: {parts}; the gate refuses {refused}"]
    if 2 * refused > len(scores):
        lines.append(
            f"warning: the gate refuses {refused} of {len(scores)} golden scans, so most scans would go to a person:"
            " train the gate longer or on more lots, and replay labelled scans before this model runs"
        )
    return lines


def _flipped(found: Comparison, scans: Sequence[ConvertedScan]) -> list[Image]:
    """Some scans that show what is wrong: those that flip, or any where none does."""
    files = {flip.file for flip in found.flips}
    return [scan.image for scan in scans if not files or scan.file in files][:LAYER_SCANS]


def _layers(graphs: Graphs, plain: Graphs, images: Sequence[Image]) -> str:
    """The worst layers of each graph that is not the plain one, computed in onnxruntime."""
    parts = []
    for name in (CLASSIFIER_FILE, GATE_FILE):
        if graphs[name] != plain[name]:
            observed, expected = (onnx.load_from_string(each[name]) for each in (graphs, plain))
            parts.append(f"{name} " + ", ".join(map(str, worst_layers(observed, expected, images, SHOWN_LAYERS))))
    return "; ".join(parts) or "none, the graphs are the same"
