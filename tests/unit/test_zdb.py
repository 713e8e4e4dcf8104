"""zdb: whether it still runs, what it still owes, who is on the way to our socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hookd import event as ev
from hookd import zdb
from hookd.zdb import ZdbLife, holds_lock, listens, runs, shims_alive

Z = "tcp://127.0.0.1:9900"


@contextlib.contextmanager
def listening(family: int, address: object, *, backlog: int = 8) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind(address)  # type: ignore[arg-type]
        server.listen(backlog)
        yield server


class TestListens:
    def test_nowhere(self, tmp_path: Path) -> None:
        """No address, nonsense, a port that nobody has, a path that is not there: nobody listens."""
        with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for address in (
            None, "", "x", "tcp://", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999",
            f"tcp://127.0.0.1:{port}", f"unix://{tmp_path}/zdb.sock", f"unix://{tmp_path}",
        ):  # fmt: skip
            assert not listens(address), address

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "", "*", "::", "[::]"])
    def test_tcp(self, host: str) -> None:
        """A listener is found under whatever zdb calls its address, without taking a connection."""
        with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
            assert listens(f"tcp://{host}:{server.getsockname()[1]}")

    def test_unix(self, tmp_path: Path) -> None:
        """Likewise a unix socket; a socket file that nobody serves is no listener."""
        path = tmp_path / "zdb.sock"
        with listening(socket.AF_UNIX, str(path)):
            assert listens(f"unix://{path}")
        assert path.exists()
        assert not listens(f"unix://{path}")

    def test_busy(self, tmp_path: Path) -> None:
        """A zdb that is frozen in a hook and accepts nobody is there all the same."""
        path = tmp_path / "zdb.sock"
        with listening(socket.AF_UNIX, str(path), backlog=0), contextlib.ExitStack() as stack:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(str(path))
            assert listens(f"unix://{path}")

    def test_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address that does not even refuse counts as busy."""

        def connect(*_: object, **__: object) -> None:
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", connect)
        assert listens(Z)


