"""Departures: jobs that leave the line unstored, and their rows and snapshots with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.errors import JournalUnavailable
from hookd.files import FileKey, data_key, index_key
from hookd.journal import Job, JobState, LedgerEntry
from hookd.orphans import ORPHANED
from hookd.snapshot import Snapshot
from hookd.stores.base import Remote
from tests.conftest import Logs
from tests.fakes.owed import frozen, proven
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

RETRY = "will retry"
QUARANTINED = "quarantined"


def snapshot_of(key: FileKey, made: Snapshot | None) -> Job:
    """A job that is not committed yet."""
    assert made is not None
    return Job(
        key=key,
        staged=made.staged,
        begun=made.begun,
        size_bytes=made.size_bytes,
        digest=made.digest,
        content=made.content,
    )


class Killed(BaseException):
    """kill -9 at this step."""


async def no_moves(found: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows cannot be moved for now, and that is tried again soon."""

    async def move(*_: object) -> None:
        raise JournalUnavailable("disk full")

    monkeypatch.setattr("hookd.departures.JOURNAL_AGAIN_S", 0.01)
    monkeypatch.setattr(found.journal, "move", move)


class TestSuperseded:
    async def test_snapshot_is_removed(self, tmp_path: Path) -> None:
        """A superseded snapshot never reaches the store, its file and its row are closed."""
        async with rig(tmp_path, run=False) as found:
            key = index_key("ns", 0)
            await frozen(found, key, b"first" * 10)
            await frozen(found, key, b"second" * 10)
            await found.eventually(lambda: len(found.staged()) == 1)
            assert found.states() == [(str(key), "superseded"), (str(key), "pending")]
            assert found.dispatcher.counts.superseded == 1
        async with rig(tmp_path) as found:
            await found.empty()
            assert [content for _, content in found.store.puts] == [b"second" * 10]

    async def test_behind_a_running_one(self, tmp_path: Path) -> None:
        """A newer snapshot waits until the running one ends; the store never goes back."""
        async with rig(tmp_path) as found:
            key = index_key("ns", 0)
            gate = found.store.gates[key] = anyio.Event()
            await frozen(found, key, b"first" * 10)
            await found.until(lambda: key in found.store.waiting)
            await frozen(found, key, b"other" * 10)
            gate.set()
            await found.empty()
            assert [content for _, content in found.store.puts] == [b"first" * 10, b"other" * 10]
            await found.eventually(lambda: not found.staged())

    async def test_fails_with_a_newer_one_behind(self, tmp_path: Path) -> None:
        """A failed one gives way to the newer one; its snapshot goes."""
        async with rig(tmp_path, guarded=False) as found:
            key = index_key("ns", 0)
            gate = found.store.gates[key] = anyio.Event()
            found.store.wrong = {key}
            await frozen(found, key, b"first" * 10)
            await found.until(lambda: key in found.store.waiting)
            await frozen(found, key, b"other" * 10)
            gate.set()
            await found.until(lambda: len(found.store.of("stat")) == 1)
            found.store.wrong = set()
            await found.empty()
            assert found.store.content[key] == b"other" * 10
            assert found.states() == [(str(key), "superseded"), (str(key), "settled")]
            await found.eventually(lambda: not found.staged())

    async def test_not_kept_in_the_journal(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A supersede that cannot be committed loses nothing, and after a restart the older one, open
        again in the journal, does not go over the newer one that was stored meanwhile.
        """
        logs.expect("superseding not kept")
        key = index_key("ns", 0)
        store = MemoryStore()
        async with rig(tmp_path, store, run=False) as found:

            async def supersede(*_: object) -> None:
                raise JournalUnavailable("disk full")

            monkeypatch.setattr(found.journal, "supersede", supersede)
            await frozen(found, key, b"first" * 10)
            await frozen(found, key, b"other" * 10)
            found.work()
            await found.empty()
            assert found.states() == [(str(key), "pending"), (str(key), "settled")]
            assert len(found.staged()) >= 1
        async with rig(tmp_path, store) as found:
            await found.empty()
            assert store.content[key] == b"other" * 10
            assert [content for _, content in store.puts] == [b"other" * 10]
            assert found.states()[0] == (str(key), "superseded")
            await found.eventually(lambda: not found.staged())

    async def test_while_the_newer_one_settles(self, tmp_path: Path) -> None:
        """An older snapshot joins while the newer one is being settled: its row stays settled, and
        no restart does it again.
        """
        key = index_key("ns", 0)
        async with rig(tmp_path, guarded=False) as found:
            path = found.write(key, b"older" * 10)
            [older] = found.staging.freeze([path])
            path.write_bytes(b"newer" * 10)
            [newer] = found.staging.freeze([path])
            late, job = snapshot_of(key, older), snapshot_of(key, newer)
            settle = found.journal.settle

            async def settling(*args: Any, **kwargs: Any) -> None:
                found.dispatcher.enqueue([late])
                await settle(*args, **kwargs)

            found.journal.settle = settling  # type: ignore[method-assign]
            gate = found.store.gates[key] = anyio.Event()
            await found.journal.add_jobs([job])
            found.dispatcher.enqueue([job])
            await found.until(lambda: key in found.store.waiting)
            await found.journal.add_jobs([late])
            gate.set()
            await found.empty()
            await found.eventually(lambda: not found.dispatcher.departures.unkept)
            assert found.states() == [(str(key), "settled"), (str(key), "superseded")]

    async def test_outdated_not_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is found outdated while the journal cannot be written is known until it says so."""
        logs.expect("journal unavailable")
        key = index_key("ns", 0)
        async with rig(tmp_path, guarded=False, run=False) as found:
            path = found.write(key, b"older" * 10)
            [older] = found.staging.freeze([path])
            path.write_bytes(b"newer" * 10)
            [newer] = found.staging.freeze([path])
            found.work()
            for made in (newer, older):
                if made is older:
                    await no_moves(found, monkeypatch)
                job = snapshot_of(key, made)
                await found.journal.add_jobs([job])
                found.dispatcher.enqueue([job])
                await found.empty()
            departures = found.dispatcher.departures
            await found.eventually(lambda: departures.unkept == 1 and not found.running)
            assert len(found.staged()) == 1
            monkeypatch.undo()
            await found.eventually(lambda: not departures.unkept)
            assert found.states() == [(str(key), "settled"), (str(key), "superseded")]
            assert found.staged() == []

    async def test_gone_not_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Likewise one that went with its deleted namespace."""
        logs.expect(RETRY, "withdrawn", "journal unavailable")
        async with rig(tmp_path) as found:
            await found.journal.retire("ns")
            found.index(0)
            await no_moves(found, monkeypatch)
            await found.admit(found.sealed(2))
            departures = found.dispatcher.departures
            await found.eventually(lambda: departures.unkept == 1)
            monkeypatch.undo()
            await found.eventually(lambda: not departures.unkept)
            assert ("data/ns/d2", "withdrawn") in found.states()


class TestDeleted:
    async def test_withdrawn(self, tmp_path: Path, logs: Logs) -> None:
        """A job that is given up is closed with its reason, its snapshot removed."""
        logs.expect("withdrawn")
        async with rig(tmp_path, run=False) as found:
            job = await frozen(found, index_key("ns", 0), b"x" * 50)
            await found.dispatcher.departures.withdraw(job, "zdb deleted the namespace")
            assert len(found.scheduler) == 0
            assert found.staged() == []
            assert found.rows("SELECT state, error FROM jobs") == [
                ("withdrawn", "zdb deleted the namespace")
            ]

    async def test_while_it_runs(self, tmp_path: Path) -> None:
        """What is being stored when its namespace is deleted counts as of the deleted one: the next
        namespace of that name is not in conflict with it.
        """
        async with rig(tmp_path) as found:
            key = index_key("ns", 0)
            gate = found.store.gates[key] = anyio.Event()
            await frozen(found, key, b"old" * 50)
            await found.until(lambda: key in found.store.waiting)
            await found.dispatcher.departures.disown("ns", "zdb deleted the namespace")
            await found.journal.retire("ns")
            gate.set()
            await found.empty()
            assert await found.ledger() == {}
            await frozen(found, key, b"0" * 29)
            await found.empty()
            assert found.store.content[key] == b"0" * 29

    async def test_in_one_transaction(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ledger is nobody's from the moment that its jobs are given up: a crash between the two
        would leave a ledger that says of a live file what a put under way has just replaced.
        """
        logs.expect("withdrawn")
        async with rig(tmp_path, run=False) as found:
            key = index_key("ns", 0)
            await found.owe(key)
            entry = LedgerEntry(
                key=key, size_bytes=1, digest=b"d" * 16, stored_at=1.0, sealed=False
            )
            await found.journal.note_found([entry])
            seen: list[tuple[str, bool]] = []
            commit = found.journal._commits._transact

            def transact(batch: Any) -> None:
                commit(batch)
                [(state, retired)] = found.rows(
                    "SELECT state, retired_at IS NOT NULL FROM jobs, ledger"
                )
                seen.append((state, bool(retired)))

            monkeypatch.setattr(found.journal._commits, "_transact", transact)
            await found.dispatcher.departures.disown("ns", "zdb deleted the namespace", retire=True)
            assert seen == [("withdrawn", True)]

    async def test_of_one_that_was_superseded(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that has left the line, and the journal could not be told: a restart would bring it back,
        and it would be stored as of the next namespace of that name.
        """
        logs.expect("withdrawn", "superseding not kept")
        monkeypatch.setattr("hookd.departures.JOURNAL_AGAIN_S", 3600.0)
        async with rig(tmp_path, run=False) as found:
            key = index_key("ns", 0)
            await frozen(found, key, b"older" * 10)

            async def fail(*_: Any) -> None:
                raise JournalUnavailable("disk full")

            with monkeypatch.context() as full:
                full.setattr(found.journal, "supersede", fail)
                await frozen(found, key, b"newer" * 10)
                await found.eventually(lambda: bool(logs.of("superseding not kept")))
            assert [state for _, state in found.states()] == ["pending", "pending"]
            await found.dispatcher.departures.disown("ns", "zdb deleted the namespace", retire=True)
            assert [state for _, state in found.states()] == ["withdrawn", "withdrawn"]

    async def test_told_again_after_a_full_journal(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The shim comes again: what left the line the first time is named by the commit that counts."""
        logs.expect("withdrawn")
        monkeypatch.setattr("hookd.departures.JOURNAL_AGAIN_S", 3600.0)
        async with rig(tmp_path, run=False) as found:
            await frozen(found, index_key("ns", 0), b"x" * 50)
            departures = found.dispatcher.departures

            async def fail(*_: Any) -> None:
                raise JournalUnavailable("disk full")

            with monkeypatch.context() as full:
                full.setattr(found.journal, "withdraw", fail)
                with pytest.raises(JournalUnavailable):
                    await departures.disown("ns", "zdb deleted the namespace", retire=True)
            await departures.disown("ns", "zdb deleted the namespace", retire=True)
            assert [state for _, state in found.states()] == ["withdrawn"]
        async with rig(tmp_path, run=False) as again:
            assert not len(again.scheduler)

    async def test_while_it_runs_and_fails(self, tmp_path: Path, logs: Logs) -> None:
        """If it fails then, it is given up instead of tried again."""
        logs.expect("withdrawn")
        async with rig(tmp_path) as found:
            key = index_key("ns", 0)
            gate = found.store.gates[key] = anyio.Event()
            found.store.wrong = {key}
            await frozen(found, key, b"old" * 50)
            await found.until(lambda: key in found.store.waiting)
            await found.dispatcher.departures.disown("ns", "zdb deleted the namespace")
            gate.set()
            await found.empty()
            assert found.states() == [(str(key), "withdrawn")]


class TestForsaken:
    """Frozen copies that are older than what is stored."""

    @pytest.mark.parametrize("deleted", ["", "before", "after"])
    async def test_ends_as_stored(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, deleted: str
    ) -> None:
        """The store has the very same: that is the live file's, unless its namespace was deleted."""
        logs.allow("kept")
        key = index_key("ns", 0)
        async with rig(tmp_path, guarded=False) as found:
            await proven(found, key, b"entries" * 9)
            real, gate = found.store.stat, anyio.Event()

            async def stat(asked: FileKey) -> Remote | None:
                await gate.wait()
                return await real(asked)

            monkeypatch.setattr(found.store, "stat", stat)
            job = await frozen(found, key, b"entries" * 9)
            await found.eventually(lambda: found.running == 1 and job.digest is not None)
            departures, ended = found.dispatcher.departures, list[bool]()
            for step in ("before", "forsake", "after"):
                if step == "forsake":
                    await departures.forsake("the journal was set back")
                elif step == deleted:
                    await departures.disown(
                        "ns", "deleted", retire=True, ended=lambda: ended.append(True)
                    )
            gate.set()
            await found.empty()
            await found.eventually(lambda: not found.running)
            assert set(await found.ledger()) == (set() if deleted else {key})
            assert found.scheduler.is_remote(key) == (not deleted)
            assert ended == ([True] if deleted else [])
            assert found.store.puts == []

    async def test_killed_before_the_copies_are_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rows still owe them then; and once the rows do not, they lie in `orphaned/`."""
        logs.expect("withdrawn", "kept")
        async with rig(tmp_path, run=False) as found:
            await frozen(found, index_key("ns", 0), b"small" * 9)
            await frozen(found, data_key("ns", 0), b"large" * 99_999)
            staged = found.staged()

            def killed(_: object) -> None:
                raise Killed

            monkeypatch.setattr(found.staging, "keep", killed)
            with pytest.raises(Killed):
                await found.dispatcher.departures.forsake("the journal was set back")
            assert [state for _, state in found.states()] == ["pending", "pending"]
        async with rig(tmp_path, run=False) as again:
            assert again.staged() == staged
            move = again.journal.move

            async def moved(*arguments: Any) -> None:
                await move(*arguments)
                raise Killed

            monkeypatch.setattr(again.journal, "move", moved)
            with pytest.raises(Killed):
                await again.dispatcher.departures.forsake("the journal was set back")
        async with rig(tmp_path, run=False) as last:
            assert not len(last.scheduler)
            assert sorted(kept(tmp_path)) == [b"large" * 99_999, b"small" * 9]

    async def test_cannot_be_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They stay in line: who takes the store over has to ask again."""
        logs.expect("withdrawn", "kept")
        monkeypatch.setattr("hookd.departures.JOURNAL_AGAIN_S", 0.01)
        async with rig(tmp_path, run=False) as found:
            await frozen(found, index_key("ns", 0), b"small" * 9)
            departures = found.dispatcher.departures

            def full(_: object) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as disk:
                disk.setattr(found.staging, "keep", full)
                for _ in range(2):
                    with pytest.raises(JournalUnavailable):
                        await departures.forsake("the journal was set back")
                assert len(found.scheduler) == 1
                assert not any(departures.is_forsaken(job) for job in found.scheduler)
                assert departures.unkept == 0
                assert [state for _, state in found.states()] == ["pending"]
            await departures.forsake("the journal was set back")
            assert not len(found.scheduler)
            assert [state for _, state in found.states()] == ["withdrawn"]
            assert kept(tmp_path) == [b"small" * 9]

    async def test_under_way_at_a_kill(self, tmp_path: Path, logs: Logs) -> None:
        """One that runs is not owed after it either: it would go over what is stored."""
        logs.expect("kept")
        async with rig(tmp_path, guarded=False) as found:
            key = index_key("ns", 0)
            found.store.gates[key] = anyio.Event()
            await frozen(found, key, b"older" * 9)
            await found.until(lambda: key in found.store.waiting)
            await found.dispatcher.departures.forsake("the journal was set back")
        async with rig(tmp_path, run=False) as again:
            assert not len(again.scheduler)
            assert kept(tmp_path) == [b"older" * 9]


def kept(folder: Path) -> list[bytes]:
    """What lies in `orphaned/`."""
    return [path.read_bytes() for path in (folder / "staging" / ORPHANED).glob("*/*")]


class TestGoneWithItsNamespace:
    """The event of a file comes after the deletion of its namespace."""

    async def test_is_given_up(self, tmp_path: Path, logs: Logs) -> None:
        """Nobody has the file any more, and nobody will: it holds up nothing for ever."""
        logs.expect(RETRY, "withdrawn")
        async with rig(tmp_path) as found:
            await found.journal.retire("ns")
            found.index(0)
            found.data(0)
            await found.admit(found.sealed(2))
            await found.empty()
            assert ("data/ns/d2", "withdrawn") in found.states()

    async def test_deleted_while_that_is_asked(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deletion is heard of in the very moment: it is given up, not kept for a decision."""
        logs.expect(RETRY, "withdrawn")
        async with rig(tmp_path) as found:
            departures = found.dispatcher.departures

            async def asked(job: Job) -> bool:
                await departures.disown(job.key.namespace, "deleted", retire=True)
                return False

            monkeypatch.setattr(departures, "went_with_it", asked)
            job = await found.owe(data_key("ns", 2), sealed=True)
            await found.empty()
            assert found.states() == [(str(job.key), "withdrawn")]

    async def test_not_without_a_deletion(self, tmp_path: Path, logs: Logs) -> None:
        """Else somebody has lost a file: that stays to be seen."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            found.index(0)
            job = await found.owe(data_key("ns", 2), sealed=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)

    async def test_not_below_what_is_here(self, tmp_path: Path, logs: Logs) -> None:
        """The namespace on disk has had a file of that number."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            await found.journal.retire("ns")
            found.index(3)
            job = await found.owe(data_key("ns", 2), sealed=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
