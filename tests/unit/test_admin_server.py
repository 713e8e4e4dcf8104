"""The stats socket: bounded in every way, and the verbs do what they say."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import structlog

from hookd.admin import lines
from hookd.admin import server as server_module
from hookd.admin.client import ask
from hookd.admin.server import AdminServer
from hookd.errors import JournalUnavailable, UserError
from hookd.journal.records import Job, JobState
from hookd.parts import Parts
from tests.fakes.parts import FakeDaemon, FakeSpool, add_job, fake_parts

CONFLICT = ("conflict", "other content")


class FakeDispatcher:
    """Does with the queue what the real one does, and remembers what it was told."""

    def __init__(self, parts: Parts) -> None:
        self._scheduler = parts.scheduler
        self.store_state, self.counts = parts.dispatcher.store_state, parts.dispatcher.counts
        self.already_there = 0
        self.paused = False
        self.running = 0
        self.woken = 0
        self.withdrawn: list[tuple[int, str]] = []
        self.fails: Exception | None = None
        self.departures: Any = self
        self.skips: tuple[Any, ...] = ()
        self.changed = False
        """Whether the files are others by now than those that jobs have read."""

    def wake(self) -> None:
        self.woken += 1

    async def retry(self, job: Job) -> None:
        job.attempts = 0
        self._scheduler.release(job)
        await self._commit()

    async def withdraw(self, job: Job, reason: str) -> bool:
        job.state = JobState.WITHDRAWN
        self._scheduler.finished(job)
        await self._commit()
        self.withdrawn.append((job.id, reason))
        return not self.changed

    async def _commit(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """A daemon whose socket's folder is there."""
    parts = fake_parts(tmp_path)
    parts.dispatcher = FakeDispatcher(parts)  # type: ignore[assignment]
    return parts


def told(parts: Parts) -> FakeDispatcher:
    """The fake behind the parts."""
    assert isinstance(parts.dispatcher, FakeDispatcher)
    return parts.dispatcher


@asynccontextmanager
async def serving(parts: Parts) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A running server; yields what asks it, from a thread as any client."""
    admin = AdminServer(parts, FakeDaemon(), FakeDaemon())
    path = parts.config.stats.socket

    async def asking(line: str) -> str:
        return await anyio.to_thread.run_sync(lambda: ask(path, line, within_s=5))

    async with anyio.create_task_group() as group:
        group.start_soon(admin.run)
        yield asking
        group.cancel_scope.cancel()


def answers(parts: Parts, *lines: str) -> list[str]:
    """What the server answers to each line; a refusal as its text."""
    found: list[str] = []

    async def main() -> None:
        async with serving(parts) as asking:
            for line in lines:
                try:
                    found.append(await asking(line))
                except UserError as error:
                    found.append(f"refused: {error}")

    anyio.run(main)
    return found


def raw(path: Path, data: bytes, *, half_close: bool) -> bytes:
    """Everything a server sends to whoever sends `data`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(data)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


# -- questions -------------------------------------------------------------------------------------


def test_questions(parts: Parts) -> None:
    """Each has its answer."""
    add_job(parts, "data/ns/d1")
    stats, health, queue, as_json, metrics, usage = answers(
        parts, "stats", "health", "queue", "queue --json 10 pending", "metrics", "help"
    )
    assert json.loads(stats)["queue"]["files"] == 1
    assert health == "ok"
    assert "data/ns/d1" in queue
    assert json.loads(as_json)["rows"][0]["file"] == "data/ns/d1"
    assert 'hookd_queue_files{state="pending"} 1.0' in metrics
    assert "skip ID|FILE" in usage


def test_health_says_why(parts: Parts) -> None:
    """The status first, then one reason a line."""
    spool = parts.spool
    assert isinstance(spool, FakeSpool)
    spool.bad = 1
    parts.staging.refused = "no room"
    [answer] = answers(parts, "health")
    assert answer.splitlines() == [
        "degraded",
        "no room for snapshots: no room",
        "1 spool file could not be read; look into bad/ in the spool folder",
    ]


def test_what_is_no_question(parts: Parts) -> None:
    """One line says what there is."""
    nothing, unknown, state, limit = answers(parts, "", "reboot\x1b", "queue lost", "queue 0")
    assert nothing.startswith("refused: read 'nothing', expected one of: stats, health,")
    assert unknown.startswith(r"refused: read 'reboot\\x1b', expected one of")
    assert state.startswith("refused: read 'lost', expected a number from 1 to 100000 or one of")
    assert limit.startswith("refused: read '0', expected")


@pytest.mark.parametrize("half_close", [True, False])
def test_any_client(parts: Parts, half_close: bool) -> None:
    """With a line end or none, half closed or not; the line end may be CR LF."""

    async def main() -> None:
        path = parts.config.stats.socket
        async with serving(parts):
            lines = [b"health\n", b"health\r\n", *([b"health"] if half_close else [])]
            for line in lines:
                asking = partial(raw, path, line, half_close=half_close)
                assert await anyio.to_thread.run_sync(asking) == b"ok\n"

    anyio.run(main)


