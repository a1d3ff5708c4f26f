"""Figures from a table alone: the handbook's examples, published kappas, and what a table may get wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from tests.edge.validation.handbook import example_1, example_3
from tests.edge.validation.test_agreement import BEARINGS, BEARINGS_TRUTH, PSYCHIATRISTS


def table(folder: Path, header: str, rows: Sequence[Sequence[object]], separator: str = ",") -> Path:
    file = folder / "table.csv"
    lines = [header.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]
    file.write_text("\n".join(lines))
    return file


def measured(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["study", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_handbooks_hit_miss_table_has_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MIL-HDBK-1823A, figure G-43, page 132."""
    sizes, found = example_3()
    file = table(tmp_path, "ID,length.inch,hit.miss", [(0, *row) for row in zip(sizes, found.astype(int), strict=True)])
    curve = measured(capsys, file, "--size", "length.inch", "--found", "hit.miss", "--size-scale", "linear")["curves"][
        "Hit/miss"
    ]

    assert (curve["hits"], curve["targets"]) == (92, 134)
    assert [round(curve[name], 4) for name in ("a50", "a90", "a90_95")] == [0.1156, 0.1709, 0.1974]


def test_the_handbooks_signal_table_has_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MIL-HDBK-1823A, figure G-6, page 92; a table of a spreadsheet with semicolons and decimal commas."""
    rows = [(f"{size:.1f}".replace(".", ","), int(signal)) for size, signal in zip(*example_1(), strict=True)]
    file = table(tmp_path, "size,signal", rows, ";")
    limits = ("--decision", 200, "--floor", 50, "--ceiling", 1375)
    curve = measured(capsys, file, "--size", "size", "--response", "signal", *limits)["curves"]["Signal response"]

    assert [round(curve[name], 2) for name in ("a50", "a90", "a90_95")] == [8.8, 12.69, 13.68]


def test_rows_that_stand_for_several_and_unknown_ones_are_counted_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doses = ((1, 0), (2, 2), (4, 6), (8, 10), (16, 12), (32, 16))  # Venables and Ripley's budworms: killed of 20
    rows: list[tuple[object, ...]] = [(dose, "hit", killed) for dose, killed in doses]
    rows += [(dose, "miss", 20 - killed) for dose, killed in doses]
    file = table(tmp_path, "dose,found,moths", [*rows, ("NA", "hit", 1), (3, "", 1)])
    found = measured(capsys, file, "--size", "dose", "--found", "found", "--count", "moths")
    curve = found["curves"]["Hit/miss"]

    assert (curve["hits"], curve["targets"]) == (46, 120)
    assert curve["intercept"] == pytest.approx(-2.9935, abs=5e-5)
    assert found["notes"] == ["2 of 14 rows have no dose or no found."]


def test_a_published_attribute_study_has_its_kappas_and_its_attribute_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [list(trials.replace(" ", "")) for trials in (*BEARINGS.values(), BEARINGS_TRUTH)]
    rows = [(number // 3, *row) for number, row in enumerate(zip(*columns, strict=True))]
    file = table(tmp_path, "bearing,EG,BL,MH,truth", rows)
    words = ("--people", "EG,BL,MH", "--reference", "truth", "--part", "bearing", "--defective", "y")
    found = measured(capsys, file, *words)

    assert found["kappas"]["EG and truth (Cohen)"]["kappa"] == pytest.approx(0.612903225806452)
    assert found["kappas"]["MH and truth (Cohen)"]["kappa"] == pytest.approx(0.264150943396226)
    row = found["attributes"]["BL"]
    shares = (row["effectiveness"], row["miss_rate"], row["false_alarm_rate"])
    assert [round(100 * share, 2) for share in shares] == [73.33, 26.67, 20.0]


def test_classes_of_any_name_have_fleiss_kappa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fleiss 1971: 0.430; without a word for defective there is no attribute table."""
    names = ("depression", "personality", "schizophrenia", "neurosis", "other")
    rows = [[name for name, votes in zip(names, row, strict=True) for _ in range(votes)] for row in PSYCHIATRISTS]
    file = table(tmp_path, "a,b,c,d,e,f", rows)

    assert measured(capsys, file, "--people", "a,b,c,d,e,f")["kappas"]["All (Fleiss)"]["kappa"] == pytest.approx(
        0.430, abs=5e-4
    )
    found = measured(capsys, file, "--people", "a,b", "--reference", "f")
    assert found["attributes"] == {} and "--defective" in found["notes"][0]


