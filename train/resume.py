"""A training that was killed goes on where it was last saved, with the losses it would have had.

Everything that the next step depends on is written to a file, whole or not at all: the network, the optimiser, the
state of the random numbers, the figures so far. A training that counts steps is saved at intervals of time, whatever a
step takes; one that counts epochs, in which scans are drawn beforehand, after each. The file is named after recipe and
scans: a training with other options leaves it alone, and the same options take it up again. It is removed when the
training is done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.files import load_torch, write_whole

FILE = "training.pt"
GATE_FILE = "gate-training.pt"
SAVE_EVERY_S: Final = 120.0
"""Seconds of a training that counts steps that a kill costs at most; a save of a backbone takes one or two."""

Random = np.random.Generator | torch.Generator


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


def digest_of(images: Iterable[npt.NDArray[Any]]) -> str:
    """SHA-256 over sizes and values of images that a training learns from beside its scans, for its key."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.shape).encode() + image.tobytes())
    return digest.hexdigest()


@dataclass(slots=True)
class Resume:
    """The file of one training; `key` says which training it is: of recipe and scans."""

    folder_and_name: Path
    """Where the file lies, without what the key adds to its name."""
    key: str
    clock: Callable[[], float] = time.monotonic
    _saved_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved_s = self.clock()

    @property
    def is_due(self) -> bool:
        """Whether so much time has passed since it was last saved, or made, that a kill would cost too much."""
        return self.clock() - self._saved_s >= SAVE_EVERY_S

    @property
    def path(self) -> Path:
        name = self.folder_and_name
        return name.with_stem(f"{name.stem}-{hashlib.sha256(self.key.encode()).hexdigest()[:12]}")

    def save(self, at: EpochEnd, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer, rng: Random) -> None:
        """Write the state after an epoch."""
        content = {
            "key": self.key,
            "at": {name: getattr(at, name) for name in EpochEnd.__slots__},
            "modules": [module.state_dict() for module in modules],
            "optimizer": optimizer.state_dict(),
            "rng": rng.get_state() if isinstance(rng, torch.Generator) else json.dumps(rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with write_whole(self.path) as stream:
            torch.save(content, stream)
        self._saved_s = self.clock()

    def load(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        rng: Random,
        say: Callable[[str], None],
    ) -> EpochEnd | None:
        """Put everything back as it was after the last epoch; None where there is none of this very training."""
        content = self._read()
        if content is None:
            if self.path.exists():
                say(f"{self.path.name} is damaged: the training begins anew")
            if others := self._others():
                say(f"other options than those of {', '.join(others)}, which stay for their own")
            return None
        for module, state in zip(modules, content["modules"], strict=True):
            module.load_state_dict(state)
        optimizer.load_state_dict(content["optimizer"])
        if isinstance(rng, torch.Generator):
            rng.set_state(content["rng"])
        else:
            rng.bit_generator.state = json.loads(content["rng"])
        torch.set_rng_state(content["torch_rng"])
        if content["cuda_rng"]:
            torch.cuda.set_rng_state_all(content["cuda_rng"])
        at = EpochEnd(**content["at"])
        say(f"going on after {f'epoch {at.epoch}' if at.epoch else f'step {at.step}'}")
        return at

    def _read(self) -> dict[str, Any] | None:
        try:
            content = load_torch(self.path)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and content.get("key") == self.key else None

    def _others(self) -> list[str]:
        """Names of unfinished trainings with other options or scans in the same folder."""
        name = self.folder_and_name
        return sorted(path.name for path in name.parent.glob(f"{name.stem}-*{name.suffix}") if path != self.path)

    def done(self) -> None:
        """Remove the file: the checkpoint is written."""
        self.path.unlink(missing_ok=True)
