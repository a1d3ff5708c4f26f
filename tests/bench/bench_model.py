"""A signed bundle with random weights at any input size, and the checkpoints it was made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from edge.conversion import Bounds, Method
from edge.records import Size
from train.checkpoint import Checkpoint, save_checkpoint
from train.networks import ElectrodeClassifier, GateAutoencoder
from train.simulate import write_lot

PASSES_EVERYTHING = 1e3
"""A gate threshold no residual reaches: the benchmark is about time, not about outcomes."""


def make(run: Path, size: Size) -> Path:
    """Write classifier.pt, gate.pt, bundle/ and edge.toml into `run`; returns it."""
    torch.manual_seed(1)
    networks = {"classifier": ElectrodeClassifier(1), "gate": GateAutoencoder()}
    thresholds = {
        "classifier": {"threshold": 0.5},
        "gate": {"gate_mean_threshold": PASSES_EVERYTHING, "gate_std_threshold": PASSES_EVERYTHING},
    }
    for kind, network in networks.items():
        save_checkpoint(
            run / f"{kind}.pt",
            Checkpoint(
                kind=kind,
                state_dict=network.state_dict(),
                method=Method.GLOBAL,
                bounds=Bounds(1700, 2800),
                size=size,
                seed=1,
                data_digest="0" * 64,
                scan_height_px=(2053, 2115),
                scan_width_px=(1119, 1219),
                thresholds=thresholds[kind],
            ),
        )
    golden = write_lot(run / "golden", seed=3, bundles=1, scans_per_bundle=2, abnormal_fraction=0.5, scale=0.2).parent
    export = [sys.executable, "-m", "export.cli"]
    subprocess.run([*export, "keygen", "--out", run / "key"], check=True, stdout=subprocess.DEVNULL)
    private = next(path for path in (run / "key").iterdir() if not path.name.endswith(".pub.pem"))
    public = next((run / "key").glob("*.pub.pem"))
    subprocess.run(
        [
            *(*export, "bundle", "--classifier", run / "classifier.pt", "--gate", run / "gate.pt", "--golden", golden),
            *("--key", private, "--out", run / "bundle", "--model-id", "bench", "--weights-storage", "fp32"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (run / "edge.toml").write_text(
        f'[model]\nbundle = "{run / "bundle"}"\ntrusted_key = "{public}"\n[log]\nlevel = "error"\n'
    )
    return run
