"""A real rclone that serves a folder, and a real `hookd mount` of it, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hookd.mount import endpoints, guard
from tests.fakes.between import Certificate

REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 60.0
USER = "storage-user"
PASSWORD = "correct horse battery"


def rclone() -> str | None:
    """The program: the one that the tests' requirements bring, else one on PATH."""
    return shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")


def missing() -> str:
    """Why no real mount can be made here; empty if one can."""
    if rclone() is None:
        return "no rclone on PATH"
    if not Path("/dev/fuse").exists():
        return "no /dev/fuse"
    if os.geteuid() != 0:
        return "mounting needs root here"
    if endpoints.fusermount() is None:
        return "no fusermount3 on PATH"
    return ""


class Server:
    """`rclone serve webdav` (or s3) of a folder, on a port of its own that it keeps over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: str = "webdav",
        password: str = PASSWORD,
        dir_cache_s: int = 0,
        certificate: Certificate | None = None,
        path: str = "",
    ) -> None:
        """`dir_cache_s`: 0 for tests that put files into the folder behind its back; it then lists the
        whole folder for every upload, which is all that a thousand uploads are about."""
        self.dir_cache_s = dir_cache_s
        self.certificate = certificate
        self.path = path
        """Below which it serves, `/remote.php/webdav`."""
        self.folder = folder
        self.kind = kind
        self.password = password
        self.log = folder.with_name(folder.name + ".log")
        folder.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}{self.path}"

    def start(self) -> None:
        """Serve, and wait until it takes connections."""
        program = rclone()
        assert program is not None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")}
        more = [f"--auth-key={USER},{self.password}"] if self.kind == "s3" else []
        if self.kind == "webdav":
            environment |= {"RCLONE_USER": USER, "RCLONE_PASS": self.password}
        if self.path:
            more.append(f"--baseurl={self.path}")
        if self.certificate is not None:
            more += [f"--cert={self.certificate.certificate}", f"--key={self.certificate.key}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "serve",
                    self.kind,
                    str(self.folder),
                    f"--addr=127.0.0.1:{self.port}",
                    f"--dir-cache-time={self.dir_cache_s}s",
                    *more,
                ],
                env=environment,
                stdout=log,
                stderr=log,
            )
        ends = time.monotonic() + WITHIN_S
        while True:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.connect(("127.0.0.1", self.port))
                return
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Take it away, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self, frozen: bool) -> None:
        """Let it answer nothing, or go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def change_password(self, password: str) -> None:
        """From now on only the new one is taken."""
        self.stop()
        self.password = password
        self.start()

    def files(self) -> dict[str, bytes]:
        """What lies there: relative path → content."""
        return contents(self.folder)


