"""A worker that must not start, and one that is stopped while it starts: R33."""

from __future__ import annotations

import signal
import time

from tests.torture.disk_faults import STATE_BYTES, fill, small_disk
from tests.torture.rig import Layout, Rig, TimedOut, wait_until
from tests.torture.trial import Skipped, Trial

EXIT_IO, EXIT_CONFIG = 74, 78
MAX_STOP_S = 2.0
SLOW_LOAD_S = 60.0
TOLD_S = 10.0


def dead_at_the_start(trial: Trial) -> None:
    """R33: a ledger damaged after a clean stop, a refused model, a full disk: the MES reads `refused`. And stops."""
    with trial.rig(Layout(by_exec=True)) as rig:
        rig.worker.start()
        rig.generator.arrive(3)
        rig.await_all()
        trial.require_clean_stop(rig.worker)
        ledger = rig.state / "ledger.sqlite"
        whole = ledger.read_bytes()
        ledger.write_bytes(whole[:100] + rig.chance.randbytes(3996) + whole[4096:])
        rig.worker.start(wait=False)
        _require_refused(trial, rig, EXIT_IO, rig.worker.wait_end(), str(ledger))
        ledger.write_bytes(whole)
        # The production program refuses the tests' kind of model.
        _require_refused(trial, rig, EXIT_CONFIG, rig.run_cli().returncode, "model")
        for number in (signal.SIGTERM, signal.SIGINT):
            _stopped_while_loading(trial, rig, number)
        rig.worker.start()
        rig.generator.arrive(3)
        trial.recovered(rig.await_all())
        wait_until(lambda: _states(rig)[-1] == "online", "the MES reads `online` again")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
    try:
        with trial.rig(Layout(by_exec=True)) as rig, small_disk(rig.state, STATE_BYTES):
            fill(rig.state / "filler")
            rig.worker.start(wait=False)
            _require_refused(trial, rig, EXIT_IO, rig.worker.wait_end(), "full")
            (rig.state / "filler").unlink()
            rig.worker.start()
            rig.generator.arrive(3)
            trial.recovered(rig.await_all())
            trial.require_clean_stop(rig.worker)
            trial.take(rig.findings(), "full disk")
    except Skipped as reason:
        trial.notes.append(str(reason))


def _require_refused(trial: Trial, rig: Rig, expected: int, code: int, about: str) -> None:
    """The last that the MES reads of a worker that ended with `code`; `about` is in the reason."""
    trial.require(code == expected, f"{about}: exit code {code}, expected {expected}")
    try:
        wait_until(lambda: _states(rig)[-1:] == ["refused"], "the MES reads `refused`", TOLD_S)
    except TimedOut:
        trial.require(False, f"{about}: the MES reads {_states(rig)[-1:]}, expected `refused`")
        return
    last = rig.subscriber.of("status")[-1].content
    trial.require(about in last["reason"] and bool(last["hint"]), f"{about}: the reason is {last['reason']!r}")


def _stopped_while_loading(trial: Trial, rig: Rig, number: signal.Signals) -> None:
    seen = rig.worker.count("loading")
    rig.worker.start("--slow-load-s", str(SLOW_LOAD_S), wait=False)
    rig.worker.wait_for("loading", seen + 1)
    began_s = time.monotonic()
    code = rig.worker.stop(number)
    took_s = time.monotonic() - began_s
    trial.require(code == 0, f"{number.name} while loading: exit code {code}, expected 0")
    trial.require_in_time(took_s < MAX_STOP_S, f"{number.name} while loading: it ended after {took_s:.1f} s")
    trial.require(took_s < SLOW_LOAD_S / 2, f"{number.name} while loading waits for the load")
    trial.figures[f"stopped_after_s ({number.name})"] = round(took_s, 2)


def _states(rig: Rig) -> list[str]:
    return [message.content["state"] for message in rig.subscriber.of("status")]
