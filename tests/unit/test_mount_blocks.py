"""What a sparse file says of itself: proven, unclear, and what is no evidence of a write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.mount import blocks
from hookd.mount.blocks import PIECE_BYTES as P

SIZE = 64 * P


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Nothing but a hole."""
    handle = os.open(tmp_path / "content", os.O_RDWR | os.O_CREAT)
    os.truncate(handle, SIZE)
    if os.fstat(handle).st_blksize > P or list(blocks.data(handle, SIZE)):
        pytest.skip("this file system has larger blocks, or no holes")
    yield handle
    os.close(handle)


def test_joined_and_without() -> None:
    """Sorted, touching ones as one; what is left of a range between known ones."""
    assert blocks.joined([(5, 9), (0, 2), (2, 3), (6, 7), (4, 4)]) == [(0, 3), (5, 9)]
    known = [(0, 3), (5, 9)]
    assert list(blocks.without([(0, 12)], known)) == [(3, 5), (9, 12)]
    assert list(blocks.without([(1, 2), (6, 9)], known)) == []
    assert list(blocks.without([(2, 6), (8, 20)], known)) == [(3, 5), (9, 20)]
    assert list(blocks.without([(3, 4)], [])) == [(3, 4)]


def test_data_is_what_was_written(file: int) -> None:
    """Whole blocks, clipped to the size."""
    os.pwrite(file, b"x", 3 * P + 5)
    os.pwrite(file, b"x" * P, SIZE - P)
    assert list(blocks.data(file, SIZE)) == [(3 * P, 4 * P), (SIZE - P, SIZE)]
    assert list(blocks.data(file, SIZE - 1)) == [(3 * P, 4 * P), (SIZE - P, SIZE - 1)]


def test_whole_blocks_are_proven(file: int) -> None:
    """Beside a known range and far from it."""
    os.pwrite(file, b"x" * 3 * P, P)
    os.pwrite(file, b"y" * 2 * P, 10 * P)
    found = blocks.examine(file, SIZE, [(P, 2 * P)])
    assert found.proven == [(2 * P, 4 * P), (10 * P, 12 * P)]
    assert found.unclear == []


@pytest.mark.parametrize(
    ("content", "at"),
    [(b"x" * 100, 10 * P + 7), (b"x" * 99 + b"\0" + b"x" * (P - 100), 10 * P), (bytes(P), 10 * P)],
)
def test_a_zero_in_a_block_that_was_written_to_is_unclear(
    file: int, content: bytes, at: int
) -> None:
    """It was written, or never: a block of nothing but zeros was written to as well."""
    os.pwrite(file, content, at)
    found = blocks.examine(file, SIZE, [(0, P)])
    assert (found.proven, found.unclear) == ([], [(10 * P, 11 * P)])


def test_zeros_beside_a_known_range_say_nothing(file: int) -> None:
    """The block is data because of the known range; what else is in it is another matter."""
    os.pwrite(file, b"x" * 100, P + 50)
    assert blocks.examine(file, SIZE, [(P + 50, P + 150)]) == blocks.Examined()
    os.pwrite(file, b"y", P + 1000)
    found = blocks.examine(file, SIZE, [(P + 50, P + 150)])
    assert (found.proven, found.unclear) == ([], [(P + 150, 2 * P)])


@pytest.mark.parametrize(
    ("content", "at", "whole"),
    [
        (b"", 0, True),
        (b"x" * 3 * P, 0, True),
        (b"x" + bytes(3 * P - 2) + b"x", 0, True),
        (b"x" * (2 * P - 100), 50, False),
        (b"x" * 50 + bytes(10), 0, False),
    ],
)
def test_whole(tmp_path: Path, content: bytes, at: int, whole: bool) -> None:
    """One write that left zeros before or behind itself may be a part of something larger."""
    path = tmp_path / "content"
    path.write_bytes(bytes(at) + content)
    with path.open("rb") as opened:
        assert blocks.is_whole(opened.fileno(), at + len(content)) is whole


def test_a_hole_is_not_whole(file: int) -> None:
    """Also if both ends were written."""
    os.pwrite(file, b"x", 0)
    os.pwrite(file, b"x", SIZE - 1)
    assert not blocks.is_whole(file, SIZE)
