"""`edge-train gate-benchmark --recipe baselines`: what filters find on the networks' welds, folds and patches.

Plan: docs/experiments/welds-baselines.md. A filter sees the whole weld; a patch scores the greatest response within
its middle 156 px. Scores of each weld are kept, so that a run that is started again goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.system.progress import Reporter
from train.files import clear_results, write_text
from train.papers.welds.cells import TRUTH_FILE
from train.papers.welds.curves import (
    Candidate,
    Curve,
    WeldScores,
    choose,
    curve,
    curves_csv,
    fusions,
    rows_markdown,
)
from train.papers.welds.data import PatchCounts, tested_poses
from train.papers.welds.films import film_tables, score_films
from train.papers.welds.filter_scores import (
    FILTER_COLUMNS,
    FILTERS,
    READ_PX,
    SIDES,
    ScoreTask,
    score_all,
    scores_digest,
)
from train.papers.welds.filters import AFTERWARDS, Filter
from train.papers.welds.folds import Fold, weld_folds
from train.papers.welds.frozen_neighbours import INPUTS, Bank, fill_bank, frozen_digest
from train.papers.welds.images import Weld, digest_of, read_welds
from train.papers.welds.patches import names_alike, other_welds
from train.runner import Runner

SHORT: Final = "short median, 28 px, dark"


@dataclass(frozen=True, slots=True)
class Found:
    """Curves by row, and what was chosen for each fold."""

    rows: dict[str, Curve]
    chosen: tuple[str, ...]


def candidate_of(filter_: Filter, side: str) -> Candidate:
    """The candidate that reads one side of a filter, or both."""
    first = FILTERS.index(filter_) * len(SIDES)
    columns = {"both": (0, 1), "both-no-wires": (0, 2)}.get(side) or (SIDES.index(side),)
    return Candidate(f"{filter_.name} {side}", tuple(first + column for column in columns))


def all_candidates() -> list[Candidate]:
    """Every planned filter's dark side first, for ties; then bright and both."""
    sides = ("dark", "bright", "both", "both-no-wires")
    return [candidate_of(filter_, side) for side in sides for filter_ in planned()]


def planned() -> list[Filter]:
    """The filters of the plan, among which is chosen."""
    return [filter_ for filter_ in FILTERS if filter_.background not in AFTERWARDS]


def weld_scores(
    welds: Sequence[Weld],
    folds: Sequence[Fold],
    counts: PatchCounts,
    seed: int,
    out: Path,
    runner: Runner,
    reporter: Reporter,
    bank: Bank | None = None,
) -> dict[str, WeldScores]:
    """Scores of each masked weld's test patches, those of the fold that tests it; made where they are missing."""
    of = {weld.name: weld for weld in welds}
    tasks = []
    for fold in folds:
        poses = tested_poses([of[name] for name in fold.test], fold, counts, seed)
        for name in fold.test:
            own = {which: found[name] for which, found in poses.items()}
            digest = scores_digest(of[name], own, bank=bank)
            tasks.append(ScoreTask(of[name], own, out / f"scores_{name}.npz", digest, bank=bank))
    return score_all(tasks, runner, reporter)


def standing() -> dict[str, Candidate]:
    """Rows that were not chosen on inner folds."""
    median, planes = Filter("median31", "local", "5"), Filter("plane8", "own", "5")
    dark, own = candidate_of(median, "dark"), candidate_of(planes, "dark")
    return {
        "mean of 33 px, both": candidate_of(Filter("box33", "local", "9"), "both"),
        "median of 31 px, dark": dark,
        "median of 31 px, bright": candidate_of(median, "bright"),
        "median of 31 px, both": candidate_of(median, "both"),
        "median of 31 px, both, wires left out": candidate_of(median, "both-no-wires"),
        "closing and opening, 31 px, dark": candidate_of(Filter("top-hat31", "local", "5"), "dark"),
        "median along the bead, 201 px, dark": candidate_of(Filter("bead201", "local", "5"), "dark"),
        "robust planes, 8 px, dark": candidate_of(Filter("plane8", "local", "5"), "dark"),
        "robust planes, 24 x 6 px along the bead, dark": candidate_of(Filter("plane24x6", "local", "5"), "dark"),
        # After the plan: what an ONNX graph can compute (docs/experiments/gate-filter.md).
        SHORT: candidate_of(Filter("short28", "local", "5"), "dark"),
        "robust planes, 8 px, over their own deviation, dark": own,
        # Found after the planned run, on all seven welds: flattered there, a test on the films.
        "median 31 and planes 8 over their own deviation, 2:1": Candidate(
            "median and planes", (*dark.columns, *own.columns), (2.0, 1.0)
        ),
    }


def neighbours_rows(bank: Bank, fold: int = -1) -> dict[str, Candidate]:
    """Rows of nearest neighbours, one for each input, as fold number `fold` sees them; -1 sees all masked welds."""
    return {
        f"nearest neighbours, {name}": Candidate(name, (FILTER_COLUMNS + bank.column(name, fold),)) for name in INPUTS
    }


