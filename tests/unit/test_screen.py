"""The screens: what they say in every situation, on a terminal and without one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hookd.admin import screen, words
from hookd.admin.listing import queue_text
from hookd.admin.story import tell
from hookd.admin.view import LedgerAnswer, queue_view, view
from hookd.drain import Progress
from hookd.files import data_key
from hookd.journal.records import JobState
from hookd.parts import Parts
from tests.fakes.parts import FakeSpool, add_job, fake_parts

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def parts() -> Parts:
    """A daemon that has stored everything."""
    parts = fake_parts()
    parts.started_at -= 7512
    parts.admission.tally.accepted = 5
    parts.dispatcher.store_state.last_success = time.time() - 12
    return parts


def seen(parts: Parts, **options: Any) -> dict[str, Any]:
    """The view as the other end of the socket gets it."""
    found: dict[str, Any] = json.loads(json.dumps(view(parts, **options)))
    return found


def headline(parts: Parts, **options: Any) -> str:
    """The first line."""
    return tell(seen(parts, **options)).headline


def store_down(parts: Parts) -> None:
    """The store went away 130 s ago."""
    state = parts.dispatcher.store_state
    state.down_since, state.failures, state.last_error = time.time() - 130, 7, "refused"


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (48 << 20, "48 MiB"),
        ((1 << 30) - 1, "1 GiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    """Never 1024 of a unit where there is a larger one."""
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than 1 s"),
        (12.9, "12 s"),
        (60, "1 min"),
        (130, "2 min 10 s"),
        (7500, "2 h 5 min"),
        (7201, "2 h"),
        (86_400 * 3 + 50, "3 d"),
        (86_400 * 400 + 3600, "400 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """Two units at most, and none that says nothing."""
    assert words.duration(seconds) == text


def test_counts() -> None:
    """One is singular."""
    assert words.count(1, "file") == "1 file"
    assert words.count(12_345, "file") == "12,345 files"
    assert words.count(2, "try", "tries") == "2 tries"
    assert words.listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


# -- the headline ----------------------------------------------------------------------------------


def test_headline_of_a_daemon_that_is_done(parts: Parts) -> None:
    """The good news, and nothing that nobody knows yet."""
    assert headline(parts) == "Everything is stored."
    assert headline(fake_parts()) == "Ready; zdb has not asked for anything yet."
    assert headline(fake_parts(), ledger=LedgerAnswer(3, 30)) == "Everything is stored."


def test_headline_while_files_wait(parts: Parts) -> None:
    """How many, how much, how long."""
    for number in range(3):
        add_job(parts, f"data/ns/d{number}", size_bytes=16 << 20, age_s=12.5 - number)
    assert headline(parts) == "3 files (48 MiB) wait; the oldest for 12 s."


def test_headline_with_the_store_down(parts: Parts) -> None:
    """Also what it means."""
    store_down(parts)
    add_job(parts, "data/ns/d1", size_bytes=1 << 20)
    expected = "The store has been down for 2 min 10 s: 1 file (1 MiB) waits, nothing is lost."
    assert headline(parts) == expected


def test_headline_asks_for_decisions(parts: Parts) -> None:
    """Quarantined files are not stored, whatever else is."""
    add_job(parts, "data/ns/d2", state=JobState.QUARANTINED, error=("conflict", "other content"))
    assert headline(parts) == "1 file needs a decision."
    add_job(parts, "index/ns/i2", needs=2)
    assert headline(parts) == "1 file needs a decision; 1 more waits."


def test_headline_never_says_stored_too_early(parts: Parts) -> None:
    """Events in the spool, a pause, a hold and a bad journal come first."""
    spool = parts.spool
    assert isinstance(spool, FakeSpool)
    spool.files = 2
    assert headline(parts) == "2 events in the spool wait to be read."
    spool.files, parts.leftovers.elsewhere = 0, {"/wrong": 2}
    assert headline(parts) == "2 events in a spool that nobody reads: see below."
    parts.dispatcher.paused = True
    assert headline(parts) == "Storing is paused: nothing waits."
    parts.leftovers.nameless = (r"caf\xe9",)
    assert headline(parts) == r"caf\xe9 cannot be stored: its name is no UTF-8."
    parts.held.update(a="gone", b="gone")
    assert headline(parts) == "a, b are held: not stored until the local files are whole."
    parts.journal.last_error = "disk I/O error"
    assert headline(parts).startswith("The journal cannot be written")


def test_headline_of_a_drain(parts: Parts) -> None:
    """What is left, and what it waits for."""
    parts.phase = "draining"
    assert headline(parts) == "Stopping: nothing waits."
    assert "Drain" not in [row.label for row in tell(seen(parts)).rows]
    progress = Progress("waiting for zdb to stop (it still runs)", 3, 48 << 20, 9, 1 << 20, 2.0)
    parts.drain = SimpleNamespace(progress=progress)  # type: ignore[assignment]
    expected = "Stopping: 3 files (48 MiB) to go; waiting for zdb to stop (it still runs)."
    assert headline(parts) == expected


# -- the rows --------------------------------------------------------------------------------------


def everything(parts: Parts) -> dict[str, Any]:
    """A view for which every row is there."""
    spool = parts.spool
    assert isinstance(spool, FakeSpool)
    store_down(parts)
    for number in range(9):
        add_job(parts, f"data/zdbfs-data/d{number}", age_s=130, error=("unreachable", "refused"))
    add_job(parts, "index/zdbfs-data/i0", needs=0)
    add_job(parts, "data/ns/d2", state=JobState.QUARANTINED, error=("conflict", "[red]other[/]"))
    add_job(parts, "data/ns/d3", state=JobState.RUNNING)
    parts.held["bad\x1b[2J\nname"] = "i3 is gone"
    parts.staging.refused = "no room"
    parts.dispatcher.counts.errors["conflict"] = 3
    parts.dispatcher.counts.last_error["conflict"] = "other content"
    parts.retriever.failed, parts.retriever.last_error = 1, "no such file"
    arriving = {data_key("ns", 4): (3 << 20, 8 << 20)}
    parts.retriever.arriving = lambda: arriving  # type: ignore[method-assign,assignment,return-value]
    parts.admission.tally.refused = 2
    parts.admission.tally.by_hook["jump-data"] = 4
    parts.notices.append("a notice")
    parts.phase = "draining"
    progress = Progress("storing", 11, 11 << 20, 1, 11 << 20, 2.0)
    parts.drain = SimpleNamespace(progress=progress)  # type: ignore[assignment]
    spool.bad = 1
    return seen(parts, zdb_alive=True, ledger=LedgerAnswer(9, 900))


def test_plain_lines(parts: Parts) -> None:
    """One fact a line, whole, without colours."""
    text = "\n".join(screen.plain(tell(everything(parts))))
    for line in (
        "Drain      50%, 1 of 12 files, 5.5 MiB/s, about 2 s to go",
        "Queue      12 files, 12 MiB, the oldest for 2 min 10 s",
        "           blocked            1       1 MiB  until what they need is stored",
        "Store      directory: down, 7 tries",
        "Errors     conflict × 3, last: other content",
        "Stored     9 files, 900 B, verified by checksum",
        "Snapshots  0 B of 4 GiB",
        "Spool      1 unreadable",
        "Fetching   data/ns/d4: 3 MiB of 8 MiB",
        "Retrieved  0 data files brought back, 1 failed, last: no such file",
        r"! namespace bad\x1b[2J\nname takes no stores: i3 is gone",
        "! 1 file is quarantined: decide with `hookd retry` or `hookd skip`",
        "! a notice",
    ):
        assert line in text.splitlines()
    assert "\x1b" not in text


def test_nothing_is_said_twice(parts: Parts) -> None:
    """The store's error stands with the store, not again among the errors or at the end."""
    parts.dispatcher.counts.errors["unreachable"] = 7
    parts.dispatcher.counts.last_error["unreachable"] = "connection refused"
    store_down(parts)
    parts.dispatcher.store_state.last_error = "connection refused"
    text = "\n".join(screen.plain(tell(seen(parts))))
    assert text.count("connection refused") == 1


