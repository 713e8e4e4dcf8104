"""What every bench needs: the C programs, a daemon on its own folders, and lines of a table."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Line:
    """One measured ratio or figure beside its goal."""

    what: str
    value: str
    goal: str
    held: bool | None
    detail: str = ""


def compiled(name: str, folder: Path) -> Path:
    """The C program `name`.c of this folder."""
    target = folder / name
    if not target.exists():
        cc = os.environ.get("CC", "cc")
        subprocess.run(
            [cc, "-O2", "-pthread", "-o", str(target), str(HERE / f"{name}.c")], check=True
        )
    return target


def shim() -> Path:
    """The installed hookd-shim."""
    found = shutil.which("hookd-shim", path=sysconfig.get_path("scripts")) or shutil.which(
        "hookd-shim"
    )
    if found is None:
        raise SystemExit("bench: hookd-shim is not installed; run it through `make bench`")
    return Path(found)


class Daemon:
    """A `hookd serve` on folders below `base`; `paused` takes events but stores nothing."""

    def __init__(self, base: Path, *, store: str = "", paused: bool = False) -> None:
        self.base = base
        self.index, self.data = base / "index", base / "data"
        self.socket, self.spool = base / "run/hook.sock", base / "spool"
        self.journal = base / "state/journal.db"
        self.stats_socket = base / "run/stats.sock"
        self.store = base / "store"
        for folder in (self.index, self.data, base / "state", base / "run", self.spool):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config = base / "hookd.toml"
        self.config.write_text(
            f'[zdb]\nindex = "{self.index}"\ndata = "{self.data}"\n'
            f'[hook]\nsocket = "{self.socket}"\nspool = "{self.spool}"\n'
            f'[stats]\nsocket = "{self.stats_socket}"\n'
            f'[journal]\npath = "{self.journal}"\n'
            + (store or f'[store]\nkind = "directory"\ndirectory.path = "{self.store}"\n')
        )
        self._paused = paused
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For shims of this daemon."""
        return {
            **os.environ,
            "HOOKD_SOCKET": str(self.socket),
            "HOOKD_SPOOL": str(self.spool),
        }

    def start(self) -> float:
        """Start it; returns the seconds until it answered: connections wait in the backlog before."""
        module = "tests.bench.paused" if self._paused else "hookd"
        began = time.perf_counter()
        with (self.base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "serve", "--config", str(self.config)],
                stderr=log,
                stdout=log,
            )
        while True:
            with contextlib.suppress(OSError, ValueError):
                if self.stats()["phase"] == "running" and self.socket.is_socket():
                    return time.perf_counter() - began
            if self._process.poll() is not None:
                raise SystemExit(f"bench: hookd did not start: {(self.base / 'log').read_text()}")
            time.sleep(0.005)

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def rss_mb(self) -> float:
        """Resident memory of the daemon in MB (10^6 bytes)."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        kib = next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))
        return int(kib) * 1024 / 1e6

    def cpu_s(self) -> float:
        """Processor time that the daemon has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stats(self) -> dict[str, Any]:
        """The answer of the stats socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.stats_socket))
            client.sendall(b"stats\n")
            found: dict[str, Any] = json.loads(b"".join(iter(lambda: client.recv(65536), b"")))
            return found

    def drain(self) -> int:
        """SIGTERM and wait; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(600)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Started here, gone afterwards."""
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()


def load(daemon: Daemon, tools: Path, *, threads: int, events: int, name: str) -> dict[str, float]:
    """Durable events from `threads` connections at once; seconds and latencies."""
    prefix = daemon.data / name
    prefix.mkdir(exist_ok=True)
    for number in range(events):
        (prefix / f"d{number}").touch()
    out = subprocess.run(
        [compiled("load", tools), str(daemon.socket), str(threads), str(events), str(prefix)],
        check=True,
        capture_output=True,
    )
    found: dict[str, float] = json.loads(out.stdout)
    return found
