"""The reader of evidence trusts nothing that lies in the folder."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.errors import EvidenceError
from edge.evidence.record import (
    DISPOSITION,
    IMAGE,
    ORIGINAL,
    RECORD,
    SCAN,
    VERDICT,
    KeptFile,
    Piece,
    days,
    evidence_path,
    open_piece,
    pieces_of_day,
)
from edge.records import counts_sha256
from tests.support.evidence import png, sample_counts, sample_piece
from tests.support.samples import sample_verdict


def path_of(piece: Piece) -> str:
    return evidence_path(piece.record.decided_at, piece.record.verdict_id)


def test_a_piece_gives_back_what_was_kept(tmp_path: Path) -> None:
    piece = sample_piece(tmp_path)
    assert np.array_equal(piece.counts(), sample_counts())
    assert piece.image().shape == (1, 40, 20)
    assert piece.residual().dtype == np.float32
    assert piece.residual() == pytest.approx(np.full((4, 2), 0.05), abs=4 * 0.05 / 255 / 2), "within half a level"
    assert piece.verdict() == sample_verdict()
    assert piece.disposition() is None
    (piece.path / DISPOSITION).write_bytes(b"{}")
    assert piece.disposition() == b"{}"


def test_pieces_are_listed_by_day_and_what_is_not_whole_is_no_piece(tmp_path: Path) -> None:
    assert days(tmp_path / "never-made") == []
    first, second = path_of(sample_piece(tmp_path, 1)), path_of(sample_piece(tmp_path, 2))
    (tmp_path / "2026-03-01" / ".tmp-0").mkdir()
    (tmp_path / "notes.txt").touch()
    assert days(tmp_path) == ["2026-03-01"]
    assert pieces_of_day(tmp_path, "2026-03-01") == sorted([first, second])


@pytest.mark.parametrize(
    "evidence",
    ["", "..", "2026-03-01", "2026-03-01/" + "g" * 32, "/2026-03-01/" + "a" * 32, "x\n2026-03-01/" + "a" * 32],
)
def test_nothing_but_a_path_of_evidence_is_opened(tmp_path: Path, evidence: str) -> None:
    with pytest.raises(EvidenceError, match="is no path of evidence"):
        open_piece(tmp_path, evidence)


def test_a_day_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    piece = sample_piece(folder)
    piece.path.parent.rename(tmp_path / "elsewhere")
    piece.path.parent.symlink_to(tmp_path / "elsewhere")
    assert days(folder) == []
    for read in (lambda: open_piece(folder, f"{piece.path.parent.name}/{piece.path.name}"), piece.counts):
        with pytest.raises(EvidenceError):
            read()


def test_the_verdict_of_another_scan_is_not_shown_even_where_the_record_fits_it(tmp_path: Path) -> None:
    """Two pieces mixed up by hand, the hashes made to fit."""
    piece, other = sample_piece(tmp_path, 1), sample_piece(tmp_path, 2)
    data = other.read(VERDICT)
    (piece.path / VERDICT).write_bytes(data)
    fits = KeptFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    record = piece.record.model_copy(update={"files": {**piece.record.files, VERDICT: fits}})
    with pytest.raises(EvidenceError, match="another one"):
        Piece(piece.path, record).verdict()


def test_a_piece_that_was_pruned_says_so(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no evidence at") as caught:
        open_piece(tmp_path, "2026-03-01/" + "a" * 32)
    assert "max_bytes" in caught.value.hint


def other_bytes(piece: Piece) -> None:
    data = bytearray((piece.path / SCAN).read_bytes())
    data[-20] ^= 1
    (piece.path / SCAN).write_bytes(data)


def shorter(piece: Piece) -> None:
    os.truncate(piece.path / SCAN, 100)


def longer(piece: Piece) -> None:
    with (piece.path / SCAN).open("ab") as stream:
        stream.write(b"x")


def link(piece: Piece) -> None:
    (piece.path / SCAN).rename(piece.path.parent / "elsewhere")
    (piece.path / SCAN).symlink_to("../elsewhere")


def pipe(piece: Piece) -> None:
    (piece.path / SCAN).unlink()
    os.mkfifo(piece.path / SCAN)


def gone(piece: Piece) -> None:
    (piece.path / SCAN).unlink()


@pytest.mark.parametrize("damage", [other_bytes, shorter, longer, link, pipe, gone])
def test_a_damaged_scan_is_never_shown(tmp_path: Path, damage: Callable[[Piece], None]) -> None:
    piece = sample_piece(tmp_path)
    damage(piece)
    with pytest.raises(EvidenceError, match=r"scan\.png"):
        piece.counts()


def rewritten(piece: Piece, **changes: object) -> None:
    record = json.loads((piece.path / RECORD).read_bytes())
    (piece.path / RECORD).write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "evidence/2"},
        {"verdict_id": "0" * 32},
        {"decided_at": "2026-03-02T06:00:00.000Z"},
        {"outcome": "good"},
        {"height_px": -1},
        {"files": {"../../secret": {"sha256": "a" * 64, "size_bytes": 1}}},
        {"unknown": 1},
    ],
)
def test_a_record_that_was_changed_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    piece = sample_piece(tmp_path)
    rewritten(piece, **changes)
    with pytest.raises(EvidenceError, match=r"record\.json"):
        open_piece(tmp_path, path_of(piece))


@pytest.mark.parametrize("data", [b"", b"[", b"\xff\xfe", b" " * (1 << 21)])
def test_a_record_that_is_no_json_or_too_long_is_refused(tmp_path: Path, data: bytes) -> None:
    piece = sample_piece(tmp_path)
    (piece.path / RECORD).write_bytes(data)
    with pytest.raises(EvidenceError, match=r"record\.json"):
        open_piece(tmp_path, path_of(piece))


def test_counts_that_are_not_the_judged_ones_are_refused_even_where_the_record_fits_their_file(tmp_path: Path) -> None:
    piece = sample_piece(tmp_path)
    rewritten(piece, counts_sha256=counts_sha256(sample_counts() ^ 1))
    with pytest.raises(EvidenceError, match="not the counts that were judged"):
        open_piece(tmp_path, path_of(piece)).counts()


def test_a_picture_of_another_size_than_the_record_says_is_not_unpacked(tmp_path: Path) -> None:
    piece = sample_piece(tmp_path)
    rewritten(piece, height_px=41)
    with pytest.raises(EvidenceError, match="40 x 20 px"):
        open_piece(tmp_path, path_of(piece)).counts()


def test_what_was_not_kept_is_asked_for_in_vain_and_the_reason_is_given(tmp_path: Path) -> None:
    piece = sample_piece(tmp_path)
    rewritten(piece, notes=[{"code": "file-unreadable", "detail": "Permission denied"}])
    with pytest.raises(EvidenceError, match=r"no scan\.bin was kept: the file is not kept: Permission denied"):
        open_piece(tmp_path, path_of(piece)).read(ORIGINAL)


def test_colours_come_back_in_the_order_of_the_networks_channels(tmp_path: Path) -> None:
    piece = sample_piece(tmp_path)
    channels = np.arange(3, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.ones((1, 40, 20), np.uint8)
    data = png(np.ascontiguousarray(np.moveaxis(channels, 0, 2)[:, :, ::-1]))
    (piece.path / IMAGE).write_bytes(data)
    record = json.loads((piece.path / RECORD).read_bytes())
    record["files"][IMAGE] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (piece.path / RECORD).write_text(json.dumps(record))
    assert np.array_equal(open_piece(tmp_path, path_of(piece)).image(), channels)
