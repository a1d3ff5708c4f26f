"""What is kept of a verdict, what makes room for it, and what a kill, a full disk or a slow one leave."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import edge.evidence.keeper
import edge.evidence.piece
from edge.contract.messages import BoxPx, Verdict, canonical_json
from edge.errors import EvidenceError
from edge.evidence.keeper import QUEUE_PIECES, Keeper
from edge.evidence.piece import FULL_SCALE, Offer, Scene, Selection
from edge.evidence.record import (
    DISPOSITION,
    DRAFT_PREFIX,
    NAMES,
    RECORD,
    Piece,
    evidence_path,
    open_piece,
)
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, ExpectedFile, FileStamp, Outcome, counts_sha256
from tests.support.samples import MORNING, sample_verdict

GEOMETRY = MapGeometry(cell_px=10, offset_px=3)
THRESHOLD = 0.05
EVERY = Selection(sample=1.0, seed=0, challenge=None)
PLENTY = 1 << 30


def keeper(folder: Path, *, max_bytes: int = PLENTY, min_free_bytes: int = 0, selection: Selection = EVERY) -> Keeper:
    return Keeper(folder, Scene(GEOMETRY, THRESHOLD), selection, max_bytes=max_bytes, min_free_bytes=min_free_bytes)


def verdict_of(number: int, outcome: Outcome = Outcome.REVIEW, **changes: Any) -> Verdict:
    """Verdict `number`, decided so many minutes after the first."""
    verdict = sample_verdict(number, decided_at=MORNING + timedelta(minutes=number))
    evidence = evidence_path(verdict.times.decided_at, verdict.verdict_id)
    scores = {"p_abnormal": None, "gate": verdict.gate.model_copy(update={"mean_max": None, "std_max": None})}
    changes = {"outcome": outcome, "evidence": evidence, **(scores if outcome is Outcome.UNREADABLE else {}), **changes}
    return verdict.model_copy(update=changes)


def noise(height_px: int = 40, width_px: int = 20, seed: int = 0) -> Counts:
    return np.random.default_rng(seed).integers(1600, 2800, (height_px, width_px)).astype(np.uint16)


def offer_of(verdict: Verdict, counts: Counts | None = None) -> Offer:
    counts = noise() if counts is None else counts
    image = ((counts - 1600) * 255.0 / 1200).astype(np.uint8)[np.newaxis]
    residual_map = np.linspace(0, 2 * FULL_SCALE * THRESHOLD, 8, dtype=np.float32).reshape(4, 2)
    return Offer(verdict, counts, counts_sha256(counts), image, residual_map)


def fill(kept: Keeper, *verdicts: Verdict, counts: Counts | None = None) -> None:
    for verdict in verdicts:
        kept.offer(offer_of(verdict, counts))
        assert kept.step(0.0)


def pieces(folder: Path) -> set[str]:
    """All that has the name of a whole piece."""
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if not path.name.startswith(".")}


def paths_of(*verdicts: Verdict) -> set[str]:
    return {str(verdict.evidence) for verdict in verdicts}


def test_a_piece_holds_the_scan_without_loss_and_what_the_networks_saw(tmp_path: Path) -> None:
    kept, verdict, counts = keeper(tmp_path), verdict_of(1), noise()
    fill(kept, verdict, counts=counts)
    piece = open_piece(tmp_path, str(verdict.evidence))
    offer = offer_of(verdict, counts)
    assert np.array_equal(piece.counts(), counts)
    assert np.array_equal(piece.image(), np.asarray(offer.pixels))
    assert piece.read("verdict.json") == canonical_json(verdict)
    scale = piece.record.residual
    assert scale is not None
    assert (scale.cell_px, scale.offset_px, scale.threshold) == (10, 3, THRESHOLD)
    assert offer.residual_map is not None
    expected = offer.residual_map.clip(0, FULL_SCALE * THRESHOLD)
    assert np.abs(piece.residual() - expected).max() <= scale.per_level / 2 + 1e-6
    assert piece.record.kept == "outcome"
    assert piece.record.note is None
    assert kept.tally().kept == 1


def test_three_channels_come_back_as_the_networks_saw_them(tmp_path: Path) -> None:
    kept, verdict, counts = keeper(tmp_path), verdict_of(1), noise()
    image = np.stack([np.full(counts.shape, level, np.uint8) for level in (10, 20, 30)])
    kept.offer(Offer(verdict, counts, counts_sha256(counts), image, None))
    kept.step(0.0)
    assert np.array_equal(open_piece(tmp_path, str(verdict.evidence)).image(), image)


def test_a_residual_that_is_no_number_shows_as_the_worst(tmp_path: Path) -> None:
    kept, verdict, counts = keeper(tmp_path), verdict_of(1), noise()
    residual_map = np.array([[np.nan, np.inf, 0.0]], np.float32)
    kept.offer(Offer(verdict, counts, counts_sha256(counts), None, residual_map))
    kept.step(0.0)
    piece = open_piece(tmp_path, str(verdict.evidence))
    assert piece.residual().ravel() == pytest.approx([FULL_SCALE * THRESHOLD, FULL_SCALE * THRESHOLD, 0.0])


SPOT = np.full((5, 4), -4.0, np.float32)
"""A reason map whose lower right says much, of a scan that is abnormal by it; cells of 8 px from -4 on."""
SPOT[3:, 2:] = 30.0


def explained(folder: Path, reason_map: np.ndarray, p_abnormal: float) -> Piece:
    """The piece of a scan of 40 x 60 px that the networks saw as 40 x 30 px."""
    selection, scene = EVERY, Scene(GEOMETRY, THRESHOLD, MapGeometry(cell_px=8, offset_px=-4))
    kept = Keeper(folder, scene, selection, max_bytes=PLENTY, min_free_bytes=0)
    verdict, counts = verdict_of(1, Outcome.ABNORMAL, p_abnormal=p_abnormal, threshold=0.5), noise(40, 60)
    image = np.zeros((1, 40, 30), np.uint8)
    kept.offer(Offer(verdict, counts, counts_sha256(counts), image, None, reason_map))
    assert kept.step(0.0)
    return open_piece(folder, str(verdict.evidence))


def test_the_classifiers_map_is_kept_with_its_strongest_place_on_the_scan(tmp_path: Path) -> None:
    piece = explained(tmp_path, SPOT, p_abnormal=1 / (1 + math.exp(-SPOT.mean())))
    scale = piece.record.reason_map
    assert scale is not None
    assert np.abs(piece.reason() - SPOT).max() <= scale.per_level  # the threshold's own log odds are 0 here
    assert scale.box_px == BoxPx(x_px=24, y_px=20, width_px=32, height_px=16)
    assert scale.share == 1.0
    assert (scale.image_height_px, scale.image_width_px) == (40, 30)
    assert piece.record.note is None


def test_two_places_share_what_speaks_for_abnormal(tmp_path: Path) -> None:
    reason_map = SPOT.copy()
    reason_map[0, 0] = 40.0
    piece = explained(tmp_path, reason_map, p_abnormal=1 / (1 + math.exp(-reason_map.mean())))
    scale = piece.record.reason_map
    assert scale is not None
    assert scale.box_px == BoxPx(x_px=0, y_px=0, width_px=8, height_px=4)  # the cell reaches beyond the scan
    assert scale.share == pytest.approx(40 / 160)


def test_a_map_that_is_below_the_threshold_everywhere_has_no_strongest_place(tmp_path: Path) -> None:
    scale = explained(tmp_path, np.full((5, 4), -2.0, np.float32), p_abnormal=1 / (1 + math.exp(2))).record.reason_map
    assert scale is not None
    assert scale.box_px is None
    assert scale.share is None


@pytest.mark.parametrize("value", [-4.0, math.nan, math.inf])
def test_a_map_that_does_not_add_up_to_the_answer_is_not_kept(value: float, tmp_path: Path) -> None:
    record = explained(tmp_path, np.full((5, 4), value, np.float32), p_abnormal=0.97).record
    assert record.reason_map is None
    assert "reason.png" not in record.files
    assert "the classifier's map adds up to p" in str(record.note)


def test_the_groups_members_may_read_and_nobody_else(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        kept, verdict = keeper(tmp_path / "evidence"), verdict_of(1)
        fill(kept, verdict)
    finally:
        os.umask(former)
    path = tmp_path / "evidence" / str(verdict.evidence)
    assert {oct(folder.stat().st_mode & 0o7777) for folder in (path, path.parent, path.parent.parent)} == {"0o750"}
    assert {oct(file.stat().st_mode & 0o7777) for file in path.iterdir()} == {"0o640"}


def test_a_scan_of_full_size_takes_less_than_4_mib_whatever_its_pixels(tmp_path: Path) -> None:
    kept, verdict = keeper(tmp_path), verdict_of(1)
    counts = np.random.default_rng(0).integers(0, 1 << 16, (2000, 1000), dtype=np.uint16)
    image = np.random.default_rng(1).integers(0, 256, (1, 2000, 1000), dtype=np.uint8)
    kept.offer(Offer(verdict, counts, counts_sha256(counts), image, np.zeros((125, 62), np.float32)))
    kept.step(0.0)
    piece = open_piece(tmp_path, str(verdict.evidence))
    assert sum(file.stat().st_size for file in piece.path.iterdir()) <= 4 << 20
    assert np.array_equal(piece.counts(), counts)
    assert "network's image is not kept" in str(piece.record.note)


def test_every_verdict_but_normal_is_kept_and_a_share_of_those_that_the_seed_draws() -> None:
    selection = Selection(sample=0.1, seed=1, challenge=None)
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(5000)]

    def drawn(selection: Selection) -> set[str]:
        return {key for key in ids if selection.why(Outcome.NORMAL, "a.tif", key)}

    for outcome in (Outcome.REVIEW, Outcome.ABNORMAL, Outcome.UNREADABLE):
        assert selection.why(outcome, "a.tif", ids[0]) == "outcome"
    assert len(drawn(selection)) == pytest.approx(500, abs=70)
    assert drawn(selection) == drawn(selection)
    assert drawn(selection) != drawn(Selection(sample=0.1, seed=2, challenge=None))
    assert drawn(Selection(0.0, 1, None)) == set()
    assert len(drawn(Selection(1.0, 1, None))) == len(ids)
    challenge = Selection(0.0, 0, re.compile("^C_"))
    assert challenge.why(Outcome.NORMAL, "C_1.tif", ids[0]) == "challenge"
    assert challenge.why(Outcome.ABNORMAL, "B_1.tif", ids[0]) == "outcome"


def test_a_verdict_that_names_no_evidence_keeps_none(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.offer(offer_of(verdict_of(1, Outcome.NORMAL, evidence=None)))
    assert not kept.step(0.0)
    assert pieces(tmp_path) == set()


def unreadable(
    tmp_path: Path, data: bytes, *, judged: bytes | None = None
) -> tuple[Verdict, tuple[Path, ExpectedFile]]:
    """The verdict on `judged` (default: on `data`) and a file of these bytes."""
    path = tmp_path / "bad.tif"
    path.write_bytes(data)
    verdict = verdict_of(1, Outcome.UNREADABLE)
    sha256 = hashlib.sha256(data if judged is None else judged).hexdigest()
    scan = verdict.scan.model_copy(update={"sha256": sha256, "size_bytes": len(data)})
    verdict = verdict.model_copy(update={"scan": scan})
    return verdict, (path, ExpectedFile(FileStamp.of("bad.tif", path.lstat()), has_stable_inodes=True))


@pytest.mark.parametrize("change", ["gone", "link", "grows"])
def test_an_unreadable_file_is_kept_as_it_was_judged_whatever_happens_to_its_name_next(
    tmp_path: Path, change: str
) -> None:
    """Whoever writes the share sees it being opened, and lets it grow to a terabyte or puts a link in its place."""
    kept, (verdict, source) = keeper(tmp_path / "evidence"), unreadable(tmp_path, b"no scan")
    kept.offer(Offer(verdict), source)
    if change == "grows":
        os.truncate(source[0], 1 << 40)
    else:
        source[0].unlink()
    if change == "link":
        (tmp_path / "secret").write_bytes(b"secret!")
        source[0].symlink_to("secret")
    kept.step(0.0)
    piece = open_piece(tmp_path / "evidence", str(verdict.evidence))
    assert piece.read("scan.bin") == b"no scan"
    assert "no pixels that can be trusted" in str(piece.record.note)


def test_an_unreadable_file_with_other_bytes_than_were_judged_is_not_kept_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    kept, (verdict, source) = keeper(tmp_path / "evidence"), unreadable(tmp_path, b"no scan", judged=b"another")
    kept.offer(Offer(verdict), source)
    kept.step(0.0)
    piece = open_piece(tmp_path / "evidence", str(verdict.evidence))
    assert "no longer those that were judged" in str(piece.record.note)
    with pytest.raises(EvidenceError, match=r"no scan\.bin was kept"):
        piece.read("scan.bin")


@pytest.mark.parametrize("what", ["link", "folder", "replaced", "grown", "too large"])
def test_what_is_no_longer_the_judged_file_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    kept, (verdict, source) = keeper(tmp_path / "evidence"), unreadable(tmp_path, b"no scan")
    path = source[0]
    if what == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        path.unlink()
        path.symlink_to("secret")
    elif what == "folder":
        path.unlink()
        path.mkdir()
    elif what == "grown":
        os.truncate(path, 1 << 40)
    elif what == "replaced":
        (tmp_path / "other").write_bytes(b"another file")
        (tmp_path / "other").rename(path)
    else:
        monkeypatch.setattr(edge.evidence.piece, "ORIGINAL_MAX_BYTES", 3)
    kept.offer(Offer(verdict), source)
    kept.step(0.0)
    piece = open_piece(tmp_path / "evidence", str(verdict.evidence))
    assert "the file is not kept" in str(piece.record.note)
    assert not (piece.path / "scan.bin").exists()


def test_a_scan_the_networks_were_not_asked_about_says_why_it_has_no_residual(tmp_path: Path) -> None:
    kept, counts = keeper(tmp_path), noise()
    strange, repeated, huge = (verdict_of(number) for number in (1, 2, 3))
    repeated = repeated.model_copy(update={"repeats": strange.verdict_id})
    image = np.zeros((1, 40, 20), np.uint8)
    kept.offer(Offer(strange, counts, counts_sha256(counts)))
    kept.offer(Offer(repeated, counts, counts_sha256(counts), image))
    kept.offer(Offer(huge))
    while kept.step(0.0):
        pass
    notes = [str(open_piece(tmp_path, str(verdict.evidence)).record.note) for verdict in (strange, repeated, huge)]
    assert "the model was not made for" in notes[0]
    assert "judged before" in notes[1]
    assert "more pixels than are held" in notes[2]


def test_the_oldest_make_room_and_review_goes_last(tmp_path: Path) -> None:
    counts = noise(200, 100)
    probe = keeper(tmp_path / "probe")
    fill(probe, verdict_of(0), counts=counts)
    one = probe.tally().used_bytes
    kept = keeper(tmp_path / "evidence", max_bytes=round(4.5 * one))
    review, *others = (
        verdict_of(1, Outcome.REVIEW),
        verdict_of(2, Outcome.ABNORMAL),
        verdict_of(3, Outcome.NORMAL),
        verdict_of(4, Outcome.REVIEW),
        verdict_of(5, Outcome.ABNORMAL),
    )
    fill(kept, review, *others, counts=counts)
    assert pieces(tmp_path / "evidence") == paths_of(review, *others[1:])
    assert kept.tally().used_bytes <= 4.5 * one
    more = [verdict_of(number, Outcome.REVIEW) for number in range(6, 10)]
    fill(kept, *more, counts=counts)
    assert pieces(tmp_path / "evidence") == paths_of(*more)


def test_the_number_of_pieces_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.evidence.keeper, "MAX_PIECES", 3)
    kept, verdicts = keeper(tmp_path), [verdict_of(number, Outcome.REVIEW) for number in range(1, 6)]
    fill(kept, *verdicts, counts=noise(200, 100))
    assert pieces(tmp_path) == paths_of(*verdicts[2:])


def test_what_nobody_decided_yet_outlives_what_somebody_did(tmp_path: Path) -> None:
    """Decided is what all answers together leave no question about, whatever the newest one says."""
    counts = noise(200, 100)
    probe = keeper(tmp_path / "probe")
    fill(probe, verdict_of(0), counts=counts)
    budget = round(3.5 * probe.tally().used_bytes)
    kept = keeper(tmp_path / "evidence", max_bytes=budget)
    asked_again, decided, unsure = (
        verdict_of(1, Outcome.ABNORMAL),
        verdict_of(2, Outcome.REVIEW),
        verdict_of(3, Outcome.ABNORMAL),
    )
    fill(kept, asked_again, decided, unsure, counts=counts)
    kept.decided(str(decided.evidence), b'{"decision":"undecided","stands":"normal"}')
    kept.decided(str(unsure.evidence), b'{"decision":"undecided","stands":null}')
    for stands in ('"abnormal"', "null"):  # a reader who changes their mind: now a second one is asked
        kept.decided(str(asked_again.evidence), b'{"decision":"normal","stands":%s}' % stands.encode())
    kept = keeper(tmp_path / "evidence", max_bytes=budget)  # a restart knows it, too
    fill(kept, newest := verdict_of(4, Outcome.NORMAL), counts=counts)
    assert pieces(tmp_path / "evidence") == paths_of(asked_again, unsure, newest)


def test_a_decision_lies_beside_the_evidence_and_nowhere_where_that_is_gone(tmp_path: Path) -> None:
    kept, verdict = keeper(tmp_path), verdict_of(1)
    fill(kept, verdict)
    kept.decided(str(verdict.evidence), b'{"decision":"abnormal"}')
    assert open_piece(tmp_path, str(verdict.evidence)).disposition() == b'{"decision":"abnormal"}'
    kept.decided(str(verdict_of(2).evidence), b"{}")
    kept.decided("../../etc", b"{}")
    assert pieces(tmp_path) == paths_of(verdict)


def test_a_piece_larger_than_the_budget_is_dropped_and_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keeper(tmp_path, max_bytes=60_000)
    small = verdict_of(1)
    fill(kept, small)
    fill(kept, verdict_of(2), counts=noise(400, 400))
    assert pieces(tmp_path) == paths_of(small)
    assert kept.tally().dropped == 1
    assert "evidence dropped" in caplog.text


def test_a_disk_that_others_fill_costs_only_what_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keeper(tmp_path, min_free_bytes=1 << 20)
    decided, undecided = verdict_of(1), verdict_of(2)
    fill(kept, decided, undecided)
    kept.decided(str(decided.evidence), b'{"decision":"normal","stands":"normal"}')
    true = os.statvfs(tmp_path)

    def nearly_full(_path: object) -> os.statvfs_result:
        fields = list(true)
        fields[4] = (1 << 20) // true.f_frsize  # f_bavail: exactly what must stay free
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    fill(kept, newest := verdict_of(3))  # as large as the decided one, which makes room
    assert pieces(tmp_path) == paths_of(undecided, newest)
    fill(kept, verdict_of(4))
    assert pieces(tmp_path) == paths_of(undecided, newest)
    assert kept.tally().dropped == 1
    assert any("min_free_bytes" in str(vars(record)) for record in caplog.records)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")
def test_pieces_leave_the_ledger_the_inodes_it_needs(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,nr_inodes=200", "none", tmp_path], check=True)
    try:
        kept, verdicts = keeper(tmp_path / "evidence"), [verdict_of(number) for number in range(1, 51)]
        fill(kept, *verdicts)
        whole = pieces(tmp_path / "evidence")
        assert whole == paths_of(*verdicts[: len(whole)])
        assert 20 < len(whole) < 40
        assert os.statvfs(tmp_path).f_favail >= 200 // 10 - 8, "the last one began with a tenth"
        for verdict in verdicts[:4]:
            kept.decided(str(verdict.evidence), b'{"decision":"normal","stands":"normal"}')
        fill(kept, newest := verdict_of(99))
        assert pieces(tmp_path / "evidence") >= paths_of(newest, *verdicts[4 : len(whole)])
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_leaves_no_half_of_a_piece_and_evidence_goes_on_when_it_has_room(small_disk: Path) -> None:
    kept = keeper(small_disk / "evidence")
    fill(kept, first := verdict_of(1))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    fill(kept, verdict_of(2), counts=noise(200, 100))
    assert pieces(small_disk / "evidence") == paths_of(first)
    assert not list((small_disk / "evidence").glob(f"*/{DRAFT_PREFIX}*"))
    ballast.unlink()
    fill(kept, third := verdict_of(3), counts=noise(200, 100))
    assert pieces(small_disk / "evidence") == paths_of(first, third)
    assert (kept.tally().kept, kept.tally().dropped) == (2, 1)


def test_offering_never_waits_and_pictures_are_dropped_counted_and_explained_when_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = noise()
    monkeypatch.setattr(edge.evidence.keeper, "QUEUE_BYTES", 3 * offer_of(verdict_of(0), counts).pixel_bytes)
    kept = keeper(tmp_path)
    verdicts = [verdict_of(number) for number in range(5)]
    began_s = time.monotonic()
    for verdict in verdicts:
        kept.offer(offer_of(verdict, counts))
    assert time.monotonic() - began_s < 0.1
    assert kept.tally().dropped == 2
    while kept.step(0.0):
        pass
    assert pieces(tmp_path) == paths_of(*verdicts)
    last = open_piece(tmp_path, str(verdicts[-1].evidence))
    assert last.record.note == "the pictures were dropped: 4 other verdicts waited for theirs"
    assert last.verdict() == verdicts[-1]
    fill(kept, after := verdict_of(9))
    assert open_piece(tmp_path, str(after.evidence)).record.note is None


def test_a_scan_larger_than_the_queue_is_kept_when_it_waits_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.evidence.keeper, "QUEUE_BYTES", 10)
    kept = keeper(tmp_path)
    fill(kept, verdict := verdict_of(1))
    assert open_piece(tmp_path, str(verdict.evidence)).record.note is None


def test_the_queue_of_verdicts_is_bounded_too_and_two_log_lines_tell_of_all_that_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keeper(tmp_path)
    for _ in range(QUEUE_PIECES + 3):
        kept.offer(Offer(verdict_of(1)))
    assert kept.tally().dropped == 3
    kept.close()
    assert [vars(record)["fields"]["pieces"] for record in caplog.records] == [1, QUEUE_PIECES + 2]


def test_what_still_waits_when_the_worker_stops_is_dropped_and_counted(tmp_path: Path) -> None:
    kept, (verdict, source) = keeper(tmp_path / "evidence"), unreadable(tmp_path, b"no scan")
    kept.offer(Offer(verdict), source)
    kept.offer(offer_of(verdict_of(2)))
    kept.close()
    assert not kept.step(0.0)
    assert (kept.tally().kept, kept.tally().dropped) == (0, 2)


def test_what_a_kill_left_is_removed_and_what_was_whole_stays(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    verdicts = [verdict_of(number) for number in range(4)]
    fill(kept, *verdicts)
    day = tmp_path / "2026-03-01"
    (day / f"{DRAFT_PREFIX}{'a' * 32}").mkdir()
    (day / f"{DRAFT_PREFIX}{'a' * 32}" / "scan.png").write_bytes(b"half")
    os.truncate(tmp_path / str(verdicts[0].evidence) / "scan.png", 10)  # a power cut on a disk that lies
    os.truncate(tmp_path / str(verdicts[1].evidence) / RECORD, 0)
    (tmp_path / str(verdicts[2].evidence) / "verdict.json").unlink()
    again = keeper(tmp_path)
    again.step(0.0)
    assert {path.name for path in day.iterdir()} == {verdicts[3].verdict_id}
    assert 0 < again.tally().used_bytes < kept.tally().used_bytes


def test_a_piece_is_flushed_unless_others_wait_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger flushes on the same disk: a burst of pictures must not slow the verdicts."""
    flushed: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr("edge.evidence.keeper.os.fsync", lambda handle: (flushed.append(handle), fsync(handle)))
    kept = keeper(tmp_path)
    for number in range(5):
        kept.offer(offer_of(verdict_of(number)))
    for waiting in (4, 3, 2, 1):
        assert kept.step(0.0)
        assert not flushed, waiting
    assert kept.step(0.0)
    assert len(flushed) == 6  # five files and the folder of the day


