"""Recovery: a missing file comes back whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd.digest import digest_of
from hookd.files import FileKey, data_key, index_key
from hookd.journal import Job, LedgerEntry
from hookd.recovery_point import Files, look, owed
from hookd.wire import Answer
from tests.conftest import Logs
from tests.fakes.audits import audit, data_bytes, index_bytes, told
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS, files_of, fill, lose, wipe, zdb_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

FAILED = "not retrieved"
AGAIN = "retrieve failed, again"
GOOD = b"values " * 100
D0 = data_key("ns", 0)


async def stored(found: Rig, key: FileKey, content: bytes = GOOD, *, sealed: bool = True) -> None:
    """`key` is in the store and in the ledger."""
    job = Job(key=key)
    entry = LedgerEntry(
        key=key,
        size_bytes=len(content),
        digest=digest_of(content),
        stored_at=1.0,
        sealed=sealed,
    )
    await asyncio.gather(found.journal.add_jobs([job]), found.journal.settle(job, entry))
    found.store.content[key] = content


def namespace(found: Rig) -> Path:
    """The folder that zdb made."""
    folder = found.roots.path(D0).parent
    folder.mkdir(exist_ok=True)
    return folder


def left(found: Rig) -> list[str]:
    """Everything below the data root and the staging folder."""
    places = (found.roots.data, found.staging.folder)
    return sorted(p.name for place in places for p in place.rglob("*") if p.is_file())


class TestRetrieve:
    async def test_comes_back(self, tmp_path: Path) -> None:
        """A file of the ledger is where zdb looks for it, whole, and nothing else is left."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            assert await found.retriever.retrieve(D0) == Answer(0, "")
            assert found.live(D0) == GOOD
            assert left(found) == ["d0"]
            assert found.roots.path(D0).stat().st_nlink == 1
            assert found.retriever.retrieved == 1

    async def test_journal_lost(self, tmp_path: Path) -> None:
        """Without a ledger the store's word counts, checked by its own checksum."""
        async with rig(tmp_path) as found:
            found.store.content[D0] = GOOD
            namespace(found)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD

    async def test_is_there(self, tmp_path: Path) -> None:
        """A file that is there is not asked for, and not touched."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            found.data(0, b"local")
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == b"local"
            assert found.store.calls == []

    async def test_appears_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that appears while another is fetched stays as it is."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            real = found.store.get

            async def get(key: FileKey, target: Path) -> None:
                await real(key, target)
                found.data(0, b"zdb made this")

            monkeypatch.setattr(found.store, "get", get)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == b"zdb made this"
            assert left(found) == ["d0"]

    async def test_its_real_length(self, tmp_path: Path, logs: Logs) -> None:
        """A store without sizes and without a manifest, restored lazily: the ledger has only what entries
        need of the data files. Once they are here it has their length: nothing differs, nothing is owed.
        """
        logs.expect("restoring", "restored")
        zdb_at(tmp_path)
        newest = files_of(tmp_path)
        store = MemoryStore()
        store.knows_sizes = store.lists = False
        fill(store, newest, named=False)
        wipe(tmp_path)
        async with rig(tmp_path, store, names=(NS,)) as found:
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0
            for number in range(3):
                key = data_key(NS, number)
                assert (await found.ledger())[key].size_bytes < len(newest[key])
                assert (await found.retriever.retrieve(key)).code == 0
                assert found.scheduler.remote_bytes(key) == len(newest[key])
            ledger = await found.ledger()
            assert {key: ledger[key].size_bytes for key in newest} == {
                key: len(content) for key, content in newest.items()
            }
            assert told(await audit(found)) == []
            debt = owed((), found.scheduler, ())
            point = look(Files(found.roots), found.scheduler, debt, skip=(), now=time.time())
            assert point.spaces[NS].gaps == ()

    async def test_length_of_what_is_here(self, tmp_path: Path, logs: Logs) -> None:
        """A data file that was not lost tells its own length, if it is the same; d3 alone is fetched."""
        logs.expect("restoring", "restored")
        zdb_at(tmp_path)
        newest = files_of(tmp_path)
        store = MemoryStore()
        store.knows_sizes = store.lists = False
        fill(store, newest, named=False)
        lose(tmp_path, "d3")
        async with rig(tmp_path, store, names=(NS,)) as found:
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0
            assert store.of("get") == [data_key(NS, 3)]
            ledger = await found.ledger()
            assert {key: ledger[key].size_bytes for key in newest} == {
                key: len(content) for key, content in newest.items()
            }
            assert told(await audit(found)) == []

    async def test_single_flight(self, tmp_path: Path) -> None:
        """Asked twice at once, it is fetched once; of two files both are."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            await stored(found, data_key("ns", 1), b"other")
            namespace(found)
            answers = []

            async def ask(key: FileKey) -> None:
                answers.append((await found.retriever.retrieve(key)).code)

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(ask, D0)
                group.start_soon(ask, data_key("ns", 1))
            assert answers == [0] * 5
            assert sorted(map(str, found.store.of("get"))) == ["data/ns/d0", "data/ns/d1"]
            assert found.retriever._locks == {}

    @pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
    @pytest.mark.parametrize("across", [False, True])
    async def test_owner_and_mode(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool
    ) -> None:
        """zdb's user can read it: the owner of the folder, the mode of its siblings."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            folder = namespace(found)
            found.data(1)
            found.roots.path(data_key("ns", 1)).chmod(0o640)
            os.chown(folder, 12345, 23456)
            if across:
                refuse_links(monkeypatch, found.staging.folder, errno.EXDEV)
            assert (await found.retriever.retrieve(D0)).code == 0
            made = found.roots.path(D0).stat()
            assert (made.st_uid, made.st_gid) == (12345, 23456)
            assert stat.S_IMODE(made.st_mode) == 0o640

    async def test_alone(self, tmp_path: Path) -> None:
        """Without a sibling to go by it is for its owner only."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            await found.retriever.retrieve(D0)
            assert stat.S_IMODE(found.roots.path(D0).stat().st_mode) == 0o600


