"""The watchdog is fed while the pipeline moves: and "moves" is the whole of this."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from hookd import pulse as module
from hookd.errors import JournalUnavailable
from hookd.journal.records import JobState
from hookd.parts import Parts
from hookd.pulse import JOURNAL_PATIENCE_S, OPERATIONS, SLACK_S, Pulse, Signs, status, why_stuck
from tests.conftest import Logs
from tests.fakes.parts import add_job, fake_parts

WELL = Signs(
    now=1000.0,
    journal_fails_since=None,
    looks_again_at=1010.0,
    running=0,
    moved_at=100.0,
    limit_s=120.0,
)
BUSY = replace(WELL, running=2, moved_at=990.0)


@pytest.mark.parametrize(
    "signs",
    [
        pytest.param(WELL, id="nothing due, for a long time"),
        pytest.param(BUSY, id="files under way"),
        pytest.param(
            replace(BUSY, moved_at=1000 - OPERATIONS * 120 - SLACK_S), id="within their time"
        ),
        pytest.param(replace(WELL, looks_again_at=1300.0), id="store down, probed in 5 minutes"),
        pytest.param(replace(WELL, looks_again_at=1000 - SLACK_S), id="a loaded machine"),
        pytest.param(
            replace(WELL, journal_fails_since=1000 - JOURNAL_PATIENCE_S), id="disk full a while"
        ),
    ],
)
def test_moves(signs: Signs) -> None:
    """What a restart would not mend, or what has its time still."""
    assert why_stuck(signs) is None


@pytest.mark.parametrize(
    ("signs", "reason"),
    [
        (
            replace(BUSY, moved_at=999 - OPERATIONS * 120 - SLACK_S),
            "2 files under way, and nothing moved for 6 min 31 s",
        ),
        (replace(WELL, looks_again_at=999 - SLACK_S), "the dispatcher is 31 s late"),
        (
            replace(WELL, journal_fails_since=999 - JOURNAL_PATIENCE_S),
            "the journal could not be written for 10 min 1 s",
        ),
    ],
)
def test_stuck(signs: Signs, reason: str) -> None:
    """Each sign alone is enough, and the reason says which."""
    assert why_stuck(signs) == reason


# -- the loop ----------------------------------------------------------------------------------------


class FakeNotify:
    """A manager that writes down what it was told."""

    active = True

    def __init__(self, watchdog_s: float | None) -> None:
        self.watchdog_s = watchdog_s
        self.fed = 0
        self.extended = 0
        self.said: list[str] = []

    def watchdog(self) -> None:
        self.fed += 1

    def extend(self, seconds: float) -> None:
        self.extended += 1

    def status(self, text: str) -> None:
        self.said.append(text)


class FakeJournal:
    last_error: str | None = None

    def __init__(self) -> None:
        self.commits = 0
        self.hangs = False

    async def set_meta(self, key: str, value: object) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        if self.last_error:
            raise JournalUnavailable(self.last_error)
        self.commits += 1


def parts_of(**dispatcher: Any) -> Parts:
    parts = fake_parts()
    parts.journal = FakeJournal()  # type: ignore[assignment]
    now = time.monotonic()
    vars(parts.dispatcher).update({"moved_at": now, "looks_again_at": now + 60} | dispatcher)
    parts.config = SimpleNamespace(  # type: ignore[assignment]
        store=SimpleNamespace(time_limit_s=lambda size: 0.01)
    )
    return parts


async def beat(parts: Parts, notify: FakeNotify, *, for_s: float, starting: bool = False) -> None:
    pulse = Pulse(parts, notify)  # type: ignore[arg-type]
    pulse.starting = starting
    with anyio.move_on_after(for_s):
        await pulse.run()


@pytest.mark.anyio
async def test_fed_while_it_moves(logs: Logs) -> None:
    """Well within the watchdog's time, each time after a commit; running costs no extension."""
    parts, notify = parts_of(), FakeNotify(0.3)
    await beat(parts, notify, for_s=1.0)
    assert 5 <= notify.fed <= 12
    assert parts.journal.commits == notify.fed  # type: ignore[attr-defined]
    assert notify.extended == 0
    assert notify.said == ["nothing to store; 0 files stored since the start"]


