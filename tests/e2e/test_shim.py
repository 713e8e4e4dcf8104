"""The shim, as zdb runs it, against a daemon that does as it is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.event import HOOKS, NEVER_SPOOLED
from hookd.wire import (
    ANSWER_SPOOL,
    Answer,
    Decoder,
    EventFrame,
    Heartbeat,
    decode_one,
    encode,
)

pytest_plugins = ["tests.shim_build"]

ZDB = "tcp://0.0.0.0:9900"
_EVENT_FILE = re.compile(r"[0-9]{20}-([0-9a-f]{32})\.event")

Step = Callable[[socket.socket], None]


def answer(code: int, text: str = "") -> Step:
    """Answer, and hang up."""
    return lambda connection: connection.sendall(encode(Answer(code, text)))


def send(*chunks: bytes) -> Step:
    """Send these bytes, each by itself, and hang up."""

    def step(connection: socket.socket) -> None:
        for chunk in chunks:
            connection.sendall(chunk)
            time.sleep(0.002)

    return step


def beat(times: int, every_s: float, then: Step) -> Step:
    """Send heartbeats, then go on."""

    def step(connection: socket.socket) -> None:
        for _ in range(times):
            connection.sendall(encode(Heartbeat()))
            time.sleep(every_s)
        then(connection)

    return step


def mute(connection: socket.socket) -> None:
    """Say nothing until the shim hangs up."""
    connection.recv(1)


def hang_up(connection: socket.socket) -> None:
    """Say nothing, and close."""


class FakeDaemon:
    """Takes an event per connection; the n-th is handled by the n-th step, the rest by the last."""

    def __init__(self, path: Path, *steps: Step) -> None:
        self.events: list[EventFrame] = []
        self.taken = threading.Event()
        self._steps = steps
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; whoever is connected is served first."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self._handle(connection)

    def _handle(self, connection: socket.socket) -> None:
        decoder = Decoder()
        while chunk := connection.recv(65536):
            for frame in decoder.feed(chunk):
                assert isinstance(frame, EventFrame)
                self.events.append(frame)
                self.taken.set()
                self._steps[min(len(self.events), len(self._steps)) - 1](connection)
                return


class Rig:
    """One folder with a socket path, a spool and zdb's working directory."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.shim = shim
        self.folder = folder
        self.socket = folder / "hook.sock"
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.environment = {
            "HOOKD_SOCKET": os.fspath(self.socket),
            "HOOKD_SPOOL": os.fspath(self.spool),
            "HOOKD_TIMEOUT_S": "5",
        }
        self._daemons: list[FakeDaemon] = []

    def daemon(self, *steps: Step) -> FakeDaemon:
        """Start a daemon on the socket."""
        daemon = FakeDaemon(self.socket, *steps)
        self._daemons.append(daemon)
        return daemon

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.close()

    def start(
        self, *argv: str | bytes, launcher: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[str]:
        """Run the shim, perhaps through a program that prepares its process and execs it."""
        return subprocess.Popen(
            [*launcher, self.shim, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment | environment,
        )

    def run(
        self, *argv: str | bytes, launcher: tuple[str, ...] = (), **environment: str
    ) -> tuple[int, str]:
        """Exit code and stderr of one call; nothing is ever written to stdout."""
        with self.start(*argv, launcher=launcher, **environment) as process:
            stdout, stderr = process.communicate(timeout=20)
        assert stdout == ""
        return process.returncode, stderr

    def spooled(self) -> list[EventFrame]:
        """The events of the spool, oldest first; that each is whole and private is checked."""
        events = []
        for path in sorted(self.spool.glob("*.event")):
            event = decode_one(path.read_bytes())
            assert isinstance(event, EventFrame)
            name = _EVENT_FILE.fullmatch(path.name)
            assert name is not None
            assert name[1] == event.event_id.hex()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            events.append(event)
        return events

    def leftovers(self) -> list[str]:
        """What else lies in the spool."""
        return [name for name in os.listdir(self.spool) if not _EVENT_FILE.fullmatch(name)]


@pytest.fixture
def rig(shim: Path, tmp_path: Path) -> Iterator[Rig]:
    """The shim as it is shipped, with no daemon yet."""
    with contextlib.closing(Rig(shim, tmp_path)) as rig:
        yield rig


@pytest.fixture
def hasty(rig: Rig) -> Rig:
    """A shim that soon gives up; where an answer comes, patience costs nothing."""
    rig.environment |= {"HOOKD_TIMEOUT_S": "0.05", "HOOKD_WAIT_S": "0.15"}
    return rig


@pytest.fixture
def faulty_rig(faulty_shim: Path, tmp_path: Path) -> Iterator[Rig]:
    """The shim that kills itself where it is told to."""
    with contextlib.closing(Rig(faulty_shim, tmp_path)) as rig:
        yield rig


@contextlib.contextmanager
def tmpfs(folder: Path, option: str) -> Iterator[None]:
    """A small file system of its own over `folder`; skips the test where that is not allowed."""
    mount = ("mount", "-t", "tmpfs", "-o", option, "tmpfs", os.fspath(folder))
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def python(code: str) -> tuple[str, ...]:
    """A launcher: run `code`, then exec what follows."""
    imports = "import fcntl, os, resource, signal, sys"
    return sys.executable, "-S", "-c", f"{imports}\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"


class TestAnswers:
    @pytest.mark.parametrize("code", [0, 1, 2, 75, 111, 253])
    @pytest.mark.parametrize("hook", ["jump-index", "namespaces-init", "later-than-this"])
    def test_exit_code(self, rig: Rig, hook: str, code: int) -> None:
        """The daemon's code is the exit code, whatever the hook."""
        daemon = rig.daemon(answer(code))
        assert rig.run(hook, ZDB) == (code, "")
        assert len(daemon.events) == 1
        assert rig.spooled() == []

    def test_event(self, rig: Rig) -> None:
        """The daemon gets the arguments without the shim's own name, zdb's folder, the time-out."""
        daemon = rig.daemon(answer(0))
        assert rig.run("jump-index", ZDB, "i/ns/i3", "i/ns/i4", "", HOOKD_TIMEOUT_S="1.5")[0] == 0
        (event,) = daemon.events
        assert event.argv == ("jump-index", ZDB, "i/ns/i3", "i/ns/i4", "")
        assert event.cwd == os.fspath(rig.folder)
        assert event.timeout_ms == 1500

    def test_any_bytes(self, rig: Rig) -> None:
        """An argument need not be UTF-8."""
        daemon = rig.daemon(answer(0))
        assert rig.run("missing-data", ZDB, b"/d/\xff\xfe\n/d0")[0] == 0
        assert os.fsencode(daemon.events[0].argv[2]) == b"/d/\xff\xfe\n/d0"

    def test_long_argument(self, rig: Rig) -> None:
        """A list of dirty files as long as the kernel lets through arrives whole, or is spooled."""
        ids = " ".join(str(n) for n in range(20_000))
        daemon = rig.daemon(answer(0), answer(ANSWER_SPOOL))
        for code in (0, 1):
            assert rig.run("jump-index", ZDB, "i3", "i4", ids)[0] == code
        assert [event.argv[4] for event in daemon.events] == [ids, ids]
        assert [event.argv[4] for event in rig.spooled()] == [ids]

    def test_text(self, rig: Rig) -> None:
        """The text becomes one line, whatever is in it."""
        rig.daemon(answer(1, "no\nsuch\x1b[31m fïle"), answer(0, "x" * 4096))
        assert rig.run("ready", ZDB) == (1, "hookd-shim: no such [31m fïle\n")
        assert rig.run("ready", ZDB) == (0, f"hookd-shim: {'x' * 4096}\n")

    def test_in_pieces(self, rig: Rig) -> None:
        """Heartbeats and the answer may come in any pieces."""
        stream = encode(Heartbeat()) + encode(Answer(3, "so"))
        rig.daemon(
            send(stream),
            send(*(stream[at : at + 1] for at in range(len(stream)))),
            send(stream[:20], stream[20:]),
        )
        for _ in range(3):
            assert rig.run("ready", ZDB) == (3, "hookd-shim: so\n")

    def test_heartbeats(self, rig: Rig) -> None:
        """As long as heartbeats come, the shim waits, far beyond its time-out."""
        daemon = rig.daemon(beat(6, 0.15, then=answer(0)))
        assert rig.run("jump-index", ZDB, "a", "b", "", HOOKD_TIMEOUT_S="0.4") == (0, "")
        assert len(daemon.events) == 1

    def test_answer_before_all_was_read(self, rig: Rig) -> None:
        """A daemon that refuses and hangs up early is heard all the same."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(rig.socket))
            listener.listen()
            with rig.start("jump-data", ZDB, "x" * 100_000, "y" * 100_000, "z" * 100_000) as shim:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(encode(Answer(1, "not you")))
                assert shim.communicate(timeout=10) == ("", "hookd-shim: not you\n")
            assert shim.returncode == 1
        assert rig.spooled() == []


class TestNoDaemon:
    @pytest.mark.parametrize("hook", [*sorted(set(HOOKS) - NEVER_SPOOLED), "later-than-this"])
    @pytest.mark.parametrize("step", [None, mute, hang_up], ids=["absent", "mute", "hangs up"])
    def test_spooled(self, hasty: Rig, hook: str, step: Step | None) -> None:
        """Away or mute for the time-out: the event is in the spool; jump-index fails as well."""
        daemon = hasty.daemon(step) if step else None
        started = time.monotonic()
        code, stderr = hasty.run(hook, ZDB, "a", "b", "0 4", "c")
        assert 0.04 < time.monotonic() - started < 2
        assert code == (1 if hook == "jump-index" else 0)
        assert stderr.startswith(f"hookd-shim: {hook}: spooled")
        (event,) = hasty.spooled()
        assert event.argv == (hook, ZDB, "a", "b", "0 4", "c")
        assert hasty.leftovers() == []
        if daemon:
            assert {seen.event_id for seen in daemon.events} <= {event.event_id}

    @pytest.mark.parametrize("hook", ["ready", "missing-data"])
    @pytest.mark.parametrize(
        "step",
        [None, mute, hang_up, answer(ANSWER_SPOOL)],
        ids=["absent", "mute", "hangs up", "254"],
    )
    def test_waits_then_fails(self, hasty: Rig, hook: str, step: Step | None) -> None:
        """What only the daemon can answer is tried for HOOKD_WAIT_S, then fails; never spooled."""
        if step:
            hasty.daemon(step)
        started = time.monotonic()
        code, stderr = hasty.run(hook, ZDB, "/d/ns/d0")
        assert 0.14 < time.monotonic() - started < 2
        assert code == 111
        assert stderr.startswith(f"hookd-shim: {hook}: failed")
        assert os.listdir(hasty.spool) == []

    @pytest.mark.parametrize("hook", sorted(NEVER_SPOOLED))
    @pytest.mark.parametrize(
        "step",
        [None, mute, hang_up, answer(ANSWER_SPOOL)],
        ids=["absent", "mute", "hangs up", "254"],
    )
    def test_waits_for_the_daemon(self, hasty: Rig, hook: str, step: Step | None) -> None:
        """It is answered when the daemon comes, with the id it had from the start."""
        wait_s = "0.1" if hook == "namespaces-init" else "30"
        early = FakeDaemon(hasty.socket, step) if step else None
        with hasty.start(hook, ZDB, "/d/ns/d0", HOOKD_WAIT_S=wait_s) as shim:
            time.sleep(0.2)
            if early:
                early.close()
                hasty.socket.unlink()
            late = hasty.daemon(answer(7))
            assert shim.communicate(timeout=10) == ("", "")
        assert shim.returncode == 7
        events = late.events + (early.events if early else [])
        assert len({event.event_id for event in events}) == 1
        assert os.listdir(hasty.spool) == []

    def test_restart(self, hasty: Rig) -> None:
        """A daemon that dies over an event gets it again, under the same id, from where it is."""
        daemon = hasty.daemon(hang_up, send(encode(Heartbeat())), send(b"HKD"), answer(0))
        assert hasty.run("jump-index", ZDB, "a", "b", "", HOOKD_TIMEOUT_S="5") == (0, "")
        assert len(daemon.events) == 4
        assert len(set(daemon.events)) == 1
        assert hasty.spooled() == []

    def test_spool_it_yourself(self, hasty: Rig) -> None:
        """254: spooled at once, without waiting for any time-out."""
        hasty.daemon(answer(ANSWER_SPOOL, "the disk is full"), answer(ANSWER_SPOOL))
        started = time.monotonic()
        code, stderr = hasty.run("jump-data", ZDB, "a", "b", HOOKD_TIMEOUT_S="30")
        assert (code, "the disk is full" in stderr) == (0, True)
        code, stderr = hasty.run("jump-index", ZDB, "a", "b", "", HOOKD_TIMEOUT_S="30")
        assert (code, "cannot commit" in stderr) == (1, True)
        assert time.monotonic() - started < 5
        assert [event.argv[0] for event in hasty.spooled()] == ["jump-data", "jump-index"]

    @pytest.mark.parametrize(
        "reply",
        [
            b"-ERR unknown command\r\n",
            encode(EventFrame(bytes(16), ("ready",), "", 1)),
            encode(Answer(0))[:-1] + b"\x01",
            b"HKD\x01\x03\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00",
            b"HKD\x02" + encode(Answer(0))[4:],
        ],
        ids=["a zdb", "an event", "checksum", "4 GiB", "version 2"],
    )
    def test_stranger_on_the_socket(self, hasty: Rig, reply: bytes) -> None:
        """What is no frame is no answer and no sign of life."""
        hasty.daemon(send(reply))
        assert hasty.run("jump-data", ZDB, "a", "b")[0] == 0
        assert len(hasty.spooled()) == 1

    def test_stranger_who_keeps_talking(self, hasty: Rig) -> None:
        """A trickle of bytes that never become a frame does not hold zdb."""
        hasty.daemon(send(*([b"\x00"] * 1000)))
        assert hasty.run("jump-index", ZDB, "a", "b", "")[0] == 1
        assert len(hasty.spooled()) == 1

    def test_full_backlog(self, hasty: Rig) -> None:
        """A daemon that accepts nothing is as good as away, however full its backlog."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(hasty.socket))
            listener.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(os.fspath(hasty.socket))
            assert hasty.run("jump-data", ZDB, "a", "b")[0] == 0
        assert len(hasty.spooled()) == 1

    def test_default_time_out(self, hasty: Rig) -> None:
        """Without HOOKD_TIMEOUT_S the daemon is told of 5 s."""
        del hasty.environment["HOOKD_TIMEOUT_S"]
        daemon = hasty.daemon(answer(0))
        assert hasty.run("close", ZDB) == (0, "")
        assert daemon.events[0].timeout_ms == 5000


class TestSpool:
    def test_order(self, hasty: Rig) -> None:
        """Names sort as the events happened."""
        for number in range(5):
            assert hasty.run("jump-data", ZDB, str(number), HOOKD_TIMEOUT_S="0.01")[0] == 0
        assert [event.argv[2] for event in hasty.spooled()] == list("01234")

    def test_absent_folder(self, hasty: Rig) -> None:
        """It is made, for its owner only."""
        hasty.spool.rmdir()
        assert hasty.run("jump-data", ZDB)[0] == 0
        assert stat.S_IMODE(hasty.spool.stat().st_mode) == 0o700
        assert len(hasty.spooled()) == 1

    @pytest.mark.parametrize("hook", ["jump-data", "jump-index"])
    def test_absent_parent(self, hasty: Rig, hook: str) -> None:
        """Neither daemon nor spool: 111, and a line that names folder and reason."""
        code, stderr = hasty.run(hook, ZDB, HOOKD_SPOOL="/nowhere/spool")
        assert code == 111
        assert stderr == (
            "hookd-shim: cannot spool into /nowhere/spool: No such file or directory (errno 2)\n"
        )

    def test_no_folder(self, hasty: Rig) -> None:
        """A file in the place of the folder is no spool."""
        code, stderr = hasty.run("jump-data", ZDB, HOOKD_SPOOL="/dev/null")
        assert (code, "Not a directory" in stderr) == (111, True)

    def test_read_only_folder(self, hasty: Rig) -> None:
        """A folder that takes nothing is an error, not an acknowledgement."""
        with contextlib.ExitStack() as stack:
            if os.geteuid() == 0:  # whom no mode stops
                stack.enter_context(tmpfs(hasty.spool, "ro"))
            else:
                hasty.spool.chmod(0o500)
            code, stderr = hasty.run("jump-data", ZDB)
        assert code == 111
        assert re.search(r"Permission denied|Read-only file system", stderr)
        assert os.listdir(hasty.spool) == []

    def test_full_disk(self, hasty: Rig) -> None:
        """An event that does not fit leaves nothing behind."""
        with tmpfs(hasty.spool, "size=64k"):
            code, stderr = hasty.run("jump-index", ZDB, "a", "b", "0 " * 50_000)
            assert (code, "No space left on device" in stderr) == (111, True)
            assert os.listdir(hasty.spool) == []
            assert hasty.run("jump-index", ZDB, "a", "b", "0")[0] == 1
            assert len(hasty.spooled()) == 1

    def test_file_size_limit(self, hasty: Rig) -> None:
        """A limit that would end others by SIGXFSZ is an error here."""
        limit = python("resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))")
        code, stderr = hasty.run("jump-index", ZDB, "a", "b", "0 " * 5000, launcher=limit)
        assert (code, "File too large" in stderr) == (111, True)
        assert os.listdir(hasty.spool) == []


EVERY_SIGNAL = set(range(1, 65))
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
CRASHES |= {signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
SPARED = {signal.SIGKILL, signal.SIGSTOP}


def blocked_signals(pid: int) -> set[int]:
    """As the kernel has them, which knows of more than libc tells."""
    found = re.search(r"SigBlk:\t([0-9a-f]+)\n", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return {number for number in EVERY_SIGNAL if int(found[1], 16) >> (number - 1) & 1}


class TestGoodChild:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE"])
    @pytest.mark.parametrize("blocked", [False, True], ids=["", "blocked"])
    def test_signals(self, rig: Rig, name: str, blocked: bool) -> None:
        """No signal ends it or changes what it answers, blocked by zdb or not."""
        number = signal.Signals[name]
        block = python(f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])")
        daemon = rig.daemon(beat(3, 0.05, then=answer(9)))
        with rig.start("close", ZDB, launcher=block if blocked else ()) as shim:
            assert daemon.taken.wait(10)
            assert blocked_signals(shim.pid) == EVERY_SIGNAL - CRASHES - SPARED
            shim.send_signal(number)
            assert shim.wait(10) == 9

    def test_every_signal(self, rig: Rig) -> None:
        """All that can be caught are blocked, also 32 and 33, which libc hides; a crash is a failure."""
        daemon = rig.daemon(beat(6, 0.05, then=answer(9)))
        with rig.start("close", ZDB) as shim:
            assert daemon.taken.wait(10)
            for number in EVERY_SIGNAL - CRASHES - SPARED:
                shim.send_signal(number)
            assert shim.wait(10) == 9
        daemon.taken.clear()
        with rig.start("close", ZDB) as shim:
            assert daemon.taken.wait(10)
            shim.send_signal(signal.SIGSEGV)
            assert shim.wait(10) == 111

    def test_signal_while_spooling(self, hasty: Rig) -> None:
        """SIGTERM while there is no daemon: the event is spooled all the same."""
        with hasty.start("namespace-closing", ZDB, "ns", "i0", "d0", "") as shim:
            for _ in range(3):
                time.sleep(0.02)
                shim.terminate()
            assert shim.wait(10) == 0
        assert len(hasty.spooled()) == 1

    @pytest.mark.parametrize("build", ["shim", "old_kernel_shim"])
    def test_descriptors(
        self, rig: Rig, request: pytest.FixtureRequest, build: str, tmp_path: Path
    ) -> None:
        """zdb's listener, clients and locks are let go of, whatever their numbers."""
        rig.shim = request.getfixturevalue(build)
        daemon = rig.daemon(beat(3, 0.05, then=answer(0)))
        inherit = python(
            f"lock = os.open({os.fspath(tmp_path / 'lock')!r}, os.O_CREAT | os.O_RDWR)\n"
            "fcntl.flock(lock, fcntl.LOCK_EX)\n"
            "for number in (3, 10, 200):\n"
            "    os.dup2(lock, number, inheritable=True)"
        )
        with rig.start("ready", ZDB, launcher=inherit) as shim:
            assert daemon.taken.wait(10)
            targets = {
                name: os.readlink(f"/proc/{shim.pid}/fd/{name}")
                for name in os.listdir(f"/proc/{shim.pid}/fd")
            }
            assert shim.wait(10) == 0
        assert set(targets) == {"0", "1", "2", "3"}
        assert targets["3"].startswith("socket:")

    def test_session(self, rig: Rig) -> None:
        """It leaves zdb's session and group: a signal to that group does not reach it."""
        daemon = rig.daemon(beat(2, 0.05, then=answer(0)))
        with rig.start("ready", ZDB) as shim:
            assert daemon.taken.wait(10)
            assert os.getsid(shim.pid) == os.getpgid(shim.pid) == shim.pid
            assert shim.wait(10) == 0

    @pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
    def test_closed_standard_descriptors(self, rig: Rig, closed: tuple[int, ...]) -> None:
        """Messages never go where the socket or the spool file is."""
        daemon = rig.daemon(answer(5, "text"), hang_up)
        close = python(f"for number in {closed}: os.close(number)")
        line = "" if 2 in closed else "hookd-shim: text\n"
        assert rig.run("jump-data", ZDB, launcher=close) == (5, line)
        assert rig.run("jump-data", ZDB, launcher=close, HOOKD_TIMEOUT_S="0.1")[0] == 0
        assert len(rig.spooled()) == 1
        assert {event.argv for event in daemon.events} == {("jump-data", ZDB)}

    def test_stuck_stderr(self, hasty: Rig) -> None:
        """A log that nobody reads costs the line, not the event."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write_end, bytes(65536))
        os.set_blocking(write_end, True)
        try:
            run = subprocess.run(
                [hasty.shim, "jump-data", ZDB], stderr=write_end, env=hasty.environment, timeout=10
            )
        finally:
            os.close(read_end)
            os.close(write_end)
        assert run.returncode == 0
        assert len(hasty.spooled()) == 1

    def test_working_directory_gone(self, rig: Rig) -> None:
        """A folder that was removed is unknown, not an error."""
        daemon = rig.daemon(answer(0))
        leave = python("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')")
        assert rig.run("close", ZDB, launcher=leave) == (0, "")
        assert daemon.events[0].cwd == ""

    def test_stopped_meanwhile(self, rig: Rig) -> None:
        """An answer that came while the shim was stopped, beyond its time-out, counts."""
        daemon = rig.daemon(beat(1, 0.1, then=answer(6)))
        with rig.start("jump-index", ZDB, "a", "b", "", HOOKD_TIMEOUT_S="0.3") as shim:
            assert daemon.taken.wait(10)
            shim.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            shim.send_signal(signal.SIGCONT)
            assert shim.wait(10) == 6


class TestUsage:
    def test_version(self, shim: Path) -> None:
        """It says which wire format it speaks."""
        run = subprocess.run([shim, "--version"], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"hookd-shim [0-9.]+ \(wire 1\)\n", run.stdout)

    @pytest.mark.parametrize("argv", [(), ("",), ("--help",), ("-x", ZDB)])
    def test_usage(self, rig: Rig, argv: tuple[str, ...]) -> None:
        """No hook: one line, and the usual code."""
        code, stderr = rig.run(*argv)
        assert code == 100
        assert re.fullmatch(r"hookd-shim: usage: .*\n", stderr)
        assert os.listdir(rig.spool) == []

    def test_too_large(self, rig: Rig) -> None:
        """More than a frame holds, which zdb cannot send, is refused."""
        code, stderr = rig.run("jump-data", ZDB, *["x" * 120_000] * 9)
        assert code == 100
        assert "1048576" in stderr

    @pytest.mark.parametrize(
        ("text", "timeout_ms"),
        [
            ("2", 2000),
            ("0.25", 250),
            ("1.2345", 1234),
            ("3.", 3000),
            ("", 5000),
            ("4294967", 4294967000),
        ],
    )
    def test_numbers(self, rig: Rig, text: str, timeout_ms: int) -> None:
        """Seconds may have decimals; empty is not set."""
        daemon = rig.daemon(answer(0))
        assert rig.run("close", ZDB, HOOKD_TIMEOUT_S=text) == (0, "")
        assert daemon.events[0].timeout_ms == timeout_ms

    @pytest.mark.parametrize(
        "text", ["five", "-1", "5s", "1e3", "inf", ".5", "1,5", "4294968", "9" * 40, " 5"]
    )
    def test_typos(self, rig: Rig, text: str) -> None:
        """A number that is none: a line, and the default."""
        daemon = rig.daemon(answer(0))
        code, stderr = rig.run("close", ZDB, HOOKD_TIMEOUT_S=text)
        assert code == 0
        assert re.fullmatch(r"hookd-shim: HOOKD_TIMEOUT_S is '.*', expected .*: taking 5\n", stderr)
        assert daemon.events[0].timeout_ms == 5000

    def test_no_patience(self, rig: Rig) -> None:
        """HOOKD_TIMEOUT_S=0 asks once and does not wait."""
        assert rig.run("jump-data", ZDB, HOOKD_TIMEOUT_S="0")[0] == 0
        assert len(rig.spooled()) == 1

    @pytest.mark.parametrize(("hook", "code"), [("close", 0), ("jump-index", 1), ("ready", 111)])
    def test_long_socket_path(self, rig: Rig, hook: str, code: int) -> None:
        """A path that no address holds is no daemon; there is nothing to wait for."""
        started = time.monotonic()
        found, stderr = rig.run(
            hook, ZDB, HOOKD_SOCKET="/" + "x" * 108, HOOKD_TIMEOUT_S="30", HOOKD_WAIT_S="30"
        )
        assert (found, "109 bytes, expected at most 107" in stderr) == (code, True)
        assert time.monotonic() - started < 5
        assert len(rig.spooled()) == (0 if hook == "ready" else 1)

    def test_longest_socket_path(self, shim: Path, tmp_path: Path) -> None:
        """107 bytes are an address."""
        folder = tmp_path / ("f" * (107 - len(os.fspath(tmp_path)) - len("//hook.sock")))
        folder.mkdir()
        with contextlib.closing(Rig(shim, folder)) as rig:
            assert len(os.fspath(rig.socket)) == 107
            rig.daemon(answer(4))
            assert rig.run("close", ZDB) == (4, "")


def kill_at(rig: Rig, step: str, *, timeout_s: str) -> None:
    argv = ("jump-index", ZDB, "a", "b", "0 4")
    code, _ = rig.run(*argv, HOOKD_FAULT=step, HOOKD_TIMEOUT_S=timeout_s)
    assert code == -signal.SIGKILL


class TestFaults:
    @pytest.mark.parametrize("step", ["start", "framed", "connected", "sent", "answered"])
    def test_with_the_daemon(self, faulty_rig: Rig, step: str) -> None:
        """Killed before the spool is touched: the daemon has the event, or nobody has."""
        daemon = faulty_rig.daemon(answer(0))
        kill_at(faulty_rig, step, timeout_s="5")
        faulty_rig.close()
        assert len(daemon.events) == (step in ("sent", "answered"))
        assert os.listdir(faulty_rig.spool) == []

    @pytest.mark.parametrize(
        ("step", "events", "leftovers"),
        [
            ("spool-open", 0, 1),
            ("spool-written", 0, 1),
            ("spool-synced", 0, 1),
            ("spool-renamed", 1, 0),
            ("spooled", 1, 0),
        ],
    )
    def test_spooling(self, faulty_rig: Rig, step: str, events: int, leftovers: int) -> None:
        """Killed while spooling: a whole event, or a temporary file that says nothing."""
        kill_at(faulty_rig, step, timeout_s="0.02")
        assert len(faulty_rig.spooled()) == events
        names = faulty_rig.leftovers()
        assert len(names) == leftovers
        assert all(name.startswith(".tmp-") for name in names)

    def test_at_any_moment(self, rig: Rig) -> None:
        """Killed at random: never half an event under a final name."""
        for delay_ms in range(1, 16):
            with rig.start("jump-data", ZDB, "x" * 100_000, HOOKD_TIMEOUT_S="0.002") as shim:
                time.sleep(delay_ms / 2000)
                shim.kill()
        rig.spooled()
        assert all(name.startswith(".tmp-") for name in rig.leftovers())

    def test_not_in_the_shipped_build(self, hasty: Rig) -> None:
        """HOOKD_FAULT means nothing to what is installed."""
        for step in ("start", "framed", "spooled"):
            assert hasty.run("jump-data", ZDB, HOOKD_FAULT=step)[0] == 0
        assert len(hasty.spooled()) == 3
