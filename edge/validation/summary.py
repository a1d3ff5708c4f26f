"""A finished replay, and `summary.json`: what it found, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.contract.messages import ModelCard
from edge.records import Outcome
from edge.system.names import display_name
from edge.validation.comparison import Comparison, ComparisonFigures
from edge.validation.labels import Label
from edge.validation.leaks import Leaks
from edge.validation.lots import WorstLot
from edge.validation.reliability import Reliability
from edge.validation.requirements import RequirementResult
from edge.validation.results import Validation
from edge.validation.statistics import Confusion, none_if_nan
from edge.validation.table import ScanRow


@dataclass(frozen=True)
class Replay:
    """A finished replay: where, with what, and what came of it. When and how fast is for `run.json` to say."""

    program: str
    folder: str
    labels: str | None
    labels_sha256: str | None
    card: ModelCard
    rows: Sequence[ScanRow]
    validation: Validation
    reliability: Reliability
    comparison: Comparison | None
    leaks: Leaks
    requirements: Sequence[RequirementResult]
    training: Mapping[str, str]
    """What the model says its networks learnt from."""
    labels_without_file: Sequence[str]

    @property
    def figures(self) -> dict[str, int | float | None]:
        """Every figure `--require` can name, with its value."""
        comparison = ComparisonFigures() if self.comparison is None else self.comparison.figures
        counted = self.validation.metrics.flat()
        return {**counted, **self.reliability.figures, **comparison.flat(), **self.leaks.figures.flat()}


def summary_json(replay: Replay) -> str:
    """The replay for programs; its `metrics` are the names `--require` takes."""
    validation = replay.validation
    summary = {
        "schema": "replay/1",
        "program": replay.program,
        "folder": replay.folder,
        "labels": replay.labels,
        "labels_sha256": replay.labels_sha256,
        "model": replay.card.model_dump(mode="json", exclude={"schema_name", "boot_id", "loaded_at"}),
        "training": dict(replay.training),
        "metrics": replay.figures,
        "requirements": [
            {"rule": str(result.requirement), "observed": result.observed, "met": result.met}
            for result in replay.requirements
        ],
        "outcomes": [
            {"label": label, "outcome": outcome, "count": validation.outcomes.get((label, outcome), 0)}
            for label in (*Label, None)
            for outcome in Outcome
        ],
        "confusion": {name: _confusion_json(getattr(validation, name)) for name in ("scored", "decided")},
        "bundles": [
            {
                "bundle": figures.lot,
                "scans": figures.scans,
                "labelled_normal": figures.labelled_normal,
                "labelled_abnormal": figures.labelled_abnormal,
                "review": figures.review,
                "unreadable": figures.unreadable,
                "escapes": figures.escapes,
                "overkill": figures.overkill,
                "balanced_accuracy": none_if_nan(figures.scored.balanced_accuracy),
            }
            for figures in validation.lots
        ],
        "over_lots": [
            {
                "name": error.name,
                "lots": 0 if error.interval is None else error.interval.lots,
                "worst": None if error.worst is None else _worst_json(error.worst),
            }
            for error in replay.reliability.lot_errors.values()
        ],
        "labels_without_file": list(replay.labels_without_file),
        "learnt_from": {"is_known": replay.leaks.is_known, "files": list(map(display_name, replay.leaks.files))},
        "calibrated_on": {"files": list(map(display_name, replay.leaks.calibrated_files))},
        "against": None if replay.comparison is None else _comparison_json(replay.comparison),
    }
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def _comparison_json(comparison: Comparison) -> dict[str, object]:
    return {
        "model": comparison.other.model_dump(mode="json", exclude={"schema_name", "boot_id", "loaded_at"}),
        "tables": [
            {
                "name": share.name,
                "both": share.table.both,
                "only_other": share.table.only_first,
                "only_this": share.table.only_second,
                "neither": share.table.neither,
                "worst": None if share.worst is None else _worst_json(share.worst),
            }
            for share in comparison.shares
        ],
        "changes": [
            {
                "file": display_name(change.row.file),
                "label": change.row.label,
                "other": change.other.outcome,
                "this": change.row.outcome,
            }
            for change in comparison.changes
        ],
    }


def _worst_json(worst: WorstLot) -> dict[str, str | int]:
    return {"bundle": worst.lot, "count": worst.errors, "scans": worst.scans}


def _confusion_json(counts: Confusion) -> dict[str, int]:
    return {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn}
