"""Draining: into a folder against cp, and through a real zstor against its own blocking stores."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

from tests.bench.harness import Daemon, Line, running, shim
from tests.real.grid import Grid, missing_programs

FILES = 40
FILE_BYTES = 16 << 20
ZSTOR_FILES = 12


def into_folder(base: Path, tools: Path) -> list[Line]:
    """Announced files drained into a directory store, verified, against `cp` of the same files."""
    ratios: list[tuple[float, str]] = []
    for number in range(3):
        daemon = Daemon(base / f"round{number}")
        folder = _files(daemon, FILES)
        copied = base / f"copied{number}"
        copied.mkdir()
        os.sync()
        began = time.perf_counter()
        subprocess.run(["cp", "-r", str(folder), str(copied)], check=True)
        subprocess.run(["sync", "-f", str(copied)], check=True)
        cp_s = time.perf_counter() - began
        shutil.rmtree(copied)
        os.sync()
        drain_s = _drained(daemon, folder, FILES)
        size = FILES * FILE_BYTES / 1e6
        ratios.append(
            (cp_s / drain_s, f"{size / drain_s:.0f} MB/s against {size / cp_s:.0f} MB/s (cp, sync)")
        )
        shutil.rmtree(base / f"round{number}")
    ratio, detail = sorted(ratios)[1]
    return [Line("drain to a folder, × cp", f"{ratio:.2f}", "≥ 0.8", ratio >= 0.8, detail)]


def through_zstor(base: Path, tools: Path) -> list[Line]:
    """The same through a real zstor, against a bare loop of blocking stores on its socket."""
    if missing := missing_programs("zstor"):
        return [Line("drain through zstor", "not run", "≥ 0.95", None, f"no {missing[0]} on PATH")]
    with Grid(base / "grid") as grid:
        store = f'[store]\nkind = "zstor"\n[store.zstor]\nconfig = "{grid.config}"\n'
        bare = base / "bare"
        bare.mkdir()
        rounds: list[tuple[float, str]] = []
        for number in range(3):
            paths = [bare / f"r{number}d{each}" for each in range(ZSTOR_FILES)]
            for path in paths:
                path.write_bytes(os.urandom(FILE_BYTES))
            began = time.perf_counter()
            for path in paths:
                _blocking_store(grid.socket, path)
            bare_s = time.perf_counter() - began
            daemon = Daemon(base / f"daemon{number}", store=store)
            folder = _files(daemon, ZSTOR_FILES)
            drain_s = _drained(daemon, folder, ZSTOR_FILES)
            size = ZSTOR_FILES * FILE_BYTES / 1e6
            detail = f"{size / drain_s:.0f} MB/s against {size / bare_s:.0f} MB/s"
            rounds.append((bare_s / drain_s, detail))
    ratio, detail = sorted(rounds)[1]
    what = "drain through zstor, × its own stores"
    return [Line(what, f"{ratio:.2f}", "≥ 0.95", ratio >= 0.95, detail)]


def _files(daemon: Daemon, count: int) -> Path:
    """Sealed data files of a namespace, and the index files that seal them."""
    folder = daemon.data / "ns"
    folder.mkdir()
    for number in range(count):
        (folder / f"d{number}").write_bytes(os.urandom(FILE_BYTES))
    os.sync()
    return folder


def _drained(daemon: Daemon, folder: Path, count: int) -> float:
    """Seconds from the first announcement to the last file settled."""
    with running(daemon):
        began = time.perf_counter()
        for number in range(count):
            subprocess.run(
                [shim(), "jump-data", "tcp://127.0.0.1:1", f"{folder}/d{number}", f"{folder}/d"],
                check=True,
                env=daemon.environment,
            )
        while True:
            stats = daemon.stats()
            if stats["totals"]["settled_files"] >= count:
                took = time.perf_counter() - began
                break
            time.sleep(0.01)
        if daemon.drain() != 0:
            raise SystemExit("bench: the drain left files behind")
    return took


def _blocking_store(path: Path, file: Path) -> None:
    """One blocking store over zstor's socket (u16 length, bincode)."""
    name = os.fsencode(file)
    body = struct.pack("<IQ", 0, len(name)) + name + b"\x00\x00\x00\x01"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(struct.pack(">H", len(body)) + body)
        reply = b""
        while len(reply) < 6:
            part = client.recv(4096)
            if not part:
                break
            reply += part
        if reply[2:6] != b"\x00\x00\x00\x00":
            raise SystemExit(f"bench: zstor refused: {reply!r}")
