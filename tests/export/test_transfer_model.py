"""From an electrode set through the transfer detector to verdicts of the line, by the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.cli import main as worker
from edge.records import Size
from edge.validation.statistics import auroc
from export.cli import main as export
from tests.export.networks import write_checkpoints
from train.checkpoint import load_checkpoint
from train.classifier.models import classifier_of
from train.cli import main as train
from train.dataset import load_scans, read_labels
from train.papers.transfer.fine_tune import predict
from train.simulator.simulate import write_lots

pytestmark = pytest.mark.timeout(600)  # torch exports a network

SIZE = Size(96, 64)
"""Other tests use it too, so the gate was exported before: what it says of a scan is no part of what is asked here."""


def test_a_transfer_run_becomes_a_model_that_judges_like_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lot, run, exported, out = (tmp_path / name for name in ("lot", "run", "model", "out"))
    write_lots(lot, seed=3, lots=3, scans_per_lot=4, abnormal_fraction=0.5, scale=0.15)
    options = ["--weights", "none", "--size", f"{SIZE.height_px}x{SIZE.width_px}"]
    assert train(["transfer", str(lot), "--out", str(run), *options]) == 0
    learnt = load_checkpoint(run / "classifier.pt", "classifier")
    _, gate = write_checkpoints(tmp_path / "gate", SIZE, gate_bounds=learnt.bounds)
    assert export(["keygen", "--out", str(tmp_path)]) == 0
    checkpoints = ["--classifier", str(run / "classifier.pt"), "--gate", str(gate), "--golden", str(lot)]
    signed = ["--key", str(tmp_path / "signing-key.pem"), "--model-id", "transfer-1", "--weights-storage", "fp32"]
    assert export(["model", *checkpoints, *signed, "--out", str(exported)]) == 0
    model = ["--model", str(exported), "--trusted-key", str(tmp_path / "signing-key.pub.pem")]
    assert worker(["--replay", str(lot), *model, "--labels", str(lot / "labels.csv"), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"]["id"] == "transfer-1"
    assert summary["metrics"]["scans_count"] == 12
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    p_abnormal = {verdict["scan"]["file"]: verdict["p_abnormal"] for verdict in verdicts}
    found = json.loads((run / "transfer.json").read_text())
    held_out = [row for row in read_labels(lot) if found["split"] == f"lots held out: {row.lot}"]
    area = auroc(np.array([p_abnormal[row.file] for row in held_out]), np.array([row.label for row in held_out]))
    assert area == pytest.approx(found["classes"]["normal"]["transfer"]["auroc"])
    images = load_scans(held_out, learnt.method, learnt.bounds, learnt.size).images
    expected = predict(classifier_of(learnt), images, "cpu", amp=False)
    np.testing.assert_allclose([p_abnormal[row.file] for row in held_out], expected, atol=1e-4)