def refuse_links(monkeypatch: pytest.MonkeyPatch, below: Path, code: int) -> None:
    """`os.link` from `below` fails as between file systems; with EPERM it fails everywhere."""
    real = os.link

    def link(source: Any, target: Any) -> None:
        if code == errno.EPERM or str(source).startswith(str(below)):
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr(os, "link", link)


class TestAcross:
    @pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
    async def test_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """Staging on another file system, or one without links, is as good."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            refuse_links(monkeypatch, found.staging.folder, code)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD
            assert left(found) == ["d0"]

    @pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
    async def test_appears_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """There too what appears meanwhile stays."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            refuse_links(monkeypatch, found.staging.folder, code)
            real = shutil.copystat

            def copystat(*args: Any, **options: Any) -> None:
                real(*args, **options)
                found.data(0, b"zdb made this")

            monkeypatch.setattr(shutil, "copystat", copystat)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == b"zdb made this"
            assert left(found) == ["d0"]

    async def test_disk_full(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half a copy never gets the name that zdb opens."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            refuse_links(monkeypatch, found.staging.folder, errno.EXDEV)

            def copyfile(_: Path, target: Path) -> None:
                target.write_bytes(GOOD[:10])
                raise OSError(errno.ENOSPC, "full")

            monkeypatch.setattr(shutil, "copyfile", copyfile)
            assert (await found.retriever.retrieve(D0)).code == 1
            assert left(found) == []


class TestNotRetrieved:
    async def refused(self, found: Rig, text: str, *, told: Logs | None = None) -> None:
        """One line, and nothing in zdb's folder: half a file would be an error for ever.

        `told`: where the reason stands if the time ran out within the last try.
        """
        namespace(found)
        answer = await found.retriever.retrieve(D0)
        assert answer.code == 1
        tries = [] if told is None else [line["error"] for line in told.of(AGAIN)]
        assert any(text in line for line in [answer.text, *tries])
        assert "\n" not in answer.text
        assert left(found) == []
        assert found.retriever.failed == 1
        assert found.retriever.last_error is not None

    async def test_missing(self, tmp_path: Path, logs: Logs) -> None:
        """A file that the store does not have, and can prove so, is refused at once."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await self.refused(found, "no such file")
            assert len(found.store.of("stat")) == 1

    async def test_missing_though_proven(self, tmp_path: Path, logs: Logs) -> None:
        """Also where the ledger says otherwise."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await stored(found, D0)
            del found.store.content[D0]
            await self.refused(found, "no such file")

    async def test_blind(self, tmp_path: Path, logs: Logs) -> None:
        """ "Not found" of a store that may be blind is no answer: it is asked again until the end."""
        logs.expect(FAILED, AGAIN)
        async with rig(tmp_path, deadline_s=0.2) as found:
            await stored(found, D0)
            found.store.blind = True
            await self.refused(found, "blind", told=logs)
            assert len(found.store.of("stat")) > 1

    async def test_other_content_than_proven(self, tmp_path: Path, logs: Logs) -> None:
        """What the store has is not what was proven: zdb does not get it."""
        logs.expect(FAILED, AGAIN)
        async with rig(tmp_path, deadline_s=0.2) as found:
            await stored(found, D0)
            found.store.content[D0] = b"older"
            await self.refused(found, "the ledger says", told=logs)
            assert found.store.of("get") == []

    @pytest.mark.parametrize("fault", ["wrong", "cut"])
    async def test_other_bytes_than_it_says(self, tmp_path: Path, logs: Logs, fault: str) -> None:
        """A store that gives other bytes than its checksum says, or not all, is not believed."""
        logs.expect(FAILED, AGAIN)
        async with rig(tmp_path, deadline_s=0.2) as found:
            await stored(found, D0)
            setattr(found.store, fault, {D0})
            await self.refused(found, "expected", told=logs)

    async def test_deleted_namespace(self, tmp_path: Path, logs: Logs) -> None:
        """What is left of a deleted namespace is not served as the new one's."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await stored(found, D0)
            await found.journal.retire("ns")
            await self.refused(found, "deleted")

    @pytest.mark.parametrize("known", [True, False])
    async def test_too_short(self, tmp_path: Path, logs: Logs, known: bool) -> None:
        """What the store has ends before the values do: zdb would never ask for the rest. Whatever the
        ledger took its length for, it has the real one then.
        """
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            content = data_bytes(0, 5)[:100]
            found.store.content[D0] = content
            if known:
                guess = len(data_bytes(0, 5)) - 4
                entry = LedgerEntry(
                    key=D0,
                    size_bytes=guess,
                    digest=digest_of(content),
                    stored_at=1.0,
                    sealed=True,
                )
                await found.journal.note_found([entry])
            found.write(index_key("ns", 0), index_bytes(0, values=5))
            await self.refused(found, "data/ns/d0 has 100 bytes in the store, but index entries")
            assert len(found.store.of("get")) == 1
            if known:
                assert (await found.ledger())[D0].size_bytes == 100
            assert (await found.retriever.retrieve(D0)).code == 1, "and asked again"

    async def test_as_short_as_it_was_here(self, tmp_path: Path, logs: Logs) -> None:
        """The ledger knows that there never was more of it: its other values are served."""
        logs.expect("some values were lost before it was stored")
        async with rig(tmp_path) as found:
            content = data_bytes(0, 5)[:100]
            found.store.content[D0] = content
            entry = LedgerEntry(
                key=D0, size_bytes=100, digest=digest_of(content), stored_at=1.0, sealed=True
            )
            await found.journal.note_found([entry])
            found.write(index_key("ns", 0), index_bytes(0, values=5))
            namespace(found)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.roots.path(D0).read_bytes() == content

    async def test_too_short_for_another_index(self, tmp_path: Path, logs: Logs) -> None:
        """Any index that points into it counts; one that cannot be read does not."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            found.store.content[D0] = data_bytes(0, 2)
            found.write(index_key("ns", 0), index_bytes(0, values=2))
            found.write(index_key("ns", 1), b"no index")
            found.write(index_key("ns", 2), index_bytes(2, values=9, data=0))
            await self.refused(found, "index entries point up to byte")
            found.write(index_key("ns", 2), index_bytes(2, values=9))
            assert await found.retriever.retrieve(D0) == Answer(0, "")

    async def test_of_a_namespace_in_user_mode(self, tmp_path: Path, logs: Logs) -> None:
        """There entries say 0 for their data file, and mean their own."""
        logs.expect("it is of the namespace that is here")
        async with rig(tmp_path) as found:
            d1 = data_key("ns", 1)
            await stored(found, d1, data_bytes(1))
            await found.journal.retire("ns")
            for number in range(2):
                content = bytearray(index_bytes(number, data=0))
                content[28] = 0  # the mode
                found.write(index_key("ns", number), bytes(content))
            namespace(found)
            assert await found.retriever.retrieve(d1) == Answer(0, "")
            assert found.live(d1) == data_bytes(1)

    @pytest.mark.parametrize("values", [2, 3])
    async def test_of_the_namespace_made_anew(
        self, tmp_path: Path, logs: Logs, values: int
    ) -> None:
        """Stored before its predecessor's deletion was heard of: entries point to its values."""
        logs.expect("it is of the namespace that is here")
        async with rig(tmp_path) as found:
            await stored(found, D0, data_bytes(0))
            await found.journal.retire("ns")
            found.write(index_key("ns", 0), index_bytes(0, values=values))
            namespace(found)
            assert await found.retriever.retrieve(D0) == Answer(0, "")
            assert found.live(D0) == data_bytes(0)
            entry = (await found.ledger())[D0]
            assert (entry.digest, entry.sealed) == (digest_of(data_bytes(0)), True)

    @pytest.mark.parametrize(
        "content",
        [
            index_bytes(0, values=4),
            index_bytes(0, values=0),
            index_bytes(0).replace(b"key1", b"key9"),
            index_bytes(0)[:-8] + b"\1" * 8,
            b"no index",
        ],
    )
    async def test_of_a_deleted_one(self, tmp_path: Path, logs: Logs, content: bytes) -> None:
        """One value that is not there, and it is another's; without an entry nothing tells."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await stored(found, D0, data_bytes(0))
            await found.journal.retire("ns")
            found.write(index_key("ns", 0), content)
            await self.refused(found, "deleted")

    async def test_unreachable(self, tmp_path: Path, logs: Logs) -> None:
        """The store stays away: an answer comes once the time is over, not later."""
        logs.expect(FAILED, AGAIN)
        async with rig(tmp_path, deadline_s=0.2) as found:
            await stored(found, D0)
            found.store.down = "no route"
            with anyio.fail_after(2):
                await self.refused(found, "no route", told=logs)

    @pytest.mark.parametrize("operation", ["stat", "get"])
    async def test_hangs(self, tmp_path: Path, logs: Logs, operation: str) -> None:
        """So does a store that never answers."""
        logs.expect(FAILED)
        async with rig(tmp_path, deadline_s=0.25) as found:
            await stored(found, D0)
            found.store.hang = {operation}
            with anyio.fail_after(2):
                await self.refused(found, "no answer within")

    async def test_namespace_folder_gone(self, tmp_path: Path, logs: Logs) -> None:
        """Without the folder there is nowhere to put it; none is made."""
        logs.expect(FAILED)
        async with rig(tmp_path) as found:
            await stored(found, D0)
            assert (await found.retriever.retrieve(D0)).code == 1
            assert not found.roots.path(D0).parent.exists()
            assert left(found) == []

    async def test_cancelled(self, tmp_path: Path) -> None:
        """Given up in the middle, nothing is left."""
        async with rig(tmp_path) as found:
            await stored(found, D0)
            namespace(found)
            found.store.hang = {"get"}
            async with anyio.create_task_group() as group:
                group.start_soon(found.retriever.retrieve, D0)
                await found.until(lambda: bool(found.store.of("get")))
                group.cancel_scope.cancel()
            assert left(found) == []
            found.store.hang = set()
            assert (await found.retriever.retrieve(D0)).code == 0


async def test_back_within_the_deadline(tmp_path: Path, logs: Logs) -> None:
    """A store that comes back in time delivers."""
    logs.expect(AGAIN)
    async with rig(tmp_path) as found:
        await stored(found, D0)
        namespace(found)
        found.store.down = "no route"
        async with anyio.create_task_group() as group:
            group.start_soon(found.retriever.retrieve, D0)
            await found.until(lambda: len(found.store.calls) >= 3)
            found.store.down = None
        assert found.live(D0) == GOOD


class TestFromPending:
    """What is frozen here and not stored yet."""

    async def owed(self, found: Rig, content: bytes = GOOD, **fields: Any) -> Job:
        """A snapshot of d0, whose live file is gone."""
        found.data(0, content)
        [made] = found.staging.freeze([found.roots.path(D0)])
        assert made is not None
        found.roots.path(D0).unlink()
        values: dict[str, Any] = {
            "staged": made.staged,
            "size_bytes": made.size_bytes,
            "digest": made.digest,
            "content": made.content,
        }
        return await found.owe(D0, **values | fields)

    async def test_comes_back(self, tmp_path: Path) -> None:
        """A file that is only here, as a snapshot, comes from there; the snapshot stays."""
        async with rig(tmp_path, run=False) as found:
            job = await self.owed(found)
            found.store.down = "no route"
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD
            assert job.staged is not None
            assert found.staging.path(job.staged).stat().st_nlink == 1

    async def test_longer_than_stored(self, tmp_path: Path) -> None:
        """It has more than what is stored: zdb gets the longer one."""
        async with rig(tmp_path, run=False) as found:
            await stored(found, D0, GOOD[:100], sealed=False)
            await self.owed(found)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD

    async def test_shorter_than_stored(self, tmp_path: Path) -> None:
        """It has less: zdb gets what is stored."""
        async with rig(tmp_path, run=False) as found:
            await stored(found, D0)
            await self.owed(found, b"0" * 28)
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD

    async def test_in_conflict(self, tmp_path: Path) -> None:
        """One that is in conflict with what is stored is not served."""
        async with rig(tmp_path, run=False) as found:
            found.store.content[D0] = GOOD
            await self.owed(found, b"0" * 28, error_class="conflict")
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD

    async def test_behind_a_longer_one(self, tmp_path: Path, logs: Logs) -> None:
        """A snapshot that a later, longer version follows would be half of the file: not served."""
        logs.expect(FAILED)
        async with rig(tmp_path, run=False) as found:
            await self.owed(found, GOOD[:50])
            found.dispatcher._scheduler.take(0.0)
            await found.owe(D0, sealed=True, size_bytes=len(GOOD))
            assert len(found.scheduler.of(D0)) == 2
            namespace(found)
            assert (await found.retriever.retrieve(D0)).code == 1
            assert not found.roots.path(D0).exists()

    async def test_stored_a_moment_ago(self, tmp_path: Path) -> None:
        """A snapshot that is removed under it, because it was stored, is fetched from the store."""
        async with rig(tmp_path, run=False) as found:
            job = await self.owed(found)
            assert job.staged is not None
            found.staging.remove([job.staged])
            found.store.content[D0] = GOOD
            assert (await found.retriever.retrieve(D0)).code == 0
            assert found.live(D0) == GOOD


class TestPrefetch:
    """After two data files in a row the next ones come by themselves."""

    async def test_the_next_ones(self, tmp_path: Path) -> None:
        """Sealed ones only, no more than configured."""
        async with rig(tmp_path, prefetch=2) as found:
            namespace(found)
            for number in range(6):
                await stored(found, data_key("ns", number))
                found.index(number)
            for number in (0, 1):
                assert (await found.retriever.retrieve(data_key("ns", number))).code == 0
            await found.eventually(lambda: found.retriever.prefetched == 2)
            here = sorted(path.name for path in namespace(found).glob("d*"))
            assert here == ["d0", "d1", "d2", "d3"]
            gets = len(found.store.of("get"))
            assert (await found.retriever.retrieve(data_key("ns", 3))).code == 0
            assert len(found.store.of("get")) == gets
            assert not found.roots.path(data_key("ns", 5)).exists()  # zdb's active one

    async def test_not_in_a_row(self, tmp_path: Path) -> None:
        """Who reads here and there is not helped by the neighbours."""
        async with rig(tmp_path, prefetch=2) as found:
            namespace(found)
            for number in range(6):
                await stored(found, data_key("ns", number))
                found.index(number)
            for number in (3, 1):
                await found.retriever.retrieve(data_key("ns", number))
            assert len(found.store.of("get")) == 2

    async def test_gives_way(self, tmp_path: Path) -> None:
        """What zdb waits for does not wait for what it may want."""
        async with rig(tmp_path, prefetch=2) as found:
            namespace(found)
            for number in range(8):
                await stored(found, data_key("ns", number))
                found.index(number)
            await found.retriever.retrieve(data_key("ns", 0))
            found.store.hang.add("get")
            found.store.hang.clear()
            await found.retriever.retrieve(data_key("ns", 1))
            found.store.hang.add("get")  # d2, ahead
            await found.eventually(lambda: found.retriever._ahead_key == data_key("ns", 2))
            found.store.hang.clear()
            with anyio.fail_after(2):
                assert (await found.retriever.retrieve(data_key("ns", 5))).code == 0
            assert found.retriever.prefetched == 0
