"""A zinit that does not answer, or is dead: its services are stopped in order all the same.

The services here are real processes, the zinit is a fake.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.container import supervisor
from hookd.container.stop import Stop
from hookd.container.supervisor import SILENT_LIMIT_S, Supervisor
from hookd.container.zinit import Status, ZinitError, ZinitSilent
from hookd.errors import Exit

ROOTFS = Path(__file__).parents[2] / "rootfs"
CHAIN = ("zstor", "hookd", "zdb", "ns", "fs")
WITHIN_S = 60

PROGRAM = """
import signal, sys, time
name, log, code, takes = sys.argv[1:]
def say(what):
    with open(log, "a") as file: file.write(f"{name} {what}\\n")
def stop(*_):
    say("stops")
    time.sleep(float(takes))
    say("ends")
    sys.exit(int(code))
signal.signal(signal.SIGTERM, stop)
say("runs")
while True: time.sleep(60)
"""


class Silent:
    """A zinit that hangs, or is dead."""

    def status(self, service: str) -> Status:
        raise ZinitSilent(f"zinit: status {service}: timed out")

    def start(self, service: str) -> None:
        raise ZinitSilent(f"zinit: start {service}: timed out")

    def stop(self, service: str) -> None:
        raise ZinitSilent(f"zinit: stop {service}: timed out")

    def kill(self, service: str, signal: str) -> None:
        raise ZinitSilent(f"zinit: kill {service}: timed out")


class World:
    """Five processes, and a supervisor with them."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.events = folder / "events"
        self.events.touch()
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.ended: dict[int, int] = {}
        self.said: list[str] = []
        self.lives = False
        self.ends = 0
        self.now = 0.0
        self.codes: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in CHAIN:
            os.mkfifo(self.logs / name)
        self._readers = [os.open(self.logs / n, os.O_RDWR | os.O_NONBLOCK) for n in CHAIN]

    def spawn(self, name: str, takes_s: float = 0.1) -> None:
        count = self.events.read_text().count(f"{name} runs")
        words = [sys.executable, "-I", str(self.program), name, str(self.events)]
        with open(self.logs / name, "wb", buffering=0) as log:
            self._processes.append(
                subprocess.Popen(
                    [*words, str(self.codes.get(name, 0)), str(takes_s)],
                    stdout=log,
                    process_group=0,
                )
            )
        until(lambda: self.events.read_text().count(f"{name} runs") > count)

    def find(self, name: str) -> int:
        return supervisor.find(name, [os.getpid()], self.logs)

    def reap(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                self.ended[process.pid] = process.returncode

    def zinit_lives(self) -> bool:
        """As PID 1 asks: it reaps, and nothing else does."""
        self.reap()
        return self.lives

    def end_zinit(self) -> None:
        self.lives = False
        self.ends += 1

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.now += seconds

    def supervisor(self) -> Supervisor:
        return Supervisor(
            Silent(),
            lives=self.zinit_lives,
            end=self.end_zinit,
            find=self.find,
            spawn=self.spawn,
            ended=self.ended,
            seen=self.seen,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def stop(self, limit_s: float = 60.0) -> int:
        return Stop(
            self.supervisor(),
            say=self.said.append,
            limit_s=limit_s,
            is_ready=lambda: self.find("hookd") != 0,
            unmount=lambda: None,
            hurried=lambda: False,
            unwritten=lambda: "",
            clock=lambda: self.now,
            sleep=self.sleep,
        ).run()

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for reader in self._readers:
            os.close(reader)


def until(happens: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN_S
    while not happens():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


ORDER = [
    f"{name} {what}" for name in ("ns", "fs", "zdb", "hookd", "zstor") for what in ("stops", "ends")
]


def without_runs(world: World) -> list[str]:
    return [line for line in world.events.read_text().splitlines() if "runs" not in line]


def test_dead_zinit(world: World) -> None:
    """In order, each after the one before has ended; the exit code is that of hookd."""
    for name in CHAIN:
        world.spawn(name)
    assert world.stop() == Exit.OK
    assert without_runs(world) == ORDER


def test_one_that_is_just_ending(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not found any more, and its code is there a moment later: that is no loss."""
    world.spawn("zdb")
    asked = world.supervisor()
    assert asked.status("zdb").pid
    asked.stop("zdb")
    monkeypatch.setattr(asked, "_find", lambda name: 0)  # its files are closed already
    found = asked.status("zdb")
    assert (found.pid, found.state) == (0, "Success")


def test_dead_zinit_and_work_left(world: World) -> None:
    world.codes["hookd"] = Exit.TEMPFAIL
    for name in CHAIN:
        world.spawn(name)
    assert world.stop() == Exit.TEMPFAIL
    assert without_runs(world) == ORDER


def test_dead_zinit_and_no_hookd(world: World) -> None:
    """It is started to drain what zdb announces, since nobody else does."""
    for name in CHAIN:
        if name != "hookd":
            world.spawn(name)
    assert world.stop() == Exit.OK
    assert without_runs(world) == ORDER


@pytest.mark.parametrize("lost", ["fs", "zdb"])
def test_dead_zinit_and_one_that_is_nowhere(world: World, lost: str) -> None:
    """It ran, and how it ended nobody knows: the stop says so, and does not say that all is stored."""
    for name in CHAIN:
        if name != lost:
            world.spawn(name)
    world.seen[lost] = 1 << 30
    assert world.stop() == Exit.TEMPFAIL
    assert without_runs(world) == [line for line in ORDER if not line.startswith(f"{lost} ")]
    assert f"{lost} is not there any more, and how it ended nobody knows" in world.said


def test_one_that_zinit_knew_to_be_down_is_not_lost(world: World) -> None:
    world.seen["fs"] = 0
    assert world.supervisor().status("fs").state == "Unknown"


def test_dead_zinit_and_a_zdbfs_that_hangs(world: World) -> None:
    for name in CHAIN:
        world.spawn(name, takes_s=600 if name == "fs" else 0.1)
    assert world.stop(limit_s=1) == Exit.TEMPFAIL
    assert without_runs(world) == [line for line in ORDER if line != "fs ends"]


def test_zinit_that_hangs_is_ended(world: World) -> None:
    """Not at its first silence; after that its services are stopped without it."""
    world.lives = True
    for name in CHAIN:
        world.spawn(name)
    world.now = 100.0
    supervised = world.supervisor()
    with pytest.raises(ZinitSilent):
        supervised.stop("fs")
    assert world.ends == 0
    world.now += SILENT_LIMIT_S - 1
    assert supervised.status("fs").pid == world.find("fs")
    assert world.ends == 0
    world.now += 1
    status = supervised.status("fs")
    assert (world.ends, status.wanted) == (1, True)
    assert status.pid == world.find("fs")
    assert without_runs(world) == []
    assert "zinit has not answered" in world.said[0]


def test_silence_about_a_process_that_is_not_there(world: World) -> None:
    """zinit may be about to start it: nobody can say that it is down."""
    world.lives = True
    with pytest.raises(ZinitSilent):
        world.supervisor().status("fs")


def test_how_it_ended(world: World) -> None:
    """As zinit would say it."""
    supervised = world.supervisor()
    world.codes["zdb"] = 143
    world.spawn("zdb")
    world.spawn("fs")
    assert supervised.status("zdb").pid and supervised.status("fs").pid
    supervised.kill("fs", "SIGKILL")
    supervised.stop("zdb")
    until(lambda: not world.find("fs") and not world.find("zdb"))
    assert supervised.status("fs").signal == "SIGKILL"
    assert supervised.status("zdb").exit_code == 143
    assert supervised.status("zstor").exit_code is None


def test_who_is_found(world: World, tmp_path: Path) -> None:
    """Not a child of a service, nor one that has the log but is no head of a group, nor a shim."""
    assert world.find("zdb") == 0
    script = tmp_path / "hookd-shim"
    script.symlink_to("/bin/sleep")
    with open(world.logs / "zdb", "wb", buffering=0) as log:
        others = [
            subprocess.Popen([script, "60"], stdout=log, process_group=0),
            subprocess.Popen(["sleep", "60"], stdout=log),
        ]
    try:
        until(lambda: all(Path(f"/proc/{o.pid}/comm").read_text() != "" for o in others))
        until(lambda: Path(f"/proc/{others[0].pid}/comm").read_text() == "hookd-shim\n")
        assert world.find("zdb") == 0
        assert supervisor.find("zdb", [1 << 30], world.logs) == 0
        world.spawn("zdb")
        assert world.find("zdb") not in (0, *(other.pid for other in others))
    finally:
        for other in others:
            other.send_signal(signal.SIGKILL)
            other.wait()


@pytest.mark.parametrize("name", CHAIN)
def test_every_service_file_has_a_command(name: str) -> None:
    words = supervisor.command_of((ROOTFS / "etc/zinit" / f"{name}.yaml").read_text())
    assert words[:2] == ["sh", "-c"]
    assert f"/run/qsfs/log/{name}" in words[2]


def test_a_service_file_without_a_command() -> None:
    with pytest.raises(ValueError, match="exec"):
        supervisor.command_of("test: true\n")
    with pytest.raises(ZinitError, match="cannot be started"):
        supervisor.spawn("no-such-service", {})


ORPHAN = """
import os, subprocess, sys
from hookd.container import init
init._adopt_orphans()
code = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3).pid, flush=True)"
orphan = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout)
with open(f"/proc/{orphan}/stat") as file:
    parent = int(file.read().rpartition(")")[2].split()[1])
os.kill(orphan, 9)
print(parent == os.getpid(), os.waitpid(orphan, 0)[1])
"""


def test_services_of_a_dead_zinit_are_ours_without_being_pid_1() -> None:
    """As with `docker run --init`: what zinit leaves comes to us, not to the init above."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True, timeout=WITHIN_S
    )
    assert done.stdout.split() == ["True", "9"]
