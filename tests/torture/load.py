"""Hours of work: flat memory, bounded files, steady latency: R18, R35 on the real engines, and the load L1."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge.pipeline.loaded_model import DEMO_KEY
from tests.support.signed_models import make_signed_model
from tests.support.tiff_files import tiff
from tests.torture.rig import Layout, Rig, TimedOut, Worker, wait_until
from tests.torture.trial import Trial
from train.simulator.simulate import simulate_scan

MAX_SLOPE_BYTES = 1e6
"""Per 10,000 scans."""
MAX_SLOPE_OF_AN_HOUR_BYTES = 5e6
"""Likewise, where an hour is all there is: networks of full size take about a scan a second on two cores. Half of what
a leak of 1 kB a scan adds, and more than the heaps of the engines move by themselves over so few scans."""
SOAK_WARM_UP_SCANS = 10_000
"""Until then caches fill: 2 MB of database pages, the messages that are always kept, the heaps of the threads, and
the memory of what evidence is kept, whose budget is reached on the way."""
EVIDENCE_BYTES = 64 << 20
LOAD_WARM_UP_SCANS = 30_000
"""Until then, at the offered rate, the inbox has swept twice, and remembers as many taken files as it ever will."""
MIN_SPAN_SCANS = 8_000
"""Over fewer a slope would be that of a single page of the allocator's."""
MIN_SPAN_OF_AN_HOUR_SCANS = 800
"""Half a scan a second; a leak of 1 kB a scan adds 0.8 MB over them."""
MAX_WAL_BYTES = 64 << 20
OFFERED_PER_S = 200
KEPT_FILES = 2000
SAMPLE_S = 1.0
SLOPE_SAMPLES = 400
"""Samples a slope is taken from; all pairs of them are."""
DEMO = Path(__file__).parents[2] / "demo" / "model"
REAL_WARM_UP = 1 / 3
"""Part of the time in which the engines' heaps fill."""
Row = dict[str, Any]
"""One sample of a series."""
FILLING = "filling_"
WAITING = 16
"""Scans offered ahead of the engine, and kept after their verdicts."""


def soak(trial: Trial) -> None:
    """R18: as many scans as come through; memory, descriptors and threads stay flat, the ledger is pruned."""
    count = SOAK_WARM_UP_SCANS + trial.size(10_000, 200_000)
    with trial.rig(_soak_layout()) as rig:
        series = _soak_in(trial, rig, count)
        slope = series.slope()
        count = len(rig.generator.listed)
        trial.figures |= series.figures(slope) | {"scans": count}
        _require_flat(trial, series, slope)
        with sqlite3.connect(rig.state / "ledger.sqlite") as sql:
            ((kept,),) = sql.execute("SELECT count(*) FROM outbox").fetchall()
            ((verdicts,),) = sql.execute("SELECT count(*) FROM verdicts").fetchall()
        trial.require(verdicts == count, f"the ledger knows {verdicts} verdicts")
        trial.require(kept <= 10_000 + 6000, f"{kept} messages are kept: nothing was pruned")
        trial.figures |= {"messages_kept": kept}


def soak_on_real_engines(trial: Trial) -> None:
    """R35: onnxruntime and OpenVINO; memory stays flat.

    Small graphs first, for only they come to the scans that the strict bar asks for; then, by the production program,
    the demo's networks on scans of full size, for an hour. Both engines at once: memory does not ask how fast they are.
    """
    engines = ("onnxruntime", "openvino")
    parts = [Trial(trial.root / engine, trial.seed, trial.is_long, trial.share) for engine in engines]
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(_soak_on_real_engine, parts, engines))
    for part in parts:
        trial.problems += part.problems
        trial.late += part.late
        trial.figures |= part.figures
        trial.findings.tried += part.findings.tried
        trial.findings.lost += part.findings.lost


def _soak_on_real_engine(trial: Trial, engine: str) -> None:
    trial.root.mkdir()
    _soak_on_small_graphs(trial, engine, SOAK_WARM_UP_SCANS + trial.size(10_000, 20_000))
    _soak_on_demo(trial, engine, trial.size(60, 3600))


def _soak_layout(model: dict[str, object] | None = None) -> Layout:
    """Time runs faster here: sent verdicts are old at once, and the worker tidies every two seconds.

    Else a day's scans would pass before the first sweep of ledger and inbox, and memory holds every name until then.
    """
    evidence: dict[str, object] = {"max_bytes": EVIDENCE_BYTES}
    state: dict[str, object] = {"keep_days": 1e-6}
    return Layout(
        log_level="warning", model=model or {}, state=state, evidence=evidence, mosquitto=_quiet(), by_exec=True
    )


