"""Dispatcher: what is settled is proven, what fails stays, and a store in trouble is not stormed."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.attempt import _classified
from hookd.departures import Disowned
from hookd.digest import digest_of
from hookd.entries import HEADER_BYTES
from hookd.errors import (
    JournalUnavailable,
    NoRoom,
    PathRefused,
    SourceGone,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.files import FileKey, data_key, index_key, namespace_key
from hookd.journal import Job, JobState, LedgerEntry
from hookd.stores.base import Remote
from hookd.wire import Answer
from tests.conftest import Logs
from tests.fakes.audits import data_bytes, index_bytes
from tests.fakes.disk import fill, small_disk
from tests.fakes.owed import frozen, proven
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

DOWN = "store is down"
BACK = "store is back"
RETRY = "will retry"
QUARANTINED = "quarantined"
UNANNOUNCED = "no hook announced it"


class TestStored:
    async def test_live_file(self, tmp_path: Path) -> None:
        """A sealed data file ends in the store and in the ledger, with our checksum."""
        async with rig(tmp_path) as found:
            key = found.data(0)
            job = await found.owe(key, sealed=True)
            await found.empty()
            assert found.store.content[key] == found.live(key)
            entry = (await found.ledger())[key]
            assert (entry.digest, entry.sealed) == (digest_of(found.live(key)), True)
            assert (entry.size_bytes, entry.job) == (len(found.live(key)), job.id)
            assert job.state is JobState.SETTLED
            assert found.dispatcher.counts.settled_bytes == entry.size_bytes

    async def test_snapshot(self, tmp_path: Path) -> None:
        """A snapshot is stored as it was frozen, whatever became of the live file, then removed."""
        async with rig(tmp_path, run=False) as found:
            await frozen(found, index_key("ns", 0), b"as it was")
            found.index(0, b"rewritten")
        async with rig(tmp_path) as found:
            await found.empty()
            assert found.store.content == {index_key("ns", 0): b"as it was"}
            await found.eventually(lambda: not found.staged())
            assert found.staging.size_bytes == 0

    async def test_store_that_proves_its_copies(self, tmp_path: Path) -> None:
        """A sealed file is not hashed first for such a store; the ledger has the store's digest."""
        store = MemoryStore(proves_copies=True)
        async with rig(tmp_path, store) as found:
            key = found.data(0)
            await found.owe(key, sealed=True)
            await found.empty()
            assert (await found.ledger())[key].digest == digest_of(found.live(key))

    async def test_several_at_once(self, tmp_path: Path) -> None:
        """As many puts run together as the store takes, never more, whatever the workers."""
        store = MemoryStore(concurrency=3)
        async with rig(tmp_path, store, workers=8) as found:
            gate = anyio.Event()
            keys = [found.data(number) for number in range(8)]
            store.gates = dict.fromkeys(keys, gate)
            for key in keys:
                await found.owe(key, sealed=True)
            await found.until(lambda: len(store.of("put")) == 3)
            gate.set()
            await found.empty()
            assert store.at_once == 3

    async def test_one_pass_more_than_the_store_takes(self, tmp_path: Path) -> None:
        """A serial store gets one file after the other; the next one is only hashed meanwhile."""
        async with rig(tmp_path, workers=4) as found:
            keys = [found.data(number) for number in range(6)]
            gates = found.store.gates = {key: anyio.Event() for key in keys}
            for key in keys:
                await found.owe(key, sealed=True)
            for _ in keys:
                await found.until(lambda: bool(found.store.waiting))
                running = [job.key for job in found.scheduler if job.state is JobState.RUNNING]
                assert len(running) <= 2
                [stored] = found.store.waiting
                gates[stored].set()
                await found.until(lambda: stored not in found.store.waiting)  # noqa: B023 awaited here
            await found.empty()
            assert {key for key, _ in found.store.puts} == set(keys)
            assert found.store.at_once == 1

    async def test_there_already(self, tmp_path: Path) -> None:
        """What a scan found and the store has is settled without being sent again."""
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.content[key] = found.live(key)
            await found.owe(key, sealed=True, ask_first=True)
            await found.empty()
            assert found.store.puts == []
            assert key in await found.ledger()
            assert found.dispatcher.already_there == 1

    async def test_there_with_other_content(self, tmp_path: Path) -> None:
        """What the store has otherwise is replaced: without a ledger the local file counts."""
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.content[key] = b"older"
            await found.owe(key, sealed=True, ask_first=True)
            await found.empty()
            assert found.store.content[key] == found.live(key)

    async def test_same_content_again(self, tmp_path: Path) -> None:
        """A file that the ledger has is asked for first; if the store lost it, it is sent again."""
        async with rig(tmp_path) as found:
            key = namespace_key("ns")
            await proven(found, key, b"descriptor")
            await frozen(found, key, b"descriptor")
            await found.empty()
            assert found.store.puts == []
            del found.store.content[key]
            await frozen(found, key, b"descriptor")
            await found.empty()
            assert found.store.content[key] == b"descriptor"

    async def test_order_of_a_jump(self, tmp_path: Path) -> None:
        """dN, then iN, then the older indexes rewritten to point into it (promise 6)."""
        store = MemoryStore(concurrency=8)
        async with rig(tmp_path, store, workers=8) as found:
            for number in range(4):
                found.index(number)
                key = found.data(number)
                await proven(found, key, found.live(key) if number < 3 else b"")
            await found.admit(found.jumped(3, "0 1 2"))
            await found.admit(found.sealed(3))
            await found.empty()
            order = [str(key) for key, _ in store.puts]
            assert order[:2] == ["data/ns/d3", "index/ns/i3"]
            assert sorted(order[2:]) == ["index/ns/i0", "index/ns/i1", "index/ns/i2"]


