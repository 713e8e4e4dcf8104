"""Signals: none of those that stop hookd ends it by itself, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = """if True:
    import sys, threading, time
    import anyio
    from hookd.signals import Signals

    signals = Signals()
    print("caught", flush=True)
    {rest}
"""

BUSY = "sys.stdin.readline()"

TAKES = """
    sys.stdin.readline()
    signals.listen()
    async def main():
        while True:
            print(await signals.take(), flush=True)
    anyio.run(main)
"""

ENDS = """
    signals.end_with(7)
    print("tidying", flush=True)
    sys.stdin.readline()
"""


class Program:
    """One process with `Signals`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)


@contextmanager
def program(rest: str) -> Iterator[Program]:
    """It runs `rest` once it has said `caught`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(rest=rest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        found = Program(process)
        assert found.says() == "caught"
        yield found
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_anybody_listens(number: int) -> None:
    """The first one is kept, and taken once somebody does; later ones come as they do."""
    with program(TAKES) as found:
        found.send(number)
        found.go_on()
        assert found.says() == str(int(number))
        found.send(signal.SIGINT)
        assert found.says() == str(int(signal.SIGINT))
        found.send(signal.SIGHUP)
        assert found.says() == str(int(signal.SIGHUP))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_line(number: int) -> None:
    """Started with the signals blocked, one that comes before Python runs is kept like any other."""
    process = subprocess.Popen(
        ["env", "--block-signal", sys.executable, "-c", PROGRAM.format(rest=TAKES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        status = Path(f"/proc/{process.pid}/status")
        while "SigBlk:\t0000000000000000" in status.read_text():
            time.sleep(0.0005)  # env has not come so far
        found = Program(process)
        found.send(number)
        assert found.says() == "caught"
        found.go_on()
        assert found.says() == str(int(number))
        process.kill()


def test_nohup() -> None:
    """Whoever started it to outlive the terminal has asked for no SIGHUP; the others are as ever."""
    process = subprocess.Popen(
        ["env", "--ignore-signal=HUP", sys.executable, "-c", PROGRAM.format(rest=TAKES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        found = Program(process)
        assert found.says() == "caught"
        found.send(signal.SIGHUP)
        found.send(signal.SIGTERM)
        found.go_on()
        assert found.says() == str(int(signal.SIGTERM))
        process.kill()


def test_while_asleep() -> None:
    """Somebody who waits is woken, also by one that another thread of the process got."""
    with program(TAKES) as found:
        found.go_on()
        for _ in range(3):
            found.send(signal.SIGTERM)
            assert found.says() == str(int(signal.SIGTERM))


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,)])
def test_now_while_starting(numbers: tuple[int, ...]) -> None:
    """A second one, or one that asks for a new start, ends it there and then, and says so.

    (Two of the same kind that come at once are one to the kernel.)
    """
    with program(BUSY) as found:
        for number in numbers:
            found.send(number)
        assert found.process.wait(10) == 75
        assert found.process.stderr is not None
        assert "stopped while starting" in found.process.stderr.read()


def test_now_while_tidying() -> None:
    """With the outcome known any of them ends the process with it."""
    with program(ENDS) as found:
        assert found.says() == "tidying"
        found.send(signal.SIGTERM)
        assert found.process.wait(10) == 7
