"""One network of the weld benchmark, from the arrays of a fold to its scores on every set: what a worker process does.

It leaves a checkpoint, facts about it (JSON) and, last of all, its scores; where these stand the network is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from train.device import open_device
from train.errors import TrainError
from train.files import write_json, write_whole
from train.networks import GateAutoencoder, PatchClassifier
from train.papers.welds.bank import open_bank
from train.papers.welds.evaluation import CHECKED, LEARNT, OF_WELD, VALIDATION_DEFECTS
from train.papers.welds.fold_cache import facts_of_fold, mapped
from train.papers.welds.scores import Scores, autoencoder_scores, classifier_scores
from train.papers.welds.training import train_network
from train.papers.welds.variants import Training, Variant

_VALIDATION_PATCHES = 500
"""Most accepted validation patches that also get a defect added."""
_LEARNT_PATCHES = 1000
"""Most accepted training patches that are scored."""
_SCORES_FORMAT = 3
"""Version of the scores' file; rises when scores are others and the network is not, which then is only scored again."""
_FORMAT_KEY = "format"


@dataclass(frozen=True, slots=True)
class Task:
    """A network to train and score."""

    fold: str
    fold_folder: Path
    variant: Variant
    run: int
    training: Training
    seed: int
    device: str
    threads: int
    out: Path
    """Folder of the networks."""
    experiment: str
    """Digest of all the network depends on but its fold and run."""
    data: str
    """Digest of what the fold's patches are made from."""

    @property
    def stem(self) -> Path:
        return self.out / f"{self.fold}_{self.variant.name}_run-{self.run}"


@dataclass(frozen=True, slots=True)
class EnsembleTask:
    """The runs of a variant in one fold, scored together: the mean of their residuals, or logits."""

    runs: tuple[Task, ...]

    @property
    def stem(self) -> Path:
        return self.runs[0].out / f"{self.runs[0].fold}_{self.runs[0].variant.name}_ensemble"

    @property
    def experiment(self) -> str:
        return f"{self.runs[0].experiment}/{len(self.runs)}"


def run_task(task: Task) -> str:
    """Train, unless that is done already, and score; returns one line about it. Raises DivergedError."""
    torch.set_num_threads(task.threads)
    device = prepared(task.device)
    if not is_trained(task):
        train(task, device)
    save_scores(task.stem, score_all([load_network(task, device)], task, device))
    facts = json.loads(task.stem.with_suffix(".json").read_text(encoding="utf-8"))
    took = f"{facts['steps']} steps in {facts['seconds']:.1f} s"
    again = f", start {facts['starts']}" if facts["starts"] > 1 else ""
    return f"{_describe(task)}: {took}, loss {facts['final_loss']:.5f}, spread {facts['spread']:.3f}{again}"


