"""The view: what it says of a daemon in every state, and what it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from hookd import log
from hookd.admin.health import health
from hookd.admin.metrics import registry
from hookd.admin.picture import Picture
from hookd.admin.safety import sentence
from hookd.admin.view import STATES, LedgerAnswer, queue_view, view
from hookd.checkpoint_run import Outcome
from hookd.drain import Progress
from hookd.errors import Exit
from hookd.files import FileKey
from hookd.journal.records import Job, JobState
from hookd.parts import Parts
from hookd.recovery_point import RecoveryPoint
from tests.fakes.parts import FakeDaemon, FakeJournal, FakeSpool, add_job, fake_parts, plain_data

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "stats-socket.md"

CONFLICT = ("conflict", "store data/ns/d2: sealed and stored as other content")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """A daemon that has just started."""
    return fake_parts(tmp_path)


@pytest.fixture
def secret() -> Iterator[str]:
    """A registered secret."""
    log.register_secret("hunter2")
    yield "hunter2"
    log._secrets.clear()


def fill(parts: Parts) -> None:
    """A queue with a job in every state."""
    add_job(parts, "data/ns/d1", size_bytes=100, age_s=50)
    add_job(parts, "data/other/d9", size_bytes=None, age_s=70)
    add_job(parts, "data/ns/d2", size_bytes=10, age_s=500, state=JobState.QUARANTINED)
    add_job(parts, "data/ns/d3", size_bytes=1, state=JobState.RUNNING)
    add_job(parts, "index/ns/i1", size_bytes=5, age_s=40, needs=1, staged="x/i1")


def drain(parts: Parts, **changes: Any) -> None:
    """A drain under way."""
    parts.phase = "draining"
    values: dict[str, Any] = {
        "waiting_for": "storing",
        "files_left": 3,
        "bytes_left": 300,
        "files_done": 1,
        "bytes_done": 100,
        "elapsed_s": 2.0,
    }
    progress = Progress(**{**values, **changes})
    parts.drain = SimpleNamespace(progress=progress)  # type: ignore[assignment]


def reasons(parts: Parts, **options: Any) -> list[str]:
    """Why it is not ok."""
    found: list[str] = view(parts, **options)["health"]["reasons"]
    return found


# -- the picture -----------------------------------------------------------------------------------


def test_of_a_daemon_with_nothing_to_do(parts: Parts) -> None:
    """It is ok, and says null for what nobody knows."""
    found = view(parts)
    assert found["health"] == {"status": "ok", "reasons": []}
    assert found["queue"]["files"] == 0
    assert found["queue"]["oldest_age_s"] is None
    assert found["store"]["state"] == "unknown"
    assert found["zdb"]["running"] is None
    assert found["ledger"] is None
    assert found["drain"] is None


def test_is_plain_json(parts: Parts) -> None:
    """With everything in it that there can be."""
    fill(parts)
    drain(parts)
    parts.held["ns"] = "i3 is gone"
    parts.dispatcher.store_state.down_since = time.time()
    parts.dispatcher.counts.errors["conflict"] = 1
    parts.admission.tally.by_hook["\udcff\x1b" * 100] = 1
    found = view(parts, zdb_alive=True, ledger=LedgerAnswer(7, 70))
    assert plain_data(found)
    assert json.loads(json.dumps(found).encode()) == found


def test_counts_each_job_under_one_state(parts: Parts) -> None:
    """Blocked ones are no longer pending; bytes nobody knows yet count as none."""
    fill(parts)
    queue = view(parts)["queue"]
    assert queue["states"] == {
        "pending": {"files": 2, "bytes": 100},
        "blocked": {"files": 1, "bytes": 5},
        "running": {"files": 1, "bytes": 1},
        "quarantined": {"files": 1, "bytes": 10},
    }
    assert (queue["files"], queue["bytes"]) == (5, 116)
    assert queue["namespaces"] == {
        "ns": {"files": 4, "bytes": 116, "quarantined": 1},
        "other": {"files": 1, "bytes": 0, "quarantined": 0},
    }


def test_oldest_leaves_quarantined_files_out(parts: Parts) -> None:
    """They wait for a decision, not for the store."""
    fill(parts)
    assert view(parts)["queue"]["oldest_age_s"] == pytest.approx(70, abs=1)


def test_ages_are_never_negative(parts: Parts) -> None:
    """The clock of the wall was set back by an hour."""
    add_job(parts, "data/ns/d1", age_s=-3600)
    parts.started_at += 3600
    parts.dispatcher.store_state.down_since = time.time() + 3600
    found = view(parts)
    assert found["queue"]["oldest_age_s"] == 0
    assert found["uptime_s"] == 0
    assert found["store"]["down_s"] == 0
    assert queue_view(parts, 1)["rows"][0]["age_s"] == 0


def test_store_states(parts: Parts) -> None:
    """Unknown until a file was stored, then up, then down with the time of the next try."""
    state = parts.dispatcher.store_state
    state.last_success = time.time()
    assert view(parts)["store"]["state"] == "up"
    assert view(parts)["store"]["next_try_in_s"] is None
    state.down_since, state.failures, state.last_error = time.time() - 5, 2, "refused"
    state.next_try = time.monotonic() + 30
    store = view(parts)["store"]
    assert (store["state"], store["failures"], store["last_error"]) == ("down", 2, "refused")
    assert store["down_s"] == pytest.approx(5, abs=1)
    assert store["next_try_in_s"] == pytest.approx(30, abs=1)
    state.next_try -= 60
    assert view(parts)["store"]["next_try_in_s"] == 0


def test_shows_no_secret(parts: Parts, secret: str) -> None:
    """Wherever a text comes from outside."""
    said = f"password {secret} refused"
    state = parts.dispatcher.store_state
    state.down_since, state.last_error = time.time() - 100, said
    parts.dispatcher.counts.errors["x"], parts.dispatcher.counts.last_error["x"] = 1, said
    parts.held["ns"] = parts.retriever.last_error = parts.journal.last_error = said
    parts.staging.refused = said
    parts.notices.append(said)
    add_job(parts, "data/ns/d1", error=("permanent", said))
    assert secret not in json.dumps([view(parts), queue_view(parts, 10)])


def test_names_of_hooks_are_bounded(parts: Parts) -> None:
    """Whoever may call the socket chooses them."""
    parts.admission.tally.by_hook["x" * 5000] = 1
    [name] = view(parts)["totals"]["events"]["by_hook"]
    assert len(name) <= 80


def test_spool_without_its_folder(parts: Parts) -> None:
    """Somebody removed it: the rest is still shown."""
    spool = parts.spool
    assert isinstance(spool, FakeSpool)
    spool.gone = True
    assert view(parts)["spool"]["waiting"] == 0


def test_drain_progress(parts: Parts) -> None:
    """With rate and time to go."""
    drain(parts)
    found = view(parts)["drain"]
    assert (found["files_left"], found["bytes_left"], found["rate_bytes_s"]) == (3, 300, 50.0)
    assert found["eta_s"] == 6.0


def test_reference_names_every_key(parts: Parts) -> None:
    """docs/reference/stats-socket.md is complete."""
    drain(parts)
    fill(parts)
    text = REFERENCE.read_text()
    outcome = Outcome(code=Exit.OK, until=1.0, elapsed_s=1.0)
    parts.checkpoints.last = outcome
    point = RecoveryPoint(looked_at=1.0)
    found = view(parts, ledger=LedgerAnswer(), point=point)

    def keys(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, item in value.items():
            yield prefix + name
            if isinstance(item, dict) and name not in ("states", "namespaces", "by_hook", "last"):
                yield from keys(item, f"{prefix}{name}.")

    missing = [key for key in keys(found) if f"`{key}`" not in text]
    missing += [key for key in outcome.as_dict() if f"`{key}`" not in text]
    missing += [key for key in queue_view(parts, 1)["rows"][0] if f"`{key}`" not in text]
    assert not missing


# -- the queue -------------------------------------------------------------------------------------


def test_queue_rows(parts: Parts) -> None:
    """First in line first; a blocked one says for what it waits."""
    fill(parts)
    found = queue_view(parts, 10)
    assert [row["id"] for row in found["rows"]] == [1, 2, 3, 4, 5]
    assert (found["shown"], found["total"]) == (5, 5)
    last = found["rows"][-1]
    assert (last["file"], last["state"], last["source"]) == ("index/ns/i1", "blocked", "snapshot")
    assert last["waits_for"] == "data/ns/d1"
    assert plain_data(found)


def test_queue_limit_and_state(parts: Parts) -> None:
    """What is left out is counted."""
    fill(parts)
    found = queue_view(parts, 1)
    assert (found["shown"], found["total"]) == (1, 5)
    for state in STATES:
        rows = queue_view(parts, 10, state)["rows"]
        assert rows
        assert {row["state"] for row in rows} == {state}


def test_a_hundred_thousand_jobs_cost_little(parts: Parts) -> None:
    """A look happens on the event loop: zdb's hooks wait for it. Measured: 40 ms, 15 ms."""
    now = time.monotonic()
    for number in range(100_000):
        key = FileKey.parse(f"data/ns{number % 5}/d{number}")
        parts.scheduler.add(Job(key=key, id=number + 1, turn=number + 1, size_bytes=1), now)
    began = time.process_time()
    found = view(parts)
    between = time.process_time()
    assert found["queue"]["files"] == queue_view(parts, 50)["total"] == 100_000
    assert between - began < 0.5
    assert time.process_time() - between < 0.5


