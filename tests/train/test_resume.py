"""When a training that counts steps is saved."""

from pathlib import Path

import numpy as np
import torch

from train.resume import SAVE_EVERY_S, EpochEnd, Resume


def test_it_is_time_to_save_when_a_kill_would_cost_minutes_whatever_a_step_takes(tmp_path: Path) -> None:
    now_s = 1000.0
    resume = Resume(tmp_path / "training.pt", "this one", clock=lambda: now_s)
    layer = torch.nn.Linear(1, 1)
    for _ in range(2):
        assert not resume.is_due
        now_s += SAVE_EVERY_S - 1
        assert not resume.is_due
        now_s += 1
        assert resume.is_due
        at = EpochEnd(0, 1, 0.0, [], 0.0, {})
        resume.save(at, [layer], torch.optim.SGD(layer.parameters()), np.random.default_rng(0))
