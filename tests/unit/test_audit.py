"""Audit: what is wrong is found, named and queued where that mends it; what is right is left alone."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.admin import verify
from hookd.audit import run as audit_run
from hookd.audit.auditor import Auditor, TooMany
from hookd.audit.finding import Problem
from hookd.audit.local import look
from hookd.audit.run import Run, Scope
from hookd.errors import Exit, RemoteMissing, StorePermanent, StoreTemporary
from hookd.files import FileKey, data_key, index_key
from hookd.journal import JobState
from hookd.snapshot import hash_live
from hookd.stores.base import Remote
from hookd.stores.directory import DirectoryStore
from tests.conftest import Logs
from tests.fakes.audits import audit, data_bytes, index_bytes, proven, told, world
from tests.fakes.rig import Rig
from tests.fakes.rig import rig as running_rig
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.anyio

rig = partial(running_rig, run=False)
"""The dispatcher works once a test says `work`."""

D0, D1, D2 = (data_key("ns", number) for number in range(3))
I0, I1, I2 = (index_key("ns", number) for number in range(3))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects are looked at again at once."""
    monkeypatch.setattr(audit_run, "CONFIRM_S", 0.0)


async def good(found: Rig, numbers: int = 3) -> None:
    """A namespace whose every file is proven; the last ones are active."""
    for number in range(numbers):
        await proven(found, data_key("ns", number), data_bytes(number), sealed=number < numbers - 1)
        await proven(found, index_key("ns", number), index_bytes(number))
    found.store.calls.clear()


def emptied(found: Rig, key: FileKey) -> None:
    found.roots.path(key).unlink()


class TestNothingWrong:
    async def test_all_is_well(self, tmp_path: Path) -> None:
        """Each file is asked for once, and what would come next; nothing is told, queued or stored."""
        async with rig(tmp_path) as found:
            await good(found)
            progress = await audit(found)
            assert (progress.state, progress.findings) == ("done", [])
            assert (progress.files, progress.files_done) == (6, 6)
            assert sorted(map(str, found.store.of("stat"))) == sorted(
                str(key) for key in (D0, D1, D2, I0, I1, I2, data_key("ns", 3), index_key("ns", 3))
            )
            assert len(found.scheduler) == 0
            assert found.store.of("put") == found.store.of("get") == []

    async def test_evicted_data(self, tmp_path: Path) -> None:
        """A sealed data file that only the store has is as it should be."""
        async with rig(tmp_path) as found:
            await good(found)
            emptied(found, D0)
            assert told(await audit(found)) == []

    async def test_what_is_on_its_way(self, tmp_path: Path) -> None:
        """A file with an open job is not compared: the ledger is about to change."""
        async with rig(tmp_path) as found:
            await good(found)
            del found.store.content[D0]
            await found.owe(D0, sealed=True)
            assert told(await audit(found)) == []
            assert D0 not in found.store.of("stat")

    async def test_stored_anew_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What differs because it was stored between two looks is no finding."""
        async with rig(tmp_path) as found:
            await good(found)
            newer = index_bytes(0, values=2) + b"\0" * 60
            real = found.store.stat

            async def stat(key: FileKey) -> Remote | None:
                if key == I0 and found.store.content[I0] != newer:
                    found.write(I0, newer)
                    await found.owe(I0, freeze=True, ask_first=False)
                    found.work()
                    await found.until(lambda: found.store.content[I0] == newer)
                    await found.until(lambda: not len(found.scheduler) and not found.running)
                return await real(key)

            monkeypatch.setattr(found.store, "stat", stat)
            assert told(await audit(found)) == []

    async def test_deleted_and_made_anew(self, tmp_path: Path) -> None:
        """Shorter than what is stored, until the deletion is heard of: then it is nothing to tell."""
        async with rig(tmp_path) as found:
            await good(found)
            for key in (D1, D2, I1, I2):
                emptied(found, key)
            found.write(D0, data_bytes(0, values=1))
            found.write(I0, index_bytes(0, values=1))

            async def hear() -> None:
                await found.journal.retire("ns")
                found.scheduler.retire("ns")

            run = Run(world(found, hear=hear), Scope(scan=False))
            await run.execute()
            assert told(run.progress) == []

    async def test_skipped_and_held(self, tmp_path: Path) -> None:
        """Local files of skipped and held namespaces are nobody's business; held is told."""
        async with rig(tmp_path, skip=frozenset({"skipped"})) as found:
            found.held["held"] = "bogus"
            for name in ("skipped", "held"):
                found.write(index_key(name, 0), b"")
                found.write(index_key(name, 5), b"x")
            assert told(await audit(found)) == [("index/held/zdb-namespace", "held", False)]


