"""The list of faults, in its own order, and the rows that stand beside it."""

from __future__ import annotations

from tests.torture import (
    broker_faults,
    disk_faults,
    durability,
    evidence_faults,
    file_faults,
    folder_faults,
    fuzz,
    isolation_faults,
    kills,
    load,
    model_faults,
    start_faults,
)
from tests.torture.trial import Procedure

PROCEDURES = (
    Procedure("R1", "kill -9 of the worker", kills.kill_the_worker),
    Procedure("R2", "kill -9 of the broker", kills.kill_the_broker),
    Procedure("R3", "broker down, verdicts queue", broker_faults.broker_away, is_timed=True),
    Procedure("R4", "MES offline, broker up", broker_faults.mes_offline),
    Procedure("R5", "refused publish", broker_faults.refused_publish),
    Procedure("R6", "half-open link, loss, delay, silence, resets", broker_faults.bad_link),
    Procedure("R7", "power cut", durability.power_cut),
    Procedure("R8", "durability order", durability.durability_order),
    Procedure("R9", "disk full", disk_faults.disk_full),
    Procedure("R10", "EIO, read-only, permission", disk_faults.disk_fails),
    Procedure("R11", "slow, preallocated, truncated writers", file_faults.slow_writers),
    Procedure("R12", "hostile TIFF", file_faults.hostile_files),
    Procedure("R13", "re-arrival", file_faults.arrive_again),
    Procedure("R14", "event loss", folder_faults.events_lost, is_timed=True),
    Procedure("R15", "folder away and back", folder_faults.folder_away),
    Procedure("R16", "backlog", folder_faults.backlog, is_timed=True),
    Procedure("R17", "clock jumps", folder_faults.clock_jumps),
    Procedure("R18", "soak", load.soak, is_timed=True),
    Procedure("R19", "tamper", model_faults.tampered_bundle),
    Procedure("R20", "two workers, one folder", kills.start_a_second_worker),
    Procedure("R21", "upgrade and rollback", kills.upgrade_and_roll_back),
    Procedure("R22", "bad engine", model_faults.bad_engine),
    Procedure("R23", "poison scan", kills.poison_a_scan),
    Procedure("R29", "decoder under a file's control", isolation_faults.decoder_taken_over),
    Procedure("R30", "files that burn time or disk", isolation_faults.files_that_burn, is_timed=True),
    Procedure("R31", "broker of odd answers", broker_faults.odd_answers),
    Procedure("R33", "dead at the start, stopped at the start", start_faults.dead_at_the_start),
    Procedure("R37", "evidence: kills, a slow disk, a full one", evidence_faults.keep_evidence),
    Procedure("L1", "steady load", load.load, is_timed=True),
    Procedure("S1", "random sequences of events against a model", fuzz.explore_sequences),
    Procedure("F1", "coverage-guided fuzzing of the reader", fuzz.fuzz_the_reader),
)
