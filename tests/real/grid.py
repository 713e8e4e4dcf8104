"""A real zstor on four real zdbs, for tests: `with Grid(folder) as grid: ... grid.config`.

Everything listens on 127.0.0.1, on ports that were free a moment before. Programs come from PATH.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

BACKENDS = 4
PASSWORD = "grid-password-1f9c"
KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

DATA_FILE_BYTES = 32 << 20
"""Of a backend; a part of a file of 16 MiB has to fit in."""

_START_S = 20.0


def missing_programs(zstor: str) -> list[str]:
    """Which of the programs that a grid needs are not on PATH."""
    return [name for name in ("zdb", zstor) if shutil.which(name) is None]


class Grid:
    """Backends and zstor below `folder`; every part can be stopped, killed and started alone."""

    listen = "127.0.0.1"
    """What backends listen on; 127.0.0.1 has to reach them."""

    def __init__(self, folder: Path, *, zstor: str = "zstor", root: Path | None = None) -> None:
        self.folder = folder
        self.socket = folder / "zstor.sock"
        self.config = folder / "zstor.toml"
        self.secrets = (PASSWORD, KEY)
        self.program = zstor
        """zstor's executable."""
        self._root = root
        self._ports = _free_ports(BACKENDS)
        self._backends: list[subprocess.Popen[bytes] | None] = [None] * BACKENDS
        self._zstor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Grid:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for number in range(BACKENDS):
                self.start_backend(number)
                self._make_namespaces(number)
            self.config.write_text(self._toml())
            self.start_zstor()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started."""
        self.stop_zstor()
        for number in range(BACKENDS):
            self.stop_backend(number)

    def start_zstor(self) -> None:
        """Start it and wait for its socket."""
        self._zstor = self._spawn(
            "zstor",
            [self.program, "-c", str(self.config), "--log_file", str(self.folder / "zstor.log")],
            ["monitor"],
        )
        _until(lambda: self._connects(self._zstor), f"{self.program} listens")

    def stop_zstor(self, *, kill: bool = False) -> None:
        """SIGTERM, or SIGKILL; waits until it is gone."""
        _end(self._zstor, signal.SIGKILL if kill else signal.SIGTERM)
        self._zstor = None
        self.socket.unlink(missing_ok=True)

    def pause_zstor(self, *, resume: bool = False) -> None:
        """SIGSTOP: it takes connections (the kernel does) and answers none, until resumed."""
        assert self._zstor is not None
        self._zstor.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)

    def start_backend(self, number: int) -> None:
        """Start one zdb, with what it held before."""
        home = self.folder / f"zdb{number}"
        port = self._ports[number]
        process = self._spawn(
            f"zdb{number}",
            ["zdb", "--listen", self.listen, "--port", str(port)],
            ["--index", str(home / "index"), "--data", str(home / "data")],
            # zdb takes so much room for each file of each namespace at once
            ["--datasize", str(DATA_FILE_BYTES)],
        )
        self._backends[number] = process
        _until(lambda: _answers(process, port), f"zdb answers on port {port}")

    def stop_backend(self, number: int) -> None:
        """SIGTERM to one zdb; waits until it is gone."""
        _end(self._backends[number], signal.SIGTERM)
        self._backends[number] = None

    # -- inside --------------------------------------------------------------------------------

    def _spawn(
        self, name: str, command: list[str], *arguments: list[str]
    ) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.out", "ab") as output:
            return subprocess.Popen(
                [*command, *(word for group in arguments for word in group)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _connects(self, process: subprocess.Popen[bytes] | None) -> bool:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"zstor ended with {process.returncode}: see {self.folder}")
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def _make_namespaces(self, number: int) -> None:
        """A new namespace is in user mode, and only an empty one can change it."""
        for name, mode in (("data", "seq"), ("meta", "user")):
            for command in (
                ["NSNEW", name],
                ["NSSET", name, "mode", mode],
                ["NSSET", name, "password", PASSWORD],
                ["NSSET", name, "public", "0"],
            ):
                answer = _ask(self._ports[number], *command)
                if not answer.startswith(b"+"):
                    raise RuntimeError(f"{command}: {answer!r}")

    def _toml(self) -> str:
        lines = [
            "minimal_shards = 2",
            "expected_shards = 4",
            "redundant_groups = 0",
            "redundant_nodes = 0",
            f'socket = "{self.socket}"',
            f'pid_file = "{self.folder / "zstor.pid"}"',
        ]
        if self._root is not None:
            lines.append(f'root = "{self._root}"')
        lines += ["[encryption]", 'algorithm = "AES"', f'key = "{KEY}"']
        lines += ["[compression]", 'algorithm = "snappy"']
        lines += ["[meta]", 'type = "zdb"', "[meta.config]", 'prefix = "hookd-test"']
        lines += ["[meta.config.encryption]", 'algorithm = "AES"', f'key = "{KEY}"']
        for table, namespace in (("meta.config.backends", "meta"), ("groups.backends", "data")):
            if namespace == "data":
                lines.append("[[groups]]")
            for port in self._ports:
                lines += [
                    f"[[{table}]]",
                    f'address = "127.0.0.1:{port}"',
                    f'namespace = "{namespace}"',
                    f'password = "{PASSWORD}"',
                ]
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all held at once, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in held]
    for server in held:
        server.close()
    return ports


def _ask(port: int, *words: str) -> bytes:
    """One redis command to a zdb, the beginning of its answer."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request.encode())
        return client.recv(4096)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"zdb on port {port} ended with {process.returncode}")
    try:
        return _ask(port, "PING").startswith(b"+PONG")
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(happens: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_S
    while not happens():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_START_S:g} s: {what}")
        time.sleep(0.02)
