"""A hook socket that was passed: the right one is taken, any other is refused in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from hookd.activation import hook_socket

CHILD = """if True:
    import os, socket, sys
    from pathlib import Path
    from hookd.activation import hook_socket
    from hookd.errors import UserError
    given = [int(fd) for fd in sys.argv[2].split(",") if fd]
    for fd in given:
        os.dup2(fd, fd + 100)
    for number, fd in enumerate(given):
        os.dup2(fd + 100, 3 + number)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)),
               "LISTEN_FDNAMES": "hookd.socket", "HOME": "/"}
    try:
        found = hook_socket(environ, Path(sys.argv[1]))
    except UserError as error:
        print(int(error.code), error)
        sys.exit()
    assert environ == {"HOME": "/"}
    assert not (given and os.get_inheritable(3))
    assert found is None or not found.getblocking()
    print(found and found.getsockname())
"""


def passed(path: Path, *sockets: socket.socket | int) -> str:
    """What a process says that was started with these for `path`."""
    fds = [each if isinstance(each, int) else each.fileno() for each in sockets]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, ",".join(map(str, fds))],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


def bound(path: Path, kind: int = socket.SOCK_STREAM, *, listening: bool = True) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(path))
    if listening:
        server.listen()
    return server


def test_the_right_one(tmp_path: Path) -> None:
    """It is taken, not blocking, not inherited further; the variables are gone."""
    path = tmp_path / "hook.sock"
    with bound(path) as server:
        assert passed(path, server) == str(path)


def test_through_a_link(tmp_path: Path) -> None:
    """/var/run is /run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with bound(tmp_path / "run" / "hook.sock") as server:
        assert passed(tmp_path / "link" / "hook.sock", server) == str(
            tmp_path / "run" / "hook.sock"
        )


def test_none(tmp_path: Path) -> None:
    """Without any, hookd makes its own."""
    assert passed(tmp_path / "hook.sock") == "None"
    assert hook_socket({}, tmp_path / "hook.sock") is None


def test_meant_for_another_process(tmp_path: Path) -> None:
    """The variables may have been inherited from a service that started us: not ours."""
    environ = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}
    assert hook_socket(environ, tmp_path / "hook.sock") is None
    assert environ == {}


def test_another_path(tmp_path: Path) -> None:
    """Shims would go elsewhere."""
    with bound(tmp_path / "other.sock") as server:
        answer = passed(tmp_path / "hook.sock", server)
    assert (
        answer.startswith("78 hook.socket: the passed socket is '")
        and "make the two equal" in answer
    )


def test_wrong_kinds(tmp_path: Path) -> None:
    """Datagrams, TCP, one that does not listen, a file."""
    path = tmp_path / "hook.sock"
    with bound(path, socket.SOCK_DGRAM, listening=False) as server:
        assert "is no unix stream socket" in passed(path, server)
    path.unlink()
    with bound(path, listening=False) as server:
        assert "does not listen" in passed(path, server)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "is no unix stream socket" in passed(path, server)
    with (tmp_path / "file").open("w") as file:
        assert "is no socket" in passed(path, file.fileno())


def test_two(tmp_path: Path) -> None:
    """Which of them shims use nobody could tell."""
    path = tmp_path / "hook.sock"
    with bound(path) as one, bound(tmp_path / "b") as other:
        assert "2 sockets were passed" in passed(path, one, other)


def test_removed(tmp_path: Path) -> None:
    """Its name is gone: no shim would ever come. A socket unit that is just ending does that, so the next
    start may find another one: 69, with which systemd starts hookd again.
    """
    path = tmp_path / "hook.sock"
    with bound(path) as server:
        path.unlink()
        answer = passed(path, server)
    assert answer.startswith("69 hook.socket: ") and "is not there any more" in answer


def test_replaced(tmp_path: Path) -> None:
    """Something else has its name, which no start will mend."""
    path = tmp_path / "hook.sock"
    with bound(path) as server:
        path.unlink()
        path.touch()
        answer = passed(path, server)
    assert answer.startswith("78 hook.socket: ") and "is no socket any more" in answer
