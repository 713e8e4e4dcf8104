"""What zdbfs could not write to zdb, by its own log."""

from __future__ import annotations

import pytest

from hookd.container.flush import Flush

READY = "[+] fuse: ready, waiting events: /mnt"
BEGINS = "[+] cache: forcing cache flush"
ENDS = "[+] cache: flushed, 3 entries written"
INODE = "[-] cache: could not write inode in the backend"
BLOCK = "[-] cache flush: blockid mismatch"
CLOSED = "[-] cache release: could not write to backend"
REFUSED = "[-] zdb: zdbfs-meta: set: error: Operation not permitted"


def heard(*lines: str) -> tuple[str, list[str]]:
    """(what was not written, what was told on the way)."""
    told: list[str] = []
    flush = Flush(told.append)
    for line in lines:
        flush.hear(f"fs: {line}\n".encode())
    return flush.unwritten, told


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [READY, BEGINS, ENDS],
        [READY, INODE, INODE, BEGINS, ENDS],  # tried again
        [READY, BEGINS, "[-] filesystem: release: could not update header entry", ENDS],
        [READY, BEGINS, READY, INODE],  # killed in its flush, and the next one tries again
    ],
)
def test_all_was_written(lines: list[str]) -> None:
    assert heard(*lines) == ("", [])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([READY, BEGINS, INODE, ENDS], "it said: cache: could not write inode in the backend)"),
        ([READY, BEGINS, REFUSED, BLOCK, ENDS], "it said: cache flush: blockid mismatch)"),
        (
            [READY, BEGINS, INODE, INODE, BLOCK, ENDS],
            "it said 3 times: cache: could not write inode",
        ),
    ],
)
def test_something_was_not(lines: list[str], words: str) -> None:
    unwritten, told = heard(*lines)
    assert words in unwritten
    assert told == []


@pytest.mark.parametrize("end", [[BEGINS, ENDS], [READY]], ids=["ends", "was killed"])
def test_a_file_that_could_not_be_closed(end: list[str]) -> None:
    """Told when it ends; its writer knows, or wrote it again: the flush is whole all the same."""
    unwritten, (told,) = heard(READY, CLOSED, REFUSED, CLOSED, *end, READY)
    assert unwritten == ""
    assert "2 times since zdbfs runs" in told


def test_one_that_ended_in_between() -> None:
    """By hand, say: it is told when the next one runs, whose own stop is another matter."""
    unwritten, (told,) = heard(READY, BEGINS, INODE, ENDS, READY, BEGINS, ENDS)
    assert unwritten == ""
    assert "could not write all it held" in told


def test_several_lines_at_once() -> None:
    flush = Flush(lambda line: None)
    flush.hear(f"fs: {READY}\nfs: {BEGINS}\nfs: {INODE}\n".encode())
    flush.hear(b"")
    assert "may be missing" in flush.unwritten
