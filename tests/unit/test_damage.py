"""A crash that leaves zeros or older entries in an index file: the better one in the store stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd import manifest
from hookd.damage import refuse_worse
from hookd.digest import digest_of
from hookd.entries import HEADER_BYTES, older_at, reach_of
from hookd.errors import Conflict
from hookd.files import FileKey, data_key, index_key
from hookd.journal import JobState
from hookd.restore.table import Decision
from tests.conftest import Logs
from tests.fakes.audits import audit, data_bytes, index_bytes, told
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS
from tests.fakes.zdb_files import DELETED, descriptor

pytestmark = pytest.mark.anyio

QUARANTINED = "quarantined"
I0, I1 = index_key(NS, 0), index_key(NS, 1)
ENTRY_BYTES = (len(index_bytes(1)) - HEADER_BYTES) // 3

FLAGS_AT = 13
"""In an entry, after idlength, offset, length and previous."""


def zeroed(content: bytes, after: int) -> bytes:
    """The same length, as a crash leaves it."""
    return content[:after] + bytes(len(content) - after)


async def three_stored(found: Rig) -> dict[FileKey, bytes]:
    """i0 to i2 and their data files, stored with a manifest; what the store has."""
    await found.fence.guard()
    for number in range(3):
        found.index(number, index_bytes(number), ns=NS)
        found.data(number, data_bytes(number), ns=NS)
        await found.owe(data_key(NS, number), sealed=number < 2, freeze=number == 2)
        await found.owe(index_key(NS, number), freeze=True, needs=number)
    await found.empty()
    await found.fence.publish()
    return dict(found.store.content)


class TestEntries:
    def test_sound(self) -> None:
        """What zdb writes has an id, and its value after the header of the data file."""
        reach = reach_of(index_bytes(0, values=5))
        assert (reach.damaged_at, reach.sound, reach.entries) == (None, 5, 5)

    @pytest.mark.parametrize("whole", [0, 1, 2])
    def test_zeros(self, whole: int) -> None:
        """The first entry without an id is where it ends."""
        at = HEADER_BYTES + whole * ENTRY_BYTES
        reach = reach_of(zeroed(index_bytes(0, values=4), at))
        assert (reach.damaged_at, reach.sound) == (at, whole)

    def test_cut_off(self) -> None:
        """An entry that was copied while zdb wrote it is no damage."""
        reach = reach_of(index_bytes(0)[:-7])
        assert (reach.damaged_at, reach.sound) == (None, 2)


class TestOlder:
    def test_points_further_on(self) -> None:
        """A rewritten entry points further on, whichever data file that is."""
        old, new = index_bytes(0), index_bytes(0, data=3)
        assert older_at(old, new) == HEADER_BYTES
        assert older_at(new, old) is None
        assert older_at(old, old) is None

    def test_deleted(self) -> None:
        """What is flagged as deleted is newer than what is not."""
        old = index_bytes(0)
        at = HEADER_BYTES + ENTRY_BYTES
        new = bytearray(old)
        new[at + FLAGS_AT] = DELETED
        assert older_at(old, bytes(new)) == at
        assert older_at(bytes(new), old) is None

    def test_of_another_length(self) -> None:
        """Entries that only one of them has tell nothing."""
        assert older_at(index_bytes(0, values=2), index_bytes(0, values=5)) is None

    def test_of_another_namespace(self) -> None:
        """Other keys are another namespace's."""
        other = index_bytes(0, data=3).replace(b"key0", b"yek0")
        assert older_at(index_bytes(0), other) is None