def test_what_a_power_cut_left_with_the_right_size_and_other_bytes_is_removed(tmp_path: Path) -> None:
    fill(keeper(tmp_path), old := verdict_of(0), lost := verdict_of(20), whole := verdict_of(21))
    for verdict in (old, lost):
        file = tmp_path / str(verdict.evidence) / "scan.png"
        file.write_bytes(bytes(file.stat().st_size))
    again = keeper(tmp_path)
    again.step(0.0)
    assert pieces(tmp_path) == paths_of(old, whole)  # the old one was on the disk: it shows as damaged where it is read
    assert again.tally().used_bytes == pytest.approx(keeper_bytes(tmp_path))


def moved_away(state: Path) -> None:
    state.rename(state.with_name("kept"))


def swapped_for_a_link(state: Path) -> None:
    moved_away(state)
    (state.with_name("outside")).mkdir()
    state.symlink_to(state.with_name("outside"))


def unmounted(state: Path) -> None:
    moved_away(state)
    (state / "evidence").mkdir(parents=True)


@pytest.mark.parametrize("happens", [moved_away, swapped_for_a_link, unmounted])
def test_nothing_is_made_where_the_folder_of_the_start_is_gone(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    state = tmp_path / "state"
    kept = keeper(state / "evidence")
    fill(kept, before := verdict_of(1))
    happens(state)
    (tmp_path / "outside").mkdir(exist_ok=True)
    elsewhere = sorted(tmp_path.rglob("*"))
    kept.offer(offer_of(verdict_of(2)))
    kept.step(0.0)
    with pytest.raises(OSError, match=r"moved|No such file"):
        kept.decided(str(before.evidence), b"{}")
    assert sorted(tmp_path.rglob("*")) == elsewhere
    assert kept.tally().dropped == 1
    assert kept.tally().failure


def test_a_folder_of_evidence_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "evidence").symlink_to(tmp_path / "outside")
    kept = keeper(tmp_path / "evidence")
    fill(kept, verdict_of(1))
    assert not list((tmp_path / "outside").iterdir())
    assert "expected a folder" in str(kept.tally().failure)


