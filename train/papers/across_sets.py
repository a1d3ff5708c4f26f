"""`edge-train across`: learn on one set of scans, judge another, and the other way round.

What a recipe learnt about electrodes, and what about its set: every recipe learns on each of two sets as a whole, such
as one of each simulator, and judges the other. Beside it stands the same recipe within the set, leaving one lot out.
Bounds, standardisation and threshold come from the training scans. Of a recipe that can be adapted to another line
(`edge-train adapt`) there is a further row: adapted, for each judged lot, by normal scans of the judged set's other
lots. Intervals are over the lots that were judged; what a recipe gains over the first one is paired over them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.system.progress import Reporter
from edge.validation.lots import share_over_lots
from edge.validation.statistics import Confusion, Interval, auroc, confusion
from train.classifier.adapt import adapt_to, has_places
from train.classifier.crossval import cross_validate, samples_of
from train.classifier.experiment import ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, Conversion, FeatureTable, compute_features
from train.classifier.heads import starting_layers
from train.classifier.learner import Learnt, learn
from train.classifier.left_out import LEAST_LOTS
from train.classifier.lots import (
    accuracy_difference,
    accuracy_interval,
    auroc_difference,
    auroc_interval,
    most_wrong,
)
from train.classifier.results import conditions
from train.classifier.tables import columns_of
from train.dataset import LABELS, Row
from train.errors import DataError
from train.files import clear_results, write_json, write_text
from train.metrics import logit, severity_thirds, third_of
from train.recipe import Adaptation
from train.report import span_over, table, worst_of
from train.runner import Runner
from train.survey import Survey

RESULTS_FILE, TABLE_FILE, SCANS_FILE = "across.json", "across.md", "across.csv"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one recipe, learnt on one set, says about another, or about the lots it left out of its own."""

    recipe: str
    learnt_on: str
    judged: str
    margins: npt.NDArray[np.float64]
    """Above 0 where a scan is called abnormal; the logit of p(abnormal) less that of the threshold."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What every recipe is computed with."""

    backbone: Backbone
    cache: FeatureCache
    runner: Runner
    reporter: Reporter
    refused: float = Adaptation().refused
    """Share of normal scans above the threshold of what is adapted."""


def across_sets(
    sets: Mapping[str, Survey], recipes: Mapping[str, ExperimentRecipe], means: Means, out: Path, command: str
) -> str:
    """Write across.json, across.csv (each scan) and across.md into `out`; returns the latter. Folds are resumable.

    `sets` holds two, by name; recipes must leave the backbone frozen. Raises DataError, DivergedError, TrainError.
    """
    if len(sets) != 2:
        raise DataError(f"{len(sets)} sets of scans", hint="name two: each is judged by what was learnt on the other")
    for name, surveyed in sets.items():
        if len({row.label for row in surveyed.rows}) < 2:
            raise DataError(f"all scans of {name} have the same label", hint="label scans of both classes")
    _refuse_shared(sets)
    clear_results(out, RESULTS_FILE, TABLE_FILE, SCANS_FILE)
    found = []
    for recipe_name, recipe in recipes.items():
        for own, other in (tuple(sets), tuple(sets)[::-1]):
            means.reporter.say(f"{recipe_name}: learn on {own}")
            found.append(_within(recipe_name, own, sets[own], recipe, means, out))
            found += _across(recipe_name, own, other, sets, recipe, means)
    first = {(one.learnt_on, one.judged): one for one in reversed(found)}
    entries = [_figures(one, first[one.learnt_on, one.judged]) for one in found]
    seed = next(iter(recipes.values())).seed
    under = {name: conditions(surveyed, means.backbone, seed) for name, surveyed in sets.items()}
    values = {name: recipe_values(recipe) for name, recipe in recipes.items()}
    write_json(out / RESULTS_FILE, {"command": command, "conditions": under, "recipes": values, "rows": entries})
    text = table_markdown(entries, under, command)
    write_text(out / TABLE_FILE, text)
    write_text(out / SCANS_FILE, _scans_csv(found))
    return text


def _refuse_shared(sets: Mapping[str, Survey]) -> None:
    """Raise DataError where both sets hold a scan, by its counts: what is learnt on one would be tested on it."""
    one, other = sets
    known = {scan.pixels_sha256: row.file for row, scan in zip(sets[one].rows, sets[one].scans, strict=True)}
    theirs = zip(sets[other].rows, sets[other].scans, strict=True)
    shared = [(known[scan.pixels_sha256], row.file) for row, scan in theirs if scan.pixels_sha256 in known]
    if shared:
        raise DataError(
            f"{len(shared)} scans of {other} are in {one} too, {shared[0][1]} (there {shared[0][0]}) among them",
            hint="what was learnt on one set judges the other: give sets without a common scan",
        )