class TestProof:
    @pytest.mark.parametrize("switch", ["lies", "wrong"])
    async def test_not_what_was_given(self, tmp_path: Path, logs: Logs, switch: str) -> None:
        """A store that keeps nothing, or something else, settles nothing; once it does, all is well."""
        logs.expect(RETRY)
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.lies = switch == "lies"
            found.store.wrong = {key} if switch == "wrong" else set()
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.attempts >= 3)
            assert await found.ledger() == {}
            assert job.error_class == "checksum"
            assert found.scheduler.get(job.id) is job
            found.store.lies, found.store.wrong = False, set()
            await found.empty()
            assert found.store.content[key] == found.live(key)

    async def test_same_digest_other_size(self, tmp_path: Path, logs: Logs) -> None:
        """A size that the store knows must be ours too."""
        logs.expect(RETRY)
        async with rig(tmp_path, guarded=False) as found:
            key = found.data(0)
            real = found.store.stat

            async def stat(asked: FileKey) -> Any:
                answer = await real(asked)
                assert answer is not None
                return Remote(answer.digest, (answer.size_bytes or 0) + 1)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(found.store, "stat", stat)
                job = await found.owe(key, sealed=True)
                await found.until(lambda: job.error_class == "checksum")
            await found.empty()

    async def test_size_unknown(self, tmp_path: Path) -> None:
        """A store without sizes proves by digest alone."""
        async with rig(tmp_path) as found:
            found.store.knows_sizes = False
            key = found.data(0)
            await found.owe(key, sealed=True)
            await found.empty()
            assert key in await found.ledger()

    async def test_grows_while_it_is_stored(self, tmp_path: Path, logs: Logs) -> None:
        """A live file that grew meanwhile is stored again, whole."""
        logs.expect(RETRY)
        async with rig(tmp_path) as found:
            key = found.data(0)
            gate = found.store.gates[key] = anyio.Event()
            job = await found.owe(key, sealed=True)
            await found.until(lambda: key in found.store.waiting)
            with found.roots.path(key).open("ab") as file:
                file.write(b"more")
            gate.set()
            await found.empty()
            assert found.store.content[key] == found.live(key)
            assert found.live(key).endswith(b"more")
            assert job.attempts >= 2
            assert (await found.ledger())[key].size_bytes == len(found.live(key))

    async def test_changes_between_hash_and_put(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A live file that is not what was hashed is named as changed, and stored again."""
        logs.expect(RETRY)
        async with rig(tmp_path) as found:
            key = found.data(0, b"a" * 100)
            real = found.store.put
            first = True

            async def put(asked: FileKey, source: Path, digest: bytes | None) -> None:
                nonlocal first
                if first:
                    first = False
                    source.write_bytes(b"b" * 100)
                await real(asked, source, digest)

            monkeypatch.setattr(found.store, "put", put)
            await found.owe(key, sealed=True)
            await found.empty()
            assert found.dispatcher.counts.errors == {"changed": 1}
            assert found.store.content[key] == b"b" * 100

    async def test_removed_after_it_was_stored(self, tmp_path: Path) -> None:
        """A live file that goes once it is stored does no harm."""
        async with rig(tmp_path) as found:
            key = found.data(0)
            content = found.live(key)
            gate = found.store.gates[key] = anyio.Event()
            await found.owe(key, sealed=True)
            await found.until(lambda: key in found.store.waiting)
            found.roots.path(key).unlink()
            gate.set()
            await found.empty()
            assert (await found.ledger())[key].digest == digest_of(content)


class TestFailures:
    async def test_temporary(self, tmp_path: Path, logs: Logs) -> None:
        """A temporary error is tried again for ever, with its count and text kept in the journal."""
        logs.expect(RETRY)
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.refuse[key] = StoreTemporary("put", key, "busy")
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.attempts == 6)
            assert job.state is not JobState.QUARANTINED
            [(error_class, error)] = found.rows("SELECT error_class, error FROM jobs")
            assert (error_class, error) == ("temporary", "put data/ns/d0: busy")
            found.store.refuse.clear()
            await found.empty()
            assert found.rows("SELECT error, error_class FROM jobs") == [(None, None)]

    async def test_others_go_on(self, tmp_path: Path, logs: Logs) -> None:
        """A file in trouble holds up nobody else."""
        logs.expect(RETRY)
        async with rig(tmp_path) as found:
            bad = found.data(0)
            found.store.refuse[bad] = StoreTemporary("put", bad, "busy")
            await found.owe(bad, sealed=True)
            for number in range(1, 6):
                await found.owe(found.data(number), sealed=True)
            await found.until(lambda: len(found.scheduler) == 1)
            assert len(found.store.content) == 5

    async def test_permanent(self, tmp_path: Path, logs: Logs) -> None:
        """The third permanent error in a row quarantines: zdb may be between unlinking and naming."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.refuse[key] = StorePermanent("put", key, "no")
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.state is JobState.QUARANTINED and not found.running)
            assert len(found.store.of("put")) == 3
            assert found.states() == [("data/ns/d0", "quarantined")]
            assert found.scheduler.stuck()
            found.store.refuse.clear()
            await found.dispatcher.retry(job)
            await found.empty()
            assert key in await found.ledger()

    async def test_permanent_after_an_outage(self, tmp_path: Path, logs: Logs) -> None:
        """Temporary errors before do not count: three *permanent* ones in a row it takes."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.refuse[key] = StoreTemporary("put", key, "busy")
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.attempts >= 10)
            found.store.refuse[key] = StorePermanent("put", key, "no")
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert found.dispatcher.counts.errors["permanent"] == 3

    async def test_file_gone(self, tmp_path: Path, logs: Logs) -> None:
        """A file that is gone is quarantined, visibly, after three looks."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            job = await found.owe(data_key("ns", 0), sealed=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error_class == SourceGone.error_class
            assert found.store.calls == []

    async def test_snapshot_gone(self, tmp_path: Path, logs: Logs) -> None:
        """Likewise a snapshot that somebody removed."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path, run=False) as found:
            job = await frozen(found, index_key("ns", 0), b"x" * 100)
            assert job.staged is not None
            found.staging.path(job.staged).unlink()
            found.work()
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error is not None
            assert "snapshot" in job.error

    @pytest.mark.parametrize("freeze", [False, True])
    @pytest.mark.parametrize("proves_copies", [False, True])
    async def test_link_in_its_place(
        self, tmp_path: Path, logs: Logs, freeze: bool, proves_copies: bool
    ) -> None:
        """A link in a file's place is never stored, and does not keep a drain waiting for ever."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path, MemoryStore(proves_copies=proves_copies)) as found:
            (tmp_path / "secret").write_text("s")
            key = data_key("ns", 0)
            found.roots.path(key).parent.mkdir()
            found.roots.path(key).symlink_to(tmp_path / "secret")
            job = await found.owe(key, freeze=freeze, sealed=not freeze)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert found.store.content == {}

    async def test_fault_of_ours(self, tmp_path: Path, logs: Logs) -> None:
        """A bug that shows with one file is logged with it; the file stays, the others go on."""
        logs.expect("internal error", RETRY)
        async with rig(tmp_path) as found:
            bad, good = found.data(0), found.data(1)
            found.store.refuse[bad] = ValueError("bug")  # type: ignore[assignment]
            job = await found.owe(bad, sealed=True)
            await found.owe(good, sealed=True)
            await found.until(lambda: len(found.scheduler) == 1 and job.error is not None)
            assert good in found.store.content
            found.store.refuse.clear()
            await found.empty()

    async def test_fault_where_it_is_settled(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does a bug outside the store end the dispatcher."""
        logs.expect("internal error")
        async with rig(tmp_path) as found:
            real = found.journal.settle
            calls = 0

            async def settle(*args: Any, **options: Any) -> None:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise ValueError("bug")
                await real(*args, **options)

            monkeypatch.setattr(found.journal, "settle", settle)
            job = await found.owe(found.data(0), sealed=True)
            await found.until(lambda: job.place == "later")
            found.scheduler.hurry()
            found.dispatcher.wake()
            await found.empty()
            assert calls == 2


class TestStoreDown:
    async def test_one_probe_at_a_time_and_rotating(self, tmp_path: Path, logs: Logs) -> None:
        """While the store is down one file at a time tries, and each time another one."""
        logs.expect(DOWN, BACK)
        store = MemoryStore(concurrency=4)
        pauses: dict[str, Any] = {"backoff_s": 0.03, "backoff_cap_s": 0.03}
        async with rig(tmp_path, store, guarded=False, **pauses) as found:
            store.down = "no route"
            keys = [found.data(number) for number in range(12)]
            for key in keys:
                await found.owe(key, sealed=True)
            await found.until(lambda: found.dispatcher.store_state.failures >= 6)
            store.at_once = 0
            began = len(store.calls)
            await found.until(lambda: len(store.calls) >= began + 8)
            assert store.at_once <= 1
            probes = store.of("put")[began : began + 8]
            assert all(one != other for one, other in itertools.pairwise(probes))
            assert found.dispatcher.store_state.last_error is not None
            store.down = None
            await found.empty()
            state = found.dispatcher.store_state
            assert (state.down_since, state.failures, state.last_error) == (None, 0, None)
            assert len(await found.ledger()) == 12

    async def test_one_bad_file_does_not_look_like_an_outage(
        self, tmp_path: Path, logs: Logs
    ) -> None:
        """A file that brings the store down at each try does not keep the others from being stored."""
        logs.expect(DOWN, BACK)
        async with rig(tmp_path) as found:
            bad = found.data(0)
            found.store.refuse[bad] = StoreUnreachable("put", bad, "crashed")
            job = await found.owe(bad, sealed=True)
            for number in range(1, 10):
                await found.owe(found.data(number), sealed=True)
            await found.until(lambda: len(found.scheduler) == 1)
            assert job.state is not JobState.QUARANTINED
            assert len(found.store.content) == 9

    async def test_no_answer(self, tmp_path: Path, logs: Logs) -> None:
        """A store that never answers is down after the file's time limit."""
        logs.expect(DOWN, BACK)
        async with rig(tmp_path, time_limit_s=0.05) as found:
            found.store.hang = {"put"}
            key = found.data(0)
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.error_class == "unreachable")
            assert job.error is not None
            assert "no answer" in job.error
            found.store.hang = set()
            await found.empty()
            assert found.store.content[key] == found.live(key)

    async def test_back(self, tmp_path: Path, logs: Logs) -> None:
        """When it is back, those that failed with it go at once, not after their long backoff."""
        logs.expect(DOWN, BACK)
        async with rig(tmp_path) as found:
            found.store.down = "no route"
            jobs = [await found.owe(found.data(number), sealed=True) for number in range(4)]
            await found.until(lambda: all(job.error for job in jobs[:2]) and not found.running)
            found.dispatcher.paused = True
            await found.until(lambda: not found.running)
            for job in jobs[:2]:
                found.scheduler.again_at(job, time.monotonic() + 1000)
                job.attempts = 1
            found.store.down = None
            found.dispatcher.paused = False
            found.dispatcher.wake()
            await found.empty()

    async def test_paused(self, tmp_path: Path) -> None:
        """Paused nothing begins; resumed it goes on."""
        async with rig(tmp_path) as found:
            found.dispatcher.paused = True
            await found.owe(found.data(0), sealed=True)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert found.store.calls == []
            found.dispatcher.paused = False
            found.dispatcher.wake()
            await found.empty()

    async def test_idle_costs_nothing(self, tmp_path: Path, logs: Logs) -> None:
        """Paused, or with every worker busy, a due retry is no reason to spin."""
        logs.expect(RETRY)
        async with rig(tmp_path, workers=1) as found:
            busy, failing = found.data(0), found.data(1)
            gate = found.store.gates[busy] = anyio.Event()
            found.store.refuse[failing] = StoreTemporary("put", failing, "busy")
            job = await found.owe(failing, sealed=True)
            await found.until(lambda: job.attempts >= 1)
            await found.owe(busy, sealed=True)
            await found.until(lambda: found.store.calls[-1] == ("put", busy))
            found.scheduler.release(job)
            assert found.dispatcher._sleep_s() == 60.0
            found.dispatcher.paused = True
            gate.set()
            await found.until(lambda: not found.running)
            assert found.dispatcher._sleep_s() == 60.0
            found.store.refuse.clear()
            found.dispatcher.paused = False
            found.dispatcher.wake()
            await found.empty()

    async def test_hurry(self, tmp_path: Path, logs: Logs) -> None:
        """A drain ends every long wait: of the store as a whole and of each file."""
        logs.expect(DOWN, BACK, RETRY)
        async with rig(tmp_path, backoff_s=1000.0, backoff_cap_s=1000.0) as found:
            failing, down = found.data(0), found.data(1)
            found.store.refuse[failing] = StoreTemporary("put", failing, "busy")
            found.store.refuse[down] = StoreUnreachable("put", down, "no route")
            jobs = [await found.owe(failing, sealed=True), await found.owe(down, sealed=True)]
            await found.until(lambda: all(job.error is not None for job in jobs))
            found.store.refuse.clear()
            with anyio.move_on_after(0.05):
                await found.empty()
            assert len(found.scheduler) == 2
            found.dispatcher.hurry()
            await found.empty()


