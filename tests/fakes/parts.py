"""A daemon's parts to look at: the real records and queue, without anything that runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hookd.dispatcher import Counts, StoreState
from hookd.errors import JournalCorrupt, JournalUnavailable
from hookd.files import FileKey, Roots
from hookd.intake.server import IntakeCounts
from hookd.journal.records import Job, JobState
from hookd.scheduler import Scheduler
from hookd.tally import Tally
from hookd.zdb import ZdbLife

if TYPE_CHECKING:
    from hookd.parts import Parts


class FakeJournal:
    """Counts how often the ledger was asked for."""

    def __init__(self) -> None:
        self.last_error: str | None = None
        self.totals = (0, 0)
        self.asked = 0
        self.damaged = False

    async def ledger_totals(self) -> tuple[int, int]:
        self.asked += 1
        if self.damaged:
            raise JournalCorrupt("database disk image is malformed")
        if self.last_error:
            raise JournalUnavailable(self.last_error)
        return self.totals


class FakeAuditor:
    """Says what the test says."""

    def __init__(self) -> None:
        self.alarms: list[dict[str, Any]] = []
        self.running: dict[str, Any] | None = None
        self.complete_at: float | None = None

    def view(self) -> dict[str, Any]:
        return {
            "running": self.running,
            "complete_at": self.complete_at,
            "runs": {"done": 1, "incomplete": 0, "cancelled": 0},
            "alarms": self.alarms,
            "alarm_files": len(self.alarms),
            "problems": dict(Counter(alarm["problem"] for alarm in self.alarms)),
        }


class FakeLeftovers:
    """What the test says."""

    def __init__(self) -> None:
        self.nameless: tuple[str, ...] = ()
        self.elsewhere: dict[str, int] = {}

    async def look(self) -> None:
        pass


class FakeSpool:
    """A spool of as many files as the test says."""

    def __init__(self) -> None:
        self.folder = Path("/spool")
        self.files = 0
        self.bad = 0
        self.taken = 0
        self.gone = False

    def waiting(self) -> int:
        if self.gone:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files

    def bad_files(self) -> int:
        return self.bad


def fake_parts(folder: Path = Path("/nowhere")) -> Parts:
    """Parts of a daemon that has just started and has nothing to do."""
    parts = SimpleNamespace(
        config=SimpleNamespace(
            journal=SimpleNamespace(path=folder / "journal.db"),
            stats=SimpleNamespace(
                socket=folder / "stats.sock", prometheus_port=None, prometheus_address="127.0.0.1"
            ),
            hook=SimpleNamespace(allow_users=()),
            zdb=SimpleNamespace(skip_namespaces=("zdbfs-temp",)),
        ),
        roots=Roots(folder / "index", folder / "data"),
        journal=FakeJournal(),
        room=SimpleNamespace(free_bytes=1 << 40, keep_free_bytes=0, shut=False, problem=None),
        staging=SimpleNamespace(size_bytes=0, max_bytes=1 << 32, refused=None),
        scheduler=Scheduler(),
        store=SimpleNamespace(kind="directory"),
        dispatcher=SimpleNamespace(
            store_state=StoreState(),
            counts=Counts(),
            already_there=0,
            paused=False,
            running=0,
            wake=lambda: None,
        ),
        admission=SimpleNamespace(tally=Tally(), last_event_at=None),
        retriever=SimpleNamespace(
            retrieved=0, failed=0, last_error=None, running=(), arriving=dict
        ),
        intake=SimpleNamespace(counts=IntakeCounts(), open=0),
        spool=FakeSpool(),
        fence=SimpleNamespace(fenced=None, identity=None, published_at=None, unpublished=False),
        publisher=SimpleNamespace(last_error=None),
        survey=SimpleNamespace(waiting=None, restorer=SimpleNamespace(progress=None)),
        checkpoints=SimpleNamespace(
            last=None, last_safe=None, doing=None, taken=0, failed=0, waiting=0, unscanned=False
        ),
        checkpoint_timer=None,
        leftovers=FakeLeftovers(),
        life=ZdbLife(),
        auditor=FakeAuditor(),
        blind=None,
        held={},
        started_at=time.time(),
        phase="running",
        drain=None,
        notices=[],
    )
    return cast("Parts", parts)


def add_job(
    parts: Parts,
    file: str,
    *,
    size_bytes: int | None = 1 << 20,
    age_s: float = 0.0,
    state: JobState = JobState.PENDING,
    error: tuple[str, str] | None = None,
    needs: int | None = None,
    staged: str | None = None,
) -> Job:
    """A job in the queue, brought into `state` the way the dispatcher does."""
    scheduler = parts.scheduler
    job = Job(
        key=FileKey.parse(file),
        id=max((job.id for job in scheduler), default=0) + 1,
        since=time.time() - age_s,
        size_bytes=size_bytes,
        needs=needs,
        needs_bytes=0 if needs is None else 28,
        staged=staged,
    )
    job.turn = job.id
    scheduler.add(job, time.monotonic())
    if error is not None:
        job.attempts, (job.error_class, job.error) = 3, error
    if state is not JobState.PENDING:
        job.state, job.place = JobState.RUNNING, "running"
    if state is JobState.QUARANTINED:
        scheduler.quarantine(job)
    elif state is JobState.PENDING and error is not None:
        scheduler.retry_at(job, time.monotonic() + 60)
    return job


class FakeDaemon:
    """Says whether zdb runs, and counts how often it was asked."""

    def __init__(self, runs: Callable[[], bool] = lambda: True) -> None:
        self.asked = 0
        self._runs = runs

    async def zdb_runs(self) -> bool:
        self.asked += 1
        return self._runs()

    async def by_hand(self, only: list[str] | None) -> str | None:
        """No test restores by it."""
        return f"asked for {only}"


def plain_data(value: Any) -> bool:
    """Whether a value is made of what JSON has, all the way down."""
    if isinstance(value, dict):
        return all(type(key) is str and plain_data(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain_data, value))
    return value is None or type(value) in (str, int, float, bool)
