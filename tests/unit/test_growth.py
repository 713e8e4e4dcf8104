"""Within a large file it moves: what of it is here is looked at while it comes."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from hookd.digest import digest_of
from hookd.files import FileKey, data_key
from hookd.journal import LedgerEntry
from hookd.restore import growth
from hookd.restore.growth import Growth, grown
from hookd.restore.local import WORK
from hookd.restore.progress import Progress
from tests.conftest import Logs
from tests.fakes.rig import rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, NS, files_of, fill, wipe, zdb_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

KEY = data_key("ns", 0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """A second is over at once."""
    monkeypatch.setattr(growth, "LOOK_EVERY_S", 0.005)
    logs.allow(*EXPECTED)


class Halfway(MemoryStore):
    """Stops in the middle of a file until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = anyio.Event()

    async def get(self, key: FileKey, target: Path) -> None:
        content = self.content[key]
        target.write_bytes(content[: len(content) // 2])
        await self.go_on.wait()
        target.unlink()
        await super().get(key, target)


@pytest.mark.parametrize("name", ["d1.part", "d1.part.0123abcd.partial"])
def test_where_it_grows(tmp_path: Path, name: str) -> None:
    """The file, or what rclone writes beside it; no other file, and no folder that is gone."""
    (tmp_path / "d10.part").write_bytes(bytes(99))
    (tmp_path / "d1").write_bytes(bytes(98))
    assert grown(tmp_path / "d1.part") == 0
    (tmp_path / name).write_bytes(bytes(7))
    assert grown(tmp_path / "d1.part") == 7
    assert grown(tmp_path / "absent" / "d1.part") == 0


async def test_it_is_forgotten(tmp_path: Path) -> None:
    """However it ends."""
    told: list[int] = []
    found = Growth(lambda: told.append(found.bytes[KEY]))
    (tmp_path / "d0").write_bytes(bytes(5))

    async def fetch() -> None:
        async with found.watch(KEY, tmp_path / "d0"):
            while not told:
                await anyio.sleep(0.001)
            raise OSError("gone")

    with anyio.fail_after(5), pytest.raises(OSError, match="gone"):
        await fetch()
    assert told[0] == 5
    assert found.bytes == {}


async def test_a_restore(tmp_path: Path) -> None:
    """Its line has the bytes of a file that is not there yet, and whoever looks on is told."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), Halfway()
    fill(store, files, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        restorer, told = found.survey.restorer, list[int]()

        def say(progress: Progress) -> None:
            if progress.files_total and not progress.files_done:
                told.append(progress.bytes_here)

        restorer._fetches.say = say
        async with anyio.create_task_group() as group:
            group.start_soon(found.survey.survey)
            await found.eventually(lambda: bool(told) and told[-1] > 0)
            assert restorer.progress is not None
            assert restorer.progress.eta_s is None or restorer.progress.eta_s > 0
            store.go_on.set()
        assert (await found.survey.judge()).code == 0
    assert not list(tmp_path.glob(f"*/*/{WORK}"))


async def test_a_file_that_zdb_waits_for(tmp_path: Path) -> None:
    """status can say how far it is."""
    content, store = b"value" * 100, Halfway()
    async with rig(tmp_path, store) as found:
        store.content[KEY] = content
        (tmp_path / "data" / "ns").mkdir()
        entry = LedgerEntry(
            key=KEY, size_bytes=500, digest=digest_of(content), stored_at=1.0, sealed=True
        )
        await found.journal.adopt([entry])
        async with anyio.create_task_group() as group:
            group.start_soon(found.retriever.retrieve, KEY)
            await found.eventually(lambda: found.retriever.arriving() == {KEY: (250, 500)})
            store.go_on.set()
        assert found.retriever.arriving() == {}
        assert found.live(KEY) == content
