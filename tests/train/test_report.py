"""Tables as Markdown."""

from train.report import table


def test_a_bar_in_a_name_makes_no_further_cell() -> None:
    assert table(["lot", "scans"], [["B|1", 4]])[-1] == r"| B\|1 | 4 |"
