"""A line that is two, is restored, loses its memory or has a wrong clock: no number names two messages: R32."""

from __future__ import annotations

from collections import defaultdict

from edge.store.backup import back_up, restore
from edge.store.requests import RequestKind, ResendRequest, leave
from tests.torture.disk_faults import STATE_BYTES, small_disk
from tests.torture.rig import STATION, Rig, wait_until
from tests.torture.trial import Skipped, Trial

TEN_YEARS_S = 10 * 365 * 86_400.0


def taken_for_another(trial: Trial) -> None:
    """R32: two boxes as one station, a restore without the next number, a state in memory, a wrong clock at the start.

    The MES must be able to tell: by `ledger_id`, or by an alarm.
    """
    _two_boxes(trial)
    restored_without_a_number(trial)
    try:
        _state_in_memory(trial)
    except Skipped as reason:
        trial.notes.append(str(reason))
    _wrong_clock(trial)


def _two_boxes(trial: Trial) -> None:
    """The old box was left on: both judge the same folder under one name."""
    with trial.rig() as rig:
        other = rig.other_box()
        try:
            for worker in (rig.worker, other):
                worker.start()
            rig.generator.arrive(5)
            wait_until(lambda: len(numbers_heard(trial, rig)) >= 2, "both boxes are heard")
            wait_until(lambda: bool(rig.subscriber.alarms("station-twice")), "the alarm station-twice")
        except AssertionError as error:
            trial.require(False, str(error))
        finally:
            other.kill()
        heard = numbers_heard(trial, rig)
        said = [message.content["message"] for message in rig.subscriber.alarms("station-twice")]
        named = {ledger for ledger in heard if any(ledger in words for words in said)}
        trial.require(bool(named), f"no alarm names a ledger: {said[:1]}")
        rig.generator.arrive(2)
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.findings.tried += 7
        trial.figures["alarms of two boxes"] = len(said)


def restored_without_a_number(trial: Trial) -> None:
    """A backup lacks the newest numbers; whoever restores it knows no better."""
    with trial.rig() as rig:
        rig.worker.start()
        rig.generator.arrive(4)
        rig.await_all()
        back_up(rig.state / "ledger.sqlite", STATION, rig.root / "backup.sqlite")
        rig.generator.arrive(3)
        rig.await_all()
        rig.worker.kill()
        rig.state.rename(rig.root / "lost")
        refused = rig.run_cli("restore", str(rig.root / "backup.sqlite"), "--next-seq", "4")
        trial.require(refused.returncode != 0 and "was given already" in refused.stderr, f"said {refused.stderr!r}")
        restore(rig.state / "ledger.sqlite", STATION, rig.root / "backup.sqlite")
        rig.worker.start()
        rig.generator.arrive(2)
        rig.await_all()
        trial.require_clean_stop(rig.worker)
        seqs = numbers_heard(trial, rig)
        trial.require([*map(sorted, seqs.values())] == [[1, 2, 3, 4, 5, 6, 7], [5, 6, 7, 8, 9]], f"numbers: {seqs}")
        trial.findings.tried += 9


def _state_in_memory(trial: Trial) -> None:
    """A power cut takes the ledger: the log has said so, and what comes then bears another `ledger_id`."""
    with trial.rig() as rig:
        with small_disk(rig.state, STATE_BYTES):
            rig.worker.start()
            rig.generator.arrive(3)
            rig.await_all()
            rig.worker.kill()
        warned = rig.worker.count("the state is on no local disk")
        trial.require(warned == 1, f"{warned} warnings of a state in memory, expected 1")
        rig.worker.start()
        rig.generator.arrive(2)
        rig.await_all()
        wait_until(lambda: rig.subscriber.count("verdict") >= 8, "the first three, judged anew")
        trial.require_clean_stop(rig.worker)
        seqs = numbers_heard(trial, rig)
        trial.require(sorted(map(len, seqs.values())) == [3, 5], f"numbers: {seqs}")
        trial.findings.tried += 5


def _wrong_clock(trial: Trial) -> None:
    """A box without a clock battery begins ten years ago: an alarm until its clock is set, and a resend by number."""
    offset = trial.root / "offset"
    offset.write_text(str(-TEN_YEARS_S))
    with trial.rig() as rig:
        rig.worker.start("--clock", str(offset), "--health-s", "0.2")
        rig.generator.arrive(3)
        rig.await_all()
        wait_until(lambda: bool(rig.subscriber.alarms("clock-behind")), "the alarm clock-behind")
        offset.write_text("0")
        wait_until(lambda: not rig.subscriber.alarms("clock-behind")[-1].content["active"], "its end")
        rig.generator.arrive(3)
        rig.await_all()
        heard = rig.subscriber.count("verdict")
        leave(rig.state, RequestKind.RESEND, ResendRequest(numbers=(1, 6)))
        wait_until(lambda: rig.subscriber.count("verdict") == heard + 6, "all six again, by number")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "wrong clock")


def numbers_heard(trial: Trial, rig: Rig) -> dict[str, list[int]]:
    """Numbers heard, by ledger, in order of its first message; a number of two payloads is a broken promise."""
    payloads: dict[tuple[str, int], set[str]] = defaultdict(set)
    seqs: dict[str, list[int]] = {}
    for message in rig.subscriber.of("verdict"):
        ledger_id, seq = str(message.content["ledger_id"]), message.content["seq"]
        payloads[ledger_id, seq].add(message.payload)
        known = seqs.setdefault(ledger_id, [])
        if seq not in known:
            known.append(seq)
    twice = [key for key, said in payloads.items() if len(said) > 1]
    trial.require(not twice, f"two messages under one number: {twice[:3]}")
    return seqs