def test_queue_table(parts: Parts) -> None:
    """Aligned, with the reason at the end of the line."""
    add_job(parts, "data/ns/d1", size_bytes=16 << 20, age_s=130.5, error=("unreachable", "refused"))
    add_job(parts, "index/ns/i1", size_bytes=None, needs=1)
    assert queue_text(queue_view(parts, 10)).splitlines() == [
        "ID  STATE      SIZE            AGE  TRIES  FILE         WHY",
        " 1  pending  16 MiB     2 min 10 s      3  data/ns/d1   unreachable: refused",
        " 2  blocked       ?  less than 1 s      0  index/ns/i1  waits for data/ns/d1",
    ]
    assert queue_text(queue_view(parts, 1)).splitlines()[-1] == "and 1 file more"


def test_queue_table_with_nothing_in_it(parts: Parts) -> None:
    """Says so, and for which state."""
    assert queue_text(queue_view(parts, 10)) == "the queue is empty"
    assert queue_text(queue_view(parts, 10, "blocked")) == "no file is blocked"


# -- on a terminal ---------------------------------------------------------------------------------


def on_terminal(call: str, value: dict[str, Any], tmp_path: Path, *, width: int) -> str:
    """What `screen.CALL(value)` writes to a terminal of that width, in a process of its own."""
    path = tmp_path / "value.json"
    path.write_text(json.dumps(value))
    code = (
        "import json, pathlib; from hookd.admin import screen;"
        f" screen.{call}(json.loads(pathlib.Path({str(path)!r}).read_text()))"
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=environment)
    os.close(slave)
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # EIO: the other end has closed it
        pass
    os.close(master)
    assert process.wait() == 0
    return b"".join(chunks).decode()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_status(parts: Parts, tmp_path: Path, width: int) -> None:
    """In colours, within its width, with all that the plain lines say."""
    found = everything(parts)
    text = on_terminal("show_status", found, tmp_path, width=width)
    assert "\x1b[31m" in text
    lines = ESCAPES.sub("", text).splitlines()
    assert max(map(len, lines)) <= width
    said = " ".join(" ".join(lines).replace("!", "").split())
    for line in screen.plain(tell(found)):
        for word in line.removeprefix("! ").split():
            assert word in said
    assert "━" in said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_queue(parts: Parts, tmp_path: Path, width: int) -> None:
    """The reason below its file; markup in it is text."""
    everything(parts)
    text = on_terminal("show_queue", queue_view(parts, 10), tmp_path, width=width)
    lines = [line.rstrip() for line in ESCAPES.sub("", text).splitlines()]
    assert max(map(len, lines)) <= width
    assert "      waits for data/zdbfs-data/d0" in lines
    assert "      unreachable: refused" in lines
    assert "  and 2 files more" in lines
    everything_else = queue_view(parts, 20, "quarantined")
    assert "[red]other[/]" in on_terminal("show_queue", everything_else, tmp_path, width=width)


def test_plain_where_nobody_wants_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, a dumb one, or NO_COLOR."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not screen.is_plain()
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen.is_plain()
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert screen.is_plain()