LOCK = """if True:
    import fcntl, sys
    file = open(sys.argv[1], "a")
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds a flock on `path`, as zdb does."""
    child = subprocess.Popen(
        [sys.executable, "-c", LOCK, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "locked\n"
        yield
        child.stdin.close()


class TestLock:
    @pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks")
    def test_another_process(self, tmp_path: Path) -> None:
        """zdb's flock is seen in either root, as long as it is held, and is not taken."""
        roots = [tmp_path / "index", tmp_path / "data"]
        for root in roots:
            root.mkdir()
        assert not holds_lock(roots)
        for root in roots:
            lock = root / ".lockfile"
            with locked(lock):
                assert holds_lock(roots)
                assert runs(ZdbLife(), roots)
            assert not holds_lock(roots)
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks")
    def test_another_device_number(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where stat and /proc/locks name the device differently (btrfs), who has the file open counts;
        an inode of that number on another file system does not.
        """
        lock = tmp_path / ".lockfile"
        monkeypatch.setattr(os, "major", lambda device: 0xFFF)
        with locked(lock):
            assert holds_lock([tmp_path])
            monkeypatch.setattr(zdb, "_has_open", lambda pid, path: False)
            assert not holds_lock([tmp_path])

    @pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks")
    def test_what_else_is_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only files of the lock's name are touched: another may be on a mount that hangs."""
        followed: list[str] = []
        real = Path.samefile

        def samefile(self: Path, other: Path) -> bool:
            followed.append(os.readlink(self))
            return real(self, other)

        monkeypatch.setattr(os, "major", lambda device: 0xFFF)
        monkeypatch.setattr(Path, "samefile", samefile)
        with locked(tmp_path / ".lockfile"):
            assert holds_lock([tmp_path])
        assert followed == [str(tmp_path / ".lockfile")]

    def test_other_files(self, tmp_path: Path) -> None:
        """A lock on another file, and a .lockfile that is none, are nobody's."""
        (tmp_path / "index").mkdir()
        (tmp_path / "data" / ".lockfile").mkdir(parents=True)
        (tmp_path / "index" / ".lockfile").touch()
        with locked(tmp_path / "other"):
            assert not holds_lock([tmp_path / "index", tmp_path / "data", tmp_path / "no"])


class TestNobodyCanTell:
    """Then zdb counts as running: a drain that took it for gone would end while it writes."""

    @staticmethod
    def locks(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
        """/proc/locks cannot be read."""
        real = Path.read_text

        def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
            if str(self) == "/proc/locks":
                raise error
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", read_text)

    def test_no_descriptor_for_the_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """But a system that has no such list has the listener alone."""
        (tmp_path / ".lockfile").touch()
        self.locks(monkeypatch, OSError(errno.EMFILE, "Too many open files"))
        assert runs(ZdbLife(), [tmp_path])
        assert zdb.lock_holders([tmp_path]) == []
        self.locks(monkeypatch, FileNotFoundError(errno.ENOENT, "No such file or directory"))
        assert not runs(ZdbLife(), [tmp_path])

    def test_a_root_that_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """EIO, ESTALE: its lock may be held."""
        real = Path.stat

        def stat(self: Path, **kwargs: Any) -> os.stat_result:
            if self.name == ".lockfile":
                raise OSError(errno.ESTALE, "Stale file handle")
            return real(self, **kwargs)

        monkeypatch.setattr(Path, "stat", stat)
        assert runs(ZdbLife(), [tmp_path])

    def test_no_descriptor_for_the_listener(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether anybody listens is not known."""

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "socket", refuse)
        assert listens("tcp://127.0.0.1:9")
        assert listens("unix:///no/such/zdb.sock")

    def test_no_descriptor_for_the_shims(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody may say that there is none."""

        def refuse(*args: Any, **kwargs: Any) -> str:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(Path, "read_text", refuse)
        with pytest.raises(OSError, match="open files"):
            shims_alive(tmp_path / "hook.sock")


class TestLife:
    def run_of(self, *namespaces: str) -> ZdbLife:
        """A zdb that has started with these namespaces."""
        life = ZdbLife()
        life.see(ev.NamespacesInit(zdb=Z, index="/i", data="/d"))
        life.see(ev.Ready(zdb=Z))
        for name in namespaces:
            life.see(ev.NamespaceCreated(zdb=Z, namespace=name))
        return life

    def closing(self, name: str) -> ev.Event:
        return ev.NamespaceClosing(zdb=Z, namespace=name, index="i", data="d", dirty=())

    def test_nothing_seen(self) -> None:
        """A daemon that never heard of a zdb is owed nothing."""
        assert ZdbLife().owes(["a", "b"]) == []

    def test_owes_what_is_on_disk(self) -> None:
        """Every namespace on disk owes its closing hook, until it has come."""
        life = self.run_of()
        assert life.owes(["b", "a"]) == ["a", "b"]
        life.see(ev.Closing(zdb=Z))
        life.see(self.closing("a"))
        assert life.owes(["a", "b"]) == ["b"]
        life.see(self.closing("b"))
        assert life.owes(["a", "b"]) == []

    @pytest.mark.parametrize(
        "event",
        [
            ev.Ready(zdb=Z),
            ev.DataJumped(zdb=Z, closed="a", opened="b"),
            ev.NamespaceUpdated(zdb=Z, namespace="a"),
            ev.Crashed(zdb=Z),
            ev.UnknownHook(zdb=Z, name="x", arguments=()),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_any_event_shows_a_run(self, event: ev.Event) -> None:
        """A daemon that was started after zdb learns of it by the first hook, whichever it is."""
        life = ZdbLife()
        life.see(event)
        assert life.owes(["a"]) == ["a"]

    def test_the_next_run(self) -> None:
        """A restart owes everything anew."""
        life = self.run_of()
        life.see(self.closing("a"))
        life.see(ev.NamespacesInit(zdb=Z, index="/i", data="/d"))
        assert life.owes(["a"]) == ["a"]
        assert not life.closing

    def test_made_again(self) -> None:
        """A namespace made after one of its name had closed owes its own closing."""
        life = self.run_of("a")
        life.see(self.closing("a"))
        life.see(ev.NamespaceCreated(zdb=Z, namespace="a"))
        assert life.owes(["a"]) == ["a"]

    def test_address(self) -> None:
        """The newest event's id is the address; a configured one stays."""
        life = ZdbLife()
        life.see(ev.Ready(zdb=Z))
        life.see(ev.Ready(zdb="tcp://127.0.0.1:1"))
        life.see(ev.Ready(zdb=""))
        assert life.address == "tcp://127.0.0.1:1"
        fixed = ZdbLife(address="unix:///run/zdb.sock")
        fixed.see(ev.Ready(zdb=Z))
        assert fixed.address == "unix:///run/zdb.sock"


@contextlib.contextmanager
def sleeping(path: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process of this name."""
    shutil.copy(shutil.which("sleep") or "/bin/sleep", path)
    child = subprocess.Popen([path, "60"], env=environment)
    with child:
        while Path(f"/proc/{child.pid}/comm").read_text().strip() != path.name[:15]:
            os.sched_yield()
        yield
        child.kill()


def test_shims_alive(tmp_path: Path) -> None:
    """Shims on their way to this socket are counted, also those that use the default; others not."""
    ours, other = tmp_path / "hook.sock", tmp_path / "other.sock"
    before = shims_alive(ours)
    with sleeping(tmp_path / "hookd-shim", {"HOOKD_SOCKET": str(ours), "A": "b"}):
        assert shims_alive(ours) == before + 1
        assert "60" in zdb.shims(ours).values()  # its first argument: the hook
        assert shims_alive(other) == before
    with sleeping(tmp_path / "hookd-shim", {}):
        assert shims_alive(ours) == before + 1
    with sleeping(tmp_path / "hookd-shim2", {"HOOKD_SOCKET": str(ours)}):
        assert shims_alive(ours) == before


@pytest.mark.parametrize("hook", ["namespaces-init", "ready", "missing-data"])
def test_shims_that_only_ask(tmp_path: Path, hook: str) -> None:
    """They announce nothing, and that of namespaces-init asks for ever: they are seen, not counted."""
    socket_path = tmp_path / "hook.sock"
    # sleep takes anything for a name as argv[0], nothing for an argument: a shell stands in
    shutil.copy("/bin/sh", tmp_path / "hookd-shim")
    (tmp_path / hook).write_text("echo ready; read line\n")
    before = shims_alive(socket_path)
    child = subprocess.Popen(
        [tmp_path / "hookd-shim", hook],
        env={"HOOKD_SOCKET": str(socket_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert zdb.shims(socket_path)[child.pid] == hook
        assert shims_alive(socket_path) == before
        child.kill()


class TestSpoolsElsewhere:
    """Folders that zdb was told and hookd was not."""

    @pytest.fixture
    def spool(self, tmp_path: Path) -> Path:
        (tmp_path / "spool").mkdir()
        return tmp_path / "spool"

    @pytest.mark.parametrize(
        ("told", "found"),
        [
            ("{tmp}/spool", None),
            ("{tmp}/x/../spool/", None),
            ("{tmp}/link", None),
            ("{tmp}/wrong", "{tmp}/wrong"),
            ("", "/var/lib/hookd/spool"),
            ("relative", None),
        ],
    )
    def test_of_a_shim(self, tmp_path: Path, spool: Path, told: str, found: str | None) -> None:
        """What one that lives was told, the default where it was told nothing."""
        (tmp_path / "link").symlink_to(spool)
        (tmp_path / "x").mkdir()
        ours = tmp_path / "hook.sock"
        environment = {"HOOKD_SOCKET": str(ours), "HOOKD_SPOOL": told.format(tmp=tmp_path)}
        with sleeping(tmp_path / "hookd-shim", environment):
            expected = set() if found is None else {found.format(tmp=tmp_path)}
            assert zdb.spools_elsewhere(ours, spool, ()) == expected

    def test_of_zdb(self, tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever holds zdb's lock, if what it has for a hook comes to us."""
        ours, root = tmp_path / "hook.sock", tmp_path / "index"
        root.mkdir()
        monkeypatch.setenv("HOOKD_SPOOL", str(tmp_path / "wrong"))
        with locked(root / ".lockfile"):
            assert zdb.spools_elsewhere(ours, spool, (root,)) == set()
        monkeypatch.setenv("HOOKD_SOCKET", str(ours))
        with locked(root / ".lockfile"):
            assert zdb.spools_elsewhere(ours, spool, (root,)) == {str(tmp_path / "wrong")}
            assert zdb.spools_elsewhere(tmp_path / "other.sock", spool, (root,)) == set()
        assert zdb.spools_elsewhere(ours, spool, (root,)) == set()


def test_shims_alive_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end, or are not ours to look at, are no error."""

    def read_text(_: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", read_text)
    assert zdb.shims_alive(tmp_path) == 0
