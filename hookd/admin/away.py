"""What can be said while no daemon answers: whether one is starting, and what its journal holds.

Reads. After a daemon that was killed SQLite may leave its `-shm` beside the journal; it is not used
by the next one, and holds nothing.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from hookd.admin.words import count, one_line, size, verb

OPEN = ("pending", "running", "quarantined")
"""States of jobs that are still owed (`hookd.journal.OPEN_STATES`)."""

BUSY_S = 1.0

Left = dict[str, dict[str, int]]


def starting(socket: Path) -> int | None:
    """The process that holds the stats socket's lock, though it does not listen there (now).

    Looked up by inode and process in /proc/locks: on btrfs the device there is not the one that
    stat tells.
    """
    lock = socket.with_name(f"{socket.name}.lock")
    try:
        inode, pid = lock.stat().st_ino, int(lock.read_text())
        lines = Path("/proc/locks").read_text().splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        words = line.split()
        if "FLOCK" in words and str(pid) in words and any(w.endswith(f":{inode}") for w in words):
            return pid
    return None


def journal_left(path: Path) -> Left | None:
    """State → files and bytes of what is still owed, or None where the journal cannot be read."""
    from hookd.journal import tables

    # Without a WAL nobody has it open: `immutable` then keeps SQLite from making one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        path.stat()  # SQLite says no more than "unable to open"
        db = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=BUSY_S)
    except (OSError, sqlite3.Error):
        return None
    try:
        found = tables.count_by_state(db)
    except sqlite3.Error:
        return None
    finally:
        db.close()
    return {
        state: {"files": found[state][0], "bytes": found[state][1]}
        for state in OPEN
        if state in found
    }


def lines(reason: str, pid: int | None, path: Path, left: Left | None) -> list[str]:
    """For a person."""
    if pid is not None:
        return [f"The daemon (pid {pid}) is starting or stopping; it answers no questions now."]
    return [one_line(f"{reason[0].upper()}{reason[1:]}."), one_line(_owed(path, left))]


def _owed(path: Path, left: Left | None) -> str:
    if left is None:
        return f"Its journal {path} cannot be read, so what it owes is not known."
    files = sum(amount["files"] for amount in left.values())
    if not files:
        return f"Its journal {path} owes nothing: all it took is stored."
    total = sum(amount["bytes"] for amount in left.values())
    text = (
        f"Its journal {path} holds {count(files, 'file')} ({size(total)}) to be stored after the"
        " next start"
    )
    if quarantined := left.get("quarantined", {}).get("files"):
        text += f"; {quarantined} of them {verb(quarantined, 'is', 'are')} quarantined"
    return f"{text}."
