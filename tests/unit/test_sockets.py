"""Sockets: one daemon at a time, in a folder that only it can write to, and who is at the other end."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit, UserError
from hookd.sockets import Peer, allowed_uids, listen, lock_file, lock_folder, make_folder, peer_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")

HOLD = """if True:
    import sys
    from pathlib import Path
    from hookd.sockets import lock_file
    lock_file(Path(sys.argv[1]), "test")
    print("locked", flush=True)
    sys.stdin.read()
"""


class TestLock:
    def test_two_processes(self, tmp_path: Path) -> None:
        """The second is refused and told who is there; when that one is killed, it gets the lock."""
        path = tmp_path / "hook.sock.lock"
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == "locked\n"
            with pytest.raises(UserError, match=f"pid {child.pid}") as refused:
                lock_file(path, "hook.socket")
            assert refused.value.code is Exit.UNAVAILABLE
            assert "hook.socket" in str(refused.value)
            child.kill()
        handle = lock_file(path, "hook.socket")
        assert path.read_text() == f"{os.getpid()}\n"
        os.close(handle)

    def test_not_for_children(self, tmp_path: Path) -> None:
        """A program that the daemon starts does not keep the lock after it."""
        handle = lock_file(tmp_path / "lock", "test")
        assert not os.get_inheritable(handle)
        os.close(handle)

    def test_not_through_a_link(self, tmp_path: Path) -> None:
        """A link in the lock's place is not followed: what it points to stays as it was."""
        (tmp_path / "precious").write_text("content")
        (tmp_path / "lock").symlink_to(tmp_path / "precious")
        with pytest.raises(UserError) as refused:
            lock_file(tmp_path / "lock", "test")
        assert refused.value.code is Exit.CONFIG
        assert (tmp_path / "precious").read_text() == "content"

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        """Whatever prevents it is one line with the key, no traceback."""
        (tmp_path / "lock").mkdir()
        with pytest.raises(UserError, match=r"hook\.socket: .*lock: Is a directory"):
            lock_file(tmp_path / "lock", "hook.socket")


class TestLockedFolder:
    def test_two_owners(self, tmp_path: Path) -> None:
        """The second is refused in one line, also under another name of the folder; then it gets it."""
        folder, link = tmp_path / "a" / "spool", tmp_path / "link"
        handle = lock_folder(folder, "hook.spool")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.iterdir()) == []
        assert not os.get_inheritable(handle)
        link.symlink_to(folder)
        for name in (folder, link):
            with pytest.raises(
                UserError, match=f"hook.spool: another hookd uses {name}"
            ) as refused:
                lock_folder(name, "hook.spool")
            assert refused.value.code is Exit.UNAVAILABLE
        os.close(handle)
        os.close(lock_folder(link, "hook.spool"))

    def test_checked(self, tmp_path: Path) -> None:
        """As every folder of hookd's: nobody else may put things into it."""
        tmp_path.chmod(0o777)
        with pytest.raises(UserError, match="others can write"):
            lock_folder(tmp_path, "hook.spool")