class TestConflict:
    """Promise 4: nothing older, bogus or blank goes over something good."""

    async def refused(self, found: Rig, job: Job, good: bytes) -> None:
        await found.until(lambda: job.state is JobState.QUARANTINED)
        assert job.error_class == "conflict"
        assert found.store.content[job.key] == good
        assert found.store.puts == []
        assert (await found.ledger())[job.key].digest == digest_of(good)

    async def test_sealed_with_other_content(self, tmp_path: Path, logs: Logs) -> None:
        """A sealed file is stored once; other content under its name is for a person to decide."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path) as found:
            await proven(found, data_key("ns", 0), b"good" * 10, sealed=True)
            job = await found.owe(found.data(0, b"evil" * 20), sealed=True)
            await self.refused(found, job, b"good" * 10)

    async def test_sealed_says_the_event_but_zdb_appends(self, tmp_path: Path) -> None:
        """A late jump-data of a deleted namespace names the active file of its successor: what is
        stored of it is not its final content.
        """
        async with rig(tmp_path) as found:
            found.index(0)
            key = found.data(0, b"d" * 40)
            assert await found.admit(found.sealed(0)) == Answer(0, "")
            await found.empty()
            assert found.store.content[key] == b"d" * 40
            assert not (await found.ledger())[key].sealed
            full = b"d" * 90
            found.data(0, full)
            found.index(1)
            found.data(1)
            assert await found.admit(found.sealed(0)) == Answer(0, "")
            await found.empty()
            assert found.store.content[key] == full
            assert (await found.ledger())[key].sealed

    @pytest.mark.parametrize("size", [30, 99])
    async def test_shorter(self, tmp_path: Path, logs: Logs, size: int) -> None:
        """zdb's files only grow: a shorter one is older or bogus."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path) as found:
            await proven(found, index_key("ns", 0), b"g" * 100)
            job = await frozen(found, index_key("ns", 0), b"x" * size)
            await self.refused(found, job, b"g" * 100)

    async def test_of_the_same_length(self, tmp_path: Path) -> None:
        """An index rewritten in place keeps its length and is stored."""
        async with rig(tmp_path, guarded=False) as found:
            await proven(found, index_key("ns", 0), b"g" * 100)
            await frozen(found, index_key("ns", 0), b"h" * 100)
            await found.empty()
            assert found.store.content[index_key("ns", 0)] == b"h" * 100

    async def test_descriptor_may_shrink(self, tmp_path: Path) -> None:
        """The descriptor is rewritten whole: a shorter password is a shorter file."""
        async with rig(tmp_path) as found:
            await proven(found, namespace_key("ns"), b"long password")
            await frozen(found, namespace_key("ns"), b"short")
            await found.empty()
            assert found.store.content[namespace_key("ns")] == b"short"

    async def test_blank(self, tmp_path: Path, logs: Logs) -> None:
        """A header alone never replaces content, also when no ledger knows of it."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, guarded=False) as found:
            for key, header in ((index_key("ns", 0), 29), (data_key("ns", 0), 28)):
                found.store.content[key] = b"good" * 10
                job = await frozen(found, key, b"0" * header)
                await found.until(lambda job=job: job.state is JobState.QUARANTINED)  # type: ignore[misc]
                assert found.store.content[key] == b"good" * 10

    async def test_blank_where_nothing_is(self, tmp_path: Path) -> None:
        """The files of a new namespace are stored, blank as they are."""
        async with rig(tmp_path) as found:
            await frozen(found, index_key("ns", 0), b"0" * 29)
            await found.empty()
            assert found.store.content[index_key("ns", 0)] == b"0" * 29

    async def test_blank_after_a_deletion(self, tmp_path: Path) -> None:
        """A namespace that zdb deleted may begin anew under its name, blank, shorter and sealed."""
        async with rig(tmp_path) as found:
            keys = [index_key("ns", 0), data_key("ns", 0)]
            for key in keys:
                await proven(found, key, b"good" * 10, sealed=True)
            await found.journal.retire("ns")
            await frozen(found, keys[0], b"0" * 29)
            found.data(0, b"short")
            await found.owe(keys[1], sealed=True)
            await found.empty()
            assert found.store.content == {keys[0]: b"0" * 29, keys[1]: b"short"}

    async def test_a_shorter_file_does_not_cost_the_snapshot(
        self, tmp_path: Path, logs: Logs
    ) -> None:
        """A blank file that zdb made where one was lost does not replace the snapshot of that one."""
        logs.expect(QUARANTINED, DOWN, BACK)
        async with rig(tmp_path) as found:
            found.store.down = "no route"
            key = index_key("ns", 0)
            good = await frozen(found, key, b"good" * 10)
            await found.until(lambda: good.attempts > 0)
            blank = await frozen(found, key, b"0" * 29)
            found.store.down = None
            await found.until(lambda: blank.state is JobState.QUARANTINED)
            assert found.store.content[key] == b"good" * 10
            assert key in await found.ledger()


class TestHeld:
    async def test_live_files(self, tmp_path: Path, logs: Logs) -> None:
        """Of a held namespace no live file is read or stored; released it is."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path) as found:
            found.held["ns"] = "half of it is gone"
            other = found.data(0, ns="other")
            job = await found.owe(found.data(0), sealed=True)
            late = await found.owe(found.index(0), freeze=True)
            await found.owe(other, sealed=True)
            await found.until(
                lambda: (
                    job.state is late.state is JobState.QUARANTINED and other in found.store.content
                )
            )
            assert job.error_class == "held"
            assert list(found.store.content) == [other]
            found.held.clear()
            await found.dispatcher.retry(job)
            await found.dispatcher.retry(late)
            await found.empty()

    async def test_snapshots_made_before(self, tmp_path: Path) -> None:
        """A snapshot made before it was held is of good files, and is stored."""
        async with rig(tmp_path) as found:
            found.held["ns"] = "x"
            await frozen(found, index_key("ns", 0), b"good" * 10)
            await found.empty()
            assert found.store.content == {index_key("ns", 0): b"good" * 10}


