"""Source: what is put is a snapshot, made late if it has to be, or a file that zdb leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.files import FileKey, data_key, index_key
from hookd.journal import JobState
from tests.conftest import Logs
from tests.fakes.owed import frozen, proven
from tests.fakes.rig import rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

RETRY = "will retry"
QUARANTINED = "quarantined"


class TestFreezeLater:
    async def test_frozen_and_stored(self, tmp_path: Path) -> None:
        """A file that found no room at its event is frozen when its turn comes."""
        async with rig(tmp_path) as found:
            key = found.index(0)
            await found.owe(key, freeze=True, needs=0)
            await found.empty()
            assert found.store.content[key] == found.live(key)
            await found.eventually(lambda: not found.staged())

    async def test_points_further_by_then(self, tmp_path: Path) -> None:
        """Frozen late it may point into newer data, so it waits for that (rule 2), then goes once."""
        async with rig(tmp_path) as found:
            old = found.index(0)
            for number in range(2):
                found.data(number)
                found.index(number)
            await proven(found, data_key("ns", 0), found.live(data_key("ns", 0)))
            job = await found.owe(old, freeze=True, needs=0)
            await found.until(lambda: job.staged is not None and not found.running)
            assert (job.needs, job.needs_bytes) == (1, len(found.live(data_key("ns", 1))))
            assert job.state is JobState.PENDING
            assert found.store.puts == []
            [row] = found.rows(f"SELECT staged, needs FROM jobs WHERE id = {job.id}")
            assert row == (job.staged, 1)
            await found.owe(data_key("ns", 1), sealed=True)
            await found.owe(index_key("ns", 1), freeze=True, needs=1)
            await found.empty()
            names = [key.name for key, _ in found.store.puts]
            assert names == ["d1", "i1", "i0"]

    async def test_no_room_yet(self, tmp_path: Path, logs: Logs) -> None:
        """Without room it waits, and is stored when there is some."""
        logs.expect(RETRY)
        async with rig(tmp_path, staging_bytes=10) as found:
            key = found.index(0, b"x" * 100)
            job = await found.owe(key, freeze=True)
            await found.until(lambda: job.error_class == "no-room")
            assert found.staged() == []
            found.staging.max_bytes = None
            await found.empty()
            assert found.store.content[key] == b"x" * 100

    async def test_the_disk_loses_it_before(self, tmp_path: Path, logs: Logs) -> None:
        """A file that found no room the second time: its first copy is stored, whatever becomes of it."""
        logs.expect(RETRY, QUARANTINED, "no snapshot, will freeze later")
        async with rig(tmp_path, run=False, staging_bytes=150) as found:
            found.data(0)
            key = found.index(0, b"x" * 100)
            found.index(1)
            assert (await found.admit(found.jumped(0))).code == 0
            assert (await found.admit(found.jumped(0))).code == 1
            found.roots.path(key).unlink()
            await found.admit(found.sealed(0))
            found.work()
            await found.until(lambda: found.store.content.get(key) == b"x" * 100)
            await found.until(lambda: [j.state for j in found.scheduler] == [JobState.QUARANTINED])

    async def test_data_needs_no_room(self, tmp_path: Path) -> None:
        """Staging full of indexes that wait for a data file: that one is read in place."""
        async with rig(tmp_path, staging_bytes=100) as found:
            data = found.data(0, b"d" * 50)
            await frozen(found, index_key("ns", 0), b"i" * 100, needs=0, needs_bytes=50)
            await found.owe(data, freeze=True)
            await found.empty()
            assert found.store.content[data] == b"d" * 50
            assert index_key("ns", 0) in found.store.content

    async def test_file_gone(self, tmp_path: Path, logs: Logs) -> None:
        """A file that is not there any more when its turn comes is quarantined."""
        logs.expect(RETRY, QUARANTINED)
        async with rig(tmp_path) as found:
            job = await found.owe(index_key("ns", 0), freeze=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error_class == "gone"


class TestActive:
    """A data file is announced as sealed, and is the active one of a namespace that was made anew."""

    async def test_is_stored_as_active(self, tmp_path: Path) -> None:
        """What is stored of it is its beginning, not its end: it may grow."""
        async with rig(tmp_path) as found:
            found.index(0)
            key = found.data(0, b"values" * 10)
            await found.owe(key, sealed=True)
            await found.empty()
            assert not (await found.ledger())[key].sealed
            found.data(0, b"values" * 20)
            found.index(1)
            await found.owe(key, sealed=True)
            await found.empty()
            assert (await found.ledger())[key].sealed
            assert found.store.content[key] == b"values" * 20

    @pytest.mark.parametrize("after", [index_key("ns", 1), data_key("ns", 1), index_key("ns", 5)])
    async def test_what_is_sealed(self, tmp_path: Path, after: FileKey) -> None:
        """A file with any of a higher number beside it is final."""
        async with rig(tmp_path) as found:
            found.index(0)
            key = found.data(0)
            found.write(after, b"x" * 40)
            await found.owe(key, sealed=True)
            await found.empty()
            assert (await found.ledger())[key].sealed

    async def test_never_over_a_sealed_one(self, tmp_path: Path, logs: Logs) -> None:
        """A longer one under the name of one that is final is another one, active or not."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path) as found:
            key = data_key("ns", 0)
            await proven(found, key, b"final", sealed=True)
            job = await frozen(found, key, b"another that is longer")
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error_class == "conflict"
            assert found.store.content[key] == b"final"

    async def test_empty(self, tmp_path: Path, logs: Logs) -> None:
        """One that is just being made is stored once it is not empty any more."""
        logs.allow(RETRY)
        async with rig(tmp_path) as found:
            key = data_key("ns", 0)
            found.write(key, b"")
            found.index(1)
            job = await found.owe(key, sealed=True)
            await found.until(lambda: job.error_class == "gone")
            assert key not in found.store.content
            found.write(key, b"values")
            await found.until(lambda: found.store.content.get(key) == b"values")
