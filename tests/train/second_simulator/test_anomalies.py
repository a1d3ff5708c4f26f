"""Eleven kinds of anomalies: each changes what its box says, grows with severity, and is seen above the noise."""

import numpy as np
import pytest

from train.second_simulator.anomalies import KINDS, Anomaly, add_anomaly
from train.second_simulator.detector import Session, expose, transmission
from train.second_simulator.sheet import Sheet, draw_sheet
from train.second_simulator.simulate import draw_lot
from train.simulator.simulate import KINDS as FIRST_KINDS

SCALE = 0.15


def with_and_without(kind: str, severity: float, lot: int) -> tuple[Sheet, Sheet, Anomaly | None, Session]:
    """One sheet of a lot before the X-ray, without an anomaly and with it, and the detector of that lot."""
    drawn = draw_lot(3, lot)
    clean, marked = (draw_sheet(drawn.look, SCALE, np.random.default_rng([3, lot, 1])) for _ in range(2))
    return clean, marked, add_anomaly(marked, kind, severity, np.random.default_rng([3, lot, 1, 1])), drawn.session


def ideal_counts(sheet: Sheet, session: Session) -> np.ndarray:
    """Counts of a noiseless, sharp, even detector."""
    return np.float32(session.open_beam) * transmission(sheet.substrate, sheet.coat, session)


def change_in_counts(kind: str, severity: float, lot: int) -> np.ndarray:
    clean, marked, _, session = with_and_without(kind, severity, lot)
    return ideal_counts(marked, session) - ideal_counts(clean, session)


def test_the_kinds_are_those_of_the_first_simulator() -> None:
    assert KINDS.keys() == set(FIRST_KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("severity", [0.3, 1.0])
def test_an_anomaly_changes_what_its_box_says_and_nothing_else(kind: str, severity: float) -> None:
    clean, marked, anomaly, _ = with_and_without(kind, severity, 2)
    changed = (clean.coat != marked.coat) | (clean.substrate != marked.substrate)
    assert anomaly is not None
    top, left, bottom, right = anomaly.box
    inside = changed[top:bottom, left:right]
    assert inside.sum() == changed.sum() == anomaly.area > 0
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    assert 1 <= anomaly.length <= np.hypot(*changed.shape) + 1
    mass = np.abs(clean.coat - marked.coat) + np.abs(clean.substrate - marked.substrate)
    assert mass[anomaly.mask].min() > mass.max() / 4 >= mass[~anomaly.mask].max()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_anomaly_of_severity_1_stands_out_of_the_noise(kind: str) -> None:
    """Signal over noise in the scan as it is stored: of a filter matched to it, and of its strongest tenth by pixel."""
    for lot in range(1, 4):
        clean, marked, _, session = with_and_without(kind, 1.0, lot)
        before, after = (
            expose(sheet.substrate, sheet.coat, session, SCALE, np.random.default_rng(7)).clip(0, 3500).astype(float)
            for sheet in (clean, marked)
        )
        change = change_in_counts(kind, 1.0, lot)
        noise = 1.4826 * np.median(np.abs(np.diff(before[40:-40, 30:-30], axis=1))) / np.sqrt(2)
        gain = float((change * (after - before)).sum() / np.linalg.norm(change))
        strong = np.abs(change) >= np.quantile(np.abs(change[change != 0]), 0.9)
        assert gain > 30 * noise
        assert np.abs(after - before)[strong].mean() > 3 * noise


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_anomaly_grows_with_its_severity(kind: str) -> None:
    strengths = [
        np.mean([np.linalg.norm(change_in_counts(kind, severity, lot)) for lot in range(1, 6)])
        for severity in (0.05, 0.4, 1.0)
    ]
    assert strengths[0] < 0.6 * strengths[1] < 0.6 * strengths[2]


def test_missing_ink_is_brighter_and_agglomerate_darker_than_the_coat_around() -> None:
    assert change_in_counts("missing-ink", 1.0, 1).sum() > 0
    assert change_in_counts("agglomerate", 1.0, 1).min() < -100


def test_an_edge_cut_shows_the_open_beam() -> None:
    for lot in range(1, 5):
        clean, marked, _, session = with_and_without("edge-cuts", 1.0, lot)
        gone = (marked.substrate == 0) & (clean.substrate > 0.5)
        counts = ideal_counts(marked, session)
        assert gone.any()
        assert counts[gone] == pytest.approx(session.open_beam, rel=1e-5)
