"""The container's stdout: everything in order while somebody takes it, and nobody waits if not."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from hookd.container.outlet import OWN_BYTES, Outlet
from tests.fakes.full_pipe import fill

LINE = b"zdb: " + b"x" * 94 + b"\n"


class Pipe:
    """One that is full: nobody has taken anything yet."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fill(self.writing)

    def take(self) -> list[bytes]:
        """All lines until the writer ends, which it does when `close` was called for its end."""
        data = b""
        while more := os.read(self.reading, 1 << 16):
            data += more
        return data.lstrip(b"\0").splitlines(keepends=True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)
    with contextlib.suppress(OSError):
        os.close(pipe.writing)


def end(outlet: Outlet, pipe: Pipe) -> None:
    """Behind the back of the reader, which `take` is."""

    def finish() -> None:
        outlet.finish(20)
        os.close(pipe.writing)

    threading.Thread(target=finish, daemon=True).start()


def test_all_lines_in_their_order(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writing)
    outlet.start()
    lines = [b"%d\n" % number for number in range(1000)]
    for line in lines:
        outlet.put(line)
    outlet.put(b"")
    end(outlet, pipe)
    assert pipe.take() == lines


def test_what_is_lost_is_counted_where_it_was(pipe: Pipe) -> None:
    """The first lines are kept; those of the container itself also when there is no room for others."""
    outlet = Outlet(pipe.writing, backlog_bytes=1000)
    outlet.start()
    for _ in range(13):
        outlet.put(LINE)
    outlet.put(b"qsfs: stop\n", own=True)
    outlet.put(LINE * 2)
    end(outlet, pipe)
    assert pipe.take() == [
        *[LINE] * 10,
        b"qsfs: 3 lines lost here: the container's log was not taken\n",
        b"qsfs: stop\n",
        b"qsfs: 2 lines lost here: the container's log was not taken\n",
    ]


def test_it_goes_on_when_there_is_room_again(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writing, backlog_bytes=200)
    outlet.start()
    for _ in range(3):
        outlet.put(LINE)
    data = b""
    while b"lost" not in data:
        data += os.read(pipe.reading, 1 << 16)
    outlet.put(LINE)
    end(outlet, pipe)
    assert data.lstrip(b"\0").splitlines(keepends=True) + pipe.take() == [
        LINE,
        LINE,
        b"qsfs: 1 line lost here: the container's log was not taken\n",
        LINE,
    ]


def test_a_batch_beyond_the_bound_is_kept_where_nothing_waits(pipe: Pipe) -> None:
    """A file that was followed is read in one go."""
    outlet = Outlet(pipe.writing, backlog_bytes=1000)
    outlet.put(LINE * 20)
    outlet.start()
    end(outlet, pipe)
    assert pipe.take() == [LINE] * 20


def test_own_lines_have_a_bound_too(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writing, backlog_bytes=1000)
    for _ in range(2 * OWN_BYTES // len(LINE)):
        outlet.put(LINE, own=True)
    outlet.start()
    end(outlet, pipe)
    kept = pipe.take()
    assert sum(map(len, kept)) < 1000 + OWN_BYTES + 200
    assert b"lost" in kept[-1]


def test_nobody_is_waited_for_longer_than_told(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writing)
    outlet.start()
    outlet.put(LINE)
    outlet.finish(0.1)
    assert outlet.is_alive()


def test_a_reader_that_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outlet = Outlet(writing)
    outlet.start()
    outlet.put(LINE)
    outlet.put(LINE)
    outlet.finish(5)
    assert not outlet.is_alive()
    os.close(writing)
