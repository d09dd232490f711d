"""Lines out of chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.backends.lines import lines_of
from resilient.errors import DiscoveryError
from resilient.testing import virtual_time


async def chunked(content: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    for size in [*sizes, len(content)]:
        yield content[:size]
        content = content[size:]


async def read(content: bytes, sizes: list[int]) -> list[bytes]:
    found = []
    async with lines_of(chunked(content, sizes)) as lines:
        while (line := await lines.next()) is not None:
            found.append(line)
    return found


@given(
    documents=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=5),
    sizes=st.lists(st.integers(0, 30), max_size=20),
)
def test_whatever_is_in_a_document_and_wherever_it_is_cut_it_is_one_line(
    documents: list[dict[str, str]], sizes: list[int]
) -> None:
    """Also U+2028 and U+0085, at which others break lines."""
    content = b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in documents)
    found = virtual_time.run(lambda: read(content, sizes))
    assert [json.loads(line) for line in found] == documents


def test_blank_lines_are_skipped_and_half_a_line_at_the_end_is_dropped(backend: str) -> None:
    content = "\n\r\n{\u2028\u0085}\r\n\n[]\nhalf".encode()
    assert virtual_time.run(lambda: read(content, []), backend=backend) == ["{\u2028\u0085}".encode(), b"[]"]


def test_a_line_without_an_end_is_given_up(backend: str) -> None:
    async def main() -> None:
        async with lines_of(chunked(b"x" * 100, [10] * 9), longest=50) as lines:
            with pytest.raises(DiscoveryError, match="more than 50 bytes"):
                await lines.next()

    virtual_time.run(main, backend=backend)


def test_what_is_left_half_read_is_ended_within_itself(backend: str) -> None:
    """The generator waits for a chunk when it is cancelled, so every generator within it ends too."""
    ended: list[str] = []

    async def inner() -> AsyncIterator[bytes]:
        try:
            for _ in range(3):
                yield b"a\nb\n"
            await anyio.sleep_forever()
        finally:
            ended.append("inner")

    async def outer() -> AsyncIterator[bytes]:
        try:
            async for chunk in inner():
                yield chunk
        finally:
            ended.append("outer")

    async def main() -> None:
        async with lines_of(outer()) as lines:
            assert await lines.next() == b"a"
        assert ended == ["inner", "outer"]

    virtual_time.run(main, backend=backend)
