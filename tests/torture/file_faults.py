"""Files that are slow, broken, hostile, or come again: R11 to R13."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time

import tifffile

from tests.support.tiff_files import written_by_tifffile
from tests.torture.generator import SlowWriter
from tests.torture.hostile import handmade, mutated, real_scans
from tests.torture.rig import PATIENCE_S, SLOWEST_PER_S, Layout, Rig, wait_until
from tests.torture.stub import expected_p_abnormal
from tests.torture.trial import Trial

EMPTY = hashlib.sha256(b"").hexdigest()
MAX_RSS_BYTES = 512e6
MAX_READ_MS = 2000.0


def slow_writers(trial: Trial) -> None:
    """R11: files written in 1 to 50 pieces, in any order, preallocated or abandoned: judged once, as they end."""
    count, longest_s = trial.size(40, 500), trial.size(5, 60)
    # Longer than any pause of a writer: what stands still longer is taken as final, by contract.
    layout = Layout(folder={"incomplete_after_s": trial.size(6, 65)})
    with trial.rig(layout) as rig:
        rig.worker.start()
        writers = [
            SlowWriter(rig.generator, SlowWriter.KINDS[index % len(SlowWriter.KINDS)], rig.chance, span_s)
            for index, span_s in enumerate(rig.chance.uniform(0.1, longest_s) for _ in range(count))
        ]
        began_s = time.monotonic()
        starts = {id(writer): began_s + rig.chance.uniform(0, longest_s / 2) for writer in writers}
        left = list(writers)
        while left:
            now_s = time.monotonic()
            left = [writer for writer in left if now_s < starts[id(writer)] or not writer.step(now_s)]
            time.sleep(0.01)
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        found = trial.take(rig.findings())
        trial.require(found.duplicated == 0, f"{found.duplicated} duplicates")
        trial.figures |= {"files": count, "abandoned": sum(writer.is_abandoned for writer in writers)}
        trial.notes.append(
            "no writer pauses with fewer than its last 16 samples missing: that cannot be told from a dark corner, and "
            "gives a verdict, then another on the whole file"
        )


def hostile_files(trial: Trial) -> None:
    """R12: mutated and hand-made TIFFs among good scans: a reason each, no crash, no hang, bounded memory."""
    count = trial.size(500, 10_000)
    with trial.rig(Layout(folder={"incomplete_after_s": 0.5})) as rig:
        rig.worker.start()
        _start_decoders(rig)
        hostile = [*handmade(), *mutated(count, trial.seed)]
        names = {}
        for index, data in enumerate(hostile):
            name = f"H{index:06}.tif"
            names[name] = data
            draft = rig.scans / f".{name}.draft"
            draft.write_bytes(data)
            os.rename(draft, rig.scans / name)  # noqa: PTH104
            if index % 10 == 0:
                rig.generator.arrive(1, prefix="good")
        contents = set(hostile)
        good = len(rig.generator.listed)
        wait_until(
            lambda: rig.worker.count("scan judged") + rig.worker.count("same scan judged before") >= len(names) + good,
            "every file is judged, or known",
            PATIENCE_S + len(names) / SLOWEST_PER_S,
        )
        trial.recovered(rig.await_all())
        usage, decoders = rig.worker.usage(), rig.worker.child_usages()
        trial.require_clean_stop(rig.worker)
        verdicts = [message.content for message in rig.subscriber.of("verdict")]
        slowest_ms = max(v["durations_ms"]["read"] for v in verdicts if not v["scan"]["file"].startswith("first"))
        images = {verdict["scan"]["sha256"] for verdict in verdicts if verdict["outcome"] != "unreadable"}
        unreadable = {verdict["scan"]["file"] for verdict in verdicts if verdict["outcome"] == "unreadable"}
        lost = {listed.sha256 for listed in rig.generator.listed} - images
        silent = [  # an image has its verdict under one of its names, anything else under each
            name
            for name, data in names.items()
            if name not in unreadable and hashlib.sha256(data).hexdigest() not in images
        ]
        trial.findings.tried = len(names) + good
        trial.findings.lost = len(lost) + len(silent)
        trial.require(not trial.findings.lost, f"without a verdict: {len(lost)} good files, hostile ones {silent[:3]}")
        wrong = [
            verdict["scan"]["file"]
            for verdict in verdicts
            if verdict["outcome"] == "normal" and verdict["p_abnormal"] is None
        ]
        trial.require(not wrong, f"called normal without a score: {wrong[:3]}")
        trial.require(rig.worker.count("ready") == 1, "the worker ended meanwhile")
        peak_bytes = [part.peak_rss_bytes for part in (usage, *decoders)]
        trial.require(max(peak_bytes) < MAX_RSS_BYTES, f"peak memory {max(peak_bytes) / 1e6:.0f} MB")
        trial.require(bool(decoders), "no coded file was unpacked apart")
        trial.require_in_time(slowest_ms < MAX_READ_MS, f"the slowest read took {slowest_ms:.0f} ms")
        outcomes = [verdict["outcome"] for verdict in verdicts if verdict["scan"]["file"] in names]
        trial.figures |= {
            "hostile": len(hostile),
            "real_scans_among_the_sources": len(real_scans()),
            "distinct": len(contents),
            "unreadable": outcomes.count("unreadable"),
            "peak_rss_mb": [round(peak / 1e6) for peak in peak_bytes],
            "decoders": len(decoders),
            "deaths_of_decoders": rig.worker.count("decoder died"),
            "slowest_read_ms": round(slowest_ms),
        }


def _start_decoders(rig: Rig) -> None:
    """Healthy coded scans, until a process waits for each thread: its start is not the hostile file's time."""
    for index in range(8):
        counts, _ = rig.generator.scan()
        coded = written_by_tifffile(counts, compression="lzw")
        rig.generator.put(f"first_{index}.tif", coded, expected_p_abnormal(counts))
    rig.await_all()