def table_markdown(entries: Sequence[Mapping[str, Any]], under: Mapping[str, str], command: str) -> str:
    """A line for each recipe and pair of sets, then the share found of each third of the severities and each kind."""
    first = entries[0]["recipe"]
    heads = [
        *("recipe", "learnt on", "judged", "balanced accuracy, %", "AUROC, %"),
        *("escapes", "false alarms", "worst lot, wrong"),
    ]
    heads += [f"accuracy over {first}", f"AUROC over {first}"]
    rows = [
        [
            entry["recipe"],
            entry["learnt_on"],
            entry["judged"],
            *(
                f"{100 * entry[name]:.1f} ({span_over(entry[f'{name}_interval'], entry['lots'], 'lot')})"
                for name in _SHARES
            ),
            _hits(entry["escapes"]),
            _hits(entry["false_alarms"]),
            entry["worst_lot"],
            *("" if entry["recipe"] == first else _gain(entry[f"{name}_gain"]) for name in _SHARES),
        ]
        for entry in entries
    ]
    lines = table(heads, rows)
    pairs = [f"{entry['recipe']}, {entry['learnt_on']} to {entry['judged']}" for entry in entries]
    for part, title in (("severities", "severity"), ("kinds", "kind")):
        names = list(dict.fromkeys(name for entry in entries for name in entry[part]))
        if names:
            found = [[name, *(_hits(entry[part].get(name)) for entry in entries)] for name in names]
            lines += ["", *table([f"found of abnormal scans by {title}", *pairs], found)]
    lines += [
        "",
        "95 % intervals, in %, over lots; of shares found, over the lots with such scans; of what a recipe gains over"
        f" {first}, in points, paired over lots.",
        "",
    ]
    lines += [*(f"{name}: {text}" for name, text in under.items()), "", f"    {command}"]
    return "\n".join(lines) + "\n"


_SHARES = ("balanced_accuracy", "auroc")
_THIRDS = ("lowest third", "middle third", "highest third")