def test_the_words_of_labels_need_no_word_for_defective_and_are_said_in_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path, "anna,ben,truth", [("OK", "ok", "OK"), ("NG", "OK", "NG"), ("NG", "NG", "NG")])

    assert main(["study", str(file), "--people", "anna,ben", "--reference", "truth"]) == 0
    said = capsys.readouterr().out
    assert "anna and ben (Cohen): kappa 0.400" in said
    ben = said[said.index("ben: unacceptable") :].splitlines()
    assert ben[1].startswith("  effectiveness 66.7% (95 % ") and ben[2].startswith("  missed 50.0% (95 % ")
    assert ben[3].startswith("  false alarms 0.0% (95 % 0.0% to ")


def test_people_who_use_one_word_have_no_kappa_and_no_number_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path, "anna,ben,truth", [("OK", "OK", "OK")] * 12)

    found = measured(capsys, file, "--people", "anna,ben", "--reference", "truth")
    assert found["kappas"]["anna and ben (Cohen)"] | {"kappa": None} == found["kappas"]["anna and ben (Cohen)"]


def test_a_column_of_lots_gives_intervals_over_lots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(60):
        size = 1.0 + number % 20
        found = size > (6 if number < 30 else 12) or number % 11 == 0
        wrong = number in (1, 2, 3)
        rows.append(
            (
                size,
                int(found),
                "NG" if (number % 2 == 0) != wrong else "OK",
                ["NG", "OK"][number % 2],
                f"L{number // 10}",
            )
        )
    file = table(tmp_path, "size,found,anna,truth,lot", rows)
    words = ("--size", "size", "--found", "found", "--people", "anna", "--reference", "truth")

    alone, over_lots = measured(capsys, file, *words), measured(capsys, file, *words, "--lot", "lot")
    curve, kappa = over_lots["curves"]["Hit/miss"], over_lots["kappas"]["anna and truth (Cohen)"]
    assert (alone["curves"]["Hit/miss"]["lots"], alone["kappas"]["anna and truth (Cohen)"]["over_lots"]) == (0, None)
    assert curve["a90"] == alone["curves"]["Hit/miss"]["a90"]
    assert curve["lots"] == kappa["over_lots"]["lots"] == 6
    assert curve["a90_lots_high"] > curve["a90_high"] and kappa["over_lots"]["low"] < kappa["low"]
    assert main(["study", str(file), *words, "--lot", "lot"]) == 0
    said = capsys.readouterr().out
    assert f"over 6 lots {kappa['over_lots']['low']:.3f} to {kappa['over_lots']['high']:.3f})" in said
    assert f"over 6 lots {curve['a90_lots_low']:.4g} to {curve['a90_lots_high']:.4g})" in said
    row = over_lots["attributes"]["anna"]["right_over_lots"]
    assert f"effectiveness 95.0% (95 % 86.3% to 98.3%; over 6 lots {row['low']:.1%} to {row['high']:.1%})" in said
    assert "  worst lot L0: 3 of 10 wrong" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "nothing to measure"),
        (("--size", "size"), "without what was found"),
        (("--size", "size", "--response", "signal"), "without --decision"),
        (("--size", "length", "--found", "hit"), "no column, or more than one, named 'length'"),
        (("--size", "size", "--found", "hit"), "table.csv line 3: hit 'perhaps'"),
        (("--size", "signal", "--found", "good"), "line 2: signal '-3', expected a number above 0"),
        (
            ("--people", "good,hit", "--reference", "good", "--defective", "rotten"),
            "the columns do not hold 'rotten'; their words are",
        ),
    ],
)
def test_what_a_table_cannot_answer_is_refused_with_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    file = table(tmp_path, "size,signal,hit,good", [(1, -3, 1, 1), (2, 4, "perhaps", 0)])

    assert main(["study", str(file), *words]) == (65 if " line " in f" {complaint}" else 78)
    assert complaint in capsys.readouterr().err


def test_a_table_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("size,found\n1,0\n2\n")

    assert main(["study", str(tmp_path / "table.csv"), "--size", "size", "--found", "found"]) == 65
    assert "line 3: 1 cells, the header has 2" in capsys.readouterr().err
    assert main(["study", str(tmp_path / "none.csv"), "--people", "a"]) == 65