class HookdMount:
    """`hookd mount` in a folder of its own: the mount at `local`, everything else beside it."""

    def __init__(self, folder: Path, server: Server, **settings: object) -> None:
        """`settings` are keys of [mount]; None drops one."""
        self.folder = folder
        self.server = server
        self.local = folder / "local"
        self.log = folder / "mount.log"
        self.stats_socket = folder / "run" / "stats.sock"
        self.runtime = folder / "runtime"
        self.cache = folder / "cache"
        self.settings: dict[str, object] = {
            "cache": str(self.cache),
            "runtime": str(self.runtime),
            "probe_interval_s": 0.3,
            "probe_timeout_s": 1.0,
            "remote_wait_s": 2,
            "write_back_s": 1,
            **settings,
        }
        self.variables: dict[str, str] = {
            "REMOTE_PATH": "rshare:/" if server.kind == "webdav" else "rshare:bucket",
            "LOCAL_PATH": str(self.local),
            **remote_variables(server),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def point(self) -> Path:
        """Where the mount is."""
        name = self.settings.get("subdirectory")
        return self.local / str(name) if name else self.local

    @property
    def environment(self) -> dict[str, str]:
        """The seed's variables, and nothing of ours but where things lie."""
        program = rclone()
        assert program is not None
        drop = ("HOOKD_", "RCLONE_", "NOTIFY_")
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(drop)},
            "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
            "HOOKD_CONFIG": str(self._config()),
            **self.variables,
        }

    def _config(self) -> Path:
        path = self.folder / "hookd.toml"
        lines = ["[mount]"]
        lines += [f"{k} = {json.dumps(v)}" for k, v in self.settings.items() if v is not None]
        lines += ["[stats]", f"socket = {json.dumps(str(self.stats_socket))}"]
        path.write_text("\n".join(lines) + "\n")
        return path

    # -- the process -----------------------------------------------------------------------------

    def start(self, *arguments: str, wait: bool = True) -> None:
        """Start it; with `wait` until it says that it is ready."""
        began_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hookd", "mount", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=self.environment,
                cwd=REPOSITORY,
            )
        if wait:
            self.wait_for_line("hookd mount is ready", after=began_at)

    def refused(self, *, within_s: float = WITHIN_S) -> tuple[int, str]:
        """Start it where it must not come up: (exit code, its last line)."""
        self.start(wait=False)
        code = self.wait(within_s)
        return code, self.lines()[-1].removeprefix("hookd: ")

    def wait_for_line(self, text: str, *, after: int = 0, within_s: float = WITHIN_S) -> None:
        """Until the log says `text` beyond byte `after`."""
        self.until(
            lambda: text.encode() in self.log.read_bytes()[after:], within_s=within_s, alive=True
        )

    def until(
        self, holds: Callable[[], object], *, within_s: float = WITHIN_S, alive: bool = False
    ) -> None:
        """Until it holds."""
        ends = time.monotonic() + within_s
        while not holds():
            if alive:
                assert self.process is not None and self.process.poll() is None, (
                    self.log.read_text()
                )
            assert time.monotonic() < ends, self.log.read_text()[-5000:]
            time.sleep(0.02)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Until it has ended; returns its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log.read_text()[-5000:]) from None

    def stop(self, number: int = signal.SIGTERM, *, within_s: float = WITHIN_S) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait(within_s)

    def kill(self) -> None:
        """kill -9, hookd alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def rclone_pid(self) -> int | None:
        """The mounter of this mount."""
        for path in self.cache.glob("*/rclone.pid"):
            pid = int(path.read_text().split()[0])
            if is_rclone(pid):
                return pid
        return None

    def kill_rclone(self) -> None:
        """kill -9 the mounter."""
        pid = self.rclone_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind: no process, no mount."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if (pid := self.rclone_pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        points = [self.point, self.local, *self.runtime.glob("mount-*/private")]
        for point in points:
            while endpoints.top(point) is not None:
                endpoints.unmount(point, lazy=True)
            guard.lift(point)

    # -- what can be seen ------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """What it wrote."""
        return self.log.read_text().splitlines()

    def ask(self, line: str) -> str:
        """One question to the stats socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(str(self.stats_socket))
            client.sendall(line.encode() + b"\n")
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()

    def stats(self) -> dict[str, Any]:
        """The answer to `stats`."""
        found: dict[str, Any] = json.loads(self.ask("stats"))
        return found

    def until_stats(
        self, holds: Callable[[dict[str, Any]], object], within_s: float = 15.0
    ) -> None:
        """Until the stats say so."""
        self.until(lambda: holds(self.stats()), within_s=within_s, alive=True)

    def run(self, *arguments: str, within_s: float = WITHIN_S) -> subprocess.CompletedProcess[str]:
        """Another hookd command with the same environment."""
        return subprocess.run(
            [sys.executable, "-m", "hookd", *arguments],
            env=self.environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def write(self, count: int, *, size: int = 4096, prefix: str = "f") -> dict[str, bytes]:
        """Files through the mount, closed; name → content."""
        made = {f"{prefix}{number}": os.urandom(size) for number in range(count)}
        for name, content in made.items():
            (self.point / name).write_bytes(content)
        return made

    def layers(self) -> list[str]:
        """What is mounted at the mount point, from the bottom: guard, FUSE."""
        return [
            "guard" if each.source == guard.SOURCE else "fuse" if each.is_fuse else each.kind
            for each in endpoints.mounts_at(self.point)
        ]

    def mounted(self) -> bool:
        """Whether a FUSE mount lies at the mount point, alive or dead."""
        return endpoints.top(self.point) is not None


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → content of every file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_rclone(pid: int) -> bool:
    """Whether that process is an rclone that runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"rclone" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def remote_variables(server: Server, *, password: str | None = None) -> dict[str, str]:
    """The seed's variables for this server."""
    secret = server.password if password is None else password
    if server.kind == "s3":
        return {
            "RCLONE_CONFIG_RSHARE_TYPE": "s3",
            "RCLONE_CONFIG_RSHARE_PROVIDER": "Rclone",
            "RCLONE_CONFIG_RSHARE_ENDPOINT": server.url,
            "RCLONE_CONFIG_RSHARE_ACCESS_KEY_ID": USER,
            "RCLONE_CONFIG_RSHARE_SECRET_ACCESS_KEY": secret,
        }
    return {
        "RCLONE_CONFIG": "/srv/.rclone/rclone.conf",
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": server.url,
        "RCLONE_CONFIG_RSHARE_VENDOR": "other",
        "RCLONE_CONFIG_RSHARE_USER": USER,
        "RCLONE_CONFIG_RSHARE_PASS": secret,
    }
