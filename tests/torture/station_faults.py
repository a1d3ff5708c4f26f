"""Stations that write, sort and mount as they please: R25 to R28."""

from __future__ import annotations

import io
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from tests.support.tiff_files import tiff, written_by_tifffile
from tests.torture.rig import Layout, Rig, wait_until
from tests.torture.stub import SIZE, expected_p_abnormal
from tests.torture.trial import Trial

HOLD_S = 3.0
"""Setting `folder.rewrite_hold_s` of R25; after a close a fifth of it."""
PAUSE_S = 1.0
SLOTS_AT_ONCE = 8
"""More, one after the other, would pause for longer than files are held."""
CLOSED_PAUSE_S = 0.2
MAX_SILENT_S = 15.0
"""Until a share that hangs is an alarm."""


def rewritten_in_place(trial: Trial) -> None:
    """R25: new scans in the files of old ones, with pauses, with events and without; scans replaced before reading.

    No verdict on half the one and half the other; the station is named; what nobody could read is counted.
    """
    slots = trial.size(8, 64)
    layout = Layout(folder={"stable_for_s": 0.3, "rewrite_hold_s": HOLD_S})
    with trial.rig(layout) as rig:
        for options in ((), ("--deaf",)):
            rig.worker.start("--health-s", "0.5", *options)
            names = [f"B0{len(options) + 1}_{index}.tif" for index in range(slots)]
            for name in names:
                counts, data = rig.generator.scan()
                rig.generator.put(name, data, expected_p_abnormal(counts))
            rig.await_all()
            for first in range(0, slots, SLOTS_AT_ONCE):
                _rewrite_all(rig, names[first : first + SLOTS_AT_ONCE], keep_times=bool(options))
            trial.recovered(rig.await_all())
            trial.require(
                any(message.content["active"] for message in rig.subscriber.alarms("scans-rewritten")),
                f"a station that rewrites in place was not named {options}",
            )
            overwritten = 0 if options else _replace_unread(rig, trial.size(5, 50))
            rig.await_all()
            counted = 0
            if not options:
                wait_until(lambda: bool(rig.subscriber.of("health")), "health")
                time.sleep(1.2)  # two more health messages
                counted = rig.subscriber.of("health")[-1].content["overwritten"]
                trial.require(
                    counted == overwritten, f"{counted} scans counted as overwritten, {overwritten} had no verdict"
                )
                trial.figures |= {"overwritten": overwritten, "counted": counted}
            trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"rewritten": 2 * slots, "hold_s": HOLD_S, "pause_s": PAUSE_S}


def _rewrite_all(rig: Rig, names: list[str], *, keep_times: bool) -> None:
    """A new scan into each file at once, in every manner: kept open, mapped, closed after each piece."""
    ends: list[Callable[[], None]] = []
    for index, name in enumerate(names):
        counts, data = rig.generator.scan()
        counts = 4500 - counts  # nothing like the last one in any pixel
        data = tiff(counts)
        path = rig.scans / name
        before = path.stat()
        manner = index % 3
        half = len(data) * (index + 1) // (len(names) + 1)
        if manner == 0:
            file = path.open("r+b", buffering=0)
            file.write(data[:half])
            ends.append(lambda file=file, data=data, half=half: (file.write(data[half:]), file.close()))  # type: ignore[misc]
        elif manner == 1:
            with path.open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), 0)
            mapped[:half] = data[:half]
            mapped.flush()

            def finish(mapped: mmap.mmap = mapped, data: bytes = data, half: int = half) -> None:
                mapped[half:] = data[half:]
                mapped.flush()
                mapped.close()

            ends.append(finish)
        else:
            _write_piece(path, data[:half], 0)
            time.sleep(CLOSED_PAUSE_S)
            _write_piece(path, data[half : half + 64], half)  # from here on a close is not believed
            ends.append(lambda path=path, data=data, half=half: _write_piece(path, data[half + 64 :], half + 64))  # type: ignore[misc]
        if keep_times:
            ends.append(lambda path=path, before=before: os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns)))  # type: ignore[misc]
        rig.generator.note(name, data, expected_p_abnormal(counts))
    time.sleep(PAUSE_S)
    for end in ends:
        end()


