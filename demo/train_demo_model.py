"""`make demo-model`: the demo's networks from scratch, on simulated scans only, exported and signed into demo/bundle.

Simulates 64 bundles of 20 scans, trains classifier and gate at 1000 x 500, measures both on bundles neither has seen,
and makes the bundle. About an hour on two cores; nothing is downloaded, and no real scan, photograph or foreign weight
goes in. It shows that the line works; it says nothing about real electrodes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge.conversion import prepare
from edge.model import DEMO_KEY
from edge.validation.metrics import confusion, wilson
from train.checkpoint import Checkpoint, load_checkpoint
from train.classifier import predict
from train.dataset import load_scans, read_labels
from train.foreign import FOREIGN_KINDS, foreign_scan
from train.gate import score
from train.networks import ElectrodeClassifier, GateAutoencoder

HERE = Path(__file__).resolve().parent
SEED = 1
LOT = ["--bundles", "64", "--scans", "20", "--abnormal-fraction", "0.5", "--seed", str(SEED)]
UNSEEN = ["--bundles", "12", "--scans", "20", "--abnormal-fraction", "0.5", "--seed", "77", "--first-bundle", "1001"]
FOREIGN_PER_KIND = 10

# From scratch and in an hour: small images first, AdamW with one rise and fall of the rate, bfloat16. Then, at the full
# size, with the regions of the anomalies as a second task: a simulator knows where they are.
BEGIN = shlex.split(
    "--size 500x250 --weights none --fine-tune all --optimizer adamw --weight-decay 0.02 --lr 3e-4"
    " --schedule one-cycle --epochs 10 --size-schedule 250x125:6 --jitter 0.1 --amp bf16"
)
CLASSIFIER = shlex.split(
    "--size 1000x500 --weights none --fine-tune all --optimizer adamw --weight-decay 0.02 --lr 3e-4"
    " --schedule one-cycle --epochs 3 --size-schedule 500x250:2 --jitter 0.1 --amp bf16 --learn-regions"
    " --recalibrate-scans 160"
)
# The demo's gate refuses what is no electrode and lets ordinary anomalies pass to the classifier: it learns from all
# ordinary scans (the second use of the paper's gate), with foreign content as perturbation.
GATE = shlex.split(
    "--patches all --calibrate-on all --perturbation foreign --no-rotate --image-fpr 0.01 --margin 1.0"
    " --steps 2200 --plain-steps 500 --settle-steps 900 --per-weight 0.3 --batch 6 --lr 2e-3 --amp bf16"
)


def main() -> int:
    """Run all steps; those whose result stands in the work folder already are skipped."""
    options = parse_arguments()
    work: Path = options.work
    lot, unseen, run = work / "lot", work / "unseen", work / "run"
    for folder, numbers in ((lot, LOT), (unseen, UNSEEN)):
        if not (folder / "labels.csv").is_file():
            regions = ["--regions"] if folder is lot else []
            command("edge-train", "simulate", "--out", folder, *numbers, "--jobs", options.jobs, *regions)
    begin, classifier, gate = work / "begin" / "classifier.pt", run / "classifier.pt", run / "gate.pt"
    if not begin.is_file():
        command("edge-train", "classifier", lot, "--out", begin.parent, *BEGIN, "--seed", SEED)
    if not classifier.is_file():
        command("edge-train", "classifier", lot, "--out", run, "--start", begin, *CLASSIFIER, "--seed", SEED)
    if not gate.is_file():
        command("edge-train", "gate", lot, "--out", run, "--like", classifier, *GATE, "--seed", SEED)
    figures = measure(load_checkpoint(classifier, "classifier"), load_checkpoint(gate, "gate"), unseen)
    (run / "unseen.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    if options.no_export:
        return 0
    key = work / "key"
    shutil.rmtree(key, ignore_errors=True)
    command("edge-export", "keygen", "--out", key, "--name", "demo-key")
    made = work / "bundle"
    shutil.rmtree(made, ignore_errors=True)
    command(
        *("edge-export", "bundle", "--classifier", classifier, "--gate", gate, "--golden", unseen),
        *("--key", key / "demo-key.pem", "--out", made, "--model-id", options.model_id),
    )
    shutil.rmtree(HERE / "bundle", ignore_errors=True)
    shutil.copytree(made, HERE / "bundle")
    shutil.copy(key / "demo-key.pub.pem", DEMO_KEY)
    shutil.rmtree(key)  # the public half is trusted by default: nobody may sign anything else with this one
    return 0


def parse_arguments() -> argparse.Namespace:
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "demo-model", help="scans and checkpoints")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate")
    parser.add_argument("--model-id", default="demo-1", help="name of the model in every verdict")
    parser.add_argument("--no-export", action="store_true", help="stop after training and measuring")
    return parser.parse_args()


def command(program: str, *arguments: object) -> None:
    """Run one of the project's programs from this Python's environment; its failure ends the script."""
    line = [str(Path(sys.executable).parent / program), *map(str, arguments)]
    print("$", program, *line[1:], file=sys.stderr, flush=True)
    ended = subprocess.run(line, check=False)  # noqa: S603 - our own programs
    if ended.returncode:
        raise SystemExit(ended.returncode)


def measure(classifier: Checkpoint, gate: Checkpoint, unseen: Path) -> dict[str, object]:
    """Both networks on scans of bundles they have not seen, and the gate on images that are no scans."""
    network, autoencoder = ElectrodeClassifier(classifier.channels), GateAutoencoder()
    network.load_state_dict(classifier.state_dict)
    autoencoder.load_state_dict(gate.state_dict)
    scans = load_scans(read_labels(unseen), classifier.method, classifier.bounds, classifier.size)
    decided = confusion(
        predict(network, scans.images, classifier.size), scans.labels, classifier.thresholds["threshold"]
    )

    def flagged(images: np.ndarray) -> np.ndarray:
        means, stds = score(autoencoder, images)
        return (means > gate.thresholds["gate_mean_threshold"]) | (stds > gate.thresholds["gate_std_threshold"])

    reviewed = flagged(scans.images)
    foreign = {
        kind: flagged(
            np.stack(
                [
                    prepare(foreign_scan(kind, 5, number), gate.method, gate.bounds, gate.size)
                    for number in range(FOREIGN_PER_KIND)
                ]
            )
        )
        for kind in FOREIGN_KINDS
    }
    return {
        "unseen_scans": len(scans.rows),
        "confusion": {"tp": decided.tp, "fp": decided.fp, "tn": decided.tn, "fn": decided.fn},
        "balanced_accuracy": round(decided.balanced_accuracy, 4),
        "escapes_95": [round(bound, 4) for bound in wilson(decided.fn, decided.tp + decided.fn)],
        "overkill_95": [round(bound, 4) for bound in wilson(decided.fp, decided.fp + decided.tn)],
        "reviewed_normal": int(reviewed[scans.labels == 0].sum()),
        "reviewed_abnormal": int(reviewed[scans.labels == 1].sum()),
        "foreign_per_kind": FOREIGN_PER_KIND,
        "foreign_reviewed": {kind: int(found.sum()) for kind, found in foreign.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
