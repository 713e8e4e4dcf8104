"""Two frontends on one store: whatever they do, neither destroys the other's data in silence."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from hookd import fence as fence_stage
from hookd import manifest, publisher
from hookd.backoff import Backoff
from hookd.errors import StoreUnreachable
from hookd.fence import Fenced, ManifestMoved
from hookd.files import FileKey, data_key, index_key
from hookd.identity import home_of
from hookd.publisher import Publisher
from tests.conftest import Logs
from tests.fakes.audits import audit, data_bytes, index_bytes, told
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, NS, mine, store_all

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """No look at the manifest is believed a moment later; what these tests are about is said loudly."""
    monkeypatch.setattr(fence_stage, "FRESH_S", 0.0)
    logs.allow(*EXPECTED, "store is back")


def write(found: Rig, *numbers: int, values: int = 3) -> None:
    """zdb's files of these numbers."""
    for number in numbers:
        found.data(number, data_bytes(number, values), ns=NS)
        found.index(number, index_bytes(number, values=values), ns=NS)


async def store(found: Rig, *numbers: int) -> None:
    """As hooks have it done; the last one is active."""
    for number in numbers:
        sealed = number < numbers[-1]
        await found.owe(data_key(NS, number), sealed=sealed, freeze=not sealed)
        await found.owe(index_key(NS, number), freeze=True, needs=number)
    await found.empty()


