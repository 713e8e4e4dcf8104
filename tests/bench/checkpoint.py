"""Checkpoints against the store's own time for the same files, through a real zdb's NSJUMP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hookd.demo.living_zdb import LivingZdb
from tests.bench.harness import Daemon, Line, running, shim

NAMESPACES = 3
VALUE_BYTES = 100_000
VALUES = 4
ROUNDS = 10

# What the store itself takes for the files and a manifest: the same module, nothing around it.
OWN_TIME = """
import anyio, sys, time
from pathlib import Path
from hookd.files import Roots
from hookd.stores.directory import DirectoryStore

async def main() -> None:
    base = Path(sys.argv[1])
    roots = Roots(base / "index", base / "data")
    store = DirectoryStore(base / "own-store")
    store.prepare()
    keys = [roots.key(path) for path in sys.argv[2:]]
    began = time.perf_counter()
    for key in keys:
        await store.put(key, roots.path(key), None)
        assert await store.stat(key) is not None
    await store.put_record("manifest", bytes(1000))
    print(time.perf_counter() - began)

anyio.run(main)
"""


def of_zdb(base: Path, tools: Path) -> list[Line]:
    """A checkpoint of an idle system, and of a small dirty one."""
    if shutil.which("zdb") is None:
        return [Line("checkpoint", "–", "3 x", None, "zdb is not on PATH")]
    daemon = Daemon(base)
    with running(daemon):
        environment = {**daemon.environment, "HOOKD_TIMEOUT_S": "20"}
        zdb = LivingZdb(base, hook=shim(), environment=environment)
        try:
            names = [f"ns{number}" for number in range(NAMESPACES)]
            for name in names:
                zdb.client.ask("NSNEW", name)
            ask(daemon)
            idle = [ask(daemon) for _ in range(ROUNDS)]
            dirty, own = [], []
            for number in range(ROUNDS):
                for name in names:
                    zdb.client.ask("SELECT", name)
                    for value in range(VALUES):
                        zdb.client.ask("SET", f"{number}-{value}", os.urandom(VALUE_BYTES))
                dirty.append(ask(daemon))
                files = [
                    str(root / name / f"{letter}{number}")
                    for name in names
                    for root, letter in ((daemon.data, "d"), (daemon.index, "i"))
                ]
                own.append(own_time(base, files))
        finally:
            zdb.close()
    own_s = statistics.median(own)
    count = NAMESPACES * 2
    return [
        _line("checkpoint, idle", statistics.median(idle), own_s, count),
        _line("checkpoint, small and dirty", statistics.median(dirty), own_s, count),
    ]


def ask(daemon: Daemon) -> float:
    """One checkpoint over the stats socket; seconds."""
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.stats_socket))
        client.sendall(b"checkpoint --json\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    seconds = time.perf_counter() - began
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    if not found["safe"]:
        raise SystemExit(f"bench: {found['problems']}")
    return seconds


def own_time(base: Path, files: list[str]) -> float:
    """Seconds that a folder store of its own takes for them, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", OWN_TIME, str(base), *files],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def _line(what: str, seconds: float, own_s: float, count: int) -> Line:
    ratio = seconds / own_s
    detail = f"{seconds * 1e3:.0f} ms; the folder itself {own_s * 1e3:.0f} ms for {count} files"
    return Line(what, f"{ratio:.2f} x", "<= 3 x", ratio <= 3, detail)
