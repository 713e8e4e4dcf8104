"""Thaw: a full staging folder never stands still, and what is let go is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hookd.digest import digest_of
from hookd.errors import JournalUnavailable
from hookd.files import FileKey, index_key
from hookd.journal import Job, JobState
from tests.conftest import Logs
from tests.fakes.disk import fill, small_disk
from tests.fakes.rig import Rig, rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

GAVE = "gave its room away, will freeze again"
SIZE = 100
"""Bytes of each file here."""


async def waits(found: Rig, number: int, needs: int) -> Job:
    """A snapshot of iN that waits for the index `needs`."""
    key = index_key("ns", number)
    found.write(key, bytes([number]) * SIZE)
    [made] = found.staging.freeze([found.roots.path(key)])
    assert made is not None
    return await found.owe(
        key,
        staged=made.staged,
        begun=made.begun,
        size_bytes=made.size_bytes,
        digest=made.digest,
        content=made.content,
        needs=needs,
    )


async def owes(found: Rig, number: int) -> Job:
    """iN, for which there was no room; its data files are stored."""
    key = found.index(number, bytes([number]) * SIZE)
    return await found.owe(key, freeze=True, needs=number, size_bytes=SIZE)


def row(found: Rig, job: Job) -> Any:
    return found.rows(f"SELECT staged, freeze, digest FROM jobs WHERE id = {job.id}")[0]


async def test_a_chain(tmp_path: Path, logs: Logs) -> None:
    """The newest index, on which all the others wait, takes their room; each is stored afterwards."""
    logs.expect(GAVE)
    async with rig(tmp_path, run=False, staging_bytes=2 * SIZE) as found:
        first, second = await waits(found, 0, 1), await waits(found, 1, 2)
        await owes(found, 2)
        found.work()
        await found.empty()
        names = [key.name for key, _ in found.store.puts]
        assert names == ["i2", "i1", "i0"]
        assert found.store.content[first.key] == bytes(SIZE)
        assert found.store.content[second.key] == b"\1" * SIZE
        await found.eventually(lambda: not found.staged())
        assert found.staging.size_bytes == 0


@pytest.mark.parametrize("files", [1, 2, 5])
async def test_room_for_one(tmp_path: Path, logs: Logs, files: int) -> None:
    """A limit of the largest file is enough to empty the line."""
    logs.expect(GAVE)
    async with rig(tmp_path, run=False, staging_bytes=SIZE, workers=1) as found:
        for number in range(files):
            found.index(number, bytes([number]) * SIZE)
        await waits(found, 0, files)
        for number in range(1, files + 1):
            await owes(found, number)
        found.work()
        await found.empty()
        assert len(found.store.content) == files + 1


async def test_a_full_disk(tmp_path: Path, logs: Logs) -> None:
    """As with the limit, where the disk has no more."""
    logs.expect(GAVE)
    big = 300_000  # beyond what the journal takes
    with small_disk(tmp_path / "disk", size_kib=700) as disk:
        async with rig(tmp_path, run=False) as found:
            found.staging.folder = disk
            old = found.index(0, b"o" * big)
            [made] = found.staging.freeze([found.roots.path(old)])
            assert made is not None
            await found.owe(old, staged=made.staged, begun=made.begun, size_bytes=big,
                            digest=made.digest, needs=1)  # fmt: skip
            fill(disk)
            await found.owe(found.index(1, b"n" * big), freeze=True, needs=1)
            found.work()
            await found.empty()
            assert found.store.content[old] == b"o" * big


async def test_durable(tmp_path: Path, logs: Logs) -> None:
    """After a crash the job that gave its room away freezes its file, with what that has by then."""
    logs.expect(GAVE)
    async with rig(tmp_path, run=False, staging_bytes=SIZE) as found:
        job = await waits(found, 0, 1)
        newest = await owes(found, 1)
        assert await found.dispatcher._attempts._sources._thaw.make_room(newest, SIZE)
        assert row(found, job) == (None, 1, None)
        assert found.rows("SELECT count(*) FROM snapshots") == [(0,)]
        assert found.staged() == []
        found.index(0, b"newer" * 40)
    async with rig(tmp_path, staging_bytes=2 * SIZE) as found:
        await found.empty()
        assert found.store.content[job.key] == b"newer" * 40


def gone(found: Rig, key: FileKey) -> None:
    found.roots.path(key).unlink()


def shorter(found: Rig, key: FileKey) -> None:
    found.index(key.number, b"x" * (SIZE - 1))


def untrusted(found: Rig, key: FileKey) -> None:
    found.held[key.namespace] = "half of it is gone"


@pytest.mark.parametrize("change", [gone, shorter, untrusted])
async def test_the_only_copy(tmp_path: Path, change: Any) -> None:
    """What the disk does not have, or not as it was, is not let go."""
    async with rig(tmp_path, run=False, staging_bytes=SIZE) as found:
        job = await waits(found, 0, 1)
        newest = await owes(found, 1)
        change(found, job.key)
        assert not await found.dispatcher._attempts._sources._thaw.make_room(newest, SIZE)
        assert job.digest == digest_of(bytes(SIZE))
        assert len(found.staged()) == 1


async def test_not_in_vain(tmp_path: Path) -> None:
    """Nothing is let go where that is not enough: others that hold room are on their way."""
    async with rig(tmp_path, run=False, staging_bytes=2 * SIZE) as found:
        await waits(found, 0, 2)
        on_its_way = await waits(found, 1, 1)
        assert on_its_way.place == "ready"
        newest = await owes(found, 2)
        assert not await found.dispatcher._attempts._sources._thaw.make_room(newest, 2 * SIZE)
        assert len(found.staged()) == 2


async def test_journal_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be kept that a copy is gone, the copy stays."""
    async with rig(tmp_path, run=False, staging_bytes=SIZE) as found:
        job = await waits(found, 0, 1)
        newest = await owes(found, 1)

        async def full(change: object) -> None:
            raise JournalUnavailable("database or disk is full")

        monkeypatch.setattr(found.journal, "_do", full)
        with pytest.raises(JournalUnavailable):
            await found.dispatcher._attempts._sources._thaw.make_room(newest, SIZE)
        assert job.staged is not None
        assert (job.freeze, job.digest) == (False, digest_of(bytes(SIZE)))
        assert found.staging.path(job.staged).exists()