@pytest.mark.anyio
async def test_not_fed_while_stuck(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs beyond all limits: no word to the watchdog, no more time, one log line."""
    logs.expect("the pipeline does not move")
    monkeypatch.setattr(module, "SLACK_S", 0.0)
    parts = parts_of(running=1, moved_at=time.monotonic() - 60)
    parts.phase = "draining"
    notify = FakeNotify(0.3)
    await beat(parts, notify, for_s=0.5)
    assert (notify.fed, notify.extended) == (0, 0)
    assert notify.said[-1].startswith("1 file under way, and nothing moved for 1 min")


@pytest.mark.anyio
async def test_not_fed_while_the_journal_hangs(logs: Logs) -> None:
    """The commit has to come back."""
    parts, notify = parts_of(), FakeNotify(0.3)
    parts.journal.hangs = True  # type: ignore[attr-defined]
    await beat(parts, notify, for_s=0.5)
    assert notify.fed == 0


@pytest.mark.anyio
async def test_a_journal_that_fails_too_long(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are borne for a while, and forgiven once a commit goes through."""
    logs.expect("the pipeline does not move")
    monkeypatch.setattr(module, "JOURNAL_PATIENCE_S", 0.3)
    parts, notify = parts_of(), FakeNotify(0.15)
    parts.journal.last_error = "disk full"
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: beat(parts, notify, for_s=1.4))
        await anyio.sleep(0.2)
        assert notify.fed >= 2
        await anyio.sleep(0.4)
        fed = notify.fed
        await anyio.sleep(0.2)
        assert notify.fed == fed
        parts.journal.last_error = None
        await anyio.sleep(0.3)
        assert notify.fed > fed


@pytest.mark.anyio
@pytest.mark.parametrize("phase", ["draining", "starting", "stopping"])
async def test_asks_for_time(logs: Logs, phase: str) -> None:
    """Before it is ready and after the stop signal, also without a watchdog."""
    parts, notify = parts_of(), FakeNotify(None)
    parts.phase = "running" if phase == "starting" else phase
    await beat(parts, notify, for_s=0.1, starting=phase == "starting")
    assert notify.extended == 1
    assert parts.journal.commits == 0  # type: ignore[attr-defined]


# -- in words ----------------------------------------------------------------------------------------


def test_status_of_a_queue() -> None:
    """How much is left, what is wrong, on one line."""
    parts = fake_parts()
    add_job(parts, "data/ns/d0", size_bytes=3 << 20)
    add_job(parts, "data/ns/d1", size_bytes=1 << 20)
    add_job(parts, "data/ns/d2", state=JobState.QUARANTINED, error=("conflict", "x"))
    parts.dispatcher.counts.settled_files = 1234
    assert (
        status(parts)
        == "2 files to store (4 MiB); 1,234 files stored since the start; 1 quarantined"
    )


def test_status_in_trouble() -> None:
    """The store's words, without line ends."""
    parts = fake_parts()
    parts.dispatcher.store_state.down_since = time.time() - 65
    parts.dispatcher.store_state.last_error = "no\nroute"
    parts.dispatcher.paused = True
    parts.held["ns"] = "gone"
    parts.journal.last_error = "disk full"
    assert status(parts) == (
        "nothing to store; 0 files stored since the start; the store has been down for 1 min 5 s:"
        " no\\nroute; paused; 1 namespace held; the journal cannot be written: disk full"
    )


def test_status_of_a_drain() -> None:
    """Its own progress line."""
    parts = fake_parts()
    parts.phase = "draining"
    assert status(parts).startswith("draining; nothing to store")
    parts.drain = SimpleNamespace(progress=SimpleNamespace(line=lambda: "1 of 2 files"))  # type: ignore[assignment]
    assert status(parts) == "draining: 1 of 2 files"
