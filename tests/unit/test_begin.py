"""May zdb make a namespace, blank? Only if nobody has anything of one of that name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from hookd.admin import begin
from hookd.admin.begin import may_begin
from hookd.digest import digest_of
from hookd.errors import JournalUnavailable
from hookd.files import FileKey, index_key
from hookd.journal import Job, LedgerEntry
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore

if TYPE_CHECKING:
    from hookd.parts import Parts

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

I0 = index_key("ns", 0)


def asked(found: Rig, *, skip: tuple[str, ...] = (), phase: str = "running") -> Parts:
    """The rig as the stats socket sees a daemon."""
    parts = SimpleNamespace(
        config=SimpleNamespace(zdb=SimpleNamespace(skip_namespaces=skip)),
        phase=phase,
        held=found.held,
        survey=found.survey,
        retriever=found.retriever,
        scheduler=found.scheduler,
        roots=found.roots,
        journal=found.journal,
        store=found.store,
    )
    return cast("Parts", parts)


async def settled(found: Rig, key: FileKey) -> None:
    """`key` is proven to be in the store, and there."""
    job, content = Job(key=key), b"content"
    await found.journal.add_jobs([job])
    entry = LedgerEntry(
        key=key, size_bytes=7, digest=digest_of(content), stored_at=1.0, sealed=False
    )
    await found.journal.settle(job, entry)
    found.store.content[key] = content


async def test_nobody_has_anything(tmp_path: Path) -> None:
    """Neither disk nor journal nor store: yes."""
    async with rig(tmp_path, run=False) as found:
        (found.roots.index / "ns").mkdir()
        assert await may_begin(asked(found), "ns") == "yes"


@pytest.mark.parametrize("name", ["index/ns/i0", "data/ns/d3"])
async def test_files_on_disk(tmp_path: Path, name: str) -> None:
    """zdb would load what lies there, however little that is."""
    async with rig(tmp_path, run=False) as found:
        found.write(FileKey.parse(name), b"half of it")
        answer = await may_begin(asked(found), "ns")
        assert answer.startswith(f"no: {name} is on disk, but zdb has not loaded it")


async def test_files_in_the_ledger(tmp_path: Path) -> None:
    """What was stored from here is known without the store, and also while it is down."""
    async with rig(tmp_path, run=False) as found:
        await settled(found, I0)
        found.store.down = "away"
        answer = await may_begin(asked(found), "ns")
        assert answer == "no: the store has 1 file of it, and they are not here"


async def test_files_in_the_store(tmp_path: Path) -> None:
    """A new journal knows nothing; the store does."""
    async with rig(tmp_path, run=False) as found:
        found.store.content[I0] = b"content"
        answer = await may_begin(asked(found), "ns")
        assert answer == "no: the store has its files, but they are not here"


@pytest.mark.parametrize("trouble", ["down", "blind", "hang"])
async def test_store_that_cannot_tell(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Not found" without proof is no answer."""
    monkeypatch.setattr(begin, "STORE_LIMIT_S", 0.1)
    store = MemoryStore()
    if trouble == "hang":
        store.hang.add("stat")
    elif trouble == "blind":
        store.blind = True
    else:
        store.down = "away"
    async with rig(tmp_path, store, run=False) as found:
        answer = await may_begin(asked(found), "ns")
        assert answer.startswith("wait: the store cannot tell whether it has files of it: ")


async def test_deleted_by_zdb(tmp_path: Path) -> None:
    """Of a namespace that zdb deleted the store still has files; they keep nobody from a new one."""
    async with rig(tmp_path, run=False) as found:
        await settled(found, I0)
        await found.journal.retire("ns")
        assert await may_begin(asked(found), "ns") == "yes"


async def test_held(tmp_path: Path) -> None:
    """The finding stands, with its reason."""
    async with rig(tmp_path, run=False) as found:
        found.held["ns"] = "index file i0 is in the store but not here"
        assert await may_begin(asked(found), "ns") == f"no: {found.held['ns']}"


async def test_in_between(tmp_path: Path) -> None:
    """Between namespaces-init and ready, during a drain, with files under way: not now."""
    async with rig(tmp_path, run=False) as found:
        assert await may_begin(asked(found, phase="draining"), "ns") == "wait: hookd is draining"
        await found.survey.survey()
        assert "being decided" in await may_begin(asked(found), "ns")
        await found.survey.judge()
        await found.owe(I0)
        answer = await may_begin(asked(found), "ns")
        assert answer == "wait: 1 file of it on the way to the store"
        assert await may_begin(asked(found), "other") == "yes"


async def test_retrieve_under_way(tmp_path: Path) -> None:
    """A file of it is being brought back."""
    async with rig(tmp_path, run=False) as found:
        parts = asked(found)
        parts.retriever = SimpleNamespace(running=[I0])  # type: ignore[assignment]
        assert await may_begin(parts, "ns") == "wait: files of it are being brought back"


async def test_scratch_space(tmp_path: Path) -> None:
    """Nothing of a skipped namespace is stored or brought back, so it may always begin."""
    async with rig(tmp_path, run=False) as found:
        found.store.down = "away"
        assert await may_begin(asked(found, skip=("ns",)), "ns") == "yes"


async def test_journal_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ledger nobody knows."""
    async with rig(tmp_path, run=False) as found:

        async def fails() -> list[LedgerEntry]:
            raise JournalUnavailable("disk full")

        monkeypatch.setattr(found.journal, "ledger", fails)
        assert await may_begin(asked(found), "ns") == "wait: the journal cannot be read: disk full"


@pytest.mark.parametrize("name", ["", "..", "a/b"])
async def test_no_name(tmp_path: Path, name: str) -> None:
    """What is no name is refused in one line."""
    async with rig(tmp_path, run=False) as found:
        answer = await may_begin(asked(found), name)
        assert answer.startswith("no: ") and "\n" not in answer