class TestLocal:
    @pytest.mark.parametrize("content", [b"", b"IDX0" + b"\0" * 20])
    async def test_index_without_a_header(self, tmp_path: Path, content: bytes) -> None:
        """zdb does not start with it, and never asks for it."""
        async with rig(tmp_path) as found:
            await good(found)
            found.write(I1, content)
            await found.owe(I1, freeze=True)  # so that it is no file that nobody announced
            # shorter than what is stored, too
            assert told(await audit(found)) == [
                ("index/ns/i1", "empty-index", True),
                ("index/ns/i1", "truncated", True),
            ]

    async def test_index_that_is_none(self, tmp_path: Path) -> None:
        """Other bytes at its beginning."""
        async with rig(tmp_path) as found:
            found.write(I0, b"x" * 100)
            assert ("index/ns/i0", "damaged-index", True) in told(await audit(found))

    async def test_gap(self, tmp_path: Path) -> None:
        """zdb would stop at the first index file that is not there; a stray number costs nothing."""
        async with rig(tmp_path) as found:
            await good(found)
            emptied(found, I1)
            found.write(index_key("ns", 4_000_000_000), index_bytes(7))
            found.write(data_key("ns", 7), data_bytes(7))
            assert ("index/ns/i1", "gap", True) in told(await audit(found))

    async def test_active_data_file_absent(self, tmp_path: Path) -> None:
        """zdb would make it anew, empty, and serve other records under the old keys."""
        async with rig(tmp_path) as found:
            await good(found)
            emptied(found, D2)
            assert told(await audit(found)) == [("data/ns/d2", "gap", True)]

    async def test_shorter_than_the_ledger_says(self, tmp_path: Path) -> None:
        """A truncated data file: zdb answers errors and never asks for it."""
        async with rig(tmp_path) as found:
            await good(found)
            os.truncate(found.roots.path(D0), len(data_bytes(0)) - 1)
            progress = await audit(found)
            assert told(progress) == [("data/ns/d0", "truncated", True)]
            assert len(found.scheduler) == 0

    async def test_shorter_than_entries_point(self, tmp_path: Path) -> None:
        """Also without a ledger; an old index that was rewritten to point there counts as well."""
        async with rig(tmp_path) as found:
            found.write(I0, index_bytes(0, data=1))
            found.write(I1, index_bytes(1, values=1))
            found.write(D0, data_bytes(0))
            found.write(D1, data_bytes(1)[:-9])
            assert ("data/ns/d1", "truncated", True) in told(await audit(found))

    async def test_sealed_with_other_content(self, tmp_path: Path) -> None:
        """Touched since it was stored, of the same length: neither side is overwritten."""
        async with rig(tmp_path) as found:
            await good(found)
            changed = data_bytes(0)[:-1] + b"?"
            entry = await found.journal.find_ledger(D0)
            assert entry is not None
            found.write(D0, changed)
            assert told(await audit(found)) == []  # nothing says that it was touched: for deep
            assert told(await audit(found, deep=True)) == [("data/ns/d0", "differs", True)]
            found.journal._db.execute("UPDATE ledger SET stored_at = 1 WHERE key = 'data/ns/d0'")
            assert told(await audit(found)) == [("data/ns/d0", "differs", True)]
            assert len(found.scheduler) == 0

    async def test_sealed_and_longer(self, tmp_path: Path) -> None:
        """As above, told by its length alone."""
        async with rig(tmp_path) as found:
            await good(found)
            found.write(D0, data_bytes(0) + b"more")
            assert told(await audit(found)) == [("data/ns/d0", "differs", True)]

    async def test_hashed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that came back (touched since, and right) is hashed once, not at each audit."""
        async with rig(tmp_path) as found:
            await good(found)
            found.journal._db.execute("UPDATE ledger SET stored_at = 1")
            hashed: list[str] = []
            from hookd.audit import local

            real = hash_live

            def counted(path: Path) -> tuple[bytes, int]:
                hashed.append(path.name)
                return real(path)

            monkeypatch.setattr(local, "hash_live", counted)
            against = local.Against(found.roots)
            for _ in range(2):
                run = Run(world(found), Scope(), against=against)
                await run.execute()
                assert told(run.progress) == []
            assert sorted(hashed) == ["d0", "d1"]

    async def test_suspects_are_looked_at_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """zdb makes an index file before it writes the header: that is nothing."""
        async with rig(tmp_path) as found:
            await good(found)
            found.write(index_key("ns", 3), b"")
            looks: list[str] = []

            def look_and_write(roots: Any, name: str) -> Any:
                looks.append(name)
                seen = look(roots, name)
                found.write(index_key("ns", 3), index_bytes(3, values=0))
                return seen

            monkeypatch.setattr("hookd.audit.local.look", look_and_write)
            assert told(await audit(found, scan=False)) == []
            assert looks == ["ns", "ns"]

    async def test_looks_again_when_zdb_starts_meanwhile(self, tmp_path: Path) -> None:
        """Half of a namespace is no finding: the look is repeated once all is restored."""
        async with rig(tmp_path) as found:
            await good(found)
            whole = found.roots.path(I1).read_bytes()
            emptied(found, I1)
            answers = iter([False, True])  # decided at the start, restored under the look, decided

            def undecided() -> bool:
                answer = next(answers, False)
                if answer:
                    found.write(I1, whole)
                return answer

            run = Run(world(found, is_undecided=undecided), Scope())
            await run.execute()
            assert told(run.progress) == []
            assert run.progress.state == "done"
            assert run.progress.covered.local


class TestStore:
    async def test_store_lost_a_file(self, tmp_path: Path) -> None:
        """It is here: queued again and stored, whatever it is."""
        async with rig(tmp_path) as found:
            await good(found)
            for key in (D0, I0, D2):
                del found.store.content[key]
            progress = await audit(found)
            assert told(progress) == [
                ("data/ns/d0", "absent", False),
                ("data/ns/d2", "absent", False),
                ("index/ns/i0", "absent", False),
            ]
            assert progress.queued == 3
            found.work()
            await found.until(lambda: not len(found.scheduler) and not found.running)
            for key in (D0, I0, D2):
                assert found.store.content[key] == found.live(key)
            assert told(await audit(found)) == []

    async def test_store_lost_the_only_one(self, tmp_path: Path) -> None:
        """An alarm; and one that is here, but not whole, counts as lost too."""
        async with rig(tmp_path) as found:
            await good(found)
            emptied(found, D0)
            os.truncate(found.roots.path(D1), 40)
            for key in (D0, D1):
                del found.store.content[key]
            assert told(await audit(found)) == [
                ("data/ns/d0", "lost", True),
                ("data/ns/d1", "lost", True),
                ("data/ns/d1", "truncated", True),
            ]
            assert len(found.scheduler) == 0

    async def test_a_blind_store(self, tmp_path: Path) -> None:
        """What it says is absent is not believed: no finding, nothing queued, not finished."""
        async with rig(tmp_path) as found:
            await good(found)
            found.store.blind = True
            progress = await audit(found)
            assert told(progress) == []
            assert (progress.state, progress.unreachable) == ("incomplete", True)
            assert progress.covered.local and not progress.covered.store
            assert len(found.scheduler) == 0

    @pytest.mark.parametrize("fault", ["down", "hang"])
    async def test_store_away(self, tmp_path: Path, fault: str) -> None:
        """It ends, and says why; local files were looked at all the same."""
        async with rig(tmp_path) as found:
            await good(found)
            found.write(D0, data_bytes(0) + b"more")
            if fault == "down":
                found.store.down = "connection refused"
            else:
                found.store.hang.add("stat")
            run = Run(world(found, limit_s=lambda size: 0.02), Scope())
            await run.execute()
            assert told(run.progress) == [("data/ns/d0", "differs", True)]
            assert (run.progress.state, run.progress.unreachable) == ("incomplete", True)

    async def test_other_content_in_the_store(self, tmp_path: Path) -> None:
        """Stored again where the file here is as it was stored, or not sealed; sealed, it is an alarm."""
        async with rig(tmp_path) as found:
            await good(found)
            found.store.content[D0] = b"other"
            found.store.content[D1] = b"other"
            found.store.content[I0] = b"older"
            found.write(D1, found.live(D1)[:-1] + b"?")
            progress = await audit(found)
            assert [row for row in told(progress) if row[1] == "store-differs"] == [
                ("data/ns/d0", "store-differs", True),
                ("data/ns/d1", "store-differs", True),
                ("index/ns/i0", "store-differs", False),
            ]
            found.work()
            await found.until(lambda: found.store.content[I0] == found.live(I0))
            await found.until(lambda: found.store.content[D0] == found.live(D0))
            assert found.store.content[D1] == b"other"

    async def test_a_file_the_store_cannot_tell_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That one is told; the others are compared."""
        async with rig(tmp_path) as found:
            await good(found)
            real = found.store.stat

            async def stat(key: FileKey) -> Remote | None:
                if key == D1:
                    raise StoreTemporary("stat", key, "it is a folder")
                return await real(key)

            monkeypatch.setattr(found.store, "stat", stat)
            progress = await audit(found)
            assert told(progress) == [("data/ns/d1", "unchecked", False)]
            assert (progress.state, progress.files_done) == ("done", 6)

    async def test_held_namespace(self, tmp_path: Path) -> None:
        """What the store lost of it is told, and not stored."""
        async with rig(tmp_path) as found:
            await good(found)
            del found.store.content[D0]
            found.held["ns"] = "bogus"
            assert told(await audit(found)) == [
                ("data/ns/d0", "absent", False),
                ("index/ns/zdb-namespace", "held", False),
            ]
            assert len(found.scheduler) == 0

    async def test_one_namespace(self, tmp_path: Path) -> None:
        """Nothing is asked of the others; a name that begins alike is another."""
        async with rig(tmp_path) as found:
            await good(found)
            other = data_key("ns-other", 0)
            await proven(found, other, b"x" * 50)
            found.store.calls.clear()
            progress = await audit(found, namespace="ns")
            assert (progress.files, progress.files_done) == (6, 6)
            assert other not in found.store.of("stat")

    async def test_waits_for_a_retrieve(self, tmp_path: Path) -> None:
        """While zdb waits for a data file the store is not asked."""
        async with rig(tmp_path) as found:
            await good(found)
            retrieving = [True]
            run = Run(world(found, retrieving=lambda: retrieving[0]), Scope())
            async with anyio.create_task_group() as group:
                group.start_soon(run.execute)
                while run.progress.state != "store":
                    await anyio.sleep(0.005)
                await anyio.sleep(0.05)
                assert found.store.of("stat") == []
                retrieving[0] = False
            assert run.progress.files_done == 6