def train(task: Task, device: torch.device) -> None:
    """Train the network and leave its checkpoint and facts. Raises DivergedError."""
    variant, training = task.variant, task.training
    names = ["accepted", *(["defective"] if variant.defective else [])]
    names += [f"perturbation-{kind}" for kind in variant.perturbations]
    arrays = mapped(task.fold_folder, names, task.data)
    bank = open_bank(arrays, variant.perturbations, defective=variant.defective, device=device)
    steps = training.steps(variant.network)
    trained = train_network(bank, variant, training, network_seed(task), steps, _describe(task))
    for suffix in (".npz", ".json"):  # of another experiment
        task.stem.with_suffix(suffix).unlink(missing_ok=True)
    with write_whole(task.stem.with_suffix(".pt")) as stream:
        torch.save({name: value.cpu() for name, value in trained.model.state_dict().items()}, stream)
    last = trained.losses[-max(1, steps // 20) :]
    facts = {
        "experiment": task.experiment,
        "fold": task.fold,
        "variant": asdict(variant),
        "run": task.run,
        "training": asdict(training),
        "steps": steps,
        "final_loss": float(np.mean(last)),
        "spread": trained.spread,
        "starts": trained.starts,
        "seconds": round(trained.seconds, 2),
    }
    write_json(task.stem.with_suffix(".json"), facts)


def run_ensemble(task: EnsembleTask) -> str:
    """Score finished runs together; returns one line about it."""
    first = task.runs[0]
    torch.set_num_threads(first.threads)
    device = prepared(first.device)
    models = [load_network(run, device) for run in task.runs]
    task.stem.with_suffix(".npz").unlink(missing_ok=True)
    write_json(task.stem.with_suffix(".json"), {"experiment": task.experiment, "runs": len(models)})
    save_scores(task.stem, score_all(models, first, device))
    return f"{first.variant.name} of {first.fold}: {len(models)} runs together"


def is_finished(task: Task | EnsembleTask) -> bool:
    """Whether all its files are there, of this very experiment."""
    if not is_trained(task):
        return False
    try:
        with task.stem.with_suffix(".npz").open("rb") as stream, np.load(stream) as stored:
            return int(stored[_FORMAT_KEY]) == _SCORES_FORMAT
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return False


def is_trained(task: Task | EnsembleTask) -> bool:
    """Whether the facts are there, of this very experiment; scores may be missing."""
    try:
        facts: dict[str, Any] = json.loads(task.stem.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(facts["experiment"] == task.experiment)
    except (OSError, ValueError, KeyError):
        return False


def _require_own(task: Task | EnsembleTask) -> None:
    if not is_trained(task):
        raise TrainError(
            f"{task.stem.with_suffix('.json')} is no longer of this run: another one has the same --networks",
            hint="give each its own --networks, or run one after the other",
        )


def load_network(task: Task, device: torch.device) -> GateAutoencoder | PatchClassifier:
    """A finished network in eval mode. Raises TrainError where another run's has taken its place."""
    _require_own(task)
    model = GateAutoencoder() if task.variant.network == "autoencoder" else PatchClassifier()
    model.load_state_dict(torch.load(task.stem.with_suffix(".pt"), map_location="cpu", weights_only=True))
    return model.to(device).eval()


def load_scores(task: Task | EnsembleTask) -> dict[str, Scores]:
    """Scores of a finished network by set of patches (`train.papers.welds.evaluation.SetScores`).

    Raises TrainError where another run's have taken their place.
    """
    _require_own(task)
    with np.load(task.stem.with_suffix(".npz")) as stored:
        return {name: stored[name] for name in stored.files if name != _FORMAT_KEY}


def save_scores(stem: Path, scores: dict[str, Scores]) -> None:
    with write_whole(stem.with_suffix(".npz")) as stream:
        np.savez(stream, **{_FORMAT_KEY: np.array(_SCORES_FORMAT), **scores})  # type: ignore[arg-type]


def score_all(
    models: Sequence[GateAutoencoder | PatchClassifier], task: Task, device: torch.device
) -> dict[str, Scores]:
    """Scores on every set of the task's fold."""
    folder = task.fold_folder
    facts = facts_of_fold(folder)
    tests = [name for name in facts["patches"] if name.startswith("test-")]
    arrays = mapped(folder, [CHECKED, "accepted", "perturbation-defects", *tests], task.data)
    sets: dict[str, npt.NDArray[Any]] = {name.removeprefix("test-"): arrays[name] for name in tests}
    sets |= weld_by_weld(CHECKED, arrays[CHECKED], facts["calibrated_of"]["checked"])
    sets |= weld_by_weld(LEARNT, arrays["accepted"], facts["calibrated_of"]["accepted"], at_most=_LEARNT_PATCHES)
    sets[VALIDATION_DEFECTS] = with_defects(arrays[CHECKED], arrays["perturbation-defects"])
    return score_sets(models, task, sets, device)


def score_sets(
    models: Sequence[GateAutoencoder | PatchClassifier],
    task: Task,
    sets: Mapping[str, npt.NDArray[Any]],
    device: torch.device,
) -> dict[str, Scores]:
    """Scores of sets of patches (n, 192, 192), by name, in the arithmetic of the task's training."""
    variant, bf16 = task.variant, task.training.bf16
    found: dict[str, Scores] = {}
    for name, patches in sets.items():
        if variant.network == "autoencoder":
            autoencoders = [model for model in models if isinstance(model, GateAutoencoder)]
            found[name] = autoencoder_scores(autoencoders, patches, variant=variant, device=device, bf16=bf16)
        else:
            classifiers = [model for model in models if isinstance(model, PatchClassifier)]
            found[name] = classifier_scores(classifiers, patches, device=device, bf16=bf16)
    return found


def with_defects(checked: npt.NDArray[np.uint8], defects: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Accepted validation patches uint8 with defects of the training welds in them: float32 in [0, 1]."""
    count = min(_VALIDATION_PATCHES, len(checked), len(defects))
    chosen = spread(checked, count).astype(np.float32) / 255
    return np.clip(chosen + spread(defects, count).astype(np.float32), 0, 1)


def weld_by_weld(
    name: str, patches: npt.NDArray[Any], of_welds: Mapping[str, int], *, at_most: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """A set of patches (n, 192, 192), so many of each weld in this order, as one set for each weld: `name/WELD`.

    Of all together `at_most`, evenly chosen.
    """
    chosen = spread(np.arange(len(patches)), len(patches) if at_most is None else at_most)
    weld_of = np.repeat(list(of_welds), list(of_welds.values()))[chosen]
    return {f"{name}{OF_WELD}{weld}": patches[chosen[weld_of == weld]] for weld in of_welds}


def spread(patches: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """At most `count` of the patches, evenly from all: they lie weld by weld."""
    places = np.linspace(0, len(patches) - 1, min(count, len(patches))).round().astype(np.intp)
    return np.asarray(patches[places])


def network_seed(task: Task) -> int:
    """A seed of its own for every network, the same whatever else is trained beside it."""
    digest = np.random.SeedSequence([task.seed, task.run, *f"{task.fold}/{task.variant.name}".encode()])
    return int(digest.generate_state(1)[0])


def _describe(task: Task) -> str:
    return f"{task.variant.name} of {task.fold}, run {task.run}"


def prepared(device: str) -> torch.device:
    """The device, this process set up so that the same seed gives the same network on it. Raises TrainError."""
    torch.backends.cudnn.deterministic = True
    return open_device(device)