# -- health ----------------------------------------------------------------------------------------


def test_waiting_files_are_no_illness(parts: Parts) -> None:
    """Nor is a store that has just gone away, a drain, or a notice about a setting."""
    add_job(parts, "data/ns/d1")
    parts.dispatcher.store_state.down_since = time.time() - 30
    parts.notices.append("cache.max_bytes has no effect")
    drain(parts)
    assert view(parts)["health"]["status"] == "ok"


def test_what_degrades(parts: Parts, tmp_path: Path) -> None:
    """Each reason is one line of its own, the journal's first."""
    spool = parts.spool
    assert isinstance(spool, FakeSpool)
    state = parts.dispatcher.store_state
    state.down_since, state.last_error = time.time() - 130, "connection\nrefused"
    add_job(parts, "data/ns/d2", state=JobState.QUARANTINED, error=CONFLICT)
    parts.held["zdbfs-meta"] = "index file i3 is in the store but not here"
    parts.staging.refused = "4 of 4 GiB are taken"
    parts.journal.last_error = "disk I/O error"
    parts.dispatcher.paused = True
    spool.bad = 2
    for suffix in ("", "-wal"):
        (tmp_path / f"journal.db.corrupt-20260101T000000Z-1{suffix}").touch()
    assert view(parts)["health"]["status"] == "degraded"
    assert reasons(parts) == [
        "the journal cannot be written, shims keep their events: disk I/O error",
        f"the journal was damaged and rebuilt; look at {tmp_path}/journal.db.corrupt-"
        "20260101T000000Z-1, then move it away",
        "namespace zdbfs-meta takes no stores: index file i3 is in the store but not here",
        "1 file is quarantined: decide with `hookd retry` or `hookd skip`",
        r"the store has been down for 2 min 10 s: connection\nrefused",
        "no room for snapshots: 4 of 4 GiB are taken",
        "2 spool files could not be read; look into bad/ in the spool folder",
        "storing is paused; `hookd resume` goes on",
    ]