def folders(tmp_path: Path, *names: str) -> list[Path]:
    """One for each frontend."""
    made = [tmp_path / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("published", [True, False])
async def test_an_audit_gives_nothing_of_another_frontend_away(
    tmp_path: Path, published: bool, noticed: bool
) -> None:
    """What the other one has stored since is its own; whoever fails back gets all of it.

    `noticed`: whether the audit begins after the first one has seen that it lost the store.
    """
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one:
        write(one, 0, 1)
        await store_all(one)
        await one.fence.publish()
        async with rig(b, there, names=(NS,)) as two:
            await two.survey.survey()
            write(two, 2, 3, 4)
            await store(two, 2, 3, 4)
            if published:
                await two.fence.publish()
        truth = mine(b)
        if noticed:
            with pytest.raises(Fenced):
                await one.fence.guard()
        assert "foreign" not in {problem for _, problem, _ in told(await audit(one))}
        assert await one.journal.retired() == {}
    async with rig(a, there, names=(NS,), full=True) as one:
        await one.survey.survey()
        assert (await one.survey.judge()).code == 1
        await one.survey.choices.choose(NS, "remote")
        await one.survey.survey()
        assert (await one.survey.judge()).code == 0
        assert mine(a) == mine(a) | truth
        assert manifest.decode(there.records[manifest.NAME]).stale == {}


async def test_what_a_manifest_names_is_somebodys(tmp_path: Path) -> None:
    """An earlier audit found a file to be nobody's; the one that made it has the store again."""
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(b, there, names=(NS,)) as two:
        write(two, 0, 1)
        await store_all(two)
        await two.fence.publish()
        newest = {key: there.content[key] for key in (index_key(NS, 1), data_key(NS, 1))}
    stale: dict[FileKey, bytes] = {}
    async with rig(a, there, names=(NS,)) as one:
        found = manifest.decode(there.records[manifest.NAME])
        stale = {key: found.files[key].digest for key in newest}
        await one.journal.disown(stale)
        assert (await one.survey.survey()).code == 0
        assert (await one.survey.judge()).code == 0
        assert {key: one.live(key) for key in newest} == newest


async def test_two_with_one_journal(tmp_path: Path, logs: Logs) -> None:
    """A machine was copied: the one whose files come second stops, whatever both knew at their start."""
    logs.allow("fenced: nothing is stored any more", "store is down")
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore(concurrency=4)
    async with rig(a, there, names=(NS,)) as one:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
    shutil.copytree(a, b, dirs_exist_ok=True)
    async with rig(a, there, names=(NS,)) as one, rig(b, there, names=(NS,)) as two:
        for found, values in ((one, 3), (two, 4)):
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0
            write(found, 1, values=values)
        await store(one, 0, 1)
        job = await two.owe(data_key(NS, 1), sealed=True)
        await two.until(lambda: job.error_class == "fenced")
        assert there.content[data_key(NS, 1)] == one.live(data_key(NS, 1))
        assert one.fence.fenced is None
        await one.fence.publish()


async def test_a_copy_that_starts_later_is_refused(tmp_path: Path) -> None:
    """The first one's name is there from zdb's start on, whether or not it has stored anything."""
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
    shutil.copytree(a, b, dirs_exist_ok=True)
    async with rig(a, there, names=(NS,)) as one, rig(b, there, names=(NS,)) as two:
        before = there.records[manifest.NAME]
        async with anyio.create_task_group() as group:
            group.start_soon(Publisher(one.fence, one.backoff).run)
            await one.survey.survey()
            await one.eventually(lambda: there.records[manifest.NAME] != before)
            group.cancel_scope.cancel()
        await two.survey.survey()
        answer = await two.survey.judge()
        assert answer.code == 1
        assert "another frontend has taken the store over" in answer.text


async def test_our_own_next_start(tmp_path: Path) -> None:
    """A restart, also one that was killed between its name and its knowing: the store stays ours."""
    there = MemoryStore()
    writers = set()
    for kill in (False, True, False, False):
        async with rig(tmp_path, there, names=(NS,)) as one:
            if not one.roots.namespaces():
                write(one, 0)
            await one.survey.survey()
            if kill:

                async def lost(name: str, content: bytes) -> None:
                    there.records[name] = content
                    raise StoreUnreachable("put", name, "killed")

                one.store.put_record = lost  # type: ignore[method-assign]
                with pytest.raises(StoreUnreachable):
                    await one.fence.guard()
                del one.store.put_record
            else:
                await store_all(one)
                await one.fence.publish()
            assert one.fence.fenced is None
            writers.add(manifest.decode(there.records[manifest.NAME]).writer)
    assert len(writers) == 4


@pytest.mark.parametrize("stored_on", [True, False])
@pytest.mark.parametrize("restart", [True, False])
async def test_a_name_that_comes_late(tmp_path: Path, stored_on: bool, restart: bool) -> None:
    """The store can be read and not written when we restore; the one before us stores on until it can.

    Then nothing goes over what it has stored; else an audit is due as after any takeover.
    """
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one:
        write(one, 0, 1)
        await store_all(one)
        await one.fence.publish()
    put = there.put_record

    async def refused(name: str, content: bytes) -> None:
        raise StoreUnreachable("put", name, "not writable")

    async with rig(b, there, names=(NS,)) as two:
        there.put_record = refused  # type: ignore[method-assign]
        await two.survey.survey()
        assert (await two.survey.judge()).code == 0
        if not restart:
            await late_name(two, there, put, stored_on)
    if restart:
        async with rig(b, there, names=(NS,)) as two:
            await two.survey.survey()
            await late_name(two, there, put, stored_on)


async def late_name(found: Rig, there: MemoryStore, put: Any, stored_on: bool) -> None:
    """The store takes it from now on."""
    newer = index_bytes(1, values=3, data=0)
    if stored_on:
        there.content[index_key(NS, 1)] = newer
    there.put_record = put  # type: ignore[method-assign]
    asked: list[int] = []
    found.fence.taken = asked.append
    found.fence.settle_s = 0.05
    began = time.monotonic()
    if stored_on:
        with pytest.raises(Fenced, match=f"index/{NS}/i1 after it was brought back"):
            await found.fence.guard()
        with pytest.raises(Fenced):
            await found.fence.guard()
        assert there.content[index_key(NS, 1)] == newer
        return
    await found.fence.guard()
    assert time.monotonic() - began >= 0.05
    assert asked == [max(len(content) for content in there.content.values())]
    await found.owe(data_key(NS, 1), freeze=True)
    await found.empty()


@pytest.mark.parametrize("asked", ["checkpoint", "by itself"])
async def test_one_that_stores_nothing_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """An idle frontend whose store was taken over: it says so, and no checkpoint calls anything safe."""
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one, rig(b, there, names=(NS,)) as two:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
        await one.fence.confirm()
        monkeypatch.setattr(fence_stage, "FRESH_S", 1e6)  # what was seen before does not count
        await two.survey.survey()
        taken = there.records[manifest.NAME]
        assert manifest.decode(taken).writer != (one.fence.identity and one.fence.identity.writer)
        if asked == "checkpoint":
            with pytest.raises(Fenced):
                await one.fence.confirm()
        else:
            monkeypatch.setattr(publisher, "ASK_EVERY_S", 0.001)
            async with anyio.create_task_group() as group:
                group.start_soon(Publisher(one.fence, one.backoff).run)
                await one.eventually(lambda: one.fence.fenced is not None)
                group.cancel_scope.cancel()
        assert there.records[manifest.NAME] == taken
        with pytest.raises(Fenced):
            await one.fence.confirm()


async def test_nothing_is_written_for_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    """One that is idle and has the store asks, and leaves the manifest as it is."""
    there = MemoryStore()
    async with rig(tmp_path, there, names=(NS,)) as one:
        await one.fence.confirm()
        assert there.records == {}
        write(one, 0)
        await store_all(one)
        await one.fence.confirm()
        before = there.records[manifest.NAME]
        assert index_key(NS, 0) in manifest.decode(before).files
        await one.fence.confirm()
        assert there.records[manifest.NAME] == before


@pytest.mark.parametrize("home", ["same", "copied", "unknown"])
async def test_who_waits_at_a_start(tmp_path: Path, home: str) -> None:
    """Where the journal is the very same file, its last owner has ended; a copy's may be storing."""
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one:
        one.fence._home = home_of(a / "journal.db")
        assert one.fence._home
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
    shutil.copytree(a, b, dirs_exist_ok=True)
    where = b if home == "copied" else a
    async with rig(where, there, names=(NS,)) as one:
        one.fence._home = "" if home == "unknown" else home_of(where / "journal.db")
        one.fence.settle_s = 0.05
        began = time.monotonic()
        await one.fence.guard()
        assert one.fence._alone is (home == "same")
        assert (time.monotonic() - began >= 0.05) or home == "same"
        assert one.fence._settled_at > began or home == "same"


def set_back(there: MemoryStore, to: tuple[dict[FileKey, bytes], dict[str, bytes]]) -> None:
    """The store's own disk was rolled back."""
    for now, then in ((there.content, to[0]), (there.records, to[1])):
        now.clear()
        now.update(then)  # type: ignore[arg-type]


async def test_a_store_that_was_set_back(tmp_path: Path) -> None:
    """An older manifest of a process before this one is ours: zdb is served, all is stored again."""
    there = MemoryStore()
    async with rig(tmp_path, there, names=(NS,)) as one:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
    then = dict(there.content), dict(there.records)
    last = 0
    for number in (1, 2):  # two starts later
        async with rig(tmp_path, there, names=(NS,)) as one:
            await one.survey.survey()
            write(one, number)
            await store(one, number - 1, number)
            await one.fence.publish()
            last = manifest.decode(there.records[manifest.NAME]).sequence
    set_back(there, then)
    before = mine(tmp_path)
    async with rig(tmp_path, there, names=(NS,)) as one:
        assert (await one.survey.survey()).code == 0
        assert (await one.survey.judge()).code == 0
        assert mine(tmp_path) == before
        await one.fence.guard()
        assert manifest.decode(there.records[manifest.NAME]).sequence > last
        await audit(one)
        await one.empty()
        keys = [make(NS, n) for make in (data_key, index_key) for n in range(3)]
        assert {key: there.content[key] for key in keys} == {key: one.live(key) for key in keys}


async def test_set_back_while_running(tmp_path: Path) -> None:
    """It is not taken for another frontend, and nothing goes over what is there unlooked at."""
    there = MemoryStore()
    async with rig(tmp_path, there, names=(NS,)) as one:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
        then = dict(there.content), dict(there.records)
        write(one, 1)
        await store(one, 0, 1)
        await one.fence.publish()
        now = dict(there.content), dict(there.records)
        set_back(there, then)
        with pytest.raises(ManifestMoved, match="older manifest of this frontend"):
            await one.fence.guard()
        assert there.records == then[1]
        assert one.fence.fenced is None
        set_back(there, now)  # a replica that was behind
        await one.fence.guard()


@pytest.mark.parametrize("chosen", [True, False])
async def test_set_back_to_before_another(tmp_path: Path, chosen: bool) -> None:
    """After another frontend had the store, what was written before it is not plainly ours any more."""
    a, b = folders(tmp_path, "a", "b")
    there = MemoryStore()
    async with rig(a, there, names=(NS,)) as one:
        write(one, 0)
        await store_all(one)
        await one.fence.publish()
        then = dict(there.content), dict(there.records)
    async with rig(b, there, names=(NS,)) as two:
        await two.survey.survey()
        write(two, 1)
        await store(two, 0, 1)
        await two.fence.publish()
    if chosen:
        async with rig(a, there, names=(NS,)) as one:
            await one.survey.choices.choose(NS, "remote")
            await one.survey.survey()
            assert (await one.survey.judge()).code == 0
            await one.fence.guard()
    set_back(there, then)
    async with rig(a if chosen else b, there, names=(NS,)) as found:
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "another frontend has taken the store over" in answer.text


async def test_earlier_names_after_the_manifest_was_lost(tmp_path: Path) -> None:
    """It is written anew under a new name; one that comes back (a store set back) is still ours."""
    remote = MemoryStore()
    async with rig(tmp_path, remote, names=(NS,)) as found:
        await found.fence.guard()
        write(found, 0)
        await store(found, 0)
        await found.fence.publish()
    earlier = dict(remote.records)
    remote.records.clear()
    async with rig(tmp_path, remote, names=(NS,)) as found:
        await found.fence.guard()  # compared, and taken over with no manifest there
        assert found.fence.identity is not None
        assert manifest.decode(remote.records[manifest.NAME]).writer == found.fence.identity.writer
    remote.records = earlier
    async with rig(tmp_path, remote, names=(NS,)) as found:
        assert found.fence.identity is not None
        ours = manifest.decode(earlier[manifest.NAME])
        assert found.fence.identity.wrote(
            lineage=ours.lineage, writer=ours.writer, sequence=ours.sequence
        )
        await found.fence.guard()
        assert found.fence.fenced is None


async def test_a_drain_with_a_store_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """The manifest is tried again with a backoff of a second at most, not twenty times a second."""
    logs.allow("manifest not written, will retry")
    remote, waits = MemoryStore(), list[float]()
    sleep = anyio.sleep

    async def slept(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)
        if len(waits) == 12:
            remote.down = None

    async with rig(tmp_path, remote) as found:
        await found.fence.guard()
        found.fence.changed()
        remote.down = "away"
        made = Publisher(found.fence, Backoff(base_s=0.1, cap_s=60.0))
        made.hurry()
        monkeypatch.setattr(anyio, "sleep", slept)
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            while found.fence.unpublished:
                await sleep(0.002)
            group.cancel_scope.cancel()
    assert all(0.05 <= each <= publisher.AGAIN_S for each in waits)
    assert sum(waits[:12]) > 12 * 0.1
