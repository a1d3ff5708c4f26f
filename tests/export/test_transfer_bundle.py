"""From an electrode set through the transfer detector to verdicts of the line, by the commands."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.cli import main as worker
from export.cli import main as export
from train.cli import main as train
from train.simulate import write_lot

pytestmark = pytest.mark.timeout(600)  # torch exports two networks


def test_a_transfer_run_becomes_a_bundle_that_judges_like_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lot, run, bundle, out = (tmp_path / name for name in ("lot", "run", "bundle", "out"))
    write_lot(lot, seed=3, bundles=3, scans_per_bundle=4, abnormal_fraction=0.5, scale=0.15)
    options = ["--weights", "none", "--size", "280x280"]
    assert train(["transfer", str(lot), "--out", str(run), *options]) == 0
    gate = ["--like", str(run / "classifier.pt"), "--steps", "2", "--plain-steps", "1", "--batch", "2"]
    assert train(["gate", str(lot), "--out", str(run), *gate, "--margin", "9"]) == 0
    assert export(["keygen", "--out", str(tmp_path)]) == 0
    checkpoints = ["--classifier", str(run / "classifier.pt"), "--gate", str(run / "gate.pt"), "--golden", str(lot)]
    signed = ["--key", str(tmp_path / "signing-key.pem"), "--model-id", "transfer-1", "--weights-storage", "fp32"]
    assert export(["bundle", *checkpoints, *signed, "--out", str(bundle)]) == 0
    model = ["--bundle", str(bundle), "--trusted-key", str(tmp_path / "signing-key.pub.pem")]
    assert worker(["--replay", str(lot), *model, "--labels", str(lot / "labels.csv"), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"]["id"] == "transfer-1"
    assert summary["metrics"]["scans_count"] == 12
    with (lot / "labels.csv").open() as stream:
        labels = {row["file"]: row["label"] for row in csv.DictReader(stream)}
    with (out / "results.csv").open() as stream:
        p_abnormal = {row["file"]: float(row["p_abnormal"]) for row in csv.DictReader(stream)}
    found = json.loads((run / "transfer.json").read_text())
    held_out = found["split"].removeprefix("bundles held out: ")
    scored = {name: p for name, p in p_abnormal.items() if name.startswith(held_out)}
    pairs = [
        np.sign(p - q)
        for abnormal, p in scored.items()
        for normal, q in scored.items()
        if (labels[abnormal], labels[normal]) == ("abnormal", "normal")
    ]
    assert (np.mean(pairs) + 1) / 2 == pytest.approx(found["classes"]["normal"]["transfer"]["auroc"])