def _gain(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _hits(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "0 of 0"
    return f"{found['hits']} of {found['total']} ({span_over(found['over_lots'], found['lots'], 'lot')})"


def _within(name: str, own: str, surveyed: Survey, recipe: ExperimentRecipe, means: Means, out: Path) -> Judged:
    results, _ = cross_validate(
        surveyed,
        [recipe.method],
        recipe,
        means.backbone,
        means.cache,
        means.runner,
        out / f"{name}-{own}",
        means.reporter,
    )
    by_file = {row.file: row for row in surveyed.rows}
    rows = tuple(by_file[file] for result in results for file in result.files)
    (column,) = columns_of(results)
    return Judged(name, own, own, logit(column.scores), rows)


def _across(
    name: str,
    own: str,
    other: str,
    sets: Mapping[str, Survey],
    recipe: ExperimentRecipe,
    means: Means,
) -> list[Judged]:
    """What is learnt on `own` says about `other`; and adapted by the normal scans of `other`."""
    known, normals = sets[own].labelled(recipe.learns_from), sets[other].labelled((0,))
    conversion = Conversion.of(recipe.method, known.bounds_without([], recipe.bounds_mode))
    training, judged = (
        samples_of(_features(surveyed, conversion, dict.fromkeys(numbers, views), means), surveyed.rows, numbers, views)
        for surveyed, views in ((known, recipe.views), (sets[other], (0,)))
        for numbers in [range(len(surveyed.rows))]
    )
    start = starting_layers(means.backbone.weights, recipe.seed) if recipe.head == "paper" else {}
    learnt = learn(training, recipe, start)
    margins = logit(learnt.predict(judged)) - logit(np.array(learnt.threshold))
    found = [Judged(name, own, other, margins, sets[other].rows)]
    if has_places(learnt.selection) and len(normals.lots) > LEAST_LOTS:
        means.reporter.say(f"{name}: learnt on {own}, adapted to {other}")
        adapted = _adapted(learnt, sets[other], normals, recipe, means)
        found.append(Judged(f"{name}, adapted", own, other, adapted, sets[other].rows))
    return found


def _features(
    surveyed: Survey, conversion: Conversion, wanted: Mapping[int, tuple[int, ...]], means: Means
) -> FeatureTable:
    """Features of the wanted views, by scan number, of one conversion."""
    hashes = [scan.sha256 for scan in surveyed.scans]
    passes = means.reporter.counter("backbone passes")
    where = (surveyed.rows, hashes, means.backbone, means.cache, means.runner, passes)
    return compute_features({conversion: wanted}, *where)[conversion]


def _adapted(
    learnt: Learnt, judged: Survey, normals: Survey, recipe: ExperimentRecipe, means: Means
) -> npt.NDArray[np.float64]:
    """Margins (scans,) of the judged scans, each lot's by the normal scans of all others."""
    margins = np.empty(len(judged.rows))
    by_conversion: dict[Conversion, list[str]] = {}
    for lot in judged.lots:
        bounds = normals.bounds_without([lot], recipe.bounds_mode)
        by_conversion.setdefault(Conversion.of(recipe.method, bounds), []).append(lot)
    for conversion, lots in by_conversion.items():
        numbers = [number for number, row in enumerate(judged.rows) if row.label == 0 or row.lot in lots]
        table = _features(judged, conversion, dict.fromkeys(numbers, (0,)), means)
        for lot in lots:
            own = [number for number, row in enumerate(judged.rows) if row.lot == lot]
            others = [number for number, row in enumerate(judged.rows) if row.lot != lot and row.label == 0]
            known = samples_of(table, judged.rows, others, (0,))
            adapted = adapt_to(learnt, known, means.refused).learnt
            p = adapted.predict(samples_of(table, judged.rows, own, (0,)))
            margins[own] = logit(p) - logit(np.array(adapted.threshold))
    return margins


def _figures(one: Judged, first: Judged) -> dict[str, Any]:
    """Figures of one recipe, and what it gains over the first one for the same scans."""
    labels = np.array([row.label for row in one.rows])
    lots = [row.lot for row in one.rows]
    counts = confusion(one.margins, labels, 0.0)
    by_lot = {lot: _of_lot(one, lot) for lot in sorted(set(lots))}
    accuracy_gain = accuracy_difference(list(by_lot.values()), [_of_lot(first, lot) for lot in by_lot])
    auroc_gain = auroc_difference(one.margins, first.margins, labels, lots)
    return {
        "recipe": one.recipe,
        "learnt_on": one.learnt_on,
        "judged": one.judged,
        **asdict(counts),
        "balanced_accuracy": counts.balanced_accuracy,
        "balanced_accuracy_interval": list(accuracy_interval(list(by_lot.values()))),
        "auroc": auroc(one.margins, labels),
        "auroc_interval": list(auroc_interval(one.margins, labels, lots)),
        "escapes": _found([(row.lot, bool(m < 0)) for row, m in zip(one.rows, one.margins, strict=True) if row.label]),
        "false_alarms": _found(
            [(row.lot, bool(m >= 0)) for row, m in zip(one.rows, one.margins, strict=True) if not row.label]
        ),
        "lots": len(by_lot),
        "worst_lot": worst_of(most_wrong(by_lot)),
        "balanced_accuracy_gain": _with_interval(accuracy_gain),
        "auroc_gain": _with_interval(auroc_gain),
        "severities": _by_severity(one),
        "kinds": _by_kind(one),
    }


def _with_interval(gain: tuple[float, Interval]) -> dict[str, Any]:
    difference, interval = gain
    return {"difference": difference, "interval": list(interval)}


def _scans_csv(found: Sequence[Judged]) -> str:
    """Each scan as each recipe judged it; `margin` is above 0 where it is called abnormal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recipe", "learnt_on", "judged", "file", "bundle", "label", "severity", "margin"])
    for one in found:
        for row, margin in zip(one.rows, one.margins, strict=True):
            truth = (row.file, row.lot, LABELS[row.label], "" if row.severity is None else row.severity)
            writer.writerow([one.recipe, one.learnt_on, one.judged, *truth, f"{margin:.6f}"])
    return text.getvalue()


def _of_lot(one: Judged, lot: str) -> Confusion:
    numbers = [number for number, row in enumerate(one.rows) if row.lot == lot]
    return confusion(one.margins[numbers], np.array([one.rows[number].label for number in numbers]), 0.0)


def _by_kind(one: Judged) -> dict[str, dict[str, Any]]:
    """Abnormal scans found with an anomaly of each kind; a scan of two kinds counts for both."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for row, margin in zip(one.rows, one.margins, strict=True):
        for kind in set(row.kinds) if row.label else ():
            found.setdefault(kind, []).append((row.lot, bool(margin >= 0)))
    return {kind: _found(hits) for kind, hits in sorted(found.items())}


def _by_severity(one: Judged) -> dict[str, dict[str, Any]]:
    """Abnormal scans found of each third of their severities; empty where labels name none."""
    known = [
        (row.severity, (row.lot, bool(margin >= 0)))
        for row, margin in zip(one.rows, one.margins, strict=True)
        if row.label and row.severity is not None
    ]
    thirds = severity_thirds([severity for severity, _ in known])
    return {
        name: _found([hit for severity, hit in known if third_of(severity, thirds) == place])
        for place, name in enumerate(_THIRDS[: len(thirds)])
    }


def _found(scans: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """Counts of scans, each by its lot and whether it was found, with their interval over lots."""
    lots: dict[str, list[bool]] = {}
    for lot, is_hit in scans:
        lots.setdefault(lot, []).append(is_hit)
    over = share_over_lots([sum(hits) for hits in lots.values()], [len(hits) for hits in lots.values()])
    return {
        "hits": sum(is_hit for _, is_hit in scans),
        "total": len(scans),
        "lots": len(lots),
        "over_lots": None if over is None else [over.low, over.high],
    }
