"""Text files of people: UTF-8 with or without a mark, anything else in words."""

import pytest

from edge.system.text import NotUtf8, utf8_text


@pytest.mark.parametrize("data", ["Prüf\n".encode(), "Prüf\n".encode("utf-8-sig")])
def test_utf8_is_read_with_and_without_its_mark(data: bytes) -> None:
    assert utf8_text(data) == "Prüf\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a\nPrüf".encode("latin-1"), "not UTF-8 (byte 0xfc in line 2)"),
        ("Prüf".encode("utf-16"), "UTF-16, not UTF-8"),
        ("Prüf".encode("utf-16-be"), "UTF-16, not UTF-8"),
    ],
)
def test_another_encoding_is_named(data: bytes, words: str) -> None:
    with pytest.raises(NotUtf8) as caught:
        utf8_text(data)
    assert str(caught.value) == words
