"""labels.csv: what is accepted, what is refused by its line, and which scan a row belongs to."""

import os
from pathlib import Path

import pytest

from edge.errors import TableError
from edge.validation.labels import Label, LabelRow, match_labels, read_labels


def labels_file(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def rows(*files: str) -> list[LabelRow]:
    return [LabelRow(line, file, "B01", Label.NORMAL) for line, file in enumerate(files, start=2)]


def test_a_row_says_file_bundle_label_and_what_was_seen(tmp_path: Path) -> None:
    path = labels_file(
        tmp_path, "file,bundle,label,kinds,severity,note\nB01_1.tif, B01 ,abnormal,lines;bubbles,0.7,late shift\n"
    )
    assert read_labels(path) == [
        LabelRow(2, "B01_1.tif", "B01", Label.ABNORMAL, kinds=("lines", "bubbles"), severities=(0.7,))
    ]


def test_columns_may_stand_in_any_order_after_a_byte_order_mark_with_windows_line_ends(tmp_path: Path) -> None:
    path = labels_file(tmp_path, "\ufefflabel,file,bundle\r\nnormal,a.tif,\r\n\r\n,b.tif,B02\r\n")
    assert read_labels(path) == [LabelRow(2, "a.tif", None, Label.NORMAL), LabelRow(4, "b.tif", "B02", None)]


def test_names_that_are_no_utf_8_match_the_folder(tmp_path: Path) -> None:
    name = os.fsdecode(b"B01_\xff.tif")
    (row,) = read_labels(labels_file(tmp_path, f"file,bundle,label\n{name},B01,normal\n"))
    assert match_labels(tmp_path, [row], [name]).by_file == {name: row}
    with pytest.raises(TableError, match="line 2: file is not UTF-8: byte 0xff, and no scan has this name") as caught:
        match_labels(tmp_path, [row], ["B01_ÿ.tif"])
    assert caught.value.hint == "save the labels as UTF-8"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: no column, .*file, bundle, label"),
        ("file,bundle,label,label\na,b,normal,normal\n", "line 1: .* more than one, named label"),
        ("file,bundle,label\n", "no rows"),
        ("file,bundle,label\na.tif,B01\n", "line 2: 2 cells, the header has 3"),
        ("file,bundle,label\na.tif,B01,fine\n", "line 2: label 'fine' of 'a.tif'"),
        ("file,bundle,label\n,B01,normal\n", "line 2: the file is empty"),
        ("file,bundle,label\na.tif,B,normal\nb.tif,B,normal\n./a.tif,B,normal\n", "line 4: 'a.tif' .* line 2"),
        ("file,bundle,label\ns/a.tif,B,normal\n././s//a.tif,B,abnormal\n", "line 3: 's/a.tif' .* line 2"),
        ("file,bundle,label\na.tif,B\x001,normal\n", r"line 2: bundle 'B\\x001' holds the control character '\\x00'"),
        ('file,bundle,label\na.tif,"B\n1",normal\n', r"line 3: bundle 'B\\n1' holds the control character"),
        ("file;bundle;label\na.tif;B\t1;normal\n", r"line 2: bundle 'B\\t1' holds the control character"),
        ('file,bundle,label\n"a.tif,B01,normal\n', "line 2|not a CSV"),
    ],
)
def test_a_senseless_file_is_refused_by_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TableError, match=complaint):
        read_labels(labels_file(tmp_path, text))


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [("1,5", (1.5,)), ("1.5|0,25", (1.5, 0.25)), ("", ()), ("0", (0.0,))],
)
def test_sizes_have_a_point_or_a_comma_and_may_be_missing(tmp_path: Path, cell: str, sizes: tuple[float, ...]) -> None:
    lines = f"file;bundle;label;size_mm;area_mm2\na.tif;B1;NG;{cell};{cell}\nb.tif;B1;OK;;\n"
    sized, plain = read_labels(labels_file(tmp_path, lines))
    assert sized.sizes_mm == sized.areas_mm2 == sizes
    assert plain.sizes_mm == plain.areas_mm2 == ()


@pytest.mark.parametrize("cell", ["1.234,5", "-1", "1.5 mm", "3||2", "n/a", "inf", "1_5"])
def test_a_size_that_is_no_number_is_refused_by_its_line(tmp_path: Path, cell: str) -> None:
    with pytest.raises(TableError, match=r"line 2: size_mm .* of 'a\.tif': numbers from 0, joined by \|"):
        read_labels(labels_file(tmp_path, f"file;bundle;label;size_mm\na.tif;B1;NG;{cell}\n"))


def test_a_decimal_comma_in_a_table_of_commas_is_told_how_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="line 2: 5 cells, the header has 4; quote a cell with a separator"):
        read_labels(labels_file(tmp_path, "file,bundle,label,size_mm\na.tif,B1,NG,1,5\n"))


def test_a_spreadsheets_unicode_text_is_told_how_to_be_saved(tmp_path: Path) -> None:
    (path := tmp_path / "labels.csv").write_bytes("file,bundle,label\na.tif,B1,NG\n".encode("utf-16"))
    with pytest.raises(TableError, match="UTF-16: expected UTF-8"):
        read_labels(path)


