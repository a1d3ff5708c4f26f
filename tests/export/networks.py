"""Untrained networks whose scores depend on the image, for export tests; checkpoints and models of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.sharpness import Sharpness
from edge.records import Size
from export.keys import create_keys
from tests.support.fakes import write_scan
from train.checkpoint import Checkpoint, save_checkpoint
from train.gate.network import Gate, state_of
from train.networks import ElectrodeClassifier, GateAutoencoder

BOUNDS = Bounds(1700, 2800)


def lively_classifier(channels: int = 1) -> ElectrodeClassifier:
    """Random weights, batch norm statistics that are not those of a fresh layer, a last layer that spreads p."""
    torch.manual_seed(3)
    network = ElectrodeClassifier(channels).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1)
            nn.init.normal_(layer.bias, 0, 0.1)
    nn.init.normal_(network.head[-1].weight, 0, 3)
    return network


def lively_gate() -> Gate:
    """Random weights and, unlike a fresh network, biases; in the paper's form."""
    torch.manual_seed(4)
    network = GateAutoencoder().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.uniform_(layer.bias, 0, 0.1)
    return Gate(network).eval()


def exposure_around(median_counts: int, spread: float = 1.0) -> tuple[int, ...]:
    """Percentiles of a sheet with air around it."""
    return tuple(round(median_counts + spread * step) for step in (-60, -40, -30, -12, 0, 12, 150, 380, 430))


def write_checkpoints(
    folder: Path,
    size: Size,
    *,
    method: Method = Method.GLOBAL,
    gate_bounds: Bounds | None = BOUNDS,
    thresholds: dict[str, float] | None = None,
    gate_thresholds: dict[str, float] | None = None,
) -> tuple[Path, Path]:
    """`classifier.pt` and `gate.pt` as `edge-train` leaves them."""
    facts = {"method": method, "size": size, "scan_height_px": (90, 110), "scan_width_px": (60, 80)}
    classifier = Checkpoint(
        kind="classifier",
        state_dict=lively_classifier(method.channels).state_dict(),
        bounds=BOUNDS if method.needs_bounds else None,
        seed=3,
        data_digest="c" * 64,
        scan_sha256s=("a" * 64,),
        scan_pixels_sha256s=("d" * 64,),
        lots=("B01",),
        calibrated_sha256s=("e" * 64,),
        calibrated_pixels_sha256s=("f" * 64,),
        calibrated_lots=("B03",),
        max_clipped_fraction=0.03,
        exposures=tuple(exposure_around(2100 + 20 * step) for step in range(10)),
        sharpnesses=tuple(Sharpness(3.0 + 0.01 * step, 3.2, 10.0 + 0.1 * step, 1.0) for step in range(10)),
        thresholds={"threshold": 0.5} | (thresholds or {}),
        recipe={"epochs": 1, "weights": "none"},
        **facts,
    )
    gate = Checkpoint(
        kind="gate",
        state_dict=state_of(lively_gate()),
        bounds=gate_bounds if method.needs_bounds else None,
        seed=4,
        data_digest="d" * 64,
        scan_sha256s=("b" * 64,),
        scan_pixels_sha256s=("c" * 64, "d" * 64),
        lots=("B02",),
        max_clipped_fraction=0.01,
        thresholds={"gate_mean_threshold": 0.2, "gate_std_threshold": 0.1}
        if gate_thresholds is None
        else gate_thresholds,
        **facts,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "classifier.pt", classifier)
    save_checkpoint(folder / "gate.pt", gate)
    return folder / "classifier.pt", folder / "gate.pt"


def make_place(place: Path, size: Size, levels: Sequence[tuple[int, str]]) -> Path:
    """Checkpoints, a key, and scans of these counts with their labels."""
    write_checkpoints(place / "run", size)
    create_keys(place / "keys")
    (place / "scans").mkdir()
    rows = ["file,bundle,label"]
    for number, (level_counts, label) in enumerate(levels):
        write_scan(place / "scans" / f"{number}.tif", level_counts, number)
        rows.append(f"{number}.tif,b1,{label}")
    (place / "scans" / "labels.csv").write_text("\n".join(rows) + "\n")
    return place


def model_command(run: Path, place: Path, out: Path, *more: str) -> list[str]:
    """`edge-export model` on the checkpoints in `run`, the scans and the key in `place`."""
    options = {
        "--classifier": run / "classifier.pt",
        "--gate": run / "gate.pt",
        "--golden": place / "scans",
        "--key": place / "keys" / "signing-key.pem",
        "--out": out,
        "--model-id": "lively-1",
    }
    return ["model", *(str(part) for pair in options.items() for part in pair), *more]
