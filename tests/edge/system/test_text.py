"""Text files of people: UTF-8 with or without a mark, anything else in words."""

import pytest
from pydantic import ValidationError

from edge.store.requests import ResendRequest
from edge.system.text import NotUtf8, first_error, utf8_text


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"numbers": [1, 2], "colour": "red", "size": 1}', "colour: Extra inputs are not permitted (and 1 more)"),
        ("[]", "the request: Input should be an object"),
    ],
)
def test_the_first_thing_wrong_is_named_by_its_field_and_the_others_are_counted(content: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ResendRequest.model_validate_json(content)
    assert first_error(caught.value, "the request") == words