def arrive_again(trial: Trial) -> None:
    """R13, R24: same bytes or pixels under a new name, new bytes under an old name, a touch, a copy over itself; empty
    files.

    Each arrival has its verdict: an image judged before goes to review, an empty file is unreadable under each name.
    Only the same name with the bytes of its last verdict is no arrival.
    """
    rounds = trial.size(5, 50)
    repeated: list[str] = []
    with trial.rig(Layout(folder={"incomplete_after_s": 0.5})) as rig:
        rig.worker.start()
        generator = rig.generator
        for turn in range(rounds):
            first = generator.arrive(1)[0]
            rig.await_all()
            path = rig.scans / first.file
            data = path.read_bytes()
            copied = generator.put(f"copy_{turn}.tif", data, None)
            tagged = io.BytesIO()
            tifffile.imwrite(tagged, tifffile.imread(io.BytesIO(data)), metadata=None, description=f"turn {turn}")
            pixels = generator.put(f"pixels_{turn}.tif", tagged.getvalue(), None)
            repeated += [copied.file, pixels.file]
            rig.await_all()
            empty = rig.scans / f"E01_{turn}.tif"
            for file in (path, empty):
                file.touch()
            time.sleep(0.3)
            shutil.copyfile(rig.scans / f"copy_{turn}.tif", path)
            empty.touch()
            time.sleep(0.3)
            if turn % 2:
                rig.worker.kill()
                rig.worker.start()
            counts, fresh = generator.scan()
            generator.put(first.file, fresh, expected_p_abnormal(counts))  # a replacement
            counts, fresh = generator.scan()
            rig.await_all()
            with path.open("r+b") as file:  # a rewrite in place
                file.write(fresh)
            generator.note(first.file, fresh, expected_p_abnormal(counts))
            rig.await_all()
        rig.generator.arrive(1)
        rig.await_all()
        empty_names = {f"E01_{turn}.tif" for turn in range(rounds)}

        def empty_files() -> list[str]:
            said = (message.content for message in rig.subscriber.of("verdict"))
            return [content["scan"]["file"] for content in said if content["outcome"] == "unreadable"]

        wait_until(lambda: set(empty_files()) == empty_names, "a verdict on every empty file")
        for name in empty_names:
            os.utime(rig.scans / name, (0, 0))
            generator.note(name, b"", None)
        for name in empty_names:
            rig.worker.wait_for("same scan judged before", file=name)
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        distinct = len({listed.sha256 for listed in generator.listed} - {EMPTY})
        rows, _ = rig.ledger_rows()
        trial.require(
            len(rows) == distinct + 2 * rounds,
            f"{len(rows)} verdicts on {distinct} contents, {rounds} copies of one and {rounds} empty files",
        )
        said = {message.content["scan"]["file"]: message.content for message in rig.subscriber.of("verdict")}
        silent = [file for file in repeated if said[file]["reasons"] != ["repeated-image"] or not said[file]["repeats"]]
        trial.require(not silent, f"repetitions that were not told: {silent}")
        alarms = [message.content["code"] for message in rig.subscriber.of("alarm")]
        trial.require("scans-repeated" in alarms, "no alarm scans-repeated")
        trial.figures |= {"distinct_contents": distinct, "arrivals": len(generator.listed), "empty_files": rounds}