def _soak_in(trial: Trial, rig: Rig, count: int, *options: str) -> _Series:
    """Bring `count` scans through, half as many again while memory seems to grow, and stop.

    On a busy machine the allocator takes a page more, once: over 10,000 scans that is a slope. A leak keeps its own.
    """
    rig.worker.start("--housekeeping-s", "2", *options, wait=False)
    series = _Series(rig, SOAK_WARM_UP_SCANS)
    for wanted in (count, count * 3 // 2, count * 2):
        _bring(rig, series, wanted)
        slope = series.slope()
        if slope is None or slope.is_flat:
            break
    trial.require_clean_stop(rig.worker)
    _count_lost(trial, rig)
    return series


def _bring(rig: Rig, series: _Series, count: int) -> None:
    """Scans through the line until it has had `count`, as many waiting as keep it busy."""
    while len(rig.generator.listed) < count and rig.worker.is_alive():
        heard = rig.subscriber.count("verdict")
        if len(rig.generator.listed) - heard < 500:
            rig.generator.arrive(50)
        else:
            time.sleep(0.02)
        series.sample()
        _tidy(rig, heard)
    rig.await_all()
    series.sample(force=True)


def _soak_on_small_graphs(trial: Trial, engine: str, count: int) -> None:
    """Graphs of a few nodes, loaded and run as every model is."""
    model = make_signed_model(trial.root / f"small-{engine}")
    with trial.rig(_soak_layout({"dir": model, "engine": engine})) as rig:
        series = _soak_in(trial, rig, count, "--real-engine")
        _require_engine(trial, rig, engine)
        slope = series.slope()
        said = len(rig.generator.listed)
        trial.figures[f"{engine}, small graphs"] = {"scans": said, **_without_series(series.figures(slope))}
        _require_flat(trial, series, slope)


def _soak_on_demo(trial: Trial, engine: str, span_s: float) -> None:
    """As many scans as the engine takes; few stay in the folder, for they are large."""
    scans = _scans_of_the_demo(trial.seed)
    model: dict[str, object] = {"dir": DEMO, "engine": engine, "trusted_key": DEMO_KEY}
    layout = Layout(log_level="warning", model=model, evidence={"max_bytes": EVIDENCE_BYTES}, mosquitto=_quiet())
    with trial.rig(layout) as rig:
        rig.worker = Worker(rig.config, rig.root / "worker.log", program="edge.cli")
        rig.worker.start(wait=False)
        wait_until(lambda: rig.subscriber.count("model") > 0 or not rig.worker.is_alive(), "the worker runs")
        filled = trial.size(100, SOAK_WARM_UP_SCANS)
        _fill_caches(rig, filled)
        series = _Series(rig, 0)
        until_s = time.monotonic() + span_s
        while time.monotonic() < until_s and rig.worker.is_alive():
            heard = rig.subscriber.count("verdict")
            while len(rig.generator.listed) - heard < WAITING:
                number = len(rig.generator.listed)
                rig.generator.put(f"B01_{number:06}.tif", next(scans), None)
            series.sample()
            _tidy(rig, heard, WAITING)
            time.sleep(0.05)
        _await_the_rest(rig)
        series.sample(force=True)
        trial.require_clean_stop(rig.worker)
        _count_lost(trial, rig)
        _require_engine(trial, rig, engine)
        slope = hourly_slope(series.rows)
        said = len(rig.generator.listed) - filled
        trial.figures[f"{engine}, full size"] = {"scans": said, **_without_series(series.figures(slope))}
        is_measured = slope is not None or not trial.is_long
        trial.require_in_time(is_measured, f"{engine}: {said} scans are too few for a slope")
        _require_flat(trial, series, slope)


def _fill_caches(rig: Rig, count: int) -> None:
    """Files that are no scans: their verdicts fill what else fills with each of the scans, 1.6 kB, for two hours."""
    for number in range(count):
        rig.generator.put(f"{FILLING}{number:06}.tif", f"no scan, number {number}".encode(), None)
        if number % 500 == 499:
            rig.await_all()
            _tidy(rig, rig.subscriber.count("verdict"), 0)
    rig.await_all()
    _tidy(rig, rig.subscriber.count("verdict"), 0)


def _count_lost(trial: Trial, rig: Rig) -> None:
    lost = len({listed.sha256 for listed in rig.generator.listed} - rig.subscriber.distinct())
    trial.findings.tried += len(rig.generator.listed)
    trial.findings.lost += lost
    trial.require(not lost, f"{lost} lost")


def _require_engine(trial: Trial, rig: Rig, engine: str) -> None:
    """Every verdict carries a score, and this engine made it."""
    said = [message.content for message in rig.subscriber.of("verdict")]
    said = [verdict for verdict in said if not verdict["scan"]["file"].startswith(FILLING)]
    unjudged = sum(verdict["p_abnormal"] is None for verdict in said)
    trial.require(unjudged == 0, f"{engine}: {unjudged} of {len(said)} verdicts without a score")
    names = {message.content["engine"] for message in rig.subscriber.of("model")}
    trial.require(names == {engine}, f"it ran on {names}, expected {engine}")


def _without_series(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "series"}


def _await_the_rest(rig: Rig) -> None:
    """As long as one verdict follows the other: on a busy machine a scan of full size takes many seconds."""
    wanted, heard = len(rig.generator.listed), -1
    while heard < rig.subscriber.count("verdict") < wanted:
        heard = rig.subscriber.count("verdict")
        with suppress(TimedOut):  # what is missing then counts as lost
            wait_until(partial(_has_more, rig, heard), "another verdict")


def _has_more(rig: Rig, heard: int) -> bool:
    return rig.subscriber.count("verdict") > heard


def _scans_of_the_demo(seed: int) -> Iterator[bytes]:
    """Files of a simulated scan of full size, no two with the same pixels."""
    counts = simulate_scan(seed, 900, 1, abnormal=False).counts
    chance = np.random.default_rng([seed, 35])
    while True:
        changed = counts.copy()
        changed[:8] ^= chance.integers(0, 2, changed[:8].shape, np.uint16)
        yield tiff(changed)


def load(trial: Trial) -> None:
    """L1: a steady 200 scans/s; latency from visible file to PUBACK, processor time per scan, nothing grows."""
    span_s = trial.size(20, 600)
    # Each piece of evidence is remembered, up to 50,000 of them: of scans this small, for as long as the row lasts.
    evidence: dict[str, object] = {"max_bytes": EVIDENCE_BYTES}
    with trial.rig(Layout(log_level="warning", mosquitto=_quiet(), evidence=evidence, by_exec=True)) as rig:
        rig.worker.start(wait=False)
        rig.generator.arrive(1)
        rig.await_all()
        series = _Series(rig, LOAD_WARM_UP_SCANS)
        began_s = time.monotonic()
        cpu_s = rig.worker.usage().cpu_s
        count = OFFERED_PER_S * span_s
        for index in range(count):
            time.sleep(max(0.0, began_s + index / OFFERED_PER_S - time.monotonic()))
            rig.generator.arrive(1)
            if index % 50 == 0:
                series.sample()
                _tidy(rig, rig.subscriber.count("verdict"))
        offered_s = time.monotonic() - began_s
        rig.await_all()
        series.sample(force=True)
        cpu_s = rig.worker.usage().cpu_s - cpu_s
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        latencies_ms = _latencies_ms(rig)
        slope = series.slope()
        trial.figures |= series.figures(slope) | {
            "offered_per_s": round(count / offered_s, 1),
            "latency_p50_ms": round(float(np.percentile(latencies_ms, 50))),
            "latency_p99_ms": round(float(np.percentile(latencies_ms, 99))),
            "cpu_ms_per_scan": round(1e3 * cpu_s / count, 2),
        }
        _require_flat(trial, series, slope)


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth of memory, in bytes per 10,000 scans, and the most it may be."""

    per_10k_bytes: float
    limit_bytes: float

    @property
    def is_flat(self) -> bool:
        return self.per_10k_bytes < self.limit_bytes


def slope_after(rows: Sequence[Row], warm_up_scans: int) -> Slope | None:
    """Over the newer half of the scans, none of the warm-up among them; None if little followed it."""
    first = max(warm_up_scans, rows[-1]["verdicts"] // 2)
    return _slope([row for row in rows if row["verdicts"] >= first], MIN_SPAN_SCANS, MAX_SLOPE_BYTES)


def hourly_slope(rows: Sequence[Row]) -> Slope | None:
    """After a third of the time: by the bar of 10,000 scans where there are enough, else by that of an hour."""
    settled = [row for row in rows if row["at_s"] >= REAL_WARM_UP * rows[-1]["at_s"]]
    return _slope(settled, MIN_SPAN_SCANS, MAX_SLOPE_BYTES) or _slope(
        settled, MIN_SPAN_OF_AN_HOUR_SCANS, MAX_SLOPE_OF_AN_HOUR_BYTES
    )


def _slope(rows: Sequence[Row], min_span_scans: int, limit_bytes: float) -> Slope | None:
    """The median of the slopes between all pairs of samples (Theil 1950, Sen 1968): single peaks do not move it."""
    if not rows or rows[-1]["verdicts"] - rows[0]["verdicts"] < min_span_scans:
        return None
    rows = rows[:: max(1, len(rows) // SLOPE_SAMPLES)]
    scans = np.array([row["verdicts"] for row in rows], float)
    own_bytes = np.array([row["own_mb"] for row in rows]) * 1e6
    first, second = np.triu_indices(len(rows), 1)
    apart = scans[second] - scans[first]
    slopes = (own_bytes[second] - own_bytes[first])[apart > 0] / apart[apart > 0]
    return Slope(float(np.median(slopes)) * 10_000, limit_bytes)


class _Series:
    """What the worker holds over time."""

    def __init__(self, rig: Rig, warm_up_scans: int) -> None:
        self._rig = rig
        self._warm_up_scans = warm_up_scans
        self._began_s = self._next_s = time.monotonic()
        self.rows: list[Row] = []

    def sample(self, *, force: bool = False) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s and not force:
            return
        self._next_s = now_s + SAMPLE_S
        usage = self._rig.worker.usage()
        wal = self._rig.state / "ledger.sqlite-wal"
        self.rows.append(
            {
                "at_s": round(now_s - self._began_s, 1),
                "verdicts": self._rig.subscriber.count("verdict"),
                "own_mb": round(usage.own_bytes / 1e6, 2),
                "fds": usage.fds,
                "threads": usage.threads,
                "wal_mb": round(wal.stat().st_size / 1e6, 2) if wal.exists() else 0.0,
            }
        )

    def settled(self) -> list[Row]:
        """The second half: pools have their threads and files."""
        return self.rows[len(self.rows) // 2 :]

    def slope(self) -> Slope | None:
        return slope_after(self.rows, self._warm_up_scans)

    def figures(self, slope: Slope | None) -> dict[str, Any]:
        last = self.rows[-1]
        return {
            "own_slope_mb_per_10k": "not measured: too short" if slope is None else round(slope.per_10k_bytes / 1e6, 2),
            "own_slope_limit_mb_per_10k": None if slope is None else slope.limit_bytes / 1e6,
            "own_mb": last["own_mb"],
            "wal_max_mb": max(row["wal_mb"] for row in self.rows),
            "threads": last["threads"],
            "scans_per_s": round((last["verdicts"] - self.rows[0]["verdicts"]) / last["at_s"], 1),
            "series": self.rows[:: max(1, len(self.rows) // 300)],
        }


def _require_flat(trial: Trial, series: _Series, slope: Slope | None) -> None:
    if slope is not None:
        trial.require(slope.is_flat, f"memory grows by {slope.per_10k_bytes / 1e6:.2f} MB per 10,000 scans")
    fds = [row["fds"] for row in series.settled()]
    threads = [row["threads"] for row in series.settled()]
    trial.require(max(fds) - min(fds) <= 8, f"descriptors between {min(fds)} and {max(fds)}")
    trial.require(max(threads) - min(threads) <= 2, f"threads between {min(threads)} and {max(threads)}")
    wal = max(row["wal_mb"] for row in series.rows)
    trial.require(wal * 1e6 < MAX_WAL_BYTES, f"the write-ahead log grew to {wal:.0f} MB")


def _latencies_ms(rig: Rig) -> list[float]:
    """From the rename to the moment the PUBACK was noted in the ledger."""
    visible = {listed.sha256: listed.visible_at_s for listed in rig.generator.listed}
    with sqlite3.connect(rig.state / "ledger.sqlite") as sql:
        rows = sql.execute("SELECT payload, sent_at_ms FROM outbox JOIN payloads USING (seq) WHERE sent_at_ms > 0")
        return [sent_ms - 1e3 * visible[json.loads(payload)["scan"]["sha256"]] for payload, sent_ms in rows]


def _tidy(rig: Rig, heard: int, kept: int = KEPT_FILES) -> None:
    """Take old files away, as stations do, so that the folder does not grow for ever."""
    listed = rig.generator.listed
    while rig.tidied < heard - kept:
        (rig.scans / listed[rig.tidied].file).unlink(missing_ok=True)
        rig.tidied += 1


def _quiet() -> dict[str, Any]:
    return {"persistence": True, "max_queued": 0, "log_types": "information"}
