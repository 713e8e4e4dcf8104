"""Lines of services on one stream: whole, named, without colours and secrets, none lost."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd import log
from hookd.container.loglines import MAX_LINE_BYTES, Lines, LogPump, Tail
from hookd.container.outlet import BACKLOG_BYTES
from tests.fakes.full_pipe import fill


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_lines_come_whole(step: int) -> None:
    data = b"one\ntwo\r\n\n\x1b[32;1mthree\x1b[0m\nzdb: four\nfi"
    lines = Lines("zdb")
    out = b"".join(lines.feed(data[i : i + step]) for i in range(0, len(data), step))
    assert out == b"zdb: one\nzdb: two\nzdb: three\nzdb: four\n"
    assert lines.end() == b"zdb: fi\n"
    assert lines.end() == b""


def test_a_line_without_end_is_cut() -> None:
    lines = Lines("zdb")
    assert lines.feed(b"x" * (MAX_LINE_BYTES + 1)).endswith(b"x\n")
    assert lines.end() == b""


def test_bytes_that_are_no_text_pass() -> None:
    assert Lines("zdb").feed(b"a \xff b\n") == b"zdb: a \xff b\n"


def test_what_is_left_out() -> None:
    assert (
        Lines("zstor", without=b": DEBUG ").feed(b"t: DEBUG x\nt: INFO y\n")
        == b"zstor: t: INFO y\n"
    )


def test_secrets_are_hidden() -> None:
    log.register_secret("a-password-of-zstor")
    try:
        out = Lines("zstor").feed(b"cannot open a-password-of-zstor@backend\n")
    finally:
        log._secrets.clear()
    assert out == b"zstor: cannot open ***@backend\n"


@pytest.fixture
def stream() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_the_pump(tmp_path: Path, stream: tuple[int, int]) -> None:
    """From FIFOs whose writers come and go, and from a file that is rolled; the last line too."""
    reading, writing = stream
    file = tmp_path / "zstor.log"
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "zdb").write_text("a plain file of an earlier life")
    pump = LogPump(tmp_path / "log", ("zdb", "hookd"), {"zstor": file}, writing)
    pump.start()
    for number in range(3):
        with open(tmp_path / "log" / "zdb", "wb") as out:
            out.write(b"life %d\n" % number)
    file.write_bytes(b"first\nsec")
    with open(tmp_path / "log" / "hookd", "wb") as out:
        out.write(b"no end of line")
    pump.say("a word")
    pump.finish()
    assert not pump.is_alive()
    lines = os.read(reading, 1 << 16).decode().splitlines()
    assert [line for line in lines if line.startswith("zdb")] == [
        f"zdb: life {n}" for n in range(3)
    ]
    assert {"zstor: first", "zstor: sec", "hookd: no end of line", "qsfs: a word"} <= set(lines)


def test_a_terminal(tmp_path: Path, stream: tuple[int, int]) -> None:
    """For programs that would keep their lines back; it outlives its writers, too."""
    reading, writing = stream
    pump = LogPump(tmp_path / "log", ("zdb",), output=writing, terminals=["zdb"])
    pump.start()
    for number in range(2):
        with open(tmp_path / "log" / "zdb", "wb", buffering=0) as out:
            assert out.isatty()
            out.write(b"life %d\n" % number)
    pump.finish()
    assert os.read(reading, 1 << 16) == b"zdb: life 0\nzdb: life 1\n"


def test_a_listener_has_heard_all_once_it_is_settled(tmp_path: Path) -> None:
    """Whatever the other services write meanwhile."""
    heard: list[bytes] = []
    nowhere = os.open(os.devnull, os.O_WRONLY)
    pump = LogPump(
        tmp_path / "log",
        ("fs", "zdb"),
        output=nowhere,
        terminals=["fs"],
        listeners={"fs": heard.append},
    )
    pump.start()
    chatter = threading.Event()

    def chat() -> None:
        with open(tmp_path / "log" / "zdb", "wb", buffering=0) as out:
            while not chatter.is_set():
                out.write(b"chatter\n" * 100)

    other = threading.Thread(target=chat)
    other.start()
    try:
        for number in range(3):
            with open(tmp_path / "log" / "fs", "wb", buffering=0) as out:
                out.write(b"one %d\n" % number)
            assert pump.settle()
            assert b"".join(heard).splitlines()[-1] == b"fs: one %d" % number
    finally:
        chatter.set()
        other.join()
        pump.finish()
    assert not pump.is_alive()
    assert not pump.settle(0.1)
    os.close(nowhere)


def test_all_is_heard_while_the_log_is_taken_slowly(
    tmp_path: Path, stream: tuple[int, int]
) -> None:
    """More than a terminal holds, and than one read of it gives: the last word counts."""
    reading, writing = stream
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    ended = threading.Event()

    def take() -> None:
        while not ended.wait(0.05):
            os.read(reading, 1024)

    heard: list[bytes] = []
    pump = LogPump(
        tmp_path / "log",
        ("fs",),
        output=writing,
        terminals=["fs"],
        listeners={"fs": heard.append},
    )
    pump.start()
    reader = threading.Thread(target=take)
    reader.start()
    try:
        with open(tmp_path / "log" / "fs", "wb", buffering=0) as out:
            for number in range(600):
                out.write(b"flushing block %060d\n" % number)
            out.write(b"the last word\n")
        assert pump.settle()
        assert b"".join(heard).splitlines()[-1] == b"fs: the last word"
    finally:
        ended.set()
        reader.join()
        pump.finish(0.1)


def test_what_never_ends_is_never_settled(tmp_path: Path) -> None:
    """Who writes on has not said its last word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    pump = LogPump(tmp_path, ("fs",), output=nowhere, listeners={"fs": lambda _: None})
    pump.start()
    with open(tmp_path / "fs", "wb") as out:
        writer = subprocess.Popen(["yes"], stdout=out)
    try:
        assert not pump.settle(0.5)
    finally:
        writer.kill()
        writer.wait()
    assert pump.settle()
    pump.finish()
    os.close(nowhere)


def test_a_log_that_is_not_taken(tmp_path: Path) -> None:
    """Holds up neither who says a word, nor a service that writes more than is kept, nor the end."""
    reading, writing = os.pipe()
    fill(writing)
    pump = LogPump(tmp_path / "log", ("zdb",), output=writing)
    pump.start()
    done = threading.Event()

    def work() -> None:
        pump.say("stop")
        with open(tmp_path / "log" / "zdb", "wb", buffering=0) as out:
            for _ in range(BACKLOG_BYTES // 1000 + 1000):
                out.write(b"x" * 999 + b"\n")
        pump.say("stopped")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    try:
        assert done.wait(20)
        began = time.monotonic()
        pump.finish(0.5)
        assert time.monotonic() - began < 5
        assert not pump.is_alive()
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_that_is_rolled(tmp_path: Path) -> None:
    path = tmp_path / "zstor.log"
    tail = Tail(path, Lines("zstor"))
    assert tail.read() == b""
    path.write_bytes(b"one\n")
    assert tail.read() == b"zstor: one\n"
    with path.open("ab") as file:
        file.write(b"two\n")
    path.rename(tmp_path / "zstor.1.log")
    path.write_bytes(b"three\n")
    assert tail.read() == b"zstor: two\nzstor: three\n"
    assert tail.read() == b""


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    """The services go on."""
    reading, writing = os.pipe()
    os.close(reading)
    pump = LogPump(tmp_path / "log", ("zdb",), output=writing)
    pump.start()
    pump.say("nobody hears")
    pump.finish()
    os.close(writing)
