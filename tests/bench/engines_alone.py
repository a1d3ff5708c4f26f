"""The engines on images that are already converted: the floor under everything the line does per scan."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from edge.pipeline.loaded_model import load_model
from edge.settings import load_settings

IDLE_S = 2.0
"""How long the engine is left alone: the share of a core that it takes then should be nothing."""


def main(config: Path, count: int) -> None:
    model = load_model(load_settings(config))
    size, channels = model.signed.size, model.signed.channels
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 1, channels, size.height_px, size.width_px), np.uint8)
    for image in images:
        busy_s, started = time.process_time(), time.perf_counter()
        output = model.engine.infer(image)
        busy_s, elapsed_s = time.process_time() - busy_s, time.perf_counter() - started
        scores = (output.p_abnormal, output.gate_mean_max, output.gate_std_max)
        print(*(float(score[0]) for score in scores), busy_s, elapsed_s)
    busy_s, started = time.process_time(), time.perf_counter()
    time.sleep(IDLE_S)
    print("idle", (time.process_time() - busy_s) / (time.perf_counter() - started))
    model.engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
