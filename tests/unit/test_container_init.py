"""The container's first process: what it makes of its services' states, with a zinit that is a fake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.container import init, layout
from hookd.container.flush import Flush
from hookd.container.loglines import LogPump
from hookd.container.zinit import Status, ZinitSilent
from hookd.errors import Exit
from tests.fakes.full_pipe import fill

KILLED = "Error(Signaled(Pid(7), SIGKILL, false))"


class Zinit:
    """Answers what it was told to."""

    def __init__(self) -> None:
        self.states = {name: Status(pid=0, state="Blocked") for name in layout.SERVICES}
        self.killed: list[str] = []
        self.silent = False

    def status(self, service: str) -> Status:
        if self.silent:
            raise ZinitSilent(f"zinit: status {service}: timed out")
        return self.states[service]

    def kill(self, service: str, signal: str) -> None:
        self.killed.append(f"{service} {signal}")

    def run(self, service: str, pid: int, state: str = "Running") -> None:
        self.states[service] = Status(pid=pid, state=state)


class Watched(init.Init):
    """An Init that is only asked to look."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.zinit = Zinit()
        super().__init__(layout.Settings(), None, self.said.append, lambda: "")
        self._zinit = self.zinit  # type: ignore[assignment]

    def look(self) -> list[str]:
        """What is said now."""
        before = len(self.said)
        self._watch_zdb()
        return self.said[before:]


def test_a_zdbfs_that_dies_is_told() -> None:
    """Once, with what is lost; one that ends by itself has written all."""
    watched = Watched()
    watched.zinit.run("zdb", 5)
    watched.zinit.run("fs", 7)
    assert watched.look() == []
    watched.zinit.run("fs", 0, KILLED)
    (line,) = watched.look()
    assert line.startswith(
        "zdbfs has died (SIGKILL): what it held, the writes of 10 s at most, is lost"
    )
    assert watched.look() == []
    watched.zinit.run("fs", 8)
    watched.look()
    watched.zinit.run("fs", 0, "Success")
    assert watched.look() == []


def test_a_zdb_that_dies_takes_zdbfs_with_it() -> None:
    watched = Watched()
    watched.zinit.run("zdb", 5)
    watched.zinit.run("fs", 7)
    watched.look()
    watched.zinit.run("zdb", 0, KILLED)
    assert watched.look() == ["zdb has died: zdbfs is started again with it"]
    assert watched.zinit.killed == ["fs SIGKILL"]


@pytest.mark.parametrize("code", [Exit.USAGE, Exit.CONFIG])
def test_a_hookd_that_its_configuration_ends_ends_the_container(code: Exit) -> None:
    """Before zdb is started, for then nothing will be; not later, when files are being written."""
    watched = Watched()
    assert not watched._refused()
    watched.zinit.run("hookd", 0, f"Error(Exited(Pid(9), {code}))")
    assert watched._refused()
    watched.zinit.silent = True
    assert not watched._refused()
    watched.zinit.silent = False
    watched.zinit.run("zdb", 5)
    watched.look()
    assert not watched._refused()


@pytest.mark.parametrize("code", [1, 69, 70, 75])
def test_any_other_end_of_hookd_does_not(code: int) -> None:
    watched = Watched()
    watched.zinit.run("hookd", 0, f"Error(Exited(Pid(9), {code}))")
    assert not watched._refused()


@pytest.fixture
def pump_of_a_stuck_log(tmp_path: Path) -> Iterator[tuple[LogPump, Flush]]:
    """Nobody takes what it writes."""
    reading, writing = os.pipe()
    fill(writing)
    flush = Flush(lambda line: pump.say(line))
    pump = LogPump(
        tmp_path, ("fs", "zinit"), output=writing, terminals=["fs"], listeners={"fs": flush.hear}
    )
    pump.start()
    yield pump, flush
    pump.finish(0.1)
    os.close(reading)  # whoever read it is gone, and the writer ends
    os.close(writing)


def test_a_log_that_nobody_takes(
    tmp_path: Path, pump_of_a_stuck_log: tuple[LogPump, Flush]
) -> None:
    """zdbfs's last words are heard all the same."""
    pump, flush = pump_of_a_stuck_log
    with open(tmp_path / "fs", "wb", buffering=0) as log:
        log.write(b"[+] cache: forcing cache flush\n" + b"[+] cache: a block\n" * 1000)
        assert init.unwritten(pump, flush) == ""
        log.write(b"[-] cache: could not write inode in the backend\n")
    assert init.unwritten(pump, flush).startswith("zdbfs could not write all it held")


def test_last_words_that_cannot_be_read_in_time(tmp_path: Path) -> None:
    """Whether it wrote all is not known, which is not "all"."""
    pump = LogPump(tmp_path, ("fs",), output=1)  # is not started: on a machine that swaps
    assert init.unwritten(pump, Flush(lambda line: None), within_s=0.1) == init.UNHEARD


def test_zinit_does_not_wait_for_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pump_of_a_stuck_log: tuple[LogPump, Flush],
) -> None:
    """Nobody may take the container's stdout, and zinit says a line for each service it stops."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "zinit").write_text("#!/bin/sh\nexec seq -f 'zinit: INFO %.0f' 200000 >&2\n")
    (programs / "zinit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(layout, "LOGS", tmp_path)
    process = Watched()._start_zinit()
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
