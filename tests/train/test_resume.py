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


def test_a_damaged_file_is_told_and_the_training_begins_anew(tmp_path: Path) -> None:
    """Weights of which one bit is another would be gone on with, and nobody would know."""
    resume = Resume(tmp_path / "training.pt", "this one")
    layer, rng, said = torch.nn.Linear(64, 64), np.random.default_rng(0), list[str]()
    optimizer = torch.optim.SGD(layer.parameters())
    resume.save(EpochEnd(0, 1, 0.0, [], 0.0, {}), [layer], optimizer, rng)
    assert resume.load([layer], optimizer, rng, said.append) is not None
    data = bytearray(resume.path.read_bytes())
    data[data.index(layer.weight.detach().numpy().tobytes()) + 1000] ^= 1
    resume.path.write_bytes(data)
    assert resume.load([layer], optimizer, rng, said.append) is None
    assert said == ["going on after step 1", f"{resume.path.name} is damaged: the training begins anew"]