class TestFolder:
    def test_made(self, tmp_path: Path) -> None:
        """A missing one is made with its parents, for us alone."""
        make_folder(tmp_path / "a" / "b", "test")
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700

    def test_made_is_there_after_a_power_cut(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new folder is an entry of its parent: each parent of a new one is synced, no other."""
        synced: list[Path] = []

        def fsync(handle: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))

        monkeypatch.setattr(os, "fsync", fsync)
        make_folder(tmp_path / "a" / "b", "test")
        assert sorted(synced) == [tmp_path, tmp_path / "a"]
        make_folder(tmp_path / "a" / "b", "test")
        assert len(synced) == 2

    @pytest.mark.parametrize("mode", [0o700, 0o755, 0o711])
    def test_found(self, tmp_path: Path, mode: int) -> None:
        """One that others can only read stays as it is."""
        tmp_path.chmod(mode)
        make_folder(tmp_path, "test")
        assert stat.S_IMODE(tmp_path.stat().st_mode) == mode

    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
    def test_writable_for_others(self, tmp_path: Path, mode: int) -> None:
        """One that others can write to is refused, sticky or not: they could put a socket there."""
        tmp_path.chmod(mode)
        with pytest.raises(UserError, match=f"mode {mode:04o}") as refused:
            make_folder(tmp_path, "hook.socket")
        assert refused.value.code is Exit.CONFIG

    @as_root
    def test_of_another_user(self, tmp_path: Path) -> None:
        """One that another user owns is refused."""
        os.chown(tmp_path, 12345, -1)
        with pytest.raises(UserError, match="belongs to user 12345, not to 0"):
            make_folder(tmp_path, "test")

    @as_root
    def test_root_is_another_user_too(self, tmp_path: Path) -> None:
        """Also for a daemon that is not root, in a folder of root's."""
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            if parent.owner() == "root" and stat.S_IMODE(parent.stat().st_mode) == 0o700:
                parent.chmod(0o711)
        os.seteuid(12345)
        try:
            with pytest.raises(UserError, match="belongs to user 0, not to 12345"):
                make_folder(tmp_path, "test")
        finally:
            os.seteuid(0)

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        """One line that names it."""
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(UserError, match="file"):
                make_folder(path, "test")


Serve = Callable[..., socket.socket]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`listen` with clean-up."""
    open_ones: list[socket.socket] = []

    def start(path: Path, *, mode: int = 0o600) -> socket.socket:
        server = listen(path, "hook.socket", mode=mode, backlog=8)
        open_ones.append(server)
        return server

    yield start
    for server in open_ones:
        server.close()


class TestListen:
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
    @pytest.mark.parametrize("umask", [0, 0o077])
    def test_mode(self, tmp_path: Path, serve: Serve, mode: int, umask: int) -> None:
        """The socket has its mode from bind on, whatever the umask, which is as before."""
        before = os.umask(umask)
        try:
            serve(tmp_path / "s", mode=mode)
            assert os.umask(umask) == umask
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode

    def test_not_blocking(self, tmp_path: Path, serve: Serve) -> None:
        """The event loop accepts on it, and no child inherits it."""
        server = serve(tmp_path / "s")
        with pytest.raises(BlockingIOError):
            server.accept()
        assert not os.get_inheritable(server.fileno())

    def test_replaces_a_stale_one(self, tmp_path: Path, serve: Serve) -> None:
        """The socket of a daemon that was killed is taken over: clients reach the new one."""
        serve(tmp_path / "s").close()
        server = serve(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            connection, _ = server.accept()
            connection.close()

    @pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
    def test_something_in_the_way(self, tmp_path: Path, serve: Serve, kind: str) -> None:
        """What is no socket is never removed."""
        path = tmp_path / "s"
        if kind == "file":
            path.write_text("precious")
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            serve(tmp_path / "real")
            path.symlink_to(tmp_path / "real")
        with pytest.raises(UserError, match="is no socket") as refused:
            serve(path)
        assert refused.value.code is Exit.CONFIG
        assert path.is_symlink() or path.exists()

    def test_path_too_long(self, tmp_path: Path, serve: Serve) -> None:
        """A path beyond the kernel's 107 bytes is one line."""
        with pytest.raises(UserError, match="too long"):
            serve(tmp_path / ("s" * 120))

    def test_writable_folder(self, tmp_path: Path, serve: Serve) -> None:
        """Nothing is bound where others could replace it."""
        tmp_path.chmod(0o777)
        with pytest.raises(UserError):
            serve(tmp_path / "s")
        assert list(tmp_path.iterdir()) == []


class TestPeer:
    def test_ourselves(self) -> None:
        """The kernel's word, not the client's."""
        one, other = socket.socketpair()
        with one, other:
            assert peer_of(one) == Peer(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid())

    @as_root
    def test_another_user(self, tmp_path: Path, serve: Serve) -> None:
        """Another user's connection shows that user."""
        server = serve(tmp_path / "s", mode=0o666)
        tmp_path.chmod(0o711)
        client = socket.socket(socket.AF_UNIX)
        with client:
            before = os.getcwd()
            os.chdir(tmp_path)
            os.seteuid(12345)
            try:
                client.connect("s")
            finally:
                os.seteuid(0)
                os.chdir(before)
            connection, _ = server.accept()
            with connection:
                assert peer_of(connection).uid == 12345

    def test_allowed(self) -> None:
        """Root and we ourselves always are; others by name or number; unknown names are an error."""
        assert allowed_uids(()) == {0, os.geteuid()}
        assert allowed_uids(["root", 12345]) == {0, os.geteuid(), 12345}
        with pytest.raises(UserError, match="nobody-has-this-name") as refused:
            allowed_uids(["nobody-has-this-name"])
        assert refused.value.code is Exit.CONFIG
