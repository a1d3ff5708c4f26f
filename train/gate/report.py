"""The report on a gate: `gate_report.md`, `gate_report.json`, `gate_scores.csv` and plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from edge.validation.lots import WorstLot, share_over_lots, worst_lot
from train.files import write_json, write_text
from train.gate.findings import Finding, Findings, refusals
from train.gate.plots import kinds_plot, scores_plot
from train.metrics import severity_thirds, third_of
from train.report import percent_span, rate_values, span_over, table, worst_of, worst_values

NORMAL_GOAL, FOREIGN_GOAL = 0.02, 0.99
"""Normal scans of lots not seen that may go to a person, at most; foreign images that must, at least."""


def write_report(findings: Findings, out: Path, command: str) -> dict[str, Any]:
    """Write all files of the report into a folder; returns what the JSON holds."""
    content = summary(findings, command)
    write_json(out / "gate_report.json", content)
    for name, text in (("gate_report.md", markdown(content)), ("gate_scores.csv", scores_csv(findings))):
        write_text(out / name, text)
    scores_plot(findings, out / "gate_scores")
    kinds_plot(content, out / "gate_kinds")
    return content


def summary(findings: Findings, command: str) -> dict[str, Any]:
    """The figures as one dictionary."""
    checkpoint = findings.checkpoint
    lots = sorted({one.group for one in findings.normal})
    kinds = sorted({one.group for one in findings.foreign})
    return {
        "command": command,
        "data_digest": checkpoint.data_digest,
        "recipe": dict(sorted(checkpoint.recipe.items())),
        "thresholds": checkpoint.thresholds,
        "device": findings.device,
        "torch": str(torch.__version__),
        "pass_ms": findings.pass_ms,
        "normal": {
            **_rates(findings.normal),
            "over_lots": _over_lots(findings.normal, _by_either),
            "gate_over_lots": _over_lots(findings.normal, _by_gate),
            "goal": f"at most {NORMAL_GOAL:.0%}",
            "bundles": {name: _rates(one for one in findings.normal if one.group == name) for name in lots},
        },
        "foreign": {
            **_rates(findings.foreign),
            "over_kinds": _over_lots(findings.foreign, _by_either, is_error=lambda one: not one.refused),
            "gate_over_kinds": _over_lots(findings.foreign, _by_gate, is_error=lambda one: not one.by_gate),
            "goal": f"at least {FOREIGN_GOAL:.0%}",
            "kinds": {name: _kind(one for one in findings.foreign if one.group == name) for name in kinds},
        },
        "abnormal": {
            **_rates(findings.abnormal),
            "over_lots": _over_lots(findings.abnormal, _by_either),
            "gate_over_lots": _over_lots(findings.abnormal, _by_gate),
            "kinds": anomalies(findings),
        },
    }


def anomalies(findings: Findings) -> dict[str, Any]:
    """By kind of anomaly: mild forms on normal scans, and severe ones in thirds of the severities there are.

    A scan of two kinds counts for both. Empty where the labels name no kinds.
    """
    severities = [one.row.severity for one in findings.abnormal if one.row and one.row.severity is not None]
    thirds = severity_thirds(severities)
    found: dict[str, Any] = {}
    for kind in sorted({kind for one in findings.abnormal if one.row for kind in one.row.kinds}):
        of_kind = [one for one in findings.abnormal if one.row and kind in one.row.kinds]
        mild = [one for one in findings.normal if one.row and kind in one.row.kinds]
        found[kind] = {
            "mild": {**_rates(mild), "gate_over_lots": _over_lots(mild, _by_gate)},
            "severe": {**_rates(of_kind), "gate_over_lots": _over_lots(of_kind, _by_gate)},
            "by_severity": [],
        }
        for place, (low, high) in enumerate(thirds):
            third = [
                one
                for one in of_kind
                if one.row and one.row.severity is not None and third_of(one.row.severity, thirds) == place
            ]
            over = _over_lots(third, _by_gate)
            found[kind]["by_severity"].append({"from": low, "to": high, **_rates(third), "gate_over_lots": over})
    return found


_CELLS = ("images", "gate", "network", "filter", "exposure", "either")


def markdown(content: dict[str, Any]) -> str:
    """The report for people."""
    normal, foreign, abnormal = content["normal"], content["foreign"], content["abnormal"]
    lines = [
        "# Gate report",
        "",
        f"`{content['command']}`",
        "",
        f"Recipe: `{content['recipe']}`. One pass of the gate takes {content['pass_ms']:.1f} ms on"
        f" {content['device']} (torch {content['torch']}). Data digest of the training: {content['data_digest'][:16]}.",
        "Shares are of images sent to a person, with 95 % intervals (Wilson): by the gate, by its network with the"
        " layouts and by its filter alone, by the spread of the greys (exposure), by gate or exposure.",
        "",
        *table(
            ["", *_CELLS, "goal"],
            [
                ["normal scans", *_cells(normal), normal["goal"]],
                ["foreign images", *_cells(foreign), foreign["goal"]],
                ["abnormal scans", *_cells(abnormal), "reported"],
            ],
        ),
        "",
        "Had other lots been drawn, the shares sent to a person by either would lie (95 %, in %):"
        f" of normal scans {lots_span(normal['over_lots'])}, of abnormal scans {lots_span(abnormal['over_lots'])}.",
        "A foreign image is of no lot. Had other kinds of them been tried, the share would lie at"
        f" {kinds_span(foreign['over_kinds'])}.",
        "",
        "## Foreign images",
        "",
        "The margin is that of the least suspicious image: its greatest score over its threshold.",
        "",
        *table(
            ["kind", *_CELLS, "margin"],
            [[name, *_cells(entry), f"{entry['margin']:.2f}"] for name, entry in foreign["kinds"].items()],
        ),
        "",
        "## Anomalies of electrodes, by severity",
        "",
        "What the gate refuses of them, with its 95 % interval (Wilson) and that over lots, in %; the classifier judges"
        " the others. Mild forms are those of normal scans.",
        "",
        *_anomaly_table(abnormal["kinds"]),
        "",
        "## Normal scans by lot",
        "",
        *table(["lot", *_CELLS], [[name, *_cells(entry)] for name, entry in normal["bundles"].items()]),
    ]
    return "\n".join(lines) + "\n"


def scores_csv(findings: Findings) -> str:
    """One line per image: its scores over their thresholds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("set", "group", "name", "kinds", "severity", "mean", "std", "network", "filter", "exposure", "refused")
    )
    for name in ("normal", "abnormal", "foreign"):
        for one in getattr(findings, name):
            kinds, severity = ("|".join(one.row.kinds), one.row.severity) if one.row else ("", None)
            figures = [f"{value:.4f}" for value in (one.mean, one.std, one.network, one.filter, one.exposure)]
            shown = "" if severity is None else f"{severity:.3f}"
            writer.writerow((name, one.group, one.name, kinds, shown, *figures, int(one.refused)))
    return text.getvalue()


