"""A signed model with random weights at any input size, and the checkpoints it was made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from train.checkpoint import Checkpoint, save_checkpoint
from train.dataset import read_labels, scan_facts
from train.networks import ElectrodeClassifier, GateAutoencoder
from train.recipe import usual_reduction
from train.simulator.simulate import write_lots

BOUNDS = Bounds(1700, 2800)
PASSES_EVERYTHING = 1e3
"""A gate threshold no residual reaches, as the classifier's of 0 is by all: this is about time, not outcomes."""

ENGINES = {
    "onnxruntime-fp32": ("onnxruntime", "fp32"),
    "openvino-fp32": ("openvino", "fp32"),
    "openvino-int8": ("openvino", "int8"),
}
"""What is measured: engine and model, by the name of its settings file."""


def make(run: Path, size: Size, scans: Path, scale: float = 1.0) -> Path:
    """For the scans of a folder: classifier.pt, gate.pt, a model of each precision, settings for each of ENGINES.

    `scale`: that of the scans beside full format. Returns `run`.
    """
    torch.manual_seed(1)
    networks = {"classifier": ElectrodeClassifier(1), "gate": GateAutoencoder()}
    facts = scan_facts(read_labels(scans), BOUNDS)
    thresholds = {
        "classifier": {"threshold": 0.0},
        "gate": {"gate_mean_threshold": PASSES_EVERYTHING, "gate_std_threshold": PASSES_EVERYTHING},
    }
    for kind, network in networks.items():
        save_checkpoint(
            run / f"{kind}.pt",
            Checkpoint(
                kind=kind,
                state_dict=network.state_dict(),
                method=Method.GLOBAL,
                bounds=BOUNDS,
                size=size,
                seed=1,
                data_digest="0" * 64,
                scan_height_px=(int(2053 * scale), round(2115 * scale)),
                scan_width_px=(int(1119 * scale), round(1219 * scale)),
                exposures=tuple(fact.exposure for fact in facts),
                sharpnesses=tuple(fact.sharpness for fact in facts),
                thresholds=thresholds[kind],
                recipe={"reduction": usual_reduction(size)} if kind == "gate" else {},
            ),
        )
    golden = write_lots(run / "golden", seed=3, lots=1, scans_per_lot=2, abnormal_fraction=0.5, scale=0.2).parent
    export = [sys.executable, "-m", "export.cli"]
    _run([*export, "keygen", "--out", run / "key"])
    # A threshold of 0 leaves no scan doubtful.
    as_int8 = ["--precision", "int8", "--calibrate", golden]
    for name, more in (("fp32", ["--weights-storage", "fp32"]), ("int8", as_int8)):
        _run(
            [
                *(*export, "model", "--classifier", run / "classifier.pt", "--gate", run / "gate.pt"),
                *("--golden", golden, "--key", run / "key" / "signing-key.pem", "--out", run / name),
                *("--model-id", f"bench-{name}", *more),
            ]
        )
    for name, (engine, model) in ENGINES.items():
        (run / f"{name}.toml").write_text(
            f'[model]\ndir = "{run / model}"\ntrusted_key = "{run / "key" / "signing-key.pub.pem"}"\n'
            f'engine = "{engine}"\n[state]\ndir = "{run / "state"}"\n[log]\nlevel = "error"\n'
        )
    return run


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