class TestUnheardDeletion:
    """A namespace was deleted and made anew, and nobody said so."""

    async def test_does_not_mix(self, tmp_path: Path, logs: Logs) -> None:
        """An index of the new one does not go beside a data file of the old one, however long that is."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path) as found:
            await proven(found, data_key("ns", 0), b"old values" * 50, sealed=True)
            await proven(found, index_key("ns", 0), b"old entries", sealed=False)
            found.data(0, b"new values" * 20)
            found.index(1)
            key = found.index(0, b"new entries" * 5)
            await found.admit(found.jumped(0))
            [job] = found.scheduler
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert (job.error_class, found.store.content[key]) == ("conflict", b"old entries")

    async def test_longer_than_its_predecessors(self, tmp_path: Path, logs: Logs) -> None:
        """Nor do its files go over the first ones of the old one, with the last ones of that behind."""
        logs.expect(QUARANTINED, "withdrawn")
        async with rig(tmp_path) as found:
            for number in range(2):
                await proven(found, data_key("ns", number), b"old values", sealed=not number)
                await proven(found, index_key("ns", number), b"old entries")
            found.data(0, b"new values" * 20)
            found.index(0, b"new entries" * 5)
            await found.admit(found.closing(0))
            await found.until(
                lambda: [j.place for j in found.scheduler] == ["quarantined", "waiting"]
            )
            assert found.store.puts == []
            await found.dispatcher.departures.disown("ns", "zdb deleted the namespace", retire=True)

    async def test_a_longer_data_file_of_its_own(self, tmp_path: Path, logs: Logs) -> None:
        """Nor does an index go beside a sealed data file that is shorter in the store: it never grows."""
        logs.expect(UNANNOUNCED, QUARANTINED, "withdrawn")
        async with rig(tmp_path) as found:
            await proven(found, data_key("ns", 0), data_bytes(0, 3), sealed=True)
            await proven(found, index_key("ns", 0), index_bytes(0, values=3))
            await proven(found, index_key("ns", 1), index_bytes(1, values=0))
            found.data(0, data_bytes(0, 9))
            found.index(0, index_bytes(0, values=9))
            found.index(1, index_bytes(1, values=0))
            await found.admit(found.jumped(0))
            await found.until(
                lambda: [j.place for j in found.scheduler] == ["waiting", "quarantined"]
            )
            assert found.store.puts == []
            [_, refused] = found.scheduler
            assert await found.dispatcher.departures.withdraw(refused, "skipped")
            await found.until(lambda: [j.place for j in found.scheduler] == ["quarantined"])
            assert found.store.puts == []  # that nobody wants it makes the other one no better

    async def test_snapshots_of_a_lost_disk(self, tmp_path: Path) -> None:
        """They hold what the store does not have yet, and nothing on disk speaks against them."""
        async with rig(tmp_path) as found:
            await proven(found, index_key("ns", 1), b"entries")
            key = data_key("ns", 1)
            await frozen(found, key, b"values" * 20)
            found.roots.path(key).unlink()
            await found.empty()
            assert found.store.content[key] == b"values" * 20

    async def test_the_local_files_are_taken(self, tmp_path: Path, logs: Logs) -> None:
        """What an administrator can do: the new one's files go over the old one's."""
        logs.expect(QUARANTINED, "local files are taken")
        async with rig(tmp_path) as found:
            await proven(found, data_key("ns", 0), b"old values" * 50, sealed=True)
            await proven(found, index_key("ns", 0), b"old entries", sealed=False)
            found.index(1, b"1" * HEADER_BYTES)  # zdb has just made it, and is about to make d1
            files = {found.data(0, b"new" * 20), found.index(0, b"new entries" * 5)}
            await found.admit(found.sealed(0))
            await found.admit(found.jumped(0))
            await found.until(
                lambda: all(j.place == "quarantined" for j in found.scheduler.of(data_key("ns", 0)))
            )
            assert await found.survey.claim.take_local_now("ns") == ["ns"]
            for job in list(found.scheduler):
                await found.dispatcher.retry(job)
            await found.empty()
            assert {key: found.store.content[key] for key in files} == {
                key: found.live(key) for key in files
            }


class TestUnannounced:
    """Data files whose own event was lost with its shim, or still lies in the spool."""

    async def jumped(self, found: Rig, *, stored: tuple[int, ...] = ()) -> None:
        """i2 was announced, and d2; of d0 and d1 only those in `stored` are remote."""
        found.index(2)
        for number in range(3):
            found.data(number)
        for number in stored:
            key = data_key("ns", number)
            await proven(found, key, found.live(key), sealed=True)
        await found.admit(found.jumped(2))
        await found.admit(found.sealed(2))

    async def test_of_a_deleted_namespace(self, tmp_path: Path, logs: Logs) -> None:
        """Files under the names that an index of a deleted namespace needs are another namespace's."""
        logs.expect("withdrawn")
        async with rig(tmp_path, run=False) as found:
            for number in range(2):
                found.index(number)
                found.data(number)
            await proven(found, data_key("ns", 1), found.live(data_key("ns", 1)), sealed=True)
            await found.admit(found.jumped(1))
            [job] = found.scheduler
            found.dispatcher.departures._disowned[job.id] = Disowned(
                "zdb deleted the namespace", lambda: None
            )
            found.work()
            await found.empty()
            assert found.states()[1:] == [(str(job.key), "withdrawn")]

    async def test_an_older_index(self, tmp_path: Path, logs: Logs) -> None:
        """Without it nothing of a newer one is served after a restore: it is in line before that."""
        logs.expect(UNANNOUNCED)
        async with rig(tmp_path) as found:
            found.index(0)
            found.index(1)
            await self.jumped(found, stored=(0, 1))
            await found.empty()
            names = [key.name for key, _ in found.store.puts]
            assert sorted(names) == ["d2", "i0", "i1", "i2"]

    async def test_an_older_index_that_cannot_be_stored(self, tmp_path: Path, logs: Logs) -> None:
        """The newer ones wait for it, in the order of their numbers; skipped, they go, and it is not put
        in line again.
        """
        logs.expect(UNANNOUNCED, RETRY, QUARANTINED, "withdrawn")
        async with rig(tmp_path) as found:
            bad = index_key("ns", 0)
            found.store.refuse[bad] = StorePermanent("put", bad, "no")
            for number in range(2):
                found.index(number, index_bytes(number, values=2))
            await self.jumped(found, stored=(0, 1))
            await found.until(lambda: found.scheduler.stuck() and not found.running)
            assert [key.name for key, _ in found.store.puts if key != bad] == ["d2"]
            [job] = found.scheduler.of(bad)
            assert job.state is JobState.QUARANTINED
            [waiting] = found.scheduler.of(index_key("ns", 1))
            assert found.scheduler.waits_for(waiting) == bad
            await found.dispatcher.departures.withdraw(job, "skipped")
            await found.empty()
            assert [key.name for key, _ in found.store.puts if key != bad] == ["d2", "i1", "i2"]
            assert bad not in found.store.content

    async def test_an_older_index_joins_late(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One whose event comes while the newer one is being read goes first all the same."""
        async with rig(tmp_path) as found:
            for number in range(2):
                found.index(number, index_bytes(number, values=2))
                key = found.data(number)
                await proven(found, key, found.live(key), sealed=True)
            find, began, go = found.journal.find_ledger, anyio.Event(), anyio.Event()

            async def slow(key: FileKey) -> LedgerEntry | None:
                began.set()
                await go.wait()
                return await find(key)

            monkeypatch.setattr(found.journal, "find_ledger", slow)
            await found.admit(found.jumped(1))
            await began.wait()
            await found.admit(found.jumped(0))
            go.set()
            await found.empty()
            assert [key.name for key, _ in found.store.puts] == ["i0", "i1"]

    async def test_goes_first(self, tmp_path: Path, logs: Logs) -> None:
        """An index never goes before a data file that it may point into, announced or not."""
        logs.expect(UNANNOUNCED)
        async with rig(tmp_path) as found:
            await self.jumped(found, stored=(0,))
            await found.empty()
            assert [key.name for key, _ in found.store.puts] == ["d2", "d1", "i2"]
            assert (await found.ledger())[data_key("ns", 1)].sealed

    async def test_stored_shorter(self, tmp_path: Path, logs: Logs) -> None:
        """One that was stored while it was active, and grew since, goes again before the index."""
        logs.expect(UNANNOUNCED)
        async with rig(tmp_path) as found:
            found.data(1)
            await proven(found, data_key("ns", 1), found.live(data_key("ns", 1))[:50])
            await self.jumped(found, stored=(0,))
            await found.empty()
            assert [key.name for key, _ in found.store.puts] == ["d2", "d1", "i2"]

    async def test_evicted(self, tmp_path: Path) -> None:
        """One that is stored and not here any more is no obstacle."""
        async with rig(tmp_path) as found:
            await self.jumped(found, stored=(0, 1))
            for number in range(2):
                found.roots.path(data_key("ns", number)).unlink()
            await found.empty()
            assert [key.name for key, _ in found.store.puts] == ["d2", "i2"]

    async def test_announced_meanwhile(self, tmp_path: Path) -> None:
        """One whose event comes late is waited for, not announced twice."""
        async with rig(tmp_path, run=False) as found:
            await self.jumped(found, stored=(0,))
            await found.admit(found.sealed(1))
            found.work()
            await found.empty()
            assert len(found.states()) == 1 + 3

    async def test_cannot_be_stored(self, tmp_path: Path, logs: Logs) -> None:
        """While it cannot be stored the index waits, without spinning; skipped, the index goes."""
        logs.expect(UNANNOUNCED, RETRY, QUARANTINED, "withdrawn")
        async with rig(tmp_path) as found:
            bad = data_key("ns", 1)
            found.store.refuse[bad] = StorePermanent("put", bad, "no")
            await self.jumped(found, stored=(0,))
            await found.until(lambda: found.scheduler.stuck() and not found.running)
            [job] = found.scheduler.of(bad)
            [index] = found.scheduler.of(index_key("ns", 2))
            assert (job.state, index.place) == (JobState.QUARANTINED, "waiting")
            assert index.attempts == 1
            await found.dispatcher.departures.withdraw(job, "skipped")
            await found.empty()
            assert index_key("ns", 2) in found.store.content
            assert bad not in found.store.content


class TestJournalFails:
    @pytest.mark.parametrize("method", ["save", "find_ledger", "settle"])
    async def test_for_a_while(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        """While the journal cannot be written nothing is settled and nothing lost; then it goes on."""
        logs.expect("journal unavailable")
        async with rig(tmp_path) as found:
            real, failed = getattr(found.journal, method), 0

            async def fail(*args: Any, **options: Any) -> Any:
                nonlocal failed
                if not failed:
                    failed += 1
                    found._tell()
                    raise JournalUnavailable("disk full")
                return await real(*args, **options)

            monkeypatch.setattr(found.journal, method, fail)
            key = found.data(0)
            job = await found.owe(key, sealed=True)
            await found.until(lambda: failed == 1 and job.place == "later")
            assert await found.ledger() == {}
            found.scheduler.hurry()
            found.dispatcher.wake()
            await found.empty()
            assert key in await found.ledger()

    async def test_with_a_newer_one_behind(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A settling that fails with a newer snapshot behind: both are stored, in order, and after a
        restart nothing of it comes back.
        """
        logs.expect("journal unavailable")
        key = index_key("ns", 0)
        store = MemoryStore()
        async with rig(tmp_path, store) as found:
            gate = store.gates[key] = anyio.Event()
            real, failed = found.journal.settle, 0

            async def settle(*args: Any, **options: Any) -> None:
                nonlocal failed
                if not failed:
                    failed += 1
                    raise JournalUnavailable("disk full")
                await real(*args, **options)

            monkeypatch.setattr(found.journal, "settle", settle)
            job = await frozen(found, key, b"first" * 10)
            await found.until(lambda: key in store.waiting)
            newer = await frozen(found, key, b"other" * 10)
            gate.set()
            await found.until(lambda: job.place == "later")
            assert found.scheduler.of(key) == (job, newer)
            found.scheduler.hurry()
            found.dispatcher.wake()
            await found.empty()
        async with rig(tmp_path, store) as found:
            assert len(found.scheduler) == 0
            assert store.content[key] == b"other" * 10
            assert found.states() == [(str(key), "settled")] * 2

    async def test_when_a_failure_is_kept(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failure that cannot be written down is retried all the same, by one worker."""
        logs.expect("journal unavailable", RETRY)
        async with rig(tmp_path) as found:
            key = found.data(0)
            found.store.refuse[key] = StoreTemporary("put", key, "busy")
            real, saves = found.journal.save, 0

            async def save(job: Job) -> None:
                nonlocal saves
                saves += 1
                if saves == 2:
                    found.store.refuse.clear()
                    raise JournalUnavailable("disk full")
                await real(job)

            monkeypatch.setattr(found.journal, "save", save)
            await found.owe(key, sealed=True)
            await found.empty()
            assert key in await found.ledger()

    async def test_disk_full_for_real(self, tmp_path: Path, logs: Logs) -> None:
        """With the journal's disk full files reach the store, and are settled once there is room."""
        logs.expect("journal unavailable")
        with small_disk(tmp_path / "disk", size_kib=1024) as disk:
            async with rig(disk) as found:
                found.dispatcher.paused = True
                key = found.data(0)
                job = await found.owe(key, sealed=True)
                while True:  # the WAL has some room left of its own
                    try:
                        fill(disk)
                        await found.journal.set_meta("x", "y" * 9000)
                    except JournalUnavailable:
                        break
                found.dispatcher.paused = False
                found.dispatcher.wake()
                await found.until(lambda: job.place == "later")
                assert found.broken == []
                (disk / "ballast").unlink()
                found.scheduler.hurry()
                found.dispatcher.wake()
                await found.empty()
                assert key in await found.ledger()


class TestRestart:
    async def test_killed_while_it_ran(self, tmp_path: Path) -> None:
        """A job that ran when the process died runs again; what is remote already is not sent twice."""
        store = MemoryStore()
        key = index_key("ns", 0)
        async with rig(tmp_path, store) as found:
            gate = store.gates[key] = anyio.Event()
            await frozen(found, key, b"x" * 50)
            await found.until(lambda: key in store.waiting)
            assert found.states() == [(str(key), "running")]
        gate.set()
        async with rig(tmp_path, store) as found:
            await found.empty()
            assert store.content[key] == b"x" * 50

    async def test_settled_and_killed_before_the_snapshot_went(self, tmp_path: Path) -> None:
        """A snapshot whose job is settled is removed at the next start."""
        store = MemoryStore()
        async with rig(tmp_path, store, run=False) as found:
            job = await frozen(found, index_key("ns", 0), b"x" * 50)
            assert job.digest is not None
            entry = LedgerEntry(
                key=job.key, size_bytes=50, digest=job.digest, stored_at=1.0, sealed=False
            )
            await found.journal.settle(job, entry)
        async with rig(tmp_path, store) as found:
            assert found.staged() == []
            assert len(found.scheduler) == 0

    async def test_quarantined(self, tmp_path: Path, logs: Logs) -> None:
        """A quarantined file is quarantined after a restart, with its error, and does not run."""
        logs.expect(RETRY, QUARANTINED)
        store = MemoryStore()
        async with rig(tmp_path, store) as found:
            key = found.data(0)
            store.refuse[key] = StorePermanent("put", key, "no")
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
        store.refuse.clear()
        async with rig(tmp_path, store) as found:
            [again] = found.scheduler
            assert (again.state, again.error) == (JobState.QUARANTINED, "put data/ns/d0: no")
            assert found.scheduler.stuck()
            await found.dispatcher.retry(again)
            await found.empty()

    async def test_small_snapshots_after_a_power_cut(self, tmp_path: Path) -> None:
        """Small copies that never reached the disk are there again, from the journal."""
        store = MemoryStore()
        async with rig(tmp_path, store, run=False) as found:
            job = await frozen(found, index_key("ns", 0), b"x" * 50)
            assert job.staged is not None
            found.staging.path(job.staged).write_bytes(b"")
        async with rig(tmp_path, store) as found:
            await found.empty()
            assert store.content[index_key("ns", 0)] == b"x" * 50


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0])
async def test_wall_clock_steps(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """A clock that is set delays nothing and loses nothing."""
    logs.expect(RETRY)
    async with rig(tmp_path) as found:
        key = found.data(0)
        found.store.refuse[key] = StoreTemporary("put", key, "busy")
        job = await found.owe(key, sealed=True)
        await found.until(lambda: job.error is not None)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        found.store.refuse.clear()
        await frozen(found, index_key("ns", 0), b"x" * 50, needs=0)
        await found.empty()
        assert set(await found.ledger()) == {key, index_key("ns", 0)}


def test_errors_in_the_terms_of_the_store(tmp_path: Path) -> None:
    """Everything that can go wrong with one file has a class that says whether to try again."""
    job = Job(key=data_key("ns", 0))
    cases: list[tuple[Exception, str, bool]] = [
        (StoreTemporary("put", "k", "x"), "temporary", False),
        (StorePermanent("put", "k", "x"), "permanent", True),
        (NoRoom("full"), "no-room", False),
        (OSError(5, "I/O error"), "temporary", False),
        (OSError(40, "a link"), "permanent", True),
        (PathRefused("x", "a link"), "permanent", True),
    ]
    for error, name, permanent in cases:
        found = _classified(job, error)
        assert isinstance(found, StoreError)
        assert (found.error_class, found.permanent) == (name, permanent)
