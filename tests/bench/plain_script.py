"""What a user would write without this product: tifffile, numpy, eager PyTorch, one scan at a time.

The yardstick of the benchmark. It is written plainly on purpose and must stay so; it judges with the same
checkpoints as the model it is compared with.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
import torch.nn.functional as F

from train.checkpoint import load_checkpoint
from train.networks import ElectrodeClassifier, GateAutoencoder, centre_crop, residual_statistics


def main(run: Path, folder: Path, reduction: int) -> None:
    saved_classifier = load_checkpoint(run / "classifier.pt", "classifier")
    saved_gate = load_checkpoint(run / "gate.pt", "gate")
    classifier = ElectrodeClassifier(saved_classifier.channels)
    classifier.load_state_dict(saved_classifier.state_dict)
    gate = GateAutoencoder()
    gate.load_state_dict(saved_gate.state_dict)
    classifier.eval()
    gate.eval()
    bounds, size = saved_classifier.bounds, saved_classifier.size
    assert bounds is not None

    with torch.inference_mode():
        for path in sorted(folder.glob("*.tif")):
            started = time.perf_counter()
            counts = tifffile.imread(path).astype(np.float32)
            clipped = np.clip(counts, bounds.lo_counts, bounds.hi_counts) - bounds.lo_counts
            image = np.minimum(np.floor(clipped / (bounds.hi_counts - bounds.lo_counts) * 256), 255).astype(np.uint8)
            image = cv2.resize(image, (size.width_px, size.height_px))
            tensor = torch.from_numpy(image)[None, None]
            probability = torch.softmax(classifier(classifier.normalise(tensor).expand(-1, 3, -1, -1)), 1)[0, 1]
            x = F.avg_pool2d(tensor.float() / 255, reduction)
            mean, std = residual_statistics(centre_crop(x) - gate(x))
            scores = float(probability), float(mean.abs().max()), float(std.max())
            print(path.name, *scores, time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