def test_spools_that_fail(parts: Parts) -> None:
    """One that is gone, and one that only zdb was told."""
    spool, leftovers = parts.spool, parts.leftovers
    assert isinstance(spool, FakeSpool)
    spool.gone = True
    leftovers.elsewhere = {"/wrong": 1}
    found = view(parts)
    assert found["spool"]["problem"] == "/spool: No such file or directory"
    assert found["spool"]["elsewhere"] == {"/wrong": 1}
    assert found["health"]["status"] == "degraded"
    assert reasons(parts) == [
        "the spool cannot be read, shims can keep nothing: /spool: No such file or directory",
        "zdb's HOOKD_SPOOL is /wrong, hook.spool is /spool: 1 event there that nobody takes in;"
        " make them the same, move the files over, start zdb again",
    ]


def test_a_name_that_cannot_be_kept_fails(parts: Parts) -> None:
    """What zdb promised its clients there is on one disk only."""
    parts.leftovers.nameless = (r"caf\xe9",)
    assert view(parts)["nameless"] == [r"caf\xe9"]
    assert view(parts)["health"]["status"] == "failing"
    [line] = reasons(parts)
    assert line.startswith(r"namespace caf\xe9 is not stored: its name is no UTF-8")


def test_a_damaged_journal_fails(parts: Parts) -> None:
    """Nothing can be promised any more."""
    found = view(parts, ledger=LedgerAnswer(error="database disk image is malformed", broken=True))
    assert health(found) == (
        "failing",
        ["the journal is damaged: database disk image is malformed"],
    )
    assert found["ledger"] is None


