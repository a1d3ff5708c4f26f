"""The checker sees what it is there to see."""

from __future__ import annotations

import json
from typing import Any

from tests.torture.checker import LedgerRow, Message, compare
from tests.torture.generator import Listed

LISTED = Listed("a.tif", "a" * 64, 0.25, 0.0)


def payload(sha256: str = "a" * 64, **changes: Any) -> str:
    content = {"verdict_id": sha256[:32], "seq": 1, "p_abnormal": 0.25, "reasons": ["classifier"]}
    return json.dumps(content | {"scan": {"file": "a.tif", "sha256": sha256}} | changes)


def row(text: str, seq: int = 1, *, is_sent: bool = True) -> LedgerRow:
    return LedgerRow(seq, json.loads(text)["verdict_id"], text, is_sent)


def heard(*payloads: str) -> list[Message]:
    return [Message(0.0, "verdict", text) for text in payloads]


def test_one_verdict_on_one_scan_is_right() -> None:
    found = compare([LISTED], heard(payload()), [row(payload())])
    assert (found.tried, found.lost, found.duplicated, found.contradictory, found.faults) == (1, 0, 0, 0, [])


def test_the_same_bytes_twice_are_a_duplicate_and_no_fault() -> None:
    found = compare([LISTED], heard(payload(), payload()), [row(payload())])
    assert (found.duplicated, found.faults) == (1, [])


def test_a_listed_scan_without_a_message_is_lost() -> None:
    assert compare([LISTED], [], [row(payload(), is_sent=False)]).lost == 1


def test_two_payloads_of_one_verdict_contradict_each_other() -> None:
    found = compare([LISTED], heard(payload(), payload(boot="another")), [row(payload())])
    assert found.contradictory == 1
    assert any("published bytes differ" in fault for fault in found.faults)


def test_a_score_of_other_pixels_is_a_fault() -> None:
    other = payload(p_abnormal=0.26)
    assert "its pixels give 0.25" in compare([LISTED], heard(other), [row(other)]).faults[0]


def test_a_verdict_on_bytes_nobody_listed_is_a_fault() -> None:
    stray = payload("b" * 64)
    faults = compare([LISTED], heard(payload(), stray), [row(payload()), row(stray, 2)]).faults
    assert faults == ["a verdict on bytes nobody listed: a.tif ['classifier']"]


def test_a_message_without_a_row_a_gap_and_a_row_closed_unheard_are_faults() -> None:
    assert "not in the ledger" in compare([LISTED], heard(payload()), []).faults[0]
    gap = compare([LISTED], heard(payload()), [row(payload()), row(payload("c" * 64), 3, is_sent=False)])
    assert gap.faults == ["the ledger's sequence has a gap"]
    closed = compare([LISTED], heard(payload()), [row(payload()), row(payload("c" * 64), 2)])
    assert closed.faults == ["closed in the ledger, never received: seq 2"]