def _write_piece(path: Path, data: bytes, start: int) -> None:
    """As `dd conv=notrunc` does."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def _replace_unread(rig: Rig, rounds: int) -> int:
    """Whole scans that stand for a moment and are renamed over; how many of them got no verdict."""
    fleeting = []
    for index in range(rounds):
        for is_last in (False, False, True):
            counts, data = rig.generator.scan()
            listed = rig.generator.put(f"B09_{index}.tif", data, expected_p_abnormal(counts))
            if not is_last:
                fleeting.append(listed)
                time.sleep(0.05)
    wanted = {listed.sha256 for listed in rig.generator.listed} - {listed.sha256 for listed in fleeting}
    wait_until(lambda: wanted <= rig.subscriber.distinct(), "the last of each name")
    unread = [listed for listed in fleeting if listed.sha256 not in rig.subscriber.distinct()]
    rig.generator.listed = [listed for listed in rig.generator.listed if listed not in unread]
    return len(unread)


def unwritten_parts(trial: Trial) -> None:
    """R26: reserved strips and tiles, holes, zero rims, dead rows: what is unwritten waits, what is written is read."""
    with trial.rig(Layout(folder={"incomplete_after_s": 8.0, "expected_zero_px": SIZE.width_px})) as rig:
        rig.worker.start()
        chance = np.random.default_rng(trial.seed)

        def scan(dead_rows: int = 0, **options: object) -> tuple[np.ndarray, bytes]:
            counts = chance.integers(1750, 2750, SIZE).astype(np.uint16)
            counts[len(counts) - dead_rows :] = 0
            return counts, written_by_tifffile(counts, **options) if options else tiff(counts)

        whole: dict[str, tuple[np.ndarray, bytes]] = {
            "B01_dead-row.tif": scan(dead_rows=1),
            "B01_dead-column.tif": _with_dead_columns(scan()[0]),
        }
        for coding in ("lzw", "zlib", "packbits"):
            whole[f"B01_{coding}-dead-rows.tif"] = scan(dead_rows=20, compression=coding)
        holed = {
            "B02_strip-middle.tif": (scan(), slice(2000, 4000)),
            "B02_strip-end.tif": (scan(), slice(-1200, None)),
            "B02_strip-all.tif": (scan(), slice(420, None)),
            "B02_dead-row-and-hole.tif": (scan(dead_rows=1), slice(2000, 2600)),
            "B02_many-strips.tif": (scan(rowsperstrip=8), slice(3000, 5000)),
            **{
                f"B02_{name}.tif": _holed_tile(scan(tile=(32, 32)), tile)
                for name, tile in (("tile", 1), ("last-tile", -1))
            },
            **{
                f"B02_{coding}.tif": (scan(compression=coding), slice(-2000, -1000))
                for coding in ("lzw", "zlib", "packbits")
            },
        }
        for name, (counts, data) in whole.items():
            rig.generator.put(name, data, expected_p_abnormal(counts))
        rig.await_all()  # and the decoders have started
        masked = scan(dead_rows=3)[1]  # more zeros than the folder expects
        rig.generator.put("B03_masked.tif", masked, None)
        for name, ((_, data), hole) in holed.items():
            part = bytearray(data)
            part[hole] = bytes(len(part[hole]))
            (rig.scans / name).write_bytes(part)
        time.sleep(1.0)
        early = [message.content["scan"]["file"] for message in rig.subscriber.of("verdict")]
        trial.require(sorted(early) == sorted(whole), f"judged while unwritten: {set(early) - set(whole)}")
        for name, ((counts, data), _) in holed.items():
            with (rig.scans / name).open("r+b") as file:
                file.write(data)
            rig.generator.note(name, data, expected_p_abnormal(counts))
        trial.recovered(rig.await_all())
        refused = [
            message.content for message in rig.subscriber.of("verdict") if "masked" in message.content["scan"]["file"]
        ]
        trial.require(refused[0]["reasons"] == ["zero-tail"], f"a mask nobody expects: {refused[0]['reasons']}")
        trial.require_clean_stop(rig.worker)
        found = trial.take(rig.findings())
        trial.require(found.duplicated == 0, f"{found.duplicated} duplicates")
        trial.figures |= {"whole with zeros": len(whole), "unwritten": len(holed)}


def _with_dead_columns(counts: np.ndarray) -> tuple[np.ndarray, bytes]:
    counts[:, [0, 7, -1]] = 0
    return counts, tiff(counts)


def _holed_tile(scan: tuple[np.ndarray, bytes], tile: int) -> tuple[tuple[np.ndarray, bytes], slice]:
    with tifffile.TiffFile(io.BytesIO(scan[1])) as file:
        start = file.pages[0].dataoffsets[tile]
        return scan, slice(start, start + file.pages[0].databytecounts[tile])


def moved_on(trial: Trial) -> None:
    """R27: names and folders swapped in the gap of a move, a target that is away, a share not mounted at the start."""
    target, outside = trial.root / "done", trial.root / "outside"
    outside.mkdir()
    # What comes in the gap cannot be read within it.
    layout = Layout(folder={"after": "move", "move_to": target, "recursive": True, "stable_for_s": 0.6})
    with trial.rig(layout) as rig:
        rig.worker.start("--slow-moves", "0.3", "--housekeeping-s", "0.5")
        replaced = trial.size(4, 60)
        for index in range(replaced):
            name = f"B01_{index}.tif"
            rig.generator.arrive(1)
            counts, data = rig.generator.scan()
            rig.generator.put(name, data, expected_p_abnormal(counts))
            rig.worker.wait_for("scan judged", file=name)
            counts, data = rig.generator.scan()
            rig.generator.put(name, data, expected_p_abnormal(counts))  # in the gap
        trial.recovered(rig.await_all())
        lost = {listed.sha256 for listed in rig.generator.listed} - rig.subscriber.distinct()
        if not trial.require(not lost, f"{len(lost)} lost: moved unread"):
            return  # all that follows would wait for them
        _swap_for_a_link(trial, rig, outside)
        _take_the_target_away(trial, rig, target)
        trial.require_clean_stop(rig.worker)
        share = rig.root / "the-share"
        rig.scans.rename(share)
        rig.scans.mkdir()
        before = len(rig.subscriber.alarms("folder-away"))
        rig.worker.start("--slow-moves", "0.0")
        wait_until(lambda: len(rig.subscriber.alarms("folder-away")) > before, "folder-away at the start")
        rig.scans.rmdir()
        share.rename(rig.scans)
        rig.generator.arrive(2)
        rig.await_all()
        wait_until(lambda: not any(rig.scans.rglob("*.tif")), "all is moved")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        kept = [path for path in target.rglob("*.tif") if path.is_file()]
        expected = len(rig.generator.listed) - replaced  # the station itself has written over the first of each name
        trial.require(len(kept) == expected, f"{len(kept)} scans are in the archive, expected {expected}")
        trial.figures |= {"moved": len(kept), "replaced in the gap": replaced}


def _swap_for_a_link(trial: Trial, rig: Rig, outside: Path) -> None:
    lot = rig.scans / "lot"
    lot.mkdir()
    counts, data = rig.generator.scan()
    strangers = outside / "B05_1.tif"
    strangers.write_bytes(b"somebody else's")
    (lot / ".draft").write_bytes(data)
    (lot / ".draft").rename(lot / "B05_1.tif")
    rig.generator.note("lot/B05_1.tif", data, expected_p_abnormal(counts))
    rig.worker.wait_for("scan judged", file="lot/B05_1.tif")
    lot.rename(rig.scans / ".lot")
    lot.symlink_to(outside)
    rig.await_all()
    time.sleep(1.0)
    trial.require(strangers.exists(), "a file from outside the folder was moved")
    lot.unlink()
    (rig.scans / ".lot").rename(lot)


def _take_the_target_away(trial: Trial, rig: Rig, target: Path) -> None:
    wait_until(lambda: not any(rig.scans.glob("*.tif")), "all is moved")
    target.rename(target.with_name("away"))
    rig.generator.arrive(3)
    rig.await_all()
    wait_until(lambda: bool(rig.subscriber.alarms("scans-not-moved")), "the alarm scans-not-moved")
    target.with_name("away").rename(target)
    wait_until(lambda: not rig.subscriber.alarms("scans-not-moved")[-1].content["active"], "its end")
    left = [path.name for path in rig.scans.glob("*.tif")]
    trial.require(not left, f"not moved when the target was back: {left}")


def deep_and_hung(trial: Trial) -> None:
    """R28: a thousand folders in each other, a folder called like a scan, a share that hangs: an alarm each."""
    hang, hang_reads = trial.root / "hang", trial.root / "hang-reads"
    with trial.rig(Layout(folder={"recursive": True})) as rig:
        rig.worker.start("--hang", str(hang), str(hang_reads))
        rig.generator.arrive(2)
        rig.await_all()
        deepest = rig.scans.joinpath(*"d" * 1000)
        os.system(f"mkdir -p '{deepest}'")  # os.makedirs recurses
        wait_until(
            lambda: bool(rig.subscriber.alarms("folder-partly-read")) or not rig.worker.is_alive(),
            "the alarm folder-partly-read",
        )
        if not rig.worker.is_alive():
            os.system(f"rm -rf '{rig.scans / 'd'}'")  # shutil recurses, too
            trial.require(False, "a thousand folders in each other ended the worker")
            return
        lot = rig.scans / "lot.tif"
        lot.mkdir()
        counts, data = rig.generator.scan()
        (lot / ".draft").write_bytes(data)
        (lot / ".draft").rename(lot / "B02_1.tif")
        rig.generator.note("lot.tif/B02_1.tif", data, expected_p_abnormal(counts))
        rig.generator.arrive(2)
        trial.recovered(rig.await_all())
        os.system(f"rm -rf '{rig.scans / 'd'}'")
        wait_until(lambda: not rig.subscriber.alarms("folder-partly-read")[-1].content["active"], "its end")
        hang_reads.touch()
        rig.generator.arrive(1)
        time.sleep(1.0)  # it was found: its read hangs, and now the folder does
        hang.touch()
        took_s = 1.0
        for code in ("scans-not-readable", "folder-away"):
            took_s += wait_until(lambda code=code: bool(rig.subscriber.alarms(code)), f"the alarm {code}")
        trial.require_in_time(took_s <= MAX_SILENT_S, f"a share that hangs was an alarm after {took_s:.1f} s")
        rig.generator.arrive(2)
        hang.unlink()
        hang_reads.unlink()
        trial.recovered(rig.await_all())
        for code in ("scans-not-readable", "folder-away"):
            wait_until(lambda code=code: not rig.subscriber.alarms(code)[-1].content["active"], f"its end: {code}")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"alarm after s": round(took_s, 1), "levels": 1000}
