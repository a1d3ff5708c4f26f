"""What is asked of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.papers.welds.data import PatchCounts
from train.papers.welds.recipes import BenchmarkRecipe
from train.papers.welds.variants import Training


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a benchmark."""

    welds: Path
    natural: Path
    out: Path
    cache: Path
    """Folder of the folds' arrays, several GB."""
    networks: Path
    """Folder of the trained networks; recipes that share it share what they have in common."""
    recipe: BenchmarkRecipe
    training: Training
    counts: PatchCounts
    runs: int
    seed: int
    device: str
    jobs: int
    folds: tuple[int, ...]
    """Numbers from 1; empty: all."""
