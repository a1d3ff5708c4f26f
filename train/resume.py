"""A training that was killed goes on where its last epoch ended, with the losses it would have had.

After every epoch everything that the next one depends on is written to `training.pt`, whole or not at all: the network,
the optimiser, the state of the random numbers, the figures so far. It is taken up again only by a training with the
same recipe and the same scans, and removed when the training is done.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.files import written_whole

FILE = "training.pt"


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """Where a training stands."""

    epoch: int
    """Epochs done."""
    step: int
    seen_px: float
    history: list[dict[str, Any]]
    best_loss: float
    best_state: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Resume:
    """The file of one training; `key` says which training it is: of recipe and scans."""

    path: Path
    key: str

    def save(
        self, at: EpochEnd, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer, rng: np.random.Generator
    ) -> None:
        """Write the state after an epoch."""
        content = {
            "key": self.key,
            "at": {name: getattr(at, name) for name in EpochEnd.__slots__},
            "modules": [module.state_dict() for module in modules],
            "optimizer": optimizer.state_dict(),
            "rng": json.dumps(rng.bit_generator.state),
        }
        with written_whole(self.path) as stream:
            torch.save(content, stream)

    def load(
        self, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer, rng: np.random.Generator
    ) -> EpochEnd | None:
        """Put everything back as it was after the last epoch; None where there is none of this very training."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError):
            return None
        if not isinstance(content, dict) or content.get("key") != self.key:
            return None
        for module, state in zip(modules, content["modules"], strict=True):
            module.load_state_dict(state)
        optimizer.load_state_dict(content["optimizer"])
        rng.bit_generator.state = json.loads(content["rng"])
        return EpochEnd(**content["at"])

    def done(self) -> None:
        """Remove the file: the checkpoint is written."""
        self.path.unlink(missing_ok=True)
