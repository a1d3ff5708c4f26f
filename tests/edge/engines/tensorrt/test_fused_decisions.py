"""The fused preprocessing changes no decision: the demo model on simulated scans, both ways.

The GPU's half is its numpy twin; on an NVIDIA machine `make gpu-check` compares the kernel itself.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge.engines.golden import score_one
from edge.engines.ort import OrtEngine
from edge.engines.tensorrt.kernel_args import raw_scan
from edge.images.conversion import prepare
from edge.model.signed_model import read_model
from edge.pipeline.decide import decide
from edge.pipeline.loaded_model import DEMO_KEY
from tests.gpu import twin
from train.simulator.simulate import simulate_scan

SCANS = 200
BUNDLES = 20
SEED = 515
DEMO_MODEL = Path(__file__).parents[4] / "demo" / "model"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_decision_flips_on_200_simulated_scans() -> None:
    model = read_model(DEMO_MODEL, DEMO_KEY)
    policy = model.policy()
    engine = OrtEngine(model)
    flips, moved, changed, outcomes = [], [], [], Counter[str]()
    for number in range(SCANS):
        counts = simulate_scan(SEED, number % BUNDLES, number // BUNDLES).counts
        by_opencv = prepare(counts, model.method, model.bounds, model.size)
        by_twin = twin.fused(raw_scan(counts, model.method, model.bounds, model.size))
        difference = np.abs(by_twin.astype(np.int16) - by_opencv)
        assert difference.max() <= 1
        changed.append(float((difference > 0).mean()))
        cpu, gpu = score_one(engine, by_opencv), score_one(engine, by_twin)
        moved.append(abs(cpu.p_abnormal - gpu.p_abnormal))
        expected, observed = decide(cpu, policy), decide(gpu, policy)
        outcomes[expected.outcome] += 1
        if observed != expected:
            flips.append((number, expected, observed, cpu, gpu))
    engine.close()
    print(
        f"\n{SCANS} scans, outcomes {dict(outcomes)}: {len(flips)} flips; pixels that differ by one level "
        f"{np.mean(changed):.1%}; p(abnormal) moves by {np.median(moved):.1e} (median), {max(moved):.1e} (most)"
    )
    assert flips == []
    assert len(outcomes) > 1