def find(
    scores: Mapping[str, WeldScores], folds: Sequence[Fold], reporter: Reporter, bank: Bank | None = None
) -> Found:
    """The standing rows, and those chosen for each fold on its other welds."""
    others = {name: [*fold.training, *fold.validation] for fold in folds for name in fold.test}
    fixed = standing()
    rows = {name: curve(dict.fromkeys(others, candidate), scores, others) for name, candidate in fixed.items()}
    if bank is not None:
        of_fold = {name: neighbours_rows(bank, number) for number, fold in enumerate(folds) for name in fold.test}
        for row in neighbours_rows(bank):
            rows[row] = curve({name: of_fold[name][row] for name in others}, scores, others)
    candidates = all_candidates()
    singles = [candidate for candidate in candidates if len(candidate.columns) == 1]
    dark = [candidate_of(filter_, "dark") for filter_ in planned()]
    chosen: dict[str, dict[str, Candidate]] = {}
    lines = []
    for fold in folds:
        inner = [*fold.training, *fold.validation]
        first, _ = choose(singles, scores, inner)
        lists = {
            "chosen: filter": candidates,
            "chosen: fusion of the best filter": fusions(first, singles),
            "chosen: partner of the median": fusions(fixed["median of 31 px, dark"], dark),
        }
        for name, listed in lists.items():
            best, found = choose(listed, scores, inner)
            chosen.setdefault(name, {}).update(dict.fromkeys(fold.test, best))
            lines.append(f"{fold.name}, {name}: {best.name}, {100 * found:.1f} on {', '.join(inner)}")
            reporter.say(lines[-1])
    rows |= {name: curve(of_weld, scores, others) for name, of_weld in chosen.items()}
    return Found(rows, tuple(lines))


def run_baselines(
    folder: Path,
    out: Path,
    counts: PatchCounts,
    seed: int,
    runner: Runner,
    reporter: Reporter,
    command: str,
    other: Path | None = None,
    weights: str | None = None,
) -> str:
    """Score, choose and evaluate; writes `baselines.md` and `curves.csv`, returns the former. Raises DataError.

    `other` is a folder of further masked welds, judged by the standing rows with thresholds of all masked welds.
    `weights`, as `train.weights.load_weights` takes them, add rows of nearest neighbours. Raises TrainError for them.
    """
    started = time.perf_counter()
    welds = read_welds(folder)
    masked = [weld for weld in welds if weld.mask is not None]
    folds = weld_folds(masked, seed)
    unseen = [] if other is None else other_welds(other, masked)
    out.mkdir(parents=True, exist_ok=True)
    clear_results(out, "baselines.md", "curves.csv")
    bank = None if weights is None else fill_bank(masked, folds, weights, seed)
    further = {} if bank is None else neighbours_rows(bank)
    scores = weld_scores(masked, folds, counts, seed, out, runner, reporter, bank)
    found = find(scores, folds, reporter, bank)
    windows = sum(independent_windows(weld) for weld in masked)
    parts = [
        "# Filters on real welds",
        "",
        *(f"{fold.name}: tested on {', '.join(fold.test)}." for fold in folds),
        f"{windows} windows of {READ_PX} px lie beside each other in the masked welds, masks included: a refusal of"
        f" {100 / windows:.2g} % is one of them. In brackets: 95 % intervals over welds, and the weld that is worst.",
        "",
        "## Nominal: thresholds at this rate of the other welds' accepted patches",
        "",
        *rows_markdown(found.rows, equal=False),
        "",
        "## Equal: at most this rate of the tested accepted patches refused, all folds together",
        "",
        *rows_markdown(found.rows, equal=True),
        "",
        "## Chosen on the other welds of each fold",
        "",
        *(f"- {line}" for line in found.chosen),
        "",
    ]
    if other is not None:
        fold = Fold("other-welds", (), (), tuple(weld.name for weld in unseen))
        (out / "other").mkdir(exist_ok=True)
        judged = weld_scores(unseen, [fold], counts, seed, out / "other", runner, reporter, bank)
        parts += ["## Other welds, thresholds of all the above", ""]
        parts += [*names_alike([weld.name for weld in unseen], scores), ""]
        parts += [*other_markdown(judged, scores, standing() | further), ""]
    if (folder / TRUTH_FILE).exists():
        films = score_films(folder, welds, seed, out, runner, reporter, bank)
        names = ("median of 31 px, dark", SHORT, "closing and opening, 31 px, dark", *list(standing())[-2:])
        parts += ["## Films with a list of flaws", ""]
        parts += [*film_tables(films, scores, {name: standing()[name] for name in names} | further), ""]
    listed = (folder / TRUTH_FILE).read_bytes() if (folder / TRUTH_FILE).exists() else b""
    parts += [
        f"Data {digest_of(welds, listed)[:12]}: {len(welds)} welds, {len(masked)} of them masked"
        f"{', and a list of flaws' if listed else ''}. Seed {seed}, {time.perf_counter() - started:.0f} s for the last"
        " command:",
        "",
        f"    {command}",
    ]
    if weights is not None:
        parts.append(f"\nFeatures of a network with weights {frozen_digest(weights)[:12]}.")
    text = "\n".join(parts) + "\n"
    for name, content in (("baselines.md", text), ("curves.csv", curves_csv(found.rows))):
        write_text(out / name, content)
    return text


def other_markdown(
    judged: Mapping[str, WeldScores], scores: Mapping[str, WeldScores], fixed: Mapping[str, Candidate]
) -> list[str]:
    """The nominal table of welds that are in no fold."""
    known = {f"known/{name}": found for name, found in scores.items()}
    others = {name: list(known) for name in judged}
    rows = {
        name: curve(dict.fromkeys(others, candidate), {**known, **judged}, others) for name, candidate in fixed.items()
    }
    return rows_markdown(rows, equal=False)


def independent_windows(weld: Weld) -> int:
    """How many of the patches' reconstructed parts lie beside each other in a weld."""
    height, width = weld.image.shape
    return int((height // READ_PX) * (width // READ_PX))