class TestDeep:
    async def test_all_is_well(self, tmp_path: Path) -> None:
        """Every file is retrieved once; no live file was touched, nothing is left in staging."""
        async with rig(tmp_path) as found:
            await good(found)
            before = {k: found.roots.path(k).stat().st_ctime_ns for k in (D0, D1, D2, I0, I1, I2)}
            progress = await audit(found, deep=True)
            assert (progress.state, told(progress)) == ("done", [])
            assert len(found.store.of("get")) == 6
            assert progress.bytes_done == progress.bytes > 0
            assert progress.last == "index/ns/i2"
            assert before == {k: found.roots.path(k).stat().st_ctime_ns for k in before}
            assert found.staged() == []

    async def test_rotten(self, tmp_path: Path) -> None:
        """The store says that all is well, and gives other bytes."""
        async with rig(tmp_path) as found:
            await good(found)
            found.store.wrong.add(D1)
            assert told(await audit(found)) == []
            assert told(await audit(found, deep=True)) == [("data/ns/d1", "rotten", True)]

    async def test_cannot_be_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shards that cannot be put together: told, and the others go on."""
        async with rig(tmp_path) as found:
            await good(found)
            real = found.store.get

            async def get(key: FileKey, target: Path) -> None:
                if key == D0:
                    raise StorePermanent("get", key, "too few shards")
                await real(key, target)

            monkeypatch.setattr(found.store, "get", get)
            progress = await audit(found, deep=True)
            assert told(progress) == [("data/ns/d0", "rotten", True)]
            assert progress.files_done == 6

    async def test_goes_on(self, tmp_path: Path) -> None:
        """Only files after the one that is named are retrieved."""
        async with rig(tmp_path) as found:
            await good(found)
            progress = await audit(found, deep=True, after="data/ns/d1")
            assert found.store.of("get") == [D2, I0, I1, I2]
            assert (progress.files, progress.files_done) == (4, 4)

    async def test_cancelled(self, tmp_path: Path) -> None:
        """Nothing is left behind, and it says how far it was."""
        async with rig(tmp_path) as found:
            await good(found)
            run = Run(world(found), Scope(deep=True))
            with anyio.CancelScope() as scope:
                found.store.changed = lambda: (
                    scope.cancel() if len(found.store.of("get")) == 3 else None
                )
                await run.execute()
            assert run.progress.state == "cancelled"
            assert run.progress.last == "data/ns/d1"
            assert found.staged() == []

    async def test_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk without room for it is no fault of the file's."""
        async with rig(tmp_path) as found:
            await good(found)
            monkeypatch.setattr("hookd.audit.deep.SPARE_BYTES", 1 << 62)
            progress = await audit(found, deep=True)
            assert {problem for _, problem, _ in told(progress)} == {"unchecked"}
            assert found.store.of("get") == []

    async def test_blind_since(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """zstor starts anew with its backends down: what it says is absent ends the run, unfinished."""
        async with rig(tmp_path) as found:
            await good(found)
            real, gets = found.store.get, 0

            async def get(key: FileKey, target: Path) -> None:
                nonlocal gets
                gets += 1
                if gets > 2:
                    found.store.blind = True
                    raise RemoteMissing("get", key, "no metadata found for file")
                await real(key, target)

            monkeypatch.setattr(found.store, "get", get)
            progress = await audit(found, deep=True)
            assert (progress.state, progress.unreachable) == ("incomplete", True)
            assert told(progress) == [] and not progress.covered.deep
            assert progress.last == str(D1)

    async def test_gives_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says that it has the file, and no retrieve finds it."""
        async with rig(tmp_path) as found:
            await good(found)
            real = found.store.get

            async def get(key: FileKey, target: Path) -> None:
                if key == D1:
                    raise RemoteMissing("get", key, "no metadata found for file")
                await real(key, target)

            monkeypatch.setattr(found.store, "get", get)
            progress = await audit(found, deep=True)
            assert told(progress) == [("data/ns/d1", "rotten", True)]
            assert "gives nothing: no metadata found" in progress.findings[0].detail

    @pytest.mark.parametrize("here", [True, False])
    async def test_lost_since(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
    ) -> None:
        """What goes between comparison and retrieve is told as the comparison would, and once."""
        async with rig(tmp_path) as found:
            await good(found)
            if not here:
                emptied(found, D1)
            real = found.store.get

            async def get(key: FileKey, target: Path) -> None:
                found.store.content.pop(D1, None)
                await real(key, target)

            monkeypatch.setattr(found.store, "get", get)
            progress = await audit(found, deep=True)
            expected = ("absent", False) if here else ("lost", True)
            assert told(progress) == [("data/ns/d1", *expected)]
            assert [job.key for job in found.scheduler] == ([D1] if here else [])
            if not here:  # the comparison has told it
                assert told(await audit(found, deep=True)) == [("data/ns/d1", "lost", True)]

    async def test_length_that_was_guessed(self, tmp_path: Path) -> None:
        """The ledger had it from a store that tells none: the same content is no finding."""
        async with rig(tmp_path) as found:
            found.store.knows_sizes = False
            await good(found)
            entry = (await found.ledger())[D0]
            await found.journal.adopt([replace(entry, size_bytes=entry.size_bytes - 10)])
            assert told(await audit(found, deep=True)) == []
            assert told(await audit(found)) == []


class TestStuck:
    """What is known not to be stored is told, though no comparison looks at it."""

    async def test_quarantined(self, tmp_path: Path, logs: Logs) -> None:
        """`hookd verify` does not end with 0 while a file waits for somebody; it is no alarm here."""
        logs.allow("quarantined", "will retry")
        async with rig(tmp_path) as found:
            await good(found)
            found.write(D0, b"another that is longer than the one that was stored before")
            job = await found.owe(D0, sealed=True)
            found.work()
            await found.until(lambda: job.state is JobState.QUARANTINED)
            progress = await audit(found)
            assert ("data/ns/d0", "quarantined", False) in told(progress)
            [finding] = [f for f in progress.findings if f.problem is Problem.QUARANTINED]
            assert "hookd queue" in finding.detail and "sealed and stored" in finding.detail
            assert told(await audit(found, namespace="other")) == []

    async def test_verify_says_so(self, tmp_path: Path) -> None:
        """One line each, and exit code 1."""
        async with rig(tmp_path) as found:
            await good(found)
            found.held["bad"] = "its files are bogus"
            found.held["temp"] = "as well, but nothing of it is ever stored"
            found.skip = frozenset({"temp"})
            run = Run(world(found), Scope())
            await run.execute()
            view = verify.view_of(run)
            assert verify.exit_code(view) == Exit.FAILED
            assert verify.lines(view) == [
                "index/bad/zdb-namespace: namespace bad is held, nothing of it is stored or compared"
                " here: its files are bogus",
                "6 files (765 B) compared with ledger and store: 1 finding.",
            ]
            del found.held["bad"]
            run = Run(world(found), Scope())
            await run.execute()
            assert verify.exit_code(verify.view_of(run)) == Exit.OK


class TestJournalLost:
    async def test_nothing_is_uploaded_again(self, tmp_path: Path) -> None:
        """2,000 files that the store has: found again by their checksums, with no put at all; evicted
        ones come into the ledger too, and a later retrieve is checked against it."""
        store = MemoryStore(concurrency=4)
        async with rig(tmp_path, store=store) as found:
            numbers = range(1000)
            for number in numbers:
                for key, content in (
                    (data_key("ns", number), data_bytes(number)),
                    (index_key("ns", number), index_bytes(number)),
                ):
                    found.write(key, content)
                    store.content[key] = content
            evicted = [data_key("ns", number) for number in (3, 500, 998)]
            for key in evicted:
                emptied(found, key)
            progress = await audit(found, active=True)
            assert (progress.state, progress.noted) == ("done", 3)
            found.work()
            await found.until(lambda: not len(found.scheduler) and not found.running, limit_s=60)
            assert store.of("put") == []
            again = await audit(found, active=True)
            assert told(again) == []
            assert again.files == again.files_done == 2000
            for key in evicted:
                entry = await found.journal.find_ledger(key)
                assert entry is not None and entry.sealed
                assert found.scheduler.is_sealed(key)
            store.content[evicted[0]] = b"other content"
            answer = await found.retriever.retrieve(evicted[0])
            assert answer.code == 1 and "ledger" in answer.text

    async def test_neither_here_nor_there(self, tmp_path: Path) -> None:
        """Entries point into it: an alarm. None does: nothing to say."""
        async with rig(tmp_path) as found:
            await good(found)
            found.write(index_key("ns", 3), index_bytes(3))
            found.write(index_key("ns", 4), index_bytes(4, values=0))
            found.write(index_key("ns", 5), index_bytes(5, values=0))
            found.write(data_key("ns", 5), data_bytes(5, values=0))
            assert ("data/ns/d3", "lost", True) in told(await audit(found))
            assert not any("d4" in name for name, _, _ in told(await audit(found)))

    async def test_too_short_in_the_store(self, tmp_path: Path) -> None:
        """An older version is worth an alarm, not an entry; one in the ledger likewise."""
        async with rig(tmp_path) as found:
            await good(found)
            emptied(found, D0)
            found.store.content[D0] = data_bytes(0)[:-20]
            found.journal._db.execute("DELETE FROM ledger WHERE key = 'data/ns/d0'")
            assert told(await audit(found)) == [("data/ns/d0", "short-in-store", True)]
            assert await found.journal.find_ledger(D0) is None
            await proven(found, D0, data_bytes(0)[:-20], here=False)
            assert told(await audit(found)) == [("data/ns/d0", "short-in-store", True)]

    async def test_sizes_are_not_known(self, tmp_path: Path) -> None:
        """zstor: there is no entry without a size."""
        async with rig(tmp_path) as found:
            await good(found)
            found.store.knows_sizes = False
            emptied(found, D0)
            found.journal._db.execute("DELETE FROM ledger WHERE key = 'data/ns/d0'")
            progress = await audit(found)
            assert (told(progress), progress.noted) == ([], 0)

    async def test_of_a_deleted_namespace(self, tmp_path: Path) -> None:
        """What the store has of an earlier namespace of that name is not taken for this one's."""
        async with rig(tmp_path) as found:
            await good(found)
            await found.journal.retire("ns")
            emptied(found, D0)
            await audit(found)
            assert await found.journal.find_ledger(D0) is None


async def test_directory_store_in_one_question(tmp_path: Path) -> None:
    """A folder answers for many at once, and the outcome is the same."""
    folder = DirectoryStore(tmp_path / "remote")
    folder.prepare()
    async with rig(tmp_path) as found:
        for number in range(100):
            entry = await proven(found, data_key("ns", number), data_bytes(number))
            await folder.put(entry.key, found.roots.path(entry.key), entry.digest)
        await proven(found, index_key("ns", 100), index_bytes(100, values=0))
        (tmp_path / "remote/data/ns/d7").unlink()
        (tmp_path / "remote/data/ns/d9").write_bytes(b"other")
        (tmp_path / "remote/data/ns/d11").unlink()
        (tmp_path / "remote/data/ns/d11").mkdir()
        run = Run(world(found, store=folder), Scope(scan=False))
        await run.execute()
        assert told(run.progress) == [
            ("data/ns/d11", "unchecked", False),
            ("data/ns/d7", "absent", False),
            ("data/ns/d9", "store-differs", True),
            ("index/ns/i0", "gap", True),  # of the test's own making
            ("index/ns/i100", "absent", False),
        ]
        assert run.progress.files_done == 101


class TestAuditor:
    def make(self, found: Rig, **changes: Any) -> Auditor:
        return Auditor(world(found), **({"interval_s": None, "meta": {}} | changes))

    async def ended(self, auditor: Auditor, number: int) -> dict[str, Any]:
        with anyio.fail_after(10):
            while True:
                report = auditor.report(number)
                assert report is not None
                if report["state"] in ("done", "incomplete", "cancelled"):
                    return report
                await anyio.sleep(0.005)

    async def until_runs(self, auditor: Auditor, **counts: int) -> None:
        with anyio.fail_after(10):
            while any(auditor.counts[name] < amount for name, amount in counts.items()):
                await anyio.sleep(0.005)

    async def test_at_the_start_and_again(self, tmp_path: Path) -> None:
        """Not before the first scan; then at each interval."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            auditor = self.make(found, interval_s=0.01)
            group.start_soon(auditor.run)
            await anyio.sleep(0.05)
            assert auditor.counts["done"] == 0
            auditor.scanned()
            await self.until_runs(auditor, done=3)
            assert auditor.complete_at is not None
            group.cancel_scope.cancel()

    async def test_one_more_at_a_moment(self, tmp_path: Path) -> None:
        """Without an interval, too; and once."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            await self.until_runs(auditor, done=1)
            auditor.also_in(0.02)
            auditor.also_in(3600.0)
            await self.until_runs(auditor, done=2)
            await anyio.sleep(0.1)
            assert auditor.counts["done"] == 2
            group.cancel_scope.cancel()

    async def test_alarms_stay_until_mended(self, tmp_path: Path) -> None:
        """Across restarts; one namespace's audit says nothing of another's; an outage mends nothing."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            emptied(found, D0)
            content = found.store.content.pop(D0)
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            await self.until_runs(auditor, done=1)
            [alarm] = auditor.view()["alarms"]
            assert (alarm["file"], alarm["problem"]) == ("data/ns/d0", "lost")
            from hookd.journal import tables

            kept = self.make(found, meta=tables.get_meta(found.journal._db))
            assert kept.view()["alarms"] == [alarm]
            group.start_soon(kept.run)
            kept.scanned()
            await self.until_runs(kept, done=1)  # the one that each start has; the next is far away
            found.store.content[D0] = content
            for scope, left in (
                (Scope(namespace="other"), 1),
                (Scope(namespace="ns"), 0),
            ):
                runs = kept.counts["done"]
                await self.ended(kept, kept.request(scope))
                await self.until_runs(kept, done=runs + 1)
                assert len(kept.alarms) == left
            assert tables.get_meta(found.journal._db).get("alarms") is None
            group.cancel_scope.cancel()

    async def test_outage_mends_nothing(self, tmp_path: Path) -> None:
        """An audit that could not ask the store keeps the alarm."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            emptied(found, D0)
            found.store.content.pop(D0)
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            await self.until_runs(auditor, done=1)
            found.store.down = "away"
            report = await self.ended(auditor, auditor.request(Scope()))
            assert report["unreachable"]
            await self.until_runs(auditor, incomplete=1)
            assert len(auditor.alarms) == 1
            group.cancel_scope.cancel()

    async def test_rotten_is_mended_by_deep_alone(self, tmp_path: Path) -> None:
        """An audit that does not retrieve cannot say that it is mended."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            found.store.wrong.add(D0)
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            # its entry is of the year 2096, so it would count as stored since
            found.journal._db.execute("UPDATE ledger SET stored_at = 1")
            await self.until_runs(auditor, done=1)
            await self.ended(auditor, auditor.request(Scope(deep=True)))
            await self.until_runs(auditor, done=2)
            await anyio.sleep(0.02)
            assert len(auditor.alarms) == 1
            found.store.wrong.clear()
            for scope, left in ((Scope(), 1), (Scope(deep=True), 0)):
                await self.ended(auditor, auditor.request(scope))
                await self.until_runs(auditor, done=4 - left)
                await anyio.sleep(0.02)
                assert len(auditor.alarms) == left
            group.cancel_scope.cancel()

    async def test_one_that_is_asked_for_goes_first(self, tmp_path: Path) -> None:
        """It takes the place of the timer's; the same question twice is one audit."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            found.store.hang.add("stat")
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            await found.until(lambda: bool(found.store.of("stat")))
            number = auditor.request(Scope())
            assert auditor.request(Scope()) == number
            assert auditor.request(Scope(deep=True)) != number
            found.store.hang.clear()
            report = await self.ended(auditor, number)
            assert (report["state"], report["wrong"]) == ("done", 0)
            assert auditor.counts["cancelled"] == 1
            group.cancel_scope.cancel()

    async def test_a_disk_that_errs(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not finished, and says why; that is no fault of ours."""
        logs.expect("audit failed")
        async with rig(tmp_path) as found:

            def refuse() -> list[str]:
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(found.roots, "namespaces", refuse, raising=False)
            auditor = self.make(found)
            async with anyio.create_task_group() as group:
                group.start_soon(auditor.run)
                auditor.scanned()
                report = await self.ended(auditor, auditor.request(Scope()))
                group.cancel_scope.cancel()
            assert (report["state"], report["error"]) == (
                "incomplete",
                "[Errno 5] Input/output error",
            )

    async def test_cancelled_and_stopped(self, tmp_path: Path) -> None:
        """By who asked, and by a drain; a drain begins no other."""
        async with rig(tmp_path) as found, anyio.create_task_group() as group:
            await good(found)
            found.store.hang.add("stat")
            auditor = self.make(found)
            group.start_soon(auditor.run)
            auditor.scanned()
            number = auditor.request(Scope())
            await found.until(lambda: bool(found.store.of("stat")))
            assert auditor.cancel(number)
            assert (await self.ended(auditor, number))["state"] == "cancelled"
            assert not auditor.cancel(number)
            second = auditor.request(Scope())
            auditor.stop()
            await anyio.sleep(0.05)
            report = auditor.report(second)
            assert report is None or report["state"] == "cancelled"
            with pytest.raises(TooMany):
                auditor.request(Scope())
            group.cancel_scope.cancel()


class TestNeitherIsRight:
    async def test_other_bytes_on_both_sides(self, tmp_path: Path) -> None:
        """An unsealed data file that does not begin with what was stored does not go over the store's."""
        async with rig(tmp_path) as found:
            await good(found)
            stored = found.store.content[D2]
            found.store.content[D2] = stored[:-1] + b"?"
            found.roots.path(D2).write_bytes(b"!" + stored[1:] + b"and more")
            progress = await audit(found)
            finding = next(each for each in progress.findings if each.key == D2)
            assert "neither is overwritten" in finding.detail
            assert finding.alarm
            assert len(found.scheduler) == 0
            found.roots.path(D2).write_bytes(stored + b"and more")
            assert "stored again" in next(iter((await audit(found)).findings)).detail
