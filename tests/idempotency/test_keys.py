"""The header Idempotency-Key, as it is sent and as it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.idempotency import format_key, parse_key

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@given(printable)
def test_what_is_written_is_read_again(key: str) -> None:
    assert parse_key([format_key(key).encode()]) == key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (b'  "padded"\t', "padded"),
        (b'"with blanks, commas; and semicolons"', "with blanks, commas; and semicolons"),
        (rb'"a \"quoted\" \\ word"', r'a "quoted" \ word'),
        (b'"k";a', "k"),
        (b'"k";a=1; b="x;y";c=:aGk=:;d=?0;e=tok/en;f=-1.5;*g=@1659578233', "k"),
    ],
)
def test_a_string_is_taken_without_its_parameters(value: bytes, key: str) -> None:
    assert parse_key([value]) == key


@pytest.mark.parametrize(
    "key", ["8e03978e-40d5-43e8-bc93-6894a57f9324", "KG5LxwFBepaKHyUD", "order:17/3", "aGVsbG8=", "a_b.c+d"]
)
def test_a_bare_value_is_the_same_key_as_the_quoted_one(key: str) -> None:
    assert parse_key([key.encode()]) == parse_key([f'"{key}"'.encode()]) == key


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b'"',
        b'"open',
        b'"a" "b"',
        b'"a", "b"',
        b"a, b",
        b"a;b",
        b"with blanks",
        b'un"quoted',
        rb"back\slash",
        rb'"bad \escape"',
        b'"tab\there"',
        b'"caf\xe9"',
        b"caf\xe9",
        '"café"'.encode(),
        b'"a";A=1',
        b'"a";b=',
        b'"' + b"x" * 256 + b'"',
        b"x" * 256,
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"(?i)key"):
        parse_key([value])


def test_the_longest_key_has_255_characters() -> None:
    assert parse_key([b'"' + b"x" * 255 + b'"']) == "x" * 255
    assert parse_key([rb'"' + rb"\"" * 255 + b'"']) == '"' * 255


def test_a_key_is_sent_once() -> None:
    with pytest.raises(ValueError, match="2 times"):
        parse_key([b'"a"', b'"a"'])


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "tab\t", "line\n"])
def test_a_key_that_the_header_cannot_carry_is_not_written(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        format_key(key)


@given(st.binary(max_size=40))
def test_reading_never_fails_in_another_way(value: bytes) -> None:
    try:
        key = parse_key([value])
    except ValueError:
        return
    assert 0 < len(key) <= 255
    assert key.isascii()
    assert key.isprintable()
