"""`make demo-model`: the demo's networks from scratch, on simulated scans only, exported and signed into demo/model.

Simulates 180 lots of 8 scans, trains classifier and gate at 1000 x 500, makes the model and lets the line itself
judge 120 scans of lots no network has seen, and images that are no scans. Nothing is downloaded, and no real scan,
photograph or foreign weight goes in. It shows that the line works; it says nothing about real electrodes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2

from edge.pipeline.loaded_model import DEMO_KEY
from train.simulator.foreign import FOREIGN_KINDS, foreign_scan

HERE = Path(__file__).resolve().parent
SEED = 1
LOT = shlex.split("--lots 180 --scans-per-lot 8 --abnormal-fraction 0.5 --regions")
"""Many lots of few scans: what a network has to learn to overlook is what differs between lots."""
UNSEEN = shlex.split("--lots 12 --scans-per-lot 10 --abnormal-fraction 0.5 --seed 77 --first-lot 1001")
FOREIGN_PER_KIND = 10

# From scratch and in an hour on two cores: AdamW with one rise and fall of the rate, most epochs at half the
# size, and the regions of the anomalies as a second task: a simulator knows where they are.
CLASSIFIER = shlex.split(
    "--size 1000x500 --weights none --fine-tune all --optimizer adamw --weight-decay 0.02 --lr 4e-4"
    " --schedule one-cycle --epochs 9 --size-schedule 500x250:7 --jitter 0.1 --learn-regions"
    " --recalibrate-scans 320 --validation-share 0.1"
)
# The demo's gate refuses what is no electrode and lets ordinary anomalies pass to the classifier: it learns from all
# ordinary scans (the second use of the paper's gate), with foreign content as perturbation. The rate is of all of them:
# the most damaged sheets go to a person too.
GATE = shlex.split(
    "--patches all --calibrate-on all --perturbation foreign --no-rotate --image-fpr 0.04 --margin 1.2"
    " --steps 2000 --plain-steps 400 --settle-steps 1000 --per-weight 0.3 --batch 6 --lr 2e-3"
)


def main() -> int:
    """Run all steps; those whose result stands in the work folder already are skipped."""
    options = parse_arguments()
    work: Path = options.work
    lot, unseen, foreign, run = work / "lot", work / "unseen", work / "foreign", work / "run"
    jobs = ("--jobs", options.jobs)
    if not (lot / "labels.csv").is_file():
        command("edge-train", "simulate", "--out", lot, *LOT, "--seed", SEED, *jobs)
    if not (unseen / "labels.csv").is_file():
        command("edge-train", "simulate", "--out", unseen, *UNSEEN, *jobs)
    draw_foreign(foreign)
    classifier, gate = run / "classifier.pt", run / "gate.pt"
    if not classifier.is_file():
        command("edge-train", "fine-tune", lot, "--out", run, *CLASSIFIER, "--seed", SEED)
    if not gate.is_file():
        command("edge-train", "gate", lot, "--out", run, "--like", classifier, *GATE, "--seed", SEED, *jobs)
    key, made = work / "key", work / "model"
    for folder in (key, made, work / "replay-unseen", work / "replay-foreign"):
        shutil.rmtree(folder, ignore_errors=True)
    command("edge-export", "keygen", "--out", key, "--name", "demo-key")
    command(
        *("edge-export", "model", "--classifier", classifier, "--gate", gate, "--golden", unseen),
        *("--signing-key", key / "demo-key.pem", "--out", made, "--model-id", options.model_id),
    )
    public_key = key / "demo-key.pub.pem"
    figures = measure(made, public_key, unseen, foreign, work)
    (work / "unseen.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    if not options.no_install:
        shutil.rmtree(HERE / "model", ignore_errors=True)
        shutil.copytree(made, HERE / "model")
        shutil.copy(public_key, DEMO_KEY)
    shutil.rmtree(key)  # the public half is trusted by default: no one may sign anything else with this one
    return 0


def parse_arguments() -> argparse.Namespace:
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "demo-model", help="scans and checkpoints")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate")
    parser.add_argument("--model-id", default="demo-4", help="name of the model in every verdict")
    parser.add_argument("--no-install", action="store_true", help="leave demo/model as it is")
    return parser.parse_args()


def command(program: str, *arguments: object) -> None:
    """Run one of the project's programs from this Python's environment; its failure ends the script."""
    line = [str(Path(sys.executable).parent / program), *map(str, arguments)]
    print("$", program, *line[1:], file=sys.stderr, flush=True)
    ended = subprocess.run(line, check=False)  # noqa: S603 - our own programs
    if ended.returncode:
        raise SystemExit(ended.returncode)


def draw_foreign(folder: Path) -> None:
    """Images of every foreign kind, named by it; those that lie there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in FOREIGN_KINDS:
        for number in range(FOREIGN_PER_KIND):
            path = folder / f"{kind}_{number:02}.tif"
            if not path.is_file():
                cv2.imwrite(str(path), foreign_scan(kind, 5, number), [cv2.IMWRITE_TIFF_COMPRESSION, 1])


def measure(model: Path, public_key: Path, unseen: Path, foreign: Path, work: Path) -> dict[str, object]:
    """What the line says of scans of lots it has not seen, and of images that are no scans."""
    as_the_line = ("edge-worker", "--model", model, "--trusted-key", public_key, "replay")
    command(*as_the_line, unseen, "--labels", unseen / "labels.csv", "--out", work / "replay-unseen")
    command(*as_the_line, foreign, "--out", work / "replay-foreign")
    summary = json.loads((work / "replay-unseen" / "summary.json").read_text(encoding="utf-8"))
    reviewed: Counter[str] = Counter()
    for line in (work / "replay-foreign" / "verdicts.jsonl").read_text(encoding="utf-8").splitlines():
        verdict = json.loads(line)
        reviewed[str(verdict["scan"]["file"]).rsplit("_", 1)[0]] += verdict["outcome"] == "review"
    return {
        "metrics": summary["metrics"],
        "outcomes": summary["outcomes"],
        "foreign_per_kind": FOREIGN_PER_KIND,
        "foreign_reviewed": {kind: reviewed[kind] for kind in FOREIGN_KINDS},
    }


if __name__ == "__main__":
    sys.exit(main())