def _anomaly_table(kinds: dict[str, Any]) -> list[str]:
    thirds: list[dict[str, Any]] = next((entry["by_severity"] for entry in kinds.values()), [])
    heads = [f"{third['from']:.2f} to {third['to']:.2f}" for third in thirds]
    return table(
        ["kind", "mild", *heads, "all abnormal", "by the network", "by the filter"],
        [
            [
                kind,
                *(_cell_over_lots(part) for part in (entry["mild"], *entry["by_severity"], entry["severe"])),
                *(_cell(entry["severe"][name]) for name in ("network", "filter")),
            ]
            for kind, entry in kinds.items()
        ],
    )


def _kind(findings: Iterable[Finding]) -> dict[str, Any]:
    seen = list(findings)
    return {**_rates(seen), "margin": min(max(one.mean, one.std) for one in seen)}


def _rates(findings: Iterable[Finding]) -> dict[str, Any]:
    return {name: rate_values(rate) for name, rate in refusals(findings).items()}


def _by_gate(finding: Finding) -> bool:
    return finding.by_gate


def _by_either(finding: Finding) -> bool:
    return finding.refused


def _over_lots(
    findings: Sequence[Finding],
    is_refused: Callable[[Finding], bool],
    is_error: Callable[[Finding], bool] | None = None,
) -> dict[str, Any] | None:
    """95 % interval over lots of the share that is refused, their number, and the worst of them; None of no images.

    Of foreign images kinds are the lots. The worst has most refused, or most of what `is_error` says.
    """
    lots: dict[str, list[int]] = {}
    for one in findings:
        tally = lots.setdefault(one.group, [0, 0, 0])
        tally[0] += is_refused(one)
        tally[1] += (is_error or is_refused)(one)
        tally[2] += 1
    hits, errors, images = zip(*lots.values(), strict=True) if lots else ((), (), ())
    found = share_over_lots(hits, images)
    if found is None:
        return None
    worst = worst_values(worst_lot(list(lots), errors, images))
    return {"lots": found.lots, "interval": [found.low, found.high], "worst": worst}


def lots_span(over: dict[str, Any] | None) -> str:
    """The interval over lots with their number and the lot with most refused, in %; `-` of no scans."""
    return "-" if over is None else f"{span_over(over['interval'], over['lots'], 'lot')}{_worst('most', over)}"


def kinds_span(over: dict[str, Any] | None) -> str:
    """As `lots_span`, of the kinds of foreign images: the worst is the one that passes most often."""
    return "-" if over is None else f"{span_over(over['interval'], over['lots'], 'kind')}{_worst('not refused', over)}"


def _worst(what: str, over: dict[str, Any]) -> str:
    return "" if over["worst"] is None else f"; {what} {worst_of(WorstLot(**over['worst']))}"


def _cells(entry: dict[str, Any]) -> list[object]:
    rates = [f"{_cell(entry[name])} ({percent_span(entry[name]['interval'])} %)" for name in _CELLS[1:]]
    return [entry["gate"]["total"], *rates]


def _cell_over_lots(entry: dict[str, Any]) -> str:
    rate = entry["gate"]
    if rate["share"] is None:
        return "-"
    return f"{_cell(rate)} ({percent_span(rate['interval'])}; {lots_span(entry['gate_over_lots'])})"


def _cell(rate: dict[str, Any]) -> str:
    return "-" if rate["share"] is None else f"{rate['hits']} of {rate['total']}"
