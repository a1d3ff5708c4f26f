"""The torture harness can fail: defects built in on purpose, each turns its row red for the right reason.

The defects are made by tests/torture/wrap.py in the worker's process; the product has no switch for them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.torture.rig
import tests.torture.start_faults
from tests.support.mosquitto import needs_mosquitto
from tests.torture.broker_faults import no_acknowledgement, refused_by_access_list
from tests.torture.durability import durability_order, power_cut
from tests.torture.evidence_faults import kill_while_pieces_are_written
from tests.torture.file_faults import repeat_images, slow_writers
from tests.torture.folder_faults import events_lost
from tests.torture.identity_faults import restored_without_a_number
from tests.torture.isolation_faults import decoder_taken_over, files_that_burn
from tests.torture.kills import kill_the_worker
from tests.torture.rot_faults import changed_messages, rotten_numbers
from tests.torture.start_faults import dead_at_the_start
from tests.torture.station_faults import deep_and_hung, moved_on, rewritten_in_place, unwritten_parts
from tests.torture.trial import Trial

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
pytestmark = [pytest.mark.broker, needs_mosquitto, pytest.mark.timeout(600)]

SEED = 20261


class Shown(Exception):
    """The row has said what it was to say: the rest of it is no concern here."""


class ShortTrial(Trial):
    """Ends with the complaint that is waited for."""

    complaint = ""

    def require(self, holds: bool, otherwise: str) -> bool:
        if not super().require(holds, otherwise) and self.complaint in otherwise:
            raise Shown
        return holds


@pytest.mark.parametrize(
    ("row", "share", "defect", "complaint"),
    [
        pytest.param(power_cut, 0.2, "synchronous-off", "are not in the ledger", marks=needs_strace, id="R7"),
        pytest.param(durability_order, 0.2, "synchronous-off", "before they were flushed", marks=needs_strace, id="R8"),
        pytest.param(kill_the_worker, 0.15, "ack-before-commit", "lost", id="R1-ack"),
        pytest.param(kill_the_worker, 0.15, "publish-before-commit", "contradictory", id="R1-publish"),
        pytest.param(refused_by_access_list, 1.0, "close-on-any-code", "refused rows are closed", id="R5"),
        pytest.param(no_acknowledgement, 1.0, "take-any-acknowledgement", "refused rows are closed", id="R31"),
        pytest.param(decoder_taken_over, 0.3, "unfiltered-decoder", "the decoder", id="R29"),
        pytest.param(kill_while_pieces_are_written, 1.0, "evidence-in-place", "is broken", id="R37"),
        pytest.param(repeat_images, 0.4, "bytes-alone", "were judged as new", id="R24"),
        pytest.param(rewritten_in_place, 0.4, "no-hold", "bytes nobody listed", id="R25"),
        pytest.param(moved_on, 0.4, "move-by-name", "lost", id="R27"),
        pytest.param(restored_without_a_number, 1.0, "one-ledger-id", "under one number", id="R32"),
        pytest.param(changed_messages, 1.0, "unchecked-messages", "a changed message was sent", id="R34"),
        pytest.param(rotten_numbers, 1.0, "mend-numbers-silently", "went on under one ledger_id", id="R34-number"),
        pytest.param(unwritten_parts, 1.0, "unwritten-is-read", "judged while unwritten", id="R26"),
        pytest.param(deep_and_hung, 1.0, "walk-by-recursion", "ended the worker", id="R28"),
        pytest.param(files_that_burn, 0.1, "blame-the-clock", "waited 0 times", id="R30"),
        pytest.param(dead_at_the_start, 1.0, "silent-refusal", "the MES reads ['stopped'], expected", id="R33"),
        pytest.param(slow_writers, 0.3, "react-to-created", "bytes nobody listed", id="R11"),
        pytest.param(events_lost, 0.05, "list-seldom", "that no event told of was taken after", id="R14"),
    ],
)
def test_a_defect_built_in_on_purpose_turns_its_row_red(
    row: Callable[[Trial], None],
    share: float,
    defect: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tests.torture.rig, "PATIENCE_S", 30.0)
    monkeypatch.setattr(tests.torture.start_faults, "TOLD_S", 3.0)
    trial = ShortTrial(tmp_path, SEED, is_long=False, share=share, worker_options=("--break", defect))
    trial.complaint = complaint
    with contextlib.suppress(Shown):
        row(trial)
    problems = [*trial.problems, *trial.late]
    assert any(complaint in problem for problem in problems), problems
