"""Files that are slow, broken, hostile, or come again: R11 to R13, R24."""

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
    """R13: a copy under a new name, new bytes under an old name, a touch, a copy over itself; empty files.

    Each arrival has its verdict, an empty file under each name. Only the same name with the bytes of its last verdict
    is no arrival.
    """
    rounds = trial.size(5, 50)
    with trial.rig(Layout(folder={"incomplete_after_s": 0.5})) as rig:
        rig.worker.start()
        generator = rig.generator
        for turn in range(rounds):
            first = generator.arrive(1)[0]
            rig.await_all()
            path = rig.scans / first.file
            generator.put(f"copy_{turn}.tif", path.read_bytes(), None)
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
        trial.figures |= {"distinct_contents": distinct, "arrivals": len(generator.listed), "empty_files": rounds}


def repeat_images(trial: Trial) -> None:
    """R24: a frozen detector, torn files under a fixed name, a temporary name and a part number that are corrected.

    Every arrival has a message of its own, and none on an image judged before says `normal` or `abnormal`.
    """
    frozen = trial.size(12, 500)
    expected: dict[str, list[str]] = {}
    with trial.rig(Layout(folder={"incomplete_after_s": 0.5})) as rig:
        rig.worker.start()

        def arrive(name: str, data: bytes, outcome: str) -> None:
            expected.setdefault(name, []).append(outcome)
            if outcome != "judged":
                rig.generator.put(name, data, None)
            wait_until(lambda: len(_outcomes(rig).get(name, [])) == len(expected[name]), f"a message on {name}")

        def first(name: str) -> bytes:
            counts, data = rig.generator.scan()
            rig.generator.put(name, data, expected_p_abnormal(counts))
            arrive(name, data, "judged")
            return data

        data = first("D01_000000.tif")
        for turn in range(1, frozen):
            tagged = io.BytesIO()
            tifffile.imwrite(tagged, tifffile.imread(io.BytesIO(data)), metadata=None, description=f"turn {turn}")
            arrive(f"D01_{turn:06}.tif", data if turn % 2 else tagged.getvalue(), "review")
            if turn == frozen // 2:
                rig.worker.kill()
                rig.worker.start()
        trial.require(bool(rig.subscriber.alarms("scans-repeated")), "no alarm on a frozen detector")
        for _ in range(trial.size(2, 20)):
            data = first("latest.tif")
            for again in (data[: len(data) // 2], data):
                arrive("latest.tif", again, "unreadable" if again != data else "review")
        for turn, corrected in enumerate(("rename", "copy")):
            data = first(f"wrong_{turn}.tif")
            if corrected == "rename":
                (rig.scans / f"wrong_{turn}.tif").unlink()
            arrive(f"D02_{turn:06}.tif", data, "review")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        outcomes = _outcomes(rig)
        wrong = {name: outcomes[name] for name in expected if outcomes[name] != expected[name]}
        trial.require(not wrong, f"images judged before were judged as new, or files taken for others: {wrong}")
        said = [message.content for message in rig.subscriber.of("verdict") if message.content["outcome"] == "review"]
        silent = [one["scan"]["file"] for one in said if one["reasons"] != ["repeated-image"] or not one["repeats"]]
        trial.require(not silent, f"repetitions that were not told: {silent}")
        trial.figures |= {"frozen": frozen, "repeated": len(said)}


def _outcomes(rig: Rig) -> dict[str, list[str]]:
    """By file, of each verdict in turn; `judged` where the networks decided."""
    outcomes: dict[str, list[str]] = {}
    for message in rig.subscriber.of("verdict"):
        outcome = message.content["outcome"]
        judged = outcome if outcome in ("review", "unreadable") else "judged"
        outcomes.setdefault(message.content["scan"]["file"], []).append(judged)
    return outcomes