async def refused(found: Rig, number: int) -> Job:
    """A quarantined snapshot of iN."""
    job = await waits(found, number, number)
    job.needs = None
    job.state, job.place = JobState.QUARANTINED, "quarantined"
    return job


async def test_of_a_quarantined_one(tmp_path: Path, logs: Logs) -> None:
    """It gives its room away as long as the very same bytes are on disk, and stays what it is."""
    logs.expect(GAVE)
    async with rig(tmp_path, run=False, staging_bytes=SIZE) as found:
        job = await refused(found, 0)
        other = found.index(1, b"n" * SIZE, ns="other")
        await found.owe(other, freeze=True, size_bytes=SIZE)
        found.work()
        await found.until(lambda: other in found.store.content)
        assert job.state is JobState.QUARANTINED
        assert row(found, job) == (None, 1, None)


async def test_the_only_copy_of_a_quarantined_one(tmp_path: Path, logs: Logs) -> None:
    """Nobody has decided yet: with other bytes on disk it stays, and the line is stuck."""
    async with rig(tmp_path, run=False, staging_bytes=SIZE) as found:
        job = await refused(found, 0)
        found.write(job.key, b"other" * SIZE)
        other = found.index(1, b"n" * SIZE, ns="other")
        lacking = await found.owe(other, freeze=True, size_bytes=SIZE)
        assert not found.scheduler.stuck()
        logs.expect("will retry")
        found.work()
        await found.until(lambda: lacking.attempts >= 2 and found.scheduler.stuck())
        assert job.staged is not None
        assert other not in found.store.content
