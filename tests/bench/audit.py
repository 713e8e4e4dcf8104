"""Audit of 100,000 files against a directory store: the one of the start, and one that is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path

from hookd.digest import digest_of
from hookd.files import FileKey, data_key, index_key
from hookd.journal import connect
from hookd.stores.directory import DirectoryStore
from tests.bench.harness import Daemon, Line, running

FILES = 100_000
NAMESPACES = 10
ENTRIES = 20
"""In each index file."""

GOAL_S = 60.0
GOAL_MB = 200.0

_INDEX = struct.Struct("<4sIQQIB")
_DATA = struct.Struct("<4sIQQI")
_ITEM = struct.Struct("<BIIIBIIIII")
VALUE_BYTES = 8


def of_many_files(base: Path, tools: Path) -> list[Line]:
    """Without deep. The first one of a store whose sums nobody knows reads every file there."""
    daemon = Daemon(base)
    _fill(daemon)
    with running(daemon):
        first_s = _audited(daemon, 1)
        began = time.perf_counter()
        number = json.loads(_ask(daemon, "audit"))["run"]
        _audited(daemon, 2)
        took_s = time.perf_counter() - began
        report = json.loads(_ask(daemon, f"audit-report {number}"))
        if report["state"] != "done" or report["wrong"] or report["files_done"] != FILES:
            raise SystemExit(f"bench: the audit went wrong: {json.dumps(report)[:500]}")
        peak = _peak_mb(daemon)
    what = f"audit of {FILES:,} files"
    return [
        Line(
            what,
            f"{took_s:.1f} s",
            f"≤ {GOAL_S:.0f} s",
            took_s <= GOAL_S,
            f"{FILES / took_s:,.0f} files/s; the first one {first_s:.1f} s",
        ),
        Line("… memory at most", f"{peak:.0f} MB", f"≤ {GOAL_MB:.0f} MB", peak <= GOAL_MB),
    ]


def _fill(daemon: Daemon) -> None:
    """zdb's files, the same in the store, and the ledger that says so."""
    store = DirectoryStore(daemon.store)
    store.prepare()
    for space in range(NAMESPACES):
        for root in (daemon.index, daemon.data, daemon.store / "index", daemon.store / "data"):
            (root / f"ns{space}").mkdir(parents=True, exist_ok=True, mode=0o700)
    rows = []
    each = FILES // NAMESPACES // 2
    value = b"v" * (18 + 8 + VALUE_BYTES)
    for space in range(NAMESPACES):
        for number in range(each):
            data = _DATA.pack(b"DAT0", 3, 1, 1, number) + value * ENTRIES
            index = _INDEX.pack(b"IDX0", 4, 1, 1, number, 1) + b"".join(
                _ITEM.pack(8, 28 + len(value) * k, VALUE_BYTES, 0, 0, number, 1, 0, 0, 0)
                + struct.pack("<Q", number * ENTRIES + k)
                for k in range(ENTRIES)
            )
            for key, content in (
                (index_key(f"ns{space}", number), index),
                (data_key(f"ns{space}", number), data),
            ):
                rows.append(_place(daemon, key, content, sealed=number < each - 1))
    db = connect(daemon.journal)
    with contextlib.closing(db):
        db.execute("BEGIN")
        db.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, 1, NULL, 1)", rows)
        db.execute("COMMIT")


def _place(
    daemon: Daemon, key: FileKey, content: bytes, *, sealed: bool
) -> tuple[str, int, bytes, float, int]:
    live = daemon.base / str(key)
    live.write_bytes(content)
    os.link(live, daemon.store / str(key))  # half the time of writing it twice
    proven = sealed and key.root == "data"
    return str(key), len(content), digest_of(content), time.time() + 1, int(proven)


def _audited(daemon: Daemon, times: int) -> float:
    """Seconds until so many audits have ended."""
    began = time.perf_counter()
    while True:
        with contextlib.suppress(FileNotFoundError):  # it listens there a moment later
            if sum(daemon.stats()["audit"]["runs"].values()) >= times:
                break
        time.sleep(0.1)
    return time.perf_counter() - began


def _ask(daemon: Daemon, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.stats_socket))
        client.sendall(line.encode() + b"\n")
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def _peak_mb(daemon: Daemon) -> float:
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    kib = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024 / 1e6