def test_socket_is_private(parts: Parts) -> None:
    """From the moment it is there: nobody else's connect gets through."""

    async def main() -> None:
        admin = AdminServer(parts, FakeDaemon(), FakeDaemon())
        assert parts.config.stats.socket.stat().st_mode & 0o777 == 0o600
        with anyio.move_on_after(0):
            await admin.run()

    anyio.run(main)


def test_other_users_are_refused(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of hook.allow_users may ask, but change nothing."""
    peer = SimpleNamespace(uid=4711, gid=4711, pid=1)
    monkeypatch.setattr(lines, "peer_of", lambda _: peer)
    assert answers(parts, "health") == ["refused: user 4711 may not ask"]
    parts.config.hook.allow_users = (4711,)  # type: ignore[misc]
    health, pause = answers(parts, "health", "pause")
    assert (health, pause) == ("ok", "refused: user 4711 may ask, but not pause")
    assert not told(parts).paused


# -- bounds ----------------------------------------------------------------------------------------


def test_a_line_is_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in time."""
    monkeypatch.setattr(lines, "LINE_WITHIN_S", 0.1)

    async def main() -> None:
        path = parts.config.stats.socket
        async with serving(parts):
            long = await anyio.to_thread.run_sync(lambda: raw(path, b"x" * 4097, half_close=False))
            slow = await anyio.to_thread.run_sync(lambda: raw(path, b"stat", half_close=False))
        assert long == b"error: the line is longer than 4096 bytes\n"
        assert slow == b"error: no line within 0.1 s\n"

    anyio.run(main)


def test_connections_are_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond wait, and are served as others end."""
    monkeypatch.setattr(lines, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(lines, "LINE_WITHIN_S", 0.2)

    async def main() -> None:
        async with serving(parts) as asking:
            idle = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            for client in idle:
                client.connect(str(parts.config.stats.socket))
            assert await asking("health") == "ok"
            for client in idle:
                client.close()

    anyio.run(main)


def test_whoever_goes_away_disturbs_nobody(parts: Parts) -> None:
    """Before the question, or before the answer."""

    async def main() -> None:
        async with serving(parts) as asking:
            for data in (b"", b"stats\n"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(parts.config.stats.socket))
                    client.sendall(data)
            assert await asking("health") == "ok"

    anyio.run(main)


def test_a_fault_is_an_answer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged; the server goes on."""

    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(server_module, "queue_view", broken)
    with structlog.testing.capture_logs() as logged:
        fault, health = answers(parts, "queue", "health")
    assert fault == "refused: internal error: RuntimeError('bug')"
    assert health == "ok"
    assert [line["event"] for line in logged] == ["internal error"]


# -- verbs -----------------------------------------------------------------------------------------


def test_retry(parts: Parts) -> None:
    """By number, by name, by path; a job that is under way is left alone."""
    for number in range(3):
        add_job(parts, f"data/ns/d{number}", state=JobState.QUARANTINED, error=CONFLICT)
    running = add_job(parts, "data/ns/d3", state=JobState.RUNNING)
    path = parts.roots.path(next(iter(parts.scheduler)).key)
    path.parent.mkdir(parents=True)
    found = answers(parts, "retry 2", "retry data/ns/d2", f"retry {path}", f"retry {running.id}")
    assert found == [
        *["1 file will be tried at once"] * 3,
        "refused: 4 is being stored right now",
    ]
    states = [job.state for job in parts.scheduler]
    assert states == [JobState.PENDING] * 3 + [JobState.RUNNING]


def test_retry_all(parts: Parts) -> None:
    """Those that have failed, quarantined or waiting; more than are retried at once."""
    for number in range(600):
        state = JobState.QUARANTINED if number % 2 else JobState.PENDING
        add_job(parts, f"data/ns/d{number}", state=state, error=CONFLICT)
    add_job(parts, "data/other/d0")
    first, again = answers(parts, "retry all", "stats")
    assert first == "600 files will be tried at once"
    assert json.loads(again)["queue"]["states"]["pending"]["files"] == 601
    assert answers(fake_parts(parts.config.stats.socket.parent), "retry all") == [
        "nothing has failed"
    ]


def test_skip(parts: Parts) -> None:
    """Only what is quarantined; the journal and the log say who did it."""
    add_job(parts, "data/ns/d1", state=JobState.QUARANTINED, error=CONFLICT)
    add_job(parts, "index/ns/i1", needs=1)
    with structlog.testing.capture_logs() as logged:
        found = answers(parts, "skip 2", "skip data/ns/d1", "skip index/ns/i1", "skip 1")
    assert found == [
        "refused: 2 is blocked: only quarantined files can be skipped",
        "data/ns/d1 is given up: it will not be stored; 1 file still waits for it",
        "index/ns/i1 is given up: it will not be stored",
        "refused: 1 is not in the queue",
    ]
    uid = told(parts).withdrawn[0][1].removeprefix("skipped by uid ")
    assert told(parts).withdrawn == [(1, f"skipped by uid {uid}"), (2, f"skipped by uid {uid}")]
    skipped = [line for line in logged if line["event"] == "skipped"]
    assert [(line["log_level"], line["file"], line["uid"]) for line in skipped] == [
        ("warning", "data/ns/d1", int(uid)),
        ("warning", "index/ns/i1", int(uid)),
    ]


def test_skip_of_what_has_changed(parts: Parts) -> None:
    """What is here by now was not decided about, and that is said."""
    add_job(parts, "data/ns/d1", state=JobState.QUARANTINED, error=CONFLICT, staged="a-1/d1")
    told(parts).changed = True
    assert answers(parts, "skip 1") == [
        "data/ns/d1 is given up as it was; as it is now it stays owed"
    ]


def test_skip_with_others_behind(parts: Parts) -> None:
    """What is quarantined of a file is given up; the snapshots behind it stay, each by its number."""
    state = JobState.QUARANTINED
    add_job(parts, "index/ns/i1", state=state, error=CONFLICT, size_bytes=9, staged="a-1/i1")
    for number in range(2, 9):
        # shorter than what is quarantined, so it takes nobody's place
        add_job(parts, "index/ns/i1", size_bytes=9 - number, staged=f"a-{number}/i1")
    first, again = answers(parts, "skip index/ns/i1", "skip index/ns/i1")
    assert first == (
        "job 1 of index/ns/i1 is given up; others of it stay in line: 2 (pending), 3 (pending),"
        " 4 (pending), 5 (pending), 6 (pending) and 2 more"
    )
    assert again == "refused: index/ns/i1 is pending: only quarantined files can be skipped"
    assert [job_id for job_id, _ in told(parts).withdrawn] == [1]


def test_verbs_without_a_target(parts: Parts) -> None:
    """Or with one that nobody knows."""
    roots = f"{parts.roots.index} or {parts.roots.data}"
    asked = ("skip", "retry", "retry 9", "skip data/../d1", "retry /etc/passwd")
    assert answers(parts, *asked) == [
        "refused: expected skip ID|FILE",
        "refused: expected retry all|ID|FILE",
        "refused: 9 is not in the queue",
        "refused: '..' refused: no namespace name",
        f"refused: '/etc/passwd' refused: not directly under {roots}",
    ]


def test_verbs_with_a_journal_in_trouble(parts: Parts) -> None:
    """What was done is not durable, and the answer says so."""
    add_job(parts, "data/ns/d1", state=JobState.QUARANTINED, error=CONFLICT)
    told(parts).fails = JournalUnavailable("disk full")
    [answer] = answers(parts, "retry 1")
    assert answer.endswith("so this holds until the next start only: disk full")


def test_pause_and_resume(parts: Parts) -> None:
    """Seen at once in health; resuming what is not paused is no mistake."""
    told(parts).running = 2
    pause, health, resume, again, after = answers(
        parts, "pause", "health", "resume", "resume", "health"
    )
    assert (
        pause == "storing is paused; 2 files under way will be finished; events are taken as ever"
    )
    assert health.startswith("degraded\nstoring is paused")
    assert (resume, again, after) == ("storing goes on", "storing was not paused", "ok")
    assert told(parts).woken == 2


def test_a_drain_ends_a_pause(parts: Parts) -> None:
    """And says so; during a drain there is no pausing."""

    async def main() -> None:
        async with serving(parts) as asking:
            await asking("pause")
            parts.phase = "draining"
            with anyio.fail_after(5):
                while told(parts).paused:
                    await anyio.sleep(0.01)
            with pytest.raises(UserError, match="hookd is draining"):
                await asking("pause")
            assert json.loads(await asking("stats"))["notices"]

    anyio.run(main)
    assert told(parts).woken


# -- over HTTP -------------------------------------------------------------------------------------


def free_port() -> int:
    """One that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def test_metrics_over_http(parts: Parts) -> None:
    """From a thread of its own, by way of the event loop; gone with the server."""
    stats: Any = parts.config.stats
    stats.prometheus_port = free_port()
    url = f"http://127.0.0.1:{stats.prometheus_port}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: bytes = answer.read()
            return text.decode()

    async def main() -> None:
        async with serving(parts) as asking:
            await asking("health")
            assert "hookd_paused 0.0" in await anyio.to_thread.run_sync(get)
            told(parts).paused = True
            await anyio.sleep(0.1)
            assert "hookd_paused 1.0" in await anyio.to_thread.run_sync(get)

    anyio.run(main)
    with pytest.raises(OSError, match="refused"):
        get()


def test_a_port_in_use_is_a_notice(parts: Parts) -> None:
    """Not the end of the daemon."""
    stats: Any = parts.config.stats
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stats.prometheus_port = taken.getsockname()[1]
        with structlog.testing.capture_logs() as logged:
            assert answers(parts, "health") == ["ok"]
    [notice] = parts.notices
    assert notice.startswith("stats.prometheus_port: no metrics on 127.0.0.1:")
    assert "in use" in notice
    assert [line["log_level"] for line in logged] == ["error"]
