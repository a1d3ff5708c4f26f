"""All commands of the README in their order, from labelled scans to verdicts, for recipes beyond the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.cli import main as edge_worker
from edge.conversion import prepare
from export.cli import main as edge_export
from train.checkpoint import load_checkpoint
from train.classifier.final import CHECKPOINT
from train.classifier.models import classifier_of
from train.cli import main as edge_train
from train.dataset import read_frame, read_labels
from train.networks import p_abnormal_of

torch.set_num_threads(1)
SIZE = "288x276"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "conversion", ["dhe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("local", "clahe"))]
)
def test_what_was_learnt_from_scans_judges_them(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], conversion: str
) -> None:
    lot, run, bundle, keys, out = (str(tmp_path / name) for name in ("lot", "run", "bundle", "keys", "out"))
    lot = str(small_lot)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'base = "best"\nmethod = "{conversion}"\n')
    learn = ["learn", lot, "--out", run, "--recipe", str(recipe), "--size", SIZE, "--weights", "none"]
    assert edge_train(learn) == 0
    gate = ["gate", lot, "--out", run, "--like", f"{run}/{CHECKPOINT}", "--steps", "3"]
    assert edge_train([*gate, "--plain-steps", "1", "--settle-steps", "1", "--batch", "2"]) == 0
    assert edge_export(["keygen", "--out", keys]) == 0
    networks = ["--classifier", f"{run}/{CHECKPOINT}", "--gate", f"{run}/gate.pt"]
    signed = ["--key", f"{keys}/signing-key.pem", "--model-id", "lot-1", "--out", bundle]
    assert edge_export(["bundle", *networks, "--golden", lot, *signed]) == 0
    model = ["--bundle", bundle, "--trusted-key", f"{keys}/signing-key.pub.pem"]
    capsys.readouterr()
    assert edge_worker(["--replay", lot, *model, "--labels", f"{lot}/labels.csv", "--out", out]) == 0

    verdicts = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert {verdict["scan"]["file"] for verdict in verdicts} == {row.file for row in read_labels(small_lot)}
    checkpoint = load_checkpoint(tmp_path / "run" / CHECKPOINT, "classifier")
    network = classifier_of(checkpoint).eval()
    judged = [verdict for verdict in verdicts if verdict["p_abnormal"] is not None]  # the rest was out of spec
    assert len(judged) > len(verdicts) / 2
    for verdict in judged[:4]:
        row = next(row for row in read_labels(small_lot) if row.file == verdict["scan"]["file"])
        image = prepare(read_frame(row).counts, checkpoint.method, checkpoint.bounds, checkpoint.size)
        with torch.inference_mode():
            p = p_abnormal_of(network(network.normalise(torch.from_numpy(image[np.newaxis]))))
        assert verdict["p_abnormal"] == pytest.approx(float(p[0]), abs=1e-3)