def test_a_labels_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"nowhere\.csv.*No such file"):
        read_labels(tmp_path / "nowhere.csv")


def test_a_row_finds_its_scan_by_path_or_by_a_base_name_that_is_unique(tmp_path: Path) -> None:
    listed = rows("day1/a.tif", "b.tif", "lot/c.tif")
    matched = match_labels(tmp_path, listed, ["day1/a.tif", "day2/a.tif", "day1/b.tif", "c.tif"])
    assert matched.by_file == {"day1/a.tif": listed[0], "day1/b.tif": listed[1], "c.tif": listed[2]}
    assert matched.without_file == ()


def test_rows_without_a_scan_are_kept_apart(tmp_path: Path) -> None:
    listed = rows("a.tif", "gone.tif")
    assert match_labels(tmp_path, listed, ["a.tif", "new.tif"]).without_file == (listed[1],)


def test_a_base_name_that_two_scans_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"line 2: 'a\.tif' fits 2 scans") as caught:
        match_labels(tmp_path, rows("a.tif"), ["day1/a.tif", "day2/a.tif"])
    assert caught.value.hint == "give paths relative to the folder of scans"


def test_two_rows_for_one_scan_are_refused_whatever_their_order(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"line 2: 'a\.tif' names the scan 'day1/a\.tif', which line 3"):
        match_labels(tmp_path, rows("a.tif", "day1/a.tif"), ["day1/a.tif"])


def test_a_scan_of_another_folder_is_not_labelled_though_it_has_the_name(tmp_path: Path) -> None:
    listed = rows("lot1/0001.tif", "lot1/0002.tif", "set/lot2/0003.tif")
    matched = match_labels(tmp_path, listed, ["lot2/0001.tif", "lot12/0002.tif", "lot2/0003.tif"])
    assert matched.by_file == {"lot2/0003.tif": listed[2]}
    assert matched.without_file == (listed[0], listed[1])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_spreadsheets_separator_is_found_in_the_header(tmp_path: Path, separator: str) -> None:
    lines = (
        "file,bundle,label,kinds,severity,size_px,size_mm,part_id",
        "a.tif,B1,NG,lines|bubbles,0.7|0.2,31|12,1.5,4711",
    )
    text = "\n".join(line.replace(",", separator) for line in lines)
    (row,) = read_labels(labels_file(tmp_path, text))
    assert row == LabelRow(
        2, "a.tif", "B1", Label.ABNORMAL, (), ("lines", "bubbles"), (0.7, 0.2), (31.0, 12.0), (1.5,), "4711"
    )


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Normal", Label.NORMAL),
        ("OK", Label.NORMAL),
        ("good", Label.NORMAL),
        ("i.O.", Label.NORMAL),
        ("ABNORMAL", Label.ABNORMAL),
        ("ng", Label.ABNORMAL),
        ("Bad", Label.ABNORMAL),
        ("n.i.O.", Label.ABNORMAL),
    ],
)
def test_words_of_the_shop_floor_are_labels_in_any_case(tmp_path: Path, word: str, label: Label) -> None:
    (row,) = read_labels(labels_file(tmp_path, f"file,bundle,label\na.tif,B1,{word}\n"))
    assert row.label is label


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ("normal,normal,abnormal", Label.NORMAL),
        ("normal,,abnormal", Label.ABNORMAL),
        ("NG,bad,OK", Label.ABNORMAL),
        (",,", None),
    ],
)
def test_the_majority_decides_and_even_votes_are_abnormal(tmp_path: Path, votes: str, label: Label | None) -> None:
    (row,) = read_labels(labels_file(tmp_path, f"file,bundle,label_1,label_2,label_3\na.tif,B1,{votes}\n"))
    assert row.label is label
    assert [vote is not None for vote in row.votes] == [bool(vote) for vote in votes.split(",")], (
        "a person keeps a place"
    )


def test_a_label_beside_votes_is_the_reference_they_are_held_against(tmp_path: Path) -> None:
    text = "file,bundle,label,label_1,label_2\na.tif,B1,normal,normal,abnormal\nb.tif,B1,normal,,\nc.tif,B1,,NG,NG\n"
    rows = read_labels(labels_file(tmp_path, text))
    assert [row.label for row in rows] == [Label.NORMAL, Label.NORMAL, Label.ABNORMAL]
    assert [row.is_majority for row in rows] == [False, False, True]
    assert rows[0].votes == (Label.NORMAL, Label.ABNORMAL)


def test_all_bad_rows_are_told_at_once_each_by_its_line(tmp_path: Path) -> None:
    text = "file,bundle,label,severity\na.tif,B1,fine,\nb.tif,B1,normal,\nc.tif,B1,NG,much\n../d.tif,B1,OK,\ne.tif,B1\n"
    with pytest.raises(TableError) as caught:
        read_labels(labels_file(tmp_path, text))
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]] == [
        "line 2",
        "line 4",
        "line 5",
        "line 6",
    ]
