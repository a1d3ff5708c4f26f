"""The report on a gate: what it counts, where it finds its images, what it writes."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from train.cli import main
from train.commands.gate_report import foreign_images
from train.dataset import Row
from train.errors import DataError
from train.gate.findings import Finding, refusals
from train.gate.foreign_sets import draw_foreign, of_folder
from train.gate.report import anomalies, markdown

pytestmark = pytest.mark.timeout(300)


def _finding(
    mean: float,
    std: float = 0.5,
    spread: float = 0.5,
    row: Row | None = None,
    network: float = 0.0,
    filtered: float = 0.0,
) -> Finding:
    return Finding("name", "group", row, mean, std, spread, network, filtered)


def _row(label: int, kinds: tuple[str, ...], severity: float) -> Row:
    return Row(Path("x.tif"), "x.tif", "B1", label, kinds, severity)


def test_one_score_above_its_threshold_refuses_and_so_does_one_that_is_not_a_number() -> None:
    assert not _finding(1.0, 1.0, 1.0).refused
    assert _finding(1.01).by_gate
    assert _finding(0.5, 1.01).by_gate
    assert _finding(float("nan")).by_gate
    assert not _finding(0.5, 0.5, 1.2).by_gate
    assert _finding(0.5, 0.5, 1.2).refused


def test_refusals_are_counted_by_guard() -> None:
    found = refusals(
        [
            _finding(2, network=2),
            _finding(0.5, spread=2),
            _finding(3, filtered=3),
            _finding(2, spread=2, network=2, filtered=1),
        ]
    )
    hits = {name: rate.hits for name, rate in found.items()}
    assert hits == {"gate": 3, "network": 2, "filter": 1, "exposure": 2, "either": 4}


def test_anomalies_are_counted_by_kind_and_by_thirds_of_severity() -> None:
    severities = (0.6, 0.65, 0.75, 0.8, 0.95, 1.0)

    class Some:
        normal = (_finding(0.1, row=_row(0, ("scratches",), 0.1)), _finding(0.1, row=_row(0, (), 0.0)))
        abnormal = tuple(
            _finding(2 if severity > 0.7 else 0.5, row=_row(1, kinds, severity))
            for kinds, severity in zip([("lines",), ("scratches", "lines")] * 3, severities, strict=True)
        )

    found = anomalies(Some())
    assert found["lines"]["severe"]["gate"]["hits"] == 4
    assert found["lines"]["severe"]["gate_over_lots"] == {
        "lots": 1,
        "interval": [0.0, 1.0],
        "worst": {"lot": "group", "errors": 4, "scans": 6},
    }  # all are of one lot: nothing is known of others
    assert found["scratches"]["severe"]["gate"]["total"] == 3
    assert found["scratches"]["mild"]["gate"]["total"] == 1
    assert found["scratches"]["mild"]["gate_over_lots"]["worst"] is None
    assert [third["gate"]["hits"] for third in found["lines"]["by_severity"]] == [0, 2, 2]


def test_eight_bit_images_become_scans_of_the_usual_size_and_counts(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.arange(256, dtype=np.uint8).repeat(20).reshape(64, 80))
    tifffile.imwrite(folder / "b.tif", np.full((60, 50), 2000, np.uint16), photometric="minisblack")
    photograph, scan = of_folder(folder)
    assert (photograph.kind, photograph.name) == ("photographs", "a.png")
    assert photograph.counts.shape == (2072, 1145)
    assert (photograph.counts.min(), photograph.counts.max()) == (1700, 2800)
    assert (scan.counts == 2000).all()


def test_an_image_of_16_bit_that_is_no_tiff_keeps_its_counts(tmp_path: Path) -> None:
    """Eight bits of 12-bit counts are a black picture, which any gate refuses."""
    counts = np.linspace(0, 4095, 60 * 50, dtype=np.uint16).reshape(60, 50)
    cv2.imwrite(str(tmp_path / "radiograph.png"), counts)
    (image,) = of_folder(tmp_path)
    np.testing.assert_array_equal(image.counts, counts)


def test_a_folder_without_images_or_with_a_broken_one_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        list(of_folder(tmp_path))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg is not an image"):
        list(of_folder(tmp_path))
    (tmp_path / "broken.jpg").rename(tmp_path / "broken.tif")
    with pytest.raises(DataError, match=r"broken\.tif"):
        list(of_folder(tmp_path))


def test_a_broken_foreign_image_is_found_before_anything_is_judged(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg is not an image"):  # no image has been asked for yet
        foreign_images(Namespace(foreign=[tmp_path], drawn=0, seed=0, jobs=1))


def test_nothing_is_drawn_where_nothing_is_asked_for() -> None:
    assert list(draw_foreign(0, 0, 1)) == []


def test_a_report_that_fails_leaves_none_of_another_gate(held_back: Path, tmp_path: Path) -> None:
    for name in ("gate_report.md", "gate_report.json", "gate_scores.png", "gate_kinds.svg", "notes.md"):
        (tmp_path / name).write_text("of another gate")
    asked = ["gate-report", str(tmp_path / "no run"), str(held_back), "--out", str(tmp_path), "--drawn", "0"]
    assert main(asked) == 66
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


def test_train_and_report_from_the_command_line(
    small_lot: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, foreign = tmp_path / "run", tmp_path / "report", tmp_path / "inverted"
    recipe = ["--size=280x280", "--steps=2", "--plain-steps=1", "--bank=2", "--batch=1", "--no-rotate", "--margin=3"]
    assert main(["gate", str(small_lot), "--out", str(run), *recipe]) == 0
    foreign.mkdir()
    for path in sorted(small_lot.glob("B0_*.tif"))[:3]:
        tifffile.imwrite(foreign / path.name, 4600 - tifffile.imread(path), photometric="minisblack")
    capsys.readouterr()
    asked = ["gate-report", str(run), str(held_back), "--out", str(out), "--foreign", str(foreign), "--drawn", "0"]
    assert main(["gate-report", str(run), str(small_lot), *asked[3:]]) == 65
    assert "it learnt from lots of these names: B0, B1, B2" in capsys.readouterr().err
    renamed = tmp_path / "renamed"
    shutil.copytree(small_lot, renamed)
    (renamed / "labels.csv").write_text((renamed / "labels.csv").read_text().replace(",B", ",N"))
    assert main(["gate-report", str(run), str(renamed), *asked[3:]]) == 65
    assert "of lot N0 was learnt from, whatever its lot was called then" in capsys.readouterr().err
    assert main(asked) == 0
    assert capsys.readouterr().out.strip() == str(out / "gate_report.md")
    content = json.loads((out / "gate_report.json").read_text())
    assert content["normal"]["gate"] == {
        "hits": 0,
        "total": 12,
        "share": 0.0,
        "interval": pytest.approx([0.0, 0.2425], abs=1e-3),
    }
    assert content["foreign"]["kinds"]["inverted"]["gate"]["hits"] == 3
    assert content["foreign"]["kinds"]["inverted"]["margin"] > 1
    assert content["abnormal"]["gate"]["total"] == 12
    assert (out / "gate_report.md").read_text() == markdown(content)
    low, high = content["normal"]["over_lots"]["interval"]
    lots = content["normal"]["over_lots"]["lots"]
    assert low <= content["normal"]["either"]["share"] <= high
    assert f"of normal scans {100 * low:.1f} to {100 * high:.1f}, {lots} lots" in markdown(content)
    over = content["foreign"]["over_kinds"]
    assert (over["lots"], over["worst"]) == (1, None), "no interval of one kind"
    assert "the share would lie at no interval: 1 kind." in markdown(content)
    lines = (out / "gate_scores.csv").read_text().splitlines()
    assert len(lines) == 1 + 24 + 3
    for name in ("gate_scores.png", "gate_scores.svg", "gate_kinds.png", "gate_kinds.svg"):
        assert (out / name).stat().st_size > 1000