class TestDescriptor:
    async def test_a_public_one_that_zdb_made(self, tmp_path: Path, logs: Logs) -> None:
        """Found by the scan, it does not go over one with a password."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore()) as found:
            await found.fence.guard()
            key = found.descriptor(descriptor(NS, "s3cret"), ns=NS)
            await found.owe(key, freeze=True)
            await found.empty()
            found.descriptor(descriptor(NS), ns=NS)
            job = await found.owe(key, freeze=True, ask_first=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error_class == "conflict"
            assert "it has no password, but the stored one has" in str(job.error)
            assert found.store.content[key] == descriptor(NS, "s3cret")

    async def test_a_password_that_was_taken_away(self, tmp_path: Path) -> None:
        """zdb's hook says so: it is stored."""
        async with rig(tmp_path, MemoryStore()) as found:
            await found.fence.guard()
            key = found.descriptor(descriptor(NS, "s3cret"), ns=NS)
            await found.owe(key, freeze=True)
            await found.empty()
            found.descriptor(descriptor(NS), ns=NS)
            await found.owe(key, freeze=True)
            await found.empty()
            assert found.store.content[key] == descriptor(NS)


class TestRefused:
    @pytest.mark.parametrize("after", [0, HEADER_BYTES, HEADER_BYTES + ENTRY_BYTES])
    async def test_found_by_the_scan(self, tmp_path: Path, logs: Logs, after: int) -> None:
        """Zeros here, sound in the store: a conflict that says what to do, the store as it was."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore()) as found:
            good = await three_stored(found)
            found.write(I1, zeroed(good[I1], after))
            progress = await audit(found)
            assert ("index/" + NS + "/i1", "damaged-index", True) in told(progress)
            [job] = found.scheduler
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert job.error_class == "conflict"
            assert "sound for 3 entries" in str(job.error)
            assert "move this file away" in str(job.error)
            assert found.store.content == good
            assert (await found.ledger())[I1].digest == digest_of(good[I1])

    async def test_that_the_hook_names(self, tmp_path: Path, logs: Logs) -> None:
        """zdb rewrites an entry of it: announced or not, it is damaged."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore()) as found:
            good = await three_stored(found)
            found.write(I0, zeroed(good[I0], HEADER_BYTES + ENTRY_BYTES))
            await found.admit(found.jumped(2, "0", ns=NS))
            await found.eventually(
                lambda: any(job.error_class == "conflict" for job in found.scheduler.of(I0))
            )
            assert found.store.content[I0] == good[I0]

    async def test_that_grew(self, tmp_path: Path, logs: Logs) -> None:
        """It is longer than the stored one, but what is new are zeros."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore()) as found:
            good = await three_stored(found)
            found.write(index_key(NS, 2), good[index_key(NS, 2)] + bytes(4 * ENTRY_BYTES))
            job = await found.owe(index_key(NS, 2), freeze=True, needs=2)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert found.store.content == good

    async def test_that_a_crash_set_back(self, tmp_path: Path, logs: Logs) -> None:
        """An entry was rewritten, frozen and stored; the disk has the old one again, of the same length:
        what the scan finds does not go over the newer one.
        """
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore()) as found:
            before = (await three_stored(found))[I0]
            found.write(I0, index_bytes(0, data=2))
            await found.admit(found.jumped(2, "0", ns=NS))
            await found.eventually(lambda: found.store.content[I0] == found.live(I0))
            newer = found.live(I0)
            found.write(I0, before)
            await audit(found)
            await found.eventually(
                lambda: any(job.error_class == "conflict" for job in found.scheduler.of(I0))
            )
            assert "is older here" in str(found.scheduler.of(I0)[-1].error)
            assert found.store.content[I0] == newer
            # zdb rewrites the last entry of it: the first one is as old as before
            at = HEADER_BYTES + 2 * ENTRY_BYTES
            found.write(I0, before[:at] + index_bytes(0, data=2)[at:])
            await found.admit(found.jumped(2, "0", ns=NS))
            await found.eventually(
                lambda: [job.error_class for job in found.scheduler.of(I0)] == ["conflict"]
            )
            assert found.scheduler.of(I0)[-1].digest == digest_of(found.live(I0))
            assert found.store.content[I0] == newer

    async def test_with_an_empty_ledger(self, tmp_path: Path, logs: Logs) -> None:
        """The journal was lost too: the store is asked first, and keeps what it has."""
        logs.expect(QUARANTINED)
        async with rig(tmp_path, MemoryStore(), guarded=False) as found:
            found.store.content[I0] = index_bytes(0)
            found.index(0, zeroed(index_bytes(0), HEADER_BYTES), ns=NS)
            found.data(0, data_bytes(0), ns=NS)
            await found.owe(data_key(NS, 0), freeze=True)
            job = await found.owe(I0, freeze=True, needs=0, ask_first=True)
            await found.until(lambda: job.state is JobState.QUARANTINED)
            assert found.store.content[I0] == index_bytes(0)

    async def test_taken_over_meanwhile(
        self, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fetching took a while: nothing is stored before the store was seen to be ours once more."""
        logs.expect("fenced: nothing is stored any more")
        logs.allow("store is down")
        async with rig(tmp_path, MemoryStore()) as found:
            good = await three_stored(found)
            other = manifest.build([], lineage="another", writer="another", sequence=99)
            real = found.store.get

            async def get(key: FileKey, target: Path) -> None:
                await real(key, target)
                found.store.records[manifest.NAME] = manifest.encode(other)
                found.fence._looked_at = -1e9

            monkeypatch.setattr(found.store, "get", get)
            found.write(I0, index_bytes(0, data=1))
            await found.owe(I0, freeze=True, needs=2, ask_first=True)
            await found.eventually(lambda: found.fence.fenced is not None)
            assert found.store.content == good

    async def test_the_advice(self, tmp_path: Path, logs: Logs) -> None:
        """What the message says works: moved away, it comes back at zdb's next start."""
        logs.expect(QUARANTINED)
        store = MemoryStore()
        async with rig(tmp_path, store, names=(NS,)) as found:
            good = await three_stored(found)
            found.write(I1, zeroed(good[I1], HEADER_BYTES))
            job = await found.owe(I1, freeze=True, needs=1)
            await found.until(lambda: job.state is JobState.QUARANTINED)
        logs.expect("restoring", "restored")
        found.roots.path(I1).rename(tmp_path / "i1.damaged")
        async with rig(tmp_path, store, names=(NS,)) as found:
            await found.survey.survey()
            assert found.survey.findings[NS].decision is Decision.RESTORE
            assert (await found.survey.judge()).code == 0
            assert found.live(I1) == good[I1]