def test_a_day_that_is_a_link_is_neither_swept_nor_written_nor_pruned(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "evidence"
    (outside / f"{DRAFT_PREFIX}theirs").mkdir(parents=True)
    folder.mkdir()
    (folder / "2026-03-01").symlink_to(outside)
    kept = keeper(folder, max_bytes=30_000)
    fill(kept, verdict_of(1))
    assert [path.name for path in outside.iterdir()] == [f"{DRAFT_PREFIX}theirs"]
    assert kept.tally().dropped == 1
    (folder / "2026-03-01").unlink()
    fill(kept, verdict_of(2))
    (folder / "2026-03-01").rename(tmp_path / "moved")
    (folder / "2026-03-01").symlink_to(tmp_path / "moved")
    for number in range(1500, 1508):  # the next day: these make room
        fill(kept, verdict_of(number))
    assert len(list((tmp_path / "moved").iterdir())) == 1


def test_a_verdict_that_comes_again_with_a_new_ledger_replaces_its_evidence(tmp_path: Path) -> None:
    kept, verdict = keeper(tmp_path), verdict_of(1)
    fill(kept, verdict, verdict.model_copy(update={"seq": 7}))
    assert open_piece(tmp_path, str(verdict.evidence)).verdict().seq == 7
    assert kept.tally().used_bytes == pytest.approx(keeper_bytes(tmp_path), rel=0.01)


def keeper_bytes(folder: Path) -> int:
    again = keeper(folder)
    again.step(0.0)
    return again.tally().used_bytes


def test_what_was_removed_by_hand_is_no_error(tmp_path: Path) -> None:
    kept = keeper(tmp_path, max_bytes=120_000)
    fill(kept, gone := verdict_of(1), counts=noise(100, 100))
    path = tmp_path / str(gone.evidence)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    for number in range(2, 9):
        fill(kept, verdict_of(number), counts=noise(100, 100))
    assert kept.tally().dropped == 0


HOSTILE = ["../../../etc/passwd", "a\nb.tif", "\u202etif.exe", "x" * 255, "<script>.tif", "caf\\xe9.tif", "\u200b.tif"]


@pytest.mark.parametrize("file", HOSTILE)
def test_a_hostile_name_is_in_the_record_and_nowhere_on_the_disk(tmp_path: Path, file: str) -> None:
    verdict = verdict_of(1)
    verdict = verdict.model_copy(update={"scan": verdict.scan.model_copy(update={"file": file}), "part_id": file})
    fill(keeper(tmp_path / "evidence"), verdict)
    assert open_piece(tmp_path / "evidence", str(verdict.evidence)).record.file == file
    names = {path.name for path in tmp_path.rglob("*")}
    assert names <= {"evidence", "2026-03-01", verdict.verdict_id, *NAMES, RECORD}


KILLED = """
import os, sys
from pathlib import Path
from tests.edge.evidence.test_keeper import fill, keeper, noise, verdict_of
for line in sys.stdin:  # one child a line, so that only the first of them waits for the imports
    if (pid := os.fork()) == 0:
        kept = keeper(Path(sys.argv[1]), max_bytes=300_000)
        for number in range(int(line), 1_000_000):
            fill(kept, verdict_of(number % 500), counts=noise(100, 100, seed=number))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def test_kill_9_at_any_moment_leaves_no_broken_piece(tmp_path: Path) -> None:
    """While pieces are written, pruned and replaced as fast as the disk takes them."""
    chance = np.random.default_rng(0)
    seen = 0
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for start in range(0, 500, 50):
            process.stdin.write(f"{start}\n")
            process.stdin.flush()
            before, pid = pieces(tmp_path), int(process.stdout.readline())
            while pieces(tmp_path) <= before:
                time.sleep(0.002)
            time.sleep(float(chance.uniform(0.0, 0.05)))
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n"
            seen += read_all(tmp_path)
        process.stdin.close()
    assert seen > 20
    again = keeper(tmp_path, max_bytes=300_000)
    again.step(0.0)
    assert not list(tmp_path.glob(f"*/{DRAFT_PREFIX}*"))
    assert read_all(tmp_path) > 1


def read_all(folder: Path) -> int:
    """Every piece to its last byte; how many there are."""
    found = pieces(folder)
    for evidence in found:
        piece = open_piece(folder, evidence)
        for name in piece.record.files:
            piece.read(name)
    return len(found)


def test_a_real_tiff_goes_the_whole_way(tmp_path: Path) -> None:
    """From bytes of a file to counts of a piece."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, noise(64, 48))
    counts = tifffile.imread(io.BytesIO(stream.getvalue()))
    fill(keeper(tmp_path), verdict := verdict_of(1), counts=counts)
    assert np.array_equal(open_piece(tmp_path, str(verdict.evidence)).counts(), noise(64, 48))


def test_a_disposition_that_is_no_json_counts_as_undecided(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    fill(kept, odd := verdict_of(1, Outcome.REVIEW), plain := verdict_of(2, Outcome.ABNORMAL), counts=noise(100, 100))
    (tmp_path / str(odd.evidence) / DISPOSITION).write_bytes(json.dumps(["decision"]).encode())
    again = keeper(tmp_path, max_bytes=round(1.25 * kept.tally().used_bytes))
    fill(again, newest := verdict_of(3, Outcome.REVIEW), counts=noise(100, 100))
    assert pieces(tmp_path) == paths_of(odd, newest), f"{plain.evidence} goes first"