# -- the picture -----------------------------------------------------------------------------------


def test_picture_asks_zdb_and_the_ledger_rarely(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask; and the ledger only again when something was stored."""
    monkeypatch.setattr("hookd.admin.picture.LEDGER_SHARE", 1.0)
    daemon, journal = FakeDaemon(), parts.journal
    assert isinstance(journal, FakeJournal)
    journal.totals = (3, 300)

    async def main() -> None:
        picture = Picture(parts, daemon)
        for _ in range(5):
            picture.forget()
            found = await picture.look()
            assert found["zdb"]["running"] is True
            assert found["ledger"] == {"files": 3, "bytes": 300}
        assert (daemon.asked, journal.asked) == (1, 1)
        parts.dispatcher.counts.settled_files, journal.totals = 1, (4, 400)
        await anyio.sleep(0.05)
        picture.forget()
        assert (await picture.look())["ledger"] == {"files": 4, "bytes": 400}

    anyio.run(main)


def test_picture_is_new_after_a_change(parts: Parts) -> None:
    """Whoever paused it sees so at once; those that ask at the same time share one."""

    async def main() -> None:
        picture = Picture(parts, FakeDaemon())
        before = await picture.look()
        parts.dispatcher.paused = True
        picture.forget()
        assert not before["paused"]
        assert (await picture.look())["paused"]

    anyio.run(main)


def test_picture_that_cost_much_is_used_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue, looked at by many, must not take the event loop; a cheap look is always new."""

    async def main() -> None:
        picture = Picture(parts, FakeDaemon())
        assert await picture.look() is not await picture.look()
        monkeypatch.setattr("hookd.admin.picture.CHEAP_S", 0.0)
        monkeypatch.setattr("hookd.admin.picture.VIEW_SHARE", 1e-6)
        assert await picture.look() is await picture.look()

    anyio.run(main)


def test_picture_of_a_journal_in_trouble(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be written degrades, a damaged one fails."""
    monkeypatch.setattr("hookd.admin.picture.LEDGER_SHARE", 1.0)
    journal = parts.journal
    assert isinstance(journal, FakeJournal)

    async def main() -> None:
        picture = Picture(parts, FakeDaemon())
        journal.last_error = "disk I/O error"
        found = await picture.look()
        assert (found["journal"]["state"], found["health"]["status"]) == ("error", "degraded")
        journal.damaged = True
        await anyio.sleep(0.05)
        picture.forget()
        found = await picture.look()
        assert (found["journal"]["state"], found["health"]["status"]) == ("broken", "failing")

    anyio.run(main)


def test_picture_of_a_zdb_that_cannot_be_asked(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not known whether it runs; nobody waits for that."""
    monkeypatch.setattr("hookd.admin.picture.ANSWER_WITHIN_S", 0.05)

    class Stuck:
        async def zdb_runs(self) -> bool:
            await anyio.sleep_forever()
            return True

    async def main() -> None:
        assert (await Picture(parts, Stuck()).look())["zdb"]["running"] is None

    anyio.run(main)


@pytest.mark.anyio
async def test_a_held_namespace_would_be_lost(parts: Parts) -> None:
    """No "nothing would be lost" while something takes no stores; the metrics say so, too."""
    for root in (parts.roots.index, parts.roots.data):
        (root / "ns").mkdir(parents=True)
    (parts.roots.index / "ns" / "i0").write_bytes(b"x" * 129)
    (parts.roots.data / "ns" / "d0").write_bytes(b"x" * 1000)
    parts.held["ns"] = "older than the store"
    found = await Picture(parts, FakeDaemon()).look()
    point = found["recovery"]
    assert (point["until"], point["files"], point["bytes"]) == (None, 2, 1129)
    line, tone = sentence(found) or ("", "")
    assert line.startswith("not known; only here: ")
    assert tone == "bad"
    values = {
        s.name: s.value for family in registry(lambda: found).collect() for s in family.samples
    }
    assert values["hookd_local_only_bytes"] == 1129
    assert "hookd_recovery_point_age_seconds" not in values