class TestAllowed:
    async def test_rewritten(self, tmp_path: Path) -> None:
        """Sound entries go over sound entries, as ever."""
        async with rig(tmp_path, MemoryStore()) as found:
            await three_stored(found)
            found.write(I0, index_bytes(0, data=1))
            await found.owe(I0, freeze=True, needs=2)
            await found.empty()
            assert found.store.content[I0] == index_bytes(0, data=1)

    async def test_the_only_one(self, tmp_path: Path) -> None:
        """Damaged as it is, it is better than nothing."""
        async with rig(tmp_path, MemoryStore()) as found:
            await found.fence.guard()
            content = zeroed(index_bytes(0), HEADER_BYTES + ENTRY_BYTES)
            found.index(0, content, ns=NS)
            found.data(0, data_bytes(0), ns=NS)
            await found.owe(data_key(NS, 0), sealed=True)
            await found.owe(I0, freeze=True, needs=0)
            await found.empty()
            assert found.store.content[I0] == content

    @pytest.mark.parametrize("there", [1, 2])
    async def test_over_one_that_is_not_better(self, tmp_path: Path, there: int) -> None:
        """Two damaged ones: the one with fewer sound entries gives way, and only that."""
        store = MemoryStore()
        store.content[I0] = zeroed(index_bytes(0), HEADER_BYTES + there * ENTRY_BYTES)
        path = tmp_path / "i0"
        path.write_bytes(zeroed(index_bytes(0), HEADER_BYTES + ENTRY_BYTES))
        if there <= 1:
            await refuse_worse(I0, path, store, tmp_path / "private", unannounced=False)
        else:
            with pytest.raises(Conflict, match="sound for 2 entries"):
                await refuse_worse(I0, path, store, tmp_path / "private", unannounced=False)
            assert list((tmp_path / "private").iterdir()) == []
